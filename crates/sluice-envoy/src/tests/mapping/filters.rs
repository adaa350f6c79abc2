//! Filters of requests, and access logs.

use super::*;

#[test]
fn clusters_that_come_on_demand() {
    let with = |odcds: &str| {
        let filter = format!(
            "{{ name: d, typed_config: {{ '@type': t/envoy.extensions.filters.http.on_demand.v3.OnDemand{odcds} }} }}"
        );
        hcm(
            &format!("http_filters: [{filter}, ROUTER]"),
            "{ match: { prefix: / }, route: { cluster_header: x-cluster } }",
        )
    };
    let wait = "listeners/0/chains/0/http/on_demand";
    expect(&with(", odcds: { source: { ads: {} } }"), &[(wait, "5s")]);
    expect(&with(", odcds: { source: { ads: {} }, timeout: 0.25s }"), &[(wait, "250ms")]);
    // Without it, the filter is about virtual hosts that come on demand, of which there are none.
    expect(&with(""), &[]);
}

#[test]
fn virtual_hosts_that_come_on_demand() {
    let filter = "{ name: d, typed_config: { '@type': t/envoy.extensions.filters.http.on_demand.v3.OnDemand } }";
    let with = |filters: &str| {
        let text = hcm(
            &format!("http_filters: [{filters}]"),
            "{ match: { prefix: / }, route: { cluster: a } }",
        );
        let vhds = "vhds: { config_source: { api_config_source: { api_type: DELTA_GRPC, grpc_services: [{ envoy_grpc: { cluster_name: a } }] } } }, virtual_hosts:";
        assert!(text.contains("virtual_hosts:"), "{text}");
        text.replacen("virtual_hosts:", vhds, 1)
    };
    let table = "listeners/0/chains/0/http/hosts_on_demand/table";
    expect(&with(&format!("{filter}, ROUTER")), &[(table, "t")]);
    // Without the filter, requests do not wait.
    expect(&with("ROUTER"), &[]);
}

#[test]
fn filters_of_requests() {
    let with = |filter: &str| {
        hcm(
            &format!("http_filters: [{{ name: f, typed_config: {filter} }}, ROUTER]"),
            "{ match: { prefix: / }, route: { cluster: a } }",
        )
    };
    let first = "listeners/0/chains/0/http/filters/2";
    for (filter, path, value) in [
        (
            "{ '@type': t/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1024 }",
            "buffer/max",
            "1024",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.health_check.v3.HealthCheck, pass_through_mode: false, headers: [{ name: ':path', exact_match: /ok }] }",
            "health_check/path",
            "/ok",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, token_bucket: { max_tokens: 5, tokens_per_fill: 2, fill_interval: 1s }, filter_enabled: { default_value: { numerator: 100 } }, filter_enforced: { default_value: { numerator: 100 } } }",
            "rate_limit/requests",
            "2/s",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.rbac.v3.RBAC, rules: { action: DENY, policies: { p: { permissions: [{ url_path: { path: { prefix: /admin } } }], principals: [{ any: true }] } } } }",
            "rbac/deny/p/permissions/0/path/starts_with",
            "/admin",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.rbac.v3.RBAC, rules: { policies: { p: { permissions: [{ any: true }], principals: [{ remote_ip: { address_prefix: 10.0.0.0, prefix_len: 8 } }] } } } }",
            "rbac/allow/p/principals/0/source",
            "10.0.0.0/8",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, grpc_service: { envoy_grpc: { cluster_name: a } }, failure_mode_allow: true }",
            "ext_authz/allow_on_error",
            "true",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, grpc_service: { envoy_grpc: { cluster_name: a } } }",
            "ext_authz/timeout",
            "200ms",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: { http_status: 503, percentage: { numerator: 5 } } }",
            "fault/abort/percent",
            "5%",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: { fixed_delay: 1s } }",
            "fault/delay/percent",
            "0%",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: { request_mutations: [{ remove: x-a }] } }",
            "set_headers/remove_request",
            "x-a",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.rbac.v3.RBAC, rules: { policies: { p: { permissions: [{ any: true }], principals: [{ any: true }] } } } }",
            "rbac/allow/p/principals/0/source/0",
            "0.0.0.0/0",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {} }",
            "rbac/deny/no-policy/principals/1/not/source/1",
            "::/0",
        ),
    ] {
        expect(&with(filter), &[(&format!("{first}/{path}"), value)]);
    }
    for (filter, expected) in [
        (
            "{ '@type': t/envoy.extensions.filters.http.grpc_http1_bridge.v3.Config }",
            "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config is not supported",
        ),
        (
            "{ '@type': t/envoy.extensions.filters.http.rbac.v3.RBAC, rules: { policies: { p: { permissions: [{ metadata: { filter: a, path: [{ key: b }], value: { present_match: true } } }], principals: [{ any: true }] } } } }",
            "no filter before is known to set it",
        ),
    ] {
        refused(&with(filter), expected);
    }
    let unrouted = hcm("http_filters: []", "{ match: { prefix: / }, route: { cluster: a } }");
    refused(&unrouted, "without a router");
}

#[test]
fn external_processing() {
    let with = |fields: &str| {
        hcm(
            &format!(
                "http_filters: [{{ name: f, typed_config: {{ '@type': t/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor, {fields} }} }}, ROUTER]"
            ),
            "{ match: { prefix: / }, route: { cluster: a } }",
        )
    };
    let service = "grpc_service: { envoy_grpc: { cluster_name: a }, initial_metadata: [{ key: X-Shop, value: b }] }";
    let at = |path: &str| format!("listeners/0/chains/0/http/filters/2/ext_proc/{path}");
    for (fields, path, value) in [
        ("failure_mode_allow: true", "allow_on_error", "true"),
        ("message_timeout: 1s", "timeout", "1s"),
        ("max_message_timeout: 5s", "timeout_max", "5s"),
        ("processing_mode: { request_header_mode: SKIP }", "send/request_headers", "false"),
        ("processing_mode: { request_body_mode: BUFFERED }", "send/request_body", "buffered"),
        (
            "processing_mode: { response_body_mode: BUFFERED_PARTIAL }",
            "send/response_body",
            "partial",
        ),
        (
            "processing_mode: { response_body_mode: FULL_DUPLEX_STREAMED, response_trailer_mode: SEND }",
            "send/response_body",
            "duplex",
        ),
        ("processing_mode: { request_trailer_mode: SEND }", "send/request_trailers", "true"),
        ("allow_mode_override: true", "allow_override", "true"),
        (
            "allowed_override_modes: [{ request_body_mode: NONE }, { response_body_mode: BUFFERED }]",
            "override_modes/1/response_body",
            "buffered",
        ),
        ("mutation_rules: { allow_all_routing: true }", "changes/routing", "true"),
        (
            "mutation_rules: { disallow_all: true, allow_expression: { regex: 'x-.*' } }",
            "changes/allow",
            "x-.*",
        ),
        ("mutation_rules: { disallow_all: true }", "changes/others", "false"),
        ("mutation_rules: { disallow_is_error: true }", "changes/strict", "true"),
        ("request_attributes: [request.path]", "attributes/0", "request.path"),
        (
            "forward_rules: { disallowed_headers: { patterns: [{ exact: Cookie }] } }",
            "except_headers/0",
            "cookie",
        ),
        (
            "forward_rules: { allowed_headers: { patterns: [{ exact: ':path' }, { exact: accept }] } }",
            "headers/0",
            "accept",
        ),
        ("disable_immediate_response: true", "responds", "false"),
        ("route_cache_action: CLEAR", "reroute", "always"),
        ("disable_clear_route_cache: true", "reroute", "never"),
        ("status_on_error: { code: 503 }", "error_status", "503"),
        (
            "metadata_options: { receiving_namespaces: { untyped: [shop] } }",
            "receive_metadata/0",
            "shop",
        ),
        ("observability_mode: true", "observe", "true"),
        ("deferred_close_timeout: 2s", "close_timeout", "2s"),
        ("stat_prefix: p", "call_metadata/x-shop", "b"),
    ] {
        expect(
            &with(&format!("{service}, {fields}")),
            &[(&at(path), value), (&at("cluster"), "a")],
        );
    }
    for (fields, expected) in [
        (
            "http_service: { http_service: { http_uri: { uri: 'http://a/', cluster: a, timeout: 1s } } }",
            "a service over gRPC is required",
        ),
        ("grpc_service: { google_grpc: { target_uri: a, stat_prefix: a } }", "name a cluster"),
        (
            "grpc_service: { envoy_grpc: { cluster_name: a } }, processing_mode: { request_body_mode: GRPC }",
            "messages of gRPC are not taken apart",
        ),
        (
            "grpc_service: { envoy_grpc: { cluster_name: a } }, metadata_options: { forwarding_namespaces: { untyped: [b] } }",
            "the service is sent attributes",
        ),
    ] {
        refused(&with(fields), expected);
    }
    let of_route = |own: &str| {
        hcm(
            &format!(
                "http_filters: [{{ name: f, typed_config: {{ '@type': t/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor, {service} }} }}, ROUTER]"
            ),
            &format!(
                "{{ match: {{ prefix: / }}, route: {{ cluster: a }}, typed_per_filter_config: {{ f: {{ '@type': t/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, {own} }} }} }}"
            ),
        )
    };
    let own = "routes/t/0/rules/0/filters/ext_proc";
    expect(&of_route("disabled: true"), &[(own, "skip")]);
    expect(
        &of_route(
            "overrides: { processing_mode: { request_body_mode: STREAMED }, failure_mode_allow: true }",
        ),
        &[
            (&format!("{own}/send/request_body"), "streamed"),
            (&format!("{own}/allow_on_error"), "true"),
        ],
    );
}

#[test]
fn cors_is_on_only_where_a_host_or_route_says_so() {
    let cors =
        "{ name: c, typed_config: { '@type': t/envoy.extensions.filters.http.cors.v3.Cors } }";
    let text = hcm(
        &format!("http_filters: [{cors}, ROUTER]"),
        "{ match: { prefix: / }, route: { cluster: a }, typed_per_filter_config: { c: { '@type': t/envoy.extensions.filters.http.cors.v3.CorsPolicy, allow_origin_string_match: [{ exact: 'https://a.test' }], allow_methods: 'GET, PUT', max_age: '60' } } }",
    );
    expect(
        &text,
        &[
            ("listeners/0/chains/0/http/filters/2/cors/origins", "https://a.test"),
            ("routes/t/0/filters/cors", "skip"),
            ("routes/t/0/rules/0/filters/cors/methods", "GET PUT"),
            ("routes/t/0/rules/0/filters/cors/max_age", "60s"),
        ],
    );
}

#[test]
fn access_logs_are_alike_or_refused() {
    let log = |format: &str| {
        format!(
            "access_log: [{{ name: a, typed_config: {{ '@type': t/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog{format} }} }}]"
        )
    };
    let own = hcm(
        &log(", log_format: { text_format_source: { inline_string: \"%PROTOCOL%\\n\" } }"),
        "{ match: { prefix: / }, route: { cluster: a } }",
    );
    expect(
        &own,
        &[
            ("access_log/0/sink", "stdout"),
            ("access_log/0/format", "%PROTOCOL%"),
            ("access_log/0/kinds", "request"),
        ],
    );
    let filtered = own.replace("name: a, typed_config: { '@type': t/envoy.extensions.access", "name: a, filter: { not_health_check_filter: {} }, typed_config: { '@type': t/envoy.extensions.access");
    refused(&filtered, "every record is written");
}

#[test]
fn origins_that_are_not_exact_are_regexes() {
    let with = |matcher: &str, kind: &str| {
        let cors =
            "{ name: c, typed_config: { '@type': t/envoy.extensions.filters.http.cors.v3.Cors } }";
        let csrf = "{ name: c, typed_config: { '@type': t/envoy.extensions.filters.http.csrf.v3.CsrfPolicy, filter_enabled: { default_value: { numerator: 100 } } } }";
        let policy = match kind {
            "cors" => format!(
                "'@type': t/envoy.extensions.filters.http.cors.v3.CorsPolicy, allow_origin_string_match: [{matcher}]"
            ),
            _ => format!(
                "'@type': t/envoy.extensions.filters.http.csrf.v3.CsrfPolicy, filter_enabled: {{ default_value: {{ numerator: 100 }} }}, additional_origins: [{matcher}]"
            ),
        };
        hcm(
            &format!("http_filters: [{}, ROUTER]", if kind == "cors" { cors } else { csrf }),
            &format!(
                "{{ match: {{ prefix: / }}, route: {{ cluster: a }}, typed_per_filter_config: {{ c: {{ {policy} }} }} }}"
            ),
        )
    };
    for (matcher, regex) in [
        ("{ safe_regex: { regex: '.*\\.a\\.test' } }", "(?:.*\\.a\\.test)"),
        ("{ suffix: .a.test }", ".*\\.a\\.test"),
        ("{ prefix: 'https://a.' }", "https://a\\..*"),
    ] {
        let path = "routes/t/0/rules/0/filters/cors/origins/0/regex";
        expect(&with(matcher, "cors"), &[(path, regex)]);
    }
    expect(
        &with("{ safe_regex: { regex: '.*' } }", "csrf"),
        &[("routes/t/0/rules/0/filters/csrf/origins/0/regex", "[^:]*://(?:.*)")],
    );
}

#[test]
fn descriptors_of_a_local_limit_split_a_rule() {
    let limit = "stat_prefix: s, token_bucket: { max_tokens: 100, tokens_per_fill: 100, fill_interval: 60s }, filter_enabled: { default_value: { numerator: 100 } }, filter_enforced: { default_value: { numerator: 100 } }";
    let with = |descriptors: &str| {
        hcm(
            "http_filters: [{ name: l, typed_config: { '@type': t/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: s } }, ROUTER]",
            &format!(
                "{{ name: r, match: {{ prefix: /foo }}, route: {{ cluster: a, rate_limits: [{{ actions: [{{ request_headers: {{ header_name: X-Client, descriptor_key: client }} }}, {{ request_headers: {{ header_name: ':path', descriptor_key: path }} }}] }}] }}, typed_per_filter_config: {{ l: {{ '@type': t/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, {limit}, descriptors: [{descriptors}] }} }} }}"
            ),
        )
    };
    let descriptor = |client: &str, path: &str, tokens: u32| {
        format!(
            "{{ entries: [{{ key: client, value: {client} }}, {{ key: path, value: {path} }}], token_bucket: {{ max_tokens: {tokens}, tokens_per_fill: {tokens}, fill_interval: 60s }} }}"
        )
    };
    let two = format!("{}, {}", descriptor("x", "/foo/a", 10), descriptor("x", "/foo/b", 20));
    expect(
        &with(&two),
        &[
            ("routes/t/0/rules/0/match/path", "/foo/a"),
            ("routes/t/0/rules/0/match/headers/x-client", "x"),
            ("routes/t/0/rules/0/filters/rate_limit/0/requests", "10/m"),
            ("routes/t/0/rules/0/filters/rate_limit/1/requests", "100/m"),
            ("routes/t/0/rules/1/match/path", "/foo/b"),
            ("routes/t/0/rules/1/filters/rate_limit/0/burst", "20"),
            ("routes/t/0/rules/2/filters/rate_limit/requests", "100/m"),
        ],
    );
    differs(&with(&two), "the limit of the route is counted apart for each descriptor");
    let apart = format!(
        "{}, {{ entries: [{{ key: client, value: x }}], token_bucket: {{ max_tokens: 1, fill_interval: 1s }} }}",
        descriptor("x", "/foo/a", 10)
    );
    refused(&with(&apart), "all descriptors have the same keys");
    let unknown = "{ entries: [{ key: other, value: x }, { key: path, value: /b }], token_bucket: { max_tokens: 1, fill_interval: 1s } }";
    refused(&with(unknown), "no `rate_limits` of the route make it");
}

#[test]
fn modules_of_envoy_are_told_from_libraries_of_sluice() {
    let filter = "{ '@type': t/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter, dynamic_module_config: { name: waf }, filter_name: a, filter_config: { '@type': t/google.protobuf.StringValue, value: b } }";
    let text = hcm(
        &format!("http_filters: [{{ name: f, typed_config: {filter} }}, ROUTER]"),
        "{ match: { prefix: / }, route: { cluster: a } }",
    );
    let loaded = load_text(Path::new("envoy.yaml"), text, &UnknownFields::Refuse.into());
    // Nothing of its settings is reported besides.
    let [finding] = &loaded.diags.iter().collect::<Vec<_>>()[..] else {
        panic!("{:#?}", loaded.diags)
    };
    assert!(finding.message.contains("DynamicModuleFilter is not supported"), "{finding:?}");
    let help = finding.help.as_deref().unwrap();
    assert!(
        help.starts_with("`libwaf.so` has the interface of the one version of Envoy"),
        "{help}"
    );
    assert!(help.contains("`sluice_filter.h` (version 1.2)"), "{help}");
}
