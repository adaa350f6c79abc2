//! What an endpoint carries, and how much of it it may.
//!
//! Owns: the counts of connections and requests, and the endpoint's own limits. Refuses to know: who counts, and what
//! waits. Keeps: a count that has a limit never exceeds it, over all threads; what is counted is uncounted once.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::EndpointState;

/// What is counted and limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadKind {
    /// Connections, pooled ones included.
    Connection,
    /// HTTP requests in flight.
    Request,
}

impl LoadKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Connection, Self::Request];
}

/// The limits of one endpoint; `None` if those apply that the cluster sets for each of its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointLimits {
    /// Concurrent connections, over all workers.
    pub connections: Option<NonZeroU64>,
    /// Concurrent requests, over all workers.
    pub requests: Option<NonZeroU64>,
}

impl EndpointLimits {
    /// The limits of two entries together.
    pub(super) fn plus(self, other: Self) -> Self {
        let sum = |one: Option<NonZeroU64>, two: Option<NonZeroU64>| match (one, two) {
            (Some(one), Some(two)) => Some(one.saturating_add(two.get())),
            (one, two) => one.or(two),
        };
        Self {
            connections: sum(self.connections, other.connections),
            requests: sum(self.requests, other.requests),
        }
    }
}

/// The counts of an endpoint.
#[derive(Debug, Default)]
pub(super) struct EndpointLoad {
    connections: AtomicU64,
    /// The part of the connections that is pooled; the requests that those carry count instead.
    pooled: AtomicU64,
    requests: AtomicU64,
}

/// The limits of an endpoint that are its own, and what waits for it.
#[derive(Debug, Default)]
pub(super) struct EndpointQueueing {
    connections: LoadQueueing,
    requests: LoadQueueing,
}

#[derive(Debug, Default)]
struct LoadQueueing {
    /// The endpoint's own limit; 0 if it has none.
    max: AtomicU64,
    /// What waits for this endpoint and no other.
    waiting: AtomicU64,
}

impl EndpointQueueing {
    const fn of(&self, load: LoadKind) -> &LoadQueueing {
        match load {
            LoadKind::Connection => &self.connections,
            LoadKind::Request => &self.requests,
        }
    }
}

/// Counts one more, unless that exceeds `max`.
pub(crate) fn count_below(count: &AtomicU64, max: Option<u64>) -> bool {
    let Some(max) = max else {
        count.fetch_add(1, Relaxed);
        return true;
    };
    count.fetch_update(Relaxed, Relaxed, |count| (count < max).then_some(count + 1)).is_ok()
}

impl EndpointState {
    const fn count_of(&self, load: LoadKind) -> &AtomicU64 {
        match load {
            LoadKind::Connection => &self.load.connections,
            LoadKind::Request => &self.load.requests,
        }
    }

    /// Sets the endpoint's own limits.
    pub(crate) fn set_limits(&self, limits: EndpointLimits) {
        if limits == EndpointLimits::default() && self.extras.get().is_none() {
            return;
        }
        let queueing = &self.extras.made().queueing;
        let value = |max: Option<NonZeroU64>| max.map_or(0, NonZeroU64::get);
        queueing.connections.max.store(value(limits.connections), Relaxed);
        queueing.requests.max.store(value(limits.requests), Relaxed);
    }

    /// Current connections.
    pub fn active(&self) -> u64 {
        self.in_use(LoadKind::Connection)
    }

    /// Requests in flight.
    pub fn requests(&self) -> u64 {
        self.in_use(LoadKind::Request)
    }

    /// The count of `load`.
    pub fn in_use(&self, load: LoadKind) -> u64 {
        self.count_of(load).load(Relaxed)
    }

    /// The limit of `load`: the endpoint's own, or `usual`.
    pub fn limit_of(&self, load: LoadKind, usual: Option<u64>) -> Option<u64> {
        let own = self.extras.get().map_or(0, |extras| extras.queueing.of(load).max.load(Relaxed));
        if own == 0 { usual } else { Some(own) }
    }

    /// The current load, as balancers weigh it: relayed connections plus requests.
    pub fn load(&self) -> u64 {
        let relayed = self.active().saturating_sub(self.load.pooled.load(Relaxed));
        relayed + self.requests()
    }

    /// Counts one more of `load`, unless that exceeds `max`; what is entered must be left.
    pub(crate) fn enter(&self, load: LoadKind, max: Option<u64>) -> bool {
        count_below(self.count_of(load), max)
    }

    /// Counts one less of `load`.
    pub(crate) fn leave(&self, load: LoadKind) {
        self.count_of(load).fetch_sub(1, Relaxed);
    }

    /// Notes that a connection that was entered is pooled.
    pub(crate) fn enter_pooled(&self) {
        self.load.pooled.fetch_add(1, Relaxed);
    }

    /// Notes that a pooled connection will be left.
    pub(crate) fn leave_pooled(&self) {
        self.load.pooled.fetch_sub(1, Relaxed);
    }

    /// What waits for this endpoint and no other.
    pub fn waiting(&self, load: LoadKind) -> u64 {
        self.extras.get().map_or(0, |extras| extras.queueing.of(load).waiting.load(Relaxed))
    }

    /// Counts one more that waits for this endpoint and no other; what is begun must be ended.
    pub(crate) fn begin_wait(&self, load: LoadKind) {
        self.extras.made().queueing.of(load).waiting.fetch_add(1, Relaxed);
    }

    /// Counts one less.
    pub(crate) fn end_wait(&self, load: LoadKind) {
        self.extras.made().queueing.of(load).waiting.fetch_sub(1, Relaxed);
    }
}

/// Something that is counted for a test until it is dropped.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct CountedLoad(std::sync::Arc<EndpointState>, LoadKind);

#[cfg(test)]
impl Drop for CountedLoad {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

#[cfg(test)]
impl EndpointState {
    pub(crate) fn lease(self: &std::sync::Arc<Self>) -> CountedLoad {
        self.enter(LoadKind::Connection, None);
        CountedLoad(std::sync::Arc::clone(self), LoadKind::Connection)
    }

    pub(crate) fn lease_request(self: &std::sync::Arc<Self>) -> CountedLoad {
        self.enter(LoadKind::Request, None);
        CountedLoad(std::sync::Arc::clone(self), LoadKind::Request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Target;

    #[test]
    fn a_count_keeps_to_its_limit_over_all_threads() {
        let count = AtomicU64::new(0);
        let entered = || (0..500).filter(|_| count_below(&count, Some(700))).count();
        let entered: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(entered)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!((entered, count.load(Relaxed)), (700, 700));
        assert!(!count_below(&count, Some(0)));
        assert!(count_below(&count, None));
    }

    #[test]
    fn an_endpoint_has_its_own_limits_or_the_usual_ones() {
        let endpoint = EndpointState::new(Target::Unix("/e".into()), None);
        let limits = || LoadKind::ALL.map(|load| endpoint.limit_of(load, Some(9)));
        assert_eq!(limits(), [Some(9), Some(9)]);
        endpoint.set_limits(EndpointLimits { connections: NonZeroU64::new(3), requests: None });
        assert_eq!(limits(), [Some(3), Some(9)]);
        endpoint.set_limits(EndpointLimits::default());
        assert_eq!(limits(), [Some(9), Some(9)]);
    }
}
