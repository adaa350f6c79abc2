//! Balancers of loaded libraries: the examples in C++ and Rust, and one that does what it must not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sluice_testkit::libraries::{compile, compile_text, example, rust_example};
use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Running, Sluice, wait};
use sluice_tests::messages::{out, sluice};

/// A listener `web` before a cluster with these endpoints and this `balance`, with the header `x-user` as hash.
fn config(endpoints: &[String], balance: &str, more: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main }} }}]\n\
         routes: {{ main: [{{ rules: [{{ name: a, cluster: up, hash: \"header:x-user\" }}] }}] }}\n\
         clusters:\n  up: {{ endpoints: [{}], balance: {{ module: {balance} }}{more} }}\n",
        endpoints.join(", ")
    )
}

fn quoted(origins: &[&Origin]) -> Vec<String> {
    origins.iter().map(|origin| format!("\"{}\"", origin.addr())).collect()
}

/// Which origin answers a user, by its `x-origin`.
fn who(sluice: &Running, user: usize) -> String {
    let request =
        format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: u{user}\r\nConnection: close\r\n\r\n");
    let response = Client::connect(sluice.addr("web")).ask(&request);
    assert_eq!(response.status(), 200);
    response.value("x-origin").to_owned()
}

fn failures(sluice: &Running) -> i64 {
    sluice.metric("sluice_cluster_balancer_failures_total", "cluster=\"up\"")
}

#[test]
fn the_example_in_cpp_keeps_hashes_with_their_shards() {
    let kit = Sluice::new().workers(2);
    if compile(&example("shard.cpp"), kit.folder()).is_none() {
        return;
    }
    let (a, b, c) = (Origin::start("a"), Origin::start("b"), Origin::start("c"));
    let mut origins = [&a, &b, &c];
    // The shards are in the order of their addresses: the last is the one to be added.
    origins.sort_by_key(|origin| origin.addr().to_string());
    let balance = "{ library: libshard.so }";
    let sluice = kit.start(&config(&quoted(&origins[..2]), balance, ""));
    let before: Vec<String> = (0..60).map(|user| who(&sluice, user)).collect();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 2);
    assert_eq!((0..60).map(|user| who(&sluice, user)).collect::<Vec<_>>(), before);
    // In another order, and with one more: only what the new one gets has moved.
    let three = [origins[2], origins[1], origins[0]];
    assert_eq!(sluice.reload(&config(&quoted(&three), balance, "")), "applied");
    let after: Vec<String> = (0..60).map(|user| who(&sluice, user)).collect();
    let moved: BTreeSet<&String> =
        before.iter().zip(&after).filter(|(one, other)| one != other).map(|(_, to)| to).collect();
    assert_eq!(moved.len(), 1, "{before:?} {after:?}");
    assert!(!before.contains(*moved.first().unwrap()));
    assert_eq!(sluice.items("/clusters")[0]["balance"], "module");
    assert_eq!(failures(&sluice), 0);
}

#[test]
fn the_example_in_rust_prefers_a_zone() {
    let library = rust_example("nearest");
    let (near, far) = (Origin::start("near"), Origin::start("far"));
    let endpoints = |near: &Origin, far: &Origin| {
        [
            format!("{{ address: \"{}\", locality: eu-1b }}", far.addr()),
            format!("{{ address: \"{}\", locality: eu-1a }}", near.addr()),
        ]
    };
    let balance = format!("{{ library: {}, config: eu-1a }}", library.display());
    let sluice = Sluice::new().workers(1).expect_warning("reload failed").start(&config(
        &endpoints(&near, &far),
        &balance,
        "",
    ));
    assert!((0..20).all(|user| who(&sluice, user) == "near"));
    // At a limit, the others are asked.
    let mut waits = Client::connect(sluice.addr("web"));
    let limited =
        config(&endpoints(&near, &far), &balance, ", limits: { requests_per_endpoint: 1 }");
    assert_eq!(sluice.reload(&limited), "applied");
    waits.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request", || {
        near.requests().iter().any(|request| request.path() == "/wait").then_some(())
    });
    assert!((0..5).all(|user| who(&sluice, user) == "far"));
    near.release();
    assert_eq!(failures(&sluice), 0);
    let wrong = balance.replace("config: eu-1a", "config: \"\"");
    assert_eq!(sluice.reload(&config(&endpoints(&near, &far), &wrong, "")), "failed");
    let failure = sluice.items("/config")[0]["last_failure"].as_str().unwrap().to_owned();
    assert!(
        failure.contains("nearest 1.0 refuses this configuration: a zone is needed"),
        "{failure}"
    );
}

#[test]
fn what_a_balancer_must_not_choose_goes_to_the_next_in_turn() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/hostile_datagrams.c");
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    for (text, failed, said) in [
        ("beyond", true, "balancer_pick chose endpoint 2 of 2"),
        ("far", true, "balancer_pick chose endpoint 18446744073709551615 of 2"),
        ("code", true, "balancer_pick returned 77"),
        ("refuse", true, "balancer_new returned 5"),
        ("none", false, ""),
    ] {
        let kit = Sluice::new().workers(1);
        let kit = if failed { kit.expect_warning(said) } else { kit };
        if compile(&source, kit.folder()).is_none() {
            return;
        }
        let balance = format!("{{ library: libhostile_datagrams.so, config: {text} }}");
        let sluice = kit.start(&config(&quoted(&[&a, &b]), &balance, ""));
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for user in 0..10 {
            *counts.entry(who(&sluice, user)).or_default() += 1;
        }
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [5, 5], "{text}");
        let expected = if failed { 10 } else { 0 };
        wait::until("the failures", || (failures(&sluice) == expected).then_some(()));
        assert_eq!(sluice.log().matches("an unexpected answer").count(), 0, "{}", sluice.log());
        if failed {
            wait::until("the line", || (sluice.log().matches(said).count() == 1).then_some(()));
        }
    }
}

#[test]
fn libraries_that_are_no_balancers_are_errors_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let text = "#include \"sluice_filter.h\"\n\
                static sluice_result config_new(sluice_config c, sluice_text f, sluice_text t, void **o) { (void)c, (void)f, (void)t, (void)o; return 0; }\n\
                const sluice_module *sluice_module_init(const sluice_host *of) { (void)of;\n\
                static const sluice_module m = { .size = sizeof(sluice_module), .major = 1, .config_new = config_new }; return &m; }\n";
    if compile_text("nothing", text, here).is_none() {
        return;
    }
    compile(&example("shard.cpp"), here).unwrap();
    let endpoints = ["\"127.0.0.1:9\"".to_owned()];
    for (balance, more, expected) in [
        (
            "{ library: libnothing.so }",
            "",
            "libnothing.so is no balancer: it has no `balancer_pick`",
        ),
        ("{ library: libmissing.so }", "", "cannot use libmissing.so: No such file"),
        ("{ library: libshard.so, config: a }", "", "there is nothing to configure"),
        ("{ config: a }", "", "library"),
        (
            "{ library: libshard.so }",
            ", preconnect: { predicted: 200% }",
            "`predicted` cannot be used with a balancer of a loaded library",
        ),
    ] {
        let path = here.join("sluice.yaml");
        std::fs::write(&path, config(&endpoints, balance, more)).unwrap();
        let output = sluice(&["check", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{balance}: {}", out(&output));
        assert!(out(&output).contains(expected), "{balance}: {}", out(&output));
    }
}
