//! The Model: what Sluice runs, as plain values.
//!
//! Owns: the types of resources, and the names that they refer to each other by. Refuses to know: files, their
//! positions, defaults (a source writes every field) and what is compiled from it. Keeps: values that
//! exclude each other cannot be written together; two values that mean the same are equal.

use std::fmt;
use std::sync::Arc;

use sluice_core::{Name, Node};
use sluice_l7::runtime::RuntimeMap;

pub mod cluster;
pub mod listener;
pub mod maps;
pub mod routes;
pub mod tls;

pub use cluster::{Cluster, Endpoints};
pub use listener::{FilterChain, Listener};
pub use maps::LookupMap;
pub use routes::RouteTable;
pub use tls::Secret;

/// The kinds of resources that refer to each other by name, each after those that it may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A certificate with its key, or a text that filters use.
    Secret,
    /// A lookup table.
    Map,
    /// The endpoints of the cluster of the same name.
    Endpoints,
    /// A cluster, without its endpoints.
    Cluster,
    /// A route table.
    Routes,
    /// A listener.
    Listener,
    /// A layer of runtime values.
    Runtime,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 7] = [
        Self::Secret,
        Self::Map,
        Self::Endpoints,
        Self::Cluster,
        Self::Routes,
        Self::Listener,
        Self::Runtime,
    ];

    /// The word for one of them.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Routes => "routes",
            Self::Secret => "secret",
            Self::Map => "map",
            Self::Runtime => "runtime",
        }
    }
}

/// A resource.
#[derive(Clone, Debug)]
pub enum Resource {
    /// A listener.
    Listener(Arc<Listener>),
    /// A cluster.
    Cluster(Arc<Cluster>),
    /// The endpoints of a cluster.
    Endpoints(Arc<Endpoints>),
    /// A route table.
    Routes(Arc<RouteTable>),
    /// A secret.
    Secret(Arc<Secret>),
    /// A lookup table.
    Map(Arc<LookupMap>),
    /// A layer of runtime values; of several, the one whose name comes last wins.
    Runtime(Arc<RuntimeLayer>),
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Listener(one), Self::Listener(two)) => one == two,
            (Self::Cluster(one), Self::Cluster(two)) => one == two,
            (Self::Endpoints(one), Self::Endpoints(two)) => one == two,
            (Self::Routes(one), Self::Routes(two)) => one == two,
            (Self::Secret(one), Self::Secret(two)) => one == two,
            (Self::Map(one), Self::Map(two)) => one == two,
            (Self::Runtime(one), Self::Runtime(two)) => one == two,
            _ => false,
        }
    }
}

impl Resource {
    /// Whether what was begun under it goes on under `other`: the two are equal, but for what shows at once.
    pub fn goes_on_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cluster(one), Self::Cluster(two)) => one.goes_on_as(two),
            _ => self == other,
        }
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Listener(_) => Kind::Listener,
            Self::Cluster(_) => Kind::Cluster,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Routes(_) => Kind::Routes,
            Self::Secret(_) => Kind::Secret,
            Self::Map(_) => Kind::Map,
            Self::Runtime(_) => Kind::Runtime,
        }
    }

    /// The other resources that it refers to.
    pub fn references(&self) -> Vec<Reference> {
        let mut found = References::default();
        match self {
            Self::Listener(listener) => listener.references(&mut found),
            Self::Cluster(cluster) => cluster.references(&mut found),
            Self::Routes(table) => table.references(&mut found),
            Self::Endpoints(_) | Self::Secret(_) | Self::Map(_) | Self::Runtime(_) => {}
        }
        found.0
    }
}

/// Runtime values by name.
pub type RuntimeLayer = RuntimeMap;

/// One use of a filter.
#[derive(Clone, PartialEq)]
pub struct FilterConfig {
    /// The name that the filter is registered under.
    pub name: String,
    /// Its settings, which the filter checks.
    pub settings: Node,
}

impl fmt::Debug for FilterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The settings may contain secrets.
        write!(f, "FilterConfig({})", self.name)
    }
}

/// A name by which one resource refers to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The kind of the other resource.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// The field that refers to it.
    pub at: String,
    /// Whether the key of that field is the name, rather than its value.
    pub in_key: bool,
}

impl fmt::Display for Reference {
    /// `cluster app`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name)
    }
}

/// References as they are collected.
#[derive(Debug, Default)]
pub(crate) struct References(pub(crate) Vec<Reference>);

impl References {
    pub(crate) fn add(&mut self, kind: Kind, name: &Name, at: impl ToString) {
        let at = at.to_string();
        self.0.push(Reference { kind, name: Name::clone(name), at, in_key: false });
    }
}
