//! HTTP/3 to endpoints beside TCP (`protocol: auto` with `http3`): what is attempted, what is used, and what is remembered.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use serde_json::Value;
use sluice_testkit::origin::{self, Message};
use sluice_testkit::quinn::Connection;
use sluice_testkit::{Authority, QuicServer, Running, Sluice, tools, wait};

/// A site over TLS that says in `x-version` which version it was asked in. It advertises HTTP/3 if that is on, and else
/// with the header `alt-svc` by path: `/NAME` for each of `adverts`.
fn site(quic: bool, adverts: &[(&str, &str)]) -> Running {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    let mut rules = String::new();
    for (name, value) in adverts {
        rules.push_str(&format!(
            "    - {{ match: {{ path: /{name} }}, filters: {{ set_headers: {{ response: {{ x-version: \"%PROTOCOL%\", alt-svc: '{value}' }} }} }}, respond: {{ status: 200 }} }}\n"
        ));
    }
    kit.start(&format!(
        "listeners:\n\
         - {{ name: tls, address: 127.0.0.1:0, quic: {quic}, tls: {{ certificates: [{{ cert: own.pem, key: own.key }}] }}, http: {{ routes: main, filters: [set_headers: {{ response: {{ x-version: \"%PROTOCOL%\" }} }}] }} }}\n\
         routes:\n  main:\n  - hosts: \"*\"\n    rules:\n{rules}    - {{ respond: {{ status: 200 }} }}\n"
    ))
}

/// A proxy in front of an endpoint that a certificate from the authority in `folder` vouches for.
fn proxy(to: SocketAddr, folder: &Path, http3: &str, cluster: &str) -> Running {
    let ca = folder.join("ca.pem");
    Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters:\n  up:\n    endpoints: [\"{to}\"]\n    protocol: auto\n    tls: {{ sni: own.test, ca: \"{}\" }}\n    \
         http3: {http3}\n{cluster}",
        ca.display()
    ))
}

fn ask(sluice: &Running, path: &str) -> Message {
    origin::get(sluice.addr("web"), "a", path)
}

/// Asks until the site was asked in this version.
fn until_version(sluice: &Running, path: &str, version: &str) {
    wait::until(version, || (ask(sluice, path).value("x-version") == version).then_some(()));
}

fn attempts(sluice: &Running, result: &str) -> i64 {
    sluice.metric("sluice_cluster_http3_attempts_total", &format!("result=\"{result}\""))
}

fn adverts(sluice: &Running, result: &str) -> i64 {
    sluice.metric("sluice_cluster_alt_svc_total", &format!("result=\"{result}\""))
}

/// What `/clusters` shows of HTTP/3 at the endpoint.
fn known(sluice: &Running) -> Value {
    sluice.items("/clusters")[0]["endpoints"][0]["http3"].clone()
}

/// Serves requests with a response that has only a status, as an indexed line of QPACK's static table.
async fn answer(connection: Connection, status: &[u8]) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let _ = recv.read_to_end(1 << 16).await;
        let length = u8::try_from(2 + status.len()).unwrap();
        let response = [&[0x01, length, 0x00, 0x00], status].concat();
        let _ = send.write_all(&response).await;
        let _ = send.finish();
    }
}

/// 404 and 421 in the static table.
const NOT_FOUND: &[u8] = &[0xdb];
const MISDIRECTED: &[u8] = &[0xff, 0x06];

/// A head start that no test waits for.
const PATIENT: &str = "    connect_timeout: 60s\n";

#[test]
fn requests_move_to_http3_once_the_endpoint_has_advertised_it() {
    let site = site(true, &[]);
    let sluice = proxy(site.addr("tls"), site.folder(), "true", "");
    let first = ask(&sluice, "/");
    assert_eq!(first.value("x-version"), "HTTP/2");
    assert!(first.values("alt-svc").is_empty(), "it says nothing to clients");
    until_version(&sluice, "/", "HTTP/3");
    // From there on, all of them.
    for _ in 0..5 {
        assert_eq!(ask(&sluice, "/").value("x-version"), "HTTP/3");
    }
    assert_eq!(known(&sluice)["advertised_port"], site.addr("tls").port());
    assert_eq!((adverts(&sluice, "learned"), adverts(&sluice, "ignored")), (1, 0));
    assert_eq!((attempts(&sluice, "late"), attempts(&sluice, "failed")), (1, 0));
    let record = sluice.record("a request", |record| record["upstream_protocol"] == "HTTP/3");
    assert_eq!(record["upstream_host"], site.addr("tls").to_string());
}

#[test]
fn with_always_http3_has_a_head_start() {
    let site = site(true, &[]);
    let http3 = "{ race: { when: always, tcp_delay: 50s } }";
    let sluice = proxy(site.addr("tls"), site.folder(), http3, PATIENT);
    for _ in 0..5 {
        assert_eq!(ask(&sluice, "/").value("x-version"), "HTTP/3");
    }
    assert_eq!(attempts(&sluice, "established"), 1);
    assert_eq!(attempts(&sluice, "late") + attempts(&sluice, "failed"), 0);
    // Nothing came over TCP.
    assert!(site.records().iter().all(|record| record["protocol"] != "HTTP/2"));
}

#[test]
fn tcp_is_used_where_udp_is_lost_and_http3_is_left_alone_until_it_may_be_tried_again() {
    let site = site(false, &[]);
    // Datagrams arrive here, and nobody answers.
    let silent = UdpSocket::bind(site.addr("tls")).unwrap();
    let http3 = "{ race: { when: always, tcp_delay: 0s, retry: 1ms, max_retry: 1h } }";
    let sluice = proxy(site.addr("tls"), site.folder(), http3, "    connect_timeout: 1s\n");
    assert_eq!(ask(&sluice, "/").value("x-version"), "HTTP/2");
    // The pause is doubled until it is long.
    let failures = wait::until("long pauses", || {
        assert_eq!(ask(&sluice, "/").value("x-version"), "HTTP/2");
        let count = known(&sluice)["failures"].as_u64().unwrap_or_default();
        (count >= 3).then_some(count)
    });
    assert_eq!(attempts(&sluice, "failed"), i64::try_from(failures).unwrap());
    assert_eq!(known(&sluice)["failure"], "no connection within `connect_timeout` (1s)");
    assert!(known(&sluice)["retry_at"].is_string());
    // It is no failure of the endpoint.
    assert_eq!(sluice.metric("sluice_cluster_connect_failures_total", ""), 0);
    drop(silent);
    let _server =
        QuicServer::start_on(site.addr("tls").port(), site.folder(), "own", async |connection| {
            answer(connection, NOT_FOUND).await
        });
    wait::until("HTTP/3", || (ask(&sluice, "/").status() == 404).then_some(()));
    assert!(known(&sluice).is_null(), "{}", known(&sluice));
}

#[test]
fn a_long_pause_is_respected() {
    let site = site(false, &[]);
    let _silent = UdpSocket::bind(site.addr("tls")).unwrap();
    let http3 = "{ race: { when: always, tcp_delay: 0s } }";
    let sluice = proxy(site.addr("tls"), site.folder(), http3, "    connect_timeout: 1s\n");
    assert_eq!(ask(&sluice, "/").value("x-version"), "HTTP/2");
    wait::until("the failure", || known(&sluice)["failures"].as_u64());
    for _ in 0..20 {
        assert_eq!(ask(&sluice, "/").value("x-version"), "HTTP/2");
    }
    assert_eq!(attempts(&sluice, "failed"), 1);
}

#[test]
fn http3_serves_where_tcp_is_refused() {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    // A port at which nobody listens over TCP.
    let port = tools::free_port();
    let server = QuicServer::start_on(port, kit.folder(), "own", async |connection| {
        answer(connection, NOT_FOUND).await;
    });
    let http3 = "{ race: { when: always, tcp_delay: 0s } }";
    let sluice = proxy(server.addr(), kit.folder(), http3, "");
    for _ in 0..3 {
        assert_eq!(ask(&sluice, "/").status(), 404);
    }
    // Without HTTP/3, the error is that of TCP.
    let address = server.addr();
    drop(server);
    let sluice = proxy(address, kit.folder(), http3, "    connect_timeout: 1s\n");
    assert_eq!(ask(&sluice, "/").status(), 503);
    sluice.record_of("upstream.refused");
    assert!(known(&sluice).is_null(), "both are down: {}", known(&sluice));
}

#[test]
fn an_advertisement_counts_for_the_same_host_until_it_is_cleared() {
    let site = site(
        false,
        &[
            ("other", "h3=\"other.test:443\", h2=\":443\""),
            ("here", "h3=\":1\"; ma=3600"),
            ("clear", "clear"),
        ],
    );
    let sluice = proxy(site.addr("tls"), site.folder(), "{ race: { tcp_delay: 0s } }", "");
    ask(&sluice, "/other");
    assert!(known(&sluice).is_null());
    assert_eq!(adverts(&sluice, "ignored"), 1);
    ask(&sluice, "/here");
    assert_eq!(known(&sluice)["advertised_port"], 1);
    ask(&sluice, "/clear");
    assert!(known(&sluice)["advertised_port"].is_null());
    assert_eq!((adverts(&sluice, "learned"), adverts(&sluice, "cleared")), (1, 1));
}

#[test]
fn an_endpoint_that_is_not_verified_is_not_believed() {
    let site = site(false, &[("here", "h3=\":1\"")]);
    let sluice = Sluice::new().expect_warning("anyone can impersonate the endpoint").start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters:\n  up:\n    endpoints: [\"{}\"]\n    protocol: auto\n    tls: {{ verify: none }}\n    \
         http3: {{ race: {{ when: always, tcp_delay: 0s }} }}\n",
        site.addr("tls")
    ));
    assert_eq!(ask(&sluice, "/here").status(), 200);
    assert!(known(&sluice)["advertised_port"].is_null());
}

#[test]
fn an_advertised_port_must_speak_for_the_same_name_and_pass_the_egress_policy() {
    // Another server of the same host, with a certificate for another name.
    let folder = Sluice::new();
    Authority::new(folder.folder()).issue("own", &["other.test"]);
    let server = QuicServer::start(folder.folder(), "own", async |connection| {
        answer(connection, NOT_FOUND).await;
    });
    let advert = format!("h3=\":{}\"", server.addr().port());
    let site = site(false, &[("here", &advert)]);
    for (egress, cause) in [("", "certificate"), ("    egress: true\n", "127.0.0.1 is loopback")] {
        let sluice = proxy(site.addr("tls"), site.folder(), "true", egress);
        assert_eq!(ask(&sluice, "/here").value("x-version"), "HTTP/2");
        let failure = wait::until("the failure", || {
            assert_eq!(ask(&sluice, "/here").status(), 200);
            known(&sluice)["failure"].as_str().map(str::to_owned)
        });
        assert!(failure.contains(cause), "{failure}");
        let denied = sluice.metric("sluice_cluster_egress_denials_total", "");
        assert_eq!(denied > 0, !egress.is_empty());
    }
}

#[test]
fn an_endpoint_that_does_not_serve_the_host_over_http3_is_asked_over_tcp() {
    let site = site(false, &[]);
    let _server =
        QuicServer::start_on(site.addr("tls").port(), site.folder(), "own", async |connection| {
            answer(connection, MISDIRECTED).await
        });
    let http3 = "{ race: { when: always, tcp_delay: 50s } }";
    let sluice = proxy(site.addr("tls"), site.folder(), http3, PATIENT);
    assert_eq!(ask(&sluice, "/").status(), 421);
    until_version(&sluice, "/", "HTTP/2");
    assert_eq!(known(&sluice)["failure"], "status 421 (misdirected request)");
}

#[test]
fn a_limit_on_connections_holds_for_both_together() {
    let site = site(true, &[]);
    let limits = "    limits: { connections: 1 }\n";
    let http3 = "{ race: { tcp_delay: 0s } }";
    let sluice = proxy(site.addr("tls"), site.folder(), http3, limits);
    for _ in 0..3 {
        assert_eq!(ask(&sluice, "/").status(), 200);
    }
    assert!(attempts(&sluice, "limit") > 0);
    assert_eq!(sluice.metric("sluice_cluster_connections_total", ""), 1);
}
