//! What ejects an endpoint and what does not: our own queue, the handshakes of other requests, client deadlines.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect, read_to_end};
use sluice_testkit::{Origin, Running, Sluice, tools, wait};

/// A configuration with two endpoints in an HTTP cluster.
fn two(endpoints: [SocketAddr; 2], cluster: &str) -> String {
    let [a, b] = endpoints;
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up, timeout: {{ total: 20s }} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{a}\", \"{b}\"], {cluster} }} }}\n"
    )
}

/// A server that accepts connections and never sends anything.
fn mute() -> Server {
    Server::start(|stream| {
        std::mem::forget(stream);
        Ok(())
    })
}

/// Sends a request with additional headers and leaves it waiting.
fn send(sluice: &Running, path: &str, fields: &str) -> TcpStream {
    let mut client = connect(sluice.addr("web"));
    write!(client, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n").unwrap();
    client
}

/// The statuses of the responses to requests already sent.
fn statuses(clients: Vec<TcpStream>) -> Vec<String> {
    let status = |mut client: TcpStream| {
        let (_, got) = read_to_end(&mut client);
        String::from_utf8_lossy(&got).split(' ').nth(1).unwrap_or("none").to_owned()
    };
    clients.into_iter().map(status).collect()
}

#[track_caller]
fn assert_nobody_ejected(sluice: &Running) {
    assert_eq!(sluice.metric("sluice_cluster_ejections_total", ""), 0);
    assert_eq!(sluice.metric("sluice_cluster_connect_failures_total", ""), 0);
}

/// Waits until each endpoint has received a request.
fn wait_arrived(origins: &[&Origin]) {
    wait::until("a request at each endpoint", || {
        origins.iter().all(|origin| !origin.requests().is_empty()).then_some(())
    });
}

const STRICT: &str = "outlier: { connect_failures: 1, consecutive_5xx: 1, ejection: 1h }";

#[test]
fn requests_over_a_limit_eject_no_endpoint() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let limits = "limits: { connections_per_endpoint: 1, pending: 0 }";
    let sluice =
        Sluice::new().workers(1).start(&two([a.addr(), b.addr()], &format!("{limits}, {STRICT}")));
    let waiting: Vec<_> = (0..2).map(|_| send(&sluice, "/wait", "")).collect();
    wait_arrived(&[&a, &b]);
    let refused = statuses((0..6).map(|_| send(&sluice, "/", "")).collect());
    assert_eq!(refused, ["503"; 6]);
    sluice.record_of("upstream.limit");
    assert_eq!(sluice.metric("sluice_cluster_breaker_refusals_total", "pending"), 6);
    let retries = &sluice.items("/clusters")[0]["breakers"]["retries"];
    assert_eq!((&retries["limit"], &retries["left"]), (&3.into(), &3.into()));
    a.release();
    b.release();
    assert_eq!(statuses(waiting), ["200"; 2]);
    assert_nobody_ejected(&sluice);
}

#[test]
fn time_in_our_own_queue_ejects_no_endpoint() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let cluster =
        format!("connect_timeout: 1s, limits: {{ connections_per_endpoint: 1 }}, {STRICT}");
    let sluice = Sluice::new().workers(1).start(&two([a.addr(), b.addr()], &cluster));
    let waiting: Vec<_> = (0..2).map(|_| send(&sluice, "/wait", "")).collect();
    wait_arrived(&[&a, &b]);
    let refused = statuses((0..6).map(|_| send(&sluice, "/", "")).collect());
    assert_eq!(refused, ["503"; 6]);
    sluice.record_of("upstream.limit");
    a.release();
    b.release();
    assert_eq!(statuses(waiting), ["200"; 2]);
    assert_nobody_ejected(&sluice);
}

#[test]
fn a_handshake_shared_by_many_requests_fails_once() {
    let (mute, other) = (mute(), mute());
    let cluster = "protocol: http2, tls: { verify: none }, connect_timeout: 1s, outlier: { connect_failures: 6, ejection: 1h }";
    let sluice = Sluice::new()
        .workers(1)
        .expect_warning("verif")
        .start(&two([mute.addr(), other.addr()], cluster));
    let failed = statuses((0..20).map(|_| send(&sluice, "/", "")).collect());
    assert_eq!(failed, ["503"; 20]);
    // Each request makes up to three attempts; a handshake that many requests wait for is one attempt.
    let failures = sluice.metric("sluice_cluster_connect_failures_total", "");
    assert!(failures <= 10, "{failures}");
    wait::until("the endpoints to have accepted as many connections", || {
        let accepted = i64::try_from(mute.accepted() + other.accepted()).unwrap();
        (accepted == failures).then_some(())
    });
    assert_eq!(sluice.metric("sluice_cluster_ejections_total", ""), 0);
}

#[test]
fn a_client_deadline_ejects_no_endpoint() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let grpc = "content-type: application/grpc\r\ngrpc-timeout: 20m\r\n";
    // While connecting.
    let mute = [mute(), mute()];
    let cluster = format!("tls: {{ verify: none }}, {STRICT}");
    let sluice = Sluice::new()
        .workers(1)
        .expect_warning("verif")
        .start(&two([mute[0].addr(), mute[1].addr()], &cluster));
    statuses((0..6).map(|_| send(&sluice, "/", grpc)).collect());
    sluice.record_of("route.timeout");
    assert_nobody_ejected(&sluice);
    // While waiting for the response.
    let sluice = Sluice::new().workers(1).start(&two([a.addr(), b.addr()], STRICT));
    statuses((0..6).map(|_| send(&sluice, "/wait", grpc)).collect());
    sluice.record_of("route.timeout");
    assert_nobody_ejected(&sluice);
}

#[test]
fn only_grpc_requests_set_a_deadline() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let sluice = Sluice::new().start(&two([a.addr(), b.addr()], STRICT));
    let waiting = vec![send(&sluice, "/wait", "grpc-timeout: 1n\r\n")];
    wait::until("the request to arrive", || {
        (a.requests().len() + b.requests().len() == 1).then_some(())
    });
    a.release();
    b.release();
    assert_eq!(statuses(waiting), ["200"]);
}

#[test]
fn failures_of_an_endpoint_eject_it() {
    let (a, dead) = (Origin::start("a"), tools::free_port());
    let dead = ([127, 0, 0, 1], dead).into();
    let sluice = Sluice::new()
        .workers(1)
        .expect_warning("endpoint ejected")
        .start(&two([a.addr(), dead], STRICT));
    let mut client = Client::connect(sluice.addr("web"));
    for _ in 0..4 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    }
    assert_eq!(sluice.metric("sluice_cluster_ejections_total", ""), 1);
}
