//! Rate limits that a service counts.
//!
//! Owns: the filter `ratelimit`, and what it asks about: the `rate_limits` of hosts and routes. Refuses to know: limits,
//! which the service has. Keeps: an action that cannot be written exactly is an error: without it, the service would count
//! something else.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

/// The native name of the filter.
const FILTER: &str = "global_rate_limit";

impl Mapping<'_> {
    /// The filter, from a `RateLimit`.
    pub(super) fn rate_service(&mut self, config: &ProtoMessage) -> Option<Node> {
        config.without_effect(&["stat_prefix"]);
        self.only_false(config, "rate_limited_as_resource_exhausted", "");
        if config.text("request_type").is_some_and(|kind| &**kind != "both") {
            self.unsupported(config, "request_type", "requests from inside and outside are alike");
        }
        let mut native = NativeMap::new(config.span);
        native.text("domain", config.text("domain")?, config.place("domain"));
        let service = config.message("rate_limit_service")?;
        service.without_effect(&["transport_api_version"]);
        let grpc = service.message("grpc_service")?;
        self.grpc_cluster(grpc, "service", &mut native)?;
        // That of the filter counts, not that of the service.
        grpc.without_effect(&["timeout"]);
        let timeout = self.duration(config, "timeout", Zero::Refused);
        native.set("timeout", timeout.unwrap_or_else(|| plain("20ms", config.span)));
        let deny = config.is("failure_mode_deny");
        native.word("on_error", if deny { "deny" } else { "allow" }, config.span);
        for (field, key) in [("rate_limited_status", "status"), ("status_on_error", "error_status")]
        {
            if let Some(status) = config.message(field)
                && let Some(field) = status.field("code")
                && let ProtoValue::Enum(code, _) = field.value
            {
                native.word(key, code, status.span);
            }
        }
        let plain_answer = config.is("disable_x_envoy_ratelimited_header");
        native.word("envoy_header", !plain_answer, config.span);
        if &*config.choice("enable_x_ratelimit_headers") != "OFF" {
            let how = "the headers are `ratelimit` and `ratelimit-policy`";
            self.differs(config, "enable_x_ratelimit_headers", how);
            native.word("fields", true, config.span);
        }
        self.rate_stage = Some(config.number("stage").unwrap_or(0));
        Some(single(FILTER, native.node()))
    }

    /// Adds what the service is asked about by the `rate_limits` of a host or an action of a route.
    pub(super) fn rate_limits(&mut self, of: &ProtoMessage, add: bool, filters: &mut NativeMap) {
        let Some(stage) = self.rate_stage else {
            // Nothing asks.
            of.messages("rate_limits").for_each(ProtoMessage::all_without_effect);
            return;
        };
        let mut descriptors = Vec::new();
        for limit in of.messages("rate_limits") {
            if limit.number("stage").unwrap_or(0) != stage {
                limit.all_without_effect();
                continue;
            }
            descriptors.extend(self.descriptor(limit));
        }
        if descriptors.is_empty() || filters.has(FILTER) {
            return;
        }
        let mut native = NativeMap::new(of.place("rate_limits"));
        native.list("descriptors", descriptors, of.place("rate_limits"));
        if add {
            native.word("add", true, of.span);
        }
        filters.map(FILTER, native);
    }

    /// The settings of a route, from a `RateLimitPerRoute`.
    pub(super) fn rate_override(&mut self, config: &ProtoMessage) -> Option<Node> {
        for field in ["vh_rate_limits", "override_option"] {
            let word = config.choice(field);
            if !matches!(&*word, "OVERRIDE" | "DEFAULT") {
                self.unsupported(config, field, "list the limits under `rate_limits`");
            }
        }
        let limits: Vec<&ProtoMessage> = config.messages("rate_limits").collect();
        let descriptors: Vec<Node> =
            limits.into_iter().filter_map(|limit| self.descriptor(limit)).collect();
        let mut native = NativeMap::new(config.span);
        native.list("descriptors", descriptors, config.place("rate_limits"));
        (!native.is_empty()).then(|| native.node())
    }

    /// A descriptor, from a `RateLimit` of a route.
    fn descriptor(&mut self, limit: &ProtoMessage) -> Option<Node> {
        limit.without_effect(&["stage"]);
        let mut entries = Vec::new();
        for action in limit.messages("actions") {
            entries.push(self.descriptor_entry(action)?);
        }
        let mut native = NativeMap::new(limit.span);
        native.list("entries", entries, limit.place("actions"));
        if let Some(hits) = limit.message("hits_addend") {
            if let Some(number) = hits.number("number") {
                native.word("hits", number, hits.span);
            } else if hits.has("format") {
                self.unsupported(hits, "format", "write a `number`");
            }
        }
        Some(native.node())
    }

    fn descriptor_entry(&mut self, action: &ProtoMessage) -> Option<Node> {
        let kind = action.fields.iter().find(|field| field.descriptor.containing_oneof().is_some());
        let name = kind?.descriptor.name().to_owned();
        let mut entry = NativeMap::new(action.span);
        let Some(of) = action.message(&name) else {
            self.unsupported(action, &name, "");
            return None;
        };
        let text = |field: &str| of.text(field).map(|text| text.to_string());
        if let Some(key) =
            of.descriptor.get_field_by_name("descriptor_key").and_then(|_| text("descriptor_key"))
        {
            entry.text("key", &key, of.place("descriptor_key"));
        }
        match &*name {
            "destination_cluster" => entry.word("of", "cluster", of.span),
            "remote_address" => entry.word("of", "source_ip", of.span),
            "masked_remote_address" => {
                let [v4, v6] = [("v4_prefix_mask_len", 32), ("v6_prefix_mask_len", 128)]
                    .map(|(field, all)| of.number(field).unwrap_or(all));
                entry.word("of", format!("source_ip/{v4}/{v6}"), of.span);
            }
            "request_headers" => {
                let header = text("header_name")?.to_ascii_lowercase();
                let part = match header.as_str() {
                    ":method" => "method".to_owned(),
                    ":authority" => "host".to_owned(),
                    header if header.starts_with(':') => {
                        self.unsupported(of, "header_name", "of a path, only what a rule names is");
                        return None;
                    }
                    header => format!("header:{header}"),
                };
                entry.text("of", &part, of.place("header_name"));
                if of.is("skip_if_absent") {
                    entry.word("optional", true, of.place("skip_if_absent"));
                }
            }
            "query_parameters" => {
                let parameter = text("query_parameter_name")?;
                entry.text("of", &format!("query:{parameter}"), of.span);
                if of.is("skip_if_absent") {
                    entry.word("optional", true, of.place("skip_if_absent"));
                }
            }
            "source_cluster" => {
                let Some(cluster) = self.own_cluster.clone() else {
                    self.unsupported(action, "source_cluster", "name it: `node.cluster`");
                    return None;
                };
                entry.text("key", "source_cluster", of.span);
                entry.text("value", &cluster, of.span);
            }
            "generic_key" => entry.text("value", &text("descriptor_value")?, of.span),
            "header_value_match" | "query_parameter_value_match" => {
                entry.text("value", &text("descriptor_value")?, of.span);
                self.matched_values(of, &name, &mut entry);
            }
            _ => {
                self.unsupported(action, &name, "");
                return None;
            }
        }
        Some(entry.node())
    }

    /// The conditions of an entry with a fixed value.
    fn matched_values(&mut self, of: &ProtoMessage, kind: &str, entry: &mut NativeMap) {
        let (field, key) = if kind == "header_value_match" {
            ("headers", "headers")
        } else {
            if !entry.has("key") {
                entry.text("key", "query_match", of.span);
            }
            ("query_parameters", "query")
        };
        let mut values = NativeMap::new(of.place(field));
        for matcher in of.messages(field) {
            if key == "query" {
                self.named_value(matcher, &mut values);
                continue;
            }
            let Some(name) = matcher.text("name").map(|name| name.to_ascii_lowercase()) else {
                continue;
            };
            if values.has(&name) || name.starts_with(':') {
                self.unsupported(matcher, "name", "each header once, and no part of the path");
            } else if let Some(value) = self.header_match(matcher) {
                values.set(&name, value);
            }
        }
        entry.map(key, values);
        if of.bool("expect_match") == Some(false) {
            entry.word("expect", false, of.place("expect_match"));
        }
    }

    /// The filter `sticky`, from a `StatefulSession`.
    pub(super) fn stateful_session(&mut self, config: &ProtoMessage) -> Option<Node> {
        let state = config.message("session_state")?;
        state.without_effect(&["name"]);
        let state = state.message("typed_config")?;
        let mut native = NativeMap::new(config.span);
        match state.descriptor.name() {
            "CookieBasedSessionState" => {
                let cookie = state.message("cookie")?;
                let mut section = NativeMap::new(cookie.span);
                section.text("name", cookie.text("name")?, cookie.place("name"));
                if let Some(path) = cookie.text("path") {
                    section.text("path", path, cookie.place("path"));
                }
                if let Some(ttl) = self.duration(cookie, "ttl", Zero::Kept) {
                    section.set("ttl", ttl);
                }
                native.map("cookie", section);
            }
            "HeaderBasedSessionState" => {
                native.set("header", quoted(state.text("name")?, state.place("name")));
            }
            _ => {
                self.unsupported_type(state);
                return None;
            }
        }
        let how = "tokens are sealed with a key of this process: other processes do not know them, nor those of Envoy";
        self.differs(config, "session_state", how);
        if config.is("strict") {
            native.word("strict", true, config.place("strict"));
        }
        Some(single("sticky", native.node()))
    }
}
