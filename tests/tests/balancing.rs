//! Load balancing as clients see it: priorities, panic mode, localities, slow start.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::SocketAddr;

use sluice_testkit::origin::{self, read_message};
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, Running, Sluice, tools, wait};

/// A server that answers the first request on each connection with its name; over HTTP and over a relayed stream alike.
fn named(name: &'static str, address: SocketAddr) -> Server {
    Server::start_at(address, move |mut stream| {
        let length = name.len();
        // A health check sends nothing.
        match read_message(&mut BufReader::new(stream.try_clone()?), false) {
            Ok(_) => write!(
                stream,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{name}"
            ),
            Err(_) => Ok(()),
        }
    })
}

/// Any free port.
fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Who answers on a listener.
fn who(sluice: &Running, listener: &str) -> String {
    origin::get(sluice.addr(listener), "a", "/").text()
}

/// The share of traffic of each priority, in percent.
fn shares(sluice: &Running) -> Vec<u64> {
    let priorities = sluice.items("/clusters")[0]["priorities"].as_array().unwrap().clone();
    priorities.iter().map(|priority| priority["healthy"].as_u64().unwrap()).collect()
}

fn wait_for_shares(sluice: &Running, expected: &[u64]) {
    wait::until("traffic to move", || (shares(sluice) == expected).then_some(()));
}

#[test]
fn a_backup_takes_over_and_gives_back() {
    let first = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let primary = named("primary", first);
    let backup = named("backup", free());
    let sluice = Sluice::new().workers(1).expect_warning("endpoint is unhealthy").start(&format!(
        "listeners: [{{ name: tcp, address: 127.0.0.1:0, relay: db }}, {{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: db }}] }}] }}\n\
         clusters:\n  db:\n    endpoints: [\"{first}\", {{ address: \"{}\", backup: true }}]\n    outlier: none\n\
         \x20   health: {{ tcp: true, interval: 50ms, timeout: 50ms, unhealthy_after: 1, healthy_after: 1 }}\n",
        backup.addr()
    ));
    for _ in 0..10 {
        assert_eq!(
            (who(&sluice, "tcp"), who(&sluice, "web")),
            ("primary".into(), "primary".into())
        );
    }
    drop(primary);
    // Whether the check has noticed yet or not.
    for _ in 0..10 {
        assert_eq!((who(&sluice, "tcp"), who(&sluice, "web")), ("backup".into(), "backup".into()));
    }
    wait_for_shares(&sluice, &[0, 100]);
    assert_eq!((who(&sluice, "tcp"), who(&sluice, "web")), ("backup".into(), "backup".into()));
    let _again = named("primary", first);
    wait_for_shares(&sluice, &[100, 0]);
    for _ in 0..10 {
        assert_eq!(
            (who(&sluice, "tcp"), who(&sluice, "web")),
            ("primary".into(), "primary".into())
        );
    }
}

#[test]
fn traffic_returns_after_the_failback_delay() {
    let first = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let primary = named("primary", first);
    let backup = named("backup", free());
    let sluice = Sluice::new().workers(1).expect_warning("endpoint is unhealthy").start(&format!(
        "listeners: [{{ name: tcp, address: 127.0.0.1:0, relay: db }}]\n\
         clusters:\n  db:\n    endpoints: [\"{first}\", {{ address: \"{}\", backup: true }}]\n    outlier: none\n\
         \x20   failover: {{ failback_delay: 1s }}\n\
         \x20   health: {{ tcp: true, interval: 50ms, timeout: 50ms, unhealthy_after: 1, healthy_after: 1 }}\n",
        backup.addr()
    ));
    assert_eq!(who(&sluice, "tcp"), "primary");
    drop(primary);
    wait_for_shares(&sluice, &[0, 100]);
    let _again = named("primary", first);
    let healthy = || sluice.items("/clusters")[0]["endpoints"][0]["healthy"] == true;
    wait::until("the primary to be healthy", || healthy().then_some(()));
    // Healthy, and held back: unless this machine stood still for a whole second, the backup still serves.
    let seen = (shares(&sluice), who(&sluice, "tcp"));
    assert!(seen == (vec![0, 100], "backup".into()) || seen.0 == [100, 0], "{seen:?}");
    wait_for_shares(&sluice, &[100, 0]);
    assert_eq!(who(&sluice, "tcp"), "primary");
}

#[test]
fn in_panic_all_endpoints_are_used() {
    for (failover, status) in [("", 503), ("failover: { panic: 50% },", 200)] {
        let (one, two) = (Origin::start("one"), Origin::start("two"));
        let mut sluice = Sluice::new().workers(1).expect_warning("endpoint is unhealthy");
        if status == 200 {
            sluice = sluice.expect_warning("panic mode");
        }
        let sluice = sluice.start(&format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: [\"{}\", \"{}\"], {failover} health: {{ http: {{ path: /status/500 }}, interval: 50ms, timeout: 50ms, unhealthy_after: 1 }} }} }}\n",
            one.addr(),
            two.addr()
        ));
        wait::until("both endpoints to be unhealthy", || {
            (sluice.metric("sluice_cluster_endpoints", "\"unhealthy\"") == 2).then_some(())
        });
        let panics = status == 200;
        wait::until("panic mode, if it is on", || {
            let priority = sluice.items("/clusters")[0]["priorities"][0].clone();
            (priority["panic"] == panics).then_some(())
        });
        assert_eq!(origin::get(sluice.addr("web"), "a", "/").status(), status, "{failover}");
    }
}

/// How many of `count` requests each origin answers.
fn answers(sluice: &Running, count: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        *counts.entry(who(sluice, "web")).or_default() += 1;
    }
    counts
}

#[test]
fn localities_have_their_weights() {
    let [one, two, three] = ["one", "two", "three"].map(|name| named(name, free()));
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters:\n  up:\n    localities: {{ a: 3, eu/b: 1 }}\n    endpoints:\n\
         \x20     - {{ address: \"{}\", locality: a }}\n      - {{ address: \"{}\", locality: eu/b }}\n      - {{ address: \"{}\", locality: eu/b }}\n",
        one.addr(),
        two.addr(),
        three.addr()
    ));
    let counts = answers(&sluice, 400);
    // Ten standard deviations of 8.7.
    assert!(counts["one"].abs_diff(300) < 87, "{counts:?}");
    assert!(counts["two"].abs_diff(counts["three"]) <= 1, "{counts:?}");
    let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
    assert_eq!(
        (&endpoints[0]["locality"], &endpoints[2]["locality"]),
        (&"a".into(), &"eu/b".into())
    );
}

#[test]
fn an_endpoint_that_joins_starts_slowly() {
    let [one, two] = ["one", "two"].map(|name| named(name, free()));
    let yaml = |endpoints: &str| {
        format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: [{endpoints}], slow_start: {{ window: 1h, min_weight: 25% }} }} }}\n"
        )
    };
    let first = format!("\"{}\"", one.addr());
    let sluice = Sluice::new().workers(1).start(&yaml(&first));
    assert_eq!(answers(&sluice, 5), BTreeMap::from([("one".into(), 5)]));
    sluice.reload(&yaml(&format!("{first}, \"{}\"", two.addr())));
    wait::until("the second endpoint to be there", || {
        (sluice.items("/clusters")[0]["endpoints"].as_array().unwrap().len() == 2).then_some(())
    });
    // In turn, with weights of 4 to 1.
    let counts = answers(&sluice, 100);
    assert!(counts["two"].abs_diff(20) <= 1, "{counts:?}");
}
