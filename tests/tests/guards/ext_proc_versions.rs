//! The filter `ext_proc` in every body mode, between every version of HTTP and every other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use sluice_testkit::origin::Client;
use sluice_testkit::{Authority, Origin, Running, Sluice};
use sluice_tests::envoy_service;

const MODES: [&str; 5] = ["none", "buffered", "partial", "streamed", "duplex"];

/// A Sluice that accepts every version, in front of other clusters.
fn accepting(routes: &str, filters: &str, clusters: &str) -> Running {
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    let http = format!("http: {{ routes: main, filters: [{filters}] }}");
    kit.start(&format!(
        "listeners:\n\
         - {{ name: plain, address: 127.0.0.1:0, {http} }}\n\
         - {{ name: tls, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: own.pem, key: own.key }}] }}, {http} }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{routes}] }}] }}\n\
         clusters: {{ {clusters} }}\n\
         limits: {{ filter_wait_seconds: 120 }}\n"
    ))
}

/// A cluster for each version that this Sluice accepts.
fn clusters_of(sluice: &Running) -> String {
    let (plain, tls) = (sluice.addr("plain"), sluice.addr("tls"));
    let ca = sluice.folder().join("ca.pem");
    format!(
        "h1: {{ endpoints: [\"{plain}\"] }}, h2: {{ endpoints: [\"{plain}\"], protocol: http2 }}, \
         h3: {{ endpoints: [\"{tls}\"], protocol: http3, tls: {{ sni: own.test, ca: \"{}\" }} }}",
        ca.display()
    )
}

/// The Sluice with the filter, whose rules have it in each mode.
fn processing(service: SocketAddr, inner: &Running) -> Running {
    let rule = |mode: &str| {
        format!(
            "{{ match: {{ path: /{mode} }}, cluster_header: x-up, filters: {{ ext_proc: {{ send: {{ request_body: {mode}, response_body: {mode} }} }} }} }}"
        )
    };
    let clusters =
        format!("{}, proc: {{ endpoints: [\"{service}\"], protocol: http2 }}", clusters_of(inner));
    let filter = "{ ext_proc: { cluster: proc, timeout: 60s } }";
    accepting(&MODES.map(rule).join(", "), filter, &clusters)
}

#[test]
fn bodies_are_changed_between_all_versions_of_http() {
    let messages = "envoy.service.ext_proc.v3.external_processor_pb2";
    let Some((_service, service)) = envoy_service("proc_server.py", messages) else { return };
    let origin = Origin::start("o");
    let inner = accepting("{ cluster: up }", "", &format!("up: \"{}\"", origin.addr()));
    let between = processing(service, &inner);
    let outer = accepting("{ cluster_header: x-client }", "", &clusters_of(&between));
    for client in ["h1", "h2", "h3"] {
        for up in ["h1", "h2", "h3"] {
            for (mode, does) in MODES.map(|mode| match mode {
                "duplex" => (mode, "each"),
                mode => (mode, "upper"),
            }) {
                let cell = format!("{client} to {up}, {mode}");
                let request = format!(
                    "POST /{mode} HTTP/1.1\r\nHost: a.test\r\nX-Client: {client}\r\nX-Up: {up}\r\nX-Do: {does}\r\nContent-Length: 11\r\n\r\nhello world"
                );
                let response = Client::connect(outer.addr("plain")).ask(&request);
                assert_eq!(response.status(), 200, "{cell}: {response:?}");
                let expected = if mode == "none" { "hello world" } else { "HELLO WORLD" };
                let received = origin.requests().pop().unwrap().text();
                assert_eq!(received.trim_end_matches('!'), expected, "{cell}");
                assert!(response.text().contains(expected), "{cell}: {response:?}");
            }
        }
    }
}
