//! What an error of an HTTP stream means.
//!
//! Owns: the single table that maps an error and where it was met to a reason, and a failed attempt to its status and
//! what may follow it. Refuses to know: how errors arise, and their texts. Keeps: every kind of error has an entry for
//! every place, so that a new kind does not compile without one.

use sluice_codec::ErrorKind;
use sluice_core::Reason;
use sluice_core::reason::end;
use sluice_upstream::reasons as upstream_reasons;

use crate::reasons;
use crate::retry_plan::RetryRule;

/// Where an error was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// On a client's connection, between requests or in request headers.
    Connection,
    /// On the client's side of an exchange.
    Client,
    /// On the endpoint's side, before its response.
    Attempt {
        /// Whether the connection carried requests before.
        reused: bool,
    },
    /// On the endpoint's side, in the middle of its response.
    Response,
}

/// What a failed attempt leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The endpoint cannot have seen the request.
    Unsent,
    /// A reused connection ended or was reset before a response; or the handshake of a connection that the request was
    /// sent on early did not succeed, or rejected it.
    Stale,
    /// The stream ended before a response.
    Reset,
    /// The attempt timed out.
    TryTimeout,
    /// The rule retries the response.
    Answered(RetryRule),
    /// The time for all attempts is over, or a retry cannot help.
    Final,
}

impl Cause {
    /// Whether a retry waits first: nothing speaks against another endpoint if this one was not reached.
    pub(crate) fn needs_backoff(self) -> bool {
        !matches!(self, Self::Unsent | Self::Stale | Self::Answered(RetryRule::TooEarly))
    }
}

/// The reason to record for an error.
pub(crate) fn reason(kind: ErrorKind, at: At) -> Reason {
    use At::{Attempt, Client, Connection, Response};
    match (kind, at) {
        (ErrorKind::Finished, Connection) => end::DONE,
        (ErrorKind::ClosedEarly, Connection) => end::DOWNSTREAM_CLOSED,
        (ErrorKind::Malformed(414 | 431), Connection) => reasons::HEAD_TOO_LARGE,
        (ErrorKind::Malformed(_), Connection | Client) => reasons::MALFORMED,
        (ErrorKind::Malformed(_) | ErrorKind::Flood, Attempt { .. } | Response) => {
            reasons::UPSTREAM_PROTOCOL
        }
        (ErrorKind::Flood, Connection | Client) => reasons::FLOOD,
        (ErrorKind::Timeout, Connection) => reasons::HEAD_TIMEOUT,
        (ErrorKind::Timeout, Client) => reasons::BODY_TIMEOUT,
        (ErrorKind::Reset, Client) => end::DOWNSTREAM_RESET,
        // Nobody else's fault, wherever it happens.
        (ErrorKind::Buffers, _) => sluice_l4::reasons::BUFFERS,
        (
            ErrorKind::Reset
            | ErrorKind::Refused
            | ErrorKind::Cancelled
            | ErrorKind::LengthMismatch,
            Connection,
        ) => end::DOWNSTREAM_RESET,
        (
            ErrorKind::Finished
            | ErrorKind::ClosedEarly
            | ErrorKind::Refused
            | ErrorKind::Cancelled
            | ErrorKind::LengthMismatch,
            Client,
        ) => reasons::CANCELLED,
        (ErrorKind::Refused, Attempt { .. }) => reasons::UPSTREAM_REFUSED_STREAM,
        (ErrorKind::Finished | ErrorKind::ClosedEarly, Attempt { .. }) => {
            upstream_reasons::CLOSED_EARLY
        }
        (
            ErrorKind::Reset
            | ErrorKind::Cancelled
            | ErrorKind::LengthMismatch
            | ErrorKind::Timeout,
            Attempt { .. },
        ) => upstream_reasons::RESET,
        (
            ErrorKind::Finished
            | ErrorKind::ClosedEarly
            | ErrorKind::Reset
            | ErrorKind::Refused
            | ErrorKind::Cancelled
            | ErrorKind::LengthMismatch
            | ErrorKind::Timeout,
            Response,
        ) => reasons::UPSTREAM_CUT,
    }
}

/// The status for the client if an attempt fails with this error, and what may follow the attempt.
pub(crate) const fn attempt(kind: ErrorKind, reused: bool) -> (u16, Cause) {
    match kind {
        ErrorKind::Refused => (503, Cause::Unsent),
        ErrorKind::Malformed(_) | ErrorKind::Flood => (502, Cause::Reset),
        ErrorKind::Finished | ErrorKind::Reset if reused => (503, Cause::Stale),
        ErrorKind::Buffers => (503, Cause::Final),
        ErrorKind::Finished
        | ErrorKind::ClosedEarly
        | ErrorKind::Reset
        | ErrorKind::Cancelled
        | ErrorKind::LengthMismatch
        | ErrorKind::Timeout => (503, Cause::Reset),
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::reason::Side;

    use super::*;

    const KINDS: [ErrorKind; 11] = [
        ErrorKind::Finished,
        ErrorKind::ClosedEarly,
        ErrorKind::Reset,
        ErrorKind::Malformed(400),
        ErrorKind::Malformed(431),
        ErrorKind::Timeout,
        ErrorKind::Refused,
        ErrorKind::Cancelled,
        ErrorKind::Flood,
        ErrorKind::LengthMismatch,
        ErrorKind::Buffers,
    ];

    #[test]
    fn an_error_is_blamed_on_the_side_where_it_was_met() {
        for kind in KINDS.into_iter().filter(|kind| *kind != ErrorKind::Buffers) {
            for at in [At::Attempt { reused: false }, At::Attempt { reused: true }, At::Response] {
                assert_eq!(reason(kind, at).def().side, Side::Upstream, "{kind:?} {at:?}");
            }
            for at in [At::Connection, At::Client] {
                assert_ne!(reason(kind, at).def().side, Side::Upstream, "{kind:?} {at:?}");
            }
        }
    }

    #[test]
    fn what_an_endpoint_may_have_seen_is_told_from_what_it_cannot() {
        for kind in KINDS {
            for reused in [false, true] {
                let (status, cause) = attempt(kind, reused);
                assert_eq!(cause == Cause::Unsent, kind == ErrorKind::Refused, "{kind:?}");
                let stale = reused && matches!(kind, ErrorKind::Finished | ErrorKind::Reset);
                assert_eq!(cause == Cause::Stale, stale, "{kind:?}");
                assert!(matches!(status, 502 | 503), "{kind:?}");
            }
        }
    }
}
