//! Connection managers and routes.

use super::*;

#[test]
fn http_has_envoys_defaults() {
    let http = "listeners/0/chains/0/http";
    let routes = "routes/t/0/rules/0";
    let expected: Vec<(String, &str)> = [
        ("head_bytes", "60KiB"),
        ("head_fields", "100"),
        ("idle_timeout", "1h"),
        ("trusted_hops", "1"),
        ("http2/streams", "1024"),
        ("routes", "t"),
        ("filters/0/request_id/keep", "true"),
        ("filters/1/client_cert/header", "remove"),
    ]
    .map(|(path, value)| (format!("{http}/{path}"), value))
    .into_iter()
    .chain(
        [
            ("cluster", "a"),
            ("timeout/response", "15s"),
            ("timeout/idle", "5m"),
            ("upgrades", "none"),
        ]
        .map(|(path, value)| (format!("{routes}/{path}"), value)),
    )
    .collect();
    let expected: Vec<(&str, &str)> =
        expected.iter().map(|(path, value)| (path.as_str(), *value)).collect();
    expect(&route(""), &expected);
    let edge = hcm(
        "use_remote_address: true, xff_num_trusted_hops: 2",
        "{ match: { prefix: / }, route: { cluster: a } }",
    );
    expect(
        &edge,
        &[
            ("listeners/0/chains/0/http/trusted_hops", "2"),
            ("listeners/0/chains/0/http/filters/0/request_id/keep", "false"),
        ],
    );
}

#[test]
fn what_routes_match() {
    for (of, path, value) in [
        ("prefix: /a", "path/starts_with", "/a"),
        ("path: /a", "path", "/a"),
        ("path: '/a/*'", "path/regex", "/a/\\*"),
        ("path_separated_prefix: /a", "path", "/a/*"),
        ("safe_regex: { regex: '/a.*' }", "path/regex", "/a.*"),
        ("prefix: /, headers: [{ name: X-A, string_match: { exact: b } }]", "headers/x-a", "b"),
        (
            "prefix: /, headers: [{ name: x-a, string_match: { prefix: b } }]",
            "headers/x-a/prefix",
            "b",
        ),
        (
            "prefix: /, headers: [{ name: x-a, string_match: { suffix: b.c, ignore_case: true } }]",
            "headers/x-a/regex",
            "(?is).*b\\.c",
        ),
        ("prefix: /, headers: [{ name: x-a }]", "headers/x-a/present", "true"),
        (
            "prefix: /, headers: [{ name: x-a, present_match: true, invert_match: true }]",
            "headers/x-a/present",
            "false",
        ),
        ("prefix: /, headers: [{ name: ':method', exact_match: GET }]", "method", "GET"),
        (
            "prefix: /, headers: [{ name: x-a, exact_match: b, invert_match: true, treat_missing_header_as_empty: true }]",
            "headers/x-a/not",
            "b",
        ),
        (
            "prefix: /, query_parameters: [{ name: q, string_match: { contains: b } }]",
            "query/q/contains",
            "b",
        ),
        (
            "prefix: /, headers: [{ name: x-a, range_match: { start: -1, end: 5 } }]",
            "headers/x-a/range",
            "-1..5",
        ),
        ("prefix: /, grpc: {}", "grpc", "*"),
        (
            "prefix: /, runtime_fraction: { default_value: { numerator: 25 }, runtime_key: k }",
            "runtime/percent",
            "25%",
        ),
    ] {
        let text = hcm("", &format!("{{ match: {{ {of} }}, route: {{ cluster: a }} }}"));
        expect(&text, &[(&format!("routes/t/0/rules/0/match/{path}"), value)]);
    }
    for (of, expected) in [
        (
            "prefix: /, headers: [{ name: x-a, exact_match: b, invert_match: true }]",
            "`invert_match` of",
        ),
        (
            "prefix: /, headers: [{ name: x-a, exact_match: b }, { name: x-a, exact_match: c }]",
            "has a condition already",
        ),
        (
            "prefix: /, headers: [{ name: x-a, range_match: { start: 5, end: 5 } }]",
            "no number is in the range",
        ),
        (
            "prefix: /, dynamic_metadata: [{ filter: a, path: [{ key: b }], value: { present_match: true } }]",
            "no filter before is known to set it",
        ),
    ] {
        refused(&hcm("", &format!("{{ match: {{ {of} }}, route: {{ cluster: a }} }}")), expected);
    }
}

#[test]
fn streams_are_bounded_by_listeners_and_clusters() {
    let route = "{ match: { prefix: / }, route: { cluster: a } }";
    for (max, of) in [("9s", "9s"), ("0s", "none")] {
        let common = format!("common_http_protocol_options: {{ max_stream_duration: {max} }}");
        expect(&hcm(&common, route), &[("listeners/0/chains/0/http/max_stream_duration", of)]);
    }
}

#[test]
fn what_routes_do() {
    for (action, path, value) in [
        (", prefix_rewrite: /b", "rewrite/replace_prefix", "/b"),
        (
            ", regex_rewrite: { pattern: { regex: '^/a/(.*)' }, substitution: '/b/\\1$' }",
            "rewrite/regex/replace",
            "/b/${1}$$",
        ),
        (", host_rewrite_literal: b.test", "rewrite/host", "b.test"),
        (", auto_host_rewrite: true", "rewrite/host_of_endpoint", "true"),
        (
            ", host_rewrite_literal: b.test, append_x_forwarded_host: true",
            "rewrite/originals/1",
            "forwarded_host",
        ),
        (", timeout: 0s", "timeout/response", "none"),
        (", timeout: 3s", "timeout/response", "3s"),
        (", idle_timeout: 2s", "timeout/idle", "2s"),
        (", max_stream_duration: { max_stream_duration: 9s }", "timeout/total", "9s"),
        (", max_stream_duration: { max_stream_duration: 0s }", "timeout/total", "none"),
        (
            ", retry_policy: { retry_on: '5xx,connect-failure', num_retries: 2, per_try_timeout: 1s }",
            "retry/when",
            "server_error connect_failure",
        ),
        (
            ", retry_policy: { retry_on: '5xx', num_retries: 2, per_try_timeout: 1s }",
            "retry/attempts",
            "3",
        ),
        (", retry_policy: { retry_on: '5xx', per_try_timeout: 1s }", "timeout/per_try", "1s"),
        (
            ", retry_policy: { retry_on: 'retriable-status-codes', retriable_status_codes: [503] }",
            "retry/statuses",
            "503",
        ),
        (", hash_policy: [{ header: { header_name: x-a } }]", "hash/0/by", "header:x-a"),
        (", hash_policy: [{ cookie: { name: c, ttl: 0s } }]", "hash/0/ttl", "0s"),
        (", request_mirror_policies: [{ cluster: a }]", "mirror/0/host_suffix", "-shadow"),
        (", priority: HIGH", "priority", "high"),
        (", upgrade_configs: [{ upgrade_type: websocket }]", "upgrades", "websocket"),
        (", internal_redirect_policy: { max_internal_redirects: 3 }", "follow_redirects/max", "3"),
    ] {
        expect(&route(action), &[(&format!("routes/t/0/rules/0/{path}"), value)]);
    }
    for (action, expected) in [
        (
            ", regex_rewrite: { pattern: { regex: '/a' }, substitution: '/b' }",
            "begin the regex with `^`",
        ),
        (
            ", hash_policy: [{ header: { header_name: x-a } }, { connection_properties: { source_ip: true } }]",
            "terminal: true",
        ),
        (", retry_policy: { retry_on: 'sometimes' }", "`sometimes` is no condition"),
        (", cors: {}", "`cors` of envoy.config.route.v3.RouteAction"),
    ] {
        refused(&route(action), expected);
    }
    let redirect = hcm(
        "",
        "{ match: { prefix: / }, redirect: { https_redirect: true, response_code: FOUND } }",
    );
    expect(
        &redirect,
        &[
            ("routes/t/0/rules/0/redirect/scheme", "https"),
            ("routes/t/0/rules/0/redirect/status", "302"),
        ],
    );
    let respond = hcm(
        "",
        "{ match: { prefix: / }, direct_response: { status: 403, body: { inline_string: '5% off' } } }",
    );
    expect(
        &respond,
        &[
            ("routes/t/0/rules/0/respond/status", "403"),
            ("routes/t/0/rules/0/respond/body", "5%% off"),
        ],
    );
    let weighted = "weighted_clusters: { clusters: [{ name: a, weight: 3 }] }";
    let split = route("").replace("route: { cluster: a }", &format!("route: {{ {weighted} }}"));
    expect(&split, &[("routes/t/0/rules/0/split/a/weight", "3")]);
    refused(&route("").replace("cluster: a }", "cluster: b }"), "there is no cluster `b`");
}

#[test]
fn edits_of_headers_at_every_level() {
    let add = "request_headers_to_add: [{ header: { key: X-A, value: '%REQ(x-b)%' }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }], response_headers_to_remove: [x-c]";
    let text = route("").replace("name: t,", &format!("name: t, {add},"));
    expect(
        &text,
        &[
            ("listeners/0/chains/0/http/filters/2/set_headers/request/x-a", "%REQ(x-b)%"),
            ("listeners/0/chains/0/http/filters/2/set_headers/remove_response", "x-c"),
        ],
    );
    let text = route("").replace("{ match", &format!("{{ {add}, match"));
    expect(
        &text,
        &[
            ("routes/t/0/rules/0/filters/set_headers/request/x-a", "%REQ(x-b)%"),
            ("listeners/0/chains/0/http/filters/2/set_headers", "a map"),
        ],
    );
    for (action, key) in [
        ("ADD_IF_ABSENT", "default_request"),
        ("OVERWRITE_IF_EXISTS", "overwrite_request"),
        ("APPEND_IF_EXISTS_OR_ADD", "add_request"),
    ] {
        let add = format!(
            "{{ request_headers_to_add: [{{ header: {{ key: a, value: b }}, append_action: {action} }}], match"
        );
        let text = route("").replace("{ match", &add);
        expect(&text, &[(&format!("routes/t/0/rules/0/filters/set_headers/{key}/a"), "b")]);
    }
    expect(
        &hcm("via: '1.1 me'", "{ match: { prefix: / }, route: { cluster: a } }"),
        &[
            ("listeners/0/chains/0/http/filters/1/set_headers/add_request/via", "1.1 me"),
            ("listeners/0/chains/0/http/filters/1/set_headers/add_response/via", "1.1 me"),
        ],
    );
}

#[test]
fn schemes_shares_and_tunnels() {
    expect(
        &hcm(
            "scheme_header_transformation: { scheme_to_overwrite: https }",
            "{ match: { prefix: / }, route: { cluster: a } }",
        ),
        &[("listeners/0/chains/0/http/scheme", "https")],
    );
    let mirror = ", request_mirror_policies: [{ cluster: a, runtime_fraction: { default_value: { numerator: 9990, denominator: TEN_THOUSAND } } }]";
    expect(&route(mirror), &[("routes/t/0/rules/0/mirror/0/share", "99.9%")]);
    expect(
        &hcm(
            "",
            "{ match: { prefix: /, runtime_fraction: { default_value: { numerator: 5, denominator: MILLION } } }, route: { cluster: a } }",
        ),
        &[("routes/t/0/rules/0/match/runtime/percent", "0.0005%")],
    );
    expect(
        &hcm("", "{ match: { prefix: / }, redirect: { scheme_redirect: other } }"),
        &[("routes/t/0/rules/0/redirect/scheme", "other")],
    );
    let tunnel = |config: &str| {
        route(&format!(
            ", upgrade_configs: [{{ upgrade_type: CONNECT, connect_config: {{ {config} }} }}]"
        ))
    };
    expect(&tunnel(""), &[("routes/t/0/rules/0/connect", "terminate")]);
    let posts = tunnel("allow_post: true");
    expect(&posts, &[("routes/t/0/rules/0/connect", "terminate_post")]);
    let share = |of: &str| {
        hcm(
            "http_filters: [{ name: b, typed_config: { '@type': t/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 5 } }, ROUTER]",
            &format!(
                "{{ match: {{ prefix: / }}, route: {{ weighted_clusters: {{ clusters: [{{ name: a, weight: 5, typed_per_filter_config: {{ {of}: {{ '@type': t/envoy.extensions.filters.http.buffer.v3.BufferPerRoute, disabled: true }} }} }}] }} }} }}"
            ),
        )
    };
    differs(&share("other"), "has no effect");
    refused(&share("b"), "a route has settings for filters, not one of its clusters");
}
