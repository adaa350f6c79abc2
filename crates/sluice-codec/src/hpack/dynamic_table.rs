//! The dynamic table of HPACK, of one direction.
//!
//! Owns: the entries and the memory for them. Refuses to know: header blocks, and what entries are. Keeps: the size as
//! RFC 7541 §4.1 counts it is never above the maximum; the memory is at most one and a half times that, is allocated
//! when the first entry comes, and only until the table has been full once.
//!
//! Source: RFC 7541 §2.3.2 and §4.

use std::collections::VecDeque;

/// What each entry counts besides its text, RFC 7541 §4.1.
pub(super) const ENTRY_OVERHEAD: u32 = 32;

/// A table whose entries carry a `T` each.
#[derive(Debug)]
pub(super) struct DynamicTable<T> {
    /// The text of the entries, the oldest first, without gaps; before it, that of entries already evicted.
    text: Vec<u8>,
    /// The place in `text` that entries count from; it wraps.
    origin: u32,
    entries: VecDeque<TableEntry<T>>,
    size: u32,
    size_max: u32,
}

#[derive(Clone, Copy, Debug)]
struct TableEntry<T> {
    /// Where the text begins, counted from the first byte that ever was in the table.
    start: u32,
    name_len: u32,
    value_len: u32,
    tag: T,
}

impl<T> TableEntry<T> {
    const fn size(&self) -> u32 {
        self.name_len + self.value_len + ENTRY_OVERHEAD
    }
}

impl<T: Copy> DynamicTable<T> {
    pub(super) const fn new(size_max: u32) -> Self {
        Self { text: Vec::new(), origin: 0, entries: VecDeque::new(), size: 0, size_max }
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the largest size.
    pub(super) const fn size_max(&self) -> u32 {
        self.size_max
    }

    /// Returns the bytes of memory.
    pub(super) fn bytes_held(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<TableEntry<T>>()
    }

    /// Changes the largest size, and evicts what is over it, RFC 7541 §4.3.
    pub(super) fn set_size_max(&mut self, size_max: u32) {
        self.size_max = size_max;
        self.evict_to(size_max);
        if size_max == 0 {
            (self.text, self.entries) = (Vec::new(), VecDeque::new());
        }
    }

    /// Returns name, value and tag of an entry; the newest has index 0.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8], T)> {
        let place = self.entries.len().checked_sub(index + 1)?;
        let entry = self.entries.get(place)?;
        let start = entry.start.wrapping_sub(self.origin) as usize;
        let text = &self.text[start..start + (entry.name_len + entry.value_len) as usize];
        let (name, value) = text.split_at(entry.name_len as usize);
        Some((name, value, entry.tag))
    }

    /// Adds an entry whose name may have upper case letters.
    pub(super) fn insert_lower(&mut self, name: &[u8], value: &[u8], tag: T) -> bool {
        let is_added = self.insert(name, value, tag);
        if is_added {
            let start = self.text.len() - name.len() - value.len();
            self.text[start..start + name.len()].make_ascii_lowercase();
        }
        is_added
    }

    /// Adds an entry and evicts what it displaces, RFC 7541 §4.4; returns whether it fits at all.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], tag: T) -> bool {
        let lengths = (u32::try_from(name.len()), u32::try_from(value.len()));
        let (Ok(name_len), Ok(value_len)) = lengths else {
            self.evict_to(0);
            return false;
        };
        let entry = TableEntry { start: 0, name_len, value_len, tag };
        let Some(room) = self.size_max.checked_sub(entry.size()) else {
            self.evict_to(0);
            return false;
        };
        self.evict_to(room);
        self.make_room(name.len() + value.len());
        let start = self.origin.wrapping_add(wrapped(self.text.len()));
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.size += entry.size();
        self.entries.push_back(TableEntry { start, ..entry });
        true
    }

    fn evict_to(&mut self, size: u32) {
        while self.size > size {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= entry.size();
        }
    }

    /// Makes room for `more` bytes of text: if need be by forgetting that of evicted entries, or else by growing.
    fn make_room(&mut self, more: usize) {
        if self.text.capacity() - self.text.len() >= more {
            return;
        }
        let end = self.origin.wrapping_add(wrapped(self.text.len()));
        let first = self.entries.front().map_or(end, |entry| entry.start);
        let dead = first.wrapping_sub(self.origin) as usize;
        // Half of the maximum more than is live, so that the text moves seldom.
        let capacity_max = self.size_max as usize / 2 * 3;
        if self.text.capacity() < capacity_max {
            let wanted = (self.text.len() + more).max(2 * self.text.capacity()).max(GROWTH_MIN);
            if self.text.len() + more <= capacity_max {
                self.text.reserve_exact(wanted.min(capacity_max) - self.text.len());
                return;
            }
        }
        self.text.copy_within(dead.., 0);
        self.text.truncate(self.text.len() - dead);
        self.origin = first;
        let missing = (self.text.len() + more).saturating_sub(self.text.capacity());
        if missing > 0 {
            self.text.reserve_exact(capacity_max - self.text.len());
        }
    }
}

/// The first allocation of text.
const GROWTH_MIN: usize = 128;

/// Places in the text are counted modulo 2^32.
#[allow(clippy::cast_possible_truncation, reason = "the text is far shorter")]
const fn wrapped(place: usize) -> u32 {
    place as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(table: &DynamicTable<u8>) -> Vec<(String, String, u8)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (0..).map_while(|at| table.get(at).map(|(n, v, tag)| (text(n), text(v), tag))).collect()
    }

    #[test]
    fn the_oldest_entry_goes_first() {
        let mut table = DynamicTable::new(3 * 34);
        for (name, tag) in ["a", "b", "c", "d"].iter().zip(1..) {
            assert!(table.insert(name.as_bytes(), b"1", tag));
        }
        let entry = |name: &str, tag| (name.to_owned(), "1".to_owned(), tag);
        assert_eq!(shown(&table), [entry("d", 4), entry("c", 3), entry("b", 2)]);
        table.set_size_max(2 * 34 + 33);
        assert_eq!(shown(&table), [entry("d", 4), entry("c", 3)]);
        assert!(!table.insert(&[b'x'; 70], b"", 5), "what is larger than the table empties it");
        assert!(shown(&table).is_empty() && table.get(0).is_none());
        table.set_size_max(0);
        assert_eq!(table.bytes_held(), 0);
        assert!(!table.insert(b"", b"", 6));
    }

    #[test]
    fn a_table_is_a_queue_and_holds_no_more_memory_than_it_says() {
        let mut random = fastrand::Rng::with_seed(3);
        for size_max in [64, 100, 4096, 65536] {
            let mut table = DynamicTable::new(size_max);
            // Places wrap during the test.
            table.origin = u32::MAX - 999;
            let mut expected: VecDeque<(Vec<u8>, Vec<u8>, u8)> = VecDeque::new();
            for tag in (0..=u8::MAX).cycle().take(5000) {
                let mut text = || vec![tag; random.usize(..size_max as usize / 8)];
                let (name, value) = (text(), text());
                table.insert(&name, &value, tag);
                expected.push_front((name, value, tag));
                let size = |all: &VecDeque<(Vec<u8>, Vec<u8>, u8)>| {
                    all.iter().map(|(n, v, _)| n.len() + v.len() + 32).sum::<usize>()
                };
                while size(&expected) > size_max as usize {
                    expected.pop_back();
                }
                assert_eq!(table.entries.len(), expected.len());
                for (at, (name, value, tag)) in expected.iter().enumerate() {
                    assert_eq!(table.get(at), Some((&name[..], &value[..], *tag)));
                }
                assert!(table.text.capacity() <= (size_max as usize / 2 * 3).max(GROWTH_MIN));
            }
        }
    }
}
