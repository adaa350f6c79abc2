//! From the sections of a configuration to the Model.
//!
//! Owns: what each section means, and the findings about a section that its own fields are enough for. Refuses to know:
//! certificates, filters and everything else that is compiled. Keeps: every field of a section is named here, so that a
//! new one cannot be forgotten; a resource with errors is left out, and its name is still known to exist.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path as FilePath, PathBuf};

use sluice_core::{Diags, Name, Node};

use crate::inline::InlinePlaces;
use crate::model::{FilterConfig, Kind};
use crate::sections::{Config, FilterUse};
use crate::store::{Store, Update};

mod clusters;
mod early_data;
pub mod endpoints;
mod health;
pub(crate) mod http;
mod listeners;
mod maps;
mod quic;
pub mod routes;
mod secrets;
mod sockets;
mod tls;

use endpoints::EndpointFiles;

/// The resources of a configuration.
#[derive(Debug, Default)]
pub struct Translated {
    /// Those without errors of their own.
    pub updates: Vec<Update>,
    /// Every name, of those with errors too.
    pub declared: HashSet<(Kind, Name)>,
    /// The clusters whose endpoint file cannot be used, and why; the last good endpoints are kept.
    pub stale_endpoint_files: BTreeMap<Name, String>,
}

/// What resources come from, besides the sections.
#[derive(Clone, Copy)]
pub(crate) struct ResourceSources<'a> {
    /// The folder that relative paths are resolved against.
    pub(crate) folder: &'a FilePath,
    /// Files with endpoints.
    pub(crate) endpoint_files: &'a EndpointFiles,
    /// The resources in force.
    pub(crate) store: &'a Store,
    /// Whether clusters may be without endpoints, which come from a control plane.
    pub(crate) discovered: bool,
}

/// Translates the resources of `config`, which was read from `root`; `inline` has the places of those without a
/// section. Adds errors and warnings to `diags`.
pub(crate) fn translate(
    config: &Config,
    root: &Node,
    inline: &InlinePlaces,
    sources: ResourceSources<'_>,
    diags: &mut Diags,
) -> Translated {
    let mut all = Translated::default();
    let context = Context { config, root, inline, sources };
    context.secrets(&mut all);
    context.maps(&mut all, diags);
    context.clusters(&mut all, diags);
    context.routes(&mut all, diags);
    context.listeners(&mut all, diags);
    all
}

/// What a section is translated with.
#[derive(Clone, Copy)]
struct Context<'a> {
    config: &'a Config,
    root: &'a Node,
    inline: &'a InlinePlaces,
    sources: ResourceSources<'a>,
}

impl Context<'_> {
    fn file(self, path: &FilePath) -> PathBuf {
        self.sources.folder.join(path)
    }
}

fn filters(uses: &[FilterUse]) -> Vec<FilterConfig> {
    let config = |FilterUse { name, settings }: &FilterUse| FilterConfig {
        name: name.value.clone(),
        settings: settings.clone(),
    };
    uses.iter().map(config).collect()
}
