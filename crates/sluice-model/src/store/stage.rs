//! Staging: what a batch would change, checked and compiled, without changing anything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Diags, Name, Node};

use super::completion;
use super::conflicts::Others;
use super::known_names::KnownNames;
use super::{
    Absent, AbsentReason, Batch, BatchMode, Compiled, Held, Outcome, ResourceVerdict, Staged,
    Store, Update, WaitingResource,
};
use crate::compile::{
    Compiler, Inputs, OtherResources, SecretContent, SharedParts, Surroundings, maps,
};
use crate::model::{Kind, Reference, Resource};
use crate::provenance::Provenance;

/// Checks and compiles a batch. For files, findings are added to `diags`; if there are errors, the result must not be
/// committed. For a control plane, they are in the verdicts.
///
/// `now` is the time since the Unix epoch.
pub fn stage(
    store: &Store,
    batch: Batch,
    around: &Surroundings,
    shared: &mut SharedParts,
    now: Duration,
    diags: &mut Diags,
) -> Staged {
    let Batch { source, updates, mode } = batch;
    shared.begin(matches!(mode, BatchMode::Files { .. }));
    let mut run = StageRun {
        store,
        source,
        mode: &mode,
        around,
        shared: RefCell::new(std::mem::take(shared)),
        now,
        secrets: HashMap::new(),
        known: KnownNames::default(),
        staged: Staged {
            verdicts: Vec::new(),
            stale_certificates: Vec::new(),
            stale_endpoint_files: BTreeMap::new(),
            set: BTreeMap::new(),
            removed: BTreeSet::new(),
            absent: BTreeMap::new(),
            present: Vec::new(),
        },
    };
    let candidates = run.candidates(updates, diags);
    let tables = candidates.iter().filter(|of| of.resource.kind() == Kind::Routes);
    let tables: Vec<(Name, Arc<Provenance>)> =
        tables.map(|of| (Arc::clone(&of.name), Arc::clone(&of.from))).collect();
    for candidate in candidates {
        run.judge(candidate, diags);
    }
    if let BatchMode::Files { root, .. } = run.mode {
        let chains = completion::chains_of(store, &run.staged, &run.source);
        for (name, from) in tables {
            let held = run.staged.set.get(&(Kind::Routes, Arc::clone(&name)));
            let Some(held) = held.or_else(|| store.get(Kind::Routes, &name)) else { continue };
            from.adopt(completion::lacking(&name, held, &chains), root, diags);
        }
    }
    *shared = run.shared.into_inner();
    run.staged
}

/// A resource that may come into force.
struct Candidate {
    name: Name,
    resource: Resource,
    source: Arc<str>,
    from: Arc<Provenance>,
}

/// A batch being staged.
struct StageRun<'a> {
    store: &'a Store,
    source: Arc<str>,
    mode: &'a BatchMode,
    around: &'a Surroundings,
    shared: RefCell<SharedParts>,
    now: Duration,
    /// The secrets of this batch.
    secrets: HashMap<Name, SecretContent>,
    known: KnownNames,
    staged: Staged,
}

impl StageRun<'_> {
    /// The resources to judge, each kind after those that it refers to. Those that do not change and those that are
    /// removed are done with here.
    fn candidates(&mut self, updates: Vec<Update>, diags: &mut Diags) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let mut named: HashSet<(Kind, Name)> = HashSet::new();
        // Of several updates of one resource, the last counts. In files, a name that is declared twice is an error.
        let files = matches!(self.mode, BatchMode::Files { .. });
        let counts = |update: &Update| named.insert(update.key()) || files;
        let mut updates: Vec<Update> = updates.into_iter().rev().filter(counts).collect();
        updates.reverse();
        for update in updates {
            match update {
                Update::Remove { kind, name } => self.remove(kind, name),
                Update::Set { name, mut resource, from } => {
                    if let Resource::Cluster(cluster) = &mut resource {
                        self.shared.get_mut().share_settings(cluster);
                    }
                    let source = Arc::clone(&self.source);
                    candidates.push(Candidate { name, resource, source, from });
                }
            }
        }
        match self.mode {
            BatchMode::Files { root, declared, .. } => {
                for kind in Kind::ALL {
                    let gone = self.store.held[kind as usize].iter().filter(|(name, held)| {
                        held.source == self.source && !named.contains(&(kind, Arc::clone(name)))
                    });
                    let gone: Vec<Name> = gone.map(|(name, _)| Arc::clone(name)).collect();
                    gone.into_iter().for_each(|name| self.remove(kind, name));
                }
                self.unknown_references(&candidates, declared, root, diags);
            }
            BatchMode::Plane { .. } => {
                let waiting = self.store.absent.iter().filter_map(|((kind, name), absent)| {
                    let AbsentReason::Waiting(waiting) = &absent.why else { return None };
                    (!named.contains(&(*kind, Arc::clone(name)))).then(|| Candidate {
                        name: Arc::clone(name),
                        resource: waiting.resource.clone(),
                        source: Arc::clone(&absent.source),
                        from: Arc::clone(&waiting.from),
                    })
                });
                candidates.extend(waiting);
            }
        }
        candidates.sort_by_key(|candidate| candidate.resource.kind());
        candidates
    }

    /// Reports references to what no file declares.
    fn unknown_references(
        &self,
        candidates: &[Candidate],
        declared: &HashSet<(Kind, Name)>,
        root: &Node,
        diags: &mut Diags,
    ) {
        for candidate in candidates {
            let mut found = Diags::new();
            for Reference { kind, name, at, in_key } in candidate.resource.references() {
                if self.may_be_sent(kind) {
                    continue;
                }
                if let Some((message, help)) = self.known.why_unknown(declared, kind, &name) {
                    let finding = found.error("unknown-name", None, &at, message);
                    finding.on_key = in_key;
                    finding.help(help);
                }
            }
            candidate.from.adopt(found, root, diags);
        }
    }

    /// Whether files may name what they do not declare: a control plane may send it.
    const fn may_be_sent(&self, kind: Kind) -> bool {
        matches!((self.mode, kind), (BatchMode::Files { expected: true, .. }, Kind::Cluster))
    }

    fn remove(&mut self, kind: Kind, name: Name) {
        if let Some(owner) = self.store.owner(kind, &name).filter(|owner| **owner != self.source) {
            let owner = Arc::clone(owner);
            self.reject_foreign(kind, name, &owner);
            return;
        }
        let outcome = if self.store.contains(kind, &name) {
            self.staged.removed.insert((kind, Arc::clone(&name)));
            Outcome::Removed
        } else {
            self.staged.present.push((kind, Arc::clone(&name)));
            Outcome::Unchanged
        };
        self.staged.verdicts.push(ResourceVerdict { kind, name, outcome });
    }

    /// Rejects a change of what another source configures.
    fn reject_foreign(&mut self, kind: Kind, name: Name, owner: &str) -> Diags {
        let mut found = Diags::new();
        let message = format!("{} `{name}`: configured by {owner}", kind.word());
        found
            .error("foreign-name", None, "", message)
            .help("rename one of the two, or remove it there");
        let outcome = Outcome::Rejected(found.sorted());
        self.staged.verdicts.push(ResourceVerdict { kind, name, outcome });
        found
    }

    /// Decides what becomes of one resource.
    fn judge(&mut self, candidate: Candidate, diags: &mut Diags) {
        let (kind, name) = (candidate.resource.kind(), Arc::clone(&candidate.name));
        let owner = self.store.owner(kind, &name).filter(|owner| **owner != candidate.source);
        if let Some(owner) = owner {
            let owner = Arc::clone(owner);
            let found = self.reject_foreign(kind, name, &owner);
            if let BatchMode::Files { root, .. } = self.mode {
                candidate.from.adopt(found, root, diags);
            }
            return;
        }
        let mut refreshed = false;
        if let Some(held) = self.store.get(kind, &name)
            && held.resource == candidate.resource
        {
            let inputs = held.inputs.as_deref();
            let current =
                inputs.is_none_or(|inputs| self.shared.borrow_mut().are_current(&inputs.files));
            if current && inputs.is_none_or(|inputs| self.are_declared(inputs)) {
                self.staged.present.push((kind, Arc::clone(&name)));
                let outcome = Outcome::Unchanged;
                self.staged.verdicts.push(ResourceVerdict { kind, name, outcome });
                return;
            }
            refreshed = true;
        }
        let outcome = match self.missing(&candidate) {
            missing if !missing.is_empty() => self.wait(candidate, missing),
            _ => self.compile(candidate, refreshed, diags),
        };
        self.staged.verdicts.push(ResourceVerdict { kind, name, outcome });
    }

    /// Whether the files still declare what filters name. If not, compiling the resource again says where.
    fn are_declared(&self, inputs: &Inputs) -> bool {
        match self.mode {
            BatchMode::Files { declared, .. } => {
                let is_known = |of: &(Kind, Name)| self.may_be_sent(of.0) || declared.contains(of);
                inputs.named.iter().all(is_known)
            }
            BatchMode::Plane { .. } => true,
        }
    }

    /// The resources that this one cannot be used without and that do not exist. Among files, that is an error.
    fn missing(&self, candidate: &Candidate) -> Vec<Reference> {
        if matches!(self.mode, BatchMode::Files { .. }) {
            return Vec::new();
        }
        let mut all = candidate.resource.references();
        if candidate.resource.kind() == Kind::Cluster {
            all.push(Reference {
                kind: Kind::Endpoints,
                name: Arc::clone(&candidate.name),
                at: String::new(),
                in_key: false,
            });
        }
        all.retain(|reference| {
            reference.kind != Kind::Cluster && !self.exists(reference.kind, &reference.name)
        });
        all
    }

    fn exists(&self, kind: Kind, name: &Name) -> bool {
        let key = (kind, Arc::clone(name));
        let removed = self.staged.removed.contains(&key);
        self.staged.set.contains_key(&key) || (self.store.contains(kind, name) && !removed)
    }

    fn wait(&mut self, candidate: Candidate, references: Vec<Reference>) -> Outcome {
        let Candidate { name, resource, source, from } = candidate;
        let patience = match self.mode {
            BatchMode::Plane { patience } => *patience,
            BatchMode::Files { .. } => Duration::ZERO,
        };
        let key = (resource.kind(), name);
        // A control plane that sends everything again does not prolong the wait.
        let before = match self.store.absent.get(&key) {
            Some(Absent { since, why: AbsentReason::Waiting(same), .. })
                if same.resource == resource =>
            {
                Some((*since, same.until))
            }
            _ => None,
        };
        let (since, until) = before.unwrap_or((self.now, self.now + patience));
        if until <= self.now && before.is_some() {
            let mut diags = Diags::new();
            for missing in &references {
                let message = format!("it waited for the {missing}, which did not come");
                diags.error("not-there", None, &missing.at, message);
            }
            let found = diags.into_sorted();
            let why = AbsentReason::Rejected(found.clone());
            self.staged.absent.insert(key, Absent { since: self.now, source, why });
            return Outcome::Rejected(found);
        }
        let waiting = WaitingResource { references: references.clone(), until, resource, from };
        let why = AbsentReason::Waiting(Box::new(waiting));
        self.staged.absent.insert(key, Absent { since, source, why });
        Outcome::Waiting(references)
    }

    /// Looks for conflicts with other resources, once this batch is in force. Among files, they are found with the
    /// places of both.
    fn conflicts(&self, look: impl FnOnce(&Others<'_>)) {
        if let BatchMode::Plane { .. } = self.mode {
            let Staged { set, removed, .. } = &self.staged;
            look(&Others { store: self.store, set, removed });
        }
    }

    fn compile(&mut self, candidate: Candidate, refreshed: bool, diags: &mut Diags) -> Outcome {
        let Candidate { name, resource, source, from } = candidate;
        let mut found = Diags::new();
        let compiler = Compiler::new(self.around, &self.shared, self, self.now);
        let compiled = match &resource {
            Resource::Listener(listener) => {
                self.conflicts(|others| others.of_listener(&name, listener, &mut found));
                let built = compiler.listener(&name, listener, &mut found);
                built.map(|built| Compiled::Listener(Arc::new(built)))
            }
            Resource::Cluster(cluster) => {
                self.conflicts(|others| others.of_cluster(&name, cluster, &mut found));
                compiler.cluster(&name, cluster, &mut found).map(Compiled::Cluster)
            }
            Resource::Endpoints(_) | Resource::Runtime(_) => Some(Compiled::AsItIs),
            Resource::Routes(table) => compiler
                .routes(&name, table, &mut found)
                .map(|table| Compiled::Routes(self.around.routes.reference(&name), table)),
            Resource::Secret(secret) => {
                SecretContent::of(&name, secret, &mut found).map(Compiled::Secret)
            }
            Resource::Map(map) => maps::content(map, &self.around.fetches, &mut found)
                .map(|content| Compiled::Map(self.around.maps.reference(&name), content)),
        };
        let mut inputs = compiler.into_inputs();
        self.staged.stale_certificates.append(&mut inputs.stale);
        let kind = resource.kind();
        if !inputs.missing.is_empty() && !found.has_errors() {
            return self.wait(Candidate { name, resource, source, from }, inputs.missing);
        }
        let failed = found.has_errors() || compiled.is_none();
        let key = (kind, Arc::clone(&name));
        match self.mode {
            BatchMode::Files { root, .. } => from.adopt(found, root, diags),
            BatchMode::Plane { .. } if failed => {
                let root = Node { value: sluice_core::Value::Null, span: Default::default() };
                let mut placed = Diags::new();
                from.adopt(found, &root, &mut placed);
                let found = placed.into_sorted();
                let why = AbsentReason::Rejected(found.clone());
                self.staged.absent.insert(key, Absent { since: self.now, source, why });
                return Outcome::Rejected(found);
            }
            BatchMode::Plane { .. } => {}
        }
        let Some(compiled) = compiled else { return Outcome::Rejected(Vec::new()) };
        if let Compiled::Secret(content) = &compiled {
            self.secrets.insert(Arc::clone(&name), content.clone());
        }
        let outcome = match self.store.contains(kind, &name) {
            true if refreshed => Outcome::Refreshed,
            true => Outcome::Changed,
            false => Outcome::Added,
        };
        let inputs = (!inputs.is_empty()).then(|| Box::new(inputs));
        self.staged.present.push((kind, name));
        self.staged.set.insert(key, Held { resource, compiled, source, from, inputs });
        outcome
    }
}

impl OtherResources for StageRun<'_> {
    fn secret(&self, name: &Name) -> Option<SecretContent> {
        if !self.exists(Kind::Secret, name) {
            return None;
        }
        match (self.secrets.get(name), self.store.get(Kind::Secret, name)) {
            (Some(content), _) => Some(content.clone()),
            (None, Some(Held { compiled: Compiled::Secret(content), .. })) => Some(content.clone()),
            _ => None,
        }
    }

    fn may_come(&self) -> bool {
        matches!(self.mode, BatchMode::Plane { .. })
    }

    fn folder(&self) -> Option<&Path> {
        match self.mode {
            BatchMode::Files { folder, .. } => Some(folder),
            BatchMode::Plane { .. } => None,
        }
    }

    fn why_unknown(&self, kind: Kind, name: &Name) -> Option<(String, String)> {
        match self.mode {
            BatchMode::Files { .. } if self.may_be_sent(kind) => None,
            BatchMode::Files { declared, .. } => self.known.why_unknown(declared, kind, name),
            // It may come later.
            BatchMode::Plane { .. } => None,
        }
    }
}
