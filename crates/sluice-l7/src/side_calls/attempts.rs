//! The attempts of a side call: picking endpoints, and deciding what follows an attempt.
//!
//! Owns: the loop over attempts, and the waits between them. Refuses to know: what an attempt does. Keeps: a call that
//! names no retries is repeated only if no endpoint can have seen it, or it is idempotent and its connection was stale;
//! other retries are bounded by their plan, by the cluster's budget and by the time of the call.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::connection::Attempt;
use sluice_io::timers::Timer;
use sluice_upstream::EndpointState;
use sluice_upstream::cluster::{Affinity, FALLBACKS_MAX, RequestClaim, TrafficClass, WhenFull};

use super::{SideCallError, SideCallGuard, SideCalls, SideRequest};
use crate::errors::Cause;
use crate::failed_attempt::{FailedAttempt, FailureDetail, no_endpoint};
use crate::pools::{ClusterPool, InFlightGuard};
use crate::retry::{Attempts, Decision, Terms};
use crate::retry_plan::{RetryPlan, RetryRule};

/// What the attempts of a call share.
struct CallAttempts<'a> {
    request: &'a SideRequest,
    plan: &'a RetryPlan,
    attempts: Attempts,
    /// Counts a retry while it is in flight.
    permit: Option<InFlightGuard>,
    /// Counts the call in the pool of the cluster that serves.
    in_flight: InFlightGuard,
    /// Clusters that could not serve, so that the next does in their place.
    fallbacks: usize,
}

impl SideCalls {
    /// Calls `attempt` until it succeeds or may not be repeated. For a result that the request's plan
    /// retries, `retried` returns the rule and the wait that is asked for; it is returned if there is no further attempt.
    pub(super) async fn in_attempts<T>(
        &self,
        call: &SideCallGuard,
        request: &SideRequest,
        attempt: impl AsyncFn(Arc<EndpointState>, RequestClaim) -> Result<T, FailedAttempt>,
        retried: impl Fn(&RetryPlan, &T) -> Option<(RetryRule, Option<Duration>)>,
    ) -> Result<T, SideCallError> {
        let (none, attempts) = (RetryPlan::default(), Attempts::default());
        let plan = request.retries.as_deref().unwrap_or(&none);
        let (in_flight, permit, fallbacks) = (call.pool().enter_request(), None, 0);
        let mut so_far = CallAttempts { request, plan, attempts, permit, in_flight, fallbacks };
        loop {
            call.attempts.set(call.attempts.get() + 1);
            let picked = self.pick_or_fall_back(call, &mut so_far);
            let pool = &call.pool();
            let (ended, endpoint) = match picked {
                Err(failed) => (Err(failed), None),
                Ok((endpoint, claim)) => {
                    (attempt(Arc::clone(&endpoint), claim).await, Some(endpoint))
                }
            };
            let (cause, asked) = match &ended {
                Ok(done) => match retried(plan, done) {
                    Some((rule, asked)) => (Some(Cause::Answered(rule)), asked),
                    None => (None, None),
                },
                Err(failed) => (Some(failed.cause), None),
            };
            let again = cause.and_then(|cause| self.before_retry(pool, cause, asked, &mut so_far));
            let Some(wait) = again else {
                return ended.map_err(|failed| failure(failed, endpoint.as_deref()));
            };
            drop(ended);
            so_far.attempts.endpoints.extend(endpoint.map(|it| Arc::clone(&it.name)));
            if !wait.is_zero() {
                Timer::new(&self.worker.timers).passed(self.worker.now().after(wait)).await;
            }
        }
    }

    /// Whether an attempt that ended for `cause` is followed by another, and after which wait; `asked` is the wait that
    /// the response asks for.
    fn before_retry(
        &self,
        pool: &Rc<ClusterPool>,
        cause: Cause,
        asked: Option<Duration>,
        so_far: &mut CallAttempts<'_>,
    ) -> Option<Duration> {
        let CallAttempts { request, plan, attempts, permit, .. } = so_far;
        let unseen = matches!(cause, Cause::Unsent | Cause::Stale);
        let terms = Terms {
            plan,
            connect_attempts: pool.handle.plan().connect_attempts,
            has_others: true,
            is_idempotent: request.head.method().is_idempotent(),
            is_possible: unseen || request.body.len() <= plan.body_max,
            is_taken: plan.takes(&request.head),
        };
        let decision = attempts.decide(cause, terms);
        // Free the permit of the failed retry before requesting another.
        drop(permit.take());
        let count = |rule| {
            pool.counters.count_retry(&self.worker, &pool.handle.cluster.name, rule);
        };
        match decision {
            Decision::GiveUp => None,
            Decision::Free(rule) => {
                count(rule);
                Some(Duration::ZERO)
            }
            Decision::Budgeted(rule) => {
                let random = |bound| self.worker.random_below(bound);
                let wait = if unseen { Duration::ZERO } else { attempts.wait(plan, asked, random) };
                // What has ended is of more use than a call that is out of time.
                if self.worker.now().after(wait) >= request.by {
                    return None;
                }
                *permit = pool.enter_retry(&self.worker);
                permit.is_some().then(|| count(rule))?;
                Some(wait)
            }
        }
    }

    /// Picks the endpoint of the next attempt; of the clusters that serve in place of this one if it has none that is
    /// usable.
    fn pick_or_fall_back(
        &self,
        call: &SideCallGuard,
        so_far: &mut CallAttempts<'_>,
    ) -> Result<(Arc<EndpointState>, RequestClaim), FailedAttempt> {
        loop {
            let CallAttempts { attempts, plan, in_flight, fallbacks, .. } = so_far;
            let (pool, class) = (call.pool(), TrafficClass::SideCall);
            let (handle, affinity) = (&pool.handle, Affinity::default());
            let full = WhenFull::Refuse;
            let picked = attempts.pick(handle, &self.worker, class, affinity, plan.avoid, full);
            let why = match picked {
                Ok(picked) => return Ok(picked),
                Err(why) => why,
            };
            let next = handle.cluster.fallback_for(why).filter(|_| *fallbacks < FALLBACKS_MAX);
            let Some(next) = next else { return Err(no_endpoint(why, handle.shortage(why))) };
            handle.count_fallback(&self.worker);
            let next = self.pool_of(&next);
            *in_flight = next.enter_request();
            *fallbacks += 1;
            *call.pool.borrow_mut() = next;
        }
    }
}

/// The error of a call whose last attempt failed at `endpoint`.
pub(super) fn failure(failed: FailedAttempt, endpoint: Option<&EndpointState>) -> SideCallError {
    let FailedAttempt { why, said: FailureDetail { errno, detail }, .. } = failed;
    let detail = match endpoint {
        None => detail,
        Some(endpoint) => Attempt::failed(Arc::clone(&endpoint.name), why, errno, detail).cause(),
    };
    SideCallError { why, detail }
}
