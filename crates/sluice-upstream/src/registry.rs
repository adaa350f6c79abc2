//! The clusters of the process, by name.
//!
//! Owns: which clusters exist, and the control-thread tasks of each of them. Refuses to know: which listeners use them.
//! Keeps: a cluster exists from the first configuration that names it to the first that does not, and so does the state
//! of its endpoints.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{Endpoint, Name};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, Member};
use crate::directory::ClusterDirectory;
use crate::dns::{self, Resolution};
use crate::endpoint::{EndpointState, Target};
use crate::health::{self, HealthWatch};
use crate::overrides::{EndpointOverride, EndpointOverrides};
use crate::plan::{ClusterPlan, EndpointPlan};

/// Called when endpoints leave a cluster.
pub type RemovedHook = Rc<dyn Fn(&Arc<Cluster>, &[Arc<EndpointState>])>;

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
        let watch = health::watch(Arc::clone(cluster), Rc::clone(&self.watcher));
        tokio::task::spawn_local(watch)
    }
}

struct RunningCluster {
    cluster: Arc<Cluster>,
    /// As configured: host names are not resolved.
    endpoints: Arc<[EndpointPlan]>,
    resolution: Rc<Resolution>,
    /// The look-ups of its host names.
    lookups: Vec<JoinHandle<()>>,
    /// The watch over its health, which outlives changes of its endpoints.
    watch: JoinHandle<()>,
}

impl std::fmt::Debug for Clusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.live.keys()).finish()
    }
}

impl Drop for RunningCluster {
    fn drop(&mut self) {
        self.lookups.iter().for_each(JoinHandle::abort);
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
                    live.cluster.set_plan(plan);
                    live.cluster.renew();
                    live.endpoints = own.unwrap_or_else(|| Arc::clone(&live.endpoints));
                    live.resolve(&self.context);
                    live.watch(&self.context);
                }
                None => {
                    let cluster = self.directory.reference(&plan.name);
                    let name = Arc::clone(&plan.name);
                    cluster.set_plan(plan);
                    cluster.set_overrides(self.overrides.of(&name));
                    let mut live = RunningCluster {
                        watch: self.context.watch(&cluster),
                        cluster,
                        endpoints: own.unwrap_or_else(|| Arc::new([])),
                        resolution: Rc::default(),
                        lookups: Vec::new(),
                    };
                    live.resolve(&self.context);
                    self.live.insert(name, live);
                }
            }
        }
        for plan in refreshed {
            if let Some(live) = self.live.get_mut(&plan.name) {
                live.cluster.set_plan(plan);
                // Checks go on with the new content of its files.
                live.watch(&self.context);
            }
        }
        for (name, own) in endpoints {
            if let Some(live) = self.live.get_mut(&name) {
                live.endpoints = own;
                live.resolve(&self.context);
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
            live.cluster.set_overrides(self.overrides.of(cluster));
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
    /// Publishes the endpoints, and starts the look-ups of their names again.
    fn resolve(&mut self, context: &TaskContext) {
        let TaskContext { watcher, on_removed } = context;
        self.lookups.drain(..).for_each(|task| task.abort());
        let hosts = dns::hosts_of(&self.endpoints);
        self.resolution.keep_only(&hosts);
        let (cluster, resolution) = (&self.cluster, &self.resolution);
        publish(cluster, &self.endpoints, resolution, on_removed);
        for (host, port) in hosts {
            let (cluster, resolution, on_removed) =
                (Arc::clone(cluster), Rc::clone(resolution), Rc::clone(on_removed));
            let publish = {
                let (cluster, resolution) = (Arc::clone(&cluster), Rc::clone(&resolution));
                let endpoints = Arc::clone(&self.endpoints);
                move || publish(&cluster, &endpoints, &resolution, &on_removed)
            };
            let task =
                dns::keep_resolved(cluster, resolution, host, port, watcher.shard.clone(), publish);
            self.lookups.push(tokio::task::spawn_local(task));
        }
    }

    /// Starts the watch over health again, under the plan in force.
    fn watch(&mut self, context: &TaskContext) {
        self.watch.abort();
        self.watch = context.watch(&self.cluster);
    }
}

/// Publishes the endpoints of a cluster, with host names replaced by their addresses.
fn publish(
    cluster: &Arc<Cluster>,
    endpoints: &[EndpointPlan],
    resolution: &Resolution,
    on_removed: &RemovedHook,
) {
    let mut members = Vec::new();
    for endpoint in endpoints {
        let traits = || endpoint.traits.clone();
        match &endpoint.address {
            Endpoint::Ip(address) => {
                members.push(Member { target: Target::Ip(*address), host: None, traits: traits() });
            }
            Endpoint::Unix(path) => {
                let target = Target::Unix(path.clone());
                members.push(Member { target, host: None, traits: traits() });
            }
            Endpoint::Host(host, port) => {
                let addresses = resolution.addresses(host, *port);
                members.extend(addresses.into_iter().map(|ip| Member {
                    target: Target::Ip((ip, *port).into()),
                    host: Some(Arc::clone(host)),
                    traits: traits(),
                }));
            }
        }
    }
    let left = cluster.publish(&members);
    if !left.is_empty() {
        on_removed(cluster, &left);
    }
}
