//! Retries and hedging.
//!
//! Owns: the words of `retry_on`, host and priority predicates, back-off. Refuses to know: which route has them.
//! Keeps: a route without a policy retries nothing that an endpoint may have seen.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain};

/// The words of `retry_on`, and what they are in the native form.
const WORDS: [(&str, &str); 12] = [
    ("5xx", "server_error"),
    ("gateway-error", "gateway_error"),
    ("reset", "reset"),
    ("connect-failure", "connect_failure"),
    ("refused-stream", "refused_stream"),
    ("retriable-4xx", "conflict"),
    ("envoy-ratelimited", "rate_limited"),
    ("cancelled", "grpc_cancelled"),
    ("deadline-exceeded", "grpc_deadline_exceeded"),
    ("internal", "grpc_internal"),
    ("resource-exhausted", "grpc_resource_exhausted"),
    ("unavailable", "grpc_unavailable"),
];

impl Mapping<'_> {
    /// The `retry` of a rule.
    pub(super) fn retry(
        &mut self,
        policy: Option<&ProtoMessage>,
        hedge: Option<&ProtoMessage>,
        action: &ProtoMessage,
        rule: &mut NativeMap,
    ) {
        let Some(policy) = policy else {
            if let Some(hedge) = hedge {
                hedge.all_without_effect();
            }
            return;
        };
        let mut retry = NativeMap::new(policy.span);
        let conditions = self.retry_conditions(policy, &mut retry);
        let attempts = policy.number("num_retries").unwrap_or(1).saturating_add(1);
        retry.word("attempts", attempts, policy.place("num_retries"));
        self.retry_avoids(policy, &mut retry);
        self.retry_backoff(policy, &mut retry);
        for (field, key) in [
            ("retriable_headers", "response_headers"),
            ("retriable_request_headers", "request_headers"),
        ] {
            let mut headers = NativeMap::new(policy.place(field));
            for matcher in policy.messages(field) {
                let Some(name) = matcher.text("name").map(|name| name.to_ascii_lowercase()) else {
                    continue;
                };
                if headers.has(&name) {
                    self.unsupported(matcher, "name", "the header has a condition already");
                } else if let Some(value) = self.header_match(matcher) {
                    headers.set(&name, value);
                }
            }
            retry.map(key, headers);
        }
        if let Some(hedge) = hedge {
            if hedge.is("hedge_on_per_try_timeout") {
                retry.word("hedge", true, hedge.span);
            }
            if hedge.number("initial_requests").unwrap_or(1) > 1 {
                self.unsupported(hedge, "initial_requests", "");
            }
            if hedge.has("additional_request_chance") {
                self.unsupported(hedge, "additional_request_chance", "");
            }
        }
        if conditions || retry.has("response_headers") {
            rule.map("retry", retry);
        }
        let timeout = rule.take("timeout");
        let mut timeout = NativeMap::of(timeout, action.span);
        for (field, key) in
            [("per_try_timeout", "per_try"), ("per_try_idle_timeout", "per_try_idle")]
        {
            if let Some(found) = self.duration(policy, field, Zero::Word("none")) {
                timeout.set(key, found);
            }
        }
        rule.map("timeout", timeout);
    }

    fn retry_conditions(&mut self, policy: &ProtoMessage, retry: &mut NativeMap) -> bool {
        let span = policy.place("retry_on");
        let mut conditions = Vec::new();
        let mut statuses: Vec<Node> = Vec::new();
        let listed = policy.list("retriable_status_codes");
        let words = policy.text("retry_on").map_or("", |words| words).to_owned();
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match WORDS.iter().find(|(known, _)| *known == word) {
                Some((_, native)) => conditions.push(plain(native, span)),
                None if word == "retriable-status-codes" => {
                    statuses.extend(listed.iter().filter_map(|item| match item.value {
                        ProtoValue::Int(status) => Some(plain(status, item.span)),
                        _ => None,
                    }));
                }
                // What these add is said by other fields, or is always retried.
                None if matches!(
                    word,
                    "retriable-headers" | "reset-before-request" | "http3-post-connect-failure"
                ) => {}
                None => self.unsupported(policy, "retry_on", &format!("`{word}` is no condition")),
            }
        }
        retry.list("when", conditions, span);
        retry.list("statuses", statuses, policy.place("retriable_status_codes"));
        retry.has("when") || retry.has("statuses")
    }

    fn retry_avoids(&mut self, policy: &ProtoMessage, retry: &mut NativeMap) {
        policy.without_effect(&["host_selection_retry_max_attempts"]);
        let mut avoid = "none";
        for predicate in policy.messages("retry_host_predicate") {
            let name = predicate.text("name").map_or("", |name| name).to_owned();
            let config = predicate.message("typed_config");
            let kind = config.map(|config| config.descriptor.name().to_owned());
            if kind.as_deref() == Some("PreviousHostsPredicate")
                || (kind.is_none() && name.ends_with("previous_hosts"))
            {
                avoid = "endpoint";
            } else if let Some(config) = config {
                self.unsupported_type(config);
            } else {
                self.unsupported(
                    predicate,
                    "name",
                    "only `envoy.retry_host_predicates.previous_hosts` is",
                );
            }
        }
        if let Some(priority) = policy.message("retry_priority") {
            priority.without_effect(&["name"]);
            match priority.message("typed_config") {
                Some(config) if config.descriptor.name() == "PreviousPrioritiesConfig" => {
                    config.without_effect(&["update_frequency"]);
                    avoid = "priority";
                }
                Some(config) => self.unsupported_type(config),
                None => self.unsupported(policy, "retry_priority", ""),
            }
        }
        retry.word("avoid", avoid, policy.span);
    }

    fn retry_backoff(&mut self, policy: &ProtoMessage, retry: &mut NativeMap) {
        if let Some(backoff) = policy.message("retry_back_off") {
            let base = backoff.duration("base_interval");
            if let Some(native) = self.duration(backoff, "base_interval", Zero::Refused) {
                retry.set("backoff", native);
            }
            match self.duration(backoff, "max_interval", Zero::Refused) {
                Some(max) => retry.set("backoff_max", max),
                None => {
                    let max =
                        base.map(|base| crate::message::ProtoDuration(base.0.saturating_mul(10)));
                    if let Some(max) = max.and_then(super::written) {
                        retry.word("backoff_max", max, backoff.span);
                    }
                }
            }
        }
        let Some(limited) = policy.message("rate_limited_retry_back_off") else { return };
        let mut headers = Vec::new();
        for header in limited.messages("reset_headers") {
            let Some(name) = header.text("name") else { continue };
            let mut native = NativeMap::new(header.span);
            native.text("name", name, header.place("name"));
            let unix = &*header.choice("format") == "UNIX_TIMESTAMP";
            native.word("format", if unix { "unix" } else { "seconds" }, header.span);
            headers.push(native.node());
        }
        retry.list("reset_headers", headers, limited.span);
        if let Some(max) = self.duration(limited, "max_interval", Zero::Refused) {
            retry.set("reset_max", max);
        }
    }
}
