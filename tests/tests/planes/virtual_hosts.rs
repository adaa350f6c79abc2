//! Virtual hosts that come on their own, and when a request needs them (VHDS).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use sluice_testkit::{Origin, origin, wait};
use sluice_tests::planes::{
    Envoy, Plane, ads, assignment, cluster, listener, over_ads, own_stream, to, virtual_host,
    with_on_demand,
};

/// A route table whose hosts come on their own, beside `own` ones.
fn table(source: Value, own: Value) -> Value {
    json!({ "name": "main", "vhds": { "config_source": source }, "virtual_hosts": own })
}

/// A plane with clusters and a listener whose requests wait for their hosts.
fn plane_with(source: Value, own: Value, to: &[(&str, SocketAddr)]) -> Option<Plane> {
    let mut plane = Plane::start()?;
    let clusters = to.iter().map(|(name, _)| ((*name).to_owned(), cluster(name)));
    let assignments = to.iter().map(|(name, at)| ((*name).to_owned(), assignment(name, &[*at])));
    plane.set("cds", "1", clusters.collect());
    plane.set("eds", "1", assignments.collect());
    plane.set("rds", "1", json!({ "main": table(source, own) }));
    plane.set("lds", "1", json!({ "web": with_on_demand(listener("web", "main"), json!({})) }));
    Some(plane)
}

/// The status of a response for a host, and whose it is.
fn ask(addr: SocketAddr, host: &str) -> String {
    let answer = origin::get(addr, host, "/");
    format!("{} {}", answer.status(), answer.value("x-origin"))
}

fn until(envoy: &Envoy, host: &str, wanted: &str) {
    let addr = envoy.addr("web");
    let seen = wait::within(wait::PATIENCE, || (ask(addr, host) == wanted).then_some(()));
    assert!(
        seen.is_some(),
        "{host}: {} is not {wanted}\n{:#?}\n{}",
        ask(addr, host),
        envoy.xds(),
        envoy.log()
    );
}

#[test]
fn a_plane_sends_virtual_hosts_one_by_one() {
    for source in [ads(), own_stream()] {
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let own = json!([virtual_host("own", &["own"], to("one"))]);
        let all = [("one", a.addr()), ("two", b.addr())];
        let Some(mut plane) = plane_with(source, own, &all) else { return };
        let x = virtual_host("x", &["x.test", "*.x.test"], to("one"));
        plane.set(
            "vhds",
            "1",
            json!({ "main/x.test": x, "other/y.test": virtual_host("y", &["y.test"], to("two")) }),
        );
        let mut envoy = Envoy::start(&over_ads(plane.addr, "DELTA_GRPC"));
        envoy.until_ready();
        // The first request asks for whatever there is.
        let first = plane.request("hosts", |of| of["type"] == "vhds" && of["nonce"] == "");
        assert_eq!(first["delta"], true);
        until(&envoy, "x.test", "200 a");
        until(&envoy, "sub.x.test", "200 a");
        until(&envoy, "own", "200 a");
        // One changes, one comes, the rest of the table stays.
        let changed = virtual_host("x", &["x.test"], to("two"));
        let more = virtual_host("z", &["z.test"], to("two"));
        plane.set("vhds", "2", json!({ "main/x.test": changed, "main/z.test": more }));
        until(&envoy, "x.test", "200 b");
        until(&envoy, "z.test", "200 b");
        until(&envoy, "own", "200 a");
        // One leaves.
        plane.set("vhds", "3", json!({ "main/z.test": more }));
        until(&envoy, "x.test", "404 ");
        until(&envoy, "z.test", "200 b");
        // The table changes; its hosts stay.
        let own = json!([virtual_host("own", &["own"], to("two"))]);
        plane.set("rds", "2", json!({ "main": table(ads(), own) }));
        until(&envoy, "own", "200 b");
        until(&envoy, "z.test", "200 b");
    }
}

#[test]
fn requests_wait_for_their_virtual_hosts() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let all = [("one", a.addr()), ("two", b.addr())];
    let own = json!([virtual_host("own", &["own"], to("one"))]);
    let Some(mut plane) = plane_with(ads(), own, &all) else { return };
    plane.say(&json!({ "shy": true }));
    plane.say(&json!({ "aliases": { "main/group": ["main/x.test", "main/y.test"] } }));
    let group = virtual_host("group", &["x.test", "y.test"], to("two"));
    let late = virtual_host("late", &["late.test"], to("one"));
    plane.set("vhds", "1", json!({ "main/group": group }));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "DELTA_GRPC"));
    envoy.until_ready();
    let web = envoy.addr("web");
    until(&envoy, "own", "200 a");
    // It is asked for by a name of the request, and comes with others.
    assert_eq!(ask(web, "X.test"), "200 b", "{}", envoy.log());
    plane.request("a host", |of| of["type"] == "vhds" && of["subscribe"] == json!(["main/x.test"]));
    assert_eq!(ask(web, "y.test"), "200 b");
    // There is none, as the plane says; it is asked for again.
    assert_eq!(ask(web, "nobody.test"), "404 ");
    assert_eq!(ask(web, "nobody.test"), "404 ");
    plane.request("nothing more", |of| {
        of["type"] == "vhds" && of["unsubscribe"] == json!(["main/nobody.test"])
    });
    wait::until("the questions to be counted", || {
        (envoy.metric("sluice_xds_host_demands_total", "result=\"missing\"") == 2).then_some(())
    });
    assert!(envoy.metric("sluice_xds_host_demands_total", "result=\"there\"") >= 1);
    // It comes after all: several wait for the same question.
    plane.set("vhds", "2", json!({ "main/group": group, "main/late.test": late }));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            // The plane may be asked before it has the host.
            scope.spawn(|| until(&envoy, "late.test", "200 a"));
        }
    });
    // The stream is opened again: what was asked for is asked for again, and nothing is lost.
    plane.say(&json!({ "cut": true }));
    plane.request("the same", |of| {
        let names = &of["subscribe"];
        of["type"] == "vhds" && *names == json!(["*", "main/late.test", "main/x.test"])
    });
    assert_eq!(ask(web, "late.test"), "200 a");
    assert_eq!(ask(web, "y.test"), "200 b");
    // One leaves; later requests ask again.
    plane.set("vhds", "3", json!({ "main/group": group }));
    until(&envoy, "late.test", "404 ");
    plane.set("vhds", "4", json!({ "main/group": group, "main/late.test": late }));
    until(&envoy, "late.test", "200 a");
}

#[test]
fn a_virtual_host_that_is_wrong_leaves_the_others() {
    let a = Origin::start("a");
    let all = [("one", a.addr())];
    let Some(mut plane) = plane_with(ads(), json!([]), &all) else { return };
    let good = |name: &str| virtual_host(name, &[name], to("one"));
    let mut hosts: Vec<(String, Value)> =
        (0..100).map(|at| (format!("main/h{at}.test"), good(&format!("h{at}.test")))).collect();
    // Garbage, a domain of another one, and one that is of no table.
    hosts.push(("main/garbage".into(), json!({ "hex": "ffffff" })));
    hosts.push(("main/twice".into(), virtual_host("twice", &["h7.test"], to("one"))));
    hosts.push(("stray".into(), good("stray")));
    plane.set("vhds", "1", hosts.iter().cloned().collect());
    let mut envoy = Envoy::start(&over_ads(plane.addr, "DELTA_GRPC"));
    envoy.until_ready();
    until(&envoy, "h0.test", "200 a");
    until(&envoy, "h99.test", "200 a");
    let error = plane.error("vhds");
    assert!(error.contains("main/garbage") && error.contains("cannot be decoded"), "{error}");
    assert!(error.contains("main/twice") && error.contains("h7.test"), "{error}");
    assert!(!error.contains("stray") && !error.contains("h0.test"), "{error}");
    envoy.until("virtual host", "main/twice", "rejected");
    // It is put right.
    hosts.retain(|(name, _)| name != "main/garbage" && name != "main/twice");
    hosts.push(("main/twice".into(), good("twice")));
    plane.set("vhds", "2", hosts.into_iter().collect());
    until(&envoy, "twice", "200 a");
    until(&envoy, "h7.test", "200 a");
}

#[test]
fn a_plane_that_lies_about_virtual_hosts_changes_nothing() {
    let a = Origin::start("a");
    let all = [("one", a.addr())];
    let Some(mut plane) = plane_with(own_stream(), json!([]), &all) else { return };
    let host = virtual_host("x", &["x.test"], to("one"));
    plane.set("vhds", "1", json!({ "main/x.test": host }));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "DELTA_GRPC"));
    envoy.until_ready();
    until(&envoy, "x.test", "200 a");
    // A resource of another type under the name of a host; names that nobody asked for; removals of what is not there.
    let table = json!({ "name": "main", "virtual_hosts": [] });
    let url = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    plane.say(&json!({ "say": "vhds", "nonce": "a", "resources": [{ "name": "main/x.test", "type_url": url, "resource": table }] }));
    assert!(plane.error("vhds").contains("it is of the type"), "{}", plane.error("vhds"));
    plane.say(&json!({ "say": "vhds", "nonce": "b", "resources": [{ "name": "/", "resource": host }, { "name": "main/", "resource": host }], "removed": ["main/", "main", "", "nobody/x"] }));
    plane.request("an answer", |of| of["type"] == "vhds" && of["nonce"] == "b");
    assert_eq!(ask(envoy.addr("web"), "x.test"), "200 a");
    // Hosts that contain what names of hosts cannot.
    for host in ["a/b", "*", "..", "x.test/y"] {
        assert_eq!(ask(envoy.addr("web"), host).get(..1), Some("4"), "{host}");
    }
    assert_eq!(ask(envoy.addr("web"), "x.test"), "200 a");
}

#[test]
fn waits_for_virtual_hosts_are_bounded() {
    let a = Origin::start("a");
    let all = [("one", a.addr())];
    let Some(mut plane) = plane_with(ads(), json!([]), &all) else { return };
    let host = virtual_host("x", &["x.test"], to("one"));
    plane.set("vhds", "1", json!({ "main/x.test": host }));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "DELTA_GRPC"));
    envoy.until_ready();
    until(&envoy, "x.test", "200 a");
    // The plane does not say anything: clients that give up are not waited for.
    let mut clients = Vec::new();
    for at in 0..3 {
        let mut client = origin::Client::connect(envoy.addr("web"));
        client.send(format!("GET / HTTP/1.1\r\nHost: silent{at}.test\r\n\r\n"));
        plane.request("a host", |of| {
            of["type"] == "vhds" && of["subscribe"] == json!([format!("main/silent{at}.test")])
        });
        clients.push(client);
    }
    assert_eq!(envoy.metric("sluice_xds_demanded_hosts", ""), 3);
    drop(clients);
    wait::until("those who gave up to be forgotten", || {
        let mut client = origin::Client::connect(envoy.addr("web"));
        client.send("GET / HTTP/1.1\r\nHost: last.test\r\n\r\n");
        (envoy.metric("sluice_xds_demanded_hosts", "") == 1).then_some(())
    });
    // Those that are there do not wait.
    assert_eq!(ask(envoy.addr("web"), "x.test"), "200 a");
    // The stream is of the other form.
    let mut source = own_stream();
    source["api_config_source"]["api_type"] = "GRPC".into();
    plane.set("rds", "2", json!({ "main": table(source, json!([])) }));
    let error = plane.error("rds");
    assert!(
        error.contains("virtual hosts come over a stream of the `api_type` DELTA_GRPC"),
        "{error}"
    );
    assert_eq!(ask(envoy.addr("web"), "x.test"), "200 a");
}
