//! Load reports (LRS), and parts of the traffic that planes want dropped.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use sluice_testkit::origin;
use sluice_testkit::{Origin, tools, wait};
use sluice_tests::planes::{
    Envoy, Plane, assignment, cluster, origin_of, over_ads, service_of_plane, to,
};

/// With a service that load is reported to.
fn reporting(plane: SocketAddr) -> String {
    let service = service_of_plane();
    format!("{}cluster_manager: {{ load_stats_config: {service} }}\n", over_ads(plane, "GRPC"))
}

fn number(of: &Value) -> u64 {
    of.as_str().map_or(0, |text| text.parse().unwrap())
}

/// The sum of a field of all reports on a cluster, over its localities.
fn sum(plane: &Plane, name: &str, field: &str) -> u64 {
    let of_cluster = |of: &&Value| of["cluster_name"] == name;
    let reports = plane.messages("lrs");
    let all = reports.iter().flat_map(|of| of["cluster_stats"].as_array().into_iter().flatten());
    let localities = all
        .filter(of_cluster)
        .flat_map(|of| of["upstream_locality_stats"].as_array().into_iter().flatten());
    localities.map(|of| number(&of[field])).sum()
}

/// Waits until all reports together say so.
fn until_sum(plane: &Plane, name: &str, field: &str, expected: u64) {
    let seen = wait::within(wait::PATIENCE, || (sum(plane, name, field) == expected).then_some(()));
    assert!(
        seen.is_some(),
        "{field} of {name} is {}, not {expected}: {:#?}",
        sum(plane, name, field),
        plane.messages("lrs")
    );
}

fn reports(plane: &Plane, name: &str) -> usize {
    let has = |of: &&Value| {
        let clusters = of["cluster_stats"].as_array();
        clusters.into_iter().flatten().any(|of| of["cluster_name"] == name)
    };
    plane.messages("lrs").iter().filter(has).count()
}

/// A port at which nothing listens.
fn closed() -> SocketAddr {
    ([127, 0, 0, 1], tools::free_port()).into()
}

#[test]
fn a_plane_is_told_the_load_of_what_it_asks_for() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    let routes = json!([
        { "match": { "prefix": "/dead" }, "route": { "cluster": "dead" } },
        { "match": { "prefix": "/" }, "route": { "cluster": "one", "timeout": "60s" } },
    ]);
    plane.set_all("1", routes, &[("one", a.addr()), ("dead", closed())]);
    let mut envoy = Envoy::start(&reporting(plane.addr));
    envoy.until_ready();
    envoy.until_served("/", "200 a");
    let first = wait::until("the greeting", || plane.messages("lrs").first().cloned());
    assert_eq!(first["node"]["id"], "here", "{first}");
    assert_eq!(first["node"]["client_features"], json!(["envoy.lrs.supports_send_all_clusters"]));
    // What was before it asked is not reported, nor what it does not ask for.
    plane.say(&json!({ "lrs": { "clusters": ["one", "dead", "nobody"], "load_reporting_interval": "0.1s", "report_endpoint_granularity": true } }));
    wait::until("a report", || (reports(&plane, "one") > 0).then_some(()));
    let web = envoy.addr("web");
    for _ in 0..3 {
        assert_eq!(origin_of(web, "/"), "200 a");
    }
    assert_eq!(origin::get(web, "h", "/status/500").status(), 500);
    assert_eq!(origin::get(web, "h", "/dead").status(), 503);
    until_sum(&plane, "one", "total_issued_requests", 4);
    until_sum(&plane, "one", "total_successful_requests", 3);
    until_sum(&plane, "one", "total_error_requests", 1);
    wait::until("errors", || (sum(&plane, "dead", "total_error_requests") > 0).then_some(()));
    assert_eq!(sum(&plane, "dead", "total_successful_requests"), 0);
    assert_eq!(reports(&plane, "plane"), 0);
    let all = plane.messages("lrs");
    let localities = all.iter().flat_map(|of| of["cluster_stats"].as_array().into_iter().flatten());
    let localities =
        localities.flat_map(|of| of["upstream_locality_stats"].as_array().into_iter().flatten());
    for locality in localities {
        assert_eq!(locality["locality"], json!({ "region": "r" }), "{locality}");
        let endpoint = &locality["upstream_endpoint_stats"][0]["address"]["socket_address"];
        assert_eq!(endpoint["address"], "127.0.0.1", "{locality}");
    }
    // A stream that is cut loses nothing.
    plane.say(&json!({ "cut": true }));
    for _ in 0..5 {
        assert_eq!(origin_of(web, "/"), "200 a");
    }
    until_sum(&plane, "one", "total_issued_requests", 9);
    until_sum(&plane, "one", "total_successful_requests", 8);
    // An endpoint that has left is reported once more.
    let b = Origin::start("b");
    plane.set(
        "eds",
        "2",
        json!({ "one": assignment("one", &[b.addr()]), "dead": assignment("dead", &[closed()]) }),
    );
    envoy.until_served("/", "200 b");
    wait::until("the new endpoint", || {
        (sum(&plane, "one", "total_issued_requests")
            == sum(&plane, "one", "total_successful_requests") + 1
            && sum(&plane, "one", "total_issued_requests") > 9)
            .then_some(())
    });
    let seen = envoy.until("load reports", "plane", "connected");
    assert!(seen["next"].is_string(), "{seen}");
    assert!(envoy.metric("sluice_xds_load_reports_total", "source=\"plane\"") > 2);
}

#[test]
fn a_cluster_may_be_reported_to_the_plane_that_it_came_from() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    plane.set_all("1", to("one"), &[("one", a.addr()), ("two", a.addr())]);
    let mut one = cluster("one");
    one["lrs_server"] = json!({ "self": {} });
    one["eds_cluster_config"]["service_name"] = "service".into();
    one["lrs_report_endpoint_metrics"] = json!(["named_metrics.queue"]);
    plane.set("cds", "2", json!({ "one": one, "two": cluster("two") }));
    plane.set("eds", "2", json!({ "service": assignment("service", &[a.addr()]), "two": assignment("two", &[a.addr()]) }));
    plane.say(&json!({ "lrs": { "send_all_clusters": true, "load_reporting_interval": "0.1s" } }));
    let mut envoy = Envoy::start(&over_ads(plane.addr, "GRPC"));
    envoy.until_ready();
    wait::until("a report", || (reports(&plane, "one") > 0).then_some(()));
    assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
    until_sum(&plane, "one", "total_issued_requests", 1);
    assert_eq!(reports(&plane, "two"), 0, "it does not ask for that");
    let last = plane.messages("lrs").pop().unwrap();
    assert_eq!(last["cluster_stats"][0]["cluster_service_name"], "service", "{last}");
}

#[test]
fn a_part_of_the_traffic_is_dropped_as_the_plane_wants() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    plane.set_all("1", to("one"), &[("one", a.addr())]);
    let mut envoy = Envoy::start(&reporting(plane.addr));
    envoy.until_ready();
    envoy.until_served("/", "200 a");
    let connections = a.connections();
    plane.say(&json!({ "lrs": { "clusters": ["one"], "load_reporting_interval": "0.1s" } }));
    wait::until("a report", || (reports(&plane, "one") > 0).then_some(()));
    let dropping = |percent: u32| {
        let mut one = assignment("one", &[a.addr()]);
        one["policy"] = json!({ "drop_overloads": [
            { "category": "none", "drop_percentage": { "numerator": 0 } },
            { "category": "throttle", "drop_percentage": { "numerator": percent * 10_000, "denominator": "MILLION" } },
        ] });
        json!({ "one": one })
    };
    plane.set("eds", "2", dropping(100));
    let web = envoy.addr("web");
    let refused =
        wait::until("a drop", || Some(origin::get(web, "h", "/")).filter(|of| of.status() == 503));
    assert!(refused.text().contains("upstream.dropped"), "{}", refused.text());
    let dropped =
        envoy.metric("sluice_cluster_dropped_total", "cluster=\"one\",category=\"throttle\"");
    assert!(dropped >= 1);
    wait::until("a report of it", || {
        let all = plane.messages("lrs");
        let of = all.iter().flat_map(|of| of["cluster_stats"].as_array().into_iter().flatten());
        let of = of.flat_map(|of| of["dropped_requests"].as_array().into_iter().flatten());
        let throttled = of.filter(|of| of["category"] == "throttle");
        let count: u64 = throttled.map(|of| number(&of["dropped_count"])).sum();
        (i64::try_from(count).unwrap() == dropped).then_some(())
    });
    // Connections to endpoints go on.
    plane.set("eds", "3", dropping(0));
    envoy.until_served("/", "200 a");
    assert!(a.connections() <= connections + 2, "one for each worker");
    // What cannot be is refused, and the last one stays.
    let mut twice = assignment("one", &[a.addr()]);
    let of = json!({ "category": "c", "drop_percentage": { "numerator": 1 } });
    twice["policy"] = json!({ "drop_overloads": [of.clone(), of] });
    plane.set("eds", "4", json!({ "one": twice }));
    assert!(plane.error("eds").contains("have the category `c`"), "{}", plane.error("eds"));
    assert_eq!(origin_of(web, "/"), "200 a");
}
