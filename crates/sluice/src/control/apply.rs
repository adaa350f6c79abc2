//! Putting changes in force: everything that can fail is prepared before anything changes.
//!
//! Owns: the order of staging, binding, preparing and committing; what a failure leaves behind. Refuses to know: where
//! a batch came from. Keeps: one change at a time; what is not named by a change goes on undisturbed; a change costs
//! this thread what it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sluice_core::Name;
use sluice_l7::runtime::{Origin, RuntimeMap};
use sluice_l7::worker::HttpWorker;
use sluice_model::process::Process;
use sluice_model::reach;
use sluice_model::store::{Batch, BatchMode, Outcome, ResourceVerdict, Staged};
use sluice_telemetry::log::{OpenSinks, SinkPlan};
use sluice_upstream::registry::FirstRound;

use super::sockets::{ListenerChanges, NextSockets};
use super::{Control, RESOURCE_CHANGES, Stage, takeover};
use crate::worker::{ServeScope, UnservedListener, Wanted, WorkerCommand};

/// How long the start waits for host names to be resolved and for first checks.
const FIRST_ROUNDS: Duration = Duration::from_secs(5);

/// How long it waits before it logs that it does.
const TELL_ROUNDS: Duration = Duration::from_millis(300);

impl Control {
    /// Puts what a control plane asks for in force, as far as it can be. Returns what became of each resource.
    pub(super) async fn apply(&self, batch: Batch) -> anyhow::Result<Vec<ResourceVerdict>> {
        let _turn = self.turn.lock().await;
        let store = Arc::clone(&self.store.borrow());
        let builder = Arc::clone(&self.builder);
        let stage = move || builder.stage(batch, &store);
        let mut staged = tokio::task::spawn_blocking(stage).await?;
        let now = self.clock.wall(self.clock.now());
        loop {
            match self.prepare_listeners(&staged.listeners()).await {
                Ok(next) => {
                    let verdicts = staged.verdicts.clone();
                    self.count_changes(&verdicts);
                    let removed = self.commit_staged(staged);
                    self.serve(next, removed).await;
                    return Ok(verdicts);
                }
                // The listeners are tried again without those that cannot be served.
                Err(error) => match error.downcast::<UnservedListener>() {
                    Ok(unserved) => {
                        let problem = unserved.to_string();
                        staged.reject_listener(&unserved.name, problem, now);
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Waits until a resource has waited for too long; forever if none waits.
    pub(super) async fn next_deadline(&self) {
        let deadline = self.store.borrow().next_deadline();
        match deadline {
            Some(at) => {
                let now = self.clock.wall(self.clock.now());
                tokio::time::sleep(at.saturating_sub(now)).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Gives up resources that have waited for too long.
    pub(super) async fn expire(&self) {
        let mode = BatchMode::Plane { patience: Duration::ZERO };
        let batch = Batch { source: "sluice".into(), updates: Vec::new(), mode };
        match self.apply(batch).await {
            Ok(verdicts) => {
                for verdict in verdicts {
                    tracing::warn!("{verdict}");
                }
            }
            Err(error) => tracing::error!("{error:#}"),
        }
    }

    /// Puts a configuration in force that was staged without errors: whole or not at all.
    pub(super) async fn put_in_force(
        &self,
        process: &Process,
        staged: Staged,
    ) -> anyhow::Result<()> {
        let sinks = OpenSinks::open(self.sinks_of(process))?;
        let mut next = self.prepare_listeners(&staged.listeners()).await?;
        // From here on nothing fails.
        self.log.use_sinks(sinks);
        let (own, of_file) = &process.runtime_values;
        let runtime = &self.builder.around.runtime;
        runtime.set_layer(Origin::Static, own.clone());
        self.tell_lost_values(of_file);
        runtime.set_layer(Origin::File, of_file.clone());
        self.count_changes(&staged.verdicts);
        let removed = self.commit_staged(staged);
        if self.stage.get() == Stage::Starting {
            let rounds = self.clusters.borrow().first_rounds();
            if let Some(next) = next.as_mut().filter(|_| !rounds.is_empty()) {
                self.await_clusters(&rounds, next).await;
            }
        }
        self.serve(next, removed).await;
        Ok(())
    }

    /// Counts what became of resources.
    fn count_changes(&self, verdicts: &[ResourceVerdict]) {
        for verdict in verdicts {
            let change = match &verdict.outcome {
                Outcome::Added => "added",
                Outcome::Changed => "changed",
                Outcome::Removed => "removed",
                Outcome::Rejected(_) => "rejected",
                Outcome::Refreshed | Outcome::Unchanged | Outcome::Waiting(_) => continue,
            };
            self.shard.counter(&RESOURCE_CHANGES, &[verdict.kind.word(), change]).increment();
        }
    }

    /// The access logs of the file, and of the listeners of control planes.
    pub(super) fn sinks_of(&self, process: &Process) -> Vec<SinkPlan> {
        #[cfg_attr(not(feature = "envoy"), allow(unused_mut, reason = "planes add to them"))]
        let mut sinks = process.sinks.clone();
        #[cfg(feature = "envoy")]
        if let Some(planes) = &*self.planes.borrow() {
            sinks.extend(planes.sinks());
        }
        sinks
    }

    /// Logs the runtime values that the file has set, and that are not among those of its new content.
    fn tell_lost_values(&self, new: &RuntimeMap) {
        let in_force = self.in_force.borrow();
        let (_, before) = &in_force.process.runtime_values;
        for name in before.keys().filter(|name| !new.contains_key(*name)) {
            tracing::warn!("the runtime file does not set `{name}` any more");
        }
    }

    /// Commits a batch to the store, and makes the clusters follow. Returns the clusters that were removed.
    fn commit_staged(&self, staged: Staged) -> Vec<Name> {
        let changes = {
            let mut store = self.store.borrow_mut();
            let store = Arc::get_mut(&mut store).expect("nothing is staged while it is committed");
            store.commit(staged, &self.builder.around)
        };
        let removed = changes.removed.clone();
        self.clusters.borrow_mut().apply(changes);
        removed
    }

    /// Binds the sockets of listeners that change, and has workers prepare to serve them. `None` if none changes.
    async fn prepare_listeners(
        &self,
        changes: &ListenerChanges,
    ) -> anyhow::Result<Option<NextSockets>> {
        // What an operator has stopped stays closed.
        let mut changes = changes.clone();
        changes.retain(|name, new| new.is_none() || !self.stopped.borrow().contains(name));
        let changes = &changes;
        if changes.is_empty() {
            return Ok(None);
        }
        let new = self.sockets.borrow().bind(changes)?;
        let (orders, next) = self.sockets.borrow().plan(new, changes);
        self.prepare(orders).await?;
        Ok(Some(next))
    }

    /// Has workers forget the clusters that were removed, begins new fetches, and has workers serve the listeners that they prepared.
    async fn serve(&self, next: Option<NextSockets>, removed: Vec<Name>) {
        if !removed.is_empty() {
            let pools = &HttpWorker::of(&self.worker).pools;
            pools.keep_only(|name| !removed.contains(name));
            let removed: Arc<[Name]> = removed.into();
            for worker in &self.workers {
                worker.order(WorkerCommand::ForgetClusters(Arc::clone(&removed))).await;
            }
        }
        // Before the listeners, so that they wait as little as possible for first contents.
        self.builder.around.fetches.start(&self.fetches);
        let Some(next) = next else { return };
        let gone = self.sockets.borrow_mut().commit(next);
        self.commit(&ServeScope::All { gone: gone.into() }).await;
        self.report.addresses(&self.sockets.borrow());
    }

    /// Serves the UDP ports that the previous process has released.
    pub(super) async fn take_over(&self, looks: &mut takeover::Looks) {
        if !self.sockets.borrow().may_bind_more() {
            return;
        }
        let _turn = self.turn.lock().await;
        let before = self.sockets.borrow().waiting();
        match self.bind_waiting().await {
            Ok(()) if self.sockets.borrow().waiting() < before => looks.succeeded(),
            // Another process was faster.
            Ok(()) => _ = looks.failed(String::new()),
            Err(error) => {
                let error = format!("{error:#}");
                if looks.failed(error.clone()) {
                    tracing::error!(
                        "cannot take over a port: {error}; Sluice keeps retrying, with growing pauses"
                    );
                }
            }
        }
    }

    async fn bind_waiting(&self) -> anyhow::Result<()> {
        let changes: ListenerChanges = {
            let (store, sockets) = (self.store.borrow(), self.sockets.borrow());
            let waits = |name: &Name| sockets.waits(name);
            let all = store.listener_snapshots().filter(|(name, _)| waits(name));
            all.map(|(name, of)| (Arc::clone(name), Some(Arc::clone(of)))).collect()
        };
        let next = self.prepare_listeners(&changes).await?;
        self.serve(next, Vec::new()).await;
        Ok(())
    }

    /// Has every worker prepare what it is to serve; on failure, none changes anything.
    async fn prepare(&self, orders: Vec<Vec<Wanted>>) -> anyhow::Result<()> {
        for (worker, wanted) in self.workers.iter().zip(orders) {
            let prepared = worker.ask(|done| WorkerCommand::Prepare(wanted, done)).await;
            let prepared = prepared.context("a worker has exited; restart Sluice");
            if let Err(error) = prepared.and_then(|done| done.map_err(anyhow::Error::from)) {
                for worker in &self.workers {
                    worker.order(WorkerCommand::Abandon).await;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Has every worker serve what it has prepared.
    async fn commit(&self, part: &ServeScope) {
        for worker in &self.workers {
            // A worker that has ended serves nothing outdated.
            let _ = worker.ask(|done| WorkerCommand::Commit { part: part.clone(), done }).await;
        }
    }

    /// Waits a limited time for the host names of clusters to be resolved, and for the first checks of endpoints that
    /// take no traffic before. Listeners that need none of them serve meanwhile.
    async fn await_clusters(&self, rounds: &BTreeMap<Name, FirstRound>, next: &mut NextSockets) {
        let waiting: BTreeSet<Name> = {
            let store = self.store.borrow();
            let needs =
                |clusters: BTreeSet<Name>| clusters.iter().any(|name| rounds.contains_key(name));
            let waiting = store.listeners();
            let waiting = waiting.filter(|(name, of)| needs(reach::clusters_of(&store, name, of)));
            waiting.map(|(name, _)| Arc::clone(name)).collect()
        };
        let others = next.keys_of(|listener| !waiting.contains(listener));
        next.place(|key| others.contains(key));
        self.commit(&ServeScope::Sockets(Arc::new(others))).await;
        let all = async {
            for round in rounds.values() {
                round.finished().await;
            }
        };
        let all = tokio::time::timeout(FIRST_ROUNDS, all);
        tokio::pin!(all);
        tokio::select! {
            _ = &mut all => return,
            () = tokio::time::sleep(TELL_ROUNDS) => {}
        }
        self.tell_waiting(rounds, &waiting);
        // Clusters whose names are not resolved by then serve once they are.
        let _ = all.await;
    }

    fn tell_waiting(&self, rounds: &BTreeMap<Name, FirstRound>, listeners: &BTreeSet<Name>) {
        let clusters = self.clusters.borrow();
        let unresolved = rounds.iter().filter(|(_, round)| round.resolves());
        let hosts: Vec<String> = unresolved
            .filter_map(|(name, _)| clusters.get(name))
            .flat_map(|cluster| {
                let hosts = cluster.names().into_iter().map(|(host, _)| host);
                hosts.map(|host| format!("`{host}` of the cluster `{}`", cluster.name))
            })
            .collect();
        let unchecked = rounds.iter().filter(|(_, round)| !round.resolves() && round.checks());
        let unchecked: Vec<String> = unchecked.map(|(name, _)| format!("`{name}`")).collect();
        let listeners: Vec<String> = listeners.iter().map(|name| format!("`{name}`")).collect();
        let held_up = match listeners.as_slice() {
            [] => "no listener is waiting for them".to_owned(),
            names => format!(
                "listeners waiting for them, up to {} s: {}",
                FIRST_ROUNDS.as_secs(),
                names.join(", ")
            ),
        };
        if !hosts.is_empty() {
            tracing::info!(
                "waiting for name servers: {} not resolved yet; {held_up}",
                hosts.join(", ")
            );
        }
        if !unchecked.is_empty() {
            tracing::info!(
                "waiting for the first health checks of the clusters {}; {held_up}",
                unchecked.join(", ")
            );
        }
    }
}
