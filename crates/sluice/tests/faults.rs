//! Provokes every reason that something ends with once; the observations form the page `docs/faults.md`.
//!
//! Owns: running the cases, the page, and the requirements on every case: its record names the cause and the place in
//! plain words, its reason has help, and a client learns nothing about what is behind Sluice. Refuses to know: how a fault is provoked;
//! the tables beside it do. Keeps: the page is what was observed, with volatile values masked; a reason of the closed
//! set without a case fails.
//!
//! `UPDATE=1` writes the page. An argument selects the cases whose name or reason contains it. Started with `run`, this
//! program is Sluice with three extra filters, for faults that no configuration can provoke.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use sluice_testkit::Sluice;

#[path = "faults/extensions.rs"]
mod extensions;
#[path = "faults/kit.rs"]
mod kit;
#[path = "faults/page.rs"]
mod page;

#[path = "faults/auth.rs"]
mod auth;
#[path = "faults/config.rs"]
mod config;
#[path = "faults/endpoints.rs"]
mod endpoints;
#[path = "faults/ends.rs"]
mod ends;
#[path = "faults/guests.rs"]
mod guests;
#[path = "faults/http.rs"]
mod http;
#[path = "faults/login.rs"]
mod login;
#[path = "faults/modules.rs"]
mod modules;
#[path = "faults/processing.rs"]
mod processing;
#[path = "faults/quic.rs"]
mod quic;
#[path = "faults/scripts.rs"]
mod scripts;
#[path = "faults/side_calls.rs"]
mod side_calls;
#[path = "faults/tcp.rs"]
mod tcp;
#[path = "faults/tls.rs"]
mod tls;
#[path = "faults/udp.rs"]
mod udp;
#[path = "faults/upstream_http.rs"]
mod upstream_http;
#[path = "faults/words.rs"]
mod words;

use kit::{Fault, Seen};

/// The cases by area, in the order of the page.
const AREAS: &[(&str, &[Fault])] = &[
    ("Connecting to endpoints", endpoints::CASES),
    ("Responses of endpoints", upstream_http::CASES),
    ("HTTP clients and routes", http::CASES),
    ("Authentication", auth::CASES),
    ("Logins", login::CASES),
    ("Services that filters ask", side_calls::CASES),
    ("External processing", processing::CASES),
    ("Scripts", scripts::CASES),
    ("Guests", guests::CASES),
    ("Loaded libraries", modules::CASES),
    ("TLS with clients", tls::CASES),
    ("Connections", tcp::CASES),
    ("UDP", udp::CASES),
    ("QUIC and HTTP/3", quic::CASES),
    ("Ordinary ends", ends::CASES),
    ("Configuration and process", config::CASES),
];

/// Cases that run in parallel.
const THREADS: usize = 4;

fn main() -> ExitCode {
    let word = std::env::args().nth(1).unwrap_or_default();
    if word == "run" {
        return extensions::main();
    }
    let word = if word.starts_with('-') { String::new() } else { word };
    let all = || AREAS.iter().flat_map(|(_, cases)| cases.iter());
    let chosen: Vec<&Fault> =
        all().filter(|fault| fault.name.contains(&word) || fault.reason.contains(&word)).collect();
    let reasons = reasons();
    let seen = run(&chosen);
    let mut wrong = judge(&chosen, &seen, &reasons);
    if chosen.len() == all().count() {
        let driven: BTreeSet<&str> = all().map(|fault| fault.reason).collect();
        let missing = reasons.keys().filter(|code| {
            // Some reasons are only reported for attempts.
            let attempted = |of_it: &Seen| of_it.attempted(code);
            !driven.contains(code.as_str()) && !seen.values().any(attempted)
        });
        wrong.extend(missing.map(|code| format!("no case brings about {code}")));
        let page = page::write(AREAS, &seen, &reasons);
        wrong.extend(page::compare(&page));
    } else {
        print(&page::write(AREAS, &seen, &reasons));
    }
    for line in &wrong {
        print(&format!("WRONG: {line}\n"));
    }
    ExitCode::from(u8::from(!wrong.is_empty()))
}

#[allow(clippy::print_stdout, reason = "a test without a harness says itself how it went")]
fn print(text: &str) {
    print!("{text}");
}

/// Every reason that the binary knows, with its help.
fn reasons() -> BTreeMap<String, String> {
    let mut command = Command::new(Sluice::binary());
    let output = command.args(["explain", "--reasons", "--format", "json"]).output().unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "code"), text(row, "help"))).collect()
}

/// The observations by case name; a case that panics is missing, and has printed the reason.
fn run(cases: &[&Fault]) -> BTreeMap<&'static str, Seen> {
    let (next, seen) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(fault) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if let Ok(of_it) = std::panic::catch_unwind(fault.inject) {
                        seen.lock().unwrap().insert(fault.name, of_it);
                    } else {
                        print(&format!("FAILED: {}\n", fault.name));
                    }
                }
            });
        }
    });
    seen.into_inner().unwrap()
}

/// What is wrong with the observations.
fn judge(
    cases: &[&Fault],
    seen: &BTreeMap<&'static str, Seen>,
    reasons: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut causes: BTreeMap<String, &str> = BTreeMap::new();
    for fault in cases {
        let mut say = |what: &str| wrong.push(format!("{}: {what}", fault.name));
        let Some(of_it) = seen.get(fault.name) else {
            say("the case failed");
            continue;
        };
        // The cause: no other fault looks the same.
        if let Some(other) = causes.insert(of_it.cause(), fault.name) {
            say(&format!("it reads as `{other}` does: {}", of_it.cause()));
        }
        // The place: the endpoint, listener, rule, file or setting.
        if of_it.places.is_empty() {
            say("the case names no place");
        }
        for place in of_it.places.iter().filter(|place| !of_it.text.contains(place.as_str())) {
            say(&format!("the record does not name {place}:\n{}", of_it.text));
        }
        // The next step.
        if !fault.reason.is_empty() {
            if of_it.reason() != fault.reason {
                say(&format!("the reason is {}, not {}", of_it.reason(), fault.reason));
            }
            match reasons.get(fault.reason) {
                None => say("its reason is not in `explain --reasons`"),
                Some(help) if !has_next_step(help) => say(&format!("no next step in: {help}")),
                Some(_) => {}
            }
            if of_it.metrics.is_empty() {
                say("no metric counts it");
            }
        }
        of_it.said().iter().filter_map(|said| words::wrong(said)).for_each(|what| say(&what));
        // A client must not learn what is behind Sluice.
        let inner = of_it.endpoints.iter().find(|inner| of_it.heard.contains(inner.as_str()));
        let words = ["certificate", "os error", "errno", "authority"];
        let inner = inner.map(String::as_str);
        if let Some(inner) =
            inner.or_else(|| words.into_iter().find(|word| of_it.heard.contains(word)))
        {
            say(&format!("the client hears `{inner}`: {}", of_it.heard));
        }
    }
    wrong
}

/// Whether a help text names something to check or change, or states that there is nothing to do.
fn has_next_step(help: &str) -> bool {
    let sentences = help.split_inclusive(['.', ';', '?']).count();
    let steps = [
        "raise",
        "lower",
        "set ",
        "check",
        "look",
        "see ",
        "fix",
        "add ",
        "report",
        "Nothing to do",
        "nothing to do",
        "use ",
        "allow",
        "list ",
        "correct",
        "send ",
        "configure",
        "remove",
        "is the",
        "does it",
        "ask ",
        "connect to",
    ];
    sentences > 1 && steps.iter().any(|step| help.to_lowercase().contains(&step.to_lowercase()))
}
