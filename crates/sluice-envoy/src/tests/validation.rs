//! Each kind of rule has a value that keeps it and one that breaks it.

use super::*;
use crate::rules;

#[test]
fn a_value_on_either_side_of_each_rule() {
    let thresholds = "envoy.config.cluster.v3.CircuitBreakers.Thresholds";
    let cases: &[(&str, &str, &str, &str)] = &[
        // min_len, on a field that is set and on one that is not.
        ("envoy.config.cluster.v3.Cluster", "{ name: a }", "{ name: '' }", "must not be empty"),
        ("envoy.config.cluster.v3.Cluster", "{ name: a }", "{}", "must not be empty"),
        // gt, with equality refused.
        (
            "envoy.config.cluster.v3.Cluster",
            "{ name: a, connect_timeout: 0.1s }",
            "{ name: a, connect_timeout: 0s }",
            "must be more than 0s",
        ),
        // lte and gte.
        (
            "envoy.config.listener.v3.FilterChainMatch",
            "{ destination_port: 65535 }",
            "{ destination_port: 65536 }",
            "must be at most 65535",
        ),
        (
            "envoy.config.listener.v3.FilterChainMatch",
            "{ destination_port: 1 }",
            "{ destination_port: 0 }",
            "must be at least 1",
        ),
        // lt and gte on the default of a field that is not set.
        (
            "envoy.config.route.v3.DirectResponseAction",
            "{ status: 599 }",
            "{ status: 600 }",
            "must be less than 600",
        ),
        (
            "envoy.config.route.v3.DirectResponseAction",
            "{ status: 200 }",
            "{}",
            "must be at least 200",
        ),
        // Rules of items.
        (
            "envoy.config.listener.v3.FilterChainMatch",
            "{ source_ports: [1, 65535] }",
            "{ source_ports: [1, 0] }",
            "must be at least 1",
        ),
        // min_items, max_items.
        (
            "envoy.config.route.v3.VirtualHost",
            "{ name: a, domains: [a] }",
            "{ name: a, domains: [] }",
            "at least 1 of them",
        ),
        (
            "envoy.config.route.v3.VirtualHost",
            "{ name: a, domains: [a] }",
            "{ name: a }",
            "at least 1 of them",
        ),
        (
            "envoy.config.route.v3.InternalRedirectPolicy",
            "{ redirect_response_codes: [301, 302] }",
            "{ redirect_response_codes: [1, 2, 3, 4, 5, 6] }",
            "at most 5 of them",
        ),
        // unique.
        (
            "envoy.config.route.v3.InternalRedirectPolicy",
            "{ response_headers_to_copy: [a, b] }",
            "{ response_headers_to_copy: [a, a] }",
            "the same item twice",
        ),
        // A group of which one is required, and a message that is.
        ("envoy.config.route.v3.RouteMatch", "{ prefix: / }", "{}", "is required"),
        (
            "envoy.config.route.v3.Route",
            "{ match: { prefix: / }, route: { cluster: a } }",
            "{ route: { cluster: a } }",
            "`match` is required",
        ),
        // required, on a duration.
        (
            "envoy.config.core.v3.KeepaliveSettings",
            "{ timeout: 1s }",
            "{}",
            "`timeout` is required",
        ),
        // defined_only and not_in, also on the default.
        (thresholds, "{ priority: HIGH }", "{ priority: 7 }", "has no value 7"),
        (
            "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
            "{ san_type: DNS, matcher: { exact: a } }",
            "{ matcher: { exact: a } }",
            "must not be SAN_TYPE_UNSPECIFIED",
        ),
        // in, on text.
        (
            "envoy.config.core.v3.SchemeHeaderTransformation",
            "{ scheme_to_overwrite: https }",
            "{ scheme_to_overwrite: ftp }",
            "must be one of http, https",
        ),
        // pattern.
        (
            "envoy.config.route.v3.RouteMatch",
            "{ path_separated_prefix: /a }",
            "{ path_separated_prefix: /a/ }",
            "does not match",
        ),
        // well_known_regex, strict or not.
        (
            "envoy.config.core.v3.HeaderValue",
            "{ key: x-a, value: 'a b' }",
            "{ key: x-a, value: \"a\\nb\" }",
            "is not the value of a header",
        ),
        (
            "envoy.config.core.v3.UpstreamHttpProtocolOptions",
            "{ override_auto_sni_header: x-a }",
            "{ override_auto_sni_header: 'x a' }",
            "is not the name of a header",
        ),
        // const.
        (
            "envoy.config.bootstrap.v3.Bootstrap",
            "{ stats_flush_on_admin: true }",
            "{ stats_flush_on_admin: false }",
            "must be true",
        ),
        // max_bytes, min_len and max_bytes of items.
        (
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "{ sni: a }",
            &format!("{{ sni: {} }}", "a".repeat(256)),
            "at most 255 bytes",
        ),
        // Keys of maps.
        (
            "envoy.config.core.v3.Metadata",
            "{ filter_metadata: { a: {} } }",
            "{ filter_metadata: { '': {} } }",
            "must not be empty",
        ),
        // Bounds in reverse.
        (
            "envoy.config.core.v3.QuicKeepAliveSettings",
            "{ initial_interval: 0s }",
            "{ initial_interval: 0.0001s }",
            "must not be between 0s and 0.001s",
        ),
        (
            "envoy.config.core.v3.QuicKeepAliveSettings",
            "{ initial_interval: 1s }",
            "{ initial_interval: 0.0001s }",
            "must not be between 0s and 0.001s",
        ),
        // Numbers with fractions.
        ("envoy.type.v3.Percent", "{ value: 100 }", "{ value: 100.5 }", "must be at most 100"),
    ];
    for (name, right, wrong, expected) in cases {
        taken(name, right);
        refused(name, wrong, expected);
    }
}

#[test]
fn a_field_that_is_wrong_is_not_missing_too() {
    let found = findings("envoy.config.route.v3.VirtualHost", "{ name: a, domains: { a: b } }");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn the_rules_of_every_type_compile() {
    let (mut types, mut checks) = (0, 0);
    for message in descriptors::pool().all_messages() {
        types += 1;
        checks += rules::count(&message);
    }
    assert!(types > 1000 && checks > 900, "{types} types, {checks} rules");
}
