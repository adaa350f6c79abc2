//! Texts by texts, in little memory.
//!
//! Owns: the text of all entries, and the hash table over it. Refuses to know: what a key means. Keeps: the table is at most
//! half full; equal values in a row of entries are held once; the hash has a key of its own, so that those who write the
//! entries or ask for keys cannot make them collide.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;

/// Where an entry has its key and its value in the text.
#[derive(Clone, Copy, Debug)]
struct TextEntry {
    key: u32,
    key_length: u16,
    value_length: u16,
    value: u32,
}

/// Entries by their keys. An entry takes 12 bytes, its place in the table 4 to 8, and its text.
#[derive(Debug, Default)]
pub(super) struct TextIndex {
    text: Vec<u8>,
    entries: Vec<TextEntry>,
    /// The number of an entry plus one, or 0.
    slots: Vec<u32>,
    hasher: RandomState,
}

impl TextIndex {
    pub(super) fn insert(&mut self, key: &[u8], value: &str) -> Result<(), &'static str> {
        const LARGE: &str = "the entry is too large";
        let too_large = |_| LARGE;
        let (key_length, value_length) = (
            u16::try_from(key.len()).map_err(too_large)?,
            u16::try_from(value.len()).map_err(too_large)?,
        );
        let at = |text: &Vec<u8>| u32::try_from(text.len()).map_err(too_large);
        if self.get(key).is_some() {
            return Err("the key occurs twice");
        }
        let number = u32::try_from(self.entries.len()).map_err(too_large)?;
        let start = at(&self.text)?;
        self.text.extend_from_slice(key);
        let last = self.entries.last().copied();
        let place = match last.filter(|last| self.value_of(last) == value) {
            Some(last) => last.value,
            None => {
                let place = at(&self.text)?;
                self.text.extend_from_slice(value.as_bytes());
                place
            }
        };
        self.entries.push(TextEntry { key: start, key_length, value_length, value: place });
        if self.entries.len() * 2 > self.slots.len() {
            self.grow();
        } else {
            self.fill(number);
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&str> {
        if self.slots.is_empty() {
            return None;
        }
        let mut slot = self.slot_of(key);
        loop {
            let number = self.slots[slot].checked_sub(1)?;
            let entry = &self.entries[number as usize];
            if self.key_of(entry) == key {
                return Some(self.value_of(entry));
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// The value of an entry, by its number in the order in which they were inserted.
    pub(super) fn value(&self, number: usize) -> Option<&str> {
        self.entries.get(number).map(|entry| self.value_of(entry))
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(8);
        self.slots = vec![0; size];
        for number in 0..self.entries.len() {
            self.fill(u32::try_from(number).expect("it was checked when it was inserted"));
        }
    }

    fn fill(&mut self, number: u32) {
        let mut slot = self.slot_of(self.key_of(&self.entries[number as usize]));
        while self.slots[slot] != 0 {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] = number + 1;
    }

    fn slot_of(&self, key: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        usize::try_from(self.hasher.hash_one(key) & u64::MAX >> 1).unwrap_or(0) & mask
    }

    fn key_of(&self, entry: &TextEntry) -> &[u8] {
        let start = entry.key as usize;
        &self.text[start..start + usize::from(entry.key_length)]
    }

    fn value_of(&self, entry: &TextEntry) -> &str {
        let start = entry.value as usize;
        let bytes = &self.text[start..start + usize::from(entry.value_length)];
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.text.capacity()
            + self.entries.capacity() * size_of::<TextEntry>()
            + self.slots.capacity() * size_of::<u32>()
    }
}
