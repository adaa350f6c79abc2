//! What operators do to a running Sluice: a connection that is ended, the level of the process log.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use sluice_testkit::frames::{H2, flag, get, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, UdpServer, connect, exchange, read_to_end, udp_client};
use sluice_testkit::{Authority, Origin, Running, Sluice, http3, tools, wait};

/// Runs a command with the admin address of a Sluice: whether it succeeded, and what it printed.
fn act(sluice: &Running, command: &str, rest: &[&str]) -> (bool, String) {
    let admin = sluice.admin_addr().to_string();
    let output = sluice_tests::messages::sluice(&[&[command, "-a", &admin], rest].concat());
    let said = [&*output.stdout, &*output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// Ends the only connection or flow that is open; returns its item on the page.
#[track_caller]
fn kill(sluice: &Running) -> Value {
    let open = sluice.items("/connections");
    assert_eq!(open.len(), 1, "{open:?}");
    let (done, said) = act(sluice, "connection", &[&open[0]["id"].to_string(), "kill"]);
    let source = open[0]["source"].as_str().unwrap();
    assert!(done && said.contains(source) && said.contains("ended"), "{said}");
    assert!(sluice.log().contains("an operator ended the"), "{}", sluice.log());
    open[0].clone()
}

/// The record of what was ended.
#[track_caller]
fn check_record(sluice: &Running, kind: &str, item: &Value) {
    let of = |record: &Value| record["kind"] == kind && record["connection_id"] == item["id"];
    let record = sluice.record(&format!("the end of {item}"), of);
    assert_eq!(record["reason"], "end.killed", "{record}");
    assert_eq!((&record["side"], &record["listener"]), (&"local".into(), &item["listener"]));
}

fn relay(address: &str, endpoint: impl std::fmt::Display) -> String {
    format!(
        "admin: {{ address: 127.0.0.1:0, writable: true }}\n\
         listeners: [{{ name: a, address: \"{address}\", relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [\"{endpoint}\"] }} }}\n"
    )
}

#[test]
fn a_relayed_connection_is_ended_and_no_other() {
    let server = Server::echo();
    let sluice = Sluice::new().workers(2).start(&relay("127.0.0.1:0", server.addr()));
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"in"), b"in");
    let item = kill(&sluice);
    assert!(read_to_end(&mut client).1.is_empty());
    check_record(&sluice, "connection", &item);
    let mut other = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut other, b"in"), b"in");
    for (id, says) in
        [("x", "by its number"), ("-1", "unexpected argument"), ("1000000", "GET /connections")]
    {
        let (done, said) = act(&sluice, "connection", &[id, "kill"]);
        assert!(!done && said.contains(says), "{id}: {said}");
    }
    let again = act(&sluice, "connection", &[&item["id"].to_string(), "kill"]);
    assert!(!again.0 && again.1.contains("no connection or flow with the number"), "{again:?}");
    assert_eq!(exchange(&mut other, b"still"), b"still");
    let read_only =
        relay("127.0.0.1:0", server.addr()).replace("writable: true", "writable: false");
    sluice.reload(&read_only);
    let (done, said) = act(&sluice, "connection", &["1", "kill"]);
    assert!(!done && said.contains("writable: true"), "{said}");
}

#[test]
fn a_flow_is_ended_and_the_next_datagram_begins_another() {
    let server = UdpServer::echo("");
    let sluice = Sluice::new().workers(2).start(&relay("udp://127.0.0.1:0", server.addr()));
    let client = udp_client();
    let ask = || {
        client.send_to(b"in", sluice.addr("a")).unwrap();
        client.recv_from(&mut [0; 16]).unwrap();
    };
    ask();
    let item = kill(&sluice);
    assert_eq!(item["kind"], "flow");
    check_record(&sluice, "flow", &item);
    ask();
    assert_ne!(kill(&sluice)["id"], item["id"]);
}

#[test]
fn http_connections_are_ended_with_their_requests() {
    let origin = Origin::start("a");
    let kit = Sluice::new().workers(2);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let sluice = kit.start(&format!(
        "admin: {{ address: 127.0.0.1:0, writable: true }}\n\
         listeners:\n\
         \x20 - {{ name: plain, address: 127.0.0.1:0, http: main }}\n\
         \x20 - {{ name: web, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: main }}\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ));
    let none = || {
        wait::until("no connection", || sluice.items("/connections").is_empty().then_some(()));
    };
    let mut client = Client::connect(sluice.addr("plain"));
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request", || (origin.requests().len() == 1).then_some(()));
    let item = kill(&sluice);
    assert!(client.rest().is_empty());
    check_record(&sluice, "request", &item);
    check_record(&sluice, "connection", &item);
    none();
    // Between two requests of HTTP/2.
    let mut client = H2::connect(sluice.addr("plain"));
    client.headers(1, &get("a", "/"), true);
    client.until("the response", |frame| {
        frame.kind != kind::SETTINGS && frame.flags & flag::END_STREAM != 0
    });
    let item = kill(&sluice);
    while client.read().is_some() {}
    check_record(&sluice, "connection", &item);
    none();
    let ca = sluice.folder().join("ca.pem");
    let closed = http3::run(&ca, None, async |client| {
        let connection = client.connect(sluice.addr("web"), "web.test").await?;
        assert_eq!(connection.ask("GET", "/").await?.status, 200);
        check_record(&sluice, "connection", &kill(&sluice));
        Ok(connection.closed().await)
    });
    assert!(!closed.unwrap().contains("timed out"));
    none();
    origin.release();
}

#[test]
fn the_log_level_changes_survives_a_reload_and_ends() {
    let server = Server::echo();
    let yaml = relay("127.0.0.1:0", server.addr());
    let sluice = Sluice::new().start(&yaml);
    let set = |rest: &[&str]| {
        let (done, said) = act(&sluice, "log", rest);
        assert!(done, "{rest:?}: {said}");
        said
    };
    let filter = || sluice.items("/log")[0].clone();
    assert!(filter()["override"].is_null(), "{}", filter());
    assert!(set(&["default"]).contains("it had no override"));
    assert!(set(&["error"]).starts_with("process log: error"));
    // Whatever the level, its changes are told.
    assert!(sluice.log().contains("the log level was overridden"), "{}", sluice.log());
    // Nothing is told of this reload.
    assert_eq!(sluice.reload(&yaml.replace("relay: up", "relay: { cluster: up }")), "unchanged");
    assert_eq!(sluice.reload(&yaml.replace("name: a", "name: b")), "applied");
    assert!(!sluice.log().contains("listeners: +b"), "{}", sluice.log());
    assert_eq!(filter()["override"]["action"], "error");
    let shown = sluice.items("/overrides")[0].clone();
    assert_eq!((&shown["log"], &shown["override"]["action"]), (&"process".into(), &"error".into()));
    assert!(set(&["default"]).contains("`error` was removed"));
    assert!(sluice.items("/overrides").is_empty());
    assert_eq!(sluice.reload(&yaml), "applied");
    assert!(sluice.log().contains("listeners: +a -b"), "{}", sluice.log());
    let said = set(&["sluice_upstream=debug", "--for", "300ms"]);
    assert!(said.contains("sluice_upstream=debug for 300ms"), "{said}");
    wait::until("the end of the level", || {
        (filter()["override"].is_null() && sluice.log().contains("has expired")).then_some(())
    });
    for (rest, says) in [
        (&["loud"][..], "`loud` is not a level; write a level (error, warn"),
        (&["nginx=debug"], "`nginx=debug` is not a level"),
        (&["debug", "--for", "10"], "needs a unit"),
        (&["debug", "--for", "0s"], "longer than 0s"),
        (&["default", "--for", "1m"], "leave out `for`"),
    ] {
        let (done, said) = act(&sluice, "log", rest);
        assert!(!done && said.contains(says), "{rest:?}: {said}");
    }
}

#[test]
fn a_decision_is_explained() {
    let (server, gone) = (Server::echo(), nobody());
    let sluice = Sluice::new().workers(1).expect_warning("endpoint is unhealthy").start(&format!(
        "admin: {{ address: 127.0.0.1:0, writable: true }}\n\
         listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes:\n\
         \x20 main:\n\
         \x20   - hosts: \"*\"\n\
         \x20     rules:\n\
         \x20       - {{ name: by_value, match: {{ values: {{ balancer.hash: \"7\" }} }}, cluster: other }}\n\
         \x20       - {{ name: rest, cluster: up, retry: {{ attempts: 3, when: [gateway_error], methods: [GET] }} }}\n\
         clusters:\n\
         \x20 up:\n\
         \x20   endpoints: [\"{gone}\", {{ address: \"{}\", backup: true }}]\n\
         \x20   health: {{ tcp: true, interval: 100ms }}\n\
         \x20   limits: {{ connections: 10, connections_per_endpoint: 9 }}\n\
         \x20   fallback: other\n\
         \x20 other: {{ endpoints: [\"{gone}\"] }}\n",
        server.addr()
    ));
    let ask = |query: &str| {
        let (status, page) = sluice.page(&format!("/try?host=a&format=json{query}"));
        assert_eq!(status, 200, "{page}");
        serde_json::from_str::<Value>(&page).unwrap()["items"][0].clone()
    };
    let up = |of: &Value| of["balancing"][0].clone();
    let found = wait::until("the backup to serve", || {
        let of = ask("");
        (up(&of)["priorities"][1]["healthy"] == 100).then_some(of)
    });
    let cluster = up(&found);
    assert_eq!(cluster["cluster"], "up", "{found}");
    assert_eq!(cluster["endpoints"], serde_json::json!({ "all": 2, "eligible": 1 }));
    assert_eq!(cluster["not_eligible"][0]["address"], gone.to_string());
    let why = cluster["not_eligible"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("unhealthy since 20") && why.contains("refused"), "{why}");
    assert_eq!(
        (&cluster["breakers"]["connections"]["left"], found["balancing"].as_array().unwrap().len()),
        (&10.into(), 1)
    );
    let rules = |of: &Value| of["retry"]["rules"].clone();
    assert_eq!(rules(&found), serde_json::json!(["unsent", "stale", "gateway_error"]));
    let post = ask("&method=POST");
    assert_eq!(rules(&post), serde_json::json!(["unsent"]));
    assert!(post["retry"]["not_covered"].as_str().unwrap().contains("`methods`"), "{post}");
    // A value that a filter would share.
    assert_eq!(
        (&found["rule"], &found["passed_over"][0]["does_not_fit"]),
        (&"rest".into(), &"values".into())
    );
    let other = ask("&value=balancer.hash:7");
    assert_eq!(
        (&other["rule"], &other["balancing"][0]["endpoints"]["all"]),
        (&"by_value".into(), &1.into())
    );
    assert!(sluice.page("/try?value=balancer.hsh:7").1.contains("did you mean `balancer.hash`?"));
    assert!(sluice.page("/try?value=x").1.contains("expected value=NAME:VALUE"));
    // With the backup drained as well, the other cluster is asked.
    let address = server.addr().to_string();
    assert!(act(&sluice, "endpoint", &["up", &address, "drain"]).0);
    let found = ask("");
    assert_eq!(up(&found)["not_eligible"][1]["why"], "drained by an operator");
    assert_eq!(found["balancing"][1]["cluster"], "other");
    let endpoints =
        sluice.items("/clusters").into_iter().find(|of| of["name"] == "up").unwrap()["endpoints"]
            .clone();
    assert_eq!(
        (&endpoints[0]["not_eligible"], &endpoints[1]["not_eligible"]),
        (&serde_json::json!(["unhealthy"]), &serde_json::json!(["drained"]))
    );
}

/// An address without a listener.
fn nobody() -> std::net::SocketAddr {
    ([127, 0, 0, 1], tools::free_port()).into()
}
