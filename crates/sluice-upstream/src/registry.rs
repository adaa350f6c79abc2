//! The clusters of the process, by name.
//!
//! Owns: which clusters exist, and the control-thread tasks of each of them. Refuses to know: which listeners use them.
//! Keeps: a cluster exists from the first configuration that names it to the first that does not, and so does the state
//! of its endpoints.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::Name;
use sluice_telemetry::Shard;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, Member};
use crate::dns::{self, Resolution};
use crate::endpoint::{EndpointState, Target};
use crate::health::{self, Probes};
use crate::plan::ClusterPlan;

/// Called when endpoints leave a cluster.
pub type RemovedHook = Rc<dyn Fn(&Arc<Cluster>, &[Arc<EndpointState>])>;

/// The clusters, owned by the control thread.
pub struct Clusters {
    context: TaskContext,
    live: BTreeMap<Name, RunningCluster>,
}

/// What the tasks of a cluster need from the control thread.
struct TaskContext {
    shard: Shard,
    probes: Probes,
    on_removed: RemovedHook,
}

struct RunningCluster {
    cluster: Arc<Cluster>,
    resolution: Rc<Resolution>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Clusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.live.keys()).finish()
    }
}

impl Drop for RunningCluster {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Clusters {
    /// An empty registry. Endpoints are checked with what `probes` makes.
    pub fn new(shard: Shard, probes: Probes, on_removed: RemovedHook) -> Self {
        Self { context: TaskContext { shard, probes, on_removed }, live: BTreeMap::new() }
    }

    /// Brings the clusters in line with `plans`. `lives` holds the cluster of each plan, new or known; `changed`
    /// reports those whose plan differs from the one in force; the tasks of the others continue undisturbed.
    pub fn apply(
        &mut self,
        plans: &BTreeMap<Name, Arc<ClusterPlan>>,
        lives: &HashMap<Name, Arc<Cluster>>,
        changed: impl Fn(&str) -> bool,
    ) {
        let gone: Vec<Name> =
            self.live.keys().filter(|name| !plans.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(live) = self.live.remove(&name) {
                let left = live.cluster.publish(&[]);
                (self.context.on_removed)(&live.cluster, &left);
            }
        }
        for (name, plan) in plans {
            match self.live.get_mut(name) {
                // The TLS configuration is rebuilt with each snapshot, so the plan is replaced even when the settings
                // are the same.
                Some(live) => {
                    live.cluster.set_plan(Arc::clone(plan));
                    if changed(name) {
                        live.cluster.renew();
                        live.tasks.drain(..).for_each(|task| task.abort());
                        live.start(plan, &self.context);
                    }
                }
                None => {
                    let known = lives.get(name).map(Arc::clone);
                    let cluster = known.unwrap_or_else(|| Arc::new(Cluster::new(Arc::clone(plan))));
                    let resolution = Rc::new(Resolution::default());
                    let mut live = RunningCluster { cluster, resolution, tasks: Vec::new() };
                    live.start(plan, &self.context);
                    self.live.insert(Arc::clone(name), live);
                }
            }
        }
    }

    /// The cluster with that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.live.get(name).map(|live| &live.cluster)
    }

    /// Every cluster, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.live.values().map(|live| &live.cluster)
    }

    /// The resolutions, to wait for their first round without holding the registry.
    pub fn first_rounds(&self) -> BTreeMap<Name, Rc<Resolution>> {
        let waits = self.live.iter().filter(|(_, live)| live.resolution.waits());
        waits.map(|(name, live)| (name.clone(), Rc::clone(&live.resolution))).collect()
    }
}

impl RunningCluster {
    fn start(&mut self, plan: &Arc<ClusterPlan>, context: &TaskContext) {
        let TaskContext { shard, probes, on_removed } = context;
        let hosts = dns::hosts_of(plan);
        self.resolution.keep_only(&hosts);
        let (cluster, resolution) = (&self.cluster, &self.resolution);
        publish(cluster, resolution, on_removed);
        for (host, port) in hosts {
            let (cluster, resolution, on_removed) =
                (Arc::clone(cluster), Rc::clone(resolution), Rc::clone(on_removed));
            let publish = {
                let (cluster, resolution) = (Arc::clone(&cluster), Rc::clone(&resolution));
                move || publish(&cluster, &resolution, &on_removed)
            };
            let task = dns::keep_resolved(cluster, resolution, host, port, shard.clone(), publish);
            self.tasks.push(tokio::task::spawn_local(task));
        }
        let watch = health::watch(Arc::clone(cluster), shard.clone(), Rc::clone(probes));
        self.tasks.push(tokio::task::spawn_local(watch));
    }
}

/// Publishes the endpoints of the plan, with host names replaced by their addresses.
fn publish(cluster: &Arc<Cluster>, resolution: &Resolution, on_removed: &RemovedHook) {
    use sluice_core::Endpoint;
    let mut members = Vec::new();
    for endpoint in &cluster.plan().endpoints {
        let weight = endpoint.weight;
        match &endpoint.address {
            Endpoint::Ip(address) => {
                members.push(Member { target: Target::Ip(*address), host: None, weight })
            }
            Endpoint::Unix(path) => {
                members.push(Member { target: Target::Unix(path.clone()), host: None, weight });
            }
            Endpoint::Host(host, port) => {
                let addresses = resolution.addresses(host, *port);
                members.extend(addresses.into_iter().map(|ip| Member {
                    target: Target::Ip((ip, *port).into()),
                    host: Some(Arc::clone(host)),
                    weight,
                }));
            }
        }
    }
    let left = cluster.publish(&members);
    if !left.is_empty() {
        on_removed(cluster, &left);
    }
}
