//! Clusters by name, for every thread.
//!
//! Owns: the one [`Cluster`] of each name, whether it is configured yet or only referred to, and where workers ask for one that
//! is not there. Refuses to know: what a cluster is configured with, and where it comes from. Keeps: every caller of a name gets the same cluster, so that a reference never has to
//! be renewed; looking a name up for a request takes no lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use sluice_core::Name;
use tokio::sync::{mpsc, oneshot};

use crate::cluster::Cluster;

/// A worker's question for a cluster that is not there.
#[derive(Debug)]
pub struct ClusterQuestion {
    /// Its name.
    pub name: Name,
    /// Told whether it is there now. Dropped if nobody will know.
    pub answer: oneshot::Sender<bool>,
}

/// Why a cluster that is not there cannot be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// Nobody sends clusters on demand.
    NoDesk,
    /// As many requests wait as may.
    Full,
}

/// The wait for a cluster.
#[derive(Debug)]
pub struct ClusterWait<'a> {
    answer: oneshot::Receiver<bool>,
    waiting: &'a AtomicU64,
}

impl ClusterWait<'_> {
    /// Whether the cluster is there, once that is known.
    pub async fn answer(&mut self) -> bool {
        (&mut self.answer).await.unwrap_or(false)
    }
}

impl Drop for ClusterWait<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}

/// The clusters of the process.
#[derive(Debug, Default)]
pub struct ClusterDirectory {
    /// Every cluster that something refers to.
    handles: Mutex<HashMap<Name, Weak<Cluster>>>,
    /// Those that are configured.
    configured: ArcSwap<HashMap<Name, Arc<Cluster>>>,
    /// Where workers ask for clusters that are not there.
    desk: ArcSwapOption<mpsc::Sender<ClusterQuestion>>,
    waiting: AtomicU64,
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

    /// Sets where workers ask for clusters that are not there. For the control thread.
    pub fn set_desk(&self, desk: mpsc::Sender<ClusterQuestion>) {
        self.desk.store(Some(Arc::new(desk)));
    }

    /// Asks for a cluster that is not there; at most `most` requests wait at once.
    ///
    /// # Errors
    /// Why it cannot be asked for.
    pub fn ask(&self, name: &str, most: u64) -> Result<ClusterWait<'_>, Unasked> {
        let desk = self.desk.load_full().ok_or(Unasked::NoDesk)?;
        let (answer, answered) = oneshot::channel();
        let before = self.waiting.fetch_add(1, Relaxed);
        let wait = ClusterWait { answer: answered, waiting: &self.waiting };
        if before >= most || desk.try_send(ClusterQuestion { name: name.into(), answer }).is_err() {
            return Err(Unasked::Full);
        }
        Ok(wait)
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
    fn as_many_wait_for_clusters_as_may() {
        let directory = ClusterDirectory::default();
        assert_eq!(directory.ask("a", 9).err(), Some(Unasked::NoDesk));
        let (desk, mut asked) = mpsc::channel(8);
        directory.set_desk(desk);
        let first = directory.ask("a", 1).unwrap();
        assert_eq!(directory.ask("b", 1).err(), Some(Unasked::Full));
        assert_eq!(&*asked.try_recv().unwrap().name, "a");
        drop(first);
        assert!(directory.ask("b", 1).is_ok());
    }

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
