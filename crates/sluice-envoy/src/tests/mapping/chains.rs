//! Chains, listeners and sockets that are told apart, and what leads nowhere.

use super::*;

const LISTENER: &str = "listeners/0";

fn matched(of: &str, filters: &str) -> String {
    tcp("").replace("[{ filters", &format!("[{{ filter_chain_match: {{ {of} }}, {filters}"))
        .replace("filter_chains", "listener_filters: [{ name: t, typed_config: { '@type': t/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector } }], filter_chains")
}

#[test]
fn services_with_tags_are_server_names() {
    let text =
        matched("server_names: ['orders{mesh=default}'], transport_protocol: tls", "filters");
    expect(&text, &[("listeners/0/chains/0/match/sni", "orders{mesh=default}")]);
    let (root, found) = load(&text);
    let errors = found.iter().filter(|one| !one.starts_with("warning")).count();
    assert!(root.is_some() && errors == 0, "{found:#?}");
}

#[test]
fn chains_that_lead_nowhere_refuse_connections() {
    let none = listener("X", "").replace("filters: [{ name: x, typed_config: X }]", "name: c");
    differs(&none, "a chain without filters closes connections");
    expect(
        &none,
        &[
            ("listeners/0/chains/0/filters/0/rbac/deny/no-filters/principals", "? ?"),
            ("listeners/0/chains/0/relay/cluster", "nowhere"),
            ("clusters/nowhere/allow_empty", "true"),
        ],
    );
    let own = tcp("").replace("port_value: 0", "port_value: 80");
    differs(&own, "the listener would forward to itself");
    expect(
        &own,
        &[
            ("listeners/0/chains/0/filters/0/rbac/deny/loop/principals", "? ?"),
            ("listeners/0/chains/0/relay/cluster", "nowhere"),
        ],
    );
    // Another endpoint gets some of the connections.
    let more = own.replace("lb_endpoints: [", "lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.2, port_value: 80 } } } }, ");
    expect(&more, &[("listeners/0/chains/0/relay/cluster", "a")]);
}

#[test]
fn options_of_listeners() {
    let text = tcp("").replace("name: l,", "name: l, freebind: true,");
    expect(&text, &[("listeners/0/socket/freebind", "true")]);
}

#[test]
fn listeners_log_connections_unless_relays_do() {
    let log = "access_log: [{ name: a, typed_config: { '@type': t/envoy.extensions.access_loggers.stream.v3.StderrAccessLog } }], ";
    let with = |text: &str| text.replacen("filter_chains", &format!("{log}filter_chains"), 1);
    expect(
        &with(&route("")),
        &[("access_log/0/sink", "stderr"), ("access_log/0/kinds", "connection")],
    );
    refused(&with(&tcp("")), "`access_log` of envoy.config.listener.v3.Listener");
    let (first, rest) = with(&route(""))
        .split_once("listeners: [")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let plain = route("");
    let other = plain.split_once("listeners: [").unwrap().1.split_once("], clusters").unwrap().0;
    let other = other.replace("name: l,", "name: m,").replace("name: t,", "name: t2,");
    refused(
        &format!("{first}listeners: [{other}, {rest}"),
        "all listeners write the same records of connections",
    );
}

/// A listener of datagrams whose proxy has these fields.
fn udp(fields: &str, of_listener: &str) -> String {
    let name = "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig";
    let filter =
        format!("{{ name: u, typed_config: {{ '@type': t/{name}, stat_prefix: s, {fields} }} }}");
    cluster("").replacen(
        "{ clusters",
        &format!("{{ listeners: [{{ name: l, address: {{ socket_address: {{ protocol: UDP, address: 127.0.0.1, port_value: 0 }} }}{of_listener}, listener_filters: [{filter}] }}], clusters"),
        1,
    )
}

fn to(cluster: &str) -> String {
    format!(
        "action: {{ name: r, typed_config: {{ '@type': t/envoy.extensions.filters.udp.udp_proxy.v3.Route, cluster: {cluster} }} }}"
    )
}

fn input(name: &str) -> String {
    format!(
        "input: {{ name: i, typed_config: {{ '@type': t/envoy.extensions.matching.common_inputs.network.v3.{name} }} }}"
    )
}

#[test]
fn datagrams_go_where_a_tree_says() {
    let by_port = format!(
        "matcher_tree: {{ {}, exact_match_map: {{ map: {{ '80': {{ {} }} }} }} }}, on_no_match: {{ {} }}",
        input("SourcePortInput"),
        to("a"),
        to("b")
    );
    let by_ip = format!(
        "matcher: {{ matcher_list: {{ matchers: [{{ predicate: {{ single_predicate: {{ {}, value_match: {{ exact: 127.0.0.1 }} }} }}, on_match: {{ matcher: {{ {by_port} }} }} }}] }} }}",
        input("SourceIPInput")
    );
    expect(
        &udp(&by_ip, ""),
        &[
            ("listeners/0/chains/0/match/source", "127.0.0.1"),
            ("listeners/0/chains/0/match/source_port", "80"),
            ("listeners/0/chains/0/relay/cluster", "a"),
            ("listeners/0/chains/1/match/source", "127.0.0.1"),
            ("listeners/0/chains/1/relay/cluster", "b"),
            ("clusters/b/allow_empty", "true"),
        ],
    );
    differs(&udp(&by_ip, ""), "there is no cluster `b`");
    let all = format!("matcher: {{ on_no_match: {{ {} }} }}", to("a"));
    expect(&udp(&all, ""), &[(&format!("{LISTENER}/relay/cluster"), "a")]);
    // The port is tested first in Envoy; here the chain with the address would be the more specific one.
    let test = |name: &str, value: &str| {
        format!(
            "{{ predicate: {{ single_predicate: {{ {}, value_match: {{ exact: '{value}' }} }} }}, on_match: {{ {} }} }}",
            input(name),
            to("a")
        )
    };
    let crossed = format!(
        "matcher: {{ matcher_list: {{ matchers: [{}, {}] }} }}",
        test("SourcePortInput", "80"),
        test("SourceIPInput", "127.0.0.1")
    );
    refused(&udp(&crossed, ""), "a chain before it may take some of its datagrams");
    let size =
        ", udp_listener_config: { downstream_socket_config: { max_rx_datagram_size: 9000 } }";
    differs(
        &udp(&format!("{all}, upstream_socket_config: {{ max_rx_datagram_size: 9000 }}"), size),
        "datagrams of any size",
    );
}

#[test]
fn endpoints_have_the_socket_that_their_metadata_asks_for() {
    let tls = "transport_socket: { name: t, typed_config: { '@type': t/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: a.test } }";
    let raw = "transport_socket: { name: t, typed_config: { '@type': t/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer } }";
    let with = |matches: &str| cluster(&format!("transport_socket_matches: [{matches}]"));
    let labelled = |text: &str| {
        text.replace("{ endpoint:", "{ metadata: { filter_metadata: { envoy.transport_socket_match: { mode: tls } } }, endpoint:")
    };
    let all = format!("{{ name: x, {tls} }}");
    expect(&with(&all), &[("clusters/a/tls/sni", "a.test")]);
    let some =
        format!("{{ name: x, match: {{ mode: tls }}, {tls} }}, {{ name: y, match: {{}}, {raw} }}");
    expect(&labelled(&with(&some)), &[("clusters/a/tls/sni", "a.test")]);
    let (root, _) = load(&with(&some));
    assert_eq!(at(&root.unwrap(), "clusters/a/tls/sni"), None);
    let both = labelled(&with(&some)).replace("lb_endpoints: [", "lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.2, port_value: 80 } } } }, ");
    refused(&both, "all endpoints of a cluster have the same socket");
    refused(&with("{ name: a }"), "`transport_socket` of");
}

#[test]
fn relays_through_a_proxy() {
    let (http, rule) = ("listeners/0/chains/0/http", "routes/tunnel/0");
    let tunnel = |config: &str| tcp(&format!(", tunneling_config: {{ {config} }}"));
    expect(
        &tunnel("hostname: 'a.test:443', headers_to_add: [{ header: { key: x-a, value: b } }]"),
        &[
            (&format!("{http}/tunnel/host"), "a.test:443"),
            (&format!("{http}/filters/0/set_headers/add_request/x-a"), "b"),
            (&format!("{rule}/cluster"), "a"),
            (&format!("{rule}/connect"), "true"),
            (&format!("{rule}/timeout/idle"), "1h"),
        ],
    );
    let post = tunnel("hostname: a.test, use_post: true, post_path: /in");
    expect(&post, &[(&format!("{http}/tunnel/post"), "/in")]);
    refused(&tunnel("hostname: '%REQUESTED_SERVER_NAME%:443'"), "without operators");
    refused(&tunnel("hostname: a.test"), "CONNECT needs a port");
    refused(&tunnel("hostname: 'a:1', propagate_response_headers: true"), "of no use to a relay");
}

/// A chain with the filter `ext_proc` of connections, with these fields, before the relay.
fn processed(fields: &str) -> String {
    let filter = format!(
        "{{ name: p, typed_config: {{ '@type': t/envoy.extensions.filters.network.ext_proc.v3.NetworkExternalProcessor, stat_prefix: p, \
         grpc_service: {{ envoy_grpc: {{ cluster_name: a }} }}{fields} }} }}"
    );
    tcp("").replace("filters: [", &format!("filters: [{filter}, "))
}

#[test]
fn services_that_process_connections() {
    let filter = "listeners/0/chains/0/filters/0/ext_proc";
    let expected =
        [("cluster", "a"), ("timeout", "2s"), ("sent", "false"), ("allow_on_error", "true")];
    let expected = expected.map(|(key, value)| (format!("{filter}/{key}"), value));
    let expected: Vec<(&str, &str)> =
        expected.iter().map(|(key, value)| (&**key, *value)).collect();
    let fields =
        ", message_timeout: 2s, failure_mode_allow: true, processing_mode: { process_write: SKIP }";
    expect(&processed(fields), &expected);
    let calls = processed("").replace(
        "{ cluster_name: a } }",
        "{ cluster_name: a }, initial_metadata: [{ key: X-A, value: b }] }",
    );
    expect(&calls, &[(&format!("{filter}/call_metadata/x-a"), "b")]);
    // Without anything to process there is no filter.
    let (root, found) =
        load(&processed(", processing_mode: { process_read: SKIP, process_write: SKIP }"));
    assert!(found.iter().all(|one| one.starts_with("warning")), "{found:#?}");
    assert_eq!(at(&root.unwrap(), filter), None);
    for fields in [
        ", metadata_options: { forwarding_namespaces: { untyped: [a] } }",
        ", connection_attributes: [source.address]",
    ] {
        refused(&processed(fields), "is not supported");
    }
}
