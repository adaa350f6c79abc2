//! What goes wrong with a message under way.
//!
//! Owns: the error of streams and what each kind allows. Refuses to know: who is told and how.
//! Keeps: the kinds are few and closed; a kind says whether the other side can have seen anything.

use std::borrow::Cow;
use std::{fmt, io};

use crate::parse_error::ParseError;

/// An error of a stream of HTTP.
#[derive(Debug)]
pub struct HttpError {
    kind: ErrorKind,
    detail: Cow<'static, str>,
}

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The peer finished between two messages.
    Finished,
    /// The peer finished in the middle of a message.
    ClosedEarly,
    /// The socket failed, mostly because the peer reset it.
    Reset,
    /// The peer broke the protocol; a client gets this status.
    Malformed(u16),
    /// The peer says that it has not looked at the request: it may be sent again.
    Refused,
    /// The peer does not want the stream any more.
    Cancelled,
    /// The peer did what only floods do, and the connection ended for it.
    Flood,
    /// We were given more or less body than the head had said.
    LengthMismatch,
    /// The worker has no buffer left.
    Buffers,
}

impl HttpError {
    /// An error of a kind, with a word on it.
    pub fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Its kind.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A word on it, for records.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The same, where it is one of the texts of this program and not made of what a peer sent.
    pub fn static_detail(&self) -> Option<&'static str> {
        match self.detail {
            Cow::Borrowed(detail) => Some(detail),
            Cow::Owned(_) => None,
        }
    }

    /// The worker has no buffer left.
    pub(crate) fn buffers() -> Self {
        Self::new(ErrorKind::Buffers, "the worker is at the limit worker_buffer_bytes")
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for HttpError {}

impl From<ParseError> for HttpError {
    fn from(fault: ParseError) -> Self {
        Self::new(ErrorKind::Malformed(fault.status()), fault.detail())
    }
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::OutOfMemory => Self::buffers(),
            io::ErrorKind::InvalidData => Self::new(ErrorKind::Malformed(400), error.to_string()),
            _ => Self::new(ErrorKind::Reset, error.to_string()),
        }
    }
}
