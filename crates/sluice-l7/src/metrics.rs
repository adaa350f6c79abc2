//! The metrics of requests.

sluice_telemetry::metrics! {
    REQUESTS = "sluice_http_requests_total", Counter, ["listener", "protocol", "class"], "Requests ended, by class of the response status; `none` ended without a response.";
    ACTIVE = "sluice_http_requests_active", Gauge, ["listener"], "Requests in flight.";
    TIME = "sluice_http_request_seconds", Histogram, ["listener"], "Time from the request headers to the end of the response.";
    ENDED = "sluice_http_requests_ended_total", Counter, ["listener", "reason"], "Requests ended, by reason.";
    ROUTE_REQUESTS = "sluice_route_requests_total", Counter, ["route", "class"], "Requests by rule and class of the response status; rules beyond the limit `route_series` share `other`.";
    CLUSTER_REQUESTS = "sluice_cluster_requests_total", Counter, ["cluster", "class"], "Requests sent to a cluster, each retry counted, by class of the response status; `none` got no response.";
    CLUSTER_STATUSES = "sluice_cluster_responses_total", Counter, ["cluster", "status"], "Responses of the endpoints of a cluster, those that were retried included, by status; each worker gives the first 64 statuses of a cluster their own series, and further ones share `other`.";
    CLUSTER_TIME = "sluice_cluster_request_seconds", Histogram, ["cluster"], "Time from the first byte sent to an endpoint to its response headers.";
    RETRIES = "sluice_cluster_retries_total", Counter, ["cluster", "result"], "Retries: `made`, or refused because of the `limit` on retries.";
    RETRY_RULES = "sluice_cluster_retry_rules_total", Counter, ["cluster", "rule"], "Retries made, by the condition of `retry` that covered the failure or response; `unsent` and `stale` are also retried without one.";
    HEDGES = "sluice_cluster_hedged_requests_total", Counter, ["cluster", "first"], "Requests with an attempt that was late and went on (`retry.hedge`), by the attempt that responded first: the `late` one, the `retry`, or `none`.";
    ENDPOINT_REQUESTS = "sluice_endpoint_requests_total", Counter, ["cluster", "endpoint", "class"], "Requests sent to an endpoint, by class of the response status; endpoints beyond the limit `endpoint_series` share `other`.";
    ENDPOINT_TIME = "sluice_endpoint_request_seconds", Histogram, ["cluster", "endpoint"], "Time from the first byte sent to an endpoint to its response headers; endpoints beyond the limit `endpoint_series` share `other`.";
    POOLED = "sluice_cluster_connections_reused_total", Counter, ["cluster"], "Requests sent over an existing connection.";
    HTTP3_ATTEMPTS = "sluice_cluster_http3_attempts_total", Counter, ["cluster", "result"], "Attempts to connect over HTTP/3 where TCP may be used as well, by result: established (before TCP was used), late (requests had gone over TCP meanwhile), failed, or limit (the limits of the cluster allowed no connection).";
    ALT_SVC = "sluice_cluster_alt_svc_total", Counter, ["cluster", "result"], "Responses whose `alt-svc` changed what is known of HTTP/3 at an endpoint: learned or cleared; and those from which nothing could be used: ignored (another host or protocol, or malformed).";
    PRECONNECTS = "sluice_cluster_preconnects_total", Counter, ["cluster", "result"], "Connections made ahead of requests (`preconnect`), by result: made, failed, or limit (the limits of the cluster allowed none).";
    EARLY_DATA = "sluice_cluster_early_data_total", Counter, ["cluster", "result"], "Connections to endpoints on which a request was sent before the handshake was complete (0-RTT), by result: accepted, rejected (the endpoint took none of it, and the request was sent again), or failed (the handshake failed); and too_early, responses with status 425 after which such a request was sent again.";
    MIRRORS = "sluice_cluster_mirrored_requests_total", Counter, ["cluster", "result"], "Copies of requests for a cluster (`mirror`): the class of the response status, the reason for the failure, or why it was not sent: `too_large`, `limit`, `buffers`, or `incomplete` because the request ended first.";
    MIRRORS_UNNAMED = "sluice_http_mirrors_unnamed_total", Counter, ["listener", "result"], "Copies that were not made because of the header that names their cluster (`mirror.cluster_header`): it is `missing`, or names an `unknown` cluster.";
    SIDE_CALLS = "sluice_cluster_side_calls_total", Counter, ["cluster", "result"], "Requests of filters, and of the control thread, to a cluster: `answered`, `dropped` because the client left first, or the reason for the failure.";
    SIDE_CALL_TIME = "sluice_cluster_side_call_seconds", Histogram, ["cluster"], "Time from the request of a filter or of the control thread to the end of the response, or to the failure.";
    GRPC_CALLS = "sluice_grpc_calls_total", Counter, ["service", "method", "status"], "gRPC calls that the filter `grpc_stats` saw end, by status; `none` ended without one. Methods that are not listed, or beyond the limit `grpc_series`, share `other`.";
    GRPC_MESSAGES = "sluice_grpc_messages_total", Counter, ["service", "method", "direction"], "Messages of these calls: `request` or `response`.";
    RATE_SHADOWED = "sluice_http_rate_limit_shadowed_total", Counter, ["listener", "limit"], "Requests beyond a limit of the filter `rate_limit` that were let pass because it is not enforced for them.";
    CONCURRENCY = "sluice_http_concurrency_limit_total", Counter, ["listener", "limit", "result"], "Requests that found a limit of the filter `concurrency_limit` reached: `queued` if they waited, `timeout` if that was in vain, `refused` if they did not wait.";
    ADAPTIVE_STEPS = "sluice_adaptive_concurrency_steps_total", Counter, ["listener", "step"], "What became of a limit of the filter `adaptive_concurrency` after an interval with responses: `raised`, `lowered` or `kept`; and how often the ideal latency began to be measured again (`measuring`) and was measured (`measured`).";
    ADMISSION = "sluice_admission_control_requests_total", Counter, ["listener", "result"], "Requests at the filter `admission_control`: `success` or `failure` behind it, or `refused`.";
    JWT_TOKENS = "sluice_jwt_tokens_total", Counter, ["result"], "What became of tokens that the filter `jwt` looked at: `verified`, `known` because they had been verified before, or why they were refused, `jwt_missing` included, as in `response_code_details`.";
    OIDC_RESULTS = "sluice_oidc_results_total", Counter, ["result"], "What the filter `oidc` did with requests: let them pass with a `session`, one that was `renewed`, or a token that was `introspected` or `known`; began a `login`, ended one (`logged_in`), ended a session (`logged_out`); or why it refused them or a login, as in `response_code_details`.";
    EXT_AUTHZ = "sluice_ext_authz_decisions_total", Counter, ["listener", "decision"], "Requests that a service decided about (`ext_authz`): `allowed` or `denied`; `failed` if it did not in time.";
    EXT_PROC = "sluice_ext_proc_requests_total", Counter, ["listener", "result"], "Requests about which a service was asked that changes them (`ext_proc`): `processed`; `closed` if it ended the conversation before; `replied` if it responded itself; `failed`.";
    EXT_PROC_IGNORED = "sluice_ext_proc_ignored_changes_total", Counter, ["listener", "part"], "Changes of headers that the service of `ext_proc` may not make: of a `request`, a `response` or `trailers`.";
    GLOBAL_RATE = "sluice_global_rate_limit_decisions_total", Counter, ["listener", "decision"], "Requests and connections that a service for rate limits decided about (`global_rate_limit`): `allowed` or `limited`; `failed` if it did not in time.";
    INJECTED_FAULTS = "sluice_http_faults_total", Counter, ["listener", "fault"], "Faults that the filter `fault` injected: `delay`, `abort`, `response_rate`; `limit` for requests that got none because of `max_active`.";
    CORS = "sluice_cors_requests_total", Counter, ["listener", "result"], "Requests with an `origin` at the filter `cors`: its scripts may read the response (`allowed`), or not (`refused`).";
    CSRF = "sluice_csrf_requests_total", Counter, ["listener", "page"], "Requests at the filter `csrf` that change state, by the page that they come from: one that may make them (`known`), another one (`foreign`), or the request does not say (`unknown`).";
    FILTER_REPLIES = "sluice_http_filter_replies_total", Counter, ["listener", "filter"], "Requests that a filter replied to.";
    FAULTS = "sluice_http_protocol_errors_total", Counter, ["listener", "detail"], "Client messages that were refused, by what was wrong with them.";
}
