//! Load balancing as clients see it: priorities, panic mode, localities, slow start, operators' actions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use sluice_testkit::origin::{self, Client, read_message};
use sluice_testkit::peers::{Server, UdpServer, udp_client};
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
         \x20   health: {{ tcp: true, interval: 50ms, unhealthy_after: 1, healthy_after: 1 }}\n",
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
         \x20   health: {{ tcp: true, interval: 50ms, unhealthy_after: 1, healthy_after: 1 }}\n",
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
             clusters: {{ up: {{ endpoints: [\"{}\", \"{}\"], {failover} health: {{ http: {{ path: /status/500 }}, interval: 50ms, unhealthy_after: 1 }} }} }}\n",
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

/// A request with these headers: who answers, and the cookie that comes with it.
fn visit(sluice: &Running, headers: &str) -> (u16, String, String) {
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let response = Client::connect(sluice.addr("web")).ask(&request);
    (response.status(), response.text(), response.value("set-cookie").to_owned())
}

#[test]
fn a_session_stays_with_its_endpoint() {
    let servers = ["one", "two", "three"].map(|name| named(name, free()));
    let list = servers.iter().map(|server| format!("\"{}\"", server.addr())).collect::<Vec<_>>();
    let yaml = |endpoints: &[String]| {
        format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ sticky: {{ cookie: SRV, key: 0123456789abcdef }} }}] }} }}]\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: [{}] }} }}\n",
            endpoints.join(", ")
        )
    };
    let sluice = Sluice::new().start(&yaml(&list));
    let (_, name, cookie) = visit(&sluice, "");
    let token = cookie.split(';').next().unwrap().to_owned();
    assert!(token.starts_with("SRV=") && cookie.contains("; HttpOnly; SameSite=Lax"), "{cookie}");
    let back = format!("cookie: a=b; {token}\r\n");
    for _ in 0..10 {
        assert_eq!(visit(&sluice, &back), (200, name.clone(), String::new()));
    }
    // Another instance with the same key knows it, too.
    let other = Sluice::new().start(&yaml(&list));
    assert_eq!(visit(&other, &back), (200, name.clone(), String::new()));
    // A forged token is as none.
    let forged = format!("cookie: SRV={}\r\n", "0".repeat(40));
    assert!(visit(&sluice, &forged).2.starts_with("SRV="));
    // When the endpoint leaves, the session moves.
    let left: Vec<String> = list
        .iter()
        .zip(["one", "two", "three"])
        .filter(|(_, of)| *of != name)
        .map(|(endpoint, _)| endpoint.clone())
        .collect();
    sluice.reload(&yaml(&left));
    wait::until("the endpoint to be gone", || {
        (sluice.items("/clusters")[0]["endpoints"].as_array().unwrap().len() == 2).then_some(())
    });
    let (status, next, cookie) = visit(&sluice, &back);
    assert!(status == 200 && next != name && cookie.starts_with("SRV="), "{next} {cookie}");
    assert_eq!(sluice.metric("sluice_cluster_sessions_total", "moved"), 1);
    assert!(sluice.metric("sluice_cluster_sessions_total", "kept") >= 10);
}

#[test]
fn a_source_comes_back_to_its_endpoint() {
    let servers = ["one", "two", "three"].map(|name| named(name, free()));
    let udp = ["one", "two", "three"].map(|name| UdpServer::start(move |_| vec![name.into()]));
    let list = |addresses: Vec<SocketAddr>| {
        addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
    };
    let sluice = Sluice::new().workers(2).start(&format!(
        "listeners:\n\
         \x20 - {{ name: tcp, address: 127.0.0.1:0, relay: {{ cluster: tcp, sticky: source_ip }} }}\n\
         \x20 - {{ name: udp, address: \"udp://127.0.0.1:0\", relay: {{ cluster: udp, sticky: {{ by: source_ip, ttl: 1h }}, responses: 1 }} }}\n\
         clusters: {{ tcp: {{ endpoints: [{}] }}, udp: {{ endpoints: [{}] }} }}\n",
        list(servers.iter().map(Server::addr).collect()),
        list(udp.iter().map(UdpServer::addr).collect()),
    ));
    let first = who(&sluice, "tcp");
    for _ in 0..12 {
        assert_eq!(who(&sluice, "tcp"), first);
    }
    let ask = || {
        let client = udp_client();
        client.send_to(b"who", sluice.addr("udp")).unwrap();
        let mut answer = [0; 16];
        let length = client.recv(&mut answer).unwrap();
        answer[..length].to_vec()
    };
    let first = ask();
    for _ in 0..12 {
        assert_eq!(ask(), first);
    }
}

/// One datagram as a new flow: who answers.
fn who_by_datagram(sluice: &Running) -> String {
    let client = udp_client();
    client.send_to(b"who", sluice.addr("udp")).unwrap();
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

/// Relays over TCP and UDP with these fields; `a` and `b` are clusters of one server each.
fn splitting(relay: &str, servers: &[Server; 2], udp: &[UdpServer; 2]) -> String {
    format!(
        "listeners:\n\
         \x20 - {{ name: tcp, address: 127.0.0.1:0, relay: {{ split: {{ a: 75%, b: 25% }}{relay} }} }}\n\
         \x20 - {{ name: udp, address: \"udp://127.0.0.1:0\", relay: {{ split: {{ ua: 3, ub: 1 }}, responses: 1{relay} }} }}\n\
         clusters: {{ a: \"{}\", b: \"{}\", ua: \"{}\", ub: \"{}\" }}\n",
        servers[0].addr(),
        servers[1].addr(),
        udp[0].addr(),
        udp[1].addr()
    )
}

#[test]
fn relays_are_split_among_clusters() {
    let servers = ["a", "b"].map(|name| named(name, free()));
    let udp = ["a", "b"].map(|name| UdpServer::start(move |_| vec![name.into()]));
    let sluice = Sluice::new().workers(1).start(&splitting("", &servers, &udp));
    for ask in [|sluice: &Running| who(sluice, "tcp"), who_by_datagram] {
        let count = (0..400).filter(|_| ask(&sluice) == "a").count();
        // Ten standard deviations of 8.7.
        assert!(count.abs_diff(300) < 87, "{count} of 400");
    }
    sluice.record("the other cluster", |record| record["upstream_cluster"] == "b");
    sluice.record("the other cluster of flows", |record| record["upstream_cluster"] == "ub");
}

#[test]
fn a_client_stays_with_its_cluster() {
    let servers = ["a", "b"].map(|name| named(name, free()));
    let udp = ["a", "b"].map(|name| UdpServer::start(move |_| vec![name.into()]));
    for relay in [", hash: source_ip", ", sticky: source_ip"] {
        let sluice = Sluice::new().workers(2).start(&splitting(relay, &servers, &udp));
        let first = (who(&sluice, "tcp"), who_by_datagram(&sluice));
        for _ in 0..16 {
            assert_eq!((who(&sluice, "tcp"), who_by_datagram(&sluice)), first, "{relay}");
        }
    }
}

#[test]
fn another_cluster_serves_while_no_endpoint_is_usable() {
    let first = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let primary = named("primary", first);
    let other = named("other", free());
    let udp = UdpServer::start(|_| vec!["other".into()]);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.json");
    std::fs::write(&empty, "[]").unwrap();
    let sluice = Sluice::new().workers(1).expect_warning("endpoint is unhealthy").start(&format!(
        "listeners:\n\
         \x20 - {{ name: tcp, address: 127.0.0.1:0, relay: main }}\n\
         \x20 - {{ name: web, address: 127.0.0.1:0, http: main }}\n\
         \x20 - {{ name: udp, address: \"udp://127.0.0.1:0\", relay: {{ cluster: none, responses: 1 }} }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: main }}] }}] }}\n\
         clusters:\n\
         \x20 main:\n    endpoints: \"{first}\"\n    fallback: empty\n    outlier: none\n\
         \x20   health: {{ tcp: true, interval: 50ms, unhealthy_after: 1, healthy_after: 1 }}\n\
         \x20 empty: {{ endpoints_file: \"{}\", fallback: other }}\n\
         \x20 other: {{ endpoints: \"{}\", limits: {{ connections: 1 }} }}\n\
         \x20 none: {{ endpoints_file: \"{}\", fallback: udp }}\n\
         \x20 udp: \"{}\"\n",
        empty.display(),
        other.addr(),
        empty.display(),
        udp.addr()
    ));
    assert_eq!((who(&sluice, "tcp"), who(&sluice, "web")), ("primary".into(), "primary".into()));
    assert_eq!(who_by_datagram(&sluice), "other");
    assert_eq!(sluice.metric("sluice_cluster_fallbacks_total", "\"main\""), 0);
    drop(primary);
    wait::until("the endpoint to be unhealthy", || {
        (sluice.metric("sluice_cluster_endpoints", "\"unhealthy\"") == 1).then_some(())
    });
    // It has room for one connection.
    let unused = || {
        wait::until("the connections to be closed", || {
            (sluice.metric("sluice_cluster_connections_active", "\"other\"") == 0).then_some(())
        });
    };
    for listener in ["tcp", "web"] {
        assert_eq!(who(&sluice, listener), "other");
        unused();
    }
    for cluster in ["\"main\"", "\"empty\""] {
        assert_eq!(sluice.metric("sluice_cluster_fallbacks_total", cluster), 2);
    }
    for kind in ["connection", "request"] {
        sluice.record("what was served by the other cluster", |record| {
            record["kind"] == kind && record["upstream_cluster"] == "other"
        });
    }
    // Its own limits apply, and a limit leads nowhere else.
    let _held = Client::connect(sluice.addr("tcp"));
    wait::until("the limit to be reached", || {
        (sluice.metric("sluice_cluster_breaker_open", "\"other\",limit=\"connections\"") == 1)
            .then_some(())
    });
    let _ = sluice_testkit::peers::read_to_end(
        &mut std::net::TcpStream::connect(sluice.addr("tcp")).unwrap(),
    );
    let record = sluice.record_of("upstream.limit");
    assert_eq!(record["upstream_cluster"], "other");
    let _again = named("primary", first);
    wait::until("the endpoint to be healthy", || {
        (sluice.metric("sluice_cluster_endpoints", "\"unhealthy\"") == 0).then_some(())
    });
    assert_eq!((who(&sluice, "tcp"), who(&sluice, "web")), ("primary".into(), "primary".into()));
}

#[test]
fn further_endpoints_are_tried_after_a_wait() {
    let server = named("one", SocketAddr::from(([127, 0, 0, 1], tools::free_port())));
    let dead = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: tcp, address: 127.0.0.1:0, relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [{{ address: \"{dead}\", locality: a }}, {{ address: \"{}\", backup: true, locality: eu/eu-1b }}], localities: {{ a: 1, eu/eu-1b: 1 }}, outlier: none, connect_backoff: {{ base: 5ms, max: 20ms }} }} }}\n",
        server.addr()
    ));
    for _ in 0..5 {
        assert_eq!(who(&sluice, "tcp"), "one");
    }
    drop(server);
    let mut client = std::net::TcpStream::connect(sluice.addr("tcp")).unwrap();
    let _ = sluice_testkit::peers::read_to_end(&mut client);
    let record = sluice.record_of("upstream.refused");
    assert_eq!(record["upstream_hosts_attempted"].as_array().map(Vec::len), Some(2), "{record}");
    let backup = record["upstream_hosts_attempted"][1].as_str().unwrap();
    assert!(backup.contains(", priority 1, locality eu/eu-1b"), "{record}");
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

/// Waits until that many connections and requests are in the queue of the cluster `up`.
fn wait_for_queue(sluice: &Running, count: i64) {
    wait::until("the queue to have that length", || {
        (sluice.metric("sluice_cluster_queue_waiting", "\"up\"") == count).then_some(())
    });
}

/// A server that greets, then holds the connection until the client closes it.
fn greeter() -> Server {
    Server::greeter("hello")
}

#[test]
fn connections_wait_in_line_for_an_endpoint_with_room() {
    let servers = [greeter(), greeter()];
    let sluice = Sluice::new().workers(2).start(&format!(
        "listeners: [{{ name: tcp, address: 127.0.0.1:0, relay: up }}]\n\
         clusters:\n  up:\n    endpoints: [\"{}\", {{ address: \"{}\", limits: {{ connections: 2 }} }}]\n\
         \x20   limits: {{ connections_per_endpoint: 1, queue: {{ size: 3, timeout: 60s }} }}\n",
        servers[0].addr(),
        servers[1].addr()
    ));
    let dial = || std::net::TcpStream::connect(sluice.addr("tcp")).unwrap();
    let greeted = |mut client: std::net::TcpStream| {
        assert_eq!(sluice_testkit::peers::read(&mut client, 5), b"hello");
        client
    };
    let mut held: Vec<_> = (0..3).map(|_| greeted(dial())).collect();
    assert_eq!(sluice.metric("sluice_cluster_endpoints_full", "\"up\""), 2);
    let mut waiting: Vec<_> = Vec::new();
    for count in 1..=3 {
        waiting.push(dial());
        wait_for_queue(&sluice, count);
    }
    let breaker = sluice.items("/clusters")[0]["breakers"]["queue"].clone();
    assert_eq!((&breaker["used"], &breaker["open"]), (&3.into(), &true.into()));
    let _ = sluice_testkit::peers::read_to_end(&mut dial());
    sluice.record_of("upstream.queue_full");
    // One that leaves frees its place.
    drop(waiting.remove(0));
    wait_for_queue(&sluice, 2);
    sluice.record_of("downstream.closed");
    drop(held.remove(0));
    held.push(greeted(waiting.remove(0)));
    wait_for_queue(&sluice, 1);
    drop(held.remove(0));
    held.push(greeted(waiting.remove(0)));
    wait_for_queue(&sluice, 0);
    assert_eq!(sluice.metric("sluice_cluster_queued_total", "result=\"served\""), 2);
    assert_eq!(sluice.metric("sluice_cluster_queued_total", "result=\"left\""), 1);
    let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
    let limits: Vec<_> = endpoints.as_array().unwrap().iter().map(|it| &it["limits"]).collect();
    assert_eq!(
        limits.iter().map(|it| it["connections"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
}

#[test]
fn requests_wait_in_line_and_a_reload_lets_them_go() {
    let origin = Origin::start("a");
    let yaml = |each: u64| {
        format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: \"{}\", limits: {{ requests_per_endpoint: {each}, queue: {{ timeout: 60s }} }} }} }}\n",
            origin.addr()
        )
    };
    let sluice = Sluice::new().workers(2).start(&yaml(1));
    let send = || {
        let mut client = Client::connect(sluice.addr("web"));
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    };
    let mut clients = vec![send()];
    wait::until("the first request", || (!origin.requests().is_empty()).then_some(()));
    for count in 1..=3 {
        clients.push(send());
        wait_for_queue(&sluice, count);
    }
    drop(clients.pop());
    wait_for_queue(&sluice, 2);
    assert_eq!(origin.requests().len(), 1);
    sluice.reload(&yaml(3));
    wait_for_queue(&sluice, 0);
    origin.release();
    assert_eq!(
        clients.iter_mut().map(|client| client.read().status()).collect::<Vec<_>>(),
        [200; 3]
    );
    assert_eq!(sluice.metric("sluice_cluster_queued_total", "result=\"served\""), 2);
}

#[test]
fn requests_with_high_priority_have_limits_of_their_own() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().workers(2).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ rules: [{{ match: {{ headers: {{ x-class: high }} }}, cluster: up, priority: high }}, {{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: \"{}\", limits: {{ requests: 1, high: {{ requests: 1 }} }} }} }}\n",
        origin.addr()
    ));
    let send = |class: &str| {
        let mut client = Client::connect(sluice.addr("web"));
        client.send(format!("GET /wait HTTP/1.1\r\nHost: a\r\nx-class: {class}\r\n\r\n"));
        client
    };
    let mut held = Vec::new();
    for class in ["usual", "high"] {
        held.push(send(class));
        wait::until("the request to arrive", || {
            (origin.requests().len() == held.len()).then_some(())
        });
        assert_eq!(send(class).read().status(), 503);
    }
    let breakers = sluice.items("/clusters")[0]["breakers"].clone();
    for limit in ["requests", "high.requests"] {
        assert_eq!((&breakers[limit]["used"], &breakers[limit]["open"]), (&1.into(), &true.into()));
        let labels = format!("\"up\",limit=\"{limit}\"");
        assert_eq!(sluice.metric("sluice_cluster_breaker_refusals_total", &labels), 1);
    }
    origin.release();
    assert_eq!(held.iter_mut().map(|client| client.read().status()).collect::<Vec<_>>(), [200; 2]);
}

/// A server that reports its load with each response: in a header, or in a trailer.
fn reporting(name: &'static str, report: &'static str, in_trailers: bool) -> Server {
    Server::start(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        while read_message(&mut reader, false).is_ok() {
            let length = name.len();
            if in_trailers {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{name}\r\n0\r\nendpoint-load-metrics: {report}\r\n\r\n"
                )?;
            } else {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nendpoint-load-metrics: {report}\r\n\r\n{name}"
                )?;
            }
        }
        Ok(())
    })
}

#[test]
fn endpoints_get_traffic_by_the_load_that_they_report() {
    let fast = reporting("fast", "TEXT rps_fractional=100, cpu_utilization=0.25", false);
    let json =
        r#"JSON {"rps_fractional": 100, "named_metrics": {"queue": 0.5}, "cpu_utilization": 1}"#;
    let slow = reporting("slow", json, true);
    let silent = reporting("silent", "TEXT nonsense", false);
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters:\n  up:\n    endpoints: [\"{}\", \"{}\", \"{}\"]\n\
         \x20   balance: {{ load_reports: {{ blackout: 0s, update: 100ms, metrics: named_metrics.queue }} }}\n",
        fast.addr(),
        slow.addr(),
        silent.addr()
    ));
    let mut client = Client::connect(sluice.addr("web"));
    // Worth 400 and 200; the median is the higher of both, and that is what the third counts as.
    wait::until("the reports to count", || {
        let mut counts = BTreeMap::new();
        for _ in 0..50 {
            *counts.entry(client.get("a", "/").text()).or_insert(0) += 1;
        }
        let of = |name: &str| counts.get(name).copied().unwrap_or_default();
        (of("fast") == 20 && of("slow") == 10 && of("silent") == 20).then_some(())
    });
    let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
    let weights: Vec<_> = (0..3).map(|nth| endpoints[nth]["reported_weight"].as_f64()).collect();
    assert_eq!(weights, [Some(400.0), Some(200.0), None]);
    let reports = |result: &str| {
        sluice.metric("sluice_cluster_load_reports_total", &format!("result=\"{result}\""))
    };
    assert!(reports("used") > 0 && reports("malformed") > 0 && reports("incomplete") == 0);
}
