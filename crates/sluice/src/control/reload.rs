//! Reloads: the files are read again, and what changed is put in force.
//!
//! Owns: what triggers a reload, what is logged of it, the files that are watched. Refuses to know: how a change is
//! put in force. Keeps: a failure leaves everything as it was, is logged once, and is shown without lines of the
//! configuration, which may contain secrets.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_model::diff::Diff;
use sluice_tls::LoadError;

use super::build::{Built, Rejected};
use super::{Control, RELOADS, SNAPSHOT, Trigger, fixed};

impl Control {
    pub(super) async fn reload(&self, config: &Path, trigger: Trigger) {
        self.builder.around.fetches.reread();
        let was_failing = self.in_force.borrow().last_failure.is_some();
        let outcome = self.try_reload(config, trigger).await;
        let now = self.clock.wall(self.clock.now());
        self.vitals.reloaded(outcome.is_ok(), now);
        let code = match &outcome {
            Ok(Some(diff)) => {
                let number = self.in_force.borrow().number;
                tracing::info!(snapshot = number, "reloaded: {diff}");
                "applied"
            }
            Ok(None) if was_failing => {
                tracing::info!("the configuration is usable again; nothing changed");
                "unchanged"
            }
            // Files are touched for many reasons; only a reload by signal reports that nothing changed.
            Ok(None) if trigger == Trigger::Watch => return,
            Ok(None) => {
                tracing::info!("reload: nothing changed");
                "unchanged"
            }
            Err(error) => {
                self.reread_endpoints().await;
                let failure = ReloadFailure::of(error);
                let mut in_force = self.in_force.borrow_mut();
                // Watched folders change for many reasons; the same failure is reported once.
                let before = in_force.last_failure.as_ref();
                if trigger == Trigger::Watch && before.is_some_and(|(same, _)| *same == failure) {
                    return;
                }
                in_force.last_failure = Some((failure, now));
                drop(in_force);
                tracing::error!(
                    "reload failed; the current configuration stays in force: {error:#}"
                );
                "failed"
            }
        };
        if trigger == Trigger::Signal && code != "failed" {
            self.tell_of_planes();
        }
        self.shard.counter(&RELOADS, &[code]).increment();
        self.report.reloaded(code, self.in_force.borrow().number);
    }

    pub(super) fn tell_stale_certificates(&self, stale: &[LoadError]) {
        for trouble in stale {
            let help = trouble.help.unwrap_or("fix the file and reload");
            tracing::error!(
                "cannot load a certificate; the current one stays in use: {trouble}; {help}"
            );
            self.shard.counter(&RELOADS, &["stale_certificate"]).increment();
        }
    }

    pub(super) async fn try_reload(
        &self,
        config: &Path,
        trigger: Trigger,
    ) -> anyhow::Result<Option<Diff>> {
        let _turn = self.turn.lock().await;
        let (builder, path) = (Arc::clone(&self.builder), config.to_owned());
        let store = Arc::clone(&self.store.borrow());
        let build = move || {
            // The sender of a signal wants to know of every certificate that does not load.
            let stale = match trigger {
                Trigger::Signal => builder.refresh_certificates(),
                Trigger::Watch => Vec::new(),
            };
            (builder.build(&path, &store), stale)
        };
        let (built, mut stale) = tokio::task::spawn_blocking(build).await?;
        let built = built?;
        let verdicts = &built.staged.verdicts;
        let diff = Diff::of(verdicts, &self.in_force.borrow().process, &built.process);
        let known = |new: &&LoadError| !stale.iter().any(|old| old.path == new.path);
        let more: Vec<_> = built.staged.stale_certificates.iter().filter(known).cloned().collect();
        stale.extend(more);
        self.tell_stale_certificates(&stale);
        let (verdicts, stale) = (verdicts.clone(), built.staged.stale_endpoint_files.clone());
        if diff.is_empty() {
            self.note_endpoint_files(&stale, &verdicts);
            self.in_force.borrow_mut().last_failure = None;
            return Ok(None);
        }
        for fixed in fixed::changes(&self.in_force.borrow().process, &built.process) {
            tracing::warn!("the change of `{fixed}` takes effect after a restart");
        }
        let Built { sources, folder, process, node_section: _, staged, diags } = built;
        self.put_in_force(&process, staged).await?;
        self.note_endpoint_files(&stale, &verdicts);
        let mut in_force = self.in_force.borrow_mut();
        in_force.number += 1;
        in_force.loaded_at = self.clock.wall(self.clock.now());
        in_force.sources = sources;
        in_force.folder = folder;
        in_force.process = Arc::new(process);
        in_force.warnings = diags.counts().1;
        in_force.last_failure = None;
        self.shard.gauge(&SNAPSHOT, &[]).set(in_force.number);
        drop(in_force);
        self.tell_certificates();
        self.names_left.set(true);
        self.forget_names();
        Ok(Some(diff))
    }

    /// Every file that causes a reload when it changes.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let (in_force, store) = (self.in_force.borrow(), self.store.borrow());
        let sources = &in_force.sources;
        let own = sources.paths().chain(sources.value_paths());
        let own = own.chain(in_force.process.runtime_file.as_deref());
        let mut named: BTreeSet<PathBuf> = own.chain(store.files()).map(Into::into).collect();
        named.extend(self.builder.around.fetches.files());
        let files = store.clusters().filter_map(|(_, cluster)| cluster.endpoint_file.as_ref());
        named.extend(files.map(|file| file.path.clone()));
        named.into_iter().collect()
    }
}

/// A reload that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReloadFailure {
    /// The text for the admin pages: without lines of the configuration, which may contain secrets.
    pub(super) brief: String,
    /// A hash of the content read and of the error.
    content: u64,
}

impl ReloadFailure {
    fn of(error: &anyhow::Error) -> Self {
        let mut hasher = DefaultHasher::new();
        format!("{error:#}").hash(&mut hasher);
        let rejected = error.downcast_ref::<Box<Rejected>>();
        if let Some(rejected) = rejected {
            rejected.loaded.sources.texts().for_each(|text| text.hash(&mut hasher));
        }
        let brief = rejected.map_or_else(|| format!("{error:#}"), |rejected| rejected.brief());
        Self { brief, content: hasher.finish() }
    }
}
