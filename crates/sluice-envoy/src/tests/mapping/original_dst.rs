//! Where clients wanted to go before they were redirected.

use super::*;

fn original(config: &str) -> String {
    cluster(&format!(
        "type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, load_assignment: null{config}"
    ))
    .replace(", load_assignment: null", "")
}

#[test]
fn clusters_of_destinations() {
    expect(
        &original(", cleanup_interval: 60s"),
        &[
            ("clusters/a/forward/by", "destination"),
            ("clusters/a/forward/host_ttl", "60s"),
            ("clusters/a/forward/max_hosts", "16384"),
        ],
    );
    let config =
        ", original_dst_lb_config: { use_http_header: true, upstream_port_override: 8080 }";
    expect(
        &original(config),
        &[
            ("clusters/a/forward/header", "x-envoy-original-dst-host"),
            ("clusters/a/forward/to_port", "8080"),
            ("clusters/a/forward/host_ttl", "5s"),
            ("clusters/a/egress/any", "true"),
        ],
    );
    let config = ", original_dst_lb_config: { use_http_header: true, http_header_name: X-To }";
    expect(&original(config), &[("clusters/a/forward/header", "x-to")]);
    let config = ", original_dst_lb_config: { metadata_key: { key: a, path: [{ key: b }] } }";
    refused(&original(config), "`metadata_key` of");
}

/// A file with a listener that hands connections over, and this one without a socket.
fn handed(fields: &str) -> String {
    let chain = "filter_chains: [{ filters: [{ name: x, typed_config: { '@type': t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: a } }] }]";
    let unbound = format!(
        "{{ name: inner, bind_to_port: false, address: {{ socket_address: {{ address: 10.1.2.3, port_value: 80 }} }}, {chain}{fields} }}"
    );
    tcp("").replace(
        "listeners: [{ name: l,",
        &format!("listeners: [{unbound}, {{ name: l, use_original_dst: true,"),
    )
}

#[test]
fn listeners_without_a_socket_are_chains_of_the_one_that_hands_over() {
    expect(
        &handed(""),
        &[
            ("listeners/0/name", "l"),
            ("listeners/0/original_destination", "true"),
            ("listeners/0/chains/0/relay/cluster", "a"),
            ("listeners/0/chains/1/name", "inner-0"),
            ("listeners/0/chains/1/match/destination", "10.1.2.3/32"),
            ("listeners/0/chains/1/match/port", "80"),
            ("listeners/0/chains/1/relay/cluster", "a"),
        ],
    );
    let any = handed("").replace("10.1.2.3", "0.0.0.0");
    expect(&any, &[("listeners/0/chains/1/match/port", "80")]);
    refused(
        &handed("").replace(
            "[{ filters: [{ name: x",
            "[{ filter_chain_match: { destination_port: 5 }, filters: [{ name: x",
        ),
        "`destination_port` of",
    );
    refused(&handed(", transparent: true"), "`transparent` of");
    let filter = ", listener_filters: [{ name: p, typed_config: { '@type': t/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol } }]";
    refused(&handed(filter), "ProxyProtocol is not supported");
    let alone = handed("").replace(" use_original_dst: true,", "");
    differs(&alone, "no listener has `use_original_dst`");
    let ranges = "[{ filter_chain_match: { source_prefix_ranges: [{ address_prefix: '::1/128', prefix_len: 128 }] }, filters: [{ name: x";
    refused(&alone.replace("[{ filters: [{ name: x", ranges), "is not an address block");
    let filter = tcp("").replace("name: l,", "name: l, listener_filters: [{ name: o, typed_config: { '@type': t/envoy.extensions.filters.listener.original_dst.v3.OriginalDst } }],");
    expect(&filter, &[("listeners/0/original_destination", "true")]);
}
