//! The parts of requests and responses that a service is sent.
//!
//! Owns: their names. Refuses to know: what is in them.

use std::fmt;

/// A request or its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageSide {
    /// The request.
    Request,
    /// The response.
    Response,
}

/// A part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SentPart {
    /// The headers.
    Headers,
    /// The body, or a piece of it that waits for its answer.
    Body,
    /// A piece of a body of which the service streams another; `ended` if no more follow, but trailers perhaps.
    Piece {
        /// Whether the service has been told so.
        ended: bool,
    },
    /// The trailers.
    Trailers,
}

impl fmt::Display for MessageSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Response => "response",
        })
    }
}

impl fmt::Display for SentPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Headers => "the headers",
            Self::Body | Self::Piece { .. } => "the body",
            Self::Trailers => "the trailers",
        })
    }
}
