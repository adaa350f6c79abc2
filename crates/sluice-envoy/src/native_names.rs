//! Names of Envoy in the native form, which has fewer characters for them.
//!
//! Owns: how a name is changed, and told apart from another that becomes the same. Refuses to know: what has the name. Keeps:
//! the names of a file are the same whenever it is read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::message::ProtoMessage;
use crate::parts::{items, text};

/// What replaces a character that names in the native form do not have.
const REPLACEMENT: char = '_';

/// The longest name in the native form.
const NAME_MAX: usize = 128;

/// The native names of the clusters of a file, by their names in Envoy.
pub(crate) fn native_clusters(resources: &ProtoMessage) -> HashMap<Arc<str>, Arc<str>> {
    let (mut names, mut found) = (UniqueNames::default(), HashMap::new());
    for cluster in items(resources, "clusters") {
        let Some(name) = text(cluster, "name") else { continue };
        found.entry(name).or_insert_with_key(|name| names.add(name).into());
    }
    found
}

/// A name in the characters and length of the native form.
pub(crate) fn native_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let letters = name.chars().map(|c| if fits(c) { c } else { REPLACEMENT });
    let mut found: String = letters.take(NAME_MAX).collect();
    if found.is_empty() {
        found.push(REPLACEMENT);
    }
    found
}

/// Names of the native form that are unique.
#[derive(Debug, Default)]
pub(crate) struct UniqueNames {
    taken: HashSet<String>,
    /// The last number that was added to a name.
    numbers: HashMap<String, u32>,
}

impl UniqueNames {
    /// Forgets a native name.
    pub(crate) fn remove(&mut self, native: &str) {
        self.taken.remove(native);
    }

    /// The native form of a name, with a number if another one has the same.
    pub(crate) fn add(&mut self, name: &str) -> String {
        let base = native_name(name);
        let mut found = base.clone();
        while !self.taken.insert(found.clone()) {
            let number = self.numbers.entry(base.clone()).or_insert(1);
            *number += 1;
            // A number has at most ten digits.
            let kept: String = base.chars().take(NAME_MAX - 11).collect();
            found = format!("{kept}-{number}");
        }
        found
    }
}
