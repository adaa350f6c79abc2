//! A route that is selected again because a filter changed the request.
//!
//! Owns: which filters run after that. Refuses to know: what any filter changed, and why. Keeps: a request passes every
//! guard of the route that it takes in the end, with that route's settings, and every guard that judges its target has
//! judged the one that is forwarded; every other filter runs at most once. What runs again does not edit the target, so
//! that it ends.

use std::rc::Rc;

use super::{RequestTask, Stop};
use crate::connection_manager::{FilterEntry, RouteSnapshot};

/// The places of a virtual host and of a rule in it.
pub(super) type RoutePlace = (usize, usize);

impl RequestTask {
    /// The filters of a redirect's route that a request which has passed all of its own has yet to pass.
    pub(super) fn due_of<'a>(
        &'a self,
        new: &'a [FilterEntry],
    ) -> impl Iterator<Item = &'a FilterEntry> {
        let ran = &self.filters[..self.entered];
        new.iter().filter(|entry| {
            let mut before = ran.iter().filter(|ran| ran.name == entry.name).peekable();
            // A redirect has another target.
            before.peek().is_none()
                || entry.judges_target
                || (entry.guards && !before.any(|ran| Rc::ptr_eq(&ran.filter, &entry.filter)))
        })
    }

    /// Has the guards of the route that judged the target before the filter at `editor` changed it judge it again, after
    /// all others.
    pub(super) fn judge_again(
        &mut self,
        snapshot: &RouteSnapshot,
        route: Option<RoutePlace>,
        editor: usize,
    ) {
        let rule = route.map(|(host, rule)| &snapshot.table.virtual_hosts[host].rules[rule]);
        let own = self.manager.filters(snapshot, rule.map_or(0, |rule| rule.overrides));
        let (before, behind) = self.filters.split_at(editor);
        let ran = |among: &[FilterEntry], entry: &FilterEntry| {
            among.iter().any(|ran| Rc::ptr_eq(&ran.filter, &entry.filter))
        };
        let is_due =
            |entry: &&FilterEntry| entry.judges_target && ran(before, entry) && !ran(behind, entry);
        let due: Vec<FilterEntry> = own.iter().filter(is_due).cloned().collect();
        if !due.is_empty() {
            self.filters = Rc::new(self.filters.iter().cloned().chain(due).collect());
        }
    }

    /// Selects the route again after the filter at `place` has run; the filters that have yet to run are those of the
    /// new route.
    pub(super) fn reroute(
        &mut self,
        snapshot: &RouteSnapshot,
        place: usize,
        route: Option<RoutePlace>,
    ) -> Result<Option<RoutePlace>, Stop> {
        let found = self.find_route(snapshot);
        if found == route {
            return Ok(route);
        }
        // Another host may require another client certificate.
        self.refuse_misdirected()?;
        let new = self.take_route(snapshot, found);
        let ran = &self.filters[..=place];
        let is_behind = |entry: &FilterEntry| {
            let of_chain = |name: &str| self.manager.place_in_chain(name);
            let in_list = |name: &Rc<str>| new.iter().position(|entry| entry.name == *name);
            match (of_chain(&ran[place].name), of_chain(&entry.name)) {
                (Some(here), Some(there)) => here < there,
                // Filters that only rules and virtual hosts have are behind those of the chain.
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => in_list(&ran[place].name) < in_list(&entry.name),
            }
        };
        let is_due = |entry: &&FilterEntry| {
            let mut before = ran.iter().filter(|ran| ran.name == entry.name).peekable();
            if before.peek().is_none() {
                return entry.guards || is_behind(entry);
            }
            entry.guards && !before.any(|ran| Rc::ptr_eq(&ran.filter, &entry.filter))
        };
        let due = new.iter().filter(is_due).cloned();
        self.filters = Rc::new(ran.iter().cloned().chain(due).collect());
        Ok(found)
    }
}
