//! What rules and virtual hosts go by (paths in any case, the client's connection, TLS), and what they make of hosts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::Server;
use sluice_testkit::tls::Offer;
use sluice_testkit::{Authority, Origin, Running, Sluice, tools};

/// Starts a Sluice with these routes, in front of the clusters `a` and `b`; its listener `tls` has the names shop.test
/// and other.test, its listener `plain` believes a proxy in front.
fn start(a: &Origin, b: &Origin, routes: &str) -> Running {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["shop.test", "other.test"]);
    kit.start(&format!(
        "admin: {{ address: 127.0.0.1:0 }}\n\
         listeners:\n\
         - {{ name: plain, address: 127.0.0.1:0, http: {{ routes: main, trusted_hops: 1 }} }}\n\
         - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: main }}\n\
         routes:\n  main:\n{routes}\n\
         clusters:\n  a: {{ endpoints: [\"{}\"] }}\n  b: {{ endpoints: [\"{}\"] }}\n",
        a.addr(),
        b.addr()
    ))
}

/// The response to a GET over TLS with this server name.
fn over_tls(sluice: &Running, name: &str, host: &str, path: &str) -> origin::Message {
    let ca = sluice.folder().join("ca.pem");
    let mut stream = Offer::of(name, &ca).connect(sluice.addr("tls"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    origin::read_message(&mut std::io::BufReader::new(stream), false).unwrap()
}

#[test]
fn paths_match_in_any_case_where_the_rule_says_so() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(
        &a,
        &b,
        r#"
    - hosts: "*"
      rules:
        - { match: { path: /Exact, case_sensitive: false }, cluster: b }
        - { match: { path: /Below/*, case_sensitive: false }, rewrite: { replace_prefix: /x }, cluster: b }
        - { match: { path: { starts_with: /Start }, case_sensitive: false }, cluster: b }
        - { match: { path: { template: "/Users/{id}/Cart" }, case_sensitive: false }, cluster: b }
        - { match: { path: /Strict }, cluster: b }
        - { cluster: a }
"#,
    );
    let get =
        |path: &str| origin::get(sluice.addr("plain"), "a", path).value("x-origin").to_owned();
    for (path, origin) in [
        ("/Exact", "b"),
        ("/eXACT", "b"),
        ("/exact/", "a"),
        ("/below", "b"),
        ("/BELOW/x", "b"),
        ("/belowx", "a"),
        ("/startled", "b"),
        ("/users/A/cart", "b"),
        ("/users//cart", "a"),
        ("/Strict", "b"),
        ("/strict", "a"),
    ] {
        assert_eq!(get(path), origin, "{path}");
    }
    assert_eq!(get("/BELOW/Y?q=Z"), "b");
    assert_eq!(b.requests().pop().unwrap().path(), "/x/Y?q=Z", "what was matched is replaced");
}

#[test]
fn rules_match_on_the_connection() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(
        &a,
        &b,
        r#"
    - hosts: "*"
      rules:
        - { name: named, match: { path: /sni, sni: ["shop.test", "*.shop.test"] }, cluster: b }
        - { name: encrypted, match: { path: /tls, tls: true }, cluster: b }
        - { name: clear, match: { path: /clear, tls: false }, cluster: b }
        - { name: second, match: { path: /version, version: [http2, http3] }, cluster: b }
        - { name: rest, cluster: a }
"#,
    );
    for (path, plain, shop, other) in
        [("/sni", "a", "b", "a"), ("/tls", "a", "b", "b"), ("/clear", "b", "a", "a")]
    {
        let to = origin::get(sluice.addr("plain"), "shop.test", path);
        assert_eq!(to.value("x-origin"), plain, "{path}");
        let to = over_tls(&sluice, "shop.test", "other.test", path);
        assert_eq!(to.value("x-origin"), shop, "{path}");
        let to = over_tls(&sluice, "other.test", "shop.test", path);
        assert_eq!(to.value("x-origin"), other, "{path}");
    }
    assert_eq!(origin::get(sluice.addr("plain"), "a", "/version").value("x-origin"), "a");
    if tools::have(&["curl"]) {
        let mut curl = tools::command("curl");
        curl.args(["-sS", "-D-", "-o", "/dev/null", "--http2-prior-knowledge"]);
        let said = tools::must(curl.arg(format!("http://{}/version", sluice.addr("plain"))));
        assert!(said.contains("x-origin: b"), "{said}");
    }
    // A chain that terminates TLS is asked about over TLS, unless the question says otherwise.
    let rule = |listener: &str, more: &str| {
        let question = format!("/try?listener={listener}&host=a&format=json&{more}");
        let (status, page) = sluice.page(&question);
        assert_eq!(status, 200, "{page}");
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        page["items"][0]["rule"].as_str().unwrap().to_owned()
    };
    for (listener, more, expected) in [
        ("plain", "path=/tls", "rest"),
        ("tls", "path=/tls", "encrypted"),
        ("tls", "path=/tls&tls=false", "rest"),
        ("plain", "path=/sni&sni=X.shop.test", "named"),
        ("tls", "path=/sni&sni=other.test", "rest"),
        ("tls", "path=/version&version=http3", "second"),
    ] {
        assert_eq!(rule(listener, more), expected, "{listener} {more}");
    }
    for wrong in ["tls=maybe", "version=2"] {
        assert_eq!(sluice.page(&format!("/try?host=a&{wrong}")).0, 400, "{wrong}");
    }
}

#[test]
fn virtual_hosts_require_tls() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(
        &a,
        &b,
        r#"
    - { hosts: shop.test, require_tls: all, rules: [{ match: { path: /* }, cluster: a }] }
    - { hosts: other.test, require_tls: external, rules: [{ match: { path: /x }, cluster: b }] }
"#,
    );
    let ask = |host: &str, path: &str, more: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
        Client::connect(sluice.addr("plain")).ask(&request)
    };
    let said = ask("shop.test:8080", "/x?y=1", "");
    assert_eq!((said.status(), said.value("location")), (301, "https://shop.test/x?y=1"));
    assert_eq!(over_tls(&sluice, "shop.test", "shop.test", "/x").status(), 200);
    // A proxy in front that is trusted tells what the client used, and where it is.
    assert_eq!(ask("shop.test", "/", "X-Forwarded-Proto: https\r\n").status(), 200);
    for (source, status) in [("192.0.2.7", 301), ("10.1.2.3", 200), ("unknown", 301)] {
        let said = ask("other.test", "/x", &format!("X-Forwarded-For: {source}\r\n"));
        assert_eq!(said.status(), status, "{source}");
    }
    // Whichever rule it matches, and if it matches none.
    let said = ask("other.test", "/none", "X-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!((said.status(), said.value("location")), (301, "https://other.test/none"));
    assert_eq!(ask("other.test", "/none", "").status(), 404);
    assert_eq!(sluice.items("/routes")[0]["virtual_hosts"][1]["require_tls"], "external");
    let page = sluice.page("/try?listener=plain&host=shop.test").1;
    assert!(page.contains("requires TLS"), "{page}");
    assert!(!sluice.page("/try?listener=tls&host=shop.test").1.contains("requires TLS"));
    for (query, problem) in [
        ("path=/a%20b", "no request has the path `/a b`"),
        ("path=/caf%C3%A9", "no request has the path"),
        ("method=G%20T", "no request has the method"),
        ("header=a%20b:c", "is not a valid header"),
        ("tls=false&sni=a", "without TLS there is no `sni`"),
    ] {
        let (status, page) = sluice.page(&format!("/try?listener=plain&{query}"));
        assert!(status == 400 && page.contains(problem), "{query}: {status} {page}");
    }
    let options =
        Client::connect(sluice.addr("plain")).ask("OPTIONS * HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert_eq!((options.status(), options.value("location")), (301, "https://shop.test/"));
}

#[test]
fn a_redirect_that_is_followed_does_not_get_round_them() {
    let moved = Server::start(|mut stream| {
        let mut request = [0; 1024];
        while stream.read(&mut request)? > 0 {
            stream.write_all(
                b"HTTP/1.1 302 Found\r\nlocation: https://shop.test/x\r\ncontent-length: 0\r\n\r\n",
            )?;
        }
        Ok(())
    });
    let origin = Origin::start("o");
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["shop.test", "other.test"]);
    let sluice = kit.start(&format!(
        "listeners:\n\
         - {{ name: plain, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: main }}\n\
         routes:\n\
         \x20 main:\n\
         \x20 - {{ hosts: shop.test, require_tls: all, rules: [{{ cluster: up }}] }}\n\
         \x20 - {{ hosts: other.test, rules: [{{ cluster: moved, follow_redirects: {{ scheme: safer }} }}] }}\n\
         clusters:\n\
         \x20 up: {{ endpoints: [\"{}\"] }}\n\
         \x20 moved: {{ endpoints: [\"{}\"] }}\n",
        origin.addr(),
        moved.addr()
    ));
    // The client has sent it in clear text, and would get the answer so.
    assert_eq!(origin::get(sluice.addr("plain"), "other.test", "/").status(), 302);
    assert!(origin.requests().is_empty());
    assert_eq!(over_tls(&sluice, "other.test", "other.test", "/").status(), 200);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn hosts_are_made_of_paths_and_headers_and_endpoints_are_told_the_originals() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = start(
        &a,
        &b,
        r#"
    - hosts: "*"
      rules:
        - match: { path: /tenant/* }
          rewrite:
            host_regex: { find: "^/tenant/([^/]+).*$", replace: "$1.internal" }
            regex: { find: "^/tenant/[^/]+", replace: "" }
            originals: [path, host]
          cluster: a
        - match: { path: /header }
          rewrite: { host_regex: { from: header:X-Tenant, find: "^([a-z]+).*", replace: "$1.test" } }
          cluster: a
        - match: { path: /endpoint }
          rewrite: { host_of_endpoint: true, originals: host }
          cluster: b
"#,
    );
    let ask = |path: &str, more: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n{more}\r\n");
        Client::connect(sluice.addr("plain")).ask(&request)
    };
    // What a client says in these headers does not count.
    let lies = "X-Envoy-Original-Path: /lie\r\nX-Envoy-Original-Host: lie.test\r\n";
    assert_eq!(ask("/tenant/blue/x?y=1", lies).status(), 200);
    let seen = a.requests().pop().unwrap();
    assert_eq!((seen.path(), seen.value("host")), ("/x?y=1", "blue.internal"));
    assert_eq!(seen.values("x-envoy-original-path"), ["/tenant/blue/x?y=1"]);
    assert_eq!(seen.values("x-envoy-original-host"), ["web.test"]);
    let said = ask("/tenant/a@b/x", "");
    assert_eq!(
        (said.status(), said.text().as_str()),
        (400, "the path does not contain a valid host\n")
    );
    for (tenant, host) in [("green-7", "green.test"), ("7", "web.test"), ("", "web.test")] {
        assert_eq!(ask("/header", &format!("X-Tenant: {tenant}\r\n")).status(), 200, "{tenant}");
        let seen = a.requests().pop().unwrap();
        assert_eq!(seen.value("host"), host, "{tenant}");
        assert!(seen.values("x-envoy-original-host").is_empty(), "nobody asked for it");
    }
    assert_eq!(ask("/endpoint", "").status(), 200);
    let seen = b.requests().pop().unwrap();
    assert_eq!(seen.value("host"), b.addr().to_string());
    assert_eq!(seen.value("x-envoy-original-host"), "web.test");
}

#[test]
fn a_question_is_read_as_a_request_of_its_listener_is() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["shop.test"]);
    let sluice = kit.start(&format!(
        "admin: {{ address: 127.0.0.1:0 }}\n\
         listeners:\n\
         - {{ name: edge, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: behind, address: 127.0.0.1:0, http: {{ routes: main, trusted_hops: 1 }} }}\n\
         routes:\n\
         \x20 main:\n\
         \x20 - hosts: \"*\"\n\
         \x20   rules:\n\
         \x20   - {{ name: inside, match: {{ source: 10.0.0.0/8 }}, cluster: a }}\n\
         \x20   - {{ name: known, match: {{ client_certificate: CN=ops }}, cluster: a }}\n\
         \x20   - {{ name: shown, match: {{ client_certificate: \"true\" }}, cluster: a }}\n\
         \x20   - {{ name: rest, cluster: b }}\n\
         clusters: {{ a: \"{}\", b: \"{}\" }}\n",
        a.addr(),
        b.addr()
    ));
    let ask = |listener: &str, more: &str| {
        let question = format!("/try?listener={listener}&host=a&format=json&{more}");
        let (status, page) = sluice.page(&question);
        assert_eq!(status, 200, "{page}");
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        page["items"][0].clone()
    };
    let forwarded = "source=192.0.2.1&header=x-forwarded-for:10.1.2.3";
    for (listener, more, rule, source) in [
        ("edge", "source=10.1.2.3", "inside", "10.1.2.3"),
        // A client says so of itself, or a proxy in front of its client.
        ("edge", forwarded, "rest", "192.0.2.1"),
        ("behind", forwarded, "inside", "10.1.2.3"),
        ("behind", "source=10.1.2.3", "inside", "10.1.2.3"),
        ("edge", "source=192.0.2.1&client_certificate=O%3DX,CN%3Dops", "known", "192.0.2.1"),
        ("edge", "source=192.0.2.1&client_certificate=CN%3Dx", "shown", "192.0.2.1"),
    ] {
        let found = ask(listener, more);
        assert_eq!((&found["rule"], &found["source"]), (&rule.into(), &source.into()), "{more}");
    }
    assert_eq!(ask("behind", "header=x-forwarded-proto:https")["scheme"], "https");
    assert_eq!(ask("edge", "header=x-forwarded-proto:https")["scheme"], "http");
    let problem = sluice.page("/try?tls=false&client_certificate=CN%3Dx").1;
    assert!(problem.contains("without TLS there is no `client_certificate`"), "{problem}");
}
