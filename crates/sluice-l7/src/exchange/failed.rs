//! Attempts that brought no response: why, and what the client hears when no other is made.
//!
//! Owns: the words and statuses for each way to fail. Refuses to know: when another attempt is made. Keeps: what an
//! endpoint cannot have seen is told apart from what it may have acted on; what went wrong in words goes to
//! the record, never to the client.

use std::time::Duration;

use sluice_codec::HttpError;
use sluice_core::Reason;
use sluice_core::reason::{self, end};
use sluice_core::value::show_duration;
use sluice_upstream::connector::ConnectFailure;
use sluice_upstream::reasons as upstream_reasons;

use super::Stop;
use crate::errors::{self, At, Cause};
use crate::reasons;

/// Why an attempt delivered no response to the client.
pub(super) enum AttemptError {
    /// It failed; another attempt may do better.
    Failed(FailedAttempt),
    /// The request ends, whatever another attempt might bring.
    Stop(Stop),
}

impl From<FailedAttempt> for AttemptError {
    fn from(failed: FailedAttempt) -> Self {
        Self::Failed(failed)
    }
}

impl From<Stop> for AttemptError {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// An attempt that brought no response.
pub(super) struct FailedAttempt {
    pub(super) why: Reason,
    pub(super) status: u16,
    /// The word for `%RESPONSE_CODE_DETAILS%`.
    pub(super) details: &'static str,
    /// What the client hears, beside the reason's code; static, so that nothing of the endpoint gets into it.
    pub(super) text: &'static str,
    /// What the system, TLS or the codec said, for the record.
    pub(super) said: FailureDetail,
    pub(super) cause: Cause,
}

/// What is known about the cause of a failure.
#[derive(Debug, Default)]
pub(super) struct FailureDetail {
    pub(super) errno: Option<i32>,
    pub(super) detail: Option<Box<str>>,
}

/// What Envoy says when a connection to an endpoint failed.
const CONNECTION_FAILURE: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure";
/// What Envoy says when an endpoint took too long to connect to.
const CONNECTION_TIMEOUT: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection timeout";
/// What Envoy says when a limit of the cluster is reached.
const OVERFLOW: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: overflow";
/// What Envoy says when an endpoint broke the protocol.
const PROTOCOL_ERROR: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
/// What Envoy says when the stream to an endpoint ended early.
const TERMINATION: &str = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";

/// Why no endpoint was picked; `shortage` says what stands behind it.
pub(super) fn no_endpoint(why: Reason, shortage: Option<Box<str>>) -> FailedAttempt {
    let overloaded = why == upstream_reasons::LIMIT;
    let (details, text) = if overloaded {
        ("overload", OVERFLOW)
    } else {
        ("no_healthy_upstream", "no healthy upstream")
    };
    let said = FailureDetail { errno: None, detail: shortage };
    FailedAttempt { why, status: 503, details, text, said, cause: Cause::Final }
}

pub(super) fn not_reached(failure: ConnectFailure) -> FailedAttempt {
    let ConnectFailure { why, errno, detail } = failure;
    let text = if why == upstream_reasons::CONNECT_TIMEOUT {
        CONNECTION_TIMEOUT
    } else if why == upstream_reasons::LIMIT {
        OVERFLOW
    } else {
        CONNECTION_FAILURE
    };
    // What we lack ourselves, we lack for every endpoint.
    let ours = why.def().side == reason::Side::Local;
    let cause = if ours { Cause::Final } else { Cause::Unsent };
    let details = "upstream_reset_before_response_started";
    let said = FailureDetail { errno, detail: detail.map(Into::into) };
    FailedAttempt { why, status: 503, details, text, said, cause }
}

/// What an error of the endpoint's stream, before it responded, comes to.
pub(super) fn failed_attempt(error: &HttpError, reused: bool) -> FailedAttempt {
    let why = errors::reason(error.kind(), At::Attempt { reused });
    let (status, cause) = errors::attempt(error.kind(), reused);
    let text = if why == reasons::UPSTREAM_PROTOCOL { PROTOCOL_ERROR } else { TERMINATION };
    let said = FailureDetail { errno: None, detail: Some(error.detail().into()) };
    let details = "upstream_reset_before_response_started";
    FailedAttempt { why, status, details, text, said, cause }
}

pub(super) fn retried_response(status: u16) -> FailedAttempt {
    FailedAttempt {
        why: reasons::RETRIED,
        status,
        details: "via_upstream",
        text: "",
        said: FailureDetail { errno: None, detail: Some(format!("status {status}").into()) },
        cause: Cause::Answered,
    }
}

pub(super) fn endpoint_left() -> FailedAttempt {
    FailedAttempt {
        why: end::ENDPOINT_REMOVED,
        status: 503,
        details: "endpoint_removed",
        text: "the endpoint was removed from its cluster",
        said: FailureDetail::default(),
        cause: Cause::Reset,
    }
}

/// The time-out of a name, such as `timeout.response`, is over.
pub(super) fn timed_out(name: &str, bound: Option<Duration>) -> FailedAttempt {
    FailedAttempt {
        why: reasons::ROUTE_TIMEOUT,
        status: 504,
        details: "upstream_response_timeout",
        text: "upstream request timeout",
        said: FailureDetail { errno: None, detail: Some(late(name, bound)) },
        cause: Cause::Final,
    }
}

pub(super) fn attempt_timed_out(bound: Option<Duration>) -> FailedAttempt {
    FailedAttempt {
        why: reasons::TRY_TIMEOUT,
        status: 504,
        details: "upstream_per_try_timeout",
        text: "upstream request timeout",
        said: FailureDetail { errno: None, detail: Some(late("timeout.per_try", bound)) },
        cause: Cause::TryTimeout,
    }
}

fn late(name: &str, bound: Option<Duration>) -> Box<str> {
    let bound = bound.map_or_else(String::new, |bound| format!(" ({})", show_duration(bound)));
    format!("no response within `{name}`{bound}").into()
}
