//! The metrics of clusters.

sluice_telemetry::metrics! {
    CONNECTIONS = "sluice_cluster_connections_total", Counter, ["cluster"], "Connections made to endpoints of the cluster.";
    ACTIVE = "sluice_cluster_connections_active", Gauge, ["cluster"], "Open connections to endpoints of the cluster.";
    FAILURES = "sluice_cluster_connect_failures_total", Counter, ["cluster", "reason"], "Failed attempts to connect to an endpoint.";
    FORWARD_HOSTS = "sluice_cluster_forward_hosts", Gauge, ["cluster"], "Hosts that clients have named and the cluster knows, looked up or not.";
    EGRESS_DENIALS = "sluice_cluster_egress_denials_total", Counter, ["cluster"], "Connections, flows and requests to addresses that `egress` of the cluster denies.";
    BREAKER_REFUSALS = "sluice_cluster_breaker_refusals_total", Counter, ["cluster", "limit"], "Connections, requests and retries that a limit of the cluster refused, by limit: connections, connections_per_endpoint, requests, requests_per_endpoint, queue, pending, retries, forward_hosts or forward_lookups.";
    DROPPED = "sluice_cluster_dropped_total", Counter, ["cluster", "category"], "Connections, flows and requests that `drop` of the cluster dropped, by category.";
    QUEUED = "sluice_cluster_queued_total", Counter, ["cluster", "result"], "Connections and requests that waited in the queue of the cluster, by result: served, timeout, unusable (no endpoint was left) or left (the client gave up, or another timeout came first).";
    QUEUE_TIME = "sluice_cluster_queue_seconds", Histogram, ["cluster"], "Time that connections and requests waited in the queue of the cluster, whatever the result.";
    FALLBACKS = "sluice_cluster_fallbacks_total", Counter, ["cluster"], "Connections, flows and requests that found no usable endpoint in the cluster and went on to its `fallback`.";
    CONNECT_TIME = "sluice_cluster_connect_seconds", Histogram, ["cluster"], "Time to connect to an endpoint, TLS included.";
    ENDPOINT_CONNECTIONS = "sluice_endpoint_connections_total", Counter, ["cluster", "endpoint"], "Connections made to the endpoint; endpoints beyond the limit `endpoint_series` share the label `other`.";
    ENDPOINTS = "sluice_cluster_endpoints", Gauge, ["cluster", "state"], "Endpoints of the cluster, by state: healthy, unhealthy or ejected.";
    OVERRIDDEN = "sluice_cluster_endpoints_overridden", Gauge, ["cluster"], "Endpoints whose state or weight an operator has overridden, members of the cluster or not.";
    CHECKS = "sluice_health_checks_total", Counter, ["cluster", "result"], "Active health checks, by result.";
    HEALTH_CHANGES = "sluice_health_changes_total", Counter, ["cluster", "to"], "Endpoints that became healthy or unhealthy, by the new state.";
    LOAD_REPORTS = "sluice_cluster_load_reports_total", Counter, ["cluster", "result"], "Reports of load (ORCA) with responses of endpoints, for the balancer load_reports, by result: used, incomplete (without requests per second or utilization) or malformed.";
    EJECTIONS = "sluice_cluster_ejections_total", Counter, ["cluster", "kind"], "Ejections of endpoints, by what became of their traffic: connect_failures, consecutive_5xx, consecutive_gateway_errors, success_rate, failure_percentage, connect_success_rate, connect_failure_percentage, silence or latency.";
    NOT_ENFORCED = "sluice_cluster_ejections_not_enforced_total", Counter, ["cluster", "kind"], "Faults for which endpoints were not ejected because `enforce` is below 100 %, by the same kinds.";
    SESSIONS = "sluice_cluster_sessions_total", Counter, ["cluster", "result"], "Connections and requests of sticky sessions, by result: kept (the session's endpoint), moved (another, as it could not be used), refused (`strict`); and forgotten: sources that were forgotten early, at the limit `source_table_entries`.";
    SUBSET_PICKS = "sluice_cluster_subset_picks_total", Counter, ["cluster", "result"], "Connections, flows and requests to a cluster with subsets, by result: selected (the subset that was asked for), fallback (what the subsets say instead), refused.";
    BALANCER_FAILURES = "sluice_cluster_balancer_failures_total", Counter, ["cluster"], "Connections, flows and requests for which a balancer of a loaded library failed or chose an endpoint that cannot be used; they went to another, in turn.";
    SUBSETS = "sluice_cluster_subsets", Gauge, ["cluster", "state"], "Subsets of the cluster, by state: made, or left_out because there would be more than `limits.subsets`.";
    LOOKUPS = "sluice_dns_lookups_total", Counter, ["cluster", "result"], "DNS look-ups of the cluster's host names, by result: ok, or what went wrong (no_data, nxdomain, servfail, refused, timeout, unreachable, denied, failed); those that returned more addresses than `limits.resolved_addresses` also count as too_many.";
}
