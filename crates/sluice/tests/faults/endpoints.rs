//! Endpoints that cannot be picked, connected to, or agreed with on TLS.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use sluice_testkit::peers::{Server, UdpServer, connect, read};
use sluice_testkit::{Authority, Origin, Running, Sluice, tls, wait};

use crate::kit::{Fault, Seen, ask, heard, nobody, relay, say, send, start, web, web_with};

pub(crate) const CASES: &[Fault] = &[
    Fault { name: "Nothing listens at the endpoint", reason: "upstream.refused", inject: refused },
    Fault {
        name: "Nothing listens at the endpoint of a relay",
        reason: "upstream.refused",
        inject: refused_on_relay,
    },
    Fault {
        name: "The endpoint cannot be reached",
        reason: "upstream.unreachable",
        inject: unreachable,
    },
    Fault {
        name: "The endpoint does not accept in time",
        reason: "upstream.connect_timeout",
        inject: connect_timeout,
    },
    Fault {
        name: "Sluice has no open file left for a connection",
        reason: "local.fds",
        inject: no_descriptors,
    },
    Fault {
        name: "The system has no memory left for a connection",
        reason: "local.memory",
        inject: no_memory,
    },
    Fault {
        name: "The endpoint's name does not exist",
        reason: "upstream.dns",
        inject: no_such_name,
    },
    Fault {
        name: "A name leads to where `egress` does not allow",
        reason: "upstream.egress",
        inject: denied,
    },
    Fault {
        name: "Every endpoint fails its health checks",
        reason: "upstream.no_healthy",
        inject: unhealthy,
    },
    Fault {
        name: "The file of a cluster's endpoints lists none",
        reason: "upstream.no_endpoint",
        inject: no_endpoint,
    },
    Fault {
        name: "No endpoint has the metadata that a request asks for",
        reason: "upstream.no_subset",
        inject: no_subset,
    },
    Fault {
        name: "No endpoint has room for a connection that waits",
        reason: "upstream.queue_timeout",
        inject: no_room,
    },
    Fault {
        name: "The endpoint of a strict session is unhealthy",
        reason: "upstream.session",
        inject: session,
    },
    Fault {
        name: "A header names a cluster that does not exist",
        reason: "cluster.unknown",
        inject: cluster_unknown,
    },
    Fault {
        name: "A server name names a cluster that the relay does not allow",
        reason: "cluster.unknown",
        inject: cluster_not_allowed,
    },
    Fault {
        name: "A client sends no server name, and the cluster is found by it",
        reason: "name.missing",
        inject: nameless,
    },
    Fault {
        name: "A client names a host that the forward proxy does not serve",
        reason: "name.denied",
        inject: || named("internal.test"),
    },
    Fault {
        name: "A request to the forward proxy names no host",
        reason: "name.missing",
        inject: || named("127.1"),
    },
    Fault {
        name: "A client names an address inside the network",
        reason: "upstream.egress",
        inject: || named("169.254.169.254"),
    },
    Fault {
        name: "The endpoint's certificate has expired",
        reason: "upstream.tls",
        inject: || of_tls(expired),
    },
    Fault {
        name: "The endpoint's certificate is for another name",
        reason: "upstream.tls",
        inject: || of_tls(other_name),
    },
    Fault {
        name: "The endpoint's certificate is signed by an unknown authority",
        reason: "upstream.tls",
        inject: || of_tls(other_authority),
    },
    Fault {
        name: "The endpoint refuses the TLS handshake with an alert",
        reason: "upstream.tls",
        inject: || of_tls(alert),
    },
    Fault {
        name: "The endpoint agrees on no protocol (ALPN)",
        reason: "upstream.tls",
        inject: || of_tls(other_protocol),
    },
    Fault {
        name: "The endpoint does not speak TLS",
        reason: "upstream.tls",
        inject: || {
            of_tls(|_| {
                Server::start(|stream| {
                    tls::answer_with(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                })
            })
        },
    },
    Fault {
        name: "The endpoint closes during the TLS handshake",
        reason: "upstream.tls",
        inject: || of_tls(|_| Server::start(|stream| tls::answer_with(stream, b""))),
    },
    Fault {
        name: "The certificate of a relay's endpoint has expired",
        reason: "upstream.tls",
        inject: expired_on_relay,
    },
    Fault {
        name: "The endpoint does not take STARTTLS",
        reason: "starttls.refused",
        inject: starttls_refused,
    },
];

fn refused() -> Seen {
    let gone = nobody();
    let sluice = start(&web(&[gone.to_string()], "", ""));
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.refused").heard(heard).endpoint(gone)
}

fn refused_on_relay() -> Seen {
    let gone = nobody();
    let sluice = start(&relay("", &[gone.to_string()], ""));
    let heard = say(&sluice, "db", "hello");
    Seen::of(&sluice, "upstream.refused").heard(heard).endpoint(gone).at("\"db\"")
}

fn unreachable() -> Seen {
    // A datagram socket accepts no stream: the error differs from that of a missing listener.
    let kit = Sluice::new().workers(1);
    let path = kit.folder().join("app.sock");
    let _socket = UnixDatagram::bind(&path).unwrap();
    let endpoint = format!("unix://{}", path.display());
    let sluice = kit.start(&web(std::slice::from_ref(&endpoint), "", ""));
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.unreachable").heard(heard).endpoint(endpoint)
}

fn connect_timeout() -> Seen {
    let (_full, address) = full_backlog();
    let sluice =
        start(&web(&[address.to_string()], "", ", connect_timeout: 200ms, connect_attempts: 1"));
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.connect_timeout").heard(heard).endpoint(address)
}

/// A listener that accepts nothing, with a full backlog.
fn full_backlog() -> ((TcpListener, Vec<TcpStream>), SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let listener: TcpListener = socket.into();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) =
        TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300))
    {
        waiting.push(stream);
    }
    ((listener, waiting), address)
}

fn no_descriptors() -> Seen {
    let origin = Origin::start("a");
    let sluice = Sluice::new().workers(1).files(100).expect_warning("cannot accept").start(&web(
        &[origin.addr().to_string()],
        "",
        "",
    ));
    let mut clients: Vec<TcpStream> = (0..100).map(|_| connect(sluice.addr("web"))).collect();
    wait::until("no more connections to be accepted", || {
        (sluice.metric("sluice_listener_accept_errors_total", "") > 0).then_some(())
    });
    // Each of the clients accepted first needs a connection to the endpoint.
    for client in &mut clients[..3] {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    let seen = Seen::request(&sluice, "local.fds").heard("503").at(origin.addr());
    drop(clients);
    wait::until("every connection to end", || {
        let all = sluice.metric("sluice_listener_connections_accepted_total", "") == 100;
        (all && sluice.items("/connections").is_empty()).then_some(())
    });
    seen.showing(origin.addr(), "127.0.0.1:9001")
}

fn no_memory() -> Seen {
    const ENOBUFS: i32 = 105;
    let origin = Origin::start("a");
    let up = [origin.addr().to_string()];
    let sluice = Sluice::new().connect_fails(ENOBUFS).start(&web(&up, "", ""));
    let heard = ask(&sluice);
    let seen = Seen::request(&sluice, "local.memory").heard(heard).at(origin.addr());
    seen.showing(origin.addr(), "127.0.0.1:9001")
}

fn no_such_name() -> Seen {
    // The header of the query, turned into that of a reply: no such name (NXDOMAIN).
    let names = UdpServer::start(|query| {
        let mut answer = query.to_vec();
        answer[2..4].copy_from_slice(&[0x81, 0x83]);
        answer[6..12].fill(0);
        let name_end = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap();
        answer.truncate(name_end + 5);
        vec![answer]
    });
    let dns = format!(", dns: {{ servers: [\"{}\"] }}", names.addr());
    let sluice = Sluice::new().workers(1).expect_warning("app.internal.test").start(&web(
        &["app.internal.test:80".to_owned()],
        "",
        &dns,
    ));
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.dns").heard(heard).at("\"up\"").at("app.internal.test")
}

/// The name is looked up before the address becomes that of a listener of the same Sluice.
fn denied() -> Seen {
    let to = nobody();
    let yaml = |more: &str| {
        format!(
            "listeners:\n  - {{ name: db, address: 127.0.0.1:0, relay: up }}\n{more}\
             clusters: {{ up: {{ endpoints: localhost:{}, egress: {{ allow: [127.0.0.0/8] }}, \
             dns: {{ family: v4, refresh: 1h, servers: [127.0.0.1:9] }} }} }}\n",
            to.port()
        )
    };
    let sluice = start(&yaml(""));
    let own = format!("  - {{ name: own, address: \"{to}\", relay: \"127.0.0.1:9\" }}\n");
    assert_eq!(sluice.reload(&yaml(&own)), "applied");
    let heard = say(&sluice, "db", "hello");
    Seen::of(&sluice, "upstream.egress").heard(heard).endpoint(to).at("\"db\"")
}

fn unhealthy() -> Seen {
    let gone = nobody();
    let health = ", health: { tcp: {}, interval: 20ms, unhealthy_after: 1 }";
    let sluice = Sluice::new().workers(1).expect_warning("unhealthy").start(&web(
        &[gone.to_string()],
        "",
        health,
    ));
    wait::until("the endpoint to be unhealthy", || {
        sluice.log().contains("unhealthy").then_some(())
    });
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.no_healthy").heard(heard).at("\"up\"")
}

fn no_room() -> Seen {
    let server = Server::greeter("hello");
    let queue = ", limits: { connections_per_endpoint: 1, queue: { timeout: 50ms } }";
    let sluice = start(&relay("", &[server.addr().to_string()], queue));
    let mut first = connect(sluice.addr("db"));
    assert_eq!(read(&mut first, 5), b"hello");
    let heard = say(&sluice, "db", "x");
    Seen::of(&sluice, "upstream.queue_timeout").heard(heard).at("\"up\"").at("limits.queue.timeout")
}

fn no_endpoint() -> Seen {
    let kit = Sluice::new().workers(1);
    std::fs::write(kit.folder().join("up.json"), "[]").unwrap();
    let sluice = kit.start(&web(&[], "", "").replace("endpoints: []", "endpoints_file: up.json"));
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.no_endpoint").heard(heard).at("\"up\"")
}

fn no_subset() -> Seen {
    let address = Origin::start("a").addr();
    let rule = ", endpoint_metadata: { version: { header: x-version } }";
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up{rule} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [{{ address: \"{address}\", metadata: {{ version: v1 }} }}], subsets: version }} }}\n"
    ));
    let heard = send(&sluice, "GET / HTTP/1.1\r\nhost: a\r\nx-version: v2\r\n\r\n");
    Seen::request(&sluice, "upstream.no_subset").heard(heard).at("\"up\"").at("version: v1")
}

fn session() -> Seen {
    let address = nobody();
    let first = named_server(address);
    let other = Origin::start("other");
    let health = ", health: { tcp: {}, interval: 20ms, unhealthy_after: 1 }";
    let sticky =
        ", filters: [{ sticky: { header: x-server, strict: true, key: 0123456789abcdef } }]";
    let sluice = Sluice::new().workers(1).expect_warning("unhealthy").start(&web_with(
        sticky,
        &[address.to_string(), other.addr().to_string()],
        "",
        health,
    ));
    let token = wait::until("a session with the first endpoint", || {
        let response = sluice_testkit::origin::get(sluice.addr("web"), "a", "/");
        let token = response.value("x-server").to_owned();
        response.text().contains("first").then_some(token)
    });
    drop(first);
    wait::until("the endpoint to be unhealthy", || {
        sluice.log().contains("unhealthy").then_some(())
    });
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-server: {token}\r\n\r\n");
    let heard = send(&sluice, request);
    Seen::request(&sluice, "upstream.session").heard(heard).at("\"up\"")
}

/// A server that answers one request on each connection.
fn named_server(address: SocketAddr) -> Server {
    Server::start_at(address, |mut stream| {
        if stream.read(&mut [0; 1024])? > 0 {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nfirst",
            )?;
        }
        Ok(())
    })
}

fn cluster_unknown() -> Seen {
    let origin = Origin::start("a");
    let rule = "rules: [{ name: tiers, cluster_header: x-tier }]";
    let sluice = Sluice::new().workers(1).expect_warning("unused-cluster").start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", {rule} }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ));
    let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: a\r\nX-Tier: gold\r\n\r\n");
    Seen::request(&sluice, "cluster.unknown").heard(heard).at("\"tiers\"").at("gold")
}

/// A relay to the clusters that clients name, of which one may be.
fn by_name() -> Running {
    Sluice::new().workers(1).expect_warning("unused-cluster").start(
        "listeners: [{ name: db, address: 127.0.0.1:0, relay: { cluster_from: sni, allow: [up.test] } }]\n\
         clusters: { up.test: \"127.0.0.1:9\", internal.test: \"127.0.0.1:9\" }\n",
    )
}

fn cluster_not_allowed() -> Seen {
    let sluice = by_name();
    let ca = sluice.folder().join("ca.pem");
    drop(Authority::new(sluice.folder()));
    let mut client = tls::Offer::of("internal.test", &ca).connect(sluice.addr("db"));
    let told = client.read(&mut [0; 1]).map_or(0, |count| count);
    assert_eq!(told, 0, "nothing is sent to the client");
    let heard = "the connection ends";
    Seen::of(&sluice, "cluster.unknown").heard(heard).at("internal.test").at("\"db\"")
}

fn nameless() -> Seen {
    let sluice = by_name();
    let heard = say(&sluice, "db", "hello there, this is not TLS\r\n");
    Seen::of(&sluice, "name.missing").heard(heard).at("\"db\"")
}

/// A request for this host to a forward proxy.
fn named(host: &str) -> Seen {
    let hosts = if host == "internal.test" { "hosts: [shop.test]" } else { "max_hosts: 10" };
    let sluice = start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: out }}] }}] }}\n\
         clusters: {{ out: {{ forward: {{ {hosts} }} }} }}\n"
    ));
    let heard = send(&sluice, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let reason = match host {
        "internal.test" => "name.denied",
        "127.1" => "name.missing",
        _ => "upstream.egress",
    };
    Seen::request(&sluice, reason).heard(heard).at(host).at("\"out\"")
}

/// The observation when a cluster that trusts `ca.pem` requests `app.test` from the server that `serve` starts.
fn of_tls(serve: fn(&Path) -> Server) -> Seen {
    let (sluice, server) = to_tls(serve, |address| {
        web(&[address], "", ", protocol: auto, tls: { sni: app.test, ca: ca.pem }")
    });
    let heard = ask(&sluice);
    Seen::request(&sluice, "upstream.tls").heard(heard).endpoint(server.addr())
}

fn to_tls(serve: fn(&Path) -> Server, yaml: impl Fn(String) -> String) -> (Running, Server) {
    let kit = Sluice::new().workers(1);
    drop(Authority::new(kit.folder()));
    let server = serve(kit.folder());
    let sluice = kit.start(&yaml(server.addr().to_string()));
    (sluice, server)
}

fn expired(folder: &Path) -> Server {
    Authority::new(folder).issue_expired("app", &["app.test"]);
    tls::server(&folder.join("app"), &[], |_| Ok(()))
}

fn other_name(folder: &Path) -> Server {
    Authority::new(folder).issue("app", &["other.test"]);
    tls::server(&folder.join("app"), &[], |_| Ok(()))
}

fn other_authority(folder: &Path) -> Server {
    Authority::named(folder, "other").issue("app", &["app.test"]);
    tls::server(&folder.join("app"), &[], |_| Ok(()))
}

fn alert(_: &Path) -> Server {
    // A fatal alert: handshake_failure, RFC 8446 section 6.2.
    Server::start(|stream| tls::answer_with(stream, &[21, 3, 3, 0, 2, 2, 40]))
}

fn other_protocol(folder: &Path) -> Server {
    Authority::new(folder).issue("app", &["app.test"]);
    tls::server(&folder.join("app"), &["imap"], |_| Ok(()))
}

fn expired_on_relay() -> Seen {
    let (sluice, server) =
        to_tls(expired, |address| relay("", &[address], ", tls: { sni: app.test, ca: ca.pem }"));
    let heard = say(&sluice, "db", "hello");
    Seen::of(&sluice, "upstream.tls").heard(heard).endpoint(server.addr()).at("\"db\"")
}

fn starttls_refused() -> Seen {
    let server = Server::start(|mut stream| {
        stream.read_exact(&mut [0; 8])?;
        stream.write_all(b"N")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("db", &["db.test"]);
    let sluice = kit.start(&format!(
        "listeners: [{{ name: db, address: 127.0.0.1:0, chains: [{{ match: {{ protocol: postgres, sni: db.test }}, relay: up }}] }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    ));
    let mut client = connect(sluice.addr("db"));
    client.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
    assert_eq!(read(&mut client, 1), b"S");
    let ca = sluice.folder().join("ca.pem");
    let mut inside = tls::Offer::of("db.test", &ca).over(client.try_clone().unwrap());
    let _ = inside.write_all(b"x");
    let heard = heard(&mut client);
    Seen::of(&sluice, "starttls.refused").heard(heard).endpoint(server.addr()).at("\"db\"")
}
