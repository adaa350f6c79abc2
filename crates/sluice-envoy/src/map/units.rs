//! Resources of control planes, one by one.
//!
//! Owns: the native names of what planes name, and the mapping of one cluster or listener with all that it needs. Refuses
//! to know: streams, versions. Keeps: a name of Envoy has the same native name in every resource, whichever comes first;
//! two names never have the same.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sluice_config::Sources;
use sluice_core::{Diags, Node, Value};

use super::{Mapping, UniqueNames, native_name};
use crate::delivered::DeliveredSecrets;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, single};
use crate::read::UnknownFields;
use crate::secret_files::SecretFiles;

/// The native names of what resources name, across all of them.
#[derive(Debug, Default)]
pub struct PlaneNames {
    clusters: HashMap<Arc<str>, Arc<str>>,
    cluster_names: UniqueNames,
    routes: HashMap<String, String>,
    route_names: UniqueNames,
    listeners: HashMap<String, Arc<str>>,
}

impl PlaneNames {
    /// The native name of a cluster.
    pub fn cluster(&mut self, name: &str) -> Arc<str> {
        if let Some(native) = self.clusters.get(name) {
            return Arc::clone(native);
        }
        let native: Arc<str> = self.cluster_names.add(name).into();
        self.clusters.insert(name.into(), Arc::clone(&native));
        native
    }

    /// The native name of the route table `name` in its `nth` use by a listener.
    pub(super) fn routes(&mut self, listener: &str, name: &str, nth: usize) -> String {
        let known = self.routes.entry(format!("{listener}\n{name}\n{nth}"));
        let names = &mut self.route_names;
        known.or_insert_with(|| names.add(&format!("{listener}.{name}"))).clone()
    }

    /// The name in Envoy of the cluster with this native name; the same if there is none.
    pub fn original(&self, native: &str) -> Arc<str> {
        let known = self.clusters.iter().find(|(_, of)| ***of == *native);
        known.map_or_else(|| native.into(), |(name, _)| Arc::clone(name))
    }

    /// Forgets the names of a listener and its route tables.
    pub fn forget_listener(&mut self, name: &str) {
        self.listeners.retain(|_, owner| &**owner != name);
        let prefix = format!("{name}\n");
        let gone: Vec<String> =
            self.routes.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        for key in gone {
            if let Some(native) = self.routes.remove(&key) {
                self.route_names.remove(&native);
            }
        }
    }

    /// Forgets the clusters that are not among these.
    pub fn keep_clusters(&mut self, live: &HashSet<Arc<str>>) {
        let names = &mut self.cluster_names;
        self.clusters.retain(|name, native| {
            let stays = live.contains(name);
            if !stays {
                names.remove(native);
            }
            stays
        });
    }

    /// How many clusters have a name.
    pub fn clusters_known(&self) -> usize {
        self.clusters.len()
    }

    /// The native name of a listener; an error if another one has the same.
    fn listener(&mut self, listener: &ProtoMessage, name: &str, diags: &mut Diags) {
        let native = native_name(name);
        let owner = self.listeners.entry(native).or_insert_with(|| name.into());
        if **owner != *name {
            let message = format!("the listener `{owner}` has the same name in metrics and logs");
            let finding =
                diags.error("duplicate-name", listener.place("name"), listener.at("name"), message);
            finding.help("name one of them otherwise in letters, digits, `-`, `_` and `.`");
        }
    }
}

/// What a plane's resources are mapped with.
#[derive(Debug)]
pub struct UnitSurroundings<'a> {
    /// The static resources of the bootstrap, whose secrets others may use.
    pub resources: Option<&'a ProtoMessage>,
    /// The section `node` of the native form.
    pub node: Option<&'a Node>,
    /// The secrets that it needs.
    pub secrets: &'a DeliveredSecrets<'a>,
}

/// A resource in the native form.
#[derive(Debug)]
pub struct MappedUnit {
    /// The sections.
    pub root: Node,
    /// The clusters that it names, by their names in Envoy.
    pub clusters: HashSet<Arc<str>>,
}

/// The native form of one cluster or listener that is put together with all that it needs.
pub fn unit(
    message: &ProtoMessage,
    around: &UnitSurroundings<'_>,
    names: &mut PlaneNames,
    diags: &mut Diags,
) -> MappedUnit {
    let mut root = NativeMap::new(message.span);
    let files = SecretFiles::read(message, UnknownFields::Refuse, &mut Sources::default(), diags);
    let mut mapping = Mapping::new(&files, around.secrets, message.span, diags);
    mapping.plane = Some(std::mem::take(names));
    mapping.high_priority = true;
    if let Some(resources) = around.resources {
        mapping.secrets(resources);
    }
    match message.descriptor.name() {
        "Cluster" => {
            let mut clusters = NativeMap::new(message.span);
            if let Some((name, native)) = mapping.cluster_resource(message) {
                clusters.push(&name, native);
            }
            root.map("clusters", clusters);
        }
        "Runtime" => {
            let mut values = NativeMap::new(message.span);
            message.without_effect(&["name"]);
            if let Some(layer) = message.json("layer") {
                mapping.runtime_values(layer, "", &mut values);
            }
            root.set("runtime", single("values", values.node()));
        }
        _ => mapping.listener_resource(message, &mut root),
    }
    mapping.report_unread(message);
    for secret in std::mem::take(&mut mapping.used_of_others) {
        mapping.report_unread(secret);
    }
    *names = mapping.plane.take().unwrap_or_default();
    let clusters = std::mem::take(&mut mapping.named_clusters);
    if let Some(node) = around.node {
        root.set("node", node.clone());
    }
    MappedUnit { root: root.node(), clusters }
}

impl Mapping<'_> {
    /// Adds a listener with its route tables and access logs.
    fn listener_resource(&mut self, message: &ProtoMessage, root: &mut NativeMap) {
        let name = message.text("name").cloned().unwrap_or_default();
        if let Some(names) = &mut self.plane {
            names.listener(message, &name, self.diags);
        }
        self.routes_of = Arc::clone(&name);
        if let Some(native) = self.listener(message) {
            root.set("listeners", Node { value: Value::List(vec![native]), span: message.span });
        }
        let routes = std::mem::replace(&mut self.routes, NativeMap::new(message.span));
        root.map("routes", routes);
        let logs = std::mem::take(&mut self.logs);
        root.list("access_log", logs.into_native(), message.span);
    }

    /// The native name of a cluster of a plane, which may come later.
    pub(super) fn plane_cluster(&mut self, name: &str) -> Option<Arc<str>> {
        let native = self.plane.as_mut()?.cluster(name);
        self.named_clusters.insert(name.into());
        Some(native)
    }

    /// The native name of a route table.
    pub(super) fn name_of_routes(&mut self, wanted: &str) -> String {
        let Some(names) = &mut self.plane else { return self.route_names.add(wanted) };
        // A table that several connection managers of a listener use is mapped for each.
        let mut nth = 0;
        loop {
            let native = names.routes(&self.routes_of, wanted, nth);
            if !self.routes.has(&native) {
                return native;
            }
            nth += 1;
        }
    }
}
