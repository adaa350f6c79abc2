//! Limits of `local_ratelimit` for requests with certain descriptors.
//!
//! Owns: which requests a descriptor is of, and the limits that they have. Refuses to know: how the rule of a route is split by
//! them. Keeps: a request has one of the descriptors at most; what could have several is refused.

use sluice_core::{Node, Value};

use super::cases::FilterCases;
use super::conditions::{Both, both, header_is};
use super::{Mapping, filters};
use crate::message::{ProtoDuration, ProtoMessage, ProtoValue};
use crate::native::{NativeMap, quoted};

/// The type of its settings.
const TYPE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// The native name of the filter.
const FILTER: &str = "rate_limit";

impl Mapping<'_> {
    /// The limits of a route by descriptors, in place of its settings for the filter.
    pub(super) fn limit_cases(
        &mut self,
        route: &ProtoMessage,
        filters: &mut NativeMap,
    ) -> Option<FilterCases> {
        let settings = route.map("typed_per_filter_config").iter();
        let config = settings.filter_map(|(_, item)| match &item.value {
            ProtoValue::Message(config) => Some(config),
            _ => None,
        });
        let mut with_descriptors =
            config.filter(|of| of.type_name() == TYPE && of.has("descriptors"));
        let config = with_descriptors.next()?;
        let usual = filters.get(FILTER).filter(|node| node.entries().is_some()).cloned();
        let Some(usual) = usual else {
            // The filter is off.
            config.messages("descriptors").for_each(ProtoMessage::all_without_effect);
            return None;
        };
        let action = route.message("route")?;
        let asked: Vec<&ProtoMessage> = action.messages("rate_limits").collect();
        let all: Vec<&ProtoMessage> = config.messages("descriptors").collect();
        let keys = |of: &ProtoMessage| -> Vec<_> {
            of.messages("entries").filter_map(|entry| entry.text("key").cloned()).collect()
        };
        if all.iter().any(|of| keys(of) != keys(all[0])) {
            let how = "all descriptors have the same keys, so that a request has one of them";
            self.unsupported(config, "descriptors", how);
            return None;
        }
        let always = config.bool("always_consume_default_token_bucket") != Some(false);
        if always {
            let how = "the limit of the route is counted apart for each descriptor";
            self.differs(config, "token_bucket", how);
        }
        let mut cases = Vec::new();
        for descriptor in all {
            let conditions = self.conditions_of(descriptor, &asked);
            let limit = self.limit_of(descriptor, &usual);
            let limits = if always { vec![limit, usual.clone()] } else { vec![limit] };
            let settings = Node { value: Value::List(limits), span: descriptor.span };
            cases.extend(conditions.into_iter().map(|condition| (condition, settings.clone())));
        }
        filters.take(FILTER);
        Some(FilterCases { filter: FILTER.into(), cases, otherwise: usual })
    }

    /// The requests that have a descriptor, by each of the `rate_limits` that make one.
    fn conditions_of(
        &mut self,
        descriptor: &ProtoMessage,
        asked: &[&ProtoMessage],
    ) -> Vec<NativeMap> {
        let entries: Vec<&ProtoMessage> = descriptor.messages("entries").collect();
        let mut found = Vec::new();
        for limit in asked {
            let actions: Vec<&ProtoMessage> = limit.messages("actions").collect();
            if actions.len() != entries.len() {
                continue;
            }
            let mut all = Some(NativeMap::new(descriptor.span));
            for (action, entry) in actions.iter().zip(&entries) {
                let Some(condition) = self.condition_of(action, entry) else {
                    all = None;
                    break;
                };
                all = all.and_then(|all| match both(&all, &condition) {
                    Both::As(joined) => Some(joined),
                    Both::Never | Both::Unclear => None,
                });
            }
            found.extend(all);
        }
        if found.is_empty() {
            let how = "no `rate_limits` of the route make it out of headers and fixed keys";
            self.unsupported_at(descriptor, how);
        }
        found
    }

    /// The requests for which an action makes this entry; `None` if it is another.
    fn condition_of(&mut self, action: &ProtoMessage, entry: &ProtoMessage) -> Option<NativeMap> {
        let (key, value) = (entry.text("key")?, entry.text("value")?);
        if let Some(fixed) = action.message("generic_key") {
            let own = fixed.text("descriptor_key").map_or("generic_key", |key| key);
            let same = *own == **key && fixed.text("descriptor_value") == Some(value);
            return same.then(|| NativeMap::new(entry.span));
        }
        let header = action.message("request_headers")?;
        let name = header.text("header_name")?.to_ascii_lowercase();
        if header.text("descriptor_key") != Some(key) {
            return None;
        }
        if name == ":path" {
            let how = "the path is compared without its query";
            self.differs(header, "header_name", how);
        }
        header_is(&name, quoted(value, entry.span))
    }

    /// The limit of a descriptor, which is enforced as that of its route is.
    fn limit_of(&mut self, descriptor: &ProtoMessage, usual: &Node) -> Node {
        let mut native = NativeMap::new(descriptor.span);
        for key in ["enforce", "status", "fields"] {
            if let Some(of) = usual.get(key) {
                native.set(key, of.node.clone());
            }
        }
        if let Some(bucket) = descriptor.message("token_bucket") {
            let tokens = bucket.number("tokens_per_fill").unwrap_or(1);
            let every = bucket.duration("fill_interval").unwrap_or(ProtoDuration(0));
            match filters::rate(tokens, every) {
                Some(rate) => native.word("requests", rate, bucket.span),
                None => self.unsupported(bucket, "fill_interval", filters::WHOLE_RATES),
            }
            if let Some(burst) = bucket.number("max_tokens") {
                native.word("burst", burst, bucket.place("max_tokens"));
            }
        }
        native.text("name", "descriptor", descriptor.span);
        native.node()
    }
}
