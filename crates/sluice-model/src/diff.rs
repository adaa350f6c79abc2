//! What changed between two configurations, by meaning.
//!
//! Owns: the comparison. Keeps: moving lines, writing a short form long, or reordering a map is no
//! change; what is equal is not touched by a reload.

use std::collections::BTreeMap;
use std::fmt;

use sluice_core::Name;
use sluice_core::settings::Members;

use crate::sections::{Cluster, Config, Listener, VirtualHost};

/// What a reload would do.
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
    /// Whether anything else changed: limits, drain, admin.
    pub other: Vec<&'static str>,
}

/// Names that came, went or changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that came.
    pub added: Vec<Name>,
    /// Those that went.
    pub removed: Vec<Name>,
    /// Those that changed.
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

    /// Whether nothing did.
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Whether `name` came or changed.
    pub fn touches(&self, name: &str) -> bool {
        self.added.iter().chain(&self.changed).any(|other| &**other == name)
    }
}

impl Diff {
    /// What changed from `old` to `new`.
    pub fn of(old: &Config, new: &Config) -> Self {
        fn listeners(config: &Config) -> BTreeMap<Name, &Listener> {
            config.listeners.iter().map(|l| (l.name.value.clone(), &l.value)).collect()
        }
        fn clusters(config: &Config) -> BTreeMap<Name, &Cluster> {
            config.clusters.iter().map(|(name, cluster)| (name.clone(), &cluster.value)).collect()
        }
        fn routes(config: &Config) -> BTreeMap<Name, &Members<VirtualHost>> {
            config.routes.iter().map(|(name, hosts)| (name.clone(), &hosts.value)).collect()
        }
        let mut other = Vec::new();
        for (name, differs) in [
            ("admin", old.admin != new.admin),
            ("drain", old.drain != new.drain),
            ("limits", old.limits != new.limits),
            ("runtime", old.runtime != new.runtime),
        ] {
            if differs {
                other.push(name);
            }
        }
        Self {
            listeners: Changes::of(&listeners(old), &listeners(new)),
            clusters: Changes::of(&clusters(old), &clusters(new)),
            routes: Changes::of(&routes(old), &routes(new)),
            access_log: old.access_log != new.access_log,
            other,
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.clusters.is_empty()
            && self.routes.is_empty()
            && !self.access_log
            && self.other.is_empty()
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
