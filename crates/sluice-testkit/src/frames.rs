//! An HTTP/2 client at the level of frames, valid or not.
//!
//! Owns: just enough of RFC 9113 and RFC 7541 to send anything, right or wrong. Refuses to know: what is allowed.
//! Keeps: what it sends is exactly what the test wrote.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::peers::connect;

/// Frame types, RFC 9113 §6.
#[allow(missing_docs, reason = "each is the name of its type")]
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
}

/// Flags, RFC 9113 §6.
#[allow(missing_docs, reason = "each is the name of its flag")]
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
}

/// The connection preface of a client.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        let bytes = self.payload.get(at..at + 4).and_then(|four| four.try_into().ok());
        bytes.map_or(u32::MAX, u32::from_be_bytes)
    }

    /// Whether it ends the stream.
    pub const fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literal fields without indexing, RFC 7541 §6.2.2, without Huffman codes.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            string(&mut out, text.as_bytes());
        }
    }
    out
}

/// Appends a string literal as it is, RFC 7541 §5.2.
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends an integer with a prefix of 7 bits, RFC 7541 §5.1.
fn integer(out: &mut Vec<u8>, mut value: usize) {
    let byte = |value: usize| u8::try_from(value).expect("below 256");
    if value < 127 {
        return out.push(byte(value));
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push(byte(value % 128 + 128));
        value /= 128;
    }
    out.push(byte(value));
}

/// The header fields of a GET.
pub fn get<'a>(host: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)]
}

/// The status of a response by its header block: 200 is an index, others are a literal, RFC 7541 appendix A.
///
/// # Panics
/// When the block begins with something else.
#[track_caller]
pub fn status(block: &[u8]) -> u16 {
    match block {
        [0x88, ..] => 200,
        [_, 3, digits @ ..] => {
            let digits = digits.first_chunk::<3>().and_then(|text| str::from_utf8(text).ok());
            digits.and_then(|text| text.parse().ok()).expect("a status")
        }
        other => panic!("no status begins {other:?}"),
    }
}

/// A client connection.
#[derive(Debug)]
pub struct H2 {
    stream: TcpStream,
}

impl H2 {
    /// Connects and sends nothing.
    #[track_caller]
    pub fn silent(address: SocketAddr) -> Self {
        Self { stream: connect(address) }
    }

    /// Connects and sends the preface and SETTINGS.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let mut h2 = Self::silent(address);
        h2.send(PREFACE);
        h2.send(frame(kind::SETTINGS, 0, 0, &[]));
        h2
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("it is sent");
    }

    /// Sends bytes as they are, to a peer that may have closed.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a HEADERS frame with these fields.
    #[track_caller]
    pub fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        self.send(frame(kind::HEADERS, flags, stream, &block(fields)));
    }

    /// Reads a frame; `None` at the end of the connection. PINGs are acknowledged.
    pub fn read(&mut self) -> Option<Frame> {
        let frame = self.read_one()?;
        if frame.kind == kind::PING && frame.flags & flag::ACK == 0 {
            let answer = self::frame(kind::PING, flag::ACK, 0, &frame.payload);
            let _ = self.try_send(answer);
        }
        Some(frame)
    }

    fn read_one(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame matches.
    ///
    /// # Panics
    /// When the connection ends before one does.
    #[track_caller]
    pub fn until(&mut self, what: &str, fits: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = Vec::new();
        while let Some(frame) = self.read() {
            if fits(&frame) {
                return frame;
            }
            seen.push(frame);
        }
        panic!("the connection ended without {what}; before came {seen:?}")
    }

    /// The data of a stream up to its end.
    #[track_caller]
    pub fn body(&mut self, stream: u32) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let frame = self.until("the end of a stream", |frame| frame.stream == stream);
            if frame.kind == kind::DATA {
                data.extend_from_slice(&frame.payload);
            }
            if frame.ends_stream() {
                return data;
            }
            assert_ne!(frame.kind, kind::RST_STREAM, "the stream was reset: {}", frame.code());
        }
    }
}
