//! Writing the heads of HTTP/1 messages.
//!
//! Owns: start lines and the fields that frame a body. Refuses to know: sockets.
//! Keeps: what is written frames the message in one way, whatever the head's fields say.

use sluice_io::buffers::{Buf, BufPool, Exhausted};

use crate::head::{Head, Method, Version};
use crate::names::Known;

/// How the end of a body that is sent will be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, and nothing says so: GET, 204, 1xx.
    Bare,
    /// There is no body, and `Content-Length: 0` says so.
    Empty,
    /// The head's own `Content-Length` says it.
    Stated,
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    UntilEnd,
}

/// What the head says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: the version's default.
    Default,
    /// `Connection: close`.
    Close,
    /// `Connection: keep-alive`, for HTTP/1.0.
    KeepAlive,
}

/// Room for what is written beside the head's own text.
const EXTRA: usize = 256;

struct Out<'a> {
    room: &'a mut [u8],
    at: usize,
}

impl Out<'_> {
    fn put(&mut self, text: &[u8]) {
        self.room[self.at..self.at + text.len()].copy_from_slice(text);
        self.at += text.len();
    }
}

/// A request head in a buffer of its own.
///
/// # Errors
/// The pool has no buffer for it.
pub fn request(head: &Head, framing: Framing, pool: &BufPool) -> Result<Buf, Exhausted> {
    let (method, path, authority) = (head.method_text(), head.path(), head.authority());
    let target = match (head.method(), path) {
        (Method::Connect, _) => authority,
        (_, "") => "/",
        _ => path,
    };
    let line = method.len() + target.len() + 2 * authority.len();
    let mut buf = pool.take(line + head.wire_size() + EXTRA)?;
    let mut out = Out { room: buf.spare(), at: 0 };
    out.put(method.as_bytes());
    out.put(b" ");
    out.put(target.as_bytes());
    out.put(b" HTTP/1.1\r\nhost: ");
    out.put(authority.as_bytes());
    out.put(b"\r\n");
    fields(head, framing, &mut out);
    if let Some(protocol) = head.upgrade() {
        out.put(b"connection: upgrade\r\nupgrade: ");
        out.put(protocol.as_bytes());
        out.put(b"\r\n");
    } else if head.get(Known::Te).is_some() {
        out.put(b"connection: te\r\n");
    }
    out.put(b"\r\n");
    let count = out.at;
    buf.fill(count);
    Ok(buf)
}

/// A response head in a buffer of its own.
///
/// # Errors
/// The pool has no buffer for it.
pub fn response(
    head: &Head,
    framing: Framing,
    persistence: Persistence,
    pool: &BufPool,
) -> Result<Buf, Exhausted> {
    let mut buf = pool.take(head.wire_size() + EXTRA)?;
    let mut out = Out { room: buf.spare(), at: 0 };
    let status = head.status();
    out.put(b"HTTP/1.1 ");
    let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
    out.put(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
    out.put(reason(status).as_bytes());
    out.put(b"\r\n");
    fields(head, framing, &mut out);
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
    let count = out.at;
    buf.fill(count);
    Ok(buf)
}

/// Trailer lines and the empty line behind them.
///
/// # Errors
/// The pool has no buffer for them.
pub fn trailers(head: &Head, pool: &BufPool) -> Result<Buf, Exhausted> {
    let mut buf = pool.take(head.wire_size() + EXTRA)?;
    let mut out = Out { room: buf.spare(), at: 0 };
    out.put(b"0\r\n");
    head.write_lines(|_| false, |text| out.put(text));
    out.put(b"\r\n");
    let count = out.at;
    buf.fill(count);
    Ok(buf)
}

fn fields(head: &Head, framing: Framing, out: &mut Out<'_>) {
    let states_length = matches!(framing, Framing::Stated | Framing::Bare);
    let hidden = |known: Known| match known {
        Known::ContentLength => !states_length,
        known => known.is_hop_by_hop(),
    };
    head.write_lines(hidden, |text| out.put(text));
    match framing {
        Framing::Empty => out.put(b"content-length: 0\r\n"),
        Framing::Chunked => out.put(b"transfer-encoding: chunked\r\n"),
        Framing::Bare | Framing::Stated | Framing::UntilEnd => {}
    }
}

/// The size line of a chunk; returns how much of `line` it takes.
pub(crate) fn chunk_size(size: usize, line: &mut [u8; 18]) -> usize {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1) as usize;
    for (place, digit) in line[..digits].iter_mut().enumerate() {
        let nibble = (size >> (4 * (digits - 1 - place))) & 0xf;
        *digit = b"0123456789abcdef"[nibble];
    }
    line[digits..digits + 2].copy_from_slice(b"\r\n");
    digits + 2
}

/// The usual phrase for a status; only people read it.
fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("")
}

/// How a response's body is framed towards a peer of that version.
pub fn response_framing(head: &Head, method: Method, peer: Version, end: bool) -> Framing {
    let status = head.status();
    let tunnels = method == Method::Connect && status < 300;
    if status < 200 || matches!(status, 204 | 304) || method == Method::Head || tunnels {
        Framing::Bare
    } else if head.get(Known::ContentLength).is_some() {
        Framing::Stated
    } else if end {
        Framing::Empty
    } else if peer == Version::Http10 {
        Framing::UntilEnd
    } else {
        Framing::Chunked
    }
}

/// How a request's body is framed.
pub fn request_framing(head: &Head, end: bool) -> Framing {
    if head.upgrade().is_some() || head.method() == Method::Connect {
        Framing::Bare
    } else if head.get(Known::ContentLength).is_some() {
        Framing::Stated
    } else if !end {
        Framing::Chunked
    } else if matches!(head.method(), Method::Post | Method::Put | Method::Patch) {
        Framing::Empty
    } else {
        Framing::Bare
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
