//! Sockets to endpoints.
//!
//! Owns: transport sockets, keepalive, source addresses. Refuses to know: what TLS is made of.

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted};

impl Mapping<'_> {
    pub(super) fn upstream_socket(&mut self, socket: &ProtoMessage, native: &mut NativeMap) {
        socket.without_effect(&["name"]);
        let Some(config) = socket.message("typed_config") else {
            self.unsupported(socket, "name", "a transport socket needs its `typed_config`");
            return;
        };
        match config.descriptor.name() {
            "RawBuffer" => {}
            "UpstreamTlsContext" => {
                let tls = self.upstream_tls(config);
                native.set("tls", tls);
            }
            "QuicUpstreamTransport" => {
                if let Some(context) = config.message("upstream_tls_context") {
                    let mut tls = NativeMap::of(Some(self.upstream_tls(context)), context.span);
                    // Safe requests leave early; `early_data_policy` of routes can say no more.
                    if native.get("protocol").is_some_and(|protocol| protocol.is_word("http3")) {
                        tls.word("early_data", true, context.span);
                    }
                    native.set("tls", tls.node());
                }
            }
            "ProxyProtocolUpstreamTransport" => {
                if let Some(header) = config.message("config") {
                    let version = header.choice("version");
                    native.word(
                        "send_proxy_protocol",
                        if &*version == "V2" { "v2" } else { "v1" },
                        header.span,
                    );
                }
                if let Some(inner) = config.message("transport_socket") {
                    self.upstream_socket(inner, native);
                }
            }
            "Tap" => {
                config.all_without_effect();
                let how = "connections to endpoints have no trace; record those of clients, with the socket in a filter chain, or requests with the HTTP filter `envoy.filters.http.tap`";
                self.unsupported(config, "common_config", how);
            }
            _ => self.unsupported_type(config),
        }
    }

    pub(super) fn upstream_socket_options(
        &mut self,
        cluster: &ProtoMessage,
        native: &mut NativeMap,
    ) {
        let mut socket = NativeMap::new(cluster.span);
        if let Some(options) = cluster.message("upstream_connection_options") {
            options.without_effect(&[
                "set_local_interface_name_on_upstream_connections",
                "happy_eyeballs_config",
            ]);
            if let Some(of) = options.message("happy_eyeballs_config") {
                of.all_without_effect();
            }
            if let Some(keepalive) = options.message("tcp_keepalive") {
                let mut probes = NativeMap::new(keepalive.span);
                for (field, key) in [("keepalive_time", "idle"), ("keepalive_interval", "interval")]
                {
                    if let Some(seconds) = keepalive.number(field) {
                        probes.word(key, format!("{seconds}s"), keepalive.place(field));
                    }
                }
                if let Some(count) = keepalive.number("keepalive_probes") {
                    probes.word("probes", count, keepalive.place("keepalive_probes"));
                }
                if probes.is_empty() {
                    socket.word("keepalive", true, keepalive.span);
                } else {
                    socket.map("keepalive", probes);
                }
            }
        }
        if let Some(bind) = cluster.message("upstream_bind_config")
            && let Some(source) = bind.message("source_address")
        {
            if source.number("port_value").unwrap_or(0) != 0 {
                self.unsupported(source, "port_value", "the system chooses the port");
            }
            if let Some(address) = source.text("address") {
                let all = vec![quoted(address, source.place("address"))];
                socket.list("source", all, source.span);
            }
        }
        native.map("socket", socket);
    }
}
