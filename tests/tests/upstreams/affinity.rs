//! A client stays with its endpoint, by session or by source.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use sluice_testkit::peers::{Server, UdpServer, udp_client};
use sluice_testkit::{Sluice, wait};

use crate::balancing::{free, named, visit, who};

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
