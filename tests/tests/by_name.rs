//! Clusters and endpoints that clients name: by server name, by host, by CONNECT.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::path::Path;

use sluice_testkit::peers::{Server, connect, read_to_end};
use sluice_testkit::tls::{self, Offer};
use sluice_testkit::{Authority, Running, Sluice};

/// A TLS server with a certificate for `name`, which greets with its name.
fn greeter(folder: &Path, authority: &Authority, name: &'static str) -> Server {
    let file = name.replace('.', "-");
    authority.issue(&file, &[name]);
    tls::server(&folder.join(file), &[], move |mut stream| {
        stream.write_all(name.as_bytes())?;
        stream.flush()?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

/// What a client that asks for `name` is greeted with; nothing if it is refused.
fn greeting(sluice: &Running, listener: &str, name: &str) -> String {
    let ca = sluice.folder().join("ca.pem");
    let mut stream = Offer::of(name, &ca).connect(sluice.addr(listener));
    let mut greeting = vec![0; name.len()];
    match stream.read_exact(&mut greeting) {
        Ok(()) => String::from_utf8(greeting).unwrap(),
        Err(_) => String::new(),
    }
}

/// The detail of the record of a connection that asked for `name`.
fn detail(sluice: &Running, name: &str) -> String {
    let fits = |record: &serde_json::Value| record["requested_server_name"] == name;
    sluice.record(name, fits)["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_server_name_names_the_cluster() {
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    let one = greeter(kit.folder(), &authority, "one.test");
    let two = greeter(kit.folder(), &authority, "b.two.test");
    let secret = greeter(kit.folder(), &authority, "secret.test");
    authority.issue("edge", &["one.test"]);
    let yaml = || {
        format!(
            "listeners:\n\
             - {{ name: tls, address: 127.0.0.1:0, relay: {{ cluster_from: sni, allow: [one.test, \"*.two.test\"] }} }}\n\
             - {{ name: terminated, address: 127.0.0.1:0, tls: {{ certificates: edge.pem }}, relay: {{ cluster_from: sni, allow: [one.test] }} }}\n\
             clusters:\n  one.test: \"{}\"\n  b.two.test: \"{}\"\n  secret.test: \"{}\"\n",
            one.addr(),
            two.addr(),
            secret.addr()
        )
    };
    let sluice = kit.expect_warning("unused-cluster").start(&yaml());
    for name in ["one.test", "b.two.test"] {
        assert_eq!(greeting(&sluice, "tls", name), name);
        let fits = |record: &serde_json::Value| record["upstream_cluster"] == name;
        assert_eq!(sluice.record(name, fits)["requested_server_name"], name);
    }
    // The edge's own certificate; the TLS of the endpoint is not reached in clear text, but the cluster is.
    let ca = sluice.folder().join("ca.pem");
    let mut stream = Offer::of("one.test", &ca).connect(sluice.addr("terminated"));
    stream.write_all(b"not TLS\r\n").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(one.accepted(), 2);
    for (name, why) in [
        ("secret.test", "`allow` of the relay does not list it"),
        ("two.test", "`allow` of the relay does not list it"),
        ("a.two.test", "no cluster has this name"),
    ] {
        assert_eq!(greeting(&sluice, "tls", name), "");
        assert_eq!(detail(&sluice, name), format!("{name}: {why}"));
        sluice.record_of("cluster.unknown");
    }
    assert_eq!(secret.accepted(), 0);
    let mut plain = connect(sluice.addr("tls"));
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_to_end(&mut plain).1.is_empty());
    sluice.record_of("name.missing");
    // A cluster that a reload adds can be named at once, and one that it removes no longer.
    let renamed = yaml().replace("  b.two.test", "  a.two.test");
    assert_eq!(sluice.reload(&renamed), "applied");
    assert_eq!(greeting(&sluice, "tls", "b.two.test"), "");
    let before = two.accepted();
    // The endpoint has a certificate for its former name, which the client does not accept.
    assert_eq!(greeting(&sluice, "tls", "a.two.test"), "");
    assert_eq!(two.accepted(), before + 1);
    assert_eq!(greeting(&sluice, "tls", "one.test"), "one.test");
}
