//! Reads and builds a configuration, off the control thread.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_config::{Loaded, Sources, load, render};
use sluice_core::clock::ClockOrigin;
use sluice_core::{Diags, Name, Severity};
use sluice_l7::runtime::Origin;
use sluice_l7::{RouteCell, Runtime};
use sluice_model::Config;
use sluice_model::build::{BuildInput, Snapshot, build};
use sluice_tls::CertStore;
use sluice_upstream::Cluster;

use crate::Extensions;

/// State that outlives every configuration and is needed to build one.
#[derive(Debug)]
pub(crate) struct ConfigBuilder {
    pub(crate) certs: CertStore,
    extensions: Extensions,
    /// Runtime values of the process.
    pub(crate) runtime: Arc<Runtime>,
    /// Live routes, by name.
    routes: Mutex<HashMap<Name, Arc<RouteCell>>>,
    /// Live clusters, by name.
    live: Mutex<HashMap<Name, Arc<Cluster>>>,
}

/// A configuration that was read and built without errors.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) sources: Sources,
    pub(crate) config: Config,
    pub(crate) snapshot: Arc<Snapshot>,
    /// A hash of every file that the configuration names.
    pub(crate) fingerprint: Vec<(PathBuf, Option<u64>)>,
    /// The findings: warnings only.
    pub(crate) diags: Diags,
}

impl Built {
    /// The warnings, each rendered as text.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let render = |found| render::text(std::slice::from_ref(found), &self.sources, false);
        self.diags.iter().map(render)
    }

    /// Every file that causes a reload when it changes.
    pub(crate) fn watched(&self) -> Vec<PathBuf> {
        let sources = self.sources.paths().map(Path::to_path_buf);
        sources.chain(self.snapshot.files.iter().cloned()).collect()
    }
}

/// A configuration with errors, rendered as text.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) loaded: Loaded,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (errors, warnings) = self.loaded.diags.counts();
        let findings: Vec<_> = self.loaded.diags.iter().cloned().collect();
        let counts = render::counts(errors, warnings);
        let findings = render::brief(&findings, &self.loaded.sources, false);
        write!(f, "{counts} in the configuration\n{findings}")
    }
}

impl std::error::Error for Rejected {}

impl Rejected {
    /// Each error with its place, without source lines.
    pub(crate) fn brief(&self) -> String {
        let errors = self.loaded.diags.iter().filter(|found| found.severity == Severity::Error);
        let lines: Vec<_> = errors.map(|error| render::line(error, &self.loaded.sources)).collect();
        lines.join("\n")
    }
}

impl ConfigBuilder {
    pub(crate) fn new(extensions: Extensions) -> Self {
        Self {
            certs: CertStore::default(),
            extensions,
            runtime: Arc::default(),
            routes: Mutex::default(),
            live: Mutex::default(),
        }
    }

    /// Puts routes and runtime values of a snapshot in force, and records the live routes.
    pub(crate) fn set_routes(&self, snapshot: &Snapshot) {
        let (own, of_file) = &snapshot.runtime;
        self.runtime.set_layer(Origin::Static, own.clone());
        self.runtime.set_layer(Origin::File, of_file.clone());
        let mut live = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        live.clear();
        for (name, (cell, table)) in &snapshot.routes {
            cell.set(Arc::clone(table));
            live.insert(name.clone(), Arc::clone(cell));
        }
    }

    /// Records the live clusters.
    pub(crate) fn remember(&self, lives: HashMap<Name, Arc<Cluster>>) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = lives;
    }

    /// Reads and builds a configuration.
    ///
    /// # Errors
    /// [`Rejected`] if the configuration has errors.
    pub(crate) fn build(&self, path: &Path) -> Result<Built, Box<Rejected>> {
        self.build_loaded(load(path))
    }

    /// Builds a configuration that was read.
    pub(crate) fn build_loaded(&self, mut loaded: Loaded) -> Result<Built, Box<Rejected>> {
        let Some(config) = loaded.config.take() else { return Err(Box::new(Rejected { loaded })) };
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let clock = ClockOrigin::read().clock();
        let input = BuildInput {
            certs: &self.certs,
            filters: &self.extensions.connection,
            http_filters: &self.extensions.http,
            runtime: &self.runtime,
            routes: &|name, table| {
                let known = routes.get(name).map(Arc::clone);
                known.unwrap_or_else(|| Arc::new(RouteCell::new(name.clone(), Arc::clone(table))))
            },
            folder: &loaded.folder,
            cluster: &|plan| {
                live.get(&plan.name)
                    .map_or_else(|| Arc::new(Cluster::new(Arc::clone(plan))), Arc::clone)
            },
            now: clock.wall(clock.now()).as_secs(),
        };
        let Some(snapshot) = build(&config, &input, &mut loaded.diags) else {
            return Err(Box::new(Rejected { loaded }));
        };
        let fingerprint = snapshot.files.iter().map(|file| (file.clone(), hash_of(file))).collect();
        Ok(Built {
            sources: loaded.sources,
            config,
            snapshot: Arc::new(snapshot),
            fingerprint,
            diags: loaded.diags,
        })
    }
}

fn hash_of(file: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    std::fs::read(file).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}
