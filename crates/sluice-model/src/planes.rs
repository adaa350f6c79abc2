//! Resources of control planes as changes of the store.
//!
//! Owns: what is checked of one resource alone, and where it came from. Refuses to know: streams, Envoy's messages. Keeps:
//! a resource of a plane is judged as one in a file is, apart from what it refers to, which may come later.

use std::collections::HashMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use sluice_core::settings::Members;
use sluice_core::{Diags, Name, Node};
use sluice_telemetry::log::SinkPlan;

use crate::check;
use crate::inline;
use crate::model::{Kind, Resource};
use crate::process::Process;
use crate::provenance::Provenance;
use crate::sections::{AccessLog, Config};
use crate::store::{Store, Update};
use crate::translate::endpoints::EndpointFiles;
use crate::translate::{ResourceSources, translate};

/// What a resource of a plane is translated with.
#[derive(Clone, Copy, Debug)]
pub struct PlaneInput<'a> {
    /// Its sections, as a tree.
    pub root: &'a Node,
    /// The folder that relative paths are resolved against.
    pub folder: &'a FilePath,
    /// Its version.
    pub version: &'a Arc<str>,
    /// The layer that its runtime values are; `None` if it is no layer.
    pub layer: Option<&'a Name>,
}

/// A resource of a plane, and what it brings along.
#[derive(Debug)]
pub struct PlaneUpdates {
    /// The changes.
    pub updates: Vec<Update>,
    /// The access logs that its records are written to, as configured.
    pub access_log: Members<AccessLog>,
    /// The same, compiled.
    pub sinks: Vec<SinkPlan>,
    /// Where each resource is in the tree.
    places: HashMap<(Kind, Name), Arc<Provenance>>,
}

impl PlaneUpdates {
    /// The resources that are set.
    pub fn keys(&self) -> impl Iterator<Item = &(Kind, Name)> {
        self.places.keys()
    }

    /// The path in the tree of a field of a resource.
    pub fn path(&self, kind: Kind, name: &Name, field: &str) -> String {
        let place = self.places.get(&(kind, Arc::clone(name)));
        place.map_or_else(|| field.to_owned(), |of| of.path(field))
    }
}

/// Checks the sections of one resource and translates them. Adds every error and warning to `diags`; `None` if there are
/// errors.
pub fn translate_plane(
    mut config: Config,
    input: PlaneInput<'_>,
    diags: &mut Diags,
) -> Option<PlaneUpdates> {
    let PlaneInput { root, folder, version, layer } = input;
    let inline = inline::expand(&mut config, diags);
    check::names_and_addresses(&config, diags);
    check::inspected_bytes(&config, diags);
    check::forward(&config, diags);
    check::routes(&config, diags);
    let (endpoint_files, store) = (EndpointFiles::new(), Store::default());
    let sources = ResourceSources {
        folder,
        endpoint_files: &endpoint_files,
        store: &store,
        discovered: true,
    };
    let translated = translate(&config, root, &inline, sources, diags);
    let process = Process::of(&config, folder, diags);
    if diags.has_errors() {
        return None;
    }
    let mut places = HashMap::new();
    let from = Arc::new(Provenance::Plane { version: Arc::clone(version) });
    let updates = translated.updates.into_iter().map(|update| match update {
        Update::Set { name, resource, from: place } => {
            places.insert((resource.kind(), Arc::clone(&name)), place);
            Update::Set { name, resource, from: Arc::clone(&from) }
        }
        Update::Remove { .. } => update,
    });
    let mut updates: Vec<Update> = updates.collect();
    if let Some(name) = layer {
        let values = config.runtime.values.0.iter();
        let values = values.map(|(key, value)| (key.clone(), value.value.clone())).collect();
        let (name, resource) = (Arc::clone(name), Resource::Runtime(Arc::new(values)));
        let place = Arc::new(Provenance::section("runtime"));
        places.insert((Kind::Runtime, Arc::clone(&name)), place);
        updates.push(Update::Set { name, resource, from });
    }
    let Process { access_log, sinks, .. } = process;
    Some(PlaneUpdates { updates, access_log, sinks, places })
}
