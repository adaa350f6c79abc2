//! Mistakes of values, kinds, words of other proxies, and files.

use super::*;

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
            ("shares of less than everything", rule("split: { up: 90%, ring: 5% }")),
            ("shares of more than everything", rule("split: { up: 95%, ring: { weight: 10% } }")),
            ("a share and a weight", rule("split: { up: 95%, ring: 5 }")),
            ("a share that is no percentage", rule("split: { up: 99.5%, ring: 0.5% }")),
            ("`true` for a section that has no defaults", beside("admin: true")),
            ("`true` for certificates", relay("").replace("relay: up", "tls: true, relay: up")),
            (
                "a variable that is not set",
                relay("").replace("127.0.0.1:7002", "\"${UPSTREAM}:7002\""),
            ),
            (
                "a variable of a secret that is not set",
                rule("match: { headers: { x-key: { env: API_KEY } } }, cluster: up"),
            ),
            ("a variable without its closing brace", relay("connect_timeout: ${TIMEOUT")),
            ("a variable with a name that is none", relay("connect_timeout: ${time-out}")),
            ("a variable whose value is not valid", relay("connect_timeout: ${PATH}")),
            ("a variable whose value is not among the choices", relay("balance: { env: PATH }")),
            (
                "a variable that names no cluster",
                listener("relay: '${SLUICE_TEST_CLUSTER:-ghost}'"),
            ),
            ("a file of a secret that is missing", relay("connect_timeout: { file: timeout }")),
            ("a folder for a secret", relay("connect_timeout: { file: . }")),
            ("a method in lower case", rule("match: { method: get }, cluster: up")),
            ("an unknown scheme", rule("redirect: { scheme: htps }")),
            (
                "a window that stalls",
                relay("").replace("relay: up", "http: { routes: up, http2: { stream_window: 0 } }"),
            ),
            ("a status that is none", rule("cluster: up, retry: { statuses: [600] }")),
            (
                "a range of statuses from the end",
                rule("cluster: up, retry: { statuses: [504-500] }"),
            ),
            (
                "a suffix that is none of a host",
                rule("cluster: up, mirror: { cluster: up, host_suffix: /x }"),
            ),
            ("a mirror of a cluster that is unknown", rule("cluster: up, mirror: upp")),
            (
                "a relay with a jitter without a duration",
                relay("").replace("relay: up", "relay: { cluster: up, max_duration_jitter: 5% }"),
            ),
            ("a mirror of nothing", rule("cluster: up, mirror: { share: 5% }")),
            (
                "a mirror of a cluster and a header",
                rule("cluster: up, mirror: { cluster: up, cluster_header: x-to }"),
            ),
            ("a redirect that is none", rule("cluster: up, follow_redirects: { statuses: [304] }")),
            (
                "a copy of a header of the message",
                rule("cluster: up, follow_redirects: { copy_headers: host }"),
            ),
            (
                "a redirect to a rule that there is not",
                rule("name: a, cluster: up, follow_redirects: { routes: [a, b] }"),
            ),
            (
                "a longest wait without a header",
                rule("cluster: up, retry: { when: reset, reset_max: 1m }"),
            ),
            (
                "a jitter without an age",
                relay("").replace("relay: up", "http: { routes: up, max_age_jitter: 5% }"),
            ),
            (
                "a jitter without a time for the request",
                rule("cluster: up, timeout: { total_jitter: 5% }"),
            ),
            ("hedging without a time for an attempt", rule("cluster: up, retry: { hedge: true }")),
            (
                "hedging with one attempt",
                rule("cluster: up, timeout: { per_try: 1s }, retry: { hedge: true, attempts: 1 }"),
            ),
            ("a retry without a condition", rule("cluster: up, retry: { attempts: 3 }")),
            (
                "an unknown format",
                rule("cluster: up, retry: { when: reset, reset_headers: { name: a, format: ms } }"),
            ),
            ("a host with a path", rule("cluster: up, rewrite: { host: \"a.test/x\" }")),
            (
                "a host of a part that is none",
                rule("cluster: up, rewrite: { host_regex: { from: query, find: a, replace: b } }"),
            ),
            (
                "a host of a bad regex",
                rule("cluster: up, rewrite: { host_regex: { find: \"a(b\", replace: b } }"),
            ),
            (
                "two ways to a host",
                rule("cluster: up, rewrite: { host: a.test, host_regex: { find: a, replace: b } }"),
            ),
            (
                "an original that is not rewritten",
                rule("cluster: up, rewrite: { path: /a, originals: [path, host] }"),
            ),
            ("a bad regex", rule("match: { path: { regex: \"/a/(b\" } }, cluster: up")),
            (
                "a regex that anchors its beginning",
                rule("match: { path: { regex: \"^/a/\" } }, cluster: up"),
            ),
            (
                "a regex in any case",
                rule("match: { path: { regex: /a }, case_sensitive: false }, cluster: up"),
            ),
            ("any case of no path", rule("match: { case_sensitive: false }, cluster: up")),
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
fn of_quantities() {
    page(
        "mistakes-quantities",
        &[
            ("a duration that is empty", relay("connect_timeout: \"\"")),
            ("a unit of time that is not known", relay("connect_timeout: 500us")),
            ("a duration with its units the wrong way round", relay("connect_timeout: 30s1m")),
            ("a duration of more than a year", relay("connect_timeout: 400d")),
            ("a size that is a word", rule("cluster: up, retry: { when: reset, body: all }")),
            (
                "a size that no machine has",
                rule("cluster: up, retry: { when: reset, body: 99999999999GiB }"),
            ),
            (
                "a unit of size that is not known",
                rule("cluster: up, retry: { when: reset, body: 5x }"),
            ),
            (
                "a rate without a unit",
                listener("filters: [{ rate_limit: { connections: 500 } }], relay: up"),
            ),
            (
                "a rate per week",
                listener("filters: [{ rate_limit: { connections: 500/w } }], relay: up"),
            ),
            (
                "a rate of zero",
                listener("filters: [{ rate_limit: { connections: 0/s } }], relay: up"),
            ),
            ("a share without a percent sign", relay("outlier: { max_ejected: 10 }")),
            ("a number that is too large", chain("{ match: { port: 70000 }, relay: up }")),
            ("a number with a fraction", relay("connect_attempts: 2.5")),
            (
                "a word for true",
                relay("").replace("relay: up", "relay: up, socket: { keepalive: on }"),
            ),
            ("a word that is not among the choices", relay("balance: fastest")),
            ("look-ups in an interval of zero", relay("dns: { refresh: 0s }")),
            ("look-ups in an interval that is a word", relay("dns: { refresh: often }")),
            ("a limit that is a word", beside("limits: { worker_pipes: many }")),
            ("a limit that does not exist", beside("limits: { bananas: 5 }")),
            (
                "more bytes inspected than the limit allows",
                listener("inspect: { bytes: 32KiB }, relay: up"),
            ),
        ],
    );
}

#[test]
fn of_other_proxies_words() {
    let matched = |of: &str| to_up(&format!("match: {{ {of} }}, cluster: up"));
    page(
        "mistakes-other-words",
        &[
            (
                "a host and a port for an endpoint",
                relay("").replace("[127.0.0.1:7002]", "[{ host: 127.0.0.1, port: 7002 }]"),
            ),
            ("servers of a cluster", relay("").replace("endpoints:", "servers:")),
            ("HAProxy's leastconn", relay("balance: leastconn")),
            ("nginx's ip_hash", relay("balance: ip_hash")),
            ("a prefix of a path", matched("path_prefix: /api")),
            ("the host of a request", matched("host: a.test")),
            ("a URI", matched("uri: /a")),
            (
                "a list of routes",
                to_up("cluster: up")
                    .replace("  main:\n    - hosts: \"*\"\n      rules:\n        - {", "  - {"),
            ),
            (
                "a number of listeners",
                relay("").replace("[{ name: a, address: 127.0.0.1:7001, relay: up }]", "80"),
            ),
            ("a word for a map of TLS", relay("tls: [strict]")),
            (
                "a certificate among other fields",
                listener("tls: { cert: a.pem, min_version: 1.3 }, relay: up"),
            ),
            (
                "something like an IP address for a forward proxy",
                relay("").replace("endpoints: [127.0.0.1:7002]", "forward: { hosts: [10.0.0] }"),
            ),
            (
                "a runtime value that is no number",
                rule("split: { up: { weight: 1, runtime: a }, ring: 1 }")
                    + "runtime: { values: { a: lots } }\n",
            ),
            (
                "a runtime value that is no percentage",
                to_up("match: { runtime: { key: a, percent: 5% } }, cluster: up")
                    + "runtime: { values: { a: 150% } }\n",
            ),
        ],
    );
}

#[test]
fn of_kinds() {
    page(
        "mistakes-kinds",
        &[
            ("a map where a single value belongs", relay("connect_timeout: { seconds: 5 }")),
            ("a list where a single value belongs", relay("balance: [random]")),
            ("`false` for a section", relay("health: false")),
            ("a redirect to plain HTTP", listener("redirect: http")),
            ("a redirect with a path", listener("redirect: 'https://a.test/x'")),
            ("a redirect beside a relay", listener("redirect: https, relay: up")),
            ("a redirect to itself", listener("redirect: https, tls: a.pem")),
            ("a redirect of datagrams", flows("redirect: https")),
            (
                "a redirect whose routes have the name of others",
                listener("redirect: https") + "routes: { a.redirect: { cluster: up } }\n",
            ),
            ("a relay to nothing", listener("relay: {}")),
            ("a relay to no endpoints", listener("relay: []")),
            (
                "a relay to a cluster and endpoints",
                listener("relay: { cluster: up, endpoints: 127.0.0.1:7003 }"),
            ),
            (
                "a relay whose cluster has the name of another",
                listener("relay: 127.0.0.1:7003").replace("  up:", "  a.default:"),
            ),
            ("a relay to an address without a port", listener("relay: 10.0.0.1")),
            ("a relay to a list of clusters", listener("relay: [up]")),
            ("a relay to its own listener", listener("relay: 127.0.0.1:7001")),
            ("a relay to an endpoint twice", listener("relay: [127.0.0.1:7003, 127.0.0.1:7003]")),
            ("`false` for a section that `none` turns off", relay("outlier: false")),
            ("`false` for a check without settings", relay("health: { tcp: false }")),
            ("a single value for a section", relay("dns: ttl")),
            ("a list of clusters", "listeners: [{ name: a, address: 127.0.0.1:7001, relay: up }]\nclusters: [{ endpoints: [127.0.0.1:7002] }]\n".into()),
            ("settings of a check that has none", relay("health: { tls: { port: 80 } }")),
            ("a port in the wrong place", relay("health: { tcp: { port: 80 } }")),
            ("digits that are no bytes", relay("health: { tcp: { send: { hex: 0d0 } } }")),
            (
                "a factor with too many decimals",
                relay("outlier: { success_rate: { stdev_factor: 1.9001 } }"),
            ),
            ("nothing to expect", relay("health: { tcp: { expect: \"\" } }")),
            ("a range of statuses the wrong way round", relay("health: { http: { expect: 299-200 } }")),
            ("a name that is none", relay("health: { dns: a..b }")),
            ("a role that another server has", relay("health: { postgres: { user: a, role: replica } }")),
            ("a secret with fields", beside("secrets: { key: { text: s3cret } }")),
            ("an empty secret", beside("secrets: { key: \"\" }")),
            ("a list of limits", beside("limits: [worker_pipes]")),
            ("an empty path of a file", relay("tls: { ca: \"\" }")),
            ("runtime values in a list", beside("runtime: { values: [a] }")),
            ("a whole configuration that is a list", "- listeners: []\n".into()),
            ("a word where a choice belongs", relay("on_endpoint_removed: stop")),
            ("a cluster without endpoints", relay("").replace("    endpoints: [127.0.0.1:7002]\n", "")),
        ],
    );
}

#[test]
fn of_yaml() {
    page(
        "mistakes-yaml",
        &[
            ("two documents in one file", "admin: { address: 127.0.0.1:9901 }\n---\nlisteners: []\n".into()),
            ("brackets that are nested too deeply", "listeners: [{ name: a }]\n".replace("[{", &"[".repeat(70)).replace("}]", &"]".repeat(70))),
            ("an alias inside its own value", "clusters: &all { up: { endpoints: *all } }\n".into()),
            ("aliases that multiply", "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\n".into()),
            ("a list as a key", "clusters: { [a, b]: { endpoints: [127.0.0.1:7002] } }\n".into()),
            ("a merge with what is no map", "clusters: { up: { <<: slow, endpoints: [127.0.0.1:7002] } }\n".into()),
            ("two values without a comma", "clusters: { up: { endpoints: [{ address: a.test:80 } { address: b.test:80 }] } }\n".into()),
            ("a bracket of the wrong kind", "clusters: { up: { endpoints: [127.0.0.1:7002} } }\n".into()),
            ("a value with a colon and without quotes", "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    relay: up: down\n".into()),
        ],
    );
}

#[test]
fn of_formats() {
    page(
        "mistakes-formats",
        &[
            ("a format that does not exist", log("format: combined")),
            ("an operator that does not exist", log("format: \"%FOO%\"")),
            ("an operator that is not closed", log("format: \"%DURATION\"")),
            ("an operator without its argument", log("format: \"%REQ%\"")),
            (
                "an operator with an argument that it does not take",
                log("format: \"%DURATION(x)%\""),
            ),
            ("an operator with a length that is a word", log("format: \"%REQ(x-a):long%\"")),
            ("an operator whose parenthesis is not closed", log("format: \"%REQ(x-a%\"")),
            (
                "a field with the name of a built-in one",
                log("format: { json: { kind: \"%DURATION%\" } }"),
            ),
            ("fields in a list", log("format: { json: [a] }")),
            ("a format that is a list", log("format: [json]")),
            ("a log into a folder", log("sink: /tmp")),
        ],
    );
}

/// Names of files and what is in them.
type Files<'a> = &'a [(&'a str, &'a [u8])];

#[test]
fn of_files_and_folders() {
    let (used, up) = (relay(""), "clusters: { up: { endpoints: [127.0.0.1:7002] } }\n");
    let with_file = beside("runtime: { file: runtime }");
    let one = "listeners: { name: b, address: 127.0.0.1:7003, relay: up }\n";
    let (drain, again) = (beside("drain: { timeout: 5s }"), "drain: { timeout: 6s }\n");
    let mistakes: [(&str, &str, Files<'_>); 10] = [
        ("a file that is missing", "sluice.yaml", &[]),
        ("a folder without a configuration", "conf", &[("conf/README.md", b"")]),
        ("a file that is not text", "sluice.yaml", &[("sluice.yaml", b"admin: \xff\n")]),
        (
            "a file of a folder that is not text",
            "conf",
            &[("conf/a.yaml", used.as_bytes()), ("conf/b.yaml", b"admin: \xff\n")],
        ),
        (
            "a cluster in two files",
            "conf",
            &[("conf/a.yaml", used.as_bytes()), ("conf/b.yaml", up.as_bytes())],
        ),
        (
            "a section in two files",
            "conf",
            &[("conf/a.yaml", drain.as_bytes()), ("conf/b.yaml", again.as_bytes())],
        ),
        (
            "a list of listeners in one file and a single one in another",
            "conf",
            &[("conf/a.yaml", used.as_bytes()), ("conf/b.yaml", one.as_bytes())],
        ),
        ("runtime values in no file", "sluice.yaml", &[("sluice.yaml", with_file.as_bytes())]),
        (
            "a line that is no runtime value",
            "sluice.yaml",
            &[("sluice.yaml", with_file.as_bytes()), ("runtime", b"# shares\nbeta 5\n")],
        ),
        (
            "a runtime value that is set twice",
            "sluice.yaml",
            &[("sluice.yaml", with_file.as_bytes()), ("runtime", b"beta: 5\nbeta: 6\n")],
        ),
    ];
    let mut text = String::new();
    for (title, path, files) in mistakes {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        let (code, said) = check_in(folder.path(), path);
        assert_eq!(code, Some(3), "{title}: {said}");
        let _ = writeln!(text, "=== {title}\n\n{said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    let (_, said) = check_in(folder.path(), "sluice.yaml");
    let _ = writeln!(text, "=== a file that is far too large\n\n{said}");
    for (title, input) in [
        ("standard input that is far too large", File::open(&path).unwrap()),
        ("standard input that is a folder", File::open(folder.path()).unwrap()),
    ] {
        let mut command = Command::new(Sluice::binary());
        let output = command.args(["check", "-"]).stdin(input).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{title}");
        let _ = writeln!(text, "=== {title}\n\n{}", out(&output));
    }
    let (_, said) = from_stdin(b"admin: \xff\n", &[]);
    let _ = writeln!(text, "=== standard input that is not text\n\n{said}");
    snapshot("mistakes-files", &text);
}
