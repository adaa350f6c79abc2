//! Envoy's names of what Sluice counts.
//!
//! Owns: which series are which statistic. Refuses to know: values. Keeps: a row names a metric that exists (a test of the
//! program compares them); several rows of one name add up; what Sluice does not count has no row, so that no statistic is 0
//! although the thing happens.

use super::StatKind::{self, Counter, Gauge, Histogram};

/// What a statistic is about, which its name begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatScope {
    /// Everything.
    Process,
    /// `cluster.NAME.`
    Cluster,
    /// `listener.ADDRESS.`
    Listener,
    /// `listener.ADDRESS.worker_N.`
    ListenerWorker,
    /// `listener.ADDRESS.http.PREFIX.`
    ListenerHttp,
    /// `http.PREFIX.`, of requests.
    Http,
    /// `http.PREFIX.`, of connections.
    HttpConnections,
    /// `http.PREFIX.rbac.`, of rules that are enforced.
    Rbac,
    /// `http.PREFIX.rbac.`, of rules that are only counted.
    RbacShadow,
    /// `tcp.PREFIX.`
    Tcp,
    /// `udp.PREFIX.`
    Udp,
}

impl StatScope {
    /// The label of the series that says whose they are.
    pub const fn label(self) -> Option<&'static str> {
        match self {
            Self::Process => None,
            Self::Cluster => Some("cluster"),
            _ => Some("listener"),
        }
    }

    /// How its names begin, for the documentation.
    pub const fn pattern(self) -> &'static str {
        match self {
            Self::Process => "",
            Self::Cluster => "cluster.NAME.",
            Self::Listener => "listener.ADDRESS.",
            Self::ListenerHttp => "listener.ADDRESS.http.PREFIX.",
            Self::ListenerWorker => "listener.ADDRESS.worker_N.",
            Self::Http | Self::HttpConnections => "http.PREFIX.",
            Self::Rbac | Self::RbacShadow => "http.PREFIX.rbac.RULES",
            Self::Tcp => "tcp.PREFIX.",
            Self::Udp => "udp.PREFIX.",
        }
    }
}

/// Which series of a metric count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Those whose label has one of these values.
    Is(&'static str, &'static [&'static str]),
    /// Those whose label has none of these values.
    Not(&'static str, &'static [&'static str]),
    /// Those whose label is a number, which the name of the statistic ends with. For the documentation, it has a name.
    Each(&'static str, &'static [&'static str]),
}

impl Only {
    /// The label that decides.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Is(label, _) | Self::Not(label, _) | Self::Each(label, _) => label,
        }
    }

    /// Whether a series with this value of the label counts.
    pub fn takes(self, value: &str) -> bool {
        match self {
            Self::Is(_, values) => values.contains(&value),
            Self::Not(_, values) => !values.contains(&value),
            Self::Each(..) => !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()),
        }
    }
}

/// Series that are a statistic, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct StatRow {
    /// What it is about.
    pub scope: StatScope,
    /// Its name behind that.
    pub stat: &'static str,
    /// Its type.
    pub kind: StatKind,
    /// The metric.
    pub metric: &'static str,
    /// Which of its series: those that fit all of these.
    pub only: &'static [Only],
    /// Whether they are taken away from the others of this name.
    pub minus: bool,
    /// Whether the statistic appears only once something was counted.
    pub lazy: bool,
}

macro_rules! rows {
    ($($scope:ident { $($stat:literal $kind:ident = $($sign:tt $metric:literal $([$only:ident $label:literal: $($value:literal)+])*),+;)+ })+) => {
        /// Every row, by scope.
        pub const TABLE: &[StatRow] = &[
            $($($(StatRow {
                scope: StatScope::$scope,
                stat: $stat,
                kind: rows!(@kind $kind),
                metric: $metric,
                only: &[$(Only::$only($label, &[$($value),+])),*],
                minus: rows!(@minus $sign),
                lazy: rows!(@lazy $kind),
            },)+)+)+
        ];
    };
    (@kind counter) => { Counter };
    (@kind counter_if_any) => { Counter };
    (@kind gauge) => { Gauge };
    (@kind gauge_if_any) => { Gauge };
    (@kind histogram) => { Histogram };
    (@lazy counter_if_any) => { true };
    (@lazy gauge_if_any) => { true };
    (@lazy $other:ident) => { false };
    (@minus +) => { false };
    (@minus -) => { true };
}

rows! {
    Process {
        "control_plane.connected_state" gauge_if_any = + "sluice_xds_connected";
    }
    Cluster {
        "upstream_cx_total" counter = + "sluice_cluster_connections_total", + "sluice_cluster_connect_failures_total";
        "upstream_cx_active" gauge = + "sluice_cluster_connections_active";
        "upstream_cx_destroy" counter = + "sluice_cluster_connections_total", + "sluice_cluster_connect_failures_total", - "sluice_cluster_connections_active";
        "upstream_cx_connect_fail" counter = + "sluice_cluster_connect_failures_total";
        "upstream_cx_connect_timeout" counter = + "sluice_cluster_connect_failures_total" [Is "reason": "upstream.connect_timeout"];
        "upstream_cx_connect_ms" histogram = + "sluice_cluster_connect_seconds";
        "upstream_cx_overflow" counter = + "sluice_cluster_breaker_refusals_total" [Is "limit": "connections" "high.connections"];
        "upstream_rq_pending_overflow" counter = + "sluice_cluster_breaker_refusals_total" [Is "limit": "requests" "high.requests" "pending" "high.pending"];
        "upstream_rq_retry" counter = + "sluice_cluster_retries_total" [Is "result": "made"];
        "upstream_rq_retry_overflow" counter = + "sluice_cluster_retries_total" [Is "result": "limit"];
        "upstream_rq_total" counter = + "sluice_cluster_requests_total";
        "upstream_rq_completed" counter = + "sluice_cluster_requests_total" [Not "class": "none"];
        "upstream_rq_" counter_if_any = + "sluice_cluster_responses_total" [Each "status": "STATUS"];
        "upstream_rq_1xx" counter_if_any = + "sluice_cluster_requests_total" [Is "class": "1xx"];
        "upstream_rq_2xx" counter_if_any = + "sluice_cluster_requests_total" [Is "class": "2xx"];
        "upstream_rq_3xx" counter_if_any = + "sluice_cluster_requests_total" [Is "class": "3xx"];
        "upstream_rq_4xx" counter_if_any = + "sluice_cluster_requests_total" [Is "class": "4xx"];
        "upstream_rq_5xx" counter_if_any = + "sluice_cluster_requests_total" [Is "class": "5xx"];
        "upstream_rq_time" histogram = + "sluice_cluster_request_seconds";
        "membership_total" gauge = + "sluice_cluster_endpoints";
        "membership_healthy" gauge = + "sluice_cluster_endpoints" [Is "state": "healthy"];
        "circuit_breakers.default.cx_open" gauge_if_any = + "sluice_cluster_breaker_open" [Is "limit": "connections"];
        "circuit_breakers.default.rq_open" gauge_if_any = + "sluice_cluster_breaker_open" [Is "limit": "requests"];
        "circuit_breakers.default.rq_pending_open" gauge_if_any = + "sluice_cluster_breaker_open" [Is "limit": "pending"];
        "circuit_breakers.default.rq_retry_open" gauge_if_any = + "sluice_cluster_breaker_open" [Is "limit": "retries"];
        "circuit_breakers.default.remaining_cx" gauge_if_any = + "sluice_cluster_breaker_left" [Is "limit": "connections"];
        "circuit_breakers.default.remaining_rq" gauge_if_any = + "sluice_cluster_breaker_left" [Is "limit": "requests"];
        "circuit_breakers.default.remaining_pending" gauge_if_any = + "sluice_cluster_breaker_left" [Is "limit": "pending"];
        "circuit_breakers.default.remaining_retries" gauge_if_any = + "sluice_cluster_breaker_left" [Is "limit": "retries"];
        "circuit_breakers.high.cx_open" gauge_if_any = + "sluice_cluster_breaker_open" [Is "limit": "high.connections"];
        "circuit_breakers.high.rq_open" gauge_if_any = + "sluice_cluster_breaker_open" [Is "limit": "high.requests"];
        "circuit_breakers.high.rq_pending_open" gauge_if_any = + "sluice_cluster_breaker_open" [Is "limit": "high.pending"];
        "circuit_breakers.high.rq_retry_open" gauge_if_any = + "sluice_cluster_breaker_open" [Is "limit": "high.retries"];
        "outlier_detection.ejections_active" gauge_if_any = + "sluice_cluster_endpoints" [Is "state": "ejected"];
        "outlier_detection.ejections_enforced_total" counter_if_any = + "sluice_cluster_ejections_total";
        "outlier_detection.ejections_enforced_consecutive_5xx" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "consecutive_5xx"];
        "outlier_detection.ejections_enforced_consecutive_gateway_failure" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "consecutive_gateway_errors"];
        "outlier_detection.ejections_enforced_consecutive_local_origin_failure" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "connect_failures"];
        "outlier_detection.ejections_enforced_success_rate" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "success_rate"];
        "outlier_detection.ejections_enforced_failure_percentage" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "failure_percentage"];
        "outlier_detection.ejections_enforced_local_origin_success_rate" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "connect_success_rate"];
        "outlier_detection.ejections_enforced_local_origin_failure_percentage" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "connect_failure_percentage"];
        "outlier_detection.ejections_detected_consecutive_5xx" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "consecutive_5xx"], + "sluice_cluster_ejections_not_enforced_total" [Is "kind": "consecutive_5xx"];
        "outlier_detection.ejections_detected_consecutive_gateway_failure" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "consecutive_gateway_errors"], + "sluice_cluster_ejections_not_enforced_total" [Is "kind": "consecutive_gateway_errors"];
        "outlier_detection.ejections_detected_consecutive_local_origin_failure" counter_if_any = + "sluice_cluster_ejections_total" [Is "kind": "connect_failures"], + "sluice_cluster_ejections_not_enforced_total" [Is "kind": "connect_failures"];
        "health_check.attempt" counter_if_any = + "sluice_health_checks_total";
        "health_check.success" counter_if_any = + "sluice_health_checks_total" [Is "result": "ok"];
        "health_check.failure" counter_if_any = + "sluice_health_checks_total" [Not "result": "ok"];
        "update_attempt" counter_if_any = + "sluice_dns_lookups_total" [Not "result": "too_many"];
        "update_success" counter_if_any = + "sluice_dns_lookups_total" [Is "result": "ok"];
        "update_failure" counter_if_any = + "sluice_dns_lookups_total" [Not "result": "ok" "too_many"];
        "lb_subsets_active" gauge_if_any = + "sluice_cluster_subsets" [Is "state": "made"];
        "lb_subsets_selected" counter_if_any = + "sluice_cluster_subset_picks_total" [Is "result": "selected"];
        "lb_subsets_fallback" counter_if_any = + "sluice_cluster_subset_picks_total" [Is "result": "fallback"];
    }
    Listener {
        "downstream_cx_total" counter = + "sluice_listener_connections_accepted_total";
        "downstream_cx_active" gauge = + "sluice_listener_connections_active";
        "downstream_cx_destroy" counter = + "sluice_listener_connections_accepted_total", - "sluice_listener_connections_active";
        "downstream_pre_cx_timeout" counter = + "sluice_connections_ended_total" [Is "reason": "inspect.timeout"];
        "no_filter_chain_match" counter = + "sluice_connections_ended_total" [Is "reason": "chain.unmatched"];
        "ssl.handshake" counter_if_any = + "sluice_tls_handshakes_total" [Not "result": "failed"];
        "ssl.session_reused" counter_if_any = + "sluice_tls_handshakes_total" [Is "result": "resumed" "early"];
        "ssl.connection_error" counter_if_any = + "sluice_connections_ended_total" [Is "reason": "tls.protocol" "tls.alert" "tls.no_certificate"];
        "ssl.fail_verify_no_cert" counter_if_any = + "sluice_connections_ended_total" [Is "reason": "tls.client_cert_missing"];
        "ssl.fail_verify_error" counter_if_any = + "sluice_connections_ended_total" [Is "reason": "tls.client_cert_invalid"];
    }
    ListenerWorker {
        "downstream_cx_total" counter = + "sluice_listener_connections_accepted_total";
        "downstream_cx_active" gauge = + "sluice_listener_connections_active";
    }
    ListenerHttp {
        "downstream_rq_completed" counter = + "sluice_http_requests_total" [Not "class": "none"];
        "downstream_rq_1xx" counter = + "sluice_http_requests_total" [Is "class": "1xx"];
        "downstream_rq_2xx" counter = + "sluice_http_requests_total" [Is "class": "2xx"];
        "downstream_rq_3xx" counter = + "sluice_http_requests_total" [Is "class": "3xx"];
        "downstream_rq_4xx" counter = + "sluice_http_requests_total" [Is "class": "4xx"];
        "downstream_rq_5xx" counter = + "sluice_http_requests_total" [Is "class": "5xx"];
    }
    Http {
        "downstream_rq_total" counter = + "sluice_http_requests_total", + "sluice_http_requests_active";
        "downstream_rq_active" gauge = + "sluice_http_requests_active";
        "downstream_rq_completed" counter = + "sluice_http_requests_total" [Not "class": "none"];
        "downstream_rq_1xx" counter = + "sluice_http_requests_total" [Is "class": "1xx"];
        "downstream_rq_2xx" counter = + "sluice_http_requests_total" [Is "class": "2xx"];
        "downstream_rq_3xx" counter = + "sluice_http_requests_total" [Is "class": "3xx"];
        "downstream_rq_4xx" counter = + "sluice_http_requests_total" [Is "class": "4xx"];
        "downstream_rq_5xx" counter = + "sluice_http_requests_total" [Is "class": "5xx"];
        "downstream_rq_http1_total" counter = + "sluice_http_requests_total" [Is "protocol": "HTTP/1.0" "HTTP/1.1"];
        "downstream_rq_http2_total" counter = + "sluice_http_requests_total" [Is "protocol": "HTTP/2"];
        "downstream_rq_http3_total" counter = + "sluice_http_requests_total" [Is "protocol": "HTTP/3"];
        "downstream_rq_time" histogram = + "sluice_http_request_seconds";
        "downstream_rq_header_timeout" counter = + "sluice_http_requests_ended_total" [Is "reason": "http.head_timeout"];
        "downstream_rq_idle_timeout" counter = + "sluice_http_requests_ended_total" [Is "reason": "route.idle" "http.body_timeout"];
        "downstream_rq_overload_close" counter = + "sluice_http_requests_ended_total" [Is "reason": "http.memory"];
        "downstream_rq_rx_reset" counter = + "sluice_http_requests_ended_total" [Is "reason": "downstream.cancelled"];
        "downstream_rq_too_large" counter = + "sluice_http_requests_ended_total" [Is "reason": "http.body_too_large"];
        "downstream_cx_protocol_error" counter = + "sluice_http_protocol_errors_total";
        "no_cluster" counter = + "sluice_http_requests_ended_total" [Is "reason": "cluster.unknown"];
        "no_route" counter = + "sluice_http_requests_ended_total" [Is "reason": "route.unmatched"];
        "rs_too_large" counter = + "sluice_http_requests_ended_total" [Is "reason": "http.response_too_large"];
        "ext_authz.ok" counter_if_any = + "sluice_ext_authz_decisions_total" [Is "decision": "allowed"];
        "ext_authz.denied" counter_if_any = + "sluice_ext_authz_decisions_total" [Is "decision": "denied"];
        "ext_authz.error" counter_if_any = + "sluice_ext_authz_decisions_total" [Is "decision": "failed"];
        "cors.origin_valid" counter_if_any = + "sluice_cors_requests_total" [Is "result": "allowed"];
        "cors.origin_invalid" counter_if_any = + "sluice_cors_requests_total" [Is "result": "refused"];
        "csrf.request_valid" counter_if_any = + "sluice_csrf_requests_total" [Is "page": "known"];
        "csrf.request_invalid" counter_if_any = + "sluice_csrf_requests_total" [Is "page": "foreign"];
        "csrf.missing_source_origin" counter_if_any = + "sluice_csrf_requests_total" [Is "page": "unknown"];
        "fault.delays_injected" counter_if_any = + "sluice_http_faults_total" [Is "fault": "delay"];
        "fault.aborts_injected" counter_if_any = + "sluice_http_faults_total" [Is "fault": "abort"];
        "fault.response_rl_injected" counter_if_any = + "sluice_http_faults_total" [Is "fault": "response_rate"];
        "fault.faults_overflow" counter_if_any = + "sluice_http_faults_total" [Is "fault": "limit"];
    }
    Rbac {
        "allowed" counter = + "sluice_rbac_decisions_total" [Is "rules": "enforced"] [Is "result": "allowed"];
        "denied" counter = + "sluice_rbac_decisions_total" [Is "rules": "enforced"] [Is "result": "denied"];
    }
    RbacShadow {
        "shadow_allowed" counter = + "sluice_rbac_decisions_total" [Is "rules": "shadow"] [Is "result": "allowed"];
        "shadow_denied" counter = + "sluice_rbac_decisions_total" [Is "rules": "shadow"] [Is "result": "denied"];
    }
    HttpConnections {
        "downstream_cx_total" counter = + "sluice_chain_connections_total";
        "downstream_cx_active" gauge = + "sluice_listener_connections_active";
        "downstream_cx_destroy" counter = + "sluice_chain_connections_total", - "sluice_listener_connections_active";
        "downstream_cx_ssl_total" counter = + "sluice_tls_handshakes_total" [Not "result": "failed"];
        "downstream_cx_rx_bytes_total" counter = + "sluice_listener_received_bytes_total";
        "downstream_cx_tx_bytes_total" counter = + "sluice_listener_sent_bytes_total";
    }
    Tcp {
        "downstream_cx_total" counter = + "sluice_chain_connections_total";
        "downstream_cx_no_route" counter = + "sluice_connections_ended_total" [Is "reason": "cluster.unknown"];
        "downstream_cx_rx_bytes_total" counter = + "sluice_listener_received_bytes_total";
        "downstream_cx_tx_bytes_total" counter = + "sluice_listener_sent_bytes_total";
        "idle_timeout" counter = + "sluice_connections_ended_total" [Is "reason": "end.idle"];
        "max_downstream_connection_duration" counter = + "sluice_connections_ended_total" [Is "reason": "end.max_duration"];
    }
    Udp {
        "downstream_sess_total" counter = + "sluice_listener_flows_total";
        "downstream_sess_active" gauge = + "sluice_listener_flows_active";
        "downstream_sess_rx_datagrams" counter = + "sluice_flow_datagrams_total" [Is "result": "received"];
        "downstream_sess_tx_datagrams" counter = + "sluice_flow_datagrams_total" [Is "result": "sent"];
        "downstream_sess_tx_errors" counter = + "sluice_flow_datagrams_total" [Is "result": "dropped"];
        "downstream_sess_rx_bytes" counter = + "sluice_listener_received_bytes_total";
        "downstream_sess_tx_bytes" counter = + "sluice_listener_sent_bytes_total";
        "idle_timeout" counter = + "sluice_flows_ended_total" [Is "reason": "flow.idle"];
    }
}
