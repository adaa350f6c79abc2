//! Loaded libraries as access logs: the examples in C++ and Rust, one that is slow, and one that takes nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use sluice_testkit::libraries::{compile, compile_text, example, rust_example};
use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Running, Sluice, tools, wait};
use sluice_tests::messages::{out, sluice};

/// A listener `web`, and an access log that is a library, beside the records of the kit.
fn config(origin: &Origin, library: &str, limits: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main }} }}]\n\
         routes: {{ main: [{{ rules: [{{ name: a, match: {{ path: /a/* }}, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         access_log:\n  - {{ sink: records.json }}\n  - {{ sink: {{ module: {library} }}, format: \"%RESPONSE_CODE% %PATH%\", kinds: request }}\n{limits}",
        origin.addr()
    )
}

fn get(sluice: &Running, path: &str) -> u16 {
    Client::connect(sluice.addr("web")).get("a.test", path).status()
}

#[test]
fn the_example_of_an_access_logger_in_cpp() {
    let kit = Sluice::new().workers(2);
    if compile(&example("tally.cpp"), kit.folder()).is_none() {
        return;
    }
    let (origin, folder) = (Origin::start("o"), tempfile::tempdir().unwrap());
    let file = folder.path().join("tally");
    let library = format!("{{ library: libtally.so, config: {} }}", file.display());
    let sluice = kit.start(&config(&origin, &library, ""));
    for path in ["/a/1", "/a/2", "/b"] {
        get(&sluice, path);
    }
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    wait::until("the counts", || (read() == "200 2\n404 1\n").then_some(()));
    // Of equal settings there is one object, which goes on counting.
    let yaml = config(&origin, &library, "").replace("name: a,", "name: b,");
    assert_eq!(sluice.reload(&yaml), "applied");
    assert_eq!(get(&sluice, "/a/3"), 200);
    // What was taken before the end is written before the end.
    drop(sluice);
    assert_eq!(read(), "200 3\n404 1\n");
}

#[test]
fn the_example_of_an_access_logger_in_rust() {
    let library = rust_example("spool");
    let (origin, folder) = (Origin::start("o"), tempfile::tempdir().unwrap());
    let file = folder.path().join("spool");
    let settings =
        |file: &Path| format!("{{ library: {}, config: {} }}", library.display(), file.display());
    let yaml = config(&origin, &settings(&file), "").replace(", kinds: request", "");
    let sluice = Sluice::new().workers(2).expect_warning("reload failed").start(&yaml);
    for path in ["/a/1", "/b"] {
        get(&sluice, path);
    }
    let read = || {
        let mut lines: Vec<String> =
            std::fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect();
        // Workers write in no order, and connections have no path.
        lines.retain(|line| line.starts_with("request "));
        lines.sort_unstable();
        lines
    };
    let expected = ["request 200 /a/1", "request 404 /b"];
    wait::until("the records", || (read() == expected).then_some(()));
    wait::until("the records of both connections", || {
        let all = std::fs::read_to_string(&file).unwrap_or_default();
        (all.lines().filter(|line| line.starts_with("connection ")).count() >= 2).then_some(())
    });
    let nowhere = folder.path().join("none/spool");
    assert_eq!(sluice.reload(&config(&origin, &settings(&nowhere), "")), "failed");
    let failure = sluice.items("/config")[0]["last_failure"].as_str().unwrap().to_owned();
    assert!(failure.contains("spool 1.0 refuses this configuration: cannot write"), "{failure}");
}

/// A library whose `record` has this body; `line` is the record.
fn logger(name: &str, body: &str, folder: &Path) -> Option<()> {
    let text = format!(
        "#include \"sluice_filter.h\"\n#include <fcntl.h>\n#include <string.h>\n#include <unistd.h>\n\
         static char fifo[256];\n\
         static sluice_result config_new(sluice_config c, sluice_text f, sluice_text t, void **o) {{ (void)c, (void)f, (void)o; \
           memcpy(fifo, t.data, t.size < 255 ? t.size : 255); return 0; }}\n\
         static sluice_result record(void *o, sluice_record kind, sluice_text line) {{ (void)o, (void)line; if (kind != SLUICE_RECORD_REQUEST) return 6; {body} }}\n\
         const sluice_module *sluice_module_init(const sluice_host *of) {{ (void)of;\n\
         static const sluice_module m = {{ .size = sizeof(sluice_module), .major = 1, .minor = 1, .config_new = config_new, .record = record }}; return &m; }}\n"
    );
    compile_text(name, &text, folder).map(drop)
}

fn unwritten(sluice: &Running) -> i64 {
    sluice.metric("sluice_process_log_records_unwritten_total", "")
}

#[test]
fn records_that_a_library_does_not_take_are_counted() {
    let kit = Sluice::new().workers(1).expect_warning("access log records are being lost");
    let Some(()) = logger("none", "return 5;", kit.folder()) else { return };
    let origin = Origin::start("o");
    let sluice = kit.start(&config(&origin, "{ library: libnone.so, config: a }", ""));
    // They are counted with the next record.
    wait::until("the count", || {
        get(&sluice, "/a/1");
        (unwritten(&sluice) > 1).then_some(())
    });
    assert_eq!(sluice.log().matches("record returned 5").count(), 1);
}

#[test]
fn a_slow_library_holds_up_neither_requests_nor_other_access_logs() {
    let kit = Sluice::new().workers(1);
    // It reads from a pipe that nobody writes to yet, once.
    let body =
        "static int opened; if (!opened) { opened = 1; close(open(fifo, O_RDONLY)); } return 0;";
    let Some(()) = logger("slow", body, kit.folder()) else { return };
    let fifo = kit.folder().join("fifo");
    if !tools::have(&["mkfifo"]) {
        return;
    }
    tools::must(Command::new("mkfifo").arg(&fifo));
    let origin = Origin::start("o");
    let library = format!("{{ library: libslow.so, config: {} }}", fifo.display());
    let limits = "limits: { logger_queue_records: 64 }\n";
    let sluice = kit.start(&config(&origin, &library, limits));
    let mut client = Client::connect(sluice.addr("web"));
    for number in 0..100 {
        assert_eq!(client.get("a.test", &format!("/a/{number}")).status(), 200);
    }
    wait::until("the records of the other log", || {
        let requests = |record: &&serde_json::Value| record["kind"] == "request";
        (sluice.records().iter().filter(requests).count() == 100).then_some(())
    });
    // One is with the library, 64 are in the queue, and the first may have left it before the others came.
    wait::until("those that did not fit", || {
        client.get("a.test", "/a/more");
        (unwritten(&sluice) >= 100 - 64 - 1).then_some(())
    });
    drop(std::fs::OpenOptions::new().write(true).open(&fifo).unwrap());
    assert_eq!(client.get("a.test", "/a/end").status(), 200);
}

#[test]
fn libraries_that_take_no_records_are_errors_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    if compile(&example("tag.c"), here).is_none() || compile(&example("tally.cpp"), here).is_none()
    {
        return;
    }
    let origin = Origin::start("o");
    for (library, expected) in [
        ("{ library: libtag.so, config: a }", "libtag.so takes no records"),
        ("{ library: libmissing.so }", "cannot use libmissing.so: No such file"),
        ("{ library: libtally.so }", "tally 1.0 refuses this configuration: the name of a file"),
        ("{ config: a }", "library"),
        ("{ library: libtally.so, body_max: 1 }", "body_max"),
    ] {
        let path = here.join("sluice.yaml");
        std::fs::write(&path, config(&origin, library, "")).unwrap();
        let output = sluice(&["check", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{library}: {}", out(&output));
        assert!(out(&output).contains(expected), "{library}: {}", out(&output));
    }
}
