//! Metrics follow the Prometheus conventions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::Stdio;

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::{Server, UdpServer, connect, exchange, udp_client};
use sluice_testkit::{Authority, Origin, Running, Sluice, tools, wait};

/// A Sluice with activity of every kind, and its servers.
fn busy() -> (Running, (Origin, Server, UdpServer)) {
    let servers = (Origin::start("up"), Server::echo(), UdpServer::echo(""));
    let kit = Sluice::new().expect_warning("reload failed").expect_warning("look-up failed");
    Authority::new(kit.folder()).issue("cert", &["a.test"]);
    let yaml = format!(
        "listeners:\n\
         \x20 - {{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ rate_limit: {{ requests: 2/h }} }}] }} }}\n\
         \x20 - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: cert.pem, key: cert.key }}] }}, relay: echo }}\n\
         \x20 - {{ name: tcp, address: 127.0.0.1:0, relay: echo }}\n\
         \x20 - {{ name: gone, address: 127.0.0.1:0, relay: gone }}\n\
         \x20 - {{ name: udp, address: \"udp://127.0.0.1:0\", relay: {{ cluster: udp, responses: 1 }} }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters:\n\
         \x20 up: {{ endpoints: [\"{}\"], health: {{ http: {{ path: / }}, interval: 50ms }} }}\n\
         \x20 echo: {{ endpoints: [\"{}\"] }}\n\
         \x20 gone: {{ endpoints: [127.0.0.1:1, \"localhost:1\"] }}\n\
         \x20 udp: {{ endpoints: [\"{}\"] }}\n",
        servers.0.addr(),
        servers.1.addr(),
        servers.2.addr()
    );
    let sluice = kit.start(&yaml);
    for status in [200, 200, 429] {
        assert_eq!(origin::get(sluice.addr("web"), "a", "/").status(), status);
    }
    assert_eq!(
        Client::connect(sluice.addr("web")).ask("GET / HTTP/1.1\r\nhost : a\r\n\r\n").status(),
        400
    );
    assert_eq!(exchange(&mut connect(sluice.addr("tcp")), b"x"), b"x");
    let _ = connect(sluice.addr("tls")).write_all(b"no TLS");
    drop(connect(sluice.addr("gone")));
    sluice.record("the refused one", |record| record["listener"] == "gone");
    let flow = udp_client();
    flow.connect(sluice.addr("udp")).unwrap();
    flow.send(b"x").unwrap();
    flow.recv(&mut [0; 16]).unwrap();
    assert_eq!(sluice.reload("nonsense: true\n"), "failed");
    assert_eq!(sluice.reload(&yaml), "unchanged");
    // Each worker counts the end of a connection in its own time.
    for (name, labels) in [
        ("sluice_health_checks_total", ""),
        ("sluice_dns_lookups_total", "cluster=\"gone\",result=\"ok\""),
        ("sluice_tls_handshakes_total", "listener=\"tls\",result=\"failed\""),
        ("sluice_connections_ended_total", "listener=\"tcp\",reason=\"end.done\""),
        ("sluice_http_requests_ended_total", "listener=\"web\",reason=\"http.rate\""),
        ("sluice_flows_ended_total", "listener=\"udp\",reason=\"flow.done\""),
    ] {
        wait::until(name, || (sluice.metric(name, labels) > 0).then_some(()));
    }
    (sluice, servers)
}

#[test]
fn promtool_reports_no_problems() {
    if !tools::have(&["promtool", "openssl"]) {
        return;
    }
    let (sluice, _servers) = busy();
    let metrics = sluice.page("/metrics").1;
    let mut promtool = tools::command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let done = promtool.wait_with_output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(done.status.success() && said.trim().is_empty(), "{said}\n{metrics}");
}

#[test]
fn metrics_carry_the_names_and_labels_that_dashboards_expect() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let (sluice, _servers) = busy();
    let metrics = sluice.page("/metrics").1;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        assert!(!line.contains("code=\""), "a label says what kind of code it is: {line}");
        let name = line.split(['{', ' ']).next().unwrap();
        let histogram = format!("# TYPE {} histogram", name.trim_end_matches("_count"));
        assert!(!name.ends_with("_count") || metrics.contains(&histogram), "{line}");
    }
    let value = |line: &str| -> f64 {
        let found = metrics.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("`{line}` is missing from\n{metrics}")).parse().unwrap()
    };
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!(value("process_open_fds") > 5.0);
    assert!(value("process_max_fds") > value("process_open_fds"));
    // The report is written once Sluice has started.
    let started = std::fs::metadata(sluice.folder().join("report")).unwrap().modified().unwrap();
    let now = started.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let recent = |seconds: f64| seconds > now - 3600.0 && seconds <= now + 60.0;
    assert!(recent(value("process_start_time_seconds")));
    assert!(recent(value("sluice_config_last_reload_success_timestamp_seconds")));
    assert_eq!(value("sluice_config_last_reload_successful"), 1.0);
    assert_eq!(
        value(&format!("sluice_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))),
        1.0
    );
    let cert = sluice.folder().join("cert.pem");
    let expiry =
        format!("sluice_tls_certificate_not_after_seconds{{certificate=\"{}\"}}", cert.display());
    assert!(value(&expiry) > now);
    for line in [
        "sluice_http_requests_total{listener=\"web\",protocol=\"HTTP/1.1\",class=\"2xx\"}",
        "sluice_cluster_requests_total{cluster=\"up\",class=\"2xx\"}",
        "sluice_config_reloads_total{result=\"failed\"}",
        "sluice_tls_handshakes_total{listener=\"tls\",result=\"failed\"}",
        "sluice_connections_ended_total{listener=\"tcp\",reason=\"end.done\"}",
        "sluice_http_requests_ended_total{listener=\"web\",reason=\"http.rate\"}",
        "sluice_flows_ended_total{listener=\"udp\",reason=\"flow.done\"}",
        "sluice_flow_datagrams_total{listener=\"udp\",result=\"received\"}",
        "sluice_health_checks_total{cluster=\"up\",result=\"ok\"}",
        "sluice_dns_lookups_total{cluster=\"gone\",result=\"ok\"}",
        "sluice_cluster_endpoints{cluster=\"echo\",state=\"healthy\"}",
    ] {
        assert!(value(line) > 0.0, "{line}");
    }
    let up = |address: String| {
        value(&format!("sluice_endpoint_healthy{{cluster=\"up\",endpoint=\"{address}\"}}"))
    };
    assert_eq!(up(_servers.0.addr().to_string()), 1.0);
    // Buckets without gaps: none is more than five times the previous one, and none exceeds 300 seconds.
    let bounds: Vec<f64> = metrics
        .lines()
        .filter(|line| line.starts_with("sluice_cluster_connect_seconds_bucket{cluster=\"echo\""))
        .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok())
        .filter(|bound: &f64| bound.is_finite())
        .collect();
    assert!(bounds.len() > 10 && bounds.windows(2).all(|two| two[1] <= two[0] * 5.0), "{bounds:?}");
    assert!([2.5, 10.0].iter().all(|bound| bounds.contains(bound)), "{bounds:?}");
    assert!(bounds.last().is_some_and(|last| *last <= 300.0), "{bounds:?}");
}
