//! The HTTP versions that clusters speak.
//!
//! Owns: `HttpProtocolOptions` and the fields of clusters before it. Refuses to know: TLS. Keeps: without options, it
//! is HTTP/1.1.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain};

impl Mapping<'_> {
    /// The `protocol`, `reuse` and `http2` of a cluster.
    pub(super) fn protocol(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        let mut reuse = NativeMap::new(cluster.span);
        reuse.word("idle_timeout", "1h", cluster.span);
        reuse.word("streams", 1024, cluster.span);
        if let Some(requests) =
            cluster.number("max_requests_per_connection").filter(|requests| *requests > 0)
        {
            reuse.word("requests", requests, cluster.place("max_requests_per_connection"));
        }
        if let Some(common) = cluster.message("common_http_protocol_options") {
            self.upstream_common(common, native, &mut reuse);
        }
        if let Some(options) = cluster.message("http_protocol_options") {
            self.upstream_http1(options);
        }
        if let Some(options) = cluster.message("http2_protocol_options") {
            self.upstream_http2(options, native, &mut reuse);
            native.word("protocol", "http2", options.span);
        }
        if let Some(options) = cluster.message("upstream_http_protocol_options") {
            self.upstream_names(options);
        }
        for (_, item) in cluster.map("typed_extension_protocol_options") {
            let crate::message::ProtoValue::Message(options) = &item.value else { continue };
            if options.type_name() == "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" {
                self.protocol_options(options, native, &mut reuse);
            } else {
                self.unsupported_type(options);
            }
        }
        let common = cluster.message("common_lb_config");
        if common.is_some_and(|common| common.is("close_connections_on_host_set_change")) {
            reuse.word("across_changes", false, cluster.span);
        }
        native.map("reuse", reuse);
        self.preconnect(cluster, native);
    }

    /// Connections made ahead. Where only a request tells which endpoint is picked, Envoy predicts none either.
    fn preconnect(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        let Some(policy) = cluster.message("preconnect_policy") else { return };
        let mut preconnect = NativeMap::new(policy.span);
        let balance = native.take("balance");
        let goes_by_hash = balance.as_ref().is_some_and(goes_by_hash);
        balance.into_iter().for_each(|balance| native.set("balance", balance));
        let is_predictable = !cluster.has("lb_subset_config") && !goes_by_hash;
        for (field, key, applies) in [
            ("per_upstream_preconnect_ratio", "per_endpoint", true),
            ("predictive_preconnect_ratio", "predicted", is_predictable),
        ] {
            let ratio = policy.float(field).filter(|ratio| *ratio > 1.0 && applies);
            if let Some(ratio) = ratio {
                let percent = format!("{:.0}%", ratio * 100.0);
                preconnect.word(key, percent, policy.place(field));
            }
        }
        if !preconnect.is_empty() {
            native.map("preconnect", preconnect);
        }
    }

    fn protocol_options(
        &mut self,
        options: &ProtoMessage,
        native: &mut NativeMap,
        reuse: &mut NativeMap,
    ) {
        if let Some(common) = options.message("common_http_protocol_options") {
            self.upstream_common(common, native, reuse);
        }
        if let Some(names) = options.message("upstream_http_protocol_options") {
            self.upstream_names(names);
        }
        for filter in options.messages("http_filters") {
            filter.without_effect(&["name"]);
            match filter.message("typed_config") {
                // It only sends the request.
                Some(config) if config.descriptor.name() == "UpstreamCodec" => {
                    config.all_without_effect()
                }
                Some(config) => self.unsupported_type(config),
                None => self.unsupported(filter, "name", "a filter needs its `typed_config`"),
            }
        }
        if let Some(explicit) = options.message("explicit_http_config") {
            if let Some(http2) = explicit.message("http2_protocol_options") {
                native.word("protocol", "http2", http2.span);
                self.upstream_http2(http2, native, reuse);
            } else if let Some(http3) = explicit.message("http3_protocol_options") {
                native.word("protocol", "http3", http3.span);
                self.upstream_http3(http3);
            } else if let Some(http1) = explicit.message("http_protocol_options") {
                native.word("protocol", "http1", http1.span);
                self.upstream_http1(http1);
            }
        } else if let Some(auto) = options.message("auto_config") {
            native.word("protocol", "auto", auto.span);
            if let Some(http1) = auto.message("http_protocol_options") {
                self.upstream_http1(http1);
            }
            if let Some(http2) = auto.message("http2_protocol_options") {
                self.upstream_http2(http2, native, reuse);
            }
            if let Some(http3) = auto.message("http3_protocol_options") {
                self.upstream_http3(http3);
                native.word("http3", true, http3.span);
            }
            if let Some(cache) = auto.message("alternate_protocols_cache_options") {
                cache.all_without_effect();
            }
        } else if let Some(same) = options.message("use_downstream_protocol_config") {
            native.word("protocol", "same", same.span);
            if let Some(http1) = same.message("http_protocol_options") {
                self.upstream_http1(http1);
            }
            if let Some(http2) = same.message("http2_protocol_options") {
                self.upstream_http2(http2, native, reuse);
            }
            if let Some(http3) = same.message("http3_protocol_options") {
                self.upstream_http3(http3);
                native.word("http3", true, http3.span);
            }
        }
    }

    fn upstream_common(
        &mut self,
        common: &ProtoMessage,
        native: &mut NativeMap,
        reuse: &mut NativeMap,
    ) {
        // What bounds the responses of endpoints is always on.
        common.without_effect(&[
            "max_headers_count",
            "max_response_headers_kb",
            "headers_with_underscores_action",
        ]);
        if common.duration("idle_timeout").is_some_and(|idle| idle.0 == 0) {
            self.differs(
                common,
                "idle_timeout",
                "a connection without requests is closed after a day at the latest",
            );
            reuse.word("idle_timeout", "1d", common.place("idle_timeout"));
        } else if let Some(idle) = self.duration(common, "idle_timeout", Zero::Refused) {
            reuse.set("idle_timeout", idle);
        }
        if let Some(max) = self.duration(common, "max_stream_duration", Zero::Word("none")) {
            native.set("max_stream_duration", max);
        }
        if let Some(age) = self.duration(common, "max_connection_duration", Zero::Word("none")) {
            reuse.set("max_age", age);
        }
        if let Some(requests) =
            common.number("max_requests_per_connection").filter(|requests| *requests > 0)
        {
            reuse.word("requests", requests, common.place("max_requests_per_connection"));
        }
    }

    fn upstream_http1(&mut self, options: &ProtoMessage) {
        let mut ignored = NativeMap::new(options.span);
        self.http1_options(options, &mut ignored);
        if ignored.has("header_case") {
            // Names are kept if the listener keeps them.
            ignored.take("header_case");
        }
    }

    fn upstream_http2(
        &mut self,
        options: &ProtoMessage,
        native: &mut NativeMap,
        reuse: &mut NativeMap,
    ) {
        let mut http2 = NativeMap::new(options.span);
        self.http2_options(options, &mut http2);
        if let Some(streams) = options.number("max_concurrent_streams") {
            reuse.word("streams", streams, options.place("max_concurrent_streams"));
        }
        let mut windows = [plain("16MiB", options.span), plain("24MiB", options.span)];
        for (window, field) in
            windows.iter_mut().zip(["initial_stream_window_size", "initial_connection_window_size"])
        {
            if let Some(size) = options.number(field) {
                *window = plain(size, options.place(field));
            }
        }
        let [stream, connection] = windows;
        http2.set("stream_window", stream);
        http2.set("connection_window", connection);
        native.map("http2", http2);
    }

    fn upstream_http3(&mut self, options: &ProtoMessage) {
        options.without_effect(&["allow_extended_connect"]);
    }

    fn upstream_names(&mut self, names: &ProtoMessage) {
        for field in ["auto_sni", "auto_san_validation"] {
            if names.is(field) {
                names.field(field);
                self.differs(names, field, "without `sni`, the server name is that of the endpoint, not the host of the request");
            }
        }
    }
}

/// Whether a `balance` goes by a hash.
fn goes_by_hash(balance: &Node) -> bool {
    let is_hash = |word: &str| matches!(word, "ring_hash" | "maglev");
    let key = balance.entries().and_then(|entries| entries.first()).map(|entry| &*entry.key);
    balance.text().or(key).is_some_and(is_hash)
}
