//! What pages of other sites may do: the filters `cors` and `csrf`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Running, Sluice, wait};

fn start(origin: &Origin) -> Running {
    Sluice::new().start(&format!(
        "listeners:\n\
         \x20 - name: web\n\
         \x20   address: 127.0.0.1:0\n\
         \x20   http:\n\
         \x20     routes: main\n\
         \x20     filters:\n\
         \x20       - cors: {{ origins: [\"https://app.test\", \"https://*.app.test\"], methods: PUT, headers: x-a, expose: x-b, max_age: 10m, credentials: true }}\n\
         \x20       - csrf: {{ origins: \"https://app.test\" }}\n\
         routes:\n\
         \x20 main:\n\
         \x20   - hosts: \"*\"\n\
         \x20     rules:\n\
         \x20       - {{ match: {{ path: /open/* }}, cluster: up, filters: {{ cors: {{ origins: \"*\" }}, csrf: skip }} }}\n\
         \x20       - {{ match: {{ path: /bare/* }}, cluster: up, filters: {{ cors: skip }} }}\n\
         \x20       - {{ cluster: up }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ))
}

/// Sends a request with these headers.
fn ask(client: &mut Client, method: &str, path: &str, fields: &str) -> Message {
    client.ask(&format!("{method} {path} HTTP/1.1\r\nHost: api.test\r\n{fields}\r\n"))
}

#[test]
fn browsers_hear_what_the_route_allows() {
    let origin = Origin::start("o");
    let sluice = start(&origin);
    let mut client = Client::connect(sluice.addr("web"));
    let preflight = |client: &mut Client, path: &str, from: &str| {
        let fields = format!("Origin: {from}\r\nAccess-Control-Request-Method: PUT\r\n");
        ask(client, "OPTIONS", path, &fields)
    };
    let granted = preflight(&mut client, "/a", "https://x.app.test");
    assert_eq!(granted.status(), 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://x.app.test"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, HEAD, POST, PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "600"),
        ("vary", "origin"),
    ] {
        assert_eq!(granted.value(name), value, "{name}");
    }
    let refused = preflight(&mut client, "/a", "https://other.test");
    assert_eq!((refused.status(), refused.values("access-control-allow-origin").len()), (403, 0));
    assert_eq!(
        preflight(&mut client, "/open/a", "https://other.test")
            .value("access-control-allow-origin"),
        "*"
    );
    assert!(origin.requests().is_empty(), "no preflight request reaches an endpoint");
    // Without the filter it is a request as any other.
    assert_eq!(preflight(&mut client, "/bare/a", "https://other.test").status(), 200);
    assert_eq!(origin.requests().len(), 1);
    let read = |client: &mut Client, from: &str| {
        let response = ask(client, "GET", "/a", &format!("Origin: {from}\r\n"));
        assert_eq!((response.status(), response.value("vary")), (200, "origin"));
        let allowed = response.values("access-control-allow-origin").join("|");
        (allowed, response.values("access-control-expose-headers").join("|"))
    };
    assert_eq!(read(&mut client, "https://app.test"), ("https://app.test".into(), "x-b".into()));
    assert_eq!(read(&mut client, "https://other.test"), (String::new(), String::new()));
    drop(client);
    let record = sluice.record_of("http.denied");
    assert_eq!(record["response_code_details"], "cors_origin", "{record}");
    let counted = |result| {
        sluice
            .metric("sluice_cors_requests_total", &format!("listener=\"web\",result=\"{result}\""))
    };
    assert_eq!((counted("allowed"), counted("refused")), (3, 2));
}

#[test]
fn pages_of_other_sites_change_nothing() {
    let origin = Origin::start("o");
    let sluice = start(&origin);
    let mut client = Client::connect(sluice.addr("web"));
    for (method, path, fields, status) in [
        ("POST", "/a", "Origin: https://api.test\r\n", 200),
        ("POST", "/a", "Origin: https://app.test\r\n", 200),
        ("POST", "/a", "Referer: https://api.test/form\r\n", 200),
        ("POST", "/a", "Origin: https://x.app.test\r\n", 403),
        ("POST", "/a", "Origin: null\r\n", 403),
        ("POST", "/a", "", 403),
        ("GET", "/a", "Origin: https://other.test\r\n", 200),
        ("POST", "/open/a", "Origin: https://other.test\r\n", 200),
        (
            "GET",
            "/a",
            "Connection: upgrade\r\nUpgrade: websocket\r\nOrigin: https://other.test\r\n",
            403,
        ),
        // The rule is found by the path as it is forwarded.
        ("POST", "/open/../a", "Origin: https://other.test\r\n", 403),
    ] {
        let response = ask(&mut client, method, path, &format!("{fields}Content-Length: 0\r\n"));
        assert_eq!(response.status(), status, "{method} {path} {fields}");
    }
    drop(client);
    let counts = |details: &str| {
        let records = sluice.records();
        records.iter().filter(|record| record["response_code_details"] == details).count()
    };
    wait::until("the records", || {
        ((counts("csrf_origin"), counts("csrf_no_origin")) == (4, 1)).then_some(())
    });
}
