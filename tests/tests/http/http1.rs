//! HTTP/1: forwarding, framing, and refused messages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::{self, Client};
use sluice_testkit::{Origin, Sluice, wait};

fn web(origin: &Origin, http: &str, rule: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main{http} }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up{rule} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    )
}

#[test]
fn a_request_is_proxied_and_recorded() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    let answer = client.ask(
        "POST /echo?x=1 HTTP/1.1\r\nHost: shop.test\r\nX-Mine: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
         Content-Length: 5\r\n\r\nhello",
    );
    assert_eq!((answer.status(), answer.value("x-origin")), (200, "a"));
    let request = &origin.requests()[0];
    assert_eq!(request.words(), ["POST", "/echo?x=1", "HTTP/1.1"]);
    assert_eq!((request.value("host"), request.value("x-mine")), ("shop.test", "1"));
    assert_eq!((request.value("x-hop"), request.value("connection")), ("", ""));
    assert_eq!(
        (request.value("x-forwarded-for"), request.value("x-forwarded-proto")),
        ("127.0.0.1", "http")
    );
    assert_eq!(request.text(), "hello");
    let record = sluice.record("the request", |record| record["kind"] == "request");
    assert_eq!(record["reason"], "http.answered");
    assert_eq!((&record["method"], &record["path"]), (&"POST".into(), &"/echo?x=1".into()));
    assert_eq!((&record["response_code"], &record["bytes_received"]), (&200.into(), &5.into()));
    assert_eq!(record["upstream_host"], origin.addr().to_string());
    assert_eq!(sluice.metric("sluice_http_requests_total", "class=\"2xx\""), 1);
    assert_eq!(sluice.metric("sluice_cluster_requests_total", "class=\"2xx\""), 1);
}

#[test]
fn connections_are_reused_on_both_sides() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().workers(1).start(&web(&origin, "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    for size in [0, 1, 3_000_000, 2000, 70_000] {
        let answer = client.get("a", &format!("/bytes/{size}"));
        assert_eq!((answer.status(), answer.body.len()), (200, size));
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(sluice.metric("sluice_cluster_connections_reused_total", ""), 4);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    let one = |n: usize| {
        format!(
            "POST /bytes/{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        )
    };
    client.send((1..20).map(one).collect::<String>());
    for n in 1..20 {
        assert_eq!(client.read().body.len(), n);
    }
}

#[test]
fn every_kind_of_body_is_forwarded_in_both_directions() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    let address = sluice.addr("web");
    let mut client = Client::connect(address);
    let answer = client.ask(
        "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    assert_eq!(answer.status(), 200);
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.text().as_str(), request.trailers.as_str()), ("abcdefg", "x-sum: 7\r\n"));
    let answer = client.get("a", "/chunked");
    assert_eq!(
        (answer.text().as_str(), answer.trailers.as_str()),
        ("hello world", "x-sum: 42\r\n")
    );
    for status in [204, 304] {
        let answer = client.get("a", &format!("/status/{status}"));
        assert_eq!((answer.status(), answer.value("transfer-encoding")), (status, ""));
    }
    client.send("HEAD /bytes/5 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_head().value("content-length"), "5");
    // A body that the endpoint ends by closing is forwarded in chunks.
    let answer = client.get("a", "/until-end");
    assert_eq!(
        (answer.text().as_str(), answer.value("transfer-encoding")),
        ("to the end", "chunked")
    );
    assert_eq!(client.get("a", "/bytes/1").status(), 200);
}

#[test]
fn informational_responses_are_forwarded() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /hints HTTP/1.1\r\nHost: a\r\n\r\n");
    let hint = client.read();
    assert_eq!((hint.status(), hint.value("link")), (103, "</a.css>"));
    assert_eq!(client.read().text(), "hinted\n");
    client
        .send("PUT /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.read().status(), 100);
    client.send("ok");
    assert_eq!(client.read().status(), 200);
    assert_eq!(origin.requests().pop().unwrap().text(), "ok");
}

#[test]
fn http_1_0_clients_are_served() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    let answer = client.ask("GET /bytes/3 HTTP/1.0\r\nConnection: keep-alive\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status(), answer.value("connection")), (200, "keep-alive"));
    // HTTP/1.0 does not know chunks: the end of the connection ends the body.
    let answer = client.ask("GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!((answer.text().as_str(), answer.value("transfer-encoding")), ("hello world", ""));
    assert_eq!(client.rest(), b"");
}

#[test]
fn the_case_of_header_names_can_be_preserved() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, ", header_case: keep", ""));
    let mut client = Client::connect(sluice.addr("web"));
    let answer = client.ask("GET /echo HTTP/1.1\r\nHost: a\r\nX-MiXed: 1\r\n\r\n");
    assert!(answer.head.contains("X-Origin: a"), "{}", answer.head);
    assert!(answer.text().contains("X-MiXed: 1"), "{}", answer.text());
}

/// Refused requests: the request, the status, and the reason.
const REFUSED: &[(&str, u16, &str)] = &[
    ("GET / HTTP/1.1\r\n\r\n", 400, "http1.host_missing"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "http1.host_repeated"),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "http1.host_malformed"),
    ("GET / HTTP/1.1\nHost: a\n\n", 400, "http1.bare_lf"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", 400, "http1.space_before_colon"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400, "http1.obsolete_folding"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n", 400, "http1.field_value_malformed"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400, "http1.bare_cr"),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "http1.target_malformed"),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "http1.version_unsupported"),
    ("\x16\x03\x01\x02\x00\x01", 400, "http1.tls_record_on_plain_port"),
    (
        "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        400,
        "http1.content_length_repeated",
    ),
    (
        "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n",
        400,
        "http1.content_length_malformed",
    ),
    (
        "P / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        400,
        "http1.content_length_malformed",
    ),
    (
        "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "http1.content_length_with_transfer_encoding",
    ),
    (
        "P / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        501,
        "http1.transfer_encoding_unknown",
    ),
    (
        "P / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "http1.transfer_encoding_in_http10",
    ),
];

#[test]
fn ambiguous_requests_are_refused_and_not_forwarded() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    for (request, status, word) in REFUSED {
        let mut client = Client::connect(sluice.addr("web"));
        let answer = client.ask(request);
        assert_eq!((answer.status(), answer.text().trim_end()), (*status, *word), "{request:?}");
        assert_eq!(answer.value("connection"), "close", "{request:?}");
        assert_eq!(client.rest(), b"", "{request:?}");
        let label = format!("detail=\"{word}\"");
        assert!(sluice.metric("sluice_http_protocol_errors_total", &label) > 0, "{word}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70_000));
    assert_eq!(Client::connect(sluice.addr("web")).ask(&long).status(), 414);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: 1\r\n".repeat(200));
    assert_eq!(Client::connect(sluice.addr("web")).ask(&many).status(), 431);
    assert_eq!(origin.connections(), 0, "nothing of it reached the endpoint");
}

#[test]
fn a_body_with_broken_framing_never_completes_upstream() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    for chunks in
        ["x\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\nabc\r\n", "0\r\ncontent-length: 1\r\n\r\n"]
    {
        let mut client = Client::connect(sluice.addr("web"));
        let head = "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{chunks}"));
        let answer = client.read();
        assert_eq!((answer.status(), answer.value("connection")), (400, "close"), "{chunks:?}");
    }
    assert!(origin.requests().is_empty(), "no request was complete: {:?}", origin.requests());
}

#[test]
fn protocol_errors_and_disconnects_of_endpoints_are_told_apart() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    let address = sluice.addr("web");
    for (path, status, reason) in [
        ("/garbage", 502, "upstream.protocol"),
        ("/close", 503, "upstream.closed_early"),
        ("/reset", 503, "upstream.reset"),
    ] {
        assert_eq!(origin::get(address, "a", path).status(), status, "{path}");
        sluice.record(reason, |record| record["path"] == path && record["reason"] == reason);
    }
    // A truncated response is forwarded as far as it was received, and ends in the same way.
    let mut client = Client::connect(address);
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
    let got = String::from_utf8(client.rest()).unwrap();
    assert!(got.starts_with("HTTP/1.1 200") && !got.contains("503"), "{got}");
    sluice.record_of("upstream.cut");
}

#[test]
fn a_client_disconnect_cancels_its_request() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(&origin, "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request to arrive", || (!origin.requests().is_empty()).then_some(()));
    drop(client);
    let record = sluice.record("the end", |record| record["kind"] == "request");
    assert_eq!(record["reason"], "downstream.cancelled");
    origin.release();
}

#[test]
fn slow_clients_affect_only_themselves() {
    let origin = Origin::start("a");
    let options = ", head_timeout: 2s, body_timeout: 2s, idle_timeout: 2s";
    let sluice = Sluice::new().start(&web(&origin, options, ""));
    let address = sluice.addr("web");
    let mut silent = Client::connect(address);
    let mut half = Client::connect(address);
    half.send("GET / HTTP/1.1\r\nHo");
    let mut bodiless = Client::connect(address);
    bodiless.send("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    let mut idle = Client::connect(address);
    assert_eq!(idle.get("a", "/bytes/1").status(), 200);
    // Meanwhile other clients are served.
    assert_eq!(origin::get(address, "a", "/bytes/1").status(), 200);
    assert_eq!(silent.rest(), b"");
    assert_eq!(half.read().status(), 408);
    assert_eq!(bodiless.read().status(), 408);
    assert_eq!(idle.rest(), b"");
    sluice.record_of("http.idle");
    sluice.record_of("http.body_timeout");
}

#[test]
fn a_drain_ends_idle_connections_and_lets_requests_finish() {
    let origin = Origin::start("a");
    let mut sluice = Sluice::new().workers(1).start(&web(&origin, "", ""));
    let mut idle = Client::connect(sluice.addr("web"));
    assert_eq!(idle.get("a", "/bytes/1").status(), 200);
    let mut busy = Client::connect(sluice.addr("web"));
    busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request to arrive", || (origin.requests().len() == 2).then_some(()));
    sluice.signal("TERM");
    assert_eq!(idle.rest(), b"");
    origin.release();
    let answer = busy.read();
    assert_eq!((answer.text().as_str(), answer.value("connection")), ("waited\n", "close"));
    assert_eq!(busy.rest(), b"");
    assert!(sluice.wait_end().success());
}
