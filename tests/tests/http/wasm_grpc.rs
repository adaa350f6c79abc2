//! gRPC calls of guests in WebAssembly: who may be called, what arrives, and what is bounded.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;

use sluice_testkit::guests::guest;
use sluice_testkit::origin::{self, Origin};
use sluice_testkit::{Running, Sluice, tools, wait};

/// A gRPC server of Python, if there is one.
fn service() -> Option<(tools::Process, SocketAddr)> {
    if !tools::have_modules(&["grpc"]) {
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/grpc_server.py");
    Some(tools::serve_on_its_port(&mut tools::python(&script)))
}

/// A listener `web` with a guest that may call `side`, but not `other`.
fn start(up: &Origin, side: SocketAddr, functions: &str, settings: &str) -> Running {
    let kit = Sluice::new().workers(1).expect_warning("the cluster `other` is not used");
    std::fs::write(kit.folder().join("guest.wasm"), guest(functions)).unwrap();
    kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ wasm: {{ file: guest.wasm, clusters: [side]{settings} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n  side: {{ endpoints: [\"{side}\"], protocol: http2 }}\n  other: {{ endpoints: [\"{side}\"], protocol: http2 }}\n",
        up.addr()
    ))
}

#[test]
fn a_guest_calls_only_what_it_may() {
    let Some((_service, address)) = service() else { return };
    let origin = Origin::start("o");
    let functions = r#"
request_headers
(call $tell "x-other" (call $grpc_call "other" "t.Echo" "Unary" "" "" (i32.const 0) (i32.const 24)))
(call $tell "x-name" (call $grpc_call "side" "t Echo" "Unary" "" "" (i32.const 0) (i32.const 24)))
(call $tell "x-large" (call $grpc_call "side" "t.Echo" "Unary" "" (i32.const 0) (i32.const 2000) (i32.const 0) (i32.const 24)))
(call $tell "x-stream" (call $grpc_stream "side" "t.Echo" "Chat" "" (i32.const 24)))
(call $tell "x-full" (call $grpc_send (i32.load (i32.const 24)) (i32.const 0) (i32.const 2000) (i32.const 0)))
(call $tell "x-foreign" (call $grpc_send (i32.const 999999) "" (i32.const 0)))
(drop (call $grpc_cancel (i32.load (i32.const 24))))
"#;
    let sluice = start(&origin, address, functions, ", body_max: 1KiB");
    assert_eq!(origin::get(sluice.addr("web"), "h", "/a").status(), 200);
    let requests = origin.requests();
    let seen = requests.iter().find(|request| request.path() == "/a").unwrap();
    for (name, status) in [
        ("x-other", "4"),
        ("x-name", "2"),
        ("x-large", "2"),
        ("x-stream", "0"),
        ("x-full", "10"),
        ("x-foreign", "1"),
    ] {
        assert_eq!(seen.value(name), status, "{name}: {seen:?}");
    }
    for limit in ["body_max", "grpc"] {
        let labels = format!("limit=\"{limit}\"");
        wait::until(limit, || {
            (sluice.metric("sluice_wasm_limits_reached_total", &labels) == 1).then_some(())
        });
    }
}

#[test]
fn metadata_goes_both_ways_and_a_deadline_ends_a_call() {
    let Some((_service, address)) = service() else { return };
    let origin = Origin::start("o");
    let functions = r#"
request_headers
(drop (call $get (i32.const 0) ":path"))
(if (call $is "/late") (then
  (drop (call $grpc_call "side" "t.Echo" "Sleep" "" "" (i32.const 200) (i32.const 24)))
  (return (i32.const 1))))
(i32.store (i32.const 40000) (i32.const 1)) (i32.store (i32.const 40004) (i32.const 3)) (i32.store (i32.const 40008) (i32.const 2))
(memory.copy (i32.const 40012) "x-a") (i32.store8 (i32.const 40015) (i32.const 0))
(memory.copy (i32.const 40016) "hi") (i32.store8 (i32.const 40018) (i32.const 0))
(drop (call $grpc_stream "side" "t.Echo" "Chat" (i32.const 40000) (i32.const 19) (i32.const 24)))
(drop (call $grpc_send (i32.load (i32.const 24)) "one" (i32.const 1)))
(return (i32.const 1))
grpc_receive_initial_metadata
(drop (call $get (i32.const 4) "content-type"))
(call $say "x-type")
grpc_receive
(drop (call $buffer (i32.const 5) (i32.const 0) (local.get $size)))
(call $say "x-got")
grpc_receive_trailing_metadata
(drop (call $get (i32.const 5) "grpc-status"))
(call $say "x-trailing")
grpc_close
(call $tell "x-code" (local.get $status))
(drop (call $continue_stream (i32.const 0)))
"#;
    let sluice = start(&origin, address, functions, "");
    for path in ["/chat", "/late"] {
        assert_eq!(origin::get(sluice.addr("web"), "h", path).status(), 200);
    }
    let requests = origin.requests();
    let seen = |path: &str| requests.iter().find(|request| request.path() == path).unwrap();
    let chat = seen("/chat");
    for (name, value) in
        [("x-type", "application/grpc"), ("x-got", "one"), ("x-trailing", "0"), ("x-code", "0")]
    {
        assert_eq!(chat.value(name), value, "{name}: {chat:?}");
    }
    assert_eq!(seen("/late").value("x-code"), "4");
}
