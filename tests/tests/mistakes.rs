//! Common mistakes in configurations: each is detected, and the output of `check` explains how to fix it.
//!
//! The pages in `tests/messages/` are the complete output; a page is a list of mistakes with a title each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use sluice_testkit::{Authority, Sluice};
use sluice_tests::messages::{check, out, sluice, snapshot};

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
fn of_values() {
    page(
        "mistakes-values",
        &[
            (
                "an endpoint is a URL",
                relay("").replace("[127.0.0.1:7002]", "[http://127.0.0.1:7002/x]"),
            ),
            (
                "an endpoint is a URL with TLS",
                relay("").replace("[127.0.0.1:7002]", "[https://a.test]"),
            ),
            ("an endpoint is a bare port", relay("").replace("[127.0.0.1:7002]", "[7002]")),
            ("an address is a bare port", relay("").replace("127.0.0.1:7001", "7001")),
            ("a port is too large", relay("").replace("127.0.0.1:7001", "127.0.0.1:99999")),
            ("an address is a name", relay("").replace("127.0.0.1:7001", "localhost:7001")),
            ("a space in a duration", relay("connect_timeout: 5 min")),
            ("a long word for a unit", relay("connect_timeout: 5min")),
            ("a time-out of zero", relay("connect_timeout: 0s")),
            ("an interval of zero", relay("health: { tcp: {}, interval: 0s }")),
            ("zero where none is meant", rule("cluster: up, timeout: { total: 0s }")),
            ("a limit of zero", relay("limits: { connections: 0 }")),
            (
                "a weight of zero",
                relay("").replace("[127.0.0.1:7002]", "[{ address: 127.0.0.1:7002, weight: 0 }]"),
            ),
            ("a share as a weight", rule("split: { up: 90%, ring: 10% }")),
            ("`true` for a section", relay("tls: true")),
            ("a variable", relay("").replace("127.0.0.1:7002", "\"${UPSTREAM}\"")),
            (
                "a variable that is text",
                rule("match: { headers: { x-key: \"${API_KEY}\" } }, cluster: up"),
            ),
            ("a method in lower case", rule("match: { method: get }, cluster: up")),
            ("an unknown scheme", rule("redirect: { scheme: htps }")),
            (
                "a window that stalls",
                relay("").replace("relay: up", "http: { routes: up, http2: { stream_window: 0 } }"),
            ),
            ("a status that is none", rule("cluster: up, retry: { statuses: [600] }")),
            ("a host with a path", rule("cluster: up, rewrite: { host: \"a.test/x\" }")),
            ("a bad regex", rule("match: { path: { regex: \"/a/(b\" } }, cluster: up")),
            (
                "a regex that anchors its beginning",
                rule("match: { path: { regex: \"^/a/\" } }, cluster: up"),
            ),
        ],
    );
}

#[test]
fn of_yaml_and_places() {
    page(
        "mistakes-places",
        &[
            ("a wrong indentation", "clusters:\n  up:\n    endpoints: [127.0.0.1:1]\n   balance: random\n".into()),
            ("a tab", "clusters:\n\tup: { endpoints: [127.0.0.1:1] }\n".into()),
            ("a variable without quotes", "clusters: { up: { endpoints: [${UP}] } }\n".into()),
            ("a star without quotes", "routes: { main: [{ hosts: * }] }\n".into()),
            (
                "a child that is not indented",
                "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    chains:\n      - match:\n        sni: a.test\n        relay: up\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
            (
                "HTTP in the match of a chain",
                "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    chains:\n      - { match: { path: /a }, relay: up }\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
            ("a field of another section", relay("trusted_hops: 1")),
            ("a misspelt field that must be there", relay("").replace("address: 127", "adress: 127")),
            ("a file of Envoy", "static_resources: { listeners: [] }\nadmin: { address: 127.0.0.1:9901 }\n".into()),
        ],
    );
}

#[test]
fn of_chains_and_listeners() {
    let chain = |chain: &str| {
        format!(
            "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    chains:\n      - {chain}\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ respond: {{}} }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: [127.0.0.1:7002] }} }}\n"
        )
    };
    page(
        "mistakes-chains",
        &[
            ("a server name and HTTP without TLS", chain("{ match: { sni: a.test }, http: main }")),
            ("HTTP on what is not HTTP", chain("{ match: { protocol: ssh }, http: main }")),
            (
                "TLS on what is in clear",
                chain("{ match: { protocol: http1 }, tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: main }"),
            ),
            ("two settings for one address", format!("admin: {{ address: 127.0.0.1:7001 }}\n{}", relay(""))),
            (
                "QUIC and UDP on one port",
                "listeners:\n  - { name: a, address: 127.0.0.1:7001, quic: true, tls: { certificates: [{ cert: a.pem, key: a.key }] }, http: main }\n  - { name: b, address: \"udp://127.0.0.1:7001\", relay: up }\nroutes: { main: [{ hosts: \"*\", rules: [{ respond: {} }] }] }\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
            ("an address of another machine", relay("").replace("127.0.0.1:7001", "192.0.2.1:7001")),
            ("a unix socket in no folder", relay("").replace("127.0.0.1:7001", "unix:///nowhere/at/all.sock")),
        ],
    );
}

#[test]
fn of_clusters() {
    let udp = |relay: &str, cluster: &str| {
        format!(
            "listeners: [{{ name: a, address: \"udp://127.0.0.1:7001\", relay: {relay} }}]\n\
             clusters: {{ up: {{ endpoints: [127.0.0.1:7002], {cluster} }} }}\n"
        )
    };
    page(
        "mistakes-clusters",
        &[
            (
                "settings of HTTP where connections are relayed",
                relay("reuse: { idle: 1 }\n    limits: { requests: 5 }"),
            ),
            (
                "an endpoint that is listed twice",
                relay("").replace("[127.0.0.1:7002]", "[127.0.0.1:7002, 127.0.0.1:7002]"),
            ),
            (
                "a check that is slower than its interval",
                relay("health: { tcp: {}, interval: 1s, timeout: 3s }"),
            ),
            ("UDP to a cluster with TLS", udp("up", "tls: { ca: ca.pem }")),
            ("UDP to a cluster with a PROXY header", udp("up", "send_proxy_protocol: v2")),
            ("UDP with what only connections have", udp("{ cluster: up, max_duration: 1h }", "")),
            (
                "UDP to a unix socket",
                udp("up", "").replace("[127.0.0.1:7002]", "[\"unix:///run/x.sock\"]"),
            ),
            (
                "a relay to a cluster of HTTP/3",
                relay("{ protocol: http3, tls: { ca: ca.pem } }")
                    .replace("{ protocol", "protocol")
                    .replace("ca.pem } }", "ca.pem }")
                    .replace("http3, tls", "http3\n    tls"),
            ),
            (
                "a PROXY header where a request names the cluster",
                rule("cluster_header: x-cluster")
                    .replace("[127.0.0.1:7002]", "[127.0.0.1:7002], send_proxy_protocol: v1"),
            ),
        ],
    );
}

#[test]
fn of_rules() {
    page(
        "mistakes-rules",
        &[
            ("a hash that nothing goes by", rule("cluster: up, hash: source_ip")),
            (
                "a time to live of what is no cookie",
                rule("cluster: ring, hash: { by: source_ip, ttl: 1h }"),
            ),
            ("a balancer without its hash", rule("cluster: ring")),
            ("a split of nothing", rule("split: { up: 0, ring: 0 }, hash: source_ip")),
            ("a share of nothing", rule("match: { runtime: { percent: 0% } }, cluster: up")),
            (
                "a filter that no chain has is left out",
                rule("cluster: up, filters: { buffer: skip }"),
            ),
            (
                "settings that do nothing",
                rule("respond: { status: 200 }, retry: { when: reset }, hash: source_ip"),
            ),
            (
                "two rules of one name",
                rule(
                    "name: x, match: { path: /a }, cluster: up }\n        - { name: x, cluster: up",
                ),
            ),
            (
                "a chain that replaces nothing",
                rule("cluster: up").replace(
                    "http: main",
                    "http: { routes: main, filters: [{ set_headers: { replace: true } }] }",
                ),
            ),
        ],
    );
}

#[test]
fn of_addresses_that_lead_back() {
    page(
        "mistakes-loops",
        &[
            ("a relay to itself", relay("").replace("7002", "7001")),
            ("a relay to itself on every address", relay("").replace("7002", "7001").replace("address: 127.0.0.1", "address: 0.0.0.0")),
            ("a relay to itself by name", relay("").replace("127.0.0.1:7002", "localhost:7001")),
            ("a relay of UDP to itself", relay("").replace("7002", "7001").replace("address: 127", "address: udp://127")),
            ("a rule to its own listener", rule("cluster: up").replace("7002", "7001")),
            ("a rule to its own listener with another path", rule("cluster: up, rewrite: { path: /b }").replace("7002", "7001")),
            (
                "two listeners that lead to each other",
                "listeners:\n  - { name: a, address: 127.0.0.1:7001, relay: b }\n  - { name: b, address: 127.0.0.1:7002, relay: a }\nclusters: { a: { endpoints: [127.0.0.1:7001] }, b: { endpoints: [127.0.0.1:7002] } }\n".into(),
            ),
        ],
    );
    // Not a loop: another transport, the address of another machine, a port of its own.
    let udp =
        relay("").replace("address: 127.0.0.1", "address: udp://127.0.0.1").replace("7002", "7001");
    let udp = format!("{udp}  tcp: {{ endpoints: [127.0.0.1:7001] }}\n").replace(
        "relay: up }]",
        "relay: other }, { name: t, address: 127.0.0.1:7003, relay: tcp }]",
    );
    let udp = udp.replace("  up:", "  other: { endpoints: [127.0.0.1:7009] }\n  up:");
    for yaml in [
        udp,
        relay("")
            .replace("7002", "7001")
            .replace("address: 127.0.0.1", "address: 0.0.0.0")
            .replace("[127.0.0.1", "[192.0.2.1"),
    ] {
        let (_, said) = check(&yaml);
        assert!(!said.contains("proxy-loop"), "{said}");
    }
    // A second pass may take another path.
    let own = relay("").replace("7002", "7001");
    for way in [
        "filters: [{ deny: [127.0.0.1] }], relay: up",
        "chains: [{ match: { source: 192.0.2.0/24 }, relay: up }]",
        "chains: [{ match: { transport: plain }, relay: up }, { relay: up }]",
    ] {
        let (code, said) = check(&own.replace("relay: up", way));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("warning[proxy-loop]"), "{said}");
    }
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
        ("match: { path: { regex: '/v1' } }, cluster: up", false),
    ] {
        let (_, said) = check(&rule(rule_of));
        assert_eq!(said.contains("half-anchored"), warned, "{rule_of}: {said}");
    }
    for (rule_of, warned) in [
        ("respond: { status: 200, body: 'let a = `${NAME}`' }", false),
        ("filters: [{ error_pages: { pages: { 5xx: '<p>${NAME}</p>' } } }], cluster: up", false),
        ("match: { path: '/${NAME}' }, cluster: up", true),
    ] {
        let (_, said) = check(&rule(rule_of));
        assert_eq!(said.contains("warning[variable]"), warned, "{rule_of}: {said}");
    }
}

#[test]
fn of_certificate_files() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("a", &["a.test"]);
    let at = |name: &str| folder.path().join(name);
    let pem = std::fs::read_to_string(at("a.pem")).unwrap();
    let lines: Vec<&str> = pem.lines().collect();
    std::fs::write(at("cut.pem"), lines[..lines.len() - 1].join("\n")).unwrap();
    std::fs::write(at("base.pem"), pem.replace(lines[2], "%%%%")).unwrap();
    std::fs::write(
        at("locked.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let mut text = String::new();
    for (title, cert, key) in [
        ("cert and key are swapped", "a.key", "a.pem"),
        ("a certificate where a key belongs", "a.pem", "a.pem"),
        ("a certificate that was cut short", "cut.pem", "a.key"),
        ("a certificate that is not Base64", "base.pem", "a.key"),
        ("an encrypted key", "a.pem", "locked.key"),
        ("a certificate that is missing", "none.pem", "a.key"),
    ] {
        let yaml = format!(
            "listeners: [{{ name: a, address: 127.0.0.1:7001, tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }}, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [127.0.0.1:7002] }} }}\n"
        );
        std::fs::write(at("sluice.yaml"), yaml).unwrap();
        let output = sluice(&["check", at("sluice.yaml").to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{title}");
        let shown = format!("{}/", folder.path().display());
        let _ = writeln!(text, "=== {title}\n\n{}", out(&output).replace(&shown, ""));
    }
    snapshot("mistakes-certificates", &text);
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
fn from_stdin(yaml: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(Sluice::binary());
    command.arg("check").args(more).arg("-").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), out(&output))
}

#[test]
fn check_reads_standard_input_and_can_fail_on_warnings() {
    let (code, said) = from_stdin(&relay(""), &[]);
    assert!(code == Some(0) && said.ends_with("-: usable; 0 errors, 0 warnings\n"), "{said}");
    let (code, said) = from_stdin(&relay("balance: maglef"), &[]);
    assert!(code == Some(3) && said.contains("<stdin>:5:14"), "{said}");
    let warned = relay("tls: { verify: none }");
    let (code, said) = from_stdin(&warned, &[]);
    assert!(code == Some(0) && said.contains("0 errors, 1 warning\n"), "{said}");
    let (code, said) = from_stdin(&warned, &["--strict"]);
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
