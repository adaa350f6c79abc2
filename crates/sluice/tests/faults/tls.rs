//! TLS with clients.

use std::io::{Read as _, Write as _};
use std::path::Path;

use sluice_testkit::peers::{Server, connect};
use sluice_testkit::{Authority, Running, Sluice, tls, wait};

use crate::kit::{Fault, Seen, finish, heard, say};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A client sends plain HTTP to a TLS port",
        reason: "tls.protocol",
        inject: || said(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "tls.protocol"),
    },
    Fault {
        name: "A client offers only versions that are too old",
        reason: "tls.protocol",
        inject: too_old,
    },
    Fault {
        name: "A client offers only protocols that are not spoken (ALPN)",
        reason: "tls.protocol",
        inject: other_protocol,
    },
    Fault {
        name: "A client offers no signature that a certificate has",
        reason: "tls.no_certificate",
        inject: no_signature,
    },
    Fault {
        name: "A client does not finish the TLS handshake",
        reason: "tls.timeout",
        inject: || said(&[22, 3, 1, 2, 0], "tls.timeout"),
    },
    Fault {
        name: "A client closes during the TLS handshake",
        reason: "downstream.closed",
        inject: closed,
    },
    Fault { name: "A client does not trust the certificate", reason: "tls.alert", inject: alert },
    Fault {
        name: "A client shows no certificate",
        reason: "tls.client_cert_missing",
        inject: || client_certificate(None, "tls.client_cert_missing"),
    },
    Fault {
        name: "A client's certificate is signed by an unknown authority",
        reason: "tls.client_cert_invalid",
        inject: || client_certificate(Some(unknown), "tls.client_cert_invalid"),
    },
    Fault {
        name: "A client's certificate has expired",
        reason: "tls.client_cert_invalid",
        inject: || client_certificate(Some(expired), "tls.client_cert_invalid"),
    },
    Fault {
        name: "A client ends its stream without a close_notify",
        reason: "tls.truncated",
        inject: truncated,
    },
];

/// A listener `db` that terminates TLS for `db.test`, in front of an echo server.
fn terminating(more: &str) -> (Running, Server) {
    terminating_within("60s", more)
}

fn terminating_within(timeout: &str, more: &str) -> (Running, Server) {
    let kit = Sluice::new().workers(1);
    let authority = Authority::new(kit.folder());
    authority.issue("db", &["db.test"]);
    let echo = Server::echo();
    let sluice = kit.start(&format!(
        "listeners: [{{ name: db, address: 127.0.0.1:0, relay: up, tls: {{ certificates: [{{ cert: db.pem, key: db.key }}], handshake_timeout: {timeout}{more} }} }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        echo.addr()
    ));
    (sluice, echo)
}

fn said(bytes: &[u8], reason: &str) -> Seen {
    let timeout = if reason == "tls.timeout" { "300ms" } else { "60s" };
    let (sluice, _echo) = terminating_within(timeout, "");
    let heard = say(&sluice, "db", bytes);
    Seen::of(&sluice, reason).heard(heard).at("\"db\"").at("127.0.0.1:")
}

/// The observation for a client that makes this offer and sends a word.
fn offered(sluice: &Running, offer: &tls::Offer<'_>, reason: &str) -> Seen {
    let mut client = offer.connect(sluice.addr("db"));
    let failed = client.write_all(b"hello").and_then(|()| client.read(&mut [0; 5]).map(drop));
    let heard = failed.err().map_or_else(String::new, |error| match error.get_ref() {
        Some(error) => error.to_string(),
        None => "the end of the connection".to_owned(),
    });
    // The client's own words about the certificate it was shown do not count as leaked.
    let heard = heard.replace("peer certificate", "peer").replace("certificate", "cert");
    Seen::of(sluice, reason).heard(heard).at("\"db\"").at("127.0.0.1:")
}

fn too_old() -> Seen {
    let (sluice, _echo) = terminating(", min_version: 1.3");
    let ca = sluice.folder().join("ca.pem");
    let offer =
        tls::Offer { versions: &[&rustls::version::TLS12], ..tls::Offer::of("db.test", &ca) };
    offered(&sluice, &offer, "tls.protocol")
}

fn other_protocol() -> Seen {
    let (sluice, _echo) = terminating(", alpn: postgresql");
    let ca = sluice.folder().join("ca.pem");
    let offer = tls::Offer { alpn: &["imap"], ..tls::Offer::of("db.test", &ca) };
    offered(&sluice, &offer, "tls.protocol")
}

/// A ClientHello of TLS 1.2 that accepts only RSA signatures, while the certificate has an ECDSA key.
fn no_signature() -> Seen {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..], // the group secp256r1
        &[0, 11, 0, 2, 1, 0],            // uncompressed points
        &[0, 13, 0, 4, 0, 2, 4, 1],      // rsa_pkcs1_sha256
        &[0, 23, 0, 0],                  // extended master secret
    ]
    .concat();
    let length = |count: usize| u16::try_from(count).unwrap().to_be_bytes();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 4, 0xc0, 0x2b, 0xc0, 0x2f],
        &[1, 0],
        &length(extensions.len()),
        &extensions,
    ]
    .concat();
    let hello = [&[1, 0][..], &length(body.len()), &body].concat();
    let record = [&[22, 3, 1][..], &length(hello.len()), &hello].concat();
    said(&record, "tls.no_certificate")
}

fn closed() -> Seen {
    let (sluice, _echo) = terminating("");
    let mut client = connect(sluice.addr("db"));
    client.write_all(&[22, 3, 1, 2, 0]).unwrap();
    finish(&client);
    let heard = heard(&mut client);
    Seen::of(&sluice, "downstream.closed").heard(heard).at("\"db\"").at("127.0.0.1:")
}

fn alert() -> Seen {
    let (sluice, _echo) = terminating("");
    Authority::named(sluice.folder(), "other");
    let other = sluice.folder().join("other.pem");
    offered(&sluice, &tls::Offer::of("db.test", &other), "tls.alert")
}

fn unknown(folder: &Path) {
    Authority::named(folder, "stranger").issue("client", &["client.test"]);
}

fn expired(folder: &Path) {
    // Issued by the authority that client certificates are verified against.
    Authority::named(folder, "clients").issue_expired("client", &["client.test"]);
}

fn client_certificate(make: Option<fn(&Path)>, reason: &str) -> Seen {
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("db", &["db.test"]);
    Authority::named(kit.folder(), "clients");
    if let Some(make) = make {
        make(kit.folder());
    }
    let echo = Server::echo();
    let sluice = kit.start(&format!(
        "listeners: [{{ name: db, address: 127.0.0.1:0, relay: up, tls: {{ certificates: [{{ cert: db.pem, key: db.key }}], client_auth: {{ ca: clients.pem }} }} }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        echo.addr()
    ));
    let (ca, client) = (sluice.folder().join("ca.pem"), sluice.folder().join("client"));
    let certificate = make.map(|_| client.as_path());
    let offer = tls::Offer { certificate, ..tls::Offer::of("db.test", &ca) };
    offered(&sluice, &offer, reason)
}

fn truncated() -> Seen {
    let (sluice, echo) = terminating("");
    let ca = sluice.folder().join("ca.pem");
    let mut client = tls::Offer::of("db.test", &ca).connect(sluice.addr("db"));
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    wait::until("the connection", || (!sluice.items("/connections").is_empty()).then_some(()));
    finish(client.get_ref());
    let _ = client.read(&mut [0; 1]);
    drop(client);
    Seen::of(&sluice, "tls.truncated").at("\"db\"").endpoint(echo.addr())
}
