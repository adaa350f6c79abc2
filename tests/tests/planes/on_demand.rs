//! Clusters that come when a request needs them (ODCDS).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Sluice, wait};
use sluice_tests::planes::{
    Envoy, Plane, ads, assignment, bootstrap, cluster, listener, own_stream, table, with_on_demand,
};

/// Listeners alone over ADS.
fn without_clusters(plane: SocketAddr, more: &str) -> String {
    let service = "grpc_services: [{ envoy_grpc: { cluster_name: plane } }]";
    let dynamic = format!(
        r"
  ads_config: {{ api_type: DELTA_GRPC, transport_api_version: V3, {service} }}
  lds_config: {{ ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s }}{more}"
    );
    bootstrap(plane, &dynamic)
}

/// A listener whose requests wait for their clusters.
fn demanding(source: Value, timeout: &str) -> Value {
    let odcds = json!({ "source": source, "timeout": timeout });
    with_on_demand(listener("web", "main"), json!({ "odcds": odcds }))
}

fn routes() -> Value {
    let routes = json!([
        { "match": { "prefix": "/fixed" }, "route": { "cluster": "late", "timeout": "60s" } },
        { "match": { "prefix": "/" }, "route": { "cluster_header": "x-cluster", "timeout": "60s" } },
    ]);
    json!({ "main": table("main", routes) })
}

fn ask(addr: SocketAddr, path: &str, cluster: &str) -> Message {
    Client::connect(addr)
        .ask(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nX-Cluster: {cluster}\r\n\r\n"))
}

#[test]
fn requests_wait_for_the_clusters_that_they_name() {
    let Some(mut plane) = Plane::start() else { return };
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    plane.set("cds", "1", json!({ "one": cluster("one"), "other": cluster("other") }));
    plane.set("eds", "1", json!({ "one": assignment("one", &[a.addr()]), "late": assignment("late", &[b.addr()]), "other": assignment("other", &[b.addr()]) }));
    plane.set("lds", "1", json!({ "web": demanding(ads(), "30s") }));
    plane.set("rds", "1", routes());
    let mut envoy = Envoy::start(&without_clusters(plane.addr, ""));
    envoy.until_ready();
    let web = envoy.addr("web");
    wait::until("the routes", || (ask(web, "/", "one").value("x-origin") == "a").then_some(()));
    plane.request("one cluster", |of| of["type"] == "cds" && of["subscribe"] == json!(["one"]));
    let has =
        |name: &str| envoy.xds().iter().any(|of| of["kind"] == "cluster" && of["name"] == name);
    assert!(has("one") && !has("other"));
    // One that comes later: several wait for it.
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(web, "/fixed", "-"))).collect();
        plane.request("the other", |of| of["type"] == "cds" && of["subscribe"] == json!(["late"]));
        plane.set(
            "cds",
            "2",
            json!({ "one": cluster("one"), "late": cluster("late"), "other": cluster("other") }),
        );
        for one in waiting {
            assert_eq!(one.join().unwrap().value("x-origin"), "b", "{}", envoy.log());
        }
    });
    assert!(envoy.metric("sluice_xds_demands_total", "result=\"there\"") >= 2);
    assert_eq!(envoy.metric("sluice_xds_demanded_clusters", ""), 2);
    // One that there is not, as the plane says.
    plane.say(&json!({ "absent": true }));
    plane.settle();
    let refused = ask(web, "/", "nobody");
    assert_eq!(refused.status(), 503);
    assert!(
        refused.text().contains("cluster.unknown") || refused.text().is_empty(),
        "{}",
        refused.text()
    );
    wait::until("it to be given up", || {
        (envoy.metric("sluice_xds_demanded_clusters", "") == 2).then_some(())
    });
    plane.request("nothing more", |of| {
        of["type"] == "cds" && of["unsubscribe"] == json!(["nobody"])
    });
    // It comes after all, and is asked for again.
    plane.set(
        "cds",
        "3",
        json!({ "one": cluster("one"), "late": cluster("late"), "nobody": cluster("nobody") }),
    );
    plane.set("eds", "3", json!({ "one": assignment("one", &[a.addr()]), "late": assignment("late", &[b.addr()]), "nobody": assignment("nobody", &[b.addr()]) }));
    plane.settle();
    assert_eq!(ask(web, "/", "nobody").value("x-origin"), "b");
    // A cluster leaves: requests for it ask again.
    plane.set("cds", "4", json!({ "one": cluster("one"), "nobody": cluster("nobody") }));
    wait::until("it to leave", || (!has("late")).then_some(()));
    // The workers follow.
    wait::until("requests to be refused", || {
        (ask(web, "/fixed", "-").status() == 503).then_some(())
    });
}

#[test]
fn waits_are_bounded_and_sources_are_checked() {
    let Some(mut plane) = Plane::start() else { return };
    plane.set("cds", "1", json!({}));
    plane.set("lds", "1", json!({ "web": demanding(own_stream(), "0.2s") }));
    plane.set("rds", "1", routes());
    let all = "\n  cds_config: { ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s }";
    let mut envoy = Envoy::start(&without_clusters(plane.addr, all));
    envoy.until_ready();
    let web = envoy.addr("web");
    // It does not come in time.
    wait::until("the routes", || (ask(web, "/", "nobody").status() == 503).then_some(()));
    plane.request("a cluster", |of| of["type"] == "cds" && of["subscribe"] == json!(["nobody"]));
    wait::until("a request in vain", || {
        ask(web, "/", "nobody");
        (envoy.metric("sluice_xds_demands_total", "result=\"missing\"") > 0).then_some(())
    });
    // All clusters come over ADS, so that single ones cannot be asked for there.
    plane.set("lds", "2", json!({ "web": demanding(ads(), "1s") }));
    assert!(
        plane.error("lds").contains("all clusters come over `ads` anyway"),
        "{}",
        plane.error("lds")
    );
    assert_eq!(ask(web, "/", "nobody").status(), 503);
}

#[test]
fn routes_of_files_may_name_clusters_that_a_plane_sends_on_demand() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    plane.set("lds", "1", json!({}));
    plane.set("cds", "1", json!({ "one": cluster("one"), "two": cluster("two") }));
    plane.set("eds", "1", json!({ "one": assignment("one", &[a.addr()]) }));
    let sluice = Sluice::new().start(&format!(
        "xds: {{ cluster: plane, id: here, resources: [listeners] }}\n\
         listeners: [{{ name: own, address: 127.0.0.1:0, http: {{ routes: own, on_demand: 30s }} }}]\n\
         routes: {{ own: [{{ cluster: one }}] }}\n\
         clusters: {{ plane: {{ endpoints: [\"{}\"], protocol: http2 }} }}\n",
        plane.addr
    ));
    let answer = ask(sluice.addr("own"), "/", "-");
    assert_eq!(answer.value("x-origin"), "a", "{} {}", answer.status(), sluice.log());
    plane.request("the cluster", |of| of["type"] == "cds" && of["subscribe"] == json!(["one"]));
}
