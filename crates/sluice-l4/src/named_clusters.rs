//! Clusters that clients name, by the server name of their TLS, or that a filter chooses.
//!
//! Owns: which clusters they may name, and the table that says which one a name means. Refuses to know: where the name was read. Keeps: a name is a client's word, so
//! only clusters that the configuration lists can be reached by it; what a worker holds is bounded by the clusters that
//! are configured.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::value::NamePattern;
use sluice_core::{ConnInfo, Name, Reason};
use sluice_io::WorkerCx;
use sluice_upstream::{ClusterDirectory, ClusterHandle, reasons};

use crate::filters::lookup::LiveMap;

sluice_core::values! {
    CHOSEN: String = "relay.cluster", "The cluster that a filter chose for the connection, for a relay with `cluster_from: filter`.";
}

/// What names the cluster of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The server name of TLS.
    Sni,
    /// A filter, by [`CHOSEN`].
    Filter,
}

/// Clusters that clients may name.
#[derive(Debug)]
pub struct NamedClusters {
    /// What names them.
    pub by: NamedBy,
    /// The names that they may use; with a table, its values that count.
    pub allow: Vec<NamePattern>,
    /// The table in which a name is looked up; its value names the cluster.
    pub map: Option<LiveMap>,
    /// Every cluster.
    pub directory: Arc<ClusterDirectory>,
}

/// Why a name leads to no cluster, and what the record says of it.
pub(crate) type Unnamed = (Reason, String);

/// A worker's handles to the clusters that were named.
#[derive(Debug)]
pub(crate) struct NamedHandles {
    clusters: Arc<NamedClusters>,
    handles: RefCell<HashMap<Name, Rc<ClusterHandle>>>,
}

impl NamedHandles {
    pub(crate) fn new(clusters: &Arc<NamedClusters>) -> Self {
        Self { clusters: Arc::clone(clusters), handles: RefCell::default() }
    }

    /// The name that a connection has, if it has one.
    pub(crate) fn name_of<'c>(&self, info: &'c ConnInfo, sni: Option<&'c str>) -> Option<&'c str> {
        match self.clusters.by {
            NamedBy::Sni => sni,
            NamedBy::Filter => info.values.get(&CHOSEN).map(String::as_str),
        }
    }

    /// The cluster with the name that a client gave, or a filter chose.
    ///
    /// # Errors
    /// It gave none, it may not use this one, or no cluster has it.
    pub(crate) fn find(
        &self,
        worker: &WorkerCx,
        name: Option<&str>,
    ) -> Result<Rc<ClusterHandle>, Unnamed> {
        let (why, missing) = match self.clusters.by {
            NamedBy::Sni => (
                reasons::NAME_MISSING,
                "the connection has no server name (SNI), which names the cluster",
            ),
            NamedBy::Filter => {
                (reasons::CLUSTER_UNKNOWN, "no filter chose the cluster of the connection")
            }
        };
        let name = name.ok_or_else(|| (why, missing.to_owned()))?;
        let NamedClusters { allow, map, directory, .. } = &*self.clusters;
        let looked_up = map.as_ref().map(|map| {
            let missing = || format!("{name}: the map `{}` does not have it", map.name());
            map.get(name).ok_or_else(|| (reasons::CLUSTER_UNKNOWN, missing()))
        });
        let looked_up = looked_up.transpose()?;
        let name = looked_up.as_deref().unwrap_or(name);
        let unknown = |why: &str| (reasons::CLUSTER_UNKNOWN, format!("{name}: {why}"));
        if !allow.iter().any(|pattern| pattern.fits(name)) {
            return Err(unknown("`allow` of the relay does not list it"));
        }
        let found = directory.find(name).ok_or_else(|| unknown("no cluster has this name"))?;
        let mut handles = self.handles.borrow_mut();
        if let Some(known) = handles.get(name).filter(|of| Arc::ptr_eq(&of.cluster, &found)) {
            return Ok(Rc::clone(known));
        }
        handles.retain(|_, handle| handle.cluster.is_configured());
        let name = Arc::clone(&found.name);
        let handle = ClusterHandle::new(found, worker);
        handles.insert(name, Rc::clone(&handle));
        Ok(handle)
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::Clock;
    use sluice_core::value::parse_name_pattern;

    use super::*;

    #[test]
    fn only_clusters_that_are_listed_and_configured_can_be_named() {
        let worker = WorkerCx::solitary(Clock::held());
        let directory = Arc::new(ClusterDirectory::default());
        let allow = ["app.test", "*.db.test", "gone.test"];
        let allow = allow.iter().map(|name| parse_name_pattern(name).unwrap()).collect();
        let clusters =
            NamedClusters { by: NamedBy::Sni, allow, map: None, directory: Arc::clone(&directory) };
        let handles = NamedHandles::new(&Arc::new(clusters));
        let known = ["app.test", "a.db.test", "other.test", "db.test"];
        let clusters = known.map(|name| directory.reference(&name.into()));
        clusters.iter().for_each(|of| of.set_plan(of.plan()));
        directory.set_configured(
            clusters.iter().map(|of| (Arc::clone(&of.name), Arc::clone(of))).collect(),
        );
        let named = |name| {
            let found = handles.find(&worker, name);
            found.map(|of| of.cluster.name.to_string()).map_err(|(why, _)| why)
        };
        assert_eq!(named(Some("app.test")).as_deref(), Ok("app.test"));
        assert_eq!(named(Some("a.db.test")).as_deref(), Ok("a.db.test"));
        assert_eq!(named(None), Err(reasons::NAME_MISSING));
        for name in ["other.test", "db.test", "gone.test", "b.db.test", "", "APP.test", "*.db.test"]
        {
            assert_eq!(named(Some(name)), Err(reasons::CLUSTER_UNKNOWN), "{name}");
        }
        assert_eq!(handles.handles.borrow().len(), 2);
    }
}
