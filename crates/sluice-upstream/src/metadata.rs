//! The metadata of endpoints, and what connections and requests ask of it.
//!
//! Owns: values by key, and whether an endpoint has those that are asked for. Refuses to know: what a key means, and
//! which endpoints form a subset. Keeps: keys are in order and unique, so that equal metadata is equal however it was
//! written; the hash of a subset key is computed once.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh3::Xxh3;

/// The metadata of an endpoint: one or several values for each key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointMetadata(Box<[MetadataValues]>);

/// A key of an endpoint's metadata, and its values.
pub type MetadataValues = (Arc<str>, Box<[Arc<str>]>);

/// The most keys of an endpoint's metadata.
pub const METADATA_KEYS_MAX: usize = 64;

/// The most values of a key.
pub const METADATA_VALUES_MAX: usize = 64;

/// The most bytes of a key or a value.
pub const METADATA_BYTES_MAX: usize = 256;

impl EndpointMetadata {
    /// Metadata from its keys, in any order; of equal keys the last one counts.
    pub fn new(entries: impl IntoIterator<Item = MetadataValues>) -> Self {
        Self(in_order(entries).into())
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of a key; none if it is missing.
    pub fn values(&self, key: &str) -> &[Arc<str>] {
        let place = self.0.binary_search_by(|(known, _)| (**known).cmp(key));
        place.map_or(&[], |place| &self.0[place].1)
    }

    /// Every key with its values, in order.
    pub fn iter(&self) -> impl Iterator<Item = &MetadataValues> {
        self.0.iter()
    }

    /// Whether it has every value that `asked` contains.
    pub fn has(&self, asked: &SubsetKey) -> bool {
        asked.iter().all(|(key, value)| self.values(key).contains(value))
    }
}

/// The metadata that a connection or request asks for: a value for each key.
#[derive(Clone, Debug)]
pub struct SubsetKey {
    pairs: SmallVec<[(Arc<str>, Arc<str>); 2]>,
    hash: u64,
}

impl SubsetKey {
    /// A key from its pairs, in any order; of equal keys the last one counts.
    pub fn new(pairs: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) -> Self {
        let pairs = in_order(pairs);
        let mut hasher = Xxh3::new();
        for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
            // Lengths keep `a=bc` and `ab=c` apart.
            hasher.write_usize(text.len());
            hasher.write(text.as_bytes());
        }
        Self { pairs: pairs.into(), hash: hasher.finish() }
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Every key with its value, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.pairs.iter()
    }

    /// Whether these are its keys, which are in order.
    pub fn has_keys(&self, keys: &[Arc<str>]) -> bool {
        self.pairs.iter().map(|(key, _)| key).eq(keys)
    }

    /// The part of it that has these keys.
    #[must_use]
    pub fn only(&self, keys: &[Arc<str>]) -> Self {
        Self::new(self.pairs.iter().filter(|(key, _)| keys.contains(key)).cloned())
    }

    /// Both; where a key is in both, the value of `other` counts.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self::new(self.pairs.iter().chain(&other.pairs).cloned())
    }
}

impl PartialEq for SubsetKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.pairs == other.pairs
    }
}

impl Eq for SubsetKey {}

impl Hash for SubsetKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Display for SubsetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (key, value)) in self.pairs.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{key}: {value}")?;
        }
        Ok(())
    }
}

/// Pairs by key; of equal keys the last one stays.
fn in_order<V>(pairs: impl IntoIterator<Item = (Arc<str>, V)>) -> Vec<(Arc<str>, V)> {
    let mut pairs: Vec<(Arc<str>, V)> = pairs.into_iter().collect();
    // The sort is stable.
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    pairs.reverse();
    pairs.dedup_by(|(one, _), (other, _)| one == other);
    pairs.reverse();
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SubsetKey {
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap();
            (key.into(), value.into())
        };
        SubsetKey::new(text.split_whitespace().map(pair))
    }

    #[test]
    fn a_key_is_the_same_in_any_order() {
        let hash = |text: &str| key(text).hash;
        for (one, other) in
            [("a=1 b=2", "b=2 a=1"), ("a=1 a=2", "a=2"), ("b=1 a=3 b=2", "a=3 b=2"), ("", "")]
        {
            assert_eq!(key(one), key(other), "{one} / {other}");
            assert_eq!(hash(one), hash(other), "{one} / {other}");
        }
        for (one, other) in [("a=1", "a=2"), ("a=1", "b=1"), ("a=bc", "ab=c"), ("a=1", "a=1 b=2")] {
            assert_ne!(key(one), key(other), "{one} / {other}");
            assert_ne!(hash(one), hash(other), "{one} / {other}");
        }
        assert_eq!(key("b=2 a=1").to_string(), "a: 1, b: 2");
        assert!(key("b=2 a=1").has_keys(&["a".into(), "b".into()]));
        assert!(!key("b=2 a=1").has_keys(&["a".into()]));
        assert_eq!(key("b=2 a=1 c=3").only(&["b".into(), "d".into()]), key("b=2"));
        assert_eq!(key("b=2 a=1").with(&key("c=3 a=4")), key("a=4 b=2 c=3"));
    }

    #[test]
    fn an_endpoint_has_each_of_its_values() {
        let entry = |key: &str, values: &[&str]| -> MetadataValues {
            (key.into(), values.iter().map(|value| Arc::from(*value)).collect())
        };
        let metadata =
            EndpointMetadata::new([entry("version", &["v1"]), entry("stage", &["prod", "canary"])]);
        for (asked, expected) in [
            ("", true),
            ("version=v1", true),
            ("stage=canary version=v1", true),
            ("stage=prod", true),
            ("stage=test", false),
            ("version=v1 zone=a", false),
            ("version=prod", false),
        ] {
            assert_eq!(metadata.has(&key(asked)), expected, "{asked}");
        }
        assert!(!EndpointMetadata::default().has(&key("version=v1")));
    }
}
