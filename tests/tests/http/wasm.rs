//! Guests in WebAssembly: what they see and change, what they wait for, and that a bad one costs its own requests only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use sluice_testkit::guests::{guest, module};
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Running, Sluice, wait};

/// A listener `web` with the guest, configured with these settings besides its file, before the cluster `up`; `side` is the same
/// origin.
fn start(origin: &Origin, module: &[u8], settings: &str) -> Running {
    start_in(kit(), origin, module, settings, "")
}

fn start_in(kit: Sluice, origin: &Origin, module: &[u8], settings: &str, rules: &str) -> Running {
    std::fs::write(kit.folder().join("guest.wasm"), module).unwrap();
    kit.start(&config(origin, &format!("file: guest.wasm{settings}"), rules))
}

/// A failure of a guest is a warning in the log.
fn kit() -> Sluice {
    let kit = Sluice::new().workers(1).expect_warning("\"reason\":\"wasm.");
    kit.expect_warning("the cluster `side` is not used")
}

fn config(origin: &Origin, settings: &str, rules: &str) -> String {
    let addr = origin.addr();
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ wasm: {{ {settings} }} }}] }} }}]\n\
         routes:\n  main:\n    - rules:\n{rules}        - {{ name: rest, cluster: up }}\n\
         clusters:\n  up: {{ endpoints: [\"{addr}\"] }}\n  side: {{ endpoints: [\"{addr}\"] }}\n\
         limits: {{ filter_wait_seconds: 600 }}\naccess_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", \
           why: \"%RESPONSE_CODE_DETAILS%\", error: \"%VALUE(wasm.error)%\", who: \"%VALUE(wasm.values.app.who)%\", calls: \"%SIDE_CALLS%\", filter: \"%RESPONSE_FILTER%\" }} }} }}]\n"
    )
}

fn get(sluice: &Running, path: &str) -> Message {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nX-One: 1\r\n\r\n");
    Client::connect(sluice.addr("web")).ask(&request)
}

fn post(sluice: &Running, path: &str, body: &str) -> Message {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
    Client::connect(sluice.addr("web")).ask(&(head + body))
}

fn record_of(sluice: &Running, path: &str) -> Value {
    sluice.record(path, |record| record["path"] == path)
}

/// The request that the origin got for this path.
fn seen(origin: &Origin, path: &str) -> Message {
    let requests = origin.requests();
    requests.into_iter().rev().find(|seen| seen.path() == path).unwrap()
}

#[test]
fn headers_are_read_and_changed() {
    let origin = Origin::start("o");
    let module = guest(
        r#"
request_headers
(drop (call $get (i32.const 0) ":path"))
(call $say "x-path")
(call $tell "x-missing" (call $get (i32.const 0) "x-nothing"))
(drop (call $get (i32.const 0) "X-ONE"))
(call $say "x-was")
(call $set (i32.const 0) "x-one" "two")
(call $tell "x-removed" (call $remove_header_map_value (i32.const 0) "user-agent"))
(call $tell "x-frames" (call $add_header_map_value (i32.const 0) "transfer-encoding" "chunked"))
(call $tell "x-control" (call $add_header_map_value (i32.const 0) "x-a" "a\0b"))
(call $tell "x-other-map" (call $add_header_map_value (i32.const 2) "x-a" "a"))
(call $tell "x-no-map" (call $get (i32.const 99) "x-a"))
(call $tell "x-end" (local.get $end))
(call $set (i32.const 0) ":path" "/changed")
response_headers
(drop (call $get (i32.const 2) ":status"))
(call $say "x-status")
(drop (call $get (i32.const 0) ":path"))
(call $say "x-asked")
(call $set (i32.const 2) ":status" "202")
(drop (call $remove_header_map_value (i32.const 2) "x-origin"))
"#,
    );
    let sluice = start(&origin, &module, "");
    let answer = get(&sluice, "/a?b=1");
    assert_eq!((answer.status(), answer.value("x-status")), (202, "200"), "{answer:?}");
    assert_eq!((answer.value("x-asked"), answer.value("x-origin")), ("/changed", ""));
    let seen = seen(&origin, "/changed");
    for (name, value) in [
        ("x-path", "/a?b=1"),
        ("x-missing", "1"),
        ("x-was", "1"),
        ("x-one", "two"),
        ("x-frames", "2"),
        ("x-control", "2"),
        ("x-other-map", "2"),
        ("x-no-map", "2"),
        ("x-end", "1"),
    ] {
        assert_eq!(seen.value(name), value, "{name}: {seen:?}");
    }
}

#[test]
fn bodies_are_held_and_replaced() {
    let origin = Origin::start("o");
    let module = guest(
        r#"
request_body
(if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
(drop (call $set_buffer_bytes (i32.const 0) (i32.const 0) (local.get $size) "whole:"))
(drop (call $set_buffer_bytes (i32.const 0) (i32.const 1000000) (i32.const 0) "!"))
response_body
(drop (call $set_buffer_bytes (i32.const 1) (i32.const 0) (i32.const 0) "<"))
(if (local.get $end) (then (drop (call $set_buffer_bytes (i32.const 1) (i32.const 1000000) (i32.const 0) ">"))))
"#,
    );
    let sluice = start(&origin, &module, ", body_max: 1000");
    let answer = post(&sluice, "/bytes/3", "hello");
    let text = answer.text();
    assert!(text.starts_with('<') && text.ends_with('>') && text.len() >= 5, "{answer:?}");
    assert_eq!(seen(&origin, "/bytes/3").text(), "whole:!");
    // In pieces, of which the guest holds the first.
    let mut client = Client::connect(sluice.addr("web"));
    client.send(
        "POST /bytes/4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    );
    client.send("2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.read().status(), 200);
    assert_eq!(seen(&origin, "/bytes/4").text(), "whole:!");
    // More than it may hold.
    let mut client = Client::connect(sluice.addr("web"));
    client.send("POST /large HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let piece = format!("258\r\n{}\r\n", "x".repeat(600));
    client.send(piece.repeat(2));
    assert_eq!(client.read().status(), 413);
    assert_eq!(record_of(&sluice, "/large")["reason"], "http.body_too_large");
}

#[test]
fn a_guest_responds_itself() {
    let origin = Origin::start("o");
    let module = guest(
        r#"
request_headers
(call $respond (i32.const 403) "not you\n")
(return (i32.const 1))
response_headers
(call $add (i32.const 2) "x-after" "1")
"#,
    );
    let sluice = start(&origin, &module, "");
    let answer = get(&sluice, "/closed");
    assert_eq!((answer.status(), answer.text().as_str()), (403, "not you\n"), "{answer:?}");
    assert_eq!((answer.value("content-type"), answer.value("x-after")), ("text/plain", "1"));
    let record = record_of(&sluice, "/closed");
    assert_eq!((&record["reason"], &record["filter"]), (&"http.local".into(), &"wasm".into()));
    assert!(origin.requests().is_empty());
}

/// Calls `side` with the headers of the request, and goes on with the status of the response.
const CALLER: &str = r#"
(global $token (mut i32) (i32.const 0))
(func $pairs (param $map i32) (result i32)
  (drop (call $get_header_map_pairs (local.get $map) (i32.const 16) (i32.const 20)))
  (call $taken (i32.const 0)))
request_headers
(drop (call $get (i32.const 0) ":path"))
(if (call $is "/from") (then (return (i32.const 0))))
(drop (call $pairs (i32.const 0)))
(call $tell "x-sent" (call $http_call "side" (global.get $at) (global.get $len) "asked" (i32.const 0) (i32.const 0) (i32.const 5000) (i32.const 24)))
(call $tell "x-unknown" (call $http_call "other" (global.get $at) (global.get $len) "" (i32.const 0) (i32.const 0) (i32.const 5000) (i32.const 28)))
(call $tell "x-empty" (call $http_call "side" (i32.const 0) (i32.const 0) "" (i32.const 0) (i32.const 0) (i32.const 5000) (i32.const 28)))
(return (i32.const 1))
http_call_response
(if (i32.eqz (local.get $headers)) (then (call $respond (i32.const 502) "no answer\n") (return)))
(drop (call $get (i32.const 6) ":status"))
(call $say "x-called")
(call $tell "x-size" (local.get $size))
(drop (call $buffer (i32.const 4) (i32.const 0) (i32.const 4)))
(call $say "x-body")
(drop (call $continue_stream (i32.const 0)))
"#;

#[test]
fn clusters_are_called() {
    let origin = Origin::start("o");
    let sluice = start(&origin, &guest(CALLER), ", clusters: [side]");
    let answer = get(&sluice, "/bytes/7");
    assert_eq!(answer.status(), 200, "{answer:?} {:?}", record_of(&sluice, "/bytes/7"));
    let requests = origin.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    let called = requests.iter().find(|seen| seen.text() == "asked").unwrap();
    assert_eq!(called.value("host"), "a.test");
    let seen = requests.iter().find(|seen| seen.text() != "asked").unwrap();
    assert_eq!((seen.value("x-sent"), seen.value("x-called")), ("0", "200"), "{seen:?}");
    assert_eq!((seen.value("x-unknown"), seen.value("x-empty")), ("2", "2"), "{seen:?}");
    assert_eq!(seen.value("x-size"), "7");
    assert!(record_of(&sluice, "/bytes/7")["calls"].to_string().contains("side 200"));
}

#[test]
fn what_a_guest_knows_and_shares() {
    let origin = Origin::start("o");
    let module = guest(
        r#"
(global $cas (mut i32) (i32.const 0))
configure
(drop (call $buffer (i32.const 7) (i32.const 0) (i32.const 100)))
(drop (call $set_shared_data "config" (global.get $at) (global.get $len) (i32.const 0)))
(drop (call $define_metric (i32.const 0) "asked" (i32.const 32)))
(drop (call $define_metric (i32.const 1) "level" (i32.const 36)))
request_headers
(drop (call $property "request\0path"))
(call $say "x-path")
(drop (call $property "request\0headers\0x-one"))
(call $say "x-header")
(drop (call $property "plugin_name"))
(call $say "x-name")
(call $tell "x-none" (call $property "no\0such"))
(drop (call $set_property "app\0who" "ann"))
(drop (call $taken (call $get_shared_data "config" (i32.const 16) (i32.const 20) (i32.const 24))))
(call $say "x-config")
(call $tell "x-stale" (call $set_shared_data "config" "x" (i32.const 9999)))
(drop (call $increment_metric (i32.load (i32.const 32)) (i64.const 2)))
(drop (call $record_metric (i32.load (i32.const 36)) (i64.const 7)))
(drop (call $get_metric (i32.load (i32.const 32)) (i32.const 40)))
(call $tell "x-asked" (i32.load (i32.const 40)))
(call $tell "x-metric" (call $increment_metric (i32.const 9999) (i64.const 1)))
(call $tell "x-grpc" (call $grpc_cancel (i32.const 1)))
response_headers
(drop (call $property "app\0who"))
(call $say "x-who")
(drop (call $property "response\0code"))
(call $tell "x-code" (i32.load (global.get $at)))
"#,
    );
    let sluice = start(&origin, &module, ", name: knower, config: { tier: gold }");
    let answer = get(&sluice, "/facts");
    assert_eq!((answer.value("x-who"), answer.value("x-code")), ("ann", "200"), "{answer:?}");
    let seen = seen(&origin, "/facts");
    for (name, value) in [
        ("x-path", "/facts"),
        ("x-header", "1"),
        ("x-name", "knower"),
        ("x-none", "1"),
        ("x-config", "{\"tier\":\"gold\"}"),
        ("x-stale", "8"),
        ("x-asked", "2"),
        ("x-metric", "1"),
        ("x-grpc", "1"),
    ] {
        assert_eq!(seen.value(name), value, "{name}: {seen:?}");
    }
    assert_eq!(record_of(&sluice, "/facts")["who"], "ann");
    let counted = || sluice.metric("sluice_wasm_counts_total", "name=\"asked\"") == 2;
    wait::until("the counter", || counted().then_some(()));
    assert_eq!(sluice.metric("sluice_wasm_gauges", "name=\"level\""), 7);
}

#[test]
fn a_guest_is_called_by_the_clock_and_by_queues() {
    let origin = Origin::start("o");
    let module = guest(
        r#"
(global $ticks (mut i32) (i32.const 0))
(global $filled (mut i32) (i32.const 0))
configure
(drop (call $register_shared_queue "jobs" (i32.const 32)))
(drop (call $set_tick_period_milliseconds (i32.const 1)))
tick
(global.set $ticks (i32.add (global.get $ticks) (i32.const 1)))
(if (i32.eq (global.get $ticks) (i32.const 3)) (then
  (drop (call $set_tick_period_milliseconds (i32.const 0)))
  (drop (call $enqueue_shared_queue (i32.load (i32.const 32)) "job"))))
queue_ready
(drop (call $taken (call $dequeue_shared_queue (local.get $queue) (i32.const 16) (i32.const 20))))
(global.set $filled (i32.add (global.get $filled) (global.get $len)))
request_headers
(call $tell "x-ticks" (global.get $ticks))
(call $tell "x-filled" (global.get $filled))
(call $tell "x-empty" (call $dequeue_shared_queue (i32.load (i32.const 32)) (i32.const 16) (i32.const 20)))
(call $tell "x-unknown" (call $enqueue_shared_queue (i32.const 77) "job"))
"#,
    );
    let sluice = start(&origin, &module, "");
    wait::until("the entry of the queue", || {
        get(&sluice, "/");
        let requests = origin.requests();
        (requests.last().unwrap().value("x-filled") == "3").then_some(())
    });
    let seen = origin.requests().pop().unwrap();
    assert_eq!((seen.value("x-ticks"), seen.value("x-empty")), ("3", "7"), "{seen:?}");
    assert_eq!(seen.value("x-unknown"), "1");
}

#[test]
fn rules_configure_a_guest_or_leave_it_out() {
    let origin = Origin::start("o");
    let module = guest(
        r#"
request_headers
(drop (call $buffer (i32.const 7) (i32.const 0) (i32.const 100)))
(call $say "x-config")
"#,
    );
    let rules = "        - { name: off, match: { path: /off }, cluster: up, filters: { wasm: skip } }\n        \
                 - { name: own, match: { path: /own }, cluster: up, filters: { wasm: { config: own } } }\n";
    let sluice = start_in(kit(), &origin, &module, ", config: chain", rules);
    for (path, config) in [("/", "chain"), ("/own", "own"), ("/off", "")] {
        assert_eq!(get(&sluice, path).status(), 200);
        assert_eq!(seen(&origin, path).value("x-config"), config, "{path}");
    }
}

#[test]
fn a_file_is_read_again_when_it_changes() {
    let origin = Origin::start("o");
    let kit = kit().watching().expect_warning("guest.wasm");
    let path = kit.folder().join("guest.wasm");
    let tag = |value: &str| {
        guest(&format!("request_headers\n(call $add (i32.const 0) \"x-tag\" \"{value}\")\n"))
    };
    let place = |content: &[u8]| {
        std::fs::write(path.with_extension("new"), content).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
    };
    place(&tag("one"));
    let sluice = kit.start(&config(&origin, "file: guest.wasm", ""));
    let seen = || {
        get(&sluice, "/");
        origin.requests().last().unwrap().value("x-tag").to_owned()
    };
    assert_eq!(seen(), "one");
    place(&tag("two"));
    wait::until("the new module", || (seen() == "two").then_some(()));
    // One that cannot be used leaves the last one in use.
    place(b"\0asm nothing");
    wait::until("the error", || sluice.log().contains("guest.wasm").then_some(()));
    assert_eq!(seen(), "two");
}

/// Does by the path what no guest should.
const HOSTILE: &str = r#"
(global $path (mut i32) (i32.const 0))
(func $deep (param $n i32) (result i32) (i32.add (i32.const 1) (call $deep (i32.add (local.get $n) (i32.const 1)))))
(func $grow (loop $more (br_if $more (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) (unreachable))
request_headers
(drop (call $get (i32.const 0) ":path"))
(if (call $is "/loop") (then (loop $ever (br $ever))))
(if (call $is "/deep") (then (drop (call $deep (i32.const 0)))))
(if (call $is "/grow") (then (call $grow)))
(if (call $is "/memory") (then (i32.store (i32.const 0x7fffffff) (i32.const 1))))
(if (call $is "/trap") (then (unreachable)))
(if (call $is "/pointers") (then
  (call $tell "x-name" (call $get_header_map_value (i32.const 0) (i32.const -1) (i32.const 4) (i32.const 16) (i32.const 20)))
  (call $tell "x-length" (call $get_header_map_value (i32.const 0) (i32.const 16) (i32.const -1) (i32.const 16) (i32.const 20)))
  (call $tell "x-result" (call $get_header_map_value (i32.const 0) ":path" (i32.const -4) (i32.const 20)))
  (call $tell "x-pairs" (call $set_header_map_pairs (i32.const 0) (i32.const 0x00fffff0) (i32.const 64)))
  (call $tell "x-log" (call $log (i32.const 2) (i32.const 0x7fffffff) (i32.const 0x7fffffff)))
  (call $tell "x-level" (call $log (i32.const 77) (i32.const 0) (i32.const 0)))
  (call $tell "x-context" (call $set_effective_context (i32.const 4711)))
  (call $tell "x-body" (call $get_buffer_bytes (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 16) (i32.const 20)))
  (call $tell "x-range" (call $get_buffer_bytes (i32.const 7) (i32.const -1) (i32.const -1) (i32.const 16) (i32.const 20)))))
request_body
(drop (call $get (i32.const 0) ":path"))
(if (call $is "/body") (then (unreachable)))
response_headers
(drop (call $get (i32.const 0) ":path"))
(if (call $is "/response") (then (unreachable)))
log
(drop (call $get (i32.const 0) ":path"))
(if (call $is "/over") (then (unreachable)))
"#;

#[test]
fn a_bad_guest_costs_its_own_requests_only() {
    let origin = Origin::start("o");
    let sluice = start(&origin, &guest(HOSTILE), ", cpu: 50ms, memory: 4MiB, restart: 1ms");
    let fine = |after: &str| {
        // The instance is replaced after a millisecond, then two, and so on.
        wait::until("another instance", || (get(&sluice, "/fine").status() == 200).then_some(()));
        assert_eq!(get(&sluice, "/fine").status(), 200, "after {after}");
    };
    let answer = get(&sluice, "/pointers");
    assert_eq!(answer.status(), 200, "{answer:?}");
    let got = seen(&origin, "/pointers");
    for (name, status) in [
        ("x-name", "6"),
        ("x-length", "6"),
        ("x-result", "6"),
        ("x-pairs", "6"),
        ("x-log", "6"),
        ("x-level", "2"),
        ("x-context", "2"),
        ("x-body", "1"),
        ("x-range", "2"),
    ] {
        assert_eq!(got.value(name), status, "{name}: {got:?}");
    }
    for (path, reason, why) in [
        ("/loop", "wasm.budget", "proxy_on_request_headers: it used up its processor time"),
        ("/deep", "wasm.trap", "call stack exhausted in deep"),
        ("/grow", "wasm.trap", "it asked for more than 4194304 bytes of memory"),
        ("/memory", "wasm.trap", "out of bounds memory access"),
        ("/trap", "wasm.trap", "wasm_error[guest: proxy_on_request_headers: "),
        ("/response", "wasm.trap", "proxy_on_response_headers: "),
    ] {
        let answer = get(&sluice, path);
        assert_eq!((answer.status(), answer.text().as_str()), (503, ""), "{path}: {answer:?}");
        let record = record_of(&sluice, path);
        assert_eq!(record["reason"], reason, "{record}");
        assert_eq!(record["filter"], "wasm", "{record}");
        assert!(record["why"].as_str().unwrap().contains(why), "{record}");
        fine(path);
    }
    assert_eq!(post(&sluice, "/body", "hello").status(), 503);
    assert_eq!(record_of(&sluice, "/body")["reason"], "wasm.trap");
    fine("/body");
    // A trap at the end of a request costs nobody anything but the instance.
    assert_eq!(get(&sluice, "/over").status(), 200);
    fine("/over");
    let items = sluice.items("/filters");
    let item = items.iter().find(|item| item["filter"] == "wasm").unwrap();
    assert_eq!((&item["listener"], &item["name"]), (&"web".into(), &"guest".into()), "{item}");
    assert!(item["errors_wasm_trap"].as_u64() >= Some(5), "{item}");
    assert_eq!(item["errors_wasm_budget"], 1, "{item}");
    assert!(item["memory_bytes"].as_u64() >= Some(1 << 20), "{item}");
}

#[test]
fn a_failed_instance_is_replaced_later() {
    let origin = Origin::start("o");
    let sluice = start(&origin, &guest(HOSTILE), ", restart: 1h");
    assert_eq!(get(&sluice, "/fine").status(), 200);
    assert_eq!(get(&sluice, "/trap").status(), 503);
    assert_eq!(get(&sluice, "/next").status(), 503);
    let record = record_of(&sluice, "/next");
    assert_eq!(record["reason"], "wasm.down", "{record}");
    let why = record["why"].as_str().unwrap();
    assert!(why.contains("is not replaced yet: proxy_on_request_headers"), "{record}");
    assert_eq!(sluice.metric("sluice_wasm_failures_total", "reason=\"wasm.down\""), 1);
}

#[test]
fn requests_may_pass_without_their_guest() {
    let origin = Origin::start("o");
    let sluice = start(&origin, &guest(HOSTILE), ", on_error: continue, restart: 1h");
    for path in ["/trap", "/next"] {
        assert_eq!(get(&sluice, path).status(), 200);
        let record = record_of(&sluice, path);
        assert!(record["error"].as_str().unwrap().contains("proxy_on_request_headers"), "{record}");
    }
}

#[test]
fn what_guests_take_from_wasi() {
    let origin = Origin::start("o");
    let text = r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 512) "hello from wasi\n") (data (i32.const 600) "x-env")
      (data (i32.const 0) "\00\02\00\00\10\00\00\00")
      (func (export "proxy_abi_version_0_2_1"))
      (func (export "malloc") (param i32) (result i32) (i32.const 4096))
      (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
      (func (export "_initialize")
        (call $check (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
        (call $check (call $random (i32.const 1000) (i32.const 8)))
        (call $check (call $clock (i32.const 0) (i64.const 0) (i32.const 1008)))
        (call $check (i32.sub (call $close (i32.const 3)) (i32.const 8)))
        (call $check (i32.sub (call $random (i32.const -1) (i32.const 8)) (i32.const 21)))
        (call $check (call $sizes (i32.const 20) (i32.const 24)))
        (call $check (call $environ (i32.const 32) (i32.const 700))))
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (call $check (call $add (i32.const 0) (i32.const 600) (i32.const 5) (i32.load (i32.const 32)) (i32.sub (i32.load (i32.const 24)) (i32.const 1))))
        (call $exit (i32.const 3)) (i32.const 0)))"#;
    let sluice =
        start(&origin, &module(text), ", vm: { environment: { TIER: gold } }, on_error: continue");
    assert_eq!(get(&sluice, "/a").status(), 200);
    assert_eq!(seen(&origin, "/a").value("x-env"), "TIER=gold");
    let record = record_of(&sluice, "/a");
    assert!(
        record["error"].as_str().unwrap().contains("it ended itself with status 3"),
        "{record}"
    );
    assert!(sluice.log().contains("hello from wasi"));
}
