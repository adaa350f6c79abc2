//! The resources in force, and how they change.
//!
//! Owns: which resources exist, whose they are, which wait for others or were rejected. Refuses to know: files,
//! sockets, workers. Keeps: a change is staged whole before any of it is committed, and committing cannot fail; what a
//! change costs depends on what it touches; a resource that is rejected or waits leaves its predecessor in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Diagnostic, Diags, Name};
use sluice_l4::filters::lookup::{LiveMap, MapContent};
use sluice_l7::filters::HttpFilterPlan;
use sluice_l7::runtime::{Origin, RuntimeKind, RuntimeMap};
use sluice_l7::{RouteCell, RouteTable};
use sluice_tls::LoadError;
use sluice_upstream::ClusterPlan;
use sluice_upstream::plan::EndpointPlan;
use sluice_upstream::registry::ClusterChanges;

use crate::compile::{Inputs, ListenerSnapshot, SecretContent, Surroundings};
use crate::model::{Kind, Reference, Resource};
use crate::provenance::Provenance;

mod batch;
mod completion;
mod conflicts;
mod known_names;
mod stage;
#[cfg(test)]
pub(crate) mod tests;

pub use batch::{Batch, BatchMode, Outcome, ResourceVerdict, Update};
pub(crate) use known_names::KnownNames;
pub use stage::stage;

/// A resource in force.
#[derive(Debug)]
pub struct Held {
    resource: Resource,
    compiled: Compiled,
    /// Who set it.
    source: Arc<str>,
    from: Arc<Provenance>,
    /// What it was compiled with; most clusters need nothing.
    inputs: Option<Box<Inputs>>,
}

/// What a resource was compiled to.
#[derive(Clone, Debug)]
enum Compiled {
    Listener(Arc<ListenerSnapshot>),
    Cluster(Arc<ClusterPlan>),
    Routes(Arc<RouteCell>, Arc<RouteTable>),
    Secret(SecretContent),
    Map(LiveMap, Arc<MapContent>),
    /// Endpoints and runtime values are used as they are.
    AsItIs,
}

/// A resource that is not in force, and why.
#[derive(Debug)]
pub struct Absent {
    /// Since when, as time since the Unix epoch.
    pub since: Duration,
    /// Who set it.
    source: Arc<str>,
    /// Why.
    pub why: AbsentReason,
}

/// Why a resource is not in force.
#[derive(Debug)]
pub enum AbsentReason {
    /// It was rejected, for these reasons.
    Rejected(Vec<Diagnostic>),
    /// It waits for others.
    Waiting(Box<WaitingResource>),
}

/// A resource that waits for others.
#[derive(Debug)]
pub struct WaitingResource {
    /// What it waits for.
    pub references: Vec<Reference>,
    /// When it is given up, as time since the Unix epoch.
    pub until: Duration,
    resource: Resource,
    from: Arc<Provenance>,
}

/// The resources in force.
#[derive(Debug, Default)]
pub struct Store {
    held: [BTreeMap<Name, Held>; Kind::ALL.len()],
    /// Those of which a newer version is not in force.
    absent: BTreeMap<(Kind, Name), Absent>,
}

/// A batch that was checked and compiled, and is not in force yet.
#[derive(Debug)]
pub struct Staged {
    /// What becomes of each resource, by kind and name.
    pub verdicts: Vec<ResourceVerdict>,
    /// Certificates that no longer load; those in use before are kept.
    pub stale_certificates: Vec<LoadError>,
    /// The clusters whose endpoint file cannot be used, and why; the last good endpoints are kept.
    pub stale_endpoint_files: BTreeMap<Name, String>,
    set: BTreeMap<(Kind, Name), Held>,
    removed: BTreeSet<(Kind, Name)>,
    absent: BTreeMap<(Kind, Name), Absent>,
    /// Those that are not absent any more.
    present: Vec<(Kind, Name)>,
}

/// A field of a resource, and where the resource came from.
#[derive(Clone, Debug)]
pub struct FieldPlace<'a> {
    /// Where the resource came from.
    pub from: &'a Provenance,
    /// The path of the field in the resource.
    pub field: String,
}

impl Staged {
    /// The clusters, secrets and maps that filters name once the batch is in force.
    pub fn named<'a>(&'a self, store: &'a Store) -> impl Iterator<Item = &'a (Kind, Name)> {
        self.inputs(store).flat_map(|inputs| &inputs.named)
    }

    /// The runtime values that are read once the batch is in force, and as what.
    pub fn runtime_keys<'a>(
        &'a self,
        store: &'a Store,
    ) -> impl Iterator<Item = (&'a str, RuntimeKind)> {
        let keys = self.inputs(store).flat_map(|inputs| &inputs.runtime_keys);
        keys.map(|(key, kind)| (key.as_str(), *kind))
    }

    /// What all resources are compiled with once the batch is in force.
    fn inputs<'a>(&'a self, store: &'a Store) -> impl Iterator<Item = &'a Inputs> {
        let replaced = |kind: Kind, name: &Name| {
            let key = (kind, Arc::clone(name));
            self.set.contains_key(&key) || self.removed.contains(&key)
        };
        let stay = Kind::ALL.into_iter().flat_map(|kind| {
            store.held[kind as usize].iter().map(move |(name, held)| (kind, name, held))
        });
        let stay = stay.filter(move |(kind, name, _)| !replaced(*kind, name));
        let all = stay.map(|(_, _, held)| held).chain(self.set.values());
        all.filter_map(|held| held.inputs.as_deref())
    }

    /// The listeners that change: to what, or `None` for those that are removed.
    pub fn listeners(&self) -> BTreeMap<Name, Option<Arc<ListenerSnapshot>>> {
        let set = self.set.iter().filter_map(|((_, name), held)| match &held.compiled {
            Compiled::Listener(listener) => Some((Arc::clone(name), Some(Arc::clone(listener)))),
            _ => None,
        });
        let gone = self.removed.iter().filter(|(kind, _)| *kind == Kind::Listener);
        set.chain(gone.map(|(_, name)| (Arc::clone(name), None))).collect()
    }

    /// The endpoints that are set, by cluster: with the plan of the cluster, and where each endpoint is written.
    pub fn endpoints(&self) -> impl Iterator<Item = (&ClusterPlan, &EndpointPlan, FieldPlace<'_>)> {
        self.set.iter().flat_map(|((kind, name), held)| {
            let listed = match &held.resource {
                Resource::Endpoints(endpoints) if *kind == Kind::Endpoints => &**endpoints,
                _ => &[],
            };
            let cluster = self.set.get(&(Kind::Cluster, Arc::clone(name)));
            let of_cluster = cluster.and_then(|held| match (&held.compiled, &held.resource) {
                (Compiled::Cluster(plan), Resource::Cluster(cluster)) => Some((&**plan, cluster)),
                _ => None,
            });
            of_cluster.into_iter().flat_map(move |(plan, cluster)| {
                (0..).zip(listed).map(move |(place, endpoint): (usize, _)| {
                    let field = match &cluster.endpoint_file {
                        Some(_) => "endpoints_file".to_owned(),
                        None => format!("endpoints[{place}].address"),
                    };
                    (plan, endpoint, FieldPlace { from: &held.from, field })
                })
            })
        })
    }

    /// Gives up a change of a listener that its sockets do not allow.
    pub fn reject_listener(&mut self, name: &Name, problem: String, now: Duration) {
        let key = (Kind::Listener, Arc::clone(name));
        let Some(held) = self.set.remove(&key) else { return };
        let mut diags = Diags::new();
        diags.error("cannot-listen", None, "addresses", problem);
        let found = diags.into_sorted();
        let why = AbsentReason::Rejected(found.clone());
        self.absent.insert(key, Absent { since: now, source: held.source, why });
        let of = |verdict: &&mut ResourceVerdict| {
            verdict.kind == Kind::Listener && verdict.name == *name
        };
        if let Some(verdict) = self.verdicts.iter_mut().find(of) {
            verdict.outcome = Outcome::Rejected(found);
        }
    }
}

impl Store {
    /// Who set a resource, in force or waiting.
    fn owner(&self, kind: Kind, name: &Name) -> Option<&Arc<str>> {
        let held = self.get(kind, name).map(|held| &held.source);
        held.or_else(|| match self.why_absent(kind, name)? {
            Absent { why: AbsentReason::Waiting(_), source, .. } => Some(source),
            Absent { why: AbsentReason::Rejected(_), .. } => None,
        })
    }

    fn get(&self, kind: Kind, name: &str) -> Option<&Held> {
        self.held[kind as usize].get(name)
    }

    /// The names of the resources of one kind.
    pub fn names(&self, kind: Kind) -> impl ExactSizeIterator<Item = &Name> {
        self.held[kind as usize].keys()
    }

    /// Whether a resource is in force.
    pub fn contains(&self, kind: Kind, name: &str) -> bool {
        self.get(kind, name).is_some()
    }

    /// The listeners as configured.
    pub fn listeners(&self) -> impl Iterator<Item = (&Name, &crate::model::Listener)> {
        self.held[Kind::Listener as usize].iter().filter_map(|(name, held)| match &held.resource {
            Resource::Listener(listener) => Some((name, &**listener)),
            _ => None,
        })
    }

    /// The listener of that name, as configured.
    pub fn listener(&self, name: &str) -> Option<&crate::model::Listener> {
        match &self.get(Kind::Listener, name)?.resource {
            Resource::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    /// The clusters as configured.
    pub fn clusters(&self) -> impl Iterator<Item = (&Name, &crate::model::Cluster)> {
        self.held[Kind::Cluster as usize].iter().filter_map(|(name, held)| match &held.resource {
            Resource::Cluster(cluster) => Some((name, &**cluster)),
            _ => None,
        })
    }

    /// The cluster of that name, as configured.
    pub fn cluster(&self, name: &str) -> Option<&crate::model::Cluster> {
        match &self.get(Kind::Cluster, name)?.resource {
            Resource::Cluster(cluster) => Some(cluster),
            _ => None,
        }
    }

    /// The endpoints of the cluster of that name.
    pub fn endpoints(&self, name: &str) -> Option<&Arc<crate::model::Endpoints>> {
        match &self.get(Kind::Endpoints, name)?.resource {
            Resource::Endpoints(endpoints) => Some(endpoints),
            _ => None,
        }
    }

    /// The listeners as workers run them.
    pub fn listener_snapshots(&self) -> impl Iterator<Item = (&Name, &Arc<ListenerSnapshot>)> {
        self.held[Kind::Listener as usize].iter().filter_map(|(name, held)| match &held.compiled {
            Compiled::Listener(listener) => Some((name, listener)),
            _ => None,
        })
    }

    /// The HTTP filters of a chain, in order.
    pub fn http_filters(&self, listener: &str, chain: &str) -> &[(Name, Arc<dyn HttpFilterPlan>)] {
        let inputs = self.get(Kind::Listener, listener).and_then(|held| held.inputs.as_deref());
        let mut chains = inputs.into_iter().flat_map(|inputs| &inputs.chains);
        let owner = format!("{listener}/{chain}");
        chains.find(|of| *of.owner == owner).map_or(&[], |of| &of.filters)
    }

    /// The route tables: as configured, and as workers use them.
    pub fn routes(
        &self,
    ) -> impl Iterator<Item = (&Name, &crate::model::RouteTable, &Arc<RouteTable>)> {
        self.held[Kind::Routes as usize].iter().filter_map(|(name, held)| {
            match (&held.resource, &held.compiled) {
                (Resource::Routes(model), Compiled::Routes(_, table)) => {
                    Some((name, &**model, table))
                }
                _ => None,
            }
        })
    }

    /// The table of that name, as configured and as workers use it.
    pub fn routes_named(
        &self,
        name: &str,
    ) -> Option<(&crate::model::RouteTable, &Arc<RouteTable>)> {
        let held = self.get(Kind::Routes, name)?;
        match (&held.resource, &held.compiled) {
            (Resource::Routes(model), Compiled::Routes(_, table)) => Some((model, table)),
            _ => None,
        }
    }

    /// Every file that a resource names, whose content it depends on.
    pub fn files(&self) -> impl Iterator<Item = &std::path::Path> {
        let inputs = self.all().filter_map(|held| held.inputs.as_deref());
        inputs.flat_map(|inputs| &inputs.files).map(|(path, _)| path.as_path())
    }

    /// The runtime values that resources read, and as what.
    pub fn runtime_keys(&self) -> impl Iterator<Item = (&str, RuntimeKind)> {
        let inputs = self.all().filter_map(|held| held.inputs.as_deref());
        inputs.flat_map(|inputs| &inputs.runtime_keys).map(|(key, kind)| (key.as_str(), *kind))
    }

    /// The clusters that the filters of a resource may ask.
    pub fn asked(&self, kind: Kind, name: &str) -> impl Iterator<Item = &Name> {
        let inputs = self.get(kind, name).and_then(|held| held.inputs.as_deref());
        let named = inputs.into_iter().flat_map(|inputs| &inputs.named);
        named.filter(|(kind, _)| *kind == Kind::Cluster).map(|(_, name)| name)
    }

    /// The resources of which the newest version is not in force, and why.
    pub fn absent(&self) -> impl Iterator<Item = (Kind, &Name, &Absent)> {
        self.absent.iter().map(|((kind, name), absent)| (*kind, name, absent))
    }

    /// Why the newest version of a resource is not in force.
    pub fn why_absent(&self, kind: Kind, name: &Name) -> Option<&Absent> {
        self.absent.get(&(kind, Arc::clone(name)))
    }

    /// Where a resource came from: its source, and its version if it has one.
    pub fn origin(&self, kind: Kind, name: &str) -> Option<(&str, Option<&str>)> {
        let held = self.get(kind, name)?;
        let version = match &*held.from {
            Provenance::File { .. } => None,
            Provenance::Plane { version } => Some(&**version),
        };
        Some((&held.source, version))
    }

    /// When the next resource is given up that waits, as time since the Unix epoch.
    pub fn next_deadline(&self) -> Option<Duration> {
        let until = self.absent.values().filter_map(|absent| match &absent.why {
            AbsentReason::Waiting(waiting) => Some(waiting.until),
            AbsentReason::Rejected(_) => None,
        });
        until.min()
    }

    fn all(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().flat_map(BTreeMap::values)
    }

    /// Puts a staged batch in force. Route tables, secrets, maps and runtime values take effect at once; the caller makes
    /// clusters and listeners follow. Returns the changes of clusters.
    pub fn commit(&mut self, staged: Staged, around: &Surroundings) -> ClusterChanges {
        let (mut clusters, mut runtime) = (ClusterChanges::default(), false);
        for key in staged.present {
            self.absent.remove(&key);
        }
        self.absent.extend(staged.absent);
        for (kind, name) in staged.removed {
            self.held[kind as usize].remove(&name);
            self.absent.remove(&(kind, Arc::clone(&name)));
            match kind {
                Kind::Cluster => clusters.removed.push(name),
                Kind::Endpoints => drop(clusters.endpoints.insert(name, Arc::new([]))),
                Kind::Routes => around.routes.reference(&name).set(Arc::new(RouteTable::empty())),
                Kind::Runtime => runtime = true,
                Kind::Secret | Kind::Map | Kind::Listener => {}
            }
        }
        for ((kind, name), held) in staged.set {
            let before = self.held[kind as usize].get(&name);
            let same = before.is_some_and(|before| before.resource.goes_on_as(&held.resource));
            match (&held.compiled, &held.resource) {
                (Compiled::Cluster(plan), _) => {
                    let plans = if same { &mut clusters.refreshed } else { &mut clusters.plans };
                    plans.push(Arc::clone(plan));
                    // A cluster that begins takes the endpoints that came before it.
                    if before.is_none()
                        && let Some(held) = self.held[Kind::Endpoints as usize].get(&name)
                        && let Resource::Endpoints(own) = &held.resource
                    {
                        let own = Arc::clone(own);
                        clusters.endpoints.entry(Arc::clone(&name)).or_insert(own);
                    }
                }
                (Compiled::AsItIs, Resource::Endpoints(own)) => {
                    clusters.endpoints.insert(Arc::clone(&name), Arc::clone(own));
                }
                (_, Resource::Runtime(_)) => runtime = true,
                (Compiled::Routes(cell, table), _) => cell.set(Arc::clone(table)),
                (Compiled::Map(map, content), _) => map.set(content),
                (Compiled::Secret(SecretContent::Certificate(material)), _) => {
                    around.certs.set_secret(&name, Arc::clone(material));
                }
                (Compiled::Secret(SecretContent::Text(text)), _) => {
                    around.secrets.renew(&name, text);
                }
                _ => {}
            }
            self.held[kind as usize].insert(name, held);
        }
        if runtime {
            around.runtime.set_layer(Origin::Plane, self.runtime_layers());
        }
        clusters
    }

    /// The runtime values of all layers together.
    fn runtime_layers(&self) -> RuntimeMap {
        let layers = self.held[Kind::Runtime as usize].values();
        let layers = layers.filter_map(|held| match &held.resource {
            Resource::Runtime(layer) => Some(&**layer),
            _ => None,
        });
        layers.flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}
