//! Frames of HTTP/2, as far as they can be judged without the state of a connection.
//!
//! Owns: the frame header, padding, the sizes and streams that each type allows; writing frames. Refuses to know:
//! streams and windows. Keeps: what [`FrameHead::check`] accepts has the payload length that its type requires, so the
//! machine reads fields of fixed size without looking again.
//!
//! Source: RFC 9113 §4.1, §4.2 and §6, RFC 9218 §7.1.

use crate::h2::code::{H2Code, H2Violation};

/// Bytes of a frame header.
pub const HEAD_LEN: usize = 9;

/// Bytes of the largest frame that a peer may send: the initial SETTINGS_MAX_FRAME_SIZE, which we do not raise.
pub const FRAME_MAX: u32 = 16 << 10;

/// What a client sends before its first frame, RFC 9113 §3.4.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
#[allow(missing_docs, reason = "each is the name of its frame")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const PRIORITY_UPDATE: u8 = 16;
}

/// Flags.
#[allow(missing_docs, reason = "each is the name of its flag")]
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of payload.
    pub len: u32,
    /// The type.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The stream; 0 for the connection.
    pub stream: u32,
}

impl FrameHead {
    /// Reads a frame header; the reserved bit is ignored, RFC 9113 §4.1.
    pub const fn read(bytes: [u8; HEAD_LEN]) -> Self {
        let [high, middle, low, kind, flags, a, b, c, d] = bytes;
        Self {
            len: u32::from_be_bytes([0, high, middle, low]),
            kind,
            flags,
            stream: u31([a, b, c, d]),
        }
    }

    /// Writes the header.
    pub fn write(self, out: &mut Vec<u8>) {
        let [_, high, middle, low] = self.len.to_be_bytes();
        let [a, b, c, d] = self.stream.to_be_bytes();
        out.extend_from_slice(&[high, middle, low, self.kind, self.flags, a, b, c, d]);
    }

    /// Whether a flag is set.
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Checks length and stream against the type, RFC 9113 §4.2 and §6.
    ///
    /// # Errors
    /// The violation, with the code that the section of the type names.
    pub const fn check(self) -> Result<(), H2Violation> {
        let size = H2Violation::Connection(H2Code::FRAME_SIZE_ERROR, "http2.frame_size");
        if self.len > FRAME_MAX {
            return Err(size);
        }
        let on_stream = match self.kind {
            kind::DATA
            | kind::HEADERS
            | kind::PRIORITY
            | kind::RST_STREAM
            | kind::PUSH_PROMISE
            | kind::CONTINUATION => self.stream != 0,
            kind::SETTINGS | kind::PING | kind::GOAWAY | kind::PRIORITY_UPDATE => self.stream == 0,
            _ => true,
        };
        if !on_stream {
            return Err(H2Violation::protocol("http2.frame_on_wrong_stream"));
        }
        let fits = match self.kind {
            kind::DATA | kind::HEADERS => {
                let pad = if self.has(flag::PADDED) { 1 } else { 0 };
                let head = self.kind == kind::HEADERS && self.has(flag::PRIORITY);
                self.len >= pad + if head { PRIORITY_LEN } else { 0 }
            }
            kind::PRIORITY if self.len != PRIORITY_LEN => {
                let code = H2Code::FRAME_SIZE_ERROR;
                return Err(H2Violation::Stream(self.stream, code, "http2.frame_size"));
            }
            kind::RST_STREAM | kind::WINDOW_UPDATE => self.len == 4,
            kind::SETTINGS if self.has(flag::ACK) => self.len == 0,
            kind::SETTINGS => self.len.is_multiple_of(6),
            kind::PING => self.len == 8,
            kind::GOAWAY => self.len >= 8,
            kind::PRIORITY_UPDATE => self.len >= 4,
            _ => true,
        };
        if fits { Ok(()) } else { Err(size) }
    }
}

/// Bytes of a priority, RFC 9113 §6.3.
const PRIORITY_LEN: u32 = 5;

/// Reads 31 bits; the reserved one is ignored.
pub const fn u31(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & (u32::MAX >> 1)
}

/// Reads the 31 bits at the start of a payload; 0 if it is too short, which [`FrameHead::check`] rules out.
pub fn first_u31(payload: &[u8]) -> u32 {
    payload.first_chunk().copied().map_or(0, u31)
}

/// Reads the 32 bits at the start of a payload; see [`first_u31`].
pub fn first_u32(payload: &[u8]) -> u32 {
    payload.first_chunk().copied().map_or(0, u32::from_be_bytes)
}

/// Returns the field block fragment of a HEADERS frame: the payload without padding and priority.
///
/// # Errors
/// The padding is longer than the payload, RFC 9113 §6.2.
pub fn fragment(head: FrameHead, payload: &[u8]) -> Result<&[u8], H2Violation> {
    let wrong = H2Violation::protocol("http2.padding");
    let mut rest = payload;
    let mut padding = 0;
    if head.has(flag::PADDED) {
        let (first, behind) = rest.split_first().ok_or(wrong)?;
        (padding, rest) = (usize::from(*first), behind);
    }
    if head.has(flag::PRIORITY) {
        rest = rest.get(PRIORITY_LEN as usize..).ok_or(wrong)?;
    }
    let end = rest.len().checked_sub(padding).ok_or(wrong)?;
    Ok(&rest[..end])
}

/// Writes a frame whose payload is known.
pub fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    FrameHead { len, kind, flags, stream }.write(out);
    out.extend_from_slice(payload);
}

/// Writes a RST_STREAM frame.
pub fn write_reset(out: &mut Vec<u8>, stream: u32, code: H2Code) {
    write(out, kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

/// Writes a WINDOW_UPDATE frame.
pub fn write_update(out: &mut Vec<u8>, stream: u32, more: u32) {
    write(out, kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
}

/// Writes a GOAWAY frame.
pub fn write_goaway(out: &mut Vec<u8>, last: u32, code: H2Code) {
    let [a, b, c, d] = last.to_be_bytes();
    let [e, f, g, h] = code.0.to_be_bytes();
    write(out, kind::GOAWAY, 0, 0, &[a, b, c, d, e, f, g, h]);
}

/// Puts frame headers around a field block that was encoded at the end of `out`, after room for one header that begins
/// at `start`. A block longer than `max` continues in CONTINUATION frames, RFC 9113 §4.3.
pub fn close_block(out: &mut Vec<u8>, start: usize, stream: u32, flags: u8, max: usize) {
    let len = out.len() - start - HEAD_LEN;
    let first = len.min(max);
    let ends = if first == len { flag::END_HEADERS } else { 0 };
    put_head(out, start, first, kind::HEADERS, flags | ends, stream);
    let mut done = start + HEAD_LEN + first;
    let mut left = len - first;
    while left > 0 {
        let next = left.min(max);
        out.splice(done..done, [0; HEAD_LEN]);
        let ends = if next == left { flag::END_HEADERS } else { 0 };
        put_head(out, done, next, kind::CONTINUATION, ends, stream);
        done += HEAD_LEN + next;
        left -= next;
    }
}

fn put_head(out: &mut [u8], at: usize, len: usize, kind: u8, flags: u8, stream: u32) {
    let [_, high, middle, low] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out[at..at + HEAD_LEN].copy_from_slice(&[high, middle, low, kind, flags, a, b, c, d]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: u8, flags: u8, stream: u32, len: u32, expected: Result<(), H2Code>) {
        let head = FrameHead { len, kind, flags, stream };
        let checked = head.check().map_err(H2Violation::code);
        assert_eq!(checked, expected, "{head:?}");
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        assert_eq!(FrameHead::read(*bytes.first_chunk().unwrap()), head);
    }

    #[test]
    fn each_type_has_its_sizes_and_streams() {
        use kind::*;
        let (size, protocol) = (Err(H2Code::FRAME_SIZE_ERROR), Err(H2Code::PROTOCOL_ERROR));
        check(DATA, 0, 1, FRAME_MAX, Ok(()));
        check(DATA, 0, 1, FRAME_MAX + 1, size);
        check(DATA, 0, 0, 1, protocol);
        check(DATA, flag::PADDED, 1, 0, size);
        check(HEADERS, flag::PRIORITY, 1, 4, size);
        check(HEADERS, flag::PRIORITY | flag::PADDED, 1, 5, size);
        check(HEADERS, 0, 0, 1, protocol);
        check(PRIORITY, 0, 1, 4, size);
        check(RST_STREAM, 0, 1, 3, size);
        check(RST_STREAM, 0, 0, 4, protocol);
        check(SETTINGS, 0, 0, 7, size);
        check(SETTINGS, flag::ACK, 0, 6, size);
        check(SETTINGS, 0, 1, 0, protocol);
        check(PUSH_PROMISE, 0, 0, 4, protocol);
        check(PING, 0, 0, 7, size);
        check(PING, 0, 1, 8, protocol);
        check(GOAWAY, 0, 0, 7, size);
        check(GOAWAY, 0, 1, 8, protocol);
        check(WINDOW_UPDATE, 0, 0, 3, size);
        check(WINDOW_UPDATE, 0, 7, 4, Ok(()));
        check(CONTINUATION, 0, 0, 1, protocol);
        check(PRIORITY_UPDATE, 0, 0, 3, size);
        check(99, 0xff, 3, 0, Ok(()));
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        let of = |flags: u8, payload: &'static [u8]| {
            let len = u32::try_from(payload.len()).unwrap();
            fragment(FrameHead { len, kind: kind::HEADERS, flags, stream: 1 }, payload).ok()
        };
        assert_eq!(of(0, b"ab"), Some(&b"ab"[..]));
        assert_eq!(of(flag::PADDED, b"\x01ab"), Some(&b"a"[..]));
        assert_eq!(of(flag::PADDED, b"\x02ab"), Some(&b""[..]));
        assert_eq!(of(flag::PADDED, b"\x03ab"), None);
        assert_eq!(of(flag::PRIORITY, b"12345ab"), Some(&b"ab"[..]));
        assert_eq!(of(flag::PRIORITY | flag::PADDED, b"\x0112345ab"), Some(&b"a"[..]));
    }

    #[test]
    fn a_long_block_continues() {
        let mut out = b"before".to_vec();
        let start = out.len();
        out.extend_from_slice(&[0; HEAD_LEN]);
        out.extend_from_slice(b"abcdefg");
        close_block(&mut out, start, 3, flag::END_STREAM, 3);
        let mut rest = &out[start..];
        let mut seen = Vec::new();
        while let Some(head) = rest.first_chunk() {
            let head = FrameHead::read(*head);
            let end = HEAD_LEN + head.len as usize;
            seen.push((head.kind, head.flags, &rest[HEAD_LEN..end]));
            rest = &rest[end..];
        }
        let expected: [(u8, u8, &[u8]); 3] =
            [(1, flag::END_STREAM, b"abc"), (9, 0, b"def"), (9, flag::END_HEADERS, b"g")];
        assert_eq!(seen, expected);
    }
}
