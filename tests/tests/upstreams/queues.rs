//! Connections and requests that wait in line for an endpoint with room.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::Client;
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, Running, Sluice, wait};

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
