//! Health checks on behalf of a plane (HDS).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};
use sluice_testkit::{Origin, tools, wait};
use sluice_tests::planes::{Envoy, Plane, bootstrap, over_ads, service_of_plane, to};

fn asking(bootstrap: &str) -> String {
    format!("{bootstrap}hds_config: {}\n", service_of_plane())
}

fn address(of: SocketAddr) -> Value {
    json!({ "socket_address": { "address": of.ip(), "port_value": of.port() } })
}

fn check(more: Value) -> Value {
    let mut check = json!({ "timeout": "0.3s", "interval": "0.1s", "unhealthy_threshold": 1, "healthy_threshold": 1 });
    check.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    check
}

fn http(path: &str) -> Value {
    check(json!({ "http_health_check": { "path": path, "host": "h" } }))
}

fn tcp() -> Value {
    check(json!({ "tcp_health_check": {} }))
}

fn cluster(name: &str, checks: &[Value], endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|of| json!({ "address": address(*of) })).collect();
    json!({
        "cluster_name": name,
        "health_checks": checks,
        "locality_endpoints": [{ "locality": { "zone": "z" }, "endpoints": endpoints }],
    })
}

fn specifier(clusters: &[Value]) -> Value {
    json!({ "hds": { "interval": "0.1s", "cluster_health_checks": clusters } })
}

/// The newest results of a cluster, by endpoint; `None` if there are none yet.
fn results(plane: &Plane, name: &str) -> Option<Vec<(u64, String)>> {
    let last = plane
        .messages("hds")
        .into_iter()
        .rev()
        .find(|of| of["endpoint_health_response"].is_object())?;
    let clusters = last["endpoint_health_response"]["cluster_endpoints_health"].clone();
    let of = clusters.as_array()?.iter().find(|of| of["cluster_name"] == name)?.clone();
    let group = &of["locality_endpoints_health"][0];
    assert_eq!(group["locality"], json!({ "zone": "z" }), "{of}");
    let each = group["endpoints_health"].as_array()?.iter().map(|of| {
        let port = of["endpoint"]["address"]["socket_address"]["port_value"].as_u64().unwrap();
        (port, of["health_status"].as_str().unwrap_or("UNKNOWN").to_owned())
    });
    Some(each.collect())
}

fn until(plane: &Plane, envoy: &Envoy, name: &str, expected: &[(SocketAddr, &str)]) {
    let expected: Vec<(u64, String)> =
        expected.iter().map(|(of, status)| (of.port().into(), (*status).to_owned())).collect();
    let seen = wait::within(wait::PATIENCE, || {
        (results(plane, name).as_ref() == Some(&expected)).then_some(())
    });
    assert!(
        seen.is_some(),
        "{name}: {:?}, not {expected:?}\n{:#?}\n{}",
        results(plane, name),
        envoy.xds(),
        envoy.log()
    );
}

#[test]
fn a_plane_is_told_the_health_of_what_it_asks_for() {
    let Some(mut plane) = Plane::start() else { return };
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let closed = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    // It accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = silent.local_addr().unwrap();
    let mut envoy = Envoy::start(&asking(&bootstrap(plane.addr, "  {}")));
    envoy.until_ready();
    let first = wait::until("the greeting", || plane.messages("hds").first().cloned());
    let greeting = &first["health_check_request"];
    assert_eq!(greeting["node"]["id"], "here", "{first}");
    assert_eq!(greeting["capability"]["health_check_protocols"], json!(["HTTP", "TCP"]));
    plane.say(&specifier(&[
        cluster("web", &[http("/status/200")], &[a.addr(), closed, mute]),
        cluster("tcp", &[tcp()], &[b.addr(), closed]),
        cluster("both", &[tcp(), http("/status/500")], &[a.addr()]),
    ]));
    let (ok, bad) = ("HEALTHY", "UNHEALTHY");
    until(&plane, &envoy, "web", &[(a.addr(), ok), (closed, bad), (mute, "TIMEOUT")]);
    until(&plane, &envoy, "tcp", &[(b.addr(), ok), (closed, bad)]);
    until(&plane, &envoy, "both", &[(a.addr(), bad)]);
    // It wants something else; what stays is checked on.
    plane.say(&specifier(&[
        cluster("web", &[http("/status/200")], &[a.addr(), closed, mute]),
        cluster("both", &[http("/")], &[a.addr()]),
    ]));
    until(&plane, &envoy, "both", &[(a.addr(), ok)]);
    assert_eq!(results(&plane, "tcp"), None);
    until(&plane, &envoy, "web", &[(a.addr(), ok), (closed, bad), (mute, "TIMEOUT")]);
    // The stream is opened again and asked again.
    plane.say(&json!({ "cut": true }));
    wait::until("another greeting", || {
        let greetings =
            plane.messages("hds").into_iter().filter(|of| of["health_check_request"].is_object());
        (greetings.count() == 2).then_some(())
    });
    let answers = plane.messages("hds").len();
    wait::until("answers", || (plane.messages("hds").len() > answers + 2).then_some(()));
    until(&plane, &envoy, "both", &[(a.addr(), ok)]);
    assert!(envoy.metric("sluice_xds_health_answers_total", "source=\"plane\"") > 3);
}

#[test]
fn what_cannot_be_checked_leaves_the_rest_alone() {
    let Some(mut plane) = Plane::start() else { return };
    let a = Origin::start("a");
    plane.set_all("1", to("one"), &[("one", a.addr())]);
    let mut envoy = Envoy::start(&asking(&over_ads(plane.addr, "GRPC")));
    envoy.until_ready();
    let redis = check(json!({ "custom_health_check": { "name": "envoy.health_checkers.redis" } }));
    plane.say(&specifier(&[
        cluster("good", &[tcp()], &[a.addr()]),
        cluster("redis", &[redis], &[a.addr()]),
    ]));
    until(&plane, &envoy, "good", &[(a.addr(), "HEALTHY")]);
    until(&plane, &envoy, "redis", &[(a.addr(), "UNKNOWN")]);
    let refused = || envoy.metric("sluice_xds_health_requests_total", "result=\"rejected\"");
    assert_eq!(refused(), 1);
    let page = envoy.until("health checks", "plane", "connected");
    assert!(page["rejected"][0]["why"].as_str().unwrap().contains("custom_health_check"), "{page}");
    // More than may be asked for: all of it is refused, and what was asked for before goes on.
    let many: Vec<SocketAddr> =
        (1..5000).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    plane.say(&specifier(&[cluster("many", &[tcp()], &many)]));
    wait::until("a refusal", || (refused() == 2).then_some(()));
    let fast = json!({ "timeout": "1s", "interval": "0.001s", "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {} });
    plane.say(&specifier(&[cluster("fast", &[fast], &[a.addr()])]));
    wait::until("another", || (refused() == 3).then_some(()));
    let answers = plane.messages("hds").len();
    wait::until("answers", || (plane.messages("hds").len() > answers + 2).then_some(()));
    until(&plane, &envoy, "good", &[(a.addr(), "HEALTHY")]);
    assert_eq!(results(&plane, "many"), None);
    // Nothing else may lead there: the names are reserved.
    plane.set("cds", "2", json!({ "one": sluice_tests::planes::cluster("one"), "sluice.hds/0/good": sluice_tests::planes::cluster("sluice.hds/0/good") }));
    assert!(plane.error("cds").contains("are reserved"), "{}", plane.error("cds"));
    envoy.until_served("/", "200 a");
}
