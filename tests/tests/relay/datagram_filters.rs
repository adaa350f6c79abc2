//! Filters of datagrams of loaded libraries: the examples in C, C++ and Rust, and one that does what it must not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::UdpSocket;
use std::path::Path;

use serde_json::Value;
use sluice_testkit::libraries::{compile, example, rust_example};
use sluice_testkit::peers::{Server, UdpServer, connect, exchange, read, read_to_end, udp_client};
use sluice_testkit::{Running, Sluice, tools, wait};
use sluice_tests::messages::{out, sluice};

use crate::flows::checked;

/// A listener `u` for UDP and one for TCP, each before an echo server, with these settings of `module` on both or on the first.
fn config(settings: &str, udp: &UdpServer, tcp: Option<&Server>, more: &str) -> String {
    let filters = format!("filters: [{{ module: {settings} }}]");
    let (listener, cluster) = match tcp {
        None => (String::new(), String::new()),
        Some(server) => (
            format!("  - {{ name: a, address: 127.0.0.1:0, {filters}, relay: bytes }}\n"),
            format!("  bytes: {{ endpoints: [\"{}\"] }}\n", server.addr()),
        ),
    };
    format!(
        "listeners:\n  - {{ name: u, address: \"udp://127.0.0.1:0\", {filters}, relay: up }}\n{listener}\
         clusters:\n  up: {{ endpoints: [\"{}\"]{more} }}\n{cluster}\
         access_log: [{{ sink: records.json, format: {{ json: {{ reason: \"%REASON%\", listener: \"%LISTENER%\", \
           detail: \"%DETAIL%\", quota: \"%VALUE(module.values.quota)%\" }} }} }}]\n\
         drain: {{ timeout: 100ms }}\n",
        udp.addr()
    )
}

fn kit() -> Sluice {
    Sluice::new().workers(1).expect_warning("the drain timeout has expired")
}

fn kit_with(source: &Path) -> Option<Sluice> {
    let kit = kit();
    compile(source, kit.folder())?;
    Some(kit)
}

/// A client of the listener `u`.
struct UdpPeer<'a>(UdpSocket, &'a Running);

impl UdpPeer<'_> {
    fn of(sluice: &Running) -> UdpPeer<'_> {
        UdpPeer(udp_client(), sluice)
    }

    fn send(&self, words: &[u8]) {
        self.0.send_to(words, self.1.addr("u")).unwrap();
    }

    fn receive(&self) -> Vec<u8> {
        let mut got = vec![0; 65_536];
        let (size, _) = self.0.recv_from(&mut got).unwrap();
        got.truncate(size);
        got
    }

    /// Sends a datagram, and returns the next that comes back.
    fn ask(&self, words: &[u8]) -> Vec<u8> {
        self.send(words);
        self.receive()
    }
}

/// The record with this reason and detail.
fn record(sluice: &Running, reason: &str, detail: &str) -> Value {
    sluice.record(detail, |record| record["reason"] == reason && record["detail"] == detail)
}

fn counted(sluice: &Running, name: &str) -> i64 {
    sluice.metric("sluice_module_counts_total", &format!("counter=\"{name}\""))
}

fn filtered(sluice: &Running) -> i64 {
    sluice.metric("sluice_flow_datagrams_total", "result=\"filtered\"")
}

/// Waits until a metric has a value.
fn wait_for(what: &str, count: i64, read: impl Fn() -> i64) {
    wait::until(what, || (read() == count).then_some(()));
}

/// The connections and flows that libraries have a part in.
fn active(sluice: &Running) -> i64 {
    sluice.metric("sluice_module_connections_active", "")
}

fn failures(sluice: &Running) -> i64 {
    sluice.metric("sluice_module_failures_total", "")
}

/// A DNS query for a name.
fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

#[test]
fn the_example_in_c_drops_queries() {
    let Some(kit) = kit_with(&example("names.c")) else { return };
    let server = UdpServer::echo("");
    let sluice =
        kit.start(&config("{ library: libnames.so, config: Ads.example }", &server, None, ""));
    let peer = UdpPeer::of(&sluice);
    for name in ["ads.example", "x.ADS.example", "a.b.ads.example"] {
        peer.send(&query(name));
    }
    // What passes comes back, and nothing else did before.
    for name in ["bads.example", "example", "ads.example.org"] {
        assert_eq!(peer.ask(&query(name)), query(name), "{name}");
    }
    // Neither a name that is cut off nor one that is no name is one of the domain.
    for other in [&b"short"[..], &query("ads.example")[..15], &[0xff; 40]] {
        assert_eq!(peer.ask(other), other);
    }
    wait_for("dropped", 3, || counted(&sluice, "dropped"));
    for (result, count) in [("filtered", 3), ("received", 9), ("sent", 6)] {
        let labels = format!("result=\"{result}\"");
        wait_for(result, count, || sluice.metric("sluice_flow_datagrams_total", &labels));
    }
}

#[test]
fn the_example_in_cpp_ends_flows_and_masks_replies() {
    let Some(kit) = kit_with(&example("words.cpp")) else { return };
    let server = UdpServer::start(|datagram| {
        vec![if datagram == b"tell" { b"a SECRET here".to_vec() } else { datagram.to_vec() }]
    });
    let sluice =
        kit.start(&config("{ library: libwords.so, config: \"DROP,SECRET\" }", &server, None, ""));
    let peer = UdpPeer::of(&sluice);
    assert_eq!(peer.ask(b"tell"), b"a ****** here");
    peer.send(b"DROP TABLE");
    let record = record(&sluice, "module.closed", "module[words: the client sent DROP]");
    assert_eq!(record["kind"], "flow");
    // A further datagram begins a further flow.
    assert_eq!(peer.ask(b"hello"), b"hello");
    wait_for("found", 1, || counted(&sluice, "found"));
    wait_for("active", 1, || active(&sluice));
}

#[test]
fn the_example_in_rust_for_connections_and_flows() {
    let library = rust_example("quota");
    let (udp, tcp) = (UdpServer::echo(""), Server::echo());
    let settings = format!("{{ library: {}, config: 10 }}", library.display());
    let sluice = kit().start(&config(&settings, &udp, Some(&tcp), ""));
    let peer = UdpPeer::of(&sluice);
    assert_eq!(peer.ask(b"1234567"), b"1234567");
    peer.send(b"12345");
    wait_for("filtered", 1, || filtered(&sluice));
    // Each flow has a quota of its own.
    assert_eq!(UdpPeer::of(&sluice).ask(b"1234567890"), b"1234567890");
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"1234567"), b"1234567");
    client.write_all(b"12345").unwrap();
    let _ = read_to_end(&mut client);
    let record = record(&sluice, "module.closed", "module[quota: the quota is used up]");
    assert_eq!((&record["kind"], &record["quota"]), (&"connection".into(), &"10".into()));
    wait_for("exceeded", 2, || counted(&sluice, "exceeded"));
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"hello").unwrap();
    assert_eq!(read(&mut client, 5), b"hello");
}

/// A Sluice with the library that does what it must not.
fn hostile(more: &str) -> Option<(UdpServer, Running)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/hostile_datagrams.c");
    let kit = kit_with(&source)?.expect_warning("\"reason\":\"module.error\"");
    let server = UdpServer::echo("");
    let settings = format!("{{ library: libhostile_datagrams.so{more} }}");
    let sluice = kit.start(&config(&settings, &server, None, ""));
    Some((server, sluice))
}

#[test]
fn what_cannot_be_done_with_a_datagram_is_an_answer() {
    let Some((_server, sluice)) = hostile("") else { return };
    let peer = UdpPeer::of(&sluice);
    let other = UdpPeer::of(&sluice);
    assert_eq!(other.ask(b"keep"), b"keep");
    assert_eq!(peer.ask(b"arguments"), b"-1 -3 -1 -4 -2 -2 -2 -2 -2 -2 ");
    assert_eq!(peer.ask(b"part"), b"ar");
    assert_eq!(peer.ask(b"none"), b"");
    assert_eq!(peer.ask(b"large").len(), 65_507);
    assert_eq!(peer.ask(b"thread"), b"-2 -2");
    peer.send(b"drop");
    peer.send(b"not back");
    assert_eq!(peer.ask(b"after"), b"after");
    wait_for("filtered", 2, || filtered(&sluice));
}

#[test]
fn steps_that_are_none_of_a_datagram_end_its_flow() {
    let Some((_server, sluice)) = hostile("") else { return };
    for (said, why) in [
        ("wait", "datagram_received returned 2, which is no step of a datagram"),
        ("step", "datagram_received returned 77, which is no step of a datagram"),
        ("fail", "datagram_received returned SLUICE_FAIL"),
        ("fail back", "datagram_sent returned 1, which is no step of a datagram"),
    ] {
        let peer = UdpPeer::of(&sluice);
        assert_eq!(peer.ask(b"before"), b"before");
        peer.send(said.as_bytes());
        record(&sluice, "module.error", &format!("module[hostile_datagrams: {why}]"));
    }
    let peer = UdpPeer::of(&sluice);
    peer.send(b"close");
    record(&sluice, "module.closed", "module[hostile_datagrams: enough]");
    wait_for("failures", 4, || failures(&sluice));
    // Each was ended once, with nothing at hand.
    wait_for("ended", 5, || counted(&sluice, "ended"));
    wait_for("active", 0, || active(&sluice));
}

#[test]
fn a_flow_may_pass_in_spite_of_a_failure() {
    let Some((_server, sluice)) = hostile(", on_error: continue") else { return };
    let peer = UdpPeer::of(&sluice);
    assert_eq!(peer.ask(b"fail"), b"fail");
    // The library sees nothing more of it.
    assert_eq!(peer.ask(b"drop"), b"drop");
    wait_for("failures", 1, || failures(&sluice));
}

#[test]
fn a_flow_that_moves_to_another_endpoint_keeps_what_a_library_has_of_it() {
    let library = rust_example("quota");
    let (left, left_check) = checked("left ");
    let (right, right_check) = checked("right ");
    let settings = format!("{{ library: {}, config: 10 }}", library.display());
    let health = ", balance: round_robin, health: { interval: 20ms, unhealthy_after: 1 }";
    let one = format!("\"{}\"", left.addr());
    let both = format!("{one}, \"{}\"", right.addr());
    let yaml = config(&settings, &left, None, health).replace(&one, &both);
    let sluice = kit().expect_warning("endpoint is unhealthy").start(&yaml);
    let peer = UdpPeer::of(&sluice);
    let on_left = peer.ask(b"1234") == b"left 1234";
    let (gone, _stays, other) = match on_left {
        true => (left_check, right_check, &b"right 5678"[..]),
        false => (right_check, left_check, &b"left 5678"[..]),
    };
    drop(gone);
    wait::until("the endpoint to be unhealthy", || {
        (sluice.metric("sluice_cluster_endpoints", "\"unhealthy\"") == 1).then_some(())
    });
    assert_eq!(peer.ask(b"5678"), other);
    // What it sent before counts, and the library has one flow.
    peer.send(b"90123");
    wait_for("filtered", 1, || filtered(&sluice));
    wait_for("active", 1, || active(&sluice));
}

#[test]
fn filters_of_datagrams_are_for_udp() {
    let folder = tempfile::tempdir().unwrap();
    if compile(&example("names.c"), folder.path()).is_none() {
        return;
    }
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:{}\", filters: [{{ module: {{ library: libnames.so, config: a }} }}], relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [\"127.0.0.1:9\"] }} }}\n",
        tools::free_port()
    );
    let path = folder.path().join("sluice.yaml");
    std::fs::write(&path, &text).unwrap();
    let output = sluice(&["check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", out(&output));
    let expected =
        "the filter `module` has only to do with datagrams, of which there are none here";
    assert!(out(&output).contains(expected), "{}", out(&output));
}
