//! Listeners.
//!
//! Owns: addresses, listener filters, sockets. Refuses to know: what filter chains do. Keeps: fields that only say
//! how Envoy schedules or counts are the only ones without effect.

use sluice_core::Node;

use super::{Mapping, Zero, native_name};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted};

/// Fields that say how Envoy counts, schedules or buffers.
pub(super) const WITHOUT_EFFECT: [&str; 9] = [
    "stat_prefix",
    "traffic_direction",
    "metadata",
    "per_connection_buffer_limit_bytes",
    "max_connections_to_accept_per_socket_event",
    "ignore_global_conn_limit",
    "bypass_overload_manager",
    "reuse_port",
    "drain_type",
];

impl Mapping<'_> {
    /// A listener in the native form.
    pub(super) fn listener(&mut self, listener: &ProtoMessage) -> Option<Node> {
        if listener.has("internal_listener") {
            let how = "connections are not handed from one listener to another";
            self.unsupported_kind(listener, "internal_listener", how);
            listener.all_without_effect();
            return None;
        }
        let mut native = NativeMap::new(listener.span);
        listener.without_effect(&WITHOUT_EFFECT);
        if let Some(metadata) = listener.message("metadata") {
            metadata.all_without_effect();
        }
        if listener.bool("enable_reuse_port") == Some(false) {
            self.differs(
                listener,
                "enable_reuse_port",
                "every worker has a listening socket of its own",
            );
        }
        if Self::is_unbound(listener) {
            let how = "connections are handed over between listeners of a file only";
            self.unsupported_kind(listener, "bind_to_port", how);
        }
        if listener.is("use_original_dst") {
            native.word("original_destination", true, listener.place("use_original_dst"));
        }
        for field in ["transparent", "enable_mptcp"] {
            self.only_false(listener, field, "");
        }
        if let Some(balance) = listener.message("connection_balance_config")
            && balance.has("exact_balance")
        {
            balance.all_without_effect();
        }
        if let Some(name) = listener.text("name") {
            let name = native_name(name);
            native.text("name", &name, listener.place("name"));
        }
        let udp = self.listen_addresses(listener, &mut native)?;
        self.socket_options(listener, &mut native);
        self.listener_filters(listener, &mut native);
        let udp_proxy = native.has("relay") || native.has("chains");
        let mut chains: Vec<Node> = Vec::new();
        for chain in listener.messages("filter_chains") {
            chains.extend(self.chain(chain, listener, udp));
        }
        if let Some(chain) = listener.message("default_filter_chain") {
            if chain.has("filter_chain_match") {
                self.unsupported(chain, "filter_chain_match", "of the default chain");
            }
            chains.extend(self.chain(chain, listener, udp));
        }
        chains.extend(self.chains_handed_over(listener));
        if udp && !udp_proxy {
            // QUIC of the same chains.
            self.quic(listener, &mut native);
        } else if udp && let Some(config) = listener.message("udp_listener_config") {
            self.datagram_sizes(config, "downstream_socket_config");
        }
        let relays = |of: &Node| of.get("relay").is_some();
        self.logs_of_listener(listener, udp || chains.iter().any(relays));
        native.list("chains", chains, listener.place("filter_chains"));
        Some(native.node())
    }

    /// Adds the addresses; whether they are of UDP.
    fn listen_addresses(
        &mut self,
        listener: &ProtoMessage,
        native: &mut NativeMap,
    ) -> Option<bool> {
        let Some(first) = listener.message("address") else {
            self.unsupported(listener, "address", "a listener without an address");
            return None;
        };
        let more =
            listener.messages("additional_addresses").filter_map(|more| more.message("address"));
        let mut udp = false;
        let mut all = Vec::new();
        for address in std::iter::once(first).chain(more) {
            let (is_udp, text) = self.address(address)?;
            udp |= is_udp;
            let text = if is_udp { format!("udp://{text}") } else { text };
            all.push(quoted(&text, address.span));
        }
        native.list("address", all, first.span);
        Some(udp)
    }

    fn socket_options(&mut self, listener: &ProtoMessage, native: &mut NativeMap) {
        let mut socket = NativeMap::new(listener.span);
        if let Some(backlog) = listener.number("tcp_backlog_size") {
            socket.word("backlog", backlog, listener.place("tcp_backlog_size"));
        }
        if let Some(queue) = listener.number("tcp_fast_open_queue_length") {
            socket.word("fast_open", queue, listener.place("tcp_fast_open_queue_length"));
        }
        if listener.is("freebind") {
            socket.word("freebind", true, listener.place("freebind"));
        }
        native.map("socket", socket);
    }

    fn listener_filters(&mut self, listener: &ProtoMessage, native: &mut NativeMap) {
        let mut inspects = false;
        for filter in listener.messages("listener_filters") {
            filter.without_effect(&["name"]);
            let Some(config) = filter.message("typed_config") else {
                if !filter.has("config_discovery") {
                    self.unsupported(filter, "name", "a filter needs its `typed_config`");
                }
                continue;
            };
            match config.type_name() {
                "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
                    config.without_effect(&[
                        "enable_ja3_fingerprinting",
                        "enable_ja4_fingerprinting",
                        "initial_read_buffer_size",
                    ]);
                    inspects = true;
                }
                "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => {
                    inspects = true
                }
                "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
                    self.proxy_protocol(config, listener, native);
                }
                "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig" => {
                    self.udp_proxy(config, native);
                }
                "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => {
                    config.all_without_effect();
                    native.word("original_destination", true, config.span);
                }
                _ => self.unsupported_type(config),
            }
        }
        let continues = listener.is("continue_on_listener_filters_timeout");
        let timeout = self.duration(listener, "listener_filters_timeout", Zero::Refused);
        if inspects {
            let mut inspect = NativeMap::new(listener.place("listener_filters"));
            inspect.set("timeout", timeout.unwrap_or_else(|| plain("15s", listener.span)));
            inspect.word("on_timeout", if continues { "continue" } else { "close" }, listener.span);
            native.map("inspect", inspect);
        }
    }

    fn proxy_protocol(
        &mut self,
        config: &ProtoMessage,
        listener: &ProtoMessage,
        native: &mut NativeMap,
    ) {
        config.without_effect(&["stat_prefix"]);
        let mut section = NativeMap::new(config.span);
        let optional = config.is("allow_requests_without_proxy_protocol");
        section.word("accept", if optional { "optional" } else { "required" }, config.span);
        // Envoy takes the header from anybody.
        let all = ["0.0.0.0/0", "::/0"].map(|block| quoted(block, config.span)).to_vec();
        section.list("trust", all, config.span);
        if !listener.has("listener_filters_timeout") {
            section.word("timeout", "15s", config.span);
        } else if let Some(timeout) =
            self.duration(listener, "listener_filters_timeout", Zero::Refused)
        {
            section.set("timeout", timeout);
        }
        native.set("proxy_protocol", section.node());
    }

    /// QUIC on a UDP address: Envoy's listener for it stands alone, and so does this one.
    fn quic(&mut self, listener: &ProtoMessage, native: &mut NativeMap) {
        let Some(config) = listener.message("udp_listener_config") else { return };
        let Some(options) = config.message("quic_options") else { return };
        let mut quic = NativeMap::new(options.span);
        if let Some(protocol) = options.message("quic_protocol_options") {
            if let Some(streams) = protocol.number("max_concurrent_streams") {
                quic.word("streams", streams, protocol.span);
            }
            for (field, key) in [
                ("initial_stream_window_size", "stream_window"),
                ("initial_connection_window_size", "connection_window"),
            ] {
                if let Some(size) = protocol.number(field) {
                    quic.word(key, size, protocol.place(field));
                }
            }
        }
        if let Some(idle) = self.duration(options, "idle_timeout", Zero::Refused) {
            quic.set("idle_timeout", idle);
        }
        if quic.is_empty() {
            native.word("quic", true, options.span);
        } else {
            native.map("quic", quic);
        }
    }
}
