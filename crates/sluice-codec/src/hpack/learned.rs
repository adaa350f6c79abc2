//! What the encoder remembers: where fields are in its table, and which have been seen lately.
//!
//! Owns: parts of their hashes. Refuses to know: the fields themselves; what is found has to be compared. Keeps: less
//! than 700 bytes, and 128 before the first field repeats; no field takes the place of another that is in use.

/// Parts of the hashes of fields.
#[derive(Debug)]
pub(super) struct Learned {
    /// Those of the entries of the table; the newest is at `added - 1`, counted around. They double when they are full.
    entries: Vec<EntryGroup>,
    /// How many were ever added; it wraps.
    added: u32,
    /// Those of the last fields that were not in the table.
    seen: [u16; SEEN],
    seen_next: u32,
}

/// Entries whose parts are compared at once.
#[derive(Clone, Copy, Debug)]
struct EntryGroup {
    fields: [u16; GROUP],
    names: [u16; GROUP],
}

/// No less than a table of [`super::TABLE_BYTES`] has entries.
const ENTRIES: usize = 128;

/// How many other new fields may come before a field is seen again.
const SEEN: usize = 48;

/// How many parts are compared at once.
const GROUP: usize = 16;

impl Learned {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), added: 0, seen: [0; SEEN], seen_next: 0 }
    }

    /// Returns the bytes of memory.
    pub(super) const fn bytes_held(&self) -> usize {
        size_of::<Self>() + self.entries.capacity() * size_of::<EntryGroup>()
    }

    /// Returns where a field with this hash is among the newest `live` entries, the newest being 0.
    pub(super) fn field_at(&self, hash: u64, live: usize) -> Option<usize> {
        self.find(|group| &group.fields, hash, live)
    }

    /// The same for a name.
    pub(super) fn name_at(&self, hash: u64, live: usize) -> Option<usize> {
        self.find(|group| &group.names, hash, live)
    }

    fn find(
        &self,
        parts: impl Fn(&EntryGroup) -> &[u16; GROUP],
        hash: u64,
        live: usize,
    ) -> Option<usize> {
        let part = part_of(hash);
        for (at, group) in self.entries.iter().map(parts).enumerate() {
            if !has(group, part) {
                continue;
            }
            for (offset, _) in group.iter().enumerate().filter(|(_, other)| **other == part) {
                let place = at * GROUP + offset + 1;
                let age = (self.added as usize).wrapping_sub(place) % self.places();
                if age < live {
                    return Some(age);
                }
            }
        }
        None
    }

    /// Whether a field with this hash was one of the last new ones; from now on it is.
    pub(super) fn see(&mut self, hash: u64) -> bool {
        let part = part_of(hash);
        if self.seen.as_chunks::<GROUP>().0.iter().any(|group| has(group, part)) {
            return true;
        }
        self.seen[self.seen_next as usize % SEEN] = part;
        self.seen_next = self.seen_next.wrapping_add(1);
        false
    }

    /// Notes that a field has become the newest entry, beside `live` others.
    pub(super) fn add(&mut self, name: u64, field: u64, live: usize) {
        if live >= self.places() && self.places() < ENTRIES {
            self.grow();
        }
        let place = self.added as usize % self.places();
        let group = &mut self.entries[place / GROUP];
        group.fields[place % GROUP] = part_of(field);
        group.names[place % GROUP] = part_of(name);
        self.added = self.added.wrapping_add(1);
    }

    /// How many entries there is room for: a power of two, or none.
    const fn places(&self) -> usize {
        self.entries.len() * GROUP
    }

    /// Doubles the room for entries; all of it is in use.
    fn grow(&mut self) {
        let (before, had) = (self.places(), self.entries.clone());
        let groups = (2 * had.len()).max(1);
        self.entries = vec![EntryGroup { fields: [0; GROUP], names: [0; GROUP] }; groups];
        for age in 1..=before {
            let added = (self.added as usize).wrapping_sub(age);
            let (from, to) = (added % before, added % self.places());
            let group = &mut self.entries[to / GROUP];
            group.fields[to % GROUP] = had[from / GROUP].fields[from % GROUP];
            group.names[to % GROUP] = had[from / GROUP].names[from % GROUP];
        }
    }
}

/// Whether a part is one of several; without a branch for each, so that they are compared together.
fn has(group: &[u16; GROUP], part: u16) -> bool {
    group.iter().fold(false, |found, other| found | (*other == part))
}

/// Returns the part of a hash that is kept; 0 stands for none.
const fn part_of(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_are_found_however_many_there_were() {
        let hash = |n: u64| n << 49;
        let mut learned = Learned::new();
        for n in 1..1000 {
            learned.add(hash(n + 5000), hash(n), usize::try_from(n - 1).unwrap().min(120));
            for age in 0..(n.min(120)) {
                let place = usize::try_from(age).unwrap();
                assert_eq!(learned.field_at(hash(n - age), 120), Some(place), "{n} {age}");
                assert_eq!(learned.name_at(hash(n - age + 5000), 120), Some(place));
                assert_eq!(learned.field_at(hash(n - age), place), None);
            }
            assert_eq!(learned.field_at(hash(n + 1), 120), None);
        }
    }

    #[test]
    fn it_grows_with_the_entries_that_are_live() {
        let hash = |n: u64| n << 49;
        let mut learned = Learned::new();
        assert_eq!(learned.bytes_held(), 128);
        let mut added = 0;
        let mut add = |learned: &mut Learned, times: u64, live: usize| {
            for n in added + 1..=added + times {
                learned.add(hash(n + 5000), hash(n), live);
            }
            added += times;
            let live = u64::try_from(live).unwrap();
            for age in 0..=live {
                let place = usize::try_from(age).unwrap();
                assert_eq!(learned.field_at(hash(added - age), place + 1), Some(place));
                assert_eq!(learned.name_at(hash(added - age + 5000), place + 1), Some(place));
            }
        };
        // As many as there is room for, around and around; then each doubles the room at another place in the round.
        for (times, live, groups) in [(90, 15, 1), (1, 16, 2), (77, 31, 2), (1, 32, 4), (1, 33, 4)]
        {
            add(&mut learned, times, live);
            assert_eq!(learned.entries.len(), groups, "{live}");
        }
        add(&mut learned, 50, 5);
        assert_eq!(learned.entries.len(), 4);
    }

    #[test]
    fn a_field_is_seen_again_within_as_many_new_ones() {
        let mut learned = Learned::new();
        let hash = |n: u64| n << 49;
        assert!(!learned.see(hash(1)) && learned.see(hash(1)));
        assert!((2..=SEEN as u64).all(|n| !learned.see(hash(n))) && learned.see(hash(1)));
        assert!(!learned.see(hash(SEEN as u64 + 1)) && !learned.see(hash(1)));
    }
}
