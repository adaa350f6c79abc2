//! Encoding of header blocks.
//!
//! Owns: the table that the peer's decoder follows, and the choice of a representation. Refuses to know: which fields a
//! head has. Keeps: the table is within what the peer and we allow; a field enters it when it repeats; those that never
//! do, and those that are secret, do not.
//!
//! Source: RFC 7541 §4.2, §6 and §7.1.

use super::dynamic_table::{DynamicTable, ENTRY_OVERHEAD};
use super::learned::Learned;
use super::{TABLE_BYTES, field_hash, static_table};
use crate::error::HttpError;
use crate::field_section::{
    OutgoingField, OutgoingName, for_each_request, for_each_response, for_each_trailer,
};
use crate::head::{Head, Version};
use crate::names::{Known, PseudoField};
use crate::{huffman, prefix_int};

/// Encodes the header blocks of one connection.
///
/// Takes:  heads, in the order in which their blocks are sent.
/// Gives:  a whole block, appended to a buffer; the caller cuts it into frames.
/// Errors: a head that cannot be sent; then nothing has been appended, and the table is as it was.
/// Holds:  the dynamic table, at most [`TABLE_BYTES`] and half as much again, and 700 bytes to find entries;
///         nothing before the first field that may repeat.
/// Source: RFC 7541.
#[derive(Debug)]
pub struct HpackEncoder {
    table: DynamicTable<()>,
    learned: Option<Box<Learned>>,
    /// The size of the table that the next block announces, and the smallest since the last one.
    update: Option<SizeUpdate>,
}

#[derive(Clone, Copy, Debug)]
struct SizeUpdate {
    least: u32,
    last: u32,
}

/// Whether a field may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Indexing {
    /// It is when it repeats.
    Learn,
    /// It would never repeat.
    Without,
    /// No hop may.
    Never,
}

/// The name of a field, as far as it was found.
#[derive(Clone, Copy)]
struct FoundName<'a> {
    text: &'a [u8],
    hash: u64,
    /// The index of the name in the static table.
    fixed: Option<u8>,
}

impl Default for HpackEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl HpackEncoder {
    /// Creates an encoder whose table has [`TABLE_BYTES`], as the peer's has before any SETTINGS.
    pub const fn new() -> Self {
        Self { table: DynamicTable::new(TABLE_BYTES), learned: None, update: None }
    }

    /// Sets the peer's SETTINGS_HEADER_TABLE_SIZE; we use at most [`TABLE_BYTES`] of it. The next block says so.
    pub fn set_table_max(&mut self, table_bytes: u32) {
        let last = table_bytes.min(TABLE_BYTES);
        let before = self.update.map_or_else(|| self.table.size_max(), |update| update.least);
        let least = before.min(last);
        self.update = Some(SizeUpdate { least, last });
    }

    /// Returns the bytes of memory that the table takes.
    pub fn bytes_held(&self) -> usize {
        let learned = self.learned.as_ref().map_or(0, |learned| learned.bytes_held());
        self.table.bytes_held() + learned
    }

    /// Appends the block of a request.
    ///
    /// # Errors
    /// The head contains what cannot be sent.
    pub fn request(&mut self, head: &Head, block: &mut Vec<u8>) -> Result<(), HttpError> {
        let mut writer = BlockWriter { encoder: self, block, has_begun: false };
        for_each_request(head, Version::Http2, None, |field| writer.put(field))
    }

    /// Appends the block of a response, final or not.
    ///
    /// # Errors
    /// The head contains what cannot be sent.
    pub fn response(&mut self, head: &Head, block: &mut Vec<u8>) -> Result<(), HttpError> {
        let mut writer = BlockWriter { encoder: self, block, has_begun: false };
        for_each_response(head, Version::Http2, |field| writer.put(field))
    }

    /// Appends the block of trailers.
    ///
    /// # Errors
    /// They contain what cannot be sent.
    pub fn trailers(&mut self, head: &Head, block: &mut Vec<u8>) -> Result<(), HttpError> {
        let mut writer = BlockWriter { encoder: self, block, has_begun: false };
        for_each_trailer(head, Version::Http2, |field| writer.put(field))
    }

    /// Writes what a block has to begin with, §4.2.
    fn begin(&mut self, block: &mut Vec<u8>) {
        let Some(SizeUpdate { least, last }) = self.update.take() else { return };
        for size in [least, last] {
            if size != self.table.size_max() {
                self.table.set_size_max(size);
                prefix_int::put(block, 0x20, 5, size as usize);
            }
        }
    }

    /// Writes a field.
    pub(super) fn put(&mut self, block: &mut Vec<u8>, field: OutgoingField<'_>) {
        let name = find_name(field.name);
        if !field.is_sensitive
            && let Some(index) =
                name.fixed.and_then(|first| static_table::of_field(first, field.value))
        {
            return prefix_int::put(block, 0x80, 7, usize::from(index));
        }
        match self.indexing(&name, &field) {
            Indexing::Learn => self.put_learning(block, name, field.value),
            Indexing::Without => self.put_literal(block, (0x00, 4), name, field.value),
            Indexing::Never => self.put_literal(block, (0x10, 4), name, field.value),
        }
    }

    fn indexing(&self, name: &FoundName<'_>, field: &OutgoingField<'_>) -> Indexing {
        if field.is_sensitive || is_secret(name, field.value) {
            return Indexing::Never;
        }
        // An entry that would displace most others is not worth it.
        let most = (self.table.size_max() / 2).saturating_sub(ENTRY_OVERHEAD) as usize;
        let is_small = name.text.len() + field.value.len() <= most;
        if is_small && may_repeat(field, name.fixed) { Indexing::Learn } else { Indexing::Without }
    }

    /// Writes a field that is in the table, or enters it if it was seen before.
    fn put_learning(&mut self, block: &mut Vec<u8>, name: FoundName<'_>, value: &[u8]) {
        let learned = self.learned.get_or_insert_with(|| Box::new(Learned::new()));
        let hash = field_hash::of_field(name.hash, value);
        if let Some(place) = learned.field_at(hash, self.table.len())
            && let Some((known, known_value, ())) = self.table.get(place)
            && known_value == value
            && known.eq_ignore_ascii_case(name.text)
        {
            return prefix_int::put(block, 0x80, 7, static_table::COUNT + 1 + place);
        }
        if !learned.see(hash) {
            return self.put_literal(block, (0x00, 4), name, value);
        }
        self.put_literal(block, (0x40, 6), name, value);
        if self.table.insert_lower(name.text, value, ())
            && let Some(learned) = &mut self.learned
        {
            learned.add(name.hash, hash, self.table.len() - 1);
        }
    }

    /// Writes a literal field whose index has these flags and bits.
    fn put_literal(
        &self,
        block: &mut Vec<u8>,
        (flags, bits): (u8, u8),
        name: FoundName<'_>,
        value: &[u8],
    ) {
        let index = name.fixed.map(usize::from).or_else(|| self.name_index(&name));
        prefix_int::put(block, flags, bits, index.unwrap_or(0));
        if index.is_none() {
            put_string(block, name.text.iter().map(u8::to_ascii_lowercase));
        }
        put_string(block, value.iter().copied());
    }

    /// Returns the index of a name in the dynamic table.
    fn name_index(&self, name: &FoundName<'_>) -> Option<usize> {
        let place = self.learned.as_ref()?.name_at(name.hash, self.table.len())?;
        let (known, ..) = self.table.get(place)?;
        known.eq_ignore_ascii_case(name.text).then_some(static_table::COUNT + 1 + place)
    }
}

/// Writes one block.
struct BlockWriter<'e> {
    encoder: &'e mut HpackEncoder,
    block: &'e mut Vec<u8>,
    has_begun: bool,
}

impl BlockWriter<'_> {
    fn put(&mut self, field: OutgoingField<'_>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.encoder.begin(self.block);
        }
        self.encoder.put(self.block, field);
    }
}

/// Finds a name in the static table.
fn find_name(name: OutgoingName<'_>) -> FoundName<'_> {
    let text = name.text();
    let fixed = match name {
        OutgoingName::Pseudo(pseudo) => match pseudo {
            PseudoField::Authority => Some(static_table::AUTHORITY),
            PseudoField::Method => Some(static_table::METHOD),
            PseudoField::Path => Some(static_table::PATH),
            PseudoField::Scheme => Some(static_table::SCHEME),
            PseudoField::Status => Some(static_table::STATUS),
            PseudoField::Protocol => None,
        },
        OutgoingName::Known(known) => static_table::of_known(known),
        OutgoingName::Other(_) => {
            let hash = field_hash::of_name(text);
            return FoundName { text, hash, fixed: static_table::of_name(text, hash) };
        }
    };
    // A name with an index needs no other hash.
    let hash = fixed.map_or_else(|| field_hash::of_name(text), u64::from);
    FoundName { text, hash, fixed }
}

/// Whether a field is a secret that an attacker could guess a part at a time, if he can choose others, §7.1.
fn is_secret(name: &FoundName<'_>, value: &[u8]) -> bool {
    const COOKIE: Option<u8> = Some(32);
    const AUTHORIZATION: Option<u8> = Some(23);
    const PROXY_AUTHORIZATION: Option<u8> = Some(49);
    match name.fixed {
        AUTHORIZATION | PROXY_AUTHORIZATION => true,
        COOKIE => value.len() < GUESSABLE,
        _ => false,
    }
}

/// A cookie of fewer bytes might be guessed.
const GUESSABLE: usize = 20;

/// Whether a later field of this name may have the same value. `date` may, within its second.
fn may_repeat(field: &OutgoingField<'_>, fixed: Option<u8>) -> bool {
    match field.name {
        // The methods of gRPC do; a query, rarely, and it may contain a secret.
        OutgoingName::Pseudo(PseudoField::Path) => !field.value.contains(&b'?'),
        OutgoingName::Known(known) => !matches!(
            known,
            Known::ContentLength
                | Known::SetCookie
                | Known::Location
                | Known::XRequestId
                | Known::Traceparent
                | Known::GrpcMessage
                | Known::SecWebSocketKey
                | Known::SecWebSocketAccept
        ),
        // Names of the static table that are not known: age, content-location, content-range, etag, expires,
        // if-modified-since, if-none-match, if-range, last-modified, range.
        _ => !matches!(fixed, Some(21 | 29 | 30 | 34 | 36 | 40 | 41 | 42 | 44 | 50)),
    }
}

/// Writes a string, §5.2; by the Huffman code if that is shorter.
fn put_string(block: &mut Vec<u8>, text: impl ExactSizeIterator<Item = u8> + Clone) {
    let length = huffman::encoded_len(text.clone());
    if length < text.len() {
        prefix_int::put(block, 0x80, 7, length);
        huffman::encode(text, block);
    } else {
        prefix_int::put(block, 0x00, 7, text.len());
        block.extend(text);
    }
}
