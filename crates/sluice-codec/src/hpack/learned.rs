//! What the encoder remembers: where fields are in its table, and which have been seen lately.
//!
//! Owns: the slots. Refuses to know: the fields themselves; what is found has to be compared. Keeps: 512 bytes; a field
//! that is forgotten because another took its slot is learned again.

/// Where fields are, by their hashes.
#[derive(Debug)]
pub(super) struct Learned {
    /// The number of the last entry with this hash.
    fields: [u16; FIELDS],
    /// The same by name.
    names: [u16; NAMES],
    /// A part of the hash of the last field with another part of it.
    seen: [u16; SEEN],
    /// Entries that were ever added; it wraps.
    added: u16,
}

/// As many as there are entries in a table of [`super::TABLE_BYTES`].
const FIELDS: usize = 128;
const NAMES: usize = 64;
const SEEN: usize = 64;

impl Learned {
    pub(super) const fn new() -> Self {
        Self { fields: [0; FIELDS], names: [0; NAMES], seen: [0; SEEN], added: 0 }
    }

    /// Returns where a field with this hash is, counted from the newest entry, if one is.
    pub(super) const fn field_at(&self, hash: u64) -> usize {
        self.added.wrapping_sub(self.fields[part(hash, 0) % FIELDS]) as usize
    }

    /// The same for a name.
    pub(super) const fn name_at(&self, hash: u64) -> usize {
        self.added.wrapping_sub(self.names[part(hash, 0) % NAMES]) as usize
    }

    /// Whether a field with this hash has been seen lately; the next time it has.
    pub(super) fn see(&mut self, hash: u64) -> bool {
        let mark = (hash >> 48) as u16 | 1;
        std::mem::replace(&mut self.seen[part(hash, 16) % SEEN], mark) == mark
    }

    /// Notes that a field has become the newest entry.
    pub(super) const fn add(&mut self, name: u64, field: u64) {
        self.added = self.added.wrapping_add(1);
        self.fields[part(field, 0) % FIELDS] = self.added;
        self.names[part(name, 0) % NAMES] = self.added;
    }
}

/// Returns sixteen bits of a hash.
const fn part(hash: u64, shift: u32) -> usize {
    (hash >> shift) as u16 as usize
}
