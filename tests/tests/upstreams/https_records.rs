//! Endpoints that HTTPS records of DNS describe (RFC 9460): hosts, ports, priorities, and HTTP/3.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::Value;
use sluice_testkit::{Authority, Running, Sluice, origin, tools, wait};
use sluice_tests::dnsmasq;

/// A site that says in `x-version` which version it was asked in.
fn site() -> Running {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    kit.start(
        "listeners:\n\
         - { name: tls, address: 127.0.0.1:0, quic: true, tls: { certificates: [{ cert: own.pem, key: own.key }] }, http: { routes: main, filters: [set_headers: { response: { x-version: \"%PROTOCOL%\" } }] } }\n\
         routes: { main: [{ hosts: \"*\", rules: [{ respond: { status: 200 } }] }] }\n",
    )
}

/// An option of dnsmasq with the HTTPS record of `owner`: priority, target, and parameters on the wire.
fn record(owner: &str, priority: u16, target: &str, params: &[(u16, &[u8])]) -> String {
    let mut data = priority.to_be_bytes().to_vec();
    for label in target.split('.').filter(|label| !label.is_empty()) {
        data.push(u8::try_from(label.len()).unwrap());
        data.extend_from_slice(label.as_bytes());
    }
    data.push(0);
    for (key, value) in params {
        data.extend(key.to_be_bytes());
        data.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        data.extend_from_slice(value);
    }
    let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("--dns-rr={owner},65,{hex}")
}

const ALPN: u16 = 1;
const PORT: u16 = 3;
const V4_HINT: u16 = 4;
const H2_H3: &[u8] = b"\x02h2\x02h3";

/// A proxy whose cluster has the endpoint `address` and asks this DNS server for HTTPS records.
fn proxy(site: &Running, dns: u16, address: &str, more: &str) -> Running {
    Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters:\n  up:\n    endpoints: [\"{address}\"]\n    connect_timeout: 60s\n    \
         tls: {{ ca: \"{}\", sni: own.test }}\n    dns: {{ servers: [127.0.0.1:{dns}], https_records: true, family: v4 }}\n{more}",
        site.folder().join("ca.pem").display()
    ))
}

fn endpoints(sluice: &Running) -> Vec<Value> {
    sluice.items("/clusters")[0]["endpoints"].as_array().unwrap().clone()
}

fn wait_for_addresses(sluice: &Running, expected: &[SocketAddr]) {
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    wait::until("the endpoints", || {
        let all = endpoints(sluice);
        let all: Vec<&str> = all.iter().filter_map(|of| of["address"].as_str()).collect();
        (all == expected).then_some(())
    });
}

#[test]
fn a_record_names_host_port_and_http3() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let (site, dns) = (site(), tools::free_port());
    let to = site.addr("tls");
    let port = to.port().to_be_bytes();
    let _dns = dnsmasq(
        dns,
        &[
            "--local=/test/",
            "--host-record=edge.test,127.0.0.1",
            &record("own.test", 1, "edge.test", &[(ALPN, H2_H3), (PORT, &port)]),
            &record("www.test", 0, "own.test", &[]),
            &record("_8443._https.own.test", 1, "edge.test", &[(PORT, &port)]),
        ],
    );
    // The first request already goes over HTTP/3, which nothing but DNS has told of.
    let auto = "    protocol: auto\n    http3: { race: { tcp_delay: 50s } }\n";
    let sluice = proxy(&site, dns, "own.test:443", auto);
    wait_for_addresses(&sluice, &[to]);
    assert_eq!(endpoints(&sluice)[0]["http3"]["named_port"], to.port());
    let answer = origin::get(sluice.addr("web"), "own.test", "/");
    assert_eq!((answer.status(), answer.value("x-version")), (200, "HTTP/3"));

    // An alias, followed to the same place.
    let sluice = proxy(&site, dns, "www.test:443", "    protocol: http3\n");
    wait_for_addresses(&sluice, &[to]);
    assert_eq!(origin::get(sluice.addr("web"), "own.test", "/").value("x-version"), "HTTP/3");

    // The records of another port have a name of their own; this one says nothing of HTTP/2.
    let sluice = proxy(&site, dns, "own.test:8443", "");
    wait_for_addresses(&sluice, &[to]);
    assert_eq!(origin::get(sluice.addr("web"), "own.test", "/").value("x-version"), "HTTP/1.1");
    let sluice = proxy(&site, dns, "edge.test:8443", "    protocol: http2\n");
    wait_for_addresses(&sluice, &[([127, 0, 0, 1], 8443).into()]);
}

#[test]
fn priorities_and_hints_are_heeded_and_names_without_records_resolve_as_ever() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let (site, dns) = (site(), tools::free_port());
    let to = site.addr("tls");
    let port = to.port().to_be_bytes();
    let _dns = dnsmasq(
        dns,
        &[
            "--local=/test/",
            "--host-record=plain.test,127.0.0.9",
            "--host-record=backup.test,127.0.0.8",
            // This host has no address, only a hint.
            &record("own.test", 1, "edge.test", &[(PORT, &port), (V4_HINT, &[127, 0, 0, 1])]),
            &record("own.test", 7, "backup.test", &[(PORT, &port)]),
            // Not used: it demands an unknown parameter.
            &record("plain.test", 1, "backup.test", &[(0, &[0x12, 0x34]), (0x1234, b"x")]),
        ],
    );
    let sluice = proxy(&site, dns, "own.test:443", "");
    wait_for_addresses(&sluice, &[to, ([127, 0, 0, 8], to.port()).into()]);
    let all = endpoints(&sluice);
    assert_eq!((&all[0]["priority"], &all[1]["priority"]), (&0.into(), &1.into()), "{all:?}");
    assert_eq!(origin::get(sluice.addr("web"), "own.test", "/").status(), 200);
    let sluice = proxy(&site, dns, "plain.test:443", "");
    wait_for_addresses(&sluice, &[([127, 0, 0, 9], 443).into()]);
}
