//! What messages are in the native form.

use std::path::Path;

use sluice_core::{Node, Severity, Value, ValueDef};

use crate::{UnknownFields, load_text};

mod chains;
mod clients;
mod clusters;
mod filters;
mod guards;
mod http;
mod local_replies;
mod matched;
mod metadata;
mod original_dst;
mod scopes;
mod services;
mod switches;
mod taps;
mod tls;
mod tokens;
mod trees;

/// Values of filters, which the program declares when it starts.
const VALUES: [ValueDef; 4] = [
    ValueDef { name: "set.*", help: "" },
    ValueDef { name: "jwt.*", help: "" },
    ValueDef { name: "lua.metadata.*", help: "" },
    ValueDef { name: "ext_authz.metadata.*", help: "" },
];

/// Loads a bootstrap: its native form, and the findings as `path: message`.
fn load(text: &str) -> (Option<Node>, Vec<String>) {
    static DECLARED: [ValueDef; 4] = VALUES;
    sluice_core::values::declare(&DECLARED);
    let loaded = load_text(Path::new("envoy.yaml"), text.to_owned(), &UnknownFields::Refuse.into());
    let shown = loaded.diags.iter().map(|found| {
        let word = if found.severity == Severity::Error { "" } else { "warning: " };
        format!("{word}{}: {}", found.path, found.message)
    });
    (loaded.root.clone(), shown.collect())
}

/// The value at a path such as `clusters.a.limits.connections` or `listeners.0.name`.
fn at(root: &Node, path: &str) -> Option<String> {
    let mut node = root;
    for step in path.split('/') {
        node = match (&node.value, step.parse::<usize>()) {
            (Value::List(items), Ok(index)) => items.get(index)?,
            _ => &node.get(step)?.node,
        };
    }
    Some(match &node.value {
        Value::Scalar { text, .. } => text.to_string(),
        Value::List(items) => {
            items.iter().map(|item| item.text().unwrap_or("?")).collect::<Vec<_>>().join(" ")
        }
        _ => "a map".into(),
    })
}

#[track_caller]
fn expect(text: &str, expected: &[(&str, &str)]) {
    let (root, found) = load(text);
    let errors: Vec<_> = found.iter().filter(|one| !one.starts_with("warning")).collect();
    assert!(errors.is_empty(), "{text}\n{errors:#?}");
    let root = root.expect("a tree");
    for (path, value) in expected {
        assert_eq!(at(&root, path).as_deref(), Some(*value), "{path}\n{text}");
    }
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let (_, found) = load(text);
    let errors: Vec<_> = found.iter().filter(|one| !one.starts_with("warning")).collect();
    assert!(errors.iter().any(|one| one.contains(expected)), "{text}\n{expected}\n{found:#?}");
}

#[track_caller]
fn differs(text: &str, expected: &str) {
    let (root, found) = load(text);
    assert!(root.is_some(), "{found:#?}");
    let warned = found.iter().any(|one| one.starts_with("warning") && one.contains(expected));
    assert!(warned, "{text}\n{expected}\n{found:#?}");
}

/// A bootstrap with a cluster `a` that has these fields.
fn cluster(fields: &str) -> String {
    let assignment = "load_assignment: { cluster_name: a, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 80 } } } }] }] }";
    let own = if fields.contains("load_assignment") { "" } else { assignment };
    let comma = if own.is_empty() || fields.is_empty() { "" } else { ", " };
    format!("{{ static_resources: {{ clusters: [{{ name: a, {fields}{comma}{own} }}] }} }}")
}

/// A bootstrap with a listener whose only chain has this filter, and a cluster `a`.
fn listener(filter: &str, fields: &str) -> String {
    let address = "address: { socket_address: { address: 127.0.0.1, port_value: 0 } }";
    let chain = format!("{{ filters: [{{ name: x, typed_config: {filter} }}] }}");
    cluster("").replacen(
        "{ clusters",
        &format!(
            "{{ listeners: [{{ name: l, {address}, filter_chains: [{chain}]{fields} }}], clusters"
        ),
        1,
    )
}

fn tcp(fields: &str) -> String {
    let name = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    listener(&format!("{{ '@type': t/{name}, stat_prefix: s, cluster: a{fields} }}"), "")
}

fn hcm(fields: &str, route: &str) -> String {
    let name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router =
        "{ name: r, typed_config: { '@type': t/envoy.extensions.filters.http.router.v3.Router } }";
    let filters = if fields.contains("http_filters") {
        fields.replace("ROUTER", router)
    } else {
        format!("http_filters: [{router}]{}{fields}", if fields.is_empty() { "" } else { ", " })
    };
    let hosts = format!("[{{ name: h, domains: '*', routes: [{route}] }}]");
    listener(
        &format!(
            "{{ '@type': t/{name}, stat_prefix: s, route_config: {{ name: t, virtual_hosts: {hosts} }}, {filters} }}"
        ),
        "",
    )
}

fn route(action: &str) -> String {
    hcm("", &format!("{{ match: {{ prefix: / }}, route: {{ cluster: a{action} }} }}"))
}

#[test]
fn tcp_listeners() {
    expect(
        &tcp(""),
        &[
            ("listeners/0/name", "l"),
            ("listeners/0/address", "127.0.0.1:0"),
            ("listeners/0/chains/0/relay/cluster", "a"),
            ("listeners/0/chains/0/relay/idle_timeout", "1h"),
        ],
    );
    expect(&tcp(", idle_timeout: 0s"), &[("listeners/0/chains/0/relay/idle_timeout", "none")]);
    expect(
        &tcp(", hash_policy: [{ source_ip: {} }], max_downstream_connection_duration: 60s"),
        &[
            ("listeners/0/chains/0/relay/hash", "source_ip"),
            ("listeners/0/chains/0/relay/max_duration", "60s"),
        ],
    );
    let unknown = tcp("").replace("cluster: a }", "cluster: 'x|b' }");
    differs(&unknown, "there is no cluster `x|b`: connections are refused, as in Envoy");
    expect(
        &unknown,
        &[("listeners/0/chains/0/relay/cluster", "x_b"), ("clusters/x_b/allow_empty", "true")],
    );
    differs(&tcp(", max_connect_attempts: 3"), "connect_attempts");
}

#[test]
fn what_chains_match() {
    let with = |of: &str| {
        tcp("").replace("[{ filters", &format!("[{{ filter_chain_match: {{ {of} }}, filters"))
            .replace("filter_chains", "listener_filters: [{ name: t, typed_config: { '@type': t/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector } }], filter_chains")
    };
    expect(
        &with(
            "server_names: [a.test, '*.b.test'], transport_protocol: tls, application_protocols: [h2], source_prefix_ranges: [{ address_prefix: 10.1.2.3, prefix_len: 8 }], source_ports: [5]",
        ),
        &[
            ("listeners/0/chains/0/match/sni", "a.test *.b.test"),
            ("listeners/0/chains/0/match/transport", "tls"),
            ("listeners/0/chains/0/match/alpn", "h2"),
            ("listeners/0/chains/0/match/source", "10.0.0.0/8"),
            ("listeners/0/chains/0/match/source_port", "5"),
            ("listeners/0/inspect/timeout", "15s"),
            ("listeners/0/inspect/on_timeout", "close"),
        ],
    );
    for of in [
        "address_suffix: a",
        "source_type: EXTERNAL",
        "direct_source_prefix_ranges: [{ address_prefix: 10.0.0.0 }]",
    ] {
        refused(&with(of), "is not supported");
    }
    refused(
        &with("source_prefix_ranges: [{ address_prefix: 10.0.0.0/8, prefix_len: 8 }]"),
        "is not an address block",
    );
}

#[test]
fn names_that_the_native_form_does_not_have() {
    let text =
        tcp("").replace("cluster: a }", "cluster: 'x|y' }").replace("name: a,", "name: 'x|y',");
    expect(
        &text,
        &[("listeners/0/chains/0/relay/cluster", "x_y"), ("clusters/x_y/balance", "round_robin")],
    );
    let two = cluster("").replace("[{ name: a", "[{ name: 'a:b', load_assignment: { cluster_name: a, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 80 } } } }] }] } }, { name: 'a|b'");
    expect(
        &two,
        &[("clusters/a_b/balance", "round_robin"), ("clusters/a_b-2/balance", "round_robin")],
    );
}

#[test]
fn the_rest_of_a_bootstrap() {
    expect(
        "{ admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }, node: { id: n, locality: { region: r, zone: z } }, layered_runtime: { layers: [{ name: s, static_layer: { a: { b: 5 } } }] } }",
        &[
            ("admin/address", "127.0.0.1:9901"),
            ("node/id", "n"),
            ("node/locality", "r/z"),
            ("runtime/values/a.b", "5"),
        ],
    );
    for (text, expected) in [
        (
            "{ dynamic_resources: { lds_config: { ads: {} } } }",
            "`lds_config` comes over `ads`, but there is no `ads_config`",
        ),
        (
            "{ overload_manager: { resource_monitors: [{ name: a }] } }",
            "`overload_manager` of envoy.config.bootstrap.v3.Bootstrap",
        ),
        ("{ stats_sinks: [{ name: a }] }", "`stats_sinks` of"),
        (
            "{ bootstrap_extensions: [{ name: a, typed_config: { '@type': t/envoy.extensions.bootstrap.internal_listener.v3.InternalListener } }] }",
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener is not supported",
        ),
        (
            "{ dynamic_resources: { ads_config: { api_type: GRPC, grpc_services: [{ google_grpc: { target_uri: a, stat_prefix: a } }] }, cds_config: { ads: {} } } }",
            "`google_grpc` of envoy.config.core.v3.GrpcService is not supported",
        ),
    ] {
        refused(text, expected);
    }
}

#[test]
fn findings_about_the_native_form_name_the_field_of_envoy() {
    let text = route(", host_rewrite_header: 'a b'");
    let (_, found) = load(&text);
    assert!(
        found.iter().any(|one| one.starts_with("static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route.host_rewrite_header: ")),
        "{found:#?}"
    );
}
