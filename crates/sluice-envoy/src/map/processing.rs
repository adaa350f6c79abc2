//! External processing.
//!
//! Owns: the service, what it is sent, what it may change, and settings of routes. Refuses to know: where the filter stands.
//! Keeps: what would let a message pass unprocessed that Envoy has processed is an error.

use sluice_core::{Node, Value};

use super::{Mapping, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

impl Mapping<'_> {
    /// The filter `ext_proc` of requests, from `ExternalProcessor`.
    pub(super) fn ext_proc(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(config.span);
        config.without_effect(&[
            "stat_prefix",
            "filter_metadata",
            "allow_content_length_header",
            "emit_client_span",
        ]);
        let Some(service) = config.message("grpc_service") else {
            self.unsupported(config, "http_service", "a service over gRPC is required");
            return None;
        };
        self.processor(service, &mut native);
        let observes = config.is("observability_mode");
        if let Some(mode) = config.message("processing_mode") {
            self.sent_parts(mode, observes, &mut native);
        }
        let modes: Vec<&ProtoMessage> = config.messages("allowed_override_modes").collect();
        let modes = modes.into_iter().map(|mode| self.sent_node(mode, false)).collect();
        native.list("override_modes", modes, config.place("allowed_override_modes"));
        for (field, key) in
            [("request_attributes", "attributes"), ("response_attributes", "response_attributes")]
        {
            let names = config.texts(field).map(|(name, span)| quoted(name, span)).collect();
            native.list(key, names, config.place(field));
        }
        if let Some(timeout) = self.duration(config, "message_timeout", Zero::Refused) {
            native.set("timeout", timeout);
        }
        if config.duration("max_message_timeout").is_some_and(|time| time.0 > 0)
            && let Some(timeout) = self.duration(config, "max_message_timeout", Zero::Refused)
        {
            native.set("timeout_max", timeout);
        }
        if let Some(rules) = config.message("mutation_rules") {
            self.mutation_rules(rules, &mut native);
        }
        if let Some(rules) = config.message("forward_rules") {
            self.forward_rules(rules, &mut native);
        }
        for (field, key, value) in [
            ("failure_mode_allow", "allow_on_error", "true"),
            ("allow_mode_override", "allow_override", "true"),
            ("disable_immediate_response", "responds", "false"),
            ("observability_mode", "observe", "true"),
            ("disable_clear_route_cache", "reroute", "never"),
        ] {
            if config.is(field) {
                native.word(key, value, config.place(field));
            }
        }
        match &*config.choice("route_cache_action") {
            "CLEAR" => native.word("reroute", "always", config.place("route_cache_action")),
            "RETAIN" => native.word("reroute", "never", config.place("route_cache_action")),
            _ => {}
        }
        if let Some(options) = config.message("metadata_options") {
            self.metadata_options(options, &mut native);
        }
        if let Some(time) = self.duration(config, "deferred_close_timeout", Zero::Kept) {
            native.set("close_timeout", time);
        }
        if let Some(status) = config.message("status_on_error")
            && let Some(field) = status.field("code")
            && let ProtoValue::Enum(code, _) = field.value
        {
            native.word("error_status", code, status.span);
        }
        if config.is("send_body_without_waiting_for_header_response") {
            let field = "send_body_without_waiting_for_header_response";
            self.differs(config, field, "bodies are sent once the headers have been answered");
        }
        for (field, why) in [("processing_request_modifier", ""), ("on_processing_response", "")] {
            if config.has(field) {
                config.messages(field).for_each(ProtoMessage::all_without_effect);
                self.unsupported(config, field, why);
            }
        }
        Some(single("ext_proc", native.node()))
    }

    /// The settings of a route or host, from `ExtProcPerRoute`.
    pub(super) fn ext_proc_override(&mut self, config: &ProtoMessage) -> Option<Node> {
        if config.is("disabled") {
            return Some(plain("skip", config.span));
        }
        let own = config.message("overrides")?;
        let mut native = NativeMap::new(own.span);
        // Envoy does not use them either.
        own.without_effect(&[
            "async_mode",
            "request_attributes",
            "response_attributes",
            "emit_client_span",
        ]);
        if let Some(service) = own.message("grpc_service") {
            self.processor(service, &mut native);
        }
        if let Some(mode) = own.message("processing_mode") {
            self.sent_parts(mode, false, &mut native);
        }
        if let Some(options) = own.message("metadata_options") {
            self.metadata_options(options, &mut native);
        }
        if let Some(allow) = own.bool("failure_mode_allow") {
            native.word("allow_on_error", allow, own.place("failure_mode_allow"));
        }
        initial_metadata(own, "grpc_initial_metadata", &mut native);
        if own.has("processing_request_modifier") {
            self.unsupported(own, "processing_request_modifier", "");
        }
        Some(native.node())
    }

    /// The filter `ext_proc` of connections, from `NetworkExternalProcessor`.
    pub(super) fn network_ext_proc(&mut self, config: &ProtoMessage) -> Option<Node> {
        config.without_effect(&["stat_prefix"]);
        let mut native = NativeMap::new(config.span);
        let Some(service) = config.message("grpc_service") else {
            self.unsupported(config, "grpc_service", "a service over gRPC is required");
            return None;
        };
        self.grpc_cluster(service, "cluster", &mut native);
        if service.duration("timeout").is_some_and(|time| time.0 > 0) {
            let how = "a call lasts as long as its connection, and each answer has its own time";
            self.differs(service, "timeout", how);
        }
        initial_metadata(service, "initial_metadata", &mut native);
        if let Some(mode) = config.message("processing_mode") {
            let skips = |field| &*mode.choice(field) == "SKIP";
            if skips("process_read") && skips("process_write") {
                // Nothing is asked: the filter is not there.
                return None;
            }
            for (field, key) in [("process_read", "received"), ("process_write", "sent")] {
                if skips(field) {
                    native.word(key, false, mode.place(field));
                }
            }
        }
        if let Some(timeout) = self.duration(config, "message_timeout", Zero::Refused) {
            native.set("timeout", timeout);
        }
        if config.is("failure_mode_allow") {
            native.word("allow_on_error", true, config.place("failure_mode_allow"));
        }
        for (field, why) in [
            ("metadata_options", "connections have no dynamic metadata"),
            ("connection_attributes", "the service is sent bytes only"),
        ] {
            if config.has(field) {
                config.messages(field).for_each(ProtoMessage::all_without_effect);
                self.unsupported(config, field, why);
            }
        }
        Some(single("ext_proc", native.node()))
    }

    fn processor(&mut self, service: &ProtoMessage, native: &mut NativeMap) {
        self.grpc_cluster(service, "cluster", native);
        if service.duration("timeout").is_some_and(|time| time.0 > 0) {
            let how = "a call lasts as long as its request, and each answer has its own time";
            self.differs(service, "timeout", how);
        }
        initial_metadata(service, "initial_metadata", native);
    }

    /// What is sent; a service that observes gets bodies piece by piece only.
    fn sent_parts(&mut self, mode: &ProtoMessage, observes: bool, native: &mut NativeMap) {
        let send = self.sent_node(mode, observes);
        // Even if it says what is said anyway: it takes the place of what the settings around it say.
        native.set("send", send);
    }

    fn sent_node(&mut self, mode: &ProtoMessage, observes: bool) -> Node {
        let mut send = NativeMap::new(mode.span);
        for (field, key) in [
            ("request_header_mode", "request_headers"),
            ("response_header_mode", "response_headers"),
            ("request_trailer_mode", "request_trailers"),
            ("response_trailer_mode", "response_trailers"),
        ] {
            match &*mode.choice(field) {
                "SEND" => send.word(key, true, mode.place(field)),
                "SKIP" => send.word(key, false, mode.place(field)),
                _ => {}
            }
        }
        for (field, key) in
            [("request_body_mode", "request_body"), ("response_body_mode", "response_body")]
        {
            let word = match &*mode.choice(field) {
                "STREAMED" => "streamed",
                "NONE" => continue,
                _ if observes => continue,
                "BUFFERED" => "buffered",
                "BUFFERED_PARTIAL" => "partial",
                "FULL_DUPLEX_STREAMED" => "duplex",
                _ => {
                    self.unsupported(mode, field, "messages of gRPC are not taken apart");
                    continue;
                }
            };
            send.word(key, word, mode.place(field));
        }
        send.node()
    }

    fn mutation_rules(&mut self, rules: &ProtoMessage, native: &mut NativeMap) {
        let mut changes = NativeMap::new(rules.span);
        for (field, key, value) in [
            ("allow_all_routing", "routing", true),
            ("allow_envoy", "envoy", true),
            ("disallow_system", "system", false),
            ("disallow_is_error", "strict", true),
        ] {
            // What is allowed by default, or by these, is not if nothing is.
            let counts = !rules.is("disallow_all") || !matches!(key, "routing" | "envoy");
            if rules.is(field) && counts {
                changes.word(key, value, rules.place(field));
            }
        }
        if rules.is("disallow_all") {
            changes.word("others", false, rules.place("disallow_all"));
        }
        for (field, key) in [("allow_expression", "allow"), ("disallow_expression", "deny")] {
            if let Some(matcher) = rules.message(field)
                && let Some(regex) = matcher.text("regex")
            {
                matcher.without_effect(&["google_re2"]);
                changes.text(key, regex, rules.place(field));
            }
        }
        native.map("changes", changes);
    }

    fn forward_rules(&mut self, rules: &ProtoMessage, native: &mut NativeMap) {
        if let Some(allowed) = rules.message("allowed_headers") {
            let how = "method, scheme, host, path and status are sent besides";
            self.differs(rules, "allowed_headers", how);
            let names = self.exact_names(allowed);
            let names = names.into_iter().filter(|name| !is_pseudo(name)).collect();
            native.set("headers", Node { value: Value::List(names), span: allowed.span });
        }
        if let Some(denied) = rules.message("disallowed_headers") {
            let names = self.exact_names(denied);
            if names.iter().any(is_pseudo) {
                let why = "method, scheme, host, path and status are sent in any case";
                self.unsupported(rules, "disallowed_headers", why);
            }
            native.list("except_headers", names, denied.span);
        }
    }

    fn metadata_options(&mut self, options: &ProtoMessage, native: &mut NativeMap) {
        for field in ["forwarding_namespaces", "cluster_metadata_forwarding_namespaces"] {
            if options.has(field) {
                self.unsupported(options, field, "the service is sent attributes");
            }
        }
        let Some(receiving) = options.message("receiving_namespaces") else { return };
        if receiving.has("typed") {
            self.unsupported(receiving, "typed", "only `untyped` is");
        }
        let names = receiving.texts("untyped").map(|(name, span)| quoted(name, span)).collect();
        native.list("receive_metadata", names, receiving.span);
    }
}

fn initial_metadata(of: &ProtoMessage, field: &str, native: &mut NativeMap) {
    let mut metadata = NativeMap::new(of.place(field));
    for header in of.messages(field) {
        if let (Some(key), Some(value)) = (header.text("key"), header.text("value")) {
            metadata.text(&key.to_ascii_lowercase(), value, header.span);
        }
    }
    native.map("call_metadata", metadata);
}

fn is_pseudo(name: &Node) -> bool {
    matches!(&name.value, Value::Scalar { text, .. } if text.starts_with(':'))
}
