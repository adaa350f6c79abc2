//! The Huffman code of HPACK and QPACK.
//!
//! Owns: the code, encoding and decoding of strings. Refuses to know: where strings are. Keeps: what is encoded decodes
//! to itself; a string that no encoder writes (wrong padding, EOS) is refused; nothing is allocated but the output.
//!
//! Source: RFC 7541 §5.2 and appendix B. The code is canonical (shorter codes first, equal lengths in the order of their
//! symbols), so the lengths define all of it.

/// The EOS symbol; a prefix of its code pads the end of a string.
const END: usize = 256;

/// Bits of each symbol's code.
static LENGTHS: [u8; END + 1] = BITS;

const BITS: [u8; END + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The length of the longest code.
const LENGTH_MAX: usize = 30;

/// The codes of each length: the first of them, how many there are, and where their symbols begin.
struct Canonical {
    first: [u32; LENGTH_MAX + 1],
    count: [u32; LENGTH_MAX + 1],
    start: [usize; LENGTH_MAX + 1],
    symbols: [u16; END + 1],
    /// The code of each symbol.
    codes: [u32; END + 1],
}

static CODE: Canonical = CANONICAL;

const CANONICAL: Canonical = {
    let mut code = Canonical {
        first: [0; LENGTH_MAX + 1],
        count: [0; LENGTH_MAX + 1],
        start: [0; LENGTH_MAX + 1],
        symbols: [0; END + 1],
        codes: [0; END + 1],
    };
    let (mut next, mut at, mut length) = (0, 0, 1);
    while length <= LENGTH_MAX {
        next <<= 1;
        (code.first[length], code.start[length]) = (next, at);
        let mut symbol = 0_u16;
        while symbol as usize <= END {
            if BITS[symbol as usize] as usize == length {
                code.symbols[at] = symbol;
                code.codes[symbol as usize] = next;
                (next, at) = (next + 1, at + 1);
                code.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
};

/// Bits that [`SHORT`] looks at: two of the codes of letters and digits, which have at most six, fit.
const SHORT_BITS: usize = 12;

/// What a string begins with, if its first code is short.
#[derive(Clone, Copy)]
struct ShortCode {
    /// The first symbol, and the second if its code fits too.
    symbols: [u8; 2],
    /// Bits of the first code; 0 if it is longer than [`SHORT_BITS`].
    first: u8,
    /// Bits of both codes; those of the first if the second does not fit.
    both: u8,
}

/// For each beginning of [`SHORT_BITS`] bits, what it begins with.
#[allow(clippy::cast_possible_truncation, reason = "symbols below EOS are bytes")]
static SHORT: [ShortCode; 1 << SHORT_BITS] = {
    let mut table = [ShortCode { symbols: [0; 2], first: 0, both: 0 }; 1 << SHORT_BITS];
    let mut symbol = 0_u16;
    while (symbol as usize) < END {
        let length = BITS[symbol as usize];
        if length as usize <= SHORT_BITS {
            let spare = SHORT_BITS - length as usize;
            let first = (CANONICAL.codes[symbol as usize] as usize) << spare;
            let mut at = first;
            while at < first + (1 << spare) {
                table[at] = ShortCode { symbols: [symbol as u8, 0], first: length, both: length };
                at += 1;
            }
        }
        symbol += 1;
    }
    // Behind the first code, the second begins as another entry does.
    let mut at = 0;
    while at < 1 << SHORT_BITS {
        let code = table[at];
        let next = table[(at << code.first) & ((1 << SHORT_BITS) - 1)];
        if code.first > 0 && next.first > 0 && (code.first + next.first) as usize <= SHORT_BITS {
            table[at].symbols[1] = next.symbols[0];
            table[at].both = code.first + next.first;
        }
        at += 1;
    }
    table
};

/// Decodes a string and appends it to `into`: at most 8/5 of its bytes. `None` if no encoder writes it; `into` then ends
/// with garbage.
pub(crate) fn decode(text: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let start = into.len();
    // The shortest code has five bits, and symbols are written two at a time.
    into.resize(start + text.len() * 8 / 5 + 1, 0);
    let written = decode_to(text, &mut into[start..])?;
    into.truncate(start + written);
    Some(())
}

fn decode_to(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut rest = text;
    // The bits that were read and not decoded, from the highest; below them are zeros.
    let (mut bits, mut held, mut written) = (0_u64, 0_u32, 0);
    loop {
        if held < 32 {
            refill(&mut rest, &mut bits, &mut held);
        }
        let code = SHORT[(bits >> (64 - SHORT_BITS)) as usize];
        let length = if u32::from(code.both) <= held && code.first > 0 {
            out[written..written + 2].copy_from_slice(&code.symbols);
            written += if code.both > code.first { 2 } else { 1 };
            u32::from(code.both)
        } else {
            // The last code, or a long one.
            let (length, symbol) = match code.first {
                0 => long(bits)?,
                first => (u32::from(first), code.symbols[0]),
            };
            if length > held {
                break;
            }
            out[written] = symbol;
            written += 1;
            length
        };
        bits <<= length;
        held -= length;
    }
    // The remaining bits are a prefix of EOS: ones, and fewer than eight.
    (held < 8 && bits.leading_ones() == held).then_some(written)
}

/// Reads bytes until more than 32 bits are held, or to the end.
fn refill(rest: &mut &[u8], bits: &mut u64, held: &mut u32) {
    if let Some((four, after)) = rest.split_first_chunk() {
        *bits |= u64::from(u32::from_be_bytes(*four)) << (32 - *held);
        (*held, *rest) = (*held + 32, after);
        return;
    }
    while let [byte, after @ ..] = *rest {
        *bits |= u64::from(*byte) << (56 - *held);
        (*held, *rest) = (*held + 8, after);
    }
}

/// Decodes a code longer than [`SHORT_BITS`]; `None` if it is EOS, which is not allowed in a string.
fn long(bits: u64) -> Option<(u32, u8)> {
    for length in SHORT_BITS + 1..=LENGTH_MAX {
        let code = u32::try_from(bits >> (64 - length)).ok()?;
        let offset = code.wrapping_sub(CODE.first[length]);
        if offset < CODE.count[length] {
            let symbol = CODE.symbols[CODE.start[length] + offset as usize];
            return Some((u32::try_from(length).ok()?, u8::try_from(symbol).ok()?));
        }
    }
    None
}

/// Returns how many bytes a string takes when it is encoded.
pub(crate) fn encoded_len(text: impl Iterator<Item = u8>) -> usize {
    let bits: usize = text.map(|byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

/// Encodes a string and appends it to `out`.
pub(crate) fn encode(text: impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    // The bits that were not written yet are the lowest `held`, fewer than 32.
    let (mut bits, mut held) = (0_u64, 0_u32);
    for byte in text {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        bits = bits << length | u64::from(CODE.codes[usize::from(byte)]);
        held += length;
        if held >= 32 {
            held -= 32;
            out.extend_from_slice(&low_four(bits >> held));
        }
    }
    let padding = (8 - held % 8) % 8;
    let last = low_four((bits << padding | ((1 << padding) - 1)) << (32 - held - padding));
    out.extend_from_slice(&last[..(held + padding) as usize / 8]);
}

/// Returns the lowest 32 bits.
const fn low_four(bits: u64) -> [u8; 4] {
    let [_, _, _, _, a, b, c, d] = bits.to_be_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        decode(text, &mut out)?;
        Some(out.split_off(6))
    }

    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text.iter().copied(), &mut out);
        assert_eq!(out.len(), encoded_len(text.iter().copied()));
        out
    }

    #[test]
    fn the_examples_of_the_rfc_decode_and_encode() {
        // RFC 7541 §C.4.1, §C.6.1.
        for (bytes, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("6402", "302"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
        ] {
            let bytes: Vec<u8> = (0..bytes.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap())
                .collect();
            assert_eq!(decoded(&bytes).unwrap(), text.as_bytes());
            assert_eq!(encoded(text.as_bytes()), bytes);
        }
    }

    #[test]
    fn padding_is_checked() {
        // 'a' is 00011; it is followed by ones, and fewer than eight of them.
        assert_eq!(decoded(&[0b0001_1111]).unwrap(), b"a");
        assert!(decoded(&[0b0001_1110]).is_none());
        assert!(decoded(&[0b0001_1111, 0xff]).is_none());
        assert!(decoded(&[0xff]).is_none() && decoded(&[0xff; 3]).is_none());
        assert!(decoded(&[0xff; 4]).is_none(), "the end is no symbol");
        assert!(decoded(&[0xff; 9]).is_none());
    }

    #[test]
    fn every_symbol_goes_there_and_back_at_every_place() {
        for byte in 0..=u8::MAX {
            for length in 0..9 {
                let mut text = vec![b'a'; length];
                text.extend([byte, b'"', byte, b'0']);
                assert_eq!(decoded(&encoded(&text)).unwrap(), text);
            }
        }
        let all: Vec<u8> = (0..=u8::MAX).cycle().take(999).collect();
        assert_eq!(decoded(&encoded(&all)).unwrap(), all);
        assert_eq!(encoded(b""), b"");
    }

    /// Decodes bit by bit.
    fn slow(text: &[u8]) -> Option<Vec<u8>> {
        let (mut code, mut length, mut out) = (0_u32, 0_usize, Vec::new());
        for byte in text {
            for bit in (0..8).rev() {
                (code, length) = (code << 1 | u32::from(byte >> bit & 1), length + 1);
                let found = (0..=END)
                    .find(|at| usize::from(LENGTHS[*at]) == length && CODE.codes[*at] == code);
                if let Some(symbol) = found {
                    out.push(u8::try_from(symbol).ok()?);
                    (code, length) = (0, 0);
                }
            }
        }
        (length < 8 && code == (1 << length) - 1).then_some(out)
    }

    #[test]
    fn random_strings_decode_as_they_do_bit_by_bit() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut valid = 0;
        for round in 0..20_000 {
            // Mostly ones, so that long codes and EOS are met.
            let byte = |random: &mut fastrand::Rng| match round % 3 {
                0 => random.u8(..),
                1 => random.u8(..) | random.u8(..) | random.u8(..),
                _ => *random.choice(&[0xff, 0xfe, 0xf8, 0x7f]).unwrap(),
            };
            let text: Vec<u8> = (0..random.usize(..12)).map(|_| byte(&mut random)).collect();
            let found = decoded(&text);
            assert_eq!(found, slow(&text), "{text:x?}");
            valid += usize::from(found.is_some());
        }
        assert!(valid > 1000);
    }
}
