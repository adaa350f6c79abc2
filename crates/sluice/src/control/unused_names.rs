//! The series of names that are no longer in use.
//!
//! Owns: which labels of which metrics make a name, and whether it is in use. Refuses to know: how series are removed,
//! and what filters count; it asks their plans. Keeps: a series stays while something still counts in it.

use std::collections::{HashMap, HashSet};

use sluice_l7::metrics as http_metrics;
use sluice_model::model::Kind;
use sluice_telemetry::metrics::{NameLabels, SeriesLabels};

use super::Control;

/// The metrics whose series have names of parts of a listener, and the labels that make such a name.
const OF_PARTS: &[(&str, NameLabels)] = &[
    (sluice_l4::metrics::CHAIN.name, &["listener", "chain"]),
    (sluice_l4::metrics::RBAC.name, &["listener", "policy"]),
    (http_metrics::FILTER_REPLIES.name, &["listener", "filter"]),
    (http_metrics::RATE_SHADOWED.name, &["listener", "limit"]),
    (http_metrics::CONCURRENCY.name, &["listener", "limit"]),
    (sluice_module::metrics::INSTANCES.name, &["listener", "filter"]),
    (sluice_module::metrics::CONNECTIONS.name, &["listener", "filter"]),
    (sluice_module::metrics::FAILURES.name, &["listener", "filter"]),
    (sluice_module::metrics::COUNTS.name, &["filter", "counter"]),
    // The names of methods have series that all listeners share.
    (http_metrics::GRPC_CALLS.name, GRPC_METHOD),
    (http_metrics::GRPC_MESSAGES.name, GRPC_METHOD),
];

const GRPC_METHOD: NameLabels = &["service", "method"];

impl Control {
    /// Removes the series of listeners and their parts, clusters, rules, endpoints and certificates that are no longer
    /// in use. A series stays while something still counts in it.
    pub(super) fn forget_names(&self) {
        if !self.names_left.get() {
            return;
        }
        let store = self.store.borrow();
        let tables = store.routes().map(|(_, model, _)| model);
        let rules: HashSet<&str> =
            tables.flat_map(|table| table.rules()).map(|rule| &*rule.name).collect();
        let listeners: HashMap<&str, _> =
            store.listener_snapshots().map(|(name, snapshot)| (&**name, snapshot)).collect();
        let clusters = self.clusters.borrow();
        let members: Vec<_> = clusters.iter().map(|cluster| cluster.members()).collect();
        let endpoints: HashSet<&str> = members
            .iter()
            .flat_map(|members| members.endpoints.iter())
            .map(|endpoint| &*endpoint.name)
            .collect();
        let mut fetches: HashSet<String> = HashSet::new();
        self.builder.around.fetches.each(|name, _, _| fetches.extend([name.to_owned()]));
        let is_gone = |label: &str, value: &str| match label {
            "listener" => !listeners.contains_key(value),
            "cluster" => !store.contains(Kind::Cluster, value),
            "route" => value != "other" && !rules.contains(value),
            "endpoint" => value != "other" && !endpoints.contains(value),
            "fetch" => !fetches.contains(value),
            "certificate" => !self.vitals.knows_certificate(value),
            _ => false,
        };
        let part_is_gone = |series: &SeriesLabels<'_>| match series.get("listener") {
            Some(name) => listeners.get(name).is_some_and(|listener| !listener.counts_in(series)),
            None => !listeners.values().any(|listener| listener.counts_in(series)),
        };
        let left = self.registry.forget(|series| {
            let whole = WHOLE_NAMES.iter().filter(|name| {
                name.iter().any(|label| series.get(label).is_some_and(|of| is_gone(label, of)))
            });
            let parts = OF_PARTS.iter().filter(|(metric, _)| *metric == series.metric);
            let parts = parts.filter(|_| part_is_gone(series)).map(|(_, name)| *name);
            whole.copied().chain(parts).collect()
        });
        self.names_left.set(left);
    }
}

/// Labels whose values are names on their own.
const WHOLE_NAMES: &[NameLabels] =
    &[&["listener"], &["cluster"], &["route"], &["endpoint"], &["fetch"], &["certificate"]];
