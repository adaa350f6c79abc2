//! Samples that extend Sluice: services, scripts, libraries, tables and expressions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;

use sluice_testkit::peers::{Server, connect, exchange, read, read_to_end};
use sluice_testkit::tokens::KeyServer;
use sluice_testkit::{Origin, Sluice, libraries, wait};
use sluice_tests::sample;

use super::countries;

#[test]
fn processing() {
    let service = sluice_tests::envoy_service(
        "proc_server.py",
        "envoy.service.ext_proc.v3.external_processor_pb2",
    );
    let Some((_service, processor)) = service else { return };
    let app = Origin::start("app");
    let sluice = Sluice::new().start(&sample(
        "processing.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", app.addr().to_string()),
            ("127.0.0.1:9001", processor.to_string()),
            ("timeout: 500ms", "timeout: 60s".into()),
        ],
    ));
    let ask =
        |request: &str| sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(request);
    let changed = ask("GET /change HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((changed.status(), changed.value("x-new")), (200, "yes"));
    assert!(ask("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").values("x-told").is_empty());
    let request =
        "POST /upload/a HTTP/1.1\r\nHost: a\r\nX-Do: each\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(ask(request).status(), 200);
    assert_eq!(app.requests()[2].text(), "HELLO");
}

#[test]
fn scripts() {
    let (app, users) = (Origin::start("app"), KeyServer::start("gold"));
    let sluice = Sluice::new().start(&sample(
        "lua.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", app.addr().to_string()),
            ("127.0.0.1:9001", users.addr().to_string()),
            ("nil, 500)", "nil, 60000)".into()),
        ],
    ));
    let ask = |path: &str, fields: &str| {
        let mut client = sluice_testkit::origin::Client::connect(sluice.addr("web"));
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    };
    let tagged = ask("/", "");
    assert_eq!((tagged.status(), tagged.value("x-served-by")), (200, "rest"));
    assert_eq!(ask("/shop/1", "").status(), 401);
    assert_eq!(ask("/shop/1", "X-User: ann\r\n").status(), 200);
    assert_eq!(app.requests()[1].value("x-tier"), "gold");
}

#[test]
fn scripts_for_connections() {
    let (mail, old) = (Server::greeter("mail:"), Server::greeter("old:"));
    let sluice = Sluice::new().start(&sample(
        "connections.yaml",
        &[
            ("127.0.0.1:2525", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", mail.addr().to_string()),
            ("127.0.0.1:9001", old.addr().to_string()),
        ],
    ));
    let mut client = connect(sluice.addr("mail"));
    assert_eq!(read(&mut client, 5), b"mail:");
    assert_eq!(exchange(&mut client, b"EHLO a\r\n"), b"EHLO a\r\n");
    let mut browser = connect(sluice.addr("mail"));
    assert_eq!(read(&mut browser, 5), b"mail:");
    browser.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(read_to_end(&mut browser).1.is_empty());
    assert_eq!(exchange(&mut client, b"GET\r\n"), b"GET\r\n", "it has greeted");
    assert_eq!(sluice.metric("sluice_lua_connection_counts_total", "counter=\"browsers\""), 1);
}

#[test]
fn guests() {
    let app = Origin::start("app");
    let sluice = Sluice::new().start(&sample(
        "wasm.yaml",
        &[("127.0.0.1:8080", "127.0.0.1:0".into()), ("127.0.0.1:9000", app.addr().to_string())],
    ));
    let ask = |path: &str| {
        let mut client = sluice_testkit::origin::Client::connect(sluice.addr("web"));
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
    };
    for (path, by) in [("/", "guest"), ("/plain/1", "")] {
        let answer = ask(path);
        assert_eq!((answer.status(), answer.value("x-served-by")), (200, by), "{path}");
    }
}

#[test]
fn loaded_libraries() {
    let (app, redis) = (Origin::start("app"), Server::echo());
    let kit = Sluice::new();
    let examples = ["tag.c", "tally.cpp", "words.cpp"].map(libraries::example);
    if examples.iter().any(|of| libraries::compile(of, kit.folder()).is_none()) {
        return;
    }
    let tally = kit.folder().join("tally");
    let sluice = kit.start(&sample(
        "module.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:6379", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", app.addr().to_string()),
            ("127.0.0.1:9001", redis.addr().to_string()),
            ("/tmp/sluice-tally", tally.display().to_string()),
        ],
    ));
    let ask = |path: &str, fields: &str| {
        let mut client = sluice_testkit::origin::Client::connect(sluice.addr("web"));
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    };
    assert_eq!((ask("/", "").status(), ask("/healthz", "").status()), (401, 200));
    assert_eq!(ask("/", "X-User: ann\r\n").value("x-tag"), "gold");
    assert_eq!(ask("/trial/1", "X-User: ann\r\n").value("x-tag"), "free");
    let counts = || std::fs::read_to_string(&tally).unwrap_or_default();
    wait::until("the counts", || (counts() == "200 3\n401 1\n").then_some(()));
    let mut client = connect(sluice.addr("redis"));
    assert_eq!(exchange(&mut client, b"GET a\r\n"), b"GET a\r\n");
    client.write_all(b"FLUSHALL\r\n").unwrap();
    let _ = read_to_end(&mut client);
    sluice.record_of("module.closed");
}

#[test]
fn countries_and_expressions() {
    let (origin, kit) = (Origin::start("shop"), Sluice::new());
    std::fs::write(kit.folder().join("GeoLite2-Country.mmdb"), countries()).unwrap();
    let sluice = kit.start(&sample(
        "countries.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", origin.addr().to_string()),
            ("1000000", "4".into()),
        ],
    ));
    let ask = |from: &str, body: &str| {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let length = body.len();
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {from}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request).status()
    };
    for (from, body, status) in [
        ("192.0.2.1", "", 200),
        ("192.0.2.1", "large", 200),
        ("203.0.113.1", "", 200),
        ("203.0.113.1", "tiny", 200),
        ("203.0.113.1", "large", 403),
        ("198.51.100.1", "", 403),
    ] {
        assert_eq!(ask(from, body), status, "{body:?} from {from}");
    }
    let record = sluice.record("the refusal", |record| record["country"] == "AQ");
    assert_eq!((&record["policy"], &record["status"]), (&"blocked".into(), &403.into()));
    assert_eq!(origin.requests()[0].value("x-country"), "DE");
    let tried = sluice.page("/try?value=geo.country:AQ").1;
    assert!(tried.contains("blocked") && tried.contains("refuses the request"), "{tried}");
}
