//! Hedging: an attempt that is late goes on while the next is made, and the first good response counts.
//!
//! Owns: the loop over the attempts that follow a late one. Refuses to know: how attempts are made, and what is worth a
//! retry. Keeps: a late attempt has sent its whole request, and holds its claim and its retry permit until it ends; once a
//! response is chosen, all other attempts are reset.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{HttpStream, Method};

use super::attempt_error::AttemptError;
use super::deadlines::Deadline;
use super::forward::Forwarding;
use super::late_attempts::{LateAttempt, LateAttempts};
use super::pending::Pending;
use super::sent_attempt::SentAttempt;
use super::{ForwardOutcome, RequestTask, Stop};
use crate::errors::Cause;
use crate::failed_attempt::{FailedAttempt, attempt_timed_out};
use crate::reasons;
use crate::routes::RetryPlan;

impl RequestTask {
    /// Whether an attempt that is late goes on: what an upgrade or a tunnel leads to is not one response of several.
    pub(super) fn hedges(&self, plan: &RetryPlan) -> bool {
        plan.hedge && self.method != Method::Connect && self.request.upgrade().is_none()
    }

    /// Lets a late attempt go on; decides whether another follows.
    pub(super) fn go_on_late(
        &mut self,
        sent: SentAttempt,
        forwarding: &mut Forwarding,
    ) -> AttemptError {
        let worker = Rc::clone(self.worker());
        let (endpoint, handle) = (Arc::clone(&sent.up.endpoint), &sent.pool.handle);
        handle.note_answer(&worker, &endpoint, None);
        handle.note_result(&endpoint, false);
        handle.note_latency(&worker, &endpoint, worker.now().since(sent.up.sent_at));
        let permit = forwarding.permit.take();
        let place = self.summary.attempts.len();
        let stream_max = self.deadlines.timeout(Deadline::Stream);
        self.note_failed(&endpoint, self.late_failure().into(), forwarding);
        let again = self.may_retry(Cause::TryTimeout, forwarding);
        let response = self.manager.shared.head_pool.take().into();
        let late = LateAttempt::new(sent, permit, response, place, again);
        AttemptError::Late(Box::new(late.within(stream_max, &worker)))
    }

    fn late_failure(&self) -> FailedAttempt {
        attempt_timed_out("timeout.per_try", self.deadlines.timeout(Deadline::Attempt))
    }

    /// Makes the attempts that follow a late one, and delivers the first good response of all.
    pub(super) async fn hedge(
        &mut self,
        down: &mut HttpStream,
        forwarding: &mut Forwarding,
        late: Box<LateAttempt>,
    ) -> Result<ForwardOutcome, Stop> {
        let pool = Rc::clone(&late.sent.pool);
        let mut first = "none";
        let outcome = self.hedge_from(down, forwarding, late, &mut first).await;
        pool.counters.count_hedge(self.worker(), &pool.handle.cluster.name, first);
        outcome
    }

    async fn hedge_from(
        &mut self,
        down: &mut HttpStream,
        forwarding: &mut Forwarding,
        late: Box<LateAttempt>,
        first: &mut &'static str,
    ) -> Result<ForwardOutcome, Stop> {
        let worker = Rc::clone(self.worker());
        let options = Arc::clone(&forwarding.options);
        let (mut again, mut waits) = (late.again, true);
        let mut failed = self.late_failure();
        let mut late = LateAttempts::of(*late);
        loop {
            forwarding.has_late = !late.is_empty();
            if !again {
                let waited = {
                    let waiting = pin!(late.first(&worker, &options.retry));
                    self.guarded(down, self.deadlines.overall(), waiting).await?
                };
                failed = late.settle(&mut self.summary.attempts).unwrap_or(failed);
                let Some(won) = waited.unwrap_or_default() else {
                    return Err(self.give_up_late(failed, forwarding, &late));
                };
                *first = "late";
                return self.deliver_late(down, forwarding, won, late).await;
            }
            let attempted = {
                let attempt = pin!(self.attempt_after(down, forwarding, waits));
                late.unless_first(&worker, &options.retry, attempt).await
            };
            late.settle(&mut self.summary.attempts);
            let error = match attempted {
                Err(won) => {
                    *first = "late";
                    return self.deliver_late(down, forwarding, won, late).await;
                }
                Ok(Ok(mut sent)) => {
                    *first = "retry";
                    late.abandon(&worker, &mut self.summary.attempts, &sent.up.endpoint.name);
                    self.accept(down, forwarding, &mut sent).await?;
                    return Ok(self.complete(sent));
                }
                Ok(Err(error)) => error,
            };
            (again, waits) = match error {
                AttemptError::Redirected => {
                    *first = "retry";
                    let name = self.summary.attempts.last().map(|it| Arc::clone(&it.endpoint));
                    let name = name.unwrap_or_default();
                    late.abandon(&worker, &mut self.summary.attempts, &name);
                    return Ok(ForwardOutcome::Redirected);
                }
                AttemptError::Stop(stop) => return Err(stop),
                AttemptError::Late(another) => {
                    let again = another.again;
                    late.push(*another);
                    failed = self.late_failure();
                    (again, true)
                }
                AttemptError::Unwanted(unwanted) => {
                    failed = unwanted;
                    (false, false)
                }
                AttemptError::Failed(it) => {
                    let waits = it.cause.needs_backoff();
                    let again = self.retries(&it, forwarding);
                    failed = it;
                    (again, waits)
                }
            };
        }
    }

    /// Makes the next attempt, after a wait if it needs one.
    async fn attempt_after(
        &mut self,
        down: &mut HttpStream,
        forwarding: &mut Forwarding,
        waits: bool,
    ) -> Result<SentAttempt, AttemptError> {
        if waits {
            self.back_off(down, forwarding).await?;
        }
        self.upload.begin_attempt();
        self.attempt(down, forwarding).await
    }

    /// Delivers the response of a late attempt; the attempt in flight is over, and so are the other late ones.
    async fn deliver_late(
        &mut self,
        down: &mut HttpStream,
        forwarding: &Forwarding,
        won: LateAttempt,
        mut late: LateAttempts,
    ) -> Result<ForwardOutcome, Stop> {
        let worker = Rc::clone(self.worker());
        let LateAttempt { mut sent, mut response, place, stream_max, .. } = won;
        self.deadlines.bound_stream(stream_max, sent.up.sent_at);
        let endpoint = Arc::clone(&sent.up.endpoint);
        if let Some(pending) = self.pending.take() {
            let whole = self.upload.is_sent();
            self.summary.attempts.push(pending.ended(reasons::OVERTAKEN, worker.now(), whole));
        }
        late.abandon(&worker, &mut self.summary.attempts, &endpoint.name);
        // It is the last one now, with its outcome.
        self.summary.attempts.remove(place);
        std::mem::swap(&mut self.response, &mut response);
        self.manager.shared.head_pool.give(response.take());
        self.upload.attempt_has_all();
        self.summary.upstream_version = Some(sent.up.version);
        self.summary.cluster = Some(Arc::clone(&sent.pool.handle.cluster.name));
        self.summary.response_start = Some(worker.now().since(self.began));
        self.entry.reach(&sent.pool.handle.cluster.name, &endpoint.name);
        let took = worker.now().since(sent.up.sent_at);
        self.note_response(&sent.pool, &sent.up, took);
        if self.follows(forwarding) {
            self.leave_followed(sent, forwarding);
            return Ok(ForwardOutcome::Redirected);
        }
        let place = endpoint.place();
        self.pending = Some(Pending::late(Arc::clone(&endpoint.name), place, sent.up.sent_at));
        self.accept(down, forwarding, &mut sent).await?;
        Ok(self.complete(sent))
    }

    /// The reply to the client once no attempt is left, or no time.
    fn give_up_late(
        &mut self,
        failed: FailedAttempt,
        forwarding: &Forwarding,
        late: &LateAttempts,
    ) -> Stop {
        if late.is_empty() {
            return self.give_up(failed, forwarding);
        }
        let over = self.overall_timed_out();
        let detail = over.said.detail.clone();
        let stop = self.give_up(over, forwarding);
        self.summary.detail = detail;
        stop
    }
}
