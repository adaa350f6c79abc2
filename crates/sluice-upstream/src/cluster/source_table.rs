//! Which endpoint each source last went to.
//!
//! Owns: a table of fixed size, shared by all workers without a lock. Refuses to know: endpoints and their states.
//! Keeps: an entry is one word, so that no reader sees half of it; a new source takes the place of the one in its set
//! that has been away longest.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sluice_core::Moment;

use crate::endpoint::EndpointId;

/// Entries that a source may be in.
const WAYS: usize = 4;

/// The resolution of time. 2^16 of these are 72 hours, three times as long as a source is remembered at most: an entry
/// that was forgotten two days ago or more may be taken for a fresh one, and then leads to the same endpoint.
const TICK_MICROS: u64 = 4_000_000;

/// The table. An entry is the mark of a source (16 bits, never 0), when it was last seen (16 bits), and the ID of the
/// endpoint (32 bits); 0 is empty. Two sources of a set with the same mark, one in 2^14 pairs, share an entry.
#[derive(Debug)]
pub(super) struct SourceTable {
    entries: Box<[AtomicU64]>,
}

#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    const fn new(mark: u16, tick: u16, endpoint: EndpointId) -> Self {
        Self((mark as u64) << 48 | (tick as u64) << 32 | endpoint.0 as u64)
    }

    const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn mark(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Ticks since it was last seen.
    #[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
    const fn age(self, now: u16) -> u16 {
        now.wrapping_sub((self.0 >> 32) as u16)
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
    const fn endpoint(self) -> EndpointId {
        EndpointId(self.0 as u32)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "time wraps")]
const fn tick(now: Moment) -> u16 {
    (now.as_micros() / TICK_MICROS) as u16
}

/// Ticks in `ttl`, at least one.
fn ticks(ttl: Duration) -> u16 {
    let ticks = ttl.as_micros() / u128::from(TICK_MICROS);
    u16::try_from(ticks).unwrap_or(u16::MAX).max(1)
}

const fn mark(source: u64) -> u16 {
    (source >> 48) as u16 | 1
}

impl SourceTable {
    /// A table for about `size` sources.
    pub(super) fn new(size: usize) -> Self {
        let entries = size.max(1).next_multiple_of(WAYS);
        Self { entries: (0..entries).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The endpoint that the source of this hash last went to, if that is no longer ago than `ttl`.
    pub(super) fn find(&self, source: u64, ttl: Duration, now: Moment) -> Option<EndpointId> {
        let (mark, tick, ticks) = (mark(source), tick(now), ticks(ttl));
        let entries = self.set(source).iter().map(|entry| Entry(entry.load(Relaxed)));
        let mut known = entries.filter(|entry| !entry.is_empty() && entry.mark() == mark);
        known.find(|entry| entry.age(tick) <= ticks).map(Entry::endpoint)
    }

    /// Notes that the source goes to an endpoint. Returns whether a source was forgotten that was seen within `ttl`.
    pub(super) fn note(
        &self,
        source: u64,
        endpoint: EndpointId,
        ttl: Duration,
        now: Moment,
    ) -> bool {
        let (mark, tick) = (mark(source), tick(now));
        let new = Entry::new(mark, tick, endpoint);
        let set = self.set(source);
        let age = |entry: &AtomicU64| match Entry(entry.load(Relaxed)) {
            own if own.mark() == mark => u32::from(u16::MAX) + 2,
            none if none.is_empty() => u32::from(u16::MAX) + 1,
            other => u32::from(other.age(tick)),
        };
        let Some(place) = set.iter().max_by_key(|entry| age(entry)) else { return false };
        let old = Entry(place.load(Relaxed));
        if old.0 == new.0 {
            return false;
        }
        // Of two workers that write at once, one is too late: its client is balanced once more.
        place.store(new.0, Relaxed);
        !old.is_empty() && old.mark() != mark && old.age(tick) <= ticks(ttl)
    }

    fn set(&self, source: u64) -> &[AtomicU64] {
        let sets = (self.entries.len() / WAYS) as u64;
        // Not by the bits of the mark.
        let set = usize::try_from((source & 0xffff_ffff_ffff) % sets).unwrap_or(0);
        &self.entries[set * WAYS..][..WAYS]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn source(number: u32) -> u64 {
        xxh3_64(&number.to_ne_bytes())
    }

    #[test]
    fn a_source_is_remembered_until_its_time_is_over() {
        let table = SourceTable::new(64);
        assert_eq!(table.find(source(1), TTL, at(0)), None);
        assert!(!table.note(source(1), EndpointId(7), TTL, at(0)));
        assert_eq!(table.find(source(1), TTL, at(60)), Some(EndpointId(7)));
        assert_eq!(table.find(source(2), TTL, at(60)), None);
        assert!(!table.note(source(1), EndpointId(7), TTL, at(60)));
        assert_eq!(table.find(source(1), TTL, at(120)), Some(EndpointId(7)));
        assert!(!table.note(source(1), EndpointId(8), TTL, at(120)));
        assert_eq!(table.find(source(1), TTL, at(121)), Some(EndpointId(8)));
        assert_eq!(table.find(source(1), TTL, at(190)), None);
        // Time wraps after three days.
        let late = 65_536 * 4 - 8;
        table.note(source(3), EndpointId(9), TTL, at(late));
        assert_eq!(table.find(source(3), TTL, at(late + 40)), Some(EndpointId(9)));
    }

    #[test]
    fn a_full_table_forgets_those_away_longest() {
        let table = SourceTable::new(1024);
        let forgotten = |numbers: std::ops::Range<u32>, seconds| {
            let note = |number| table.note(source(number), EndpointId(number), TTL, at(seconds));
            numbers.filter(|number| note(*number)).count()
        };
        forgotten(0..512, 0);
        // A flood of others, while the first keep coming.
        for round in 1..20_u32 {
            let seconds = u64::from(round) * 8;
            forgotten(0..128, seconds);
            forgotten(round * 10_000..round * 10_000 + 200, seconds);
        }
        let kept =
            (0..128).filter(|n| table.find(source(*n), TTL, at(152)) == Some(EndpointId(*n)));
        assert!(kept.count() >= 120);
        assert!(forgotten(1_000_000..1_010_000, 152) > 8000, "each of these pushes another out");
    }

    /// Against a plain map: what is found is what was noted last, but for marks that two sources share.
    #[test]
    fn what_is_found_was_noted() {
        let table = SourceTable::new(256);
        let mut rng = fastrand::Rng::with_seed(3);
        let mut plain: HashMap<u32, (EndpointId, u64)> = HashMap::new();
        let (mut found, mut wrong) = (0, 0);
        for second in 0..20_000 {
            let number = rng.u32(..400);
            if let Some(endpoint) = table.find(source(number), TTL, at(second)) {
                found += 1;
                let known = plain.get(&number);
                wrong += u32::from(known.is_none_or(|(known, then)| {
                    *known != endpoint || second - then > TTL.as_secs() + 8
                }));
            }
            let endpoint = EndpointId(rng.u32(..5));
            table.note(source(number), endpoint, TTL, at(second));
            plain.insert(number, (endpoint, second));
        }
        assert!(found > 1000 && wrong * 1000 < found, "{wrong} of {found}");
    }
}
