//! Where endpoints come from: files that list them, and DNS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, UdpServer, connect, exchange, read, read_to_end};
use sluice_testkit::{Origin, Running, Sluice, origin, tools, wait};
use sluice_tests::{dnsmasq, place_endpoints, place_text};

/// A TCP and an HTTP listener in front of a cluster with these settings.
fn both(cluster: &str) -> String {
    format!(
        "listeners: [{{ name: tcp, address: 127.0.0.1:0, relay: up }}, {{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ {cluster} }} }}\n"
    )
}

/// The addresses in force.
fn members(sluice: &Running) -> Vec<String> {
    let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
    let address = |endpoint: &serde_json::Value| endpoint["address"].as_str().unwrap().to_owned();
    endpoints.as_array().unwrap().iter().map(address).collect()
}

#[track_caller]
fn wait_for_members(sluice: &Running, expected: &[SocketAddr]) {
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    let found = wait::within(wait::PATIENCE, || (members(sluice) == expected).then_some(()));
    assert!(found.is_some(), "expected {expected:?}: {}", sluice.items("/clusters")[0]);
}

#[test]
fn a_rolling_replacement_by_file_loses_no_request_and_ends_no_connection() {
    let origins: Vec<Origin> = (0..6).map(|_| Origin::start("o")).collect();
    let addresses: Vec<SocketAddr> = origins.iter().map(Origin::addr).collect();
    let sets = [&addresses[..3], &addresses[3..]];
    let kit = Sluice::new().watching();
    let file = kit.folder().join("up.json");
    place_endpoints(&file, sets[0]);
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
            place_endpoints(&file, sets[round % 2]);
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
    place_endpoints(&file, &[one.addr()]);
    let sluice = kit.start(&both("endpoints_file: up.json"));
    let state = || sluice.items("/clusters")[0]["endpoints_file"].clone();
    assert!(state()["failure"].is_null() && state()["applied_at"].is_string(), "{}", state());
    let newest = || {
        let items = sluice.items("/resources");
        let of = items.into_iter().find(|item| item["kind"] == "endpoints" && item["name"] == "up");
        of.unwrap()["newest"].clone()
    };
    for (broken, problem) in [
        ("", "the file is empty"),
        ("[\"127.0.0.1\"]", "up.json:1:2: "),
        ("[{ \"address\": \"127.0.0.1:1\", \"backup\": true, \"priority\": 2 }]", "write only one"),
    ] {
        place_text(&file, broken);
        wait::until(problem, || state()["failure"].as_str()?.contains(problem).then_some(()));
        assert_eq!(sluice.metric("sluice_endpoint_file_stale", "up"), 1);
        let shown = newest()["errors"][0].as_str().unwrap().to_owned();
        assert!(shown.contains(problem), "{shown}");
        assert_eq!(read(&mut connect(sluice.addr("tcp")), 3), b"one");
    }
    assert_eq!(sluice.metric("sluice_endpoint_file_reads_total", "failed"), 3);
    place_endpoints(&file, &[two.addr()]);
    wait_for_members(&sluice, &[two.addr()]);
    assert!(state()["failure"].is_null() && newest().is_null());
    assert_eq!(sluice.metric("sluice_endpoint_file_stale", "up"), 0);
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 3), b"two");
    // A file that says so empties the cluster.
    place_text(&file, "[]");
    wait_for_members(&sluice, &[]);
}

#[test]
fn a_file_says_which_endpoints_serve() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let kit = Sluice::new().workers(1).watching();
    let file = kit.folder().join("up.json");
    let place = |states: [&str; 3]| {
        let entries = origins.iter().zip(states).map(|(origin, state)| {
            format!("{{ \"address\": \"{}\", \"status\": \"{state}\" }}", origin.addr())
        });
        place_text(&file, &format!("[{}]", entries.collect::<Vec<_>>().join(", ")));
    };
    place(["healthy", "healthy", "healthy"]);
    let sluice = kit.start(&both("endpoints_file: up.json"));
    let shown = || -> Vec<String> {
        let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
        let state = |of: &serde_json::Value| of["status"].as_str().unwrap_or("healthy").to_owned();
        endpoints.as_array().unwrap().iter().map(state).collect()
    };
    let mut kept = Client::connect(sluice.addr("tcp"));
    assert_eq!(kept.get("a", "/").status(), 200);
    let served = || {
        let before: Vec<usize> = origins.iter().map(|origin| origin.requests().len()).collect();
        let statuses: Vec<u16> =
            (0..6).map(|_| origin::get(sluice.addr("web"), "a", "/").status()).collect();
        let after = origins.iter().map(|origin| origin.requests().len());
        let counts: Vec<usize> = after.zip(before).map(|(after, before)| after - before).collect();
        (statuses[0], counts)
    };
    for (states, status, counts) in [
        (["healthy", "healthy", "healthy"], 200, [2, 2, 2]),
        (["draining", "healthy", "degraded"], 200, [0, 6, 0]),
        (["healthy", "unhealthy", "healthy"], 200, [3, 0, 3]),
        (["draining", "unhealthy", "degraded"], 200, [0, 0, 6]),
        (["draining", "unhealthy", "draining"], 503, [0, 0, 0]),
        (["degraded", "degraded", "degraded"], 200, [2, 2, 2]),
    ] {
        place(states);
        wait::until("the states", || (shown() == states).then_some(()));
        assert_eq!(served(), (status, counts.to_vec()), "{states:?}");
        // What is open continues.
        assert_eq!(kept.get("a", "/").status(), 200);
    }
    let record = sluice.record_of("upstream.no_healthy");
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("1 unhealthy and 0 ejected of 3 endpoints; 2 drained"), "{detail}");
    place(["draining", "unhealthy", "healthy"]);
    wait::until("the states", || (shown()[0] == "draining").then_some(()));
    let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
    let why: Vec<&serde_json::Value> = (0..3).map(|one| &endpoints[one]["not_eligible"]).collect();
    assert_eq!(why[0], &serde_json::json!(["status_draining"]));
    assert_eq!(why[1], &serde_json::json!(["status_unhealthy"]));
    assert_eq!(why[2], &serde_json::json!([]));
}

#[test]
fn a_file_takes_effect_while_the_configuration_is_broken() {
    let (one, two) = (Server::greeter("one"), Server::greeter("two"));
    let kit = Sluice::new().watching().expect_warning("reload failed");
    let file = kit.folder().join("up.json");
    place_endpoints(&file, &[one.addr()]);
    let sluice = kit.start(&both("endpoints_file: up.json"));
    assert_eq!(sluice.reload(&both("endpoints_file: up.json, balance: nothing")), "failed");
    let mut old = connect(sluice.addr("tcp"));
    assert_eq!(read(&mut old, 3), b"one");
    place_endpoints(&file, &[two.addr()]);
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
    // The configuration that failed is in the file; it becomes right with the file that it names.
    let before = sluice.reloads().len();
    place_endpoints(&file, &[two.addr()]);
    wait::until("the reload", || {
        sluice.reloads().get(before).filter(|of| *of == "applied").cloned()
    });
    wait_for_members(&sluice, &[two.addr()]);
}

#[test]
fn an_endpoint_that_is_removed_stays_as_long_as_its_checks_succeed() {
    let (one, two) = (Server::greeter("one"), Server::greeter("two"));
    let (first, second) = (one.addr(), two.addr());
    // A check may take as long as it wants.
    let kit = Sluice::new().watching();
    let kit = kit.expect_warning("slow-check").expect_warning("endpoint is unhealthy");
    let file = kit.folder().join("up.json");
    place_endpoints(&file, &[first, second]);
    let sluice = kit.start(&both(
        "endpoints_file: up.json, balance: random, health: { interval: 50ms, timeout: 60s, unhealthy_after: 1, unchecked: wait, keep_removed: true }",
    ));
    let shown = || sluice.items("/clusters")[0]["endpoints"].clone();
    wait::until("checks", || {
        (shown()[0]["healthy"] == true && shown()[1]["healthy"] == true).then_some(())
    });
    place_endpoints(&file, &[second]);
    wait::until("its leave", || (shown()[1]["leaving"] == true).then_some(()));
    wait_for_members(&sluice, &[second, first]);
    wait::until("a connection to it", || {
        (read(&mut connect(sluice.addr("tcp")), 3) == b"one").then_some(())
    });
    drop(one);
    wait_for_members(&sluice, &[second]);
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 3), b"two");
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
    place_endpoints(&file, &many(1));
    let sluice = kit.start(&both("endpoints_file: up.json"));
    assert_eq!(members(&sluice).len(), 5000);
    place_endpoints(&file, &many(2));
    wait_for_members(&sluice, &many(2));
    place_endpoints(&file, &[last.addr()]);
    wait_for_members(&sluice, &[last.addr()]);
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 4), b"last");
}

/// A listener that relays to a cluster with these settings, whose names the server at `dns` resolves.
fn resolving(dns: u16, cluster: &str, settings: &str) -> String {
    format!(
        "listeners: [{{ name: tcp, address: 127.0.0.1:0, relay: up }}]\n\
         clusters: {{ up: {{ {cluster}, dns: {{ servers: [127.0.0.1:{dns}], retry: 50ms, max_retry: 50ms{settings} }} }} }}\n"
    )
}

/// The state of the only name.
fn name_state(sluice: &Running, name: &str) -> serde_json::Value {
    sluice.items("/clusters")[0]["resolver"][name].clone()
}

#[test]
fn a_service_names_ports_weights_and_priorities() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let (first, second, standby) =
        (Server::greeter("a"), Server::greeter("b"), Server::greeter("c"));
    let port = tools::free_port();
    let record = |host: &str, server: &Server, priority: u16, weight: u16| {
        format!("--srv-host=_pg._tcp.svc.test,{host},{},{priority},{weight}", server.addr().port())
    };
    let _dns = dnsmasq(
        port,
        &[
            &record("one.svc.test", &first, 10, 3),
            &record("two.svc.test", &second, 10, 0),
            &record("three.svc.test", &standby, 20, 5),
            &record("gone.svc.test", &standby, 30, 5),
            "--address=/one.svc.test/127.0.0.1",
            "--address=/two.svc.test/127.0.0.1",
            "--address=/three.svc.test/127.0.0.1",
            "--local=/gone.svc.test/",
        ],
    );
    let sluice = Sluice::new().start(&resolving(
        port,
        "endpoints: { address: srv://_pg._tcp.svc.test, weight: 2 }",
        "",
    ));
    let endpoints = wait::until("the endpoints", || {
        let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
        (endpoints.as_array().unwrap().len() == 3).then_some(endpoints)
    });
    let shown = |server: &Server| {
        let all = endpoints.as_array().unwrap();
        let of = all.iter().find(|of| of["address"] == server.addr().to_string()).unwrap();
        (of["host"].as_str().unwrap().to_owned(), of["weight"].as_u64(), of["priority"].as_u64())
    };
    assert_eq!(shown(&first), ("one.svc.test".into(), Some(6), Some(0)));
    assert_eq!(shown(&second), ("two.svc.test".into(), Some(2), Some(0)));
    assert_eq!(shown(&standby), ("three.svc.test".into(), Some(10), Some(1)));
    assert_eq!(name_state(&sluice, "srv://_pg._tcp.svc.test")["state"], "resolved");
    let served: String = (0..16)
        .map(|_| String::from_utf8(read(&mut connect(sluice.addr("tcp")), 1)).unwrap())
        .collect();
    assert!(served.contains('a') && served.contains('b') && !served.contains('c'), "{served}");
}

#[test]
fn a_logical_host_is_one_endpoint_and_keeps_its_connections() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let port = tools::free_port();
    let old = Server::greeter("old");
    let new =
        Server::start_at(SocketAddr::from(([127, 0, 0, 2], old.addr().port())), |mut stream| {
            std::io::Write::write_all(&mut stream, b"new")
        });
    let dns =
        |address: &str| dnsmasq(port, &["--local-ttl=1", &format!("--address=/a.test/{address}")]);
    let running = dns("127.0.0.1");
    let cluster = format!("endpoints: a.test:{}", old.addr().port());
    let sluice = Sluice::new().expect_warning("look-up failed").start(&resolving(
        port,
        &cluster,
        ", mode: logical, max_ttl: 1s",
    ));
    let mut kept = connect(sluice.addr("tcp"));
    assert_eq!(read(&mut kept, 3), b"old");
    drop(running);
    let _running = dns("127.0.0.2");
    wait_for_members(&sluice, &[new.addr()]);
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 3), b"new");
    assert_eq!(exchange(&mut kept, b"still"), b"still");
}

#[test]
fn a_logical_host_is_reached_by_the_first_address_that_accepts() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let server = Server::greeter("v4");
    let port = tools::free_port();
    let _dns = dnsmasq(port, &["--host-record=a.test,127.0.0.1,::1"]);
    let cluster = format!("endpoints: a.test:{}, connect_attempts: 1", server.addr().port());
    let start = |settings: &str| Sluice::new().start(&resolving(port, &cluster, settings));
    let sluice = start(", mode: logical");
    let first: SocketAddr = format!("[::1]:{}", server.addr().port()).parse().unwrap();
    wait_for_members(&sluice, &[first]);
    for _ in 0..4 {
        assert_eq!(read(&mut connect(sluice.addr("tcp")), 2), b"v4");
    }
    for (family, expected) in
        [("v4", server.addr()), ("v4_preferred", server.addr()), ("v6", first)]
    {
        wait_for_members(&start(&format!(", family: {family}")), &[expected]);
    }
    let both = start("");
    assert_eq!(members(&both).len(), 2);
}

#[test]
fn failed_look_ups_are_told_apart() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let port = tools::free_port();
    let _dns = dnsmasq(
        port,
        &["--local=/gone.test/", "--local=/v4.test/", "--host-record=v4.test,127.0.0.1"],
    );
    // The header of a query, as a response with SERVFAIL.
    let failing = UdpServer::start(|query| {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer[3] = 0x82;
        vec![answer]
    });
    let silent = UdpServer::start(|_| Vec::new());
    for (dns, name, state) in [
        (port, "gone.test", "nxdomain"),
        (port, "v4.test", "no_data"),
        (port, "elsewhere.example", "refused"),
        (failing.addr().port(), "a.test", "servfail"),
        (silent.addr().port(), "a.test", "timeout"),
    ] {
        let yaml = resolving(dns, &format!("endpoints: {name}:80"), ", family: v6");
        let sluice = Sluice::new().expect_warning("look-up failed").start(&yaml);
        wait::until(state, || (name_state(&sluice, name)["state"] == state).then_some(()));
        let shown = name_state(&sluice, name);
        assert!(shown["looked_up_at"].is_string() && shown["next_at"].is_string(), "{shown}");
        assert!(shown["answered_at"].is_null(), "{shown}");
        assert!(sluice.metric("sluice_dns_lookups_total", state) > 0);
        assert!(read_to_end(&mut connect(sluice.addr("tcp"))).1.is_empty());
        sluice.record_of("upstream.dns");
    }
}

#[test]
fn check_reports_names_that_do_not_exist() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let port = tools::free_port();
    let known = ["--local=/gone.test/", "--local=/v6.test/", "--host-record=v6.test,::1"];
    let _dns = dnsmasq(port, &known);
    let silent = UdpServer::start(|_| Vec::new());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    let check = |dns: u16, names: &str, more: &[&str]| {
        let yaml = resolving(dns, &format!("endpoints: [{names}]"), ", family: v4");
        std::fs::write(&path, yaml).unwrap();
        let mut command = std::process::Command::new(Sluice::binary());
        let output = tools::run(command.arg("check").arg(&path).args(more));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let names = "\"127.0.0.1:1\", \"a.gone.test:80\", \"v6.test:80\", \"srv://_pg._tcp.gone.test\"";
    let said = check(port, names, &[]);
    for line in [
        "warning[unresolved-name]: `a.gone.test` does not resolve: the name does not exist (NXDOMAIN)",
        "clusters.up.endpoints[1]",
        "`v6.test` does not resolve: the name exists but has no address",
        "`srv://_pg._tcp.gone.test` does not resolve",
        "--offline",
        "0 errors, 3 warnings",
    ] {
        assert!(said.contains(line), "{line}:\n{said}");
    }
    assert!(!check(port, names, &["--offline"]).contains("unresolved-name"));
    // It cannot be known of a server that does not answer.
    assert!(!check(silent.addr().port(), "\"a.gone.test:80\"", &[]).contains("unresolved-name"));
}

#[test]
fn egress_denies_what_a_name_must_not_lead_to() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let server = Server::greeter("inside");
    let port = tools::free_port();
    let _dns =
        dnsmasq(port, &["--address=/a.test/127.0.0.1", "--address=/m.test/::ffff:127.0.0.1"]);
    let start = |name: &str, to: u16, egress: &str| {
        let cluster = format!("endpoints: {name}:{to}, egress: {egress}, health: {{ tcp: true }}");
        Sluice::new().expect_warning("look-up failed").start(&resolving(port, &cluster, ""))
    };
    let inside = server.addr().port();
    for name in ["a.test", "m.test"] {
        let sluice = start(name, inside, "true");
        wait::until("a denial", || (name_state(&sluice, name)["state"] == "denied").then_some(()));
        assert!(name_state(&sluice, name)["message"].as_str().unwrap().contains("is loopback"));
        assert!(read_to_end(&mut connect(sluice.addr("tcp"))).1.is_empty());
        sluice.record_of("upstream.dns");
        assert!(sluice.metric("sluice_dns_lookups_total", "denied") > 0);
    }
    // Neither connections nor health checks have reached it.
    assert_eq!(server.accepted(), 0);
    let sluice = start("a.test", inside, "{ allow: [127.0.0.0/8] }");
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 6), b"inside");
    // A listener of the process itself, in a block that is allowed.
    let own = tools::free_port();
    let cluster = format!("endpoints: a.test:{own}, egress: {{ allow: [127.0.0.0/8] }}");
    let listen = |yaml: &str| yaml.replace("127.0.0.1:0", &format!("127.0.0.1:{own}"));
    let before = listen(&resolving(port, "endpoints: 127.0.0.1:1", ""));
    let sluice = Sluice::new().expect_warning("look-up failed").start(&before);
    assert_eq!(sluice.reload(&listen(&resolving(port, &cluster, ""))), "applied");
    wait::until("a denial", || (name_state(&sluice, "a.test")["state"] == "denied").then_some(()));
    let message = name_state(&sluice, "a.test")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("a listener of this process"), "{message}");
}

#[test]
fn egress_is_checked_again_when_a_connection_is_made() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let (port, own) = (tools::free_port(), tools::free_port());
    let _dns = dnsmasq(port, &["--address=/a.test/127.0.0.1"]);
    let cluster = format!("endpoints: a.test:{own}, egress: {{ allow: [127.0.0.0/8] }}");
    let yaml = |more: &str| {
        let yaml = resolving(port, &cluster, ", refresh: 1h");
        let http = "{ name: web, address: 127.0.0.1:0, http: main }";
        let udp = "{ name: udp, address: udp://127.0.0.1:0, relay: up }";
        let routes = "routes: { main: { cluster: up } }";
        yaml.replace("relay: up }]", &format!("relay: up }}, {udp}, {http}{more}]\n{routes}"))
    };
    let sluice = Sluice::new().start(&yaml(""));
    let of_name = SocketAddr::from(([127, 0, 0, 1], own));
    wait_for_members(&sluice, &[of_name]);
    // The address becomes that of a listener of the process, which no look-up tells.
    let later = |to: &str| format!(", {{ name: own, address: \"{to}\", relay: up }}");
    assert_eq!(sluice.reload(&yaml(&later(&of_name.to_string()))), "applied");
    assert!(read_to_end(&mut connect(sluice.addr("tcp"))).1.is_empty());
    let record = sluice.record_of("upstream.egress");
    assert!(
        record["detail"].as_str().unwrap().contains("is a listener of this process"),
        "{record}"
    );
    assert_eq!(Client::connect(sluice.addr("web")).get("a", "/").status(), 403);
    wait::until("both", || {
        (sluice.metric("sluice_cluster_egress_denials_total", "up") == 2).then_some(())
    });
    assert_eq!(sluice.metric("sluice_dns_lookups_total", "ok"), 1);
}

#[test]
fn a_stricter_policy_applies_to_addresses_in_use() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let server = Server::greeter("inside");
    let port = tools::free_port();
    let _dns = dnsmasq(port, &["--address=/a.test/127.0.0.1"]);
    let yaml = |egress: &str| {
        let cluster = format!("endpoints: a.test:{}{egress}", server.addr().port());
        resolving(port, &cluster, "")
    };
    let sluice = Sluice::new().expect_warning("look-up failed").start(&yaml(""));
    assert_eq!(read(&mut connect(sluice.addr("tcp")), 6), b"inside");
    assert_eq!(sluice.reload(&yaml(", egress: true")), "applied");
    wait_for_members(&sluice, &[]);
    assert_eq!(sluice.reload(&yaml(", egress: { allow: [127.0.0.1] }")), "applied");
    wait_for_members(&sluice, &[server.addr()]);
}

#[test]
fn names_are_not_looked_up_again_when_other_endpoints_change() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let port = tools::free_port();
    let _dns = dnsmasq(port, &["--address=/a.test/127.0.0.1"]);
    let kit = Sluice::new().watching();
    let file = kit.folder().join("up.json");
    place_text(&file, "[\"a.test:1\"]");
    let sluice = kit.start(&resolving(port, "endpoints_file: up.json", ", refresh: 1h"));
    let of_name: SocketAddr = "127.0.0.1:1".parse().unwrap();
    wait_for_members(&sluice, &[of_name]);
    for other in 2..6 {
        place_text(&file, &format!("[\"a.test:1\", \"127.0.0.1:{other}\"]"));
        wait_for_members(&sluice, &[of_name, SocketAddr::from(([127, 0, 0, 1], other))]);
    }
    assert_eq!(sluice.metric("sluice_dns_lookups_total", "ok"), 1);
}
