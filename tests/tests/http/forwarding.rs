//! What rules say of forwarded requests beyond routes: copies, time limits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::frames::{self, H2, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Sluice, wait};

/// A configuration with one rule and the clusters `up` and `other`.
fn web(http: &str, rule: &str, up: &Origin, other: &Origin) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main{http} }} }}]\n\
         limits: {{ mirror_body_bytes: 1KiB }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up{rule} }}] }}] }}\n\
         clusters: {{ up: \"{}\", other: \"{}\", gone: \"127.0.0.1:9\" }}\n",
        up.addr(),
        other.addr()
    )
}

fn start(yaml: &str) -> sluice_testkit::Running {
    Sluice::new().workers(1).expect_warning("is not used").start(yaml)
}

#[test]
fn requests_are_copied_without_a_trace_in_the_original() {
    let (origin, shadow) = (Origin::start("a"), Origin::start("shadow"));
    let mirror = ", mirror: [{ cluster: other, host_suffix: -shadow }, { cluster: other, share: 0%, runtime: more }, gone]";
    let sluice = start(&web("", mirror, &origin, &shadow));
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("a", "/one").status(), 200);
    let chunked = "POST /two HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    assert_eq!(client.ask(chunked).status(), 200);
    let large = format!(
        "POST /three HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n{}",
        "x".repeat(2000)
    );
    assert_eq!(client.ask(&large).status(), 200);
    // Copies take their own time.
    let mirrored = |result: &str| sluice.metric("sluice_cluster_mirrored_requests_total", result);
    wait::until("the copies to end", || {
        let ended = (mirrored("2xx"), mirrored("upstream.refused"), mirrored("too_large"));
        (ended == (2, 2, 2)).then_some(())
    });
    let copies = shadow.requests();
    let mut seen: Vec<_> =
        copies.iter().map(|copy| (copy.path(), copy.value("host"), copy.text())).collect();
    seen.sort();
    let expected = [("/one", "a-shadow", String::new()), ("/two", "a-shadow", "hello".to_owned())];
    assert_eq!(seen, expected);
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn a_header_or_an_expression_names_the_cluster_that_gets_a_copy() {
    // An expression over a header that is not there makes no name.
    for names in ["cluster_header: x-copy-to", "cluster_from: \"request.headers['x-copy-to']\""] {
        let (origin, shadow) = (Origin::start("a"), Origin::start("shadow"));
        let sluice = start(&web("", &format!(", mirror: {{ {names} }}"), &origin, &shadow));
        let mut client = Client::connect(sluice.addr("web"));
        for named in ["x-copy-to: other\r\n", "x-copy-to: nowhere\r\n", "x-copy-to: \r\n", ""] {
            let request = format!("GET /one HTTP/1.1\r\nHost: a\r\n{named}\r\n");
            assert_eq!(client.ask(&request).status(), 200);
        }
        wait::until("the copy to end", || {
            (sluice.metric("sluice_cluster_mirrored_requests_total", "2xx") == 1).then_some(())
        });
        assert_eq!((origin.requests().len(), shadow.requests().len()), (4, 1), "{names}");
        let unnamed = |result: &str| sluice.metric("sluice_http_mirrors_unnamed_total", result);
        assert_eq!((unnamed("unknown"), unnamed("missing")), (2, 1), "{names}");
    }
}

#[test]
fn a_connection_ends_at_its_age() {
    let origin = Origin::start("a");
    let age = ", max_age: 2s, max_age_jitter: 0%";
    let sluice = start(&web(age, "", &origin, &origin));
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("a", "/").status(), 200);
    assert!(client.rest().is_empty(), "the connection is closed without a further byte");
    let record = sluice.record("the connection", |record| record["kind"] == "connection");
    assert_eq!(record["reason"], "end.done", "{record}");
    assert!(record["detail"].as_str().unwrap().contains("max_age"), "{record}");
}

#[test]
fn trusted_clients_set_retries_with_the_headers_of_envoy() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let flaky = "GET /flaky/2 HTTP/1.1\r\nHost: a\r\nx-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 3\r\n\r\n";
    for (rule, status) in
        [("", 503), (", envoy_headers: true, attempt_count: [request, response]", 200)]
    {
        let sluice = start(&web("", rule, &a, &b));
        let response = Client::connect(sluice.addr("web")).ask(flaky);
        assert_eq!(response.status(), status);
        if status == 200 {
            assert_eq!(response.value("x-envoy-attempt-count"), "2", "{}", response.head);
            let last = a.requests().pop().unwrap();
            assert_eq!(last.value("x-envoy-attempt-count"), "2");
            assert!(!last.head.contains("x-envoy-retry-on"), "{}", last.head);
        }
    }
}

#[test]
fn an_http2_connection_lets_its_streams_finish_at_its_age() {
    let origin = Origin::start("a");
    let age = ", max_age: 2s, max_age_jitter: 0%, delayed_close: 0s";
    let sluice = start(&web(age, "", &origin, &origin));
    let mut client = H2::connect(sluice.addr("web"));
    client.headers(1, &frames::get("a", "/wait"), true);
    wait::until("the request to arrive", || (!origin.requests().is_empty()).then_some(()));
    let goaway = client.until("a GOAWAY", |frame| frame.kind == kind::GOAWAY);
    assert_eq!(goaway.code(), 0);
    origin.release();
    assert_eq!(client.body(1), b"waited\n");
    while client.read().is_some() {}
    let record = sluice.record("the connection", |record| record["kind"] == "connection");
    assert_eq!(record["reason"], "end.done", "{record}");
}

#[test]
fn a_redirect_of_an_endpoint_is_followed() {
    // It redirects the paths of its rule to those of the other one.
    let (origin, other) = (Origin::start("a"), Origin::start("b"));
    let yaml = format!(
        "listeners:\n\
         - {{ name: web, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: old, address: 127.0.0.1:0, http: moved }}\n\
         routes:\n\
         \x20 main:\n\
         \x20   - rules:\n\
         \x20       - {{ match: {{ path: /old/* }}, cluster: up, follow_redirects: true, rewrite: {{ replace_prefix: /old, originals: path }} }}\n\
         \x20       - {{ name: new, match: {{ path: /new/* }}, cluster: other }}\n\
         \x20 moved: [{{ redirect: {{ replace_prefix: /new, status: 302 }}, match: {{ path: /old/* }} }}]\n\
         clusters: {{ up: \"{}\", other: \"{}\" }}\n",
        origin.addr(),
        other.addr()
    );
    // The first cluster is this process itself, which redirects.
    let sluice = start(&yaml);
    let moved = yaml
        .replace(&format!("up: \"{}\"", origin.addr()), &format!("up: \"{}\"", sluice.addr("old")));
    assert_eq!(sluice.reload(&moved), "applied");
    let response = Client::connect(sluice.addr("web")).get("a", "/old/x?y");
    assert_eq!((response.status(), response.value("x-origin")), (200, "b"));
    let seen = other.requests().pop().unwrap();
    assert_eq!(seen.path(), "/new/x?y");
    assert!(seen.values("x-envoy-original-path").is_empty(), "it is of the rule before");
    let record = sluice.record("the request", |record| record["route_name"] == "new");
    let attempts = record["upstream_hosts_attempted"].to_string();
    assert!(attempts.contains("status 302, followed"), "{record}");
}
