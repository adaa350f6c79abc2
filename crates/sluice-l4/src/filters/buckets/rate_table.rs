//! Token buckets by key, in bounded memory that no flood of other keys can wipe.
//!
//! Owns: the buckets of recent keys, and a sketch of those that had to make room. Refuses to know: what a key stands for.
//! Keeps: a key that is forgotten gets back fewer than two tokens that it has not earned; a key that shares all of its cells
//! in the sketch with others may get fewer.
//!
//! The sketch is a count-min sketch (Cormode and Muthukrishnan, 2005) of times instead of counts: a cell holds the latest
//! time at which a bucket that was folded into it is full again, and a key is as empty as the fullest of its cells.

use std::hash::{BuildHasher, Hash};
use std::sync::Mutex;
use std::time::Duration;

use foldhash::quality::RandomState;
use sluice_core::{Cidr, Moment};

use super::{Bucket, BucketMemory, BucketTable, number_of};

/// Rows of the sketch: a key shares all of its cells with another one by chance at most this power of how full it is.
const ROWS: usize = 4;

/// Buckets of all workers.
pub type LockedRates<K = Cidr> = Mutex<RateTable<K>>;

/// Buckets by key.
#[derive(Debug)]
pub struct RateTable<K = Cidr> {
    buckets: BucketTable<Bucket, K>,
    forgotten: ForgottenBuckets,
}

impl<K: Hash + Eq + Copy> RateTable<K> {
    /// An empty table that holds at most `bound` buckets apart, and a sketch of four cells for each.
    pub fn new(bound: usize) -> Self {
        let (cells, least) = (Vec::new(), Moment::default());
        let forgotten =
            ForgottenBuckets { cells, least, width: bound.max(1), hasher: RandomState::default() };
        Self { buckets: BucketTable::new(bound), forgotten }
    }

    /// The same, for all workers.
    pub fn locked(bound: usize) -> LockedRates<K> {
        Mutex::new(Self::new(bound))
    }

    /// Takes a token of the bucket of a key, as [`Bucket::take`] does; returns the bucket, whether there was a token, and
    /// whether others had to make room.
    pub fn take(
        &mut self,
        key: K,
        now: Moment,
        every: Duration,
        burst: u32,
    ) -> (&Bucket, bool, bool) {
        self.forgotten.least = now.after(every.saturating_mul(2));
        let (bucket, forgot) = self.buckets.entry(key, &mut self.forgotten);
        let taken = bucket.take(now, every, burst);
        (bucket, taken, forgot)
    }

    /// A number for a text, under which no client can find two texts.
    pub fn number_of(&self, text: &[u8]) -> u128 {
        number_of(&self.forgotten.hasher, text)
    }

    /// The buckets that are kept apart.
    #[cfg(test)]
    pub(in crate::filters) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Cells of the sketch, once there is one.
    #[cfg(test)]
    pub(in crate::filters) fn cells(&self) -> usize {
        self.forgotten.cells.len()
    }
}

/// What is left of buckets that had to make room.
#[derive(Debug)]
struct ForgottenBuckets {
    /// `ROWS` rows of `width` cells; empty until the first bucket is folded.
    cells: Vec<Moment>,
    /// A bucket that is full before this lacks fewer than two tokens.
    least: Moment,
    width: usize,
    /// Seeded at random, so that no client can choose keys that share cells.
    hasher: RandomState,
}

impl ForgottenBuckets {
    /// The cells of a key, one in each row.
    fn places<K: Hash>(&self, key: &K) -> impl Iterator<Item = usize> + use<K> {
        let hash = self.hasher.hash_one(key);
        let (first, step) = (hash & 0xffff_ffff, (hash >> 32) | 1);
        let width = self.width;
        (0..ROWS).map(move |row| {
            let number = first.wrapping_add(step.wrapping_mul(row as u64));
            row * width + usize::try_from(number % width as u64).unwrap_or(0)
        })
    }
}

impl<K: Hash> BucketMemory<K, Bucket> for ForgottenBuckets {
    /// What lacks one token is not worth a cell: that is all that most keys of a flood have spent, and a sketch with all of
    /// them would be empty for everybody. A key that comes back and spends another one lacks two.
    fn forget(&mut self, key: &K, bucket: Bucket) {
        if bucket.full_at() < self.least {
            return;
        }
        if self.cells.is_empty() {
            self.cells = vec![Moment::default(); ROWS * self.width];
        }
        for place in self.places(key) {
            let cell = &mut self.cells[place];
            *cell = (*cell).max(bucket.full_at());
        }
    }

    fn recall(&self, key: &K) -> Bucket {
        if self.cells.is_empty() {
            return Bucket::default();
        }
        let cells = self.places(key).map(|place| self.cells[place]);
        Bucket::full_from(cells.min().unwrap_or_default())
    }
}
