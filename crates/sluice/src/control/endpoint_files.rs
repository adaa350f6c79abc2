//! Files with the endpoints of clusters: which of them cannot be used, and since when.
//!
//! Owns: what is logged, counted and shown of each, and how they are read when the configuration itself is broken.
//! Refuses to know: what is in them. Keeps: a file that cannot be used changes nothing, and neither does it keep other
//! files from taking effect; the same problem is logged once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_config::endpoint_file;
use sluice_core::Name;
use sluice_core::clock::rfc3339;
use sluice_model::files::FILES;
use sluice_model::model::cluster::EndpointFile;
use sluice_model::model::{Kind, Resource};
use sluice_model::provenance::Provenance;
use sluice_model::store::{Batch, BatchMode, Outcome, ResourceVerdict, Store, Update};
use sluice_model::translate::endpoints::of_file;
use sluice_telemetry::Shard;

use super::Control;

sluice_telemetry::metrics! {
    READS = "sluice_endpoint_file_reads_total", Counter, ["cluster", "result"], "New contents of the cluster's endpoint file, by result: applied, or failed where the last good content is kept.";
    STALE = "sluice_endpoint_file_stale", Gauge, ["cluster"], "Whether the cluster's endpoint file cannot be used: 1 while the last good content is kept.";
}

/// The state of every endpoint file, by cluster.
#[derive(Debug, Default)]
pub(super) struct EndpointFileStates(RefCell<BTreeMap<Name, FileState>>);

#[derive(Debug, Default)]
struct FileState {
    /// When the content in force was applied, as time since the Unix epoch.
    applied_at: Duration,
    /// Why the newest content is not in force, and since when.
    failure: Option<(String, Duration)>,
}

impl EndpointFileStates {
    /// Takes note of what became of the files: `stale` cannot be used, and `verdicts` tell which endpoints changed.
    pub(super) fn note(
        &self,
        store: &Store,
        stale: &BTreeMap<Name, String>,
        verdicts: &[ResourceVerdict],
        shard: &Shard,
        now: Duration,
    ) {
        let changed = |name: &Name| {
            let of = |verdict: &&ResourceVerdict| {
                verdict.kind == Kind::Endpoints && verdict.name == *name
            };
            let outcome = verdicts.iter().find(of).map(|verdict| &verdict.outcome);
            matches!(outcome, Some(Outcome::Added | Outcome::Changed))
        };
        let mut before = self.0.take();
        let mut states = self.0.borrow_mut();
        for (name, file) in
            store.clusters().filter_map(|(name, of)| Some((name, of.endpoint_file.as_ref()?)))
        {
            let mut state = before.remove(name).unwrap_or_default();
            let problem = stale.get(name);
            let known = state.failure.as_ref().map(|(problem, _)| problem);
            if let Some(problem) = problem.filter(|problem| known != Some(*problem)) {
                shard.counter(&READS, &[name, "failed"]).increment();
                tracing::error!(
                    cluster = &**name,
                    "the endpoint file cannot be used; its last good content stays in force: {problem}"
                );
                state.failure = Some((problem.clone(), now));
            } else if problem.is_none() {
                if state.failure.take().is_some() {
                    let file = file.path.display();
                    tracing::info!(
                        cluster = &**name,
                        "the endpoint file can be used again: {file}"
                    );
                }
                if changed(name) || state.applied_at.is_zero() {
                    shard.counter(&READS, &[name, "applied"]).increment();
                    state.applied_at = now;
                }
            }
            shard.gauge(&STALE, &[name]).set(u64::from(problem.is_some()));
            states.insert(Arc::clone(name), state);
        }
    }

    /// Why the newest content of a cluster's file is not in force, and since when.
    pub(super) fn failure(&self, name: &Name) -> Option<(String, Duration)> {
        self.0.borrow().get(name)?.failure.clone()
    }

    /// What the admin pages show of the file of a cluster.
    pub(super) fn show(&self, name: &Name, store: &Store) -> Option<Value> {
        let file = store.cluster(name)?.endpoint_file.as_ref()?;
        let mut item = json!({ "path": file.path.display().to_string() });
        if let Some(state) = self.0.borrow().get(name) {
            item["applied_at"] = rfc3339(state.applied_at).into();
            if let Some((problem, since)) = &state.failure {
                item["failure"] = problem.as_str().into();
                item["failing_since"] = rfc3339(*since).into();
            }
        }
        Some(item)
    }
}

impl Control {
    /// Reads the endpoint files alone, for when the configuration that names them has errors.
    pub(super) async fn reread_endpoints(&self) {
        let files: Vec<(Name, Arc<EndpointFile>)> = {
            let store = self.store.borrow();
            let clusters = store.clusters();
            let of = |(name, of): (&Name, &sluice_model::model::Cluster)| {
                Some((Arc::clone(name), Arc::clone(of.endpoint_file.as_ref()?)))
            };
            clusters.filter_map(of).collect()
        };
        if files.is_empty() {
            return;
        }
        let Ok(read) = tokio::task::spawn_blocking(move || read_all(files)).await else { return };
        let (updates, stale) = read;
        // As a control plane does: the configuration around the endpoints stays as it is.
        let mode = BatchMode::Plane { patience: Duration::ZERO };
        match self.apply(Batch { source: FILES.into(), updates, mode }).await {
            Ok(verdicts) => self.note_endpoint_files(&stale, &verdicts),
            Err(error) => tracing::error!("endpoint files cannot be applied: {error:#}"),
        }
    }

    pub(super) fn note_endpoint_files(
        &self,
        stale: &BTreeMap<Name, String>,
        verdicts: &[ResourceVerdict],
    ) {
        let now = self.clock.wall(self.clock.now());
        self.endpoint_files.note(&self.store.borrow(), stale, verdicts, &self.shard, now);
    }
}

/// The endpoints in these files, and the problems of those that cannot be used.
fn read_all(files: Vec<(Name, Arc<EndpointFile>)>) -> (Vec<Update>, BTreeMap<Name, String>) {
    let (mut read, mut updates, mut stale) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (name, file) in files {
        let list =
            read.entry(file.path.clone()).or_insert_with_key(|path| endpoint_file::read(path));
        let used = list.as_ref().map_err(String::clone);
        match used.and_then(|list| of_file(list, &file)) {
            Ok(endpoints) => {
                // Endpoints have no fields of their own that a finding could point at.
                let from = Provenance::section(format!("clusters.{name}"));
                updates.push(Update::set(&name, Resource::Endpoints(endpoints), from));
            }
            Err(problem) => drop(stale.insert(name, problem)),
        }
    }
    (updates, stale)
}
