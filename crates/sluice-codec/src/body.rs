//! Pieces of a body on their way from one stream to another.
//!
//! Owns: the two ways in which a piece is held. Refuses to know: framing. Keeps: a piece moves whole and is copied only
//! if the next codec needs it in another form. Bytes in a buffer of the worker count towards its limit until they are
//! sent, whatever holds them.

use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;
use sluice_io::buffers::{Buf, BufPool, Charge, Exhausted};

use crate::head::Head;

/// A piece of a body.
#[derive(Debug)]
pub enum Body {
    /// In a buffer of the worker.
    Pooled(Buf),
    /// Shared, as the HTTP/2 library returns it.
    Shared(Bytes),
}

impl Body {
    /// Converts the piece to shared bytes; a pooled piece is copied.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Pooled(buf) => Bytes::copy_from_slice(&buf),
            Self::Shared(bytes) => bytes,
        }
    }

    /// Converts the piece for a library that holds it until the peer has room. A small piece is copied, to free its
    /// buffer; the copy is charged all the same.
    ///
    /// # Errors
    /// The worker is at the limit of its buffers.
    pub(crate) fn into_chunk(self, pool: &BufPool) -> Result<Chunk, Exhausted> {
        Ok(match self {
            Self::Pooled(buf) if buf.len() <= COPIED_MAX => {
                let mut charge = pool.charge();
                charge.set(buf.len())?;
                Chunk::Copied { bytes: Bytes::copy_from_slice(&buf), _charge: charge }
            }
            Self::Pooled(buf) => {
                let end = buf.len();
                Chunk::Pooled { buf: Rc::new(buf), start: 0, end }
            }
            Self::Shared(bytes) => Chunk::Shared(bytes),
        })
    }
}

/// Pieces of at most this many bytes are copied rather than keep a buffer.
const COPIED_MAX: usize = 4 << 10;

/// A piece of a body that can be split without a copy.
#[derive(Debug)]
pub(crate) enum Chunk {
    Pooled {
        buf: Rc<Buf>,
        start: usize,
        end: usize,
    },
    /// The charge stays with the part that is split off last.
    Copied {
        bytes: Bytes,
        _charge: Charge,
    },
    Shared(Bytes),
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Shared(Bytes::new())
    }
}

impl Chunk {
    /// Splits off the first `count` bytes, or all of them if there are no more.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
        match self {
            Self::Pooled { buf, start, end } if *end - *start > count => {
                let first =
                    Self::Pooled { buf: Rc::clone(buf), start: *start, end: *start + count };
                *start += count;
                first
            }
            Self::Shared(bytes) | Self::Copied { bytes, .. } if bytes.len() > count => {
                Self::Shared(bytes.split_to(count))
            }
            whole => std::mem::take(whole),
        }
    }
}

impl bytes::Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Self::Pooled { start, end, .. } => end - start,
            Self::Shared(bytes) | Self::Copied { bytes, .. } => bytes.len(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Pooled { buf, start, end } => &buf[*start..*end],
            Self::Shared(bytes) | Self::Copied { bytes, .. } => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Pooled { start, end, .. } => *start = (*start + count).min(*end),
            Self::Shared(bytes) | Self::Copied { bytes, .. } => bytes::Buf::advance(bytes, count),
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pooled(buf) => buf,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// What a stream returns of a message after its head.
#[derive(Debug)]
pub enum Frame {
    /// Data; `last` if the message ends with it.
    Data {
        /// The data.
        body: Body,
        /// Whether nothing follows.
        last: bool,
    },
    /// Trailers, which end the message.
    Trailers(Box<Head>),
    /// The end.
    End,
}
