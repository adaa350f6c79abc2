//! Values wherever one is asked: lookup tables that are declared once, and expressions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use serde_json::json;
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect, read_to_end};
use sluice_testkit::tls::Offer;
use sluice_testkit::{Authority, Origin, Sluice, files, tools, wait};

#[test]
fn a_table_serves_policies_headers_clusters_and_connections() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let kit = Sluice::new().watching();
    let kit = kit.expect_warning("unused-map").expect_warning("duplicate-key");
    std::fs::write(kit.folder().join("users.map"), "ann gold\nbob blocked\n").unwrap();
    let yaml = |entries: &str| {
        format!(
            "listeners:\n\
             - {{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [\
                 {{ set_values: [{{ name: tier, from: \"header:x-user\", map: users }}, \
                                 {{ name: cluster, from: host, map: hosts, missing: one }}] }}, \
                 {{ rbac: {{ deny: {{ blocked: {{ principals: {{ values: {{ set.tier: blocked }} }} }} }} }} }}, \
                 {{ set_headers: {{ request: {{ x-tier: \"%VALUE(set.tier)%\", x-cluster: \"%VALUE(set.cluster)%\" }} }} }}] }} }}\n\
             - {{ name: second, address: 127.0.0.1:0, http: {{ routes: main, filters: [\
                 {{ set_values: {{ name: cluster, from: host, map: hosts, missing: one }} }}, \
                 {{ set_headers: {{ request: {{ x-cluster: \"%VALUE(set.cluster)%\" }} }} }}] }} }}\n\
             routes: {{ main: {{ cluster_header: x-cluster }} }}\n\
             clusters: {{ one: \"{}\", two: \"{}\" }}\n\
             maps:\n  users: {{ file: users.map }}\n  hosts: {{ entries: {{ {entries} }}, lookup: suffix }}\n  nobody: {{ entries: {{ a: b }} }}\n",
            one.addr(),
            two.addr()
        )
    };
    let sluice = kit.start(&yaml(".two.test: two"));
    let (mut web, mut second) =
        (Client::connect(sluice.addr("web")), Client::connect(sluice.addr("second")));
    let ask = |client: &mut Client, host: &str, user: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-User: {user}\r\n\r\n");
        let response = client.ask(&head);
        (response.status(), response.value("x-origin").to_owned())
    };
    let served = |by: &str| (200, by.to_owned());
    assert_eq!(ask(&mut web, "a.two.test", "ann"), served("two"));
    assert_eq!(two.requests().pop().unwrap().value("x-tier"), "gold");
    assert_eq!(ask(&mut second, "a.two.test", "ann"), served("two"));
    assert_eq!(ask(&mut web, "other.test", "eve"), served("one"));
    assert_eq!(ask(&mut web, "other.test", "bob").0, 403);
    // Connections that are open follow: a file that changes, and entries that a reload changes.
    files::place(&sluice.folder().join("users.map"), "ann blocked\n");
    wait::until("the new file", || (ask(&mut web, "x", "ann").0 == 403).then_some(()));
    assert_eq!(ask(&mut web, "x", "bob"), served("one"));
    assert_eq!(sluice.reload(&yaml(".other.test: two")), "applied");
    assert_eq!(ask(&mut web, "a.other.test", "eve"), served("two"));
    assert_eq!(ask(&mut second, "a.two.test", "eve"), served("one"));
    assert!(sluice.log().contains("reloaded: maps: ~hosts\""), "nothing else changed");
    let (_, fetches) = sluice.page("/fetches");
    assert!(fetches.contains("users.map"), "{fetches}");
    // A table with a mistake leaves the last one in place.
    assert_eq!(sluice.reload(&yaml(".a: b, .a: c")), "failed", "a key that occurs twice");
    assert_eq!(ask(&mut web, "a.other.test", "eve"), served("two"));
}

#[test]
fn a_table_lists_who_may_connect_and_names_the_cluster_of_a_server_name() {
    let kit = Sluice::new().watching();
    let authority = Authority::new(kit.folder());
    authority.issue("app", &["app.test", "no.test", "other.test"]);
    let greeter = Server::start(|mut stream| stream.write_all(b"hello"));
    std::fs::write(kit.folder().join("blocks.map"), "192.0.2.0/24 branch\n").unwrap();
    let sluice = kit.start(&format!(
        "listeners:\n\
         - {{ name: open, address: 127.0.0.1:0, filters: [{{ deny: {{ map: blocks }} }}], relay: pool }}\n\
         - {{ name: closed, address: 127.0.0.1:0, filters: [{{ allow: {{ map: blocks }} }}], relay: pool }}\n\
         - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: app.pem }}, relay: {{ cluster_from: sni, map: tenants, allow: [pool, \"*.test\"] }} }}\n\
         clusters: {{ pool: \"{}\", unused.test: 127.0.0.1:{} }}\n\
         maps:\n  blocks: {{ file: blocks.map, lookup: cidr }}\n  tenants: {{ entries: {{ app.test: pool, no.test: gone }} }}\n",
        greeter.addr(),
        tools::free_port()
    ));
    let greeted = |listener: &str| read_to_end(&mut connect(sluice.addr(listener))).1 == b"hello";
    assert!(greeted("open") && !greeted("closed"));
    let record = sluice.record_of("accept.denied");
    assert_eq!(record["detail"], "allow: map blocks lacks 127.0.0.1");
    files::place(&sluice.folder().join("blocks.map"), "127.0.0.0/8 here\n");
    wait::until("the new blocks", || greeted("closed").then_some(()));
    assert!(!greeted("open"));
    let ca = sluice.folder().join("ca.pem");
    let mut stream = Offer::of("app.test", &ca).connect(sluice.addr("tls"));
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    assert_eq!(text, b"hello");
    for (name, why) in [
        ("no.test", "gone: `allow` of the relay does not list it"),
        ("other.test", "other.test: the map `tenants` does not have it"),
    ] {
        let mut stream = Offer::of(name, &ca).connect(sluice.addr("tls"));
        let _ = stream.read_to_end(&mut Vec::new());
        let fits = |record: &serde_json::Value| record["requested_server_name"] == name;
        assert_eq!(sluice.record(name, fits)["detail"], why);
    }
}

#[test]
fn a_table_is_asked_wherever_a_value_is() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let kit = Sluice::new().watching();
    std::fs::write(kit.folder().join("tenants.map"), ".acme.test acme\n.beta.test beta\n").unwrap();
    let sluice = kit.start(&format!(
        "listeners:\n\
         - name: web\n  \
           address: 127.0.0.1:0\n  \
           http:\n    \
             routes: main\n    \
             trusted_hops: 1\n    \
             filters:\n    \
             - rbac: {{ deny: {{ outside: {{ principals: {{ when: \"lookup('offices', source.address) != 'inside'\" }}, permissions: {{ path: /admin/* }} }} }} }}\n    \
             - rate_limit: {{ name: free, requests: 1/h, per: \"cel:lookup('tiers', lookup('tenants', request.hostname), request.headers['x-id'])\" }}\n    \
             - set_headers: {{ request: {{ x-tenant: \"%CEL(lookup('tenants', request.hostname, 'none'))%\" }} }}\n\
         - {{ name: db, address: 127.0.0.1:0, filters: [{{ rbac: {{ deny: {{ blocked: {{ principals: {{ when: \"lookup('offices', source.address) == 'blocked'\" }} }} }} }} }}], relay: one }}\n\
         routes:\n  main:\n    - rules:\n      \
           - {{ match: {{ when: \"lookup('offices', source.address) == 'branch'\" }}, respond: {{ status: 200, body: \"%CEL(lookup('tenants', request.hostname))%\" }} }}\n      \
           - {{ cluster_from: \"lookup('clusters', lookup('tenants', request.hostname))\" }}\n\
         clusters: {{ one: \"{}\", two: \"{}\" }}\n\
         maps:\n  \
           tenants: {{ file: tenants.map, lookup: suffix }}\n  \
           tiers: {{ entries: {{ gamma: gamma }} }}\n  \
           clusters: {{ entries: {{ acme: one, beta: two, gamma: gone }} }}\n  \
           offices: {{ entries: {{ 10.0.0.0/8: inside, 192.0.2.0/24: branch }}, lookup: cidr }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", path: \"%PATH%\", cluster: \"%UPSTREAM_CLUSTER%\", tenant: \"%CEL(lookup('tenants', request.hostname))%\", reason: \"%REASON%\", detail: \"%DETAIL%\" }} }} }}]\n",
        one.addr(),
        two.addr()
    ));
    let mut web = Client::connect(sluice.addr("web"));
    let mut number = 0;
    let mut ask = |host: &str, path: &str, from: &str| {
        number += 1;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}:8080\r\nX-Id: {number}\r\nX-Forwarded-For: {from}\r\n\r\n"
        );
        let response = web.ask(&head);
        (response.status(), response.value("x-origin").to_owned(), response.text())
    };
    let served = |(status, by, _): (u16, String, String)| (status, by);
    // Clusters and headers.
    assert_eq!(served(ask("a.acme.test", "/", "10.0.0.1")), (200, "one".into()));
    assert_eq!(one.requests().pop().unwrap().value("x-tenant"), "acme");
    assert_eq!(served(ask("A.Beta.Test", "/", "10.0.0.1")), (200, "two".into()));
    // What rules match: by the address that the trusted hop reports.
    let (status, _, text) = ask("a.acme.test", "/", "192.0.2.7");
    assert_eq!((status, &*text), (200, "acme"));
    // What policies allow; an address that is not known is in no office.
    assert_eq!(served(ask("a.acme.test", "/admin/x", "10.0.0.1")), (200, "one".into()));
    for from in ["203.0.113.1", "garbled"] {
        assert_eq!(ask("a.acme.test", "/admin/x", from).0, 403, "{from}");
    }
    // No name, and one that no cluster has.
    for (host, tenant, detail) in [
        ("a.other.test", None, "`cluster_from` makes no name"),
        ("a.gamma.test", Some("gamma"), "`cluster_from` makes gone"),
    ] {
        if tenant.is_some() {
            let lines = ".acme.test beta\n.gamma.test gamma\n";
            files::place(&sluice.folder().join("tenants.map"), lines);
            wait::until("the new file", || {
                (served(ask("a.acme.test", "/", "10.0.0.1")).1 == "two").then_some(())
            });
        }
        assert_eq!(ask(host, "/missing", "10.0.0.1").0, 503, "{host}");
        let record = sluice.record(host, |record| record["detail"] == detail);
        assert_eq!(
            (record["reason"].as_str(), record.get("tenant").and_then(|it| it.as_str())),
            (Some("cluster.unknown"), tenant)
        );
    }
    // The keys of limits: gamma has a bucket of its own.
    assert_eq!(ask("b.gamma.test", "/", "10.0.0.1").0, 429);
    // Of a connection.
    let mut db = connect(sluice.addr("db"));
    db.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    assert!(read_to_end(&mut db).1.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn expressions_choose_rules_endpoints_headers_keys_and_what_is_recorded() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let sluice = Sluice::new().start(&format!(
        "listeners:\n\
         - name: web\n  \
           address: 127.0.0.1:0\n  \
           http:\n    \
             routes: main\n    \
             filters:\n    \
             - set_values: {{ name: team, from: \"cel:request.headers['x-user'].startsWith('ann') ? 'a' : 'b'\" }}\n    \
             - rate_limit: {{ requests: 2/h, per: \"cel:metadata['set.team'] + request.method\" }}\n    \
             - set_headers: {{ request: {{ x-team: \"%CEL('team ' + metadata['set.team'])%\" }}, response: {{ x-class: \"%CEL(response.code / 100)%xx %CEL(response.headers['x-origin'])%\" }} }}\n\
         routes:\n  main:\n    - rules:\n      \
           - {{ match: {{ when: \"request.url_path == '/' + request.headers['x-user']\" }}, cluster: pool, hash: \"cel:request.headers['x-user']\" }}\n      \
           - {{ match: {{ when: \"request.size > 1\" }}, respond: {{ status: 413, body: \"%CEL(request.size)% bytes\" }} }}\n      \
           - {{ respond: {{ status: 404 }} }}\n\
         clusters: {{ pool: {{ endpoints: [\"{}\", \"{}\"], balance: maglev }} }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", of: \"%CEL(request.url_path)%\", from: \"%CEL(source.address.startsWith('127.'))%\", absent: \"%CEL(request.headers['none'])%\" }} }} }}]\n",
        one.addr(),
        two.addr()
    ));
    let ask = |head: &str| Client::connect(sluice.addr("web")).ask(head);
    let get = |path: &str, user: &str| {
        ask(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nX-User: {user}\r\n\r\n"))
    };
    let first = get("/ann", "ann");
    assert_eq!(first.status(), 200, "{first:?}");
    let by = first.value("x-origin").to_owned();
    assert_eq!(first.value("x-class"), format!("2xx {by}"));
    assert!(first.text().contains("x-team: team a"), "{first:?}");
    assert_eq!(get("/ann", "ann").value("x-origin"), by, "the same hash");
    assert_eq!(get("/ann", "ann").status(), 429, "the third of its team");
    assert_eq!(get("/bob", "eve").status(), 404, "no rule has an expression that is true");
    // A header that is missing makes neither rule true.
    let large = ask("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!((large.status(), large.text().as_str()), (413, "3 bytes"));
    let record = sluice.record("a request", |record| record["of"] == "/ann");
    assert_eq!((&record["from"], record.get("absent")), (&json!("true"), None));
    // A connection has no request, but it has a source.
    let of_conn = |record: &serde_json::Value| record["kind"] == "connection";
    let record = sluice.record("a connection", of_conn);
    assert_eq!((record.get("of"), &record["from"]), (None, &json!("true")));
}
