//! The protocol of Redis: commands written, replies read.
//!
//! Owns: the bytes of both. Refuses to know: connections, and what a reply means. Keeps: a reply takes no more memory than a
//! small multiple of its bytes, however it nests or what lengths it claims; cutting does not change how it is read.
//!
//! Source: the specification of RESP, version 2.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RespValue {
    /// A string, short or long.
    Text(Box<[u8]>),
    /// What went wrong.
    Error(Box<str>),
    /// A number.
    Integer(i64),
    /// Nothing.
    Nil,
    /// Several replies.
    List(Vec<Self>),
}

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RespFault {
    /// The first byte is that of no kind of reply.
    Kind,
    /// A number is none, or is out of range.
    Number,
    /// A line or a string does not end as it must.
    End,
    /// Replies in replies in replies, too deep.
    Depth,
    /// Larger than [`REPLY_MAX`].
    Size,
}

impl fmt::Display for RespFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "the reply is not RESP",
            Self::Number => "a number in the reply is not valid",
            Self::End => "a line or string of the reply does not end as it must",
            Self::Depth => "the reply nests too deep",
            Self::Size => "the reply is too large",
        })
    }
}

/// The largest reply, in bytes.
pub const REPLY_MAX: usize = 16 << 10;

const DEPTH_MAX: u32 = 4;

/// Reads the first reply of `bytes`; returns it with its length, or `None` if it is not complete.
///
/// # Errors
/// It is no reply, or too large.
pub fn read(bytes: &[u8]) -> Result<Option<(RespValue, usize)>, RespFault> {
    let within = bytes.get(..REPLY_MAX).unwrap_or(bytes);
    let mut reader = RespReader { bytes: within, at: 0 };
    match reader.value(DEPTH_MAX)? {
        Some(value) => Ok(Some((value, reader.at))),
        None if bytes.len() >= REPLY_MAX => Err(RespFault::Size),
        None => Ok(None),
    }
}

/// Appends a command.
pub fn write<'a>(out: &mut Vec<u8>, words: impl ExactSizeIterator<Item = &'a [u8]>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The part of the reply that has not been read.
struct RespReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> RespReader<'a> {
    /// The bytes up to the end of the line, and past it.
    fn line(&mut self) -> Result<Option<&'a [u8]>, RespFault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            return Ok(None);
        };
        let line = rest.get(..end).unwrap_or_default();
        match (rest.get(end), rest.get(end.saturating_add(1))) {
            (Some(b'\r'), None) => Ok(None),
            (Some(b'\r'), Some(b'\n')) => {
                self.at = self.at.saturating_add(end).saturating_add(2);
                Ok(Some(line))
            }
            _ => Err(RespFault::End),
        }
    }

    /// As many bytes, and the end of a line behind them.
    fn string(&mut self, length: usize) -> Result<Option<&'a [u8]>, RespFault> {
        let end = self.at.saturating_add(length);
        let Some(string) = self.bytes.get(self.at..end) else { return Ok(None) };
        let past = end.saturating_add(2);
        match self.bytes.get(end..past) {
            Some(b"\r\n") => {
                self.at = past;
                Ok(Some(string))
            }
            Some(_) => Err(RespFault::End),
            None => match self.bytes.get(end) {
                Some(b'\r') | None => Ok(None),
                Some(_) => Err(RespFault::End),
            },
        }
    }

    fn value(&mut self, depth: u32) -> Result<Option<RespValue>, RespFault> {
        let Some(kind) = self.bytes.get(self.at) else { return Ok(None) };
        if !b"+-:$*".contains(kind) {
            return Err(RespFault::Kind);
        }
        let start = self.at;
        let Some(line) = self.line()? else { return Ok(None) };
        // The first byte of the line is its kind.
        let line = line.get(1..).unwrap_or_default();
        let value = match kind {
            b'+' => RespValue::Text(line.into()),
            b'-' => RespValue::Error(String::from_utf8_lossy(line).into()),
            b':' => RespValue::Integer(number(line)?),
            b'$' => match length(line)? {
                None => RespValue::Nil,
                Some(length) => match self.string(length)? {
                    Some(string) => RespValue::Text(string.into()),
                    None => {
                        self.at = start;
                        return Ok(None);
                    }
                },
            },
            _ => match length(line)? {
                None => RespValue::Nil,
                Some(count) => return self.list(count, depth, start),
            },
        };
        Ok(Some(value))
    }

    fn list(
        &mut self,
        count: usize,
        depth: u32,
        start: usize,
    ) -> Result<Option<RespValue>, RespFault> {
        let depth = depth.checked_sub(1).ok_or(RespFault::Depth)?;
        // Grows with what is there, not with what is claimed.
        let mut list = Vec::new();
        for _ in 0..count {
            match self.value(depth)? {
                Some(value) => list.push(value),
                None => {
                    self.at = start;
                    return Ok(None);
                }
            }
        }
        Ok(Some(RespValue::List(list)))
    }
}

fn number(line: &[u8]) -> Result<i64, RespFault> {
    let text = std::str::from_utf8(line).map_err(|_| RespFault::Number)?;
    text.parse().map_err(|_| RespFault::Number)
}

/// The length of a string or list; `None` for what is not there.
fn length(line: &[u8]) -> Result<Option<usize>, RespFault> {
    match number(line)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= REPLY_MAX => Ok(Some(length)),
            Ok(_) => Err(RespFault::Size),
            Err(_) => Err(RespFault::Number),
        },
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::*;

    fn text(text: &str) -> RespValue {
        RespValue::Text(text.as_bytes().into())
    }

    #[track_caller]
    fn check(bytes: &str, expected: Result<RespValue, RespFault>) {
        let bytes = bytes.as_bytes();
        // Whole, with more behind it, and cut at every byte.
        match &expected {
            Ok(value) => {
                assert_eq!(read(bytes), Ok(Some((value.clone(), bytes.len()))));
                let more = [bytes, b"+MORE\r\n"].concat();
                assert_eq!(read(&more), Ok(Some((value.clone(), bytes.len()))));
                for end in 0..bytes.len() {
                    assert_eq!(read(&bytes[..end]), Ok(None), "{end}");
                }
            }
            Err(fault) => {
                assert_eq!(read(bytes), Err(*fault));
                for end in 0..bytes.len() {
                    let cut = read(&bytes[..end]);
                    assert!(cut == Ok(None) || cut == Err(*fault), "{end}: {cut:?}");
                }
            }
        }
    }

    #[test]
    fn replies_are_read_however_they_are_cut() {
        check("+OK\r\n", Ok(text("OK")));
        check(
            "-NOSCRIPT No matching script.\r\n",
            Ok(RespValue::Error("NOSCRIPT No matching script.".into())),
        );
        check(":-42\r\n", Ok(RespValue::Integer(-42)));
        check("$3\r\na\r\n\r\n", Ok(text("a\r\n")));
        check("$4\r\na\r\nb\r\n", Ok(text("a\r\nb")));
        check("$0\r\n\r\n", Ok(text("")));
        check("$-1\r\n", Ok(RespValue::Nil));
        check("*-1\r\n", Ok(RespValue::Nil));
        check("*0\r\n", Ok(RespValue::List(Vec::new())));
        let list = vec![RespValue::Integer(1), text("x"), RespValue::List(vec![RespValue::Nil])];
        check("*3\r\n:1\r\n$1\r\nx\r\n*1\r\n$-1\r\n", Ok(RespValue::List(list)));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        check("HTTP/1.1 400\r\n", Err(RespFault::Kind));
        check(":x\r\n", Err(RespFault::Number));
        check(":99999999999999999999\r\n", Err(RespFault::Number));
        check("$-2\r\n", Err(RespFault::Number));
        check("*1000000000\r\n", Err(RespFault::Size));
        check("$16385\r\n", Err(RespFault::Size));
        check("$1\r\nabc\r\n", Err(RespFault::End));
        check("+a\nb\r\n", Err(RespFault::End));
        check("+a\rb\r\n", Err(RespFault::End));
        check("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", Err(RespFault::Depth));
        assert_eq!(read(&[b'+'; REPLY_MAX]), Err(RespFault::Size));
        assert_eq!(
            read(&[b"*16000\r\n", &*b":1\r\n".repeat(16_000)].concat()),
            Err(RespFault::Size)
        );
    }

    #[test]
    fn any_bytes_are_a_reply_or_none() {
        let mut random = fastrand::Rng::with_seed(7);
        let good = b"*3\r\n:1\r\n$1\r\nx\r\n*1\r\n$-1\r\n";
        for _ in 0..20_000 {
            let mut bytes = good.to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] =
                    if random.bool() { random.u8(..) } else { b"+-:$*\r\n019"[random.usize(..10)] };
            }
            if let Ok(Some((_, length))) = read(&bytes) {
                assert!(length <= bytes.len());
                assert_eq!(read(&bytes[..length - 1]), Ok(None), "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_command_is_a_list_of_strings() {
        let mut out = Vec::new();
        write(&mut out, [&b"GET"[..], b"a\r\nb"].into_iter());
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n");
    }
}
