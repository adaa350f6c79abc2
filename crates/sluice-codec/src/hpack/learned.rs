//! What the encoder remembers: where fields are in its table, and which have been seen lately.
//!
//! Owns: parts of their hashes. Refuses to know: the fields themselves; what is found has to be compared. Keeps: less
//! than 700 bytes; no field takes the place of another that is in use.

/// Parts of the hashes of fields.
#[derive(Debug)]
pub(super) struct Learned {
    /// Those of the entries of the table; the newest is at `added - 1`, counted around.
    fields: [u16; ENTRIES],
    /// The same of their names.
    names: [u16; ENTRIES],
    /// How many were ever added.
    added: usize,
    /// Those of the last fields that were not in the table.
    seen: [u16; SEEN],
    seen_next: usize,
}

/// More than a table of [`super::TABLE_BYTES`] has entries.
const ENTRIES: usize = 128;

/// How many other new fields may come before a field is seen again.
const SEEN: usize = 48;

/// How many parts are compared at once.
const GROUP: usize = 16;

impl Learned {
    pub(super) const fn new() -> Self {
        Self { fields: [0; ENTRIES], names: [0; ENTRIES], added: 0, seen: [0; SEEN], seen_next: 0 }
    }

    /// Returns where a field with this hash is among the newest `live` entries, the newest being 0.
    pub(super) fn field_at(&self, hash: u64, live: usize) -> Option<usize> {
        self.find(&self.fields, hash, live)
    }

    /// The same for a name.
    pub(super) fn name_at(&self, hash: u64, live: usize) -> Option<usize> {
        self.find(&self.names, hash, live)
    }

    fn find(&self, parts: &[u16; ENTRIES], hash: u64, live: usize) -> Option<usize> {
        let part = part_of(hash);
        let used = self.added.min(ENTRIES).div_ceil(GROUP);
        for (at, group) in parts.as_chunks::<GROUP>().0[..used].iter().enumerate() {
            if !has(group, part) {
                continue;
            }
            for (offset, _) in group.iter().enumerate().filter(|(_, other)| **other == part) {
                let place = at * GROUP + offset + 1;
                let age = self.added.wrapping_sub(place) % ENTRIES;
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
        self.seen[self.seen_next % SEEN] = part;
        self.seen_next = self.seen_next.wrapping_add(1);
        false
    }

    /// Notes that a field has become the newest entry.
    pub(super) const fn add(&mut self, name: u64, field: u64) {
        self.fields[self.added % ENTRIES] = part_of(field);
        self.names[self.added % ENTRIES] = part_of(name);
        self.added = self.added.wrapping_add(1);
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
            learned.add(hash(n + 5000), hash(n));
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
    fn a_field_is_seen_again_within_as_many_new_ones() {
        let mut learned = Learned::new();
        let hash = |n: u64| n << 49;
        assert!(!learned.see(hash(1)) && learned.see(hash(1)));
        assert!((2..=SEEN as u64).all(|n| !learned.see(hash(n))) && learned.see(hash(1)));
        assert!(!learned.see(hash(SEEN as u64 + 1)) && !learned.see(hash(1)));
    }
}
