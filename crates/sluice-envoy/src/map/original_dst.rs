//! Where clients wanted to go before they were redirected (`ORIGINAL_DST`, `use_original_dst`).
//!
//! Owns: clusters of that type, and the chains of listeners that have no socket of their own. Refuses to know: how a destination is
//! found. Keeps: a listener without a socket is served by those that hand connections over, or it is reported.

use std::net::SocketAddr;

use sluice_core::Node;

use super::{Mapping, Zero, native_name};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

/// The header with the destination, unless another one is named.
const HEADER: &str = "x-envoy-original-dst-host";

/// Envoy does not bound the number of destinations; this is the most that can be said.
const HOSTS_MAX: u32 = 16_384;

impl Mapping<'_> {
    /// The endpoints of a cluster of the type `ORIGINAL_DST`.
    pub(super) fn original_destinations(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        cluster.without_effect(&["lb_policy", "dns_lookup_family"]);
        let span = cluster.place("type");
        let mut forward = NativeMap::new(span);
        forward.word("by", "destination", span);
        forward.word("max_hosts", HOSTS_MAX, span);
        let unused = self.duration(cluster, "cleanup_interval", Zero::Refused);
        forward.set("host_ttl", unused.unwrap_or_else(|| plain("5s", span)));
        if let Some(config) = cluster.message("original_dst_lb_config") {
            let named = config.text("http_header_name").filter(|name| !name.is_empty());
            if config.is("use_http_header") {
                let name = named.map_or(HEADER, |name| name).to_ascii_lowercase();
                forward.text("header", &name, config.place("use_http_header"));
                // In Envoy, a header may name any address.
                native.set("egress", single("any", plain(true, config.place("use_http_header"))));
            }
            if let Some(port) = config.number("upstream_port_override") {
                forward.word("to_port", port, config.place("upstream_port_override"));
            }
            if config.has("metadata_key") {
                self.unsupported(config, "metadata_key", "write `use_http_header`");
            }
        }
        native.map("forward", forward);
    }

    /// Whether a listener has no socket: connections reach it from one with `use_original_dst`.
    pub(super) fn is_unbound(listener: &ProtoMessage) -> bool {
        listener.bool("bind_to_port") == Some(false)
    }

    /// Notes the listeners of a file that have no socket.
    pub(super) fn note_unbound(&mut self, resources: &ProtoMessage) {
        let all = || resources.messages("listeners");
        let hands_over = all().any(|of| !Self::is_unbound(of) && of.is("use_original_dst"));
        for listener in all().filter(|of| Self::is_unbound(of)) {
            if hands_over {
                self.unbound.push(listener.clone());
                // It is read where it is used.
                listener.all_without_effect();
                continue;
            }
            listener.all_without_effect();
            self.check_blocks(listener);
            let how =
                "no listener has `use_original_dst`, so that no connection is handed to this one";
            self.differs(listener, "bind_to_port", how);
        }
    }

    /// Checks the address blocks of what has no effect, which Envoy refuses as well.
    fn check_blocks(&mut self, of: &ProtoMessage) {
        if of.descriptor.name() == "CidrRange" {
            self.block(of);
            return;
        }
        for field in &of.fields {
            field.value.messages(&mut |inner| self.check_blocks(inner));
        }
    }

    /// The chains that a listener hands connections to, by where these were to go.
    pub(super) fn chains_handed_over(&mut self, listener: &ProtoMessage) -> Vec<Node> {
        if !listener.is("use_original_dst") {
            return Vec::new();
        }
        if self.plane.is_some() {
            let how = "connections are handed over between listeners of a file only";
            self.unsupported_kind(listener, "use_original_dst", how);
            return Vec::new();
        }
        let mut chains = Vec::new();
        for unbound in self.unbound.clone() {
            chains.extend(self.chains_of_unbound(&unbound));
            self.report_unread(&unbound);
        }
        chains
    }

    fn chains_of_unbound(&mut self, listener: &ProtoMessage) -> Vec<Node> {
        listener.without_effect(&super::listeners::WITHOUT_EFFECT);
        listener.without_effect(&[
            "bind_to_port",
            "enable_reuse_port",
            "tcp_backlog_size",
            "freebind",
            "listener_filters_timeout",
            "continue_on_listener_filters_timeout",
        ]);
        for field in ["metadata", "connection_balance_config"] {
            if let Some(of) = listener.message(field) {
                of.all_without_effect();
            }
        }
        for filter in listener.messages("listener_filters") {
            filter.without_effect(&["name"]);
            let Some(config) = filter.message("typed_config") else { continue };
            match config.descriptor.name() {
                "TlsInspector" | "HttpInspector" | "OriginalDst" => config.all_without_effect(),
                _ => self.unsupported_type(config),
            }
        }
        let Some(address) = listener.message("address") else { return Vec::new() };
        let to = match self.address(address) {
            Some((false, text)) => text.parse::<SocketAddr>().ok(),
            _ => None,
        };
        let Some(to) = to else {
            let how = "what is handed over goes to an IP address and a port of TCP";
            self.unsupported(listener, "address", how);
            return Vec::new();
        };
        let own = listener.text("name").map_or_else(|| to.to_string(), |name| name.to_string());
        let all: Vec<&ProtoMessage> = listener.messages("filter_chains").collect();
        let mut chains = Vec::new();
        for (index, chain) in
            all.into_iter().chain(listener.message("default_filter_chain")).enumerate()
        {
            if let Some(of) = chain.message("filter_chain_match") {
                for field in ["destination_port", "prefix_ranges"] {
                    if of.has(field) {
                        let how = "the address of its listener says it";
                        self.unsupported(of, field, how);
                    }
                }
            }
            let Some(node) = self.chain(chain, listener, false) else { continue };
            let mut native = NativeMap::of(Some(node), chain.span);
            let mut criteria = NativeMap::of(native.take("match"), address.span);
            if !to.ip().is_unspecified() {
                let bits = if to.is_ipv4() { 32 } else { 128 };
                let block = quoted(&format!("{}/{bits}", to.ip()), address.span);
                criteria.list("destination", vec![block], address.span);
            }
            criteria.word("port", to.port(), address.span);
            native.map("match", criteria);
            let name =
                chain.text("name").map_or_else(|| index.to_string(), |name| name.to_string());
            native.text("name", &native_name(&format!("{own}-{name}")), chain.span);
            chains.push(native.node());
        }
        self.logs_of_listener(listener, chains.iter().any(|of| of.get("relay").is_some()));
        chains
    }
}
