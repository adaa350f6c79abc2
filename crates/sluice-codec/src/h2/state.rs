//! The states of a stream.
//!
//! Owns: the states of RFC 9113 §5.1 that a stream in the table can be in, and why it ended early. Refuses to know:
//! frames, windows and tables. Keeps: the transitions are the methods of [`StreamState`] and no others; a stream that is
//! closed stays closed, and ends for one reason.
//!
//! A stream that is idle, or closed and released by its user, is in no table: its number tells which of both it is.
//! Nothing is reserved, since nothing is pushed.
//!
//! ```text
//!            recv END_STREAM              send END_STREAM
//!   Open ───────────────────▶ HalfRemote ────────────────▶ Closed
//!     │     send END_STREAM              recv END_STREAM      ▲
//!     └─────────────────────▶ HalfLocal ──────────────────────┤
//!   any ── send or recv RST_STREAM, the connection's end ─────┘
//! ```

use crate::h2::code::H2Code;

/// The state of a stream, RFC 9113 §5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// Both sides send.
    Open,
    /// We have sent everything; the peer has not.
    HalfClosedLocal,
    /// The peer has sent everything; we have not.
    HalfClosedRemote,
    /// Nothing is sent any more.
    Closed,
}

impl StreamState {
    /// Whether the peer may still send.
    pub const fn receives(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedLocal)
    }

    /// Whether we may still send.
    pub const fn sends(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedRemote)
    }

    /// The peer has sent END_STREAM.
    pub const fn end_received(&mut self) {
        *self = match self {
            Self::Open | Self::HalfClosedRemote => Self::HalfClosedRemote,
            Self::HalfClosedLocal | Self::Closed => Self::Closed,
        };
    }

    /// We have sent END_STREAM.
    pub const fn end_sent(&mut self) {
        *self = match self {
            Self::Open | Self::HalfClosedLocal => Self::HalfClosedLocal,
            Self::HalfClosedRemote | Self::Closed => Self::Closed,
        };
    }

    /// The stream was reset, or its connection has ended.
    pub const fn abort(&mut self) {
        *self = Self::Closed;
    }
}

/// Why a stream ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The peer has reset it.
    ByPeer(H2Code),
    /// We have reset it for what the peer did.
    ByUs(H2Code, &'static str),
    /// Its user has reset it.
    Abandoned,
    /// The peer will not process it, RFC 9113 §6.8.
    Refused,
    /// The worker had no buffer for what arrived.
    Buffers,
    /// The connection has ended.
    Connection,
}

/// What the peer may send next on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvPhase {
    /// A response head.
    Head,
    /// Data or trailers.
    Body,
    /// Nothing.
    Done,
}

#[cfg(test)]
mod tests {
    use super::StreamState::{Closed, HalfClosedLocal, HalfClosedRemote, Open};

    #[test]
    fn each_side_ends_once_and_in_any_order() {
        for (before, received, sent) in [
            (Open, HalfClosedRemote, HalfClosedLocal),
            (HalfClosedLocal, Closed, HalfClosedLocal),
            (HalfClosedRemote, HalfClosedRemote, Closed),
            (Closed, Closed, Closed),
        ] {
            let (mut one, mut other, mut aborted) = (before, before, before);
            one.end_received();
            other.end_sent();
            aborted.abort();
            assert_eq!((one, other, aborted), (received, sent, Closed));
            assert!(!one.receives() && !other.sends());
        }
        assert!(Open.receives() && Open.sends());
    }
}
