//! Tries that brought no answer: why, and what the client hears when no other is made.
//!
//! Owns: the words and statuses for each way to fail. Refuses to know: when another try is made. Keeps: what an
//! endpoint cannot have seen is told apart from what it may have acted on.

use sluice_codec::{ErrorKind, HttpError};
use sluice_core::Reason;
use sluice_core::reason::{self, end};
use sluice_upstream::connector::Failure;
use sluice_upstream::reasons as upstream_reasons;

use crate::reasons;

/// A try that brought no answer.
pub(super) struct Failed {
    pub(super) why: Reason,
    pub(super) status: u16,
    pub(super) details: &'static str,
    pub(super) text: String,
    pub(super) cause: Cause,
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The endpoint cannot have seen the request.
    Unsent,
    /// A connection that had been used before ended without a word.
    Stale,
    /// The stream ended before an answer.
    Reset,
    /// The time for the try is over.
    TryTimeout,
    /// It was answered with what the rule tries again for, and the next try is counted already.
    Answered,
    /// The time for all tries is over, or nothing can help.
    Final,
}

/// Why no endpoint was picked.
pub(super) fn nobody(why: Reason) -> Failed {
    let overloaded = why == upstream_reasons::LIMIT;
    let (details, text) = if overloaded {
        (
            "overload",
            "upstream connect error or disconnect/reset before headers. reset reason: overflow\n",
        )
    } else {
        ("no_healthy_upstream", "no healthy upstream\n")
    };
    Failed { why, status: 503, details, text: text.into(), cause: Cause::Final }
}

pub(super) fn not_reached(failure: Failure) -> (Failed, Option<i32>) {
    let Failure { why, errno, detail } = failure;
    let what = if why == upstream_reasons::CONNECT_TIMEOUT {
        "connection timeout"
    } else if why == upstream_reasons::LIMIT {
        "overflow"
    } else {
        "connection failure"
    };
    let more = detail.map_or_else(String::new, |detail| format!(" ({detail})"));
    let text = format!(
        "upstream connect error or disconnect/reset before headers. reset reason: {what}{more}\n"
    );
    // What we lack ourselves, we lack for every endpoint.
    let ours = why.def().side == reason::Side::Local;
    let cause = if ours { Cause::Final } else { Cause::Unsent };
    let details = "upstream_reset_before_response_started";
    (Failed { why, status: 503, details, text, cause }, errno)
}

/// What an error of the endpoint's stream, before it answered, comes to.
pub(super) fn failed_try(error: &HttpError, reused: bool) -> Failed {
    let (why, status, cause) = match error.kind() {
        ErrorKind::Refused => (reasons::UPSTREAM_REFUSED_STREAM, 503, Cause::Unsent),
        ErrorKind::Malformed(_) | ErrorKind::Flood => {
            (reasons::UPSTREAM_PROTOCOL, 502, Cause::Reset)
        }
        ErrorKind::Finished if reused => (upstream_reasons::CLOSED_EARLY, 503, Cause::Stale),
        ErrorKind::Reset if reused => (upstream_reasons::RESET, 503, Cause::Stale),
        ErrorKind::Finished | ErrorKind::ClosedEarly => {
            (upstream_reasons::CLOSED_EARLY, 503, Cause::Reset)
        }
        ErrorKind::Buffers => (sluice_l4::reasons::BUFFERS, 503, Cause::Final),
        ErrorKind::Reset | ErrorKind::Cancelled | ErrorKind::LengthMismatch => {
            (upstream_reasons::RESET, 503, Cause::Reset)
        }
    };
    let text = format!(
        "upstream connect error or disconnect/reset before headers. reset reason: {}\n",
        error.detail()
    );
    Failed { why, status, details: "upstream_reset_before_response_started", text, cause }
}

pub(super) fn answered_badly(status: u16) -> Failed {
    Failed {
        why: reasons::RETRIED,
        status,
        details: "via_upstream",
        text: String::new(),
        cause: Cause::Answered,
    }
}

pub(super) fn endpoint_left() -> Failed {
    Failed {
        why: end::ENDPOINT_REMOVED,
        status: 503,
        details: "endpoint_removed",
        text: "the endpoint left its cluster\n".to_owned(),
        cause: Cause::Reset,
    }
}

pub(super) fn timed_out() -> Failed {
    Failed {
        why: reasons::ROUTE_TIMEOUT,
        status: 504,
        details: "upstream_response_timeout",
        text: "upstream request timeout\n".into(),
        cause: Cause::Final,
    }
}

pub(super) fn try_timed_out() -> Failed {
    Failed {
        why: reasons::TRY_TIMEOUT,
        status: 504,
        details: "upstream_per_try_timeout",
        text: "upstream request timeout\n".into(),
        cause: Cause::TryTimeout,
    }
}
