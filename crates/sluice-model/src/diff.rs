//! The semantic difference between two configurations.
//!
//! Owns: the comparison. Keeps: moving lines, expanding a short form or reordering a map is not a
//! change; a reload does not touch what is equal.

use std::collections::BTreeMap;
use std::fmt;

use sluice_core::Name;
use sluice_core::settings::Members;

use crate::sections::{Cluster, Config, HostOrRule, Listener};

/// The changes of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Listeners.
    pub listeners: Changes,
    /// Clusters.
    pub clusters: Changes,
    /// Route tables.
    pub routes: Changes,
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
    fn of<T: PartialEq>(old: &BTreeMap<Name, &T>, new: &BTreeMap<Name, &T>) -> Self {
        let only = |a: &BTreeMap<Name, &T>, b: &BTreeMap<Name, &T>| {
            a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
        };
        let differs = |(name, value): (&Name, &&T)| {
            old.get(name).is_some_and(|before| before != value).then(|| name.clone())
        };
        Self {
            added: only(new, old),
            removed: only(old, new),
            changed: new.iter().filter_map(differs).collect(),
        }
    }

    /// Whether there are no changes.
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Whether `name` was added or changed.
    pub fn touches(&self, name: &str) -> bool {
        self.added.iter().chain(&self.changed).any(|other| &**other == name)
    }
}

impl Diff {
    /// The difference from `old` to `new`.
    pub fn of(old: &Config, new: &Config) -> Self {
        fn listeners(config: &Config) -> BTreeMap<Name, &Listener> {
            config.listeners.iter().map(|l| (l.name.value.clone(), &l.value)).collect()
        }
        fn clusters(config: &Config) -> BTreeMap<Name, &Cluster> {
            config.clusters.iter().map(|(name, cluster)| (name.clone(), &cluster.value.0)).collect()
        }
        fn routes(config: &Config) -> BTreeMap<Name, &Members<HostOrRule>> {
            config.routes.iter().map(|(name, hosts)| (name.clone(), &hosts.value)).collect()
        }
        // Sections are listed by name: a change in a forgotten one would never be applied.
        let Config {
            admin,
            listeners: _,
            clusters: _,
            routes: _,
            runtime,
            access_log,
            drain,
            limits,
        } = old;
        let other = [
            ("admin", *admin != new.admin),
            ("drain", *drain != new.drain),
            ("limits", *limits != new.limits),
            ("runtime", *runtime != new.runtime),
        ];
        Self {
            listeners: Changes::of(&listeners(old), &listeners(new)),
            clusters: Changes::of(&clusters(old), &clusters(new)),
            routes: Changes::of(&routes(old), &routes(new)),
            access_log: *access_log != new.access_log,
            other: other.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect(),
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        let Self { listeners, clusters, routes, access_log, other } = self;
        listeners.is_empty()
            && clusters.is_empty()
            && routes.is_empty()
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
        if self.access_log {
            parts.push("access_log".into());
        }
        parts.extend(self.other.iter().map(ToString::to_string));
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trees::{bind, fields_of, list, map, text};

    #[test]
    fn a_change_in_any_section_is_a_change() {
        let endpoint = || list(vec![text("127.0.0.1:1")]);
        for field in fields_of::<Config>() {
            let value = match field {
                "admin" => map(&[("address", text("127.0.0.1:1"))]),
                "listeners" => list(vec![map(&[("name", text("a"))])]),
                "clusters" => map(&[("a", map(&[("endpoints", endpoint())]))]),
                "routes" => map(&[("a", list(vec![map(&[("hosts", text("a"))])]))]),
                "runtime" => map(&[("values", map(&[("a", text("1"))]))]),
                "access_log" => list(vec![map(&[])]),
                "drain" => map(&[("timeout", text("1s"))]),
                "limits" => map(&[("inspect_bytes", text("1KiB"))]),
                other => panic!("a value for the new section `{other}`, please"),
            };
            let (old, new): (Config, Config) = (bind(&map(&[])), bind(&map(&[(field, value)])));
            assert!(!Diff::of(&old, &new).is_empty(), "{field}");
            assert!(Diff::of(&new, &new).is_empty(), "{field}");
        }
    }
}
