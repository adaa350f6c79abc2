//! Filters that are on for some hosts and routes only.
//!
//! Owns: which filters these are, and the settings of hosts and routes for filters. Refuses to know: what a filter does.
//! Keeps: a filter that only hosts and routes switch on is left out everywhere else.

use sluice_core::Node;

use super::{Mapping, guards};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, single};

/// Filters that do nothing until a host or a route has settings for them, by the type of these settings.
const SWITCHED_ON_BELOW: [(&str, &str); 5] = [
    ("BandwidthLimit", "bandwidth_limit"),
    ("CorsPolicy", "cors"),
    ("LocalRateLimit", "rate_limit"),
    ("CsrfPolicy", "csrf"),
    ("HTTPFault", "fault"),
];

/// The type of a message that says nothing: it switches a filter on with the settings that the chain has for it.
const EMPTY: &str = "google.protobuf.Any";

impl Mapping<'_> {
    /// The filter with the first settings that a host or route has for it; hosts without any leave it out.
    pub(super) fn first_below(&mut self, hcm: &ProtoMessage, kind: &str) -> Option<Node> {
        let table = hcm.message("route_config")?;
        let config = settings_below(table, kind)?;
        self.override_of(config).map(|(name, node)| single(name, node))
    }

    /// Adds the settings for filters of a route table, host or route.
    pub(super) fn filter_overrides(&mut self, of: &ProtoMessage, filters: &mut NativeMap) {
        for (name, item) in of.map("typed_per_filter_config") {
            let ProtoValue::Message(config) = &item.value else { continue };
            self.filter_override(name, config, filters);
        }
    }

    /// Settings of a weighted cluster for filters. Those for filters that the chain does not have are without effect.
    pub(super) fn settings_of_share(&mut self, share: &ProtoMessage) {
        for (name, item) in share.map("typed_per_filter_config") {
            let ProtoValue::Message(config) = &item.value else { continue };
            if self.chain_filters.contains_key(name) {
                let how = "a route has settings for filters, not one of its clusters";
                self.unsupported_at(config, how);
            } else {
                config.all_without_effect();
                self.without_filter(config);
            }
        }
    }

    /// Adds the settings for the filter of that name.
    fn filter_override(&mut self, name: &str, config: &ProtoMessage, filters: &mut NativeMap) {
        let settings = if config.type_name() == "envoy.config.route.v3.FilterConfig" {
            config.without_effect(&["is_optional"]);
            let own = self.chain_filters.get(name).cloned();
            match (config.message("config"), own) {
                (_, Some((native, _))) if config.is("disabled") => {
                    Some((native, plain("skip", config.span)))
                }
                // No filter has that name.
                (_, None) if config.is("disabled") => None,
                (Some(inner), _) if inner.type_name() != EMPTY => {
                    return self.filter_override(name, inner, filters);
                }
                (_, own) => own,
            }
        } else {
            let Some((native, node)) = self.override_of(config) else { return };
            match self.use_of(name, native) {
                None if self.has_several(native) => {
                    let how =
                        format!("the chain has several filters `{native}`, none of that name");
                    self.unsupported_at(config, &how);
                    None
                }
                None => {
                    self.without_filter(config);
                    None
                }
                Some(key) => Some((key, node)),
            }
        };
        match settings {
            Some((native, node)) if !filters.has(&native) => filters.set(&native, node),
            Some((native, _)) => {
                let text = format!("`{native}` has settings here already");
                self.diags.error(crate::coverage::UNSUPPORTED, config.span, &*config.path, text);
            }
            None => {}
        }
    }

    /// The key of the use that settings for the filter of that name are for; if the chain has a single filter of the kind,
    /// its name does not matter.
    fn use_of(&self, name: &str, native: &str) -> Option<String> {
        let of_kind = |key: &&String| kind_of_key(key) == native;
        let named = self.chain_filters.get(name).map(|(key, _)| key).filter(of_kind);
        let mut uses = self.chain_filters.values().map(|(key, _)| key).filter(of_kind);
        let only = uses.next().filter(|_| uses.next().is_none());
        named.or(only).cloned()
    }

    /// Whether the chain has several filters of a kind.
    pub(super) fn has_several(&self, native: &str) -> bool {
        let of_kind = |(key, _): &&(String, Node)| kind_of_key(key) == native;
        self.chain_filters.values().filter(of_kind).count() > 1
    }

    /// Notes a filter of the chain under its name in Envoy, by which hosts and routes switch it on and off. Returns what
    /// becomes of it in the chain: one that is off and of which there is one already is not added again, since settings
    /// of hosts and routes are for both.
    pub(super) fn named_filter(
        &mut self,
        filter: &ProtoMessage,
        node: Node,
        before: &[Node],
    ) -> Option<Node> {
        let entry = node.entries().and_then(|entries| entries.first())?;
        let native = entry.key.to_string();
        let has = |node: &Node| kind_of(node) == Some(&native);
        // Filters that set values become one, and so do edits of headers.
        let key = match before.iter().filter(|node| has(node)).count() {
            0 => native.clone(),
            _ if matches!(&*native, "set_values" | "set_headers") || filter.is("disabled") => {
                native.clone()
            }
            _ if SWITCHED_ON_BELOW.iter().any(|(_, of)| *of == native) => {
                let how = format!("the chain has a filter `{native}` already");
                self.unsupported(filter, "typed_config", &how);
                return None;
            }
            others => format!("{native}/{}", others + 1),
        };
        // Without a requirement, it verifies nothing.
        let settings = if native == "jwt" && self.tokens_by_case {
            plain("skip", node.span)
        } else {
            entry.node.clone()
        };
        if let Some(name) = filter.text("name") {
            self.chain_filters.insert(name.clone(), (key.clone(), settings));
        }
        if !filter.is("disabled") {
            let settings = entry.node.clone();
            return Some(if key == native { node } else { single(&key, settings) });
        }
        let known = self.filters_off.contains(&native);
        if before.iter().any(has) && !(known && before.last().is_some_and(has)) {
            let how = "another filter of its kind is on, or stands apart from it";
            self.unsupported(filter, "disabled", how);
            return None;
        }
        if known {
            return None;
        }
        self.filters_off.push(native);
        Some(node)
    }

    /// Leaves filters out of a host that has no settings for them, where only hosts and routes switch them on.
    pub(super) fn skip_what_is_off(
        &mut self,
        off: &[String],
        host: &ProtoMessage,
        filters: &mut NativeMap,
    ) {
        for name in off {
            if !filters.has(name) {
                filters.word(name, "skip", host.span);
            }
        }
    }
}

/// What filter a use with that key is of: the key without its label.
pub(super) fn kind_of_key(key: &str) -> &str {
    key.split_once('/').map_or(key, |(kind, _)| kind)
}

/// What filter the item of a list is.
fn kind_of(item: &Node) -> Option<&str> {
    Some(kind_of_key(&item.entries()?.first()?.key))
}

/// The filters of a connection manager that hosts and routes of its table switch on.
pub(super) fn switched_on_below(hcm: &ProtoMessage) -> Vec<String> {
    let Some(table) = hcm.message("route_config") else { return Vec::new() };
    let listed = |kind: &str| {
        hcm.messages("http_filters").any(|filter| {
            filter.message("typed_config").is_some_and(|config| {
                let name = config.descriptor.name();
                match (kind, name) {
                    ("BandwidthLimit", "BandwidthLimit") => {
                        !guards::is_on(config, "runtime_enabled")
                            || &*config.choice("enable_mode") == "DISABLED"
                    }
                    ("CorsPolicy", "Cors") => true,
                    ("LocalRateLimit", "LocalRateLimit") => !config.has("filter_enabled"),
                    ("CsrfPolicy", "CsrfPolicy") => is_off(config),
                    ("HTTPFault", "HTTPFault") => !["delay", "abort", "response_rate_limit"]
                        .iter()
                        .any(|part| config.has(part)),
                    _ => false,
                }
            })
        })
    };
    let on = SWITCHED_ON_BELOW
        .iter()
        .filter(|(kind, _)| listed(kind) && settings_below(table, kind).is_some());
    on.map(|(_, name)| (*name).to_owned()).collect()
}

fn is_off(policy: &ProtoMessage) -> bool {
    let value = policy.message("filter_enabled").and_then(|share| share.message("default_value"));
    value.is_none_or(|value| value.number("numerator").unwrap_or(0) == 0)
}

/// The first settings of this type below a message.
fn settings_below<'m>(of: &'m ProtoMessage, kind: &str) -> Option<&'m ProtoMessage> {
    let mut found = None;
    for field in &of.fields {
        field.value.messages(&mut |message| {
            if found.is_none() {
                found = if message.descriptor.name() == kind {
                    Some(message)
                } else {
                    settings_below(message, kind)
                };
            }
        });
        if found.is_some() {
            return found;
        }
    }
    None
}
