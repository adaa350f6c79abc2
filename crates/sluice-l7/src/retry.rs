//! Whether a request is retried.
//!
//! Owns: how many attempts there were, which endpoints they went to, and how long to wait before the next. Refuses to
//! know: streams, clocks and budgets, and which responses a plan covers. Keeps: a request that may have taken effect is
//! not sent again unless it is idempotent or the route allows it; one that an endpoint cannot have seen is sent again a
//! bounded number of times.
//!
//! A [`Decision`] spends nothing: for [`Decision::Budgeted`], the caller asks the cluster's retry budget.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::Reason;
use sluice_io::WorkerCx;
use sluice_upstream::cluster::{Affinity, RequestClaim, TrafficClass, Tried, WhenFull};
use sluice_upstream::{ClusterHandle, EndpointState};
use smallvec::SmallVec;

use crate::errors::Cause;
use crate::retry_plan::{RetryAvoid, RetryPlan, RetryRule};

/// The attempts for requests that an endpoint cannot have seen, besides those that the route allows.
const SAFE_ATTEMPTS: u32 = 3;

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
    /// A retry that needs no budget: the endpoint cannot have seen the request or did not process it, or the request is
    /// idempotent and its reused connection was stale.
    Free(RetryRule),
    /// A retry, if the cluster's retry budget allows it.
    Budgeted(RetryRule),
}

/// What a decision depends on besides the cause of the failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) plan: &'a RetryPlan,
    /// The attempts to connect that the cluster allows.
    pub(crate) connect_attempts: u32,
    /// Whether another attempt may reach what this one did not.
    pub(crate) has_others: bool,
    /// Whether sending the request twice has the same effect as sending it once.
    pub(crate) is_idempotent: bool,
    /// Whether the body can be sent again, and there is time for it.
    pub(crate) is_possible: bool,
    /// Whether the plan takes the request.
    pub(crate) is_taken: bool,
}

impl Attempts {
    /// Decides what follows an attempt that failed for `cause`, and counts the attempt.
    pub(crate) fn decide(&mut self, cause: Cause, terms: Terms<'_>) -> Decision {
        if !terms.is_possible {
            return Decision::GiveUp;
        }
        let free = match cause {
            Cause::Final => return Decision::GiveUp,
            Cause::Unsent
                if terms.has_others
                    && self.safe + 1 < SAFE_ATTEMPTS.max(terms.connect_attempts) =>
            {
                Some(RetryRule::Unsent)
            }
            Cause::Stale if terms.is_idempotent && self.safe + 1 < SAFE_ATTEMPTS => {
                Some(RetryRule::Stale)
            }
            // A retry is not sent early, so that it happens once.
            Cause::Answered(RetryRule::TooEarly) => Some(RetryRule::TooEarly),
            _ => None,
        };
        if let Some(rule) = free {
            self.safe += 1;
            return Decision::Free(rule);
        }
        self.counted += 1;
        match rule_of(cause, terms.plan) {
            Some(rule) if terms.is_taken && self.counted < terms.plan.attempts => {
                Decision::Budgeted(rule)
            }
            _ => Decision::GiveUp,
        }
    }

    /// Picks the endpoint of the next attempt: what the plan avoids is avoided if there is something else.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(crate) fn pick(
        &mut self,
        handle: &Rc<ClusterHandle>,
        worker: &WorkerCx,
        class: TrafficClass,
        affinity: Affinity<'_>,
        avoid: RetryAvoid,
        when_full: WhenFull,
    ) -> Result<(Arc<EndpointState>, RequestClaim), Reason> {
        let pick =
            |tried: Tried<'_>| handle.pick_for_request(worker, class, affinity, tried, when_full);
        if self.endpoints.is_empty() || avoid == RetryAvoid::Nothing {
            return pick(Tried::NOTHING);
        }
        if avoid == RetryAvoid::Priority
            && let Ok(picked) = pick(Tried::priorities_of(&self.endpoints))
        {
            return Ok(picked);
        }
        if let Ok(picked) = pick(Tried::endpoints(&self.endpoints)) {
            return Ok(picked);
        }
        self.endpoints.clear();
        pick(Tried::NOTHING)
    }

    /// Whether more than one attempt counted against the route; giving up then means that its retries are exhausted.
    pub(crate) const fn are_exhausted(&self) -> bool {
        self.counted > 1
    }

    /// The wait before the next attempt: `asked` and up to half as much again, or else a random time up to the current
    /// backoff.
    pub(crate) fn wait(
        &self,
        plan: &RetryPlan,
        asked: Option<Duration>,
        random_below: impl FnOnce(usize) -> usize,
    ) -> Duration {
        let (least, bound) =
            asked.map_or_else(|| (Duration::ZERO, self.backoff(plan)), |asked| (asked, asked / 2));
        let bound = usize::try_from(bound.as_micros()).unwrap_or(usize::MAX);
        least + Duration::from_micros(random_below(bound.max(1)) as u64)
    }

    /// The longest wait before the next attempt: `backoff` times 2^n - 1 after n counted attempts, at most
    /// `backoff_max`.
    fn backoff(&self, plan: &RetryPlan) -> Duration {
        let factor = (1_u32 << self.counted.clamp(1, 16)) - 1;
        plan.backoff.saturating_mul(factor).min(plan.backoff_max)
    }
}

/// The rule of a plan that covers a failure. As in Envoy, a missing response counts as one with status 503.
const fn rule_of(cause: Cause, plan: &RetryPlan) -> Option<RetryRule> {
    let when = &plan.when;
    let rule = match cause {
        // The response was already checked against the plan.
        Cause::Answered(rule) => return Some(rule),
        Cause::Final => return None,
        Cause::TryTimeout if when.per_try_timeout || plan.hedge => RetryRule::TryTimeout,
        Cause::Unsent if when.unsent => RetryRule::Unsent,
        Cause::Unsent | Cause::Reset | Cause::Stale if when.reset => RetryRule::Reset,
        _ if when.gateway_error => RetryRule::GatewayError,
        _ if when.server_error => RetryRule::ServerError,
        _ => return None,
    };
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry_plan::RetryWhen;

    const CAUSES: [Cause; 6] = [
        Cause::Unsent,
        Cause::Stale,
        Cause::Reset,
        Cause::TryTimeout,
        Cause::Answered(RetryRule::Status),
        Cause::Final,
    ];

    fn plan(attempts: u32, when: RetryWhen) -> RetryPlan {
        RetryPlan { attempts, when, ..RetryPlan::default() }
    }

    fn terms(plan: &RetryPlan) -> Terms<'_> {
        let (is_idempotent, is_possible, is_taken) = (true, true, true);
        let (connect_attempts, has_others) = (1, true);
        Terms { plan, connect_attempts, has_others, is_idempotent, is_possible, is_taken }
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

    /// Checks how many of the decisions are free, and how many need the budget.
    #[track_caller]
    fn check(cause: Cause, terms: Terms<'_>, free: usize, budgeted: usize) {
        let decisions = decisions(cause, terms);
        let kind = |decision: &Decision| match decision {
            Decision::Free(_) => 'f',
            Decision::Budgeted(_) => 'b',
            Decision::GiveUp => '.',
        };
        let kinds: String = decisions.iter().map(kind).collect();
        assert_eq!(kinds, format!("{}{}.", "f".repeat(free), "b".repeat(budgeted)), "{cause:?}");
    }

    #[test]
    fn unsent_and_stale_requests_are_retried_by_default() {
        let once = plan(1, RetryWhen::default());
        check(Cause::Unsent, terms(&once), 2, 0);
        check(Cause::Unsent, Terms { connect_attempts: 5, ..terms(&once) }, 4, 0);
        check(Cause::Stale, terms(&once), 2, 0);
        check(Cause::Stale, Terms { is_idempotent: false, ..terms(&once) }, 0, 0);
        check(Cause::Unsent, Terms { has_others: false, ..terms(&once) }, 0, 0);
        let unsent = plan(3, RetryWhen { unsent: true, ..RetryWhen::default() });
        check(Cause::Unsent, Terms { has_others: false, ..terms(&unsent) }, 0, 2);
        for cause in &CAUSES[2..] {
            check(*cause, terms(&once), 0, 0);
        }
    }

    #[test]
    fn other_failures_are_retried_as_the_route_configures() {
        let reset = plan(4, RetryWhen { reset: true, ..RetryWhen::default() });
        check(Cause::Reset, terms(&reset), 0, 3);
        check(Cause::TryTimeout, terms(&reset), 0, 0);
        check(Cause::Unsent, terms(&reset), 2, 3);
        let unsent = plan(4, RetryWhen { unsent: true, ..RetryWhen::default() });
        check(Cause::Unsent, terms(&unsent), 2, 3);
        check(Cause::Reset, terms(&unsent), 0, 0);
        let timeout = plan(3, RetryWhen { per_try_timeout: true, ..RetryWhen::default() });
        check(Cause::TryTimeout, terms(&timeout), 0, 2);
        check(Cause::Reset, terms(&timeout), 0, 0);
        let gateway = plan(3, RetryWhen { gateway_error: true, ..RetryWhen::default() });
        let server = plan(3, RetryWhen { server_error: true, ..RetryWhen::default() });
        for plan in [gateway, server] {
            check(Cause::TryTimeout, terms(&plan), 0, 2);
            check(Cause::Reset, terms(&plan), 0, 2);
            check(Cause::Answered(RetryRule::Status), terms(&plan), 0, 2);
            check(Cause::Final, terms(&plan), 0, 0);
        }
    }

    #[test]
    fn a_request_that_the_plan_does_not_take_has_only_free_retries() {
        let server = plan(9, RetryWhen { server_error: true, ..RetryWhen::default() });
        let terms = Terms { is_taken: false, ..terms(&server) };
        check(Cause::Unsent, terms, 2, 0);
        check(Cause::Reset, terms, 0, 0);
        check(Cause::Answered(RetryRule::ServerError), terms, 0, 0);
    }

    #[test]
    fn the_decision_names_the_rule() {
        let all = RetryWhen {
            server_error: true,
            gateway_error: true,
            reset: true,
            unsent: true,
            per_try_timeout: true,
            ..RetryWhen::default()
        };
        for (when, cause, rule) in [
            (all, Cause::Unsent, RetryRule::Unsent),
            (all, Cause::Reset, RetryRule::Reset),
            (all, Cause::TryTimeout, RetryRule::TryTimeout),
            (RetryWhen { reset: false, ..all }, Cause::Reset, RetryRule::GatewayError),
            (
                RetryWhen { per_try_timeout: false, ..all },
                Cause::TryTimeout,
                RetryRule::GatewayError,
            ),
            (RetryWhen::default(), Cause::Answered(RetryRule::Conflict), RetryRule::Conflict),
        ] {
            let plan = plan(9, when);
            let decided = Attempts { safe: 9, ..Attempts::default() }.decide(cause, terms(&plan));
            assert_eq!(decided, Decision::Budgeted(rule), "{cause:?}");
        }
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
        assert!(matches!(attempts.decide(Cause::Unsent, terms(&reset)), Decision::Free(_)));
        assert!(matches!(attempts.decide(Cause::Reset, terms(&reset)), Decision::Budgeted(_)));
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
        let most = |asked| attempts.wait(&plan, asked, |bound| bound).as_millis();
        assert_eq!((most(None), most(Some(Duration::from_secs(2)))), (100, 3000));
        let least = |asked| attempts.wait(&plan, asked, |_| 0).as_millis();
        assert_eq!((least(None), least(Some(Duration::from_secs(2)))), (0, 2000));
    }
}
