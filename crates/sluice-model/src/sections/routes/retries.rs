//! The sections of retries.
//!
//! Owns: when a rule retries a request, where, and after which wait. Keeps: each short form is equivalent to one long
//! form.

use std::num::NonZeroU32;
use std::time::Duration;

use sluice_core::settings::{OrZero, Plain, Setting, Shape, Short, ShortForm, Size, bind_scalar};
use sluice_core::{Diags, Node, Path, choice, section};

use super::{HeaderName, MethodName};
use sluice_l7::routes::Values;

choice! {
    /// Conditions for a retry.
    pub enum RetryOn {
        /// Any status of 500 or above, and no response at all.
        ServerError = "server_error",
        /// 502, 503 or 504, an attempt that timed out, and no response at all.
        GatewayError = "gateway_error",
        /// The stream ended before a response.
        Reset = "reset",
        /// No connection could be made. That is retried up to twice in any case; with this condition, as often as
        /// `attempts` says.
        ConnectFailure = "connect_failure",
        /// The endpoint refused the stream without processing it. The same as connect_failure.
        RefusedStream = "refused_stream",
        /// The attempt timed out (`timeout.per_try`, `timeout.per_try_idle`).
        TryTimeout = "try_timeout",
        /// 409.
        Conflict = "conflict",
        /// A response with the header `x-envoy-ratelimited`, which is not retried without this condition.
        RateLimited = "rate_limited",
        /// gRPC status 1.
        Cancelled = "grpc_cancelled",
        /// gRPC status 4.
        DeadlineExceeded = "grpc_deadline_exceeded",
        /// gRPC status 13.
        Internal = "grpc_internal",
        /// gRPC status 8.
        ResourceExhausted = "grpc_resource_exhausted",
        /// gRPC status 14.
        Unavailable = "grpc_unavailable",
    }
}

choice! {
    /// What a retry avoids, as long as there is something else.
    pub enum Avoid {
        /// Nothing: the load balancer picks again.
        None = "none",
        /// The endpoints that failed.
        Endpoint = "endpoint",
        /// All endpoints of their priorities.
        Priority = "priority",
    }
}

choice! {
    /// What a header says of the wait before a retry.
    pub enum ResetFormat {
        /// Its length, in seconds.
        Seconds = "seconds",
        /// When it is over, in seconds since the Unix epoch.
        Unix = "unix",
    }
}

section! {
    /// A response header that says how long to wait before a retry. The short form is its name.
    pub struct ResetHeader {
        /// The header.
        pub name: HeaderName,
        /// What it contains.
        pub format: ResetFormat = "seconds",
    }
}

impl ShortForm for ResetHeader {
    const KEY: &'static str = "name";
}

section! {
    /// Retries.
    pub struct Retry {
        /// The conditions for a retry.
        pub when: Vec<RetryOn>,
        /// Statuses that are retried: 503, a range 500-504, or a class 5xx.
        pub statuses: Vec<StatusRange>,
        /// Response headers that are retried, any of which must match; matched like those of a rule.
        pub response_headers: Values,
        /// Methods of requests that are retried; if omitted, all. Requests that no endpoint can have processed are
        /// retried whatever their method and headers.
        pub methods: Vec<MethodName>,
        /// Headers of requests that are retried, any of which must match; if omitted, all requests are.
        pub request_headers: Values,
        /// Whether an attempt that exceeds `timeout.per_try` goes on while the next is made; the first good response is
        /// delivered, and the other attempts are reset (hedging). Only once the endpoint has the whole request.
        pub hedge: bool = "false",
        /// Maximum number of attempts, the first included.
        pub attempts: NonZeroU32 = "2",
        /// What a retry avoids, as long as there is something else.
        pub avoid: Avoid = "endpoint",
        /// Upper bound of the first wait; the n-th wait is random, up to 2^n - 1 times as long (exponential backoff).
        pub backoff: OrZero = "25ms",
        /// Maximum wait.
        pub backoff_max: OrZero = "250ms",
        /// Response headers that say how long to wait, such as `retry-after`, in place of `backoff`; the first with a
        /// valid value counts. The wait is up to half as much longer, at random. If there is no time for it, the
        /// response is not retried.
        pub reset_headers: Vec<Short<ResetHeader>>,
        /// A header that asks for a longer wait is ignored.
        pub reset_max: Duration = "5m",
        /// Bytes of a request body kept for a retry; a request with a longer body is not retried.
        pub body: Size = "64KiB",
    }
}

/// Statuses from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange(pub u16, pub u16);

impl StatusRange {
    fn parse(text: &str) -> Result<Self, String> {
        let status = |text: &str| text.parse().ok().filter(|status| (100..600).contains(status));
        let range = if let Some(class) = text.strip_suffix("xx") {
            let class: Option<u16> = class.parse().ok().filter(|class| (1..6).contains(class));
            class.map(|class| (class * 100, class * 100 + 99))
        } else if let Some((first, last)) = text.split_once('-') {
            status(first).zip(status(last)).filter(|(first, last)| first <= last)
        } else {
            status(text).map(|status| (status, status))
        };
        range.map(|(first, last)| Self(first, last)).ok_or_else(|| {
            format!("expected a status code from 100 to 599, a range such as 500-504, or 5xx, not `{text}`")
        })
    }
}

impl Setting for StatusRange {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "a status code", Self::parse)
    }

    fn shape() -> Shape {
        Shape::Either(vec![
            Shape::Count { min: 100, max: 599 },
            Shape::Text { what: "a range of status codes", example: "500-504" },
        ])
    }

    fn show(&self) -> Plain {
        let Self(first, last) = *self;
        if first == last {
            Plain::Number(first.into())
        } else {
            Plain::Text(format!("{first}-{last}"))
        }
    }
}
