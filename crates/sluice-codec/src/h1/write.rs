//! Writing the heads of HTTP/1 messages.
//!
//! Owns: start lines and the headers that frame a body. Refuses to know: sockets. Keeps: what is written frames the
//! message in one way, the one that [`Framing`] names, whatever the head's own headers state: a message without a body
//! has no length, one with a stated length has exactly one.

use std::cell::Cell;

use sluice_io::buffers::{Buf, BufPool, Exhausted};

use crate::head::{Head, Method, Version};
use crate::names::Known;

/// How the end of an outgoing body is indicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, and no length is written: GET, an upgrade, CONNECT, 1xx, 204.
    Bare,
    /// There is no body. `Content-Length`, if any, describes another response: HEAD, 304 (RFC 9110 §8.6).
    Described,
    /// There is no body, and `Content-Length: 0` is written.
    Empty,
    /// The body has exactly this many bytes; the head's own `Content-Length` states it, or one is written.
    Stated(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    UntilEnd,
}

/// What the head states about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: the version's default.
    Default,
    /// `Connection: close`.
    Close,
    /// `Connection: keep-alive`, for HTTP/1.0.
    KeepAlive,
}

/// Room for what is written besides the head's own text.
const EXTRA: usize = 256;

/// Why a head was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// The pool has no buffer for it.
    NoBuffer,
    /// It contains something that would be read as something else, such as a header with a line break.
    Malformed,
}

impl From<Exhausted> for Unwritable {
    fn from(_: Exhausted) -> Self {
        Self::NoBuffer
    }
}

/// A head that is being written.
struct Out<'a> {
    room: &'a mut [u8],
    at: usize,
    /// Whether everything so far could be written, and fitted.
    whole: bool,
}

impl Out<'_> {
    fn put(&mut self, text: &[u8]) {
        // Part of a line could be read as another line, so nothing is written after what does not fit.
        match self.room.get_mut(self.at..self.at + text.len()) {
            Some(room) if self.whole => {
                room.copy_from_slice(text);
                self.at += text.len();
            }
            _ => self.whole = false,
        }
    }

    /// Writes a word of a start line; a [`Head`] accepts no spaces and control characters there.
    fn put_word(&mut self, word: &str) {
        self.whole &= !word.is_empty();
        self.put(word.as_bytes());
    }

    fn put_lines(&mut self, head: &Head, hidden: impl Fn(Known) -> bool) {
        self.whole &= head.is_sound();
        head.write_lines(hidden, |text| self.put(text));
    }
}

/// Writes into a buffer with room for `head` and `text` bytes besides its headers: the start line, the protocol of an
/// upgrade.
fn written(
    head: &Head,
    text: usize,
    pool: &BufPool,
    write: impl FnOnce(&mut Out<'_>),
) -> Result<Buf, Unwritable> {
    let mut buf = pool.take_for_head(text + head.wire_size() + EXTRA)?;
    let mut out = Out { room: buf.spare(), at: 0, whole: true };
    write(&mut out);
    let Out { at, whole, .. } = out;
    buf.fill(at);
    if whole { Ok(buf) } else { Err(Unwritable::Malformed) }
}

/// Writes a request head into a buffer of its own.
///
/// # Errors
/// The pool has no buffer for it, or it cannot be written with one meaning.
pub fn request(head: &Head, framing: Framing, pool: &BufPool) -> Result<Buf, Unwritable> {
    if matches!(framing, Framing::Described | Framing::UntilEnd) {
        // Only responses end this way, RFC 9112 §6.3.
        return Err(Unwritable::Malformed);
    }
    let (method, path, authority) = (head.method_text(), head.path(), head.authority());
    let target = match (head.method(), path) {
        (Method::Connect, _) => authority,
        (_, "") => "/",
        _ => path,
    };
    let protocol = head.upgrade().unwrap_or_default();
    let line = method.len() + target.len() + authority.len() + protocol.len();
    written(head, line, pool, |out| {
        out.put_word(method);
        out.put(b" ");
        out.put_word(target);
        out.put(b" HTTP/1.1\r\nhost: ");
        out.put(authority.as_bytes());
        out.put(b"\r\n");
        // The authority was written as the only `Host`.
        fields(head, framing, |known| known == Known::Host, out);
        if !protocol.is_empty() {
            out.put(b"connection: upgrade\r\nupgrade: ");
            out.put(protocol.as_bytes());
            out.put(b"\r\n");
        } else if head.get(Known::Te).is_some() {
            out.put(b"connection: te\r\n");
        }
        out.put(b"\r\n");
    })
}

/// Writes a response head into a buffer of its own.
///
/// # Errors
/// The pool has no buffer for it, or it cannot be written with one meaning.
pub fn response(
    head: &Head,
    framing: Framing,
    persistence: Persistence,
    pool: &BufPool,
) -> Result<Buf, Unwritable> {
    let more = [head.upgrade(), head.reason()].into_iter().flatten().map(str::len).sum();
    written(head, more, pool, |out| {
        let status = head.status();
        out.put(b"HTTP/1.1 ");
        let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
        out.put(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
        out.put(head.reason().unwrap_or_else(|| reason(status)).as_bytes());
        out.put(b"\r\n");
        fields(head, framing, |_| false, out);
        match (head.upgrade(), persistence) {
            (Some(protocol), _) if status == 101 => {
                out.put(b"connection: upgrade\r\nupgrade: ");
                out.put(protocol.as_bytes());
                out.put(b"\r\n");
            }
            (_, Persistence::Default) => {}
            (_, Persistence::Close) => out.put(b"connection: close\r\n"),
            (_, Persistence::KeepAlive) => out.put(b"connection: keep-alive\r\n"),
        }
        out.put(b"\r\n");
    })
}

/// Writes the last chunk, the trailer lines and the empty line after them.
///
/// # Errors
/// The pool has no buffer for them, or they cannot be written with one meaning.
pub fn trailers(head: &Head, pool: &BufPool) -> Result<Buf, Unwritable> {
    written(head, 0, pool, |out| {
        out.put(b"0\r\n");
        out.put_lines(head, Known::is_barred_from_trailers);
        out.put(b"\r\n");
    })
}

fn fields(head: &Head, framing: Framing, left_out: fn(Known) -> bool, out: &mut Out<'_>) {
    let own = match framing {
        Framing::Stated(length) => head.content_length() == Some(length),
        Framing::Described => head.content_length().is_some(),
        Framing::Bare | Framing::Empty | Framing::Chunked | Framing::UntilEnd => false,
    };
    // Of several lengths, the first is the one that `Head::content_length` reads.
    let hide_length = Cell::new(!own);
    let hidden = |known: Known| match known {
        Known::ContentLength => hide_length.replace(true),
        known => known.is_hop_by_hop() || left_out(known),
    };
    out.put_lines(head, hidden);
    match framing {
        Framing::Empty => out.put(b"content-length: 0\r\n"),
        Framing::Chunked => out.put(b"transfer-encoding: chunked\r\n"),
        Framing::Stated(length) if !own => {
            out.put(b"content-length: ");
            out.put(length.to_string().as_bytes());
            out.put(b"\r\n");
        }
        Framing::Bare | Framing::Described | Framing::Stated(_) | Framing::UntilEnd => {}
    }
}

/// Writes the size line of a chunk; returns how much of `line` it takes.
pub(crate) fn chunk_size(size: usize, line: &mut [u8; 18]) -> usize {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1) as usize;
    for (place, digit) in line[..digits].iter_mut().enumerate() {
        let nibble = (size >> (4 * (digits - 1 - place))) & 0xf;
        *digit = b"0123456789abcdef"[nibble];
    }
    line[digits..digits + 2].copy_from_slice(b"\r\n");
    digits + 2
}

/// Returns the usual phrase for a status; only people read it.
fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("")
}

/// Returns how a response body is framed for a peer of that version, RFC 9112 §6.3.
pub fn response_framing(head: &Head, method: Method, peer: Version, end: bool) -> Framing {
    let status = head.status();
    let tunnels = method == Method::Connect && (200..300).contains(&status);
    if status < 200 || status == 204 || tunnels {
        return Framing::Bare;
    }
    let length = head.content_length();
    if method == Method::Head || status == 304 {
        // A length that is not a number describes nothing.
        return if length.is_some() { Framing::Described } else { Framing::Bare };
    }
    match length {
        Some(length) => Framing::Stated(length),
        None if end => Framing::Empty,
        None if peer == Version::Http10 => Framing::UntilEnd,
        None => Framing::Chunked,
    }
}

/// Returns how a request body is framed. An upgrade and CONNECT have no body: what follows their head belongs to
/// another protocol, if the endpoint agrees to it.
pub fn request_framing(head: &Head, end: bool) -> Framing {
    if head.upgrade().is_some() || head.method() == Method::Connect {
        return Framing::Bare;
    }
    match head.content_length() {
        Some(length) => Framing::Stated(length),
        None if !end => Framing::Chunked,
        None if matches!(head.method(), Method::Post | Method::Put | Method::Patch) => {
            Framing::Empty
        }
        None => Framing::Bare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(buf: &Buf, expected: &str) {
        assert_eq!(String::from_utf8_lossy(buf), expected);
    }

    #[test]
    fn heads_frame_their_bodies_in_one_way() {
        let pool = BufPool::new(1 << 20);
        let mut head = Head::request("POST", "http", "a.test", "/x");
        head.append(b"content-length", b"5");
        head.append(b"keep-alive", b"1");
        let framing = request_framing(&head, false);
        check(
            &request(&head, framing, &pool).unwrap(),
            "POST /x HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\n",
        );
        head.append(b"content-length", b"6");
        check(
            &request(&head, framing, &pool).unwrap(),
            "POST /x HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\n",
        );
        check(
            &request(&head, Framing::Chunked, &pool).unwrap(),
            "POST /x HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        let mut head = Head::response(404);
        head.append(b"X", b"1");
        let framing = response_framing(&head, Method::Get, Version::Http10, false);
        assert_eq!(framing, Framing::UntilEnd);
        check(
            &response(&head, Framing::Empty, Persistence::Close, &pool).unwrap(),
            "HTTP/1.1 404 Not Found\r\nX: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        );
    }

    #[test]
    fn upgrades_are_asked_for_hop_by_hop() {
        let pool = BufPool::new(1 << 20);
        let mut head = Head::request("GET", "http", "a", "/");
        head.set_upgrade(b"websocket");
        check(
            &request(&head, Framing::Bare, &pool).unwrap(),
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        );
    }

    #[test]
    fn chunk_sizes() {
        for (size, text) in [(0, "0\r\n"), (1, "1\r\n"), (16, "10\r\n"), (65_535, "ffff\r\n")] {
            let mut line = [0; 18];
            let count = chunk_size(size, &mut line);
            assert_eq!(&line[..count], text.as_bytes());
        }
    }
}
