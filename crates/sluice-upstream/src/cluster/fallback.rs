//! The cluster that serves in place of one that has no usable endpoint.
//!
//! Owns: for which reasons another cluster is asked, and how many of them one after the other. Refuses to know: what is
//! sent to them. Keeps: nothing is looked at before a pick has failed; a limit that is reached is no reason; at most
//! `FALLBACKS_MAX` clusters are asked after the first.

use std::rc::Rc;
use std::sync::Arc;

use sluice_core::Reason;
use sluice_io::WorkerCx;

use super::{Affinity, Claim, Cluster, ClusterHandle, WhenFull};
use crate::endpoint::EndpointState;
use crate::metrics;
use crate::reasons;

/// The most clusters that stand in for a cluster, one after the other.
pub const FALLBACKS_MAX: usize = 4;

impl Cluster {
    /// Sets the clusters that serve in place of this one: the first that can.
    pub fn set_fallback(&self, to: Vec<Arc<Self>>) {
        self.fallback.store(Arc::new(to));
    }

    /// The cluster that would serve in place of this one now, if any: the first that can or, if none can, the first.
    pub fn fallback(&self) -> Option<Arc<Self>> {
        let all = self.fallback.load();
        let able = || all.iter().find(|cluster| cluster.can_serve_within(FALLBACKS_MAX - 1));
        // One alone is asked, whatever is known of it.
        if all.len() < 2 { all.first() } else { able().or_else(|| all.first()) }.cloned()
    }

    /// The cluster that a pick continues with that has failed for `why`, if any.
    pub fn fallback_for(&self, why: Reason) -> Option<Arc<Self>> {
        const UNUSABLE: [Reason; 4] =
            [reasons::NO_HEALTHY, reasons::NO_ENDPOINT, reasons::NO_SUBSET, reasons::DNS];
        self.fallback().filter(|_| UNUSABLE.contains(&why))
    }

    /// Whether any endpoint is usable, of this cluster or of those that serve in its place.
    pub fn can_serve(&self) -> bool {
        self.can_serve_within(FALLBACKS_MAX)
    }

    /// The same, with at most so many clusters one after the other.
    fn can_serve_within(&self, left: usize) -> bool {
        let instead = || self.fallback.load().iter().any(|next| next.can_serve_within(left - 1));
        self.has_usable() || (left > 0 && instead())
    }
}

impl ClusterHandle {
    /// Picks an endpoint for a connection, and claims it; of the clusters that serve in place of this one if it has none
    /// that is usable. Returns the handle of the last cluster that was asked.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn pick_or_fall_back(
        self: &Rc<Self>,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
    ) -> (Rc<Self>, Result<Claim, Reason>) {
        self.first_of(worker, |handle| handle.pick(worker, affinity, &[], WhenFull::Refuse))
    }

    /// Picks an endpoint for one datagram, as [`ClusterHandle::pick_for_datagram`], in the same order of clusters.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn pick_for_datagram_or_fall_back(
        self: &Rc<Self>,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
    ) -> (Rc<Self>, Result<Arc<EndpointState>, Reason>) {
        self.first_of(worker, |handle| handle.pick_for_datagram(worker, affinity))
    }

    /// What `pick` finds in this cluster, or in the first that serves in its place and has a usable endpoint.
    fn first_of<T>(
        self: &Rc<Self>,
        worker: &WorkerCx,
        pick: impl Fn(&Rc<Self>) -> Result<T, Reason>,
    ) -> (Rc<Self>, Result<T, Reason>) {
        let mut handle = Rc::clone(self);
        for _ in 0..FALLBACKS_MAX {
            match pick(&handle) {
                Err(why) if let Some(next) = handle.fall_back(worker, why) => handle = next,
                picked => return (handle, picked),
            }
        }
        let picked = pick(&handle);
        (handle, picked)
    }

    /// The handle of the cluster that a pick continues with that has failed for `why`, if any.
    pub(crate) fn fall_back(&self, worker: &WorkerCx, why: Reason) -> Option<Rc<Self>> {
        let next = self.cluster.fallback_for(why)?;
        self.count_fallback(worker);
        Some(self.next(next, worker))
    }

    /// The cluster that has an endpoint of that name: this one, or one that serves in its place.
    pub fn with_member(self: &Rc<Self>, worker: &WorkerCx, name: &str) -> Option<Rc<Self>> {
        self.with_member_within(worker, name, FALLBACKS_MAX)
    }

    fn with_member_within(
        self: &Rc<Self>,
        worker: &WorkerCx,
        name: &str,
        left: usize,
    ) -> Option<Rc<Self>> {
        if self.has_member(name) {
            return Some(Rc::clone(self));
        }
        let all = self.cluster.fallback.load();
        let mut all = all.iter().filter(|_| left > 0);
        all.find_map(|next| {
            self.next(Arc::clone(next), worker).with_member_within(worker, name, left - 1)
        })
    }

    /// Counts that something goes on with the cluster that serves in place of this one.
    pub fn count_fallback(&self, worker: &WorkerCx) {
        let name = || worker.shard.counter(&metrics::FALLBACKS, &[&self.cluster.name]);
        self.fallbacks.get_or_init(name).increment();
    }

    /// The handle of `cluster`, which serves in place of this one.
    fn next(&self, cluster: Arc<Cluster>, worker: &WorkerCx) -> Rc<Self> {
        let mut next = self.next.borrow_mut();
        if let Some(known) = next.as_ref().filter(|known| Arc::ptr_eq(&known.cluster, &cluster)) {
            return Rc::clone(known);
        }
        Rc::clone(next.insert(Self::of_class(cluster, self.class, worker)))
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::Clock;

    use super::super::tests::{member, plan};
    use super::*;
    use crate::plan::ClusterPlan;

    fn named(name: &str, connections_max: Option<u64>) -> Arc<Cluster> {
        let plan = ClusterPlan { name: name.into(), ..plan(connections_max) };
        Arc::new(Cluster::new(Arc::new(plan)))
    }

    /// The cluster that a pick ends at, and why it failed.
    fn picked(handle: &Rc<ClusterHandle>, worker: &WorkerCx) -> (String, Option<Reason>) {
        let (last, picked) = handle.pick_or_fall_back(worker, Affinity::default());
        (last.cluster.name.to_string(), picked.err())
    }

    #[test]
    fn only_a_cluster_without_usable_endpoints_has_another_in_its_place() {
        let worker = WorkerCx::solitary(Clock::held());
        let (first, second) = (named("first", Some(0)), named("second", None));
        let handle = ClusterHandle::new(Arc::clone(&first), &worker);
        let at = |name: &str, why| (name.to_owned(), why);
        first.set_fallback(vec![Arc::clone(&second)]);
        assert_eq!(picked(&handle, &worker), at("first", Some(reasons::LIMIT)));

        let first = named("first", None);
        let handle = ClusterHandle::new(Arc::clone(&first), &worker);
        assert_eq!(picked(&handle, &worker), at("first", Some(reasons::NO_ENDPOINT)));
        first.set_fallback(vec![Arc::clone(&second)]);
        assert_eq!(picked(&handle, &worker), at("second", Some(reasons::NO_ENDPOINT)));
        assert!(!first.can_serve());
        second.publish(&[member(2)]);
        assert_eq!(picked(&handle, &worker), at("second", None));
        assert!(first.can_serve());
        first.publish(&[member(1)]);
        assert_eq!(picked(&handle, &worker), at("first", None));
        first.members().endpoints[0].set_health(Err("refused"));
        assert_eq!(picked(&handle, &worker), at("second", None));
        let serving =
            |name| handle.with_member(&worker, name).map(|of| of.cluster.name.to_string());
        assert_eq!(serving("127.0.0.1:1").as_deref(), Some("first"));
        assert_eq!(serving("127.0.0.1:2").as_deref(), Some("second"));
        assert_eq!(serving("127.0.0.1:3"), None);
        first.set_fallback(Vec::new());
        assert_eq!(picked(&handle, &worker), at("first", Some(reasons::NO_HEALTHY)));
    }

    #[test]
    fn of_several_clusters_the_first_that_can_serve_does() {
        let worker = WorkerCx::solitary(Clock::held());
        let all = ["first", "second", "third", "spare"].map(|name| named(name, None));
        let [first, second, third, spare] = &all;
        first.set_fallback(vec![Arc::clone(second), Arc::clone(third)]);
        second.set_fallback(vec![Arc::clone(spare)]);
        let handle = ClusterHandle::new(Arc::clone(first), &worker);
        let served = || picked(&handle, &worker).0;
        assert!(!first.can_serve());
        third.publish(&[member(3)]);
        assert_eq!(served(), "third");
        spare.publish(&[member(4)]);
        assert_eq!(served(), "spare");
        second.publish(&[member(2)]);
        assert_eq!(served(), "second");
        second.members().endpoints[0].set_health(Err("refused"));
        spare.members().endpoints[0].set_health(Err("refused"));
        assert_eq!(served(), "third");
        let with = |name| handle.with_member(&worker, name).map(|of| of.cluster.name.to_string());
        assert_eq!(with("127.0.0.1:3").as_deref(), Some("third"));
        assert_eq!(with("127.0.0.1:4").as_deref(), Some("spare"));
        assert_eq!(with("127.0.0.1:5"), None);
    }

    #[test]
    fn a_circle_of_clusters_ends() {
        let worker = WorkerCx::solitary(Clock::held());
        let (first, second) = (named("first", None), named("second", None));
        first.set_fallback(vec![Arc::clone(&second)]);
        second.set_fallback(vec![Arc::clone(&first)]);
        let handle = ClusterHandle::new(Arc::clone(&first), &worker);
        assert_eq!(picked(&handle, &worker).1, Some(reasons::NO_ENDPOINT));
        assert!(!first.can_serve());
        assert!(handle.with_member(&worker, "127.0.0.1:1").is_none());
        first.set_fallback(Vec::new());
    }
}
