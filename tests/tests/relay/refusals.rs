//! What clients and records report about refused connections, and about connections that loop back to Sluice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use sluice_testkit::peers::{Server, connect, read_to_end, udp_client};
use sluice_testkit::tls::Offer;
use sluice_testkit::{Authority, Running, Sluice, tools, wait};

fn one(server: &Server, listener: &str) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, {listener} }}]\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    )
}

/// The bytes that the client receives after sending `words`.
fn say(sluice: &Running, words: &[u8]) -> Vec<u8> {
    let mut client = connect(sluice.addr("a"));
    client.write_all(words).unwrap();
    read_to_end(&mut client).1
}

#[test]
fn a_refusal_names_its_filter_and_the_setting_that_matched() {
    let server = Server::echo();
    for (filter, reason, detail) in [
        ("deny: [192.0.2.0/24, 127.0.0.0/8]", "accept.denied", "deny: 127.0.0.0/8"),
        ("allow: [192.0.2.0/24]", "accept.denied", "allow: no block contains 127.0.0.1"),
        ("connection_limit: { max: 0 }", "accept.limit", "connection_limit: max: 0"),
        (
            "connection_limit: { per_source: 0 }",
            "accept.source_limit",
            "connection_limit: per_source: 0",
        ),
        (
            "rate_limit: { connections: 1/h, per: source_ip }",
            "accept.rate",
            "rate_limit: connections: 1/h per source_ip",
        ),
    ] {
        let sluice =
            Sluice::new().start(&one(&server, &format!("filters: [{{ {filter} }}], relay: up")));
        for _ in 0..2 {
            let mut client = connect(sluice.addr("a"));
            let _ = client.write_all(b"x");
            client.shutdown(std::net::Shutdown::Write).ok();
            let _ = read_to_end(&mut client);
        }
        assert_eq!(sluice.record_of(reason)["detail"], detail);
    }
}

#[test]
fn a_malformed_proxy_header_is_described() {
    let server = Server::echo();
    let listener = |timeout: &str| {
        format!(
            "proxy_protocol: {{ accept: required, trust: [127.0.0.0/8], timeout: {timeout} }}, relay: up"
        )
    };
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 120]].concat();
    for (header, detail) in [
        (&b"PROXY NONSENSE\r\n"[..], "version 1: the protocol is not TCP4, TCP6 or UNKNOWN"),
        (b"PROXY TCP4 192.0.2.1 x 1 2\r\n", "version 1: an address or a port is malformed"),
        (&long, "version 1: no end of line within 107 bytes"),
        (b"PROXY TCP4 192.0.2.1", "the header is incomplete"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c", "version 2: unknown version or command"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab",
            "version 2: the header is too short for its addresses",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            "version 2: the header is longer than 4096 bytes",
        ),
    ] {
        // Only for the rest of an incomplete one does Sluice wait.
        let timeout = if detail == "the header is incomplete" { "1s" } else { "60s" };
        let sluice = Sluice::new().start(&one(&server, &listener(timeout)));
        assert!(say(&sluice, header).is_empty());
        assert_eq!(sluice.record_of("proxy_header.malformed")["detail"], detail);
    }
    let untrusted = "proxy_protocol: { accept: optional, trust: [192.0.2.0/24] }, relay: up";
    let sluice = Sluice::new().expect_warning("optional-header").start(&one(&server, untrusted));
    say(&sluice, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    let record = sluice.record_of("proxy_header.untrusted");
    assert_eq!(record["detail"], "no block of `trust` contains 127.0.0.1");
}

#[test]
fn plain_http_on_a_tls_listener_is_recognised() {
    let kit = Sluice::new();
    let certs = tempfile::tempdir().unwrap();
    Authority::new(certs.path()).issue("a", &["a.test"]);
    let (server, folder) = (Server::echo(), certs.path().display());
    let tls = format!(
        "tls: {{ certificates: [{{ cert: {folder}/a.pem, key: {folder}/a.key }}] }}, relay: up"
    );
    let sluice = kit.start(&one(&server, &tls));
    say(&sluice, b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let record = sluice.record_of("tls.protocol");
    assert_eq!(record["detail"], "the client sent a plain HTTP request to a TLS listener");
    assert_eq!(sluice.metric("sluice_tls_handshakes_total", "failed"), 1);
    say(&sluice, b"SSH-2.0-OpenSSH\r\n");
    sluice.record("another protocol", |record| {
        record["detail"] == "the client sent something other than TLS"
    });
}

#[test]
fn plain_http_on_a_tls_listener_gets_a_response_if_configured() {
    let certs = tempfile::tempdir().unwrap();
    Authority::new(certs.path()).issue("a", &["a.test"]);
    let (server, folder) = (Server::echo(), certs.path().display());
    let request = b"GET /x?y HTTP/1.1\r\nhost: a.test:8443\r\n\r\n";
    for (how, status, location) in [
        ("answer", "HTTP/1.1 400 ", None),
        ("redirect", "HTTP/1.1 308 ", Some("location: https://a.test:8443/x?y\r\n")),
    ] {
        let tls = format!(
            "tls: {{ certificates: [{{ cert: {folder}/a.pem, key: {folder}/a.key }}], plain_http: {how} }}, relay: up"
        );
        let sluice = Sluice::new().start(&one(&server, &tls));
        let heard = String::from_utf8(say(&sluice, request)).unwrap();
        assert!(heard.starts_with(status), "{heard}");
        assert!(location.is_none_or(|location| heard.contains(location)), "{heard}");
        assert!(say(&sluice, b"SSH-2.0-OpenSSH\r\n").is_empty());
        sluice.record_of("tls.protocol");
    }
}

#[test]
fn an_unknown_server_name_gets_an_unrecognized_name_alert() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let server = Server::echo();
    let sluice =
        Sluice::new().start(&one(&server, "chains: [{ match: { sni: known.test }, relay: up }]"));
    let output = tools::command("openssl")
        .args(["s_client", "-servername", "other.test", "-connect"])
        .arg(sluice.addr("a").to_string())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("unrecognized name") && said.contains("112"), "{said}");
    assert_eq!(sluice.record_of("chain.unmatched")["requested_server_name"], "other.test");
}

#[test]
fn a_tls_client_that_a_filter_refuses_hears_of_it() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let (server, kit) = (Server::echo(), Sluice::new());
    Authority::new(kit.folder()).issue("a", &["a.test"]);
    let filters = "filters: [{ deny: 127.0.0.0/8 }], relay: up";
    let chains = format!(
        "chains: [{{ match: {{ sni: raw.test }}, {filters} }}, \
                  {{ match: {{ sni: a.test }}, tls: {{ certificates: [{{ cert: a.pem, key: a.key }}] }}, {filters} }}, \
                  {{ {filters} }}]"
    );
    let sluice = kit.start(&one(&server, &chains));
    // A hello that would be passed on.
    let output = tools::command("openssl")
        .args(["s_client", "-servername", "raw.test", "-connect"])
        .arg(sluice.addr("a").to_string())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("access denied") && said.contains("49"), "{said}");
    // After the handshake, the end is an orderly one.
    let mut stream = Offer::of("a.test", &sluice.folder().join("ca.pem")).connect(sluice.addr("a"));
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    // Nobody else gets bytes that it does not understand.
    assert!(say(&sluice, b"SSH-2.0-OpenSSH\r\n").is_empty());
    wait::until("three records", || (sluice.records().len() >= 3).then_some(()));
    assert!(sluice.records().iter().all(|record| record["reason"] == "accept.denied"));
}

#[test]
fn a_loop_through_our_own_listener_is_cut() {
    for transport in ["", "udp://"] {
        let yaml = |port: u16| {
            format!(
                "listeners: [{{ name: a, address: \"{transport}0.0.0.0:0\", relay: up }}]\n\
                 clusters: {{ up: {{ endpoints: [\"127.0.0.1:{port}\"] }} }}\n\
                 drain: {{ timeout: 100ms }}\n"
            )
        };
        // `check` cannot detect it: the system chooses the listener's port.
        let sluice = Sluice::new().expect_warning("the drain timeout has expired").start(&yaml(9));
        assert_eq!(sluice.reload(&yaml(sluice.addr("a").port())), "applied");
        if transport.is_empty() {
            let mut client = connect(sluice.addr("a"));
            let _ = client.write_all(b"round and round");
            let _ = read_to_end(&mut client);
        } else {
            udp_client().send_to(b"round and round", sluice.addr("a")).unwrap();
        }
        let record = sluice.record_of("local.loop");
        assert_eq!(record["side"], "local");
        assert!(record["detail"].as_str().unwrap().contains("own_hops"), "{record}");
        let begun = || {
            sluice.metric("sluice_listener_connections_accepted_total", "")
                + sluice.metric("sluice_listener_flows_total", "")
        };
        assert!(begun() <= 20, "{}", begun());
        assert_eq!(sluice.metric("sluice_cluster_connect_failures_total", ""), 0);
    }
}

#[test]
fn listeners_may_lead_to_each_other() {
    let server = Server::echo();
    let (middle, last) = (tools::free_port(), tools::free_port());
    let yaml = format!(
        "listeners:\n  - {{ name: a, address: 127.0.0.1:0, relay: one }}\n  - {{ name: b, address: 127.0.0.1:{middle}, relay: two }}\n  - {{ name: c, address: 127.0.0.1:{last}, relay: up }}\n\
         clusters: {{ one: {{ endpoints: [\"127.0.0.1:{middle}\"] }}, two: {{ endpoints: [\"127.0.0.1:{last}\"] }}, up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    );
    let sluice = Sluice::new().start(&yaml);
    for _ in 0..20 {
        let mut client = connect(sluice.addr("a"));
        assert_eq!(sluice_testkit::peers::exchange(&mut client, b"through"), b"through");
    }
    wait::until("all to end", || {
        (sluice.metric("sluice_listener_connections_active", "") == 0).then_some(())
    });
}
