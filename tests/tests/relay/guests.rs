//! Guests in WebAssembly on connections: what they see and change, what they wait for, and that a bad one costs its own connections only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};

use sluice_testkit::guests::guest;
use sluice_testkit::origin::{self, Origin};
use sluice_testkit::peers::{Server, connect, exchange, read, read_to_end};
use sluice_testkit::{Running, Sluice, wait};

/// A listener `a` with a guest before `up`; it may call `side`.
fn start(up: SocketAddr, side: SocketAddr, functions: &str, settings: &str) -> Running {
    let kit = Sluice::new().workers(1).expect_warning("\"reason\":\"wasm.");
    let kit = kit.expect_warning("the cluster `side` is not used");
    std::fs::write(kit.folder().join("guest.wasm"), guest(functions)).unwrap();
    kit.start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up, filters: [{{ wasm: {{ file: guest.wasm{settings} }} }}] }}]\n\
         clusters: {{ up: {{ endpoints: [\"{up}\"] }}, side: {{ endpoints: [\"{side}\"] }} }}\nlimits: {{ filter_wait_seconds: 600 }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", detail: \"%DETAIL%\", error: \"%VALUE(wasm.error)%\", \
           who: \"%VALUE(wasm.values.who)%\", last: \"%VALUE(wasm.values.last)%\" }} }} }}]\n"
    ))
}

/// One with an echo, and nobody to call.
fn echoing(functions: &str, settings: &str) -> (Server, Running) {
    let server = Server::echo();
    let sluice = start(server.addr(), server.addr(), functions, settings);
    (server, sluice)
}

fn counted(sluice: &Running, name: &str, value: i64) {
    let labels = format!("name=\"{name}\"");
    wait::until(name, || {
        (sluice.metric("sluice_wasm_counts_total", &labels) == value).then_some(())
    });
}

#[test]
fn bytes_are_changed_both_ways_and_ends_are_seen() {
    let functions = r#"
(global $opened (mut i32) (i32.const 0))
(global $closed (mut i32) (i32.const 0))
(global $answered (mut i32) (i32.const 0))
configure
(drop (call $define_metric (i32.const 0) "opened" (i32.const 32)))
(global.set $opened (i32.load (i32.const 32)))
(drop (call $define_metric (i32.const 0) "closed" (i32.const 32)))
(global.set $closed (i32.load (i32.const 32)))
(drop (call $define_metric (i32.const 0) "answered" (i32.const 32)))
(global.set $answered (i32.load (i32.const 32)))
new_connection
(drop (call $increment_metric (global.get $opened) (i64.const 1)))
(drop (call $property "source\0address"))
(drop (call $set_property "who" (global.get $at) (global.get $len)))
downstream_data
(if (local.get $size) (then (call $put (i32.const 2) ",")))
upstream_data
(if (local.get $size) (then (drop (call $set_buffer_bytes (i32.const 3) (i32.const 0) (i32.const 0) "got "))))
upstream_connection_close
(drop (call $increment_metric (global.get $answered) (i64.const 1)))
downstream_connection_close
(drop (call $increment_metric (global.get $closed) (i64.extend_i32_u (i32.add (i32.const 10) (local.get $how)))))
(drop (call $property "upstream\0address"))
(drop (call $set_property "last" (global.get $at) (global.get $len)))
"#;
    let (_server, sluice) = echoing(functions, "");
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"hello").unwrap();
    assert_eq!(read(&mut client, 10), b"got hello,");
    counted(&sluice, "opened", 1);
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&mut client).1.is_empty());
    let own = client.local_addr().unwrap().to_string();
    sluice.record("its source", |record| record["who"] == *own);
    // The endpoint was the last to close.
    counted(&sluice, "closed", 11);
    counted(&sluice, "answered", 1);
}

#[test]
fn a_connection_waits_for_a_call() {
    let origin = Origin::start("o");
    let functions = r#"
(func $pair (param $at i32) (param $name i32) (param $n i32) (param $value i32) (param $v i32) (result i32)
  (memory.copy (local.get $at) (local.get $name) (local.get $n))
  (i32.store8 (i32.add (local.get $at) (local.get $n)) (i32.const 0))
  (local.set $at (i32.add (i32.add (local.get $at) (local.get $n)) (i32.const 1)))
  (memory.copy (local.get $at) (local.get $value) (local.get $v))
  (i32.store8 (i32.add (local.get $at) (local.get $v)) (i32.const 0))
  (i32.add (i32.add (local.get $at) (local.get $v)) (i32.const 1)))
(func $ask (local $at i32)
  (i32.store (i32.const 40000) (i32.const 3))
  (i32.store (i32.const 40004) (i32.const 7)) (i32.store (i32.const 40008) (i32.const 3))
  (i32.store (i32.const 40012) (i32.const 5)) (i32.store (i32.const 40016) (i32.const 5))
  (i32.store (i32.const 40020) (i32.const 10)) (i32.store (i32.const 40024) (i32.const 1))
  (local.set $at (call $pair (i32.const 40028) ":method" "GET"))
  (local.set $at (call $pair (local.get $at) ":path" "/auth"))
  (local.set $at (call $pair (local.get $at) ":authority" "s"))
  (if (call $http_call "side" (i32.const 40000) (i32.sub (local.get $at) (i32.const 40000)) "" (i32.const 0) (i32.const 0) (i32.const 5000) (i32.const 32)) (then (unreachable))))
new_connection
(call $ask)
(return (i32.const 1))
downstream_data
(drop (call $buffer (i32.const 2) (i32.const 0) (i32.const 9)))
(if (call $is "again") (then (call $ask) (return (i32.const 1))))
http_call_response
(if (i32.eqz (local.get $headers)) (then (drop (call $close_stream (i32.const 2))) (return)))
(call $put (i32.const 2) "!")
(drop (call $continue_stream (i32.const 2)))
"#;
    let server = Server::echo();
    let sluice = start(server.addr(), origin.addr(), functions, ", clusters: [side]");
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    client.write_all(b"again").unwrap();
    assert_eq!(read(&mut client, 6), b"again!");
    let asked = origin.requests().iter().filter(|request| request.path() == "/auth").count();
    assert_eq!(asked, 2);
    // Nobody responds, and the guest closes.
    drop(client);
    let nobody = sluice_testkit::peers::RefusingPort::take();
    let sluice = start(server.addr(), nobody.addr(), functions, ", clusters: [side]");
    assert!(read_to_end(&mut connect(sluice.addr("a"))).1.is_empty());
    let record = sluice.record_of("wasm.closed");
    assert_eq!(record["detail"], "wasm[guest: it closed the connection]", "{record}");
}

#[test]
fn a_guest_lets_go_and_closes_when_it_ticks() {
    let functions = r#"
(global $held (mut i32) (i32.const 0))
(global $go (mut i32) (i32.const 0))
configure
(drop (call $set_tick_period_milliseconds (i32.const 10)))
downstream_data
(drop (call $buffer (i32.const 2) (i32.const 0) (i32.const 4)))
(global.set $held (local.get $context))
(if (call $is "go") (then (global.set $go (i32.const 1))))
(if (call $is "end") (then (global.set $go (i32.const 2))))
(return (i32.const 1))
tick
(if (i32.eqz (global.get $go)) (then (return)))
(drop (call $set_effective_context (global.get $held)))
(if (i32.eq (global.get $go) (i32.const 1)) (then (drop (call $continue_stream (i32.const 2)))) (else (drop (call $close_stream (i32.const 2)))))
(global.set $go (i32.const 0))
"#;
    let (_server, sluice) = echoing(functions, "");
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"go").unwrap();
    assert_eq!(read(&mut client, 2), b"go");
    client.write_all(b"end").unwrap();
    assert!(read_to_end(&mut client).1.is_empty());
    sluice.record_of("wasm.closed");
}

#[test]
fn what_a_guest_holds_back_is_bounded() {
    let (_server, sluice) =
        echoing("downstream_data\n(return (i32.const 1))\n", ", held_max: 1KiB");
    let mut client = connect(sluice.addr("a"));
    client.write_all(&[b'x'; 4096]).unwrap();
    assert!(read_to_end(&mut client).1.is_empty());
    sluice.record_of("wasm.held");
    wait::until("the bound to be counted", || {
        let labels = "limit=\"held_max\"";
        (sluice.metric("sluice_wasm_limits_reached_total", labels) == 1).then_some(())
    });
}

/// Traps at `trap`, and does not end at `loop`.
const BAD: &str = r#"
new_connection
(drop (call $set_property "who" "known"))
downstream_data
(drop (call $buffer (i32.const 2) (i32.const 0) (i32.const 4)))
(if (call $is "trap") (then (unreachable)))
(if (call $is "loop") (then (loop $ever (br $ever))))
"#;

#[test]
fn a_bad_guest_costs_its_connections() {
    for (says, reason) in [("trap", "wasm.trap"), ("loop", "wasm.budget")] {
        let (_server, sluice) = echoing(BAD, ", restart: 1h");
        let mut client = connect(sluice.addr("a"));
        assert_eq!(exchange(&mut client, b"hello"), b"hello");
        client.write_all(says.as_bytes()).unwrap();
        assert!(read_to_end(&mut client).1.is_empty());
        let record = sluice.record_of(reason);
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.starts_with("wasm[guest: proxy_on_downstream_data: "), "{record}");
        assert_eq!(record["who"], "known");
        // There is no other instance yet.
        assert!(read_to_end(&mut connect(sluice.addr("a"))).1.is_empty());
        sluice.record_of("wasm.down");
    }
}

#[test]
fn a_connection_goes_on_without_a_bad_guest() {
    let (_server, sluice) = echoing(BAD, ", restart: 1h, on_error: continue");
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    assert_eq!(exchange(&mut client, b"trap"), b"trap");
    assert_eq!(exchange(&mut client, b"more"), b"more");
    drop(client);
    let record =
        sluice.record("its error", |record| record["error"] != "" && record["who"] == "known");
    assert_eq!(record["reason"], "end.done", "{record}");
    // Without an instance.
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
}

#[test]
fn connections_of_http_are_seen_without_their_bytes() {
    let origin = Origin::start("o");
    let kit = Sluice::new().workers(1);
    let functions = "new_connection\n(drop (call $set_property \"who\" \"known\"))\n";
    std::fs::write(kit.folder().join("guest.wasm"), guest(functions)).unwrap();
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main }}, filters: [{{ wasm: {{ file: guest.wasm }} }}] }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", who: \"%VALUE(wasm.values.who)%\" }} }} }}]\n",
        origin.addr()
    ));
    assert_eq!(origin::get(sluice.addr("web"), "h", "/a").status(), 200);
    let record = sluice.record("/a", |record| record["path"] == "/a");
    assert_eq!(record["who"], "known");
}
