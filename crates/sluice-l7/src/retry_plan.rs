//! What a rule retries, and after which wait.
//!
//! Owns: the plan of retries, with its defaults, and what in a request or response it covers. Refuses to know: attempts,
//! clocks and budgets. Keeps: a response that says that its endpoint is overloaded is not retried unless the plan says so.

use std::time::Duration;

use sluice_codec::Head;

use crate::value_match::ValueMatch;

/// Retries.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPlan {
    /// The most attempts; with 1, only what [`RetryWhen`] always retries is retried.
    pub attempts: u32,
    /// The failures to retry.
    pub when: RetryWhen,
    /// The statuses to retry, as ranges that include both ends.
    pub statuses: Vec<(u16, u16)>,
    /// The response headers to retry, any of which must match.
    pub response_headers: Vec<(String, ValueMatch)>,
    /// Whether an attempt that is late goes on while the next is made, and the first good response counts.
    pub hedge: bool,
    /// The methods of requests that are retried; if empty, all.
    pub methods: Vec<String>,
    /// The headers of requests that are retried, any of which must match; if empty, all requests are.
    pub request_headers: Vec<(String, ValueMatch)>,
    /// What a retry avoids.
    pub avoid: RetryAvoid,
    /// The upper bound of the first wait; that of the n-th wait is 2^n - 1 times as long. A wait is random up to its
    /// bound.
    pub backoff: Duration,
    /// The upper bound of every wait.
    pub backoff_max: Duration,
    /// Waits that a response asks for; `None` ignores them.
    pub reset: Option<Box<RetryReset>>,
    /// The most bytes of a request body kept for retries; once more is sent, the request is not retried.
    pub body_max: usize,
}

impl Default for RetryPlan {
    fn default() -> Self {
        Self {
            attempts: 1,
            when: RetryWhen::default(),
            statuses: Vec::new(),
            response_headers: Vec::new(),
            hedge: false,
            methods: Vec::new(),
            request_headers: Vec::new(),
            avoid: RetryAvoid::Endpoint,
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            reset: None,
            body_max: 64 << 10,
        }
    }
}

/// The failures to retry. Requests that the endpoint cannot have processed are always retried a few times, and so are
/// idempotent requests whose reused connection ended without a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a word of its own in the configuration")]
pub struct RetryWhen {
    /// Any status from 500, no response at all, and a time-out of the attempt.
    pub server_error: bool,
    /// 502, 503, 504, no response at all, and a time-out of the attempt.
    pub gateway_error: bool,
    /// The endpoint ended the stream before it responded.
    pub reset: bool,
    /// The endpoint cannot have seen the request, and the retries that need no plan are used up.
    pub unsent: bool,
    /// The attempt timed out.
    pub per_try_timeout: bool,
    /// 409.
    pub conflict: bool,
    /// A response with `x-envoy-ratelimited`, which is not retried otherwise.
    pub rate_limited: bool,
    /// gRPC statuses, as bits: in a response without a body, and in any response to a call of a filter.
    pub grpc: u32,
}

/// What a retry avoids, as long as there is something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAvoid {
    /// Nothing: the load balancer picks again.
    Nothing,
    /// The endpoints that failed.
    Endpoint,
    /// The priorities of the endpoints that failed.
    Priority,
}

/// Waits that a response asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryReset {
    /// The headers that may name the wait; the first that does counts.
    pub headers: Vec<ResetHeader>,
    /// A longer wait is ignored.
    pub wait_max: Duration,
}

/// A header that names a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeader {
    /// Its name.
    pub name: String,
    /// Whether it has the time at which the wait is over, in seconds since the Unix epoch; otherwise, seconds.
    pub is_unix: bool,
}

/// Why an attempt is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryRule {
    /// The endpoint cannot have seen the request.
    Unsent,
    /// The reused connection ended without a response.
    Stale,
    /// The endpoint does not process the request before the handshake is complete, RFC 8470 §5.2.
    TooEarly,
    /// See [`RetryWhen::reset`].
    Reset,
    /// See [`RetryWhen::per_try_timeout`].
    TryTimeout,
    /// See [`RetryWhen::server_error`].
    ServerError,
    /// See [`RetryWhen::gateway_error`].
    GatewayError,
    /// See [`RetryWhen::conflict`].
    Conflict,
    /// See [`RetryWhen::rate_limited`].
    RateLimited,
    /// See [`RetryPlan::statuses`].
    Status,
    /// See [`RetryPlan::response_headers`].
    ResponseHeader,
    /// See [`RetryWhen::grpc`].
    GrpcStatus,
}

impl RetryRule {
    /// Its word in records and metrics: that of the configuration, where there is one.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::Stale => "stale",
            Self::TooEarly => "too_early",
            Self::Reset => "reset",
            Self::TryTimeout => "try_timeout",
            Self::ServerError => "server_error",
            Self::GatewayError => "gateway_error",
            Self::Conflict => "conflict",
            Self::RateLimited => "rate_limited",
            Self::Status => "statuses",
            Self::ResponseHeader => "response_headers",
            Self::GrpcStatus => "grpc",
        }
    }
}

impl RetryPlan {
    /// The rule that retries this response, if there is one.
    pub fn covers(&self, response: &Head, grpc_status: Option<u32>) -> Option<RetryRule> {
        let (when, status) = (&self.when, response.status());
        let of_header = |(name, wanted): &(String, ValueMatch)| {
            wanted.fits(response.get_named(name.as_bytes()))
        };
        let rule = if when.server_error && status >= 500 {
            RetryRule::ServerError
        } else if when.gateway_error && matches!(status, 502..=504) {
            RetryRule::GatewayError
        } else if when.conflict && status == 409 {
            RetryRule::Conflict
        } else if self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
            RetryRule::Status
        } else if grpc_status.is_some_and(|status| status < 32 && when.grpc & (1 << status) != 0) {
            RetryRule::GrpcStatus
        } else if self.response_headers.iter().any(of_header) {
            RetryRule::ResponseHeader
        } else if when.rate_limited {
            RetryRule::RateLimited
        } else {
            return None;
        };
        // Both are headers of Envoy's: more requests would not help.
        let is_limited = response.get_named(b"x-envoy-ratelimited").is_some();
        if is_limited || rule == RetryRule::RateLimited {
            return (is_limited && when.rate_limited).then_some(RetryRule::RateLimited);
        }
        response.get_named(b"x-envoy-overloaded").is_none().then_some(rule)
    }

    /// The rules by which this request may be retried: those that need no plan, and those of the plan if it takes the
    /// request.
    pub fn rules(&self, request: &Head) -> Vec<RetryRule> {
        let when = &self.when;
        let planned = self.attempts > 1 && self.takes(request);
        let rules = [
            (true, RetryRule::Unsent),
            (request.method().is_idempotent(), RetryRule::Stale),
            (planned && when.reset, RetryRule::Reset),
            (planned && (when.per_try_timeout || self.hedge), RetryRule::TryTimeout),
            (planned && when.server_error, RetryRule::ServerError),
            (planned && when.gateway_error, RetryRule::GatewayError),
            (planned && when.conflict, RetryRule::Conflict),
            (planned && when.rate_limited, RetryRule::RateLimited),
            (planned && !self.statuses.is_empty(), RetryRule::Status),
            (planned && !self.response_headers.is_empty(), RetryRule::ResponseHeader),
            (planned && when.grpc != 0, RetryRule::GrpcStatus),
        ];
        rules.into_iter().filter_map(|(applies, rule)| applies.then_some(rule)).collect()
    }

    /// Whether the plan retries this request, once it may have been seen.
    pub fn takes(&self, request: &Head) -> bool {
        let of_header =
            |(name, wanted): &(String, ValueMatch)| wanted.fits(request.get_named(name.as_bytes()));
        (self.methods.is_empty() || self.methods.iter().any(|it| it == request.method_text()))
            && (self.request_headers.is_empty() || self.request_headers.iter().any(of_header))
    }
}

impl RetryReset {
    /// The wait that a response asks for; `now` is the time since the Unix epoch.
    pub fn wait(&self, response: &Head, now: Duration) -> Option<Duration> {
        let wait = |header: &ResetHeader| {
            let value = response.get_named(header.name.as_bytes())?;
            // A number with a sign or a date is none.
            if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let seconds = std::str::from_utf8(value).ok()?.parse().ok()?;
            let given = Duration::from_secs(seconds);
            let wait = if header.is_unix { given.checked_sub(now)? } else { given };
            (wait <= self.wait_max).then_some(wait)
        };
        self.headers.iter().find_map(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(when: RetryWhen) -> RetryPlan {
        RetryPlan { when, ..RetryPlan::default() }
    }

    fn response(status: u16, fields: &[(&str, &str)]) -> Head {
        let mut head = Head::response(status);
        fields.iter().for_each(|(name, value)| head.append(name.as_bytes(), value.as_bytes()));
        head
    }

    #[test]
    fn statuses_are_retried_as_the_plan_says() {
        let when = RetryWhen::default;
        for (plan, covered, rule) in [
            (plan(RetryWhen { server_error: true, ..when() }), 500..=599, RetryRule::ServerError),
            (plan(RetryWhen { gateway_error: true, ..when() }), 502..=504, RetryRule::GatewayError),
            (plan(RetryWhen { conflict: true, ..when() }), 409..=409, RetryRule::Conflict),
            (
                RetryPlan { statuses: vec![(404, 408)], ..plan(when()) },
                404..=408,
                RetryRule::Status,
            ),
        ] {
            for status in 200..600 {
                let expected = covered.contains(&status).then_some(rule);
                assert_eq!(
                    plan.covers(&response(status, &[]), None),
                    expected,
                    "{status} {plan:?}"
                );
            }
        }
        let unavailable = plan(RetryWhen { grpc: 1 << 14, ..when() });
        let ok = response(200, &[]);
        assert_eq!(unavailable.covers(&ok, Some(14)), Some(RetryRule::GrpcStatus));
        for status in [None, Some(0), Some(13), Some(32), Some(46)] {
            assert_eq!(unavailable.covers(&ok, status), None, "{status:?}");
        }
    }

    #[test]
    fn the_rules_for_a_request_are_named() {
        let when = RetryWhen { server_error: true, grpc: 1 << 14, ..RetryWhen::default() };
        let plan = RetryPlan { attempts: 2, methods: vec!["GET".into()], ..plan(when) };
        let words = |plan: &RetryPlan, method: &str| -> Vec<&str> {
            let request = Head::request(method, "http", "a", "/");
            plan.rules(&request).into_iter().map(RetryRule::word).collect()
        };
        assert_eq!(words(&plan, "GET"), ["unsent", "stale", "server_error", "grpc"]);
        assert_eq!(words(&plan, "POST"), ["unsent"]);
        assert_eq!(words(&RetryPlan::default(), "PUT"), ["unsent", "stale"]);
    }

    #[test]
    fn responses_are_retried_by_a_header() {
        let headers = vec![
            ("x-retry".to_owned(), ValueMatch::Present(true)),
            ("x-node".to_owned(), ValueMatch::Exact("draining".into())),
        ];
        let plan = RetryPlan { response_headers: headers, ..RetryPlan::default() };
        for (fields, covered) in [
            (&[][..], false),
            (&[("x-retry", "")], true),
            (&[("x-node", "draining")], true),
            (&[("x-node", "fine")], false),
        ] {
            let rule = plan.covers(&response(200, fields), None);
            assert_eq!(rule, covered.then_some(RetryRule::ResponseHeader), "{fields:?}");
        }
    }

    #[test]
    fn a_response_of_an_overloaded_endpoint_is_not_retried() {
        let server = plan(RetryWhen { server_error: true, ..RetryWhen::default() });
        let both = plan(RetryWhen { rate_limited: true, ..server.when });
        let only = plan(RetryWhen { rate_limited: true, ..RetryWhen::default() });
        let limited = response(503, &[("x-envoy-ratelimited", "true")]);
        let overloaded = response(503, &[("x-envoy-overloaded", "true")]);
        assert_eq!(server.covers(&limited, None), None);
        assert_eq!(server.covers(&overloaded, None), None);
        for plan in [&both, &only] {
            assert_eq!(plan.covers(&limited, None), Some(RetryRule::RateLimited));
            assert_eq!(plan.covers(&overloaded, None), None);
        }
        assert_eq!(both.covers(&response(503, &[]), None), Some(RetryRule::ServerError));
        assert_eq!(only.covers(&response(503, &[]), None), None);
    }

    #[test]
    fn requests_are_retried_by_method_and_header() {
        let mut request = Head::request("POST", "http", "a", "/");
        let any = RetryPlan::default();
        let gets = RetryPlan { methods: vec!["GET".into()], ..any.clone() };
        let named = vec![("x-idempotent".to_owned(), ValueMatch::Present(true))];
        let marked = RetryPlan { request_headers: named, ..any.clone() };
        assert!(any.takes(&request) && !gets.takes(&request) && !marked.takes(&request));
        request.append(b"x-idempotent", b"1");
        assert!(marked.takes(&request) && !gets.takes(&request));
        assert!(gets.takes(&Head::request("GET", "http", "a", "/")));
    }

    #[test]
    fn a_response_may_name_the_wait() {
        let header = |name: &str, is_unix| ResetHeader { name: name.into(), is_unix };
        let headers = vec![header("retry-after", false), header("x-ratelimit-reset", true)];
        let reset = RetryReset { headers, wait_max: Duration::from_secs(60) };
        let now = Duration::from_millis(1_000_500);
        for (fields, wait) in [
            (&[][..], None),
            (&[("retry-after", "7")], Some(7000)),
            (&[("retry-after", "60")], Some(60_000)),
            (&[("retry-after", "61")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "+1")], None),
            (&[("retry-after", "")], None),
            (&[("retry-after", "99999999999999999999999")], None),
            (&[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")], None),
            (&[("x-ratelimit-reset", "1003")], Some(2500)),
            (&[("x-ratelimit-reset", "999")], None),
            (&[("retry-after", "never"), ("x-ratelimit-reset", "1001")], Some(500)),
        ] {
            let found = reset.wait(&response(429, fields), now);
            assert_eq!(found, wait.map(Duration::from_millis), "{fields:?}");
        }
    }
}
