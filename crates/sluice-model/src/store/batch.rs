//! What is asked of the store, and what becomes of it.
//!
//! Owns: updates, batches of them, verdicts. Refuses to know: how they are reached. Keeps: a verdict names its resource,
//! so that a control plane can be told of each.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Diagnostic, Name, Node};

use crate::model::{Kind, Reference, Resource};
use crate::provenance::Provenance;

/// A change of one resource.
#[derive(Clone, Debug)]
pub enum Update {
    /// The resource is to be this.
    Set {
        /// Its name.
        name: Name,
        /// What it is to be.
        resource: Resource,
        /// Where it came from.
        from: Arc<Provenance>,
    },
    /// The resource is to exist no longer.
    Remove {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: Name,
    },
}

impl Update {
    pub(super) fn key(&self) -> (Kind, Name) {
        match self {
            Self::Set { name, resource, from: _ } => (resource.kind(), Arc::clone(name)),
            Self::Remove { kind, name } => (*kind, Arc::clone(name)),
        }
    }

    /// Sets a resource.
    pub fn set(name: &Name, resource: Resource, from: impl Into<Arc<Provenance>>) -> Self {
        Self::Set { name: Arc::clone(name), resource, from: from.into() }
    }
}

/// Changes that somebody asks for at once.
#[derive(Debug)]
pub struct Batch {
    /// Who asks. A resource belongs to the first that sets it, and no other source can change it.
    pub source: Arc<str>,
    /// The changes.
    pub updates: Vec<Update>,
    /// How they are applied.
    pub mode: BatchMode,
}

/// How a batch is applied.
#[derive(Debug)]
pub enum BatchMode {
    /// Configuration files: the batch is everything that its source has, it is applied whole or not at all, and a
    /// reference to what does not exist is an error.
    Files {
        /// The content of the files.
        root: Node,
        /// The folder that relative paths are resolved against.
        folder: PathBuf,
        /// Names that were declared, including those of resources with errors.
        declared: HashSet<(Kind, Name)>,
        /// Whether clusters that are not declared may come from a control plane.
        expected: bool,
    },
    /// A control plane: each resource is accepted or rejected on its own. A cluster that does not exist yet refuses
    /// its requests; a resource that cannot be used without another waits for it, for this long.
    Plane {
        /// How long a resource may wait for others.
        patience: Duration,
    },
}

/// What became of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceVerdict {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// What became of it.
    pub outcome: Outcome,
}

impl fmt::Display for ResourceVerdict {
    /// `cluster app: rejected: tls.ca: the file contains no certificate`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.kind.word(), self.name)?;
        let list = |f: &mut fmt::Formatter<'_>, all: &mut dyn Iterator<Item = String>| {
            all.enumerate().try_for_each(|(place, one)| {
                write!(f, "{}{one}", if place == 0 { " " } else { ", " })
            })
        };
        match &self.outcome {
            Outcome::Added => f.write_str("added"),
            Outcome::Changed => f.write_str("changed"),
            Outcome::Refreshed => f.write_str("refreshed"),
            Outcome::Removed => f.write_str("removed"),
            Outcome::Unchanged => f.write_str("unchanged"),
            Outcome::Rejected(found) => {
                f.write_str("rejected:")?;
                list(
                    f,
                    &mut found.iter().map(|of| match of.path.as_str() {
                        "" => of.message.clone(),
                        path => format!("{path}: {}", of.message),
                    }),
                )
            }
            Outcome::Waiting(missing) => {
                f.write_str("waits for")?;
                list(f, &mut missing.iter().map(ToString::to_string))
            }
        }
    }
}

/// What became of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Added,
    /// It replaces its predecessor.
    Changed,
    /// It is the same, and files that it names have new content.
    Refreshed,
    /// It is gone.
    Removed,
    /// It is what it was.
    Unchanged,
    /// It is wrong; the predecessor, if there was one, stays in force.
    Rejected(Vec<Diagnostic>),
    /// It waits for these; the predecessor, if there was one, stays in force.
    Waiting(Vec<Reference>),
}
