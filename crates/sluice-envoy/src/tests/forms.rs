//! The forms of JSON and YAML: each is taken, and what is near to it is refused.

use super::*;
use crate::message::{ProtoDuration, ProtoValue};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const HCM: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const HOST: &str = "envoy.config.route.v3.VirtualHost";

#[test]
fn names_of_fields_in_both_spellings() {
    for text in [
        "{ name: a, connect_timeout: 1s, lbPolicy: RANDOM }",
        "{ name: a, connectTimeout: 1s, lb_policy: RANDOM }",
        r#"{ "name": "a", "connectTimeout": "1s", "lbPolicy": "RANDOM" }"#,
    ] {
        let cluster = taken(CLUSTER, text);
        assert_eq!(cluster.duration("connect_timeout"), Some(ProtoDuration::new(1, 0)));
        assert_eq!(&*cluster.choice("lb_policy"), "RANDOM");
    }
    refused(CLUSTER, "{ name: a, connect_timeout: 1s, connectTimeout: 2s }", "set twice");
    refused(CLUSTER, "{ name: a, ConnectTimeout: 1s }", "has no field `ConnectTimeout`");
    refused(CLUSTER, "{ name: a, connect-timeout: 1s }", "has no field");
}

#[test]
fn enums_by_name_in_any_case_or_by_number() {
    for (written, word) in [
        ("STRICT_DNS", "STRICT_DNS"),
        ("strict_dns", "STRICT_DNS"),
        ("Strict_Dns", "STRICT_DNS"),
        ("1", "STRICT_DNS"),
        ("\"1\"", "STRICT_DNS"),
    ] {
        let cluster = taken(CLUSTER, &format!("{{ name: a, type: {written} }}"));
        assert_eq!(&*cluster.choice("type"), word, "{written}");
    }
    assert_eq!(&*taken(CLUSTER, "{ name: a }").choice("lb_policy"), "ROUND_ROBIN");
    refused(CLUSTER, "{ name: a, type: STRICTDNS }", "type: `STRICTDNS` is not a value of");
    refused(CLUSTER, "{ name: a, type: 99 }", "has no value 99");
    // Without `defined_only`, a number that has no name is taken.
    taken(CLUSTER, "{ name: a, dns_lookup_family: 2 }");
}

#[test]
fn numbers_and_truth_values_in_quotes() {
    let host = taken(HOST, r#"{ name: a, domains: a, include_request_attempt_count: "true" }"#);
    assert!(host.is("include_request_attempt_count"));
    let text =
        r#"{ stat_prefix: a, rds: {}, xff_num_trusted_hops: "3", max_request_headers_kb: "64" }"#;
    let hcm = taken(HCM, text);
    assert_eq!(hcm.number("xff_num_trusted_hops"), Some(3));
    assert_eq!(hcm.number("max_request_headers_kb"), Some(64));
    let with = |field: &str| format!("{{ stat_prefix: a, rds: {{}}, {field} }}");
    for field in ["merge_slashes: yes", "merge_slashes: 1", "use_remote_address: on"] {
        refused(HCM, &with(field), "expected");
    }
    refused(HCM, &with("stat_prefix: 5").replace("stat_prefix: a, ", ""), "expected text, not `5`");
    for number in ["4294967296", "-1"] {
        let field = format!("xff_num_trusted_hops: {number}");
        refused(HCM, &with(&field), "is not from 0 to 4294967295");
    }
}

#[test]
fn a_lone_value_where_a_list_is_due() {
    let text = r#"{ static_resources: { clusters: { name: a } } }"#;
    let bootstrap = taken(BOOTSTRAP, text);
    let clusters: Vec<_> =
        bootstrap.message("static_resources").unwrap().messages("clusters").collect();
    assert_eq!(clusters.len(), 1);
    let host = taken(HOST, "{ name: a, domains: '*' }");
    assert_eq!(host.texts("domains").count(), 1);
    refused(HOST, "{ name: a, domains: { a: b } }", "expected a single value, not a map");
    // Names are no list: this is one cluster with an unknown field.
    refused(
        BOOTSTRAP,
        "{ static_resources: { clusters: { a: { name: a } } } }",
        "has no field `a`",
    );
    refused(CLUSTER, "{ name: [a] }", "expected a single value, not a list");
    refused(CLUSTER, "[{ name: a }]", "expected a map, not a list");
}

#[test]
fn durations_as_text_and_in_parts() {
    for (written, seconds, nanos) in [
        ("0.25s", 0, 250_000_000),
        ("\"3s\"", 3, 0),
        ("{ seconds: 5 }", 5, 0),
        ("{ seconds: \"5\", nanos: 1 }", 5, 1),
        ("{}", 0, 0),
    ] {
        let hcm =
            taken(HCM, &format!("{{ stat_prefix: a, rds: {{}}, request_timeout: {written} }}"));
        assert_eq!(
            hcm.duration("request_timeout"),
            Some(ProtoDuration::new(seconds, nanos)),
            "{written}"
        );
    }
    for written in ["5", "5ms", "1m", "{ minutes: 5 }", "{ seconds: 1, nanos: -1 }", "[1s]", "s"] {
        let text = format!("{{ stat_prefix: a, rds: {{}}, request_timeout: {written} }}");
        assert!(!findings(HCM, &text).is_empty(), "{written}");
    }
}

#[test]
fn types_in_any() {
    let with = |config: &str| format!("{{ name: x, typed_config: {config} }}");
    let filter = "envoy.config.listener.v3.Filter";
    let tcp = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    for host in ["type.googleapis.com/", "type.envoyproxy.io/", "/", "a/b/"] {
        let text = with(&format!("{{ '@type': {host}{tcp}, stat_prefix: a, cluster: b }}"));
        let read = taken(filter, &text);
        assert_eq!(read.message("typed_config").unwrap().type_name(), tcp);
    }
    refused(
        filter,
        &with(&format!("{{ '@type': {tcp}, stat_prefix: a, cluster: b }}")),
        "expected a type",
    );
    refused(filter, &with("{ stat_prefix: a }"), "`@type` is missing");
    refused(filter, &with("{ '@type': x/envoy.Unknown }"), "unknown type envoy.Unknown");
    refused(filter, &with("5"), "expected a map with `@type`");
    let text = with(&format!("{{ '@type': x/{tcp}, stat_prefix: a, cluster: b, clutser: c }}"));
    refused(filter, &text, "has no field `clutser`");
    let empty = taken(filter, &with("{}"));
    assert_eq!(empty.message("typed_config").unwrap().type_name(), "google.protobuf.Any");
}

#[test]
fn types_in_structs_for_those_without_definitions() {
    let filter = "envoy.config.listener.v3.Filter";
    let tcp = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    for (outer, url, key) in [
        ("udpa.type.v1.TypedStruct", format!("type.googleapis.com/{tcp}"), "type_url"),
        ("xds.type.v3.TypedStruct", tcp.to_owned(), "typeUrl"),
    ] {
        let with = |value: &str| {
            format!(
                "{{ name: x, typed_config: {{ '@type': t/{outer}, {key}: {url}, value: {value} }} }}"
            )
        };
        let read = taken(filter, &with("{ stat_prefix: a, cluster: b }"));
        let config = read.message("typed_config").unwrap();
        assert_eq!(config.type_name(), tcp);
        assert_eq!(config.text("cluster").map(|text| &**text), Some("b"));
        // The rules and names of the inner type hold.
        refused(filter, &with("{ stat_prefix: a }"), "one of `cluster`, `weighted_clusters`");
        refused(filter, &with("{ stat_prefix: a, cluster: b, x: 1 }"), "has no field `x`");
    }
    let text = "{ name: x, typed_config: { '@type': t/xds.type.v3.TypedStruct, value: {} } }";
    refused(filter, text, "`type_url` is missing");
    let text = "{ name: x, typed_config: { '@type': t/xds.type.v3.TypedStruct, type_url: x/a.B } }";
    refused(filter, text, "unknown type a.B");
}

#[test]
fn well_known_types_in_any_are_under_value() {
    let action = "xds.type.matcher.v3.Matcher.OnMatch";
    let with = |value: &str| {
        format!(
            "{{ action: {{ name: a, typed_config: {{ '@type': t/google.protobuf.StringValue, {value} }} }} }}"
        )
    };
    let read = taken(action, &with("value: hello"));
    let config = read.message("action").unwrap().message("typed_config").unwrap();
    assert_eq!(config.text("value").map(|text| &**text), Some("hello"));
    refused(action, &with("text: hello"), "has no field `text`");
}

#[test]
fn unknown_fields_and_what_is_meant() {
    let text = "{ name: a, conect_timeout: 1s }";
    refused(CLUSTER, text, "conect_timeout: envoy.config.cluster.v3.Cluster has no field");
    let (message, found) = read_as(CLUSTER, text, UnknownFields::Warn);
    assert!(message.is_some());
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("warning: "), "{found:?}");
    // Where a field may be what keeps clients out, it is an error all the same.
    for (name, text) in [
        ("envoy.config.rbac.v3.RBAC", "{ acton: DENY }"),
        (
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "{ require_client_cert: true }",
        ),
        ("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", "{ ruls: [] }"),
        ("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "{ failure_mode: false }"),
        ("envoy.extensions.filters.http.rbac.v3.RBAC", "{ ruls: {} }"),
        ("envoy.extensions.filters.network.rbac.v3.RBAC", "{ stat_prefix: a, ruls: {} }"),
    ] {
        let (_, found) = read_as(name, text, UnknownFields::Warn);
        assert!(
            found.iter().any(|one| !one.starts_with("warning") && one.contains("no field")),
            "{name}"
        );
    }
}

#[test]
fn a_field_of_a_group_excludes_the_others() {
    refused(CLUSTER, "{ name: a, type: EDS, cluster_type: { name: b } }", "excludes another field");
    taken(CLUSTER, "{ name: a, type: EDS, cluster_type: null }");
}

#[test]
fn values_of_maps_and_json() {
    let metadata = taken(
        "envoy.config.core.v3.Metadata",
        "{ filter_metadata: { envoy.lb: { stage: prod, on: true } } }",
    );
    let [(key, item)] = metadata.map("filter_metadata") else { panic!("one entry") };
    assert_eq!(&**key, "envoy.lb");
    assert!(matches!(&item.value, ProtoValue::Json(node) if node.get("stage").is_some()));
    refused(
        "envoy.config.core.v3.Metadata",
        "{ filter_metadata: { envoy.lb: 5 } }",
        "expected a map",
    );
    refused(
        "envoy.config.core.v3.Metadata",
        "{ filter_metadata: [] }",
        "expected a map, not a list",
    );
}

#[test]
fn every_field_has_its_place_and_path() {
    let text = "static_resources:\n  clusters:\n  - name: a\n  - name: b\n    conect: 1\n";
    let mut diags = Diags::new();
    let node = sluice_config::yaml::read(text, 7, &mut diags).unwrap();
    let descriptor = descriptors::message(BOOTSTRAP).unwrap();
    read::read(&node, &descriptor, UnknownFields::Refuse, &mut diags).unwrap();
    let found = diags.into_sorted();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, "static_resources.clusters[1].conect");
    let span = found[0].span.unwrap();
    assert_eq!((span.file, &text[span.start as usize..span.end as usize]), (7, "conect"));
}

#[test]
fn what_nobody_reads_is_found() {
    let cluster = taken(
        CLUSTER,
        "{ name: a, lb_policy: RANDOM, connect_timeout: 1s, load_assignment: { cluster_name: x, endpoints: [{ priority: 1 }] } }",
    );
    cluster.text("name");
    cluster.message("load_assignment").unwrap().messages("endpoints").count();
    let mut found = Vec::new();
    cluster.unread(&mut found);
    let mut paths: Vec<String> =
        found.iter().map(|(of, field)| of.at(field.descriptor.name())).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "connect_timeout",
            "lb_policy",
            "load_assignment.cluster_name",
            "load_assignment.endpoints[0].priority"
        ]
    );
}
