//! The metrics of loaded libraries.

sluice_telemetry::metrics! {
    INSTANCES = "sluice_module_requests_active", Gauge, ["listener", "filter"], "Requests in flight that a filter of a loaded library has a part in.";
    CONNECTIONS = "sluice_module_connections_active", Gauge, ["listener", "filter"], "Connections and flows that a connection filter of a loaded library has a part in.";
    RUNS = "sluice_module_calls_total", Counter, ["listener", "filter"], "Calls of hooks of filters of loaded libraries.";
    SECONDS = "sluice_module_seconds_total", Seconds, ["listener", "filter"], "Time that calls of hooks of filters of loaded libraries took.";
    FAILURES = "sluice_module_failures_total", Counter, ["listener", "filter"], "Hooks of filters of loaded libraries that failed, whether the request or connection failed with them or passed (`on_error`).";
    STALE_RESUMES = "sluice_module_stale_resumes_total", Counter, ["worker"], "Calls of `resume` by libraries for waits that were over, or that there never were. They had no effect.";
    COUNTS = "sluice_module_counts_total", Counter, ["filter", "counter"], "What filters of loaded libraries count, by the names that they give.";
}
