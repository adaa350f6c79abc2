//! Common mistakes in configurations: each is detected, and the output of `check` explains how to fix it.
//!
//! The pages in `tests/messages/` are the complete output; a page is a list of mistakes with a title each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sluice_testkit::{Authority, Sluice};
use sluice_tests::messages::{check, out, sluice, snapshot};

mod clusters;
mod filters;
mod listeners;
mod routes;
mod values;

/// A configuration with one relay; `more` goes into the cluster.
fn relay(more: &str) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:7001, relay: up }}]\n\
         clusters:\n  up:\n    endpoints: [127.0.0.1:7002]\n    {more}\n"
    )
}

/// A configuration with one rule.
fn rule(rule: &str) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:7001, http: main }}]\n\
         routes:\n  main:\n    - hosts: \"*\"\n      rules:\n        - {{ {rule} }}\n\
         clusters: {{ up: {{ endpoints: [127.0.0.1:7002] }}, ring: {{ endpoints: [127.0.0.1:7003], balance: maglev }} }}\n"
    )
}

/// A configuration with one rule, in which every cluster is used.
fn to_up(of: &str) -> String {
    rule(of).replace(", ring: { endpoints: [127.0.0.1:7003], balance: maglev }", "")
}

/// A configuration with one listener and a cluster.
fn listener(says: &str) -> String {
    relay("").replace("relay: up", says)
}

/// A configuration with one listener for datagrams.
fn flows(says: &str) -> String {
    listener(says).replace("address: 127", "address: udp://127")
}

/// A configuration with one listener and the routes `main`.
fn serving(says: &str) -> String {
    listener(says).replace("clusters:", "routes: { main: [{ cluster: up }] }\nclusters:")
}

/// A configuration with one listener that has QUIC.
fn quic(settings: &str) -> String {
    serving(&format!("{CERTIFICATE}, http: main, quic: {settings}"))
}

const CERTIFICATE: &str = "tls: { certificates: [{ cert: a.pem, key: a.key }] }";

/// A configuration with one chain.
fn chain(chain: &str) -> String {
    format!(
        "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    chains:\n      - {chain}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ respond: {{}} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [127.0.0.1:7002] }} }}\n"
    )
}

/// A configuration with one filter for HTTP.
fn http(filter: &str) -> String {
    let main = format!("http: {{ routes: main, filters: [{{ {filter} }}] }}");
    to_up("cluster: up").replace("http: main", &main)
}

/// A configuration with an access log.
fn log(settings: &str) -> String {
    beside(&format!("access_log: [{{ {settings} }}]"))
}

/// A configuration with one relay and another section.
fn beside(section: &str) -> String {
    format!("{section}\n{}", relay(""))
}

/// Checks that every mistake causes an error or a warning with a remedy in its message or help.
#[track_caller]
fn page(name: &str, mistakes: &[(&str, String)]) {
    let mut text = String::new();
    for (title, yaml) in mistakes {
        let (_, said) = check(yaml);
        assert!(
            !said.contains("usable; 0 errors, 0 warnings"),
            "{title}: nothing was found\n{yaml}\n{said}"
        );
        let _ = writeln!(text, "=== {title}\n\n{said}");
    }
    snapshot(name, &text);
}

#[test]
fn correct_configurations_cause_no_warning() {
    for (rule_of, warned) in [
        ("match: { path: { regex: '^/v1' } }, cluster: up", true),
        ("match: { path: { regex: '^/a\\.b' } }, cluster: up", true),
        ("match: { path: { regex: '^/v1\\.' } }, cluster: up", true),
        ("match: { path: { regex: '^/v[0-9]+/.+' } }, cluster: up", false),
        ("match: { path: { regex: '^/(a|b)' } }, cluster: up", false),
        ("match: { path: { regex: '^/v\\d' } }, cluster: up", false),
        ("match: { path: { regex: '(?i)/V\\w+\\b.*' } }, cluster: up", false),
        ("match: { path: { regex: '/v1' } }, cluster: up", false),
    ] {
        let (_, said) = check(&rule(rule_of));
        assert!(said.contains("0 errors"), "{rule_of}: {said}");
        assert_eq!(said.contains("half-anchored"), warned, "{rule_of}: {said}");
    }
    for (rule_of, expanded) in [
        ("respond: { status: 200, body: 'let a = `${NAME}`' }", false),
        ("filters: { error_pages: { pages: { 5xx: '<p>${NAME}</p>' } } }, cluster: up", false),
        ("match: { path: { regex: '/a${NAME}' } }, cluster: up", false),
        ("match: { headers: { x-a: { regex: '${NAME}' } } }, cluster: up", false),
        ("cluster: up, rewrite: { regex: { find: '/(?<NAME>.*)', replace: '/a${NAME}' } }", false),
        ("match: { path: '/${NAME}' }, cluster: up", true),
        ("match: { path: { regex: { env: NAME } } }, cluster: up", true),
        ("match: { path: '/$${NAME}' }, cluster: up", false),
    ] {
        let (_, said) = check(&rule(rule_of));
        assert_eq!(said.contains("error[unset-variable]"), expanded, "{rule_of}: {said}");
    }
}

/// The exit code and output of `check` for a path in a folder, with the folder name removed.
fn check_in(folder: &Path, path: &str) -> (Option<i32>, String) {
    let output = sluice(&["check", folder.join(path).to_str().unwrap()]);
    let shown = format!("{}/", folder.display());
    (output.status.code(), out(&output).replace(&shown, ""))
}

#[test]
fn many_errors_are_counted_and_cause_no_further_findings() {
    let listener =
        |n: usize| format!("  - {{ name: l{n}, address: 127.0.0.1:{}, relay: upp }}\n", 7000 + n);
    let listeners: String = (0..30).map(listener).collect();
    let yaml =
        format!("listeners:\n{listeners}clusters: {{ up: {{ endpoints: [127.0.0.1:1] }} }}\n");
    let (code, said) = check(&yaml);
    assert_eq!(code, Some(3));
    assert_eq!(said.matches("error[unknown-name]").count(), 20);
    assert!(
        said.contains("10 errors, 0 warnings not shown; `sluice check --all` shows them"),
        "{said}"
    );
    assert!(said.ends_with("not usable; 30 errors, 0 warnings\n"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    std::fs::write(&path, yaml).unwrap();
    let said = out(&sluice(&["check", "--all", path.to_str().unwrap()]));
    assert_eq!(said.matches("error[unknown-name]").count(), 30);
    assert!(!said.contains("unused-cluster"), "{said}");
}

/// The exit code and output of `check -` for a text.
fn from_stdin(yaml: &[u8], more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(Sluice::binary());
    command
        .args(["check", "--offline"])
        .args(more)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(yaml).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), out(&output))
}

#[test]
fn check_reads_standard_input_and_can_fail_on_warnings() {
    let (code, said) = from_stdin(relay("").as_bytes(), &[]);
    assert!(code == Some(0) && said.ends_with("-: usable; 0 errors, 0 warnings\n"), "{said}");
    let (code, said) = from_stdin(relay("balance: maglef").as_bytes(), &[]);
    assert!(code == Some(3) && said.contains("<stdin>:5:14"), "{said}");
    let warned = relay("tls: { verify: none }");
    let (code, said) = from_stdin(warned.as_bytes(), &[]);
    assert!(code == Some(0) && said.contains("0 errors, 1 warning\n"), "{said}");
    let (code, said) = from_stdin(warned.as_bytes(), &["--strict"]);
    assert!(code == Some(3) && said.contains("not usable; 0 errors, 1 warning\n"), "{said}");
}

#[test]
fn a_hash_has_short_forms_as_documented() {
    for hash in [
        "source_ip",
        "\"header:x-user\"",
        "[\"cookie:s\", source_ip]",
        "\"query:user\"",
        "{ by: \"cookie:s\", ttl: 0s }",
        "[{ by: \"cookie:s\" }, \"header:x-user\"]",
    ] {
        let (code, said) = check(
            &rule(&format!("cluster: ring, hash: {hash}"))
                .replace("up: { endpoints: [127.0.0.1:7002] }, ", ""),
        );
        assert!(code == Some(0) && said.contains("0 errors, 0 warnings"), "{hash}: {said}");
    }
}
