//! Routes, filters and the router: where requests go, and what happens on the way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::{RefusingPort, Server};
use sluice_testkit::{Authority, Origin, Sluice, files, http, tools, wait};

fn get(sluice: &sluice_testkit::Running, host: &str, path: &str) -> origin::Message {
    origin::get(sluice.addr("web"), host, path)
}

/// Starts a Sluice that may have unused clusters.
fn start(yaml: &str) -> sluice_testkit::Running {
    Sluice::new().expect_warning("is not used").start(yaml)
}

/// A configuration with the clusters `a` and `b`.
fn web(a: &Origin, b: &Origin, filters: &str, routes: &str) -> String {
    format!(
        "admin: {{ address: 127.0.0.1:0, writable: true }}\n\
         listeners:\n  - {{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{filters}] }} }}\n\
         routes:\n  main:\n{routes}\n\
         clusters:\n  a: {{ endpoints: [\"{}\"] }}\n  b: {{ endpoints: [\"{}\"] }}\n",
        a.addr(),
        b.addr()
    )
}

#[test]
fn rules_match_on_every_attribute_and_the_first_wins() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(&web(
        &a,
        &b,
        "",
        r#"
    - hosts: [shop.test, "*.shop.test"]
      rules:
        - { match: { path: /exact }, cluster: b }
        - { match: { path: /below/*, method: [POST, PUT] }, cluster: b }
        - { match: { path: { regex: "/v[0-9]+/.*" } }, cluster: b }
        - { match: { path: { template: "/users/{id}/cart" } }, cluster: b }
        - { match: { path: /h, headers: { x-tier: gold, x-off: { present: false } } }, cluster: b }
        - { match: { path: /q, query: { kind: { prefix: be } } }, cluster: b }
        - { match: { path: /c, cookies: { who: { regex: "b+" } } }, cluster: b }
        - { match: { path: /t, content_type: application/json }, cluster: b }
        - { match: { path: /s, source: 127.0.0.0/8 }, cluster: b }
        - { match: { path: /s2, source: 127.0.0.0/32 }, cluster: b }
        - { match: { path: /* }, cluster: a }
    - hosts: "*"
      rules: [{ match: { path: /by-header }, cluster_header: x-cluster }]
"#,
    ));
    let to = |request: &str| {
        Client::connect(sluice.addr("web")).ask(request).value("x-origin").to_owned()
    };
    let line = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: shop.test\r\n{more}\r\n");
    for (request, origin) in [
        (line("GET /exact", ""), "b"),
        (line("GET /exact/", ""), "a"),
        (line("POST /below/x", "Content-Length: 0\r\n"), "b"),
        (line("GET /below/x", ""), "a"),
        (line("POST /belowx", "Content-Length: 0\r\n"), "a"),
        (line("GET /v12/x", ""), "b"),
        // A regex matches the full path.
        (line("GET /x/v12/x", ""), "a"),
        (line("GET /users/7/cart", ""), "b"),
        (line("GET /users/7/8/cart", ""), "a"),
        (line("GET /h", "X-Tier: gold\r\n"), "b"),
        (line("GET /h", "X-Tier: gold\r\nX-Off: 1\r\n"), "a"),
        (line("GET /q?kind=best", ""), "b"),
        (line("GET /q?kind=worst", ""), "a"),
        (line("GET /c", "Cookie: x=1; who=bbb\r\n"), "b"),
        (line("GET /c", "Cookie: who=bba\r\n"), "a"),
        (line("GET /t", "Content-Type: Application/JSON; charset=utf-8\r\n"), "b"),
        (line("GET /s", ""), "b"),
        (line("GET /s2", ""), "a"),
        ("GET / HTTP/1.1\r\nHost: X.Shop.Test:81\r\n\r\n".into(), "a"),
        ("GET /by-header HTTP/1.1\r\nHost: other\r\nX-Cluster: b\r\n\r\n".into(), "b"),
    ] {
        assert_eq!(to(&request), origin, "{request}");
    }
    assert_eq!(get(&sluice, "other", "/").status(), 404);
    sluice.record_of("route.unmatched");
    assert_eq!(get(&sluice, "other", "/by-header").status(), 503);
    sluice.record_of("cluster.unknown");
}

#[test]
fn redirects_fixed_responses_and_rewrites() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(&web(
        &a,
        &b,
        "",
        r#"
    - hosts: "*"
      rules:
        - { match: { path: /old/* }, redirect: { replace_prefix: /new, status: 308 } }
        - { match: { path: /secure }, redirect: { scheme: https, strip_query: true } }
        - { match: { path: /hello }, respond: { status: 201, body: "from %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% to %REQ(:PATH)%" } }
        - { match: { path: /api/* }, rewrite: { replace_prefix: /echo, host: inner.test }, cluster: a }
        - { match: { path: /re/* }, rewrite: { regex: { find: "^/re/([a-z]+)/", replace: "/echo/$1-" }, host_of_endpoint: true }, cluster: b }
"#,
    ));
    let answer = get(&sluice, "a.test:8080", "/old/x?y=1");
    assert_eq!((answer.status(), answer.value("location")), (308, "http://a.test:8080/new/x?y=1"));
    assert_eq!(get(&sluice, "a.test:8080", "/secure?y").value("location"), "https://a.test/secure");
    let answer = get(&sluice, "a", "/hello?x");
    assert_eq!((answer.status(), answer.text().as_str()), (201, "from 127.0.0.1 to /hello?x"));
    assert_eq!(get(&sluice, "a", "/api/x?y=1").status(), 200);
    let seen = a.requests().pop().unwrap();
    assert_eq!((seen.path(), seen.value("host")), ("/echo/x?y=1", "inner.test"));
    assert_eq!(get(&sluice, "a", "/re/abc/d").status(), 200);
    let seen = b.requests().pop().unwrap();
    assert_eq!((seen.path(), seen.value("host")), ("/echo/abc-d", b.addr().to_string().as_str()));
    let record = sluice.record("the rewritten", |record| record["path"] == "/api/x?y=1");
    assert_eq!(record["route_name"], "*/3");
}

#[test]
fn a_split_follows_its_weights_and_a_runtime_value_overrides_it() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(&web(
        &a,
        &b,
        "",
        r#"
    - hosts: "*"
      rules: [{ split: { a: 100, b: { weight: 0, runtime: shop.canary } } }]
"#,
    ));
    let mut client = Client::connect(sluice.addr("web"));
    assert!((0..20).all(|_| client.get("x", "/").value("x-origin") == "a"));
    let set = |query: &str| {
        http::request(sluice.admin_addr(), "POST", &format!("/runtime?{query}")).unwrap()
    };
    assert_eq!(set("key=shop.canary&value=100000000").0, 200);
    assert!((0..20).all(|_| client.get("x", "/").value("x-origin") == "b"));
    assert_eq!(sluice.items("/runtime")[0]["origin"], "admin");
    assert_eq!(set("key=shop.canary").0, 200);
    assert_eq!(client.get("x", "/").value("x-origin"), "a");
}

#[test]
fn a_runtime_value_overrides_a_limit_while_it_is_set() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let filters = "rate_limit: { requests: 1000/m, burst: 1000, runtime: shop.rate }";
    let sluice = start(&web(
        &a,
        &b,
        "",
        &format!(
            r#"
    - hosts: "*"
      rules: [{{ cluster: a, filters: {{ {filters} }} }}]
"#
        ),
    ));
    let set = |query: &str| {
        let path = format!("/runtime?{query}");
        assert_eq!(http::request(sluice.admin_addr(), "POST", &path).unwrap().0, 200);
    };
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("x", "/").status(), 200);
    // At zero nothing passes, whatever the bucket contains.
    set("key=shop.rate&value=0");
    let refused = client.get("x", "/");
    assert_eq!((refused.status(), refused.value("retry-after")), (429, "61"));
    set("key=shop.rate&value=2000");
    assert_eq!(client.get("x", "/").status(), 200);
    set("key=shop.rate");
    assert_eq!(client.get("x", "/").status(), 200);
}

#[test]
fn requests_at_a_removed_endpoint_follow_the_cluster_policy() {
    for (policy, retried) in [("close", false), ("{ drain: 50ms }", true), ("keep", false)] {
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let attempts = if retried { 2 } else { 1 };
        let to = |origin: &Origin| {
            format!(
                "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
                 routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up, retry: {{ attempts: {attempts}, when: reset }} }}] }}] }}\n\
                 clusters: {{ up: {{ endpoints: [\"{}\"], on_endpoint_removed: {policy} }} }}\n",
                origin.addr()
            )
        };
        let sluice = start(&to(&a));
        let mut client = Client::connect(sluice.addr("web"));
        client.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n");
        wait::until("the request to arrive", || (!a.requests().is_empty()).then_some(()));
        // The new endpoint does not keep the request waiting.
        b.release();
        assert_eq!(sluice.reload(&to(&b)), "applied");
        match policy {
            "keep" => {
                a.release();
                assert_eq!(client.read().value("x-origin"), "a");
            }
            _ if retried => {
                assert_eq!(client.read().value("x-origin"), "b");
                let record = sluice.record("the request", |record| record["kind"] == "request");
                let tried = record["upstream_hosts_attempted"].to_string();
                assert!(tried.contains("end.endpoint_removed"), "{record}");
            }
            _ => {
                assert_eq!(client.read().status(), 503);
                sluice.record_of("end.endpoint_removed");
            }
        }
        a.release();
    }
}

#[test]
fn paths_are_normalised_before_matching() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(&web(
        &a,
        &b,
        "",
        r#"
    - hosts: "*"
      rules:
        - { match: { path: /admin/* }, respond: { status: 403 } }
        - { cluster: a }
"#,
    ));
    for path in ["/admin/x", "/x/../admin/x", "/%61dmin/x", "/./admin", "/x/%2e%2e/admin"] {
        assert_eq!(get(&sluice, "a", path).status(), 403, "{path}");
    }
    for path in ["/../x", "/%", "/%00"] {
        assert_eq!(get(&sluice, "a", path).status(), 400, "{path}");
    }
}

#[test]
fn filters_of_a_chain_combine_with_settings_of_a_rule() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let filters = r#"request_id: { respond: true }, health_check: {}, buffer: { max: 1KiB }, set_headers: { response: { x-edge: "1" } }"#;
    let filters = filters.split("}, ").collect::<Vec<_>>();
    let filters = filters.iter().enumerate().map(|(place, filter)| {
        let end = if place + 1 < filters.len() { "}" } else { "" };
        format!("{{ {filter}{end} }}")
    });
    let filters = filters.collect::<Vec<_>>().join(", ");
    let sluice = start(&web(
        &a,
        &b,
        &filters,
        r#"
    - hosts: "*"
      rules:
        - match: { path: /free/* }
          cluster: a
          filters:
            buffer: skip
            set_headers: { request: { x-from: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" }, remove_response: x-origin }
        - match: { path: /limited }
          cluster: a
          filters: { rate_limit: { requests: 1/h, burst: 2, per: "header:x-user" } }
        - { match: { path: /pages/* }, cluster: a, filters: { error_pages: { pages: { 5xx: "sorry: %RESPONSE_CODE%" }, upstream: true } } }
        - { match: { path: /small/* }, cluster: a, filters: { body_max: 10 } }
        - { cluster: a }
"#,
    ));
    let answer = get(&sluice, "a", "/echo");
    assert_eq!((answer.value("x-edge"), answer.value("x-request-id").len()), ("1", 36));
    assert_eq!(a.requests().pop().unwrap().value("x-request-id"), answer.value("x-request-id"));
    assert_eq!(get(&sluice, "a", "/healthz").text(), "ok\n");

    let put = |path: &str, body: &str| {
        let length = body.len();
        Client::connect(sluice.addr("web")).ask(&format!(
            "PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    };
    let chunked = |path: &str, body: &str| {
        let size = body.len();
        Client::connect(sluice.addr("web")).ask(&format!(
            "PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
        ))
    };
    // A buffered body is forwarded with a length; one that is too large is not forwarded.
    assert_eq!(chunked("/echo", "abc").status(), 200);
    assert_eq!(a.requests().pop().unwrap().value("content-length"), "3");
    let large = "x".repeat(2000);
    let before = a.requests().len();
    assert_eq!((put("/echo", &large).status(), chunked("/echo", &large).status()), (413, 413));
    assert_eq!(a.requests().len(), before);
    assert_eq!(put("/free/echo", &large).status(), 200);
    assert_eq!(a.requests().pop().unwrap().value("x-from"), "127.0.0.1");
    assert_eq!(get(&sluice, "a", "/free/x").value("x-origin"), "");
    assert_eq!(
        (put("/small/x", "0123456789").status(), chunked("/small/x", "0123456789a").status()),
        (200, 413)
    );

    let limited = |user: &str| {
        let request = format!("GET /limited HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n");
        Client::connect(sluice.addr("web")).ask(&request)
    };
    assert_eq!((limited("one").status(), limited("one").status()), (200, 200));
    let refused = limited("one");
    assert_eq!(refused.status(), 429);
    assert!(refused.value("retry-after").parse::<u64>().unwrap() > 3000);
    assert_eq!(limited("two").status(), 200);
    sluice.record_of("http.rate");

    assert_eq!(get(&sluice, "a", "/pages/x").status(), 200);
    let answer = get(&sluice, "a", "/status/503");
    assert_eq!(answer.text(), "status\n");
}

#[test]
fn error_pages_replace_error_responses() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let filters = r#"{ error_pages: { pages: { 503: "sorry %RESPONSE_CODE%", 4xx: "no" } } }"#;
    let sluice = start(&web(
        &a,
        &b,
        filters,
        r#"
    - hosts: "*"
      rules: [{ match: { path: /reset }, cluster: a }]
"#,
    ));
    let answer = get(&sluice, "a", "/reset");
    assert_eq!((answer.status(), answer.text().as_str()), (503, "sorry 503"));
    assert_eq!(answer.value("content-type"), "text/html; charset=utf-8");
    assert_eq!(get(&sluice, "a", "/none").text(), "no");
    sluice.record_of("upstream.reset");
}

#[test]
fn error_pages_keep_headers_that_do_not_describe_the_body() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let filters = r#"{ error_pages: { pages: { 503: "sorry", 429: "slow down" }, upstream: true } }, { set_headers: { response: { x-frame-options: DENY, etag: '"1"' } } }, { rate_limit: { requests: 1/h } }"#;
    let sluice = start(&web(&a, &b, filters, "    - rules: [{ cluster: a }]"));
    let of_endpoint = get(&sluice, "a", "/status/503");
    assert_eq!((of_endpoint.status(), of_endpoint.text().as_str()), (503, "sorry"));
    let own = get(&sluice, "a", "/");
    assert_eq!((own.status(), own.text().as_str()), (429, "slow down"));
    assert_eq!(of_endpoint.value("x-origin"), "a");
    assert!(own.value("retry-after").parse::<u64>().unwrap() > 3000);
    for answer in [of_endpoint, own] {
        assert_eq!((answer.value("x-frame-options"), answer.value("etag")), ("DENY", ""));
        assert_eq!(answer.value("content-type"), "text/html; charset=utf-8");
    }
}

#[test]
fn error_pages_come_from_files_and_may_change_the_status_or_redirect() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let kit = Sluice::new().watching().expect_warning("`b` is not used");
    let write = |name: &str, text: &str| std::fs::write(kit.folder().join(name), text).unwrap();
    write("sorry.html", "100% sorry");
    write("none.json", "{\"path\":\"%PATH%\",\"reason\":\"%REASON%\"}");
    let filters = r#"{ error_pages: { upstream: true, pages: {
        5xx: { body_file: sorry.html, headers: { x-page: "%RESPONSE_CODE%", retry-after: "9" } },
        404: { body_file: none.json, operators: true, content_type: application/json, status: 410 },
        401: { redirect: "https://login.test/?from=%REQ(:PATH)%" },
        403: { redirect: "//evil.test%PATH%", status: 307 },
        429: { status: 503 } } } }"#;
    let sluice = kit.start(&web(&a, &b, filters, "    - rules: [{ cluster: a }]"));
    let sorry = get(&sluice, "a", "/status/502");
    assert_eq!((sorry.status(), sorry.text().as_str()), (502, "100% sorry"));
    assert_eq!((sorry.value("x-page"), sorry.values("retry-after")), ("502", vec!["9"]));
    let none = get(&sluice, "a", "/status/404");
    assert_eq!(none.status(), 410);
    assert_eq!(none.text(), "{\"path\":\"/status/404\",\"reason\":\"-\"}");
    assert_eq!(none.value("content-type"), "application/json");
    let login = get(&sluice, "a", "/status/401");
    assert_eq!((login.status(), login.text().as_str()), (302, ""));
    assert_eq!(login.value("location"), "https://login.test/?from=/status/401");
    let own = get(&sluice, "a", "/status/403");
    assert_eq!((own.status(), own.value("location")), (307, "/evil.test/status/403"));
    let busy = get(&sluice, "a", "/status/429");
    assert_eq!((busy.status(), busy.text().as_str()), (503, ""));
    // A file is read again when it changes; one that cannot be used leaves the last in place.
    files::place(&sluice.folder().join("sorry.html"), "back at noon");
    wait::until("the new page", || {
        (get(&sluice, "a", "/status/500").text() == "back at noon").then_some(())
    });
}

#[test]
fn a_session_keeps_its_cluster_of_a_split() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let rule = r#"
    - hosts: "*"
      rules: [{ split: { a: { weight: 50, runtime: share-a }, b: { weight: 50, runtime: share-b } } }]
"#;
    let kit = Sluice::new().expect_warning("without a key");
    let sluice = kit.start(&web(&a, &b, "{ sticky: { header: x-server } }", rule));
    let first = get(&sluice, "a", "/");
    let (server, origin) = (first.value("x-server").to_owned(), first.value("x-origin").to_owned());
    let again = || {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Server: {server}\r\n\r\n");
        Client::connect(sluice.addr("web")).ask(&request).value("x-origin").to_owned()
    };
    assert!((0..30).all(|_| again() == origin));
    // A cluster that is to get no traffic any more loses its sessions too.
    let query = format!("/runtime?key=share-{origin}&value=0");
    assert_eq!(http::request(sluice.admin_addr(), "POST", &query).unwrap().0, 200);
    assert!((0..10).all(|_| again() != origin));
}

#[test]
fn a_request_by_server_name_is_tried_in_the_chain_that_takes_it() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("cert", &["web.test"]);
    let sluice = kit.start(
        r#"
admin: { address: 127.0.0.1:0 }
listeners:
  - name: edge
    address: 127.0.0.1:0
    chains:
      - { name: pass, match: { sni: pass.example.com }, relay: up }
      - { name: own, match: { sni: "*.own.example.com" }, tls: { cert: cert.pem, key: cert.key }, http: main }
      - { name: web, tls: cert.pem, http: main }
routes: { main: [{ rules: [{ cluster: up }] }] }
clusters: { up: { endpoints: [127.0.0.1:1] } }
"#,
    );
    let chains = |query: &str| -> Vec<(String, bool)> {
        let page = sluice.page(&format!("/try?host=a&format=json{query}")).1;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| (item["chain"].as_str().unwrap().to_owned(), item["rule"].is_string()))
            .collect()
    };
    let of = |name: &str, rule| vec![(name.to_owned(), rule)];
    assert_eq!(chains("&sni=Pass.example.com"), of("pass", false));
    assert_eq!(chains("&sni=a.own.example.com"), of("own", true));
    assert_eq!(chains("&sni=shop.example.com"), of("web", true));
    assert_eq!(chains("").len(), 2);
}

/// A configuration with one route to both origins.
fn both(a: &Origin, b: &Origin, cluster: &str, rule: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up{rule} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\", \"{}\"]{cluster} }} }}\n",
        a.addr(),
        b.addr()
    )
}

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
fn new_routes_apply_to_the_next_request_on_an_open_connection() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let to = |cluster: &str| {
        web(&a, &b, "", &format!("    - {{ hosts: \"*\", rules: [{{ cluster: {cluster} }}] }}"))
    };
    let sluice = Sluice::new().expect_warning("is not used").start(&to("a"));
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("x", "/").value("x-origin"), "a");
    assert_eq!(sluice.reload(&to("b")), "applied");
    assert_eq!(client.get("x", "/").value("x-origin"), "b");
}

#[test]
fn the_admin_pages_show_which_rule_a_request_would_match() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(&web(
        &a,
        &b,
        "{ request_id: {} }",
        r#"
    - hosts: shop.test
      rules:
        - { name: posts, match: { path: /x/*, method: POST }, cluster: a }
        - { name: rest, match: { path: /* }, cluster: b, filters: { request_id: skip, body_max: 1KiB } }
"#,
    ));
    let (status, page) = sluice.page("/try?host=shop.test&path=/x/y&format=json");
    assert_eq!(status, 200, "{page}");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let item = &page["items"][0];
    assert_eq!((&item["rule"], &item["cluster"]), (&"rest".into(), &"b".into()));
    assert_eq!(item["passed_over"][0]["rule"], "posts");
    assert_eq!(item["passed_over"][0]["does_not_fit"], "method");
    assert_eq!(item["filters"], serde_json::json!(["body_max"]));
    assert!(sluice.page("/try?host=other").1.contains("no virtual host"));
    assert_eq!(sluice.items("/routes")[0]["virtual_hosts"][0]["rules"][0]["name"], "posts");
    assert_eq!(sluice.page("/try?hots=x").0, 400);
    // Records and metrics use the same name for the rule.
    assert_eq!(get(&sluice, "shop.test", "/x/y").status(), 200);
    let record = sluice.record("the request", |record| record["path"] == "/x/y");
    assert_eq!(record["route_name"], "rest");
    assert_eq!(sluice.metric("sluice_route_requests_total", "route=\"rest\""), 1);
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

/// Clients must not notice a reload or a failing endpoint where a retry may hide it.
#[test]
fn reloads_under_load_lose_no_request() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let one = both(&a, &b, "", ", retry: { when: [reset], attempts: 3 }");
    let two = both(&a, &b, ", balance: random", ", retry: { when: [reset], attempts: 4 }");
    let sluice = Sluice::new().start(&one);
    let address = sluice.addr("web");
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let answer = client.get("a", "/bytes/100");
                    assert_eq!((answer.status(), answer.body.len()), (200, 100));
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for turn in 0..10 {
            sluice.reload(if turn % 2 == 0 { &two } else { &one });
            let before = served.load(Ordering::SeqCst);
            wait::until("requests between two reloads", || {
                (served.load(Ordering::SeqCst) > before + 40).then_some(())
            });
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn header_edits_of_chain_virtual_host_and_rule_add_up() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(&web(
        &a,
        &b,
        r#"{ set_headers: { response: { x-frame: deny, x-who: chain }, request: { x-a: chain }, remove_response: x-origin } }"#,
        r#"
    - hosts: a
      filters: { set_headers: { response: { x-who: host, x-host: "1" } } }
      rules:
        - match: { path: /adds }
          cluster: a
          filters: { set_headers: { response: { x-who: rule }, remove_response: x-host, request: { x-b: "%REQ(X-A)%" } } }
        - match: { path: /alone }
          cluster: a
          filters: { set_headers: { replace: true, response: { x-who: alone } } }
        - { match: { path: /none }, cluster: a, filters: { set_headers: skip } }
        - { cluster: a }
    - hosts: b
      filters: { set_headers: skip }
      rules:
        - { match: { path: /own }, cluster: a, filters: { set_headers: { response: { x-who: own } } } }
        - { cluster: a }
"#,
    ));
    let seen = |host: &str, path: &str| {
        let answer = get(&sluice, host, path);
        ["x-frame", "x-who", "x-host", "x-origin"]
            .map(|name| answer.value(name).to_owned())
            .join(",")
    };
    assert_eq!(seen("a", "/"), "deny,host,1,");
    assert_eq!(seen("a", "/adds"), "deny,rule,,");
    // Values are built from the request as received, whatever an outer layer has set.
    let request = a.requests().pop().unwrap();
    assert_eq!((request.value("x-a"), request.value("x-b")), ("chain", "-"));
    assert_eq!(seen("a", "/alone"), ",alone,,a");
    assert_eq!(seen("a", "/none"), ",,,a");
    assert_eq!(seen("b", "/"), ",,,a");
    assert_eq!(seen("b", "/own"), ",own,,a");
}

#[test]
fn the_rate_limit_state_of_a_rule_survives_a_reload() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let table = |first: &str| {
        web(
            &a,
            &b,
            "",
            &format!(
                "    - hosts: \"*\"\n      rules:\n{first}        - name: limited\n          match: {{ path: /limited }}\n          cluster: a\n          filters: {{ rate_limit: {{ requests: 1/h, burst: 1 }} }}\n        - {{ cluster: a }}\n"
            ),
        )
    };
    let sluice = start(&table(""));
    let status = || get(&sluice, "x", "/limited").status();
    assert_eq!((status(), status()), (200, 429));
    // Another rule with its own limit is inserted before it.
    let other = "        - { name: other, match: { path: /other }, cluster: a, filters: { rate_limit: { requests: 1/h, burst: 5 } } }\n";
    assert_eq!(sluice.reload(&table(other)), "applied");
    assert_eq!(status(), 429);
    assert_eq!(get(&sluice, "x", "/other").status(), 200);
}

#[test]
fn a_listener_redirects_everything_to_https() {
    let sluice = Sluice::new().start(
        "listeners:\n  - { name: plain, address: 127.0.0.1:0, redirect: https }\n  \
         - { name: moved, address: 127.0.0.1:0, redirect: \"https://b.test:8443\" }\n",
    );
    for (listener, method, target, expected) in [
        ("plain", "GET", "/a/b?c=d", "https://a.test/a/b?c=d"),
        ("plain", "POST", "/", "https://a.test/"),
        ("moved", "GET", "/a/b?c=d", "https://b.test:8443/a/b?c=d"),
    ] {
        let request =
            format!("{method} {target} HTTP/1.1\r\nhost: a.test:8080\r\ncontent-length: 0\r\n\r\n");
        let response = Client::connect(sluice.addr(listener)).ask(&request);
        assert_eq!((response.status(), response.value("location")), (308, expected));
    }
    let tables = sluice.items("/routes");
    let names: Vec<_> = tables.iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["moved.redirect", "plain.redirect"]);
    assert_eq!(tables[1]["virtual_hosts"][0]["rules"][0]["name"], "plain.redirect");
}
