//! The resources of planes: which are complete, which wait for others, which were not accepted.
//!
//! Owns: what needs what, warming, the last good version of each. Refuses to know: what a resource says, how it is
//! applied. Keeps: a cluster or listener is applied together with all that it needs, or once the time for that is over;
//! until then, what was applied before stays; a resource that is not accepted changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_core::Moment;

use crate::XdsType;

mod links;
mod versions;
mod views;

#[cfg(test)]
mod tests;

use links::PartGroup;
use versions::HeldVersions;
pub use versions::{NeedUntil, OwnerKey, OwnerKind, PartKey, RefusedVersion, Versioned};

/// Most clusters that are returned to be applied at once: what they are made of takes many times their memory.
pub const READY_CLUSTERS_MAX: usize = 512;

#[derive(Debug)]
struct XdsOwner<T> {
    versions: HeldVersions<T>,
    /// What the current version needs.
    needs: Box<[NeedUntil]>,
    /// What the one in use needs.
    good_needs: Box<[NeedUntil]>,
    /// What is kept because of it.
    linked: Box<[PartKey]>,
    /// Whether no plane may change or remove it.
    fixed: bool,
}

impl<T> XdsOwner<T> {
    fn new(fixed: bool) -> Self {
        let (needs, good_needs) = (Box::default(), Box::default());
        Self { versions: HeldVersions::default(), needs, good_needs, linked: Box::default(), fixed }
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
    /// What there is of a kind, where that is needed rather than single parts.
    groups: BTreeMap<PartKey, PartGroup>,
    /// Who needs a part, in the version in use or in a newer one.
    users: BTreeSet<(PartKey, OwnerKey)>,
    /// Those to be applied once they are complete.
    dirty: BTreeSet<OwnerKey>,
    /// Those of which it is to be noted what they need.
    unlinked: BTreeSet<OwnerKey>,
    /// How often what is needed has changed.
    changes: u64,
}

impl<T> Default for Inventory<T> {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            parts: BTreeMap::new(),
            groups: BTreeMap::new(),
            users: BTreeSet::new(),
            dirty: BTreeSet::new(),
            unlinked: BTreeSet::new(),
            changes: 0,
        }
    }
}

impl<T> Inventory<T> {
    /// A new version of what is applied on its own, which waits for each of `needs` until some time. `false` if it is one
    /// of the bootstrap, which stays as it is.
    pub fn offer(
        &mut self,
        key: OwnerKey,
        version: Versioned<T>,
        needs: Box<[NeedUntil]>,
        fixed: bool,
    ) -> bool {
        let owner = self.owners.entry(key.clone()).or_insert_with(|| XdsOwner::new(fixed));
        if owner.fixed != fixed {
            return false;
        }
        owner.versions.offer(version);
        owner.needs = needs;
        self.relink(&key);
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
        let versions = match OwnerKind::of(kind) {
            Some(kind) => {
                let owner = self.owners.get_mut(&OwnerKey { kind, name });
                owner.filter(|owner| !owner.fixed).map(|owner| &mut owner.versions)
            }
            None => self.parts.get_mut(&PartKey { kind, name }),
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

    /// A resource was wrong before anything else was looked at.
    pub fn refuse(&mut self, kind: XdsType, name: &str, version: &str, problem: &str, now: Moment) {
        let refusal =
            RefusedVersion { version: version.into(), since: now, problem: problem.to_owned() };
        let name: Arc<str> = name.into();
        let Some(owner) = OwnerKind::of(kind) else {
            let key = PartKey { kind, name };
            if self.is_used(&key) {
                self.join(&key);
                self.parts.entry(key.clone()).or_default().refused = Some(refusal);
                self.give_up(&key, now);
            }
            return;
        };
        let key = OwnerKey { kind: owner, name };
        let owner = self.owners.entry(key).or_insert_with(|| XdsOwner::new(false));
        owner.versions.refused = Some(refusal);
    }

    /// What was offered last of a resource is of before: it stands in for the version that was refused.
    pub fn stands_in(&mut self, kind: XdsType, name: &str) {
        let name: Arc<str> = name.into();
        let versions = match OwnerKind::of(kind) {
            Some(kind) => self.owners.get_mut(&OwnerKey { kind, name }).map(|of| &mut of.versions),
            None => self.parts.get_mut(&PartKey { kind, name }),
        };
        if let Some(versions) = versions.filter(|versions| versions.newest.is_some()) {
            versions.stands_in = true;
        }
    }

    /// Removes what is applied on its own; whether it was in use.
    pub fn remove(&mut self, key: &OwnerKey) -> bool {
        if self.owners.get(key).is_none_or(|owner| owner.fixed) {
            return false;
        }
        self.dirty.remove(key);
        let owner = self.owners.remove(key);
        if let Some(owner) = &owner {
            self.link(key, &owner.linked, &[]);
        }
        owner.is_some_and(|owner| owner.versions.good.is_some())
    }

    /// What is to be applied now: clusters first, at most [`READY_CLUSTERS_MAX`]; listeners together, because one may take
    /// the address that another one leaves. Each is returned once, and must be followed by [`Inventory::applied`] or
    /// [`Inventory::refused`]. Once nothing is returned, nothing is left.
    pub fn ready(&mut self, now: Moment) -> Vec<ReadyUnit<T>> {
        self.relink_marked();
        let mut units: Vec<ReadyUnit<T>> = Vec::new();
        let dirty = std::mem::take(&mut self.dirty);
        for key in dirty {
            let is_listener = |key: &OwnerKey| key.kind == OwnerKind::Listener;
            let goes_on = is_listener(&key) && units.last().is_some_and(|of| is_listener(&of.key));
            if units.len() >= READY_CLUSTERS_MAX && !goes_on {
                self.dirty.insert(key);
                continue;
            }
            let Some(owner) = self.owners.get(&key) else { continue };
            let Some(current) = owner.versions.current() else { continue };
            let needs = self.needs_of(owner);
            let mut missing = needs.iter().filter(|need| !self.is_there(&need.part));
            if missing.clone().any(|need| now < need.until) {
                self.dirty.insert(key);
                continue;
            }
            // It stays as it is until the part comes, which marks it again.
            if missing.any(|need| !key.kind.can_lack(need.part.kind)) {
                continue;
            }
            let parts = needs.iter().flat_map(|need| self.given(&need.part)).collect();
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
                self.relink(&unit.key);
            }
        }
        for (key, part) in &unit.parts {
            let (Some(part), Some(versions)) = (part, self.parts.get_mut(key)) else { continue };
            if versions.newest.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, part)) {
                let was_needy = versions.is_needy();
                versions.accept();
                if was_needy {
                    self.mark_users(key);
                }
            }
        }
        self.relink_marked();
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
            let was_needy = versions.is_needy();
            versions.refuse(problem.to_owned(), now);
            if was_needy {
                self.mark_users(key);
                self.relink_marked();
            }
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
        owner.versions.refuse(problem.to_owned(), now);
        owner.needs.clone_from(&owner.good_needs);
        // Parts that are newer than the version that returns have not been applied to it.
        if owner.versions.good.is_some() {
            self.dirty.insert(unit.key.clone());
        }
        self.relink(&unit.key);
        Some((unit.key.kind.xds_type(), Arc::clone(&unit.key.name)))
    }
}
