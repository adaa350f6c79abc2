//! Clusters by name, for every thread.
//!
//! Owns: the one [`Cluster`] of each name, and whether it is configured yet or only referred to. Refuses to know: what a cluster
//! is configured with, and where it comes from. Keeps: every caller of a name gets the same cluster, so that a reference never
//! has to be renewed; looking a name up for a request takes no lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use sluice_core::Name;

use crate::cluster::Cluster;
use crate::demand::DemandDesk;

/// The clusters of the process.
#[derive(Debug, Default)]
pub struct ClusterDirectory {
    /// Every cluster that something refers to.
    handles: Mutex<HashMap<Name, Weak<Cluster>>>,
    /// Those that are configured.
    configured: ArcSwap<HashMap<Name, Arc<Cluster>>>,
    /// Where workers ask for what is not there.
    pub demands: DemandDesk,
}

impl ClusterDirectory {
    /// The cluster of that name. If there is none yet, it is [vacant](Cluster::vacant) until it is configured.
    pub fn reference(&self, name: &Name) -> Arc<Cluster> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = handles.get(name).and_then(Weak::upgrade) {
            return known;
        }
        let vacant = Arc::new(Cluster::vacant(Arc::clone(name)));
        handles.insert(Arc::clone(name), Arc::downgrade(&vacant));
        vacant
    }

    /// The configured cluster of that name.
    pub fn find(&self, name: &str) -> Option<Arc<Cluster>> {
        self.configured.load().get(name).cloned()
    }

    /// Sets the clusters that are configured, and forgets those that nothing refers to.
    pub fn set_configured(&self, configured: HashMap<Name, Arc<Cluster>>) {
        self.configured.store(Arc::new(configured));
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.retain(|_, cluster| cluster.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_cluster_for_as_long_as_something_refers_to_it() {
        let directory = ClusterDirectory::default();
        let first = directory.reference(&"app".into());
        assert!(Arc::ptr_eq(&first, &directory.reference(&"app".into())));
        assert!(!first.is_configured());
        assert!(directory.find("app").is_none());

        directory.set_configured([("app".into(), Arc::clone(&first))].into());
        assert!(Arc::ptr_eq(&first, &directory.find("app").unwrap()));

        directory.set_configured(HashMap::new());
        assert!(directory.find("app").is_none());
        assert!(Arc::ptr_eq(&first, &directory.reference(&"app".into())));
        drop(first);
        directory.set_configured(HashMap::new());
        assert!(directory.handles.lock().unwrap().is_empty());
    }
}
