//! UDP flows together with everything else: descriptors, dead and unhealthy endpoints, loops.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use sluice_testkit::peers::{Server, UdpServer, connect, exchange, read, udp_client};
use sluice_testkit::{Origin, Running, Sluice, tools, wait};

/// Sends one byte from each of `count` sources, spread over many loopback addresses.
fn flood(to: SocketAddr, count: u32) {
    for n in 0..count {
        let [_, a, b, c] = (0x7f01_0001 + n).to_be_bytes();
        let source = UdpSocket::bind((Ipv4Addr::new(127, a, b, c), 0)).unwrap();
        source.send_to(b"x", to).unwrap();
    }
}

/// Sends `words` and returns the reply.
fn ask(client: &UdpSocket, to: SocketAddr, words: &[u8]) -> Vec<u8> {
    client.send_to(words, to).unwrap();
    let mut got = vec![0; 65_535];
    let (count, _) = client.recv_from(&mut got).unwrap();
    got.truncate(count);
    got
}

/// A UDP server that receives everything and never replies.
fn silent() -> UdpServer {
    UdpServer::start(|_| Vec::new())
}

#[test]
fn a_flood_of_udp_sources_leaves_descriptors_for_everything_else() {
    let (tcp, udp) = (Server::echo(), silent());
    let yaml = format!(
        "listeners:\n  - {{ name: u, address: \"udp://127.0.0.1:0\", relay: flows }}\n  - {{ name: a, address: 127.0.0.1:0, relay: up }}\n\
         clusters:\n  flows: {{ endpoints: [\"{}\"] }}\n  up: {{ endpoints: [\"{}\"], health: {{ interval: 1s, timeout: 20s }} }}\n\
         drain: {{ timeout: 100ms }}\n",
        udp.addr(),
        tcp.addr()
    );
    let sluice = Sluice::new()
        .files(200)
        .expect_warning("warning[slow-check]")
        .expect_warning("the drain timeout has expired")
        .start(&yaml);
    for _ in 0..5 {
        flood(sluice.addr("u"), 600);
        assert_eq!(exchange(&mut connect(sluice.addr("a")), b"in"), b"in");
        let checks = sluice.metric("sluice_health_checks_total", "\"ok\"");
        wait::until("the next health check", || {
            (sluice.metric("sluice_health_checks_total", "\"ok\"") > checks).then_some(())
        });
    }
    let refused = sluice.record_of("local.fds");
    assert_eq!(refused["kind"], "flow");
    assert!(refused["upstream_host"].is_null(), "no endpoint is to blame: {refused}");
    assert!(sluice.metric("sluice_limits_reached_total", "flow_descriptors_percent") > 0);
    assert_eq!(sluice.metric("sluice_listener_accept_errors_total", ""), 0);
    assert_eq!(sluice.metric("sluice_health_checks_total", "failed"), 0);
    assert_eq!(sluice.metric("sluice_cluster_connect_failures_total", ""), 0);
}

#[test]
fn a_refused_source_costs_no_socket_and_the_longest_idle_flow_is_evicted() {
    let server = UdpServer::echo("");
    let yaml = format!(
        "listeners: [{{ name: u, address: \"udp://127.0.0.1:0\", relay: up }}]\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\nlimits: {{ flow_table_entries: 16 }}\ndrain: {{ timeout: 100ms }}\n",
        server.addr()
    );
    let sluice =
        Sluice::new().workers(1).expect_warning("the drain timeout has expired").start(&yaml);
    // A flow that has been idle for a second makes room; none has once all of them are new.
    let of_reason = |reason: &str| {
        let records = sluice.records();
        records.iter().any(|record| record["reason"] == reason).then_some(())
    };
    wait::until("a full table", || {
        udp_client().send_to(b"x", sluice.addr("u")).unwrap();
        of_reason("flow.table_full")
    });
    let refused = sluice.record_of("flow.table_full");
    assert!(refused["upstream_local_address"].is_null(), "{refused}");
    assert_eq!(refused["upstream_hosts_attempted"].as_array().unwrap().len(), 0, "{refused}");
    // Once a flow has been idle for a second, it can be evicted.
    let newcomer = udp_client();
    wait::until("a flow to make room", || {
        newcomer.send_to(b"y", sluice.addr("u")).unwrap();
        of_reason("flow.evicted")
    });
}

#[test]
fn an_unanswered_flow_ends_sooner() {
    let (server, silent) = (UdpServer::echo(""), silent());
    let yaml = format!(
        "listeners:\n  - {{ name: u, address: \"udp://127.0.0.1:0\", relay: up }}\n  - {{ name: s, address: \"udp://127.0.0.1:0\", relay: silent }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}, silent: {{ endpoints: [\"{}\"] }} }}\n\
         limits: {{ flow_unanswered_seconds: 1 }}\ndrain: {{ timeout: 100ms }}\n",
        server.addr(),
        silent.addr()
    );
    let sluice = Sluice::new().expect_warning("the drain timeout has expired").start(&yaml);
    let (answered, unanswered) = (udp_client(), udp_client());
    assert_eq!(ask(&answered, sluice.addr("u"), b"x"), b"x");
    unanswered.send_to(b"x", sluice.addr("s")).unwrap();
    let record = sluice.record_of("flow.unanswered");
    assert_eq!(record["listener"], "s");
    assert_eq!(sluice.metric("sluice_listener_flows_active", "\"u\""), 1, "it has been answered");
}

/// Two endpoints, of which `dead` is a port without a listener.
fn half_dead(server: &UdpServer, dead: u16, more: &str) -> String {
    format!(
        "listeners: [{{ name: u, address: \"udp://127.0.0.1:0\", relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\", \"127.0.0.1:{dead}\"], {more} }} }}\n\
         drain: {{ timeout: 100ms }}\n",
        server.addr()
    )
}

#[test]
fn icmp_errors_eject_a_udp_endpoint() {
    let (server, dead) = (UdpServer::echo(""), tools::free_port());
    let yaml = half_dead(&server, dead, "outlier: { connect_failures: 3, ejection: 1h }");
    let sluice = Sluice::new()
        .workers(1)
        .expect_warning("endpoint ejected")
        .expect_warning("the drain timeout has expired")
        .start(&yaml);
    // One after the other: what comes to each is known before the next, so that exactly three find it out.
    let failures = || sluice.metric("sluice_cluster_connect_failures_total", "flow.icmp");
    while sluice.metric("sluice_cluster_ejections_total", "") == 0 {
        let (client, before) = (udp_client(), failures());
        client.send_to(b"x", sluice.addr("u")).unwrap();
        client.set_nonblocking(true).unwrap();
        wait::until("a reply, or the error", || {
            (client.recv(&mut [0; 8]).is_ok() || failures() > before).then_some(())
        });
    }
    for _ in 0..6 {
        assert_eq!(ask(&udp_client(), sluice.addr("u"), b"alive"), b"alive");
    }
    assert_eq!(failures(), 3);
}

/// A UDP endpoint, and a TCP one at the same address for the health checks.
pub(super) fn checked(mark: &'static str) -> (UdpServer, Server) {
    loop {
        let udp = UdpServer::echo(mark);
        // The port may be in use for TCP.
        if let Ok(listener) = TcpListener::bind(udp.addr()) {
            return (udp, Server::start_on(listener, |_| Ok(())));
        }
    }
}

#[test]
fn flows_leave_or_stay_on_an_unhealthy_endpoint_as_configured() {
    for (policy, moves) in [("", true), ("on_endpoint_unhealthy: keep,", false)] {
        let (left, left_check) = checked("left ");
        let (right, _right_check) = checked("right ");
        let yaml = format!(
            "listeners: [{{ name: u, address: \"udp://127.0.0.1:0\", relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [\"{}\", \"{}\"], {policy} health: {{ interval: 20ms, unhealthy_after: 1 }} }} }}\n\
             drain: {{ timeout: 100ms }}\n",
            left.addr(),
            right.addr()
        );
        let sluice = Sluice::new()
            .workers(1)
            .expect_warning("endpoint is unhealthy")
            .expect_warning("the drain timeout has expired")
            .start(&yaml);
        let clients: Vec<_> = (0..4).map(|_| udp_client()).collect();
        let on_left =
            clients.iter().find(|client| ask(client, sluice.addr("u"), b"who?") == b"left who?");
        let on_left = on_left.expect("every second flow goes to the left");
        drop(left_check);
        wait::until("the left endpoint to be unhealthy", || {
            (sluice.metric("sluice_cluster_endpoints", "\"unhealthy\"") == 1).then_some(())
        });
        let answer = ask(on_left, sluice.addr("u"), b"who?");
        if moves {
            assert_eq!(answer, b"right who?");
            sluice.record_of("flow.moved");
        } else {
            assert_eq!(answer, b"left who?");
        }
    }
}

#[test]
fn a_flow_that_cannot_move_stays_on_the_unhealthy_endpoint() {
    for (limit, filters, moves) in [
        ("limits: { connections: 1 },", "", false),
        ("", ", filters: [{ connection_limit: { max: 1 } }]", true),
    ] {
        let (left, left_check) = checked("left ");
        let (right, right_check) = checked("right ");
        let yaml = format!(
            "listeners: [{{ name: u, address: \"udp://127.0.0.1:0\", relay: up{filters} }}]\n\
             clusters: {{ up: {{ endpoints: [\"{}\", \"{}\"], balance: round_robin, {limit} \
             health: {{ interval: 20ms, unhealthy_after: 1 }} }} }}\n\
             drain: {{ timeout: 100ms }}\n",
            left.addr(),
            right.addr()
        );
        let sluice = Sluice::new()
            .workers(1)
            .expect_warning("endpoint is unhealthy")
            .expect_warning("the drain timeout has expired")
            .start(&yaml);
        let client = udp_client();
        let first = ask(&client, sluice.addr("u"), b"who?");
        // The endpoint of the flow fails its health checks from now on.
        let (check, stays, other) = if first == b"left who?" {
            (left_check, b"left again".to_vec(), b"right again".to_vec())
        } else {
            (right_check, b"right again".to_vec(), b"left again".to_vec())
        };
        drop(check);
        wait::until("the endpoint of the flow to be unhealthy", || {
            (sluice.metric("sluice_cluster_endpoints", "\"unhealthy\"") == 1).then_some(())
        });
        let answer = ask(&client, sluice.addr("u"), b"again");
        assert_eq!(answer, if moves { other } else { stays });
        let ended = sluice.metric("sluice_flows_ended_total", "");
        assert_eq!(ended, i64::from(moves), "no flow ended that did not move");
    }
}

#[test]
fn a_lack_of_descriptors_is_not_blamed_on_the_endpoint() {
    let origin = Origin::start("o");
    let yaml = format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, http: {{ routes: main }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"], outlier: {{ connect_failures: 1, ejection: 1h }} }} }}\n",
        origin.addr()
    );
    let sluice = Sluice::new().workers(1).files(100).expect_warning("cannot accept").start(&yaml);
    let mut clients: Vec<_> = (0..100).map(|_| connect(sluice.addr("a"))).collect();
    wait::until("no more connections to be accepted", || {
        (sluice.metric("sluice_listener_accept_errors_total", "") > 0).then_some(())
    });
    wait::until("it to be tried again, which is counted and not always logged", || {
        let told = sluice.log().lines().filter(|line| line.contains("cannot accept")).count();
        let counted = sluice.metric("sluice_listener_accept_errors_total", "");
        (told > 0 && i64::try_from(told).unwrap() < counted).then_some(())
    });
    // Each of the clients accepted first needs a connection to the endpoint.
    let before = sluice.metric("sluice_listener_connections_accepted_total", "");
    for client in &mut clients[..3] {
        client.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    let record = sluice.record_of("local.fds");
    assert_eq!(record["side"], "local", "{record}");
    assert_eq!(record["response_code"], 503, "{record}");
    assert_eq!(sluice.metric("sluice_cluster_connect_failures_total", ""), 0);
    assert_eq!(sluice.metric("sluice_cluster_ejections_total", ""), 0);
    origin.release();
    clients.drain(..50);
    wait::until("those in the backlog to be served", || {
        let accepted = sluice.metric("sluice_listener_connections_accepted_total", "");
        (accepted > before).then_some(())
    });
    let last = clients.last_mut().unwrap();
    last.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert!(read(last, 12).starts_with(b"HTTP/1.1 200"));
}

/// A UDP listener over these servers.
fn flows(relay: &str, servers: &[&UdpServer], cluster: &str) -> String {
    let endpoints: Vec<String> =
        servers.iter().map(|server| format!("\"{}\"", server.addr())).collect();
    format!(
        "listeners: [{{ name: u, address: \"udp://127.0.0.1:0\", relay: {{ cluster: up{relay} }} }}]\n\
         clusters: {{ up: {{ endpoints: [{}]{cluster} }} }}\n\
         drain: {{ timeout: 100ms }}\n",
        endpoints.join(", ")
    )
}

#[test]
fn each_datagram_goes_to_an_endpoint_of_its_own_and_replies_come_back() {
    let (one, two) = (UdpServer::echo("1"), UdpServer::echo("2"));
    let yaml = flows(", per_packet: true", &[&one, &two], ", limits: { connections: 2 }");
    let kit = Sluice::new().workers(1).expect_warning("the drain timeout has expired");
    let sluice = kit.start(&yaml);
    let client = udp_client();
    let mut marks = String::new();
    for _ in 0..6 {
        let reply = ask(&client, sluice.addr("u"), b"x");
        marks.push(char::from(reply[0]));
    }
    assert!(["121212", "212121"].contains(&marks.as_str()), "{marks}");
    // One flow to each, which existing datagrams use at the limit; a new client has no room.
    assert_eq!(sluice.metric("sluice_listener_flows_active", "\"u\""), 2);
    udp_client().send_to(b"x", sluice.addr("u")).unwrap();
    let refused = sluice.record_of("upstream.limit");
    assert_eq!((&refused["kind"], &refused["upstream_cluster"]), (&"flow".into(), &"up".into()));
    assert_eq!(ask(&client, sluice.addr("u"), b"y")[1..], *b"y");
    // Every reply arrives, also those to datagrams sent at once.
    for n in 0..20_u8 {
        client.send_to(&[n], sluice.addr("u")).unwrap();
    }
    let mut seen: Vec<u8> = (0..20)
        .map(|_| {
            let mut got = [0; 8];
            assert_eq!(client.recv_from(&mut got).unwrap().0, 2);
            got[1]
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

#[test]
fn datagrams_are_hashed_by_their_payload_or_a_fixed_key() {
    let (one, two) = (UdpServer::echo("1"), UdpServer::echo("2"));
    let start = |relay: &str| {
        let kit = Sluice::new().expect_warning("the drain timeout has expired");
        kit.start(&flows(relay, &[&one, &two], ", balance: maglev"))
    };
    let mark =
        |sluice: &Running, datagram: &[u8]| ask(&udp_client(), sluice.addr("u"), datagram)[0];
    let sluice = start(", hash: { payload: { offset: 1, length: 2 } }");
    let marks: Vec<u8> = (0..16_u8).map(|n| mark(&sluice, &[0, n, n, 0])).collect();
    assert!(marks.contains(&b'1') && marks.contains(&b'2'), "{marks:?}");
    for (n, expected) in (0..16_u8).zip(&marks) {
        assert_eq!(mark(&sluice, &[9, n, n, 9, 9]), *expected, "only the slice decides");
    }
    let sluice = start(", hash: { key: everything }");
    let marks: Vec<u8> = (0..8_u8).map(|n| mark(&sluice, &[n])).collect();
    assert!(marks.iter().all(|mark| *mark == marks[0]), "{marks:?}");
}

#[test]
fn an_endpoint_that_is_silent_is_ejected_and_its_clients_move() {
    let (server, silent) = (UdpServer::echo(""), silent());
    let outlier = ", outlier: { silence: { datagrams: 3, time: 1s }, ejection: 1h }";
    let sluice = Sluice::new()
        .workers(1)
        .expect_warning("endpoint ejected")
        .expect_warning("the drain timeout has expired")
        .start(&flows("", &[&silent, &server], outlier));
    // The flow of one of two clients goes to the silent endpoint.
    let clients = [udp_client(), udp_client()];
    for client in &clients {
        client.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        wait::until("a reply", || {
            client.send_to(b"x", sluice.addr("u")).unwrap();
            client.recv_from(&mut [0; 8]).ok()
        });
    }
    assert_eq!(sluice.metric("sluice_cluster_ejections_total", "kind=\"silence\""), 1);
    let endpoint = sluice.items("/clusters")[0]["endpoints"][0].clone();
    let cause = endpoint["trouble"]["ejected"]["cause"].as_str().unwrap();
    assert!(cause.starts_with("no reply to "), "{endpoint}");
    assert_eq!(sluice.record_of("flow.moved")["upstream_host"], silent.addr().to_string());
}
