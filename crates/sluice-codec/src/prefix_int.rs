//! Integers with a prefix, of HPACK and QPACK.
//!
//! Owns: encoding and decoding of them. Refuses to know: what they count. Keeps: no input overflows; more than 32 bits,
//! or an integer longer than those need, is refused.
//!
//! Source: RFC 7541 §5.1.

/// Bytes after the prefix: as many as 32 bits need.
const BYTES_MAX: u32 = 5;

/// Splits an integer with a prefix of `bits` off the input: returns the bits before the prefix, and the integer. `None`
/// if the input ends before it does, or it is too large.
pub(crate) fn split(input: &mut &[u8], bits: u8) -> Option<(u8, usize)> {
    let (first, mut rest) = input.split_first()?;
    let mask = prefix_mask(bits);
    let mut value = u64::from(first & mask);
    if first & mask == mask {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift >= 7 * BYTES_MAX {
                return None;
            }
        }
    }
    *input = rest;
    let value = u32::try_from(value).ok()?;
    Some((first & !mask, usize::try_from(value).ok()?))
}

/// Appends an integer with a prefix of `bits` after `flags`.
pub(crate) fn put(out: &mut Vec<u8>, flags: u8, bits: u8, value: usize) {
    let mask = prefix_mask(bits);
    if let Ok(short) = u8::try_from(value)
        && short < mask
    {
        return out.push(flags | short);
    }
    out.push(flags | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        out.push(0x80 | low_seven(rest));
        rest >>= 7;
    }
    out.push(low_seven(rest));
}

/// Returns the mask of a prefix of 1 to 8 bits.
const fn prefix_mask(bits: u8) -> u8 {
    u8::MAX >> (8 - bits)
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits are left")]
const fn low_seven(value: usize) -> u8 {
    (value & 0x7f) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_go_there_and_back() {
        // RFC 7541 §C.1.
        for (bytes, bits, value) in
            [(&[0x0a][..], 5, 10), (&[0x1f, 0x9a, 0x0a], 5, 1337), (&[0x2a], 8, 42)]
        {
            assert_eq!(split(&mut { bytes }, bits), Some((0, value)));
            let mut out = Vec::new();
            put(&mut out, 0, bits, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn every_prefix_carries_every_size() {
        let sizes = (0..32).flat_map(|shift| [1_u32 << shift, (1 << shift) - 1, !(1 << shift)]);
        for value in sizes.chain([u32::MAX]).map(|value| value as usize) {
            for bits in 1..=8 {
                let flags = !prefix_mask(bits);
                let mut out = Vec::new();
                put(&mut out, flags, bits, value);
                for cut in 0..out.len() {
                    assert_eq!(split(&mut &out[..cut], bits), None);
                }
                out.push(7);
                let mut rest = &out[..];
                assert_eq!(split(&mut rest, bits), Some((flags, value)));
                assert_eq!(rest, [7]);
            }
        }
    }

    #[test]
    fn what_is_too_large_or_too_long_is_refused() {
        for bytes in [
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x10][..], // more than 32 bits
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], // zeros without end
            &[0xff; 30],
        ] {
            assert_eq!(split(&mut { bytes }, 7), None);
        }
        // Zeros at the end are as good as none.
        assert_eq!(split(&mut &[0xff, 0x80, 0x80, 0x00][..], 7), Some((0x80, 127)));
    }
}
