//! An attempt of a side call.
//!
//! Owns: sending the request, receiving the response. Refuses to know: the deadline of the call; dropping the future
//! ends the attempt. Keeps: an attempt is judged and counted as one of any request is; a connection returns to its pool only
//! between two messages.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_codec::grpc::{show_timeout, status_number};
use sluice_codec::h1::stream::H1Options;
use sluice_codec::{Body, ErrorKind, Frame, Head, HttpError, HttpStream, Known, Version};
use sluice_core::Moment;
use sluice_core::limits::Limit;
use sluice_core::value::plural;
use sluice_io::buffers::SCRATCH;
use sluice_io::timers::Timer;
use sluice_upstream::EndpointState;
use sluice_upstream::cluster::{RequestClaim, TrafficClass};
use sluice_upstream::hops::Looped;
use sluice_upstream::plan::HttpVersion;
use sluice_upstream::reasons as upstream_reasons;

use super::{CallKind, SideCallError, SideCallGuard, SideCalls, SideRequest, SideResponse};
use crate::attempts::AttemptGuard;
use crate::errors::Cause;
use crate::failed_attempt::{
    FailedAttempt, FailureDetail, attempt_timed_out, endpoint_left, failed_attempt, not_reached,
    stream_too_long,
};
use crate::hop_count::HopCount;
use crate::pools::{ClusterPool, ConnectionNeeds, PoolTicket, PooledConn};
use crate::reasons;
use crate::retry_plan::{RetryPlan, RetryRule};
use crate::upstream_stream::{RESPONSE_HEADS_MAX, UpstreamStream, send_on_h1, version_of};
use crate::worker::HttpWorker;

/// The end of the longest stream that a cluster allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamBound {
    pub(super) at: Moment,
    most: Duration,
}

impl StreamBound {
    pub(super) fn failure(self) -> FailedAttempt {
        stream_too_long(Some(self.most), 504)
    }
}

impl SideCalls {
    /// Sends the request, in as many attempts as are needed and allowed.
    pub(super) async fn send(
        &self,
        call: &SideCallGuard,
        request: SideRequest,
    ) -> Result<SideResponse, SideCallError> {
        let attempt = async |endpoint: Arc<EndpointState>, _claim: RequestClaim| {
            self.attempt(&call.pool(), &endpoint, &request).await
        };
        let retried = |plan: &RetryPlan, response: &SideResponse| self.retried(plan, response);
        self.in_attempts(call, &request, attempt, retried).await
    }

    async fn attempt(
        &self,
        pool: &Rc<ClusterPool>,
        endpoint: &Arc<EndpointState>,
        request: &SideRequest,
    ) -> Result<SideResponse, FailedAttempt> {
        let guard = self.enter_attempt(pool, endpoint);
        let attempt = pin!(self.attempt_at(pool, endpoint, request));
        let ended = AttemptGuard::unless_cancelled(guard.as_ref(), attempt).await;
        ended.unwrap_or_else(|left| Err(endpoint_left(left)))
    }

    /// Enters an attempt that ends when its endpoint leaves, unless the cluster lets it go on.
    pub(super) fn enter_attempt(
        &self,
        pool: &ClusterPool,
        endpoint: &EndpointState,
    ) -> Option<AttemptGuard> {
        let cluster = &pool.handle.cluster;
        let attempts = &HttpWorker::of(&self.worker).attempts;
        let now = self.worker.now();
        let keep = pool.handle.plan().keeps_connections();
        (!keep).then(|| attempts.enter(&cluster.name, &endpoint.name, now))
    }

    async fn attempt_at(
        &self,
        pool: &Rc<ClusterPool>,
        endpoint: &Arc<EndpointState>,
        request: &SideRequest,
    ) -> Result<SideResponse, FailedAttempt> {
        let mut up = self.connect(pool, endpoint, request).await?;
        let end = self.stream_end(pool, &up);
        let mut response = Head::default();
        let received = {
            let awaiting = pin!(self.await_head_in_time(&mut up, request, &mut response));
            self.until_end(end, awaiting).await
        };
        self.note(pool, &mut up, received.as_ref().map(|()| response.status()));
        received?;
        let received = {
            let receiving = pin!(self.receive(&mut up.stream, response, request.message_max));
            self.until_end(end, receiving).await
        };
        match received {
            Ok(received) => {
                let sent = up.stream.is_sent();
                up.finish(&self.worker, pool, sent);
                Ok(received)
            }
            Err(failed) => {
                up.stream.reset(true);
                Err(failed)
            }
        }
    }

    /// When the stream of an attempt ends at the latest, and the setting.
    pub(super) fn stream_end(
        &self,
        pool: &ClusterPool,
        up: &UpstreamStream,
    ) -> Option<StreamBound> {
        let most = pool.handle.plan().stream_duration_max?;
        Some(StreamBound { at: up.sent_at.after(most), most })
    }

    /// Runs a part of an attempt until its stream has lasted as long as it may.
    pub(super) async fn until_end<T>(
        &self,
        end: Option<StreamBound>,
        part: Pin<&mut impl Future<Output = Result<T, FailedAttempt>>>,
    ) -> Result<T, FailedAttempt> {
        let Some(end) = end else { return part.await };
        let ended = Timer::new(&self.worker.timers).until(end.at, part).await;
        ended.unwrap_or_else(|_| Err(end.failure()))
    }

    /// Judges and counts an attempt by the status of its response, or by its failure before one.
    pub(super) fn note(
        &self,
        pool: &ClusterPool,
        up: &mut UpstreamStream,
        response: Result<u16, &FailedAttempt>,
    ) {
        let cluster = &pool.handle.cluster.name;
        let (status, took) = match response {
            Ok(status) => {
                pool.handle.note_answer(&self.worker, &up.endpoint, Some(status));
                pool.handle.note_result(&up.endpoint, status < 500);
                let took = self.worker.now().since(up.sent_at);
                pool.handle.note_response_time(&self.worker, &up.endpoint, took);
                (status, Some(took))
            }
            Err(failed) => {
                up.stream.reset(true);
                if failed.cause != Cause::Stale && failed.why != reasons::STREAM_DURATION {
                    pool.handle.note_answer(&self.worker, &up.endpoint, None);
                    pool.handle.note_result(&up.endpoint, false);
                }
                (0, None)
            }
        };
        pool.counters.count(&self.worker, cluster, &up.endpoint.name, status, took);
    }

    /// Takes a connection and sends the request headers on it.
    pub(super) async fn connect(
        &self,
        pool: &Rc<ClusterPool>,
        endpoint: &Arc<EndpointState>,
        request: &SideRequest,
    ) -> Result<UpstreamStream, FailedAttempt> {
        let worker = &self.worker;
        let is_grpc = request.kind == CallKind::Grpc;
        let protocol = pool.handle.plan().protocol;
        if is_grpc && matches!(protocol, HttpVersion::Http1 | HttpVersion::Http3) {
            return Err(not_http2());
        }
        let options = worker.local(H1Options::default);
        let class = match request.kind {
            CallKind::Http | CallKind::Grpc => TrafficClass::SideCall,
            CallKind::Mirror => TrafficClass::Request,
        };
        let version = if is_grpc { Version::Http2 } else { request.head.version() };
        let (http3, early) = (!is_grpc, false);
        let needs = ConnectionNeeds { class, http3, version, options: &options, early };
        let pooled = match pool.take_idle(worker, endpoint, &needs) {
            Some(pooled) => {
                pool.counters.reused.increment();
                pooled
            }
            None => pool.take(worker, endpoint, &needs).await.map_err(not_reached)?,
        };
        let head = self.head_for(pool, endpoint, request)?;
        let version = version_of(&pooled);
        // With `auto`, the endpoint may have chosen HTTP/1.
        if is_grpc && version != Version::Http2 {
            return Err(not_http2());
        }
        // The messages of a gRPC stream follow.
        let end = request.body.is_empty() && !is_grpc;
        let sent = self.send_head(pooled, &head, end).await;
        let (stream, ticket, reused) = sent.map_err(|error| failed_attempt(&error, false))?;
        let (endpoint, sent_at) = (Arc::clone(endpoint), worker.now());
        Ok(UpstreamStream { stream, version, endpoint, ticket, reused, early: false, sent_at })
    }

    async fn send_head(
        &self,
        pooled: PooledConn,
        head: &Head,
        end: bool,
    ) -> Result<(HttpStream, Option<PoolTicket>, bool), HttpError> {
        match pooled {
            PooledConn::H1(taken) => {
                let (stream, ticket, reused) = send_on_h1(taken, &self.worker, head, end, SCRATCH)?;
                Ok((HttpStream::H1(stream), Some(ticket), reused))
            }
            PooledConn::Shared(mut connection) => {
                Ok((connection.open(head, end).await?, None, false))
            }
            #[cfg(test)]
            PooledConn::Scripted(mut stream, reused) => {
                stream.send_head(head, end)?;
                Ok((HttpStream::Scripted(Box::new(stream)), None, reused))
            }
        }
    }

    /// The request headers for an endpoint. If it is a listener of this process, the call is counted, so that filters
    /// there know how deep they are.
    fn head_for(
        &self,
        pool: &ClusterPool,
        endpoint: &EndpointState,
        request: &SideRequest,
    ) -> Result<Head, FailedAttempt> {
        let mut head = request.head.clone();
        if request.kind == CallKind::Grpc && request.by != Moment::NEVER {
            let left = show_timeout(request.by.since(self.worker.now()));
            head.append_known(Known::GrpcTimeout, left.as_bytes());
        }
        let plan = pool.handle.plan();
        if plan.tls.is_some() || plan.protocol == HttpVersion::Http3 {
            head.set_scheme(b"https");
        }
        if head.authority().is_empty() {
            let name = endpoint.host.as_ref().unwrap_or(&endpoint.name);
            head.set_authority(name.as_bytes());
        }
        HopCount::remove(&mut head);
        if endpoint.is_ours() {
            let max = self.worker.limits.get(Limit::OwnHops);
            let side_calls = self.hops.side_calls + 1;
            let here = HopCount { side_calls, ..self.hops };
            let looped = || {
                let detail = Some(Looped { hops_max: max }.to_string().into());
                final_failure(upstream_reasons::LOOP, detail)
            };
            here.next(max).ok_or_else(looped)?.write(&mut head);
        }
        Ok(head)
    }

    /// Waits for the response headers, for the time that an attempt has.
    async fn await_head_in_time(
        &self,
        up: &mut UpstreamStream,
        request: &SideRequest,
        response: &mut Head,
    ) -> Result<(), FailedAttempt> {
        let awaiting = self.await_head(up, request.body.clone(), response);
        let Some(timeout) = request.attempt_timeout else { return awaiting.await };
        let by = self.worker.now().after(timeout);
        let awaited = Timer::new(&self.worker.timers).until(by, awaiting).await;
        awaited.unwrap_or_else(|_| Err(attempt_timed_out("attempt_timeout", Some(timeout))))
    }

    /// Sends the body and waits for the response headers, which may come first.
    pub(super) async fn await_head(
        &self,
        up: &mut UpstreamStream,
        body: Bytes,
        response: &mut Head,
    ) -> Result<(), FailedAttempt> {
        let worker = &*self.worker;
        let mut body = Some(body).filter(|body| !body.is_empty());
        let mut broken: Option<HttpError> = None;
        for _ in 0..RESPONSE_HEADS_MAX {
            let received = poll_fn(|cx| {
                while broken.is_none() {
                    match up.stream.poll_flushed(cx, worker) {
                        Poll::Ready(Ok(())) => {
                            let Some(body) = body.take() else { break };
                            let sent = up.stream.send_data(cx, worker, Body::Shared(body), true);
                            broken = sent.err();
                        }
                        Poll::Ready(Err(error)) => broken = Some(error),
                        Poll::Pending => break,
                    }
                }
                // Push only now, so that the headers leave together with the body.
                if let Err(error) = up.stream.push(cx, worker) {
                    broken.get_or_insert(error);
                }
                // The endpoint may have responded before it stopped reading.
                up.stream.poll_recv_head(cx, worker, response)
            })
            .await;
            if let Err(error) = received {
                return Err(failed_attempt(&broken.unwrap_or(error), up.reused));
            }
            let status = response.status();
            if !(100..200).contains(&status) || status == 101 {
                return Ok(());
            }
        }
        Err(failed_attempt(&too_many_heads(), false))
    }

    /// Receives the body and trailers of a response.
    async fn receive(
        &self,
        stream: &mut HttpStream,
        head: Head,
        limit: Limit,
    ) -> Result<SideResponse, FailedAttempt> {
        let worker = &*self.worker;
        let max = worker.limits.size(limit);
        let (mut all, mut charge) = (BytesMut::new(), worker.buffers.charge());
        let mut trailers = None;
        while !stream.is_received() {
            let frame = poll_fn(|cx| stream.poll_recv(cx, worker)).await;
            match frame.map_err(|error| failed_attempt(&error, false))? {
                Frame::Data { body, last } => {
                    let len = all.len() + body.len();
                    if len > max {
                        sluice_l4::metrics::count_limit(worker, limit);
                        let detail = format!(
                            "more than {} (`limits.{}`)",
                            plural(max as u64, "byte"),
                            limit.def().name
                        );
                        let detail = Some(detail.into());
                        return Err(final_failure(reasons::SIDE_CALL_TOO_LARGE, detail));
                    }
                    charge
                        .set(len)
                        .map_err(|_| final_failure(sluice_l4::reasons::BUFFERS, None))?;
                    all.extend_from_slice(&body);
                    if last {
                        break;
                    }
                }
                Frame::Trailers(fields) => {
                    trailers = Some(fields);
                    break;
                }
                Frame::End => break,
            }
        }
        Ok(SideResponse { head, body: all.freeze(), trailers, _charge: charge })
    }

    /// Why the plan of a call retries this response, if it does, and the wait that the response asks for.
    fn retried(
        &self,
        plan: &RetryPlan,
        response: &SideResponse,
    ) -> Option<(RetryRule, Option<Duration>)> {
        let trailers = response.trailers.as_deref().and_then(status_number);
        let grpc_status = trailers.or_else(|| status_number(&response.head));
        let rule = plan.covers(&response.head, grpc_status)?;
        let now = self.worker.clock.wall(self.worker.now());
        Some((rule, plan.reset.as_ref().and_then(|reset| reset.wait(&response.head, now))))
    }
}

fn final_failure(why: sluice_core::Reason, detail: Option<Box<str>>) -> FailedAttempt {
    let said = FailureDetail { errno: None, detail };
    FailedAttempt { why, status: 503, details: "", text: "", said, cause: Cause::Final }
}

pub(super) fn too_many_heads() -> HttpError {
    HttpError::new(ErrorKind::Malformed(502), "too many interim responses")
}

fn not_http2() -> FailedAttempt {
    let detail = "gRPC needs HTTP/2 (`protocol: http2`, or `auto` with TLS)";
    final_failure(reasons::SIDE_CALL_PROTOCOL, Some(detail.into()))
}
