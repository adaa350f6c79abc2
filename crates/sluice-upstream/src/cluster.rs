//! A cluster at run time.
//!
//! Owns: the current plan and membership, the number of connections. Refuses to know: how membership is determined.
//! Keeps: a pick sees one complete membership; an endpoint that stays keeps its state.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use sluice_core::Name;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::balance::load_balancer::BalancerInput;
use crate::balance::subsets::{StateChanges, SubsetTable};
use crate::balance::{Balance, LoadBalancer};
use crate::endpoint::{EndpointId, EndpointState, EndpointTraits, LoadKind, Target};
use crate::name_state::NameState;
use crate::overrides::ClusterOverrides;
use crate::plan::{ClusterPlan, ClusterSettings};

mod affinity;
mod breakers;
mod claim;
mod eligibility;
mod fallback;
mod fleet;
mod handle;
mod http3;
mod named;
mod plan_reader;
mod queue;
mod reserve;
mod session;
mod shortage;
mod source_table;
mod standings;

pub use affinity::{Affinity, ClientSession, PreferredEndpoint, SESSION_MAX};
use breakers::ClassCounts;
pub use breakers::{Breaker, BreakerLimit, WorkerShare};
pub use claim::{Claim, RequestClaim};
pub use eligibility::{Eligibility, Ineligible};
pub use fallback::FALLBACKS_MAX;
use fleet::FleetLinks;
pub use handle::{ClusterHandle, Tried, WhenFull};
use named::HostDesk;
pub(crate) use named::HostQuestion;
pub use plan_reader::PlanReader;
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
    /// How many plans have been put in force.
    plan_version: AtomicU64,
    /// Whether a plan is in force; a cluster may be referred to before it is configured, and after it was removed.
    configured: AtomicBool,
    members: ArcSwap<Membership>,
    /// What serves in its place while no endpoint is usable.
    fallback: ArcSwapOption<Self>,
    /// The cluster of all processes of this kind, for zone-aware routing, and who goes by this one.
    fleet: FleetLinks,
    /// For the control thread.
    standings: Mutex<Standings>,
    /// Whether it has had subsets, so that it has series of them.
    had_subsets: AtomicBool,
    /// What operators decided; written by the control thread.
    overrides: ArcSwap<ClusterOverrides>,
    counts: ClassCounts,
    /// What requests with high priority count.
    high: ClassCounts,
    /// The part of all connections that is pooled.
    pooled: AtomicU64,
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
    /// Where workers ask for hosts that clients name.
    desk: HostDesk,
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
    /// The hosts that clients name, by name, if the endpoints are such.
    hosts: Option<HashMap<Arc<str>, u32>>,
    /// Those that may be picked, as of the last change of their states.
    pub balancer: LoadBalancer,
    /// The subsets, if the cluster has any.
    pub subsets: Option<SubsetTable>,
}

/// Memberships up to this size are searched for an ID one by one.
const SEARCHED_MAX: usize = 16;

impl Membership {
    fn new(
        version: u64,
        endpoints: Arc<[Arc<EndpointState>]>,
        traits: Arc<[EndpointTraits]>,
        hosts: Option<HashMap<Arc<str>, u32>>,
        balancer: LoadBalancer,
        subsets: Option<SubsetTable>,
    ) -> Arc<Self> {
        Arc::new(Self {
            version,
            endpoints,
            traits,
            by_id: OnceLock::new(),
            hosts,
            balancer,
            subsets,
        })
    }

    /// The host that clients name so, if it is a member.
    pub(crate) fn host(&self, name: &str) -> Option<&Arc<EndpointState>> {
        let index = self.hosts.as_ref()?.get(name)?;
        Some(&self.endpoints[*index as usize])
    }

    /// The indexes of the endpoints that this process uses, of all or in a subset.
    fn offered(&self) -> HashSet<u32> {
        let of_subsets = self.subsets.iter().flat_map(|of| of.iter()).map(|of| &*of.balancer);
        std::iter::once(&self.balancer).chain(of_subsets).flat_map(LoadBalancer::offered).collect()
    }

    /// The endpoint of that name.
    fn named(&self, name: &str) -> Option<&Arc<EndpointState>> {
        self.endpoints.iter().find(|endpoint| *endpoint.name == *name)
    }

    /// The index of this endpoint, if it is a member.
    fn index_of(&self, endpoint: &Arc<EndpointState>) -> Option<u32> {
        let index = self.with_id(endpoint.id)?;
        Arc::ptr_eq(&self.endpoints[index as usize], endpoint).then_some(index)
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
    /// The name of the endpoint, if it is a host that clients name; otherwise that is its address.
    pub name: Option<Arc<str>>,
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
        let (none, balancer) = (Arc::new([]), LoadBalancer::default());
        let members = Membership::new(0, none, Arc::new([]), None, balancer, None);
        let queue = OnceLock::new();
        if plan.queue.is_some() {
            queue.get_or_init(Box::default);
        }
        Self {
            queue,
            name: Arc::clone(&plan.name),
            plan: ArcSwap::new(plan),
            plan_version: AtomicU64::new(0),
            configured: AtomicBool::new(true),
            members: ArcSwap::new(members),
            fallback: ArcSwapOption::empty(),
            fleet: FleetLinks::default(),
            standings: Mutex::default(),
            had_subsets: AtomicBool::new(false),
            overrides: ArcSwap::default(),
            counts: ClassCounts::default(),
            high: ClassCounts::default(),
            pooled: AtomicU64::new(0),
            reserves: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
            sources: OnceLock::new(),
            names: Mutex::default(),
            desk: HostDesk::default(),
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<ClusterPlan> {
        self.plan.load_full()
    }

    /// Changes when another plan is put in force.
    pub(crate) fn plan_version(&self) -> u64 {
        self.plan_version.load(Acquire)
    }

    /// The plan in force, borrowed briefly; not to be held across an await. Where a worker asks for each request,
    /// [`PlanReader`] costs less.
    pub fn peek_plan(&self) -> impl std::ops::Deref<Target = Arc<ClusterPlan>> + use<> {
        self.plan.load()
    }

    /// Puts another plan in force; membership follows with the next [`Cluster::publish`].
    pub fn set_plan(&self, plan: Arc<ClusterPlan>) {
        if plan.queue.is_some() {
            self.queue.get_or_init(Box::default);
        }
        self.plan.store(plan);
        self.plan_version.fetch_add(1, Release);
        self.configured.store(true, Relaxed);
        self.review_queue();
    }

    /// Takes the plan out of force, for a cluster that was removed. Returns the endpoints, which have left with it.
    pub(crate) fn vacate(self: &Arc<Self>) -> Vec<Arc<EndpointState>> {
        self.configured.store(false, Relaxed);
        self.set_fallback(None);
        self.set_fleet(None);
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
        let members = self.members.load();
        let same = |member: &Arc<EndpointState>| Arc::ptr_eq(member, endpoint);
        match endpoint.own_name() {
            Some(name) => members.host(name).is_some_and(same),
            None => members.endpoints.iter().any(same),
        }
    }

    /// Whether an endpoint with this ID is a member, usable or not.
    pub fn has_endpoint(&self, id: EndpointId) -> bool {
        self.members.load().with_id(id).is_some()
    }

    /// Whether any endpoint is usable.
    pub fn has_usable(&self) -> bool {
        self.members.load().endpoints.iter().any(|member| member.is_usable())
    }

    /// Requests in flight, over all workers; counted only if they are bounded.
    pub fn requests(&self) -> u64 {
        self.in_use_of_all(LoadKind::Request)
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
        let mut known: HashMap<_, &Arc<EndpointState>> = old
            .endpoints
            .iter()
            .map(|endpoint| ((&endpoint.target, endpoint.own_name()), endpoint))
            .collect();
        let mut places: HashMap<_, usize> = HashMap::with_capacity(members.len());
        let mut endpoints: Vec<Arc<EndpointState>> = Vec::with_capacity(members.len());
        let mut traits: Vec<EndpointTraits> = Vec::with_capacity(members.len());
        for member in members {
            let key = (&member.target, member.name.as_ref());
            // The same address declared twice is one endpoint with the weight and the limits of both.
            if let Some(place) = places.get(&key) {
                traits[*place].add(&member.traits);
                continue;
            }
            places.insert(key, endpoints.len());
            let new = || {
                let (target, host) = (member.target.clone(), member.host.clone());
                let endpoint = match &member.name {
                    Some(name) => EndpointState::forwarded(Arc::clone(name), target, host),
                    None => EndpointState::new(target, host),
                };
                if let Some(health) = &plan.health {
                    endpoint.await_check(health.waits);
                }
                endpoint.set_override(overrides.get(&endpoint.name).map(|one| one.action));
                Arc::new(endpoint)
            };
            // The host is what TLS verifies and the egress policy goes by.
            let same = |known: &&Arc<EndpointState>| known.host == member.host;
            let endpoint = match known.get(&key).copied().filter(same) {
                Some(endpoint) => {
                    known.remove(&key);
                    Arc::clone(endpoint)
                }
                None => new(),
            };
            endpoint.set_alternates(&member.alternates);
            endpoint.latency.track(plan.balancing.balance.kind() == Balance::PeakEwma);
            endpoint.reported.track(plan.balancing.balance.kind() == Balance::LoadReports);
            endpoint.set_traits(&member.traits);
            endpoints.push(endpoint);
            traits.push(member.traits.clone());
        }
        for (endpoint, traits) in endpoints.iter().zip(&traits) {
            endpoint.set_limits(traits.limits);
        }
        let left = known.into_values().cloned().collect();
        let (endpoints, traits): (Arc<[_]>, Arc<[_]>) = (endpoints.into(), traits.into());
        let version = old.version + 1;
        if plan.forward.is_some() {
            let named = endpoints.iter().map(|endpoint| Arc::clone(&endpoint.name));
            let hosts = Some(named.zip(0..).collect());
            let balancer = LoadBalancer::default();
            self.members.store(Membership::new(version, endpoints, traits, hosts, balancer, None));
            self.announce();
            return left;
        }
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.follow(&plan.balancing, &endpoints, &traits, Instant::now());
        standings.fleet = self.fleet_zones(&plan.balancing);
        let balanced = standings.balanced(&traits);
        let (plan, fleet) = (&plan.balancing, &standings.fleet);
        let input = BalancerInput { plan, endpoints: &endpoints, balanced: &balanced, fleet };
        let all = indexes(&endpoints);
        let balancer = LoadBalancer::build(input, &all, None);
        let subsets = plan.subsets.as_ref();
        let subsets = subsets.map(|plan| SubsetTable::build(plan, input, balancer.turns()));
        drop(balanced);
        drop(standings);
        if let Some(subsets) = &subsets {
            tell_left_out(&self.name, subsets, old.subsets.as_ref());
        }
        self.members.store(Membership::new(version, endpoints, traits, None, balancer, subsets));
        self.announce();
        self.tell_followers();
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
        let Membership { version, endpoints, traits, balancer, subsets, .. } = &*old;
        // Nothing is picked among hosts that clients name.
        if plan.forward.is_some() {
            return None;
        }
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = standings.follow(&plan.balancing, endpoints, traits, Instant::now());
        let fleet = self.fleet_zones(&plan.balancing);
        let moved = standings.fleet != fleet;
        if !followed.changed.is_empty() || moved {
            standings.fleet = fleet;
            let (balanced, all) = (standings.balanced(traits), indexes(endpoints));
            let (plan, fleet) = (&plan.balancing, &standings.fleet);
            let input = BalancerInput { plan, endpoints, balanced: &balanced, fleet };
            // Tables that depend on weights alone go on while those are the same.
            let known = (!followed.reweighted).then_some(balancer);
            let balancer = LoadBalancer::build(input, &all, known);
            let subsets = subsets.as_ref().map(|subsets| {
                let endpoints = if moved { &all } else { &followed.changed };
                let changes = StateChanges { endpoints, reweighted: followed.reweighted };
                subsets.rebuild(input, changes, balancer.turns())
            });
            if balancer.panics() != old.balancer.panics() {
                tell_panic(&self.name, balancer.panics());
            }
            let (endpoints, traits) = (Arc::clone(endpoints), Arc::clone(traits));
            let version = *version;
            self.members
                .store(Membership::new(version, endpoints, traits, None, balancer, subsets));
            self.review_queue();
            self.tell_followers();
        }
        followed.again_at
    }

    /// Whether the number of its subsets is shown: it has some by `plan`, or has had.
    pub(crate) fn shows_subsets(&self, plan: &ClusterPlan) -> bool {
        let has = plan.balancing.subsets.is_some();
        self.had_subsets.fetch_or(has, Relaxed) || has
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
        self.in_use_of_all(LoadKind::Connection)
    }

    /// The load of all endpoints: relayed connections plus requests. Requests are counted only if the plan needs them.
    fn load(&self) -> u64 {
        let relayed = self.active().saturating_sub(self.pooled.load(Relaxed));
        relayed + self.requests()
    }
}

/// The indexes of all endpoints.
fn indexes(endpoints: &[Arc<EndpointState>]) -> Vec<u32> {
    (0_u32..).zip(endpoints).map(|(index, _)| index).collect()
}

fn tell_panic(cluster: &str, panics: bool) {
    if panics {
        tracing::warn!(cluster, "too few endpoints are usable: all are used (panic mode)");
    } else {
        tracing::info!(cluster, "enough endpoints are usable again: panic mode ends");
    }
}

/// Tells that subsets are missing, once for each time that their number changes.
fn tell_left_out(cluster: &str, subsets: &SubsetTable, old: Option<&SubsetTable>) {
    let left_out = subsets.left_out();
    if left_out > 0 && old.is_none_or(|old| old.left_out() != left_out) {
        tracing::warn!(
            cluster,
            left_out,
            "the endpoints make too many subsets (`limits.subsets`): requests for some get the fallback"
        );
    }
}

#[cfg(test)]
pub(crate) mod tests;
