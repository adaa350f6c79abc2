//! The names of resources, and each in its versions.
//!
//! Owns: which of its versions is in use, which is newer, which was refused. Refuses to know: what others need of it. Keeps:
//! a version that is refused leaves the one in use.

use std::fmt;
use std::sync::Arc;

use sluice_core::Moment;

use crate::XdsType;

/// What is applied on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// Runtime values.
    Runtime,
    /// A cluster, which may need endpoints and secrets.
    Cluster,
    /// A listener, which may need route tables, secrets and settings of filters.
    Listener,
}

/// A cluster, a listener or runtime values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerKey {
    /// Which of them.
    pub kind: OwnerKind,
    /// Its name.
    pub name: Arc<str>,
}

impl OwnerKey {
    /// None comes before it.
    pub(super) fn first() -> Self {
        Self { kind: OwnerKind::Runtime, name: Arc::default() }
    }
}

/// What a cluster or listener may need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartKey {
    /// One of [`XdsType::PARTS`].
    pub kind: XdsType,
    /// Its name.
    pub name: Arc<str>,
}

impl PartKey {
    /// The virtual hosts of a route table, all together.
    pub fn hosts_of(table: &str) -> Self {
        Self { kind: XdsType::VirtualHost, name: format!("{table}/").into() }
    }

    /// The scopes of route tables, all together.
    pub fn scopes() -> Self {
        Self { kind: XdsType::Scope, name: Arc::default() }
    }

    /// Whether it is whatever there is of something, rather than one part by name.
    pub fn is_group(&self) -> bool {
        match self.kind {
            XdsType::VirtualHost => self.name.ends_with('/'),
            XdsType::Scope => self.name.is_empty(),
            _ => false,
        }
    }

    /// The group that this belongs to: a virtual host is `TABLE/HOST`, and a host contains no `/`;
    /// all scopes are of one group.
    pub fn group(&self) -> Option<Self> {
        match self.kind {
            _ if self.is_group() => None,
            XdsType::VirtualHost => {
                self.name.rsplit_once('/').map(|(table, _)| Self::hosts_of(table))
            }
            XdsType::Scope => Some(Self::scopes()),
            _ => None,
        }
    }
}

impl fmt::Display for PartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.strip_suffix('/').filter(|_| self.is_group()) {
            None if self.is_group() => f.write_str("scopes of routes"),
            Some(table) => write!(f, "virtual hosts of `{table}`"),
            None => write!(f, "{} `{}`", self.kind, self.name),
        }
    }
}

impl OwnerKind {
    /// The type of its resources.
    pub const fn xds_type(self) -> XdsType {
        match self {
            Self::Runtime => XdsType::Runtime,
            Self::Cluster => XdsType::Cluster,
            Self::Listener => XdsType::Listener,
        }
    }

    /// The kind whose resources are of a type; `None` if it is one that others need.
    pub const fn of(kind: XdsType) -> Option<Self> {
        match kind {
            XdsType::Runtime => Some(Self::Runtime),
            XdsType::Cluster => Some(Self::Cluster),
            XdsType::Listener => Some(Self::Listener),
            XdsType::Assignment
            | XdsType::Scope
            | XdsType::Routes
            | XdsType::VirtualHost
            | XdsType::Secret
            | XdsType::Extension => None,
        }
    }

    /// Whether it can be used without a part that has not come in time. A cluster cannot be without its secrets: it would
    /// present or accept anything.
    pub(super) const fn can_lack(self, part: XdsType) -> bool {
        !matches!((self, part), (Self::Cluster, XdsType::Secret))
    }
}

/// A part that is needed, and when it is waited for no longer.
#[derive(Clone, Debug)]
pub struct NeedUntil {
    /// The part.
    pub part: PartKey,
    /// When it is waited for no longer.
    pub until: Moment,
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
    /// What a part needs in turn; empty for what is applied on its own.
    pub needs: Box<[NeedUntil]>,
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
pub(super) struct HeldVersions<T> {
    /// The one in use.
    pub(super) good: Option<Arc<Versioned<T>>>,
    /// The newest one, which was neither applied nor refused.
    pub(super) newest: Option<Arc<Versioned<T>>>,
    pub(super) refused: Option<RefusedVersion>,
    /// Whether the newest one is of before, in place of the one that was refused.
    pub(super) stands_in: bool,
}

impl<T> Default for HeldVersions<T> {
    fn default() -> Self {
        Self { good: None, newest: None, refused: None, stands_in: false }
    }
}

impl<T> HeldVersions<T> {
    pub(super) fn current(&self) -> Option<&Arc<Versioned<T>>> {
        self.newest.as_ref().or(self.good.as_ref())
    }

    /// Whether a version of it needs other parts.
    pub(super) fn is_needy(&self) -> bool {
        let mut all = self.good.iter().chain(&self.newest);
        all.any(|version| !version.needs.is_empty())
    }

    pub(super) fn offer(&mut self, version: Versioned<T>) {
        (self.newest, self.stands_in) = (Some(Arc::new(version)), false);
    }

    pub(super) fn accept(&mut self) {
        if let Some(newest) = self.newest.take() {
            self.good = Some(newest);
            // A version of before does not make the one right that it stands in for.
            if !std::mem::take(&mut self.stands_in) {
                self.refused = None;
            }
        }
    }

    pub(super) fn refuse(&mut self, problem: String, since: Moment) {
        let version = self.newest.take().map_or_else(|| "".into(), |of| Arc::clone(&of.version));
        self.refused = Some(RefusedVersion { version, since, problem });
    }
}
