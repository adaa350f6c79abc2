//! The chunked transfer coding, decoded in place.
//!
//! Owns: the position of a stream within a chunk. Refuses to know: sockets. Keeps: the decoded data does not depend on
//! how the bytes were split; only the trailers are buffered.
//!
//! Source: RFC 9112 §7.1.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::parse_error::ParseError;

/// Bytes of the extensions of one chunk.
pub(crate) const EXTENSION_MAX: u16 = 4096;

/// Digits of a chunk size: 15 exceed any body by far, and cannot overflow.
const SIZE_DIGITS_MAX: u8 = 15;

/// A decoder of chunks.
#[derive(Debug, Default)]
pub struct Chunked {
    state: ChunkState,
    size: u64,
    digits: u8,
    extension: u16,
    /// Bytes of the stream that were read.
    passed: u64,
    /// The trailer lines, including the empty line at the end.
    #[allow(clippy::box_collection, reason = "every connection has room for it, and few have any")]
    trailers: Option<Box<Vec<u8>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    EndLf,
    Done,
}

/// What a piece of the stream contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPiece {
    /// Bytes of data, now at the front of the piece.
    pub data: usize,
    /// Bytes that were read; what is after them is not part of this body.
    pub read: usize,
}

impl Chunked {
    /// Reads `bytes` and moves the data in them to their front.
    ///
    /// # Errors
    /// The fault in the framing.
    pub fn read(
        &mut self,
        bytes: &mut [u8],
        trailer_bytes_max: usize,
    ) -> Result<ChunkPiece, ParseError> {
        let (mut at, mut data) = (0_usize, 0_usize);
        while self.state != ChunkState::Done {
            if self.state == ChunkState::Data {
                let left = bytes.len().saturating_sub(at);
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(left);
                if count == 0 {
                    break;
                }
                bytes.copy_within(at..at.saturating_add(count), data);
                at = at.saturating_add(count);
                data = data.saturating_add(count);
                self.size = self.size.saturating_sub(count as u64);
                if self.size == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            let Some(byte) = bytes.get(at).copied() else { break };
            at = at.saturating_add(1);
            let next = self.step(byte, trailer_bytes_max);
            if next.is_err() {
                self.passed = self.passed.saturating_add(at as u64);
            }
            self.state = next?;
        }
        self.passed = self.passed.saturating_add(at as u64);
        Ok(ChunkPiece { data, read: at })
    }

    fn step(&mut self, byte: u8, trailer_bytes_max: usize) -> Result<ChunkState, ParseError> {
        Ok(match self.state {
            ChunkState::Size => match char::from(byte).to_digit(16) {
                Some(digit) => {
                    self.digits = self.digits.saturating_add(1);
                    if self.digits > SIZE_DIGITS_MAX {
                        return Err(ParseError::ChunkSize);
                    }
                    self.size = (self.size << 4) | u64::from(digit);
                    ChunkState::Size
                }
                None if self.digits == 0 => return Err(ParseError::ChunkSize),
                None if byte == b';' => ChunkState::Extension,
                None if byte == b'\r' => ChunkState::SizeLf,
                None => return Err(ParseError::ChunkSize),
            },
            ChunkState::Extension => {
                self.extension = self.extension.saturating_add(1);
                match byte {
                    _ if self.extension > EXTENSION_MAX => {
                        return Err(ParseError::ChunkExtensionTooLong);
                    }
                    b'\r' => ChunkState::SizeLf,
                    b'\t' | b' '..=0x7e | 0x80.. => ChunkState::Extension,
                    _ => return Err(ParseError::ChunkSize),
                }
            }
            ChunkState::SizeLf => {
                (self.digits, self.extension) = (0, 0);
                match (byte, self.size) {
                    (b'\n', 0) => ChunkState::Trailers,
                    (b'\n', _) => ChunkState::Data,
                    _ => return Err(ParseError::ChunkSize),
                }
            }
            ChunkState::DataCr if byte == b'\r' => ChunkState::DataLf,
            ChunkState::DataLf if byte == b'\n' => ChunkState::Size,
            ChunkState::DataCr | ChunkState::DataLf => return Err(ParseError::ChunkEnd),
            // The usual end, for which nothing is buffered.
            ChunkState::Trailers if byte == b'\r' && self.trailers.is_none() => ChunkState::EndLf,
            ChunkState::EndLf if byte == b'\n' => ChunkState::Done,
            ChunkState::EndLf => return Err(ParseError::BareCr),
            ChunkState::Trailers => {
                let trailers = self.trailers.get_or_insert_default();
                if trailers.len() >= trailer_bytes_max {
                    return Err(ParseError::TrailersTooLarge);
                }
                trailers.push(byte);
                match trailers.as_slice() {
                    [.., b'\r', b'\n', b'\r', b'\n'] => ChunkState::Done,
                    [.., before, b'\n'] if *before != b'\r' => return Err(ParseError::BareLf),
                    [b'\n'] => return Err(ParseError::BareLf),
                    _ => ChunkState::Trailers,
                }
            }
            ChunkState::Data | ChunkState::Done => self.state,
        })
    }

    /// Returns the number of bytes read; after an error, including the byte at fault.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Whether the last chunk and the trailers have been read.
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    /// Returns the trailer lines; empty if there are none.
    pub fn trailer_lines(&self) -> &[u8] {
        self.trailers.as_deref().map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests;
