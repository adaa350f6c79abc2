//! Whether a request is retried.
//!
//! Owns: how many attempts there were, which endpoints they went to, and how long to wait before the next. Refuses to
//! know: streams, clocks and budgets. Keeps: a request that may have taken effect is not sent again unless it is
//! idempotent or the route allows it; one that an endpoint cannot have seen is sent again a bounded number of times.
//!
//! A [`Decision`] spends nothing: for [`Decision::Budgeted`], the caller asks the cluster's retry budget.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::errors::Cause;

/// The attempts for requests that an endpoint cannot have seen, besides those that the route allows.
const SAFE_ATTEMPTS: u32 = 3;

/// Retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPlan {
    /// The most attempts; with 1, only what [`RetryWhen`] always retries is retried.
    pub attempts: u32,
    /// The failures to retry.
    pub when: RetryWhen,
    /// The statuses to retry.
    pub statuses: Vec<u16>,
    /// The upper bound of the first wait; that of the n-th wait is 2^n - 1 times as long. A wait is random up to its
    /// bound.
    pub backoff: Duration,
    /// The upper bound of every wait.
    pub backoff_max: Duration,
    /// The most bytes of a request body kept for retries; once more is sent, the request is not retried.
    pub body_max: usize,
}

impl Default for RetryPlan {
    fn default() -> Self {
        Self {
            attempts: 1,
            when: RetryWhen::default(),
            statuses: Vec::new(),
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            body_max: 64 << 10,
        }
    }
}

/// The failures to retry. Requests that the endpoint cannot have processed are always retried, and so are idempotent
/// requests whose reused connection ended without a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a word of its own in the configuration")]
pub struct RetryWhen {
    /// Any status from 500, no response at all, and a time-out of the attempt.
    pub server_error: bool,
    /// 502, 503, 504, and a time-out of the attempt.
    pub gateway_error: bool,
    /// The endpoint ended the stream before it responded.
    pub reset: bool,
    /// The attempt timed out.
    pub per_try_timeout: bool,
    /// 409.
    pub conflict: bool,
    /// gRPC statuses, as bits: in a response without a body, and in any response to a call of a filter.
    pub grpc: u32,
}

/// The attempts of a request so far.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// Endpoints that failed; others are preferred.
    pub(crate) endpoints: SmallVec<[Arc<str>; 2]>,
    /// Attempts that count against the route.
    counted: u32,
    /// Attempts that were retried as [`Decision::Free`].
    safe: u32,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The client gets the failure.
    GiveUp,
    /// A retry that needs no budget: the endpoint cannot have seen the request, or the request is idempotent and its
    /// reused connection was stale.
    Free,
    /// A retry, if the cluster's retry budget allows it.
    Budgeted,
}

/// What a decision depends on besides the cause of the failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) plan: &'a RetryPlan,
    /// The attempts to connect that the cluster allows.
    pub(crate) connect_attempts: u32,
    /// Whether sending the request twice has the same effect as sending it once.
    pub(crate) is_idempotent: bool,
    /// Whether the body can be sent again, and there is time for it.
    pub(crate) is_possible: bool,
}

impl Attempts {
    /// Decides what follows an attempt that failed for `cause`, and counts the attempt.
    pub(crate) fn decide(&mut self, cause: Cause, terms: Terms<'_>) -> Decision {
        if !terms.is_possible {
            return Decision::GiveUp;
        }
        let free = match cause {
            Cause::Final => return Decision::GiveUp,
            Cause::Unsent => self.safe + 1 < SAFE_ATTEMPTS.max(terms.connect_attempts),
            Cause::Stale => terms.is_idempotent && self.safe + 1 < SAFE_ATTEMPTS,
            Cause::Reset | Cause::TryTimeout | Cause::Answered => false,
        };
        if free {
            self.safe += 1;
            return Decision::Free;
        }
        let when = &terms.plan.when;
        let covered = match cause {
            Cause::TryTimeout => when.per_try_timeout || when.server_error || when.gateway_error,
            // The response was already checked against the plan; the other causes have none.
            Cause::Answered => true,
            _ => when.reset || when.server_error,
        };
        self.counted += 1;
        if covered && self.counted < terms.plan.attempts {
            Decision::Budgeted
        } else {
            Decision::GiveUp
        }
    }

    /// Whether more than one attempt counted against the route; giving up then means that its retries are exhausted.
    pub(crate) const fn are_exhausted(&self) -> bool {
        self.counted > 1
    }

    /// The longest wait before the next attempt: `backoff` times 2^n - 1 after n counted attempts, at most
    /// `backoff_max`.
    pub(crate) fn backoff(&self, plan: &RetryPlan) -> Duration {
        let factor = (1_u32 << self.counted.clamp(1, 16)) - 1;
        plan.backoff.saturating_mul(factor).min(plan.backoff_max)
    }
}

/// Whether the route retries this response.
pub(crate) fn covers(plan: &RetryPlan, status: u16, grpc_status: Option<u32>) -> bool {
    let when = &plan.when;
    plan.statuses.contains(&status)
        || (when.server_error && status >= 500)
        || (when.gateway_error && matches!(status, 502..=504))
        || (when.conflict && status == 409)
        || grpc_status.is_some_and(|status| status < 32 && when.grpc & (1 << status) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSES: [Cause; 6] = [
        Cause::Unsent,
        Cause::Stale,
        Cause::Reset,
        Cause::TryTimeout,
        Cause::Answered,
        Cause::Final,
    ];

    fn plan(attempts: u32, when: RetryWhen) -> RetryPlan {
        RetryPlan { attempts, when, ..RetryPlan::default() }
    }

    fn terms(plan: &RetryPlan) -> Terms<'_> {
        Terms { plan, connect_attempts: 1, is_idempotent: true, is_possible: true }
    }

    /// The decisions on repeated failures for `cause`, until the client gets one.
    fn decisions(cause: Cause, terms: Terms<'_>) -> Vec<Decision> {
        let mut attempts = Attempts::default();
        let mut all = Vec::new();
        while all.last() != Some(&Decision::GiveUp) && all.len() < 20 {
            all.push(attempts.decide(cause, terms));
        }
        all
    }

    #[track_caller]
    fn check(cause: Cause, terms: Terms<'_>, free: usize, budgeted: usize) {
        let expected: Vec<Decision> = std::iter::repeat_n(Decision::Free, free)
            .chain(std::iter::repeat_n(Decision::Budgeted, budgeted))
            .chain([Decision::GiveUp])
            .collect();
        assert_eq!(decisions(cause, terms), expected, "{cause:?}");
    }

    #[test]
    fn unsent_and_stale_requests_are_retried_by_default() {
        let once = plan(1, RetryWhen::default());
        check(Cause::Unsent, terms(&once), 2, 0);
        check(Cause::Unsent, Terms { connect_attempts: 5, ..terms(&once) }, 4, 0);
        check(Cause::Stale, terms(&once), 2, 0);
        check(Cause::Stale, Terms { is_idempotent: false, ..terms(&once) }, 0, 0);
        for cause in [Cause::Reset, Cause::TryTimeout, Cause::Answered, Cause::Final] {
            check(cause, terms(&once), 0, 0);
        }
    }

    #[test]
    fn other_failures_are_retried_as_the_route_configures() {
        let reset = plan(4, RetryWhen { reset: true, ..RetryWhen::default() });
        check(Cause::Reset, terms(&reset), 0, 3);
        check(Cause::TryTimeout, terms(&reset), 0, 0);
        check(Cause::Unsent, terms(&reset), 2, 3);
        let timeout = plan(3, RetryWhen { per_try_timeout: true, ..RetryWhen::default() });
        check(Cause::TryTimeout, terms(&timeout), 0, 2);
        check(Cause::Reset, terms(&timeout), 0, 0);
        let gateway = plan(3, RetryWhen { gateway_error: true, ..RetryWhen::default() });
        check(Cause::TryTimeout, terms(&gateway), 0, 2);
        check(Cause::Reset, terms(&gateway), 0, 0);
        let server = plan(3, RetryWhen { server_error: true, ..RetryWhen::default() });
        check(Cause::TryTimeout, terms(&server), 0, 2);
        check(Cause::Reset, terms(&server), 0, 2);
        check(Cause::Answered, terms(&server), 0, 2);
        check(Cause::Final, terms(&server), 0, 0);
        // A status of a list is retried whatever else is.
        let status = RetryPlan { statuses: vec![429], ..plan(3, RetryWhen::default()) };
        check(Cause::Answered, terms(&status), 0, 2);
        check(Cause::Reset, terms(&status), 0, 0);
    }

    #[test]
    fn a_request_that_cannot_be_sent_again_is_not_retried() {
        let server = plan(9, RetryWhen { server_error: true, ..RetryWhen::default() });
        for cause in CAUSES {
            check(cause, Terms { is_possible: false, ..terms(&server) }, 0, 0);
        }
    }

    #[test]
    fn attempts_are_exhausted_once_more_than_one_counts() {
        let reset = plan(2, RetryWhen { reset: true, ..RetryWhen::default() });
        let mut attempts = Attempts::default();
        assert_eq!(attempts.decide(Cause::Unsent, terms(&reset)), Decision::Free);
        assert_eq!(attempts.decide(Cause::Reset, terms(&reset)), Decision::Budgeted);
        assert!(!attempts.are_exhausted());
        assert_eq!(attempts.decide(Cause::Reset, terms(&reset)), Decision::GiveUp);
        assert!(attempts.are_exhausted());
    }

    #[test]
    fn the_backoff_grows_up_to_its_bound() {
        let mut plan = plan(99, RetryWhen { reset: true, ..RetryWhen::default() });
        plan.backoff = Duration::from_millis(10);
        plan.backoff_max = Duration::from_millis(100);
        let mut attempts = Attempts::default();
        let mut waits = Vec::new();
        for _ in 0..40 {
            attempts.decide(Cause::Reset, terms(&plan));
            waits.push(attempts.backoff(&plan).as_millis());
        }
        assert_eq!(waits[..5], [10, 30, 70, 100, 100]);
        assert_eq!(waits.last(), Some(&100));
    }

    #[test]
    fn responses_are_retried_as_the_route_configures() {
        let when = |when: RetryWhen| plan(2, when);
        for (plan, statuses) in [
            (when(RetryWhen { server_error: true, ..RetryWhen::default() }), &[500, 503, 599][..]),
            (when(RetryWhen { gateway_error: true, ..RetryWhen::default() }), &[502, 503, 504]),
            (when(RetryWhen { conflict: true, ..RetryWhen::default() }), &[409]),
            (RetryPlan { statuses: vec![404], ..RetryPlan::default() }, &[404]),
            (RetryPlan::default(), &[]),
        ] {
            for status in [200, 404, 409, 500, 501, 502, 503, 504, 599] {
                let covered =
                    statuses.contains(&status) || (plan.when.server_error && status >= 500);
                assert_eq!(covers(&plan, status, None), covered, "{status} {plan:?}");
            }
        }
        let unavailable = when(RetryWhen { grpc: 1 << 14, ..RetryWhen::default() });
        assert!(covers(&unavailable, 200, Some(14)));
        for status in [None, Some(0), Some(13), Some(32), Some(46)] {
            assert!(!covers(&unavailable, 200, status), "{status:?}");
        }
    }
}
