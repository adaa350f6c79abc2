//! The circuit breakers of a cluster: what its limits leave, over all workers.
//!
//! Owns: the names of the limits, and the counts of those that each worker keeps to on its own. Refuses to know: what is
//! done with a connection or request that a limit refuses. Keeps: nothing is counted that has no limit; what a worker
//! counted is uncounted when its share is dropped.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Cluster;
use super::claim::LimitReached;
use super::reserve::reserved;
use crate::endpoint::{EndpointState, LoadKind};
use crate::plan::QueuePlan;

/// A limit of a cluster, as `limits` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerLimit {
    /// Connections.
    Connections,
    /// Connections to one endpoint.
    ConnectionsPerEndpoint,
    /// Requests in flight.
    Requests,
    /// Requests in flight to one endpoint.
    RequestsPerEndpoint,
    /// Requests that wait for a connection, per worker.
    Pending,
    /// Retries in flight, per worker.
    Retries,
    /// Connections and requests that wait for an endpoint.
    Queue,
    /// Hosts that clients have named: `forward.max_hosts`.
    ForwardHosts,
    /// Connections and requests that wait for the look-up of a host that a client named.
    ForwardLookups,
}

impl BreakerLimit {
    /// The limit of `load` that is reached.
    pub(super) const fn of(load: LoadKind, reached: LimitReached) -> Self {
        match (load, reached) {
            (LoadKind::Connection, LimitReached::Cluster) => Self::Connections,
            (LoadKind::Connection, LimitReached::Endpoint) => Self::ConnectionsPerEndpoint,
            (LoadKind::Request, LimitReached::Cluster) => Self::Requests,
            (LoadKind::Request, LimitReached::Endpoint) => Self::RequestsPerEndpoint,
        }
    }

    /// Its key in `limits`, and the value of the metric label `limit`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerEndpoint => "connections_per_endpoint",
            Self::Requests => "requests",
            Self::RequestsPerEndpoint => "requests_per_endpoint",
            Self::Pending => "pending",
            Self::Retries => "retries",
            Self::Queue => "queue",
            Self::ForwardHosts => "forward_hosts",
            Self::ForwardLookups => "forward_lookups",
        }
    }
}

/// The state of a limit of a whole cluster, a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Which limit.
    pub limit: BreakerLimit,
    /// Its value, for all workers together; without the part that is reserved for side calls.
    pub max: u64,
    /// What is in use.
    pub used: u64,
    /// Whether it refuses the next: on any worker, if each keeps to it on its own.
    pub open: bool,
}

impl Breaker {
    /// What may still be used.
    pub const fn left(&self) -> u64 {
        self.max.saturating_sub(self.used)
    }
}

/// What all workers use of a limit that each of them keeps to on its own.
#[derive(Debug, Default)]
pub(super) struct WorkerCounts {
    workers: AtomicU64,
    used: AtomicU64,
    /// Workers that have reached the limit.
    full: AtomicU64,
}

impl WorkerCounts {
    fn breaker(&self, limit: BreakerLimit, each: u64) -> Option<Breaker> {
        let workers = self.workers.load(Relaxed);
        (workers > 0).then(|| Breaker {
            limit,
            max: each.saturating_mul(workers),
            used: self.used.load(Relaxed),
            open: each == 0 || self.full.load(Relaxed) > 0,
        })
    }
}

/// What one worker uses of a limit that it keeps to on its own.
#[derive(Debug)]
pub struct WorkerShare {
    counts: Arc<WorkerCounts>,
    used: Cell<u64>,
    full: Cell<bool>,
}

impl WorkerShare {
    pub(super) fn new(counts: &Arc<WorkerCounts>) -> Self {
        counts.workers.fetch_add(1, Relaxed);
        Self { counts: Arc::clone(counts), used: Cell::new(0), full: Cell::new(false) }
    }

    /// What the worker uses.
    pub const fn used(&self) -> u64 {
        self.used.get()
    }

    /// Counts one more, under the limit `max`; what is entered must be left.
    pub fn enter(&self, max: u64) {
        self.used.set(self.used.get() + 1);
        self.counts.used.fetch_add(1, Relaxed);
        self.note_full(self.used.get() >= max);
    }

    /// Counts one less, under the limit `max`.
    pub fn leave(&self, max: u64) {
        self.used.set(self.used.get() - 1);
        self.counts.used.fetch_sub(1, Relaxed);
        self.note_full(self.used.get() > 0 && self.used.get() >= max);
    }

    fn note_full(&self, full: bool) {
        match (self.full.replace(full), full) {
            (false, true) => _ = self.counts.full.fetch_add(1, Relaxed),
            (true, false) => _ = self.counts.full.fetch_sub(1, Relaxed),
            _ => {}
        }
    }
}

impl Drop for WorkerShare {
    fn drop(&mut self) {
        self.note_full(false);
        self.counts.used.fetch_sub(self.used.get(), Relaxed);
        self.counts.workers.fetch_sub(1, Relaxed);
    }
}

impl Cluster {
    /// The state of every limit of the whole cluster that is set; those on waiting requests and retries once a worker
    /// sends requests to the cluster. `reserve_percent` is the limit `side_call_reserve_percent`.
    pub fn breakers(&self, reserve_percent: u64) -> impl Iterator<Item = Breaker> + use<> {
        let plan = self.peek_plan();
        let reserves = self.reserves.load(Relaxed);
        let shared = |limit, max: Option<u64>, used: u64| {
            max.map(|max| {
                let max = if reserves { max - reserved(max, reserve_percent) } else { max };
                Breaker { limit, max, used, open: used >= max }
            })
        };
        let hosts = plan.forward.as_ref().map_or(0, |_| self.names().len() as u64);
        let hosts_max = plan.forward.as_ref().map(|forward| forward.hosts_max as u64);
        let breakers = [
            shared(BreakerLimit::ForwardHosts, hosts_max, hosts),
            shared(BreakerLimit::Connections, plan.connections_max, self.active()),
            shared(BreakerLimit::Requests, plan.requests_max, self.requests()),
            self.pending.breaker(BreakerLimit::Pending, plan.pending_max),
            self.retries.breaker(BreakerLimit::Retries, plan.retries_max),
            plan.queue.map(|QueuePlan { size: max, .. }| {
                let used = self.waiting();
                Breaker { limit: BreakerLimit::Queue, max, used, open: used >= max }
            }),
        ];
        breakers.into_iter().flatten()
    }

    /// The number of endpoints that are at a limit of theirs; `None` if none of them has one.
    pub fn full_endpoints(&self) -> Option<u64> {
        let (plan, members) = (self.peek_plan(), self.members());
        let limit =
            |load, endpoint: &EndpointState| endpoint.limit_of(load, plan.endpoint_limit_of(load));
        let (mut limited, mut full) = (false, 0);
        for endpoint in &*members.endpoints {
            let is_full = |load| {
                limit(load, endpoint).is_some_and(|max| {
                    limited = true;
                    endpoint.in_use(load) >= max
                })
            };
            full += u64::from(LoadKind::ALL.map(is_full).contains(&true));
        }
        limited.then_some(full)
    }

    /// A worker's share of the limit on requests that wait for a connection.
    pub fn pending_share(&self) -> WorkerShare {
        WorkerShare::new(&self.pending)
    }

    /// A worker's share of the limit on retries.
    pub fn retry_share(&self) -> WorkerShare {
        WorkerShare::new(&self.retries)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan;
    use super::*;
    use crate::plan::{ClusterPlan, ClusterSettings};

    fn shown(cluster: &Cluster) -> Vec<(&'static str, u64, u64, u64, bool)> {
        let shown = |of: Breaker| (of.limit.word(), of.max, of.used, of.left(), of.open);
        cluster.breakers(10).map(shown).collect()
    }

    #[test]
    fn limits_that_are_not_set_are_not_shown() {
        assert_eq!(shown(&Cluster::new(Arc::new(plan(None)))), []);
        let cluster = Cluster::new(Arc::new(plan(Some(20))));
        assert_eq!(shown(&cluster), [("connections", 20, 0, 20, false)]);
        cluster.reserve_for_side_calls();
        assert_eq!(shown(&cluster), [("connections", 18, 0, 18, false)]);
    }

    #[test]
    fn limits_of_workers_are_added_up_and_open_if_one_is_full() {
        let bare = ClusterSettings::clone(&ClusterSettings::bare());
        let settings = Arc::new(ClusterSettings { pending_max: 2, retries_max: 0, ..bare });
        let plan = ClusterPlan { name: "c".into(), settings, tls: None };
        let cluster = Cluster::new(Arc::new(plan));
        let (one, other) = (cluster.pending_share(), cluster.pending_share());
        assert_eq!(shown(&cluster), [("pending", 4, 0, 4, false)]);
        one.enter(2);
        other.enter(2);
        assert_eq!(shown(&cluster), [("pending", 4, 2, 2, false)]);
        one.enter(2);
        assert_eq!(shown(&cluster), [("pending", 4, 3, 1, true)]);
        one.leave(2);
        assert_eq!(shown(&cluster), [("pending", 4, 2, 2, false)]);
        drop(other);
        assert_eq!(shown(&cluster), [("pending", 2, 1, 1, false)]);
        one.enter(2);
        drop(one);
        assert_eq!(shown(&cluster), []);
        let _retries = cluster.retry_share();
        assert_eq!(shown(&cluster), [("retries", 0, 0, 0, true)], "a limit of 0 refuses all");
    }
}
