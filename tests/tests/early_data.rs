//! Requests that are sent to endpoints before the handshake is complete (0-RTT): what is sent so, and what follows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::{self, Message};
use sluice_testkit::{Authority, QuicServer, Running, Sluice, wait};

/// A site over HTTP/3 that grants early data, and says in `x-early` whether a request was early; `/late` has none of it.
fn configuration(quic: &str) -> String {
    format!(
        "listeners:\n\
         - {{ name: tls, address: 127.0.0.1:0, quic: {quic}, tls: {{ certificates: [{{ cert: own.pem, key: own.key }}] }}, http: {{ routes: main, filters: [set_headers: {{ response: {{ x-early: \"%REQ(early-data)%\" }} }}] }} }}\n\
         routes:\n  main:\n  - hosts: \"*\"\n    rules:\n\
         \x20   - {{ match: {{ path: /late, headers: {{ early-data: \"1\" }} }}, respond: {{ status: 425 }} }}\n\
         \x20   - {{ respond: {{ status: 200 }} }}\n"
    )
}

const GRANTED: &str = "{ early_data_sessions: 16 }";

fn site() -> Running {
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    kit.start(&configuration(GRANTED))
}

/// A proxy in front of the site that makes a connection for each request.
fn proxy(site: &Running, cluster: &str) -> Running {
    let (to, ca) = (site.addr("tls"), site.folder().join("ca.pem"));
    Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters:\n  up:\n    endpoints: [\"{to}\"]\n    protocol: http3\n    http3: {{ early_data: true }}\n    \
         reuse: {{ requests: 1 }}\n    tls: {{ sni: own.test, ca: \"{}\" }}\n{cluster}",
        ca.display()
    ))
}

fn ask(sluice: &Running, path: &str) -> Message {
    origin::get(sluice.addr("web"), "a", path)
}

fn early(sluice: &Running, result: &str) -> i64 {
    sluice.metric("sluice_cluster_early_data_total", &format!("result=\"{result}\""))
}

/// Asks until a request was early, as the site saw it: it loses the race against the end of the handshake now and then.
fn until_early(sluice: &Running) {
    wait::until("a request in early data", || {
        let answer = ask(sluice, "/");
        assert_eq!(answer.status(), 200);
        (answer.value("x-early") == "1").then_some(())
    });
    wait::until("its count", || (early(sluice, "accepted") > 0).then_some(()));
}

#[test]
fn safe_requests_leave_with_the_handshake_and_others_wait_for_it() {
    let site = site();
    let sluice = proxy(&site, "");
    assert_eq!(ask(&sluice, "/").value("x-early"), "-", "there was no earlier session");
    until_early(&sluice);
    let before = early(&sluice, "accepted");
    for head in ["POST / HTTP/1.1\r\ncontent-length: 0", "GET / HTTP/1.1\r\ncontent-length: 2"] {
        let body = if head.ends_with('2') { "ab" } else { "" };
        let request = format!("{head}\r\nhost: a\r\nconnection: close\r\n\r\n{body}");
        let answer = origin::Client::connect(sluice.addr("web")).ask(&request);
        assert_eq!((answer.status(), answer.value("x-early")), (200, "-"), "{head}");
    }
    assert_eq!(early(&sluice, "accepted"), before);
    assert_eq!(early(&sluice, "rejected") + early(&sluice, "failed"), 0);
}

#[test]
fn what_came_too_early_is_sent_again_after_the_handshake() {
    let site = site();
    let sluice = proxy(&site, "");
    until_early(&sluice);
    wait::until("a response that it was too early", || {
        let answer = ask(&sluice, "/late");
        assert_eq!((answer.status(), answer.value("x-early")), (200, "-"));
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

#[test]
fn an_endpoint_that_rejects_early_data_gets_the_request_after_the_handshake() {
    let site = site();
    let sluice = proxy(&site, "");
    until_early(&sluice);
    assert_eq!(site.reload(&configuration("{ early_data_sessions: 16, streams: 5 }")), "applied");
    wait::until("a rejection", || {
        assert_eq!(ask(&sluice, "/").status(), 200);
        (early(&sluice, "rejected") > 0).then_some(())
    });
    assert_eq!(sluice.metric("sluice_cluster_connect_failures_total", ""), 0);
}

#[test]
fn a_handshake_that_fails_counts_against_the_endpoint_and_the_request_is_sent_again() {
    let site = site();
    let sluice = proxy(&site, "    outlier: none\n");
    until_early(&sluice);
    let port = site.addr("tls").port();
    drop(site);
    // Another server in its place, which the certificate authority does not vouch for.
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    let _other = QuicServer::start_on(port, kit.folder(), "own", async |connection| {
        connection.closed().await;
    });
    assert_eq!(ask(&sluice, "/").status(), 503);
    wait::until("its count", || (early(&sluice, "failed") == 1).then_some(()));
    // The request was also attempted as any other is.
    assert!(sluice.metric("sluice_cluster_connect_failures_total", "") > 1);
    let record = sluice.record("the request", |record| record["response_code"] == 503);
    assert_eq!(record["reason"], "upstream.tls", "{record}");
}
