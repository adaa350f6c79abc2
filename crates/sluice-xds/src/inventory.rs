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
pub struct RefusedVersion {
    /// Its version.
    pub version: Arc<str>,
    /// When it was refused.
    pub since: Moment,
    /// Why.
    pub problem: String,
}

/// A resource in its versions.
#[derive(Debug)]
struct HeldVersions<T> {
    /// The one in use.
    good: Option<Arc<Versioned<T>>>,
    /// The newest one, which was neither applied nor refused.
    newest: Option<Arc<Versioned<T>>>,
    refused: Option<RefusedVersion>,
}

impl<T> Default for HeldVersions<T> {
    fn default() -> Self {
        Self { good: None, newest: None, refused: None }
    }
}

impl<T> HeldVersions<T> {
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
        self.refused = Some(RefusedVersion { version, since, problem });
    }
}

#[derive(Debug)]
struct XdsOwner<T> {
    versions: HeldVersions<T>,
    /// What the current version needs.
    needs: Vec<PartKey>,
    /// What the one in use needs.
    good_needs: Vec<PartKey>,
    /// When it is applied without what is still missing.
    deadline: Moment,
    /// Whether no plane may change or remove it.
    fixed: bool,
}

impl<T> XdsOwner<T> {
    fn all_needs(&self) -> BTreeSet<PartKey> {
        self.needs.iter().chain(&self.good_needs).cloned().collect()
    }
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
    pub refused: Option<RefusedVersion>,
    /// Whether it is of the bootstrap.
    pub fixed: bool,
}

/// The resources of planes. `T` is what a resource says.
#[derive(Debug)]
pub struct Inventory<T> {
    owners: BTreeMap<OwnerKey, XdsOwner<T>>,
    parts: BTreeMap<PartKey, HeldVersions<T>>,
    /// Who needs a part, in the version in use or in a newer one.
    users: BTreeMap<PartKey, BTreeSet<OwnerKey>>,
    /// Those to be applied once they are complete.
    dirty: BTreeSet<OwnerKey>,
}

impl<T> Default for Inventory<T> {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            parts: BTreeMap::new(),
            users: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
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
            versions: HeldVersions::default(),
            needs: Vec::new(),
            good_needs: Vec::new(),
            deadline,
            fixed,
        });
        if owner.fixed != fixed {
            return false;
        }
        let before = owner.all_needs();
        owner.versions.newest = Some(Arc::new(version));
        owner.needs = needs;
        owner.deadline = deadline;
        self.relink(&key, before);
        self.dirty.insert(key);
        true
    }

    /// Notes a new version that says the same as the newest one that was not refused; `false` if it does not.
    pub fn renew(
        &mut self,
        kind: XdsType,
        name: &str,
        version: &Arc<str>,
        same: impl FnOnce(&T) -> bool,
    ) -> bool {
        let name: Arc<str> = name.into();
        let versions = match kind {
            XdsType::Cluster | XdsType::Listener => {
                let kind =
                    if kind == XdsType::Cluster { OwnerKind::Cluster } else { OwnerKind::Listener };
                let owner = self.owners.get_mut(&OwnerKey { kind, name });
                owner.filter(|owner| !owner.fixed).map(|owner| &mut owner.versions)
            }
            XdsType::Assignment | XdsType::Routes => self.parts.get_mut(&PartKey { kind, name }),
        };
        let Some(versions) = versions.filter(|versions| versions.refused.is_none()) else {
            return false;
        };
        let newest =
            if versions.newest.is_some() { &mut versions.newest } else { &mut versions.good };
        match newest {
            Some(newest) if same(&newest.content) => {
                if let Some(newest) = Arc::get_mut(newest) {
                    newest.version = Arc::clone(version);
                }
                true
            }
            _ => false,
        }
    }

    /// A new version of what others need; one that nobody needs is forgotten.
    pub fn offer_part(&mut self, key: PartKey, version: Versioned<T>) {
        if !self.users.contains_key(&key) {
            return;
        }
        self.touch(&key);
        self.parts.entry(key).or_default().newest = Some(Arc::new(version));
    }

    /// What begins does not wait for a part that was refused and has no other version: it would hold up the rest.
    fn give_up(&mut self, key: &PartKey, now: Moment) {
        if self.parts.get(key).and_then(HeldVersions::current).is_some() {
            return;
        }
        for user in self.users.get(key).into_iter().flatten() {
            let Some(owner) = self.owners.get_mut(user) else { continue };
            if owner.versions.good.is_none() && owner.needs.contains(key) {
                owner.deadline = owner.deadline.min(now);
            }
        }
    }

    /// Those that need a part are to be applied again.
    fn touch(&mut self, key: &PartKey) {
        for user in self.users.get(key).into_iter().flatten() {
            if self.owners.get(user).is_some_and(|owner| owner.needs.contains(key)) {
                self.dirty.insert(user.clone());
            }
        }
    }

    /// Notes what an owner needs now, and needed `before`. What nobody needs is forgotten.
    fn relink(&mut self, key: &OwnerKey, before: BTreeSet<PartKey>) {
        let after = self.owners.get(key).map(XdsOwner::all_needs).unwrap_or_default();
        for part in after.difference(&before) {
            self.users.entry(part.clone()).or_default().insert(key.clone());
        }
        for part in before.difference(&after) {
            let Some(users) = self.users.get_mut(part) else { continue };
            users.remove(key);
            if users.is_empty() {
                self.users.remove(part);
                self.parts.remove(part);
            }
        }
    }

    /// A resource was wrong before anything else was looked at.
    pub fn refuse(&mut self, kind: XdsType, name: &str, version: &str, problem: &str, now: Moment) {
        let refusal =
            RefusedVersion { version: version.into(), since: now, problem: problem.to_owned() };
        let name: Arc<str> = name.into();
        let owner = match kind {
            XdsType::Cluster => OwnerKind::Cluster,
            XdsType::Listener => OwnerKind::Listener,
            XdsType::Assignment | XdsType::Routes => {
                let key = PartKey { kind, name };
                if !self.users.contains_key(&key) {
                    return;
                }
                self.parts.entry(key.clone()).or_default().refused = Some(refusal);
                self.give_up(&key, now);
                return;
            }
        };
        let owner = self.owners.entry(OwnerKey { kind: owner, name }).or_insert_with(|| XdsOwner {
            versions: HeldVersions::default(),
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
        if let Some(owner) = &owner {
            self.relink(key, owner.all_needs());
        }
        owner.is_some_and(|owner| owner.versions.good.is_some())
    }

    /// The names of a type that something needs.
    pub fn wanted(&self, kind: XdsType) -> BTreeSet<String> {
        let needed = self.users.keys().filter(|key| key.kind == kind);
        needed.map(|key| key.name.to_string()).collect()
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
                    (need.clone(), self.parts.get(need).and_then(HeldVersions::current).cloned())
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
                let before = owner.all_needs();
                owner.versions.accept();
                owner.good_needs.clone_from(&owner.needs);
                self.relink(&unit.key, before);
            }
        }
        for (key, part) in &unit.parts {
            let (Some(part), Some(versions)) = (part, self.parts.get_mut(key)) else { continue };
            if versions.newest.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, part)) {
                versions.accept();
            }
        }
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
            self.give_up(key, now);
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
        let before = owner.all_needs();
        owner.versions.refuse(problem.to_owned(), now);
        owner.needs.clone_from(&owner.good_needs);
        // Parts that are newer than the version that returns have not been applied to it.
        if owner.versions.good.is_some() {
            self.dirty.insert(unit.key.clone());
        }
        self.relink(&unit.key, before);
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
                    .filter(|need| self.parts.get(need).and_then(HeldVersions::current).is_none());
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
