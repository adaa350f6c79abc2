//! What is counted about clusters.

sluice_telemetry::metrics! {
    CONNECTIONS = "sluice_cluster_connections_total", Counter, ["cluster"], "Connections made to endpoints of the cluster.";
    ACTIVE = "sluice_cluster_connections_active", Gauge, ["cluster"], "Connections to endpoints of the cluster that are open.";
    FAILURES = "sluice_cluster_connect_failures_total", Counter, ["cluster", "reason"], "Attempts to connect to an endpoint that failed.";
    CONNECT_TIME = "sluice_cluster_connect_seconds", Histogram, ["cluster"], "Time to connect to an endpoint, TLS included.";
    ENDPOINT_CONNECTIONS = "sluice_endpoint_connections_total", Counter, ["cluster", "endpoint"], "Connections made to the endpoint; beyond the limit `endpoint_series` endpoints share `other`.";
    ENDPOINTS = "sluice_cluster_endpoints", Gauge, ["cluster", "state"], "Endpoints of the cluster: healthy, unhealthy or ejected.";
    CHECKS = "sluice_health_checks_total", Counter, ["cluster", "result"], "Active checks, by result.";
    EJECTIONS = "sluice_cluster_ejections_total", Counter, ["cluster"], "Times an endpoint was put aside for failing connections.";
    LOOKUPS = "sluice_dns_lookups_total", Counter, ["cluster", "result"], "Look-ups of the cluster's host names, by result.";
}
