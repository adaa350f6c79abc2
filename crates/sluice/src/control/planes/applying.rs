//! Complete resources of planes are put in force.
//!
//! Owns: batches for the store, and whose fault a rejection is. Refuses to know: where resources come from. Keeps: what a
//! cluster or listener brought along leaves with it; one that is refused returns to its last good version.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::Members;
use sluice_core::{Moment, Name};
use sluice_model::model::Kind;
use sluice_model::sections::AccessLog;
use sluice_model::store::{Batch, BatchMode, Outcome, ResourceVerdict, Update};
use sluice_sys::memory;
use sluice_telemetry::log::{OpenSinks, SinkPlan};
use sluice_xds::{OwnerKey, OwnerKind, ReadyUnit, XdsType};

use super::mapper::{BuiltUnit, PlaneMapper, UnitFault, UnitJob};
use super::{AppliedOwner, Planes, XdsContent};
use crate::control::{Control, SNAPSHOT};

/// The source of what planes configure.
const SOURCE: &str = "the control plane";

/// How long a resource waits for a secret.
const PATIENCE: Duration = Duration::from_secs(15);

/// The access logs of a listener, as configured and compiled.
#[derive(Clone, Debug)]
pub(super) struct PlaneLogs {
    written: Members<AccessLog>,
    sinks: Vec<SinkPlan>,
}

/// What became of resources, by kind and name.
pub(super) type PlaneVerdicts = BTreeMap<(Kind, Name), ResourceVerdict>;

/// Resources that were refused, and why.
pub(super) type RefusedResources = Vec<(XdsType, Arc<str>, String)>;

/// So many bytes of resources take so much to build that it is worth giving back.
const MANY_BYTES: usize = 64 * 1024;

/// The bytes of a cluster or listener, with those of what it needs.
fn size_of_unit(unit: &ReadyUnit<XdsContent>) -> usize {
    let parts = unit.parts.iter().filter_map(|(_, part)| part.as_ref());
    std::iter::once(&unit.owner).chain(parts).map(|of| of.content.body.len()).sum()
}

/// What became of the resources of a response.
#[derive(Debug, Default)]
pub(super) struct ApplyRound {
    /// How many by what became of them.
    changes: BTreeMap<&'static str, usize>,
    /// How many bytes of resources were built.
    built: usize,
    pub(super) refused: RefusedResources,
}

impl Planes {
    /// Puts in force what is complete, and removes clusters or listeners. The caller has the turn.
    pub(super) async fn apply(
        self: &Rc<Self>,
        control: &Rc<Control>,
        kind: XdsType,
        gone: Vec<String>,
        now: Moment,
    ) -> RefusedResources {
        let mut round = ApplyRound::default();
        self.advance(control, kind, gone, now, &mut round).await;
        self.finish(control, &round).await;
        round.refused
    }

    /// The same, as a part of a round.
    pub(super) async fn advance(
        self: &Rc<Self>,
        control: &Rc<Control>,
        kind: XdsType,
        gone: Vec<String>,
        now: Moment,
        round: &mut ApplyRound,
    ) {
        let mut updates = self.removals(kind, gone);
        loop {
            let units = self.inventory.borrow_mut().ready(now);
            if units.is_empty() && updates.is_empty() {
                return;
            }
            round.built += units.iter().map(size_of_unit).sum::<usize>();
            let jobs: Vec<UnitJob> = units.iter().map(job_of).collect();
            let built = self.with_mapper(move |mapper| {
                jobs.into_iter().map(|job| mapper.build(job)).collect::<Vec<_>>()
            });
            let mut built = built.await;
            let mut seen = None;
            for (unit, built) in units.iter().zip(&mut built) {
                self.compare_logs(&unit.key, built, &mut seen);
                updates.extend(self.updates_of(&unit.key, built));
            }
            let verdicts = self.put_in_force(control, std::mem::take(&mut updates)).await;
            for verdict in verdicts.iter().flat_map(BTreeMap::values) {
                *round.changes.entry(word(&verdict.outcome)).or_insert(0) += 1;
            }
            for (unit, built) in units.iter().zip(built) {
                self.conclude(unit, built, &verdicts, now, &mut round.refused);
            }
        }
    }

    /// What is done once everything is in force.
    pub(super) async fn finish(self: &Rc<Self>, control: &Rc<Control>, round: &ApplyRound) {
        if round.built >= MANY_BYTES {
            // What many resources were made of is freed by now: many times their own size.
            self.with_mapper(|_| memory::give_back()).await;
            memory::give_back();
        }
        self.tidy();
        self.use_logs(control);
        self.count_wanted_loads(control).await;
        self.begin_demands(control);
        self.answer_demands(control, &[]);
        self.answer_scopes(control);
        self.tell(control, &round.changes);
    }

    fn removals(&self, kind: XdsType, gone: Vec<String>) -> Vec<Update> {
        // What a cluster or listener still needs stays.
        let Some(of) = OwnerKind::of(kind) else { return Vec::new() };
        let mut updates = Vec::new();
        for name in gone {
            let key = OwnerKey { kind: of, name: name.as_str().into() };
            self.inventory.borrow_mut().remove(&key);
            self.logs.borrow_mut().remove(&key);
            if of == OwnerKind::Cluster {
                self.reported_as.borrow_mut().remove(&*key.name);
            }
            if let Some(applied) = self.applied.borrow_mut().remove(&key) {
                let keys = applied.keys.into_iter();
                updates.extend(keys.map(|(kind, name)| Update::Remove { kind, name }));
            }
            if let Some(mapper) =
                self.mapper.borrow_mut().as_mut().filter(|_| of == OwnerKind::Listener)
            {
                mapper.forget_listener(&name);
            }
        }
        updates
    }

    /// Records go to every log, so that listeners with different logs would get each other's. `seen` is the first of the
    /// same batch that has any.
    fn compare_logs(
        &self,
        key: &OwnerKey,
        built: &mut BuiltUnit,
        seen: &mut Option<(OwnerKey, Members<AccessLog>)>,
    ) {
        let Ok(updates) = &built.updates else { return };
        if updates.sinks.is_empty() {
            return;
        }
        let own = &updates.access_log;
        let logs = self.logs.borrow();
        let known = logs.iter().map(|(of, logs)| (of, &logs.written));
        let mut all = known.chain(seen.as_ref().map(|(of, logs)| (of, logs)));
        let other = all.find(|(of, logs)| *of != key && *logs != own).map(|(of, _)| &of.name);
        if let Some(other) = other {
            let problem = format!(
                "access_log: all listeners write the same logs, and the listener `{other}` has others; give them the same"
            );
            built.updates = Err(UnitFault { part: None, problem });
        } else if seen.is_none() {
            *seen = Some((key.clone(), own.clone()));
        }
    }

    /// What is to be changed for a unit: what it has, and what it has no longer.
    fn updates_of(&self, key: &OwnerKey, built: &mut BuiltUnit) -> Vec<Update> {
        let Ok(found) = &mut built.updates else { return Vec::new() };
        let mut updates = std::mem::take(&mut found.updates);
        if let Some(applied) = self.applied.borrow().get(key) {
            let new: BTreeSet<&(Kind, Name)> = found.keys().collect();
            let old = applied.keys.iter().filter(|key| !new.contains(key));
            updates.extend(old.cloned().map(|(kind, name)| Update::Remove { kind, name }));
        }
        updates
    }

    pub(super) async fn put_in_force(
        &self,
        control: &Rc<Control>,
        updates: Vec<Update>,
    ) -> Result<PlaneVerdicts, String> {
        if updates.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mode = BatchMode::Plane { patience: PATIENCE };
        let batch = Batch { source: SOURCE.into(), updates, mode };
        match control.apply(batch).await {
            Ok(verdicts) => Ok(verdicts
                .into_iter()
                .map(|verdict| ((verdict.kind, Arc::clone(&verdict.name)), verdict))
                .collect()),
            Err(error) => Err(format!("it cannot be applied: {error:#}")),
        }
    }

    /// Notes what became of a unit.
    fn conclude(
        &self,
        unit: &ReadyUnit<XdsContent>,
        built: BuiltUnit,
        verdicts: &Result<PlaneVerdicts, String>,
        now: Moment,
        refused: &mut RefusedResources,
    ) {
        let fault = match &built.updates {
            Err(UnitFault { part, problem }) => {
                Some(UnitFault { part: part.clone(), problem: problem.clone() })
            }
            Ok(updates) => match verdicts {
                Err(problem) => Some(UnitFault { part: None, problem: problem.clone() }),
                Ok(verdicts) => updates.keys().find_map(|key| {
                    let Outcome::Rejected(found) = &verdicts.get(key)?.outcome else { return None };
                    let path = |field: &str| updates.path(key.0, &key.1, field);
                    Some(built.fault(found.clone(), path))
                }),
            },
        };
        if let Ok(updates) = &built.updates {
            let mut applied = self.applied.borrow_mut();
            let applied = applied.entry(unit.key.clone()).or_default();
            let keys = updates.keys().cloned();
            if fault.is_some() {
                // Some of it may be in force, beside what was before.
                let all = std::mem::take(&mut applied.keys).into_iter().chain(keys);
                applied.keys = all.collect::<BTreeSet<_>>().into_iter().collect();
            } else {
                let clusters = built.clusters.into_iter().collect();
                let stat_names = built.stat_names;
                *applied = AppliedOwner { keys: keys.collect(), clusters, stat_names };
                let mut all = self.logs.borrow_mut();
                if updates.sinks.is_empty() {
                    all.remove(&unit.key);
                } else {
                    let (written, sinks) = (updates.access_log.clone(), updates.sinks.clone());
                    all.insert(unit.key.clone(), PlaneLogs { written, sinks });
                }
            }
        }
        let Some(UnitFault { part, problem }) = fault else {
            self.inventory.borrow_mut().applied(unit);
            return;
        };
        let blamed = self.inventory.borrow_mut().refused(unit, part.as_ref(), &problem, now);
        if let Some((kind, name)) = blamed {
            tracing::warn!("{kind} `{name}` of the control plane is not accepted: {problem}");
            refused.push((kind, name, problem));
        } else {
            tracing::error!("{} `{}`: {problem}", unit.key.kind.xds_type(), unit.key.name);
        }
    }

    /// Forgets the names that nothing has any more.
    fn tidy(&self) {
        if !self.mapper.borrow().as_ref().is_some_and(PlaneMapper::knows_many) {
            return;
        }
        let applied = self.applied.borrow();
        let mut live: HashSet<Arc<str>> = self.dynamic.file_clusters.iter().cloned().collect();
        live.extend(applied.values().flat_map(|applied| applied.clusters.iter().cloned()));
        live.extend(self.inventory.borrow().names(OwnerKind::Cluster).cloned());
        live.extend(self.checked_names());
        if let Some(mapper) = self.mapper.borrow_mut().as_mut() {
            mapper.forget_clusters(&live);
        }
    }

    /// Opens the logs of the listeners in force beside those of the file, if they changed.
    fn use_logs(&self, control: &Rc<Control>) {
        let logs = self.logs.borrow().values().next().cloned();
        let before = self.logs_in_use.replace(logs);
        let now = self.logs_in_use.borrow();
        if before.as_ref().map(|logs| &logs.written) == now.as_ref().map(|logs| &logs.written) {
            return;
        }
        drop(now);
        let process = Arc::clone(&control.in_force.borrow().process);
        match OpenSinks::open(control.sinks_of(&process)) {
            Ok(sinks) => control.log.use_sinks(sinks),
            Err(error) => tracing::error!("cannot open an access log of a listener: {error:#}"),
        }
    }

    /// The access logs of listeners.
    pub(in crate::control) fn sinks(&self) -> Vec<SinkPlan> {
        self.logs_in_use.borrow().as_ref().map(|logs| logs.sinks.clone()).unwrap_or_default()
    }

    fn tell(&self, control: &Rc<Control>, changes: &BTreeMap<&'static str, usize>) {
        if let Some(last) = self.last_good.as_ref().filter(|_| !changes.is_empty()) {
            last.note_change();
        }
        let shown = changes.iter().filter(|(word, _)| !word.is_empty());
        let shown: Vec<String> = shown.map(|(word, count)| format!("{count} {word}")).collect();
        if shown.is_empty() {
            return;
        }
        let number = {
            let mut in_force = control.in_force.borrow_mut();
            in_force.number += 1;
            in_force.number
        };
        control.shard.gauge(&SNAPSHOT, &[]).set(number);
        control.names_left.set(true);
        tracing::info!(snapshot = number, "control plane: {}", shown.join(", "));
    }

    /// Runs something slow with the mapper, beside this thread.
    pub(super) async fn with_mapper<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut PlaneMapper) -> T + Send + 'static,
    ) -> T {
        let mut mapper = self.mapper.borrow_mut().take().expect("the caller has the turn");
        let done = tokio::task::spawn_blocking(move || {
            let found = work(&mut mapper);
            (found, mapper)
        });
        let (found, mapper) = done.await.expect("mapping does not panic");
        *self.mapper.borrow_mut() = Some(mapper);
        found
    }
}

fn job_of(unit: &ReadyUnit<XdsContent>) -> UnitJob {
    let parts = unit
        .parts
        .iter()
        .map(|(key, part)| (key.clone(), part.as_ref().map(|part| part.content.given(key.kind))));
    UnitJob {
        owner: unit.owner.content.given(unit.key.kind.xds_type()),
        version: Arc::clone(&unit.owner.version),
        parts: parts.collect(),
    }
}

/// The word for what became of a resource; empty for what is not worth one.
const fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Added => "added",
        Outcome::Changed => "changed",
        Outcome::Refreshed => "refreshed",
        Outcome::Removed => "removed",
        Outcome::Unchanged => "",
        Outcome::Rejected(_) => "rejected",
        Outcome::Waiting(_) => "waiting",
    }
}
