//! The settings of `fault`, and which faults a request gets by them.
//!
//! Owns: the fields, and what a request may ask for in its headers. Refuses to know: how a fault is carried out. Keeps:
//! settings without a fault are an error; a header that is not valid asks for nothing.

use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::grpc::GrpcCode;
use sluice_core::settings::{Plain, Shape, Size, bind_scalar};
use sluice_core::value::Percent;
use sluice_core::{Diags, Node, Path, Setting, Span, Spanned};

use super::{ABORT, ABORT_GRPC, ABORT_PERCENT, DELAY, DELAY_PERCENT, Faults, RATE, RATE_PERCENT};
use crate::filters::CheckContext;
use crate::value_match::Values;

sluice_core::section! {
    /// Injects faults into requests. At least one of `delay`, `abort` and `response_rate` is required.
    pub struct FaultInjection {
        /// Headers that a request must have to get a fault; by default every request may.
        pub headers: Values,
        /// A delay before the request is forwarded or aborted.
        pub delay: Option<FaultDelay>,
        /// A response in place of that of an endpoint.
        pub abort: Option<Spanned<FaultAbort>>,
        /// A rate that the body of the response does not exceed.
        pub response_rate: Option<Spanned<FaultRate>>,
        /// How many requests have a fault at once, over all workers; others get none. By default there is no limit.
        pub max_active: Option<u32>,
    }
}

sluice_core::section! {
    /// A delay.
    pub struct FaultDelay {
        /// How long; with `by_header`, the longest that a request may ask for.
        pub time: Duration,
        /// Whether only requests are delayed that ask for it, in milliseconds, in `x-envoy-fault-delay-request`.
        pub by_header: bool = "false",
        /// The share of requests that are delayed; one may ask for a smaller share in
        /// `x-envoy-fault-delay-request-percentage`.
        pub percent: Percent = "100%",
        /// The name of a runtime value that overrides `percent` if it is set.
        pub runtime: Option<String>,
    }
}

sluice_core::section! {
    /// A response in place of that of an endpoint. Exactly one of `status`, `grpc_status` and `by_header` is required.
    pub struct FaultAbort {
        /// The status, from 200 to 599.
        pub status: Option<u16>,
        /// The gRPC status, from 0 to 16; clients that do not speak gRPC get the HTTP status that is closest.
        pub grpc_status: Option<GrpcNumber>,
        /// Whether only requests are aborted that ask for it: for a status in `x-envoy-fault-abort-request`, or a gRPC
        /// status in `x-envoy-fault-abort-grpc-request`.
        pub by_header: bool = "false",
        /// The share of requests that are aborted; one may ask for a smaller share in
        /// `x-envoy-fault-abort-request-percentage`.
        pub percent: Percent = "100%",
        /// The name of a runtime value that overrides `percent` if it is set.
        pub runtime: Option<String>,
    }
}

sluice_core::section! {
    /// A rate of the body of responses. Exactly one of `bytes_per_second` and `by_header` is required.
    pub struct FaultRate {
        /// The rate, such as 64KiB.
        pub bytes_per_second: Option<Size>,
        /// Whether only responses are slowed down whose request asks for it, in KiB per second, in
        /// `x-envoy-fault-throughput-response`.
        pub by_header: bool = "false",
        /// The share of responses that are slowed down; a request may ask for a smaller share in
        /// `x-envoy-fault-throughput-response-percentage`.
        pub percent: Percent = "100%",
        /// The name of a runtime value that overrides `percent` if it is set.
        pub runtime: Option<String>,
    }
}

/// The number of a gRPC status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcNumber(pub GrpcCode);

impl Setting for GrpcNumber {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "the number of a gRPC status", |text| {
            grpc_number(text.as_bytes())
                .map(Self)
                .ok_or_else(|| format!("expected a number from 0 to 16, not `{text}`"))
        })
    }

    fn shape() -> Shape {
        Shape::Count { min: 0, max: 16 }
    }

    fn show(&self) -> Plain {
        Plain::Number(self.0.number().into())
    }
}

/// How a request is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortWith {
    /// With this status.
    Status(u16),
    /// With this gRPC status.
    Grpc(GrpcCode),
}

/// Which requests get a fault.
#[derive(Clone, Copy, Debug)]
pub struct FaultShare<'a> {
    /// The share.
    pub percent: Percent,
    /// The runtime value that overrides it.
    pub runtime: Option<&'a str>,
}

/// Declares how a section says which requests get its fault.
macro_rules! share {
    ($of:expr) => {
        FaultShare { percent: $of.percent, runtime: $of.runtime.as_deref() }
    };
}

impl FaultInjection {
    /// Checks what the types of the fields do not.
    pub(super) fn check(&self, span: Span, context: &mut CheckContext<'_>) -> Option<()> {
        if self.shares().next().is_none() {
            let message = "`fault` has no fault";
            let finding = context.diags.error("missing-field", span, context.at, message);
            finding.help("write `delay`, `abort` or `response_rate`; where there are to be no faults, leave the filter out with `fault: skip`");
            return None;
        }
        let mut usable = true;
        if let Some(abort) = &self.abort {
            let at = context.at.key("abort");
            usable &= abort.value.check(abort.span, &mut context.within(&at));
        }
        if let Some(rate) = &self.response_rate {
            let at = context.at.key("response_rate");
            usable &= rate.value.check(rate.span, &mut context.within(&at));
        }
        if self.max_active == Some(0) {
            let at = context.at.key("max_active");
            let message = "with `max_active: 0` no request gets a fault";
            context.diags.error("bad-value", span, at, message).help("leave the filter out");
            usable = false;
        }
        usable.then_some(())
    }

    /// Which requests get a delay, an abort, a rate.
    pub(super) fn shares(&self) -> impl Iterator<Item = FaultShare<'_>> {
        let delay = self.delay.as_ref().map(|of| share!(of));
        let abort = self.abort.as_ref().map(|of| share!(of.value));
        let rate = self.response_rate.as_ref().map(|of| share!(of.value));
        [delay, abort, rate].into_iter().flatten()
    }

    /// The faults of a request; `drawn` draws lots, given the percentage that the request asks for at most.
    pub(super) fn faults_of(
        &self,
        head: &Head,
        drawn: impl Fn(&FaultShare<'_>, Option<u64>) -> bool,
    ) -> Faults {
        let number = |name: &str| head.get_named(name.as_bytes()).and_then(parse_number);
        let delay = self.delay.as_ref().and_then(|of| {
            let time = match of.by_header {
                true => Duration::from_millis(number(DELAY)?).min(of.time),
                false => of.time,
            };
            let hit = !time.is_zero() && drawn(&share!(of), number(DELAY_PERCENT));
            hit.then_some(time)
        });
        let abort = self.abort.as_ref().map(|of| &of.value).and_then(|of| {
            let abort = of.abort_of(head)?;
            drawn(&share!(of), number(ABORT_PERCENT)).then_some(abort)
        });
        let rate = self.response_rate.as_ref().map(|of| &of.value).and_then(|of| {
            let rate = match of.bytes_per_second {
                Some(rate) => rate.0,
                None => number(RATE)?.saturating_mul(1024),
            };
            (rate > 0 && drawn(&share!(of), number(RATE_PERCENT))).then_some(rate)
        });
        Faults { delay, abort, rate }
    }
}

impl FaultAbort {
    fn check(&self, span: Span, context: &mut CheckContext<'_>) -> bool {
        let given = [self.status.is_some(), self.grpc_status.is_some(), self.by_header];
        let given = given.into_iter().filter(|given| *given).count();
        if given != 1 {
            let message =
                "`abort` needs exactly one of `status`, `grpc_status` and `by_header: true`";
            let finding = context.not_exactly_one(span, given == 0, message);
            finding.help("write `abort: { status: 503, percent: 10% }`");
            return false;
        }
        let wrong = self.status.is_some_and(|status| !(200..600).contains(&status));
        if wrong {
            let at = context.at.key("status");
            context.diags.error("bad-value", span, at, "`status` must be from 200 to 599");
        }
        !wrong
    }

    fn abort_of(&self, head: &Head) -> Option<AbortWith> {
        match (self.status, self.grpc_status) {
            (Some(status), _) => Some(AbortWith::Status(status)),
            (None, Some(GrpcNumber(code))) => Some(AbortWith::Grpc(code)),
            (None, None) => {
                let status = head.get_named(ABORT.as_bytes()).and_then(parse_number);
                let status = status.and_then(|status| u16::try_from(status).ok());
                match status.filter(|status| (200..600).contains(status)) {
                    Some(status) => Some(AbortWith::Status(status)),
                    None => head
                        .get_named(ABORT_GRPC.as_bytes())
                        .and_then(grpc_number)
                        .map(AbortWith::Grpc),
                }
            }
        }
    }
}

impl FaultRate {
    fn check(&self, span: Span, context: &mut CheckContext<'_>) -> bool {
        match (self.bytes_per_second, self.by_header) {
            (Some(Size(0)), _) => {
                let at = context.at.key("bytes_per_second");
                let message = "at this rate, a response never ends";
                let finding = context.diags.error("bad-value", span, at, message);
                finding.help("write a rate such as 64KiB, or abort the request (`abort`)");
                false
            }
            (Some(_), false) | (None, true) => true,
            (rate, _) => {
                let message =
                    "`response_rate` needs exactly one of `bytes_per_second` and `by_header: true`";
                let finding = context.not_exactly_one(span, rate.is_none(), message);
                finding.help("write `response_rate: { bytes_per_second: 64KiB }`");
                false
            }
        }
    }
}

fn grpc_number(text: &[u8]) -> Option<GrpcCode> {
    let number = parse_number(text).and_then(|number| u32::try_from(number).ok())?;
    Some(GrpcCode::of_number(number)).filter(|code| code.number() == number)
}

/// A number of digits only.
fn parse_number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}
