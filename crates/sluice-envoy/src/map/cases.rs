//! Filters that treat requests by conditions of their own, where filters here have settings by rule.
//!
//! Owns: how a rule is split so that each part has one setting for each filter. Refuses to know: filters. Keeps: a
//! request has the settings of the first case that it fulfils; the parts of a rule stand in its place, in order.

use sluice_core::Node;

use super::Mapping;
use super::conditions::{Both, both};
use crate::message::ProtoMessage;
use crate::native::NativeMap;

/// A filter whose settings depend on the request.
#[derive(Clone, Debug)]
pub(super) struct FilterCases {
    /// Its native name.
    pub(super) filter: String,
    /// Conditions as in the `match` of a rule, each with the settings; the first that holds counts.
    pub(super) cases: Vec<(NativeMap, Node)>,
    /// The settings of all other requests.
    pub(super) otherwise: Node,
}

impl Mapping<'_> {
    /// The parts of a rule, each with its `match` and its settings for filters. What host or rule say themselves of a
    /// filter counts for all parts.
    pub(super) fn split(
        &mut self,
        matches: NativeMap,
        filters: NativeMap,
        (all, of_host): (&[FilterCases], &NativeMap),
        route: &ProtoMessage,
    ) -> Vec<(NativeMap, NativeMap)> {
        let mut parts = vec![(matches, filters)];
        for cases in all {
            if of_host.has(&cases.filter) || parts[0].1.has(&cases.filter) {
                continue;
            }
            let mut split = Vec::new();
            for (matches, filters) in parts {
                split.extend(self.split_once(&matches, &filters, cases, route));
            }
            parts = split;
        }
        parts
    }

    fn split_once(
        &mut self,
        matches: &NativeMap,
        filters: &NativeMap,
        cases: &FilterCases,
        route: &ProtoMessage,
    ) -> Vec<(NativeMap, NativeMap)> {
        let with = |settings: &Node| {
            let mut filters = filters.clone();
            filters.set(&cases.filter, settings.clone());
            filters
        };
        let mut parts = Vec::new();
        for (condition, settings) in &cases.cases {
            match both(matches, condition) {
                Both::Never => {}
                Both::As(joined) => {
                    let is_all = joined.says_as(matches);
                    parts.push((joined, with(settings)));
                    if is_all {
                        return parts;
                    }
                }
                Both::Unclear => {
                    let how = format!(
                        "`{}` treats requests by conditions that cannot be joined with it",
                        cases.filter
                    );
                    self.unsupported(route, "match", &how);
                    return parts;
                }
            }
        }
        parts.push((matches.clone(), with(&cases.otherwise)));
        parts
    }
}
