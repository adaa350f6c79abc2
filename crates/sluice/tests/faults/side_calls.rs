//! Filters that ask a cluster and get no response.

use std::net::SocketAddr;

use sluice_testkit::origin::Client;
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, Running, Sluice, wait};

use crate::kit::{Fault, Seen, ask, nobody};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "The service that a filter asks does not respond in time",
        reason: "sidecall.timeout",
        inject: late,
    },
    Fault {
        name: "The service that a filter asks refuses connections",
        reason: "upstream.refused",
        inject: refused,
    },
    Fault {
        name: "The service that a filter asks responds with too much",
        reason: "sidecall.too_large",
        inject: too_large,
    },
    Fault {
        name: "Filters ask more than a worker may ask at once",
        reason: "sidecall.limit",
        inject: too_many,
    },
    Fault {
        name: "A filter asks the listener that it is on",
        reason: "sidecall.loop",
        inject: looped,
    },
    Fault {
        name: "A filter makes gRPC calls to a cluster of HTTP/1",
        reason: "sidecall.protocol",
        inject: not_http2,
    },
    Fault {
        name: "The gRPC service that a filter asks refuses the call",
        reason: "sidecall.grpc_status",
        inject: grpc_refused,
    },
    Fault {
        name: "The gRPC service that a filter asks returns no message",
        reason: "sidecall.malformed",
        inject: grpc_without_message,
    },
    Fault {
        name: "The Redis server that a limit is counted at refuses the command",
        reason: "sidecall.redis",
        inject: redis_refused,
    },
];

/// A listener `web` whose filter asks the cluster `auth`; the requests themselves go to the origin.
fn yaml(origin: &Origin, auth: impl std::fmt::Display, filter: &str, limits: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ ask: {{ cluster: auth{filter} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n  auth: {{ endpoints: [\"{auth}\"] }}\n\
         limits: {{ {limits} }}\n",
        origin.addr()
    )
}

fn start(origin: &Origin, auth: SocketAddr, filter: &str, limits: &str) -> Running {
    let kit = Sluice::with_binary(std::env::current_exe().unwrap()).workers(1);
    kit.start(&yaml(origin, auth, filter, limits))
}

/// The record of the refused request names the cluster; its client hears nothing of it.
fn seen(sluice: &Running, reason: &str, heard: String) -> Seen {
    Seen::request(sluice, reason).heard(heard).at("auth failed in ").at("\"web\"")
}

fn late() -> Seen {
    let (origin, auth) = (Origin::start("a"), Origin::start("auth"));
    let sluice = start(&origin, auth.addr(), ", path: /wait, timeout: 100ms", "");
    let heard = ask(&sluice);
    auth.release();
    assert!(origin.requests().is_empty());
    seen(&sluice, "sidecall.timeout", heard)
}

fn refused() -> Seen {
    let (origin, nobody) = (Origin::start("a"), nobody());
    let sluice = start(&origin, nobody, "", "");
    let heard = ask(&sluice);
    seen(&sluice, "upstream.refused", heard).endpoint(nobody)
}

fn too_large() -> Seen {
    let (origin, auth) = (Origin::start("a"), Origin::start("auth"));
    let sluice = start(&origin, auth.addr(), ", path: /bytes/2000", "side_call_bytes: 1KiB");
    let heard = ask(&sluice);
    seen(&sluice, "sidecall.too_large", heard).endpoint(auth.addr())
}

fn too_many() -> Seen {
    let (origin, auth) = (Origin::start("a"), Origin::start("auth"));
    let sluice = start(&origin, auth.addr(), ", path: /wait", "side_calls: 1");
    let mut first = Client::connect(sluice.addr("web"));
    first.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    wait::until("the first call", || (auth.requests().len() == 1).then_some(()));
    let heard = ask(&sluice);
    auth.release();
    assert_eq!(first.read().status(), 200);
    seen(&sluice, "sidecall.limit", heard)
}

/// The system chooses the listener's port, so that the cluster is corrected afterwards.
fn looped() -> Seen {
    let origin = Origin::start("a");
    let kit = Sluice::with_binary(std::env::current_exe().unwrap()).workers(1);
    let sluice = kit.start(&yaml(&origin, nobody(), "", ""));
    let own = sluice.addr("web");
    assert_eq!(sluice.reload(&yaml(&origin, own, "", "")), "applied");
    // The innermost call is refused, so that the others get a response, and the request goes on.
    let heard = ask(&sluice);
    assert!(heard.starts_with("200"), "{heard}");
    seen(&sluice, "sidecall.loop", "503 the service for authorisation did not answer".to_owned())
}

/// Another Sluice that gives every gRPC call the status for this HTTP status.
fn grpc_service(status: u16) -> Running {
    Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ respond: {{ status: {status}, body: \"not you\" }} }} }}\n"
    ))
}

fn start_grpc(origin: &Origin, auth: SocketAddr) -> Running {
    let kit = Sluice::with_binary(std::env::current_exe().unwrap()).workers(1);
    let text = yaml(origin, auth, ", path: /auth.v1.Auth/Check, grpc: true", "");
    kit.start(&text.replace(&format!("\"{auth}\"]"), &format!("\"{auth}\"], protocol: http2")))
}

fn not_http2() -> Seen {
    let (origin, auth) = (Origin::start("a"), Origin::start("auth"));
    let sluice = start(&origin, auth.addr(), ", path: /auth.v1.Auth/Check, grpc: true", "");
    let heard = ask(&sluice);
    assert!(auth.requests().is_empty());
    seen(&sluice, "sidecall.protocol", heard)
}

fn grpc_refused() -> Seen {
    let (origin, service) = (Origin::start("a"), grpc_service(403));
    let sluice = start_grpc(&origin, service.addr("web"));
    let heard = ask(&sluice);
    seen(&sluice, "sidecall.grpc_status", heard)
}

fn grpc_without_message() -> Seen {
    let (origin, service) = (Origin::start("a"), grpc_service(200));
    let sluice = start_grpc(&origin, service.addr("web"));
    let heard = ask(&sluice);
    seen(&sluice, "sidecall.malformed", heard)
}

fn redis_refused() -> Seen {
    let (origin, redis) = (
        Origin::start("a"),
        Server::start(|mut stream| {
            let mut heard = [0; 4096];
            while std::io::Read::read(&mut stream, &mut heard)? > 0 {
                std::io::Write::write_all(
                    &mut stream,
                    b"-NOPERM this user has no permissions to run the 'evalsha' command\r\n",
                )?;
            }
            Ok(())
        }),
    );
    let filter =
        "rate_limit: { requests: 1/s, redis: { cluster: auth, timeout: 20s, on_error: deny } }";
    let text = yaml(&origin, redis.addr(), "", "").replace("ask: { cluster: auth }", filter);
    let sluice = Sluice::new().workers(1).start(&text);
    let heard = ask(&sluice);
    seen(&sluice, "sidecall.redis", heard)
}
