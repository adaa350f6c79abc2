//! The resources of planes: which are complete, which wait for others, which were not accepted.
//!
//! Owns: what needs what, warming, the last good version of each. Refuses to know: what a resource says, how it is
//! applied. Keeps: a cluster or listener is applied together with all that it needs, or once the time for that is over;
//! until then, what was applied before stays; a resource that is not accepted changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_core::Moment;

use crate::XdsType;

mod versions;

#[cfg(test)]
mod tests;

use versions::HeldVersions;
pub use versions::{OwnerKey, OwnerKind, PartKey, RefusedVersion, Versioned};

/// Most clusters that are returned to be applied at once: what they are made of takes many times their memory.
pub const READY_CLUSTERS_MAX: usize = 512;

/// A part that is needed, and when it is waited for no longer.
#[derive(Clone, Debug)]
struct NeedUntil {
    part: PartKey,
    until: Moment,
}

#[derive(Debug)]
struct XdsOwner<T> {
    versions: HeldVersions<T>,
    /// What the current version needs.
    needs: Arc<[NeedUntil]>,
    /// What the one in use needs.
    good_needs: Arc<[NeedUntil]>,
    /// Whether no plane may change or remove it.
    fixed: bool,
}

impl<T> XdsOwner<T> {
    fn all_needs(&self) -> BTreeSet<PartKey> {
        let all = self.needs.iter().chain(&*self.good_needs);
        all.map(|need| need.part.clone()).collect()
    }

    fn needs(&self, part: &PartKey) -> bool {
        self.needs.iter().any(|need| need.part == *part)
    }

    fn new(fixed: bool) -> Self {
        let none: Arc<[NeedUntil]> = Arc::default();
        let versions = HeldVersions::default();
        Self { versions, needs: Arc::clone(&none), good_needs: none, fixed }
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
    users: BTreeSet<(PartKey, OwnerKey)>,
    /// Those to be applied once they are complete.
    dirty: BTreeSet<OwnerKey>,
    /// How often what is needed has changed.
    changes: u64,
}

impl<T> Default for Inventory<T> {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            parts: BTreeMap::new(),
            users: BTreeSet::new(),
            dirty: BTreeSet::new(),
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
        needs: Vec<(PartKey, Moment)>,
        fixed: bool,
    ) -> bool {
        let owner = self.owners.entry(key.clone()).or_insert_with(|| XdsOwner::new(fixed));
        if owner.fixed != fixed {
            return false;
        }
        let before = owner.all_needs();
        owner.versions.offer(version);
        owner.needs = needs.into_iter().map(|(part, until)| NeedUntil { part, until }).collect();
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

    /// A new version of what others need; one that nobody needs is forgotten.
    pub fn offer_part(&mut self, key: PartKey, version: Versioned<T>) {
        if !self.is_needed(&key) {
            return;
        }
        self.touch(&key);
        self.parts.entry(key).or_default().offer(version);
    }

    /// What begins does not wait for a part that was refused and has no other version: it would hold up the rest.
    fn give_up(&mut self, key: &PartKey, now: Moment) {
        if self.parts.get(key).and_then(HeldVersions::current).is_some() {
            return;
        }
        for user in users_of(&self.users, key) {
            let Some(owner) = self.owners.get_mut(user) else { continue };
            if owner.versions.good.is_none() {
                let needs = Arc::make_mut(&mut owner.needs).iter_mut();
                let needs = needs.filter(|need| need.part == *key);
                needs.for_each(|need| need.until = need.until.min(now));
            }
        }
    }

    /// Those that need a part are to be applied again.
    fn touch(&mut self, key: &PartKey) {
        for user in users_of(&self.users, key) {
            if self.owners.get(user).is_some_and(|owner| owner.needs(key)) {
                self.dirty.insert(user.clone());
            }
        }
    }

    /// Notes what an owner needs now, and needed `before`. What nobody needs is forgotten.
    fn relink(&mut self, key: &OwnerKey, before: BTreeSet<PartKey>) {
        let after = self.owners.get(key).map(XdsOwner::all_needs).unwrap_or_default();
        for part in after.difference(&before) {
            self.changes += u64::from(!self.is_needed(part));
            self.users.insert((part.clone(), key.clone()));
        }
        for part in before.difference(&after) {
            if self.users.remove(&(part.clone(), key.clone())) && !self.is_needed(part) {
                self.changes += 1;
                self.parts.remove(part);
            }
        }
    }

    /// A resource was wrong before anything else was looked at.
    pub fn refuse(&mut self, kind: XdsType, name: &str, version: &str, problem: &str, now: Moment) {
        let refusal =
            RefusedVersion { version: version.into(), since: now, problem: problem.to_owned() };
        let name: Arc<str> = name.into();
        let Some(owner) = OwnerKind::of(kind) else {
            let key = PartKey { kind, name };
            if self.is_needed(&key) {
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
            self.relink(key, owner.all_needs());
        }
        owner.is_some_and(|owner| owner.versions.good.is_some())
    }

    /// What something needs: each part once.
    pub fn needed(&self) -> impl Iterator<Item = &PartKey> {
        let mut before = None;
        let parts = self.users.iter().map(|(part, _)| part);
        parts.filter(move |part| before.replace(*part) != Some(*part))
    }

    /// Whether something needs this.
    pub fn is_needed(&self, part: &PartKey) -> bool {
        users_of(&self.users, part).next().is_some()
    }

    /// A number that changes whenever [`Inventory::needed`] does.
    pub const fn changes_of_need(&self) -> u64 {
        self.changes
    }

    /// The names of those of a kind that planes have sent and may remove.
    pub fn names(&self, kind: OwnerKind) -> impl Iterator<Item = &Arc<str>> {
        let of = self.owners.iter().filter(move |(key, owner)| key.kind == kind && !owner.fixed);
        of.map(|(key, _)| &key.name)
    }

    /// What is to be applied now: clusters first, at most [`READY_CLUSTERS_MAX`]; listeners together, because one may take
    /// the address that another one leaves. Each is returned once, and must be followed by [`Inventory::applied`] or
    /// [`Inventory::refused`]. Once nothing is returned, nothing is left.
    pub fn ready(&mut self, now: Moment) -> Vec<ReadyUnit<T>> {
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
            if self.missing(owner).any(|need| now < need.until) {
                self.dirty.insert(key);
                continue;
            }
            // It stays as it is until the part comes, which marks it again.
            if self.missing(owner).any(|need| !key.kind.can_lack(need.part.kind)) {
                continue;
            }
            let parts = owner.needs.iter().map(|need| {
                (
                    need.part.clone(),
                    self.parts.get(&need.part).and_then(HeldVersions::current).cloned(),
                )
            });
            let parts = parts.collect();
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
                owner.good_needs = Arc::clone(&owner.needs);
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
        owner.needs = Arc::clone(&owner.good_needs);
        // Parts that are newer than the version that returns have not been applied to it.
        if owner.versions.good.is_some() {
            self.dirty.insert(unit.key.clone());
        }
        self.relink(&unit.key, before);
        Some((unit.key.kind.xds_type(), Arc::clone(&unit.key.name)))
    }

    /// Every version of planes that is in use: owners first.
    pub fn in_use(&self) -> impl Iterator<Item = (XdsType, &Arc<str>, &Versioned<T>)> {
        let owners = self.owners.iter().filter(|(_, owner)| !owner.fixed);
        let owners =
            owners.map(|(key, owner)| (key.kind.xds_type(), &key.name, &owner.versions.good));
        let parts = self.parts.iter().map(|(key, of)| (key.kind, &key.name, &of.good));
        owners.chain(parts).filter_map(|(kind, name, good)| Some((kind, name, &**good.as_ref()?)))
    }

    /// Whether a version of a resource has come that was not refused, of the bootstrap or of a plane.
    pub fn has(&self, kind: XdsType, name: &str) -> bool {
        let name: Arc<str> = name.into();
        match OwnerKind::of(kind) {
            Some(kind) => {
                let owner = self.owners.get(&OwnerKey { kind, name });
                owner.is_some_and(|owner| owner.versions.current().is_some())
            }
            None => {
                self.parts.get(&PartKey { kind, name }).is_some_and(|of| of.current().is_some())
            }
        }
    }

    /// Whether nothing of a kind is waited for any more.
    pub fn is_settled(&self, kind: OwnerKind) -> bool {
        !self.dirty.iter().any(|key| key.kind == kind)
    }

    /// When the next one is waited for no longer.
    pub fn next_deadline(&self) -> Option<Moment> {
        let waiting = self.dirty.iter().filter_map(|key| self.owners.get(key));
        let complete = waiting.filter_map(|of| self.missing(of).map(|need| need.until).max());
        complete.min().filter(|at| *at != Moment::NEVER)
    }

    /// What has not come in time, of what waits to be applied.
    pub fn late(&self, now: Moment) -> BTreeSet<PartKey> {
        let waiting = self.dirty.iter().filter_map(|key| self.owners.get(key));
        let missing = waiting.flat_map(|owner| self.missing(owner));
        missing.filter(|need| need.until <= now).map(|need| need.part.clone()).collect()
    }

    /// What has not come of what the current version needs.
    fn missing<'a>(&'a self, owner: &'a XdsOwner<T>) -> impl Iterator<Item = &'a NeedUntil> {
        let part = |need: &&NeedUntil| self.parts.get(&need.part).and_then(HeldVersions::current);
        owner.needs.iter().filter(move |need| part(need).is_none())
    }

    /// Every resource, for people.
    pub fn entries(&self) -> Vec<InventoryEntry> {
        let at = |of: &Arc<Versioned<T>>| (Arc::clone(&of.version), of.since);
        let owners = self.owners.iter().map(|(key, owner)| InventoryEntry {
            kind: key.kind.xds_type(),
            name: Arc::clone(&key.name),
            good: owner.versions.good.as_ref().map(at),
            newest: owner.versions.newest.as_ref().map(at),
            waits_for: match &owner.versions.newest {
                Some(_) => self.missing(owner).map(|need| need.part.clone()).collect(),
                None => Vec::new(),
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

/// Who needs a part.
fn users_of<'a>(
    users: &'a BTreeSet<(PartKey, OwnerKey)>,
    part: &'a PartKey,
) -> impl Iterator<Item = &'a OwnerKey> {
    let from = (part.clone(), OwnerKey::first());
    users.range(from..).take_while(move |(of, _)| of == part).map(|(_, user)| user)
}
