//! A worker's handle to a cluster: picks and claims.
//!
//! Owns: the worker's positions in the cluster's sequences, its counters, and the claims on endpoints. Refuses to know: how
//! membership is determined, and which endpoint is best. Keeps: every claim is given back when it is dropped; a pick
//! keeps to the limits of the cluster.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sluice_core::Reason;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_telemetry::metrics::other;
use sluice_telemetry::{Counter, CounterSet, Gauge, Histogram};
use smallvec::SmallVec;

use super::affinity::Affinity;
use super::breakers::BreakerLimit;
use super::reserve::{TrafficClass, reserved};
use super::{Cluster, Membership};
use crate::endpoint::{EndpointState, Lease, LeftEndpoints, RequestLease};
use crate::metrics;
use crate::reasons;

mod choose;

/// A worker's handle to a cluster: its position in the sequence and its metrics.
#[derive(Debug)]
pub struct ClusterHandle {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    reserve_percent: u64,
    turns: Turns,
    pub(crate) made: Counter,
    open: Gauge,
    pub(crate) connect_time: Histogram,
    failures: CounterSet<Reason>,
    sessions: CounterSet<&'static str>,
    subset_picks: CounterSet<&'static str>,
    refusals: CounterSet<BreakerLimit>,
    pub(super) fallbacks: OnceCell<Counter>,
    denials: OnceCell<Counter>,
    /// The handle of the cluster that last served in place of this one.
    pub(super) next: RefCell<Option<Rc<Self>>>,
    per_endpoint: CounterSet<Arc<str>>,
    /// The version of the membership that `per_endpoint` was last compared with.
    compared: Cell<u64>,
}

/// A worker's positions in the sequences of a cluster, by number. Most clusters have one.
#[derive(Debug, Default)]
struct Turns {
    first: Cell<usize>,
    others: RefCell<Vec<usize>>,
}

impl Turns {
    const fn starting_at(position: usize) -> Self {
        Self { first: Cell::new(position), others: RefCell::new(Vec::new()) }
    }

    /// The position of this number, and the next for the next time.
    fn take(&self, number: usize) -> usize {
        let Some(place) = number.checked_sub(1) else {
            return self.first.replace(self.first.get().wrapping_add(1));
        };
        let mut others = self.others.borrow_mut();
        if others.len() <= place {
            // Any position will do to begin with.
            others.resize(place + 1, self.first.get());
        }
        let position = &mut others[place];
        *position = position.wrapping_add(1);
        *position
    }
}

/// What a pick passes over because an attempt there has failed.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    endpoints: &'a [Arc<str>],
    /// Whether their priorities are passed over as well.
    priorities: bool,
}

impl<'a> Tried<'a> {
    /// Nothing has been tried.
    pub const NOTHING: Self = Self { endpoints: &[], priorities: false };

    /// These endpoints.
    pub const fn endpoints(endpoints: &'a [Arc<str>]) -> Self {
        Self { endpoints, priorities: false }
    }

    /// All endpoints of the priorities of these.
    pub const fn priorities_of(endpoints: &'a [Arc<str>]) -> Self {
        Self { endpoints, priorities: true }
    }

    /// The priorities that are passed over.
    fn priorities_in(self, members: &Membership) -> SmallVec<[u32; 4]> {
        let mut priorities = SmallVec::new();
        if self.priorities {
            let all = members.endpoints.iter().zip(&*members.traits);
            for (_, traits) in all.filter(|(it, _)| self.endpoints.contains(&it.name)) {
                if !priorities.contains(&traits.priority) {
                    priorities.push(traits.priority);
                }
            }
        }
        priorities
    }
}

/// A request's claim on its cluster and endpoint.
#[derive(Debug)]
pub struct RequestClaim {
    handle: Rc<ClusterHandle>,
    /// Whether the cluster counts it.
    counts: bool,
    _lease: RequestLease,
}

impl Drop for RequestClaim {
    fn drop(&mut self) {
        if self.counts {
            self.handle.cluster.requests.fetch_sub(1, Relaxed);
        }
    }
}

/// A picked endpoint: a claim on it and on the cluster.
#[derive(Debug)]
pub struct Claim {
    lease: Lease,
    handle: Rc<ClusterHandle>,
}

impl Claim {
    /// The endpoint.
    pub const fn endpoint(&self) -> &Arc<EndpointState> {
        self.lease.endpoint()
    }

    /// The cluster.
    pub const fn handle(&self) -> &Rc<ClusterHandle> {
        &self.handle
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.lease.is_shared() {
            self.handle.cluster.shared.fetch_sub(1, Relaxed);
        }
        self.handle.cluster.active.fetch_sub(1, Relaxed);
        self.handle.open.decrement();
    }
}

impl ClusterHandle {
    /// Creates the handle of `worker`.
    pub fn new(cluster: Arc<Cluster>, worker: &WorkerCx) -> Rc<Self> {
        let labels = [&*cluster.name];
        let shard = &worker.shard;
        Rc::new(Self {
            turns: Turns::starting_at(worker.random_below(1 << 16)),
            made: shard.counter(&metrics::CONNECTIONS, &labels),
            open: shard.gauge(&metrics::ACTIVE, &labels),
            connect_time: shard.histogram(&metrics::CONNECT_TIME, &labels),
            failures: CounterSet::default(),
            sessions: CounterSet::default(),
            subset_picks: CounterSet::default(),
            refusals: CounterSet::default(),
            fallbacks: OnceCell::new(),
            denials: OnceCell::new(),
            next: RefCell::default(),
            per_endpoint: CounterSet::bounded(worker.limits.size(Limit::EndpointSeries), |_| {
                other()
            }),
            compared: Cell::new(0),
            reserve_percent: worker.limits.get(Limit::SideCallReserve),
            cluster,
        })
    }

    /// Picks an endpoint that is not in `tried`, and claims it for a connection.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn pick(
        self: &Rc<Self>,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
        tried: &[Arc<str>],
    ) -> Result<Claim, Reason> {
        let plan = self.cluster.plan.load();
        let open = |max| self.open_to(TrafficClass::Request, max);
        if plan.connections_max.is_some_and(|max| self.cluster.active() >= open(max)) {
            return Err(self.refused(worker, BreakerLimit::Connections));
        }
        let full = |endpoint: &EndpointState| {
            plan.endpoint_connections_max.is_some_and(|max| endpoint.active() >= open(max))
        };
        let choice = self.choose(worker, affinity, Tried::endpoints(tried), &full);
        let endpoint = choice.inspect_err(|why| {
            if *why == reasons::LIMIT {
                self.count_refusal(worker, BreakerLimit::ConnectionsPerEndpoint);
            }
        })?;
        Ok(self.claim(endpoint.lease()))
    }

    /// Picks an endpoint for one datagram and claims nothing: the flow that carries it may exist already, which a limit on
    /// connections is no reason to pass over.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn pick_for_datagram(
        &self,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
    ) -> Result<Arc<EndpointState>, Reason> {
        self.choose(worker, affinity, Tried::NOTHING, &|_| false)
    }

    /// Claims an endpoint that was picked for a datagram, for the flow that begins with it.
    ///
    /// # Errors
    /// The cluster or the endpoint has as many connections as it may.
    pub fn claim_picked(
        self: &Rc<Self>,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
    ) -> Result<Claim, Reason> {
        let class = TrafficClass::Request;
        if self.is_full(class, endpoint) {
            return Err(self.refused(worker, self.connection_limit(class)));
        }
        Ok(self.claim(endpoint.lease()))
    }

    /// Whether the cluster or an endpoint has as many connections as `class` may have.
    fn is_full(&self, class: TrafficClass, endpoint: &EndpointState) -> bool {
        let plan = self.cluster.plan.load();
        let open = |max| self.open_to(class, max);
        plan.connections_max.is_some_and(|max| self.cluster.active() >= open(max))
            || plan.endpoint_connections_max.is_some_and(|max| endpoint.active() >= open(max))
    }

    /// Whether the cluster has an endpoint of that name.
    pub fn has_member(&self, name: &str) -> bool {
        self.cluster.members.load().named(name).is_some()
    }

    /// Claims a member by its name, bypassing the balancer: for a flow that goes there already.
    pub fn claim_member(self: &Rc<Self>, name: &str) -> Option<Claim> {
        Some(self.claim(self.cluster.members.load().named(name)?.lease()))
    }

    /// Picks an endpoint that was not `tried`, and claims it for a request.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn pick_for_request(
        self: &Rc<Self>,
        worker: &WorkerCx,
        class: TrafficClass,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
    ) -> Result<(Arc<EndpointState>, RequestClaim), Reason> {
        let plan = self.cluster.plan.load();
        let counts = plan.requests_max.is_some() || plan.balancing.balance.load_max().is_some();
        let open = |max| self.open_to(class, max);
        let refused = |limit| {
            // A caller that excludes endpoints picks again without them, which counts.
            if tried.endpoints.is_empty() {
                self.count_refusal(worker, limit);
            }
            reasons::LIMIT
        };
        if plan.requests_max.is_some_and(|max| self.cluster.requests() >= open(max)) {
            return Err(refused(BreakerLimit::Requests));
        }
        let full = |endpoint: &EndpointState| {
            plan.endpoint_requests_max.is_some_and(|max| endpoint.requests() >= open(max))
        };
        let endpoint = self.choose(worker, affinity, tried, &full).inspect_err(|why| {
            if *why == reasons::LIMIT {
                refused(BreakerLimit::RequestsPerEndpoint);
            }
        })?;
        let claim = self.claim_request(&endpoint, counts);
        Ok((endpoint, claim))
    }

    /// Claims `endpoint` for a request, which the cluster `counts` or not.
    pub(super) fn claim_request(
        self: &Rc<Self>,
        endpoint: &Arc<EndpointState>,
        counts: bool,
    ) -> RequestClaim {
        if counts {
            self.cluster.requests.fetch_add(1, Relaxed);
        }
        RequestClaim { handle: Rc::clone(self), counts, _lease: endpoint.lease_request() }
    }

    /// Claims `endpoint` for a pooled connection, which carries the requests of many clients.
    ///
    /// # Errors
    /// The cluster or the endpoint has as many connections as it may.
    pub fn claim_shared(
        self: &Rc<Self>,
        class: TrafficClass,
        endpoint: &Arc<EndpointState>,
    ) -> Result<Claim, Reason> {
        if self.is_full(class, endpoint) {
            return Err(reasons::LIMIT);
        }
        Ok(self.claim(endpoint.lease_shared()))
    }

    /// Which limit refuses connections of `class`.
    pub fn connection_limit(&self, class: TrafficClass) -> BreakerLimit {
        let max = self.cluster.peek_plan().connections_max;
        let full = max.is_some_and(|max| self.cluster.active() >= self.open_to(class, max));
        if full { BreakerLimit::Connections } else { BreakerLimit::ConnectionsPerEndpoint }
    }

    /// The part of the limit `max` that is open to `class`.
    pub fn open_to(&self, class: TrafficClass, max: u64) -> u64 {
        match class {
            TrafficClass::Request if self.cluster.reserves.load(Relaxed) => {
                max - reserved(max, self.reserve_percent)
            }
            TrafficClass::Request | TrafficClass::SideCall => max,
        }
    }

    pub(super) fn claim(self: &Rc<Self>, lease: Lease) -> Claim {
        if lease.is_shared() {
            self.cluster.shared.fetch_add(1, Relaxed);
        }
        self.cluster.active.fetch_add(1, Relaxed);
        self.open.increment();
        Claim { lease, handle: Rc::clone(self) }
    }

    fn refused(&self, worker: &WorkerCx, limit: BreakerLimit) -> Reason {
        self.count_refusal(worker, limit);
        reasons::LIMIT
    }

    /// Counts that `limit` refused a connection, a request or a retry.
    pub fn count_refusal(&self, worker: &WorkerCx, limit: BreakerLimit) {
        self.refusals.count(&limit, |limit| {
            let labels = [&*self.cluster.name, limit.word()];
            worker.shard.counter(&metrics::BREAKER_REFUSALS, &labels)
        });
    }

    /// Counts that the egress policy denied an address.
    pub(crate) fn count_denial(&self, worker: &WorkerCx) {
        let new = || worker.shard.counter(&metrics::EGRESS_DENIALS, &[&self.cluster.name]);
        self.denials.get_or_init(new).increment();
    }

    /// Counts a failed attempt.
    pub(crate) fn count_failure(&self, worker: &WorkerCx, why: Reason) {
        self.failures.count(&why, |why| {
            worker.shard.counter(&metrics::FAILURES, &[&self.cluster.name, why.code()])
        });
    }

    /// Counts a connection to `endpoint`, in a series of its own while there are few.
    pub(crate) fn count_endpoint(&self, worker: &WorkerCx, endpoint: &Arc<str>) {
        if !self.per_endpoint.contains(endpoint) {
            self.forget_those_who_left();
        }
        self.per_endpoint.count(endpoint, |endpoint| {
            worker.shard.counter(&metrics::ENDPOINT_CONNECTIONS, &[&self.cluster.name, endpoint])
        });
    }

    /// Makes room for new endpoints, once per membership.
    fn forget_those_who_left(&self) {
        let members = self.cluster.members.load();
        if self.compared.replace(members.version) != members.version {
            let names: HashSet<&Arc<str>> =
                members.endpoints.iter().map(|endpoint| &endpoint.name).collect();
            self.per_endpoint.retain(|endpoint| names.contains(endpoint));
        }
    }

    /// Drops the counters of endpoints that left.
    pub fn forget_endpoints(&self, left: &LeftEndpoints) {
        self.per_endpoint.retain(|endpoint| !left.contains(endpoint));
    }
}
