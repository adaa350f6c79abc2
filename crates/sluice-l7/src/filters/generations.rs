//! What a worker remembers within a bound on its bytes, and forgets when it is not used.
//!
//! Owns: which entries stay. Refuses to know: what they are. Keeps: the bytes of all entries are within the bound; what is
//! used stays.
//!
//! Two generations: entries used since the last turn, and those used before it. When the young ones take half of the
//! bound, the old ones are forgotten.

use std::collections::HashMap;
use std::hash::Hash;

/// The entries by key, each with its bytes.
type Generation<K, V> = HashMap<K, (V, usize)>;

/// Entries in two generations.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: Generation<K, V>,
    old: Generation<K, V>,
    young_bytes: usize,
    half: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Generations<K, V> {
    /// No entries, which may take at most `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        let (young, old) = (HashMap::new(), HashMap::new());
        Self { young, old, young_bytes: 0, half: bytes_max / 2 }
    }

    /// The entry of a key, if it is the one that is meant.
    pub(super) fn get(&mut self, key: &K, is_it: impl Fn(&V) -> bool) -> Option<V> {
        if let Some((value, _)) = self.young.get(key).filter(|(value, _)| is_it(value)) {
            return Some(value.clone());
        }
        self.old.get(key).filter(|(value, _)| is_it(value))?;
        let (value, bytes) = self.old.remove(key)?;
        self.insert(key.clone(), value.clone(), bytes);
        Some(value)
    }

    /// Remembers an entry; returns whether others were forgotten for lack of room.
    pub(super) fn insert(&mut self, key: K, value: V, bytes: usize) -> bool {
        if bytes > self.half {
            return false;
        }
        let turns = self.young_bytes + bytes > self.half;
        if turns {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        if let Some((_, earlier)) = self.young.insert(key, (value, bytes)) {
            self.young_bytes -= earlier;
        }
        turns
    }

    /// Forgets all entries but these.
    pub(super) fn retain(&mut self, stays: impl Fn(&V) -> bool) {
        self.young.retain(|_, (value, _)| stays(value));
        self.old.retain(|_, (value, _)| stays(value));
        self.young_bytes = self.young.values().map(|(_, bytes)| bytes).sum();
    }

    /// The bytes of all entries.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.young.values().chain(self.old.values()).map(|(_, bytes)| bytes).sum()
    }
}
