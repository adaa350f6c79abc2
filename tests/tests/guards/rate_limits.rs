//! Limits on the rate of requests: by which parts, of which share, and what clients hear of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Running, Sluice};

fn start(origin: &Origin, limits: &str) -> Running {
    Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, trusted_hops: 1, filters: [{{ rate_limit: {limits} }}] }} }}]\n\
         routes: {{ main: {{ cluster: up }} }}\nclusters: {{ up: \"{}\" }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", shadow: \"%VALUE(rate_limit.shadow)%\" }} }} }}]\n",
        origin.addr()
    ))
}

fn ask(sluice: &Running, method: &str, path: &str, fields: &str) -> Message {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    Client::connect(sluice.addr("web")).ask(&request)
}

#[test]
fn requests_share_a_bucket_by_the_parts_that_the_limit_names() {
    // Of each pair, the second request is in the bucket of the first or not.
    for (per, first, second, shared) in [
        ("all", ("GET", "/a", ""), ("PUT", "/b", "X-A: 1\r\n"), true),
        ("\"header:x-user\"", ("GET", "/", "X-User: a\r\n"), ("GET", "/", "X-User: b\r\n"), false),
        ("\"header:x-user\"", ("GET", "/", "X-User: a\r\n"), ("GET", "/x", "x-user: a\r\n"), true),
        ("\"header:x-user\"", ("GET", "/", ""), ("GET", "/x", ""), true),
        (
            "\"cookie:s\"",
            ("GET", "/", "Cookie: a=1; s=x\r\n"),
            ("GET", "/", "Cookie: s=x; b=2\r\n"),
            true,
        ),
        ("\"cookie:s\"", ("GET", "/", "Cookie: s=x\r\n"), ("GET", "/", "Cookie: s=y\r\n"), false),
        ("path", ("GET", "/a/b?x=1", ""), ("GET", "/a/./b?y=2", ""), true),
        ("path", ("GET", "/a/b", ""), ("GET", "/a/c", ""), false),
        ("path/1", ("GET", "/a/b", ""), ("GET", "/a/c", ""), true),
        ("method", ("GET", "/", ""), ("OPTIONS", "/", ""), false),
        (
            "source_ip",
            ("GET", "/", "X-Forwarded-For: 10.0.0.1\r\n"),
            ("GET", "/", "X-Forwarded-For: 10.0.0.2\r\n"),
            false,
        ),
        (
            "source_ip",
            ("GET", "/", "X-Forwarded-For: 2001:db8::1\r\n"),
            ("GET", "/", "X-Forwarded-For: 2001:db8::2\r\n"),
            true,
        ),
        (
            "source_ip/24",
            ("GET", "/", "X-Forwarded-For: 10.0.0.1\r\n"),
            ("GET", "/", "X-Forwarded-For: 10.0.0.2\r\n"),
            true,
        ),
        (
            "source_ip/24/48",
            ("GET", "/", "X-Forwarded-For: 2001:db8:0:1::1\r\n"),
            ("GET", "/", "X-Forwarded-For: 2001:db8:0:2::1\r\n"),
            true,
        ),
        (
            "[\"header:x-user\", path]",
            ("GET", "/a", "X-User: a\r\n"),
            ("GET", "/a", "X-User: a\r\n"),
            true,
        ),
        (
            "[\"header:x-user\", path]",
            ("GET", "/a", "X-User: a\r\n"),
            ("GET", "/b", "X-User: a\r\n"),
            false,
        ),
        (
            "[\"header:x-user\", path]",
            ("GET", "/a", "X-User: a\r\n"),
            ("GET", "/a", "X-User: b\r\n"),
            false,
        ),
    ] {
        let origin = Origin::start("o");
        let sluice = start(&origin, &format!("{{ requests: 1/d, per: {per} }}"));
        let (method, path, fields) = first;
        assert_eq!(ask(&sluice, method, path, fields).status(), 200, "{per} {first:?}");
        let (method, path, fields) = second;
        let status = if shared { 429 } else { 200 };
        assert_eq!(ask(&sluice, method, path, fields).status(), status, "{per} {second:?}");
    }
}

#[test]
fn several_limits_hold_and_clients_hear_of_them() {
    let origin = Origin::start("o");
    let sluice = start(
        &origin,
        "[{ requests: 3/h, per: \"header:x-user\", fields: true }, { name: everybody, requests: 4/d, fields: true }]",
    );
    let ask = |user: &str| ask(&sluice, "GET", "/", &format!("X-User: {user}\r\n"));
    let first = ask("ann");
    assert_eq!(
        first.value("ratelimit-policy"),
        "\"header:x-user\";q=3;w=3600, \"everybody\";q=4;w=86400"
    );
    assert!(first.value("ratelimit").starts_with("\"header:x-user\";r=2;t="), "{first:?}");
    assert!(first.value("ratelimit").contains("\"everybody\";r=3;t="), "{first:?}");
    assert_eq!([ask("ann"), ask("ann")].map(|message| message.status()), [200, 200]);
    let refused = ask("ann");
    assert_eq!(refused.status(), 429);
    assert!(refused.value("ratelimit").starts_with("\"header:x-user\";r=0;t="), "{refused:?}");
    let wait: u64 = refused.value("retry-after").parse().unwrap();
    assert!((1000..=1201).contains(&wait), "{wait}");
    assert_eq!([ask("bob"), ask("eve")].map(|message| message.status()), [200, 429]);
    assert_eq!(origin.requests().len(), 4);
    sluice.record_of("http.rate");
}

#[test]
fn a_limit_may_be_tried_out_before_it_is_enforced() {
    let origin = Origin::start("o");
    let sluice = start(&origin, "{ name: trial, requests: 1/h, enforce: 0% }");
    assert_eq!(["/1", "/2", "/3"].map(|path| ask(&sluice, "GET", path, "").status()), [200; 3]);
    let labels = "listener=\"web\",limit=\"trial\"";
    assert_eq!(sluice.metric("sluice_http_rate_limit_shadowed_total", labels), 2);
    let record = |path: &str| sluice.record(path, |record| record["path"] == path);
    assert!(record("/1")["shadow"].is_null());
    assert_eq!(record("/2")["shadow"], "trial");
}
