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
use crate::plan::{BreakerClass, QueuePlan};

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

    /// Its key in `limits`, and the value of the metric label `limit`. Limits of single endpoints, of the queue and of
    /// hosts are the same for both classes.
    pub const fn word(self, class: BreakerClass) -> &'static str {
        match (self, class) {
            (Self::ConnectionsPerEndpoint, _) => "connections_per_endpoint",
            (Self::RequestsPerEndpoint, _) => "requests_per_endpoint",
            (Self::Queue, _) => "queue",
            (Self::ForwardHosts, _) => "forward_hosts",
            (Self::ForwardLookups, _) => "forward_lookups",
            (Self::Connections, BreakerClass::Default) => "connections",
            (Self::Connections, BreakerClass::High) => "high.connections",
            (Self::Requests, BreakerClass::Default) => "requests",
            (Self::Requests, BreakerClass::High) => "high.requests",
            (Self::Pending, BreakerClass::Default) => "pending",
            (Self::Pending, BreakerClass::High) => "high.pending",
            (Self::Retries, BreakerClass::Default) => "retries",
            (Self::Retries, BreakerClass::High) => "high.retries",
        }
    }
}

/// The state of a limit of a whole cluster, a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// The name of the limit, as `limits` has it.
    pub limit: &'static str,
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

/// What one class uses of a cluster.
#[derive(Debug, Default)]
pub(super) struct ClassCounts {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
    /// Requests that wait for a connection.
    pending: Arc<WorkerCounts>,
    /// Retries in flight.
    retries: Arc<WorkerCounts>,
}

impl WorkerCounts {
    fn breaker(&self, limit: &'static str, each: u64) -> Option<Breaker> {
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

    /// What the other workers use.
    pub fn used_elsewhere(&self) -> u64 {
        self.counts.used.load(Relaxed).saturating_sub(self.used.get())
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
    /// What `class` uses.
    pub(super) const fn counts_of(&self, class: BreakerClass) -> &ClassCounts {
        match class {
            BreakerClass::Default => &self.counts,
            BreakerClass::High => &self.high,
        }
    }

    /// The state of every limit of the whole cluster that is set; those on waiting requests and retries once a worker
    /// sends requests to the cluster. `reserve_percent` is the limit `side_call_reserve_percent`.
    pub fn breakers(&self, reserve_percent: u64) -> Vec<Breaker> {
        let plan = self.peek_plan();
        let reserves = self.reserves.load(Relaxed);
        let shared = |limit: BreakerLimit, load, class| {
            let open = |max| match class {
                BreakerClass::Default if reserves => max - reserved(max, reserve_percent),
                BreakerClass::Default | BreakerClass::High => max,
            };
            let (max, used) = (plan.limit_of(load, class).map(open)?, self.in_use(load, class));
            Some(Breaker { limit: limit.word(class), max, used, open: used >= max })
        };
        let hosts = plan.forward.as_ref().map(|forward| {
            let (max, used) = (forward.hosts_max as u64, self.names().len() as u64);
            let limit = BreakerLimit::ForwardHosts.word(BreakerClass::Default);
            Breaker { limit, max, used, open: used >= max }
        });
        let of_class = |class| {
            let (counts, word) = (self.counts_of(class), |limit: BreakerLimit| limit.word(class));
            [
                shared(BreakerLimit::Connections, LoadKind::Connection, class),
                shared(BreakerLimit::Requests, LoadKind::Request, class),
                counts.pending.breaker(word(BreakerLimit::Pending), plan.pending_of(class)),
                counts.retries.breaker(word(BreakerLimit::Retries), plan.retries_of(class).0),
            ]
        };
        let queue = plan.queue.map(|QueuePlan { size: max, .. }| {
            let (limit, used) = (BreakerLimit::Queue.word(BreakerClass::Default), self.waiting());
            Breaker { limit, max, used, open: used >= max }
        });
        let breakers = BreakerClass::ALL.map(of_class).into_iter().flatten().chain([queue]);
        [hosts].into_iter().chain(breakers).flatten().collect()
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
    pub fn pending_share(&self, class: BreakerClass) -> WorkerShare {
        WorkerShare::new(&self.counts_of(class).pending)
    }

    /// A worker's share of the limit on retries.
    pub fn retry_share(&self, class: BreakerClass) -> WorkerShare {
        WorkerShare::new(&self.counts_of(class).retries)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use sluice_core::Clock;
    use sluice_io::WorkerCx;

    use super::super::tests::{member, plan};
    use super::super::{Affinity, ClusterHandle, TrafficClass, Tried, WhenFull};
    use super::*;
    use crate::plan::{ClusterPlan, ClusterSettings, HighLimits};
    use crate::reasons;

    const DEFAULT: BreakerClass = BreakerClass::Default;

    fn shown(cluster: &Cluster) -> Vec<(&'static str, u64, u64, u64, bool)> {
        let shown = |of: Breaker| (of.limit, of.max, of.used, of.left(), of.open);
        cluster.breakers(10).into_iter().map(shown).collect()
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
    fn requests_with_high_priority_have_limits_of_their_own() {
        let worker = WorkerCx::solitary(Clock::held());
        let bare = ClusterSettings::clone(&ClusterSettings::bare());
        let high = HighLimits { connections_max: Some(1), requests_max: Some(2), ..bare.high };
        let settings = ClusterSettings { requests_max: Some(1), high, ..bare };
        let plan = ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None };
        let cluster = Arc::new(Cluster::new(Arc::new(plan)));
        cluster.publish(&[member(1)]);
        cluster.reserve_for_side_calls();
        let of = |class| ClusterHandle::of_class(Arc::clone(&cluster), class, &worker);
        let request = |handle: &Rc<ClusterHandle>| {
            let (affinity, tried) = (Affinity::default(), Tried::NOTHING);
            let class = TrafficClass::Request;
            handle.pick_for_request(&worker, class, affinity, tried, WhenFull::Refuse)
        };
        let (default, high) = (of(DEFAULT), of(BreakerClass::High));
        let held = [request(&default).unwrap(), request(&high).unwrap(), request(&high).unwrap()];
        for handle in [&default, &high] {
            assert_eq!(request(handle).map(drop), Err(reasons::LIMIT));
        }
        let text = |handle: &ClusterHandle| handle.shortage(reasons::LIMIT).unwrap().into_string();
        assert_eq!(text(&default), "the cluster is at `limits.requests` (1)");
        assert_eq!(text(&high), "the cluster is at `limits.high.requests` (2)");
        assert_eq!(
            shown(&cluster),
            [
                ("requests", 1, 1, 0, true),
                ("high.connections", 1, 0, 1, false),
                ("high.requests", 2, 2, 0, true)
            ]
        );
        assert_eq!(cluster.requests(), 3);
        drop(held);
        assert_eq!(cluster.requests(), 0);
        let endpoint = Arc::clone(&cluster.members().endpoints[0]);
        let pooled = high.claim_shared(TrafficClass::Request, &endpoint).unwrap();
        assert!(high.claim_shared(TrafficClass::Request, &endpoint).is_err());
        assert!(default.claim_shared(TrafficClass::Request, &endpoint).is_ok());
        drop(pooled);
        assert_eq!(cluster.active(), 0);
    }

    #[test]
    fn limits_of_workers_are_added_up_and_open_if_one_is_full() {
        let bare = ClusterSettings::clone(&ClusterSettings::bare());
        let settings = Arc::new(ClusterSettings { pending_max: 2, retries_max: 0, ..bare });
        let plan = ClusterPlan { name: "c".into(), settings, tls: None };
        let cluster = Cluster::new(Arc::new(plan));
        let (one, other) = (cluster.pending_share(DEFAULT), cluster.pending_share(DEFAULT));
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
        let _retries = cluster.retry_share(DEFAULT);
        assert_eq!(shown(&cluster), [("retries", 0, 0, 0, true)], "a limit of 0 refuses all");
    }
}
