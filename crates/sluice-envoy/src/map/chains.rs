//! Filter chains.
//!
//! Owns: what a chain matches, its network filters, its TLS. Refuses to know: HTTP. Keeps: a chain has one terminal
//! filter, and it is the last.

use sluice_core::{Node, Span};

use super::metadata::KnownMetadata;
use super::policies::everybody;
use super::{Mapping, native_name};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

/// The sessions of a chain that may begin with early data. Envoy keeps them in tickets, without a bound.
const EARLY_DATA_SESSIONS: u32 = 4096;

impl Mapping<'_> {
    /// A filter chain in the native form.
    pub(super) fn chain(
        &mut self,
        chain: &ProtoMessage,
        listener: &ProtoMessage,
        udp: bool,
    ) -> Option<Node> {
        let mut native = NativeMap::new(chain.span);
        self.chain_waits = false;
        if let Some(metadata) = chain.message("metadata") {
            metadata.all_without_effect();
        }
        if let Some(name) = chain.text("name") {
            native.text("name", &native_name(name), chain.place("name"));
        }
        self.only_false(chain, "use_proxy_proto", "use the listener filter `proxy_protocol`");
        if let Some(of) = chain.message("filter_chain_match") {
            let criteria = self.chain_match(of, listener);
            native.map("match", criteria);
        }
        let tap = match chain.message("transport_socket") {
            Some(socket) => self.downstream_socket(socket, chain, udp, &mut native),
            None => None,
        };
        self.metadata = KnownMetadata::default();
        let filters: Vec<&ProtoMessage> = chain.messages("filters").collect();
        let (mut before, mut refuses) = (Vec::from_iter(tap), false);
        for (index, filter) in filters.iter().enumerate() {
            filter.without_effect(&["name"]);
            let Some(config) = filter.message("typed_config") else {
                self.filter_without_settings(filter);
                continue;
            };
            let last = index + 1 == filters.len();
            match config.descriptor.name() {
                "TcpProxy" if last => {
                    refuses |= self.is_loop(config, listener);
                    self.tcp_proxy(config, &mut native);
                }
                "HttpConnectionManager" if last => self.http(config, &mut native),
                "TcpProxy" | "HttpConnectionManager" => {
                    self.unsupported(
                        filter,
                        "typed_config",
                        "a filter that ends the chain must be the last",
                    );
                }
                _ => before.extend(self.network_filter(config)),
            }
        }
        if filters.is_empty() && self.plane.is_some() {
            self.unsupported(chain, "filters", "a chain without filters closes every connection");
            return None;
        }
        if filters.is_empty() {
            let how = "a chain without filters closes connections; here it refuses them";
            self.differs(chain, "filters", how);
            let none = self.cluster_without_endpoints(chain.span);
            native.set("relay", single("cluster", quoted(&none, chain.span)));
            before.push(deny_all("no-filters", chain.span));
        }
        if refuses {
            // The relay would be an error: it is replaced by one that leads nowhere.
            let none = self.cluster_without_endpoints(chain.span);
            native.set("relay", single("cluster", quoted(&none, chain.span)));
            before.insert(0, deny_all("loop", chain.span));
        }
        if self.chain_waits {
            before.insert(0, deny_all("incomplete", chain.span));
        }
        native.list("filters", before, chain.place("filters"));
        Some(native.node())
    }

    /// A filter without settings: they come on their own, or it is a mistake.
    pub(super) fn filter_without_settings(&mut self, filter: &ProtoMessage) {
        match filter.message("config_discovery") {
            Some(config) => {
                config.all_without_effect();
                self.chain_waits = true;
            }
            None => self.unsupported(filter, "name", "a filter needs its `typed_config`"),
        }
    }

    fn chain_match(&mut self, of: &ProtoMessage, listener: &ProtoMessage) -> NativeMap {
        let mut native = NativeMap::new(of.span);
        if let Some(port) = of.number("destination_port") {
            native.word("port", port, of.place("destination_port"));
        }
        for (field, key) in [("prefix_ranges", "destination"), ("source_prefix_ranges", "source")] {
            let blocks = self.blocks(of, field);
            native.list(key, blocks, of.place(field));
        }
        let names = of.texts("server_names").map(|(name, span)| quoted(name, span)).collect();
        native.list("sni", names, of.place("server_names"));
        let ports = of.list("source_ports").iter().filter_map(|item| match item.value {
            crate::message::ProtoValue::Int(port) => Some(plain(port, item.span)),
            _ => None,
        });
        native.list("source_port", ports.collect(), of.place("source_ports"));
        let transport = of.text("transport_protocol").map(|text| &**text);
        match transport {
            None => {}
            Some("tls") => native.word("transport", "tls", of.place("transport_protocol")),
            Some("raw_buffer") => native.word("transport", "plain", of.place("transport_protocol")),
            Some("quic") => native.word("transport", "quic", of.place("transport_protocol")),
            Some(_) => self.unsupported(of, "transport_protocol", "write tls, raw_buffer or quic"),
        }
        self.application_protocols(of, listener, transport, &mut native);
        if &*of.choice("source_type") != "ANY" {
            self.unsupported(of, "source_type", "");
        }
        native
    }

    /// ALPN in TLS; without TLS, what the inspector of HTTP recognises.
    fn application_protocols(
        &mut self,
        of: &ProtoMessage,
        listener: &ProtoMessage,
        transport: Option<&str>,
        native: &mut NativeMap,
    ) {
        let inspector = |filter: &ProtoMessage| {
            filter.message("typed_config").is_some_and(|of| of.descriptor.name() == "HttpInspector")
        };
        let inspected = listener.messages("listener_filters").any(inspector);
        let span = of.place("application_protocols");
        let protocols: Vec<_> = of.texts("application_protocols").collect();
        if transport == Some("tls") || !inspected {
            let alpn = protocols.iter().map(|(text, span)| quoted(text, *span)).collect();
            native.list("alpn", alpn, span);
            return;
        }
        if transport.is_none() && !protocols.is_empty() {
            self.unsupported(
                of,
                "application_protocols",
                "say whether it is of TLS (`transport_protocol`)",
            );
            return;
        }
        let mut words = Vec::new();
        for (text, span) in protocols {
            match &**text {
                "http/1.0" | "http/1.1" => words.push(("http1", span)),
                "h2c" => words.push(("http2", span)),
                _ => self.unsupported(
                    of,
                    "application_protocols",
                    "plaintext is http/1.0, http/1.1 or h2c",
                ),
            }
        }
        words.dedup_by_key(|(word, _)| *word);
        native.list(
            "protocol",
            words.into_iter().map(|(word, span)| plain(word, span)).collect(),
            span,
        );
    }

    /// Sets what a transport socket stands for; returns the filter that it is besides.
    fn downstream_socket(
        &mut self,
        socket: &ProtoMessage,
        chain: &ProtoMessage,
        udp: bool,
        native: &mut NativeMap,
    ) -> Option<Node> {
        socket.without_effect(&["name"]);
        let Some(config) = socket.message("typed_config") else {
            self.unsupported(socket, "name", "a transport socket needs its `typed_config`");
            return None;
        };
        match config.descriptor.name() {
            "Tap" if !udp => {
                let (tap, inner) = self.socket_tap(config, chain)?;
                if inner.message("typed_config").is_some_and(|of| of.descriptor.name() == "Tap") {
                    self.unsupported(config, "transport_socket", "a tap within a tap");
                    return None;
                }
                self.downstream_socket(inner, chain, udp, native);
                return Some(tap);
            }
            "RawBuffer" => {}
            "DownstreamTlsContext" if !udp => {
                let tls = self.downstream_tls(config, chain);
                native.set("tls", tls);
            }
            "QuicDownstreamTransport" if udp => {
                if let Some(context) = config.message("downstream_tls_context") {
                    let tls = self.downstream_tls(context, chain);
                    let tls = self.downstream_early_data(config, tls);
                    native.set("tls", tls);
                }
            }
            _ => self.unsupported_type(config),
        }
        None
    }

    /// Envoy takes early data over QUIC unless that is turned off.
    fn downstream_early_data(&mut self, config: &ProtoMessage, tls: Node) -> Node {
        let set = config.has("enable_early_data");
        if set && !config.is("enable_early_data") {
            return tls;
        }
        let mut native = NativeMap::of(Some(tls), config.span);
        if native.has("client_auth") {
            if set {
                let how = "a client that must show a certificate is not served before it has";
                self.differs(config, "enable_early_data", how);
            }
        } else {
            native.word("early_data_sessions", EARLY_DATA_SESSIONS, config.span);
        }
        native.node()
    }

    fn network_filter(&mut self, config: &ProtoMessage) -> Option<Node> {
        match config.type_name() {
            "envoy.extensions.filters.network.rbac.v3.RBAC" => self.network_rbac(config),
            "envoy.extensions.filters.network.ext_proc.v3.NetworkExternalProcessor" => {
                self.network_ext_proc(config)
            }
            "envoy.extensions.filters.network.wasm.v3.Wasm" => self.guest_filter(config, false),
            "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" => {
                config.without_effect(&["stat_prefix"]);
                if config.duration("delay").is_some_and(|delay| delay.0 != 0) {
                    self.unsupported(
                        config,
                        "delay",
                        "a connection beyond the limit is closed at once",
                    );
                }
                let max = config.number("max_connections")?;
                let mut limit = NativeMap::new(config.span);
                limit.word("max", max, config.place("max_connections"));
                Some(single("connection_limit", limit.node()))
            }
            _ => {
                self.unsupported_type(config);
                None
            }
        }
    }
}

/// What a chain begins with that refuses every connection, because something of it has not come, or leads nowhere.
fn deny_all(policy: &str, span: Span) -> Node {
    single("rbac", single("deny", single(policy, everybody(span))))
}
