//! Pieces of a body on their way from one stream to another.
//!
//! Owns: the two ways in which a piece is held. Refuses to know: framing. Keeps: a piece moves whole and is copied only
//! if the next codec needs it in another form. Bytes in a buffer of the worker count towards its limit until they are
//! sent, whatever holds them.

use std::ops::Deref;

use bytes::Bytes;
use sluice_io::buffers::Buf;

use crate::head::Head;

/// A piece of a body.
#[derive(Debug)]
pub enum Body {
    /// In a buffer of the worker.
    Pooled(Buf),
    /// Shared, as local responses and plug-ins hold it.
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
