//! A service that changes the bytes of connections: the connection filter `ext_proc`, with Envoy's own messages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};

use serde_json::Value;
use sluice_testkit::peers::{Server, connect, exchange, read, read_to_end};
use sluice_testkit::{Running, Sluice, tools, wait};
use sluice_tests::envoy_service;
use sluice_tests::messages::{out, sluice};

/// Starts the service of `net_proc_server.py`; `None` if Python lacks Envoy's messages.
fn service() -> Option<(tools::Process, SocketAddr)> {
    let messages = "envoy.service.network_ext_proc.v3.network_external_processor_pb2";
    envoy_service("net_proc_server.py", messages)
}

/// A listener `a` before a server, with this filter, whose cluster is `proc`. Answers have time, unless it is what is tested.
fn config(server: SocketAddr, service: SocketAddr, filter: &str) -> String {
    let timeout = if filter.contains("timeout:") { "" } else { ", timeout: 60s" };
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, filters: [{{ ext_proc: {{ cluster: proc{timeout}{filter} }} }}], relay: up }}]\n\
         clusters:\n  up: {{ endpoints: [\"{server}\"] }}\n  proc: {{ endpoints: [\"{service}\"], protocol: http2 }}\n\
         limits: {{ filter_wait_seconds: 120 }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ reason: \"%REASON%\", listener: \"%LISTENER%\", detail: \"%DETAIL%\" }} }} }}]\n"
    )
}

fn start(server: &Server, service: SocketAddr, filter: &str) -> Running {
    Sluice::new().workers(1).start(&config(server.addr(), service, filter))
}

fn record(sluice: &Running, reason: &str, detail: &str) -> Value {
    sluice.record(detail, |record| {
        record["reason"] == reason
            && record["detail"].as_str().is_some_and(|said| said.contains(detail))
    })
}

fn counted(sluice: &Running, result: &str, count: i64) {
    let labels = format!("listener=\"a\",result=\"{result}\"");
    wait::until("the count", || {
        (sluice.metric("sluice_ext_proc_connections_total", &labels) == count).then_some(())
    });
}

#[test]
fn bytes_of_both_sides_are_changed() {
    let Some((_service, proc)) = service() else { return };
    let server = Server::echo();
    let sluice = start(&server, proc, "");
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    // What the endpoint sends back is another piece, which does not begin like the first.
    assert_eq!(exchange(&mut client, b"change me"), b"CHANGE ME");
    client.write_all(b"told").unwrap();
    assert_eq!(read(&mut client, 15), b"[read_data 4 0]");
    client.shutdown(Shutdown::Write).unwrap();
    let (end, rest) = read_to_end(&mut client);
    assert!(end.is_ok() && rest.is_empty(), "{end:?} {rest:?}");
    sluice.record_of("end.done");
    counted(&sluice, "processed", 1);
}

#[test]
fn calls_begin_with_metadata() {
    let Some((_service, proc)) = service() else { return };
    let server = Server::echo();
    for (more, told) in [("", "nobody"), (", call_metadata: { X-Who: edge }", "edge")] {
        let sluice = start(&server, proc, &format!(", sent: false{more}"));
        let mut client = connect(sluice.addr("a"));
        client.write_all(b"who").unwrap();
        assert_eq!(read(&mut client, told.len()), told.as_bytes());
    }
}

#[test]
fn one_side_alone_is_sent() {
    let Some((_service, proc)) = service() else { return };
    for (skips, greeting, reply) in
        [("received: false", "[write_data 4 0]", "CHANGE"), ("sent: false", "told", "CHANGE")]
    {
        let server = Server::greeter("told");
        let sluice = start(&server, proc, &format!(", {skips}"));
        let mut client = connect(sluice.addr("a"));
        assert_eq!(read(&mut client, greeting.len()), greeting.as_bytes());
        client.write_all(b"change").unwrap();
        assert_eq!(read(&mut client, 6), reply.as_bytes());
    }
}

#[test]
fn what_is_unmodified_passes_as_it_is_and_an_empty_change_holds_it_back() {
    let Some((_service, proc)) = service() else { return };
    let server = Server::echo();
    let sluice = start(&server, proc, ", sent: false");
    let mut client = connect(sluice.addr("a"));
    // The service says `UNMODIFIED`, with other bytes.
    assert_eq!(exchange(&mut client, b"same"), b"same");
    client.write_all(b"nothing").unwrap();
    // Whether or not this is in the same piece.
    let mut got = Vec::new();
    while !got.ends_with(b"after") {
        client.write_all(b"after").unwrap();
        got.extend(read(&mut client, 5));
    }
    assert!(!got.windows(7).any(|part| part == b"nothing"), "{got:?}");
}

#[test]
fn the_service_closes_and_resets_connections() {
    let Some((_service, proc)) = service() else { return };
    let server = Server::echo();
    let sluice = start(&server, proc, "");
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    client.write_all(b"close").unwrap();
    let (end, rest) = read_to_end(&mut client);
    assert!(end.is_ok() && rest.is_empty(), "in order: {end:?} {rest:?}");
    record(&sluice, "accept.denied", "ext_proc: the service closed the connection");
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"reset").unwrap();
    let (end, _) = read_to_end(&mut client);
    assert!(end.is_err(), "a reset");
    counted(&sluice, "closed", 2);
}

#[test]
fn a_call_lasts_longer_than_a_filter_may_wait() {
    let Some((_service, proc)) = service() else { return };
    let server = Server::echo();
    let config = config(server.addr(), proc, "");
    let config = config.replace("filter_wait_seconds: 120", "filter_wait_seconds: 1");
    let sluice = Sluice::new().workers(1).start(&config);
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    // Its bytes are held for as long as a filter may, all after the first call has begun.
    let mut other = connect(sluice.addr("a"));
    other.write_all(b"late").unwrap();
    let (end, _) = read_to_end(&mut other);
    assert!(end.is_err(), "a reset");
    sluice.record_of("filter.timeout");
    assert_eq!(exchange(&mut client, b"change me"), b"CHANGE ME");
}

#[test]
fn a_service_that_leaves_lets_the_rest_pass() {
    let Some((_service, proc)) = service() else { return };
    let server = Server::echo();
    let sluice = start(&server, proc, "");
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"end"), b"end");
    assert_eq!(exchange(&mut client, b"change"), b"change");
    drop(client);
    counted(&sluice, "left", 1);
}

#[test]
fn what_fails_ends_the_connection_or_lets_it_pass() {
    let Some((_service, proc)) = service() else { return };
    let server = Server::echo();
    let short = ", timeout: 300ms";
    for (said, filter, reason, detail) in [
        ("fail", "", "sidecall.grpc_status", "ext_proc: "),
        ("other", "", "ext_proc.unexpected", "an answer to `write_data` was not due"),
        ("late", short, "ext_proc.timeout", "no answer within 300ms"),
        ("neither", short, "ext_proc.timeout", "no answer within 300ms"),
    ] {
        let sluice = start(&server, proc, filter);
        let mut client = connect(sluice.addr("a"));
        client.write_all(said.as_bytes()).unwrap();
        let (_, rest) = read_to_end(&mut client);
        assert!(rest.is_empty(), "{said}: {rest:?}");
        record(&sluice, reason, detail);
        counted(&sluice, "failed", 1);
        let sluice = start(&server, proc, &format!("{filter}, allow_on_error: true"));
        let mut client = connect(sluice.addr("a"));
        // Nothing of what it was asked about is lost, and it is not asked again.
        assert_eq!(exchange(&mut client, said.as_bytes()), said.as_bytes());
        assert_eq!(exchange(&mut client, b"change"), b"change");
    }
    let nobody = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let sluice = start(&server, nobody, "");
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"hello").unwrap();
    assert!(read_to_end(&mut client).1.is_empty());
    record(&sluice, "upstream.refused", "ext_proc: ");
}

#[test]
fn settings_that_cannot_be_used_are_errors_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    for (filter, expected) in [
        (", received: false, sent: false", "the service is sent nothing"),
        (", timeout: 2h", "`timeout` must be more than 0, and at most 1h"),
    ] {
        let path = folder.path().join("sluice.yaml");
        std::fs::write(&path, config(address, address, filter)).unwrap();
        let output = sluice(&["check", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{filter}: {}", out(&output));
        assert!(out(&output).contains(expected), "{filter}: {}", out(&output));
    }
}
