//! Whether an attempt of a request is followed by another, and the wait in between.
//!
//! Owns: what the decision depends on, and spending the cluster's retry budget. Refuses to know: how attempts are made; and
//! what is worth a retry, which [`crate::retry`] decides. Keeps: a retry that is decided is counted, and named in the record
//! of the attempt that it follows.

use sluice_codec::HttpStream;

use super::deadlines::Deadline;
use super::forward::Forwarding;
use super::{RequestTask, Stop};
use crate::errors::Cause;
use crate::failed_attempt::FailedAttempt;
use crate::reasons;
use crate::retry::{Decision, Terms};
use crate::routes::RetryRule;

impl RequestTask {
    /// Whether a response is followed by a retry, after the wait that it asks for if the rule heeds that; counts the
    /// attempt. Without time for the wait, the response is better than none.
    pub(super) fn may_retry_response(
        &mut self,
        rule: RetryRule,
        forwarding: &mut Forwarding,
    ) -> bool {
        forwarding.asked_wait = None;
        if let Some(reset) = &forwarding.options.retry.reset {
            let now = self.worker().now();
            forwarding.asked_wait = reset.wait(&self.response, self.worker().clock.wall(now));
            let wait = forwarding.asked_wait.unwrap_or_default();
            if now.after(wait) >= self.deadlines.overall() {
                return false;
            }
        }
        self.may_retry(Cause::Answered(rule), forwarding)
    }

    /// Whether a failed attempt is followed by a retry; counts the attempt.
    pub(super) fn retries(&mut self, failed: &FailedAttempt, forwarding: &mut Forwarding) -> bool {
        // For a response, the retry was decided while the response could still be delivered.
        if matches!(failed.cause, Cause::Answered(_)) {
            return true;
        }
        // All addresses of the host that the client named were attempted; only another stream may do better.
        let has_others =
            forwarding.named.is_none() || failed.why == reasons::UPSTREAM_REFUSED_STREAM;
        self.decide(failed.cause, has_others, forwarding)
    }

    /// Whether an attempt that failed for `cause` is followed by a retry; counts the attempt.
    pub(super) fn may_retry(&mut self, cause: Cause, forwarding: &mut Forwarding) -> bool {
        self.decide(cause, true, forwarding)
    }

    fn decide(&mut self, cause: Cause, has_others: bool, forwarding: &mut Forwarding) -> bool {
        let Forwarding { pool, options, attempts, permit, .. } = forwarding;
        let terms = Terms {
            plan: &options.retry,
            connect_attempts: pool.handle.plan().connect_attempts,
            has_others,
            is_idempotent: self.method.is_idempotent(),
            is_possible: self.upload.can_replay()
                && self.worker().now() < self.deadlines.due(Deadline::Total),
            is_taken: options.retry.takes(&self.request),
        };
        let (rule, again) = match attempts.decide(cause, terms) {
            Decision::GiveUp => return false,
            Decision::Free(rule) => (rule, true),
            Decision::Budgeted(rule) => {
                // Free the permit of the failed retry before requesting another.
                drop(permit.take());
                *permit = pool.enter_retry(self.worker());
                (rule, permit.is_some())
            }
        };
        if again {
            let cluster = &pool.handle.cluster.name;
            pool.counters.count_retry(self.worker(), cluster, rule);
            // That of a response is in its text already.
            if let (Cause::Reset | Cause::TryTimeout, Some(attempt)) =
                (cause, self.summary.attempts.last_mut())
            {
                attempt.retried = Some(rule.word());
            }
        }
        again
    }

    /// Waits before a retry.
    pub(super) async fn back_off(
        &self,
        down: &mut HttpStream,
        forwarding: &Forwarding,
    ) -> Result<(), Stop> {
        let Forwarding { attempts, options, asked_wait, .. } = forwarding;
        let worker = self.worker();
        let wait = attempts.wait(&options.retry, *asked_wait, |bound| worker.random_below(bound));
        let by = worker.now().after(wait).min(self.deadlines.overall());
        self.guarded(down, by, std::future::pending::<()>()).await.map(drop)
    }
}
