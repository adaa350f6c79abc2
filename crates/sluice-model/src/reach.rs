//! The clusters that a listener can reach.
//!
//! Owns: the walk from chains through routes and filters to clusters. Refuses to know: what the result is used for.
//! Keeps: a rule that takes its cluster from a header can reach any cluster.

use std::collections::BTreeSet;

use sluice_core::Name;

use crate::build::AskedClusters;
use crate::check::routes::led_to;
use crate::check::{https_of, relays_of};
use crate::sections::{Config, Listener};

/// The clusters that connections and requests of `listener` can be sent to, and those that its filters may ask.
pub fn clusters_of(config: &Config, asked: &AskedClusters, listener: &Listener) -> BTreeSet<Name> {
    let relayed = relays_of(listener).map(|relay| relay.cluster.value.clone());
    let mut found: BTreeSet<Name> = relayed.collect();
    let tables = https_of(listener).filter_map(|http| config.routes.get(&http.routes.value));
    for host in tables.flat_map(|hosts| hosts.iter()) {
        if host.rules.iter().any(|rule| rule.cluster_header.is_some()) {
            found.extend(config.clusters.names().cloned());
        }
        found.extend(led_to(std::iter::once(host)).map(|(name, _)| name.value.clone()));
    }
    found.extend(asked.of(listener).cloned());
    found
}
