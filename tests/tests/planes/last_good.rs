//! Control planes that are away when a process starts: what they said last is on disk.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_testkit::{Authority, Origin, tools, wait};
use sluice_tests::planes::{
    Envoy, FORMS, Plane, ads, assignment, bootstrap, cluster, listener, origin_of, over_ads, table,
    to, wrong_cluster,
};

fn start(bootstrap: &str, file: &Path, more: &[&str]) -> Envoy {
    let mut flags = vec!["--last-good", file.to_str().unwrap()];
    flags.extend(more);
    Envoy::with_flags(tempfile::tempdir().unwrap(), bootstrap, &flags)
}

/// Waits until the file contains these bytes.
fn until_kept(file: &Path, text: &str) {
    wait::until("the file", || {
        let bytes = std::fs::read(file).ok()?;
        bytes.windows(text.len()).any(|found| found == text.as_bytes()).then_some(())
    });
}

fn has(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(text.len()).any(|found| found == text.as_bytes())
}

/// A listener that terminates TLS: with a key in it, or with a secret that comes on its own.
fn tls_listener(name: &str, tls: Value) -> Value {
    let mut found = listener(name, "main");
    found["filter_chains"][0]["transport_socket"] = json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": tls,
    } });
    found
}

#[test]
fn a_restart_comes_up_without_its_plane_and_follows_it_later() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let folder = tempfile::tempdir().unwrap();
        let file: PathBuf = folder.path().join("last");
        plane.set_all("one-1", to("one"), &[("one", a.addr()), ("gone", a.addr())]);
        let bootstrap = over_ads(plane.addr, form);
        let mut envoy = start(&bootstrap, &file, &[]);
        envoy.until_ready();
        envoy.until_served("/", "200 a");
        until_kept(&file, "gone");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // What comes later is in the file, too.
        plane.set_all(
            "two-2",
            to("one"),
            &[("one", a.addr()), ("added", a.addr()), ("gone", a.addr())],
        );
        until_kept(&file, "added");
        let port = plane.kill();
        drop(envoy);
        let mut envoy = start(&bootstrap, &file, &[]);
        envoy.until_ready();
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
        envoy.until("cluster", "gone", "active");
        envoy.until("ads", "plane", "connecting");
        let log = envoy.log();
        assert!(log.contains("no control plane can be reached for cds: 3 of"), "{log}");
        // The plane returns, and what it has no longer leaves.
        let web = envoy.addr("web");
        let mut plane = Plane::at(port);
        plane.set_all("three-3", to("one"), &[("one", b.addr())]);
        envoy.until_served("/", "200 b");
        wait::until("clusters to leave", || {
            let items = envoy.xds();
            (!items.iter().any(|of| of["name"] == "gone" || of["name"] == "added")).then_some(())
        });
        assert_eq!(envoy.addr("web"), web);
    }
}

/// A bootstrap whose sources are waited for so long.
fn patient(plane: SocketAddr, form: &str, timeout: &str) -> String {
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": timeout });
    let service = json!({ "api_type": form, "transport_api_version": "V3", "grpc_services": [{ "envoy_grpc": { "cluster_name": "plane" } }] });
    bootstrap(
        plane,
        &format!("  ads_config: {service}\n  cds_config: {ads}\n  lds_config: {ads}\n"),
    )
}

#[test]
fn a_plane_that_stays_silent_is_waited_for_no_longer_than_its_source_says() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last");
        plane.set_all("1", to("one"), &[("one", a.addr()), ("gone", a.addr())]);
        let mut envoy = start(&patient(plane.addr, form, "30s"), &file, &[]);
        envoy.until_ready();
        until_kept(&file, "gone");
        let port = plane.kill();
        drop(envoy);
        let mut plane = Plane::at(port);
        let mut envoy = start(&patient(plane.addr, form, "0.3s"), &file, &[]);
        envoy.until_ready();
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
        let log = envoy.log();
        assert!(log.contains("no control plane has sent cds in time: 2 of"), "{log}");
        assert!(log.contains("no control plane has sent lds in time: 1 of"), "{log}");
        // The plane speaks after all, and what it has no longer leaves.
        plane.set_all("2", to("one"), &[("one", b.addr())]);
        envoy.until_served("/", "200 b");
        wait::until("a cluster to leave", || {
            (!envoy.xds().iter().any(|of| of["name"] == "gone")).then_some(())
        });
    }
}

#[test]
fn endpoints_that_do_not_come_in_time_are_those_of_before() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last");
        let soon =
            json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0.3s" });
        let one = json!({ "one": { "name": "one", "type": "EDS", "eds_cluster_config": { "eds_config": soon } } });
        plane.set_all("1", to("one"), &[("one", a.addr())]);
        plane.set("cds", "2", one.clone());
        let mut endpoints = assignment("one", &[a.addr()]);
        endpoints["endpoints"][0]["locality"]["region"] = "somewhere".into();
        plane.set("eds", "2", json!({ "one": endpoints }));
        let bootstrap = over_ads(plane.addr, form);
        let mut envoy = start(&bootstrap, &file, &[]);
        envoy.until_ready();
        // They may have come after their time.
        until_kept(&file, "somewhere");
        until_kept(&file, "web");
        let port = plane.kill();
        drop(envoy);
        let mut plane = Plane::at(port);
        plane.set("cds", "2", one);
        plane.set("lds", "2", json!({ "web": listener("web", "main") }));
        plane.set("rds", "2", json!({ "main": table("main", to("one")) }));
        let mut envoy = start(&bootstrap, &file, &[]);
        envoy.until_ready();
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
        let log = envoy.log();
        assert!(
            log.contains("endpoints `one` has not come in time: it is as it was last"),
            "{log}"
        );
        plane.set("eds", "3", json!({ "one": assignment("one", &[b.addr()]) }));
        envoy.until_served("/", "200 b");
    }
}

#[test]
fn what_is_refused_after_a_restart_is_as_it_was_before() {
    for form in FORMS {
        let Some(mut plane) = Plane::start() else { return };
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last");
        plane.set_all("1", to("one"), &[("one", a.addr()), ("two", b.addr())]);
        let bootstrap = over_ads(plane.addr, form);
        let mut envoy = start(&bootstrap, &file, &[]);
        envoy.until_ready();
        until_kept(&file, "web");
        let port = plane.kill();
        drop(envoy);
        let mut plane = Plane::at(port);
        plane.set_all("2", to("one"), &[("one", a.addr()), ("two", b.addr())]);
        let wrong = wrong_cluster("one");
        plane.set("cds", "3", json!({ "one": wrong, "two": cluster("two") }));
        let no_route = json!([{ "match": { "prefix": "/" }, "route": { "cluster": "two", "prefix_rewrite": "no\nline" } }]);
        plane.set("rds", "3", json!({ "main": table("main", no_route) }));
        let mut envoy = start(&bootstrap, &file, &[]);
        envoy.until_ready();
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
        assert!(plane.error("cds").starts_with("cluster `one`: lb_policy"));
        assert!(plane.error("rds").starts_with("routes `main`: "));
        let rejected = envoy.until("cluster", "one", "rejected");
        assert!(rejected["version"].is_string(), "{rejected}");
        envoy.until("routes", "main", "rejected");
        // The plane corrects both.
        plane.set("cds", "4", json!({ "one": cluster("one"), "two": cluster("two") }));
        plane.set("rds", "4", json!({ "main": table("main", to("two")) }));
        envoy.until_served("/", "200 b");
        envoy.until("cluster", "one", "active");
    }
}

#[test]
fn secrets_are_kept_only_if_that_is_asked_for() {
    for with_secrets in [false, true] {
        let Some(mut plane) = Plane::start() else { return };
        let a = Origin::start("a");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last");
        Authority::new(folder.path()).issue("site", &["site.test"]);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let (cert, key) = (read("site.pem"), read("site.key"));
        let pair = json!({ "certificate_chain": { "inline_string": cert }, "private_key": { "inline_string": key } });
        let by_name = json!({ "tls_certificate_sds_secret_configs": [{ "name": "site", "sds_config": ads() }] });
        plane.set_all("1", to("one"), &[("one", a.addr())]);
        plane.set(
            "lds",
            "1",
            json!({
                "web": listener("web", "main"),
                "inside": tls_listener("inside", json!({ "tls_certificates": [pair] })),
                "named": tls_listener("named", by_name),
            }),
        );
        plane.set("sds", "1", json!({ "site": { "name": "site", "tls_certificate": pair } }));
        let bootstrap = over_ads(plane.addr, "DELTA_GRPC");
        let flags: &[&str] = if with_secrets { &["--last-good-secrets"] } else { &[] };
        let mut envoy = start(&bootstrap, &file, flags);
        envoy.until_ready();
        until_kept(&file, "named");
        let line = key.lines().nth(1).unwrap();
        assert_eq!(has(&file, line), with_secrets);
        assert_eq!(has(&file, "inside"), with_secrets);
        plane.kill();
        drop(envoy);
        let envoy = start(&bootstrap, &file, flags);
        assert_eq!(origin_of(envoy.addr("web"), "/"), "200 a");
        let state = if with_secrets { "active" } else { "warming" };
        envoy.until("listener", "named", state);
        assert_eq!(envoy.xds().iter().any(|of| of["name"] == "inside"), with_secrets);
    }
}

#[test]
fn what_is_not_for_this_process_is_not_used() {
    let nowhere: SocketAddr = ([127, 0, 0, 1], tools::free_port()).into();
    let folder = tempfile::tempdir().unwrap();
    let refused = |bytes: &[u8], mode: u32, why: &str| {
        let file = folder.path().join("last");
        std::fs::write(&file, bytes).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let envoy = start(&over_ads(nowhere, "GRPC"), &file, &[]);
        wait::until("a line of the log", || envoy.log().contains(why).then_some(()));
        assert!(!envoy.is_ready());
    };
    refused(b"nonsense", 0o600, "it is not a file of this kind, or not whole");
    // Another node, without resources.
    let other = b"sluice last good 1\n\x0a\x05other\x12\x01c\x1a\x01v\x78\x01";
    refused(
        other,
        0o600,
        "it is of the node `other` of the cluster `c`, and this one is `here` of `tests`",
    );
    let old = b"sluice last good 1\n\x0a\x04here\x12\x05tests\x1a\x01v\x78\x01";
    refused(old, 0o600, "it was written by version v");
    refused(old, 0o666, "others may write to it");
}
