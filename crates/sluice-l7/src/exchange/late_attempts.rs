//! Attempts that are late and go on, while others are made.
//!
//! Owns: what each holds, and what became of it. Refuses to know: when an attempt is late, and what follows. Keeps: a
//! response that would be retried counts only if no other attempt is left; an attempt that is not the first is reset.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_codec::grpc::status_number;
use sluice_codec::{ErrorKind, HttpError};
use sluice_core::connection::Attempt;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;

use super::sent_attempt::SentAttempt;
use crate::failed_attempt::{
    FailedAttempt, FailureDetail, endpoint_left, failed_attempt, retried_response, stream_too_long,
};
use crate::pools::InFlightGuard;
use crate::reasons;
use crate::routes::RetryPlan;
use crate::upstream_stream::RESPONSE_HEADS_MAX;
use sluice_codec::head_pool::PooledHead;

/// An attempt that is late and goes on.
pub(super) struct LateAttempt {
    pub(super) sent: SentAttempt,
    /// Counts it as a retry, if it is one.
    _permit: Option<InFlightGuard>,
    pub(super) response: PooledHead,
    heads: u32,
    /// How long its stream may last.
    pub(super) stream_max: Option<Duration>,
    /// When its stream has lasted that long.
    stream_end: Option<Timer>,
    /// Its place among the attempts of the record.
    pub(super) place: usize,
    /// Whether another attempt follows.
    pub(super) again: bool,
}

impl LateAttempt {
    /// An attempt that has the `place` in the record; `response` takes its response headers.
    pub(super) const fn new(
        sent: SentAttempt,
        permit: Option<InFlightGuard>,
        response: PooledHead,
        place: usize,
        again: bool,
    ) -> Self {
        let (stream_max, stream_end) = (None, None);
        Self { sent, _permit: permit, response, heads: 0, stream_max, stream_end, place, again }
    }

    /// Bounds how long the stream may last.
    pub(super) fn within(mut self, most: Option<Duration>, worker: &WorkerCx) -> Self {
        self.stream_max = most;
        self.stream_end = most.map(|most| {
            let timer = Timer::new(&worker.timers);
            timer.set(self.sent.up.sent_at.after(most));
            timer
        });
        self
    }

    /// Ready with the response headers, or with why there are none.
    fn poll(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> Poll<Result<(), FailedAttempt>> {
        if let Poll::Ready(ended) = self.poll_head(cx, worker) {
            return Poll::Ready(ended);
        }
        match &self.stream_end {
            // It has the whole request.
            Some(end) => end.poll(cx).map(|()| Err(stream_too_long(self.stream_max, 504))),
            None => Poll::Pending,
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), FailedAttempt>> {
        let Self { sent, response, heads, .. } = self;
        if let Some(Poll::Ready(left)) = sent.guard.as_ref().map(|guard| guard.poll_cancelled(cx)) {
            return Poll::Ready(Err(endpoint_left(left)));
        }
        let reused = sent.up.reused;
        let failed = |error: HttpError| failed_attempt(&error, reused);
        loop {
            if let Err(error) = sent.up.stream.push(cx, worker) {
                return Poll::Ready(Err(failed(error)));
            }
            ready!(sent.up.stream.poll_recv_head(cx, worker, response)).map_err(failed)?;
            // Informational responses are those of one attempt among several.
            if !(100..200).contains(&response.status()) {
                return Poll::Ready(Ok(()));
            }
            *heads += 1;
            if *heads >= RESPONSE_HEADS_MAX {
                let error = HttpError::new(ErrorKind::Malformed(502), "too many interim responses");
                return Poll::Ready(Err(failed(error)));
            }
        }
    }
}

/// The late attempts of a request.
pub(super) struct LateAttempts {
    flying: Vec<LateAttempt>,
    /// Those that ended without a response to deliver, by their places in the record.
    ended: Vec<(usize, FailedAttempt)>,
}

impl LateAttempts {
    pub(super) fn of(first: LateAttempt) -> Self {
        Self { flying: vec![first], ended: Vec::new() }
    }

    pub(super) fn push(&mut self, late: LateAttempt) {
        self.flying.push(late);
    }

    /// Whether none is in flight.
    pub(super) const fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }

    /// Ready with the first attempt whose response is to be delivered: one that the plan does not retry, or, if nothing
    /// but the late attempts is left (`alone`), the last.
    fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        plan: &RetryPlan,
        alone: bool,
    ) -> Poll<LateAttempt> {
        let mut next = 0;
        while let Some(late) = self.flying.get_mut(next) {
            let Poll::Ready(result) = late.poll(cx, worker) else {
                next += 1;
                continue;
            };
            let mut late = self.flying.swap_remove(next);
            let failed = match result {
                Err(failed) => failed,
                Ok(()) => match plan.covers(&late.response, status_number(&late.response)) {
                    Some(rule) if !alone || !self.flying.is_empty() => {
                        retried_response(late.response.status(), rule)
                    }
                    _ => return Poll::Ready(late),
                },
            };
            late.sent.up.stream.reset(true);
            let SentAttempt { up, pool, .. } = &late.sent;
            let cluster = &pool.handle.cluster.name;
            let status = if failed.why == reasons::RETRIED { failed.status } else { 0 };
            pool.counters.count(worker, cluster, &up.endpoint.name, status, None);
            self.ended.push((late.place, failed));
        }
        Poll::Pending
    }

    /// Runs `work` until it is done, or one of these has a response to deliver.
    pub(super) async fn unless_first<T>(
        &mut self,
        worker: &WorkerCx,
        plan: &RetryPlan,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, LateAttempt> {
        poll_fn(|cx| match self.poll_first(cx, worker, plan, false) {
            Poll::Ready(first) => Poll::Ready(Err(first)),
            Poll::Pending => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// Waits for a response to deliver; `None` if no attempt is left.
    pub(super) async fn first(
        &mut self,
        worker: &WorkerCx,
        plan: &RetryPlan,
    ) -> Option<LateAttempt> {
        poll_fn(|cx| match self.poll_first(cx, worker, plan, true) {
            Poll::Ready(first) => Poll::Ready(Some(first)),
            Poll::Pending if self.flying.is_empty() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Completes the record of those that have ended; returns the last failure.
    pub(super) fn settle(&mut self, attempts: &mut [Attempt]) -> Option<FailedAttempt> {
        let mut last = None;
        for (place, mut failed) in self.ended.drain(..) {
            let FailureDetail { errno, detail } = std::mem::take(&mut failed.said);
            if let Some(attempt) = attempts.get_mut(place) {
                let known = detail.map_or_else(String::new, |detail| format!(", {detail}"));
                attempt.failure = Some((failed.why, errno));
                attempt.detail = Some(format!("late{known}").into());
            }
            last = Some(failed);
        }
        last
    }

    /// Resets all, since the endpoint `first` has responded.
    pub(super) fn abandon(&mut self, worker: &WorkerCx, attempts: &mut [Attempt], first: &str) {
        self.settle(attempts);
        for mut late in self.flying.drain(..) {
            late.sent.up.stream.reset(true);
            let SentAttempt { up, pool, .. } = &late.sent;
            pool.counters.count(worker, &pool.handle.cluster.name, &up.endpoint.name, 0, None);
            if let Some(attempt) = attempts.get_mut(late.place) {
                let detail = attempt.detail.take().unwrap_or_default();
                attempt.detail = Some(format!("{detail}, nor before {first} responded").into());
            }
        }
    }
}
