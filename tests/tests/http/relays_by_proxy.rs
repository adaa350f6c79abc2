//! Connections of clients that do not speak HTTP, each a request to an HTTP proxy.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufReader, Write as _};
use std::net::{Shutdown, SocketAddr};

use sluice_testkit::origin::read_message;
use sluice_testkit::peers::{RefusingPort, Server, connect, exchange, read, read_to_end};
use sluice_testkit::{Running, Sluice};

/// A proxy that takes CONNECT of HTTP/1 and HTTP/2, and leads to `echo`.
fn proxy(echo: SocketAddr) -> Running {
    Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: out }}]\n\
         routes:\n  out:\n  - hosts: a.test\n    rules: [{{ cluster: echo, connect: terminate }}]\n\
         clusters: {{ echo: \"{echo}\" }}\n"
    ))
}

/// Relays through the proxy at `to`.
fn through(to: SocketAddr, tunnel: &str, cluster: &str) -> Running {
    Sluice::new().start(&format!(
        "listeners:\n\
         - {{ name: tcp, address: 127.0.0.1:0, http: {{ routes: up, tunnel: {tunnel}, filters: [{{ set_headers: {{ request: {{ x-who: me }} }} }}] }} }}\n\
         routes: {{ up: [{{ cluster: up }}] }}\n\
         clusters: {{ up: {{ endpoints: \"{to}\"{cluster} }} }}\n"
    ))
}

#[test]
fn bytes_pass_in_both_directions_over_each_version() {
    let echo = Server::greeter("hi:");
    let proxy = proxy(echo.addr());
    for (cluster, version) in [("", "HTTP/1.1"), (", protocol: http2", "HTTP/2")] {
        let sluice = through(proxy.addr("web"), "'a.test:443'", cluster);
        let mut streams = [0; 3].map(|_| connect(sluice.addr("tcp")));
        for stream in &mut streams {
            // The server speaks first.
            assert_eq!(read(stream, 3), b"hi:");
            assert_eq!(exchange(stream, b"some bytes"), b"some bytes");
        }
        for mut stream in streams {
            let large = vec![7; 300_000];
            let mut sender = stream.try_clone().unwrap();
            let sending = std::thread::spawn(move || {
                sender.write_all(&large).unwrap();
                sender.shutdown(Shutdown::Write).unwrap();
            });
            assert_eq!(read_to_end(&mut stream).1.len(), 300_000, "{version}");
            sending.join().unwrap();
        }
        let record = sluice.record("a tunnel", |record| record["method"] == "CONNECT");
        assert_eq!(
            (&record["host"], &record["reason"]),
            (&"a.test:443".into(), &"http.answered".into())
        );
        assert_eq!(record["upstream_protocol"], version, "{record}");
    }
}

#[test]
fn tunnels_by_post_end_at_a_rule_that_allows_them() {
    let echo = Server::greeter("hi:");
    let proxy = Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: out }}]\n\
         routes: {{ out: [{{ cluster: echo, connect: terminate_post }}] }}\n\
         clusters: {{ echo: \"{}\" }}\n",
        echo.addr()
    ));
    for cluster in ["", ", protocol: http2"] {
        let sluice = through(proxy.addr("web"), "{ host: a.test, post: / }", cluster);
        let mut stream = connect(sluice.addr("tcp"));
        assert_eq!(read(&mut stream, 3), b"hi:");
        assert_eq!(exchange(&mut stream, b"some bytes"), b"some bytes");
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_end(&mut stream).1.is_empty());
        let record = sluice.record("a tunnel", |record| record["method"] == "POST");
        assert_eq!(record["reason"], "http.answered", "{record}");
    }
    // Without a body, the endpoint gets an end alone.
    let reply = sluice_testkit::origin::get(proxy.addr("web"), "h", "/");
    assert_ne!(reply.status(), 200);
    let mut stream = connect(proxy.addr("web"));
    stream.write_all(b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    let reply = String::from_utf8(read_to_end(&mut stream).1).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("hi:"), "{reply}");
}

#[test]
fn the_proxy_is_told_what_the_configuration_says_and_nothing_of_the_client() {
    let server = Server::start(|stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let request = read_message(&mut reader, false)?;
        let head = request.head.to_ascii_lowercase();
        let text = format!("{head}{}", request.text());
        let mut stream = stream;
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
    });
    let sluice = through(server.addr(), "{ host: a.test, post: /in }", "");
    let mut stream = connect(sluice.addr("tcp"));
    stream.write_all(b"what the client sends").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let told = String::from_utf8(read_to_end(&mut stream).1).unwrap();
    assert!(told.starts_with("post /in http/1.1\r\n"), "{told}");
    assert!(told.contains("host: a.test\r\n") && told.contains("x-who: me\r\n"), "{told}");
    assert!(told.ends_with("what the client sends"), "{told}");
    assert!(!told.contains("forwarded"), "{told}");
}

#[test]
fn without_a_tunnel_the_connection_is_closed_and_the_record_says_why() {
    let refusing = RefusingPort::take();
    let gone = through(refusing.addr(), "'a.test:443'", "");
    assert!(read_to_end(&mut connect(gone.addr("tcp"))).1.is_empty());
    gone.record_of("upstream.refused");
    let echo = Server::echo();
    let proxy = proxy(echo.addr());
    let refused = through(proxy.addr("web"), "'b.test:443'", "");
    assert!(read_to_end(&mut connect(refused.addr("tcp"))).1.is_empty());
    let record = refused.record("a refusal", |record| record["method"] == "CONNECT");
    assert_eq!(record["response_code"], 404, "{record}");
    assert_eq!(echo.accepted(), 0);
}
