//! A cluster at run time, and a worker's handle to it.
//!
//! Owns: the current plan and membership, the number of connections. Refuses to know: how membership is determined.
//! Keeps: a pick sees one complete membership; an endpoint that stays keeps its state.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use sluice_core::limits::Limit;
use sluice_core::{Name, Reason};
use sluice_io::WorkerCx;
use sluice_telemetry::metrics::other;
use sluice_telemetry::{Counter, CounterSet, Gauge, Histogram};
use tokio::sync::Notify;

use crate::balance::{BalancerTable, Pick};
use crate::endpoint::{EndpointState, Lease, RequestLease, Target};
use crate::metrics;
use crate::plan::{ClusterPlan, ClusterSettings};
use crate::reasons;

mod reserve;
mod shortage;

pub use reserve::TrafficClass;

/// A cluster, shared by all threads.
#[derive(Debug)]
pub struct Cluster {
    /// The cluster's name.
    pub name: Name,
    plan: ArcSwap<ClusterPlan>,
    /// Whether a plan is in force; a cluster may be referred to before it is configured, and after it was removed.
    configured: AtomicBool,
    members: ArcSwap<Membership>,
    active: AtomicU64,
    requests: AtomicU64,
    /// Whether a part of the limits is reserved for side calls.
    reserves: AtomicBool,
    /// Grows when settings change, so that connections made under other settings are not reused.
    generation: AtomicU64,
    /// For the watch over health: something that it counts or awaits has changed.
    changed: Notify,
    /// The last message of the resolver, per host name; for the admin page and for reasons.
    resolver: Mutex<HashMap<Arc<str>, String>>,
}

/// A membership.
#[derive(Debug)]
pub struct Membership {
    /// Grows with every change.
    pub version: u64,
    /// The endpoints.
    pub endpoints: Vec<Arc<EndpointState>>,
    table: BalancerTable,
}

/// A resolved endpoint, from which membership is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The address.
    pub target: Target,
    /// The host name it was resolved from.
    pub host: Option<Arc<str>>,
    /// The weight.
    pub weight: u32,
}

impl Cluster {
    /// A cluster that is referred to and not configured yet: connections and requests to it are refused.
    pub fn vacant(name: Name) -> Self {
        let plan = ClusterPlan { name, settings: ClusterSettings::bare(), tls: None };
        let cluster = Self::new(Arc::new(plan));
        cluster.configured.store(false, Relaxed);
        cluster
    }

    /// A cluster without endpoints.
    pub fn new(plan: Arc<ClusterPlan>) -> Self {
        let members = Membership {
            version: 0,
            endpoints: Vec::new(),
            table: BalancerTable::build(plan.balance, &[]),
        };
        Self {
            name: Arc::clone(&plan.name),
            plan: ArcSwap::new(plan),
            configured: AtomicBool::new(true),
            members: ArcSwap::from_pointee(members),
            active: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            reserves: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
            resolver: Mutex::default(),
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<ClusterPlan> {
        self.plan.load_full()
    }

    /// The plan in force, borrowed briefly; not to be held across an await.
    pub fn peek_plan(&self) -> impl std::ops::Deref<Target = Arc<ClusterPlan>> + use<> {
        self.plan.load()
    }

    /// Puts another plan in force; membership follows with the next [`Cluster::publish`].
    pub fn set_plan(&self, plan: Arc<ClusterPlan>) {
        self.plan.store(plan);
        self.configured.store(true, Relaxed);
    }

    /// Takes the plan out of force, for a cluster that was removed. Returns the endpoints, which have left with it.
    pub(crate) fn vacate(&self) -> Vec<Arc<EndpointState>> {
        self.configured.store(false, Relaxed);
        self.publish(&[])
    }

    /// Whether a plan is in force.
    pub fn is_configured(&self) -> bool {
        self.configured.load(Relaxed)
    }

    /// Records that the settings of the plan have changed.
    pub fn renew(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Grows when settings change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Announces that an endpoint was ejected or its health changed. From any thread.
    pub(crate) fn announce(&self) {
        self.changed.notify_one();
    }

    /// Waits for a change of membership, of an endpoint's health, or an ejection. For one task at a time: each change
    /// wakes one, and is kept for it if it does not wait yet.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether an endpoint is a member.
    pub fn has_member(&self, endpoint: &Arc<EndpointState>) -> bool {
        self.members.load().endpoints.iter().any(|member| Arc::ptr_eq(member, endpoint))
    }

    /// Whether any endpoint is usable.
    pub fn has_usable(&self) -> bool {
        self.members.load().endpoints.iter().any(|member| member.is_usable())
    }

    /// Requests in flight, over all workers; counted only if they are bounded.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// The current membership.
    pub fn members(&self) -> Arc<Membership> {
        self.members.load_full()
    }

    /// Publishes a membership; endpoints that stay keep their state. Returns the endpoints that left. For the control
    /// thread.
    pub fn publish(&self, members: &[Member]) -> Vec<Arc<EndpointState>> {
        let old = self.members.load_full();
        let mut known: HashMap<&Target, &Arc<EndpointState>> =
            old.endpoints.iter().map(|endpoint| (&endpoint.target, endpoint)).collect();
        let mut endpoints: Vec<Arc<EndpointState>> = Vec::with_capacity(members.len());
        for member in members {
            match known.remove(&member.target) {
                Some(endpoint) => {
                    endpoint.set_weight(member.weight);
                    endpoints.push(Arc::clone(endpoint));
                }
                // The same address declared twice is one endpoint with the weight of both.
                None => match endpoints.iter().find(|endpoint| endpoint.target == member.target) {
                    Some(twin) => twin.set_weight(twin.weight().saturating_add(member.weight)),
                    None => {
                        let (target, host) = (member.target.clone(), member.host.clone());
                        let endpoint = EndpointState::new(target, host, member.weight);
                        if let Some(health) = &self.plan.load().health {
                            endpoint.await_check(health.waits);
                        }
                        endpoints.push(Arc::new(endpoint));
                    }
                },
            }
        }
        let left = known.into_values().cloned().collect();
        let table = BalancerTable::build(self.plan.load().balance, &endpoints);
        self.members.store(Arc::new(Membership { version: old.version + 1, endpoints, table }));
        self.changed.notify_one();
        left
    }

    /// Records the message of the resolver about a host name.
    pub fn note_resolver(&self, host: &Arc<str>, said: String) {
        let mut notes = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        notes.insert(Arc::clone(host), said);
    }

    /// The last message of the resolver about each host name.
    pub fn resolver_notes(&self) -> Vec<(Arc<str>, String)> {
        let notes = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes: Vec<_> =
            notes.iter().map(|(host, said)| (Arc::clone(host), said.clone())).collect();
        notes.sort();
        notes
    }

    /// Current connections, over all workers.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }
}

/// A worker's handle to a cluster: its position in the sequence and its metrics.
#[derive(Debug)]
pub struct ClusterHandle {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    reserve_percent: u64,
    position: Cell<usize>,
    pub(crate) made: Counter,
    open: Gauge,
    pub(crate) connect_time: Histogram,
    failures: CounterSet<Reason>,
    per_endpoint: CounterSet<Arc<str>>,
    /// The version of the membership that `per_endpoint` was last compared with.
    compared: Cell<u64>,
}

/// A request's claim on its cluster and endpoint.
#[derive(Debug)]
pub struct RequestClaim {
    handle: Rc<ClusterHandle>,
    bounded: bool,
    _lease: RequestLease,
}

impl Drop for RequestClaim {
    fn drop(&mut self) {
        if self.bounded {
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
}

impl Drop for Claim {
    fn drop(&mut self) {
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
            position: Cell::new(worker.random_below(1 << 16)),
            made: shard.counter(&metrics::CONNECTIONS, &labels),
            open: shard.gauge(&metrics::ACTIVE, &labels),
            connect_time: shard.histogram(&metrics::CONNECT_TIME, &labels),
            failures: CounterSet::default(),
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
        hash: Option<u64>,
        tried: &[Arc<str>],
    ) -> Result<Claim, Reason> {
        let plan = self.cluster.plan.load();
        let open = |max| self.open_to(TrafficClass::Request, max);
        if plan.connections_max.is_some_and(|max| self.cluster.active() >= open(max)) {
            return Err(reasons::LIMIT);
        }
        let full = |endpoint: &EndpointState| {
            plan.endpoint_connections_max.is_some_and(|max| endpoint.active() >= open(max))
        };
        let endpoint = self.choose(worker, hash, tried, &full)?;
        Ok(self.claim(endpoint.lease()))
    }

    /// Claims a member by its name, bypassing the balancer: for a flow that goes there already.
    pub fn claim_member(self: &Rc<Self>, name: &str) -> Option<Claim> {
        let members = self.cluster.members();
        let endpoint = members.endpoints.iter().find(|endpoint| *endpoint.name == *name)?;
        Some(self.claim(endpoint.lease()))
    }

    /// Picks an endpoint that is not in `tried`, and claims it for a request.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn pick_for_request(
        self: &Rc<Self>,
        worker: &WorkerCx,
        class: TrafficClass,
        hash: Option<u64>,
        tried: &[Arc<str>],
    ) -> Result<(Arc<EndpointState>, RequestClaim), Reason> {
        let plan = self.cluster.plan.load();
        let bounded = plan.requests_max.is_some();
        let open = |max| self.open_to(class, max);
        if plan.requests_max.is_some_and(|max| self.cluster.requests() >= open(max)) {
            return Err(reasons::LIMIT);
        }
        let full = |endpoint: &EndpointState| {
            plan.endpoint_requests_max.is_some_and(|max| endpoint.requests() >= open(max))
        };
        let endpoint = self.choose(worker, hash, tried, &full)?;
        if bounded {
            self.cluster.requests.fetch_add(1, Relaxed);
        }
        let claim =
            RequestClaim { handle: Rc::clone(self), bounded, _lease: endpoint.lease_request() };
        Ok((endpoint, claim))
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
        let plan = self.cluster.plan.load();
        let open = |max| self.open_to(class, max);
        let full = plan.connections_max.is_some_and(|max| self.cluster.active() >= open(max))
            || plan.endpoint_connections_max.is_some_and(|max| endpoint.active() >= open(max));
        if full {
            return Err(reasons::LIMIT);
        }
        Ok(self.claim(endpoint.lease_shared()))
    }

    fn claim(self: &Rc<Self>, lease: Lease) -> Claim {
        self.cluster.active.fetch_add(1, Relaxed);
        self.open.increment();
        Claim { lease, handle: Rc::clone(self) }
    }

    fn choose(
        &self,
        worker: &WorkerCx,
        hash: Option<u64>,
        tried: &[Arc<str>],
        full: &dyn Fn(&EndpointState) -> bool,
    ) -> Result<Arc<EndpointState>, Reason> {
        let members = self.cluster.members.load();
        let may = |index: usize| {
            members.endpoints.get(index).is_some_and(|endpoint| {
                endpoint.is_usable() && !full(endpoint) && !tried.contains(&endpoint.name)
            })
        };
        let position = self.position.get();
        self.position.set(position.wrapping_add(1));
        let mut random = |bound| worker.random_below(bound);
        let mut pick = Pick { random: &mut random, position, hash, may: &may };
        match members.table.pick(&members.endpoints, &mut pick) {
            Some(index) => Ok(Arc::clone(&members.endpoints[index])),
            None => Err(self.why_none(&members, full)),
        }
    }

    fn why_none(&self, members: &Membership, full: &dyn Fn(&EndpointState) -> bool) -> Reason {
        if !self.cluster.is_configured() {
            return reasons::CLUSTER_UNKNOWN;
        }
        if members.endpoints.is_empty() {
            let unresolved = !self.cluster.resolver_notes().is_empty();
            return if unresolved { reasons::DNS } else { reasons::NO_ENDPOINT };
        }
        let usable = || members.endpoints.iter().filter(|endpoint| endpoint.is_usable());
        if usable().next().is_some() && usable().all(|endpoint| full(endpoint)) {
            return reasons::LIMIT;
        }
        reasons::NO_HEALTHY
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
    pub fn forget_endpoints(&self, left: &[Arc<str>]) {
        self.per_endpoint.retain(|endpoint| !left.contains(endpoint));
    }
}

#[cfg(test)]
pub(crate) mod tests;
