//! Libraries that do what they must not, watched by AddressSanitizer.
//!
//! The libraries are instrumented, and the sanitizer is loaded before everything else. It sees what libraries read and write, on
//! their heap and stacks, and what the C library does for them. It does not see the heap of Sluice, which has an allocator of its own:
//! what libraries are lent from there is checked by the tests of `sluice-sys`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_testkit::libraries::{address_sanitizer, compile_with};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, UdpServer, connect, read_to_end, udp_client};
use sluice_testkit::{Origin, Sluice, tools, wait};

const FLAGS: &[&str] = &["-fsanitize=address", "-fno-omit-frame-pointer", "-g"];

/// Leaks are those of objects that live as long as the process.
const OPTIONS: &str =
    "detect_leaks=0:halt_on_error=1:abort_on_error=1:detect_stack_use_after_return=1";

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("modules").join(name)
}

/// That errors are found at all: a library that reads behind its memory ends the process, with a report.
#[test]
fn the_sanitizer_sees_what_a_library_does() {
    let Some(sanitizer) = address_sanitizer() else { return };
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("wrong.c");
    std::fs::write(
        &text,
        "#include \"sluice_filter.h\"\n#include <stdlib.h>\n\
         static sluice_result config_new(sluice_config c, sluice_text f, sluice_text t, void **o) { (void)c, (void)f, (void)o; \
           volatile char *room = calloc(1, 8); return room[t.size] + 1; }\n\
         const sluice_module *sluice_module_init(const sluice_host *of) { (void)of;\n\
         static const sluice_module m = { .size = sizeof(sluice_module), .major = 1, .config_new = config_new }; return &m; }\n",
    )
    .unwrap();
    compile_with(&text, folder.path(), FLAGS).unwrap();
    let yaml = folder.path().join("sluice.yaml");
    std::fs::write(
        &yaml,
        "listeners: [{ address: 127.0.0.1:0, http: { routes: main, filters: [{ module: { library: libwrong.so, config: 0123456789 } }] } }]\n\
         routes: { main: [{ rules: [{ name: a, respond: { status: 200 } }] }] }\n",
    )
    .unwrap();
    let mut command = Command::new(Sluice::binary());
    command.args(["check", "--offline"]).arg(&yaml);
    command.env("LD_PRELOAD", &sanitizer).env("ASAN_OPTIONS", OPTIONS);
    let output = tools::run(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("AddressSanitizer: heap-buffer-overflow"), "{said}");
    assert!(!output.status.success());
}

/// What clients say to the filter of datagrams.
const DATAGRAMS: &[&str] = &[
    "arguments",
    "keep",
    "arguments",
    "part",
    "none",
    "large",
    "drop",
    "wait",
    "step",
    "fail",
    "close",
    "thread",
    "not back",
    "fail back",
];

#[test]
fn a_hostile_filter_corrupts_nothing() {
    let Some(sanitizer) = address_sanitizer() else { return };
    let kit = Sluice::new()
        .workers(2)
        .expect_warning("\"reason\":\"module.error\"")
        .expect_warning("balancer_pick chose endpoint")
        .expect_warning("the drain timeout has expired")
        .env("LD_PRELOAD", &sanitizer)
        .env("ASAN_OPTIONS", OPTIONS);
    compile_with(&source("hostile.c"), kit.folder(), FLAGS).unwrap();
    compile_with(&source("hostile_connection.c"), kit.folder(), FLAGS).unwrap();
    compile_with(&source("hostile_datagrams.c"), kit.folder(), FLAGS).unwrap();
    let (origin, echo, datagrams) = (Origin::start("o"), Server::echo(), UdpServer::echo(""));
    let yaml = format!(
        "listeners:\n  - {{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ module: {{ library: libhostile.so, clusters: [up, down] }} }}] }} }}\n\
         \x20 - {{ name: a, address: 127.0.0.1:0, filters: [{{ module: {{ library: libhostile_connection.so, config: wait }} }}], relay: echo }}\n\
         \x20 - {{ name: u, address: \"udp://127.0.0.1:0\", filters: [{{ module: {{ library: libhostile_datagrams.so }} }}], relay: datagrams }}\n\
         routes: {{ main: [{{ rules: [{{ name: rest, cluster: up }}] }}] }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n  down: {{ endpoints: [\"127.0.0.1:{}\"] }}\n  echo: {{ endpoints: [\"{}\"] }}\n  datagrams: {{ endpoints: [\"{}\"], balance: {{ module: {{ library: libhostile_datagrams.so, config: far }} }} }}\n\
         limits: {{ filter_wait_seconds: 1 }}\ndrain: {{ timeout: 100ms }}\n",
        origin.addr(),
        tools::free_port(),
        echo.addr(),
        datagrams.addr()
    );
    let sluice = kit.start(&yaml);
    let web = sluice.addr("web");
    // Every act, alone and beside others, whatever becomes of its request.
    const ACTS: &[&str] = &[
        "arguments",
        "keep",
        "kept",
        "thread",
        "flood",
        "call",
        "call-nobody",
        "call-twice",
        "step",
        "no-ticket",
        "no-response",
        "fail",
        "read",
        "buffer-in-body",
        "edit",
        "wait-in-body",
        "whole",
        "wait",
        "wait-and-buffer",
        "unused-ticket",
        "too-late",
        "replace",
        "cut",
        "fail-in-response",
    ];
    for round in 0..2 {
        std::thread::scope(|scope| {
            for act in ACTS {
                let asking = move || {
                    let mut client = Client::connect(web);
                    client.send(format!(
                        "POST /of-{act} HTTP/1.1\r\nHost: a\r\nX-Act: {act}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
                    ));
                    let _ = client.try_read();
                };
                if round == 0 {
                    asking();
                } else {
                    scope.spawn(asking);
                }
            }
        });
    }
    for said in [
        "arguments",
        "keep",
        "part",
        "wait",
        "no-ticket",
        "step",
        "respond",
        "fail",
        "close",
        "thread",
    ] {
        let mut client = connect(sluice.addr("a"));
        // The filter may have ended the connection at any of these; what counts is what the sanitizer says.
        let _ = std::io::Write::write_all(&mut client, said.as_bytes());
        let _ = client.shutdown(std::net::Shutdown::Write);
        let _ = read_to_end(&mut client);
    }
    let client = udp_client();
    client.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 64];
    for said in DATAGRAMS {
        client.send_to(said.as_bytes(), sluice.addr("u")).unwrap();
        // A flow that it ended takes with it what came at the same time; another begins.
        wait::until("an answer", || {
            client.send_to(b"after", sluice.addr("u")).unwrap();
            let answer = client.recv_from(&mut buffer);
            answer.is_ok_and(|(size, _)| buffer[..size] == *b"after").then_some(())
        });
    }
    let log = sluice.log();
    assert!(!log.contains("AddressSanitizer"), "{log}");
}
