//! What owners need, directly and through other parts, and what is kept because of that.
//!
//! Owns: groups of parts, needs of parts, who uses what. Refuses to know: what is in force. Keeps: a part is there as long as
//! an owner needs it, in the version in use or in a newer one; a group is needed as a whole, and its members come and go.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use sluice_core::Moment;

use super::versions::HeldVersions;
use super::{Inventory, NeedUntil, OwnerKey, PartKey, Versioned, XdsOwner};
use crate::XdsType;

/// Whatever there is of something.
#[derive(Debug, Default)]
pub(super) struct PartGroup {
    /// Whether a plane has said what there is.
    arrived: bool,
    members: BTreeSet<PartKey>,
}

impl PartGroup {
    pub(super) fn members(&self) -> impl Iterator<Item = &PartKey> {
        self.members.iter()
    }
}

/// A part, and its version if there is one.
type GivenPart<T> = (PartKey, Option<Arc<Versioned<T>>>);

impl<T> Inventory<T> {
    /// A new version of what others need; one that nobody needs is forgotten.
    pub fn offer_part(&mut self, key: PartKey, version: Versioned<T>) {
        if !self.is_used(&key) {
            return;
        }
        self.join(&key);
        let needs_more = !version.needs.is_empty();
        let versions = self.parts.entry(key.clone()).or_default();
        let was_needy = versions.is_needy();
        versions.offer(version);
        if was_needy || needs_more {
            self.mark_users(&key);
            // Scopes are many, and come together: what they need is noted once they are all there.
            if key.kind != XdsType::Scope {
                self.relink_marked();
            }
        }
        self.touch(&key);
    }

    /// Sets what a part needs, in place of what it said.
    pub fn set_needs(&mut self, key: &PartKey, needs: &[NeedUntil]) {
        let Some(versions) = self.parts.get_mut(key) else { return };
        for version in [&mut versions.good, &mut versions.newest].into_iter().flatten() {
            // Nobody else has it while nothing is applied.
            if let Some(version) = Arc::get_mut(version) {
                version.needs = needs.into();
            }
        }
        self.mark_users(key);
        self.relink_marked();
        self.touch(key);
    }

    /// Removes a member of a group; whether it was there.
    pub fn remove_part(&mut self, key: &PartKey) -> bool {
        let Some(group) = key.group() else { return false };
        if let Some(group) = self.groups.get_mut(&group) {
            group.members.remove(key);
        }
        let Some(gone) = self.parts.remove(key) else { return false };
        if gone.is_needy() {
            self.mark_users(key);
            self.relink_marked();
        }
        self.touch(key);
        true
    }

    /// A plane has said what there is of a group.
    pub fn arrive(&mut self, group: &PartKey) {
        if self.is_needed(group) {
            self.groups.entry(group.clone()).or_default().arrived = true;
        }
    }

    /// Whether an owner needs it, or its group.
    pub fn is_used(&self, key: &PartKey) -> bool {
        self.is_needed(&user_key(key))
    }

    /// Notes a member of a group.
    pub(super) fn join(&mut self, key: &PartKey) {
        if let Some(group) = key.group() {
            self.groups.entry(group).or_default().members.insert(key.clone());
        }
    }

    /// What begins does not wait for a part that was refused and has no other version: it would hold up the rest.
    pub(super) fn give_up(&mut self, key: &PartKey, now: Moment) {
        if self.parts.get(key).and_then(HeldVersions::current).is_some() {
            return;
        }
        let hurry = |needs: &mut [NeedUntil]| {
            let needs = needs.iter_mut().filter(|need| need.part == *key);
            needs.for_each(|need| need.until = need.until.min(now));
        };
        for user in users_of(&self.users, key) {
            let Some(owner) = self.owners.get_mut(user) else { continue };
            if owner.versions.good.is_some() {
                continue;
            }
            hurry(&mut owner.needs);
            let groups = owner.linked.iter().filter(|part| part.is_group());
            let members = groups.filter_map(|part| self.groups.get(part));
            let members = members.flat_map(|group| &group.members);
            for part in owner.linked.iter().chain(members) {
                let newest = self.parts.get_mut(part).and_then(|part| part.newest.as_mut());
                if let Some(newest) = newest.and_then(Arc::get_mut) {
                    hurry(&mut newest.needs);
                }
            }
        }
    }

    /// Those that need a part are to be applied again.
    pub(super) fn touch(&mut self, key: &PartKey) {
        let key = user_key(key);
        for user in users_of(&self.users, &key) {
            let needs = |owner| self.needs_of(owner).iter().any(|need| need.part == key);
            if !self.dirty.contains(user) && self.owners.get(user).is_some_and(needs) {
                self.dirty.insert(user.clone());
            }
        }
    }

    /// What the current version of an owner needs, and what that needs in turn.
    pub(super) fn needs_of(&self, owner: &XdsOwner<T>) -> Vec<NeedUntil> {
        let mut found = owner.needs.to_vec();
        let mut known: HashSet<PartKey> = found.iter().map(|need| need.part.clone()).collect();
        let mut next = 0;
        while let Some(part) = found.get(next).map(|need| need.part.clone()) {
            next += 1;
            for versions in self.with_needs(&part) {
                for need in versions.current().into_iter().flat_map(|version| &*version.needs) {
                    if known.insert(need.part.clone()) {
                        found.push(need.clone());
                    }
                }
            }
        }
        found
    }

    /// What is needed by the version of an owner that is in use, or by a newer one.
    fn all_needs(&self, owner: &XdsOwner<T>) -> BTreeSet<PartKey> {
        let own = owner.needs.iter().chain(&owner.good_needs);
        let mut open: Vec<PartKey> = own.map(|need| need.part.clone()).collect();
        let mut found = BTreeSet::new();
        while let Some(part) = open.pop() {
            for versions in self.with_needs(&part) {
                let versions = versions.good.iter().chain(&versions.newest);
                let inner = versions.flat_map(|version| &*version.needs);
                open.extend(
                    inner.map(|need| &need.part).filter(|of| !found.contains(*of)).cloned(),
                );
            }
            found.insert(part);
        }
        found
    }

    /// The parts that may need others, of a part or of the members of a group.
    fn with_needs<'a>(&'a self, part: &PartKey) -> impl Iterator<Item = &'a HeldVersions<T>> {
        // Virtual hosts are many, and need nothing.
        let group = self.groups.get(part).filter(|_| part.kind != XdsType::VirtualHost);
        let members = group.into_iter().flat_map(|group| &group.members);
        let members = members.filter_map(|member| self.parts.get(member));
        self.parts.get(part).into_iter().chain(members)
    }

    /// Whether a part or group has come.
    pub(super) fn is_there(&self, part: &PartKey) -> bool {
        if part.is_group() {
            return self.groups.get(part).is_some_and(|group| group.arrived);
        }
        self.parts.get(part).and_then(HeldVersions::current).is_some()
    }

    /// What has not come of what the current version needs.
    pub(super) fn missing(&self, owner: &XdsOwner<T>) -> Vec<NeedUntil> {
        let mut needs = self.needs_of(owner);
        needs.retain(|need| !self.is_there(&need.part));
        needs
    }

    /// A part, or the members of a group that have come.
    pub(super) fn given(&self, part: &PartKey) -> Vec<GivenPart<T>> {
        let current = |key: &PartKey| self.parts.get(key).and_then(HeldVersions::current).cloned();
        if !part.is_group() {
            return vec![(part.clone(), current(part))];
        }
        let members = self.groups.get(part).into_iter().flat_map(|group| &group.members);
        members.filter_map(|key| Some((key.clone(), Some(current(key)?)))).collect()
    }

    /// Notes what an owner needs now.
    pub(super) fn relink(&mut self, key: &OwnerKey) {
        let Some(owner) = self.owners.get(key) else { return };
        let after: Box<[PartKey]> = self.all_needs(owner).into_iter().collect();
        let Some(owner) = self.owners.get_mut(key) else { return };
        let before = std::mem::replace(&mut owner.linked, after.clone());
        self.link(key, &before, &after);
    }

    /// Marks the owners that need a part: what they need has changed.
    pub(super) fn mark_users(&mut self, part: &PartKey) {
        self.unlinked.extend(users_of(&self.users, &user_key(part)).cloned());
    }

    /// Notes what those that are marked need now.
    pub(super) fn relink_marked(&mut self) {
        for key in std::mem::take(&mut self.unlinked) {
            self.relink(&key);
        }
    }

    /// Notes what an owner needs in place of what it needed `before`, both in order. What nobody needs is forgotten.
    pub(super) fn link(&mut self, key: &OwnerKey, before: &[PartKey], after: &[PartKey]) {
        for part in missing_from(before, after) {
            self.changes += u64::from(!self.is_needed(part));
            self.users.insert((part.clone(), key.clone()));
        }
        for part in missing_from(after, before) {
            let was_needed = self.users.remove(&(part.clone(), key.clone()));
            if was_needed && !self.is_needed(part) {
                self.changes += 1;
                self.parts.remove(part);
                let group = self.groups.remove(part);
                for member in group.into_iter().flat_map(|group| group.members) {
                    self.parts.remove(&member);
                }
            }
        }
    }
}

/// What owners need instead of a part: its group, or itself.
fn user_key(key: &PartKey) -> PartKey {
    key.group().unwrap_or_else(|| key.clone())
}

/// Who needs a part or group.
pub(super) fn users_of<'a>(
    users: &'a BTreeSet<(PartKey, OwnerKey)>,
    part: &'a PartKey,
) -> impl Iterator<Item = &'a OwnerKey> {
    let from = (part.clone(), OwnerKey::first());
    users.range(from..).take_while(move |(of, _)| of == part).map(|(_, user)| user)
}

/// Those of `these` that are not among `known`, which are in order.
fn missing_from<'a>(
    known: &'a [PartKey],
    these: &'a [PartKey],
) -> impl Iterator<Item = &'a PartKey> {
    these.iter().filter(|part| known.binary_search(part).is_err())
}
