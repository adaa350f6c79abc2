//! Routes and the router: where requests go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::origin::{self, Client};
use sluice_testkit::{Authority, Origin, Sluice, http, tools, wait};

pub(crate) fn get(sluice: &sluice_testkit::Running, host: &str, path: &str) -> origin::Message {
    origin::get(sluice.addr("web"), host, path)
}

/// Starts a Sluice that may have unused clusters.
pub(crate) fn start(yaml: &str) -> sluice_testkit::Running {
    Sluice::new().expect_warning("is not used").start(yaml)
}

/// A configuration with the clusters `a` and `b`.
pub(crate) fn web(a: &Origin, b: &Origin, filters: &str, routes: &str) -> String {
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
pub(crate) fn both(a: &Origin, b: &Origin, cluster: &str, rule: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up{rule} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\", \"{}\"]{cluster} }} }}\n",
        a.addr(),
        b.addr()
    )
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
