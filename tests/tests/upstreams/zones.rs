//! Which endpoints a process prefers, as clients see it: zones, aperture, latency.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_testkit::{Origin, Running, Sluice, origin, wait};

/// How many of 60 requests each origin answers.
fn answers(sluice: &Running, origins: &[Origin]) -> Vec<usize> {
    let before: Vec<usize> = origins.iter().map(|origin| origin.requests().len()).collect();
    for _ in 0..60 {
        assert_eq!(origin::get(sluice.addr("web"), "a", "/").status(), 200);
    }
    origins.iter().zip(before).map(|(origin, before)| origin.requests().len() - before).collect()
}

fn zone_aware(sluice: &Running) -> Value {
    let clusters = sluice.items("/clusters");
    clusters.into_iter().find(|cluster| cluster["name"] == "up").unwrap()["zone_aware"].clone()
}

#[test]
fn a_process_prefers_its_zone_as_far_as_the_others_allow() {
    let origins: Vec<Origin> = ["a", "a", "b", "b", "c", "c"].map(Origin::start).into();
    let zones = ["a", "a", "b", "b", "c", "c"];
    let endpoints: Vec<String> = origins
        .iter()
        .zip(zones)
        .map(|(origin, zone)| format!("{{ address: \"{}\", locality: eu/{zone} }}", origin.addr()))
        .collect();
    let kit = Sluice::new().workers(1).watching();
    let file = kit.folder().join("proxies.json");
    let place = |zones: &str| {
        let entry = |(port, zone): (u16, char)| json!({ "address": format!("127.0.0.1:{port}"), "locality": format!("eu/{zone}") });
        let list: Vec<Value> = (1..).zip(zones.chars()).map(entry).collect();
        let new = file.with_extension("new");
        std::fs::write(&new, Value::from(list).to_string()).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    place("abc");
    let sluice = kit.start(&format!(
        "node: {{ locality: eu/a, cluster: proxies }}\n\
         listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters:\n  proxies: {{ endpoints_file: proxies.json }}\n  up: {{ endpoints: [{}], zone_aware: true }}\n",
        endpoints.join(", ")
    ));
    assert_eq!(zone_aware(&sluice), json!({ "active": true, "own_zone_percent": 100.0 }));
    assert_eq!(answers(&sluice, &origins), [30, 30, 0, 0, 0, 0]);

    // Another process in this zone: a third of the endpoints for half of the processes.
    place("aabc");
    let half = json!({ "active": true, "own_zone_percent": 66.66 });
    wait::until("the new process to count", || (zone_aware(&sluice) == half).then_some(()));
    let counts = answers(&sluice, &origins);
    let zones: BTreeMap<&str, usize> =
        zones.iter().zip(&counts).fold(BTreeMap::new(), |mut all, (zone, count)| {
            *all.entry(*zone).or_default() += count;
            all
        });
    assert!(zones["a"].abs_diff(40) <= 3 && zones["b"].abs_diff(zones["c"]) <= 4, "{counts:?}");

    // Nobody but this process.
    place("a");
    wait::until("zones to be ignored", || (zone_aware(&sluice)["active"] == false).then_some(()));
    assert_eq!(zone_aware(&sluice)["why"], "all healthy processes are in one zone");
    assert!(answers(&sluice, &origins).iter().all(|count| count.abs_diff(10) <= 1));
}

#[test]
fn a_process_uses_some_of_the_endpoints() {
    let origins: Vec<Origin> = ["a"; 6].map(Origin::start).into();
    let list: Vec<String> = origins.iter().map(|of| format!("\"{}\"", of.addr())).collect();
    let yaml = |id: &str| {
        format!(
            "node: {{ id: {id} }}\n\
             listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: [{}], aperture: 2 }} }}\n",
            list.join(", ")
        )
    };
    let used = |sluice: &Running| -> Vec<bool> {
        let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
        let used = |endpoint: &Value| endpoint["not_eligible"] != json!(["aperture"]);
        endpoints.as_array().unwrap().iter().map(used).collect()
    };
    let mut seen = vec![false; 6];
    for id in 0..12 {
        let sluice = Sluice::new().workers(1).start(&yaml(&format!("proxy-{id}")));
        let in_aperture = used(&sluice);
        assert_eq!(in_aperture.iter().filter(|used| **used).count(), 2);
        for (count, used) in answers(&sluice, &origins).into_iter().zip(&in_aperture) {
            assert_eq!(count, if *used { 30 } else { 0 }, "proxy-{id}");
        }
        seen.iter_mut().zip(&in_aperture).for_each(|(seen, used)| *seen |= used);
    }
    // The ports differ from run to run: an endpoint that none of twelve uses is one chance in 100.
    assert!(seen.iter().filter(|seen| **seen).count() >= 4, "{seen:?}");
    // A restart changes nothing.
    let [one, two] = [0, 0].map(|_| used(&Sluice::new().start(&yaml("proxy-0"))));
    assert_eq!(one, two);
}

#[test]
fn latencies_of_endpoints_are_measured_for_peak_ewma_only() {
    let origins: Vec<Origin> = ["a", "b"].map(Origin::start).into();
    for (balance, expected) in [("peak_ewma", true), ("least_request", false)] {
        let sluice = Sluice::new().workers(1).start(&format!(
            "listeners:\n\
             \x20 - {{ name: web, address: 127.0.0.1:0, http: main }}\n\
             \x20 - {{ name: tcp, address: 127.0.0.1:0, relay: streams }}\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
             clusters:\n  up: {{ endpoints: [\"{}\"], balance: {balance} }}\n  streams: {{ endpoints: [\"{}\"], balance: {balance} }}\n",
            origins[0].addr(),
            origins[1].addr()
        ));
        for listener in ["web", "tcp"] {
            assert_eq!(origin::get(sluice.addr(listener), "a", "/").status(), 200);
        }
        for cluster in sluice.items("/clusters") {
            let latency = cluster["endpoints"][0]["latency_peak_seconds"].as_f64();
            assert_eq!(latency.is_some_and(|latency| latency > 0.0), expected, "{cluster}");
        }
    }
}
