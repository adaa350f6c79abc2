//! Filters of chain, virtual host and rule: how they add up, and the pages of errors.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Sluice, files, http, wait};

use crate::http_routes::{get, start, web};

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
