//! The fixed tables of QPACK.
//!
//! Owns: the static table, the Huffman code. Refuses to know: field sections. Keeps: what the RFCs print, and an index
//! over it that is built once.
//!
//! Source: RFC 9204 appendix A, RFC 7541 appendix B. The Huffman code is canonical (shorter codes first, equal lengths
//! in the order of their symbols), so the lengths define all of it.

use std::sync::LazyLock;

/// The static table, RFC 9204 appendix A.
pub(super) static FIELDS: [(&str, &str); 99] = [
    (":authority", ""),
    (":path", "/"),
    ("age", "0"),
    ("content-disposition", ""),
    ("content-length", "0"),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("referer", ""),
    ("set-cookie", ""),
    (":method", "CONNECT"),
    (":method", "DELETE"),
    (":method", "GET"),
    (":method", "HEAD"),
    (":method", "OPTIONS"),
    (":method", "POST"),
    (":method", "PUT"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "103"),
    (":status", "200"),
    (":status", "304"),
    (":status", "404"),
    (":status", "503"),
    ("accept", "*/*"),
    ("accept", "application/dns-message"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-ranges", "bytes"),
    ("access-control-allow-headers", "cache-control"),
    ("access-control-allow-headers", "content-type"),
    ("access-control-allow-origin", "*"),
    ("cache-control", "max-age=0"),
    ("cache-control", "max-age=2592000"),
    ("cache-control", "max-age=604800"),
    ("cache-control", "no-cache"),
    ("cache-control", "no-store"),
    ("cache-control", "public, max-age=31536000"),
    ("content-encoding", "br"),
    ("content-encoding", "gzip"),
    ("content-type", "application/dns-message"),
    ("content-type", "application/javascript"),
    ("content-type", "application/json"),
    ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "image/gif"),
    ("content-type", "image/jpeg"),
    ("content-type", "image/png"),
    ("content-type", "text/css"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-type", "text/plain"),
    ("content-type", "text/plain;charset=utf-8"),
    ("range", "bytes=0-"),
    ("strict-transport-security", "max-age=31536000"),
    ("strict-transport-security", "max-age=31536000; includesubdomains"),
    ("strict-transport-security", "max-age=31536000; includesubdomains; preload"),
    ("vary", "accept-encoding"),
    ("vary", "origin"),
    ("x-content-type-options", "nosniff"),
    ("x-xss-protection", "1; mode=block"),
    (":status", "100"),
    (":status", "204"),
    (":status", "206"),
    (":status", "302"),
    (":status", "400"),
    (":status", "403"),
    (":status", "421"),
    (":status", "425"),
    (":status", "500"),
    ("accept-language", ""),
    ("access-control-allow-credentials", "FALSE"),
    ("access-control-allow-credentials", "TRUE"),
    ("access-control-allow-headers", "*"),
    ("access-control-allow-methods", "get"),
    ("access-control-allow-methods", "get, post, options"),
    ("access-control-allow-methods", "options"),
    ("access-control-expose-headers", "content-length"),
    ("access-control-request-headers", "content-type"),
    ("access-control-request-method", "get"),
    ("access-control-request-method", "post"),
    ("alt-svc", "clear"),
    ("authorization", ""),
    ("content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"),
    ("early-data", "1"),
    ("expect-ct", ""),
    ("forwarded", ""),
    ("if-range", ""),
    ("origin", ""),
    ("purpose", "prefetch"),
    ("server", ""),
    ("timing-allow-origin", "*"),
    ("upgrade-insecure-requests", "1"),
    ("user-agent", ""),
    ("x-forwarded-for", ""),
    ("x-frame-options", "deny"),
    ("x-frame-options", "sameorigin"),
];

/// The longest name in [`FIELDS`].
const NAME_MAX: usize = 40;

/// Indices into [`FIELDS`] by the length of the name.
static BY_LENGTH: LazyLock<[Vec<u8>; NAME_MAX + 1]> = LazyLock::new(|| {
    let mut table = std::array::from_fn(|_| Vec::new());
    for (place, (name, _)) in (0..).zip(FIELDS) {
        table[name.len()].push(place);
    }
    table
});

/// Returns the index of a name, and whether the entry has the value too.
pub(super) fn find(name: &[u8], value: &[u8]) -> Option<(u8, bool)> {
    let mut of_name = None;
    for place in BY_LENGTH.get(name.len())? {
        let (known, known_value) = FIELDS[usize::from(*place)];
        if known.as_bytes() == name {
            if known_value.as_bytes() == value {
                return Some((*place, true));
            }
            of_name = of_name.or(Some((*place, false)));
        }
    }
    of_name
}

/// The EOS symbol; a prefix of its code pads the end of a string, RFC 7541 §5.2.
const END: usize = 256;

/// Bits of each symbol's code, RFC 7541 appendix B.
static LENGTHS: [u8; END + 1] = [
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
struct Code {
    first: [u32; LENGTH_MAX + 1],
    count: [u32; LENGTH_MAX + 1],
    start: [usize; LENGTH_MAX + 1],
    symbols: [u16; END + 1],
}

static CODE: LazyLock<Code> = LazyLock::new(|| {
    let mut code = Code {
        first: [0; LENGTH_MAX + 1],
        count: [0; LENGTH_MAX + 1],
        start: [0; LENGTH_MAX + 1],
        symbols: [0; END + 1],
    };
    let (mut next, mut at) = (0, 0);
    for length in 1..=LENGTH_MAX {
        next <<= 1;
        (code.first[length], code.start[length]) = (next, at);
        for (symbol, of) in (0..).zip(LENGTHS) {
            if usize::from(of) == length {
                code.symbols[at] = symbol;
                (next, at) = (next + 1, at + 1);
                code.count[length] += 1;
            }
        }
    }
    code
});

/// Decodes a string and appends it to `into`; `None` if it is malformed, or would make `into` longer than `max`.
pub(super) fn decode(text: &[u8], into: &mut Vec<u8>, max: usize) -> Option<()> {
    let table = &*CODE;
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in text {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if length > LENGTH_MAX {
                return None;
            }
            let offset = code.wrapping_sub(table.first[length]);
            if offset >= table.count[length] {
                continue;
            }
            let symbol = table.symbols[table.start[length] + offset as usize];
            if into.len() >= max {
                return None;
            }
            // EOS itself is not allowed in a string.
            into.push(u8::try_from(symbol).ok()?);
            (code, length) = (0, 0);
        }
    }
    // The remaining bits are a prefix of EOS: ones, and fewer than eight.
    (length < 8 && code == (1 << length) - 1).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_decode() {
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
            let mut out = Vec::new();
            assert!(decode(&bytes, &mut out, 100).is_some());
            assert_eq!(out, text.as_bytes());
            assert!(decode(&bytes, &mut Vec::new(), text.len() - 1).is_none(), "the bound holds");
        }
    }

    #[test]
    fn padding_is_checked() {
        // 'a' is 00011; it is followed by ones, and fewer than eight of them.
        assert!(decode(&[0b0001_1111], &mut Vec::new(), 9).is_some());
        assert!(decode(&[0b0001_1110], &mut Vec::new(), 9).is_none());
        assert!(decode(&[0b0001_1111, 0xff], &mut Vec::new(), 9).is_none());
        assert!(decode(&[0xff; 4], &mut Vec::new(), 9).is_none(), "the end is no symbol");
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(find(b":method", b"GET"), Some((17, true)));
        assert_eq!(find(b"content-length", b"17"), Some((4, false)));
        assert_eq!(find(b"x-mine", b""), None);
        for (place, (name, value)) in (0..).zip(FIELDS) {
            assert_eq!(find(name.as_bytes(), value.as_bytes()), Some((place, true)));
        }
    }
}
