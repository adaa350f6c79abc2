//! Loaded libraries: the examples in C, C++ and Rust, one that does what it must not, and those that cannot be loaded.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use sluice_testkit::libraries::{compile, compile_text, example, rust_example};
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Running, Sluice, wait};
use sluice_tests::messages::{out, sluice};

/// A listener `web` with the filter `module`, whose settings these are, before the cluster `up`.
fn config(origin: &Origin, settings: &str, rules: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ module: {settings} }}] }} }}]\n\
         routes:\n  main:\n    - rules:\n{rules}        - {{ name: rest, cluster: up }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", status: \"%RESPONSE_CODE%\", \
           why: \"%RESPONSE_CODE_DETAILS%\", error: \"%VALUE(module.error)%\", user: \"%VALUE(module.values.user)%\", read: \"%VALUE(module.values.read)%\", tier: \"%VALUE(module.values.tier)%\" }} }} }}]\n",
        origin.addr()
    )
}

fn ask(sluice: &Running, request: &str) -> Message {
    Client::connect(sluice.addr("web")).ask(request)
}

fn get(sluice: &Running, path: &str, fields: &str) -> Message {
    ask(sluice, &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
}

fn post(sluice: &Running, path: &str, fields: &str, body: &str) -> Message {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Content-Length: {length}\r\n\r\n");
    ask(sluice, &(head + body))
}

fn record_of(sluice: &Running, path: &str) -> Value {
    sluice.record(path, |record| record["path"] == path)
}

/// What the log says of a configuration that a library refuses.
const REFUSES: &str = "reload failed";

#[track_caller]
fn failed_for(sluice: &Running, why: &str) {
    let failure = sluice.items("/config")[0]["last_failure"].as_str().unwrap().to_owned();
    assert!(failure.contains(why), "{failure}");
}

/// A kit with the library of a source beside its configuration.
fn kit_with(source: &Path) -> Option<Sluice> {
    let kit = Sluice::new().workers(1).expect_warning(REFUSES);
    compile(source, kit.folder())?;
    Some(kit)
}

#[test]
fn the_example_in_c() {
    let Some(kit) = kit_with(&example("tag.c")) else { return };
    let origin = Origin::start("o");
    let rules = "        - { name: plain, match: { path: /plain }, cluster: up, filters: { module: skip } }\n\
                 \x20       - { name: silver, match: { path: /silver }, cluster: up, filters: { module: { config: silver } } }\n";
    let sluice = kit.start(&config(&origin, "{ library: libtag.so, config: gold }", rules));
    let refused = get(&sluice, "/a", "");
    assert_eq!(
        (refused.status(), refused.values("x-tag"), refused.text().as_str()),
        (401, vec!["gold"], "who are you?\n")
    );
    let record = record_of(&sluice, "/a");
    assert_eq!(record["why"], "module_response[tag: no name]", "{record}");
    let tagged = get(&sluice, "/b", "X-User: ann\r\nX-Tag: mine\r\n");
    assert_eq!((tagged.status(), tagged.value("x-tag")), (200, "gold"));
    assert_eq!(origin.requests()[0].values("x-tag"), ["gold"]);
    assert_eq!(record_of(&sluice, "/b")["user"], "ann");
    // By rule.
    assert!(get(&sluice, "/plain", "").values("x-tag").is_empty());
    assert_eq!(get(&sluice, "/silver", "X-User: ann\r\n").value("x-tag"), "silver");
    let counted = "filter=\"tag\",counter=\"refused\"";
    assert_eq!(sluice.metric("sluice_module_counts_total", counted), 1);
    wait::until("the ends", || {
        (sluice.metric("sluice_module_requests_active", "filter=\"tag\"") == 0).then_some(())
    });
    assert_eq!(sluice.metric("sluice_http_filter_replies_total", "filter=\"module\""), 1);
}

#[test]
fn the_example_in_cpp() {
    let Some(kit) = kit_with(&example("mask.cpp")) else { return };
    let origin = Origin::start("o");
    let settings = "{ library: libmask.so, config: 12, body_max: 1KiB }";
    let sluice = kit.start(&config(&origin, settings, ""));
    let card = "card 4111111111111111, pin 12345678901";
    let masked = post(&sluice, "/a", "", card);
    assert!(masked.text().contains("card ************1111, pin 12345678901"), "{masked:?}");
    assert_eq!(masked.value("x-masked"), "1");
    assert_eq!(masked.value("content-length"), masked.body.len().to_string());
    // A body that is too large to be held becomes an error, never half of it.
    assert_eq!(get(&sluice, "/bytes/2000", "").status(), 500);
    assert_eq!(get(&sluice, "/chunked", "").text(), "hello world");
    let counted = "filter=\"mask\",counter=\"masked\"";
    assert_eq!(sluice.metric("sluice_module_counts_total", counted), 1);
    let wrong = config(&origin, &settings.replace("12", "twelve"), "");
    assert_eq!(sluice.reload(&wrong), "failed");
    failed_for(&sluice, "mask 1.0 refuses this configuration: a number of digits from 5 is needed");
}

#[test]
fn the_example_in_rust() {
    let library = rust_example("tier");
    let origin = Origin::start("o");
    let kit = Sluice::new().workers(2).expect_warning(REFUSES);
    std::fs::write(kit.folder().join("tiers"), "ann gold\nbob free\n").unwrap();
    let tiers = kit.folder().join("tiers");
    let settings = format!("{{ library: {}, config: \"{}\" }}", library.display(), tiers.display());
    let sluice = kit.start(&config(&origin, &settings, ""));
    for _ in 0..3 {
        assert_eq!(get(&sluice, "/a", "X-User: ann\r\n").status(), 200);
    }
    assert_eq!(get(&sluice, "/b", "X-User: bob\r\n").status(), 200);
    let refused = get(&sluice, "/c", "X-User: eve\r\n");
    assert_eq!((refused.status(), refused.value("x-tier")), (403, "none"));
    let tiers: Vec<String> =
        origin.requests().iter().map(|request| request.value("x-tier").to_owned()).collect();
    assert_eq!(tiers, ["gold", "gold", "gold", "free"]);
    assert_eq!(record_of(&sluice, "/b")["tier"], "free");
    assert_eq!(record_of(&sluice, "/c")["why"], "module_response[tier: no tier]");
    // Each was asked for once.
    let counted = "filter=\"tier\",counter=\"asked\"";
    assert_eq!(sluice.metric("sluice_module_counts_total", counted), 3);
    assert_eq!(sluice.metric("sluice_module_stale_resumes_total", ""), 0);
    let wrong = config(&origin, &settings.replace("tiers\"", "none\""), "");
    assert_eq!(sluice.reload(&wrong), "failed");
    failed_for(&sluice, "tier 1.0 refuses this configuration: cannot read");
}

/// A Sluice with the library that does what it must not, for requests that say what.
fn hostile(more: &str, limits: &str) -> Option<(Origin, Running)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/hostile.c");
    let kit = kit_with(&source)?.expect_warning("\"reason\":\"module.error\"");
    let origin = Origin::start("o");
    let yaml = config(&origin, &format!("{{ library: libhostile.so{more} }}"), "") + limits;
    let sluice = kit.start(&yaml);
    Some((origin, sluice))
}

fn act(sluice: &Running, act: &str) -> Message {
    get(sluice, &format!("/{act}"), &format!("X-Act: {act}\r\n"))
}

#[test]
fn what_cannot_be_done_is_an_answer() {
    let Some((_origin, sluice)) = hostile("", "") else { return };
    let codes = act(&sluice, "arguments").text();
    let codes: Vec<i32> = codes.split_whitespace().map(|code| code.parse().unwrap()).collect();
    let expected = [
        // Reading headers.
        -1, -4, -1, -1, 1, 1, 1, -2, -2, -1, -1, //
        // Changing them: those that frame or route, those that are none, those that are not at hand.
        -1, -1, -1, -1, -1, -1, -4, -6, -6, -6, -1, -1, -2, -1, -1, 1, //
        // Bodies and responses.
        -2, -2, -1, -1, -1, -4, -4, //
        // Values, facts, counters, waits, the log, a configuration.
        1, -1, -1, -4, -1, 1, -1, -1, -1, -1, -2, //
        // Calls, and connections, of which none is at hand.
        -1, -4, -4, -6, 1, -1, 1, -2, -2, -2,
    ];
    assert_eq!(codes, expected);
    // A handle of a request that has ended, and one on another thread.
    act(&sluice, "keep");
    assert_eq!(act(&sluice, "kept").text(), "-3 -3");
    assert_eq!(act(&sluice, "thread").text(), "-2 -2 0");
    wait::until("the line of the thread", || sluice.log().contains("from a thread").then_some(()));
    // The log and what is shared are bounded.
    let flood = act(&sluice, "flood").text();
    let lent = flood.strip_prefix("-4 ").unwrap();
    assert_eq!(lent.parse::<usize>().unwrap(), (1 << 20) / 40_000);
    wait::until("the end of the flood", || {
        sluice.log().contains("further lines of this hook are left out").then_some(())
    });
    assert_eq!(sluice.log().matches("again and again").count(), 99);
    // Every request ended once, and nothing was at hand then.
    let counted =
        |name| sluice.metric("sluice_module_counts_total", &format!("counter=\"{name}\""));
    wait::until("the ends", || ((counted("c0"), counted("c1")) == (5, 5)).then_some(()));
}

#[test]
fn steps_at_the_wrong_time_fail_their_request() {
    let Some((origin, sluice)) = hostile("", "") else { return };
    for (name, why) in [
        ("step", "request_headers returned 77, which is no step"),
        ("no-ticket", "request_headers returned SLUICE_WAIT without a ticket or a call"),
        ("no-response", "request_headers returned SLUICE_RESPOND without a response"),
        ("fail", "request_headers returned SLUICE_FAIL"),
        ("fail-in-response", "response_headers returned SLUICE_FAIL"),
    ] {
        assert_eq!(act(&sluice, name).status(), 500, "{name}");
        let record = record_of(&sluice, &format!("/{name}"));
        assert_eq!(record["reason"], "module.error", "{record}");
        assert_eq!(record["why"], format!("module_error[hostile: {why}]"));
    }
    let late = post(&sluice, "/late", "X-Act: buffer-in-body\r\n", "hello");
    assert_eq!(late.status(), 500);
    assert!(
        record_of(&sluice, "/late")["why"].as_str().unwrap().contains("only hooks for headers")
    );
    // A response whose headers were sent is cut off, by intent.
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /bytes/5 HTTP/1.1\r\nHost: a\r\nX-Act: cut\r\n\r\n");
    assert!(client.try_read().is_err());
    assert_eq!(record_of(&sluice, "/bytes/5")["reason"], "module.cut");
    // Nothing of the others is affected.
    assert_eq!(get(&sluice, "/other", "").status(), 200);
    assert_eq!(sluice.metric("sluice_module_failures_total", "filter=\"hostile\""), 6);
    wait::until("the ends", || {
        (sluice.metric("sluice_module_requests_active", "") == 0).then_some(())
    });
    drop(origin);
}

#[test]
fn a_request_may_pass_in_spite_of_a_failure() {
    let Some((origin, sluice)) = hostile(", on_error: continue", "") else { return };
    assert_eq!(act(&sluice, "step").status(), 200);
    assert_eq!(origin.requests().len(), 1);
    let record = record_of(&sluice, "/step");
    assert_eq!(record["error"], "request_headers returned 77, which is no step", "{record}");
    assert_eq!(sluice.metric("sluice_module_failures_total", "filter=\"hostile\""), 1);
}

#[test]
fn bodies_are_read_changed_and_held() {
    let Some((origin, sluice)) = hostile("", "") else { return };
    // To read: neither the body nor the headers can be changed.
    assert_eq!(post(&sluice, "/read", "X-Act: read\r\n", "hello").status(), 200);
    assert_eq!(record_of(&sluice, "/read")["read"], "-2 -2");
    assert_eq!(origin.requests()[0].text(), "hello");
    // To change, piece by piece, with trailers.
    let pieces = "POST /e HTTP/1.1\r\nHost: a\r\nX-Act: edit\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n";
    assert_eq!(ask(&sluice, pieces).status(), 200);
    let seen = &origin.requests()[1];
    assert_eq!(seen.text(), "ABCDEFG");
    assert!(seen.trailers.to_lowercase().contains("x-more: 7"), "{seen:?}");
    // Trailers may be added where there were none.
    assert_eq!(post(&sluice, "/e", "X-Act: edit\r\n", "abc").status(), 200);
    assert!(origin.requests()[2].trailers.to_lowercase().contains("x-more: none"));
    // Whole: the headers can still be changed, what is too large is refused.
    assert_eq!(post(&sluice, "/w", "X-Act: whole\r\n", "hello").status(), 200);
    let seen = &origin.requests()[3];
    assert_eq!((seen.text().as_str(), seen.value("x-said")), ("HELLO", "1 -4"));
    assert_eq!(ask(&sluice, &pieces.replace("edit", "whole")).status(), 200);
    let seen = &origin.requests()[4];
    assert_eq!((seen.text().as_str(), seen.value("x-said")), ("ABCDEFG", "0 -4"));
    assert!(seen.trailers.to_lowercase().contains("x-more: 7"), "{seen:?}");
    // A response in place of another.
    let teapot = act(&sluice, "replace");
    assert_eq!((teapot.status(), teapot.text().as_str()), (418, "a teapot\n"));
    assert_eq!(record_of(&sluice, "/replace")["why"], "module_response[hostile: it is]");
}

#[test]
fn waits_end_once_on_any_thread() {
    let Some((origin, sluice)) = hostile("", "") else { return };
    let stale = |sluice: &Running, count: i64| {
        wait::until("the stale calls to be counted", || {
            (sluice.metric("sluice_module_stale_resumes_total", "") == count).then_some(())
        });
    };
    assert_eq!(get(&sluice, "/a", "X-Act: wait\r\n").status(), 200);
    assert_eq!(origin.requests()[0].value("x-resumed"), "0");
    // The thread tells twice.
    stale(&sluice, 1);
    let waited = post(&sluice, "/b", "X-Act: wait-and-buffer\r\n", "hello");
    assert_eq!(waited.status(), 200);
    assert_eq!(origin.requests()[1].text(), "HELLO");
    stale(&sluice, 2);
    assert_eq!(post(&sluice, "/c", "X-Act: wait-in-body\r\n", "hello").status(), 200);
    assert_eq!(origin.requests()[2].text(), "waited");
    stale(&sluice, 3);
    // A ticket that no wait came of.
    assert_eq!(act(&sluice, "unused-ticket").status(), 200);
    assert_eq!(act(&sluice, "too-late").text(), "0");
    stale(&sluice, 4);
    // One that nobody uses in time, and then too late.
    let Some((_origin, late)) = hostile("", "limits: { filter_wait_seconds: 1 }\n") else { return };
    assert_eq!(act(&late, "forever").status(), 504);
    assert_eq!(record_of(&late, "/forever")["reason"], "filter.timeout");
    assert_eq!(act(&late, "too-late").text(), "0");
    stale(&late, 1);
    for sluice in [&sluice, &late] {
        wait::until("the ends", || {
            (sluice.metric("sluice_module_requests_active", "") == 0).then_some(())
        });
    }
}

/// A library that marks responses.
fn tagging(tag: &str) -> String {
    format!(
        "#include \"sluice_filter.h\"\nstatic const sluice_host *host;\n\
         static sluice_result config_new(sluice_config c, sluice_text f, sluice_text t, void **o) {{ (void)c, (void)f, (void)t, (void)o; return 0; }}\n\
         static sluice_step response_headers(sluice_request r, void *c, void *s, int32_t e) {{ (void)c, (void)s, (void)e;\n\
         host->header_add(r, SLUICE_RESPONSE_HEADERS, (sluice_text){{\"x-by\", 4}}, (sluice_text){{\"{tag}\", 3}}); return SLUICE_CONTINUE; }}\n\
         const sluice_module *sluice_module_init(const sluice_host *of) {{\n\
         static const sluice_module m = {{ .size = sizeof(sluice_module), .major = 1, .config_new = config_new, .response_headers = response_headers }};\n\
         host = of; return &m; }}\n"
    )
}

#[test]
fn another_library_takes_over_without_losing_a_request() {
    let kit = Sluice::new().workers(1);
    let Some(_) = compile_text("first", &tagging("one"), kit.folder()) else { return };
    compile_text("second", &tagging("two"), kit.folder()).unwrap();
    let origin = Origin::start("o");
    let sluice = kit.start(&config(&origin, "{ library: libfirst.so, name: by }", ""));
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("a", "/a").value("x-by"), "one");
    let mut waiting = Client::connect(sluice.addr("web"));
    waiting.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request to arrive", || (origin.requests().len() == 2).then_some(()));
    sluice.reload(&config(&origin, "{ library: libsecond.so, name: by }", ""));
    wait::until("the new library", || {
        (get(&sluice, "/b", "").value("x-by") == "two").then_some(())
    });
    // The request that was in flight ends with the library that saw it begin.
    origin.release();
    let waited = waiting.read();
    assert_eq!((waited.status(), waited.value("x-by")), (200, "one"));
}

#[test]
fn libraries_change_under_load_without_losing_a_request() {
    let kit = Sluice::new();
    let Some(_) = compile_text("first", &tagging("one"), kit.folder()) else { return };
    compile_text("second", &tagging("two"), kit.folder()).unwrap();
    let origin = Origin::start("o");
    let of =
        |library: &str| config(&origin, &format!("{{ library: lib{library}.so, name: by }}"), "");
    let sluice = kit.start(&of("first"));
    let address = sluice.addr("web");
    let (stop, seen) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // A connection keeps the configuration that it began with.
                    let mut client = Client::connect(address);
                    for _ in 0..5 {
                        let answer = client.get("a", "/bytes/100");
                        assert_eq!((answer.status(), answer.body.len()), (200, 100), "{answer:?}");
                        let by = ["one", "two"].iter().position(|tag| *tag == answer.value("x-by"));
                        seen[by.unwrap()].fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        // Ends the clients, too, when a turn fails.
        let turns = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for turn in 1..=6 {
                let (library, of_it) = [("first", &seen[0]), ("second", &seen[1])][turn % 2];
                sluice.reload(&of(library));
                let before = of_it.load(Ordering::SeqCst);
                wait::until("requests through the new library", || {
                    (of_it.load(Ordering::SeqCst) > before + 20).then_some(())
                });
            }
        }));
        stop.store(true, Ordering::SeqCst);
        turns.unwrap();
    });
}

#[test]
fn the_library_on_the_page() {
    let page = include_str!("../../../docs/modules.md");
    let text = page.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    let kit = Sluice::new();
    let Some(_) = compile_text("served-by", text, kit.folder()) else { return };
    let origin = Origin::start("o");
    let sluice = kit.start(&config(&origin, "{ library: libserved-by.so }", ""));
    assert_eq!(get(&sluice, "/", "").value("x-served-by"), "sluice");
}

/// What `check` says about a configuration with this filter, in a folder with these libraries.
fn said(folder: &Path, settings: &str, rules: &str) -> String {
    let origin = Origin::start("o");
    let path = folder.join("sluice.yaml");
    std::fs::write(&path, config(&origin, settings, rules)).unwrap();
    let output = sluice(&["check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{settings}: {}", out(&output));
    out(&output)
}

#[test]
fn libraries_that_cannot_be_used_are_errors_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/hostile.c");
    let Some(_) = compile(&source, here) else { return };
    let text = |table: &str| {
        format!(
            "#include \"sluice_filter.h\"\nconst sluice_module *sluice_module_init(const sluice_host *host) {{ (void)host; {table} }}\n"
        )
    };
    compile_text("none", "int nothing(void) { return 0; }\nint nothing(void);\n", here);
    compile_text("null", &text("return NULL;"), here).unwrap();
    let of =
        |fields: &str| text(&format!("static const sluice_module m = {{ {fields} }}; return &m;"));
    compile_text("next", &of(".size = sizeof m, .major = 2, .minor = 7"), here).unwrap();
    compile_text("empty", &of(".size = sizeof m, .major = 1"), here).unwrap();
    compile_text("small", &of(".size = 4, .major = 1"), here).unwrap();
    std::fs::write(here.join("text.so"), "no library").unwrap();
    for (settings, expected) in [
        ("{ library: libmissing.so }", "cannot use libmissing.so: No such file or directory"),
        ("{ library: text.so }", "text.so: file too short"),
        ("{ library: libnone.so }", "it does not export `sluice_module_init`"),
        ("{ library: libnull.so }", "it refuses version 1.2 of the interface"),
        ("{ library: libnext.so }", "it has version 2.7 of the interface, and this Sluice has 1.2"),
        ("{ library: libempty.so }", "its table of functions has no `config_new`"),
        ("{ library: libsmall.so }", "its table of functions has a size that cannot be right"),
        (
            "{ library: libhostile.so, config: refuse }",
            "hostile 1 refuses this configuration: not this",
        ),
        ("{ library: libhostile.so, config: silent }", "it does not say why; the log may"),
        ("{ config: gold }", "there is no `library`"),
        ("{ library: libhostile.so, on_error: ignore }", "on_error"),
        ("{ library: libhostile.so, configuration: a }", "configuration"),
    ] {
        let output = said(here, settings, "");
        assert!(output.contains(expected), "{settings}: {output}");
    }
    // Of a rule, which the library refuses together with what is around it.
    let rule = |settings: &str| {
        format!(
            "        - {{ name: a, match: {{ path: /a }}, cluster: up, filters: {{ module: {settings} }} }}\n"
        )
    };
    let output = said(here, "{ library: libhostile.so }", &rule("{ config: refuse }"));
    let expected = "a `config` that its library accepts, which says \"not this\",";
    assert!(output.contains(expected), "{output}");
}
