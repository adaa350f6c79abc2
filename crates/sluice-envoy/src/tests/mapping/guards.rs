//! Guards against load.

use super::*;

const FIRST: &str = "listeners/0/chains/0/http/filters/2";

fn with(filter: &str) -> String {
    hcm(
        &format!(
            "http_filters: [{{ name: f, typed_config: {{ '@type': t/envoy.extensions.filters.http.{filter} }} }}, ROUTER]"
        ),
        "{ match: { prefix: / }, route: { cluster: a } }",
    )
}

#[track_caller]
fn has(filter: &str, values: &[(&str, &str)]) {
    let paths: Vec<String> = values.iter().map(|(path, _)| format!("{FIRST}/{path}")).collect();
    let values = paths.iter().zip(values).map(|(path, (_, value))| (&**path, *value));
    expect(&with(filter), &values.collect::<Vec<_>>());
}

#[test]
fn adaptive_concurrency_has_the_settings_of_the_gradient_controller() {
    let filter = |more: &str, ideal: &str| {
        format!(
            "adaptive_concurrency.v3.AdaptiveConcurrency, gradient_controller_config: {{ sample_aggregate_percentile: {{ value: 90 }}, \
             concurrency_limit_params: {{ max_concurrency_limit: 200, concurrency_update_interval: 0.1s }}, min_rtt_calc_params: {{ {ideal} }} }}{more}"
        )
    };
    let measured = "interval: 30s, request_count: 20, jitter: { value: 5 }, min_concurrency: 4, buffer: { value: 10 }";
    has(
        &filter(", concurrency_limit_exceeded_status: { code: 429 }", measured),
        &[
            ("adaptive_concurrency/percentile", "90%"),
            ("adaptive_concurrency/max", "200"),
            ("adaptive_concurrency/min", "4"),
            ("adaptive_concurrency/interval", "100ms"),
            ("adaptive_concurrency/tolerance", "10%"),
            ("adaptive_concurrency/measure/every", "30s"),
            ("adaptive_concurrency/measure/requests", "20"),
            ("adaptive_concurrency/measure/jitter", "5%"),
            ("adaptive_concurrency/status", "429"),
        ],
    );
    has(&filter("", "fixed_value: 0.02s"), &[("adaptive_concurrency/ideal", "20ms")]);
    differs(&with(&filter("", measured)), "a latency ends with");
    let off = with(&filter(", enabled: { default_value: false, runtime_key: a }", measured));
    assert_eq!(at(&load(&off).0.unwrap(), &format!("{FIRST}/adaptive_concurrency/min")), None);
    refused(&with(&filter("", "interval: 30s, buffer: { value: 0.5 }")), "only whole percentages");
}

#[test]
fn admission_control_counts_the_same_failures() {
    let filter = |criteria: &str| {
        format!(
            "admission_control.v3.AdmissionControl, success_criteria: {{ {criteria} }}, sampling_window: 10s, aggression: {{ default_value: 1.5, runtime_key: a }}, \
             sr_threshold: {{ default_value: {{ value: 90 }}, runtime_key: b }}, rps_threshold: {{ default_value: 5, runtime_key: c }}, max_rejection_probability: {{ default_value: {{ value: 50 }}, runtime_key: d }}"
        )
    };
    let http = "http_criteria: { http_success_status: [{ start: 100, end: 400 }, { start: 404, end: 405 }] }";
    has(
        &filter(http),
        &[
            ("admission_control/window", "10s"),
            ("admission_control/aggression", "1.5"),
            ("admission_control/threshold", "90%"),
            ("admission_control/min_rate", "5"),
            ("admission_control/max_refused", "50%"),
            ("admission_control/failures", "400-403 405-499"),
        ],
    );
    let grpc = "grpc_criteria: { grpc_success_status: [0, 1, 2, 3, 5, 6, 7, 9, 11, 12, 16] }";
    has(&filter(grpc), &[("admission_control/window", "10s")]);
    has(
        &filter("grpc_criteria: { grpc_success_status: [0, 1] }"),
        &[("admission_control/grpc_failures", "2 3 4 5 6 7 8 9 10 11 12 13 14 15 16")],
    );
    for (criteria, expected) in [
        ("grpc_criteria: { grpc_success_status: [1] }", "OK is always a success"),
        (
            "http_criteria: { http_success_status: [{ start: 200, end: 600 }] }",
            "statuses from 500 are failures",
        ),
    ] {
        refused(&with(&filter(criteria)), expected);
    }
}

#[test]
fn bandwidth_has_a_second_at_once_and_is_on_where_it_says_so() {
    let filter = |mode: &str| {
        format!(
            "bandwidth_limit.v3.BandwidthLimit, stat_prefix: a, enable_mode: {mode}, limit_kbps: 500, fill_interval: 0.1s"
        )
    };
    has(
        &filter("REQUEST_AND_RESPONSE"),
        &[
            ("bandwidth_limit/request", "500KiB/s"),
            ("bandwidth_limit/response", "500KiB/s"),
            ("bandwidth_limit/burst", "500KiB"),
            ("bandwidth_limit/interval", "100ms"),
        ],
    );
    let only = load(&with(&filter("RESPONSE"))).0.unwrap();
    assert_eq!(at(&only, &format!("{FIRST}/bandwidth_limit/request")), None);
    refused(
        &with(&format!("{}, enable_response_trailers: true", filter("REQUEST"))),
        "enable_response_trailers",
    );
    let off = "bandwidth_limit.v3.BandwidthLimit, stat_prefix: a";
    let below = format!("{{ '@type': t/envoy.extensions.filters.http.{} }}", filter("RESPONSE"));
    let text = hcm(
        &format!(
            "http_filters: [{{ name: f, typed_config: {{ '@type': t/envoy.extensions.filters.http.{off} }} }}, ROUTER]"
        ),
        &format!(
            "{{ match: {{ prefix: / }}, route: {{ cluster: a }}, typed_per_filter_config: {{ f: {below} }} }}"
        ),
    );
    expect(
        &text,
        &[
            (&format!("{FIRST}/bandwidth_limit/response"), "500KiB/s"),
            ("routes/t/0/filters/bandwidth_limit", "skip"),
            ("routes/t/0/rules/0/filters/bandwidth_limit/burst", "500KiB"),
        ],
    );
}
