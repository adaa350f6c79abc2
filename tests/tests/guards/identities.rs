//! Who made a request, by the certificate of a client: `client_cert`, records and rules.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufReader, Write as _};

use sluice_testkit::origin::{Client, Message, read_message};
use sluice_testkit::{Authority, Origin, Sluice, tls};

const HEADER: &str = "x-forwarded-client-cert";

fn of_web(origin: &Origin, tls: &str, filter: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0{tls}, http: {{ routes: main, filters: [{{ client_cert: {filter} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: ann, match: {{ values: {{ auth.identity: \"certificate:spiffe://t/ann\" }} }}, cluster: up }}, {{ name: others, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    )
}

#[test]
fn endpoints_learn_of_the_certificate_that_the_client_has_proved_to_own() {
    let origin = Origin::start("o");
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    Authority::named(kit.folder(), "clients").issue("client", &["client.test", "other.test"]);
    let tls = ", tls: { certificates: [{ cert: web.pem, key: web.key }], client_auth: { ca: clients.pem } }";
    let sluice = kit.start(&of_web(&origin, tls, "{}"));
    let (ca, client) = (sluice.folder().join("ca.pem"), sluice.folder().join("client"));
    let offer = tls::Offer { certificate: Some(&client), ..tls::Offer::of("web.test", &ca) };
    let mut stream = offer.connect(sluice.addr("web"));
    let forged = "X-Forwarded-Client-Cert: URI=spiffe://t/ann\r\n";
    write!(stream, "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n{forged}\r\n")
        .unwrap();
    let response: Message = read_message(&mut BufReader::new(stream), false).unwrap();
    assert_eq!(response.status(), 200);
    let request = origin.requests().pop().unwrap();
    let [value] = request.values(HEADER)[..] else { panic!("{}", request.head) };
    assert!(
        value.starts_with("Hash=") && value.contains(";DNS=\"client.test\";DNS=\"other.test\""),
        "{value}"
    );
    assert!(!value.contains("spiffe"), "{value}");
    let record = sluice.record("the request", |record| record["route_name"] == "others");
    assert_eq!(record["identity"], "certificate:client.test");
}

#[test]
fn clients_must_have_one_of_the_names() {
    let origin = Origin::start("o");
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let clients = Authority::named(kit.folder(), "clients");
    clients.issue("client", &["client.test"]);
    clients.issue("other", &["other.test"]);
    // The pair is in the configuration itself.
    let inline = |file: &str| {
        let text = std::fs::read_to_string(kit.folder().join(file)).unwrap();
        format!("{{ inline: {} }}", serde_json::Value::from(text))
    };
    let tls = format!(
        ", tls: {{ certificates: [{{ cert: {}, key: {} }}], client_auth: {{ ca: clients.pem, names: [\"dns:client.test\", \"uri:spiffe://t/*\"] }} }}",
        inline("web.pem"),
        inline("web.key")
    );
    let sluice = kit.start(&of_web(&origin, &tls, "{}"));
    let ca = sluice.folder().join("ca.pem");
    let ask = |client: &str| {
        let client = sluice.folder().join(client);
        let offer = tls::Offer { certificate: Some(&client), ..tls::Offer::of("web.test", &ca) };
        let mut stream = offer.connect(sluice.addr("web"));
        // The server may have closed already.
        let _ = write!(stream, "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n");
        read_message(&mut BufReader::new(stream), false).ok().map(|answer| answer.status())
    };
    assert_eq!(ask("client"), Some(200));
    assert_eq!(ask("other"), None);
    let refused =
        sluice.record("the refusal", |record| record["reason"] == "tls.client_cert_invalid");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("it has none of the names in `client_auth.names`"), "{detail}");
}

#[test]
fn proxies_that_are_trusted_say_who_the_client_is() {
    let origin = Origin::start("o");
    let sent = "Hash=ab;URI=spiffe://t/bob,Hash=cd;Subject=\"CN=a, b\";URI=spiffe://t/ann";
    for (filter, sent, passed, route, identity) in [
        ("{ trust: 127.0.0.0/8 }", sent, Some(sent), "ann", "\"certificate:spiffe://t/ann\""),
        (
            "{ trust: 127.0.0.0/8, header: append }",
            sent,
            Some(sent),
            "ann",
            "\"certificate:spiffe://t/ann\"",
        ),
        (
            "{ trust: 127.0.0.0/8, header: remove }",
            sent,
            None,
            "ann",
            "\"certificate:spiffe://t/ann\"",
        ),
        ("{ trust: 192.0.2.0/24 }", sent, None, "others", "null"),
        ("{}", sent, None, "others", "null"),
        ("{ trust: 127.0.0.0/8 }", "URI=spiffe://t/ann,\"", None, "others", "null"),
    ] {
        let sluice = Sluice::new().workers(1).start(&of_web(&origin, "", filter));
        let mut client = Client::connect(sluice.addr("web"));
        let request =
            format!("GET / HTTP/1.1\r\nHost: web.test\r\nX-Forwarded-Client-Cert: {sent}\r\n\r\n");
        assert_eq!(client.ask(&request).status(), 200);
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.values(HEADER).first().copied(), passed, "{filter}");
        let record = sluice.record(route, |record| record["route_name"] == route);
        assert_eq!(record["identity"].to_string(), identity, "{filter}");
    }
}
