//! Taps.

use super::*;

/// A chain with a tap that has this condition, output and sink.
fn with(condition: &str, output: &str, sink: &str) -> String {
    hcm(
        &format!(
            "http_filters: [{{ name: f, typed_config: {{ '@type': t/envoy.extensions.filters.http.tap.v3.Tap, \
             common_config: {{ static_config: {{ {condition}, output_config: {{ {output} sinks: [{{ {sink} }}] }} }} }} }} }}, ROUTER]"
        ),
        "{ match: { prefix: / }, route: { cluster: a } }",
    )
}

const ANY: &str = "match: { any_match: true }";
const FILE: &str = "file_per_tap: { path_prefix: /t/a }";

#[test]
fn what_is_recorded_and_where() {
    let at = |path: &str| format!("listeners/0/chains/0/http/filters/2/tap/{path}");
    let (root, found) = load(&with(ANY, "", FILE));
    assert!(found.iter().all(|one| one.starts_with("warning")), "{found:#?}");
    let root = root.unwrap();
    for (path, value) in [
        ("file", Some("/t/a")),
        ("format", Some("json_bytes")),
        ("request_body", Some("1024")),
        ("response_body", Some("1024")),
        ("match", None),
        ("stream", None),
    ] {
        assert_eq!(super::at(&root, &at(path)).as_deref(), value, "{path}");
    }
    let output = "streaming: true, max_buffered_rx_bytes: 0, max_buffered_tx_bytes: 7,";
    expect(
        &with(ANY, output, &format!("format: PROTO_TEXT, {FILE}")),
        &[
            (&at("stream"), "true"),
            (&at("request_body"), "0"),
            (&at("response_body"), "7"),
            (&at("format"), "proto_text"),
        ],
    );
}

#[test]
fn which_requests_are_recorded() {
    let headers = |name: &str, value: &str| {
        format!("{{ headers: [{{ name: {name}, string_match: {{ prefix: {value} }} }}] }}")
    };
    let a = headers("X-A", "b");
    let twice = "{ headers: [{ name: a, string_match: { prefix: b } }, { name: a, string_match: { suffix: c } }] }";
    for (condition, path, value) in [
        (format!("http_request_headers_match: {a}"), "request_headers/x-a/prefix", "b"),
        (format!("http_response_headers_match: {a}"), "response_headers/x-a/prefix", "b"),
        (format!("http_request_trailers_match: {a}"), "request_trailers/x-a/prefix", "b"),
        (format!("http_response_trailers_match: {a}"), "response_trailers/x-a/prefix", "b"),
        (format!("http_request_headers_match: {twice}"), "all/0/request_headers/a/suffix", "c"),
        (
            format!("not_match: {{ http_request_headers_match: {a} }}"),
            "not/request_headers/x-a/prefix",
            "b",
        ),
        (
            format!(
                "or_match: {{ rules: [{{ any_match: true }}, {{ http_request_headers_match: {a} }}] }}"
            ),
            "any/1/request_headers/x-a/prefix",
            "b",
        ),
        (
            format!(
                "and_match: {{ rules: [{{ any_match: true }}, {{ http_request_headers_match: {a} }}] }}"
            ),
            "all/1/request_headers/x-a/prefix",
            "b",
        ),
        (
            "http_request_generic_body_match: { bytes_limit: 9, patterns: [{ string_match: a }] }"
                .into(),
            "request_body/within",
            "9",
        ),
        (
            "http_response_generic_body_match: { patterns: [{ binary_match: AP8= }] }".into(),
            "response_body/contains_hex/0",
            "00ff",
        ),
    ] {
        for field in ["match", "match_config"] {
            let path = format!("listeners/0/chains/0/http/filters/2/tap/match/{path}");
            expect(&with(&format!("{field}: {{ {condition} }}"), "", FILE), &[(&path, value)]);
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    for (sink, expected) in [
        ("streaming_admin: {}", "record to files"),
        ("buffered_admin: { max_traces: 1 }", "record to files"),
        (
            "streaming_grpc: { tap_id: a, grpc_service: { envoy_grpc: { cluster_name: a } } }",
            "record to files",
        ),
    ] {
        refused(&with(ANY, "", sink), expected);
    }
    let admin = "http_filters: [{ name: f, typed_config: { '@type': t/envoy.extensions.filters.http.tap.v3.Tap, \
                 common_config: { admin_config: { config_id: a } } } }, ROUTER]";
    let admin = hcm(admin, "{ match: { prefix: / }, route: { cluster: a } }");
    refused(&admin, "there is no page `/tap`");
}

/// A chain whose transport socket is a tap.
fn socket(condition: &str, chain: &str) -> String {
    let tap = format!(
        "transport_socket: {{ name: t, typed_config: {{ '@type': t/envoy.extensions.transport_sockets.tap.v3.Tap, \
         common_config: {{ static_config: {{ {condition}, output_config: {{ max_buffered_tx_bytes: 3, sinks: [{{ {FILE} }}] }} }} }}, \
         transport_socket: {{ name: r, typed_config: {{ '@type': t/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer }} }} }} }}, filters: ["
    );
    chain.replacen("filters: [", &tap, 1)
}

#[test]
fn connections_of_a_relay_are_recorded_and_others_are_not() {
    let tap = "listeners/0/chains/0/filters/0/tap";
    expect(
        &socket(ANY, &tcp("")),
        &[(&format!("{tap}/received"), "1024"), (&format!("{tap}/sent"), "3")],
    );
    refused(
        &socket("match: { not_match: { any_match: true } }", &tcp("")),
        "only `any_match: true`",
    );
    let web = hcm("http_filters: [ROUTER]", "{ match: { prefix: / }, route: { cluster: a } }");
    refused(&socket(ANY, &web), "use the HTTP filter `envoy.filters.http.tap`");
}
