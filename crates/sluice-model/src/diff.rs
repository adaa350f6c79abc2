//! What a reload changed, by meaning.
//!
//! Owns: the summary of a reload. Keeps: moving lines, expanding a short form or reordering a map is not a change.

use std::fmt;

use sluice_core::Name;

use crate::model::Kind;
use crate::process::Process;
use crate::store::{Outcome, Verdict};

/// The changes of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Listeners.
    pub listeners: Changes,
    /// Clusters, with their endpoints.
    pub clusters: Changes,
    /// Route tables.
    pub routes: Changes,
    /// Whether files that resources name have new content.
    pub files: bool,
    /// Whether the access log changed.
    pub access_log: bool,
    /// The other sections that changed: limits, drain, admin, runtime.
    pub other: Vec<&'static str>,
}

/// Names that were added, removed or changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Added names.
    pub added: Vec<Name>,
    /// Removed names.
    pub removed: Vec<Name>,
    /// Changed names.
    pub changed: Vec<Name>,
}

impl Changes {
    /// Whether there are no changes.
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    fn of<'v>(verdicts: impl Iterator<Item = &'v Verdict>) -> Self {
        let mut changes = Self::default();
        for Verdict { kind: _, name, outcome } in verdicts {
            let list = match outcome {
                Outcome::Added => &mut changes.added,
                Outcome::Removed => &mut changes.removed,
                Outcome::Changed => &mut changes.changed,
                _ => continue,
            };
            list.push(name.clone());
        }
        changes.added.sort_unstable();
        changes.removed.sort_unstable();
        // A cluster and its endpoints may both have changed.
        changes.changed.sort_unstable();
        changes.changed.dedup();
        changes
    }
}

impl Diff {
    /// The changes of these resources, and from the settings `old` to `new`.
    pub fn of(verdicts: &[Verdict], old: &Process, new: &Process) -> Self {
        let of = |kind: Kind| verdicts.iter().filter(move |verdict| verdict.kind == kind);
        let changed = |verdict: &&Verdict| verdict.outcome == Outcome::Changed;
        // Endpoints come and go with their cluster.
        let clusters = of(Kind::Cluster).chain(of(Kind::Endpoints).filter(changed));
        Self {
            listeners: Changes::of(of(Kind::Listener)),
            clusters: Changes::of(clusters),
            routes: Changes::of(of(Kind::Routes)),
            files: verdicts.iter().any(|verdict| verdict.outcome == Outcome::Refreshed),
            access_log: old.access_log != new.access_log,
            other: old.differences(new),
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        let Self { listeners, clusters, routes, files, access_log, other } = self;
        listeners.is_empty()
            && clusters.is_empty()
            && routes.is_empty()
            && !files
            && !access_log
            && other.is_empty()
    }
}

impl fmt::Display for Diff {
    /// `listeners: +a ~b; clusters: -c; access_log`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let mut parts = Vec::new();
        for (what, changes) in
            [("listeners", &self.listeners), ("clusters", &self.clusters), ("routes", &self.routes)]
        {
            let marked = |mark: char, names: &[Name]| {
                names.iter().map(|name| format!("{mark}{name}")).collect::<Vec<_>>()
            };
            let all = [
                marked('+', &changes.added),
                marked('-', &changes.removed),
                marked('~', &changes.changed),
            ]
            .concat();
            if !all.is_empty() {
                parts.push(format!("{what}: {}", all.join(" ")));
            }
        }
        if self.files {
            parts.push("files".into());
        }
        if self.access_log {
            parts.push("access_log".into());
        }
        parts.extend(self.other.iter().map(ToString::to_string));
        f.write_str(&parts.join("; "))
    }
}
