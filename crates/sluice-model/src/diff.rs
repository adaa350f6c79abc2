//! What a reload changed, by meaning.
//!
//! Owns: the summary of a reload. Keeps: moving lines, expanding a short form or reordering a map is not a change.

use std::fmt;

use sluice_core::Name;

use crate::model::Kind;
use crate::process::Process;
use crate::store::{Outcome, ResourceVerdict};

/// The changes of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Listeners.
    pub listeners: Changes,
    /// Clusters, with their endpoints.
    pub clusters: Changes,
    /// Route tables.
    pub routes: Changes,
    /// Secrets.
    pub secrets: Changes,
    /// Lookup tables.
    pub maps: Changes,
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

    fn of<'v>(verdicts: impl Iterator<Item = &'v ResourceVerdict>) -> Self {
        let mut changes = Self::default();
        for ResourceVerdict { kind: _, name, outcome } in verdicts {
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
    pub fn of(verdicts: &[ResourceVerdict], old: &Process, new: &Process) -> Self {
        let of = |kind: Kind| verdicts.iter().filter(move |verdict| verdict.kind == kind);
        let changed = |verdict: &&ResourceVerdict| verdict.outcome == Outcome::Changed;
        // Endpoints come and go with their cluster.
        let clusters = of(Kind::Cluster).chain(of(Kind::Endpoints).filter(changed));
        Self {
            listeners: Changes::of(of(Kind::Listener)),
            clusters: Changes::of(clusters),
            routes: Changes::of(of(Kind::Routes)),
            secrets: Changes::of(of(Kind::Secret)),
            maps: Changes::of(of(Kind::Map)),
            files: verdicts.iter().any(|verdict| verdict.outcome == Outcome::Refreshed),
            access_log: old.access_log != new.access_log,
            other: old.differences(new),
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        let Self { listeners, clusters, routes, secrets, maps, files, access_log, other } = self;
        listeners.is_empty()
            && clusters.is_empty()
            && routes.is_empty()
            && secrets.is_empty()
            && maps.is_empty()
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
        for (what, changes) in [
            ("listeners", &self.listeners),
            ("clusters", &self.clusters),
            ("routes", &self.routes),
            ("secrets", &self.secrets),
            ("maps", &self.maps),
        ] {
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use sluice_core::{Diags, Node};

    use super::*;
    use crate::compile::{SharedParts, Surroundings};
    use crate::files::{FilesInput, stage_files};
    use crate::sections::Config;
    use crate::store::Store;
    use crate::trees::{bind, fields_of, list, map, text};

    /// Takes a configuration over what is in force; returns its settings and the verdicts.
    fn take(
        root: Node,
        store: &mut Store,
        around: &Surroundings,
    ) -> (Process, Vec<ResourceVerdict>) {
        let config: Config = bind(&root);
        let input = FilesInput {
            config,
            root,
            folder: Path::new("."),
            endpoint_files: &Default::default(),
            tables: Vec::new(),
            discovered: false,
        };
        let (mut shared, mut diags) = (SharedParts::default(), Diags::new());
        let staged = stage_files(input, store, around, &mut shared, Duration::ZERO, &mut diags);
        let (process, staged) =
            staged.unwrap_or_else(|| panic!("{:?}", diags.iter().collect::<Vec<_>>()));
        let verdicts = staged.verdicts.clone();
        store.commit(staged, around);
        (process, verdicts)
    }

    #[test]
    fn a_change_in_any_section_is_a_change() {
        let endpoint = || list(vec![text("127.0.0.1:1")]);
        let cluster = || map(&[("a", map(&[("endpoints", endpoint())]))]);
        for field in fields_of::<Config>() {
            let value = match field {
                "admin" => map(&[("address", text("127.0.0.1:1"))]),
                "listeners" => list(vec![map(&[
                    ("name", text("l")),
                    ("address", text("127.0.0.1:2")),
                    ("relay", text("b")),
                ])]),
                "clusters" => cluster(),
                "routes" => map(&[("a", list(vec![map(&[("hosts", text("a"))])]))]),
                "node" => map(&[("id", text("a"))]),
                "secrets" => map(&[("a", text("s"))]),
                "maps" => map(&[("a", map(&[("entries", map(&[("k", text("v"))]))]))]),
                "runtime" => map(&[("values", map(&[("a", text("1"))]))]),
                "access_log" => list(vec![map(&[])]),
                "drain" => map(&[("timeout", text("1s"))]),
                "limits" => map(&[("inspect_bytes", text("32KiB"))]),
                "xds" => map(&[("cluster", text("b"))]),
                other => panic!("a value for the new section `{other}`, please"),
            };
            let plane = || map(&[("endpoints", endpoint()), ("protocol", text("http2"))]);
            let both = |more: Node| match field {
                // It names a cluster.
                "xds" => map(&[(field, more), ("clusters", map(&[("b", plane())]))]),
                // The listener needs a cluster.
                "listeners" => {
                    let clusters = map(&[("b", map(&[("endpoints", endpoint())]))]);
                    map(&[(field, more), ("clusters", clusters)])
                }
                // It says something of clusters.
                "node" => {
                    let aperture = [("endpoints", endpoint()), ("aperture", text("2"))];
                    map(&[(field, more), ("clusters", map(&[("b", map(&aperture))]))])
                }
                _ => map(&[(field, more)]),
            };
            let (around, mut store) = (Surroundings::default(), Store::default());
            let empty = match field {
                "admin" => map(&[]),
                "xds" => map(&[("clusters", map(&[("b", plane())]))]),
                "listeners" | "access_log" => both(list(Vec::new())),
                _ => both(map(&[])),
            };
            let (old, _) = take(empty, &mut store, &around);
            let (new, verdicts) = take(both(value.clone()), &mut store, &around);
            assert!(!Diff::of(&verdicts, &old, &new).is_empty(), "{field}");
            let (again, verdicts) = take(both(value), &mut store, &around);
            assert!(Diff::of(&verdicts, &new, &again).is_empty(), "{field}");
        }
    }
}
