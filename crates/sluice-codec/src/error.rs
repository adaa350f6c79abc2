//! The errors of a message in flight.
//!
//! Owns: the error of streams and what each kind allows. Refuses to know: who receives the error and how. Keeps: the
//! kinds are few and closed; a kind tells whether the other side can have seen anything.

use std::borrow::Cow;
use std::{fmt, io};

/// An error of an HTTP stream.
#[derive(Debug)]
pub struct HttpError {
    kind: ErrorKind,
    code: Option<&'static str>,
    detail: Cow<'static, str>,
}

/// The kind of an [`HttpError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The peer closed between two messages.
    Finished,
    /// The peer closed in the middle of a message.
    ClosedEarly,
    /// The socket failed, usually because the peer reset it.
    Reset,
    /// The peer violated the protocol; a client receives this status.
    Malformed(u16),
    /// The peer took too long; a client receives 408.
    Timeout,
    /// The peer reports that it has not processed the request, so it may be sent again.
    Refused,
    /// The peer has cancelled the stream.
    Cancelled,
    /// The peer did what only a flood does, and the connection was ended for it.
    Flood,
    /// We were given more or less body than the head stated.
    LengthMismatch,
    /// The worker has no buffer left.
    Buffers,
}

impl HttpError {
    /// Creates an error of a kind, with a detail.
    pub fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, code: None, detail: detail.into() }
    }

    /// Creates an error whose detail is one of the codes of this crate, such as `http1.bare_lf`.
    pub const fn coded(kind: ErrorKind, code: &'static str) -> Self {
        Self { kind, code: Some(code), detail: Cow::Borrowed(code) }
    }

    /// Creates an error with one of the codes of this crate and a detail that says more.
    pub fn coded_with(kind: ErrorKind, code: &'static str, detail: String) -> Self {
        Self { kind, code: Some(code), detail: detail.into() }
    }

    /// Returns the code: one of a closed set, so that it can be the label of a metric.
    pub const fn code(&self) -> Option<&'static str> {
        self.code
    }

    /// Returns what the peer that caused the error may be told: the code without the place and the setting, if it has
    /// one.
    pub fn code_or_detail(&self) -> &str {
        self.code.unwrap_or(&self.detail)
    }

    /// Returns the kind.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The status of the response to a client whose message caused the error; `None` if it gets none.
    pub const fn status(&self) -> Option<u16> {
        match self.kind {
            ErrorKind::Malformed(status) => Some(status),
            ErrorKind::Timeout => Some(408),
            _ => None,
        }
    }

    /// Returns the detail, for access logs.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The worker has no buffer left.
    pub fn buffers() -> Self {
        Self::new(ErrorKind::Buffers, "the worker has reached `limits.worker_buffer_bytes`")
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for HttpError {}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::OutOfMemory => Self::buffers(),
            io::ErrorKind::InvalidData => Self::new(ErrorKind::Malformed(400), error.to_string()),
            _ => Self::new(ErrorKind::Reset, error.to_string()),
        }
    }
}
