//! Series become Envoy's statistics.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use sluice_telemetry::{MetricDef, MetricKind, Registry};

use super::names::StatNames;
use super::show::{self, StatQuery};
use super::*;
use crate::message::ProtoMessage;
use crate::{LoadOptions, UnknownFields, load};

const REQUESTS: MetricDef = MetricDef {
    name: "sluice_http_requests_total",
    kind: MetricKind::Counter,
    labels: &["listener", "protocol", "class"],
    help: "",
};

const IN_FLIGHT: MetricDef = MetricDef {
    name: "sluice_http_requests_active",
    kind: MetricKind::Gauge,
    labels: &["listener"],
    help: "",
};

const SENT: MetricDef = MetricDef {
    name: "sluice_cluster_requests_total",
    kind: MetricKind::Counter,
    labels: &["cluster", "class"],
    help: "",
};

const TOOK: MetricDef = MetricDef {
    name: "sluice_cluster_request_seconds",
    kind: MetricKind::Histogram,
    labels: &["cluster"],
    help: "",
};

const BOOTSTRAP: &str = r#"
static_resources:
  listeners:
  - name: "web:in"
    traffic_direction: INBOUND
    address: { socket_address: { address: "::1", port_value: 80 } }
    filter_chains:
    - filters:
      - name: h
        typed_config: { "@type": t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: "in:gress" }
  - address: { socket_address: { address: 127.0.0.1, port_value: 81 } }
    stat_prefix: edge
    filter_chains:
    - filters: [{ name: t, typed_config: { "@type": t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: one, cluster: a } }]
    - filters: [{ name: t, typed_config: { "@type": t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: two, cluster: a } }]
  clusters:
  - { name: "a|b:c" }
  - { name: "a|b|c", alt_stat_name: other }
"#;

fn bootstrap(text: &str) -> ProtoMessage {
    let options = LoadOptions::from(UnknownFields::Refuse);
    load::bootstrap_of_text(Path::new("e.yaml"), text.to_owned(), &options).unwrap()
}

fn rules(config: &str) -> (StatRules, Vec<(String, bool)>) {
    let whole = bootstrap(&format!("stats_config: {config}"));
    let mut found = Vec::new();
    let config = whole.message("stats_config").unwrap();
    let rules = StatRules::of(config, &mut |problem| found.push((problem.text, problem.is_error)));
    (rules, found)
}

fn all() -> Vec<Statistic> {
    let registry = Registry::new();
    let shard = registry.shard(1);
    for (class, count) in [("2xx", 3), ("5xx", 1), ("none", 1)] {
        shard.counter(&REQUESTS, &["web_in", "HTTP/1.1", class]).add(count);
        shard.counter(&SENT, &["a_b_c", class]).add(count);
        shard.counter(&SENT, &["a_b_c-2", class]).add(10 * count);
        shard.counter(&SENT, &["gone", class]).add(count);
    }
    shard.gauge(&IN_FLIGHT, &["web_in"]).set(2);
    for millis in [3, 3, 40] {
        shard.histogram(&TOOK, &["a_b_c"]).record(std::time::Duration::from_millis(millis));
    }
    let names = StatNames::of_bootstrap(&bootstrap(BOOTSTRAP));
    assert!(names.listener("web_in").unwrap().is_inbound);
    collect(&registry.snapshot(), &names, vec![Statistic::gauge("server.state", 0)])
}

fn value(all: &[Statistic], name: &str) -> Option<u64> {
    all.iter().find(|of| of.name == name).map(|of| of.value)
}

#[test]
fn series_have_the_names_of_their_resources() {
    let all = all();
    for (name, expected) in [
        ("http.in_gress.downstream_rq_total", Some(7)),
        ("http.in_gress.downstream_rq_active", Some(2)),
        ("http.in_gress.downstream_rq_completed", Some(4)),
        ("http.in_gress.downstream_rq_5xx", Some(1)),
        ("http.in_gress.downstream_rq_4xx", Some(0)),
        ("http.in_gress.downstream_rq_http1_total", Some(5)),
        ("listener.[__1]_80.http.in_gress.downstream_rq_2xx", Some(3)),
        ("listener.[__1]_80.downstream_cx_active", Some(0)),
        ("listener.edge.downstream_cx_active", Some(0)),
        // Two prefixes of one listener.
        ("tcp.one.downstream_cx_total", None),
        ("cluster.a|b_c.upstream_rq_total", Some(5)),
        ("cluster.a|b_c.upstream_rq_completed", Some(4)),
        ("cluster.other.upstream_rq_2xx", Some(30)),
        ("cluster.gone.upstream_rq_2xx", None),
        ("cluster.other.upstream_rq_4xx", None),
        ("server.state", Some(0)),
    ] {
        assert_eq!(value(&all, name), expected, "{name}");
    }
    assert!(all.is_sorted_by(|one, other| one.name < other.name), "each once");
}

const STATUSES: MetricDef = MetricDef {
    name: "sluice_cluster_responses_total",
    kind: MetricKind::Counter,
    labels: &["cluster", "status"],
    help: "",
};

const RBAC: MetricDef = MetricDef {
    name: "sluice_rbac_decisions_total",
    kind: MetricKind::Counter,
    labels: &["listener", "rules", "policy", "result"],
    help: "",
};

#[test]
fn statuses_that_are_counted_have_a_name_each() {
    let registry = Registry::new();
    let shard = registry.shard(1);
    for (status, count) in [("200", 3), ("404", 2), ("other", 1)] {
        shard.counter(&STATUSES, &["a_b_c", status]).add(count);
    }
    let names = StatNames::of_bootstrap(&bootstrap(BOOTSTRAP));
    let all = collect(&registry.snapshot(), &names, Vec::new());
    for (name, expected) in [
        ("cluster.a|b_c.upstream_rq_200", Some(3)),
        ("cluster.a|b_c.upstream_rq_404", Some(2)),
        ("cluster.a|b_c.upstream_rq_503", None),
        ("cluster.a|b_c.upstream_rq_other", None),
        ("cluster.a|b_c.upstream_rq_", None),
    ] {
        assert_eq!(value(&all, name), expected, "{name}");
    }
}

#[test]
fn workers_have_statistics_of_listeners() {
    let names = StatNames::of_bootstrap(&bootstrap(BOOTSTRAP));
    let metric = "sluice_listener_connections_accepted_total";
    let series = [("web_in", 0, 2), ("web_in", 1, 3), ("web_in", 7, 9), ("gone", 0, 1)].map(
        |(listener, worker, value)| WorkerSeries {
            metric,
            listener: listener.into(),
            worker,
            value,
        },
    );
    let all = of_workers(&series, &names, 2);
    for (name, expected) in [
        ("listener.[__1]_80.worker_0.downstream_cx_total", Some(2)),
        ("listener.[__1]_80.worker_1.downstream_cx_total", Some(3)),
        ("listener.[__1]_80.worker_1.downstream_cx_active", Some(0)),
        ("listener.[__1]_80.worker_7.downstream_cx_total", None),
        ("listener.edge.worker_0.downstream_cx_total", Some(0)),
    ] {
        assert_eq!(value(&all, name), expected, "{name}");
    }
    let (rest, labels) =
        StatRules::default().split("listener.127.0.0.1_80.worker_3.downstream_cx_total");
    assert_eq!(rest, "listener.worker_downstream_cx_total");
    assert!(labels.contains(&("envoy_worker_id".into(), "3".into())), "{labels:?}");
}

/// The statistics of `rbac` after two decisions of each kind, of a listener with these HTTP filters in two chains.
fn decisions(filters: [&str; 2]) -> Vec<String> {
    let chain = |filters: &str| {
        format!(
            "{{ filters: [{{ name: h, typed_config: {{ '@type': t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: in, http_filters: [{filters}] }} }}] }}"
        )
    };
    let [one, two] = filters.map(chain);
    let text = format!(
        "static_resources: {{ listeners: [{{ name: web, filter_chains: [{one}, {two}] }}] }}"
    );
    let registry = Registry::new();
    let shard = registry.shard(1);
    for rules in ["enforced", "shadow"] {
        for result in ["allowed", "denied"] {
            shard.counter(&RBAC, &["web", rules, "none", result]).add(2);
        }
    }
    let names = StatNames::of_bootstrap(&bootstrap(&text));
    let all = collect(&registry.snapshot(), &names, Vec::new());
    let rbac = all.into_iter().filter(|of| of.name.contains("rbac"));
    rbac.map(|of| format!("{}={}", of.name, of.value)).collect()
}

#[test]
fn decisions_by_policies_have_names_where_they_can_be_told_apart() {
    let rbac = |fields: &str| {
        format!(
            "{{ name: r, typed_config: {{ '@type': t/envoy.extensions.filters.http.rbac.v3.RBAC{fields} }} }}"
        )
    };
    let (plain, named) =
        (rbac(""), rbac(", rules_stat_prefix: a_, shadow_rules_stat_prefix: dry."));
    let of = |rules: &str, shadow: &str| {
        [
            ("", rules, "allowed"),
            ("", rules, "denied"),
            ("shadow_", shadow, "allowed"),
            ("shadow_", shadow, "denied"),
        ]
        .map(|(kind, prefix, result)| format!("http.in.rbac.{prefix}{kind}{result}=2"))
    };
    assert_eq!(decisions([&plain, &plain]), of("", ""));
    assert_eq!(decisions([&named, ""]), of("a_.", "dry."));
    assert!(decisions([&plain, &named]).is_empty(), "two names for the decisions of one listener");
    assert!(decisions(["", ""]).is_empty());
    assert!(decisions([&rbac(", rules: { action: LOG }"), ""]).is_empty(), "it decides nothing");
}

#[test]
fn pages_have_the_forms_of_envoy() {
    let all = all();
    let mut query = StatQuery::default();
    query.used_only = true;
    query.set_filter(r"^(cluster\.a|server\.state$)").unwrap();
    let rules = StatRules::default();
    let chosen = query.select(&rules, &all);
    let text = show::text(&chosen);
    assert!(text.contains("cluster.a|b_c.upstream_rq_5xx: 1\n"), "{text}");
    assert!(text.contains("server.state: 0\n") && !text.contains("upstream_cx_total"), "{text}");
    assert!(text.ends_with(
        "upstream_rq_time: P0(nan,2.500) P25(nan,3.438) P50(nan,4.375) P75(nan,31.250) P90(nan,42.500) P95(nan,46.250) P99(nan,49.250) P99.5(nan,49.625) P99.9(nan,49.925) P100(nan,50.000)\n"
    ), "{text}");
    let json: serde_json::Value = serde_json::from_str(&show::as_json(&chosen)).unwrap();
    let stats = json["stats"].as_array().unwrap();
    assert!(stats.contains(&serde_json::json!({ "name": "server.state", "value": 0 })));
    let histograms = &stats.last().unwrap()["histograms"]["computed_quantiles"];
    assert_eq!(histograms[0]["name"], "cluster.a|b_c.upstream_rq_time");
    let text = show::prometheus(&rules, &chosen);
    for line in [
        "# TYPE envoy_cluster_upstream_rq_xx counter\n",
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"5\",envoy_cluster_name=\"a|b_c\"} 1\n",
        "# TYPE envoy_server_state gauge\nenvoy_server_state{} 0\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a|b_c\",le=\"5\"} 2\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a|b_c\",le=\"+Inf\"} 3\n",
        "envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"a|b_c\"} 46\n",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    assert_eq!(show::text(&[]), "");
}

#[test]
fn a_bootstrap_chooses_tags_and_statistics() {
    let (rules, found) = rules(
        r#"{ use_all_default_tags: false, stats_tags: [
          { tag_name: cluster, regex: '^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)' },
          { tag_name: prefix, regex: '^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)' },
          { tag_name: mesh, fixed_value: m }, { tag_name: envoy.response_code_class },
          { tag_name: late, regex: 'a(?<!b)' }, { tag_name: nothing } ],
          stats_matcher: { inclusion_list: { patterns: [{ prefix: cluster. }, { safe_regex: { regex: 'listener\..*' } }, { exact: SERVER.LIVE, ignore_case: true }] } } }"#,
    );
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].0.contains("look-around") && !found[0].1, "{found:?}");
    assert!(found[1].0.contains("no tag `nothing`") && found[1].1, "{found:?}");
    for (name, shown) in [
        ("cluster.a.x", true),
        ("listener.1_0.x", true),
        ("server.live", true),
        ("http.a.x", false),
    ] {
        assert_eq!(rules.shows(name), shown, "{name}");
    }
    let labels = |name| {
        let (rest, labels) = rules.split(name);
        let labels: Vec<String> =
            labels.into_iter().map(|(label, value)| format!("{label}={value}")).collect();
        (rest, labels.join(" "))
    };
    let of = |rest: &str, labels: &str| (rest.to_owned(), labels.to_owned());
    assert_eq!(
        labels("cluster.outbound|80||a.ns.svc.cluster.local.upstream_rq_2xx"),
        of(
            "cluster.upstream_rq_xx",
            "cluster=outbound|80||a.ns.svc.cluster.local envoy_response_code_class=2"
        )
    );
    assert_eq!(
        labels("listener.0.0.0.0_80.http.0.0.0.0_81.downstream_rq_x"),
        of("listener.0.0.0.0_80.http.downstream_rq_x", "prefix=0.0.0.0_81")
    );
    assert_eq!(labels("http.a.x"), of("http.a.x", ""));
}

#[test]
fn filters_of_requests_are_bounded() {
    let mut query = StatQuery::default();
    for wrong in ["(", "a{1000}{1000}{1000}", "[", "(?=a)", &"a".repeat(10_000)] {
        assert!(query.set_filter(wrong).is_err());
    }
    let all = all();
    let rules = StatRules::default();
    for _ in 0..500 {
        let random: String =
            (0..fastrand::usize(..40)).map(|_| fastrand::char('\0'..'\u{3000}')).collect();
        let _ = query.set_filter(&random);
        query.inverted = fastrand::bool();
        let chosen = query.select(&rules, &all);
        assert!(chosen.len() <= all.len());
    }
}

#[test]
fn mistakes_of_a_bootstrap_are_found_when_it_is_loaded() {
    let options = LoadOptions::from(UnknownFields::Refuse);
    let text = "stats_config: { stats_tags: [{ tag_name: x }, { tag_name: y, regex: '(?<=a)b' }] }";
    let loaded = load::load_text(Path::new("e.yaml"), text.into(), &options);
    let found: Vec<(String, bool)> = loaded
        .diags
        .iter()
        .map(|found| (found.path.clone(), found.severity == sluice_core::Severity::Error))
        .collect();
    assert!(found.contains(&("stats_config.stats_tags[0].tag_name".into(), true)), "{found:?}");
    assert!(found.contains(&("stats_config.stats_tags[1].regex".into(), false)), "{found:?}");
}
