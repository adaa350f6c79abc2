//! Control planes on the pages of Envoy.
//!
//! Owns: what these pages need of the resources that are in force. Refuses to know: how a page looks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_envoy::stats::names::StatNames;
use sluice_xds::XdsType;

use super::Planes;

/// A resource of a plane that is in force.
#[derive(Clone, Debug)]
pub(in crate::control) struct ResourceInForce {
    pub(in crate::control) kind: XdsType,
    pub(in crate::control) name: Arc<str>,
    pub(in crate::control) version: Arc<str>,
    /// The wall-clock time at which it came.
    pub(in crate::control) since: Duration,
    /// It, encoded.
    pub(in crate::control) body: Bytes,
}

/// A resource that waits for others.
#[derive(Clone, Debug)]
pub(in crate::control) struct WaitingResource {
    pub(in crate::control) kind: XdsType,
    pub(in crate::control) name: Arc<str>,
    pub(in crate::control) waits_for: Vec<String>,
}

impl Planes {
    /// Adds the names of clusters and listeners in force.
    pub(in crate::control) fn add_stat_names(&self, names: &mut StatNames) {
        for applied in self.applied.borrow().values() {
            applied.stat_names.iter().for_each(|of| names.add(of));
        }
    }

    /// What is in force.
    pub(in crate::control) fn in_force(&self) -> Vec<ResourceInForce> {
        let inventory = self.inventory.borrow();
        let all = inventory.in_use().map(|(kind, name, of)| ResourceInForce {
            kind,
            name: Arc::clone(name),
            version: Arc::clone(&of.version),
            since: self.clock.wall(of.since),
            body: of.content.body.clone(),
        });
        all.filter(|of| !of.body.is_empty()).collect()
    }

    /// What waits for other resources.
    pub(in crate::control) fn waiting(&self) -> Vec<WaitingResource> {
        let entries = self.inventory.borrow().entries();
        let waiting = entries.into_iter().filter(|entry| !entry.waits_for.is_empty());
        let one = |entry: sluice_xds::InventoryEntry| WaitingResource {
            kind: entry.kind,
            name: entry.name,
            waits_for: entry.waits_for.iter().map(ToString::to_string).collect(),
        };
        waiting.map(one).collect()
    }

    /// Whether clusters or listeners are asked for.
    pub(in crate::control) const fn asks_for(&self, kind: XdsType) -> bool {
        match kind {
            XdsType::Cluster => self.dynamic.clusters.is_some(),
            XdsType::Listener => self.dynamic.listeners.is_some(),
            _ => false,
        }
    }
}
