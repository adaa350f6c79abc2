//! Side calls: requests that Sluice sends to clusters itself: filters before they decide, and the control thread.
//!
//! Owns: the handle that a filter calls with, its requests and responses, and the bounds on calls. Refuses to know: why
//! somebody calls. Keeps: a call uses the pools of its worker, as any request does, and passes no filters on its way; it
//! ends before its caller's own deadline; calls within calls end at the second.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::{Head, Known};
use sluice_core::limits::Limit;
use sluice_core::{LocalFuture, Moment, Reason};
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_io::timers::Timer;
use sluice_upstream::Cluster;

use self::permits::{SideCallPermit, SideCallPermits};
use crate::hop_count::HopCount;
use crate::pools::ClusterPool;
use crate::reasons;
use crate::record::SideCallRecord;
use crate::retry_plan::RetryPlan;
use crate::worker::HttpWorker;

mod attempt;
mod attempts;
mod closing;
mod grpc;
mod grpc_stream;
mod method;
mod mirror;
mod permits;
mod raw;
pub(crate) mod redis;

pub(crate) use self::closing::until_closed;
pub use self::grpc::GrpcCallError;
pub use self::grpc_stream::{GrpcConversation, GrpcStream};
pub use self::method::{GrpcMethod, GrpcRequest, MetadataError};
pub(crate) use self::mirror::MirrorCopy;
pub use self::raw::RawMessage;

/// The side calls of one request or connection, or of the control thread.
#[derive(Clone, Debug)]
pub struct SideCalls {
    worker: Rc<WorkerCx>,
    /// What the calling request has passed.
    hops: HopCount,
    /// When the calling request ends at the latest; `None` if each call has its own end.
    by: Option<Moment>,
    /// The calls of the request, for its record.
    log: Option<SideCallLog>,
}

/// The calls that have ended and are not in the record of their request yet.
pub(crate) type SideCallLog = Rc<RefCell<Vec<SideCallRecord>>>;

/// A request of a filter.
#[derive(Clone, Debug)]
pub struct SideRequest {
    head: Head,
    body: Bytes,
    kind: CallKind,
    retries: Option<Box<RetryPlan>>,
    /// The time for the response headers of an attempt.
    attempt_timeout: Option<Duration>,
    /// When the call ends at the latest, once it is admitted.
    by: Moment,
    /// The bound on the body of the response, or on a message of a call with several.
    message_max: Limit,
}

/// What a call needs of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallKind {
    /// Any version of HTTP.
    Http,
    /// HTTP/2; the service is told how much time is left.
    Grpc,
    /// Any version of HTTP; a copy of a request, which has no room reserved.
    Mirror,
}

/// The response to a side call, received completely.
#[derive(Debug)]
pub struct SideResponse {
    /// The status and headers.
    pub head: Head,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: Option<Box<Head>>,
    /// Counts the body towards the buffers of the worker.
    _charge: Charge,
}

/// Why a side call has no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideCallError {
    /// The reason, for the reply of a filter that fails closed.
    pub why: Reason,
    /// What the system or the codec reported, for the record.
    pub detail: Option<Box<str>>,
}

impl std::fmt::Display for SideCallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.detail {
            None => write!(f, "{}", self.why),
            Some(detail) => write!(f, "{}: {detail}", self.why),
        }
    }
}

impl std::error::Error for SideCallError {}

impl SideRequest {
    /// A request without a body. Its host is that of the endpoint.
    pub fn new(method: &str, path: &str) -> Self {
        let head = Head::request(method, "http", "", path);
        Self {
            head,
            body: Bytes::new(),
            kind: CallKind::Http,
            retries: None,
            attempt_timeout: None,
            by: Moment::NEVER,
            message_max: Limit::SideCallBytes,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.head.append(name.as_bytes(), value);
        self
    }

    /// Sets the host.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.head.set_authority(host.as_bytes());
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.head.set_known(Known::ContentLength, length.as_bytes());
        self
    }

    /// Retries the call as a rule retries requests: for the failures and statuses that `plan` names, in as many attempts,
    /// with its waits in between. Retries take part in the retry budget of the cluster (`limits.retries`), and none
    /// begins that would not within the time of the call. What the last attempt ended with is the end of the call.
    ///
    /// A body that is larger than `body_max` is not sent again to an endpoint that may have seen it.
    #[must_use]
    pub fn retries(mut self, plan: RetryPlan) -> Self {
        self.retries = Some(Box::new(plan));
        self
    }

    /// Bounds the body of the response otherwise than by `limits.side_call_bytes`.
    #[must_use]
    pub const fn response_max(mut self, limit: Limit) -> Self {
        self.message_max = limit;
        self
    }

    /// Bounds the time from the request to the response headers in each attempt. A plan retries an attempt that is late
    /// if it has `per_try_timeout`, `gateway_error` or `server_error`.
    #[must_use]
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }
}

impl SideCalls {
    /// The calls of a request that has passed `hops` and ends at `by`; they are recorded in `log`.
    pub(crate) const fn of_request(
        worker: Rc<WorkerCx>,
        hops: HopCount,
        by: Moment,
        log: SideCallLog,
    ) -> Self {
        Self { worker, hops, by: Some(by), log: Some(log) }
    }

    /// Calls on behalf of a request that may outlive it, each until the `by` that it is given; they are recorded in
    /// `log`.
    pub(crate) const fn lasting(worker: Rc<WorkerCx>, hops: HopCount, log: SideCallLog) -> Self {
        Self { worker, hops, by: None, log: Some(log) }
    }

    /// The calls of a connection filter. They are not part of a record, and a call that leads back to the listener of
    /// its connection is not recognised as a loop: it ends when the caller's time does.
    pub fn of_worker(worker: &Rc<WorkerCx>) -> Self {
        let hops = HopCount::default();
        Self { worker: Rc::clone(worker), hops, by: Some(Moment::NEVER), log: None }
    }

    /// Calls that nothing waits for as for a filter: those of the control thread, whose own worker this is, and those that
    /// last as long as a connection or guest. They last as long as each may, without regard to the time of filters, and a
    /// stream may last for ever. Where one arrives at a listener of this process, it is a side call like any other, so that
    /// filters there call at most once more on its behalf.
    pub fn unbounded(worker: &Rc<WorkerCx>) -> Self {
        Self { worker: Rc::clone(worker), hops: HopCount::default(), by: None, log: None }
    }

    /// Sends a request to a cluster and receives the whole response, until `by` at the latest, or until shortly before
    /// the time of the calling filter is over. Dropping the future cancels the call.
    ///
    /// Where the cluster has no usable endpoint, the one that serves in its place (`fallback`) is called.
    ///
    /// Attempts that an endpoint cannot have seen are repeated as often as `connect_attempts` of the cluster allows, and
    /// idempotent requests on stale connections; anything else only as [`SideRequest::retries`] says.
    ///
    /// # Errors
    /// Why there is no response. A response with an error status is a response.
    pub fn call(
        &self,
        cluster: &Arc<Cluster>,
        request: SideRequest,
        by: Moment,
    ) -> LocalFuture<Result<SideResponse, SideCallError>> {
        let (calls, cluster) = (self.clone(), Arc::clone(cluster));
        Box::pin(async move {
            let mut call = calls.begin(&cluster);
            let ended = calls.run(&call, request, by).await;
            let status = |response: &SideResponse| response.head.status();
            call.end = Some(ended.as_ref().map(status).map_err(Clone::clone));
            ended
        })
    }

    /// Begins a call, which is recorded and counted however it ends.
    fn begin(&self, cluster: &Arc<Cluster>) -> SideCallGuard {
        let worker = &self.worker;
        let pool = RefCell::new(self.pool_of(cluster));
        let attempts = Cell::new(0);
        SideCallGuard { calls: self.clone(), pool, began: worker.now(), attempts, end: None }
    }

    /// The pool of a cluster, which calls can count on.
    fn pool_of(&self, cluster: &Arc<Cluster>) -> Rc<ClusterPool> {
        cluster.reserve_for_side_calls();
        HttpWorker::of(&self.worker).pools.to(cluster, &self.worker)
    }

    async fn run(
        &self,
        call: &SideCallGuard,
        mut request: SideRequest,
        by: Moment,
    ) -> Result<SideResponse, SideCallError> {
        let _permit = self.admit(&mut request, by)?;
        let (began, by) = (self.worker.now(), request.by);
        let sending = self.send(call, request);
        let sent = Timer::new(&self.worker.timers).until(by, sending).await;
        sent.unwrap_or_else(|_| Err(self.late(began)))
    }

    /// Admits a call, and bounds it by the time of its caller.
    fn admit(
        &self,
        request: &mut SideRequest,
        by: Moment,
    ) -> Result<SideCallPermit, SideCallError> {
        let worker = &self.worker;
        let permit = SideCallPermits::enter(worker, self.hops.side_calls)?;
        request.by = self.latest(by);
        Ok(permit)
    }

    /// When a call that may last until `by` ends at the latest: before its caller's time is over.
    fn latest(&self, by: Moment) -> Moment {
        let now = self.worker.now();
        let wait = Duration::from_secs(self.worker.limits.get(Limit::FilterWait));
        self.by.map_or(by, |of_caller| by.min(before(of_caller.min(now.after(wait)), now)))
    }

    /// The error of a call that began at `began` and is out of time.
    fn late(&self, began: Moment) -> SideCallError {
        let waited = self.worker.now().since(began).as_millis();
        let detail = format!("no response within {waited} ms");
        SideCallError { why: reasons::SIDE_CALL_TIMEOUT, detail: Some(detail.into()) }
    }
}

/// A moment somewhat before `by`, so that a filter that may wait until `by` learns how its call ended.
fn before(by: Moment, now: Moment) -> Moment {
    let left = by.since(now);
    now.after(left - (left / 10).min(Duration::from_millis(100)))
}

/// A call in flight; recorded and counted when it ends or is dropped.
#[derive(Debug)]
struct SideCallGuard {
    calls: SideCalls,
    /// That of the cluster, or of one that serves in its place.
    pool: RefCell<Rc<ClusterPool>>,
    began: Moment,
    /// The attempts so far.
    attempts: Cell<u32>,
    /// The status or error; `None` until it has ended.
    end: Option<Result<u16, SideCallError>>,
}

impl SideCallGuard {
    /// The pool of the cluster that serves.
    fn pool(&self) -> Rc<ClusterPool> {
        Rc::clone(&self.pool.borrow())
    }
}

impl Drop for SideCallGuard {
    fn drop(&mut self) {
        let (worker, pool) = (&self.calls.worker, self.pool());
        let (cluster, took) = (&pool.handle.cluster.name, worker.now().since(self.began));
        let result = match &self.end {
            Some(Ok(_)) => "answered",
            Some(Err(error)) => error.why.code(),
            None => "dropped",
        };
        pool.counters.count_side_call(worker, cluster, result, took);
        let Some(log) = &self.calls.log else { return };
        let attempts = self.attempts.get();
        let end = self.end.take().map(|end| end.map_err(|error| error.to_string().into()));
        let record = SideCallRecord { cluster: Arc::clone(cluster), end, took, attempts };
        log.borrow_mut().push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_before_its_caller() {
        let now = Moment::from_micros(5_000_000);
        let left = |ms| before(now.after(Duration::from_millis(ms)), now).since(now);
        for (caller, call) in [(10_000, 9_900), (1_000, 900), (100, 90), (0, 0)] {
            assert_eq!(left(caller), Duration::from_millis(call), "{caller} ms");
        }
    }
}
