//! What an inventory has, for those who ask.
//!
//! Owns: what is needed, in use, waited for. Refuses to know: how any of it came about. Keeps: nothing here changes anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use sluice_core::Moment;

use super::links::users_of;
use super::{Inventory, InventoryEntry, OwnerKey, OwnerKind, PartKey, Versioned};
use crate::XdsType;

impl<T> Inventory<T> {
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

    /// The names of the members of a group that have come, or that were refused.
    pub fn members(&self, group: &PartKey) -> impl Iterator<Item = &Arc<str>> {
        self.groups.get(group).into_iter().flat_map(|of| of.members()).map(|member| &member.name)
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

    /// Whether a version of a part is in use.
    pub fn is_in_use(&self, part: &PartKey) -> bool {
        self.parts.get(part).is_some_and(|of| of.good.is_some())
    }

    /// Whether nothing of a kind is waited for any more.
    pub fn is_settled(&self, kind: OwnerKind) -> bool {
        !self.dirty.iter().any(|key| key.kind == kind)
    }

    /// When the next one is waited for no longer.
    pub fn next_deadline(&self) -> Option<Moment> {
        let waiting = self.dirty.iter().filter_map(|key| self.owners.get(key));
        let complete =
            waiting.filter_map(|of| self.missing(of).into_iter().map(|need| need.until).max());
        complete.min().filter(|at| *at != Moment::NEVER)
    }

    /// What has not come in time, of what waits to be applied.
    pub fn late(&self, now: Moment) -> BTreeSet<PartKey> {
        let waiting = self.dirty.iter().filter_map(|key| self.owners.get(key));
        let missing = waiting.flat_map(|owner| self.missing(owner));
        missing.filter(|need| need.until <= now).map(|need| need.part).collect()
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
                Some(_) => self.missing(owner).into_iter().map(|need| need.part).collect(),
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
