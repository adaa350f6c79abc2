//! Decoding of header blocks.
//!
//! Owns: the table that the peer's encoder fills. Refuses to know: what fields mean. Keeps: a block is decoded to its end
//! whatever the message is refused for; what a block may take is bounded by its length and the bounds of a section.
//!
//! Source: RFC 7541 §3.2, §4.2 and §6.

use super::dynamic_table::DynamicTable;
use super::{BlockRefusal, static_table};
use crate::field_section::{
    Bounds, FieldLine, FieldSink, IgnoredSection, LINE_END, SEPARATOR, SectionKind, SectionReader,
    is_sound_value,
};
use crate::head::{Head, Version};
use crate::names::FieldName;
use crate::{huffman, prefix_int};

/// Decodes the header blocks of one connection.
///
/// Takes:  whole blocks, in the order of the frames that began them.
/// Gives:  heads.
/// Errors: see [`BlockRefusal`]; after any but `Compression`, the next block can be decoded.
/// Holds:  the dynamic table, at most [`HpackDecoder::new`]'s bytes and half as much again; nothing before the peer
///         first adds to it.
/// Source: RFC 7541.
#[derive(Debug)]
pub struct HpackDecoder {
    table: DynamicTable<NameAndSoundness>,
    /// What the peer may set the size of the table to.
    size_max: u32,
    /// The table is larger than that, so the next block has to begin with an update.
    is_update_due: bool,
}

/// What was found out about an entry when it was added.
type NameAndSoundness = (FieldName, bool);

/// The reason of a COMPRESSION_ERROR.
type Fault = &'static str;

const BLOCK_MALFORMED: Fault = "http2.header_block_malformed";
const INDEX_UNKNOWN: Fault = "http2.header_index_unknown";
const INTEGER_MALFORMED: Fault = "http2.header_integer_malformed";
const STRING_MALFORMED: Fault = "http2.header_string_malformed";
const SIZE_UPDATE_MISPLACED: Fault = "http2.header_table_update_misplaced";
const SIZE_UPDATE_MISSING: Fault = "http2.header_table_update_missing";
const SIZE_UPDATE_TOO_LARGE: Fault = "http2.header_table_update_too_large";

impl HpackDecoder {
    /// Creates a decoder whose table has at most `table_bytes`: the SETTINGS_HEADER_TABLE_SIZE that the peer knows of,
    /// which is [`super::TABLE_BYTES`] until it has acknowledged another.
    pub const fn new(table_bytes: u32) -> Self {
        Self { table: DynamicTable::new(table_bytes), size_max: table_bytes, is_update_due: false }
    }

    /// Sets the largest size of the table. Call it when the peer has acknowledged it.
    pub const fn set_table_max(&mut self, table_bytes: u32) {
        self.size_max = table_bytes;
        self.is_update_due = self.table.size_max() > table_bytes;
    }

    /// Returns the bytes of memory that the table takes.
    pub fn bytes_held(&self) -> usize {
        self.table.bytes_held()
    }

    /// Decodes a request.
    ///
    /// # Errors
    /// It is not a request, or cannot be forwarded with one meaning.
    pub fn request(
        &mut self,
        block: &[u8],
        bounds: Bounds,
        head: &mut Head,
    ) -> Result<(), BlockRefusal> {
        self.read(SectionKind::Request, block, bounds, head)
    }

    /// Decodes a response, final or not.
    ///
    /// # Errors
    /// It is not a response.
    pub fn response(
        &mut self,
        block: &[u8],
        bounds: Bounds,
        head: &mut Head,
    ) -> Result<(), BlockRefusal> {
        self.read(SectionKind::Response, block, bounds, head)
    }

    /// Decodes trailers. Headers that are not allowed in trailers are left out.
    ///
    /// # Errors
    /// They are not trailers.
    pub fn trailers(
        &mut self,
        block: &[u8],
        bounds: Bounds,
        head: &mut Head,
    ) -> Result<(), BlockRefusal> {
        self.read(SectionKind::Trailers, block, bounds, head)
    }

    /// Decodes a block that is not used, to keep the table in step. `scratch` is cleared.
    ///
    /// # Errors
    /// Only `Compression`.
    pub fn skip(&mut self, block: &[u8], scratch: &mut Head) -> Result<(), BlockRefusal> {
        scratch.clear();
        self.decode(block, &mut IgnoredSection(scratch)).map_err(BlockRefusal::Compression)
    }

    fn read(
        &mut self,
        kind: SectionKind,
        block: &[u8],
        bounds: Bounds,
        head: &mut Head,
    ) -> Result<(), BlockRefusal> {
        let mut reader = SectionReader::new(head, kind, Version::Http2, bounds);
        self.decode(block, &mut reader).map_err(BlockRefusal::Compression)?;
        reader.finish().map_err(|fault| BlockRefusal::of(fault, kind, bounds))
    }

    /// Decodes a block into a sink.
    pub(super) fn decode(&mut self, block: &[u8], sink: &mut impl FieldSink) -> Result<(), Fault> {
        let mut rest = block;
        let mut has_begun = false;
        while let Some(first) = rest.first() {
            if first & 0xe0 == 0x20 {
                self.update_size(&mut rest, has_begun)?;
                continue;
            }
            if self.is_update_due {
                return Err(SIZE_UPDATE_MISSING);
            }
            has_begun = true;
            match first {
                0x80.. => self.indexed(&mut rest, sink)?,
                0x40.. => self.literal(&mut rest, 6, sink)?,
                _ => self.literal(&mut rest, 4, sink)?,
            }
        }
        Ok(())
    }

    /// Decodes an update of the table's size, §6.3.
    fn update_size(&mut self, rest: &mut &[u8], has_begun: bool) -> Result<(), Fault> {
        let (_, size) = prefix_int::split(rest, 5).ok_or(INTEGER_MALFORMED)?;
        // At the beginning of a block only, §4.2.
        if has_begun {
            return Err(SIZE_UPDATE_MISPLACED);
        }
        let size = u32::try_from(size).ok().filter(|size| *size <= self.size_max);
        self.table.set_size_max(size.ok_or(SIZE_UPDATE_TOO_LARGE)?);
        self.is_update_due = false;
        Ok(())
    }

    /// Decodes an indexed field, §6.1.
    fn indexed(&self, rest: &mut &[u8], sink: &mut impl FieldSink) -> Result<(), Fault> {
        let (_, index) = prefix_int::split(rest, 7).ok_or(INTEGER_MALFORMED)?;
        let (name_text, value, (name, is_sound)) = self.entry(index)?;
        // A byte may stand for as many bytes as the table has; they are copied only if they are used.
        if sink.is_open() {
            let buffer = sink.buffer();
            let start = buffer.len();
            buffer.reserve(name_text.len() + value.len() + SEPARATOR.len() + LINE_END.len());
            buffer.extend_from_slice(name_text);
            buffer.extend_from_slice(SEPARATOR);
            buffer.extend_from_slice(value);
            buffer.extend_from_slice(LINE_END);
            let (name_len, value_len) = (name_text.len(), value.len());
            let line =
                FieldLine { start, name_len, value_len, name, is_sound, is_sensitive: false };
            sink.take(line);
        }
        Ok(())
    }

    /// Decodes a literal field, §6.2; only those whose index has a prefix of six bits enter the table.
    fn literal(
        &mut self,
        rest: &mut &[u8],
        prefix: u8,
        sink: &mut impl FieldSink,
    ) -> Result<(), Fault> {
        let (flags, index) = prefix_int::split(rest, prefix).ok_or(INTEGER_MALFORMED)?;
        let is_added = prefix == 6;
        let is_wanted = is_added || sink.is_open();
        let buffer = sink.buffer();
        let start = buffer.len();
        let name = if index == 0 {
            string(rest, buffer)?;
            FieldName::of(&buffer[start..])
        } else {
            let (text, _, (name, _)) = self.entry(index)?;
            // As above: two bytes may stand for all of the table.
            buffer.extend_from_slice(if is_wanted { text } else { b"" });
            name
        };
        let name_len = buffer.len() - start;
        buffer.extend_from_slice(SEPARATOR);
        let value_start = buffer.len();
        string(rest, buffer)?;
        let value_len = buffer.len() - value_start;
        let is_sound = is_sound_value(&buffer[value_start..]);
        if is_added {
            let name_text = &buffer[start..start + name_len];
            self.table.insert(name_text, &buffer[value_start..], (name, is_sound));
        }
        buffer.extend_from_slice(LINE_END);
        let is_sensitive = flags & 0x10 != 0 && !is_added;
        sink.take(FieldLine { start, name_len, value_len, name, is_sound, is_sensitive });
        Ok(())
    }

    /// Returns an entry of the static or the dynamic table, §2.3.3.
    fn entry(&self, index: usize) -> Result<(&[u8], &[u8], NameAndSoundness), Fault> {
        let place = index.checked_sub(1).ok_or(INDEX_UNKNOWN)?;
        match static_table::FIELDS.get(place) {
            Some((name, value)) => {
                Ok((name.as_bytes(), value.as_bytes(), (static_table::NAMES[place], true)))
            }
            None => self.table.get(place - static_table::COUNT).ok_or(INDEX_UNKNOWN),
        }
    }
}

/// Decodes a string and appends it, §5.2.
fn string(rest: &mut &[u8], into: &mut Vec<u8>) -> Result<(), Fault> {
    let (is_huffman, length) = prefix_int::split(rest, 7).ok_or(INTEGER_MALFORMED)?;
    let (text, after) = rest.split_at_checked(length).ok_or(BLOCK_MALFORMED)?;
    *rest = after;
    if is_huffman == 0 {
        into.extend_from_slice(text);
        return Ok(());
    }
    huffman::decode(text, into).ok_or(STRING_MALFORMED)
}
