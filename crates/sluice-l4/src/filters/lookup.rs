//! Lookup tables: from a text, such as a host or an address, to another.
//!
//! Owns: what a table is read from, and how a key is found in it. Refuses to know: where keys come from, and what the value
//! is used for. Keeps: the cost of a look-up does not depend on the number of entries (of regexes it does, and there are
//! few); a table holds its own text once, and 20 bytes or less for each entry.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use regex::bytes::{RegexSet, RegexSetBuilder};
use sluice_core::Cidr;
use sluice_core::limits::Limit;

use self::text_index::TextIndex;
use super::content::Content;
use crate::regexes;

pub mod live;
mod text_index;

pub use live::{LiveMap, MapContent, MapEntries};

sluice_core::choice! {
    /// How a key is compared with those of a table.
    pub enum LookupKind {
        /// It is one of them.
        Exact = "exact",
        /// It begins with one of them; the longest counts.
        Prefix = "prefix",
        /// It ends with one of them; the longest counts.
        Suffix = "suffix",
        /// It is an address, with or without a port, in one of these blocks; the smallest counts.
        Cidr = "cidr",
        /// One of these regexes matches all of it; the first counts.
        Regex = "regex",
    }
}

/// The longest key that is compared by a prefix or suffix, and so the most look-ups that a key may cost.
const AFFIX_MAX: usize = 255;

/// The most regexes of a table.
const REGEXES_MAX: usize = 1000;

/// A table.
#[derive(Debug)]
pub struct LookupTable {
    entries: TextIndex,
    search: Search,
}

#[derive(Debug)]
enum Search {
    Exact,
    /// The lengths of the keys, longest first.
    Prefix(Vec<usize>),
    Suffix(Vec<usize>),
    /// The prefix lengths of the blocks of IPv4 and IPv6, longest first.
    Cidr(Vec<u8>, Vec<u8>),
    /// The regexes, and the entries that they stand for: in the same order.
    Regex(Box<RegexSet>),
}

impl LookupTable {
    /// Makes a table.
    ///
    /// # Errors
    /// The number of the entry, from 0, and what is wrong with it.
    pub fn new<'e>(
        kind: LookupKind,
        entries: impl Iterator<Item = (&'e str, &'e str)>,
    ) -> Result<Self, (usize, String)> {
        let mut index = TextIndex::default();
        let (mut lengths, mut v4, mut v6) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut regexes = Vec::new();
        for (number, (key, value)) in entries.enumerate() {
            let wrong = |message: String| (number, message);
            let added = match kind {
                LookupKind::Exact => index.insert(key.as_bytes(), value),
                LookupKind::Prefix | LookupKind::Suffix => {
                    if !(1..=AFFIX_MAX).contains(&key.len()) {
                        return Err(wrong(format!("a key must have 1 to {AFFIX_MAX} bytes")));
                    }
                    lengths.insert(key.len());
                    index.insert(key.as_bytes(), value)
                }
                LookupKind::Cidr => {
                    let block = Cidr::parse(key).map_err(wrong)?;
                    let lengths = if block.network().is_ipv4() { &mut v4 } else { &mut v6 };
                    lengths.insert(block.bits());
                    {
                        let (key, length) = block_key(block);
                        index.insert(&key[..length], value)
                    }
                }
                LookupKind::Regex => {
                    regexes.push(regexes::whole(key).map_err(wrong)?);
                    if regexes.len() > REGEXES_MAX {
                        return Err(wrong(format!("there are more than {REGEXES_MAX} regexes")));
                    }
                    index.insert(key.as_bytes(), value)
                }
            };
            added.map_err(|message| wrong(message.to_owned()))?;
        }
        let sorted = |of: HashSet<usize>| {
            let mut all: Vec<usize> = of.into_iter().collect();
            all.sort_unstable_by(|one, two| two.cmp(one));
            all
        };
        let bits = |of: HashSet<u8>| {
            let mut all: Vec<u8> = of.into_iter().collect();
            all.sort_unstable_by(|one, two| two.cmp(one));
            all
        };
        let search = match kind {
            LookupKind::Exact => Search::Exact,
            LookupKind::Prefix => Search::Prefix(sorted(lengths)),
            LookupKind::Suffix => Search::Suffix(sorted(lengths)),
            LookupKind::Cidr => Search::Cidr(bits(v4), bits(v6)),
            LookupKind::Regex => Search::Regex(Box::new(compiled(&regexes)?)),
        };
        index.shrink();
        Ok(Self { entries: index, search })
    }

    /// The value for a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let bytes = key.as_bytes();
        match &self.search {
            Search::Exact => self.entries.get(bytes),
            Search::Prefix(lengths) => {
                lengths.iter().find_map(|length| self.entries.get(bytes.get(..*length)?))
            }
            Search::Suffix(lengths) => lengths
                .iter()
                .find_map(|length| self.entries.get(&bytes[bytes.len().checked_sub(*length)?..])),
            Search::Cidr(v4, v6) => {
                // `source.address` of expressions has the port.
                let with_port = || key.parse::<SocketAddr>().map(|address| address.ip());
                let address = key.parse::<IpAddr>().or_else(|_| with_port()).ok()?.to_canonical();
                let lengths = if address.is_ipv4() { v4 } else { v6 };
                lengths.iter().find_map(|bits| {
                    let (key, length) = block_key(Cidr::around(address, *bits));
                    self.entries.get(&key[..length])
                })
            }
            Search::Regex(set) => self.entries.value(set.matches(bytes).iter().next()?),
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn compiled(regexes: &[String]) -> Result<RegexSet, (usize, String)> {
    // Each is compiled alone first, to name the one that is wrong.
    for (number, regex) in regexes.iter().enumerate() {
        let one =
            regex::bytes::RegexBuilder::new(regex).size_limit(regexes::COMPILED_BYTES_MAX).build();
        one.map_err(|error| (number, format!("invalid regex: {error}")))?;
    }
    let set = RegexSetBuilder::new(regexes).size_limit(REGEX_BYTES_MAX).build();
    set.map_err(|_| (regexes.len().saturating_sub(1), "the regexes are too large together".into()))
}

/// The size of all compiled regexes of a table.
const REGEX_BYTES_MAX: usize = 32 << 20;

/// A block as bytes: its width, prefix length and network.
fn block_key(block: Cidr) -> ([u8; 18], usize) {
    let mut key = [0; 18];
    key[1] = block.bits();
    match block.network() {
        IpAddr::V4(v4) => {
            key[2..6].copy_from_slice(&v4.octets());
            (key, 6)
        }
        IpAddr::V6(v6) => {
            key[0] = 1;
            key[2..].copy_from_slice(&v6.octets());
            (key, 18)
        }
    }
}

/// A table in a file of lines: a key, blanks, the value. A key without a value has the empty one; `#` begins a comment.
macro_rules! file_of {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ident;)+) => {
        $(
            $(#[doc = $help])+
            #[derive(Debug)]
            pub struct $name(pub LookupTable);

            impl Content for $name {
                const LIMIT: Limit = Limit::LookupBytes;

                fn parse(content: &[u8]) -> Result<Self, String> {
                    of_lines(LookupKind::$kind, content).map(Self)
                }
            }
        )+
    };
}

file_of! {
    /// A file of [`LookupKind::Exact`].
    ExactFile: Exact;
    /// A file of [`LookupKind::Prefix`].
    PrefixFile: Prefix;
    /// A file of [`LookupKind::Suffix`].
    SuffixFile: Suffix;
    /// A file of [`LookupKind::Cidr`].
    CidrFile: Cidr;
    /// A file of [`LookupKind::Regex`].
    RegexFile: Regex;
}

/// Parses the lines of a file.
///
/// # Errors
/// The first line that is wrong, and why.
pub fn of_lines(kind: LookupKind, content: &[u8]) -> Result<LookupTable, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
    let entries = || {
        text.lines().enumerate().filter_map(|(number, line)| {
            let line = line.trim();
            let is_entry = !line.is_empty() && !line.starts_with('#');
            let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            is_entry.then(|| (number, (key, value.trim())))
        })
    };
    LookupTable::new(kind, entries().map(|(_, entry)| entry)).map_err(|(nth, problem)| {
        let line = entries().nth(nth).map_or(0, |(number, _)| number + 1);
        format!("line {line}: {problem}")
    })
}

#[cfg(test)]
mod tests;
