//! Active health checks by connection, TLS, request and query, and when they decide.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::origin;
use sluice_testkit::peers::{Server, UdpServer, connect, exchange, udp_client};
use sluice_testkit::{Authority, Origin, Running, Sluice, tls, tools, wait};

/// A configuration with a listener per cluster, each of one endpoint with that health section and more.
fn checked(clusters: &[(&str, SocketAddr, &str)]) -> String {
    let listeners: String = clusters
        .iter()
        .map(|(name, ..)| format!("  - {{ name: {name}, address: 127.0.0.1:0, relay: {name} }}\n"))
        .collect();
    let clusters: String = clusters
        .iter()
        .map(|(name, at, more)| format!("  {name}: {{ endpoints: [\"{at}\"], {more} }}\n"))
        .collect();
    format!("listeners:\n{listeners}clusters:\n{clusters}")
}

/// Waits until the only endpoint of the cluster has been checked; the cause if it is unhealthy.
#[track_caller]
fn found(sluice: &Running, cluster: &str) -> Result<(), String> {
    let checks = |result: &str| {
        let labels = format!("cluster=\"{cluster}\",result=\"{result}\"");
        sluice.metric("sluice_health_checks_total", &labels)
    };
    wait::until("two checks", || (checks("ok") + checks("failed") > 1).then_some(()));
    let clusters = sluice.items("/clusters");
    let this = clusters.iter().find(|of| of["name"] == cluster).unwrap();
    let endpoint = &this["endpoints"][0];
    match endpoint["trouble"]["unhealthy"]["cause"].as_str() {
        Some(cause) => Err(cause.to_owned()),
        None => Ok(()),
    }
}

/// Starts Sluice; checks may fail.
fn start(kit: Sluice, yaml: &str) -> Running {
    kit.expect_warning("endpoint is unhealthy")
        .expect_warning("warning[slow-check]")
        .expect_warning("warning[unverified]")
        .start(yaml)
}

#[test]
fn steps_are_sent_and_expected() {
    // A server that greets, then repeats each line behind a number of bytes that are no text.
    let server = Server::start(|mut stream| {
        stream.write_all(b"220 ready\r\n")?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            stream.write_all(b"\xff\x00")?;
            stream.write_all(&std::mem::take(&mut line))?;
        }
        Ok(())
    });
    let at = server.addr();
    let timed = |tcp: &str, timeout: &str| {
        format!("health: {{ tcp: {tcp}, interval: 1s, timeout: {timeout}, unhealthy_after: 1 }}")
    };
    // Only what is expected in vain is late.
    let (health, late) = (|tcp: &str| timed(tcp, "20s"), |tcp: &str| timed(tcp, "1s"));
    let wrong = late("{ expect: 221 }");
    let text = health(r#"{ send: "ping\r\n", expect: ping }"#);
    let binary = health(r#"{ send: { hex: "61 0a" }, expect: { hex: ff00610a } }"#);
    let steps = health(
        r#"{ steps: [{ expect: "220 " }, { send: "a\n", expect: a }, { send: "b\n", expect: { hex: "ff00620A" } }] }"#,
    );
    let order = late(r#"{ steps: [{ send: "b\n", expect: b }, { expect: "220 " }] }"#);
    let sluice = start(
        Sluice::new(),
        &checked(&[
            ("text", at, &text),
            ("binary", at, &binary),
            ("steps", at, &steps),
            ("wrong", at, &wrong),
            ("order", at, &order),
        ]),
    );
    for cluster in ["text", "binary", "steps"] {
        assert_eq!(found(&sluice, cluster), Ok(()), "{cluster}");
    }
    for cluster in ["wrong", "order"] {
        assert_eq!(found(&sluice, cluster), Err("timed out".into()), "{cluster}");
    }
    drop(server);
    wait::until("the server to be missed", || {
        found(&sluice, "text")
            .is_err_and(|cause| cause.contains("Connection refused"))
            .then_some(())
    });
    assert_eq!(sluice.metric("sluice_health_changes_total", "cluster=\"text\""), 1);
}

#[test]
fn tls_is_checked_as_the_cluster_has_it() {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("server", &["app.test"]);
    // The server is a Sluice that terminates TLS in front of one that echoes.
    let echo = Server::echo();
    let server = Sluice::new();
    for file in ["server.pem", "server.key"] {
        std::fs::copy(kit.folder().join(file), server.folder().join(file)).unwrap();
    }
    let server = server.expect_warning("TLS").start(&format!(
        "listeners: [{{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: server.pem, key: server.key }}] }}, relay: app }}]\n\
         clusters: {{ app: {{ endpoints: [\"{}\"] }} }}\n",
        echo.addr()
    ));
    let at = server.addr("tls");
    let quick = "interval: 20ms, timeout: 20s, unhealthy_after: 1";
    let good = format!("tls: {{ ca: ca.pem, sni: app.test }}, health: {{ tls: true, {quick} }}");
    let other = format!("tls: {{ ca: ca.pem, sni: other.test }}, health: {{ tls: true, {quick} }}");
    let any = format!("tls: {{ verify: none, sni: other.test }}, health: {{ tls: true, {quick} }}");
    let said = format!(
        "tls: {{ ca: ca.pem, sni: app.test }}, health: {{ tcp: {{ send: hello, expect: hello }}, {quick} }}"
    );
    let plain = format!("tls: {{ ca: ca.pem, sni: app.test }}, health: {{ tls: true, {quick} }}");
    let sluice = start(
        kit,
        &checked(&[
            ("good", at, &good),
            ("other", at, &other),
            ("any", at, &any),
            ("said", at, &said),
            ("plain", echo.addr(), &plain),
        ]),
    );
    for cluster in ["good", "any", "said"] {
        assert_eq!(found(&sluice, cluster), Ok(()), "{cluster}");
    }
    let cause = found(&sluice, "other").unwrap_err();
    assert!(cause.contains("not valid for"), "{cause}");
    assert!(found(&sluice, "plain").is_err());
}

#[test]
fn checks_follow_a_renewed_authority() {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("app", &["app.test"]);
    Authority::named(kit.folder(), "other");
    let app = tls::server(&kit.folder().join("app"), &[], |_| Ok(()));
    let (trusted, folder) = (kit.folder().join("trusted.pem"), kit.folder().to_owned());
    std::fs::copy(folder.join("other.pem"), &trusted).unwrap();
    let health = "tls: { ca: trusted.pem, sni: app.test }, health: { tls: true, interval: 20ms }";
    let yaml = checked(&[("app", app.addr(), health)]);
    let sluice = start(kit, &yaml);
    wait::until("the check to fail", || found(&sluice, "app").is_err().then_some(()));
    std::fs::copy(folder.join("ca.pem"), &trusted).unwrap();
    assert_eq!(sluice.reload(&yaml), "applied");
    wait::until("the check to succeed", || found(&sluice, "app").is_ok().then_some(()));
}

#[test]
fn a_request_is_sent_as_configured_and_its_connection_kept() {
    let origin = Origin::start("a");
    let health = r#"health: { http: { method: OPTIONS, path: "/here?x=1", host: app.test, headers: { x-probe: one }, body: "x-probe: one", expect: [200, 404-410] }, interval: 20ms, timeout: 20s }"#;
    let fresh = "health: { http: { path: /fresh, reuse: false }, interval: 20ms, timeout: 20s }";
    let other = Origin::start("b");
    let yaml = checked(&[("kept", origin.addr(), health), ("fresh", other.addr(), fresh)]);
    let sluice = start(Sluice::new(), &yaml);
    assert_eq!((found(&sluice, "kept"), found(&sluice, "fresh")), (Ok(()), Ok(())));
    wait::until("more checks", || {
        (origin.requests().len() > 5 && other.requests().len() > 5).then_some(())
    });
    assert_eq!(origin.connections(), 1);
    assert!(other.connections() > 5, "{}", other.connections());
    let request = &origin.requests()[3];
    assert_eq!(request.words(), ["OPTIONS", "/here?x=1", "HTTP/1.1"]);
    assert_eq!((request.value("host"), request.value("x-probe")), ("app.test", "one"));
    assert_eq!(request.value("user-agent"), "sluice-health-check");
}

/// An HTTP server that responds with what `said` holds, and counts.
fn says(said: &'static str, bad: &Arc<AtomicBool>, asked: &Arc<AtomicUsize>) -> Server {
    let (bad, asked) = (Arc::clone(bad), Arc::clone(asked));
    Server::start(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            origin::read_message(&mut reader, true)?;
            asked.fetch_add(1, Ordering::SeqCst);
            let now = if bad.load(Ordering::SeqCst) { said } else { "200 OK\r\n" };
            write!(stream, "HTTP/1.1 {now}content-length: 0\r\n\r\n")?;
        }
    })
}

#[test]
fn what_an_endpoint_says_of_itself_decides_at_once() {
    let health = "health: { http: { retriable: 503 }, interval: 20ms, unhealthy_after: 1000000 }";
    for (said, cause, degraded) in [
        ("500 X\r\n", Some("answered 500"), false),
        ("503 X\r\n", None, false),
        (
            "200 X\r\nx-envoy-immediate-health-check-fail: true\r\n",
            Some("asked for no more"),
            false,
        ),
        ("200 X\r\nx-envoy-degraded: \r\n", None, true),
    ] {
        let (bad, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let server = says(said, &bad, &asked);
        let sluice = start(Sluice::new(), &checked(&[("app", server.addr(), health)]));
        assert_eq!(found(&sluice, "app"), Ok(()));
        bad.store(true, Ordering::SeqCst);
        let before = asked.load(Ordering::SeqCst);
        wait::until("three more checks", || {
            (asked.load(Ordering::SeqCst) > before + 3).then_some(())
        });
        let now = found(&sluice, "app");
        match cause {
            Some(cause) => assert!(now.as_ref().is_err_and(|now| now.contains(cause)), "{now:?}"),
            None => assert_eq!(now, Ok(()), "{said}"),
        }
        let endpoint = &sluice.items("/clusters")[0]["endpoints"][0];
        assert_eq!(endpoint["degraded"], degraded, "{endpoint}");
    }
}

#[test]
fn an_endpoint_that_speaks_another_version_is_named() {
    let server = Server::start(|mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")?;
        // The preface and the rest.
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let cluster =
        "protocol: http2, health: { http: {}, interval: 20ms, timeout: 20s, unhealthy_after: 1 }";
    let sluice = start(Sluice::new(), &checked(&[("app", server.addr(), cluster)]));
    let cause = found(&sluice, "app").unwrap_err();
    assert!(cause.contains("does not speak HTTP/2"), "{cause}");
}

#[test]
fn a_name_server_is_asked() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let port = tools::free_port();
    let _server =
        sluice_tests::dnsmasq(port, &["--address=/known.test/192.0.2.1", "--local=/unknown.test/"]);
    let at = ([127, 0, 0, 1], port).into();
    let quick = "interval: 20ms, unhealthy_after: 1000000";
    let good = format!("health: {{ dns: known.test, {quick} }}");
    let unknown = format!("health: {{ dns: unknown.test, {quick} }}");
    let expected = format!("health: {{ dns: {{ name: unknown.test, rcode: NXDOMAIN }}, {quick} }}");
    let nobody = "health: { dns: known.test, interval: 20ms, unhealthy_after: 1 }";
    let closed = ([127, 0, 0, 1], tools::free_port()).into();
    let sluice = start(
        Sluice::new(),
        &checked(&[
            ("good", at, &good),
            ("unknown", at, &unknown),
            ("expected", at, &expected),
            ("nobody", closed, nobody),
        ]),
    );
    assert_eq!((found(&sluice, "good"), found(&sluice, "expected")), (Ok(()), Ok(())));
    assert_eq!(found(&sluice, "unknown"), Err("responded NXDOMAIN, not NOERROR".into()));
    assert!(found(&sluice, "nobody").unwrap_err().contains("refused"));
}

#[test]
fn a_datagram_is_answered_as_expected() {
    let server = UdpServer::echo("\u{1}pong:");
    let timed = |udp: &str, timeout: &str| {
        format!("health: {{ udp: {udp}, interval: 1s, timeout: {timeout}, unhealthy_after: 1 }}")
    };
    let health = |udp: &str| timed(udp, "20s");
    let any = health("{ send: ping }");
    let good = health("{ send: { hex: 0a0b }, expect: { hex: 3a0a0b } }");
    let wrong = timed("{ send: ping, expect: pang }", "1s");
    let closed = ([127, 0, 0, 1], tools::free_port()).into();
    let sluice = start(
        Sluice::new(),
        &checked(&[
            ("any", server.addr(), &any),
            ("good", server.addr(), &good),
            ("wrong", server.addr(), &wrong),
            ("closed", closed, &any),
        ]),
    );
    assert_eq!((found(&sluice, "any"), found(&sluice, "good")), (Ok(()), Ok(())));
    assert_eq!(found(&sluice, "wrong"), Err("timed out".into()));
    assert!(found(&sluice, "closed").unwrap_err().contains("refused"));
}

#[test]
fn checks_go_to_another_port_or_address() {
    let (app, probe) = (Server::echo(), Origin::start("probe"));
    let port = probe.addr().port();
    let health = format!("health: {{ http: {{}}, port: {port}, interval: 20ms }}");
    let agent =
        format!("health: {{ http: {{}}, address: 127.0.0.1, port: {port}, interval: 20ms }}");
    let elsewhere = ([127, 0, 0, 9], app.addr().port()).into();
    let yaml = checked(&[("app", app.addr(), &health), ("agent", elsewhere, &agent)]);
    let sluice = start(Sluice::new(), &yaml);
    assert_eq!((found(&sluice, "app"), found(&sluice, "agent")), (Ok(()), Ok(())));
    let host = probe.requests()[0].value("host").to_owned();
    assert_eq!(host, probe.addr().to_string());
    assert_eq!(exchange(&mut connect(sluice.addr("app")), b"hello"), b"hello");
}

/// A server that counts connections which said something.
fn used(count: &Arc<AtomicUsize>) -> Server {
    let count = Arc::clone(count);
    Server::start(move |mut stream| {
        let mut piece = [0; 64];
        let read = stream.read(&mut piece)?;
        if piece.starts_with(b"client") {
            count.fetch_add(1, Ordering::SeqCst);
        }
        // Only a check is not told what it expects.
        stream.write_all(&piece[..read])
    })
}

#[test]
fn an_endpoint_that_waits_takes_no_traffic_before_its_first_check() {
    let (good, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (one, other) = (used(&good), used(&bad));
    let probe = Origin::start("probe");
    let yaml = |second: &str, path: &str| {
        format!(
            "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [\"{}\"{second}], \
             health: {{ http: {{ path: {path} }}, port: {}, interval: 1h, timeout: 1m, unchecked: wait }} }} }}\n",
            one.addr(),
            probe.addr().port()
        )
    };
    let kit = Sluice::new().expect_warning("endpoint is unhealthy");
    let sluice = kit.start(&yaml("", "/status/200"));
    // The listener waited for the first check.
    assert_eq!(exchange(&mut connect(sluice.addr("a")), b"client"), b"client");
    assert_eq!(good.load(Ordering::SeqCst), 1);
    // The check of the second endpoint does not end.
    let second = format!(", \"{}\"", other.addr());
    assert_eq!(sluice.reload(&yaml(&second, "/wait")), "applied");
    let endpoint = || sluice.items("/clusters")[0]["endpoints"][1].clone();
    assert_eq!(endpoint()["trouble"]["unhealthy"]["cause"], "it has not been checked yet");
    for _ in 0..10 {
        assert_eq!(exchange(&mut connect(sluice.addr("a")), b"client"), b"client");
    }
    assert_eq!((good.load(Ordering::SeqCst), bad.load(Ordering::SeqCst)), (11, 0));
    probe.release();
    wait::until("the second to be used", || {
        drop(exchange(&mut connect(sluice.addr("a")), b"client"));
        (bad.load(Ordering::SeqCst) > 0).then_some(())
    });
}

#[test]
fn a_cluster_without_checks_any_more_forgets_what_they_found() {
    let echo = Server::echo();
    let health =
        ", health: { tcp: { expect: never }, interval: 20ms, timeout: 10ms, unhealthy_after: 1 }";
    let yaml = |health: &str| {
        format!(
            "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [\"{}\"]{health} }} }}\n",
            echo.addr()
        )
    };
    let sluice = start(Sluice::new(), &yaml(health));
    assert_eq!(found(&sluice, "up"), Err("timed out".into()));
    assert_eq!(sluice.reload(&yaml("")), "applied");
    wait::until("it to be used again", || {
        let mut client = connect(sluice.addr("a"));
        let _ = client.write_all(b"hello");
        let mut back = [0; 5];
        client.read_exact(&mut back).is_ok().then_some(())
    });
}

#[test]
fn a_cluster_that_is_not_used_is_checked_less_often() {
    let (idle, other) = (Origin::start("a"), Origin::start("b"));
    let rarely = "health: { http: {}, interval: 20ms, timeout: 20s, no_traffic_interval: 1h }";
    let often = "health: { http: {}, interval: 20ms, timeout: 20s }";
    let yaml = checked(&[("idle", idle.addr(), rarely), ("other", other.addr(), often)]);
    let _sluice = start(Sluice::new(), &yaml);
    wait::until("a check of one, and many of the other", || {
        (!idle.requests().is_empty() && other.requests().len() > 20).then_some(())
    });
    assert_eq!(idle.requests().len(), 1);
}

#[test]
fn connections_of_an_endpoint_that_becomes_unhealthy_stay_or_are_closed() {
    for policy in ["keep", "move", "close"] {
        let (app, flows) = (Server::echo(), UdpServer::echo(""));
        let (bad, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let probe = says("500 X\r\n", &bad, &asked);
        let cluster = |name: &str, at: SocketAddr| {
            format!(
                "  {name}: {{ endpoints: [\"{at}\"], on_endpoint_unhealthy: {policy}, \
                 health: {{ http: {{}}, port: {}, interval: 20ms }} }}\n",
                probe.addr().port()
            )
        };
        let yaml = format!(
            "drain: {{ timeout: 100ms }}\nlisteners:\n  - {{ name: tcp, address: 127.0.0.1:0, relay: up }}\n\
             \x20 - {{ name: udp, address: \"udp://127.0.0.1:0\", relay: flows }}\nclusters:\n{}{}",
            cluster("up", app.addr()),
            cluster("flows", flows.addr()),
        );
        // The flow may be open at the end.
        let sluice = start(Sluice::new().expect_warning("drain timeout"), &yaml);
        let mut stream = connect(sluice.addr("tcp"));
        assert_eq!(exchange(&mut stream, b"hello"), b"hello");
        let datagrams = udp_client();
        datagrams.connect(sluice.addr("udp")).unwrap();
        let mut back = [0; 16];
        datagrams.send(b"hello").unwrap();
        assert_eq!(datagrams.recv(&mut back).unwrap(), 5);
        bad.store(true, Ordering::SeqCst);
        wait::until("both to be unhealthy", || {
            (sluice.metric("sluice_cluster_endpoints", "\"unhealthy\"") == 2).then_some(())
        });
        if policy == "close" {
            let records = wait::until("both records", || {
                Some(sluice.records()).filter(|records| records.len() > 1)
            });
            for record in records {
                assert_eq!(record["reason"], "end.endpoint_unhealthy", "{record}");
            }
            // Nobody is healthy, so that there is no other.
            drop(connect(sluice.addr("tcp")));
            sluice.record_of("upstream.no_healthy");
        } else {
            assert_eq!(exchange(&mut stream, b"again"), b"again");
            datagrams.send(b"again").unwrap();
            assert_eq!(datagrams.recv(&mut back).unwrap(), 5);
            drop(stream);
            sluice.record_of("end.done");
        }
    }
}

#[test]
fn an_endpoint_takes_itself_out_by_a_response_header_until_checks_succeed() {
    let origin = Origin::start("a");
    let yaml = |health: &str| {
        format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
             routes: {{ main: {{ cluster: up }} }}\n\
             clusters: {{ up: {{ endpoints: [\"{}\"]{health} }} }}\n",
            origin.addr()
        )
    };
    let sluice = start(Sluice::new(), &yaml(", health: { http: {}, interval: 300ms }"));
    let get = |path: &str| origin::get(sluice.addr("web"), "a", path).status();
    assert_eq!((get("/"), get("/unfit")), (200, 200));
    assert_eq!(sluice.metric("sluice_health_changes_total", "to=\"unhealthy\""), 1);
    let (page, cause) =
        (sluice.items("/clusters"), "asked for no more traffic by a response header");
    let endpoint = &page[0]["endpoints"][0];
    if endpoint["healthy"] == false {
        assert_eq!(endpoint["trouble"]["unhealthy"]["cause"], cause);
    }
    wait::until("checks to bring it back", || (get("/") == 200).then_some(()));
    drop(sluice);
    // Without checks that could bring it back, the header means nothing.
    let sluice = start(Sluice::new(), &yaml(""));
    let get = |path: &str| origin::get(sluice.addr("web"), "a", path).status();
    assert_eq!((get("/unfit"), get("/")), (200, 200));
}

#[test]
fn a_connection_is_not_made_to_an_endpoint_that_becomes_unhealthy_meanwhile() {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("app", &["app.test"]);
    let app = tls::server(&kit.folder().join("app"), &[], |mut stream| {
        std::io::copy(&mut std::io::empty(), &mut stream).map(drop)
    });
    // In front of it, the handshake waits until it is released.
    let (reached, released) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (at, seen, may) = (app.addr(), Arc::clone(&reached), Arc::clone(&released));
    let front = Server::start(move |mut client| {
        let mut hello = [0; 4096];
        let count = client.read(&mut hello)?;
        seen.store(true, Ordering::SeqCst);
        wait::until("the release", || may.load(Ordering::SeqCst).then_some(()));
        let mut server = connect(at);
        server.write_all(&hello[..count])?;
        let (mut back, mut to) = (server.try_clone()?, client.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut back, &mut to));
        std::io::copy(&mut client, &mut server).map(drop)
    });
    let (bad, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let probe = says("500 X\r\n", &bad, &asked);
    let health = format!(
        "tls: {{ ca: ca.pem, sni: app.test }}, connect_timeout: 30s, on_endpoint_unhealthy: close, \
         health: {{ tcp: {{}}, port: {}, interval: 20ms, unhealthy_after: 1 }}",
        probe.addr().port()
    );
    let sluice = start(kit, &checked(&[("app", front.addr(), &health)]));
    assert_eq!(found(&sluice, "app"), Ok(()));
    let _client = connect(sluice.addr("app"));
    wait::until("the handshake", || reached.load(Ordering::SeqCst).then_some(()));
    drop(probe);
    wait::until("the endpoint to be unhealthy", || found(&sluice, "app").is_err().then_some(()));
    released.store(true, Ordering::SeqCst);
    let record = sluice.record_of("end.endpoint_unhealthy");
    let tried = record["upstream_hosts_attempted"].to_string();
    assert!(tried.contains("end.endpoint_unhealthy"), "{record}");
}

#[test]
fn an_endpoint_is_checked_where_and_as_what_it_says() {
    let (origin, gone) = (Origin::start("a"), tools::free_port());
    let at = origin.addr();
    let yaml = |check: &str| {
        format!(
            "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\n\
             clusters:\n  up:\n    endpoints: [\"{at}\", {{ address: \"127.0.0.1:{gone}\"{check} }}]\n    \
             health: {{ http: {{ host: cluster.test }}, interval: 40ms, timeout: 20s, unhealthy_after: 1 }}\n"
        )
    };
    let own = format!(", check: {{ port: {}, host: own.test }}", at.port());
    let sluice = start(Sluice::new(), &yaml(&own));
    let hosts = || -> Vec<String> {
        origin.requests().iter().map(|request| request.value("host").to_owned()).collect()
    };
    wait::until("checks of both", || {
        let hosts = hosts();
        ["cluster.test", "own.test"]
            .iter()
            .all(|host| hosts.iter().any(|it| it == host))
            .then_some(())
    });
    let healthy =
        |index: usize| sluice.items("/clusters")[0]["endpoints"][index]["healthy"] == true;
    assert!(healthy(0) && healthy(1));
    // The checks follow the configuration; the endpoint is the same.
    assert_eq!(sluice.reload(&yaml("")), "applied");
    wait::until("the port to be missed", || (!healthy(1)).then_some(()));
    assert!(healthy(0));
    assert_eq!(sluice.reload(&yaml(&own)), "applied");
    wait::until("the other port to be checked again", || healthy(1).then_some(()));
}
