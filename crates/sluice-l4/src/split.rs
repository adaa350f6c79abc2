//! The clusters of a relay, and the choice among them; how a split chooses by weight.
//!
//! Owns: which cluster a connection or flow goes to, and which metadata it asks for there. Refuses to know: endpoints. Keeps: a client that a hash or a table
//! of sources keeps with its endpoint stays with one cluster too, as long as the shares stay the same.

use std::rc::Rc;
use std::sync::Arc;

use sluice_io::WorkerCx;
use sluice_upstream::{Cluster, ClusterHandle, SubsetKey};
use xxhash_rust::xxh3::xxh3_64;

/// A cluster of a relay.
#[derive(Clone, Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Its weight in relation to those of the others.
    pub weight: u64,
    /// The metadata that its endpoint must have, if the cluster has subsets.
    pub subset: Option<Arc<SubsetKey>>,
}

impl WeightedCluster {
    /// The clusters of a relay that has only this one.
    pub fn only(cluster: Arc<Cluster>) -> Vec<Self> {
        vec![Self { cluster, weight: 1, subset: None }]
    }
}

/// A worker's handles to the clusters of a relay.
#[derive(Debug)]
pub(crate) struct SplitHandles {
    /// At least one.
    handles: Box<[SplitHandle]>,
}

/// A worker's handle to a cluster of a relay.
#[derive(Debug)]
pub(crate) struct SplitHandle {
    pub(crate) handle: Rc<ClusterHandle>,
    weight: u64,
    /// The metadata that the endpoint must have.
    pub(crate) subset: Option<Arc<SubsetKey>>,
}

impl SplitHandles {
    pub(crate) fn on_worker(clusters: &[WeightedCluster], worker: &WorkerCx) -> Self {
        let handle = |of: &WeightedCluster| SplitHandle {
            handle: ClusterHandle::new(Arc::clone(&of.cluster), worker),
            weight: of.weight,
            subset: of.subset.clone(),
        };
        Self { handles: clusters.iter().map(handle).collect() }
    }

    /// Chooses a cluster by weight: by `key` if there is one, so that equal keys get the same, or else at random.
    pub(crate) fn choose(&self, worker: &WorkerCx, key: Option<u64>) -> &SplitHandle {
        if let [only] = &*self.handles {
            return only;
        }
        let random = || worker.random_below(usize::MAX) as u64;
        &self.handles[self.place(key.map_or_else(random, number_of_key))]
    }

    /// The place of the cluster that `number` falls to; the first if all weights are 0.
    fn place(&self, number: u64) -> usize {
        place_of(number, self.handles.iter().map(|of| of.weight)).unwrap_or(0)
    }

    /// Every cluster.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &SplitHandle> {
        self.handles.iter()
    }
}

/// The number by which a split chooses for clients with this key: hashed again, since the balancer of the cluster goes by
/// the same key, and must see all kinds of them.
pub fn number_of_key(key: u64) -> u64 {
    xxh3_64(&key.to_le_bytes())
}

/// The place of the share that `number` falls to, by the weights of all; `None` if they are all 0.
pub fn place_of(number: u64, mut weights: impl Iterator<Item = u64> + Clone) -> Option<usize> {
    let total = weights.clone().fold(0, u64::saturating_add);
    let mut at = number.checked_rem(total)?;
    weights.position(|weight| {
        let here = at < weight;
        at = at.saturating_sub(weight);
        here
    })
}

#[cfg(test)]
mod tests {
    use sluice_core::Clock;

    use super::*;

    fn split(weights: &[u64], worker: &WorkerCx) -> SplitHandles {
        let cluster = |(place, weight): (usize, &u64)| {
            let cluster = Arc::new(Cluster::vacant(format!("c{place}").into()));
            WeightedCluster { cluster, weight: *weight, subset: None }
        };
        let clusters: Vec<_> = weights.iter().enumerate().map(cluster).collect();
        SplitHandles::on_worker(&clusters, worker)
    }

    #[test]
    fn the_weights_are_the_shares() {
        let worker = WorkerCx::solitary(Clock::held());
        for (weights, expected) in [
            (&[7][..], &[100][..]),
            (&[0, 0], &[100, 0]),
            (&[0, 3, 0], &[0, 100, 0]),
            (&[90, 10], &[90, 10]),
            (&[1, 2, 1], &[25, 50, 25]),
            (&[1, u64::MAX], &[1, 99]),
        ] {
            let split = split(weights, &worker);
            let mut counts = vec![0; weights.len()];
            (0..100).for_each(|number| counts[split.place(number)] += 1);
            assert_eq!(counts, expected, "{weights:?}");
        }
    }

    #[test]
    fn equal_keys_get_the_same_cluster_and_others_spread() {
        let worker = WorkerCx::solitary(Clock::held());
        let split = split(&[1, 1], &worker);
        let chosen = |key| Rc::as_ptr(&split.choose(&worker, key).handle);
        let first = Rc::as_ptr(&split.iter().next().unwrap().handle);
        assert!((0..50).all(|key| chosen(Some(key)) == chosen(Some(key))));
        for keys in [0_u64..2000, (1 << 63)..(1 << 63) + 2000] {
            let count = keys.filter(|key| chosen(Some(*key)) == first).count();
            assert!((800..1200).contains(&count), "{count} of 2000");
        }
        let count = (0..2000).filter(|_| chosen(None) == first).count();
        assert!((800..1200).contains(&count), "{count} of 2000 without a key");
    }
}
