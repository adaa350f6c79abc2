//! State by key, which nothing in use loses: slots of requests in flight, rates of bytes.
//!
//! Owns: which keys have an entry. Refuses to know: what a key stands for, and what an entry is. Keeps: an entry in use is
//! never forgotten, and a key has one entry; never more entries than the bound. Beyond it a key gets an entry of its own that
//! no other request finds, so that a flood of keys costs limits their effect and not memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::quality::RandomState;
use sluice_core::Moment;

use super::number_of;

/// The least number of entries at which unused ones are looked for.
const SWEEP_MIN: usize = 64;

/// After entries were looked through in vain, they are left alone for this long.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// What a key has.
pub trait KeyState: Default {
    /// Whether a new entry would be the same as this one.
    fn is_blank(&self, now: Moment) -> bool;
}

/// Entries of all workers.
pub type LockedTable<T> = Mutex<KeyedTable<T>>;

/// Entries by key.
#[derive(Debug)]
pub struct KeyedTable<T> {
    entries: HashMap<u128, Arc<T>, RandomState>,
    bound: usize,
    /// The number of entries at which unused ones are removed, and not before when.
    sweep_at: usize,
    sweep_after: Moment,
}

impl<T: KeyState> KeyedTable<T> {
    /// An empty table that never holds more than `bound` entries.
    pub fn new(bound: usize) -> Self {
        let (entries, sweep_after) = (HashMap::default(), Moment::default());
        Self { entries, bound, sweep_at: SWEEP_MIN.min(bound), sweep_after }
    }

    /// The same, for all workers.
    pub fn locked(bound: usize) -> LockedTable<T> {
        Mutex::new(Self::new(bound))
    }

    /// The entry of what has this text in common, and whether it is in the table.
    pub fn entry(&mut self, text: &[u8], now: Moment) -> (Arc<T>, bool) {
        // The hasher is seeded at random, so that no client can choose keys that share an entry.
        let key = number_of(self.entries.hasher(), text);
        if let Some(entry) = self.entries.get(&key) {
            return (Arc::clone(entry), true);
        }
        if self.entries.len() >= self.sweep_at && now >= self.sweep_after {
            self.sweep(now);
        }
        let entry = Arc::new(T::default());
        let fits = self.entries.len() < self.bound;
        if fits {
            self.entries.insert(key, Arc::clone(&entry));
        }
        (entry, fits)
    }

    /// Removes what is not in use. At least as many entries as were looked through are added before the next time, or time
    /// passes.
    fn sweep(&mut self, now: Moment) {
        self.entries.retain(|_, entry| Arc::strong_count(entry) > 1 || !entry.is_blank(now));
        let left = self.entries.len();
        self.sweep_at = left.saturating_mul(2).max(SWEEP_MIN).min(self.bound);
        if left.saturating_mul(2) > self.bound {
            self.sweep_after = now.after(SWEEP_PAUSE);
        }
    }

    /// The entries that are kept.
    #[cfg(test)]
    pub(in crate::filters) fn len(&self) -> usize {
        self.entries.len()
    }
}
