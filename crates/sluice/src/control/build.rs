//! Reads configurations and stages changes, off the control thread.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sluice_config::{Loaded, Sources, render};
use sluice_core::clock::ClockOrigin;
use sluice_core::{Diags, Node, Severity};
use sluice_model::compile::{SharedParts, Surroundings};
use sluice_model::files::{FilesInput, stage_files};
use sluice_model::process::Process;
use sluice_model::store::{Batch, Staged, Store, stage};
use sluice_sys::memory;
use sluice_tls::LoadError;

use super::form::ConfigForm;
use crate::Extensions;

/// State that outlives every configuration and is needed to stage one.
#[derive(Debug)]
pub(crate) struct ConfigBuilder {
    pub(crate) around: Surroundings,
    pub(super) form: ConfigForm,
    shared: Mutex<SharedParts>,
}

/// A configuration that was read and staged without errors.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) sources: Sources,
    pub(crate) folder: PathBuf,
    pub(crate) process: Process,
    /// The section `node`, which clusters of a control plane are read with; only if there is one.
    #[cfg_attr(not(feature = "envoy"), allow(dead_code, reason = "planes read it"))]
    pub(crate) node_section: Option<Node>,
    pub(crate) staged: Staged,
    /// The findings: warnings only.
    pub(crate) diags: Diags,
}

impl Built {
    /// The warnings, each rendered as text.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let render = |found| render::text(std::slice::from_ref(found), &self.sources, false);
        self.diags.iter().map(render)
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
        let findings = self.loaded.diags.sorted();
        let counts = render::counts(errors, warnings);
        let findings = render::brief(&findings, &self.loaded.sources, false);
        write!(f, "{counts} in the configuration\n{findings}")
    }
}

impl std::error::Error for Rejected {}

impl Rejected {
    /// Each error with its place, without source lines.
    pub(crate) fn brief(&self) -> String {
        let mut errors = self.loaded.diags.sorted();
        errors.retain(|found| found.severity == Severity::Error);
        let lines: Vec<_> =
            errors.iter().map(|error| render::line(error, &self.loaded.sources)).collect();
        lines.join("\n")
    }
}

impl ConfigBuilder {
    pub(crate) fn new(extensions: Extensions, form: ConfigForm) -> Self {
        let Extensions { connection, http } = extensions;
        Self { around: Surroundings::new(connection, http), form, shared: Mutex::default() }
    }

    /// Reads configurations in another form from now on.
    #[cfg(feature = "envoy")]
    pub(crate) fn set_form(&mut self, form: ConfigForm) {
        self.form = form;
    }

    /// Reads a configuration and stages it beside `store`.
    ///
    /// # Errors
    /// [`Rejected`] if the configuration has errors.
    pub(crate) fn build(&self, path: &Path, store: &Store) -> Result<Built, Box<Rejected>> {
        self.build_loaded(self.form.load(path), store)
    }

    /// Stages a configuration that was read.
    pub(crate) fn build_loaded(
        &self,
        mut loaded: Loaded,
        store: &Store,
    ) -> Result<Built, Box<Rejected>> {
        let Some((config, root)) = loaded.config.take().zip(loaded.root.take()) else {
            return Err(Box::new(Rejected { loaded }));
        };
        let node = root.get("node").filter(|_| config.xds.is_some());
        let node_section = node.map(|entry| entry.node.clone());
        let input = FilesInput {
            config,
            root,
            folder: &loaded.folder,
            endpoint_files: &loaded.endpoint_files,
            tables: std::mem::take(&mut loaded.tables),
            discovered: loaded.discovered,
        };
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let diags = &mut loaded.diags;
        let staged = stage_files(input, store, &self.around, &mut shared, wall(), diags);
        // The sections and the tree of large files are freed by now.
        memory::give_back();
        match staged {
            None => Err(Box::new(Rejected { loaded })),
            Some((process, staged)) => Ok(Built {
                sources: loaded.sources,
                folder: loaded.folder,
                process,
                node_section,
                staged,
                diags: loaded.diags,
            }),
        }
    }

    /// Stages what a control plane asks for.
    pub(crate) fn stage(&self, batch: Batch, store: &Store) -> Staged {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        stage(store, batch, &self.around, &mut shared, wall(), &mut Diags::new())
    }

    /// Reads the files of every certificate again. Returns those that do not load; the ones in use stay.
    pub(crate) fn refresh_certificates(&self) -> Vec<LoadError> {
        let stored = self.around.certs.list();
        stored.iter().filter_map(|stored| stored.refresh().err()).collect()
    }
}

/// The time since the Unix epoch.
fn wall() -> Duration {
    let clock = ClockOrigin::read().clock();
    clock.wall(clock.now())
}
