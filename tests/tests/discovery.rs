//! Where endpoints come from: files that list them, and DNS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect, exchange, read};
use sluice_testkit::{Origin, Running, Sluice, wait};

/// A TCP and an HTTP listener in front of a cluster with these settings.
fn both(cluster: &str) -> String {
    format!(
        "listeners: [{{ name: tcp, address: 127.0.0.1:0, relay: up }}, {{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ {cluster} }} }}\n"
    )
}

/// Moves a file with these endpoints into place.
fn place(path: &Path, endpoints: &[SocketAddr]) {
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    place_text(path, &format!("[{}]", list.join(", ")));
}

fn place_text(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// The addresses in force.
fn members(sluice: &Running) -> Vec<String> {
    let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
    let address = |endpoint: &serde_json::Value| endpoint["address"].as_str().unwrap().to_owned();
    endpoints.as_array().unwrap().iter().map(address).collect()
}

fn wait_for_members(sluice: &Running, expected: &[SocketAddr]) {
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    wait::until("the endpoints of the file", || (members(sluice) == expected).then_some(()));
}

#[test]
fn a_rolling_replacement_by_file_loses_no_request_and_ends_no_connection() {
    let origins: Vec<Origin> = (0..6).map(|_| Origin::start("o")).collect();
    let addresses: Vec<SocketAddr> = origins.iter().map(Origin::addr).collect();
    let sets = [&addresses[..3], &addresses[3..]];
    let kit = Sluice::new().watching();
    let file = kit.folder().join("up.json");
    place(&file, sets[0]);
    let sluice = kit.start(&both("endpoints_file: up.json, balance: random"));
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(sluice.addr("web"));
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.get("a", "/").status(), 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // These stay with the first endpoints, and go on as long as they live.
        let mut kept: Vec<Client> = (0..8).map(|_| Client::connect(sluice.addr("tcp"))).collect();
        for round in 1..=20 {
            place(&file, sets[round % 2]);
            wait_for_members(&sluice, sets[round % 2]);
            let before = served.load(Ordering::Relaxed);
            wait::until("requests", || {
                (served.load(Ordering::Relaxed) > before + 20).then_some(())
            });
            for client in &mut kept {
                assert_eq!(client.get("a", "/").status(), 200);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(origins.iter().all(|origin| !origin.requests().is_empty()));
    assert!(sluice.metric("sluice_endpoint_file_reads_total", "applied") > 20);
    assert_eq!(sluice.metric("sluice_endpoint_file_reads_total", "failed"), 0);
}

#[test]
fn a_broken_file_keeps_the_last_good_and_says_so() {
    let (one, two) = (Server::greeter("one"), Server::greeter("two"));
    let kit = Sluice::new().watching().expect_warning("the endpoint file cannot be used");
    let file = kit.folder().join("up.json");
    place(&file, &[one.addr()]);
    let sluice = kit.start(&both("endpoints_file: up.json"));
    let state = || sluice.items("/clusters")[0]["endpoints_file"].clone();
    assert!(state()["failure"].is_null() && state()["applied_at"].is_string(), "{}", state());
    for (broken, problem) in [
        ("", "the file is empty"),
        ("[\"127.0.0.1\"]", "up.json:1:2: "),
        ("[{ \"address\": \"127.0.0.1:1\", \"backup\": true, \"priority\": 2 }]", "write only one"),
    ] {
        place_text(&file, broken);
        wait::until(problem, || state()["failure"].as_str()?.contains(problem).then_some(()));
        assert_eq!(sluice.metric("sluice_endpoint_file_stale", "up"), 1);
        assert_eq!(read(&mut connect(sluice.addr("tcp")), 3), b"one");
    }
    assert_eq!(sluice.metric("sluice_endpoint_file_reads_total", "failed"), 3);
    place(&file, &[two.addr()]);
    wait_for_members(&sluice, &[two.addr()]);
    assert!(state()["failure"].is_null());
    assert_eq!(sluice.metric("sluice_endpoint_file_stale", "up"), 0);
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 3), b"two");
    // A file that says so empties the cluster.
    place_text(&file, "[]");
    wait_for_members(&sluice, &[]);
}

#[test]
fn a_file_takes_effect_while_the_configuration_is_broken() {
    let (one, two) = (Server::greeter("one"), Server::greeter("two"));
    let kit = Sluice::new().watching().expect_warning("reload failed");
    let file = kit.folder().join("up.json");
    place(&file, &[one.addr()]);
    let sluice = kit.start(&both("endpoints_file: up.json"));
    assert_eq!(sluice.reload(&both("endpoints_file: up.json, balance: nothing")), "failed");
    let mut old = connect(sluice.addr("tcp"));
    assert_eq!(read(&mut old, 3), b"one");
    place(&file, &[two.addr()]);
    wait_for_members(&sluice, &[two.addr()]);
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 3), b"two");
    assert_eq!(exchange(&mut old, b"still"), b"still");
    // From a file to a list and back, with the broken file in between.
    let listed = format!("endpoints: [\"{}\"]", one.addr());
    assert_eq!(sluice.reload(&both(&listed)), "applied");
    wait_for_members(&sluice, &[one.addr()]);
    assert!(sluice.items("/clusters")[0]["endpoints_file"].is_null());
    place_text(&file, "- nonsense");
    assert_eq!(sluice.reload(&both("endpoints_file: up.json")), "failed");
    assert_eq!(members(&sluice), [one.addr().to_string()]);
    place(&file, &[two.addr()]);
    assert_eq!(sluice.reload(&both("endpoints_file: up.json")), "applied");
    wait_for_members(&sluice, &[two.addr()]);
}

#[test]
fn thousands_of_endpoints_change_at_once() {
    let last = Server::greeter("last");
    let kit = Sluice::new().watching();
    let file = kit.folder().join("up.json");
    let many = |net: u8| -> Vec<SocketAddr> {
        (0..5000_u16)
            .map(|number| {
                let [high, low] = number.to_be_bytes();
                SocketAddr::from(([127, net, high, low], 9))
            })
            .collect()
    };
    place(&file, &many(1));
    let sluice = kit.start(&both("endpoints_file: up.json"));
    assert_eq!(members(&sluice).len(), 5000);
    place(&file, &many(2));
    wait_for_members(&sluice, &many(2));
    place(&file, &[last.addr()]);
    wait_for_members(&sluice, &[last.addr()]);
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 4), b"last");
}
