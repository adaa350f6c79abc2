//! QUIC and HTTP/3, on either side.

use std::net::SocketAddr;

use sluice_testkit::http3::{self, Failure};
use sluice_testkit::peers::udp_client;
use sluice_testkit::{Authority, Origin, Running, Sluice, wait};

use crate::kit::{Fault, Seen, ask};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A client of QUIC does not trust the certificate",
        reason: "quic.protocol",
        inject: not_trusted,
    },
    Fault {
        name: "A client speaks another version of QUIC",
        reason: "quic.version",
        inject: other_version,
    },
    Fault {
        name: "A request that changes something comes too early (0-RTT)",
        reason: "http.too_early",
        inject: too_early,
    },
    Fault {
        name: "The certificate of the endpoint of HTTP/3 is for another name",
        reason: "upstream.tls",
        inject: other_name,
    },
];

/// A listener `web` that serves HTTP/3 under `web.test`, in front of `endpoint`.
fn edge(endpoint: SocketAddr) -> Running {
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    kit.start(&serving(&format!("up: {{ endpoints: [\"{endpoint}\"] }}")))
}

fn serving(cluster: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}], early_data_sessions: 16 }}, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ {cluster} }}\n"
    )
}

fn not_trusted() -> Seen {
    let origin = Origin::start("a");
    let sluice = edge(origin.addr());
    Authority::named(sluice.folder(), "other");
    let to = sluice.addr("web");
    let connected = http3::run(&sluice.folder().join("other.pem"), None, async |client| {
        client.connect(to, "web.test").await.map(drop)
    });
    assert!(connected.is_err());
    Seen::of(&sluice, "quic.protocol").at("\"web\"").at("127.0.0.1:")
}

fn other_version() -> Seen {
    let origin = Origin::start("a");
    let sluice = edge(origin.addr());
    // The long header of an unknown version, RFC 8999 section 5.1.
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    packet.extend([7; 8]);
    packet.push(8);
    packet.extend([9; 8]);
    packet.resize(1200, 0);
    let client = udp_client();
    client.send_to(&packet, sluice.addr("web")).unwrap();
    let mut answer = [0; 64];
    client.recv_from(&mut answer).unwrap();
    assert_eq!(answer[1..5], [0; 4], "a version negotiation");
    let heard = "a version negotiation";
    Seen::of(&sluice, "quic.version").heard(heard).at("\"web\"").at("127.0.0.1:")
}

fn too_early() -> Seen {
    let origin = Origin::start("a");
    let sluice = edge(origin.addr());
    let to = sluice.addr("web");
    let asked: Result<(), Failure> =
        http3::run(&sluice.folder().join("ca.pem"), None, async |client| {
            client.connect(to, "web.test").await?.ask("GET", "/").await?;
            // Whether a request arrives before the end of the handshake is a race that it nearly always wins.
            for _ in 0..100 {
                let Some(early) = client.connect_early(to, "web.test").await? else { continue };
                if early.ask("POST", "/").await?.status == 425 {
                    return Ok(());
                }
            }
            Err("no request came early".into())
        });
    asked.unwrap();
    Seen::request(&sluice, "http.too_early").heard("425").at("\"web\"").at("127.0.0.1:")
}

/// The observation for a request to an HTTP/3 endpoint.
fn of_upstream(server: &Running, name: &str, reason: &str) -> Seen {
    let endpoint = server.addr("web");
    let kit = Sluice::new().workers(1);
    std::fs::copy(server.folder().join("ca.pem"), kit.folder().join("ca.pem")).unwrap();
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{endpoint}\"], protocol: http3, tls: {{ ca: ca.pem, sni: {name} }} }} }}\n"
    ));
    let heard = ask(&sluice);
    Seen::request(&sluice, reason).heard(heard).endpoint(endpoint)
}

fn other_name() -> Seen {
    let origin = Origin::start("a");
    let server = edge(origin.addr());
    let seen = of_upstream(&server, "app.test", "upstream.tls");
    // The server writes a record of each handshake before it stops.
    wait::until("the server's records", || (!server.records().is_empty()).then_some(()));
    seen
}
