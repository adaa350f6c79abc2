//! Filters with a matcher before them: `ExtensionWithMatcher`, and the filter `composite`.
//!
//! Owns: which settings a request has by the tree. Refuses to know: filters, and what routes match. Keeps: a tree that tests
//! more than rules can is refused.

use std::sync::Arc;

use sluice_core::Node;

use super::Mapping;
use super::cases::FilterCases;
use crate::message::ProtoMessage;
use crate::native::plain;

impl Mapping<'_> {
    /// Maps the filters of a connection manager that have a matcher. What each is in the chain is kept by its place.
    pub(super) fn matched_filters(&mut self, hcm: &ProtoMessage) -> Vec<FilterCases> {
        let mut all: Vec<FilterCases> = Vec::new();
        let configs: Vec<&ProtoMessage> = hcm
            .messages("http_filters")
            .filter_map(|filter| filter.message("typed_config"))
            .collect();
        for config in configs.iter().filter(|of| of.descriptor.name() == "ExtensionWithMatcher") {
            let Some((node, cases)) = self.matched_filter(config, hcm) else { continue };
            let inner = inner_type(config);
            let is_same = |of: &&&ProtoMessage| of.type_name() == inner || inner_type(of) == inner;
            if configs.iter().filter(is_same).count() > 1
                || all.iter().any(|other| other.filter == cases.filter)
            {
                self.unsupported_at(config, "the chain has another filter of its kind");
                continue;
            }
            self.matched.insert(Arc::clone(&config.path), node);
            all.push(cases);
        }
        all
    }

    fn matched_filter(
        &mut self,
        config: &ProtoMessage,
        hcm: &ProtoMessage,
    ) -> Option<(Node, FilterCases)> {
        let extension = config.message("extension_config")?;
        extension.without_effect(&["name"]);
        let inner = extension.message("typed_config")?;
        let is_composite = inner.descriptor.name() == "Composite";
        let mut whole = if is_composite { None } else { Some(self.inner_filter(inner, hcm)?) };
        let otherwise = whole.as_ref().map(|(_, settings)| settings.clone());
        let Some(matcher) = config.message("xds_matcher") else {
            self.unsupported(config, "matcher", "write `xds_matcher`");
            return None;
        };
        let mut cases = Vec::new();
        for leaf in self.leaves(matcher)? {
            let action = leaf.action.message("typed_config")?;
            let settings = match action.descriptor.name() {
                "SkipFilter" => plain("skip", action.span),
                "ExecuteFilterAction" if is_composite => {
                    let (name, settings) = self.executed(action, hcm)?;
                    match &whole {
                        Some((known, _)) if *known != name => {
                            self.unsupported_at(action, "all actions execute a filter of one kind");
                            return None;
                        }
                        Some(_) => {}
                        None => whole = Some((name, settings.clone())),
                    }
                    settings
                }
                _ => {
                    self.unsupported_type(action);
                    return None;
                }
            };
            for condition in self.alternatives(&leaf.tests, action.span)? {
                cases.push((condition, settings.clone()));
            }
        }
        let (filter, settings) = whole?;
        let node = crate::native::single(&filter, settings);
        let otherwise = otherwise.unwrap_or_else(|| plain("skip", config.span));
        Some((node, FilterCases { filter, cases, otherwise }))
    }

    /// The filter that an action of `composite` executes.
    fn executed(&mut self, action: &ProtoMessage, hcm: &ProtoMessage) -> Option<(String, Node)> {
        for field in ["dynamic_config", "filter_chain", "filter_chain_name", "sample_percent"] {
            if action.has(field) {
                self.unsupported(action, field, "write `typed_config`");
                return None;
            }
        }
        let extension = action.message("typed_config")?;
        extension.without_effect(&["name"]);
        self.inner_filter(extension.message("typed_config")?, hcm)
    }

    /// A filter with a matcher before it: its native name, and its settings.
    fn inner_filter(&mut self, inner: &ProtoMessage, hcm: &ProtoMessage) -> Option<(String, Node)> {
        let mut after = Vec::new();
        let name = inner.descriptor.name();
        let stateful = ["Router", "RateLimit", "JwtAuthentication", "ExtensionWithMatcher"];
        let node = if stateful.contains(&name) {
            self.unsupported_at(inner, "it stands without a matcher before it");
            return None;
        } else {
            self.http_filter(inner, hcm, &mut after)?
        };
        if !after.is_empty() || node.get("set_values").is_some() {
            self.unsupported_at(
                inner,
                "it changes headers or metadata, for which there is no matcher",
            );
            return None;
        }
        let entry = node.entries()?.first()?;
        Some((entry.key.to_string(), entry.node.clone()))
    }
}

/// The type of the filter behind a matcher.
fn inner_type(config: &ProtoMessage) -> &str {
    if config.descriptor.name() != "ExtensionWithMatcher" {
        return "";
    }
    let inner = crate::parts::inner(config, "extension_config");
    let inner = inner.and_then(|of| crate::parts::inner(of, "typed_config"));
    inner.map_or("", ProtoMessage::type_name)
}
