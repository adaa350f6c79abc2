//! The resources of planes: which are complete, which wait for others, which were not accepted.
//!
//! Owns: what needs what, warming, the last good version of each. Refuses to know: what a resource says, how it is
//! applied. Keeps: a cluster or listener is applied together with all that it needs, or once the time for that is over;
//! until then, what was applied before stays; a resource that is not accepted changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use sluice_core::Moment;

use crate::XdsType;

#[cfg(test)]
mod tests;

/// The name of a cluster or listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// A cluster, which may need endpoints.
    Cluster,
    /// A listener, which may need route tables.
    Listener,
}

/// A cluster or listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerKey {
    /// Which of the two.
    pub kind: OwnerKind,
    /// Its name.
    pub name: Arc<str>,
}

/// Endpoints or a route table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartKey {
    /// `Assignment` or `Routes`.
    pub kind: XdsType,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for PartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.name)
    }
}

impl OwnerKind {
    /// The type of its resources.
    pub const fn xds_type(self) -> XdsType {
        match self {
            Self::Cluster => XdsType::Cluster,
            Self::Listener => XdsType::Listener,
        }
    }
}

/// A version of a resource.
#[derive(Debug)]
pub struct Versioned<T> {
    /// Its version.
    pub version: Arc<str>,
    /// When it was received.
    pub since: Moment,
    /// What it says.
    pub content: T,
}

/// Why the newest version of a resource is not in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its version.
    pub version: Arc<str>,
    /// When it was refused.
    pub since: Moment,
    /// Why.
    pub problem: String,
}

/// A resource in its versions.
#[derive(Debug)]
struct Versions<T> {
    /// The one in use.
    good: Option<Arc<Versioned<T>>>,
    /// The newest one, which was neither applied nor refused.
    newest: Option<Arc<Versioned<T>>>,
    refused: Option<Refusal>,
}

impl<T> Default for Versions<T> {
    fn default() -> Self {
        Self { good: None, newest: None, refused: None }
    }
}

impl<T> Versions<T> {
    fn current(&self) -> Option<&Arc<Versioned<T>>> {
        self.newest.as_ref().or(self.good.as_ref())
    }

    fn accept(&mut self) {
        if let Some(newest) = self.newest.take() {
            self.good = Some(newest);
            self.refused = None;
        }
    }

    fn refuse(&mut self, problem: String, since: Moment) {
        let version = self.newest.take().map_or_else(|| "".into(), |of| Arc::clone(&of.version));
        self.refused = Some(Refusal { version, since, problem });
    }
}

#[derive(Debug)]
struct XdsOwner<T> {
    versions: Versions<T>,
    /// What the current version needs.
    needs: Vec<PartKey>,
    /// What the one in use needs.
    good_needs: Vec<PartKey>,
    /// When it is applied without what is still missing.
    deadline: Moment,
    /// Whether no plane may change or remove it.
    fixed: bool,
}

/// A cluster or listener with what it needs, to be applied.
#[derive(Debug)]
pub struct ReadyUnit<T> {
    /// Which one.
    pub key: OwnerKey,
    /// What it says.
    pub owner: Arc<Versioned<T>>,
    /// What it needs, in order; `None` for what has not come in time.
    pub parts: Vec<(PartKey, Option<Arc<Versioned<T>>>)>,
}

/// The state of a resource, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryEntry {
    /// Its type.
    pub kind: XdsType,
    /// Its name.
    pub name: Arc<str>,
    /// The version in use, and since when.
    pub good: Option<(Arc<str>, Moment)>,
    /// The version that waits, and since when.
    pub newest: Option<(Arc<str>, Moment)>,
    /// What it waits for.
    pub waits_for: Vec<PartKey>,
    /// The version that was refused last, if none was accepted since.
    pub refused: Option<Refusal>,
    /// Whether it is of the bootstrap.
    pub fixed: bool,
}

/// The resources of planes. `T` is what a resource says.
#[derive(Debug)]
pub struct Inventory<T> {
    owners: BTreeMap<OwnerKey, XdsOwner<T>>,
    parts: BTreeMap<PartKey, Versions<T>>,
    /// Those to be applied once they are complete.
    dirty: BTreeSet<OwnerKey>,
}

impl<T> Default for Inventory<T> {
    fn default() -> Self {
        Self { owners: BTreeMap::new(), parts: BTreeMap::new(), dirty: BTreeSet::new() }
    }
}

impl<T> Inventory<T> {
    /// A new version of a cluster or listener, which needs these and waits for them until `deadline`. `false` if it is
    /// one of the bootstrap, which stays as it is.
    pub fn offer(
        &mut self,
        key: OwnerKey,
        version: Versioned<T>,
        needs: Vec<PartKey>,
        deadline: Moment,
        fixed: bool,
    ) -> bool {
        let owner = self.owners.entry(key.clone()).or_insert_with(|| XdsOwner {
            versions: Versions::default(),
            needs: Vec::new(),
            good_needs: Vec::new(),
            deadline,
            fixed,
        });
        if owner.fixed != fixed {
            return false;
        }
        owner.versions.newest = Some(Arc::new(version));
        owner.needs = needs;
        owner.deadline = deadline;
        self.dirty.insert(key);
        true
    }

    /// A new version of what others need.
    pub fn offer_part(&mut self, key: PartKey, version: Versioned<T>) {
        self.touch(&key);
        self.parts.entry(key).or_default().newest = Some(Arc::new(version));
    }

    fn touch(&mut self, key: &PartKey) {
        let users = self.owners.iter().filter(|(_, owner)| owner.needs.contains(key));
        self.dirty.extend(users.map(|(key, _)| key.clone()));
    }

    /// A resource was wrong before anything else was looked at.
    pub fn refuse(&mut self, kind: XdsType, name: &str, version: &str, problem: &str, now: Moment) {
        let refusal = Refusal { version: version.into(), since: now, problem: problem.to_owned() };
        let name: Arc<str> = name.into();
        let owner = match kind {
            XdsType::Cluster => OwnerKind::Cluster,
            XdsType::Listener => OwnerKind::Listener,
            XdsType::Assignment | XdsType::Routes => {
                let versions = self.parts.entry(PartKey { kind, name }).or_default();
                versions.refused = Some(refusal);
                return;
            }
        };
        let owner = self.owners.entry(OwnerKey { kind: owner, name }).or_insert_with(|| XdsOwner {
            versions: Versions::default(),
            needs: Vec::new(),
            good_needs: Vec::new(),
            deadline: now,
            fixed: false,
        });
        owner.versions.refused = Some(refusal);
    }

    /// Removes a cluster or listener; whether it was in use.
    pub fn remove(&mut self, key: &OwnerKey) -> bool {
        if self.owners.get(key).is_none_or(|owner| owner.fixed) {
            return false;
        }
        self.dirty.remove(key);
        let owner = self.owners.remove(key);
        self.forget_parts();
        owner.is_some_and(|owner| owner.versions.good.is_some())
    }

    /// Forgets what nobody needs.
    fn forget_parts(&mut self) {
        let needed: BTreeSet<&PartKey> =
            self.owners.values().flat_map(|of| of.needs.iter().chain(&of.good_needs)).collect();
        self.parts.retain(|key, _| needed.contains(key));
    }

    /// The names of a type that something needs.
    pub fn wanted(&self, kind: XdsType) -> BTreeSet<String> {
        let needs = self.owners.values().flat_map(|of| of.needs.iter().chain(&of.good_needs));
        needs.filter(|key| key.kind == kind).map(|key| key.name.to_string()).collect()
    }

    /// The names of the clusters or listeners that planes have sent and may remove.
    pub fn names(&self, kind: OwnerKind) -> impl Iterator<Item = &Arc<str>> {
        let of = self.owners.iter().filter(move |(key, owner)| key.kind == kind && !owner.fixed);
        of.map(|(key, _)| &key.name)
    }

    /// What is to be applied now: clusters first. Each is returned once, and must be followed by [`Inventory::applied`]
    /// or [`Inventory::refused`].
    pub fn ready(&mut self, now: Moment) -> Vec<ReadyUnit<T>> {
        let mut units = Vec::new();
        let dirty = std::mem::take(&mut self.dirty);
        for key in dirty {
            let Some(owner) = self.owners.get(&key) else { continue };
            let Some(current) = owner.versions.current() else { continue };
            let late = now >= owner.deadline;
            let parts: Vec<_> = owner
                .needs
                .iter()
                .map(|need| {
                    (need.clone(), self.parts.get(need).and_then(Versions::current).cloned())
                })
                .collect();
            if !late && parts.iter().any(|(_, part)| part.is_none()) {
                self.dirty.insert(key);
                continue;
            }
            units.push(ReadyUnit { owner: Arc::clone(current), key, parts });
        }
        units
    }

    /// A unit is in use.
    pub fn applied(&mut self, unit: &ReadyUnit<T>) {
        if let Some(owner) = self.owners.get_mut(&unit.key) {
            let newest = owner.versions.newest.as_ref();
            if newest.is_some_and(|newest| Arc::ptr_eq(newest, &unit.owner)) {
                owner.versions.accept();
                owner.good_needs.clone_from(&owner.needs);
            }
        }
        for (key, part) in &unit.parts {
            let (Some(part), Some(versions)) = (part, self.parts.get_mut(key)) else { continue };
            if versions.newest.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, part)) {
                versions.accept();
            }
        }
        self.forget_parts();
    }

    /// A unit cannot be used, because of itself (`None`) or of a part. What is to blame returns to its last good version.
    /// Returns what was refused; `None` if nothing of it is new.
    pub fn refused(
        &mut self,
        unit: &ReadyUnit<T>,
        part: Option<&PartKey>,
        problem: &str,
        now: Moment,
    ) -> Option<(XdsType, Arc<str>)> {
        if let Some(key) = part
            && let Some(versions) = self.parts.get_mut(key)
            && versions.newest.is_some()
        {
            versions.refuse(problem.to_owned(), now);
            self.touch(key);
            return Some((key.kind, Arc::clone(&key.name)));
        }
        let is_new = self.owners.get(&unit.key)?.versions.newest.is_some();
        if !is_new {
            // The owner was fine before, so it is what came since.
            let is_new = |key: &&PartKey| self.parts.get(key).is_some_and(|of| of.newest.is_some());
            let part = unit.parts.iter().map(|(key, _)| key).find(is_new).cloned()?;
            return self.refused(unit, Some(&part), problem, now);
        }
        let owner = self.owners.get_mut(&unit.key)?;
        owner.versions.refuse(problem.to_owned(), now);
        owner.needs.clone_from(&owner.good_needs);
        // Parts that are newer than the version that returns have not been applied to it.
        if owner.versions.good.is_some() {
            self.dirty.insert(unit.key.clone());
        }
        Some((unit.key.kind.xds_type(), Arc::clone(&unit.key.name)))
    }

    /// Whether no cluster or listener of a kind waits for anything.
    pub fn is_settled(&self, kind: OwnerKind) -> bool {
        !self.dirty.iter().any(|key| key.kind == kind)
    }

    /// When the next one is applied without what it waits for.
    pub fn next_deadline(&self) -> Option<Moment> {
        let waiting = self.dirty.iter().filter_map(|key| self.owners.get(key));
        waiting.map(|owner| owner.deadline).min().filter(|at| *at != Moment::NEVER)
    }

    /// Every resource, for people.
    pub fn entries(&self) -> Vec<InventoryEntry> {
        let at = |of: &Arc<Versioned<T>>| (Arc::clone(&of.version), of.since);
        let owners = self.owners.iter().map(|(key, owner)| InventoryEntry {
            kind: key.kind.xds_type(),
            name: Arc::clone(&key.name),
            good: owner.versions.good.as_ref().map(at),
            newest: owner.versions.newest.as_ref().map(at),
            waits_for: if self.dirty.contains(key) {
                let missing = owner
                    .needs
                    .iter()
                    .filter(|need| self.parts.get(need).and_then(Versions::current).is_none());
                missing.cloned().collect()
            } else {
                Vec::new()
            },
            refused: owner.versions.refused.clone(),
            fixed: owner.fixed,
        });
        let parts = self.parts.iter().map(|(key, versions)| InventoryEntry {
            kind: key.kind,
            name: Arc::clone(&key.name),
            good: versions.good.as_ref().map(at),
            newest: versions.newest.as_ref().map(at),
            waits_for: Vec::new(),
            refused: versions.refused.clone(),
            fixed: false,
        });
        owners.chain(parts).collect()
    }
}
