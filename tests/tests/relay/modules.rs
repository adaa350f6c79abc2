//! Connection filters of loaded libraries: the example in C++, and one that does what it must not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::Path;

use sluice_testkit::libraries::{compile, compile_text, example};
use sluice_testkit::peers::{Server, UdpServer, connect, exchange, read, read_to_end, udp_client};
use sluice_testkit::{Running, Sluice, wait};
use sluice_tests::messages::{out, sluice};

/// A listener `a` before an echo server, with these settings of `module`.
fn config(server: &Server, settings: &str) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, filters: [{{ module: {settings} }}], relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ reason: \"%REASON%\", listener: \"%LISTENER%\", \
           detail: \"%DETAIL%\", words: \"%VALUE(module.values.words)%\", seen: \"%VALUE(module.values.seen)%\" }} }} }}]\n",
        server.addr()
    )
}

fn kit_with(source: &Path) -> Option<Sluice> {
    let kit = Sluice::new().workers(1);
    compile(source, kit.folder())?;
    Some(kit)
}

/// Waits until a library has seen the end of all connections.
fn all_ended(sluice: &Running) {
    wait::until("the ends", || {
        (sluice.metric("sluice_module_connections_active", "") == 0).then_some(())
    });
}

#[test]
fn the_example_for_connections_in_cpp() {
    let Some(kit) = kit_with(&example("words.cpp")) else { return };
    let server = Server::greeter("SECRET of 4\n");
    let sluice = kit.start(&config(&server, "{ library: libwords.so, config: \"DROP,SECRET\" }"));
    let mut client = connect(sluice.addr("a"));
    assert_eq!(read(&mut client, 12), b"****** of 4\n");
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    // A word in two pieces.
    assert_eq!(exchange(&mut client, b"DR"), b"DR");
    client.write_all(b"OP TABLE").unwrap();
    let _ = read_to_end(&mut client);
    let record = sluice.record_of("module.closed");
    assert_eq!(record["detail"], "module[words: the client sent DROP]", "{record}");
    assert_eq!(record["words"], "2");
    let counted = "filter=\"words\",counter=\"found\"";
    assert_eq!(sluice.metric("sluice_module_counts_total", counted), 1);
    all_ended(&sluice);
}

/// A Sluice with the library that does what it must not.
fn hostile(text: &str, more: &str) -> Option<(Server, Running)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/hostile_connection.c");
    let kit = kit_with(&source)?.expect_warning("\"reason\":\"module.error\"");
    let server = Server::echo();
    let settings = format!("{{ library: libhostile_connection.so, config: {text}{more} }}");
    let sluice = kit.start(&config(&server, &settings));
    Some((server, sluice))
}

#[test]
fn what_cannot_be_done_with_a_connection_is_an_answer() {
    let Some((_server, sluice)) = hostile("bytes", "") else { return };
    let mut kept = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut kept, b"keep"), b"keep");
    let mut client = connect(sluice.addr("a"));
    // Bytes of which some replace all, on the same and on another thread.
    client.write_all(b"part").unwrap();
    assert_eq!(read(&mut client, 2), b"ar");
    client.write_all(b"thread").unwrap();
    assert_eq!(read(&mut client, 5), b"-2 -2");
    client.write_all(b"wait").unwrap();
    assert_eq!(read(&mut client, 6), b"waited");
    client.write_all(b"arguments").unwrap();
    let expected = "-1 -3 -3 -1 -4 -4 -1 1 0 -2 -2 -1 -4 -1 -2 -2 ";
    assert_eq!(read(&mut client, expected.len()), expected.as_bytes());
    drop((kept, client));
    all_ended(&sluice);
    assert_eq!(sluice.record_of("end.done")["seen"], "yes");
    // Each ended once, and nothing was at hand then.
    assert_eq!(sluice.metric("sluice_module_counts_total", "counter=\"ended\""), 2);
    assert_eq!(sluice.metric("sluice_module_stale_resumes_total", ""), 1);
}

#[test]
fn steps_that_are_none_of_a_connection_end_it() {
    let Some((_server, sluice)) = hostile("bytes", "") else { return };
    for (said, why) in [
        ("step", "connection_received returned 77, which is no step of a connection"),
        ("respond", "connection_received returned 1, which is no step of a connection"),
        ("no-ticket", "connection_received returned SLUICE_WAIT without a ticket"),
        ("fail", "connection_received returned SLUICE_FAIL"),
    ] {
        let mut client = connect(sluice.addr("a"));
        client.write_all(said.as_bytes()).unwrap();
        let _ = read_to_end(&mut client);
        let why = format!("module[hostile_connection: {why}]");
        let record = sluice.record(&why, |record| record["detail"] == why.as_str());
        assert_eq!(record["reason"], "module.error");
    }
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"close").unwrap();
    let _ = read_to_end(&mut client);
    assert_eq!(sluice.record_of("module.closed")["detail"], "module[hostile_connection: enough]");
    assert_eq!(sluice.metric("sluice_module_failures_total", ""), 4);
    all_ended(&sluice);
}

#[test]
fn a_connection_may_pass_in_spite_of_a_failure() {
    let Some((_server, sluice)) = hostile("bytes", ", on_error: continue") else { return };
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"step"), b"step");
    // The library sees nothing more of it.
    assert_eq!(exchange(&mut client, b"close"), b"close");
    assert_eq!(sluice.metric("sluice_module_failures_total", ""), 1);
}

#[test]
fn a_connection_is_refused_or_waits_before_it_is_served() {
    for (text, reason, detail) in [
        ("refuse", "module.closed", "not you"),
        ("step", "module.error", "connection_opened returned 5, which is no step of a connection"),
        ("none", "module.error", "connection_new returned 9"),
        ("wait and wait", "module.error", "connection_resumed returned SLUICE_WAIT"),
    ] {
        let Some((server, sluice)) = hostile(text, "") else { return };
        assert!(read_to_end(&mut connect(sluice.addr("a"))).1.is_empty(), "{text}");
        let record = sluice.record_of(reason);
        assert!(record["detail"].as_str().unwrap().contains(detail), "{record}");
        assert_eq!(server.accepted(), 0);
        all_ended(&sluice);
    }
    let Some((_server, sluice)) = hostile("wait", "") else { return };
    assert_eq!(exchange(&mut connect(sluice.addr("a")), b"hello"), b"hello");
}

/// A library with these entries besides `config_new`.
fn with_entries(name: &str, entries: &str, folder: &Path) -> Option<()> {
    let text = format!(
        "#include \"sluice_filter.h\"\nstatic const sluice_host *host;\n\
         static sluice_result config_new(sluice_config c, sluice_text f, sluice_text t, void **o) {{ (void)c, (void)f, (void)t, (void)o; return 0; }}\n\
         static inline sluice_step step(sluice_connection c, void *o, void *s, int32_t n) {{ (void)o, (void)s, (void)n; \
           return host->connection_value_set(c, (sluice_text){{\"seen\", 4}}, (sluice_text){{\"udp\", 3}}); }}\n\
         const sluice_module *sluice_module_init(const sluice_host *of) {{ host = of;\n\
         static const sluice_module m = {{ .size = sizeof(sluice_module), .major = 1, .minor = 1, .config_new = config_new, {entries} }}; return &m; }}\n"
    );
    compile_text(name, &text, folder).map(drop)
}

#[test]
fn a_library_without_a_hook_for_bytes_serves_flows_too() {
    let kit = Sluice::new().workers(1).expect_warning("the drain timeout has expired");
    let Some(()) = with_entries("gate", ".connection_opened = step", kit.folder()) else { return };
    let server = UdpServer::echo("");
    let yaml = format!(
        "listeners: [{{ name: u, address: \"udp://127.0.0.1:0\", filters: [{{ module: {{ library: libgate.so }} }}], relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\ndrain: {{ timeout: 100ms }}\n",
        server.addr()
    );
    let sluice = kit.start(&yaml);
    let client = udp_client();
    client.send_to(b"hello", sluice.addr("u")).unwrap();
    let mut buffer = [0; 16];
    let (size, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..size], b"hello");
    assert_eq!(sluice.metric("sluice_module_connections_active", "filter=\"gate\""), 1);
}

#[test]
fn libraries_that_filter_no_connections_are_errors_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let Some(()) = with_entries("nothing", ".name = {\"n\", 1}", here) else { return };
    with_entries("bytes", ".connection_received = step", here).unwrap();
    let of_relay = |settings: &str| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0, filters: [{{ module: {settings} }}], relay: up }}]\nclusters: {{ up: {{ endpoints: [\"127.0.0.1:9\"] }} }}\n"
        )
    };
    let of_http = "listeners: [{ address: 127.0.0.1:0, filters: [{ module: { library: libbytes.so } }], http: { routes: main } }]\n\
                   routes: { main: [{ rules: [{ name: a, cluster: up }] }] }\nclusters: { up: { endpoints: [\"127.0.0.1:9\"] } }\n";
    for (text, expected) in [
        (of_relay("{ library: libnothing.so }"), "libnothing.so filters no connections"),
        (of_relay("{ library: libmissing.so }"), "cannot use libmissing.so: No such file"),
        (of_relay("{ config: a }"), "library"),
        (of_http.to_owned(), "the filter `module` is about bytes, which only a relay moves"),
    ] {
        let path = here.join("sluice.yaml");
        std::fs::write(&path, &text).unwrap();
        let output = sluice(&["check", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{text}: {}", out(&output));
        assert!(out(&output).contains(expected), "{text}: {}", out(&output));
    }
}
