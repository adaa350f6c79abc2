//! Cross-origin requests (`cors`, `csrf`), and shares of requests that filters are on for.
//!
//! Owns: origins, and which shares can be said. Refuses to know: where a filter stands.

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

impl Mapping<'_> {
    pub(super) fn cors(&mut self, policy: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(policy.span);
        if !self.always(policy, "filter_enabled")? {
            return Some(plain("skip", policy.span));
        }
        self.never(policy, "shadow_enabled");
        let mut origins = Vec::new();
        for matcher in policy.messages("allow_origin_string_match") {
            let regex = matcher.message("safe_regex").and_then(|of| of.text("regex"));
            let any = regex.is_some_and(|regex| matches!(&**regex, ".*" | "\\*"));
            let prefix = matcher.text("prefix").is_some_and(|prefix| &**prefix == "*");
            match matcher.text("exact") {
                Some(origin) => origins.push(quoted(origin, matcher.span)),
                None if any || prefix => origins.push(quoted("*", matcher.span)),
                None => origins.extend(self.origin_regex(matcher, "")),
            }
        }
        native.list("origins", origins, policy.place("allow_origin_string_match"));
        for (field, key) in [
            ("allow_methods", "methods"),
            ("allow_headers", "headers"),
            ("expose_headers", "expose"),
        ] {
            if let Some(text) = policy.text(field) {
                let span = policy.place(field);
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                native.list(key, words.map(|word| quoted(word, span)).collect(), span);
            }
        }
        if let Some(age) = policy.text("max_age") {
            native.word("max_age", format!("{age}s"), policy.place("max_age"));
        }
        if policy.is("allow_credentials") {
            native.word("credentials", true, policy.place("allow_credentials"));
        }
        if policy.is("allow_private_network_access") {
            native.word("private_network", true, policy.place("allow_private_network_access"));
        }
        if policy.bool("forward_not_matching_preflights") != Some(false) {
            policy.without_effect(&["forward_not_matching_preflights"]);
        }
        Some(native.node())
    }

    pub(super) fn csrf(&mut self, policy: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(policy.span);
        let mut origins = Vec::new();
        for matcher in policy.messages("additional_origins") {
            // Envoy compares hosts; here an origin has a scheme.
            match matcher.text("exact").filter(|text| !text.contains('*')) {
                Some(host) => {
                    for scheme in ["http", "https"] {
                        origins.push(quoted(&format!("{scheme}://{host}"), matcher.span));
                    }
                    matcher.without_effect(&["ignore_case"]);
                }
                None => origins.extend(self.origin_regex(matcher, "[^:]*://")),
            }
        }
        native.list("origins", origins, policy.place("additional_origins"));
        if let Some(shadow) = policy.message("shadow_enabled") {
            shadow.all_without_effect();
            self.differs(policy, "shadow_enabled", "what would be refused is not counted");
        }
        self.always(policy, "filter_enabled")?.then(|| single("csrf", native.node()))
    }

    /// An origin that a matcher fits, as a regex, with what stands before what is compared.
    fn origin_regex(&mut self, matcher: &ProtoMessage, before: &str) -> Option<Node> {
        let condition = self.string_match(matcher)?;
        let part = |key: &str| condition.get(key).and_then(|entry| entry.node.text());
        let regex = match (condition.text(), part("regex")) {
            (Some(exact), _) => regex::escape(exact),
            (_, Some(regex)) => format!("(?:{regex})"),
            _ => {
                let escaped = |key: &str| part(key).map(regex::escape);
                let prefix = escaped("prefix").map(|text| format!("{text}.*"));
                let suffix = || escaped("suffix").map(|text| format!(".*{text}"));
                let contains = || escaped("contains").map(|text| format!(".*{text}.*"));
                prefix.or_else(suffix).or_else(contains)?
            }
        };
        Some(single("regex", quoted(&format!("{before}{regex}"), matcher.span)))
    }

    /// Whether a share of requests is all of them or none; `None` if it is neither, which is reported.
    pub(super) fn always(&mut self, of: &ProtoMessage, field: &str) -> Option<bool> {
        let Some(share) = of.message(field) else { return Some(true) };
        let Some(percent) = self.fraction(share, "default_value") else { return Some(false) };
        share.without_effect(&["runtime_key"]);
        match percent {
            0 => Some(false),
            100 => Some(true),
            _ => {
                self.unsupported(of, field, "only 0% and 100% are");
                None
            }
        }
    }

    pub(super) fn never(&mut self, of: &ProtoMessage, field: &str) {
        if let Some(share) = of.message(field) {
            share.without_effect(&["runtime_key"]);
            if self.fraction(share, "default_value").unwrap_or(0) != 0 {
                self.unsupported(of, field, "");
            }
        }
    }
}
