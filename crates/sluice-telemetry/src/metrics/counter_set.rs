//! Series of one family that are created by the first event that needs them.
//!
//! Owns: one thread's handles to them, by key, and the bound on their number.
//! Refuses to know: labels; the caller that counts creates the handle. Keeps: a key is looked up in the registry once;
//! keys beyond the bound share the series of another key, which is cached too; so counting neither locks nor allocates
//! for a key that was counted before.

use std::cell::{Cell, RefCell};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use super::Counter;

/// Handles to series, by key. `H` is a handle, or several that belong together.
#[derive(Debug)]
pub struct SeriesSet<K, H> {
    own: RefCell<IndexMap<K, H, RandomState>>,
    shared: RefCell<IndexMap<K, H, RandomState>>,
    /// The index in `own` of the last key found: usually the next one is the same, and comparing is cheaper than
    /// hashing.
    recent: Cell<usize>,
    bound: usize,
    share: fn(&K) -> K,
}

/// Counters by key.
pub type CounterSet<K> = SeriesSet<K, Counter>;

impl<K: Eq + Hash + Clone, H> Default for SeriesSet<K, H> {
    /// For keys with few possible values, such as reasons.
    fn default() -> Self {
        Self::bounded(usize::MAX, K::clone)
    }
}

impl<K: Eq + Hash + Clone, H> SeriesSet<K, H> {
    /// Gives at most `bound` keys their own series; each further one counts under the key that `share` derives from it.
    /// The keys that `share` derives must be few.
    pub fn bounded(bound: usize, share: fn(&K) -> K) -> Self {
        let (own, shared) = (RefCell::default(), RefCell::default());
        Self { own, shared, recent: Cell::new(0), bound, share }
    }

    /// Calls `then` with the handle for `key`; `make` creates the handle of a key seen for the first time.
    pub fn with<T>(&self, key: &K, make: impl FnOnce(&K) -> H, then: impl FnOnce(&H) -> T) -> T {
        let mut own = self.own.borrow_mut();
        if let Some((last, handle)) = own.get_index(self.recent.get())
            && last == key
        {
            return then(handle);
        }
        if let Some((place, _, handle)) = own.get_full(key) {
            self.recent.set(place);
            return then(handle);
        }
        if own.len() < self.bound {
            return then(own.entry(key.clone()).or_insert_with_key(make));
        }
        then(self.shared.borrow_mut().entry((self.share)(key)).or_insert_with_key(make))
    }

    /// Whether `key` has its own series.
    pub fn contains(&self, key: &K) -> bool {
        self.own.borrow().contains_key(key)
    }

    /// Removes the keys for which `keep` returns `false`, which makes room for others.
    pub fn retain(&self, keep: impl Fn(&K) -> bool) {
        self.own.borrow_mut().retain(|key, _| keep(key));
    }
}

impl<K: Eq + Hash + Clone> SeriesSet<K, Counter> {
    /// Adds one for `key`; `make` creates the counter of a key seen for the first time.
    pub fn count(&self, key: &K, make: impl FnOnce(&K) -> Counter) {
        self.with(key, make, Counter::increment);
    }
}

/// The label value shared by names beyond a bound.
pub fn other() -> Arc<str> {
    thread_local! {
        // Each thread has its own, so that they do not share a reference count.
        static OTHER: Arc<str> = Arc::from("other");
    }
    OTHER.with(Arc::clone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;

    crate::metrics! {
        HITS = "test_set_hits_total", Counter, ["who", "class"], "Hits.";
    }

    type Key = (Arc<str>, &'static str);

    #[test]
    fn each_series_is_looked_up_once_also_those_beyond_the_bound() {
        let registry = Registry::new();
        let shard = registry.shard(1);
        let set: CounterSet<Key> = CounterSet::bounded(2, |key| (other(), key.1));
        let count = |who: &str, class: &'static str| {
            set.count(&(who.into(), class), |key| shard.counter(&HITS, &[&key.0, key.1]));
        };
        for _ in 0..3 {
            for who in ["a", "b", "c", "d"] {
                count(who, "2xx");
            }
            count("c", "5xx");
        }
        assert_eq!(registry.lookups(), 4);
        let value = |who, class| registry.value("test_set_hits_total", &[who, class]);
        assert_eq!((value("a", "2xx"), value("b", "2xx")), (Some(3), Some(3)));
        assert_eq!((value("other", "2xx"), value("other", "5xx")), (Some(6), Some(3)));
        assert_eq!(value("c", "2xx"), None);
        // A removed key makes room.
        set.retain(|key| *key.0 != *"a");
        count("c", "2xx");
        assert_eq!(value("c", "2xx"), Some(1));
    }
}
