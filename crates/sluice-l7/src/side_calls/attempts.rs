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
use sluice_upstream::cluster::{Affinity, RequestClaim, TrafficClass};

use super::{SideCallError, SideCallGuard, SideCalls, SideRequest};
use crate::errors::Cause;
use crate::failed_attempt::{FailedAttempt, FailureDetail, no_endpoint};
use crate::pools::{ClusterPool, InFlightGuard};
use crate::retry::{Attempts, Decision, RetryPlan, Terms};

/// What the attempts of a call share.
struct CallAttempts<'a> {
    request: &'a SideRequest,
    plan: &'a RetryPlan,
    attempts: Attempts,
    /// Counts a retry while it is in flight.
    permit: Option<InFlightGuard>,
}

impl SideCalls {
    /// Calls `attempt` until it succeeds or may not be repeated. A result that `is_retried` is one that the request's
    /// plan retries; it is returned if there is no further attempt.
    pub(super) async fn in_attempts<T>(
        &self,
        call: &SideCallGuard,
        request: &SideRequest,
        attempt: impl AsyncFn(Arc<EndpointState>, RequestClaim) -> Result<T, FailedAttempt>,
        is_retried: impl Fn(&RetryPlan, &T) -> bool,
    ) -> Result<T, SideCallError> {
        let pool = &call.pool;
        let _in_flight = pool.enter_request();
        let (none, attempts) = (RetryPlan::default(), Attempts::default());
        let plan = request.retries.as_deref().unwrap_or(&none);
        let mut so_far = CallAttempts { request, plan, attempts, permit: None };
        loop {
            call.attempts.set(call.attempts.get() + 1);
            let (ended, endpoint) = match self.pick(pool, &mut so_far.attempts) {
                Err(failed) => (Err(failed), None),
                Ok((endpoint, claim)) => {
                    (attempt(Arc::clone(&endpoint), claim).await, Some(endpoint))
                }
            };
            let cause = match &ended {
                Ok(done) if is_retried(plan, done) => Some(Cause::Answered),
                Ok(_) => None,
                Err(failed) => Some(failed.cause),
            };
            let again = cause.and_then(|cause| self.before_retry(pool, cause, &mut so_far));
            let Some(wait) = again else {
                return ended.map_err(|failed| failure(failed, endpoint.as_deref()));
            };
            drop(ended);
            so_far.attempts.endpoints.extend(endpoint.map(|it| Arc::clone(&it.name)));
            if !wait.is_zero() {
                let (by, never) = (self.worker.now().after(wait), std::future::pending::<()>());
                let _ = Timer::new(&self.worker.timers).until(by, never).await;
            }
        }
    }

    /// Whether an attempt that ended for `cause` is followed by another, and after which wait.
    fn before_retry(
        &self,
        pool: &Rc<ClusterPool>,
        cause: Cause,
        so_far: &mut CallAttempts<'_>,
    ) -> Option<Duration> {
        let CallAttempts { request, plan, attempts, permit } = so_far;
        let unseen = matches!(cause, Cause::Unsent | Cause::Stale);
        let terms = Terms {
            plan,
            connect_attempts: pool.handle.cluster.peek_plan().connect_attempts,
            is_idempotent: request.head.method().is_idempotent(),
            is_possible: unseen || request.body.len() <= plan.body_max,
        };
        let decision = attempts.decide(cause, terms);
        // Free the permit of the failed retry before requesting another.
        drop(permit.take());
        match decision {
            Decision::GiveUp => None,
            Decision::Free => Some(Duration::ZERO),
            Decision::Budgeted => {
                let wait = if unseen { Duration::ZERO } else { self.backoff(attempts, plan) };
                // What has ended is of more use than a call that is out of time.
                if self.worker.now().after(wait) >= request.by {
                    return None;
                }
                *permit = pool.enter_retry(&self.worker);
                permit.is_some().then_some(wait)
            }
        }
    }

    /// A random wait, up to the current bound.
    fn backoff(&self, attempts: &Attempts, plan: &RetryPlan) -> Duration {
        let bound = usize::try_from(attempts.backoff(plan).as_micros()).unwrap_or(usize::MAX);
        Duration::from_micros(self.worker.random_below(bound.max(1)) as u64)
    }

    /// Picks the endpoint of the next attempt, preferably one that has not failed.
    fn pick(
        &self,
        pool: &ClusterPool,
        attempts: &mut Attempts,
    ) -> Result<(Arc<EndpointState>, RequestClaim), FailedAttempt> {
        let (handle, failed) = (&pool.handle, &mut attempts.endpoints);
        let pick = |failed: &[Arc<str>]| {
            handle.pick_for_request(
                &self.worker,
                TrafficClass::SideCall,
                Affinity::default(),
                failed,
            )
        };
        let picked = match pick(failed) {
            Err(_) if !failed.is_empty() => {
                failed.clear();
                pick(&[])
            }
            picked => picked,
        };
        picked.map_err(|why| no_endpoint(why, handle.cluster.shortage(why)))
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
