//! Messages in frames: a flag, a length of four bytes, and the message.
//!
//! Owns: frames, in both directions. Refuses to know: what messages contain, and where bytes come from. Keeps: at most
//! one message and the piece that completed it is held if messages are taken after each piece; how the input was cut
//! makes no difference; after an error there is no further message.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use bytes::{Buf as _, Bytes, BytesMut};

/// Bytes of a frame before its message.
const PREFIX: usize = 5;

/// Bytes of a message whose memory is given up with it.
const LARGE: usize = 16 << 10;

/// Takes messages out of the body of a response.
///
/// Takes:  the pieces of a body, cut anywhere.
/// Gives:  one message after the other, without its frame.
/// Errors: `Compressed`, `Flags`, `TooLarge`, and `Truncated` at the end; each is final.
/// Holds:  what has been pushed and not been taken.
#[derive(Debug)]
pub struct GrpcFrames {
    held: BytesMut,
    message_bytes_max: usize,
}

/// What is wrong with the body of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcFault {
    /// A message is compressed, although no compression was offered.
    Compressed,
    /// The first byte of a frame has bits that mean nothing.
    Flags(u8),
    /// A message is announced with more bytes than are accepted.
    TooLarge {
        /// The announced length.
        bytes: u32,
        /// The most bytes that are accepted.
        bytes_max: usize,
    },
    /// The body ended within a frame.
    Truncated,
    /// The call succeeded without the message that the method returns.
    NoMessage,
    /// There are several messages, and the method returns one.
    SeveralMessages,
    /// A message cannot be decoded.
    Undecodable,
}

impl GrpcFrames {
    /// Accepts messages of at most that many bytes.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { held: BytesMut::new(), message_bytes_max }
    }

    /// Takes the next piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// Returns the next message that is complete.
    ///
    /// # Errors
    /// The next frame is not acceptable; this can be known before it is complete.
    pub fn message(&mut self) -> Result<Option<Bytes>, GrpcFault> {
        match self.held.first() {
            None | Some(0) => {}
            Some(1) => return Err(GrpcFault::Compressed),
            Some(flags) => return Err(GrpcFault::Flags(*flags)),
        }
        let Some(&[_, a, b, c, d]) = self.held.first_chunk::<PREFIX>() else { return Ok(None) };
        let bytes = u32::from_be_bytes([a, b, c, d]);
        let bytes_max = self.message_bytes_max;
        let too_large = GrpcFault::TooLarge { bytes, bytes_max };
        let length = usize::try_from(bytes).map_err(|_| too_large)?;
        if length > bytes_max {
            return Err(too_large);
        }
        if self.held.len().saturating_sub(PREFIX) < length {
            return Ok(None);
        }
        self.held.advance(PREFIX);
        let message = self.held.split_to(length).freeze();
        if self.held.is_empty() && length >= LARGE {
            // It would keep the memory of the message, however long the stream is idle.
            self.held = BytesMut::new();
        }
        Ok(Some(message))
    }

    /// The bytes held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Ends the body.
    ///
    /// # Errors
    /// It ended within a frame.
    pub fn finish(&self) -> Result<(), GrpcFault> {
        if self.held.is_empty() { Ok(()) } else { Err(GrpcFault::Truncated) }
    }
}

/// Puts a message into a frame; `None` if it has more than four gibibytes.
pub fn frame(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    Some([&[0][..], &length.to_be_bytes(), message].concat().into())
}

impl fmt::Display for GrpcFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed => f.write_str("a message is compressed, although none was asked for"),
            Self::Flags(flags) => write!(f, "a frame has the unknown flags {flags:#04x}"),
            Self::TooLarge { bytes, bytes_max } => {
                write!(f, "a message of {bytes} bytes, and {bytes_max} are accepted")
            }
            Self::Truncated => f.write_str("the body ended within a message"),
            Self::NoMessage => f.write_str("the status is OK, and there is no message"),
            Self::SeveralMessages => f.write_str("there are several messages instead of one"),
            Self::Undecodable => f.write_str("a message is not valid protobuf of its type"),
        }
    }
}

impl std::error::Error for GrpcFault {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The messages of a body that arrives in pieces of `step` bytes, and how it ended.
    fn read(body: &[u8], step: usize, max: usize) -> (Vec<Bytes>, Result<(), GrpcFault>) {
        let (mut frames, mut messages) = (GrpcFrames::new(max), Vec::new());
        for piece in body.chunks(step.max(1)) {
            frames.push(piece);
            loop {
                match frames.message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(fault) => return (messages, Err(fault)),
                }
            }
            let message = frames.held().checked_sub(PREFIX);
            assert!(message.is_none_or(|held| held < max), "no more than one message is held");
        }
        let end = frames.finish();
        (messages, end)
    }

    #[track_caller]
    fn check(body: &[u8], messages: &[&[u8]], end: Result<(), GrpcFault>) {
        for step in [1, 2, 3, 5, 7, body.len()] {
            let (found, ended) = read(body, step, 8);
            assert_eq!(
                (found.iter().map(|m| &m[..]).collect::<Vec<_>>(), ended),
                (messages.to_vec(), end)
            );
        }
    }

    #[test]
    fn messages_are_taken_out_of_frames_however_they_are_cut() {
        check(b"", &[], Ok(()));
        check(b"\0\0\0\0\0", &[b""], Ok(()));
        check(b"\0\0\0\0\x02ab\0\0\0\0\x01c", &[b"ab", b"c"], Ok(()));
        check(b"\0\0\0\0\x0812345678", &[b"12345678"], Ok(()));
        check(b"\0\0\0\0\x02a", &[], Err(GrpcFault::Truncated));
        check(b"\0\0\0", &[], Err(GrpcFault::Truncated));
        check(b"\0\0\0\0\x01a\x01", &[b"a"], Err(GrpcFault::Compressed));
        check(b"\x80\0\0\0\0", &[], Err(GrpcFault::Flags(0x80)));
        let too_large = |bytes| GrpcFault::TooLarge { bytes, bytes_max: 8 };
        check(b"\0\0\0\0\x09", &[], Err(too_large(9)));
        check(b"\0\xff\xff\xff\xff", &[], Err(too_large(u32::MAX)));
    }

    #[test]
    fn an_error_is_final() {
        let mut frames = GrpcFrames::new(8);
        frames.push(b"\x01");
        assert_eq!(frames.message(), Err(GrpcFault::Compressed));
        frames.push(b"\0\0\0\0\0");
        assert_eq!(frames.message(), Err(GrpcFault::Compressed));
    }

    proptest! {
        #[test]
        fn frames_are_read_as_they_were_written(messages: Vec<Vec<u8>>, step in 1..40_usize) {
            let max = messages.iter().map(Vec::len).max().unwrap_or(0);
            let body: Vec<u8> = messages.iter().flat_map(|message| frame(message).unwrap()).collect();
            let (found, end) = read(&body, step, max);
            prop_assert_eq!(end, Ok(()));
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn cutting_random_bytes_does_not_matter(body: Vec<u8>, step in 1..20_usize) {
            prop_assert_eq!(read(&body, step, 300), read(&body, 1, 300));
        }
    }
}
