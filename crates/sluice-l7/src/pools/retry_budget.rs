//! The requests and retries of a cluster in flight on one worker: the circuit breaker for retries.
//!
//! Owns: how many retries may be in flight, and the count of requests that wait for a connection. Refuses to know: what
//! is worth a retry. Keeps: what was counted is uncounted on drop, however it ends.

use std::rc::Rc;

use sluice_io::WorkerCx;
use sluice_upstream::cluster::BreakerLimit;

use super::ClusterPool;

impl ClusterPool {
    /// Counts a request in flight.
    pub(crate) fn enter_request(self: &Rc<Self>) -> InFlightGuard {
        self.requests.set(self.requests.get() + 1);
        InFlightGuard { pool: Rc::clone(self), retry: false }
    }

    /// Counts a retry in flight, unless the limit on retries is reached.
    pub(crate) fn enter_retry(self: &Rc<Self>, worker: &WorkerCx) -> Option<InFlightGuard> {
        if self.retries.used() >= self.retries_max() {
            self.counters.retry_refused.increment();
            self.handle.count_refusal(worker, BreakerLimit::Retries);
            return None;
        }
        self.counters.retried.increment();
        self.retries.enter(self.retries_max());
        Some(InFlightGuard { pool: Rc::clone(self), retry: true })
    }

    /// The limit, or a share of the requests in flight if that is more.
    fn retries_max(&self) -> u64 {
        let (max, percent) = self.handle.plan().retries_of(self.handle.class);
        let share = self.requests.get().saturating_mul(percent.into()) / 100;
        max.max(share)
    }

    /// The requests and the retries in flight.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> (u64, u64) {
        (self.requests.get(), self.retries.used())
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
        let Self { pool, retry } = self;
        if *retry {
            pool.retries.leave(pool.retries_max());
        } else {
            pool.requests.set(pool.requests.get() - 1);
        }
    }
}

/// A request that waits for a connection; uncounted on drop.
pub(super) struct WaitingRequest<'a>(&'a ClusterPool);

impl<'a> WaitingRequest<'a> {
    pub(super) fn enter(pool: &'a ClusterPool) -> Self {
        pool.waiting.enter(pool.pending_max());
        Self(pool)
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.waiting.leave(self.0.pending_max());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_core::Clock;
    use sluice_upstream::Cluster;
    use sluice_upstream::plan::{ClusterPlan, ClusterSettings};

    use super::*;
    use crate::worker::HttpWorker;

    #[test]
    fn retries_in_flight_have_a_limit_that_grows_with_the_requests() {
        let bare = ClusterSettings::clone(&ClusterSettings::bare());
        let worker = WorkerCx::solitary(Clock::held());
        let pool_of = |settings| {
            let worker = WorkerCx::solitary(Clock::held());
            let settings = Arc::new(settings);
            let plan = Arc::new(ClusterPlan { name: "app".into(), settings, tls: None });
            let cluster = Arc::new(Cluster::new(plan));
            HttpWorker::of(&worker).pools.to(&cluster, &worker)
        };
        let pool = pool_of(ClusterSettings { retries_max: 2, ..bare.clone() });

        let mut retries: Vec<_> = (0..2).filter_map(|_| pool.enter_retry(&worker)).collect();
        assert_eq!((retries.len(), pool.retries.used()), (2, 2));
        assert!(pool.enter_retry(&worker).is_none());
        retries.pop();
        retries.extend(pool.enter_retry(&worker));
        assert_eq!(retries.len(), 2, "one that ended makes room");

        // A fifth of the requests in flight, if that is more.
        let requests: Vec<_> = (0..15).map(|_| pool.enter_request()).collect();
        assert_eq!(pool.requests.get(), 15);
        retries.extend(pool.enter_retry(&worker));
        assert_eq!(retries.len(), 3);
        assert!(pool.enter_retry(&worker).is_none());
        drop((requests, retries));
        assert_eq!((pool.requests.get(), pool.retries.used()), (0, 0));

        for (retry_percent, allowed) in [(0, 1), (50, 7), (100, 15)] {
            let pool = pool_of(ClusterSettings { retries_max: 1, retry_percent, ..bare.clone() });
            let _requests: Vec<_> = (0..15).map(|_| pool.enter_request()).collect();
            let retries: Vec<_> = (0..20).map_while(|_| pool.enter_retry(&worker)).collect();
            assert_eq!(retries.len(), allowed, "{retry_percent} %");
        }
    }
}
