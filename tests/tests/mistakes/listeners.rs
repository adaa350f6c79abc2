//! Mistakes of listeners, chains, addresses and certificates.

use super::*;

#[test]
fn of_chains_and_listeners() {
    page(
        "mistakes-chains",
        &[
            ("a server name and HTTP without TLS", chain("{ match: { sni: a.test }, http: main }")),
            ("HTTP on what is not HTTP", chain("{ match: { protocol: ssh }, http: main }")),
            (
                "TLS on what is in clear",
                chain("{ match: { protocol: http1 }, tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: main }"),
            ),
            ("two settings for one address", format!("admin: {{ address: 127.0.0.1:7001 }}\n{}", relay(""))),
            (
                "QUIC and UDP on one port",
                "listeners:\n  - { name: a, address: 127.0.0.1:7001, quic: true, tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: main }\n  - { name: b, address: \"udp://127.0.0.1:7001\", relay: up }\nroutes: { main: [{ hosts: \"*\", rules: [{ respond: {} }] }] }\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
            (
                "listeners by name",
                relay("").replace("[{ name: a, ", "{ a: { ").replace("relay: up }]", "relay: up } }"),
            ),
            ("an address of another machine", relay("").replace("127.0.0.1:7001", "192.0.2.1:7001")),
            (
                "a restored destination of datagrams",
                relay("").replace("address: 127.0.0.1:7001", "original_destination: true, address: udp://127.0.0.1:7001"),
            ),
            ("a unix socket in no folder", relay("").replace("127.0.0.1:7001", "unix:///nowhere/at/all.sock")),
        ],
    );
}

#[test]
fn of_addresses_that_lead_back() {
    page(
        "mistakes-loops",
        &[
            ("a relay to itself", relay("").replace("7002", "7001")),
            ("a relay to itself on every address", relay("").replace("7002", "7001").replace("address: 127.0.0.1", "address: 0.0.0.0")),
            ("a relay to itself by name", relay("").replace("127.0.0.1:7002", "localhost:7001")),
            ("a relay of UDP to itself", relay("").replace("7002", "7001").replace("address: 127", "address: udp://127")),
            ("a rule to its own listener", rule("cluster: up").replace("7002", "7001")),
            ("a rule to its own listener with another path", rule("cluster: up, rewrite: { path: /b }").replace("7002", "7001")),
            (
                "two listeners that lead to each other",
                "listeners:\n  - { name: a, address: 127.0.0.1:7001, relay: b }\n  - { name: b, address: 127.0.0.1:7002, relay: a }\nclusters: { a: { endpoints: [127.0.0.1:7001] }, b: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
        ],
    );
    // Not a loop: another transport, the address of another machine, a port of its own.
    let udp =
        relay("").replace("address: 127.0.0.1", "address: udp://127.0.0.1").replace("7002", "7001");
    let udp = format!("{udp}  tcp: {{ endpoints: [127.0.0.1:7001] }}\n").replace(
        "relay: up }]",
        "relay: other }, { name: t, address: 127.0.0.1:7003, relay: tcp }]",
    );
    let udp = udp.replace("  up:", "  other: { endpoints: [127.0.0.1:7009] }\n  up:");
    for yaml in [
        udp,
        relay("")
            .replace("7002", "7001")
            .replace("address: 127.0.0.1", "address: 0.0.0.0")
            .replace("[127.0.0.1", "[192.0.2.1"),
    ] {
        let (_, said) = check(&yaml);
        assert!(!said.contains("proxy-loop"), "{said}");
    }
    // A second pass may take another path.
    let own = relay("").replace("7002", "7001");
    for way in [
        "filters: [{ deny: [127.0.0.1] }], relay: up",
        "chains: [{ match: { source: 192.0.2.0/24 }, relay: up }]",
        "chains: [{ match: { transport: plain }, relay: up }, { relay: up }]",
    ] {
        let (code, said) = check(&own.replace("relay: up", way));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("warning[proxy-loop]"), "{said}");
    }
}

#[test]
fn of_certificate_files() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("a", &["a.test"]);
    let at = |name: &str| folder.path().join(name);
    let pem = std::fs::read_to_string(at("a.pem")).unwrap();
    let lines: Vec<&str> = pem.lines().collect();
    std::fs::write(at("cut.pem"), lines[..lines.len() - 1].join("\n")).unwrap();
    std::fs::write(at("base.pem"), pem.replace(lines[2], "%%%%")).unwrap();
    std::fs::write(
        at("locked.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let mut text = String::new();
    for (title, cert, key) in [
        ("cert and key are swapped", "a.key", "a.pem"),
        ("a certificate where a key belongs", "a.pem", "a.pem"),
        ("a certificate that was cut short", "cut.pem", "a.key"),
        ("a certificate that is not Base64", "base.pem", "a.key"),
        ("an encrypted key", "a.pem", "locked.key"),
        ("a certificate that is missing", "none.pem", "a.key"),
    ] {
        let yaml = format!(
            "listeners: [{{ name: a, address: 127.0.0.1:7001, tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }}, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [127.0.0.1:7002] }} }}\n"
        );
        std::fs::write(at("sluice.yaml"), yaml).unwrap();
        let output = sluice(&["check", at("sluice.yaml").to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{title}");
        let shown = format!("{}/", folder.path().display());
        let _ = writeln!(text, "=== {title}\n\n{}", out(&output).replace(&shown, ""));
    }
    snapshot("mistakes-certificates", &text);
}

#[test]
fn of_addresses() {
    page(
        "mistakes-addresses",
        &[
            (
                "a listener with a URL",
                relay("").replace("127.0.0.1:7001", "\"http://127.0.0.1:7001/x\""),
            ),
            (
                "a listener with a port and a colon only",
                relay("").replace("127.0.0.1:7001", "\":7001\""),
            ),
            (
                "a listener with an IPv6 address without brackets",
                relay("").replace("127.0.0.1:7001", "\"::1:7001\""),
            ),
            (
                "a listener with a name for an address",
                relay("").replace("127.0.0.1:7001", "\"a.test:7001\""),
            ),
            (
                "a unix socket with a relative path",
                relay("").replace("127.0.0.1:7001", "\"unix://a.sock\""),
            ),
            (
                "a unix socket whose path is too long",
                relay("")
                    .replace("127.0.0.1:7001", "\"unix:///LONG.sock\"")
                    .replace("LONG", &"x".repeat(110)),
            ),
            ("an endpoint with port 0", relay("").replace("127.0.0.1:7002", "127.0.0.1:0")),
            (
                "an endpoint with a word for a port",
                relay("").replace("127.0.0.1:7002", "a.test:https"),
            ),
            (
                "an endpoint that is a URL of a database",
                relay("").replace("[127.0.0.1:7002]", "[\"postgres://a.test/orders\"]"),
            ),
            ("an endpoint with a space", relay("").replace("127.0.0.1:7002", "\"a test:80\"")),
            ("an address block that is a name", chain("{ match: { source: a.test }, relay: up }")),
            (
                "an address block with a prefix that is too long",
                chain("{ match: { source: 10.0.0.0/33 }, relay: up }"),
            ),
            (
                "an address block with an address in it",
                chain("{ match: { source: 10.0.0.1/8 }, relay: up }"),
            ),
            ("a DNS server without a port", relay("dns: { servers: [192.0.2.53] }")),
            (
                "a server name with a star inside",
                chain("{ match: { sni: \"a.*.test\" }, relay: up }"),
            ),
            (
                "a host with a port",
                rule("cluster: up").replace("hosts: \"*\"", "hosts: \"a.test:443\""),
            ),
            (
                "a host with a star at both ends",
                rule("cluster: up").replace("hosts: \"*\"", "hosts: \"*.shop.*\""),
            ),
            (
                "a database with a star inside",
                chain("{ match: { protocol: postgres, database: \"a*b\" }, relay: up }"),
            ),
            ("a server name of an endpoint that is none", relay("tls: { sni: \"a test\" }")),
            (
                "a name of a cluster with a slash",
                relay("").replace("  up:", "  a/b: { endpoints: [127.0.0.1:7003] }\n  up:"),
            ),
        ],
    );
}

#[test]
fn of_listeners() {
    page(
        "mistakes-listeners",
        &[
            ("no listeners", "clusters: {}\n".into()),
            ("a listener without an address", "listeners: [{ name: a, relay: up }]\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into()),
            ("a listener with a relay and chains", listener("relay: up, chains: [{ relay: up }]")),
            ("UDP and TCP in one listener", listener("addresses: [\"udp://127.0.0.1:7003\"], relay: up")),
            ("UDP with a PROXY header", flows("relay: up, proxy_protocol: { trust: 192.0.2.10 }")),
            ("UDP with TLS", flows("tls: { certificates: [{ cert: a.pem, key: a.key }] }, relay: up")),
            ("UDP with HTTP", serving("http: main").replace("address: 127", "address: udp://127")),
            ("UDP with what only PostgreSQL has", flows("chains: [{ match: { database: orders }, relay: up }]")),
            ("UDP with a time-out for half-closed connections", flows("relay: { cluster: up, half_close_timeout: 1m }")),
            ("a count of responses on TCP", listener("relay: { cluster: up, responses: 1 }")),
            ("a PROXY header of nobody", listener("proxy_protocol: {}, relay: up")),
            ("a PROXY header of everybody", listener("proxy_protocol: { trust: 0.0.0.0/0 }, relay: up")),
            ("a PROXY header that may be missing", listener("proxy_protocol: { trust: 192.0.2.10, accept: optional }, relay: up")),
            ("HTTP and a relay at once", serving("http: main, relay: up")),
            ("a relay next to inner chains", chain("{ tls: { certificates: [{ cert: a.pem, key: a.key }] }, relay: up, chains: [{ relay: up }] }")),
            ("HTTP next to inner chains", chain("{ tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: main, chains: [{ relay: up }] }")),
            ("inner chains without TLS", chain("{ chains: [{ relay: up }] }")),
            ("TLS without a certificate", listener("tls: {}, relay: up")),
            ("QUIC without HTTP", listener("quic: true, tls: { certificates: [{ cert: a.pem, key: a.key }] }, relay: up")),
            ("too many sessions with early data", serving("http: main, tls: { certificates: [{ cert: a.pem, key: a.key }], early_data_sessions: 100000 }")),
            ("early data for a relay", listener("tls: { certificates: [{ cert: a.pem, key: a.key }], early_data_sessions: 16 }, relay: up")),
            ("early data of clients that must show a certificate", serving("http: main, tls: { certificates: [{ cert: a.pem, key: a.key }], client_auth: { ca: ca.pem }, early_data_sessions: 16 }")),
            ("traces of QUIC in no folder", quic("{ qlog: traces }")),
            ("routes that do not exist", serving("http: shop")),
            ("misspelt routes", serving("http: mian")),
            ("a head that is too small", serving("http: { routes: main, head_bytes: 100 }")),
            ("a tunnel to a host without a port", serving("http: { routes: main, tunnel: a.test }")),
            ("a tunnel by a path that is none", serving("http: { routes: main, tunnel: { host: a.test, post: in } }")),
            ("a tunnel beside QUIC", serving("quic: true, tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: { routes: main, tunnel: 'a.test:1' }")),
            ("a head with too few headers", serving("http: { routes: main, head_fields: 2 }")),
            ("a secret that nothing uses", beside("secrets: { key: s3cret }")),
            ("routes that nothing uses", beside("routes: { main: [{ cluster: up }] }")),
        ],
    );
}

#[test]
fn of_the_admin_address() {
    page(
        "mistakes-admin",
        &[
            ("admin pages over UDP", beside("admin: { address: \"udp://127.0.0.1:9901\" }")),
            (
                "host names for a unix socket",
                beside("admin: { address: \"unix:///tmp/a.sock\", hosts: [a.test] }"),
            ),
            (
                "any host name for the admin pages",
                beside("admin: { address: 127.0.0.1:9901, hosts: [\"*\"] }"),
            ),
            (
                "an admin socket in no folder",
                beside("admin: { address: \"unix:///nowhere/at/all.sock\" }"),
            ),
        ],
    );
}

#[test]
fn of_keys_and_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("a", &["a.test"]);
    authority.issue("b", &["b.test"]);
    authority.issue_expired("old", &["a.test"]);
    let at = |name: &str| folder.path().join(name);
    let soon = at("soon");
    let made = sluice(&["cert", "a.test", "--days", "3", "--out", soon.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    for (name, text) in [
        ("text.pem", "a certificate\n"),
        ("begin.pem", "-----BEGIN CERTIFICATE\nAAAA\n-----END CERTIFICATE-----\n"),
        ("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("junk.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("dsa.key", "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n"),
        ("junk.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
    ] {
        std::fs::write(at(name), text).unwrap();
    }
    let pair = |cert: &str, key: &str| {
        listener(&format!("tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }}, relay: up"))
    };
    let clients = |auth: &str| {
        let own = "certificates: [{ cert: a.pem, key: a.key }]";
        listener(&format!("tls: {{ {own}, client_auth: {{ {auth} }} }}, relay: up"))
    };
    let mut text = String::new();
    for (title, yaml) in [
        ("a key of another certificate", pair("a.pem", "b.key")),
        ("a certificate that is a text", pair("text.pem", "a.key")),
        ("a key that is a text", pair("a.pem", "text.pem")),
        ("a certificate whose first line is damaged", pair("begin.pem", "a.key")),
        ("a certificate that holds something else", pair("junk.pem", "a.key")),
        ("a key that holds something else", pair("a.pem", "junk.key")),
        ("a key of an old kind", pair("a.pem", "dsa.key")),
        ("a folder where a certificate belongs", pair(".", "a.key")),
        ("a certificate that has expired", pair("old.pem", "old.key")),
        ("a certificate that expires soon", pair("soon.pem", "soon.key")),
        ("an authority for clients that is missing", clients("ca: none.pem")),
        ("an authority for clients that holds something else", clients("ca: junk.pem")),
        ("a revocation list that is missing", clients("ca: ca.pem, crl: none.crl")),
        ("a certificate where a revocation list belongs", clients("ca: ca.pem, crl: a.pem")),
        ("a revocation list that holds something else", clients("ca: ca.pem, crl: junk.crl")),
        ("an authority of endpoints that holds something else", relay("tls: { ca: junk.pem }")),
        ("a key where an authority of endpoints belongs", relay("tls: { ca: a.key }")),
        (
            "a certificate for endpoints with the key of another",
            relay("tls: { ca: ca.pem, certificate: { cert: a.pem, key: b.key } }"),
        ),
    ] {
        std::fs::write(at("sluice.yaml"), yaml).unwrap();
        let (_, said) = check_in(folder.path(), "sluice.yaml");
        assert!(!said.contains("usable; 0 errors, 0 warnings"), "{title}: nothing was found");
        let _ = writeln!(text, "=== {title}\n\n{said}");
    }
    // A machine without authorities of its own.
    std::fs::write(at("sluice.yaml"), relay("tls: {}")).unwrap();
    let mut command = Command::new(Sluice::binary());
    command.args(["check", "--offline"]).arg(at("sluice.yaml"));
    command.env("SSL_CERT_FILE", at("none.pem")).env("SSL_CERT_DIR", at("none"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let shown = format!("{}/", folder.path().display());
    let _ = writeln!(text, "=== no authorities\n\n{}", out(&output).replace(&shown, ""));
    snapshot("mistakes-keys", &text);
}
