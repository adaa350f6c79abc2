//! The clusters that a listener can reach.
//!
//! Owns: the walk from chains through routes and filters to clusters. Refuses to know: what the result is used for.
//! Keeps: a rule that takes its cluster from a header can reach any cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use sluice_core::Name;

use crate::model::listener::{Service, Traffic};
use crate::model::routes::Action;
use crate::model::{Kind, Listener};
use crate::store::Store;

/// The clusters that connections and requests of `listener` can be sent to, and those that its filters may ask.
pub fn clusters_of(store: &Store, name: &Name, listener: &Listener) -> BTreeSet<Name> {
    let mut found: BTreeSet<Name> = store.asked(Kind::Listener, name).iter().cloned().collect();
    if let Traffic::Datagrams(chains) = &listener.traffic {
        found.extend(chains.iter().map(|chain| Arc::clone(&chain.cluster)));
    }
    for (_, service) in listener.services() {
        match service {
            Service::Relay { cluster, .. } => drop(found.insert(Arc::clone(cluster))),
            Service::Http(http) => {
                let Some((table, _)) = store.routes_named(&http.routes) else { continue };
                if table.rules().any(|rule| matches!(rule.action, Action::ByHeader(_))) {
                    found.extend(store.names(Kind::Cluster).cloned());
                }
                found.extend(store.asked(Kind::Routes, &http.routes).iter().cloned());
                found.extend(table.rules().flat_map(|rule| rule.clusters().cloned()));
            }
        }
    }
    found
}
