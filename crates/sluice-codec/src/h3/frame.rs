//! The vocabulary of HTTP/3: integers, types, codes.
//!
//! Owns: variable-length integers, frame and stream types, error codes. Refuses to know: streams. Keeps: only the
//! functions that write allocate.
//!
//! Source: RFC 9000 §16, RFC 9114 §6.2, §7.2 and §8.1, RFC 9204 §6.

/// Frame types.
pub(super) mod kind {
    pub(crate) const DATA: u64 = 0;
    pub(crate) const HEADERS: u64 = 1;
    pub(crate) const CANCEL_PUSH: u64 = 3;
    pub(crate) const SETTINGS: u64 = 4;
    pub(crate) const PUSH_PROMISE: u64 = 5;
    pub(crate) const GOAWAY: u64 = 7;
    pub(crate) const MAX_PUSH_ID: u64 = 0xd;

    /// Whether it was a frame type of HTTP/2, which must not be used here, RFC 9114 §7.2.8.
    pub(crate) const fn is_of_http2(kind: u64) -> bool {
        matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
    }
}

/// Types of unidirectional streams.
pub(super) mod stream {
    pub(crate) const CONTROL: u64 = 0;
    pub(crate) const PUSH: u64 = 1;
    pub(crate) const QPACK_ENCODER: u64 = 2;
    pub(crate) const QPACK_DECODER: u64 = 3;
}

/// Identifiers of settings.
pub(super) mod setting {
    pub(crate) const QPACK_MAX_TABLE_CAPACITY: u64 = 1;
    pub(crate) const MAX_FIELD_SECTION_SIZE: u64 = 6;
    pub(crate) const QPACK_BLOCKED_STREAMS: u64 = 7;
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u64 = 8;

    /// Whether it was a setting of HTTP/2, which must not be used here, RFC 9114 §7.2.4.1.
    pub(crate) const fn is_of_http2(name: u64) -> bool {
        matches!(name, 0x2..=0x5)
    }
}

/// Error codes.
pub mod code {
    /// No error.
    pub const NO_ERROR: u32 = 0x100;
    /// An internal failure.
    pub const INTERNAL_ERROR: u32 = 0x102;
    /// A stream that must not be opened.
    pub const STREAM_CREATION_ERROR: u32 = 0x103;
    /// A stream that the connection needs was closed.
    pub const CLOSED_CRITICAL_STREAM: u32 = 0x104;
    /// A frame that is not allowed in this place.
    pub const FRAME_UNEXPECTED: u32 = 0x105;
    /// A frame that does not match its type.
    pub const FRAME_ERROR: u32 = 0x106;
    /// More load than an honest peer causes.
    pub const EXCESSIVE_LOAD: u32 = 0x107;
    /// An ID that was used incorrectly.
    pub const ID_ERROR: u32 = 0x108;
    /// Settings that are not allowed.
    pub const SETTINGS_ERROR: u32 = 0x109;
    /// A control stream that does not begin with SETTINGS.
    pub const MISSING_SETTINGS: u32 = 0x10a;
    /// The request was not processed.
    pub const REQUEST_REJECTED: u32 = 0x10b;
    /// The rest is no longer needed.
    pub const REQUEST_CANCELLED: u32 = 0x10c;
    /// The stream ended in the middle of a request.
    pub const REQUEST_INCOMPLETE: u32 = 0x10d;
    /// A malformed message.
    pub const MESSAGE_ERROR: u32 = 0x10e;
    /// The other end of a tunnel failed.
    pub const CONNECT_ERROR: u32 = 0x10f;
    /// A field section that cannot be decoded.
    pub const QPACK_DECOMPRESSION_FAILED: u32 = 0x200;
    /// An instruction for a dynamic table, which does not exist.
    pub const QPACK_ENCODER_STREAM_ERROR: u32 = 0x201;
    /// An acknowledgement of something that was never sent.
    pub const QPACK_DECODER_STREAM_ERROR: u32 = 0x202;

    /// Formats a code by name and number, for access logs.
    pub(crate) fn word(code: u64) -> String {
        let name = match u32::try_from(code).unwrap_or_default() {
            NO_ERROR => "H3_NO_ERROR",
            0x101 => "H3_GENERAL_PROTOCOL_ERROR",
            INTERNAL_ERROR => "H3_INTERNAL_ERROR",
            STREAM_CREATION_ERROR => "H3_STREAM_CREATION_ERROR",
            CLOSED_CRITICAL_STREAM => "H3_CLOSED_CRITICAL_STREAM",
            FRAME_UNEXPECTED => "H3_FRAME_UNEXPECTED",
            FRAME_ERROR => "H3_FRAME_ERROR",
            EXCESSIVE_LOAD => "H3_EXCESSIVE_LOAD",
            ID_ERROR => "H3_ID_ERROR",
            SETTINGS_ERROR => "H3_SETTINGS_ERROR",
            MISSING_SETTINGS => "H3_MISSING_SETTINGS",
            REQUEST_REJECTED => "H3_REQUEST_REJECTED",
            REQUEST_CANCELLED => "H3_REQUEST_CANCELLED",
            REQUEST_INCOMPLETE => "H3_REQUEST_INCOMPLETE",
            MESSAGE_ERROR => "H3_MESSAGE_ERROR",
            CONNECT_ERROR => "H3_CONNECT_ERROR",
            QPACK_DECOMPRESSION_FAILED => "QPACK_DECOMPRESSION_FAILED",
            QPACK_ENCODER_STREAM_ERROR => "QPACK_ENCODER_STREAM_ERROR",
            QPACK_DECODER_STREAM_ERROR => "QPACK_DECODER_STREAM_ERROR",
            _ => "code",
        };
        format!("{name} ({code:#x})")
    }
}

/// Decodes the integer at the front; returns it and its length in bytes, or `None` while it is incomplete.
pub(super) fn integer(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value =
        rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, length))
}

/// Adds an integer.
pub(super) fn put(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    match value {
        0..0x40 => out.push(bytes[7]),
        0x40..0x4000 => out.extend_from_slice(&[0x40 | bytes[6], bytes[7]]),
        0x4000..0x4000_0000 => {
            out.push(0x80 | bytes[4]);
            out.extend_from_slice(&bytes[5..]);
        }
        _ => {
            out.push(0xc0 | bytes[0] & 0x3f);
            out.extend_from_slice(&bytes[1..]);
        }
    }
}

/// Adds a frame header.
pub(super) fn put_head(out: &mut Vec<u8>, kind: u64, length: usize) {
    put(out, kind);
    put(out, length as u64);
}

/// Decodes the frame header at the front; returns type, length and the bytes of the header, or `None` while it is
/// incomplete.
pub(super) fn head(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (kind, first) = integer(bytes)?;
    let (length, second) = integer(&bytes[first..])?;
    Some((kind, length, first + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_a_name_and_a_number() {
        assert_eq!(code::word(0x107), "H3_EXCESSIVE_LOAD (0x107)");
        assert_eq!(code::word(u64::MAX), "code (0xffffffffffffffff)");
    }

    #[test]
    fn integers_read_back_and_wait_for_their_end() {
        for value in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(integer(&out), Some((value, out.len())));
            for end in 0..out.len() {
                assert_eq!(integer(&out[..end]), None);
            }
        }
        // RFC 9000 §A.1: two encodings of 37.
        assert_eq!((integer(&[0x25]), integer(&[0x40, 0x25])), (Some((37, 1)), Some((37, 2))));
        assert_eq!(
            integer(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]).unwrap().0,
            151_288_809_941_952_652
        );
    }

    #[test]
    fn heads_of_frames() {
        let mut out = Vec::new();
        put_head(&mut out, kind::HEADERS, 300);
        assert_eq!(head(&out), Some((kind::HEADERS, 300, 3)));
        assert_eq!(head(&out[..2]), None);
    }
}
