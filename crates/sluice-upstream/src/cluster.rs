//! A cluster at run time.
//!
//! Owns: the current plan and membership, the number of connections. Refuses to know: how membership is determined.
//! Keeps: a pick sees one complete membership; an endpoint that stays keeps its state.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use sluice_core::Name;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::balance::LoadBalancer;
use crate::endpoint::{EndpointId, EndpointState, EndpointTraits, Target};
use crate::name_state::NameState;
use crate::overrides::ClusterOverrides;
use crate::plan::{ClusterPlan, ClusterSettings};

mod affinity;
mod breakers;
mod claim;
mod fallback;
mod handle;
mod queue;
mod reserve;
mod session;
mod shortage;
mod source_table;
mod standings;

pub use affinity::{Affinity, ClientSession, PreferredEndpoint, SESSION_MAX};
use breakers::WorkerCounts;
pub use breakers::{Breaker, BreakerLimit, WorkerShare};
pub use claim::{Claim, RequestClaim};
pub use fallback::FALLBACKS_MAX;
pub use handle::{ClusterHandle, Tried, WhenFull};
pub use queue::QueuedRoom;
use queue::WaitQueue;
pub use reserve::TrafficClass;
use source_table::SourceTable;
use standings::Standings;

/// A cluster, shared by all threads.
#[derive(Debug)]
pub struct Cluster {
    /// The cluster's name.
    pub name: Name,
    plan: ArcSwap<ClusterPlan>,
    /// Whether a plan is in force; a cluster may be referred to before it is configured, and after it was removed.
    configured: AtomicBool,
    members: ArcSwap<Membership>,
    /// What serves in its place while no endpoint is usable.
    fallback: ArcSwapOption<Self>,
    /// For the control thread.
    standings: Mutex<Standings>,
    /// What operators decided; written by the control thread.
    overrides: ArcSwap<ClusterOverrides>,
    active: AtomicU64,
    /// The part of `active` that is pooled.
    pooled: AtomicU64,
    requests: AtomicU64,
    /// Requests that wait for a connection.
    pending: Arc<WorkerCounts>,
    /// Retries in flight.
    retries: Arc<WorkerCounts>,
    /// What waits for an endpoint; created when a plan first has a queue.
    queue: OnceLock<Box<WaitQueue>>,
    /// Whether a part of the limits is reserved for side calls.
    reserves: AtomicBool,
    /// Grows when settings change, so that connections made under other settings are not reused.
    generation: AtomicU64,
    /// For the watch over health: something that it counts or awaits has changed.
    changed: Notify,
    /// The endpoints of sources, from the first session on.
    sources: OnceLock<SourceTable>,
    /// The state of each name; for the admin page and for reasons.
    names: Mutex<HashMap<Arc<str>, NameState>>,
}

/// A membership.
#[derive(Debug)]
pub struct Membership {
    /// Grows with every change.
    pub version: u64,
    /// The endpoints.
    pub endpoints: Arc<[Arc<EndpointState>]>,
    /// What the cluster says of each.
    pub traits: Arc<[EndpointTraits]>,
    by_id: OnceLock<HashMap<EndpointId, u32>>,
    /// Those that may be picked, as of the last change of their states.
    pub balancer: LoadBalancer,
}

/// Memberships up to this size are searched for an ID one by one.
const SEARCHED_MAX: usize = 16;

impl Membership {
    fn new(
        version: u64,
        endpoints: Arc<[Arc<EndpointState>]>,
        traits: Arc<[EndpointTraits]>,
        balancer: LoadBalancer,
    ) -> Arc<Self> {
        Arc::new(Self { version, endpoints, traits, by_id: OnceLock::new(), balancer })
    }

    /// The endpoint of that name.
    fn named(&self, name: &str) -> Option<&Arc<EndpointState>> {
        self.endpoints.iter().find(|endpoint| *endpoint.name == *name)
    }

    /// Whether `endpoint` is a member that gets traffic.
    fn offers(&self, endpoint: &Arc<EndpointState>) -> bool {
        let index = self.with_id(endpoint.id);
        index.is_some_and(|index| {
            Arc::ptr_eq(&self.endpoints[index as usize], endpoint)
                && self.balancer.offers(index, endpoint)
        })
    }

    /// The members that get traffic.
    fn offered(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        let all = (0..).zip(&*self.endpoints);
        all.filter(|(index, endpoint)| self.balancer.offers(*index, endpoint)).map(|(_, it)| it)
    }

    /// The index of the endpoint with this ID.
    fn with_id(&self, id: EndpointId) -> Option<u32> {
        let mut ids = self.endpoints.iter().map(|endpoint| endpoint.id).zip(0..);
        if self.endpoints.len() <= SEARCHED_MAX {
            return ids.find(|(known, _)| *known == id).map(|(_, index)| index);
        }
        self.by_id.get_or_init(|| ids.collect()).get(&id).copied()
    }
}

/// A resolved endpoint, from which membership is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The address.
    pub target: Target,
    /// The host name it was resolved from.
    pub host: Option<Arc<str>>,
    /// What the cluster says of it.
    pub traits: EndpointTraits,
    /// Other addresses of the same endpoint, in order of preference: of a host that is one endpoint.
    pub alternates: Vec<SocketAddr>,
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
        let members = Membership::new(0, Arc::new([]), Arc::new([]), LoadBalancer::default());
        let queue = OnceLock::new();
        if plan.queue.is_some() {
            queue.get_or_init(Box::default);
        }
        Self {
            queue,
            name: Arc::clone(&plan.name),
            plan: ArcSwap::new(plan),
            configured: AtomicBool::new(true),
            members: ArcSwap::new(members),
            fallback: ArcSwapOption::empty(),
            standings: Mutex::default(),
            overrides: ArcSwap::default(),
            active: AtomicU64::new(0),
            pooled: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            pending: Arc::default(),
            retries: Arc::default(),
            reserves: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
            sources: OnceLock::new(),
            names: Mutex::default(),
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
        if plan.queue.is_some() {
            self.queue.get_or_init(Box::default);
        }
        self.plan.store(plan);
        self.configured.store(true, Relaxed);
        self.review_queue();
    }

    /// Takes the plan out of force, for a cluster that was removed. Returns the endpoints, which have left with it.
    pub(crate) fn vacate(&self) -> Vec<Arc<EndpointState>> {
        self.configured.store(false, Relaxed);
        self.set_fallback(None);
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
        self.review_queue();
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
        let (plan, old) = (self.plan.load(), self.members.load_full());
        let overrides = self.overrides.load();
        let mut known: HashMap<&Target, &Arc<EndpointState>> =
            old.endpoints.iter().map(|endpoint| (&endpoint.target, endpoint)).collect();
        let mut places: HashMap<&Target, usize> = HashMap::with_capacity(members.len());
        let mut endpoints: Vec<Arc<EndpointState>> = Vec::with_capacity(members.len());
        let mut traits: Vec<EndpointTraits> = Vec::with_capacity(members.len());
        for member in members {
            // The same address declared twice is one endpoint with the weight and the limits of both.
            if let Some(place) = places.get(&member.target) {
                traits[*place].add(&member.traits);
                continue;
            }
            places.insert(&member.target, endpoints.len());
            let new = || {
                let endpoint = EndpointState::new(member.target.clone(), member.host.clone());
                if let Some(health) = &plan.health {
                    endpoint.await_check(health.waits);
                }
                endpoint.set_override(overrides.get(&endpoint.name).map(|one| one.action));
                Arc::new(endpoint)
            };
            let endpoint = known.remove(&member.target).map_or_else(new, Arc::clone);
            endpoint.set_alternates(&member.alternates);
            endpoints.push(endpoint);
            traits.push(member.traits.clone());
        }
        for (endpoint, traits) in endpoints.iter().zip(&traits) {
            endpoint.set_limits(traits.limits);
        }
        let left = known.into_values().cloned().collect();
        let (endpoints, traits): (Arc<[_]>, Arc<[_]>) = (endpoints.into(), traits.into());
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.follow(&plan.balancing, &endpoints, &traits, Instant::now());
        let balancer =
            LoadBalancer::build(&plan.balancing, &endpoints, &standings.balanced(&traits), None);
        drop(standings);
        let version = old.version + 1;
        self.members.store(Membership::new(version, endpoints, traits, balancer));
        self.announce();
        left
    }

    /// What operators decided about endpoints, members or not.
    pub fn overrides(&self) -> Arc<ClusterOverrides> {
        self.overrides.load_full()
    }

    /// Sets what operators decided about endpoints; it holds for the next pick. For the control thread.
    pub(crate) fn set_overrides(&self, overrides: Arc<ClusterOverrides>) {
        for endpoint in &*self.members.load().endpoints {
            endpoint.set_override(overrides.get(&endpoint.name).map(|one| one.action));
        }
        self.overrides.store(overrides);
        self.rebalance();
        self.announce();
    }

    /// Builds the load balancer again if the state of an endpoint has changed, or the part that it has in slow start.
    /// Returns when time alone will change one. For the control thread.
    pub(crate) fn rebalance(&self) -> Option<Instant> {
        let (plan, old) = (self.plan.load(), self.members.load_full());
        let Membership { version, endpoints, traits, balancer, .. } = &*old;
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = standings.follow(&plan.balancing, endpoints, traits, Instant::now());
        if followed.changed {
            let balanced = standings.balanced(traits);
            // Tables that depend on weights alone go on while those are the same.
            let known = (!followed.reweighted).then_some(balancer);
            let balancer = LoadBalancer::build(&plan.balancing, endpoints, &balanced, known);
            if balancer.panics() != old.balancer.panics() {
                tell_panic(&self.name, balancer.panics());
            }
            let (endpoints, traits) = (Arc::clone(endpoints), Arc::clone(traits));
            let version = *version;
            self.members.store(Membership::new(version, endpoints, traits, balancer));
            self.review_queue();
        }
        followed.again_at
    }

    /// Records the state of a name.
    pub fn note_name(&self, name: &Arc<str>, state: NameState) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(Arc::clone(name), state);
    }

    /// Forgets names that `keep` does not ask for.
    pub(crate) fn keep_names(&self, keep: impl Fn(&str) -> bool) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|name, _| keep(name));
    }

    /// The state of each name.
    pub fn names(&self) -> Vec<(Arc<str>, NameState)> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<_> =
            names.iter().map(|(name, state)| (Arc::clone(name), state.clone())).collect();
        names.sort_by(|(one, _), (two, _)| one.cmp(two));
        names
    }

    /// Current connections, over all workers.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// The load of all endpoints: relayed connections plus requests. Requests are counted only if the plan needs them.
    fn load(&self) -> u64 {
        let relayed = self.active().saturating_sub(self.pooled.load(Relaxed));
        relayed + self.requests()
    }
}

fn tell_panic(cluster: &str, panics: bool) {
    if panics {
        tracing::warn!(cluster, "too few endpoints are usable: all are used (panic mode)");
    } else {
        tracing::info!(cluster, "enough endpoints are usable again: panic mode ends");
    }
}

#[cfg(test)]
pub(crate) mod tests;
