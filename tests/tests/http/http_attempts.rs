//! What happens to a request at its cluster: attempts, timeouts, limits, and the choice of the endpoint.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::{RefusingPort, Server};
use sluice_testkit::{Origin, Sluice, wait};

use crate::http_routes::{both, get, start, web};

#[test]
fn failed_requests_are_retried_elsewhere_as_configured() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let retry = ", retry: { when: [gateway_error, reset], attempts: 4, backoff: 1ms }, timeout: { per_try: 5s }";
    let sluice = Sluice::new().workers(1).start(&both(&a, &b, "", retry));
    let mut client = Client::connect(sluice.addr("web"));
    // Each origin fails once; the buffered body is sent again in full.
    let answer = client.ask("POST /flaky/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(answer.status(), 200);
    let record = sluice.record("the request", |record| record["kind"] == "request");
    let attempts = record["upstream_hosts_attempted"].as_array().unwrap();
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    let first = attempts[0].as_str().unwrap();
    assert!(first.ends_with("route.retried: status 503, retried by gateway_error"), "{first}");
    assert!(a.requests().iter().chain(&b.requests()).all(|request| request.text() == "hello"));
    // A request that is reset everywhere fails once, with every attempt in the record.
    assert_eq!(client.get("a", "/reset").status(), 503);
    let record = sluice.record_of("route.retries_exhausted");
    // A pooled connection that closes without a response is retried in addition to the attempts that the rule allows.
    assert!(record["upstream_request_attempt_count"].as_u64().unwrap() >= 4, "{record}");
    assert_eq!(sluice.metric("sluice_cluster_retries_total", "made"), 2 + 3);
    assert_eq!(sluice.metric("sluice_cluster_retry_rules_total", "gateway_error"), 2);
    assert_eq!(sluice.metric("sluice_cluster_retry_rules_total", "reset"), 3);
}

#[test]
fn a_request_that_may_have_taken_effect_is_not_retried_by_default() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = Sluice::new().workers(1).start(&both(&a, &b, "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    let request = "POST /reset HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(client.ask(request).status(), 503);
    assert_eq!(a.requests().len() + b.requests().len(), 1);
}

#[test]
fn an_endpoint_that_refuses_connections_is_skipped() {
    let (a, refusing) = (Origin::start("a"), RefusingPort::take());
    let gone = refusing.addr();
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{gone}\", \"{}\"], outlier: none }} }}\n",
        a.addr()
    ));
    for _ in 0..4 {
        let request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(Client::connect(sluice.addr("web")).ask(request).status(), 200);
    }
    sluice.record("the passed over", |record| {
        record["upstream_hosts_attempted"].to_string().contains("upstream.refused (errno 111)")
    });
}

#[test]
fn a_dead_pooled_connection_is_not_used() {
    // Responds to one request per connection and closes without announcing it.
    let server = Server::start(|mut stream| {
        let mut reader = std::io::BufReader::new(stream.try_clone()?);
        let message = origin::read_message(&mut reader, false)?;
        let body = message.path().to_owned();
        std::io::Write::write_all(
            &mut stream,
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes(),
        )
    });
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    ));
    let mut client = Client::connect(sluice.addr("web"));
    for number in 0..50 {
        let answer = client.get("a", &format!("/{number}"));
        assert_eq!(answer.text(), format!("/{number}"));
    }
}

#[test]
fn timeouts_end_slow_requests() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(&web(
        &a,
        &b,
        "",
        r#"
    - hosts: "*"
      rules:
        - { match: { headers: { x-kind: response } }, cluster: a, timeout: { response: 200ms } }
        - { match: { headers: { x-kind: total } }, cluster: a, timeout: { total: 200ms } }
        - { match: { headers: { x-kind: try } }, cluster: a, timeout: { per_try: 100ms }, retry: { when: try_timeout, attempts: 2 } }
"#,
    ));
    for (kind, reason) in [
        ("response", "route.timeout"),
        ("total", "route.timeout"),
        ("try", "route.retries_exhausted"),
    ] {
        let request = format!("GET /wait HTTP/1.1\r\nHost: a\r\nX-Kind: {kind}\r\n\r\n");
        let answer = Client::connect(sluice.addr("web")).ask(&request);
        assert_eq!(answer.status(), 504);
        let text = match kind {
            "total" => "downstream duration timeout (",
            _ => "upstream request timeout (",
        };
        assert!(answer.text().starts_with(text), "{}", answer.text());
        sluice.record_of(reason);
    }
    a.release();
}

#[test]
fn streams_last_no_longer_than_their_listener_and_cluster_allow() {
    let origin = Origin::start("a");
    let sluice = start(&format!(
        "listeners:\n\
         - {{ name: web, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: bounded, address: 127.0.0.1:0, http: {{ routes: main, max_stream_duration: 200ms }} }}\n\
         routes:\n  main:\n  - hosts: \"*\"\n    rules:\n\
         \x20   - {{ match: {{ headers: {{ x-to: short }} }}, cluster: short }}\n\
         \x20   - {{ match: {{ headers: {{ x-to: own }} }}, cluster: up, timeout: {{ total: none }} }}\n\
         \x20   - {{ cluster: up }}\n\
         clusters:\n  up: {{ endpoints: [\"{0}\"] }}\n  short: {{ endpoints: [\"{0}\"], max_stream_duration: 200ms }}\n",
        origin.addr()
    ));
    let wait = |to: &str| format!("GET /wait HTTP/1.1\r\nHost: a\r\nX-To: {to}\r\n\r\n");
    // A rule has the last word; it goes on while the others are ended.
    let mut unbounded = Client::connect(sluice.addr("bounded"));
    unbounded.send(wait("own"));
    for (listener, to, text, reason, details) in [
        (
            "bounded",
            "any",
            "downstream duration timeout (",
            "route.timeout",
            "max_duration_timeout",
        ),
        (
            "web",
            "short",
            "upstream max stream duration reached (",
            "upstream.stream_duration",
            "upstream_max_stream_duration_reached",
        ),
    ] {
        let answer = Client::connect(sluice.addr(listener)).ask(&wait(to));
        assert_eq!(answer.status(), 504, "{listener}");
        assert!(answer.text().starts_with(text), "{}", answer.text());
        let record = sluice.record_of(reason);
        assert_eq!(record["response_code_details"], details);
    }
    // The client is late as well.
    let upload = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab";
    assert_eq!(Client::connect(sluice.addr("bounded")).ask(upload).status(), 408);
    origin.release();
    assert_eq!(unbounded.read().status(), 200);
}

#[test]
fn an_endpoint_that_keeps_failing_is_ejected() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let outlier = ", outlier: { consecutive_5xx: 3, ejection: 1h }";
    let sluice = Sluice::new()
        .workers(1)
        .expect_warning("endpoint ejected")
        .start(&both(&a, &b, outlier, ""));
    let mut client = Client::connect(sluice.addr("web"));
    for _ in 0..6 {
        assert_eq!(client.get("a", "/status/500").status(), 500);
    }
    let ejected = || {
        let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
        endpoints.as_array().unwrap().iter().filter(|e| e["ejected"] == true).count()
    };
    // One of two may be ejected, and the other then serves everything.
    wait::until("an ejection", || (ejected() == 1).then_some(()));
    let first = client.get("a", "/").value("x-origin").to_owned();
    assert!((0..5).all(|_| client.get("a", "/").value("x-origin") == first));
}

#[test]
fn cluster_limits_are_enforced() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let limits = ", limits: { requests: 1 }";
    let sluice = Sluice::new().workers(1).start(&both(&a, &b, limits, ""));
    let mut waiting = Client::connect(sluice.addr("web"));
    waiting.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    let arrived = || a.requests().len() + b.requests().len() == 1;
    wait::until("the request to arrive", || arrived().then_some(()));
    assert_eq!(origin::get(sluice.addr("web"), "a", "/").status(), 503);
    sluice.record_of("upstream.limit");
    let requests = "limit=\"requests\"";
    let gauges = || {
        ["sluice_cluster_breaker_open", "sluice_cluster_breaker_left"]
            .map(|name| sluice.metric(name, requests))
    };
    assert_eq!(gauges(), [1, 0]);
    assert_eq!(sluice.metric("sluice_cluster_breaker_refusals_total", requests), 1);
    let breakers = &sluice.items("/clusters")[0]["breakers"];
    assert_eq!(
        breakers["requests"],
        serde_json::json!({ "limit": 1, "used": 1, "left": 0, "open": true })
    );
    assert!(breakers["connections"].is_null(), "only limits that are set are shown: {breakers}");
    a.release();
    b.release();
    assert_eq!(waiting.read().status(), 200);
    wait::until("the request to end", || (gauges() == [0, 1]).then_some(()));
}

#[test]
fn a_request_waits_for_a_connection_when_all_are_busy() {
    let a = Origin::start("a");
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: \"{}\", limits: {{ connections: 1 }} }} }}\n",
        a.addr()
    ));
    let mut first = Client::connect(sluice.addr("web"));
    first.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request to arrive", || (!a.requests().is_empty()).then_some(()));
    let mut second = Client::connect(sluice.addr("web"));
    second.send("GET /bytes/1 HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("both to be under way", || {
        (sluice.metric("sluice_http_requests_active", "") == 2).then_some(())
    });
    a.release();
    assert_eq!((first.read().status(), second.read().status()), (200, 200));
    assert_eq!(a.connections(), 1);
}

#[test]
fn sticky_cookies_and_hashes_keep_a_client_at_its_endpoint() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sticky = ", hash: { by: \"cookie:sid\", ttl: 1h }";
    let sluice = Sluice::new().start(&both(&a, &b, ", balance: maglev", sticky));
    let first = get(&sluice, "a", "/");
    let cookie = first.value("set-cookie").split(';').next().unwrap().to_owned();
    assert!(first.value("set-cookie").contains("Max-Age=3600"), "{}", first.head);
    for _ in 0..10 {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
        let answer = Client::connect(sluice.addr("web")).ask(&request);
        assert_eq!(answer.value("x-origin"), first.value("x-origin"));
        assert_eq!(answer.value("set-cookie"), "");
    }
}

#[test]
fn http_health_checks_decide_which_endpoints_are_healthy() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let health = ", health: { http: { path: /status/503, expect: 503 }, interval: 50ms, unhealthy_after: 1 }";
    let sluice = Sluice::new().start(&both(&a, &b, health, ""));
    wait::until("a check of both", || {
        let checked = |origin: &Origin| !origin.requests().is_empty();
        (checked(&a) && checked(&b)).then_some(())
    });
    assert_eq!(a.requests()[0].value("user-agent"), "sluice-health-check");
    assert_eq!(get(&sluice, "a", "/").status(), 200);
    let wrong = both(&a, &b, &health.replace("expect: 503", "expect: 200"), "");
    drop(sluice);
    let sluice = Sluice::new().expect_warning("endpoint is unhealthy").start(&wrong);
    wait::until("nobody to be well", || (get(&sluice, "a", "/").status() == 503).then_some(()));
    let record = sluice.record_of("upstream.no_healthy");
    assert_eq!(record["response_code_details"], "no_healthy_upstream");
}
