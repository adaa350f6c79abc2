//! QPACK with only the static table.
//!
//! Owns: encoding and decoding of field sections. Refuses to know: what headers mean, and the dynamic table: we
//! announce a capacity of zero, so no field section may refer to it. Keeps: the decoded size is bounded by what was
//! announced, however small the input.
//!
//! Source: RFC 9204 §4.5.

use super::tables;

/// Why a field section cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not a field section, or it refers to a dynamic table, which does not exist: a connection error.
    Malformed,
    /// It decodes to more than was announced.
    TooLarge,
}

/// What each header counts besides its text, RFC 9114 §4.2.2.
const FIELD_OVERHEAD: usize = 32;

/// Decodes a field section of at most `max` bytes, as RFC 9114 §4.2.2 counts; `take` is called with each header, in
/// order, and may stop.
///
/// # Errors
/// The fault in the section, or the error of `take`.
pub fn decode<E: From<Wrong>>(
    section: &[u8],
    max: usize,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = QpackReader(section);
    let (_, required) = reader.integer(8).ok_or(Wrong::Malformed)?;
    let (_, _base) = reader.integer(7).ok_or(Wrong::Malformed)?;
    if required != 0 {
        return Err(Wrong::Malformed.into());
    }
    let (mut left, mut name, mut value) = (max, Vec::new(), Vec::new());
    while let Some(first) = reader.0.first().copied() {
        name.clear();
        value.clear();
        let room = left.checked_sub(FIELD_OVERHEAD).ok_or(Wrong::TooLarge)?;
        if first & 0x80 != 0 {
            // Indexed, §4.5.2.
            let (known, known_value) = reader.known(6, first & 0x40 != 0)?;
            name.extend_from_slice(known.as_bytes());
            value.extend_from_slice(known_value.as_bytes());
        } else if first & 0x40 != 0 {
            // A literal with a name from the table, §4.5.4.
            let (known, _) = reader.known(4, first & 0x10 != 0)?;
            name.extend_from_slice(known.as_bytes());
            reader.string(7, &mut value, room)?;
        } else if first & 0x20 != 0 {
            // A literal with a literal name, §4.5.6.
            reader.string(3, &mut name, room)?;
            reader.string(7, &mut value, room)?;
        } else {
            // The remaining forms refer to a dynamic table.
            return Err(Wrong::Malformed.into());
        }
        left = room.checked_sub(name.len() + value.len()).ok_or(Wrong::TooLarge)?;
        take(&name, &value)?;
    }
    Ok(())
}

struct QpackReader<'a>(&'a [u8]);

impl QpackReader<'_> {
    /// Decodes an integer with a prefix of `bits`: returns the bits before the prefix, and the integer, RFC 7541 §5.1.
    fn integer(&mut self, bits: u8) -> Option<(u8, usize)> {
        let (first, mut rest) = self.0.split_first()?;
        let mask = u8::try_from((1_u16 << bits) - 1).ok()?;
        let mut value = usize::from(first & mask);
        if value == usize::from(mask) {
            let mut shift = 0_u32;
            loop {
                let (byte, after) = rest.split_first()?;
                rest = after;
                // No valid integer here comes near; 2^34 is more than any text.
                if shift > 28 {
                    return None;
                }
                value += usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
                shift += 7;
            }
        }
        self.0 = rest;
        Some((first & !mask, value))
    }

    /// Returns an entry of the static table.
    fn known(&mut self, bits: u8, is_static: bool) -> Result<(&'static str, &'static str), Wrong> {
        let (_, place) = self.integer(bits).ok_or(Wrong::Malformed)?;
        let found = tables::FIELDS.get(place).filter(|_| is_static);
        found.copied().ok_or(Wrong::Malformed)
    }

    /// Decodes a string whose length has a prefix of `bits`; the bit before it is set if the string is Huffman-coded.
    fn string(&mut self, bits: u8, into: &mut Vec<u8>, max: usize) -> Result<(), Wrong> {
        let (flags, length) = self.integer(bits).ok_or(Wrong::Malformed)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Wrong::Malformed)?;
        self.0 = rest;
        if flags & (1 << bits) == 0 {
            if text.len() > max {
                return Err(Wrong::TooLarge);
            }
            into.extend_from_slice(text);
            return Ok(());
        }
        // The shortest code has five bits.
        if text.len() * 8 / 5 > max && text.len() > max {
            return Err(Wrong::TooLarge);
        }
        let before = into.len();
        match tables::decode(text, into, max) {
            Some(()) => Ok(()),
            None if into.len() - before >= max => Err(Wrong::TooLarge),
            None => Err(Wrong::Malformed),
        }
    }
}

/// The prefix of every field section if there is no dynamic table, §4.5.1.
pub const PREFIX: [u8; 2] = [0, 0];

/// Adds a header to a section.
pub fn encode(section: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match tables::find(name, value) {
        Some((place, true)) => return integer(section, 0xc0, 6, usize::from(place)),
        Some((place, false)) => integer(section, 0x50, 4, usize::from(place)),
        None => {
            integer(section, 0x20, 3, name.len());
            section.extend_from_slice(name);
        }
    }
    integer(section, 0, 7, value.len());
    section.extend_from_slice(value);
}

fn integer(out: &mut Vec<u8>, flags: u8, bits: u8, value: usize) {
    let mask = (1_usize << bits) - 1;
    let byte = |value: usize| u8::try_from(value & 0xff).unwrap_or(0);
    if value < mask {
        return out.push(flags | byte(value));
    }
    out.push(flags | byte(mask));
    let mut rest = value - mask;
    while rest >= 128 {
        out.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    out.push(byte(rest));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: &[u8], max: usize) -> Result<Vec<(String, String)>, Wrong> {
        let mut fields = Vec::new();
        decode::<Wrong>(section, max, |name, value| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            fields.push((text(name), text(value)));
            Ok(())
        })?;
        Ok(fields)
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
        fields
            .iter()
            .for_each(|(name, value)| encode(&mut section, name.as_bytes(), value.as_bytes()));
        let expected: Vec<_> =
            fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(read(&section, 4096).unwrap(), expected);
        let size: usize = fields.iter().map(|(n, v)| n.len() + v.len() + FIELD_OVERHEAD).sum();
        assert!(read(&section, size).is_ok());
        assert_eq!(read(&section, size - 1), Err(Wrong::TooLarge));
        for end in 0..section.len() {
            if let Ok(some) = read(&section[..end], 4096) {
                assert!(expected.starts_with(&some), "cut at {end}");
            }
        }
    }

    #[test]
    fn an_example_of_the_rfc_reads() {
        // RFC 9204 §B.1.
        let section = b"\x00\x00\x51\x0b/index.html";
        assert_eq!(read(section, 99).unwrap(), [(":path".into(), "/index.html".into())]);
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
            assert_eq!(read(section, 4096), Err(Wrong::Malformed), "{section:?}");
        }
    }

    #[test]
    fn a_small_section_does_not_become_a_large_one() {
        // Thirty headers in thirty bytes.
        let mut section = PREFIX.to_vec();
        section.extend([0xc0 | 17; 30]);
        assert_eq!(read(&section, 600), Err(Wrong::TooLarge));
    }

    #[test]
    fn random_sections_do_no_harm() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u8::try_from(state >> 56).unwrap()
        };
        for length in 0..3000 {
            let mut section = PREFIX.to_vec();
            section.extend((0..length % 60).map(|_| next()));
            if let Ok(fields) = read(&section, 300) {
                let size: usize = fields.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
                assert!(size <= 300);
            }
        }
    }
}
