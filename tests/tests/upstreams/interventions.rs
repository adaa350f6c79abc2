//! Operators' actions on endpoints and listeners: drain, weight, maintenance, pause.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::Server;
use sluice_testkit::{Running, Sluice, tools, wait};

use crate::balancing::{answers, free, named, visit};

/// Two servers, one and two, behind a listener of a Sluice whose admin address takes changes.
struct Operated {
    servers: [Server; 2],
    sluice: Running,
}

impl Operated {
    fn start() -> Self {
        let servers = ["one", "two"].map(|name| named(name, free()));
        let yaml = Self::yaml(&servers, "");
        Self { sluice: Sluice::new().workers(1).start(&yaml), servers }
    }

    fn yaml(servers: &[Server], more: &str) -> String {
        let endpoints: Vec<String> =
            servers.iter().map(|server| format!("\"{}\"", server.addr())).collect();
        format!(
            "admin: {{ address: 127.0.0.1:0, writable: true }}\n\
             listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ sticky: {{ cookie: SRV, key: 0123456789abcdef }} }}] }} }}]\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: [{}]{more} }} }}\n",
            endpoints.join(", ")
        )
    }

    /// Runs `sluice endpoint` for the first server: whether it succeeded, and what it printed.
    fn act(&self, action: &[&str]) -> (bool, String) {
        self.act_on(&self.servers[0].addr().to_string(), action)
    }

    fn act_on(&self, endpoint: &str, action: &[&str]) -> (bool, String) {
        let admin = self.sluice.admin_addr().to_string();
        let output = sluice_tests::messages::sluice(
            &[&["endpoint", "-a", &admin, "up", endpoint], action].concat(),
        );
        let said = [&*output.stdout, &*output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn succeed(&self, action: &[&str]) {
        let (done, said) = self.act(action);
        assert!(done && said.contains(&self.servers[0].addr().to_string()), "{action:?}: {said}");
    }

    /// The action in force for the first server.
    fn action(&self) -> String {
        let all = self.sluice.items("/overrides");
        all.first()
            .map_or_else(String::new, |item| item["override"]["action"].as_str().unwrap().into())
    }
}

#[test]
fn a_drain_under_load_fails_no_request() {
    let world = Operated::start();
    let (web, stop, seen) = (world.sluice.addr("web"), AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = || {
            while !stop.load(Relaxed) {
                let response = origin::get(web, "a", "/");
                assert_eq!(response.status(), 200, "{}", response.text());
                seen.fetch_add(1, Relaxed);
            }
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        let more = |count: usize| {
            let from = seen.load(Relaxed);
            let failed = || clients.iter().any(|client| client.is_finished());
            wait::until("requests to succeed", || {
                (failed() || seen.load(Relaxed) >= from + count).then_some(())
            });
        };
        more(50);
        for _ in 0..3 {
            world.succeed(&["drain"]);
            assert_eq!(answers(&world.sluice, 20), BTreeMap::from([("two".into(), 20)]));
            more(50);
            world.succeed(&["ready"]);
            let both = answers(&world.sluice, 20);
            assert_eq!(both.len(), 2, "{both:?}");
            more(50);
        }
        stop.store(true, Relaxed);
    });
    let log = world.sluice.log();
    assert!(log.contains("an endpoint was overridden") && log.contains("was removed"), "{log}");
}

#[test]
fn a_weight_survives_reloads_and_the_endpoint_leaving() {
    let world = Operated::start();
    let Operated { servers, sluice } = &world;
    world.succeed(&["weight", "9"]);
    let is_split = || {
        let counts = answers(sluice, 100);
        assert!(counts["one"].abs_diff(90) <= 1, "{counts:?}");
    };
    is_split();
    let number = |of: usize| {
        let endpoints = || sluice.items("/clusters")[0]["endpoints"].as_array().unwrap().len();
        wait::until("the endpoints to change", || (endpoints() == of).then_some(()));
    };
    sluice.reload(&Operated::yaml(servers, ", connect_timeout: 3s"));
    is_split();
    sluice.reload(&Operated::yaml(&servers[1..], ""));
    number(1);
    assert_eq!(sluice.items("/overrides")[0]["member"], false);
    sluice.reload(&Operated::yaml(servers, ""));
    number(2);
    is_split();
    let endpoint = sluice.items("/clusters")[0]["endpoints"][0].clone();
    assert_eq!(endpoint["override"]["action"], "weight 9", "{endpoint}");
    assert_eq!(endpoint["override"]["origin"], "admin", "{endpoint}");
    assert_eq!(sluice.metric("sluice_cluster_endpoints_overridden", "up"), 1);
    world.succeed(&["ready"]);
    assert!(answers(sluice, 100)["one"].abs_diff(50) <= 1);
    wait::until("the gauge to follow", || {
        (sluice.metric("sluice_cluster_endpoints_overridden", "up") == 0).then_some(())
    });
}

#[test]
fn sessions_stay_while_an_endpoint_drains_and_move_for_maintenance() {
    let world = Operated::start();
    let session = || visit(&world.sluice, "");
    let (_, _, cookie) = wait::until("a session at the first server", || {
        Some(session()).filter(|(_, name, _)| name == "one")
    });
    let back = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    world.succeed(&["drain"]);
    assert_eq!(visit(&world.sluice, &back), (200, "one".into(), String::new()));
    assert_eq!(session().1, "two");
    world.succeed(&["maintenance"]);
    assert_eq!(visit(&world.sluice, &back).1, "two");
    world.succeed(&["ready"]);
    assert_eq!(visit(&world.sluice, &back).1, "one");
}

#[test]
fn an_override_ends_in_time_and_mistakes_are_explained() {
    let world = Operated::start();
    let sluice = &world.sluice;
    world.succeed(&["maintenance", "--for", "300ms"]);
    wait::until("the override to end", || {
        (world.action().is_empty() && sluice.log().contains("has expired")).then_some(())
    });
    assert_eq!(answers(sluice, 10).len(), 2);
    world.succeed(&["drain", "--for", "1h"]);
    assert_eq!(world.action(), "drain");
    let item = sluice.items("/overrides")[0]["override"].clone();
    assert!(item["since"].is_string() && item["until"].is_string(), "{item}");
    let known = world.servers[1].addr().to_string();
    for (endpoint, action, says) in [
        ("127.0.0.1:1", &["drain"][..], known.as_str()),
        (&known, &["weight", "0"], "use `drain`"),
        (&known, &["weight", "x"], "from 1 on"),
        (&known, &["drain", "--for", "10"], "needs a unit"),
        (&known, &["ready", "--for", "10m"], "unexpected argument"),
    ] {
        let (done, said) = world.act_on(endpoint, action);
        assert!(!done && said.contains(says), "{endpoint} {action:?}: {said}");
    }
    // With nothing left to serve, the reason says why.
    assert!(world.act_on(&known, &["drain"]).1.contains("no usable endpoint"));
    assert_eq!(origin::get(sluice.addr("web"), "a", "/").status(), 503);
    let record = sluice.record_of("upstream.no_healthy");
    assert!(record.to_string().contains("2 drained or in maintenance"), "{record}");
    let read_only = Operated::yaml(&world.servers, "").replace("writable: true", "writable: false");
    sluice.reload(&read_only);
    let (done, said) = world.act(&["ready"]);
    assert!(!done && said.contains("writable: true"), "{said}");
}

#[test]
fn clients_of_a_paused_listener_wait_across_a_reload() {
    let world = Operated::start();
    let Operated { servers, sluice } = &world;
    let admin = sluice.admin_addr().to_string();
    let act = |name: &str, action: &str| {
        let output = sluice_tests::messages::sluice(&["listener", "-a", &admin, name, action]);
        let said = [&*output.stdout, &*output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let mut before = Client::connect(sluice.addr("web"));
    assert_eq!(before.get("a", "/").status(), 200);
    let (done, said) = act("web", "pause");
    assert!(done && said.contains("backlog"), "{said}");
    let accepted = || sluice.metric("sluice_listener_connections_accepted_total", "web");
    let count = accepted();
    assert!(count > 0);
    let mut waiting = Client::connect(sluice.addr("web"));
    waiting.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    sluice.reload(&Operated::yaml(servers, ", connect_timeout: 3s"));
    let listener = sluice.items("/listeners")[0].clone();
    assert_eq!(listener["override"]["action"], "pause", "{listener}");
    assert_eq!(sluice.items("/overrides")[0]["listener"], "web");
    // A new address of the listener is paused as well.
    let other = tools::free_port();
    let address = format!("127.0.0.1:{other}");
    let moved = Operated::yaml(servers, "").replacen(
        "name: web, address: 127.0.0.1:0",
        &format!("name: web, address: [\"127.0.0.1:0\", \"{address}\"]"),
        1,
    );
    sluice.reload(&moved);
    let mut also = Client::connect(address.parse().unwrap());
    also.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(accepted(), count);
    for (name, action, says) in [
        ("web", "pause", "already"),
        ("wbe", "pause", "did you mean `web`?"),
        ("web", "resume", "again"),
        ("web", "resume", "was not paused"),
    ] {
        let (_, said) = act(name, action);
        assert!(said.contains(says), "{name} {action}: {said}");
    }
    assert_eq!((waiting.read().status(), also.read().status()), (200, 200));
    assert!(sluice.items("/overrides").is_empty());
}
