//! Field sections of HTTP/2 and HTTP/3: what HPACK and QPACK have in common.
//!
//! Owns: which fields make a head, and a head's fields as both versions write them. Refuses to know: how fields are
//! encoded, streams and frames. Keeps: what RFC 9113 and RFC 9114 call malformed, or what could not be forwarded with
//! one meaning, never becomes a head; the fields go straight into the head's buffer, and nothing else is allocated.

#[cfg(test)]
mod collect;
mod fault;
mod read;
mod write;

#[cfg(test)]
pub(crate) use collect::CollectingSink;
pub(crate) use fault::FieldFault;
pub(crate) use read::{SectionKind, SectionReader};
pub(crate) use write::{
    OutgoingField, OutgoingName, for_each_request, for_each_response, for_each_trailer,
};

use crate::head::Head;
use crate::names::FieldName;

/// The bounds on a field section.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes, as RFC 9113 §6.5.2 and RFC 9114 §4.2.2 count them: those of names and values, and 32 for each field.
    pub bytes: usize,
    /// Number of fields, without pseudo-header fields; cookies count as one.
    pub fields: usize,
}

/// What each field counts besides its text.
pub(crate) const FIELD_OVERHEAD: usize = 32;

/// Where a decoder puts fields.
pub(crate) trait FieldSink {
    /// Whether fields are still wanted; otherwise those that are only copies need not be made.
    fn is_open(&self) -> bool;

    /// Returns the buffer that the next line is written to.
    fn buffer(&mut self) -> &mut Vec<u8>;

    /// Takes the line at the end of the buffer.
    fn take(&mut self, line: FieldLine);
}

/// A decoded field as an HTTP/1 line at the end of a buffer: `name: value\r\n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldLine {
    /// Where the line begins.
    pub(crate) start: usize,
    /// The length of the name.
    pub(crate) name_len: usize,
    /// The length of the value.
    pub(crate) value_len: usize,
    /// What the name is.
    pub(crate) name: FieldName,
    /// Whether the value is valid.
    pub(crate) is_sound: bool,
    /// Whether the field must never enter a table, RFC 7541 §7.1.3.
    pub(crate) is_sensitive: bool,
}

/// What separates name and value.
pub(crate) const SEPARATOR: &[u8; 2] = b": ";
/// What ends a line.
pub(crate) const LINE_END: &[u8; 2] = b"\r\n";

/// Whether a value is valid: RFC 9113 §8.2.1, RFC 9110 §5.5.
pub(crate) fn is_sound_value(value: &[u8]) -> bool {
    let white = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !white(value.first()) && !white(value.last()) && crate::names::is_field_value(value)
}

/// Ignores a section, so that only a table is kept in step.
pub(crate) struct IgnoredSection<'h>(pub(crate) &'h mut Head);

impl FieldSink for IgnoredSection<'_> {
    fn is_open(&self) -> bool {
        false
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        self.0.bytes_mut()
    }

    fn take(&mut self, line: FieldLine) {
        self.0.bytes_mut().truncate(line.start);
    }
}
