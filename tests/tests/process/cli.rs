//! The command line: exit codes, messages, the demo.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_tests::messages::{check, out, sluice, snapshot};

#[test]
fn every_kind_of_bad_configuration_has_its_message() {
    let cases = [
        (
            "fields",
            "admin: { adress: 127.0.0.1:0 }\nlisteners: [{ name: a, address: 127.0.0.1:0, relay: up, conect: 1 }]\nclusters: { up: { endpoints: [127.0.0.1:1], connect_timeout: 5, balance: maglef } }\n",
        ),
        ("yaml", "listeners: [{ name: a\n"),
        (
            "duplicate-key",
            "clusters:\n  up: { endpoints: [127.0.0.1:1] }\n  up: { endpoints: [127.0.0.1:2] }\n",
        ),
        (
            "names",
            "listeners:\n  - { name: a, address: 127.0.0.1:7001, relay: upp, filters: [{ denny: [10.0.0.0/8] }] }\n  - { name: a, address: 127.0.0.1:7001, relay: up }\nclusters: { up: { endpoints: [127.0.0.1:1] } }\n",
        ),
        (
            "chains",
            "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    chains:\n      - { match: { sni: [a.test, b.test] }, relay: up }\n      - { match: { sni: b.test }, relay: up }\n      - { match: { protocol: redis, sni: c.test }, relay: up }\n      - { match: { port: 9 }, relay: up }\n      - { match: { protocol: ssh } }\nclusters: { up: { endpoints: [127.0.0.1:1] } }\n",
        ),
        (
            "files",
            "listeners:\n  - name: a\n    address: 127.0.0.1:7001\n    tls: { certificates: [{ cert: none.pem, key: none.key }] }\n    relay: up\nclusters: { up: { endpoints: [127.0.0.1:1], tls: { ca: none.pem } } }\naccess_log: [{ sink: nowhere/log, format: \"%DURATOIN%\" }]\n",
        ),
        (
            "values",
            "listeners: [{ name: \"a b\", address: localhost:80, relay: up, inspect: { bytes: 16KB, timeout: 1.5s } }]\nclusters: { up: { endpoints: [127.0.0.1, \"::1:80\"], connect_attempts: many } }\nlimits: { inspect_bytes: 1GiB, worker_pips: 5 }\n",
        ),
        // An error within a section does not hide errors between sections.
        (
            "together",
            "admin: { address: 127.0.0.1 }\ndrain: { timeout: soon }\nlisteners:\n  - { name: a, address: 127.0.0.1:7001, relay: nowhere }\n  - name: b\n    address: 127.0.0.1:7001\n    chains:\n      - { match: { sni: \"a b\" }, relay: up }\n      - { match: { port: 9999 }, relay: up }\n      - { relay: broken }\n      - { relay: other }\nclusters: { up: { endpoints: [127.0.0.1:1], connect_attempts: 0 }, broken: 5, other: { endpoints: [] } }\n",
        ),
        (
            "warnings",
            "admin: { address: 0.0.0.0:9901 }\nlisteners: [{ name: a, address: 127.0.0.1:7001, relay: { cluster: up, hash: source_ip } }]\nclusters: { up: { endpoints: [127.0.0.1:1], tls: { verify: none } }, spare: { endpoints: [127.0.0.1:2] } }\n",
        ),
    ];
    for (name, yaml) in cases {
        let (code, text) = check(yaml);
        assert_eq!(code, Some(if name == "warnings" { 0 } else { 3 }), "{name}: {text}");
        snapshot(name, &text);
    }
}

#[test]
fn chains_that_share_routes_but_differ_in_client_auth_cause_a_warning() {
    let (code, text) = check(
        r#"listeners:
  - name: edge
    address: 127.0.0.1:7001
    chains:
      - match: { sni: a.test }
        tls: { certificates: [{ cert: a.pem, key: a.key }] }
        http: main
      - match: { sni: b.test }
        tls: { certificates: [{ cert: b.pem, key: b.key }], client_auth: { ca: ca.pem } }
        http: main
routes: { main: [{ hosts: "*", rules: [{ respond: {} }] }] }
"#,
    );
    assert_eq!(code, Some(0), "{text}");
    snapshot("shared-routes", &text);
}

#[test]
fn a_certificate_that_does_not_match_its_key_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let authority = sluice_testkit::Authority::new(folder.path());
    authority.issue("one", &["a.test"]);
    authority.issue("two", &["a.test"]);
    let path = folder.path().join("sluice.yaml");
    std::fs::write(&path, "listeners: [{ name: a, address: 127.0.0.1:0, tls: { certificates: [{ cert: one.pem, key: two.key }] }, relay: up }]\nclusters: { up: { endpoints: [127.0.0.1:1] } }\n").unwrap();
    let output = sluice(&["check", "--format", "json", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    let page: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(page["errors"], 1);
    assert!(
        page["findings"][0]["message"].as_str().unwrap().contains("does not match the certificate")
    );
    assert_eq!(page["findings"][0]["place"]["line"], 1);
}

#[test]
fn an_alias_bomb_is_refused_and_a_bad_configuration_never_starts() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", ")));
    }
    let (code, text) = check(&bomb);
    assert!(code == Some(3) && text.contains("the aliases expand to too many values"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    std::fs::write(&path, "admin: {}").unwrap();
    let output = sluice(&["run", "-c", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`address` is missing"));
}

#[test]
fn several_files_form_one_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("10-a.yaml"),
        "listeners: [{ name: a, address: 127.0.0.1:0, relay: up }]\n",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("20-b.yaml"),
        "clusters: { up: { endpoints: [127.0.0.1:1] } }\n",
    )
    .unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(sluice(&["check", path]).status.code(), Some(0));
    std::fs::write(
        folder.path().join("30-c.yaml"),
        "clusters: { up: { endpoints: [127.0.0.1:2] } }\n",
    )
    .unwrap();
    let text = out(&sluice(&["check", path]));
    assert!(
        text.contains("`up` is declared in two files")
            && text.contains("30-c.yaml")
            && text.contains("20-b.yaml"),
        "{text}"
    );
    // Names that a file defines are not reported as missing when that file cannot be read.
    std::fs::write(folder.path().join("30-c.yaml"), "").unwrap();
    std::fs::write(folder.path().join("20-b.yaml"), "clusters: { up: [\n").unwrap();
    let text = out(&sluice(&["check", path]));
    assert!(text.contains("20-b.yaml") && text.contains("1 error,"), "{text}");
}

#[test]
fn explain_output_is_equivalent_to_its_input() {
    for name in
        ["database.yaml", "mixed-port.yaml", "udp-affinity.yaml", "passthrough.yaml", "web.yaml"]
    {
        let path = format!("{}/../config/{name}", env!("CARGO_MANIFEST_DIR"));
        let long = out(&sluice(&["explain", &path]));
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("long.yaml");
        std::fs::write(&copy, &long).unwrap();
        assert_eq!(out(&sluice(&["explain", copy.to_str().unwrap()])), long, "{name}");
        // No value is shown in a form that is an error.
        let found = out(&sluice(&["check", "--all", copy.to_str().unwrap()]));
        assert!(
            !found.contains("error[wrong-kind]") && !found.contains("error[bad-value]"),
            "{found}"
        );
        let json = |path: &str| out(&sluice(&["explain", "--format", "json", path]));
        assert_eq!(json(&path), json(copy.to_str().unwrap()), "{name}");
    }
}

#[test]
fn short_forms_mean_the_same_as_their_long_forms() {
    for (short, long) in [
        (
            "{ address: 127.0.0.1:7001, relay: app }",
            "{ name: 127.0.0.1-7001, address: 127.0.0.1:7001, relay: { cluster: app } }",
        ),
        (
            "{ addresses: [127.0.0.1:7001, 127.0.0.1:7002], http: web }",
            "{ name: 127.0.0.1-7001, addresses: [127.0.0.1:7001, 127.0.0.1:7002], http: { routes: web } }",
        ),
        (
            "{ address: 127.0.0.1:7001, tls: site.pem, http: web }",
            "{ name: 127.0.0.1-7001, address: 127.0.0.1:7001, tls: { certificates: [{ cert: site.pem }] }, http: web }",
        ),
        (
            "{ address: 127.0.0.1:7001, tls: { cert: site.pem, key: other.key }, http: web }",
            "{ name: 127.0.0.1-7001, address: 127.0.0.1:7001, tls: { certificates: [{ cert: site.pem, key: other.key }] }, http: web }",
        ),
        (
            "{ name: a, address: 127.0.0.1:7001, relay: 127.0.0.1:1 }",
            "{ name: a, address: 127.0.0.1:7001, relay: { endpoints: [{ address: 127.0.0.1:1 }] } }",
        ),
        (
            "{ address: 127.0.0.1:7001, redirect: https }",
            "{ name: 127.0.0.1-7001, address: [127.0.0.1:7001], redirect: \"https\" }",
        ),
        (
            "{ name: a, address: 127.0.0.1:7001, chains: { relay: [127.0.0.1:1, app.internal:2] } }",
            "{ name: a, address: 127.0.0.1:7001, chains: [{ relay: { endpoints: [127.0.0.1:1, app.internal:2] } }] }",
        ),
    ]
    .map(|(short, long)| (format!("listeners: [{short}]\n"), format!("listeners: [{long}]\n")))
    {
        for (short_rest, long_rest) in [
            (
                "routes: { web: { cluster: app, timeout: { total: 5s } } }\nclusters: { app: 127.0.0.1:9000 }\n",
                "routes: { web: [{ hosts: [], rules: [{ cluster: app, timeout: { total: 5s } }] }] }\n\
                 clusters: { app: { endpoints: [{ address: 127.0.0.1:9000 }] } }\n",
            ),
            (
                "routes: { web: { rules: { redirect: { scheme: https } } } }\n\
                 clusters: { app: [127.0.0.1:9000, \"[::1]:9000\"] }\n",
                "routes: { web: [{ rules: [{ redirect: { scheme: https } }] }] }\n\
                 clusters: { app: { endpoints: [127.0.0.1:9000, \"[::1]:9000\"] } }\n",
            ),
            (
                "routes: { web: { split: { a: 95%, b: 5% } } }\nclusters: { a: 127.0.0.1:9000, b: 127.0.0.1:9001 }\n",
                "routes: { web: [{ rules: [{ split: { a: { weight: 95% }, b: { weight: 5% } } }] }] }\n\
                 clusters: { a: { endpoints: 127.0.0.1:9000 }, b: { endpoints: 127.0.0.1:9001 } }\n",
            ),
            (
                "clusters: { app: { endpoints: 127.0.0.1:9000, tls: true, health: { tcp: true }, outlier: true } }\n",
                "clusters: { app: { endpoints: [127.0.0.1:9000], tls: {}, health: { tcp: {} }, outlier: {} } }\n",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let explain = |name: &str, text: String| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                let output = sluice(&["explain", path.to_str().unwrap()]);
                assert!(output.status.success(), "{}", out(&output));
                out(&output)
            };
            let long = explain("long.yaml", long.clone() + long_rest);
            assert_eq!(explain("short.yaml", short.clone() + short_rest), long);
        }
    }
}

#[test]
fn a_private_key_may_be_beside_its_certificate_or_in_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert!(sluice(&["cert", "--out", &at("site"), "site.test"]).status.success());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let check = |certificate: &str| {
        let config = format!(
            "listeners: [{{ address: 127.0.0.1:0, tls: {certificate}, relay: app }}]\n\
             clusters: {{ app: 127.0.0.1:1 }}\n"
        );
        std::fs::write(folder.path().join("sluice.yaml"), config).unwrap();
        out(&sluice(&["check", &at("sluice.yaml")]))
    };
    std::fs::write(folder.path().join("both.pem"), read("site.pem") + &read("site.key")).unwrap();
    std::fs::copy(folder.path().join("site.pem"), folder.path().join("alone.pem")).unwrap();
    for whole in ["site.pem", "both.pem", "[both.pem, { cert: alone.pem, key: site.key }]"] {
        let said = check(whole);
        assert!(said.contains("0 errors, 0 warnings"), "{said}");
    }
    let said = check("alone.pem");
    assert!(said.contains("alone.pem") && said.contains("key"), "{said}");
    assert!(said.contains("not usable; 1 error"), "{said}");
}

#[test]
fn generated_documents_are_up_to_date() {
    for (page, command) in [("reference.md", "reference"), ("schema.json", "schema")] {
        let path = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(out(&sluice(&[command])) == text, "docs/{page}: `cargo xtask docs` writes it anew");
    }
}

#[test]
fn the_demo_exercises_every_path_and_names_the_one_that_fails() {
    let output = sluice(&["demo", "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
    let output = sluice(&["demo", "--check", "--without", "udp"]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("FAILED  udp")
            && text.contains("ok      tcp")
            && text.contains("failed: udp"),
        "{text}"
    );
}

#[test]
fn small_commands() {
    assert!(out(&sluice(&["--version"])).starts_with("sluice 0."));
    assert!(out(&sluice(&["completions", "bash"])).contains("_sluice"));
    for command in ["endpoint", "log", "listener", "connection"] {
        // Text is wrapped only where a line is full.
        let help = out(&sluice(&[command, "--help"]));
        let last = help.trim_end().rsplit("\n\n").next().unwrap();
        let lines: Vec<&str> = last.lines().collect();
        assert!(lines[..lines.len() - 1].iter().all(|line| line.len() > 70), "{help}");
    }
    assert!(out(&sluice(&["explain", "--limits"])).contains("inspect_bytes"));
    assert!(out(&sluice(&["explain", "--reasons"])).contains("upstream.connect_timeout"));
    assert_eq!(sluice(&["run"]).status.code(), Some(2));
    assert_eq!(sluice(&["check", "/nowhere/at/all.yaml"]).status.code(), Some(3));
}

#[test]
fn expressions_and_texts_are_tried_in_the_terminal() {
    let said = |args: &[&str]| {
        let output = sluice(&[&["eval"], args].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        out(&output)
    };
    let user = ["-H", "X-User: ann", "-H", "Host: shop.test"];
    let expression = "request.headers['x-user'] + '@' + request.host";
    assert_eq!(said(&[&[expression], &user[..]].concat()), "ann@shop.test\n");
    assert_eq!(said(&["request.size"]), "-\n", "there is none");
    let text = "%METHOD% %CEL(request.url_path)% %QUERY_PARAM(a)% %RESPONSE_CODE% %CEL(response.headers.via)%";
    let more = ["--request", "PUT /x?a=1", "--status", "404", "--response-header", "via: 1.1 a"];
    assert_eq!(said(&[&[text], &more[..]].concat()), "PUT /x 1 404 1.1 a\n");
    let shared = ["metadata['set.team'] + source.address", "--value", "set.team:acme"];
    let shared = [&shared[..], &["--source", "192.0.2.1"]].concat();
    assert_eq!(said(&shared), "acme192.0.2.1:0\n");
    for (args, problem) in [
        (&["request.nothing"][..], "request.nothing"),
        (&["%NOTHING%"], "unknown operator `%NOTHING%`"),
        (&["1", "--request", "GET"], "expected a method and a path"),
        (&["1", "-H", "no colon"], "expected NAME:VALUE"),
        (&["1", "--source", "here"], "`here` is not an IP address"),
    ] {
        let output = sluice(&[&["eval"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(problem), "{args:?}: {said}");
    }
}

#[test]
fn certificates_are_created_and_never_overwritten_by_accident() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("new/shop.example");
    let make = |more: &[&str]| {
        sluice(
            &[&["cert", "--out", base.to_str().unwrap()], more, &["shop.test", "127.0.0.1"]]
                .concat(),
        )
    };
    let (cert, key) =
        (folder.path().join("new/shop.example.pem"), folder.path().join("new/shop.example.key"));
    assert_eq!(make(&[]).status.code(), Some(0));
    let first = std::fs::read(&cert).unwrap();
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // Existing files are kept, even if only one of the two exists.
    for gone in [None, Some(&cert), Some(&key)] {
        let kept = std::fs::read(&key).unwrap();
        if let Some(gone) = gone {
            std::fs::rename(gone, folder.path().join("aside")).unwrap();
        }
        let output = make(&[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--force"), "{output:?}");
        if let Some(gone) = gone {
            assert!(!gone.exists());
            std::fs::rename(folder.path().join("aside"), gone).unwrap();
        }
        assert_eq!(std::fs::read(&key).unwrap(), kept);
    }
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(make(&["--force", "--days", "30"]).status.code(), Some(0));
    assert_ne!(std::fs::read(&cert).unwrap(), first);
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(sluice(&["cert", "no name"]).status.code(), Some(1));
    assert_eq!(sluice(&["cert"]).status.code(), Some(2));
}

#[test]
fn explain_prints_the_defaults_that_depend_on_the_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    let yaml = "listeners:\n  - { name: a, address: 127.0.0.1:7001, relay: up }\n  - { name: b, address: \"udp://127.0.0.1:7001\", relay: up }\n  - { name: c, address: 127.0.0.1:7003, chains: [{ relay: { cluster: up, idle_timeout: none } }] }\nclusters: { up: { endpoints: [127.0.0.1:7002] } }\n";
    std::fs::write(&path, yaml).unwrap();
    let page = out(&sluice(&["explain", "--format", "json", path.to_str().unwrap()]));
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let listeners = &page["listeners"];
    let idle =
        [&listeners[0]["relay"], &listeners[1]["relay"], &listeners[2]["chains"][0]["relay"]];
    assert_eq!(idle.map(|relay| relay["idle_timeout"].as_str().unwrap()), ["1h", "1m", "none"]);
}

#[test]
fn explain_says_which_defaults_of_filters_are_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    let yaml = "listeners:\n\
        - name: web\n  \
          address: 127.0.0.1:0\n  \
          filters: [{ rate_limit: { connections: 5/s } }]\n  \
          http: { routes: main, filters: [{ ext_authz: { cluster: auth, error_status: 401 } }, { rate_limit: { requests: 5/s } }, { body_max: 8MiB }] }\n\
        routes: { main: [{ rules: [{ cluster: app, filters: { rate_limit: { requests: 1/s, status: 503 }, ext_authz: skip } }] }] }\n\
        clusters: { app: 127.0.0.1:9000, auth: { endpoints: [127.0.0.1:9001], protocol: http2 } }\n";
    std::fs::write(&path, yaml).unwrap();
    let path = path.to_str().unwrap();
    let explained = out(&sluice(&["explain", "--defaults", path]));
    let (listeners, rest) = explained.split_once("clusters:\n").unwrap();
    let routes = rest.split_once("routes:\n").unwrap().1;
    let has = |of: &str, lines: &[&str]| {
        for line in lines {
            let is = |own: &str| own.trim().trim_start_matches("- ") == *line;
            assert!(of.lines().any(is), "{line}: {explained}");
        }
    };
    has(
        listeners,
        &[
            "connections: 5/s",
            "per: listener  # default",
            "cluster: auth",
            "error_status: 401",
            "timeout: 200ms  # default",
            "allow_on_error: false  # default",
            "requests: 5/s",
            "status: 429  # default",
            "max: 8MiB",
        ],
    );
    has(routes, &["status: 503", "window: sliding  # default", "ext_authz: skip"]);
    // It means the same, and says the same of itself.
    let copy = folder.path().join("long.yaml");
    std::fs::write(&copy, &explained).unwrap();
    let copy = copy.to_str().unwrap();
    assert_eq!(out(&sluice(&["explain", copy])), out(&sluice(&["explain", path])));
    assert_eq!(sluice(&["check", copy]).status.code(), Some(0));
}

#[test]
fn explain_tells_defaults_from_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    let yaml = "listeners: [{ address: 127.0.0.1:0, relay: db }]\n\
        clusters:\n\
        \x20 db: { endpoints: [127.0.0.1:5432, { address: 127.0.0.1:5433, weight: 1 }], limits: { connections: 7 }, tls: true }\n\
        \x20 short: 127.0.0.1:9000\n";
    std::fs::write(&path, yaml).unwrap();
    let path = path.to_str().unwrap();
    let explained = out(&sluice(&["explain", "--defaults", path]));
    let clusters = explained.split("clusters:\n").nth(1).unwrap();
    let (db, short) = clusters.split_once("  short:\n").unwrap();
    let lines = |of: &str, start: &str| -> Vec<String> {
        let lines = of.lines().map(str::trim).map(|line| line.trim_start_matches("- "));
        lines.filter(|line| line.starts_with(start)).map(ToOwned::to_owned).collect()
    };
    assert_eq!(lines(db, "address:"), ["address: 127.0.0.1:5432", "address: 127.0.0.1:5433"]);
    assert_eq!(lines(db, "weight:"), ["weight: 1  # default", "weight: 1"]);
    let connections = ["connections: 7", "connections: none  # default"];
    assert_eq!(lines(db, "connections:"), connections, "those of `high` follow");
    assert_eq!(lines(db, "connect_timeout:"), ["connect_timeout: 5s  # default"]);
    assert_eq!(lines(db, "verify:"), ["verify: full  # default"], "`tls: true` says nothing of it");
    assert_eq!(lines(short, "address:"), ["address: 127.0.0.1:9000"]);
    assert_eq!(lines(short, "balance:"), ["balance: round_robin  # default"]);
    let unset = lines(short, "# not set: ");
    assert!(unset.iter().any(|line| line.contains("health") && line.contains("tls")), "{unset:?}");
    // Without the comments it is the long form.
    let copy = folder.path().join("long.yaml");
    std::fs::write(&copy, &explained).unwrap();
    let long = out(&sluice(&["explain", path]));
    assert_eq!(out(&sluice(&["explain", copy.to_str().unwrap()])), long);
}
