//! QPACK with only the static table.
//!
//! Owns: encoding and decoding of field sections. Refuses to know: what headers mean, and the dynamic table: we
//! announce a capacity of zero, so no field section may refer to it. Keeps: once the sink has enough, nothing more is
//! decoded, however small the input.
//!
//! Source: RFC 9204 §4.5.

use super::tables;
use crate::field_section::{
    FieldLine, FieldSink, LINE_END, OutgoingField, SEPARATOR, is_sound_value,
};
use crate::names::FieldName;
use crate::{huffman, prefix_int};

/// It is not a field section, or it refers to a dynamic table, which does not exist: a connection error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectionMalformed;

/// Decodes a field section into a sink, until that has enough.
///
/// # Errors
/// The section is malformed.
pub(crate) fn decode(section: &[u8], sink: &mut impl FieldSink) -> Result<(), SectionMalformed> {
    let mut reader = QpackReader(section);
    let (_, required) = reader.integer(8)?;
    let (_, _base) = reader.integer(7)?;
    if required != 0 {
        return Err(SectionMalformed);
    }
    while let Some(first) = reader.0.first().copied()
        && sink.is_open()
    {
        let line = reader.line(first, sink.buffer())?;
        sink.take(line);
    }
    Ok(())
}

struct QpackReader<'a>(&'a [u8]);

impl QpackReader<'_> {
    /// Decodes a field as a line.
    fn line(&mut self, first: u8, buffer: &mut Vec<u8>) -> Result<FieldLine, SectionMalformed> {
        let start = buffer.len();
        let mut fixed_value = None;
        let is_sensitive = match first {
            // Indexed, §4.5.2.
            0x80.. => {
                let (name, value) = self.known(6, first & 0x40 != 0)?;
                buffer.extend_from_slice(name.as_bytes());
                fixed_value = Some(value);
                false
            }
            // A literal with a name from the table, §4.5.4.
            0x40.. => {
                let (name, _) = self.known(4, first & 0x10 != 0)?;
                buffer.extend_from_slice(name.as_bytes());
                first & 0x20 != 0
            }
            // A literal with a literal name, §4.5.6.
            0x20.. => {
                self.string(3, buffer)?;
                first & 0x10 != 0
            }
            // The remaining forms refer to a dynamic table.
            _ => return Err(SectionMalformed),
        };
        let name_len = buffer.len() - start;
        let name = FieldName::of(&buffer[start..]);
        buffer.extend_from_slice(SEPARATOR);
        let value_start = buffer.len();
        match fixed_value {
            Some(value) => buffer.extend_from_slice(value.as_bytes()),
            None => self.string(7, buffer)?,
        }
        let value_len = buffer.len() - value_start;
        let is_sound = is_sound_value(&buffer[value_start..]);
        buffer.extend_from_slice(LINE_END);
        Ok(FieldLine { start, name_len, value_len, name, is_sound, is_sensitive })
    }

    /// Decodes an integer with a prefix of `bits`: returns the bits before the prefix, and the integer.
    fn integer(&mut self, bits: u8) -> Result<(u8, usize), SectionMalformed> {
        prefix_int::split(&mut self.0, bits).ok_or(SectionMalformed)
    }

    /// Returns an entry of the static table.
    fn known(
        &mut self,
        bits: u8,
        is_static: bool,
    ) -> Result<(&'static str, &'static str), SectionMalformed> {
        let (_, place) = self.integer(bits)?;
        let found = tables::FIELDS.get(place).filter(|_| is_static);
        found.copied().ok_or(SectionMalformed)
    }

    /// Decodes a string whose length has a prefix of `bits`; the bit before it is set if the string is Huffman-coded.
    fn string(&mut self, bits: u8, into: &mut Vec<u8>) -> Result<(), SectionMalformed> {
        let (flags, length) = self.integer(bits)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(SectionMalformed)?;
        self.0 = rest;
        if flags & (1 << bits) == 0 {
            into.extend_from_slice(text);
            return Ok(());
        }
        huffman::decode(text, into).ok_or(SectionMalformed)
    }
}

/// The prefix of every field section if there is no dynamic table, §4.5.1.
pub const PREFIX: [u8; 2] = [0, 0];

/// Adds a field to a section.
pub(crate) fn encode(section: &mut Vec<u8>, field: OutgoingField<'_>) {
    let never = u8::from(field.is_sensitive) << 4;
    let name = field.name.text();
    match tables::find(name, field.value) {
        Some((place, true)) if !field.is_sensitive => {
            return prefix_int::put(section, 0xc0, 6, usize::from(place));
        }
        Some((place, _)) => {
            prefix_int::put(section, 0x50 | never << 1, 4, usize::from(place));
        }
        None => {
            prefix_int::put(section, 0x20 | never, 3, name.len());
            section.extend(name.iter().map(u8::to_ascii_lowercase));
        }
    }
    prefix_int::put(section, 0, 7, field.value.len());
    section.extend_from_slice(field.value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field_section::{CollectingSink, OutgoingName};

    fn read(section: &[u8]) -> Result<CollectingSink, SectionMalformed> {
        let mut fields = CollectingSink::default();
        decode(section, &mut fields).map(|()| fields)
    }

    #[test]
    fn what_is_written_reads_back() {
        let long = "v".repeat(400);
        let fields = [
            (":method", "GET"),
            (":path", "/index.html"),
            ("content-length", "12"),
            ("x-a-name-that-nobody-knows", ""),
            ("x", long.as_str()),
        ];
        let mut section = PREFIX.to_vec();
        for (name, value) in fields {
            let name = OutgoingName::Other(name.as_bytes());
            let field = OutgoingField { name, value: value.as_bytes(), is_sensitive: false };
            encode(&mut section, field);
        }
        assert_eq!(read(&section).unwrap().shown(), fields);
        for end in 0..section.len() {
            if let Ok(some) = read(&section[..end]) {
                assert!(fields.starts_with(&some.shown()), "cut at {end}");
            }
        }
    }

    #[test]
    fn an_example_of_the_rfc_reads() {
        // RFC 9204 §B.1.
        let section = b"\x00\x00\x51\x0b/index.html";
        assert_eq!(read(section).unwrap().shown(), [(":path", "/index.html")]);
    }

    #[test]
    fn what_wants_a_dynamic_table_is_refused() {
        for section in [
            &[2, 0, 0x80][..],         // requires an insert count
            &[0, 0, 0x80],             // indexed, dynamic
            &[0, 0, 0x40, 0],          // name of a dynamic entry
            &[0, 0, 0x10],             // indexed post-base
            &[0, 0, 0x00, 0],          // name of a post-base entry
            &[0, 0, 0xff, 0xff, 0xff], // an integer without end
            &[0, 0, 0xff, 100],        // beyond the static table
            &[0],                      // no prefix
            &[0, 0, 0x21],             // a name that is missing
            &[0, 0, 0x23, b'a'],
        ] {
            assert_eq!(read(section).unwrap_err(), SectionMalformed, "{section:?}");
        }
    }

    #[test]
    fn random_sections_do_no_harm() {
        let mut random = fastrand::Rng::with_seed(7);
        for length in 0..3000 {
            let mut section = PREFIX.to_vec();
            section.extend((0..length % 60).map(|_| random.u8(..)));
            let _ = read(&section);
        }
    }
}
