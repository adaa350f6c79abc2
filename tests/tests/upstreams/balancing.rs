//! Load balancing as clients see it: priorities, panic mode, localities, clusters of a split, slow start, reported load.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::SocketAddr;

use sluice_testkit::origin::{self, Client, read_message};
use sluice_testkit::peers::{Server, UdpServer, udp_client};
use sluice_testkit::{Origin, Running, Sluice, tools, wait};

/// A server that answers the first request on each connection with its name; over HTTP and over a relayed stream alike.
pub(crate) fn named(name: &'static str, address: SocketAddr) -> Server {
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
pub(crate) fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Who answers on a listener.
pub(crate) fn who(sluice: &Running, listener: &str) -> String {
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
pub(crate) fn answers(sluice: &Running, count: usize) -> BTreeMap<String, usize> {
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
pub(crate) fn visit(sluice: &Running, headers: &str) -> (u16, String, String) {
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let response = Client::connect(sluice.addr("web")).ask(&request);
    (response.status(), response.text(), response.value("set-cookie").to_owned())
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
