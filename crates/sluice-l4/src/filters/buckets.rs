//! The memory of filters: per listener or chain that uses them, and within that per source or other key.
//!
//! Owns: state that outlives a reload, the bound on sources and which of them are forgotten at the bound. Refuses to
//! know: what is remembered. Keeps: never more entries than the bound; a forgotten entry was unused for longer than any
//! that stays, give or take half the table.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_core::connection::Peer;
use sluice_core::limits::Limit;
use sluice_core::{Cidr, Moment};
use sluice_io::WorkerCx;
use sluice_telemetry::Counter;

use crate::metrics;

mod byte_pace;
mod key_table;
mod rate_table;

pub use byte_pace::{BytePace, BytesDue, PacePlan};
pub use key_table::{KeyState, KeyedTable, LockedTable};
pub use rate_table::{LockedRates, RateTable};

/// A filter's state for each listener or chain that uses it, shared by all workers and kept across reloads.
#[derive(Debug)]
pub struct PerOwner<T>(Arc<Mutex<HashMap<String, Owned<T>>>>);

/// The state of one owner.
#[derive(Debug)]
struct Owned<T> {
    state: Arc<T>,
    /// Unused when the table was last scanned. A filter may be created only with the first request after a reload, so
    /// its state is dropped only when it is unused at a second scan.
    idle: bool,
}

impl<T> Default for PerOwner<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for PerOwner<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PerOwner<T> {
    /// Returns the state of `owner`, created by `new` with the bound on sources if there is none yet.
    pub fn of(&self, owner: &str, worker: &WorkerCx, new: impl FnOnce(usize) -> T) -> Arc<T> {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owned) = owners.get_mut(owner) {
            owned.idle = false;
            return Arc::clone(&owned.state);
        }
        // Unused state is dropped when the table would have to grow for a new entry.
        if owners.len() == owners.capacity() {
            owners.retain(|_, owned| {
                let unused = Arc::strong_count(&owned.state) == 1;
                !(unused && std::mem::replace(&mut owned.idle, unused))
            });
        }
        let state = Arc::new(new(worker.limits.size(Limit::SourceTable)));
        owners.insert(owner.to_owned(), Owned { state: Arc::clone(&state), idle: false });
        state
    }
}

#[cfg(test)]
impl<T> PerOwner<T> {
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A number for a text, under which no client, which does not know the seed of the hasher, can find two texts.
fn number_of(hasher: &impl BuildHasher, text: &[u8]) -> u128 {
    let half = |side: u8| u128::from(hasher.hash_one((side, text)));
    (half(0) << 64) | half(1)
}

/// The counter of the times that sources were forgotten.
pub fn forgotten(worker: &WorkerCx) -> Counter {
    worker.shard.counter(&metrics::LIMIT_REACHED, &[Limit::SourceTable.def().name])
}

/// Two generations: entries used since the last turn, and entries used before it. When the young one has grown to half
/// the bound, the old one is forgotten.
#[derive(Debug)]
pub struct BucketTable<T, K = Cidr, S = foldhash::quality::RandomState> {
    young: HashMap<K, T, S>,
    old: HashMap<K, T, S>,
    half: usize,
}

/// What remains of entries that had to make room.
pub trait BucketMemory<K, T> {
    /// Takes what is forgotten.
    fn forget(&mut self, key: &K, value: T);

    /// The first value of an entry, of which something may remain.
    fn recall(&self, key: &K) -> T;
}

/// The identity of a source: its IPv4 address, or the /64 of its IPv6 address, since one host has all of that. Unix
/// sockets share one entry.
pub fn source_of(peer: Peer) -> Cidr {
    match peer.ip().map(|ip| ip.to_canonical()) {
        Some(ip @ IpAddr::V4(_)) => Cidr::around(ip, 32),
        Some(ip @ IpAddr::V6(_)) => Cidr::around(ip, 64),
        None => Cidr::around(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 32),
    }
}

impl<T: Default, K: Hash + Eq + Copy, S: BuildHasher + Default> BucketTable<T, K, S> {
    /// An empty table that never holds more than `bound` sources.
    pub fn new(bound: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), half: (bound / 2).max(1) }
    }

    /// Returns the entry of a source, and whether others were forgotten for it; `memory` is told of what is forgotten, and
    /// asked about a source that has no entry.
    pub fn entry(&mut self, source: K, memory: &mut impl BucketMemory<K, T>) -> (&mut T, bool) {
        let mut forgot = false;
        if !self.young.contains_key(&source) {
            if self.young.len() >= self.half {
                forgot = !self.old.is_empty();
                let gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
                gone.into_iter().for_each(|(key, value)| memory.forget(&key, value));
            }
            let value = self.old.remove(&source).unwrap_or_else(|| memory.recall(&source));
            self.young.insert(source, value);
        }
        (self.young.entry(source).or_default(), forgot)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// A token bucket by the generic cell rate algorithm (ITU-T I.371), stored as the time at which it is full again.
#[derive(Debug, Default)]
pub struct Bucket(Moment);

impl Bucket {
    /// Takes a token if there is one. A bucket emptied at a slower rate never owes more than it holds now.
    pub fn take(&mut self, now: Moment, every: Duration, burst: u32) -> bool {
        let holds = every.saturating_mul(burst);
        self.0 = self.0.min(now.after(holds));
        let full_at = self.0.max(now).after(every);
        if full_at.since(now) > holds {
            return false;
        }
        self.0 = full_at;
        true
    }

    /// A bucket that is full from that time on.
    pub const fn full_from(at: Moment) -> Self {
        Self(at)
    }

    /// When the bucket is full.
    pub const fn full_at(&self) -> Moment {
        self.0
    }

    /// The whole tokens that the bucket holds.
    pub fn left(&self, now: Moment, every: Duration, burst: u32) -> u32 {
        let missing = self.0.since(now).as_nanos().div_ceil(every.as_nanos().max(1));
        burst.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// How long until the bucket holds a token.
    pub fn wait(&self, now: Moment, every: Duration, burst: u32) -> Duration {
        self.0.after(every).since(now).saturating_sub(every.saturating_mul(burst))
    }
}
