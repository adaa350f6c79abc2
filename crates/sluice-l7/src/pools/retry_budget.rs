//! The requests and retries of a cluster in flight on one worker: the circuit breaker for retries.
//!
//! Owns: how many retries may be in flight. Refuses to know: what is worth a retry. Keeps: what was counted is
//! uncounted on drop, however it ends.

use std::cell::Cell;
use std::rc::Rc;

use super::ClusterPool;

impl ClusterPool {
    /// Counts a request in flight.
    pub(crate) fn enter_request(self: &Rc<Self>) -> InFlightGuard {
        self.requests.set(self.requests.get() + 1);
        InFlightGuard { pool: Rc::clone(self), retry: false }
    }

    /// Counts a retry in flight, unless the limit on retries is reached.
    pub(crate) fn enter_retry(self: &Rc<Self>) -> Option<InFlightGuard> {
        let plan = self.handle.cluster.peek_plan();
        let share = self.requests.get().saturating_mul(plan.retry_percent.into()) / 100;
        let max = plan.retries_max.max(share);
        if self.retries.get() >= max {
            self.counters.retry_refused.increment();
            return None;
        }
        self.counters.retried.increment();
        self.retries.set(self.retries.get() + 1);
        Some(InFlightGuard { pool: Rc::clone(self), retry: true })
    }

    /// The requests and the retries in flight.
    #[cfg(test)]
    pub(crate) const fn in_flight(&self) -> (u64, u64) {
        (self.requests.get(), self.retries.get())
    }
}

/// A request or retry in flight; uncounted on drop.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    pool: Rc<ClusterPool>,
    retry: bool,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let count = if self.retry { &self.pool.retries } else { &self.pool.requests };
        count.set(count.get() - 1);
    }
}

/// Adds one to a count for as long as it lives.
pub(super) struct Count<'a>(&'a Cell<u64>);

impl<'a> Count<'a> {
    pub(super) fn enter(count: &'a Cell<u64>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_core::Clock;
    use sluice_io::WorkerCx;
    use sluice_upstream::Cluster;
    use sluice_upstream::plan::{ClusterPlan, ClusterSettings};

    use super::*;
    use crate::worker::HttpWorker;

    #[test]
    fn retries_in_flight_have_a_limit_that_grows_with_the_requests() {
        let bare = ClusterSettings::clone(&ClusterSettings::bare());
        let pool_of = |settings| {
            let settings = Arc::new(settings);
            let plan = Arc::new(ClusterPlan { name: "app".into(), settings, tls: None });
            let (worker, cluster) = (WorkerCx::solitary(Clock::held()), Cluster::new(plan));
            HttpWorker::of(&worker).pools.to(&Arc::new(cluster), &worker)
        };
        let pool = pool_of(ClusterSettings { retries_max: 2, ..bare.clone() });

        let mut retries: Vec<_> = (0..2).filter_map(|_| pool.enter_retry()).collect();
        assert_eq!((retries.len(), pool.retries.get()), (2, 2));
        assert!(pool.enter_retry().is_none());
        retries.pop();
        retries.extend(pool.enter_retry());
        assert_eq!(retries.len(), 2, "one that ended makes room");

        // A fifth of the requests in flight, if that is more.
        let requests: Vec<_> = (0..15).map(|_| pool.enter_request()).collect();
        assert_eq!(pool.requests.get(), 15);
        retries.extend(pool.enter_retry());
        assert_eq!(retries.len(), 3);
        assert!(pool.enter_retry().is_none());
        drop((requests, retries));
        assert_eq!((pool.requests.get(), pool.retries.get()), (0, 0));

        for (retry_percent, allowed) in [(0, 1), (50, 7), (100, 15)] {
            let pool = pool_of(ClusterSettings { retries_max: 1, retry_percent, ..bare.clone() });
            let _requests: Vec<_> = (0..15).map(|_| pool.enter_request()).collect();
            let retries: Vec<_> = (0..20).map_while(|_| pool.enter_retry()).collect();
            assert_eq!(retries.len(), allowed, "{retry_percent} %");
        }
    }

    #[test]
    fn a_count_lives_as_long_as_its_guard() {
        let count = Cell::new(4);
        let guard = Count::enter(&count);
        assert_eq!(count.get(), 5);
        drop(guard);
        assert_eq!(count.get(), 4);
    }
}
