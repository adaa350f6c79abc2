//! The clusters of the process, by name.
//!
//! Owns: which clusters exist, and the control-thread tasks of each of them. Refuses to know: which listeners use them.
//! Keeps: a cluster exists from the first configuration that names it to the first that does not, and so does the state
//! of its endpoints.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::limits::Limit;
use sluice_core::{Endpoint, Name};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::balance::LocalityPlan;
use crate::cluster::{Cluster, Member};
use crate::directory::ClusterDirectory;
use crate::dns::{self, DnsName, Resolution, ResolvedAddress};
use crate::endpoint::{EndpointState, EndpointTraits, PRIORITY_MAX, Target};
use crate::health::{self, HealthWatch, RemovedHook};
use crate::hops;
use crate::metrics;
use crate::overrides::{EndpointOverride, EndpointOverrides};
use crate::plan::{ClusterPlan, EndpointPlan, ResolutionMode};

/// The clusters, owned by the control thread.
pub struct Clusters {
    directory: Arc<ClusterDirectory>,
    context: TaskContext,
    live: BTreeMap<Name, RunningCluster>,
    /// They outlive the clusters.
    overrides: EndpointOverrides,
}

/// Changes of clusters and of their endpoints.
#[derive(Debug, Default)]
pub struct ClusterChanges {
    /// New plans, of new clusters and of known ones.
    pub plans: Vec<Arc<ClusterPlan>>,
    /// Plans with the same settings as before, and new content of their files: connections and checks go on.
    pub refreshed: Vec<Arc<ClusterPlan>>,
    /// New endpoints, by cluster.
    pub endpoints: BTreeMap<Name, Arc<[EndpointPlan]>>,
    /// Clusters that exist no longer.
    pub removed: Vec<Name>,
}

/// What the tasks of a cluster need from the control thread.
struct TaskContext {
    watcher: Rc<HealthWatch>,
    on_removed: RemovedHook,
}

impl TaskContext {
    /// Starts the watch over the health of a cluster.
    fn watch(&self, cluster: &Arc<Cluster>) -> JoinHandle<()> {
        let watch = health::watch(
            Arc::clone(cluster),
            Rc::clone(&self.watcher),
            Rc::clone(&self.on_removed),
        );
        tokio::task::spawn_local(watch)
    }

    /// Tells a cluster what operators decided about its endpoints. One about which nothing ever was has no series.
    fn override_endpoints(&self, cluster: &Cluster, overrides: &EndpointOverrides) {
        let own = overrides.of(&cluster.name);
        if own.is_empty() && cluster.overrides().is_empty() {
            return;
        }
        let gauge = self.watcher.worker.shard.gauge(&metrics::OVERRIDDEN, &[&cluster.name]);
        gauge.set(own.len() as u64);
        cluster.set_overrides(own);
    }
}

struct RunningCluster {
    cluster: Arc<Cluster>,
    endpoints: ConfiguredEndpoints,
    resolution: Rc<Resolution>,
    /// The tasks that look names up.
    names: HashMap<DnsName, JoinHandle<()>>,
    /// The task that looks up hosts that clients name.
    hosts: Option<JoinHandle<()>>,
    /// The watch over its health, which outlives changes of its endpoints.
    watch: JoinHandle<()>,
}

/// Endpoints as configured: names are not resolved.
type ConfiguredEndpoints = Rc<RefCell<Arc<[EndpointPlan]>>>;

impl std::fmt::Debug for Clusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.live.keys()).finish()
    }
}

impl Drop for RunningCluster {
    fn drop(&mut self) {
        self.names.values().chain(&self.hosts).for_each(JoinHandle::abort);
        self.cluster.set_host_desk(None);
        self.watch.abort();
    }
}

impl Clusters {
    /// No clusters yet; `directory` will find those that are configured.
    pub fn new(
        directory: Arc<ClusterDirectory>,
        watcher: HealthWatch,
        on_removed: RemovedHook,
    ) -> Self {
        let context = TaskContext { watcher: Rc::new(watcher), on_removed };
        Self { directory, context, live: BTreeMap::new(), overrides: EndpointOverrides::default() }
    }

    /// Makes these changes; everything that they do not name continues undisturbed.
    pub fn apply(&mut self, changes: ClusterChanges) {
        let ClusterChanges { plans, refreshed, mut endpoints, removed } = changes;
        let names = self.live.len();
        let mut renamed = false;
        for name in removed {
            if let Some(live) = self.live.remove(&name) {
                renamed = true;
                let left = live.cluster.vacate();
                (self.context.on_removed)(&live.cluster, &left);
            }
        }
        for plan in plans {
            let own = endpoints.remove(&plan.name);
            match self.live.get_mut(&plan.name) {
                Some(live) => {
                    put(&self.directory, &live.cluster, plan);
                    live.cluster.renew();
                    if let Some(own) = own {
                        *live.endpoints.borrow_mut() = own;
                    }
                    live.restart(&self.context);
                }
                None => {
                    let cluster = self.directory.reference(&plan.name);
                    let name = Arc::clone(&plan.name);
                    put(&self.directory, &cluster, plan);
                    self.context.override_endpoints(&cluster, &self.overrides);
                    let mut live = RunningCluster::new(cluster, &self.context);
                    *live.endpoints.borrow_mut() = own.unwrap_or_else(|| Arc::new([]));
                    live.follow(&self.context);
                    self.live.insert(name, live);
                }
            }
        }
        for plan in refreshed {
            if let Some(live) = self.live.get_mut(&plan.name) {
                put(&self.directory, &live.cluster, plan);
                // Checks go on with the new content of its files.
                live.watch(&self.context);
            }
        }
        for (name, own) in endpoints {
            if let Some(live) = self.live.get_mut(&name) {
                *live.endpoints.borrow_mut() = own;
                live.follow(&self.context);
            }
        }
        if renamed || self.live.len() != names {
            let all = self.live.iter();
            let all = all.map(|(name, live)| (Arc::clone(name), Arc::clone(&live.cluster)));
            self.directory.set_configured(all.collect());
        }
    }

    /// Overrides an endpoint, or removes its override; it holds for the next pick. Returns the one before.
    pub fn set_override(
        &mut self,
        cluster: &Name,
        endpoint: &Arc<str>,
        to: Option<EndpointOverride>,
    ) -> Option<EndpointOverride> {
        let before = self.overrides.set(cluster, endpoint, to);
        if let Some(live) = self.live.get(cluster) {
            self.context.override_endpoints(&live.cluster, &self.overrides);
        }
        before
    }

    /// What operators decided about endpoints.
    pub const fn overrides(&self) -> &EndpointOverrides {
        &self.overrides
    }

    /// The cluster with that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.live.get(name).map(|live| &live.cluster)
    }

    /// Every cluster, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.live.values().map(|live| &live.cluster)
    }

    /// What clusters must find out before they can serve, to wait for it without holding the registry.
    pub fn first_rounds(&self) -> BTreeMap<Name, FirstRound> {
        let rounds = self.live.iter().map(|(name, live)| {
            let round = FirstRound {
                cluster: Arc::clone(&live.cluster),
                resolution: Rc::clone(&live.resolution),
                watcher: Rc::clone(&self.context.watcher),
            };
            (name.clone(), round)
        });
        rounds.filter(|(_, round)| round.resolves() || round.may_check()).collect()
    }
}

/// What a cluster must find out before it can serve: addresses of host names, and the first checks of endpoints that
/// take no traffic before.
#[derive(Debug)]
pub struct FirstRound {
    cluster: Arc<Cluster>,
    resolution: Rc<Resolution>,
    watcher: Rc<HealthWatch>,
}

impl FirstRound {
    /// Whether a host name has not been looked up yet.
    pub fn resolves(&self) -> bool {
        self.resolution.waits()
    }

    /// Whether an endpoint waits for its first check.
    pub fn checks(&self) -> bool {
        let waits = |member: &Arc<EndpointState>| member.awaits_check() && !member.is_healthy();
        self.cluster.members().endpoints.iter().any(waits)
    }

    fn may_check(&self) -> bool {
        self.cluster.plan().health.as_ref().is_some_and(|health| health.waits)
    }

    /// Waits until every host name has been looked up and every endpoint that waits for it has been checked once,
    /// successfully or not.
    pub async fn finished(&self) {
        self.resolution.first_round().await;
        while self.checks() {
            self.watcher.checked.notified().await;
        }
    }
}

impl RunningCluster {
    fn new(cluster: Arc<Cluster>, context: &TaskContext) -> Self {
        Self {
            watch: context.watch(&cluster),
            cluster,
            endpoints: Rc::default(),
            resolution: Rc::default(),
            names: HashMap::new(),
            hosts: None,
        }
    }

    /// Starts the tasks again, under another plan.
    fn restart(&mut self, context: &TaskContext) {
        self.names.drain().for_each(|(_, task)| task.abort());
        self.hosts.take().into_iter().for_each(|task| task.abort());
        self.follow(context);
        self.watch(context);
    }

    /// Starts the watch over health again, under the plan in force.
    fn watch(&mut self, context: &TaskContext) {
        self.watch.abort();
        self.watch = context.watch(&self.cluster);
    }

    /// Publishes the endpoints, and looks up the names among them. Names that stay are not looked up again.
    fn follow(&mut self, context: &TaskContext) {
        let names = dns::names_of(&self.endpoints.borrow());
        let gone = self.names.extract_if(|name, _| !names.contains(name));
        gone.for_each(|(_, task)| task.abort());
        let shown: HashSet<String> = names.iter().map(ToString::to_string).collect();
        self.cluster.keep_names(|name| shown.contains(name));
        self.resolution.keep_only(&names);
        let publishing = PublishCx {
            cluster: Arc::clone(&self.cluster),
            endpoints: Rc::clone(&self.endpoints),
            resolution: Rc::clone(&self.resolution),
            on_removed: Rc::clone(&context.on_removed),
        };
        if self.cluster.forwards() {
            self.serve_hosts(context, publishing);
            return;
        }
        self.cluster.set_host_desk(None);
        publishing.publish();
        for name in names {
            if self.names.contains_key(&name) {
                continue;
            }
            self.resolution.expect(&name);
            let publishing = publishing.clone();
            let task = dns::keep_resolved(
                Arc::clone(&self.cluster),
                Rc::clone(&self.resolution),
                name.clone(),
                context.watcher.worker.shard.clone(),
                move || publishing.publish(),
            );
            self.names.insert(name, tokio::task::spawn_local(task));
        }
    }
}

impl RunningCluster {
    /// Starts to look up the hosts that clients name, from none on.
    fn serve_hosts(&mut self, context: &TaskContext, publishing: PublishCx) {
        if self.hosts.is_some() {
            return;
        }
        publishing.publish_members(&[]);
        // Workers keep to a limit of their own.
        let most = Limit::ForwardLookups.def().max;
        let (asking, asked) = mpsc::channel(usize::try_from(most).unwrap_or(1024));
        self.cluster.set_host_desk(Some(asking));
        let (cluster, shard) = (Arc::clone(&self.cluster), context.watcher.worker.shard.clone());
        let publish = move |members: &[Member]| publishing.publish_members(members);
        self.hosts =
            Some(tokio::task::spawn_local(dns::serve_hosts(cluster, asked, shard, publish)));
    }
}

/// Puts a plan in force, with the clusters that it falls back to and goes by.
fn put(directory: &ClusterDirectory, cluster: &Arc<Cluster>, plan: Arc<ClusterPlan>) {
    cluster.set_fallback(plan.fallback.iter().map(|name| directory.reference(name)).collect());
    let fleet = match &plan.balancing.localities {
        LocalityPlan::ZoneAware(plan) => Some(directory.reference(&plan.fleet)),
        LocalityPlan::Ignored | LocalityPlan::Weighted => None,
    };
    cluster.set_fleet(fleet);
    cluster.set_plan(plan);
}

/// What a membership is made of.
#[derive(Clone)]
struct PublishCx {
    cluster: Arc<Cluster>,
    endpoints: ConfiguredEndpoints,
    resolution: Rc<Resolution>,
    on_removed: RemovedHook,
}

impl PublishCx {
    /// Publishes the endpoints of the cluster, with names replaced by their addresses.
    fn publish(&self) {
        let plan = self.cluster.plan();
        let (mode, egress) = (plan.dns.mode, plan.egress.as_ref());
        let endpoints = Arc::clone(&self.endpoints.borrow());
        let mut members = Vec::with_capacity(endpoints.len());
        for EndpointPlan { address, traits } in &*endpoints {
            let target = match address {
                Endpoint::Ip(address) => Target::Ip(*address),
                Endpoint::Unix(path) => Target::Unix(path.clone()),
                Endpoint::Host(..) | Endpoint::Service(_) => {
                    let Some(name) = DnsName::of(address) else { continue };
                    let mut found = self.resolution.addresses(&name);
                    // The policy may be newer than the answer.
                    if let Some(egress) = egress {
                        found.retain(|of| egress.judge(of.address, hops::is_ours).is_ok());
                    }
                    match mode {
                        ResolutionMode::Strict => {
                            members.extend(found.into_iter().map(|of| resolved(of, traits)));
                        }
                        ResolutionMode::Logical => members.extend(as_one(found, traits)),
                    }
                    continue;
                }
            };
            let (traits, alternates) = (Arc::clone(traits), Vec::new());
            members.push(Member { target, host: None, name: None, traits, alternates });
        }
        self.publish_members(&members);
    }

    fn publish_members(&self, members: &[Member]) {
        let left = self.cluster.publish(members);
        if !left.is_empty() {
            (self.on_removed)(&self.cluster, &left);
        }
    }
}

fn resolved(of: ResolvedAddress, stated: &Arc<EndpointTraits>) -> Member {
    let mut traits = EndpointTraits::clone(stated);
    traits.weight = traits.weight.saturating_mul(of.weight);
    traits.priority = traits.priority.saturating_add(of.priority).min(PRIORITY_MAX);
    traits.http3_port = of.http3_port;
    let traits = if traits == **stated { Arc::clone(stated) } else { Arc::new(traits) };
    let (target, alternates) = (Target::Ip(of.address), Vec::new());
    Member { target, host: Some(of.host), name: None, traits, alternates }
}

/// The addresses of a name as one endpoint: the first, and the others of the same host and port.
fn as_one(found: Vec<ResolvedAddress>, traits: &Arc<EndpointTraits>) -> Option<Member> {
    let mut found = found.into_iter();
    let first = found.next()?;
    let same =
        |of: &ResolvedAddress| of.host == first.host && of.address.port() == first.address.port();
    let alternates = found.filter(same).map(|of| of.address).collect();
    Some(Member { alternates, ..resolved(first, traits) })
}
