//! Taps: traces of requests, and of the connections that they come on.
//!
//! Owns: what is matched, how much is recorded and where it goes. Refuses to know: how traces are written. Keeps: a condition that
//! cannot be written exactly is an error: without it, what was to stay private might be recorded.

use sluice_core::Node;

use super::Mapping;
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

/// What is recorded unless it is said.
const BUFFERED: &str = "1024";

impl Mapping<'_> {
    /// The filter `tap` of requests, from `Tap`.
    pub(super) fn http_tap(&mut self, config: &ProtoMessage) -> Option<Node> {
        let tap = self.static_tap(config)?;
        let mut native = NativeMap::new(config.span);
        self.tap_output(tap, ["request_body", "response_body"], &mut native)?;
        let wanted = match (tap.message("match"), tap.message("match_config")) {
            (Some(of), _) | (None, Some(of)) => self.tap_match(of),
            (None, None) => {
                self.unsupported(tap, "match", "say what is recorded, such as `any_match: true`");
                return None;
            }
        };
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            native.map("match", wanted);
        }
        for (field, key) in [
            ("record_headers_received_time", "times"),
            ("record_downstream_connection", "client_connection"),
            ("record_upstream_connection", "endpoint_connection"),
        ] {
            if config.is(field) {
                native.word(key, true, config.place(field));
            }
        }
        if config.is("record_upstream_connection") {
            let how = "the address of the endpoint is recorded, and not Sluice's own";
            self.differs(config, "record_upstream_connection", how);
        }
        Some(single("tap", native.node()))
    }

    /// The filter `tap` of the connections of a chain whose transport socket is one, and the socket within it.
    pub(super) fn socket_tap<'m>(
        &mut self,
        config: &'m ProtoMessage,
        chain: &ProtoMessage,
    ) -> Option<(Node, &'m ProtoMessage)> {
        let is_http = |filter: &ProtoMessage| {
            let config = filter.message("typed_config");
            config.is_some_and(|of| of.descriptor.name() == "HttpConnectionManager")
        };
        if chain.messages("filters").any(is_http) {
            config.all_without_effect();
            let how = "connections of HTTP have no trace of their own; use the HTTP filter `envoy.filters.http.tap`";
            self.unsupported(config, "common_config", how);
            return None;
        }
        if let Some(more) = config.message("socket_tap_config") {
            more.without_effect(&["stats_prefix"]);
            self.only_false(
                more,
                "set_connection_per_event",
                "the addresses are those of the trace",
            );
        }
        let tap = self.static_tap(config)?;
        let mut native = NativeMap::new(config.span);
        self.tap_output(tap, ["received", "sent"], &mut native)?;
        let of = tap.message("match").or_else(|| tap.message("match_config"));
        if !of.is_some_and(|of| of.is("any_match")) {
            if let Some(of) = of {
                of.all_without_effect();
            }
            self.unsupported(tap, "match", "of a connection, only `any_match: true` is");
            return None;
        }
        Some((single("tap", native.node()), config.message("transport_socket")?))
    }

    fn static_tap<'m>(&mut self, config: &'m ProtoMessage) -> Option<&'m ProtoMessage> {
        let common = config.message("common_config")?;
        let tap = common.message("static_config");
        if tap.is_none() {
            if let Some(admin) = common.message("admin_config") {
                admin.all_without_effect();
            }
            let how =
                "there is no page `/tap`; record to files (`static_config` with `file_per_tap`)";
            self.unsupported(common, "admin_config", how);
        }
        tap
    }

    /// Where traces go, and how much of each direction.
    fn tap_output(
        &mut self,
        tap: &ProtoMessage,
        [received, sent]: [&str; 2],
        native: &mut NativeMap,
    ) -> Option<()> {
        let output = tap.message("output_config")?;
        let sinks: Vec<&ProtoMessage> = output.messages("sinks").collect();
        let [sink] = sinks.as_slice() else {
            self.unsupported(output, "sinks", "there is one");
            return None;
        };
        let Some(file) = sink.message("file_per_tap") else {
            let sinks = ["streaming_admin", "buffered_admin", "streaming_grpc", "custom_sink"];
            for field in sinks.into_iter().filter(|field| sink.has(field)) {
                if let Some(of) = sink.message(field) {
                    of.all_without_effect();
                }
                self.unsupported(sink, field, "record to files (`file_per_tap`)");
            }
            return None;
        };
        native.text("file", file.text("path_prefix")?, file.place("path_prefix"));
        let format = match &*sink.choice("format") {
            "JSON_BODY_AS_STRING" => "json_text",
            "PROTO_BINARY" => "proto",
            "PROTO_BINARY_LENGTH_DELIMITED" => "proto_delimited",
            "PROTO_TEXT" => "proto_text",
            _ => "json_bytes",
        };
        native.word("format", format, sink.place("format"));
        if output.is("streaming") {
            native.word("stream", true, output.place("streaming"));
        }
        for (field, key) in [("max_buffered_rx_bytes", received), ("max_buffered_tx_bytes", sent)] {
            let most = output.number(field).map(|most| most.to_string());
            let most = most.unwrap_or_else(|| BUFFERED.to_owned());
            native.word(key, most, output.place(field));
        }
        if output.number("min_streamed_sent_bytes").is_some_and(|bytes| bytes > 0) {
            let how = "what passes is written as it passes";
            self.differs(output, "min_streamed_sent_bytes", how);
        }
        Some(())
    }

    /// A condition; empty if it is always fulfilled.
    fn tap_match(&mut self, of: &ProtoMessage) -> Option<NativeMap> {
        let mut native = NativeMap::new(of.span);
        for (field, key) in [("or_match", "any"), ("and_match", "all")] {
            if let Some(set) = of.message(field) {
                let rules: Vec<&ProtoMessage> = set.messages("rules").collect();
                let rules: Vec<Node> = rules
                    .into_iter()
                    .filter_map(|rule| self.tap_match(rule).map(NativeMap::node))
                    .collect();
                native.list(key, rules, set.span);
            }
        }
        if let Some(inner) = of.message("not_match") {
            let inner = self.tap_match(inner)?;
            native.set("not", inner.node());
        }
        if of.has("any_match") && !of.is("any_match") {
            self.unsupported(of, "any_match", "it is true, or not there");
        }
        for (field, key) in [
            ("http_request_headers_match", "request_headers"),
            ("http_response_headers_match", "response_headers"),
            ("http_request_trailers_match", "request_trailers"),
            ("http_response_trailers_match", "response_trailers"),
        ] {
            if let Some(wanted) = of.message(field) {
                self.tap_headers(wanted, key, &mut native);
            }
        }
        for (field, key) in [
            ("http_request_generic_body_match", "request_body"),
            ("http_response_generic_body_match", "response_body"),
        ] {
            if let Some(wanted) = of.message(field) {
                native.set(key, body_search(wanted));
            }
        }
        Some(native)
    }

    /// Conditions on headers or trailers; several on one header are conditions of their own.
    fn tap_headers(&mut self, wanted: &ProtoMessage, key: &str, native: &mut NativeMap) {
        let (mut headers, mut more) = (NativeMap::new(wanted.span), Vec::new());
        let matchers: Vec<&ProtoMessage> = wanted.messages("headers").collect();
        for matcher in matchers {
            let Some(name) = matcher.text("name").map(|name| name.to_ascii_lowercase()) else {
                continue;
            };
            let Some(condition) = self.header_match(matcher) else { continue };
            if headers.has(&name) {
                more.push(single(key, single(&name, condition)));
            } else {
                headers.set(&name, condition);
            }
        }
        native.map(key, headers);
        native.list("all", more, wanted.span);
    }
}

fn body_search(wanted: &ProtoMessage) -> Node {
    let mut native = NativeMap::new(wanted.span);
    let (mut texts, mut bytes) = (Vec::new(), Vec::new());
    for pattern in wanted.messages("patterns") {
        if let Some(text) = pattern.text("string_match") {
            texts.push(quoted(text, pattern.span));
        }
        if let Some(field) = pattern.field("binary_match")
            && let ProtoValue::Bytes(wanted) = &field.value
        {
            let hex: String = wanted.iter().map(|byte| format!("{byte:02x}")).collect();
            bytes.push(quoted(&hex, field.span));
        }
    }
    native.list("contains", texts, wanted.span);
    native.list("contains_hex", bytes, wanted.span);
    if let Some(limit) = wanted.number("bytes_limit").filter(|limit| *limit > 0) {
        native.set("within", plain(limit, wanted.place("bytes_limit")));
    }
    native.node()
}
