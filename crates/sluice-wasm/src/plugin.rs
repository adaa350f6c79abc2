//! A use of the filter, as a guest sees it: what its root context stands for.
//!
//! Owns: what an instance and a root context are configured with. Refuses to know: how guests run. Keeps: what is equal is one.

use std::sync::Arc;

use bytes::Bytes;
use sluice_upstream::Cluster;

use crate::limits::GuestLimits;

/// What an instance is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct VmSetup {
    pub(crate) id: String,
    pub(crate) config: Bytes,
    /// `NAME=VALUE`.
    pub(crate) environment: Vec<String>,
    pub(crate) limits: GuestLimits,
}

/// What a root context is made with.
#[derive(Clone, Debug)]
pub(crate) struct PluginFacts {
    /// The name that the guest learns, and metrics and records have.
    pub(crate) name: String,
    pub(crate) root_id: String,
    pub(crate) config: Bytes,
    pub(crate) listener: String,
    /// Those that it may call.
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) body_max: usize,
}

impl PluginFacts {
    /// The cluster of this name, if the guest may call it.
    pub(crate) fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.iter().find(|known| *known.name == *name)
    }

    /// Whether a root context of one is the root context of the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.root_id == other.root_id
            && self.config == other.config
            && self.listener == other.listener
    }
}
