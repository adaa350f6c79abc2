//! Mirrored requests on their way to an endpoint.
//!
//! Owns: sending the copy of a request, and receiving and discarding the response. Refuses to know: the request that it
//! is a copy of. Keeps: a copy is sent once, without a retry, and ends in bounded time; it is counted as a side call
//! towards loops, so that it is not mirrored again within this process.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::{Head, HttpStream, Known};
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_io::timers::Timer;
use sluice_upstream::cluster::{Affinity, TrafficClass, WhenFull};

use super::{CallKind, SideCalls, SideRequest};
use crate::attempts::AttemptGuard;
use crate::failed_attempt::{FailedAttempt, endpoint_left, failed_attempt, no_endpoint};
use crate::hop_count::HopCount;
use crate::pools::ClusterPool;
use crate::pools::counters::class_word;
use crate::reasons;
use crate::retry::Attempts;
use crate::retry_plan::RetryAvoid;

/// A copy of a request that has been received completely.
#[derive(Debug)]
pub(crate) struct MirrorCopy {
    /// The pool of the cluster that it goes to.
    pub(crate) pool: Rc<ClusterPool>,
    /// The request headers.
    pub(crate) head: Head,
    /// The body, shared with the other copies.
    pub(crate) body: Bytes,
    /// Counts the body in the worker's buffers.
    pub(crate) charge: Rc<Charge>,
    /// The request that it is a copy of has passed this within the process.
    pub(crate) hops: HopCount,
    /// How long it may take.
    pub(crate) timeout: Duration,
}

/// The copies of a worker in flight.
#[derive(Debug, Default)]
struct MirrorsInFlight(Cell<u64>);

/// A copy in flight; uncounted on drop.
struct MirrorPermit(Rc<MirrorsInFlight>);

impl MirrorPermit {
    /// Counts a copy, unless the limit is reached.
    fn enter(worker: &WorkerCx) -> Option<Self> {
        let in_flight = worker.local(MirrorsInFlight::default);
        if in_flight.0.get() >= worker.limits.get(Limit::Mirrors) {
            sluice_l4::metrics::count_limit(worker, Limit::Mirrors);
            return None;
        }
        in_flight.0.set(in_flight.0.get() + 1);
        Some(Self(in_flight))
    }
}

impl Drop for MirrorPermit {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

impl MirrorCopy {
    /// Sends the copy, on a task of its own.
    pub(crate) fn launch(self, worker: &Rc<WorkerCx>) {
        let Some(permit) = MirrorPermit::enter(worker) else {
            return self.pool.counters.count_mirror(
                worker,
                &self.pool.handle.cluster.name,
                "limit",
            );
        };
        let weak = Rc::downgrade(worker);
        worker.spawn(async move {
            let _permit = permit;
            if let Some(worker) = weak.upgrade() {
                self.run(worker).await;
            }
        });
    }

    /// Sends the copy and counts how it ended.
    async fn run(self, worker: Rc<WorkerCx>) {
        let Self { pool, mut head, body, charge, hops, timeout } = self;
        if body.is_empty() {
            head.remove_known(Known::ContentLength);
        } else {
            let length = body.len().to_string();
            head.set_known(Known::ContentLength, length.as_bytes());
        }
        let by = worker.now().after(timeout);
        let (kind, retries, attempt_timeout) = (CallKind::Mirror, None, None);
        let request = SideRequest {
            head,
            body,
            kind,
            retries,
            attempt_timeout,
            by,
            message_max: Limit::SideCallBytes,
        };
        let calls = SideCalls { worker: Rc::clone(&worker), hops, by: None, log: None };
        let sending = calls.mirror(&pool, &request);
        let result = match Timer::new(&worker.timers).until(by, sending).await {
            Ok(Ok(status)) => class_word(status / 100),
            Ok(Err(failed)) => failed.why.code(),
            Err(_) => reasons::SIDE_CALL_TIMEOUT.code(),
        };
        pool.counters.count_mirror(&worker, &pool.handle.cluster.name, result);
        drop(charge);
    }
}

impl SideCalls {
    /// Sends a copy and discards the response; returns its status.
    async fn mirror(
        &self,
        pool: &Rc<ClusterPool>,
        request: &SideRequest,
    ) -> Result<u16, FailedAttempt> {
        let _in_flight = pool.enter_request();
        let (affinity, avoid) = (Affinity::default(), RetryAvoid::Nothing);
        let (handle, class) = (&pool.handle, TrafficClass::Request);
        let picked = Attempts::default().pick(
            handle,
            &self.worker,
            class,
            affinity,
            avoid,
            WhenFull::Refuse,
        );
        let (endpoint, _claim) = picked.map_err(|why| no_endpoint(why, handle.shortage(why)))?;
        let guard = self.enter_attempt(pool, &endpoint);
        let exchange = pin!(async {
            let mut up = self.connect(pool, &endpoint, request).await?;
            let end = self.stream_end(pool, &up);
            let mut response = Head::default();
            let awaited = {
                let body = request.body.clone();
                let awaiting = pin!(self.await_head(&mut up, body, &mut response));
                self.until_end(end, awaiting).await
            };
            self.note(pool, &mut up, awaited.as_ref().map(|()| response.status()));
            awaited?;
            let discarded = {
                let discarding = pin!(self.discard(&mut up.stream));
                self.until_end(end, discarding).await
            };
            if discarded.is_ok() {
                let sent = up.stream.is_sent();
                up.finish(&self.worker, pool, sent);
            } else {
                up.stream.reset(true);
            }
            discarded.map(|()| response.status())
        });
        let ended = AttemptGuard::unless_cancelled(guard.as_ref(), exchange).await;
        ended.unwrap_or_else(|departure| Err(endpoint_left(departure)))
    }

    /// Receives the rest of a response.
    async fn discard(&self, stream: &mut HttpStream) -> Result<(), FailedAttempt> {
        while !stream.is_received() {
            let frame = poll_fn(|cx| stream.poll_recv(cx, &self.worker)).await;
            frame.map_err(|error| failed_attempt(&error, false))?;
        }
        Ok(())
    }
}
