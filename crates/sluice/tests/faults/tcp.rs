//! Connections: admission, their first bytes, and how relays break.

use std::io::Write as _;

use sluice_testkit::peers::{Server, connect, exchange, reset_on_close};
use sluice_testkit::{Running, Sluice, tls, wait};

use crate::kit::{Fault, Seen, finish, heard, relay, say, start};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A filter denies the source",
        reason: "accept.denied",
        inject: || refused_after(", filters: [{ deny: [127.0.0.0/8] }]", 0, "accept.denied"),
    },
    Fault {
        name: "The listener has as many connections as it may",
        reason: "accept.limit",
        inject: || {
            refused_after(", filters: [{ connection_limit: { max: 1 } }]", 1, "accept.limit")
        },
    },
    Fault {
        name: "The source has as many connections as it may",
        reason: "accept.source_limit",
        inject: || {
            let filter = ", filters: [{ connection_limit: { per_source: 1 } }]";
            refused_after(filter, 1, "accept.source_limit")
        },
    },
    Fault {
        name: "The source opens connections too fast",
        reason: "accept.rate",
        inject: || {
            let filter =
                ", filters: [{ rate_limit: { connections: 1/h, burst: 1, per: source_ip } }]";
            refused_after(filter, 1, "accept.rate")
        },
    },
    Fault {
        name: "A filter does not decide in time",
        reason: "filter.timeout",
        inject: || undecided(""),
    },
    Fault {
        name: "A filter does not decide on bytes in time",
        reason: "filter.timeout",
        inject: || undecided("how: bytes"),
    },
    Fault { name: "A cluster leads back to its own listener", reason: "local.loop", inject: loops },
    Fault {
        name: "No PROXY header comes",
        reason: "proxy_header.missing",
        inject: || proxy("127.0.0.0/8", "GET / HTTP/1.1\r\n", "proxy_header.missing"),
    },
    Fault {
        name: "The PROXY header is malformed",
        reason: "proxy_header.malformed",
        inject: || proxy("127.0.0.0/8", "PROXY NONSENSE\r\n", "proxy_header.malformed"),
    },
    Fault {
        name: "The PROXY header comes from a stranger",
        reason: "proxy_header.untrusted",
        inject: || {
            let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n";
            proxy("192.0.2.0/24", header, "proxy_header.untrusted")
        },
    },
    Fault {
        name: "The client says nothing",
        reason: "inspect.timeout",
        inject: || inspected("", "inspect.timeout"),
    },
    Fault {
        name: "The client says too much without saying what it is",
        reason: "inspect.too_large",
        inject: too_large,
    },
    Fault {
        name: "The client asks for STARTTLS and then speaks no TLS",
        reason: "inspect.malformed",
        inject: starttls_broken,
    },
    Fault {
        name: "The client closes before it has said what it wants",
        reason: "inspect.closed",
        inject: inspect_closed,
    },
    Fault {
        name: "No chain is for what the client speaks",
        reason: "chain.unmatched",
        inject: || inspected("SSH-2.0-x\r\n", "chain.unmatched"),
    },
    Fault {
        name: "No chain is for the server name",
        reason: "chain.unmatched",
        inject: unknown_name,
    },
    Fault {
        name: "The client resets the connection",
        reason: "downstream.reset",
        inject: client_resets,
    },
    Fault {
        name: "The endpoint of a relay resets the connection",
        reason: "upstream.reset",
        inject: endpoint_resets,
    },
    Fault {
        name: "A relay moves no byte",
        reason: "end.idle",
        inject: || quiet("{ cluster: up, idle_timeout: 150ms }", false, "end.idle"),
    },
    Fault {
        name: "A relay lasts too long",
        reason: "end.max_duration",
        inject: || quiet("{ cluster: up, max_duration: 150ms }", false, "end.max_duration"),
    },
    Fault {
        name: "One side of a relay has finished and the other does not",
        reason: "end.half_close",
        inject: || quiet("{ cluster: up, half_close_timeout: 150ms }", true, "end.half_close"),
    },
    Fault {
        name: "A slow receiver needs more than the worker's buffers",
        reason: "relay.buffers",
        inject: buffers,
    },
];

/// An echo server behind a listener `db`.
fn echoing(listener: &str) -> (Running, Server) {
    let echo = Server::echo();
    let sluice = start(&relay(listener, &[echo.addr().to_string()], ""));
    (sluice, echo)
}

/// The observation for one connection more than `served`.
fn refused_after(listener: &str, served: usize, reason: &str) -> Seen {
    let (sluice, _echo) = echoing(listener);
    let mut kept = Vec::new();
    for _ in 0..served {
        let mut client = connect(sluice.addr("db"));
        exchange(&mut client, b"in");
        kept.push(client);
    }
    let heard = heard(&mut connect(sluice.addr("db")));
    Seen::of(&sluice, reason).heard(heard).at("\"db\"").at("127.0.0.1:")
}

/// A filter that waits for longer than it may: on the connection, or on the bytes that the client sends.
fn undecided(on: &str) -> Seen {
    let echo = Server::echo();
    let kit = Sluice::with_binary(std::env::current_exe().unwrap()).workers(1);
    let filter = format!(", filters: [{{ waiting: {{ {on} }} }}]");
    let yaml = relay(&filter, &[echo.addr().to_string()], "");
    let sluice = kit.start(&format!("{yaml}limits: {{ filter_wait_seconds: 1 }}\n"));
    let heard = say(&sluice, "db", "hello");
    Seen::of(&sluice, "filter.timeout").heard(heard).at("\"db\"").at("127.0.0.1:")
}

/// The system chooses the listener's port, so only the running Sluice can detect the loop.
fn loops() -> Seen {
    let yaml = |to: &str| relay("", &[to.to_owned()], "");
    let sluice = Sluice::new().workers(1).expect_warning("loop").start(&yaml("127.0.0.1:9"));
    let address = sluice.addr("db").to_string();
    assert_eq!(sluice.reload(&yaml(&address)), "applied");
    let heard = say(&sluice, "db", "round and round");
    Seen::of(&sluice, "local.loop").heard(heard).endpoint(address).at("\"db\"").at("\"up\"")
}

fn proxy(trust: &str, words: &str, reason: &str) -> Seen {
    let header = format!(", proxy_protocol: {{ accept: required, trust: [{trust}], timeout: 5s }}");
    let (sluice, _echo) = echoing(&header);
    let heard = say(&sluice, "db", words);
    Seen::of(&sluice, reason).heard(heard).at("\"db\"").at("127.0.0.1:")
}

/// The observation for a client that sends `words` to a listener with a chain for HTTP only.
fn inspected(words: &str, reason: &str) -> Seen {
    let timeout = if words.is_empty() { ", timeout: 300ms" } else { ", timeout: 60s" };
    let (sluice, _echo) = inspecting_with(timeout, "{ match: { protocol: http1 }, relay: up }");
    let heard = say(&sluice, "db", words);
    Seen::of(&sluice, reason).heard(heard).at("\"db\"").at("127.0.0.1:")
}

fn inspecting(chain: &str) -> (Running, Server) {
    inspecting_with(", timeout: 60s", chain)
}

fn inspecting_with(more: &str, chain: &str) -> (Running, Server) {
    let echo = Server::echo();
    let sluice = start(&format!(
        "listeners: [{{ name: db, address: 127.0.0.1:0, inspect: {{ on_timeout: close{more} }}, chains: [{chain}] }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        echo.addr()
    ));
    (sluice, echo)
}

fn starttls_broken() -> Seen {
    let (sluice, _echo) = inspecting("{ match: { protocol: postgres, sni: db.test }, relay: up }");
    let mut client = connect(sluice.addr("db"));
    client.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
    sluice_testkit::peers::read(&mut client, 1);
    client.write_all(b"this is not TLS").unwrap();
    let heard = heard(&mut client);
    Seen::of(&sluice, "inspect.malformed").heard(heard).at("\"db\"").at("127.0.0.1:")
}

fn inspect_closed() -> Seen {
    let (sluice, _echo) = inspecting("{ match: { protocol: http1 }, relay: up }");
    let mut client = connect(sluice.addr("db"));
    finish(&client);
    let heard = heard(&mut client);
    Seen::of(&sluice, "inspect.closed").heard(heard).at("\"db\"").at("127.0.0.1:")
}

/// A ClientHello with a post-quantum key exchange is larger than one kibibyte.
fn too_large() -> Seen {
    let (sluice, _echo) =
        inspecting_with(", timeout: 60s, bytes: 1KiB", "{ match: { sni: db.test }, relay: up }");
    let seen = hello(&sluice, "inspect.too_large");
    seen.at("127.0.0.1:")
}

fn unknown_name() -> Seen {
    let (sluice, _echo) = inspecting("{ match: { sni: db.test }, relay: up }");
    hello(&sluice, "chain.unmatched").at("other.test")
}

/// The observation for a ClientHello for `other.test`.
fn hello(sluice: &Running, reason: &str) -> Seen {
    sluice_testkit::Authority::new(sluice.folder());
    let ca = sluice.folder().join("ca.pem");
    let mut client = tls::Offer::of("other.test", &ca).connect(sluice.addr("db"));
    let _ = client.write_all(b"x");
    Seen::of(sluice, reason).at("\"db\"")
}

fn client_resets() -> Seen {
    let (sluice, echo) = echoing("");
    let mut client = connect(sluice.addr("db"));
    exchange(&mut client, b"in");
    reset_on_close(&client);
    drop(client);
    Seen::of(&sluice, "downstream.reset").endpoint(echo.addr()).at("\"db\"")
}

fn endpoint_resets() -> Seen {
    let server = Server::start(|mut stream| {
        std::io::Read::read_exact(&mut stream, &mut [0; 2])?;
        reset_on_close(&stream);
        Ok(())
    });
    let sluice = start(&relay("", &[server.addr().to_string()], ""));
    let heard = say(&sluice, "db", "in");
    Seen::of(&sluice, "upstream.reset").heard(heard).endpoint(server.addr()).at("\"db\"")
}

/// The observation for a relay to a silent endpoint; with `half` the client has closed its sending side.
fn quiet(relay: &str, half: bool, reason: &str) -> Seen {
    let silent = Server::start(|stream| {
        std::io::Read::read_to_end(&mut { stream.try_clone()? }, &mut Vec::new())?;
        std::mem::forget(stream);
        Ok(())
    });
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: db, address: 127.0.0.1:0, relay: {relay} }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        silent.addr()
    ));
    let mut client = connect(sluice.addr("db"));
    client.write_all(b"x").unwrap();
    if half {
        wait::until("the byte to pass", || {
            let open = sluice.items("/connections");
            open.iter().any(|connection| connection["received_bytes"] == 1).then_some(())
        });
        finish(&client);
    }
    let heard = heard(&mut client);
    Seen::of(&sluice, reason).heard(heard).endpoint(silent.addr()).at("\"db\"")
}

/// Clients that send and do not read, on a worker with hardly any buffers.
fn buffers() -> Seen {
    let echo = Server::echo();
    let yaml = relay("", &[echo.addr().to_string()], "");
    let sluice =
        start(&format!("{yaml}limits: {{ worker_buffer_bytes: 1MiB, worker_pipes: 0 }}\n"));
    let mut clients = Vec::new();
    for _ in 0..60 {
        let client = connect(sluice.addr("db"));
        client.set_nonblocking(true).unwrap();
        clients.push(client);
    }
    let seen = wait::until("a connection without a buffer", || {
        for client in &mut clients {
            while client.write(&[b'x'; 65_536]).is_ok_and(|count| count > 0) {}
        }
        sluice.records().into_iter().find(|record| record["reason"] == "relay.buffers")
    });
    let seen = Seen::record(&sluice, seen).endpoint(echo.addr()).at("\"db\"");
    drop(clients);
    seen
}
