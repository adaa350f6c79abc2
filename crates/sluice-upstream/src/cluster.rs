//! A cluster at run time.
//!
//! Owns: the current plan and membership, the number of connections. Refuses to know: how membership is determined.
//! Keeps: a pick sees one complete membership.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use sluice_core::Name;
use tokio::sync::Notify;

use crate::balance::LoadBalancer;
use crate::endpoint::{EndpointId, EndpointState, LoadKind};
use crate::name_state::NameState;
use crate::overrides::ClusterOverrides;
use crate::plan::{ClusterPlan, ClusterSettings};
use crate::published::Published;

mod affinity;
mod breakers;
mod claim;
mod eligibility;
mod fallback;
mod fleet;
mod handle;
mod http3;
mod membership;
mod named;
mod plan_reader;
mod publishing;
mod queue;
mod reported_load;
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
pub use membership::{Member, Membership};
use named::HostDesk;
pub(crate) use named::HostQuestion;
pub use plan_reader::PlanReader;
pub use queue::QueuedRoom;
use queue::WaitQueue;
pub use reported_load::DropTotals;
use reported_load::ReportedLoad;
pub use reserve::TrafficClass;
use source_table::SourceTable;
use standings::Standings;

/// A cluster, shared by all threads.
#[derive(Debug)]
pub struct Cluster {
    /// The cluster's name.
    pub name: Name,
    plan: Published<ClusterPlan>,
    /// Whether a plan is in force; a cluster may be referred to before it is configured, and after it was removed.
    configured: AtomicBool,
    members: Published<Membership>,
    /// What serves in its place while no endpoint is usable: the first of these that can.
    fallback: ArcSwap<Vec<Arc<Self>>>,
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
    /// For reports of its load.
    reported: ReportedLoad,
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
        let members = Arc::new(Membership::new(0, none, Arc::new([]), None, balancer, None));
        let queue = OnceLock::new();
        if plan.queue.is_some() {
            queue.get_or_init(Box::default);
        }
        Self {
            queue,
            name: Arc::clone(&plan.name),
            plan: Published::new(plan),
            configured: AtomicBool::new(true),
            members: Published::new(members),
            fallback: ArcSwap::default(),
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
            reported: ReportedLoad::default(),
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<ClusterPlan> {
        self.plan.get()
    }

    /// The plan in force, borrowed briefly; not to be held across an await. Where a worker asks for each request,
    /// [`PlanReader`] costs less.
    pub fn peek_plan(&self) -> impl std::ops::Deref<Target = Arc<ClusterPlan>> + use<> {
        self.plan.peek()
    }

    /// Puts another plan in force; membership follows with the next [`Cluster::publish`].
    pub fn set_plan(&self, plan: Arc<ClusterPlan>) {
        if plan.queue.is_some() {
            self.queue.get_or_init(Box::default);
        }
        self.plan.set(plan);
        self.configured.store(true, Relaxed);
        self.review_queue();
    }

    /// Takes the plan out of force, for a cluster that was removed. Returns the endpoints, which have left with it.
    pub(crate) fn vacate(self: &Arc<Self>) -> Vec<Arc<EndpointState>> {
        self.configured.store(false, Relaxed);
        self.set_fallback(Vec::new());
        self.set_fleet(None);
        self.publish_keeping(&[], |_| false)
    }

    /// Whether a plan is in force.
    pub fn is_configured(&self) -> bool {
        self.configured.load(Relaxed)
    }

    /// Records that the settings of the plan have changed, or that connections made so far are not to be reused.
    pub fn renew(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Grows when settings change; connections of an earlier generation are not reused.
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
        self.members.peek().has(endpoint)
    }

    /// Whether an endpoint with this ID is a member, usable or not.
    pub fn has_endpoint(&self, id: EndpointId) -> bool {
        self.members.peek().with_id(id).is_some()
    }

    /// Whether any endpoint is usable.
    pub fn has_usable(&self) -> bool {
        self.members.peek().endpoints.iter().any(|member| member.is_usable())
    }

    /// Requests in flight, over all workers; counted only if they are bounded.
    pub fn requests(&self) -> u64 {
        self.in_use_of_all(LoadKind::Request)
    }

    /// The current membership.
    pub fn members(&self) -> Arc<Membership> {
        self.members.get()
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

#[cfg(test)]
pub(crate) mod tests;
