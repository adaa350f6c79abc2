//! From the Model to the plans that workers run.
//!
//! Owns: files that resources name, filters and indexes: whatever a resource needs besides its own values. Refuses to
//! know: where a resource came from, and which others exist. Keeps: a reference is a handle by name, so that a resource
//! is compiled alone and once; every failure is reported with the path of the field in the resource.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::suggest_word;
use sluice_core::{Diags, Name};
use sluice_l4::filters::{Fetches, Filters};
use sluice_l7::filters::HttpFilterPlan;
use sluice_l7::runtime::RuntimeKind;
use sluice_l7::{HttpFilters, Runtime};
use sluice_tls::{Authorities, CertStore, ClientTls, LoadError, PemSource};
use sluice_upstream::ClusterDirectory;
use sluice_upstream::plan::ClusterSettings;

use crate::model::{self, Kind, Reference, tls::CertificateSource};

mod client_auth;
mod clusters;
mod filter_names;
mod http;
mod listeners;
pub(crate) mod maps;
mod quic;
mod routes;
mod secrets;
#[cfg(test)]
mod tests;
mod tls;

pub(crate) use listeners::chain_table;
pub use listeners::{ListenerSnapshot, PlanKind};
pub use maps::LiveMaps;
pub use routes::RouteCells;
pub(crate) use secrets::SecretContent;
pub use secrets::SecretUsers;

/// What outlives every configuration, and what compiling one needs.
#[derive(Debug)]
pub struct Surroundings {
    /// Certificates in use.
    pub certs: CertStore,
    /// The filters that use secrets.
    pub secrets: SecretUsers,
    /// Lookup tables by name.
    pub maps: LiveMaps,
    /// Content that is fetched for filters.
    pub fetches: Arc<Fetches>,
    /// Connection filters by name.
    pub filters: Filters,
    /// HTTP filters by name.
    pub http_filters: HttpFilters,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// Clusters by name.
    pub clusters: Arc<ClusterDirectory>,
    /// Route tables by name.
    pub routes: RouteCells,
}

impl Surroundings {
    /// Nothing configured yet; these filters are known.
    pub fn new(filters: Filters, http_filters: HttpFilters) -> Self {
        Self {
            certs: CertStore::default(),
            secrets: SecretUsers::default(),
            maps: LiveMaps::default(),
            fetches: Arc::default(),
            filters,
            http_filters,
            runtime: Arc::default(),
            clusters: Arc::default(),
            routes: RouteCells::default(),
        }
    }
}

#[cfg(test)]
impl Default for Surroundings {
    fn default() -> Self {
        Self::new(sluice_l7::connection_filters::built_in(), sluice_l7::filters::built_in())
    }
}

/// What several resources are compiled from, read once.
#[derive(Debug, Default)]
pub struct SharedParts {
    authorities: Authorities,
    /// TLS configurations of clusters, with the content of their files.
    client_tls: HashMap<Arc<model::tls::ClientTls>, (ClientTls, Vec<NamedFile>)>,
    hashes: HashMap<PathBuf, Option<u64>>,
    /// Settings of clusters: those of one fleet are alike.
    settings: HashSet<Arc<ClusterSettings>>,
}

/// A hash of the content of a file; `None` if it cannot be read.
pub(crate) type NamedFile = (PathBuf, Option<u64>);

impl SharedParts {
    /// Begins another batch. Files are read again; the authorities of the system only for `files`, since a control
    /// plane sends many small batches.
    pub(crate) fn begin(&mut self, files: bool) {
        if files {
            *self = Self::default();
            return;
        }
        self.hashes.clear();
        self.authorities.forget_files();
        // Those that no cluster uses any more.
        self.client_tls.retain(|_, (tls, _)| Arc::strong_count(&tls.config) > 1);
        self.settings.retain(|settings| Arc::strong_count(settings) > 1);
    }

    /// Has a cluster share its settings with those before it that have the same.
    pub(crate) fn share_settings(&mut self, cluster: &mut Arc<model::cluster::Cluster>) {
        match self.settings.get(&cluster.settings) {
            None => _ = self.settings.insert(Arc::clone(&cluster.settings)),
            Some(known) if Arc::ptr_eq(known, &cluster.settings) => {}
            Some(known) => Arc::make_mut(cluster).settings = Arc::clone(known),
        }
    }

    /// The TLS configuration of a cluster that was built before, from the same content of its files.
    fn client_tls(&mut self, of: &model::tls::ClientTls) -> Option<ClientTls> {
        let (known, files) = self.client_tls.get(of)?;
        let (known, files) = (known.clone(), files.clone());
        self.are_current(&files).then_some(known)
    }

    /// Whether the files still have the content that they were compiled with.
    pub(crate) fn are_current(&mut self, files: &[NamedFile]) -> bool {
        files.iter().all(|(path, hash)| self.hash_of(path) == *hash)
    }

    fn hash_of(&mut self, path: &FilePath) -> Option<u64> {
        if let Some(known) = self.hashes.get(path) {
            return *known;
        }
        let hash = std::fs::read(path).ok().map(|content| {
            let mut hasher = DefaultHasher::new();
            content.hash(&mut hasher);
            hasher.finish()
        });
        self.hashes.insert(path.to_owned(), hash);
        hash
    }
}

/// Compiles one resource.
pub(crate) struct Compiler<'a> {
    around: &'a Surroundings,
    shared: &'a RefCell<SharedParts>,
    others: &'a dyn OtherResources,
    /// Seconds since the Unix epoch, for the validity of certificates.
    now: u64,
    files: RefCell<BTreeSet<PathBuf>>,
    /// Certificates that no longer load; those in use before are kept.
    stale: RefCell<Vec<LoadError>>,
    runtime_keys: RefCell<BTreeSet<(String, RuntimeKind)>>,
    /// The clusters, secrets and maps that filters name.
    named: RefCell<BTreeSet<(Kind, Name)>>,
    /// What filters name, cannot do without, and may still come.
    missing: RefCell<Vec<Reference>>,
    chains: RefCell<Vec<FilteredChain>>,
}

/// The HTTP filters of a chain, which complete the filter settings of its routes.
#[derive(Debug)]
pub(crate) struct FilteredChain {
    /// The listener and chain.
    pub(crate) owner: Name,
    /// Its route table.
    pub(crate) routes: Name,
    /// The filters with their names.
    pub(crate) filters: Vec<(Name, Arc<dyn HttpFilterPlan>)>,
}

/// The resources beside the one that is compiled.
pub(crate) trait OtherResources {
    /// A secret.
    fn secret(&self, name: &Name) -> Option<SecretContent>;

    /// Whether what does not exist may still come.
    fn may_come(&self) -> bool;

    /// The folder that relative paths are resolved against.
    fn folder(&self) -> Option<&FilePath>;

    /// What is wrong with naming this resource, and what to do about it; `None` if nothing is.
    fn why_unknown(&self, kind: Kind, name: &Name) -> Option<(String, String)>;
}

/// What a resource was compiled with, besides its own values.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// The files that it names.
    pub(crate) files: Vec<NamedFile>,
    /// Certificates that no longer load; those in use before are kept.
    pub(crate) stale: Vec<LoadError>,
    /// The runtime values that it reads, and as what.
    pub(crate) runtime_keys: Vec<(String, RuntimeKind)>,
    /// The clusters, secrets and maps that its filters name.
    pub(crate) named: Vec<(Kind, Name)>,
    /// What its filters name, cannot do without, and may still come; if there is any, the resource did not compile.
    pub(crate) missing: Vec<Reference>,
    /// The chains with HTTP.
    pub(crate) chains: Vec<FilteredChain>,
}

impl Inputs {
    /// Whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        let Self { files, stale: _, runtime_keys, named, missing: _, chains } = self;
        files.is_empty() && runtime_keys.is_empty() && named.is_empty() && chains.is_empty()
    }
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(
        around: &'a Surroundings,
        shared: &'a RefCell<SharedParts>,
        others: &'a dyn OtherResources,
        now: Duration,
    ) -> Self {
        Self {
            around,
            shared,
            others,
            now: now.as_secs(),
            files: RefCell::default(),
            stale: RefCell::default(),
            runtime_keys: RefCell::default(),
            named: RefCell::default(),
            missing: RefCell::default(),
            chains: RefCell::default(),
        }
    }

    /// What was used besides the resource itself.
    pub(crate) fn into_inputs(self) -> Inputs {
        let mut shared = self.shared.borrow_mut();
        let hashed = |path: PathBuf| {
            let hash = shared.hash_of(&path);
            (path, hash)
        };
        Inputs {
            files: self.files.into_inner().into_iter().map(hashed).collect(),
            stale: self.stale.into_inner(),
            runtime_keys: self.runtime_keys.into_inner().into_iter().collect(),
            named: self.named.into_inner().into_iter().collect(),
            missing: self.missing.into_inner(),
            chains: self.chains.into_inner(),
        }
    }

    /// Notes a file that the resource names.
    fn uses(&self, file: &FilePath) {
        self.files.borrow_mut().insert(file.to_owned());
    }

    fn uses_pem(&self, source: &PemSource) {
        source.file().into_iter().for_each(|file| self.uses(file));
    }

    fn uses_certificate(&self, source: &CertificateSource) {
        if let CertificateSource::Pem { cert, key } = source {
            self.uses_pem(cert);
            key.iter().for_each(|key| self.uses_pem(key));
        }
    }
}

/// Reports a filter that does not exist.
fn unknown_filter(
    kind: &str,
    name: &str,
    known: &[&str],
    at: &sluice_core::Path<'_>,
    diags: &mut Diags,
) {
    let help =
        suggest_word(name, known).unwrap_or_else(|| format!("known {kind}s: {}", known.join(", ")));
    diags
        .error("unknown-name", None, at, format!("there is no {kind} `{name}`"))
        .on_key()
        .help(help);
}

/// Reports a file that does not load, at the field that names it.
fn report(error: &LoadError, at: &sluice_core::Path<'_>, diags: &mut Diags) {
    let finding = diags.error("bad-file", None, at, error.to_string());
    if let Some(help) = error.help {
        finding.help(help);
    }
}
