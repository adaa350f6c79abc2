//! Requests before the handshake is complete (0-RTT): those of clients over TCP, and those that are sent to endpoints.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use sluice_testkit::frames::{self, flag, kind};
use sluice_testkit::origin::{self, Message, read_message};
use sluice_testkit::peers::connect;
use sluice_testkit::tls::{ClientStream, EarlyConnection, ReturningClient};
use sluice_testkit::{Authority, Origin, QuicServer, Running, Sluice, tools, wait};

// --- clients over TCP ---

/// A listener `web` that serves `own.test` over TLS and grants early data.
fn edge(origin: &Origin) -> Running {
    edge_with(origin, "")
}

fn edge_with(origin: &Origin, tls: &str) -> Running {
    let kit = Sluice::new().workers(2);
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    kit.start(&format!(
        "listeners:\n\
         - {{ name: web, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: own.pem, key: own.key }}], early_data_sessions: 16{tls} }}, http: main }}\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ))
}

fn returning(sluice: &Running, alpn: &str) -> ReturningClient {
    ReturningClient::new("own.test", &sluice.folder().join("ca.pem"), alpn)
}

fn request(method: &str) -> String {
    format!("{method} /echo HTTP/1.1\r\nhost: own.test\r\ncontent-length: 0\r\n\r\n")
}

fn ask_on(stream: &mut ClientStream, method: &str) -> Message {
    stream.write_all(request(method).as_bytes()).unwrap();
    read_message(&mut BufReader::new(stream), false).unwrap()
}

/// A first connection, from which the client keeps a session.
fn visit(client: &ReturningClient, to: SocketAddr) {
    assert!(client.connect_early(to, b"").is_none(), "there is no earlier session");
    assert_eq!(ask_on(&mut client.connect(to), "GET").status(), 200);
}

fn ask_early(client: &ReturningClient, to: SocketAddr, method: &str) -> (EarlyConnection, Message) {
    let early = client.connect_early(to, request(method).as_bytes()).expect("a session was left");
    let mut reader = BufReader::new(early);
    let answer = read_message(&mut reader, false).unwrap();
    (reader.into_inner(), answer)
}

#[test]
fn a_request_in_early_data_over_tcp_is_served_if_it_is_safe() {
    let origin = Origin::start("a");
    let sluice = edge(&origin);
    let (client, to) = (returning(&sluice, "http/1.1"), sluice.addr("web"));
    let seen = || origin.requests().last().unwrap().value("early-data").to_owned();
    visit(&client, to);
    assert_eq!(seen(), "");

    // Responses arrive although the handshake is not complete for Sluice.
    let (early, answer) = ask_early(&client, to, "GET");
    assert_eq!((answer.status(), seen().as_str()), (200, "1"));
    assert!(early.is_accepted());
    assert_eq!(ask_on(&mut early.finish(), "POST").status(), 200);
    assert_eq!(seen(), "", "what follows the handshake is not early");

    let before = origin.requests().len();
    let (early, answer) = ask_early(&client, to, "POST");
    assert_eq!((answer.status(), origin.requests().len()), (425, before));
    assert_eq!(ask_on(&mut early.finish(), "POST").status(), 200);

    let handshakes = |result: &str| {
        sluice.metric("sluice_tls_handshakes_total", &format!("result=\"{result}\""))
    };
    assert_eq!((handshakes("full"), handshakes("early")), (1, 2));
    sluice.record_of("http.too_early");
    sluice.record("an early connection", |record| record["downstream_early_data"] == "true");
    sluice.record("the first one", |record| record["downstream_early_data"] == "false");
}

#[test]
fn a_client_that_never_completes_its_handshake_after_early_data_is_disconnected() {
    let origin = Origin::start("a");
    let sluice = edge_with(&origin, ", handshake_timeout: 2s");
    let (client, to) = (returning(&sluice, "http/1.1"), sluice.addr("web"));
    visit(&client, to);
    let (mut early, answer) = ask_early(&client, to, "GET");
    assert_eq!(answer.status(), 200);
    assert_eq!(early.read(&mut [0; 1]).unwrap_or(0), 0, "the server closes the connection");
    let record = sluice.record_of("tls.timeout");
    assert_eq!(record["detail"], "the handshake was not complete in time after early data");

    // Over HTTP/2, which reads all the time.
    let (client, fields) = (returning(&sluice, "h2"), [(":method", "GET"), (":scheme", "https")]);
    let block =
        frames::block(&[&fields[..], &[(":authority", "own.test"), (":path", "/echo")]].concat());
    let head = frames::frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 1, &block);
    let request = [frames::PREFACE, &frames::frame(kind::SETTINGS, 0, 0, &[]), &head].concat();
    let mut first = client.connect(to);
    first.write_all(&request).unwrap();
    ends_stream(&mut first);
    let mut early = client.connect_early(to, &request).expect("a session was left");
    ends_stream(&mut early);
    let mut rest = Vec::new();
    let _ = early.read_to_end(&mut rest);
    let ended = || sluice.metric("sluice_connections_ended_total", "reason=\"tls.timeout\"");
    wait::until("the end of both", || (ended() == 2).then_some(()));
}

#[test]
fn a_handshake_that_waits_for_a_slow_response_is_in_time() {
    let origin = Origin::start("a");
    let sluice = edge_with(&origin, ", handshake_timeout: 2s");
    let (client, other) = (returning(&sluice, "http/1.1"), returning(&sluice, "http/1.1"));
    let to = sluice.addr("web");
    [&client, &other].into_iter().for_each(|client| visit(client, to));
    let slow = "GET /wait HTTP/1.1\r\nhost: own.test\r\ncontent-length: 0\r\n\r\n";
    let early = client.connect_early(to, slow.as_bytes()).expect("a session was left");
    // The client is done long before the response comes, and before anything further is read of it.
    let mut stream = early.finish();
    stream.flush().unwrap();
    // One that came later is late.
    let (_held, answer) = ask_early(&other, to, "GET");
    assert_eq!(answer.status(), 200);
    sluice.record_of("tls.timeout");
    origin.release();
    assert_eq!(read_message(&mut BufReader::new(&mut stream), false).unwrap().status(), 200);
    assert_eq!(ask_on(&mut stream, "POST").status(), 200);
    let ended = || sluice.metric("sluice_connections_ended_total", "reason=\"tls.timeout\"");
    assert_eq!(ended(), 1);
}

#[test]
fn early_data_that_is_sent_again_by_an_attacker_reaches_no_endpoint() {
    let origin = Origin::start("a");
    let sluice = edge(&origin);
    let (client, to) = (returning(&sluice, "http/1.1"), sluice.addr("web"));
    visit(&client, to);
    let (early, answer) = ask_early(&client, to, "GET");
    assert_eq!(answer.status(), 200);
    let (recorded, before) = (early.first().to_vec(), origin.requests().len());
    for _ in 0..4 {
        let mut attacker = connect(to);
        attacker.write_all(&recorded).unwrap();
        // The server begins a handshake that only the client could complete.
        let mut hello = [0; 5];
        attacker.read_exact(&mut hello).unwrap();
        assert_eq!(hello[0], 22);
        attacker.shutdown(std::net::Shutdown::Write).unwrap();
        // The end may come as a reset: the server has not read all of it.
        let _ = attacker.read_to_end(&mut Vec::new());
    }
    assert_eq!(origin.requests().len(), before);
    let failed = || sluice.metric("sluice_tls_handshakes_total", "result=\"failed\"");
    wait::until("their ends", || (failed() == 4).then_some(()));
}

#[test]
fn a_request_in_early_data_is_served_over_http2() {
    let origin = Origin::start("a");
    let sluice = edge(&origin);
    let (client, to) = (returning(&sluice, "h2"), sluice.addr("web"));
    let request = |method: &str| {
        let fields = [(":method", method), (":scheme", "https"), (":authority", "own.test")];
        let block = frames::block(&[&fields[..], &[(":path", "/echo")]].concat());
        let flags = flag::END_STREAM | flag::END_HEADERS;
        let head = frames::frame(kind::HEADERS, flags, 1, &block);
        [frames::PREFACE, &frames::frame(kind::SETTINGS, 0, 0, &[]), &head].concat()
    };
    for method in ["GET", "POST"] {
        let mut first = client.connect(to);
        first.write_all(&request("GET")).unwrap();
        ends_stream(&mut first);
        let mut early = client.connect_early(to, &request(method)).expect("a session was left");
        ends_stream(&mut early);
    }
    let seen: Vec<String> =
        origin.requests().iter().map(|request| request.value("early-data").to_owned()).collect();
    assert_eq!(seen, ["", "1", ""]);
    sluice.record_of("http.too_early");
}

/// Reads until a response has ended.
fn ends_stream(stream: &mut impl std::io::Read) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).unwrap();
        if matches!(head[3], kind::DATA | kind::HEADERS) && head[4] & flag::END_STREAM != 0 {
            return;
        }
    }
}

// --- endpoints ---

/// A site over HTTP/1, HTTP/2 and HTTP/3 that grants early data, and says in `x-early` whether a request was early; `/late`
/// has none of it.
fn configuration(streams: u32) -> String {
    format!(
        "listeners:\n\
         - {{ name: tls, address: 127.0.0.1:0, quic: {{ streams: {streams} }}, tls: {{ certificates: [{{ cert: own.pem, key: own.key }}], early_data_sessions: 16 }}, http: {{ routes: main, filters: [set_headers: {{ response: {{ x-early: \"%REQ(early-data)%\" }} }}] }} }}\n\
         routes:\n  main:\n  - hosts: \"*\"\n    rules:\n\
         \x20   - {{ match: {{ path: /late, headers: {{ early-data: \"1\" }} }}, respond: {{ status: 425 }} }}\n\
         \x20   - {{ respond: {{ status: 200 }} }}\n"
    )
}

fn site() -> Running {
    site_at(0)
}

fn site_at(port: u16) -> Running {
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    kit.start(&configuration(10).replace("127.0.0.1:0", &format!("127.0.0.1:{port}")))
}

const PROTOCOLS: [&str; 3] = ["http1", "http2", "http3"];

/// A proxy in front of the site that makes a connection for each request.
fn proxy(site: &Running, protocol: &str, cluster: &str) -> Running {
    let (to, ca) = (site.addr("tls"), site.folder().join("ca.pem"));
    Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters:\n  up:\n    endpoints: [\"{to}\"]\n    protocol: {protocol}\n    \
         reuse: {{ requests: 1 }}\n    tls: {{ sni: own.test, ca: \"{}\", early_data: true }}\n{cluster}",
        ca.display()
    ))
}

fn ask(sluice: &Running, path: &str) -> Message {
    origin::get(sluice.addr("web"), "a", path)
}

fn early(sluice: &Running, result: &str) -> i64 {
    sluice.metric("sluice_cluster_early_data_total", &format!("result=\"{result}\""))
}

/// Asks until a request was early, as the site saw it: over QUIC, it loses the race against the end of the handshake now and
/// then.
fn until_early(sluice: &Running) {
    wait::until("a request in early data", || {
        let answer = ask(sluice, "/");
        assert_eq!(answer.status(), 200);
        (answer.value("x-early") == "1").then_some(())
    });
    wait::until("its count", || (early(sluice, "accepted") > 0).then_some(()));
}

/// Asks once more, so that the proxy has a session that it has not used: over TCP, a new one comes with a handshake that is
/// complete before the response, not with a response that ends an early connection.
fn leave_a_session(sluice: &Running, protocol: &str) {
    if protocol != "http3" {
        wait::until("a request after a handshake", || {
            (ask(sluice, "/").value("x-early") == "-").then_some(())
        });
    }
}

#[test]
fn safe_requests_leave_with_the_handshake_and_others_wait_for_it() {
    let site = site();
    for protocol in PROTOCOLS {
        let sluice = proxy(&site, protocol, "");
        assert_eq!(ask(&sluice, "/").value("x-early"), "-", "there was no earlier session");
        until_early(&sluice);
        let before = early(&sluice, "accepted");
        for head in ["POST / HTTP/1.1\r\ncontent-length: 0", "GET / HTTP/1.1\r\ncontent-length: 2"]
        {
            let body = if head.ends_with('2') { "ab" } else { "" };
            let request = format!("{head}\r\nhost: a\r\nconnection: close\r\n\r\n{body}");
            let answer = origin::Client::connect(sluice.addr("web")).ask(&request);
            assert_eq!((answer.status(), answer.value("x-early")), (200, "-"), "{protocol} {head}");
        }
        assert_eq!(early(&sluice, "accepted"), before, "{protocol}");
        assert_eq!(early(&sluice, "rejected") + early(&sluice, "failed"), 0, "{protocol}");
    }
}

#[test]
fn what_came_too_early_is_sent_again_after_the_handshake() {
    let site = site();
    for protocol in PROTOCOLS {
        let sluice = proxy(&site, protocol, "");
        until_early(&sluice);
        wait::until("a response that it was too early", || {
            let answer = ask(&sluice, "/late");
            assert_eq!((answer.status(), answer.value("x-early")), (200, "-"), "{protocol}");
            (early(&sluice, "too_early") > 0).then_some(())
        });
        let retried = |record: &serde_json::Value| record["upstream_request_attempt_count"] == 2;
        let record = sluice.record("a request that was too early", retried);
        assert_eq!(record["reason"], "http.answered");
        assert!(sluice.metric("sluice_cluster_retry_rules_total", "rule=\"too_early\"") > 0);

        // A client that was early itself, or its proxy, has to repeat the request.
        let request = "GET /late HTTP/1.1\r\nhost: a\r\nearly-data: 1\r\nconnection: close\r\n\r\n";
        assert_eq!(origin::Client::connect(sluice.addr("web")).ask(request).status(), 425);
    }
}

#[test]
fn an_endpoint_that_rejects_early_data_gets_the_request_after_the_handshake() {
    let site = site();
    for (protocol, streams) in PROTOCOLS.into_iter().zip(20..) {
        let sluice = proxy(&site, protocol, "");
        until_early(&sluice);
        leave_a_session(&sluice, protocol);
        assert_eq!(site.reload(&configuration(streams)), "applied");
        wait::until("a rejection", || {
            assert_eq!(ask(&sluice, "/").status(), 200);
            (early(&sluice, "rejected") > 0).then_some(())
        });
        assert_eq!(sluice.metric("sluice_cluster_connect_failures_total", ""), 0, "{protocol}");
    }
}

#[test]
fn a_handshake_that_fails_counts_against_the_endpoint_and_the_request_is_sent_again() {
    for protocol in PROTOCOLS {
        // A port that nobody gets before the other server does.
        let port = tools::free_port();
        let site = site_at(port);
        let sluice = proxy(&site, protocol, "    outlier: none\n");
        until_early(&sluice);
        leave_a_session(&sluice, protocol);
        drop(site);
        // Another server in its place, which the certificate authority does not vouch for, or which does not speak TLS.
        let kit = Sluice::new();
        Authority::new(kit.folder()).issue("own", &["own.test"]);
        let _over_quic = QuicServer::start_on(port, kit.folder(), "own", async |connection| {
            connection.closed().await;
        });
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|mut stream| {
                    stream.read_exact(&mut [0; 5])?;
                    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                });
            }
        });
        assert_eq!(ask(&sluice, "/").status(), 503, "{protocol}");
        wait::until("its count", || (early(&sluice, "failed") == 1).then_some(()));
        // The request was also attempted as any other is.
        assert!(sluice.metric("sluice_cluster_connect_failures_total", "") > 1, "{protocol}");
        let record = sluice.record("the request", |record| record["response_code"] == 503);
        assert_eq!(record["reason"], "upstream.tls", "{record}");
    }
}
