//! Statistics of both proxies after the same requests.
//!
//! Owns: the requests, and which statistics must be the same. Refuses to know: how they are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use sluice_testkit::origin::{self, Client};
use sluice_testkit::{Authority, wait};

use crate::bootstrap::Places;
use crate::origins::Origins;
use crate::proxies::Proxy;

const BOOTSTRAP: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            name: r
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - { match: { path: /said }, direct_response: { status: 418 } }
              - { match: { path: /moved }, redirect: { path_redirect: /there } }
              - { match: { path: /limited }, route: { cluster: limited, retry_policy: { retry_on: 5xx, num_retries: 2 } } }
              - { match: { path: /retried }, route: { cluster: retried, retry_policy: { retry_on: 5xx, num_retries: 2, retry_back_off: { base_interval: 0.001s } } } }
              - { match: { prefix: /a }, route: { cluster: "a:b|c" } }
          http_filters: [@router@]
  - name: other
    stat_prefix: side
    address: { socket_address: { address: "::1", port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: second
          route_config: { name: s, virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: / }, direct_response: { status: 200 } }] }] }
          http_filters: [@router@]
  - name: guarded
    stat_prefix: guarded
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: guard
          route_config:
            name: g
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: / }
                route: { cluster: "a:b|c" }
                typed_per_filter_config:
                  cors: { "@type": t/envoy.extensions.filters.http.cors.v3.CorsPolicy, allow_origin_string_match: [{ exact: "https://app.test" }] }
          http_filters:
          - name: rbac
            typed_config:
              "@type": t/envoy.extensions.filters.http.rbac.v3.RBAC
              shadow_rules_stat_prefix: dry_
              rules: { action: DENY, policies: { closed: { permissions: [{ url_path: { path: { prefix: /closed } } }], principals: [{ any: true }] } } }
              shadow_rules: { action: ALLOW, policies: { open: { permissions: [{ url_path: { path: { prefix: /open } } }], principals: [{ any: true }] } } }
          - { name: cors, typed_config: { "@type": t/envoy.extensions.filters.http.cors.v3.Cors } }
          - { name: csrf, typed_config: { "@type": t/envoy.extensions.filters.http.csrf.v3.CsrfPolicy, filter_enabled: { default_value: { numerator: 100 } } } }
          - @router@
  - name: six
    address: { socket_address: { address: "::1", port_value: 0 } }
    filter_chains:
    - filters: [{ name: t, typed_config: { "@type": t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: relay6, cluster: echo } }]
  - name: raw
    stat_prefix: edge
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters: [{ name: t, typed_config: { "@type": t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: relay, cluster: echo } }]
  clusters:
  - { name: "a:b|c", load_assignment: @endpoints a b@ }
  - { name: retried, load_assignment: @endpoints a@ }
  - { name: limited, circuit_breakers: { thresholds: [{ max_retries: 0 }] }, load_assignment: @endpoints a@ }
  - { name: echo, alt_stat_name: other, load_assignment: @endpoints echo_a@ }
"#;

/// What both must count alike.
const COMPARED: [&str; 63] = [
    "http.ingress.downstream_cx_total",
    "http.ingress.downstream_cx_active",
    "http.ingress.downstream_cx_destroy",
    "http.ingress.downstream_rq_total",
    "http.ingress.downstream_rq_active",
    "http.ingress.downstream_rq_completed",
    "http.ingress.downstream_rq_2xx",
    "http.ingress.downstream_rq_3xx",
    "http.ingress.downstream_rq_4xx",
    "http.ingress.downstream_rq_5xx",
    "http.ingress.downstream_rq_http1_total",
    "http.ingress.no_route",
    "http.ingress.no_cluster",
    "listener.127.0.0.1_0.downstream_cx_total",
    "listener.127.0.0.1_0.downstream_cx_active",
    "listener.127.0.0.1_0.downstream_cx_destroy",
    "listener.127.0.0.1_0.no_filter_chain_match",
    "listener.127.0.0.1_0.http.ingress.downstream_rq_2xx",
    "listener.127.0.0.1_0.http.ingress.downstream_rq_completed",
    "listener.side.http.second.downstream_rq_2xx",
    "listener.[__1]_0.downstream_cx_total",
    "listener.edge.downstream_cx_total",
    "listener.edge.downstream_cx_active",
    "listener.guarded.downstream_cx_total",
    "http.guard.rbac.allowed",
    "http.guard.rbac.denied",
    "http.guard.rbac.dry_.shadow_allowed",
    "http.guard.rbac.dry_.shadow_denied",
    "http.guard.cors.origin_valid",
    "http.guard.cors.origin_invalid",
    "http.guard.csrf.request_valid",
    "http.guard.csrf.request_invalid",
    "http.guard.csrf.missing_source_origin",
    "http.guard.downstream_rq_4xx",
    "tcp.relay.downstream_cx_total",
    "tcp.relay.downstream_cx_rx_bytes_total",
    "tcp.relay.downstream_cx_tx_bytes_total",
    "tcp.relay.downstream_cx_no_route",
    "cluster.a_b|c.upstream_rq_total",
    "cluster.a_b|c.upstream_rq_2xx",
    "cluster.a_b|c.upstream_rq_4xx",
    "cluster.a_b|c.upstream_rq_200",
    "cluster.a_b|c.upstream_rq_404",
    "cluster.a_b|c.upstream_rq_completed",
    "cluster.a_b|c.membership_total",
    "cluster.a_b|c.membership_healthy",
    "cluster.a_b|c.upstream_cx_connect_fail",
    "cluster.a_b|c.upstream_rq_pending_overflow",
    "cluster.retried.upstream_rq_total",
    "cluster.retried.upstream_rq_retry",
    "cluster.limited.upstream_rq_total",
    "cluster.limited.upstream_rq_retry_overflow",
    "cluster.other.upstream_cx_total",
    "cluster.other.upstream_cx_active",
    "cluster_manager.active_clusters",
    "cluster_manager.cluster_added",
    "cluster_manager.cluster_removed",
    "listener_manager.listener_added",
    "listener_manager.listener_create_success",
    "listener_manager.total_listeners_active",
    "listener_manager.workers_started",
    "server.live",
    "server.state",
];

/// Those whose names and labels for Prometheus are compared.
const LABELLED: &str = r"/stats/prometheus?filter=^(http\.ingress\.downstream_(rq_.xx|cx_active)|listener\.([1es]|\[)[^w]*downstream_(cx_total|rq_.xx)|tcp\.relay\.downstream_cx_total|cluster\.(a_b|other).*(upstream_rq_.xx|membership_total|upstream_cx_active)|server\.live)$";

#[test]
fn both_peers_count_alike() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("a", &["a.test"]);
    authority.issue("b", &["b.test"]);
    let origins = Origins::start("statistics", folder.path());
    let endpoints = origins.addresses();
    let places = Places { endpoints: &endpoints, folder: folder.path(), texts: &BTreeMap::new() };
    let text = places.fill(BOOTSTRAP);
    let mut envoy = Proxy::envoy(&folder.path().join("envoy"), &text);
    let sluice = Proxy::sluice(&folder.path().join("sluice"), &text);
    use_it(&envoy);
    use_it(&sluice);
    let theirs = settled(&mut envoy);
    let missing: Vec<&str> =
        COMPARED.into_iter().filter(|name| !theirs.contains_key(*name)).collect();
    assert!(missing.is_empty(), "Envoy has no {missing:?}");
    // What is counted late is waited for.
    let same = wait::within(crate::SOON, || (seen(&sluice) == theirs).then_some(()));
    assert!(same.is_some(), "{}", differences(&theirs, &seen(&sluice)));
    let [theirs_labelled, ours_labelled] = [&envoy, &sluice].map(labelled);
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>().join("\n")
    };
    assert!(
        theirs_labelled == ours_labelled,
        "only Envoy:\n{}\nonly Sluice:\n{}",
        only(&theirs_labelled, &ours_labelled),
        only(&ours_labelled, &theirs_labelled)
    );
    assert!(ours_labelled.len() > 10, "{ours_labelled:?}");
    // Connections of a listener are those of its workers, however many there are.
    for name in ["listener.guarded.", "listener.side.", "listener.edge."] {
        let [theirs, ours] = [&envoy, &sluice].map(|proxy| of_workers(proxy, name));
        assert!(theirs > 0 && ours == theirs, "{name}: Envoy {theirs}, Sluice {ours}");
    }
    // Without what names them, they are not the same.
    for (number, (from, to)) in (0..).zip([
        ("stat_prefix: ingress", "stat_prefix: egress"),
        ("alt_stat_name: other, ", ""),
        ("stat_prefix: edge", "stat_prefix: core"),
    ]) {
        assert!(text.contains(from), "{from}");
        let own = folder.path().join(format!("without {number}"));
        let without = Proxy::sluice(&own, &text.replace(from, to));
        use_it(&without);
        assert!(seen(&without).len() < theirs.len(), "`{from}` is not needed");
    }
}

/// The same connections and requests to each.
fn use_it(proxy: &Proxy) {
    let web = proxy.addr("web");
    let mut client = Client::connect(web);
    for (path, act, status) in [
        ("/said", "status=200", 418),
        ("/moved", "status=200", 301),
        ("/nowhere", "status=200", 404),
        ("/a/1", "status=200", 200),
        ("/a/2", "status=404", 404),
        ("/retried", "first=1; status=503", 200),
        ("/limited", "status=503", 503),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nx-do: {act}\r\n\r\n");
        assert_eq!(client.ask(&request).status(), status, "{path}");
    }
    drop(client);
    assert_eq!(origin::get(web, "h", "/a/3").status(), 200);
    assert_eq!(origin::get(proxy.addr("other"), "h", "/").status(), 200);
    let mut guarded = Client::connect(proxy.addr("guarded"));
    for (method, path, fields, status) in [
        ("GET", "/open", "", 200),
        ("GET", "/closed", "", 403),
        ("GET", "/other", "origin: https://app.test\r\n", 200),
        ("GET", "/other", "origin: https://evil.test\r\n", 200),
        ("POST", "/open", "origin: http://h\r\ncontent-length: 0\r\n", 200),
        ("POST", "/open", "origin: http://evil.test\r\ncontent-length: 0\r\n", 403),
        ("DELETE", "/open", "", 403),
    ] {
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: h\r\n{fields}x-do: status=200\r\n\r\n");
        assert_eq!(guarded.ask(&request).status(), status, "{method} {path} {fields}");
    }
    drop(guarded);
    let mut relayed = TcpStream::connect(proxy.addr("raw")).unwrap();
    relayed.write_all(b"hello").unwrap();
    relayed.read_exact(&mut [0; 7]).unwrap();
}

/// The compared statistics that a proxy has.
fn seen(proxy: &Proxy) -> BTreeMap<String, u64> {
    let page = origin::get(proxy.admin(), "localhost", "/stats?format=json").text();
    let page: Value = serde_json::from_str(&page).unwrap();
    let stats = page["stats"].as_array().unwrap().iter();
    let found =
        stats.filter_map(|of| Some((of["name"].as_str()?.to_owned(), of["value"].as_u64()?)));
    found.filter(|(name, _)| COMPARED.contains(&&**name)).collect()
}

/// The connections that the workers had, of a listener.
fn of_workers(proxy: &Proxy, listener: &str) -> u64 {
    let path = format!(r"/stats?filter=^{listener}worker_[0-9]%2B.downstream_cx_total$");
    let page = origin::get(proxy.admin(), "localhost", &path).text();
    let values = page.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok());
    values.sum()
}

/// What Envoy has once all connections are counted as ended.
fn settled(proxy: &mut Proxy) -> BTreeMap<String, u64> {
    let over = |all: &BTreeMap<String, u64>| {
        let active = all.iter().filter(|(name, _)| name.ends_with("downstream_cx_active"));
        active.map(|(_, count)| count).sum::<u64>() == 0
            && all.get("cluster.other.upstream_cx_active") == Some(&0)
    };
    wait::until("connections to end", || Some(seen(proxy)).filter(over))
}

fn differences(theirs: &BTreeMap<String, u64>, ours: &BTreeMap<String, u64>) -> String {
    let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let lines = names.into_iter().filter_map(|name| {
        let (one, other) = (theirs.get(name), ours.get(name));
        (one != other).then(|| format!("{name}: Envoy {one:?}, Sluice {other:?}\n"))
    });
    lines.collect()
}

/// The lines for Prometheus, with labels in order.
fn labelled(proxy: &Proxy) -> BTreeSet<String> {
    let page = origin::get(proxy.admin(), "localhost", LABELLED).text();
    let ordered = |line: &str| {
        let (name, rest) = line.split_once('{')?;
        let (labels, value) = rest.rsplit_once('}')?;
        let mut labels: Vec<&str> = labels.split(',').collect();
        labels.sort_unstable();
        Some(format!("{name}{{{}}}{value}", labels.join(",")))
    };
    // Envoy counts responses by where the request comes from, too.
    let lines = page.lines().filter(|line| !line.contains("_external_"));
    lines.map(|line| ordered(line).unwrap_or_else(|| line.to_owned())).collect()
}
