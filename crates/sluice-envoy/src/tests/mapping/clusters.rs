//! Clusters.

use super::*;

#[test]
fn a_cluster_has_envoys_defaults() {
    expect(
        &cluster(""),
        &[
            ("clusters/a/connect_timeout", "5s"),
            ("clusters/a/balance", "round_robin"),
            ("clusters/a/outlier", "none"),
            ("clusters/a/failover/overprovisioning", "140%"),
            ("clusters/a/failover/panic", "50%"),
            ("clusters/a/limits/connections", "1024"),
            ("clusters/a/limits/pending", "1024"),
            ("clusters/a/limits/requests", "1024"),
            ("clusters/a/limits/retries", "3"),
            ("clusters/a/limits/retry_share", "0%"),
            ("clusters/a/endpoints/0/address", "127.0.0.1:80"),
            ("clusters/a/reuse/idle_timeout", "1h"),
        ],
    );
}

#[test]
fn fields_of_clusters() {
    let dns = "load_assignment: { cluster_name: a, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: app.test, port_value: 80 } } } }] }] }";
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("connect_timeout: 0.25s", &[("connect_timeout", "250ms")]),
        ("lb_policy: LEAST_REQUEST", &[("balance", "least_request")]),
        (
            "lb_policy: ring_hash, ring_hash_lb_config: { minimum_ring_size: 2048 }",
            &[("balance/ring_hash/min_size", "2048")],
        ),
        ("lb_policy: MAGLEV", &[("balance", "maglev")]),
        (
            "lrs_report_endpoint_metrics: [cpu_utilization, named_metrics.queue]",
            &[("report_metrics/0", "cpu_utilization"), ("report_metrics/1", "named_metrics.queue")],
        ),
        (
            "load_assignment: { cluster_name: a, policy: { drop_overloads: [{ category: lb, drop_percentage: { numerator: 125, denominator: TEN_THOUSAND } }, { category: more, drop_percentage: { numerator: 2 } }] }, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 80 } } } }] }] }",
            &[("drop/lb", "1.25%"), ("drop/more", "2%")],
        ),
        (
            &format!(
                "type: STRICT_DNS, health_checks: [{{ timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {{}} }}], {dns}"
            ),
            &[("health/keep_removed", "true")],
        ),
        (
            "lb_policy: MAGLEV, common_lb_config: { close_connections_on_host_set_change: true, consistent_hashing_lb_config: { use_hostname_for_hashing: true, hash_balance_factor: 150 } }",
            &[
                ("balance/maglev/by_host", "true"),
                ("balance/maglev/max_load", "150%"),
                ("reuse/across_changes", "false"),
            ],
        ),
        (
            "load_balancing_policy: { policies: [{ typed_extension_config: { name: x, typed_config: { '@type': t/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest, choice_count: 3 } } }] }",
            &[("balance/least_request/choices", "3")],
        ),
        (
            &format!("type: STRICT_DNS, dns_lookup_family: V4_ONLY, {dns}"),
            &[
                ("dns/mode", "strict"),
                ("dns/family", "v4"),
                ("dns/refresh", "5s"),
                ("endpoints/0/address", "app.test:80"),
            ],
        ),
        (
            &format!("type: LOGICAL_DNS, respect_dns_ttl: true, {dns}"),
            &[("dns/mode", "logical"), ("dns/refresh", "ttl"), ("dns/family", "v6_preferred")],
        ),
        (
            "circuit_breakers: { thresholds: [{ max_connections: 5, max_retries: 0 }, { priority: HIGH, max_requests: 7 }] }",
            &[
                ("limits/connections", "5"),
                ("limits/retries", "0"),
                ("limits/requests", "1024"),
                ("limits/high/requests", "7"),
            ],
        ),
        (
            "load_assignment: { cluster_name: a, endpoints: [{ lb_endpoints: [{ health_status: DEGRADED, endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 80 } } } }, { health_status: TIMEOUT, endpoint: { address: { socket_address: { address: 127.0.0.2, port_value: 80 } } } }, { health_status: DRAINING, endpoint: { address: { socket_address: { address: 127.0.0.3, port_value: 80 } } } }] }] }",
            &[
                ("endpoints/0/status", "degraded"),
                ("endpoints/1/status", "unhealthy"),
                ("endpoints/2/status", "draining"),
            ],
        ),
        (
            "load_assignment: { cluster_name: a, endpoints: [{ locality: { zone: 'a/b' }, load_balancing_weight: 2, lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 80 } } } }] }, { locality: { zone: c }, lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.2, port_value: 80 } } } }] }] }, common_lb_config: { locality_weighted_lb_config: {} }",
            &[("localities/a_b", "2"), ("endpoints/0/locality", "a_b")],
        ),
        (
            "load_balancing_policy: { policies: [{ typed_extension_config: { name: x, typed_config: { '@type': t/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin, weight_update_period: 2s, error_utilization_penalty: 0.5, metric_names_for_computing_utilization: [named_metrics.q] } } }] }",
            &[
                ("balance/load_reports/blackout", "10s"),
                ("balance/load_reports/expiry", "3m"),
                ("balance/load_reports/update", "2s"),
                ("balance/load_reports/error_penalty", "0.5"),
                ("balance/load_reports/metrics", "named_metrics.q"),
            ],
        ),
        (
            "preconnect_policy: { per_upstream_preconnect_ratio: 1.5, predictive_preconnect_ratio: 2.25 }",
            &[("preconnect/per_endpoint", "150%"), ("preconnect/predicted", "225%")],
        ),
        (
            "lb_policy: MAGLEV, preconnect_policy: { per_upstream_preconnect_ratio: 2, predictive_preconnect_ratio: 2 }",
            &[("preconnect/per_endpoint", "200%"), ("balance", "maglev")],
        ),
        (
            "outlier_detection: { consecutive_5xx: 3 }",
            &[
                ("outlier/consecutive_5xx", "3"),
                ("outlier/consecutive_gateway_errors", "5"),
                ("outlier/enforce/consecutive_gateway_errors", "0%"),
                ("outlier/max_ejected", "10%"),
                ("outlier/connect_failures_as_503", "true"),
                ("outlier/success_rate/stdev_factor", "1.900"),
            ],
        ),
        (
            "health_checks: [{ timeout: 1s, interval: 2s, unhealthy_threshold: 3, healthy_threshold: 2, http_health_check: { path: /ok, expected_statuses: [{ start: 200, end: 300 }] } }]",
            &[
                ("health/http/path", "/ok"),
                ("health/http/expect", "200-299"),
                ("health/interval", "2s"),
                ("health/no_traffic_interval", "60s"),
                ("health/jitter", "0%"),
            ],
        ),
        (
            "typed_extension_protocol_options: { x: { '@type': t/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: { initial_stream_window_size: 65536 } } } }",
            &[
                ("protocol", "http2"),
                ("http2/stream_window", "65536"),
                ("http2/ping_interval", "none"),
            ],
        ),
        (
            "typed_extension_protocol_options: { x: { '@type': t/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, use_downstream_protocol_config: {} } }",
            &[("protocol", "same")],
        ),
        ("http2_protocol_options: {}", &[("protocol", "http2")]),
        (
            "common_http_protocol_options: { max_stream_duration: 9s }",
            &[("max_stream_duration", "9s")],
        ),
        (
            "typed_extension_protocol_options: { x: { '@type': t/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: { max_stream_duration: 0s }, explicit_http_config: { http_protocol_options: {} } } }",
            &[("max_stream_duration", "none")],
        ),
        (
            "transport_socket: { name: tls, typed_config: { '@type': t/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: a.test } }",
            &[("tls/sni", "a.test"), ("tls/verify", "none")],
        ),
        (
            "transport_socket: { name: tls, typed_config: { '@type': t/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: a.test, common_tls_context: { validation_context: { trusted_ca: { filename: ca.pem }, match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: a.test } }] } } } }",
            &[("tls/ca", "ca.pem"), ("tls/sni", "a.test"), ("tls/names", "dns:a.test")],
        ),
        (
            "transport_socket: { name: tls, typed_config: { '@type': t/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: { validation_context: { trusted_ca: { filename: ca.pem }, match_typed_subject_alt_names: [{ san_type: URI, matcher: { exact: 'spiffe://m/a' } }, { san_type: IP_ADDRESS, matcher: { exact: 10.0.0.1 } }] } } } }",
            &[("tls/ca", "ca.pem"), ("tls/names", "uri:spiffe://m/a ip:10.0.0.1")],
        ),
        ("load_assignment: { cluster_name: a }", &[("allow_empty", "true")]),
    ];
    for (fields, expected) in cases {
        let expected: Vec<(String, &str)> =
            expected.iter().map(|(path, value)| (format!("clusters/a/{path}"), *value)).collect();
        let expected: Vec<(&str, &str)> =
            expected.iter().map(|(path, value)| (path.as_str(), *value)).collect();
        expect(&cluster(fields), &expected);
    }
}

#[test]
fn what_clusters_cannot_do_yet() {
    for (fields, expected) in [
        (
            "type: EDS",
            "static_resources.clusters[0].eds_cluster_config: a cluster of the type EDS needs `eds_config`",
        ),
        ("connect_timeout: 0.0001s", "whole milliseconds"),
        (
            "transport_socket_matches: [{ name: a }]",
            "`transport_socket` of envoy.config.cluster.v3.Cluster.TransportSocketMatch",
        ),
        (
            "type: STATIC, load_assignment: { cluster_name: a, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: app.test, port_value: 80 } } } }] }] }",
            "is not an IP address",
        ),
        (
            "transport_socket: { name: x, typed_config: { '@type': t/envoy.extensions.transport_sockets.alts.v3.Alts, handshaker_service: a } }",
            "envoy.extensions.transport_sockets.alts.v3.Alts is not supported",
        ),
        (
            "transport_socket: { name: tls, typed_config: { '@type': t/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: { validation_context: { trusted_ca: { filename: ca.pem }, match_typed_subject_alt_names: [{ san_type: URI, matcher: { safe_regex: { regex: a } } }] } } } }",
            "only `exact` and `prefix` are",
        ),
        (
            "transport_socket: { name: tls, typed_config: { '@type': t/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: { validation_context: { verify_certificate_hash: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa] } } } }",
            "`verify_certificate_hash` of",
        ),
    ] {
        refused(&cluster(fields), expected);
    }
}

#[test]
fn limits_of_high_priority_are_written_where_something_asks_for_them() {
    let path = "clusters/a/limits/high/requests";
    let (root, found) = load(&route(""));
    assert_eq!(at(&root.unwrap(), path), None);
    assert!(!found.iter().any(|one| one.contains("high")), "{found:#?}");
    expect(&route(", priority: HIGH"), &[(path, "1024")]);
}

#[test]
fn clusters_of_clusters() {
    let aggregate = |clusters: &str| {
        let name = "envoy.extensions.clusters.aggregate.v3.ClusterConfig";
        cluster("").replace("clusters: [{ name: a", &format!(
            "clusters: [{{ name: g, lb_policy: CLUSTER_PROVIDED, cluster_type: {{ name: envoy.clusters.aggregate, typed_config: {{ '@type': t/{name}, clusters: [{clusters}] }} }} }}, {{ name: b, load_assignment: {{ cluster_name: b }} }}, {{ name: a"
        ))
    };
    expect(
        &aggregate("b, a"),
        &[("clusters/g/fallback", "b a"), ("clusters/g/allow_empty", "true")],
    );
    differs(&aggregate("b, a"), "Envoy moves it from one to the next by shares");
    refused(&aggregate("c"), "there is no cluster `c`");
}
