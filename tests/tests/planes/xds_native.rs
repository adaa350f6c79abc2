//! A control plane that files of the native form name, beside listeners and clusters of their own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use sluice_testkit::{Origin, Running, Sluice, wait};
use sluice_tests::planes::{Plane, assignment, cluster, listener, origin_of, table, to};

/// Files with a plane, a listener `own` that goes to a cluster, and a cluster `local`.
fn files(plane: SocketAddr, own_to: &str, local: SocketAddr, more: &str) -> String {
    format!(
        "xds: {{ cluster: plane, id: here, group: tests{more} }}\n\
         listeners: [{{ name: own, address: 127.0.0.1:0, http: own }}]\n\
         routes: {{ own: [{{ cluster: {own_to} }}] }}\n\
         clusters:\n  plane: {{ endpoints: [\"{plane}\"], protocol: http2 }}\n  local: {{ endpoints: [\"{local}\"] }}\n"
    )
}

/// The address of a listener, once there is one.
fn address(sluice: &Running, listener: &str) -> SocketAddr {
    wait::until("a listener", || {
        let all = sluice.items("/listeners");
        let found = all.iter().find(|of| of["name"] == listener)?;
        found["addresses"][0].as_str()?.parse().ok()
    })
}

fn until_served(sluice: &Running, listener: &str, expected: &str) {
    let addr = address(sluice, listener);
    let seen = wait::within(wait::PATIENCE, || (origin_of(addr, "/") == expected).then_some(()));
    assert!(seen.is_some(), "{} is not {expected}\n{}", origin_of(addr, "/"), sluice.log());
}

#[test]
fn a_plane_serves_beside_files_and_each_uses_clusters_of_the_other() {
    for (more, delta) in [("", true), (", incremental: false", false)] {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        plane.set_all("1", to("local"), &[("one", a.addr())]);
        let sluice = Sluice::new().start(&files(plane.addr, "one", b.addr(), more));
        let asked = plane.request("the first request", |of| of["node"] == "here");
        assert_eq!(asked["delta"], delta);
        until_served(&sluice, "own", "200 a");
        until_served(&sluice, "web", "200 b");
        // The files change, and what the plane has sent stays.
        let web = address(&sluice, "web");
        assert_eq!(sluice.reload(&files(plane.addr, "local", a.addr(), more)), "applied");
        until_served(&sluice, "own", "200 a");
        until_served(&sluice, "web", "200 a");
        assert_eq!(address(&sluice, "web"), web);
        // The plane changes, and what the files have stays.
        plane.set("rds", "2", json!({ "main": table("main", to("one")) }));
        plane.set("eds", "2", json!({ "one": assignment("one", &[b.addr()]) }));
        until_served(&sluice, "web", "200 b");
        plane.set("lds", "3", json!({}));
        wait::until("the listener to leave", || {
            (!sluice.items("/listeners").iter().any(|of| of["name"] == "web")).then_some(())
        });
        until_served(&sluice, "own", "200 a");
    }
}

#[test]
fn one_name_in_two_sources_is_refused_where_it_comes_second() {
    let Some(mut plane) = Plane::start() else { return };
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    plane.set_all("1", to("one"), &[("one", a.addr())]);
    let sluice = Sluice::new()
        .expect_warning("of the control plane is not accepted")
        .expect_warning("reload failed")
        .expect_warning("configured by the control plane")
        .start(&files(plane.addr, "local", b.addr(), ""));
    plane.set(
        "cds",
        "2",
        json!({ "one": cluster("one"), "local": cluster("local"), "plane": cluster("plane") }),
    );
    plane.set("eds", "2", json!({ "one": assignment("one", &[a.addr()]), "local": assignment("local", &[a.addr()]), "plane": assignment("plane", &[a.addr()]) }));
    let rejected = |kind: &str, name: &str| {
        wait::until("a rejection", || {
            let all = sluice.items("/xds");
            let found = all.iter().find(|of| of["kind"] == kind && of["name"] == name)?;
            found["rejected"]["why"].as_str().map(str::to_owned)
        })
    };
    for name in ["local", "plane"] {
        let why = rejected("cluster", name);
        // The cluster, or endpoints that arrived before it.
        let said = format!("`{name}`: configured by the configuration files");
        assert!(why.contains(&said), "{why}");
    }
    plane.set(
        "lds",
        "2",
        json!({ "web": listener("web", "main"), "own": listener("own", "main") }),
    );
    let why = rejected("listener", "own");
    assert!(why.contains("listener `own`: configured by the configuration files"), "{why}");
    assert!(why.contains("rename one of the two"), "{why}");
    until_served(&sluice, "own", "200 b");
    until_served(&sluice, "web", "200 a");
    // The other way round.
    let text = files(plane.addr, "local", b.addr(), "");
    let taken = format!("{text}  one: {{ endpoints: [\"{}\"] }}\n", b.addr());
    assert_eq!(sluice.reload(&taken), "failed");
    let log = sluice.log();
    assert!(log.contains("cluster `one`: configured by the control plane"), "{log}");
    until_served(&sluice, "web", "200 a");
    // Once the plane has it no longer, the files may.
    plane.set("rds", "3", json!({ "main": table("main", to("local")) }));
    plane.set("cds", "3", json!({}));
    // That is so once it is in force, not when the plane has said it.
    wait::until("the cluster to leave", || {
        (!sluice.items("/clusters").iter().any(|of| of["name"] == "one")).then_some(())
    });
    assert_eq!(sluice.reload(&taken), "applied");
}

#[test]
fn a_plane_is_asked_for_what_its_section_names() {
    let Some(mut plane) = Plane::start() else { return };
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    plane.set_all("1", to("local"), &[("one", a.addr())]);
    let only = ", resources: [clusters]";
    let sluice = Sluice::new().expect_warning("takes effect after a restart").start(&files(
        plane.addr,
        "one",
        b.addr(),
        only,
    ));
    until_served(&sluice, "own", "200 a");
    let told = plane.told.lock().unwrap().clone();
    let of = |kind: &str| told.iter().filter(|line| line["request"]["type"] == kind).count();
    assert!(of("cds") > 0);
    assert_eq!(of("lds") + of("rds"), 0, "{told:?}");
    let kinds: Vec<Value> = sluice.items("/xds").iter().map(|of| of["kind"].clone()).collect();
    assert!(!kinds.contains(&json!("listener")), "{kinds:?}");
    // What names the plane is read at the start.
    assert_eq!(sluice.reload(&files(plane.addr, "one", b.addr(), "")), "applied");
    let log = sluice.log();
    assert!(log.contains("the change of `xds` takes effect after a restart"), "{log}");
}

#[test]
fn a_plane_that_is_away_holds_up_the_start_for_a_time_and_files_serve() {
    let nowhere: SocketAddr = ([127, 0, 0, 1], sluice_testkit::tools::free_port()).into();
    let a = Origin::start("a");
    let sluice = Sluice::new()
        .expect_warning("the stream to the control plane `plane` has ended")
        .start(&files(nowhere, "local", a.addr(), ", timeout: 200ms"));
    until_served(&sluice, "own", "200 a");
    let streams = sluice.items("/xds");
    assert_eq!(streams[0]["state"], "connecting", "{streams:#?}");
}
