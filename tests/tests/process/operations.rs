//! Reload, drain, endpoints that come and go, admin pages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::origin::{Client, Origin};
use sluice_testkit::peers::{
    RefusingPort, Server, UdpServer, connect, exchange, read, read_to_end,
};
use sluice_testkit::{Authority, Sluice, files, http, tools, wait};
use sluice_tests::dnsmasq;

fn relay(endpoints: &str, more: &str) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\nclusters: {{ up: {{ endpoints: [{endpoints}]{more} }} }}\n"
    )
}

fn quoted(server: &Server) -> String {
    format!("\"{}\"", server.addr())
}

#[test]
fn a_reload_affects_only_new_connections_and_a_failed_one_nothing() {
    let (one, two) = (Server::greeter("one"), Server::greeter("two"));
    let sluice = Sluice::new().expect_warning("reload failed").start(&relay(&quoted(&one), ""));
    let mut old = connect(sluice.addr("a"));
    assert_eq!(read(&mut old, 3), b"one");
    let before = sluice.addr("a");
    assert_eq!(sluice.reload(&relay(&quoted(&two), "")), "applied");
    assert_eq!(sluice.addr("a"), before, "the socket is kept");
    assert_eq!(read(&mut connect(before), 3), b"two");
    assert_eq!(exchange(&mut old, b"still"), b"still");
    // The same configuration, written differently.
    let same = format!(
        "# a comment\nclusters:\n  up:\n    endpoints: [{{ address: {}, weight: 1 }}]\nlisteners:\n  - name: a\n    address: [127.0.0.1:0]\n    relay: {{ cluster: up }}\n",
        quoted(&two)
    );
    assert_eq!(sluice.reload(&same), "unchanged");
    assert_eq!(
        sluice.reload("listeners: [{ name: a, address: 127.0.0.1:0, relay: gone }]"),
        "failed"
    );
    assert_eq!(read(&mut connect(before), 3), b"two");
    assert!(
        sluice.items("/config")[0]["last_failure"]
            .as_str()
            .unwrap()
            .contains("there is no cluster `gone`")
    );
    assert!(sluice.log().contains("clusters: ~up"), "{}", sluice.log());
}

#[test]
fn watched_files_and_certificates_reload_automatically() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let kit = Sluice::new().watching().expect_warning("cannot load a certificate");
    let authority = Authority::new(kit.folder());
    authority.issue("cert", &["a.test"]);
    let server = Server::echo();
    let yaml = |more: &str| {
        format!(
            "listeners: [{{ name: a, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: cert.pem, key: cert.key }}] }}, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [{}]{more} }} }}\n",
            quoted(&server)
        )
    };
    let sluice = kit.start(&yaml(""));
    assert_eq!(sluice.reload(&yaml(", connect_attempts: 2")), "applied");
    let serial = || sluice.items("/config")[0]["certificates"][0]["serial"].to_string();
    let first = serial();
    // A connection that is open while the certificate changes continues.
    let mut client = tools::command("openssl")
        .args(["s_client", "-quiet", "-connect", &sluice.addr("a").to_string(), "-CAfile"])
        .arg(sluice.folder().join("ca.pem"))
        .args(["-verify_quiet", "-servername", "a.test"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (mut say, mut hear) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut talk = |words: &[u8]| {
        say.write_all(words).unwrap();
        let mut got = vec![0; words.len()];
        hear.read_exact(&mut got).unwrap();
        assert_eq!(got, words);
    };
    talk(b"before");
    authority.issue("cert", &["a.test"]);
    wait::until("the new certificate", || (serial() != first).then_some(()));
    talk(b"after");
    // A certificate that does not load leaves the current one in use.
    let second = serial();
    files::place(&sluice.folder().join("cert.pem"), "no certificate");
    wait::until("the error to be told", || {
        sluice.log().contains("the current one stays in use").then_some(())
    });
    assert_eq!(serial(), second);
    talk(b"still");
    // With -quiet it does not exit when its input ends.
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn a_file_whose_content_is_a_value_is_watched() {
    let kit = Sluice::new().watching();
    let write = |folder: &std::path::Path, text: &str| files::place(&folder.join("word"), text);
    write(kit.folder(), "first\n");
    let sluice = kit.start(
        "listeners:\n  - name: a\n    address: 127.0.0.1:0\n    \
         http: { routes: web, filters: [{ set_headers: { response: { x-word: { file: word } } } }] }\n\
         routes: { web: { respond: { body: { file: word } } } }\n",
    );
    let get = || Client::connect(sluice.addr("a")).get("a", "/");
    let response = get();
    assert_eq!((response.text().as_str(), response.value("x-word")), ("first", "first"));
    write(sluice.folder(), "second");
    // Workers take it over one after the other.
    wait::until("the new value", || {
        let response = get();
        (response.text() == "second" && response.value("x-word") == "second").then_some(())
    });
}

#[test]
fn a_drain_lets_connections_finish_and_reports_the_remaining_ones() {
    let server = Server::echo();
    let mut sluice = Sluice::new().start(&relay(&quoted(&server), ""));
    let at = sluice.addr("a");
    let mut open = connect(at);
    assert_eq!(exchange(&mut open, b"x"), b"x");
    sluice.signal("TERM");
    wait::until("the drain to tell", || sluice.log().contains("a: 1").then_some(()));
    assert_eq!(sluice.page("/ready"), (503, "draining\n".into()));
    wait::until("new connections to be refused", || {
        std::net::TcpStream::connect(at).is_err().then_some(())
    });
    assert_eq!(exchange(&mut open, b"still here"), b"still here");
    drop(open);
    assert!(sluice.wait_end().success());
    let reasons: Vec<_> = sluice.records().iter().map(|of| of["reason"].clone()).collect();
    assert_eq!(reasons, ["end.done"]);
}

#[test]
fn a_drain_has_a_deadline_and_a_second_signal_ends_it_at_once() {
    let server = Server::echo();
    for (drain, signals, reason) in [("200ms", 1, "end.drain"), ("1h", 2, "end.forced")] {
        let yaml = relay(&quoted(&server), "") + &format!("drain: {{ timeout: {drain} }}\n");
        let mut sluice = Sluice::new().expect_warning("the drain timeout has expired").start(&yaml);
        let mut open = connect(sluice.addr("a"));
        assert_eq!(exchange(&mut open, b"x"), b"x");
        sluice.signal("TERM");
        if signals == 2 {
            wait::until("the drain to begin", || sluice.log().contains("draining").then_some(()));
            sluice.signal("TERM");
        }
        assert!(sluice.wait_end().success());
        assert_eq!(sluice.records()[0]["reason"], reason);
    }
}

#[test]
fn a_drain_uses_the_deadline_of_the_active_configuration() {
    let server = Server::echo();
    let yaml = |drain: &str| {
        relay(&quoted(&server), "")
            + &format!("drain: {{ timeout: {drain} }}\nruntime: {{ values: {{ a: {drain} }} }}\n")
    };
    let mut sluice =
        Sluice::new().expect_warning("the drain timeout has expired").start(&yaml("1h"));
    let mut open = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut open, b"x"), b"x");
    assert_eq!(sluice.reload(&yaml("0s")), "applied");
    sluice.signal("TERM");
    assert!(sluice.wait_end().success());
    assert_eq!(sluice.records()[0]["reason"], "end.drain");
    assert!(!sluice.log().contains("after a restart"), "{}", sluice.log());
}

#[test]
fn a_stop_under_load_cuts_no_client_off() {
    let server = Server::echo();
    let mut sluice = Sluice::new().start(&relay(&quoted(&server), ""));
    let at = sluice.addr("a");
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // Once Sluice is stopping, new clients are refused; those already accepted are served to the end.
                    let Ok(mut client) = std::net::TcpStream::connect(at) else { return };
                    // A connection that the kernel queued while the socket was closed is reset before its first reply;
                    // a client that got a reply is served to the end.
                    let mut first = [0; 1];
                    if client.write_all(b"0").is_err() || client.read_exact(&mut first).is_err() {
                        return;
                    }
                    for _ in 0..20 {
                        assert_eq!(exchange(&mut client, b"0123456789"), b"0123456789");
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        wait::until("some exchanges", || (done.load(Ordering::SeqCst) > 500).then_some(()));
        sluice.signal("TERM");
        assert!(sluice.wait_end().success());
        stop.store(true, Ordering::SeqCst);
    });
    assert!(
        sluice
            .records()
            .iter()
            .all(|record| record["reason"] == "end.done" || record["reason"] == "downstream.reset"),
        "{:#?}",
        sluice.records()
    );
}

#[test]
fn connections_to_a_removed_endpoint_follow_the_cluster_policy() {
    let (one, two) = (Server::greeter("1"), Server::greeter("2"));
    for (policy, ends) in [("keep", false), ("close", true), ("{ drain: 100ms }", true)] {
        let more = format!(", on_endpoint_removed: {policy}");
        let sluice = Sluice::new().start(&relay(&quoted(&one), &more));
        let mut open = connect(sluice.addr("a"));
        assert_eq!(read(&mut open, 1), b"1");
        assert_eq!(sluice.reload(&relay(&quoted(&two), &more)), "applied");
        if ends {
            let _ = read_to_end(&mut open);
            sluice.record_of("end.endpoint_removed");
        } else {
            assert_eq!(exchange(&mut open, b"on"), b"on");
        }
        assert_eq!(read(&mut connect(sluice.addr("a")), 1), b"2");
    }
}

#[test]
fn health_checks_detect_failure_and_recovery() {
    let dead = RefusingPort::take();
    let alive = Server::greeter("alive");
    let sluice = Sluice::new().expect_warning("endpoint is unhealthy").start(&relay(
        &format!("\"{}\", {}", dead.addr(), quoted(&alive)),
        ", connect_attempts: 1, outlier: none, health: { tcp: {}, interval: 50ms, unhealthy_after: 2, healthy_after: 2 }",
    ));
    let healthy = || {
        let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
        endpoints.as_array().unwrap().iter().filter(|endpoint| endpoint["healthy"] == true).count()
    };
    wait::until("the dead one to be found", || (healthy() == 1).then_some(()));
    for _ in 0..10 {
        assert_eq!(read(&mut connect(sluice.addr("a")), 5), b"alive");
    }
    let risen = Server::start_on(dead.listen(), |mut stream| stream.write_all(b"risen"));
    wait::until("the risen one to be found", || (healthy() == 2).then_some(()));
    wait::until("the risen one to serve", || {
        (read(&mut connect(sluice.addr("a")), 5) == b"risen").then_some(())
    });
    drop((alive, risen));
    wait::until("all to be found dead", || (healthy() == 0).then_some(()));
    assert!(read_to_end(&mut connect(sluice.addr("a"))).1.is_empty());
    sluice.record_of("upstream.no_healthy");
}

#[test]
fn host_names_are_resolved_and_the_last_good_answer_is_kept() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let server = Server::greeter("found");
    let port = tools::free_port();
    let dns =
        |address: &str| dnsmasq(port, &["--local-ttl=1", &format!("--address=/db.test/{address}")]);
    let running = dns("127.0.0.1");
    let yaml = relay(
        &format!("\"db.test:{}\"", server.addr().port()),
        &format!(", dns: {{ servers: [127.0.0.1:{port}] }}"),
    );
    let sluice = Sluice::new().expect_warning("look-up failed").start(&yaml);
    assert_eq!(read(&mut connect(sluice.addr("a")), 5), b"found");
    drop(running);
    wait::until("a look-up to fail", || {
        (sluice.items("/clusters")[0]["resolver"]["db.test"]["state"] != "resolved").then_some(())
    });
    assert_eq!(read(&mut connect(sluice.addr("a")), 5), b"found");
    assert!(
        sluice.items("/clusters")[0]["resolver"]["db.test"]["message"]
            .as_str()
            .unwrap()
            .contains("the last good answer is still used")
    );
    let _running = dns("127.0.0.77");
    wait::until("the new address", || {
        (sluice.items("/clusters")[0]["endpoints"][0]["address"]
            == format!("127.0.0.77:{}", server.addr().port()))
        .then_some(())
    });
}

#[test]
fn admin_pages_are_read_only_and_describe_themselves() {
    let server = Server::echo();
    let sluice = Sluice::new().start(&relay(&quoted(&server), ""));
    wait::until("its line", || sluice.log().contains("\"message\":\"ready\"").then_some(()));
    assert!(sluice.page("/").1.contains("/metrics"));
    assert_eq!(sluice.page("/ready"), (200, "ready\n".into()));
    let (status, body) = sluice.page("/nowhere");
    assert_eq!(status, 404);
    assert!(body.contains("\"code\":\"not_found\""), "{body}");
    let address = sluice.admin_addr();
    let (status, body) = http::request(address, "POST", "/config").unwrap();
    assert!(status == 405 && body.contains("read-only"), "{status} {body}");
    let page = sluice.page("/listeners").1;
    assert!(page.contains("name: a\n") && page.contains(&sluice.addr("a").to_string()), "{page}");
    let config = &sluice.items("/config")[0];
    assert_eq!(config["config"]["clusters"]["up"]["balance"], "round_robin");
}

#[test]
fn log_files_are_reopened_on_a_signal() {
    let server = Server::echo();
    let sluice = Sluice::new().start(&relay(&quoted(&server), ""));
    drop(connect(sluice.addr("a")));
    sluice.record_of("end.done");
    let (log, moved) = (sluice.folder().join("records.json"), sluice.folder().join("records.1"));
    std::fs::rename(&log, &moved).unwrap();
    sluice.signal("USR1");
    wait::until("the file to be there again", || log.exists().then_some(()));
    drop(connect(sluice.addr("a")));
    sluice.record_of("end.done");
    // The accounting reads a single file.
    let all = std::fs::read_to_string(&moved).unwrap() + &std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, all).unwrap();
}

#[test]
fn thousands_of_idle_connections() {
    // Two descriptors per connection in Sluice, two in this process.
    let limit: usize = tools::must(tools::command("sh").args(["-c", "ulimit -Hn"]))
        .trim()
        .parse()
        .unwrap_or(1_048_576);
    let count = 8000.min(limit.saturating_sub(500) / 2);
    let raised = sluice_testkit::raise_file_limit();
    let count = count.min(usize::try_from(raised).unwrap_or(usize::MAX).saturating_sub(500) / 2);
    let server = Server::start(|mut stream| {
        // No thread waits for an idle client.
        let got = read(&mut stream, 1);
        stream.write_all(&got)?;
        std::mem::forget(stream);
        Ok(())
    });
    let yaml = relay(&quoted(&server), ", connect_timeout: 30s") + "drain: { timeout: 200ms }\n";
    let sluice = Sluice::new().expect_warning("the drain timeout has expired").start(&yaml);
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = connect(sluice.addr("a"));
        assert_eq!(exchange(&mut client, b"x"), b"x");
        clients.push(client);
    }
    assert_eq!(
        sluice.metric("sluice_listener_connections_active", ""),
        i64::try_from(count).unwrap()
    );
    // The server keeps its sockets, so that the drain has half-closed connections to end.
    drop(clients);
}

#[test]
fn metrics_of_removed_names_are_removed() {
    let (one, two) = (Server::echo(), Server::echo());
    let yaml = |listeners: &[&str], cluster: &str, server: &Server| {
        let listener =
            |name: &&str| format!("{{ name: {name}, address: 127.0.0.1:0, relay: {cluster} }}");
        let listeners: Vec<String> = listeners.iter().map(listener).collect();
        format!(
            "listeners: [{}, {{ name: web, address: 127.0.0.1:0, http: {{ routes: {cluster}-routes }} }}]\n\
             routes: {{ {cluster}-routes: [{{ hosts: \"*\", rules: [{{ respond: {{ status: 200 }} }}] }}] }}\n\
             clusters: {{ {cluster}: {{ endpoints: [{}] }} }}\n",
            listeners.join(", "),
            quoted(server)
        )
    };
    let sluice = Sluice::new().start(&yaml(&["old", "kept"], "first", &one));
    let mut open = connect(sluice.addr("old"));
    assert_eq!(exchange(&mut open, b"x"), b"x");
    drop(connect(sluice.addr("old")));
    assert_eq!(sluice_testkit::origin::get(sluice.addr("web"), "a", "/").status(), 200);
    assert_eq!(sluice.reload(&yaml(&["kept"], "second", &two)), "applied");
    let has = |text: &str| sluice.page("/metrics").1.contains(text);
    // An open connection is counted until it ends, as the other one has.
    wait::until("the other connection to end", || {
        let active = sluice.metric("sluice_listener_connections_active", "listener=\"old\"");
        (active == 1).then_some(())
    });
    drop(open);
    for gone in ["\"old\"", "cluster=\"first\"", &one.addr().to_string()] {
        wait::until("series to leave", || (!has(gone)).then_some(()));
    }
    assert!(has("listener=\"kept\"") && has("cluster=\"second\""));
}

#[test]
fn metrics_of_removed_parts_of_a_listener_are_removed() {
    let origin = Origin::start("a");
    let yaml = |name: &str, more: &str| {
        let db = format!(
            "deny: {{ {name}-source: {{ principals: {{ source: 10.0.0.0/8 }} }} }}, shadow: {{ deny: {{ {name}-local: {{ principals: {{ source: 127.0.0.0/8 }} }} }} }}"
        );
        let filters = format!(
            "{{ grpc_stats: {{ methods: app.{name}/Get }} }}, \
             {{ rbac: {{ allow: {{ {name}-policy: {{ permissions: {{ method: [GET, POST] }} }} }} }} }}, \
             {{ rate_limit: {{ name: {name}-limit, requests: 1/h, burst: 1, enforce: 0% }} }}{more}"
        );
        format!(
            "listeners:\n\
             - {{ name: web, address: 127.0.0.1:0, chains: [{{ name: {name}-chain, http: {{ routes: main, filters: [{filters}] }} }}] }}\n\
             - {{ name: db, address: 127.0.0.1:0, relay: up, filters: [{{ rbac: {{ {db} }} }}] }}\n\
             routes: {{ main: [{{ cluster: up }}] }}\n\
             clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
            origin.addr()
        )
    };
    let sluice = Sluice::new().start(&yaml("old", ", { body_max: 16 }"));
    let has = |text: &str| sluice.page("/metrics").1.contains(text);
    let use_all = |name: &str| {
        let call = format!(
            "POST /app.{name}/Get HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"
        );
        let mut client = Client::connect(sluice.addr("web"));
        client.ask(&call);
        client.ask(&call);
        drop(connect(sluice.addr("db")));
        [
            "chain=\"NAME-chain\"",
            "\"NAME-policy\"",
            "\"NAME-local\"",
            "\"NAME-limit\"",
            "\"app.NAME\"",
        ]
        .map(|label| label.replace("NAME", name))
    };
    let large = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n";
    assert_eq!(Client::connect(sluice.addr("web")).ask(large).status(), 413);
    let old = [&use_all("old")[..], &["filter=\"body_max\"".to_owned()]].concat();
    for label in &old {
        wait::until(label, || has(label).then_some(()));
    }
    assert_eq!(sluice.reload(&yaml("new", "")), "applied");
    for label in use_all("new") {
        wait::until(&label, || has(&label).then_some(()));
    }
    for label in &old {
        wait::until(&format!("{label} to leave"), || (!has(label)).then_some(()));
    }
    // What stays is not counted from the beginning.
    assert_eq!(
        sluice.reload(&yaml("new", ", { set_headers: { request: { x-a: b } } }")),
        "applied"
    );
    for label in use_all("new") {
        let most = || {
            let page = sluice.page("/metrics").1;
            let counts = page.lines().filter(|line| line.contains(&label));
            counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).max()
        };
        wait::until(&format!("{label} to be counted again"), || (most() > Some(1)).then_some(()));
    }
}

#[test]
fn the_expiry_metric_of_a_removed_certificate_is_removed() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    authority.issue("old", &["a.test"]);
    authority.issue("new", &["a.test"]);
    let server = Server::echo();
    let yaml = |name: &str| {
        relay(&quoted(&server), "").replace(
            ", relay",
            &format!(", tls: {{ certificates: [{{ cert: {name}.pem, key: {name}.key }}] }}, relay"),
        )
    };
    let sluice = kit.start(&yaml("old"));
    let told = |name: &str| {
        let metrics = sluice.page("/metrics").1;
        let mut lines = metrics.lines().filter(|line| line.contains("_not_after_seconds{"));
        lines.any(|line| line.contains(&format!("{name}.pem")))
    };
    assert!(told("old"));
    assert_eq!(sluice.reload(&yaml("new")), "applied");
    wait::until("the series to leave", || (!told("old")).then_some(()));
    assert!(told("new"));
}

#[test]
fn a_failed_reload_is_reported_once_even_with_logs_in_the_watched_folder() {
    let server = Server::echo();
    let good = relay(&quoted(&server), "");
    // Records and the process log are in the folder of the configuration.
    let sluice = Sluice::new().watching().expect_warning("reload failed").start(&good);
    let failures = || sluice.reloads().iter().filter(|outcome| *outcome == "failed").count();
    let bad = "listeners: [{ name: a, address: 127.0.0.1:0, relay: gone }]\n";
    assert_eq!(sluice.reload(bad), "failed");
    for number in 1..=5 {
        drop(connect(sluice.addr("a")));
        wait::until("a record", || (sluice.records().len() == number).then_some(()));
    }
    let again = wait::within(std::time::Duration::from_secs(1), || (failures() > 1).then_some(()));
    assert!(again.is_none(), "the same failure is told again:\n{}", sluice.log());
    // Different content is reported, with the same error or another.
    assert_eq!(sluice.reload(&format!("# edited\n{bad}")), "failed");
    assert_eq!(sluice.reload(&relay(&quoted(&server), ", connect_attempts: 2")), "applied");
    assert_eq!(failures(), 2);
    assert_eq!(sluice.log().matches("reload failed").count(), 2);
}

#[test]
fn a_failed_reload_is_shown_until_the_configuration_is_usable_again() {
    let server = Server::echo();
    let good = format!(
        "admin: {{ address: 127.0.0.1:0 }}\nruntime: {{ file: values }}\n\
         listeners: [{{ name: a, address: 127.0.0.1:0, http: r }}]\n\
         routes: {{ r: [{{ split: {{ up: {{ weight: 1, runtime: share }} }} }}] }}\n\
         clusters: {{ up: {{ endpoints: [{}] }} }}\n",
        quoted(&server)
    );
    let kit = Sluice::new().watching().expect_warning("reload failed");
    let kit = kit.expect_warning("does not set `share`");
    let values = kit.folder().join("values");
    files::place(&values, "share: 10%\n");
    let sluice = kit.start(&good);
    let newest = || {
        let items = sluice.items("/resources");
        let of_files = items.iter().find(|item| item["kind"] == "configuration");
        of_files.map(|item| item["newest"]["errors"].to_string())
    };
    let failing = |says: &str| {
        wait::until("the failure", || newest().filter(|newest| newest.contains(says)));
    };
    let share = || sluice.items("/runtime")[0]["value"].clone();
    assert_eq!((newest(), share()), (None, "10%".into()));

    files::place(&values, "share: lots\n");
    failing("`share`: expected a number");
    assert_eq!(share(), "10%");
    files::place(&values, "share: 10%\n");
    wait::until("the recovery", || newest().is_none().then_some(()));
    wait::until("the report", || sluice.reloads().pop().filter(|last| last == "unchanged"));
    assert!(sluice.log().contains("the configuration is usable again"));

    assert_eq!(sluice.reload(&good.replace("[{ split", "[{ splt")), "failed");
    failing("splt");
    assert_eq!(sluice.reload(&good), "unchanged");
    assert_eq!(newest(), None);
    // A value that leaves the file is no longer set.
    files::place(&values, "");
    wait::until("the value to leave", || share().is_null().then_some(()));
}

#[test]
fn a_certificate_error_is_reported_once_even_with_logs_in_the_watched_folder() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let kit = Sluice::new().watching().expect_warning("cannot load a certificate");
    Authority::new(kit.folder()).issue("cert", &["a.test"]);
    let server = Server::echo();
    let sluice = kit.start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: cert.pem, key: cert.key }}] }}, relay: up }}, {{ name: b, address: 127.0.0.1:0, relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [{}] }} }}\n",
        quoted(&server)
    ));
    files::place(&sluice.folder().join("cert.pem"), "no certificate");
    let told = || sluice.log().matches("the current one stays in use").count();
    wait::until("the error to be told", || (told() > 0).then_some(()));
    for number in 1..=3 {
        drop(connect(sluice.addr("b")));
        wait::until("a record", || (sluice.records().len() == number).then_some(()));
    }
    let again = wait::within(std::time::Duration::from_secs(1), || (told() > 1).then_some(()));
    assert!(again.is_none(), "it is told again:\n{}", sluice.log());
}

#[test]
fn records_go_to_standard_error_if_configured() {
    let server = Server::echo();
    let yaml = relay(&quoted(&server), "")
        + "access_log: [{ sink: records.json }, { sink: stderr, format: \"to stderr: %REASON%\" }]\n";
    let sluice = Sluice::new().start(&yaml);
    drop(connect(sluice.addr("a")));
    wait::until("the record", || sluice.log().contains("to stderr: end.done").then_some(()));
    assert!(!sluice.folder().join("stderr").exists());
}

#[test]
fn socket_options_change_on_reload_while_the_address_stays() {
    if !tools::have(&["ss"]) {
        return;
    }
    let server = Server::echo();
    let yaml = |backlog: u32, keepalive: bool| {
        format!(
            "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up, socket: {{ backlog: {backlog}, keepalive: {keepalive} }} }}]\n\
             clusters: {{ up: {{ endpoints: [{}] }} }}\n",
            quoted(&server)
        )
    };
    let sluice = Sluice::new().start(&yaml(100, false));
    let port = sluice.addr("a").port();
    let ss =
        |flags: &str| tools::must(tools::command("ss").args([flags, &format!("sport = :{port}")]));
    // State, accept queue, backlog: for the socket of each worker.
    let backlogs = || {
        let lines = ss("-Hltn");
        lines.lines().map(|l| l.split_whitespace().nth(2).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(backlogs(), ["100", "100"]);
    let before = connect(sluice.addr("a"));
    sluice.wait_open(1);
    assert!(!ss("-Htno").contains("keepalive"));
    assert_eq!(sluice.reload(&yaml(7, true)), "applied");
    assert_eq!(backlogs(), ["7", "7"]);
    let after = connect(sluice.addr("a"));
    sluice.wait_open(2);
    assert!(ss("-Htno").contains("keepalive"), "{}", ss("-Htno"));
    drop((before, after));
}

#[test]
fn socket_options_that_cannot_change_are_named_and_the_rest_is_applied() {
    let kit = Sluice::new().workers(1).expect_warning(
        "its `socket` options take effect after a restart: the QUIC socket is in use",
    );
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let yaml = |buffer: &str, status: u16| {
        format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: main, socket: {{ udp_receive_buffer: {buffer} }} }}]\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ respond: {{ status: {status} }} }}] }}] }}\n"
        )
    };
    let sluice = kit.start(&yaml("1MiB", 204));
    assert_eq!(sluice.reload(&yaml("1MiB", 200)), "applied");
    assert!(!sluice.log().contains("after a restart"), "{}", sluice.log());
    assert_eq!(sluice.reload(&yaml("64KiB", 404)), "applied");
    wait::until("a warning", || sluice.log().contains("after a restart").then_some(()));
    assert!(sluice.page("/config").1.contains("404"));
}

/// A name server that replies to every query with this code and without records.
fn name_server(code: u8) -> UdpServer {
    UdpServer::start(move |query| {
        let mut answer = query.to_vec();
        // A response, with recursion desired and available, one question and nothing else.
        answer.splice(2..12, [0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0]);
        let name = answer[12..].iter().position(|byte| *byte == 0).unwrap();
        answer.truncate(12 + name + 5);
        vec![answer]
    })
}

#[test]
fn name_server_errors_are_reported_in_plain_words() {
    for (code, says) in [
        (0, "the name exists but has no address (A or AAAA record)"),
        (2, "the name server failed (SERVFAIL)"),
        (3, "the name does not exist (NXDOMAIN)"),
        (5, "the name server refused the query (REFUSED)"),
    ] {
        let dns = name_server(code);
        let yaml =
            relay("\"db.test:5432\"", &format!(", dns: {{ servers: [\"{}\"] }}", dns.addr()));
        let sluice = Sluice::new().expect_warning("look-up failed").start(&yaml);
        let told = wait::within(wait::PATIENCE, || sluice.log().contains(says).then_some(()));
        assert!(told.is_some(), "`{says}` is missing from\n{}", sluice.log());
        assert!(!sluice.log().contains("Query {"), "{}", sluice.log());
        wait::until("the page to say so", || {
            let page = sluice.items("/clusters")[0]["resolver"]["db.test"].to_string();
            page.contains(says).then_some(())
        });
    }
}

#[test]
fn a_silent_name_server_delays_only_the_listeners_that_need_it() {
    let silent = UdpServer::start(|_| Vec::new());
    let (server, port) = (Server::greeter("hello"), tools::free_port());
    let yaml = format!(
        "listeners:\n\
         \x20 - {{ name: needs-none, address: \"127.0.0.1:{port}\", relay: up }}\n\
         \x20 - {{ name: needs-names, address: 127.0.0.1:0, http: {{ routes: main }} }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: named }}] }}] }}\n\
         clusters:\n\
         \x20 up: {{ endpoints: [{}] }}\n\
         \x20 named: {{ endpoints: [\"db.test:80\"], dns: {{ servers: [\"{}\"] }} }}\n",
        quoted(&server),
        silent.addr()
    );
    let sluice = std::thread::scope(|scope| {
        let starting = scope.spawn(|| Sluice::new().expect_warning("look-up failed").start(&yaml));
        wait::until("the first connection", || {
            let mut client =
                std::net::TcpStream::connect(std::net::SocketAddr::from(([127, 0, 0, 1], port)))
                    .ok()?;
            (read(&mut client, 5) == b"hello").then_some(())
        });
        starting.join().unwrap()
    });
    let ended = sluice.record("the first connection", |record| record["listener"] == "needs-none");
    let line = |text: &str| -> serde_json::Value {
        wait::until(text, || {
            let lines = sluice.log();
            let line = lines.lines().find(|line| line.contains(text));
            line.and_then(|line| serde_json::from_str(line).ok())
        })
    };
    let waits = line("waiting for name servers")["fields"]["message"].to_string();
    assert!(waits.contains("`db.test`") && waits.contains("`needs-names`"), "{waits}");
    assert!(!waits.contains("`needs-none`"), "{waits}");
    let ready = line("\"message\":\"ready\"")["timestamp"].as_str().unwrap().to_owned();
    let began = ended["start_time"].as_str().unwrap();
    assert!(began[..19] < ready[..19], "accepted at {began}, ready at {ready}");
}
