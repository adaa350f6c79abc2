//! Attempts that delivered no response: why, and what the client gets if there is no retry.
//!
//! Owns: the text and status for each kind of failure. Refuses to know: when a request is retried. Keeps: requests that
//! an endpoint cannot have seen are distinguished from those that it may have acted on; details of a failure go to the
//! record, never to the client.

use std::time::Duration;

use sluice_codec::HttpError;
use sluice_core::Reason;
use sluice_core::reason;
use sluice_core::value::show_duration;
use sluice_upstream::connector::ConnectFailure;
use sluice_upstream::reasons as upstream_reasons;

use crate::attempts::Departure;
use crate::errors::{self, At, Cause};
use crate::reasons;
use crate::retry_plan::RetryRule;

/// An attempt that failed, or whose response is to be retried.
pub(crate) struct FailedAttempt {
    pub(crate) why: Reason,
    pub(crate) status: u16,
    /// The value of `%RESPONSE_CODE_DETAILS%`.
    pub(crate) details: &'static str,
    /// The text for the client, besides the reason's code; static, so that nothing from the endpoint gets into it.
    pub(crate) text: &'static str,
    /// The error from the system, TLS or the codec, for the record.
    pub(crate) said: FailureDetail,
    pub(crate) cause: Cause,
}

/// The known details of a failure.
#[derive(Debug, Default)]
pub(crate) struct FailureDetail {
    pub(crate) errno: Option<i32>,
    pub(crate) detail: Option<Box<str>>,
}

/// Envoy's text for a failed connection to an endpoint.
const CONNECTION_FAILURE: &str = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
/// Envoy's text for a timeout while connecting to an endpoint.
const CONNECTION_TIMEOUT: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection timeout";
/// Envoy's text for a limit of the cluster that is reached.
const OVERFLOW: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: overflow";
/// Envoy's text for a protocol error of an endpoint.
const PROTOCOL_ERROR: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
/// Envoy's text for a stream to an endpoint that ended early.
const TERMINATION: &str = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";

/// The failure if no endpoint was picked; `shortage` explains why.
pub(crate) fn no_endpoint(why: Reason, shortage: Option<Box<str>>) -> FailedAttempt {
    let (details, text) = if upstream_reasons::is_overload(why) {
        ("overload", OVERFLOW)
    } else if why == upstream_reasons::CLUSTER_UNKNOWN {
        ("cluster_not_found", "")
    } else {
        ("no_healthy_upstream", "no healthy upstream")
    };
    let said = FailureDetail { errno: None, detail: shortage };
    FailedAttempt { why, status: 503, details, text, said, cause: Cause::Final }
}

pub(crate) fn not_reached(failure: ConnectFailure) -> FailedAttempt {
    let ConnectFailure { why, errno, detail } = failure;
    let text = if why == upstream_reasons::CONNECT_TIMEOUT {
        CONNECTION_TIMEOUT
    } else if why == upstream_reasons::LIMIT {
        OVERFLOW
    } else {
        CONNECTION_FAILURE
    };
    // A resource that Sluice lacks is lacking for every endpoint.
    let ours = why.def().side == reason::Side::Local;
    let cause = if ours { Cause::Final } else { Cause::Unsent };
    let said = FailureDetail { errno, detail: detail.map(Into::into) };
    if why == upstream_reasons::EGRESS {
        let (details, text) = ("egress_denied", "this host is not served");
        return FailedAttempt { why, status: 403, details, text, said, cause };
    }
    let details = "upstream_reset_before_response_started";
    FailedAttempt { why, status: 503, details, text, said, cause }
}

/// The failure for an error of the endpoint's stream before its response.
pub(crate) fn failed_attempt(error: &HttpError, reused: bool) -> FailedAttempt {
    let why = errors::reason(error.kind(), At::Attempt { reused });
    let (status, cause) = errors::attempt(error.kind(), reused);
    let text = if why == reasons::UPSTREAM_PROTOCOL { PROTOCOL_ERROR } else { TERMINATION };
    let said = FailureDetail { errno: None, detail: Some(error.detail().into()) };
    let details = "upstream_reset_before_response_started";
    FailedAttempt { why, status, details, text, said, cause }
}

pub(crate) fn retried_response(status: u16, rule: RetryRule) -> FailedAttempt {
    let detail = format!("status {status}, retried by {}", rule.word());
    FailedAttempt {
        why: reasons::RETRIED,
        status,
        details: "via_upstream",
        text: "",
        said: FailureDetail { errno: None, detail: Some(detail.into()) },
        cause: Cause::Answered(rule),
    }
}

pub(crate) fn endpoint_left(departure: Departure) -> FailedAttempt {
    FailedAttempt {
        why: departure.reason(),
        status: 503,
        details: departure.details(),
        text: departure.text(),
        said: FailureDetail::default(),
        cause: Cause::Reset,
    }
}

/// The failure for an expired timeout, such as `timeout.response`.
pub(crate) fn timed_out(name: &str, bound: Option<Duration>) -> FailedAttempt {
    FailedAttempt {
        why: reasons::ROUTE_TIMEOUT,
        status: 504,
        details: "response_timeout",
        text: "upstream request timeout",
        said: FailureDetail { errno: None, detail: Some(late(name, bound)) },
        cause: Cause::Final,
    }
}

/// The failure of a request that lasted longer than `name`, such as `timeout.total`.
pub(crate) fn lasted_too_long(name: &str, bound: Option<Duration>, status: u16) -> FailedAttempt {
    FailedAttempt {
        why: reasons::ROUTE_TIMEOUT,
        status,
        details: "max_duration_timeout",
        text: "downstream duration timeout",
        said: FailureDetail { errno: None, detail: Some(late(name, bound)) },
        cause: Cause::Final,
    }
}

/// The failure of an attempt whose stream lasted longer than its cluster allows.
pub(crate) fn stream_too_long(bound: Option<Duration>, status: u16) -> FailedAttempt {
    FailedAttempt {
        why: reasons::STREAM_DURATION,
        status,
        details: "upstream_max_stream_duration_reached",
        text: "upstream max stream duration reached",
        said: FailureDetail { errno: None, detail: Some(late("max_stream_duration", bound)) },
        cause: Cause::Reset,
    }
}

/// The failure of an attempt that took longer than `name`, such as `timeout.per_try`.
pub(crate) fn attempt_timed_out(name: &str, bound: Option<Duration>) -> FailedAttempt {
    FailedAttempt {
        why: reasons::TRY_TIMEOUT,
        status: 504,
        details: "upstream_per_try_timeout",
        text: "upstream request timeout",
        said: FailureDetail { errno: None, detail: Some(late(name, bound)) },
        cause: Cause::TryTimeout,
    }
}

fn late(name: &str, bound: Option<Duration>) -> Box<str> {
    let bound = bound.map_or_else(String::new, |bound| format!(" ({})", show_duration(bound)));
    format!("no response within `{name}`{bound}").into()
}
