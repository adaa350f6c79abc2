//! QUIC itself: its options, what it reports, and peers that the HTTP/3 tests do not need.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use sluice_testkit::http3::{self, Failure};
use sluice_testkit::lossy::{LossyHop, Troubles};
use sluice_testkit::peers::udp_client;
use sluice_testkit::{Authority, Origin, Running, Sluice, origin, tools, wait};
use sluice_tests::h3::{Client, configuration, edge, head, status};

/// Runs `work` with a quinn client that trusts the certificate of `sluice`.
#[track_caller]
fn quinn<T>(
    sluice: &Running,
    pings: Option<Duration>,
    work: impl AsyncFnOnce(&http3::Client) -> Result<T, Failure>,
) -> T {
    http3::run(&sluice.folder().join("ca.pem"), pings, work).unwrap()
}

/// A configuration that grants early data.
fn granting(origin: &Origin, quic: &str) -> String {
    let granted = "web.key }], early_data_sessions: 16 }";
    configuration("web", origin.addr(), quic).replace("web.key }] }", granted)
}

fn early_edge(origin: &Origin, workers: u16) -> Running {
    let kit = Sluice::new().workers(workers);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    kit.start(&granting(origin, "true"))
}

#[test]
fn a_request_in_early_data_is_served_if_it_is_safe() {
    let origin = Origin::start("a");
    let sluice = early_edge(&origin, 2);
    let to = sluice.addr("web");
    quinn(&sluice, None, async |client| {
        // There is no earlier session.
        assert!(client.connect_early(to, "web.test").await?.is_none());
        let first = client.connect(to, "web.test").await?;
        assert_eq!(first.ask("POST", "/echo").await?.status, 200);
        // Whether a request arrives before the end of the handshake is a race that it nearly always wins.
        let (mut safe, mut refused) = (false, false);
        for _ in 0..100 {
            if safe && refused {
                break;
            }
            let early = client.connect_early(to, "web.test").await?.expect("a session was left");
            if refused {
                let answer = early.ask("GET", "/bytes/3").await?;
                assert_eq!((answer.status, answer.length), (200, 3));
                safe = origin.requests().last().unwrap().value("early-data") == "1";
            } else {
                let before = origin.requests().len();
                let answer = early.ask("POST", "/echo").await?;
                refused = answer.status == 425;
                assert_eq!(origin.requests().len() == before, refused, "{answer:?}");
            }
            // After the handshake the same connection serves any request, without the mark.
            wait::until("the end of the handshake", || {
                (!sluice.items("/connections").is_empty()).then_some(())
            });
            while early.ask("POST", "/echo").await?.status == 425 {}
            assert_eq!(origin.requests().last().unwrap().value("early-data"), "");
        }
        assert!(safe && refused, "safe: {safe}, refused: {refused}");
        Ok(())
    });
    let record =
        sluice.record("an early connection", |record| record["downstream_early_data"] == "true");
    assert_eq!(record["kind"], "connection");
    sluice.record_of("http.too_early");
    assert!(sluice.metric("sluice_listener_quic_early_connections_total", "") > 0);
}

#[test]
fn early_data_is_off_by_default() {
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    quinn(&sluice, None, async |client| {
        client.connect(sluice.addr("web"), "web.test").await?.ask("GET", "/bytes/1").await?;
        assert!(client.connect_early(sluice.addr("web"), "web.test").await?.is_none());
        Ok(())
    });
    let record = sluice.record_of("end.done");
    assert_eq!(record["downstream_early_data"], "false");
}

#[test]
fn early_data_is_rejected_after_the_limits_have_changed() {
    let origin = Origin::start("a");
    let sluice = early_edge(&origin, 1);
    let to = sluice.addr("web");
    quinn(&sluice, None, async |client| {
        client.connect(to, "web.test").await?.ask("GET", "/bytes/1").await?;
        assert_eq!(sluice.reload(&granting(&origin, "{ streams: 5 }")), "applied");
        // Early data is rejected, and the connection starts over.
        let early = client.connect_early(to, "web.test").await?.expect("a session was left");
        assert!(early.ask("GET", "/bytes/2").await.is_err());
        assert_eq!(client.connect(to, "web.test").await?.ask("GET", "/bytes/3").await?.length, 3);
        Ok(())
    });
    let paths: Vec<String> =
        origin.requests().iter().map(|request| request.path().into()).collect();
    assert_eq!(paths, ["/bytes/1", "/bytes/3"]);
}

#[test]
fn a_thousand_connections_are_open_at_once_and_each_is_served() {
    const CONNECTIONS: usize = 1000;
    sluice_testkit::raise_file_limit();
    let origin = Origin::start("a");
    let sluice = edge(&origin, 2, "true");
    // None is idle for so long that it ends before the last has been made.
    quinn(&sluice, Some(Duration::from_secs(5)), async |client| {
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            open.push(client.connect(sluice.addr("web"), "web.test").await?);
        }
        for _ in 0..2 {
            let asked = open.iter().map(|connection| connection.ask("GET", "/bytes/100"));
            let mut asked: Vec<_> = asked.map(Box::pin).collect();
            // All are in flight before the first is awaited.
            for ask in &mut asked {
                let begun =
                    std::future::poll_fn(|cx| std::task::Poll::Ready(ask.as_mut().poll(cx)));
                assert!(begun.await.is_pending());
            }
            for ask in asked {
                assert_eq!(ask.await?.length, 100);
            }
        }
        assert_eq!(sluice.items("/connections").len(), CONNECTIONS);
        Ok(())
    });
    assert_eq!(origin.requests().len(), 2 * CONNECTIONS);
}

#[test]
fn every_congestion_controller_works_on_a_lossy_path() {
    let origin = Origin::start("a");
    for congestion in ["cubic", "new_reno", "bbr"] {
        let sluice = edge(&origin, 1, &format!("{{ congestion: {congestion} }}"));
        let troubles = Troubles { lose: 40, double: 0, delay: 0, rebind: 0 };
        let hop = LossyHop::start(sluice.addr("web"), troubles);
        let got = quinn(&sluice, None, async |client| {
            client.connect(hop.addr(), "web.test").await?.ask("GET", "/bytes/400000").await
        });
        assert_eq!(got.length, 400_000, "{congestion}");
        let record = sluice.record("the connection", |record| record["kind"] == "connection");
        assert!(record["quic_packets_lost"].as_u64().unwrap() > 0, "{congestion}: {record}");
        assert!(record["quic_packets_sent"].as_u64().unwrap() > 100, "{congestion}: {record}");
    }
}

#[test]
fn a_connection_reports_its_path_and_writes_a_trace() {
    if !tools::have_modules(&["aioquic"]) {
        return;
    }
    let origin = Origin::start("a");
    let kit = Sluice::new();
    std::fs::create_dir(kit.folder().join("traces")).unwrap();
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let sluice = kit.start(&configuration("web", origin.addr(), "{ qlog: traces }"));
    let get = |path| json!({ "ask": { "headers": head("GET", path, &[]) } });
    let mut steps = vec![get("/bytes/3"), json!({ "await": [0, "end"] })];
    for number in (4..16).step_by(4) {
        steps.extend([
            json!({ "rebind": true }),
            get("/bytes/3"),
            json!({ "await": [number, "end"] }),
        ]);
    }
    steps.extend([get("/wait"), json!({ "await": [16, "end"] })]);
    let client = Client::start(&sluice, "web", "web.test", &steps.into());
    let shown = wait::until("the last request to arrive", || {
        let waits = origin.requests().iter().any(|request| request.words()[1] == "/wait");
        let open = sluice.items("/connections").into_iter().next();
        open.filter(|open| waits && open["quic"]["migrations"] == 3)
    });
    let quic = &shown["quic"];
    assert_eq!((&quic["version"], &quic["early_data"]), (&json!("v1"), &json!(false)), "{shown}");
    assert!(
        quic["rtt_us"].as_u64().unwrap() > 0 && quic["mtu"].as_u64().unwrap() >= 1200,
        "{shown}"
    );
    assert_ne!(quic["client"], shown["peer"], "{shown}");
    origin.release();
    assert_eq!(status(&client.end()["streams"]["16"]), 200);
    let record = sluice.record("the connection", |record| record["kind"] == "connection");
    assert_eq!((&record["quic_version"], &record["quic_migrations"]), (&json!("v1"), &json!(3)));
    assert!(record["downstream_rtt_ms"].is_number(), "{record}");
    assert_eq!(sluice.metric("sluice_listener_quic_migrations_total", ""), 3);
    let ending = format!("-{}.sqlog", record["connection_id"]);
    let trace = wait::until("the trace", || {
        let mut traces = std::fs::read_dir(sluice.folder().join("traces")).unwrap().flatten();
        let own = traces.find(|file| file.file_name().to_string_lossy().ends_with(&ending))?;
        std::fs::read_to_string(own.path()).ok().filter(|text| text.contains("packet_sent"))
    });
    // Records of RFC 7464, each of them JSON.
    let records: Vec<_> =
        trace.split('\x1e').map(str::trim).filter(|text| !text.is_empty()).collect();
    assert!(records.len() > 20);
    for text in &records {
        assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
    }
}

#[test]
fn unknown_versions_get_a_version_negotiation_packet() {
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    let client = udp_client();
    // A long header of an unknown version, RFC 8999 §5.1: its IDs, and enough padding to get a reply.
    let mut datagram = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    datagram.extend(b"theirsid");
    datagram.push(5);
    datagram.extend(b"ownid");
    datagram.resize(1200, 0);
    client.send_to(&datagram, sluice.addr("web")).unwrap();
    let mut answer = [0; 128];
    let (count, _) = client.recv_from(&mut answer).unwrap();
    // Version Negotiation (version 0) lists the supported versions, with the IDs swapped, RFC 9000 §17.2.1.
    let answer = &answer[..count];
    assert_eq!(answer[0] & 0x80, 0x80);
    assert_eq!(answer[1..20], b"\0\0\0\0\x05ownid\x08theirsid"[..]);
    assert!(answer[20..].chunks(4).any(|version| version == [0, 0, 0, 1]), "{answer:?}");
    // Each is counted, and some are recorded.
    assert_eq!(sluice.record_of("quic.version")["detail"], "version 0x1a2a3a4a");
    // No more at once than the buffer of the socket holds.
    for group in 1..=10 {
        for _ in 0..10 {
            client.send_to(&datagram, sluice.addr("web")).unwrap();
        }
        wait::until("all to be counted", || {
            let count = sluice.metric("sluice_listener_quic_unknown_versions_total", "");
            (count == 1 + 10 * group).then_some(())
        });
    }
    let records = sluice.records();
    let recorded = records.iter().filter(|record| record["reason"] == "quic.version").count();
    assert!(recorded < 101, "{recorded}");
}

#[test]
fn packets_of_an_unknown_connection_get_a_stateless_reset() {
    let origin = Origin::start("a");
    let sluice = edge(&origin, 2, "true");
    let client = udp_client();
    // A short header with an unknown ID, as after a restart.
    let datagram = [&[0x40][..], b"not ours", &[7; 200]].concat();
    client.send_to(&datagram, sluice.addr("web")).unwrap();
    let mut answer = [0; 256];
    let (count, _) = client.recv_from(&mut answer).unwrap();
    // The reset looks like any packet, and is shorter than the packet it replies to, RFC 9000 §10.3.
    assert_eq!(answer[0] & 0xc0, 0x40);
    assert!((21..datagram.len()).contains(&count), "{count}");
}

#[test]
fn a_client_may_update_its_keys() {
    if !tools::have_modules(&["aioquic"]) {
        return;
    }
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    let get = |path| json!({ "ask": { "headers": head("GET", path, &[]) } });
    let steps = json!([
        get("/bytes/3"),
        { "await": [0, "end"] },
        { "update": true },
        get("/bytes/300000"),
        { "await": [4, "end"] },
    ]);
    let got = Client::start(&sluice, "web", "web.test", &steps).end();
    assert_eq!(got["streams"]["4"]["data"], 300_000, "{got}");
}

#[test]
fn pings_do_not_keep_an_idle_client_connected() {
    let origin = Origin::start("a");
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let configuration = configuration("web", origin.addr(), "true")
        .replace("http: main", "http: { routes: main, idle_timeout: 2s }");
    let sluice = kit.start(&configuration);
    let said = quinn(&sluice, Some(Duration::from_millis(20)), async |client| {
        let connection = client.connect(sluice.addr("web"), "web.test").await?;
        assert_eq!(connection.ask("GET", "/bytes/1").await?.status, 200);
        Ok(connection.closed().await)
    });
    // The client is notified that no more requests are accepted, and closes.
    assert!(said.contains("closed"));
    sluice.record_of("http.idle");
}

#[test]
fn a_connection_ends_at_its_age() {
    let origin = Origin::start("a");
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let configuration = configuration("web", origin.addr(), "true")
        .replace("http: main", "http: { routes: main, max_age: 2s, max_age_jitter: 0% }");
    let sluice = kit.start(&configuration);
    let said = quinn(&sluice, None, async |client| {
        let connection = client.connect(sluice.addr("web"), "web.test").await?;
        assert_eq!(connection.ask("GET", "/bytes/1").await?.status, 200);
        Ok(connection.closed().await)
    });
    assert!(said.contains("closed"));
    let record = sluice.record_of("end.done");
    assert!(record["detail"].as_str().unwrap().contains("max_age"), "{record}");
}

#[test]
fn aioquic_serves_as_an_endpoint() {
    if !tools::have_modules(&["aioquic"]) || !tools::have(&["curl"]) {
        return;
    }
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/h3_server.py");
    let mut command = tools::python(&script);
    command.arg(kit.folder().join("own.pem")).arg(kit.folder().join("own.key"));
    let (_server, address) = tools::serve_on_its_port(&mut command);
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{address}\"], protocol: http3, tls: {{ sni: own.test, ca: ca.pem }} }} }}\n"
    ));
    let to = sluice.addr("web");
    let got = origin::get(to, "a", "/bytes/500000");
    assert_eq!((got.body.len(), got.value("x-served")), (500_000, "aioquic"));
    assert_eq!(origin::get(to, "a", "/reset").status(), 503);
    let curl = |more: &[&str]| {
        let mut curl = tools::command("curl");
        curl.args(["-sS", "--http2-prior-knowledge"]).args(more);
        tools::must(&mut curl)
    };
    assert_eq!(curl(&["--data-binary", "hello", &format!("http://{to}/")]), "hello");
    assert!(curl(&["-i", &format!("http://{to}/hints")]).contains("link: </a.css>"));
    let record = sluice.record("a request", |record| record["response_code"] == 200);
    assert_eq!(record["upstream_protocol"], "HTTP/3");
}

#[test]
fn a_browser_loads_a_page_over_http3() {
    if !tools::have(&["chromium", "openssl"]) {
        return;
    }
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    // The browser is configured to trust this key, whoever signed it.
    let key = kit.folder().join("web.key");
    let spki = tools::must(tools::command("sh").args(["-c", "openssl pkey -in \"$0\" -pubout -outform der | openssl dgst -sha256 -binary | openssl base64"]).arg(&key));
    let sluice = kit.start(
        "listeners: [{ name: web, address: 127.0.0.1:0, quic: true, tls: { certificates: [{ cert: web.pem, key: web.key }] }, http: main }]\n\
         routes: { main: [{ hosts: \"*\", rules: [\
         { match: { path: /page }, respond: { status: 200, content_type: text/html, body: '<p id=p>first</p><script src=/more></script>' } }, \
         { match: { path: /more }, respond: { status: 200, content_type: text/javascript, body: \"document.getElementById('p').textContent = 'and more'\" } }, \
         { respond: { status: 404 } }] }] }\n\
         clusters: {}\n",
    );
    let port = sluice.addr("web").port();
    let mut browser = tools::command("chromium");
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        // The browser contacts no other host.
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .arg("--host-resolver-rules=MAP web.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        .arg(format!("--user-data-dir={}", sluice.folder().join("browser").display()))
        .arg(format!("--origin-to-force-quic-on=web.test:{port}"))
        .arg(format!("--ignore-certificate-errors-spki-list={}", spki.trim()))
        .args(["--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("https://web.test:{port}/page"));
    let page = tools::must(&mut browser);
    assert!(page.contains(">and more</p>"), "{page}");
    for path in ["/page", "/more"] {
        let record = sluice.record(path, |record| record["path"] == path);
        assert_eq!(
            (&record["protocol"], &record["response_code"]),
            (&json!("HTTP/3"), &json!(200))
        );
    }
}

#[test]
fn concurrent_requests_reuse_upstream_connections() {
    const ASKED: usize = 2000;
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    let answered = std::cell::Cell::new(0);
    quinn(&sluice, None, async |client| {
        let connection = client.connect(sluice.addr("web"), "web.test").await?;
        let go_on = |answer: http3::Answer| {
            assert_eq!((answer.status, answer.length), (200, 1024));
            answered.set(answered.get() + 1);
            answered.get() < ASKED
        };
        connection.ask_always(32, "/bytes/1024", go_on).await
    });
    // The number of requests in flight, plus connections opened before the first ones were returned.
    assert!(origin.connections() <= 64, "{} for {} requests", origin.connections(), answered.get());
    // The crate h3 sends an unknown frame before the end of a request: it does not make a body.
    assert!(origin.requests().iter().all(|request| request.value("transfer-encoding").is_empty()));
}

/// Connections from one socket, each validated with a Retry: they share an address, but each has its own chain.
#[test]
fn connections_from_one_socket_get_their_own_chains_after_a_retry() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("both", &["a.test", "b.test"]);
    let chain = |name: &str| {
        format!(
            "{{ match: {{ sni: {name}.test }}, tls: {{ certificates: [{{ cert: both.pem, key: both.key }}] }}, http: {{ routes: {name} }} }}"
        )
    };
    let routes =
        |name: &str| format!("{name}: [{{ hosts: \"*\", rules: [{{ cluster: {name} }}] }}]");
    let yaml = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, quic: {{ retry_above: 0 }}, chains: [{}, {}] }}]\n\
         routes: {{ {}, {} }}\n\
         clusters: {{ a: {{ endpoints: [\"{}\"] }}, b: {{ endpoints: [\"{}\"] }} }}\n\
         limits: {{ quic_hellos: 16 }}\n",
        chain("a"),
        chain("b"),
        routes("a"),
        routes("b"),
        a.addr(),
        b.addr()
    );
    let sluice = kit.workers(2).start(&yaml);
    let to = sluice.addr("web");
    quinn(&sluice, None, async |client| {
        for _ in 0..20 {
            let (one, two) = client.connect_both(to, ["a.test", "b.test"]).await?;
            assert_eq!(one.ask("GET", "/").await?.status, 200);
            assert_eq!(two.ask("GET", "/").await?.status, 200);
        }
        Ok(())
    });
    assert_eq!((a.requests().len(), b.requests().len()), (20, 20));
    // A client that is kept waiting sends its first packet again, and gets another.
    assert!(sluice.metric("sluice_listener_quic_retries_total", "") >= 40);
}
