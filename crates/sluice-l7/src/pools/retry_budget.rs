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
        // The limit, or a fifth of the requests in flight if that is more.
        let max = self.handle.cluster.peek_plan().retries_max.max(self.requests.get() / 5);
        if self.retries.get() >= max {
            self.counters.retry_refused.increment();
            return None;
        }
        self.counters.retried.increment();
        self.retries.set(self.retries.get() + 1);
        Some(InFlightGuard { pool: Rc::clone(self), retry: true })
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
