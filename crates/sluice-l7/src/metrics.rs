//! What is counted about requests.

sluice_telemetry::metrics! {
    REQUESTS = "sluice_http_requests_total", Counter, ["listener", "protocol", "class"], "Requests answered, by class of status; `none` were given up without an answer.";
    ACTIVE = "sluice_http_requests_active", Gauge, ["listener"], "Requests under way.";
    TIME = "sluice_http_request_seconds", Histogram, ["listener"], "Time from the head of a request to the end of its answer.";
    ENDED = "sluice_http_requests_ended_total", Counter, ["listener", "reason"], "Requests ended, by reason.";
    ROUTE_REQUESTS = "sluice_route_requests_total", Counter, ["route", "class"], "Requests by rule and class of status; beyond the limit `route_series` rules share `other`.";
    CLUSTER_REQUESTS = "sluice_cluster_requests_total", Counter, ["cluster", "class"], "Requests that a cluster answered, by class of status; `none` got no answer.";
    CLUSTER_TIME = "sluice_cluster_request_seconds", Histogram, ["cluster"], "Time from the first byte to an endpoint to the head of its answer.";
    RETRIES = "sluice_cluster_retries_total", Counter, ["cluster", "result"], "Further tries: made, or left out because of the limit on retries.";
    ENDPOINT_REQUESTS = "sluice_endpoint_requests_total", Counter, ["cluster", "endpoint", "class"], "Requests that an endpoint answered, by class of status; beyond the limit `endpoint_series` endpoints share `other`.";
    ENDPOINT_TIME = "sluice_endpoint_request_seconds", Histogram, ["cluster", "endpoint"], "Time from the first byte to an endpoint to the head of its answer; beyond the limit `endpoint_series` endpoints share `other`.";
    POOLED = "sluice_cluster_connections_reused_total", Counter, ["cluster"], "Requests that went over a connection that was there.";
    FILTER_REPLIES = "sluice_http_filter_replies_total", Counter, ["listener", "filter"], "Requests that a filter answered.";
    QUIC_RETRIES = "sluice_listener_quic_retries_total", Counter, ["listener"], "Clients of QUIC that were asked to show that they are where they say.";
    QUIC_UNKNOWN_VERSIONS = "sluice_listener_quic_unknown_versions_total", Counter, ["listener"], "Packets of clients that speak a version of QUIC which Sluice does not; they were told to use version 1.";
    QUIC_PACKETS = "sluice_listener_quic_packets_sent_total", Counter, ["listener"], "Packets of QUIC sent to clients, counted when a connection ends.";
    QUIC_LOST = "sluice_listener_quic_packets_lost_total", Counter, ["listener"], "Those of them that were held to be lost.";
    QUIC_MIGRATIONS = "sluice_listener_quic_migrations_total", Counter, ["listener"], "Times that clients of QUIC moved to another address and showed that they are there, counted when a connection ends.";
    QUIC_RTT = "sluice_listener_quic_rtt_seconds", Histogram, ["listener"], "Round trip to clients of QUIC, as it was when their connections ended.";
    QUIC_EARLY = "sluice_listener_quic_early_connections_total", Counter, ["listener"], "Connections of QUIC on which requests came before the handshake had ended (0-RTT).";
    FAULTS = "sluice_http_protocol_errors_total", Counter, ["listener", "detail"], "Messages of clients that were refused, by what was wrong.";
}
