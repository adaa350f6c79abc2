//! A worker's handle to a cluster: picks and claims.
//!
//! Owns: the worker's positions in the cluster's sequences, its counters, and the claims on endpoints. Refuses to know: how
//! membership is determined, and which endpoint is best. Keeps: every claim is given back when it is dropped; a pick
//! keeps to the limits of the cluster.

use std::cell::{Cell, OnceCell, Ref, RefCell};
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
use super::claim::{Claim, LimitReached, RequestClaim, TakenRoom};
use super::reserve::{TrafficClass, reserved};
use super::{Cluster, Membership, PlanReader};
use crate::endpoint::{EndpointState, LeftEndpoints, LoadKind};
use crate::metrics;
use crate::plan::{BreakerClass, ClusterPlan};
use crate::published::PublishedView;
use crate::reasons;

mod choose;

/// A worker's handle to a cluster: its position in the sequence and its metrics.
#[derive(Debug)]
pub struct ClusterHandle {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    plan: PlanReader,
    members: PublishedView<Membership>,
    /// Whose limits apply.
    pub class: BreakerClass,
    pub(super) reserve_percent: u64,
    turns: Turns,
    pub(crate) made: Counter,
    pub(super) open: Gauge,
    pub(crate) connect_time: Histogram,
    failures: CounterSet<Reason>,
    pub(super) sessions: CounterSet<&'static str>,
    subset_picks: CounterSet<&'static str>,
    balancer_failures: OnceCell<Counter>,
    pub(crate) load_reports: CounterSet<&'static str>,
    refusals: CounterSet<BreakerLimit>,
    pub(super) queued: CounterSet<&'static str>,
    pub(super) queue_time: OnceCell<Histogram>,
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

    /// The position of this number after `ahead` more.
    fn peek(&self, number: usize, ahead: usize) -> usize {
        let first = self.first.get();
        let next = match number.checked_sub(1) {
            None => first,
            Some(place) => {
                self.others.borrow().get(place).map_or(first, |last| *last).wrapping_add(1)
            }
        };
        next.wrapping_add(ahead)
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

    /// Whether an endpoint of that name was tried.
    pub(super) fn has(self, name: &Arc<str>) -> bool {
        self.endpoints.contains(name)
    }

    /// The endpoints.
    pub(super) const fn names(self) -> &'a [Arc<str>] {
        self.endpoints
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

/// What becomes of a connection or request if everything is at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused.
    Refuse,
    /// If the cluster has a queue, it waits there: the caller calls [`ClusterHandle::wait_for_room`].
    Wait,
}

/// Why a pick found nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct PickRefusal {
    pub(super) why: Reason,
    /// The limit that is reached.
    pub(super) limit: Option<BreakerLimit>,
}

impl ClusterHandle {
    /// Creates the handle of `worker`.
    pub fn new(cluster: Arc<Cluster>, worker: &WorkerCx) -> Rc<Self> {
        Self::of_class(cluster, BreakerClass::Default, worker)
    }

    /// Creates the handle of `worker` for what the limits of `class` apply to.
    pub fn of_class(cluster: Arc<Cluster>, class: BreakerClass, worker: &WorkerCx) -> Rc<Self> {
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
            balancer_failures: OnceCell::new(),
            load_reports: CounterSet::default(),
            refusals: CounterSet::default(),
            queued: CounterSet::default(),
            queue_time: OnceCell::new(),
            fallbacks: OnceCell::new(),
            denials: OnceCell::new(),
            next: RefCell::default(),
            per_endpoint: CounterSet::bounded(worker.limits.size(Limit::EndpointSeries), |_| {
                other()
            }),
            compared: Cell::new(0),
            class,
            reserve_percent: worker.limits.get(Limit::SideCallReserve),
            plan: PlanReader::new(Arc::clone(&cluster)),
            members: PublishedView::new(&cluster.members),
            cluster,
        })
    }

    /// The plan in force, borrowed briefly; not to be held across an await.
    pub fn plan(&self) -> Ref<'_, ClusterPlan> {
        self.plan.get()
    }

    /// Picks an endpoint that is not in `tried`, and claims it for a connection.
    ///
    /// # Errors
    /// The reason why there is none. If it is [`reasons::LIMIT`] and the cluster has a queue, one that waits `when_full`
    /// is not refused yet.
    pub fn pick(
        self: &Rc<Self>,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
        tried: &[Arc<str>],
        when_full: WhenFull,
    ) -> Result<Claim, Reason> {
        let (load, class) = (LoadKind::Connection, TrafficClass::Request);
        if tried.is_empty() {
            self.drop_by_chance(worker).map_err(|(why, _)| why)?;
        }
        let tried = Tried::endpoints(tried);
        let taken = self.take_or_queue(worker, load, class, affinity, tried, when_full);
        let taken = taken.map_err(|refusal| {
            if let Some(limit) = refusal.limit {
                self.count_refusal(worker, limit);
            }
            refusal.why
        })?;
        Ok(self.connection(taken))
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
        self.drop_by_chance(worker).map_err(|(why, _)| why)?;
        let taken = self.take_at(LoadKind::Connection, TrafficClass::Request, endpoint);
        let taken = taken.map_err(|limit| self.refused(worker, limit))?;
        Ok(self.connection(taken))
    }

    /// Whether the cluster has an endpoint of that name.
    pub fn has_member(&self, name: &str) -> bool {
        self.cluster.members.peek().named(name).is_some()
    }

    /// Claims a member by its name, bypassing the balancer: for a flow that goes there already.
    pub fn claim_member(self: &Rc<Self>, name: &str) -> Option<Claim> {
        let endpoint = Arc::clone(self.cluster.members.peek().named(name)?);
        let taken =
            self.cluster.take(LoadKind::Connection, self.class, true, endpoint, (None, None));
        Some(self.connection(taken.ok()?))
    }

    /// Picks an endpoint that was not `tried`, and claims it for a request.
    ///
    /// # Errors
    /// As for [`ClusterHandle::pick`].
    pub fn pick_for_request(
        self: &Rc<Self>,
        worker: &WorkerCx,
        class: TrafficClass,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
        when_full: WhenFull,
    ) -> Result<(Arc<EndpointState>, RequestClaim), Reason> {
        let load = LoadKind::Request;
        let taken = self.take_or_queue(worker, load, class, affinity, tried, when_full);
        let taken = taken.map_err(|refusal| {
            // A caller that excludes endpoints picks again without them, which counts.
            if let Some(limit) = refusal.limit.filter(|_| tried.endpoints.is_empty()) {
                self.count_refusal(worker, limit);
            }
            refusal.why
        })?;
        Ok(self.request(taken))
    }

    /// The claim of a connection that is counted.
    pub(super) fn connection(self: &Rc<Self>, taken: TakenRoom) -> Claim {
        Claim::counted(Rc::clone(self), taken, false)
    }

    /// The claim of a request that is counted.
    pub(super) fn request(self: &Rc<Self>, taken: TakenRoom) -> (Arc<EndpointState>, RequestClaim) {
        let endpoint = Arc::clone(&taken.endpoint);
        (endpoint, RequestClaim::counted(Rc::clone(self), taken))
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
        let taken = self.take_at(LoadKind::Connection, class, endpoint);
        let taken = taken.map_err(|_| reasons::LIMIT)?;
        Ok(Claim::counted(Rc::clone(self), taken, true))
    }

    /// Takes an endpoint unless everything is at a limit, or something waits that comes first.
    fn take_or_queue(
        &self,
        worker: &WorkerCx,
        load: LoadKind,
        class: TrafficClass,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
        when_full: WhenFull,
    ) -> Result<TakenRoom, PickRefusal> {
        let queues = when_full == WhenFull::Wait && self.has_queue();
        let queued = PickRefusal { why: reasons::LIMIT, limit: None };
        if queues && self.comes_later(worker, load, affinity, tried) {
            return Err(queued);
        }
        let is_full = |endpoint: &EndpointState| queues && endpoint.waiting(load) > 0;
        let taken = self.take(worker, load, class, affinity, tried, &is_full);
        taken.map_err(|refusal| if queues && refusal.limit.is_some() { queued } else { refusal })
    }

    /// Picks an endpoint that was not `tried`, has room and is not `passed_over`, and counts one more of `load` there.
    pub(super) fn take(
        &self,
        worker: &WorkerCx,
        load: LoadKind,
        class: TrafficClass,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
        passed_over: &dyn Fn(&EndpointState) -> bool,
    ) -> Result<TakenRoom, PickRefusal> {
        let plan = self.plan();
        let total_max = plan.limit_of(load, self.class).map(|max| self.open_to(class, max));
        let total = BreakerLimit::of(load, LimitReached::Cluster);
        let each = BreakerLimit::of(load, LimitReached::Endpoint);
        let refused = |limit| PickRefusal { why: reasons::LIMIT, limit: Some(limit) };
        let max_of = |endpoint: &EndpointState| {
            let max = endpoint.limit_of(load, plan.endpoint_limit_of(load));
            max.map(|max| self.open_at_endpoint(class, max))
        };
        let full = |endpoint: &EndpointState| {
            max_of(endpoint).is_some_and(|max| endpoint.in_use(load) >= max)
                || passed_over(endpoint)
        };
        loop {
            if total_max.is_some_and(|max| self.cluster.in_use(load, self.class) >= max) {
                return Err(refused(total));
            }
            let endpoint = self.choose(worker, affinity, tried, &full).map_err(|why| {
                PickRefusal { why, limit: (why == reasons::LIMIT).then_some(each) }
            })?;
            let max = max_of(&endpoint);
            let counts = plan.counts(load, self.class);
            // If another worker was faster, the endpoint is full now.
            let limits = (max, total_max);
            if let Ok(taken) = self.cluster.take(load, self.class, counts, endpoint, limits) {
                return Ok(taken);
            }
        }
    }

    /// Counts one more of `load` at this endpoint.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn take_at(
        &self,
        load: LoadKind,
        class: TrafficClass,
        endpoint: &Arc<EndpointState>,
    ) -> Result<TakenRoom, BreakerLimit> {
        let limits = self.limits_of(load, class, endpoint);
        let counts = self.plan().counts(load, self.class);
        let taken = self.cluster.take(load, self.class, counts, Arc::clone(endpoint), limits);
        taken.map_err(|reached| BreakerLimit::of(load, reached))
    }

    /// The limits of `load` at `endpoint` and over all, for `class`.
    pub(super) fn limits_of(
        &self,
        load: LoadKind,
        class: TrafficClass,
        endpoint: &EndpointState,
    ) -> (Option<u64>, Option<u64>) {
        let plan = self.plan();
        let max = endpoint.limit_of(load, plan.endpoint_limit_of(load));
        let total_max = plan.limit_of(load, self.class);
        (
            max.map(|max| self.open_at_endpoint(class, max)),
            total_max.map(|max| self.open_to(class, max)),
        )
    }

    /// Which limit refuses connections of `class`.
    pub fn connection_limit(&self, class: TrafficClass) -> BreakerLimit {
        let load = LoadKind::Connection;
        let max = self.plan().limit_of(load, self.class);
        let used = self.cluster.in_use(load, self.class);
        let full = max.is_some_and(|max| used >= self.open_to(class, max));
        if full { BreakerLimit::Connections } else { BreakerLimit::ConnectionsPerEndpoint }
    }

    /// The part of the limit `max` of its class that is open to `class`.
    pub fn open_to(&self, class: TrafficClass, max: u64) -> u64 {
        match self.class {
            // Side calls count towards the limits of the default class.
            BreakerClass::High => max,
            BreakerClass::Default => self.open_at_endpoint(class, max),
        }
    }

    /// The part of the limit `max` of an endpoint, which all classes share, that is open to `class`.
    fn open_at_endpoint(&self, class: TrafficClass, max: u64) -> u64 {
        match class {
            TrafficClass::Request if self.cluster.reserves.load(Relaxed) => {
                max - reserved(max, self.reserve_percent)
            }
            TrafficClass::Request | TrafficClass::SideCall => max,
        }
    }

    /// Why a pick has failed for `why`, as text for a record.
    pub fn shortage(&self, why: Reason) -> Option<Box<str>> {
        self.cluster.shortage(why, self.class)
    }

    pub(super) fn refused(&self, worker: &WorkerCx, limit: BreakerLimit) -> Reason {
        self.count_refusal(worker, limit);
        reasons::LIMIT
    }

    /// Counts that `limit` refused a connection, a request or a retry.
    pub fn count_refusal(&self, worker: &WorkerCx, limit: BreakerLimit) {
        self.cluster.note_refused();
        self.refusals.count(&limit, |limit| {
            let labels = [&*self.cluster.name, limit.word(self.class)];
            worker.shard.counter(&metrics::BREAKER_REFUSALS, &labels)
        });
    }

    /// Counts that the egress policy denied an address.
    pub fn count_denial(&self, worker: &WorkerCx) {
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
        let members = self.cluster.members.peek();
        if self.compared.replace(members.version) != members.version {
            self.per_endpoint.retain(|endpoint| members.named(endpoint).is_some());
        }
    }

    /// Drops the counters of endpoints that left.
    pub fn forget_endpoints(&self, left: &LeftEndpoints) {
        self.per_endpoint.retain(|endpoint| !left.contains(endpoint));
    }
}
