//! The log of what happens to endpoints.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use sluice_testkit::origin;
use sluice_testkit::{Origin, Running, Sluice, wait};

use crate::outliers::Moody;

/// Waits until the file has that many events; each as `cluster event: detail`.
#[track_caller]
fn events(sluice: &Running, count: usize) -> Vec<String> {
    let said = |event: &Value| {
        let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
        format!("{} {}: {}", text("upstream_cluster"), text("event"), text("detail"))
    };
    wait::until("the events", || {
        let file = sluice.folder().join("health.json");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let events: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (events.len() >= count).then(|| events.iter().map(said).collect())
    })
}

#[test]
fn each_change_of_an_endpoint_is_an_event() {
    let (bad, checked, good) = (Moody::start(), Moody::start(), Origin::start("good"));
    checked.set(500);
    let kit = Sluice::new().expect_warning("endpoint ejected");
    let sluice = kit.expect_warning("endpoint is unhealthy").start(&format!(
        "listeners:\n\
         - {{ name: web, address: 127.0.0.1:0, http: ejected }}\n\
         - {{ name: counted, address: 127.0.0.1:0, http: counted }}\n\
         - {{ name: checked, address: 127.0.0.1:0, relay: checked }}\n\
         routes: {{ ejected: {{ cluster: up }}, counted: {{ cluster: counted }} }}\n\
         clusters:\n\
         \x20 up: {{ endpoints: [\"{}\", \"{}\"], outlier: {{ consecutive_5xx: 1, ejection: 100ms }} }}\n\
         \x20 checked: {{ endpoints: [\"{}\"], health: {{ http: {{}}, interval: 20ms, unhealthy_after: 1 }} }}\n\
         \x20 counted: {{ endpoints: [\"{}\", \"{}\"], outlier: {{ consecutive_5xx: 1, enforce: {{ consecutive_5xx: 0% }} }} }}\n\
         access_log:\n\
         - {{ sink: records.json }}\n\
         - {{ sink: health.json, kinds: health }}\n\
         - {{ sink: health.txt, kinds: health, format: text }}\n",
        bad.addr(), good.addr(), checked.addr(), bad.addr(),
        good.addr()
    ));
    assert_eq!(events(&sluice, 1), ["checked unhealthy: answered 500"]);
    checked.set(200);
    assert_eq!(events(&sluice, 2)[1], "checked healthy: -");
    bad.set(500);
    let fail = |listener: &str| {
        wait::until("an error", || {
            (origin::get(sluice.addr(listener), "a", "/").status() == 500).then_some(())
        });
    };
    fail("web");
    let found = events(&sluice, 4);
    assert_eq!(found[2], "up ejected: consecutive server errors");
    assert_eq!(found[3], "up readmitted: the time of its ejection is over");
    fail("counted");
    assert_eq!(events(&sluice, 5)[4], "counted not_ejected: consecutive server errors");
    // Logs that do not ask for them have none.
    assert!(sluice.records().iter().all(|record| record["kind"] != "health"));
    let text = std::fs::read_to_string(sluice.folder().join("health.txt")).unwrap();
    let line = text.lines().find(|line| line.contains(" ejected ")).unwrap();
    assert!(line.ends_with(&format!(" up {} ejected consecutive server errors", bad.addr())));
}
