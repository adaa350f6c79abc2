//! A stream to an endpoint, with the request headers sent on it.
//!
//! Owns: taking a connection from the pool, and adapting the headers to the endpoint. Refuses to know: how connections
//! are made, and what the endpoint responds. Keeps: a request that loops through listeners of this process is refused
//! after a bounded number of them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_codec::stream::READ_SHARED;
use sluice_codec::{ErrorKind, HttpError, HttpStream, Known, Method};
use sluice_core::Moment;
use sluice_core::connection::Attempt;
use sluice_core::limits::Limit;
use sluice_io::buffers::SCRATCH;
use sluice_upstream::EndpointState;
use sluice_upstream::cluster::TrafficClass;
use sluice_upstream::connector::ConnectFailure;
use sluice_upstream::hops::Looped;
use sluice_upstream::reasons as upstream_reasons;

use super::attempt_error::AttemptError;
use super::deadlines::Deadline;
use super::pieces::RequestHooks;
use super::{RequestTask, Stop};
use crate::failed_attempt::{
    FailedAttempt, failed_attempt, lasted_too_long, not_reached, timed_out,
};
use crate::filters::BodyAccess;
use crate::hop_count::HopCount;
use crate::pools::{ClusterPool, ConnectionNeeds, PooledConn};
use crate::reply::Reply;
use crate::routes::HostRewrite;
use crate::upstream_stream::{UpstreamStream, send_on_h1, version_of};

impl RequestTask {
    /// Counts the hops of a request that goes to a listener of this process, and refuses a request that loops. The
    /// request is counted, not its connection, since connections are shared; requests to other hosts carry no count.
    fn count_hop(&mut self, endpoint: &EndpointState) -> Result<(), Stop> {
        if !endpoint.is_ours() {
            // Remove a count that the request came with from this host, or got for the endpoint of an earlier attempt.
            let info = &self.downstream.conn.info;
            let from_us = info
                .peer
                .ip()
                .is_some_and(|ip| ip.is_loopback() || info.destination().ip() == Some(ip));
            if self.hops.is_some() || (from_us && HopCount::is_in(&self.request)) {
                self.hops.get_or_insert_with(|| HopCount::of(&self.request));
                HopCount::remove(&mut self.request);
            }
            return Ok(());
        }
        let before = *self.hops.get_or_insert_with(|| HopCount::of(&self.request));
        let max = self.worker().limits.get(Limit::OwnHops);
        if let Some(hops) = before.next(max) {
            hops.write(&mut self.request);
            return Ok(());
        }
        let detail = Looped { hops_max: max }.to_string();
        let (why, said) = (upstream_reasons::LOOP, Some(detail.as_str().into()));
        let attempt = Attempt::failed(Arc::clone(&endpoint.name), why, None, said);
        self.note(attempt.in_place(endpoint.place()));
        self.summary.detail = Some(detail.into());
        let text = self.failure_body("loop detected", upstream_reasons::LOOP);
        Err(Stop::reply(Reply::new(508, upstream_reasons::LOOP, "loop_detected", text)))
    }

    /// Takes a stream to `endpoint` and sends the request headers on it.
    pub(super) async fn connect(
        &mut self,
        down: &mut HttpStream,
        pool: &Rc<ClusterPool>,
        endpoint: &Arc<EndpointState>,
        host: &HostRewrite,
    ) -> Result<UpstreamStream, AttemptError> {
        let worker = Rc::clone(self.worker());
        let h1 = Rc::clone(&self.manager.h1);
        let tunnels = self.ends_tunnel(pool);
        let class = TrafficClass::Request;
        let version = self.summary.version;
        let early = self.may_go_early();
        let needs = ConnectionNeeds { class, http3: true, version, options: &h1, early };
        let idle = || pool.take_idle(&worker, endpoint, &needs);
        let pooled = match (!tunnels).then(idle).flatten() {
            Some(pooled) => {
                pool.counters.reused.increment();
                pooled
            }
            None if tunnels => {
                let opening = Box::pin(pool.open_tunnel(&worker, endpoint, &h1));
                match self.guarded(down, self.deadlines.overall(), opening).await? {
                    Some(Ok(pooled)) => pooled,
                    Some(Err(failure)) => return Err(not_reached(failure).into()),
                    None => return Err(self.overall_timed_out().into()),
                }
            }
            None => {
                // Boxed, so that requests that find a connection have no room for it.
                let taking = Box::pin(pool.take(&worker, endpoint, &needs));
                match self.guarded(down, self.deadlines.overall(), taking).await? {
                    Some(Ok(pooled)) => pooled,
                    Some(Err(failure)) => return Err(not_reached(failure).into()),
                    None => return Err(self.overall_timed_out().into()),
                }
            }
        };
        if *host == HostRewrite::Endpoint {
            let name = endpoint.host.as_ref().unwrap_or(&endpoint.name);
            self.request.set_authority(name.as_bytes());
        }
        self.count_hop(endpoint)?;
        let version = version_of(&pooled);
        let early = pooled.is_early();
        self.handshake.ask(&mut self.request, version, &worker);
        let end = self.upload.is_empty() && self.request.upgrade().is_none();
        let end = end && self.method != Method::Connect;
        if self.upload.is_received() {
            self.request.remove_known(Known::Expect);
        } else if self.body_access::<RequestHooks>() == BodyAccess::Edit {
            self.request.remove_known(Known::ContentLength);
        }
        let endpoint = Arc::clone(endpoint);
        let (stream, ticket, reused) = match pooled {
            // Nothing is sent but what the client sends.
            PooledConn::H1(taken) if tunnels => {
                let (mut stream, ticket) = taken.into_parts();
                if end {
                    // Of a POST request without a body.
                    let ending = poll_fn(|cx| Poll::Ready(stream.send_end(cx, &worker, None)));
                    ending.await.map_err(|error| failed_attempt(&error, false))?;
                }
                (HttpStream::H1(stream), Some(ticket), false)
            }
            PooledConn::H1(taken) => {
                // On the HTTP/1 wire, the headers of an upgrade or tunnel end the request.
                let whole = end || self.request.upgrade().is_some();
                let whole = whole || self.method == Method::Connect;
                let read_max = if down.is_shared() { READ_SHARED } else { SCRATCH };
                let sent = send_on_h1(taken, &worker, &self.request, whole, read_max);
                let (mut stream, ticket, reused) = sent.map_err(|error| self.unsendable(&error))?;
                if early {
                    // Boxed, so that requests that are not early have no room for it.
                    let completing = Box::pin(pool.complete_early_h1(
                        &worker,
                        &endpoint,
                        &mut stream,
                        ticket.made(),
                    ));
                    match self.guarded(down, self.deadlines.overall(), completing).await? {
                        Some(completed) => completed.map_err(not_reached)?,
                        None => return Err(self.overall_timed_out().into()),
                    }
                }
                (HttpStream::H1(stream), Some(ticket), reused)
            }
            PooledConn::Shared(mut client) => {
                let by = worker.now().after(OPEN_TIME).min(self.deadlines.overall());
                let opened = {
                    let opening = pin!(client.open(&self.request, end));
                    self.guarded(down, by, opening).await?
                };
                match opened {
                    // What is sent early may come to nothing with its connection, like what is sent on one that was idle.
                    Some(Ok(stream)) => (stream, None, early),
                    Some(Err(error)) => return Err(self.unsendable(&error)),
                    None if worker.now() >= self.deadlines.overall() => {
                        return Err(self.overall_timed_out().into());
                    }
                    None => return Err(not_reached(no_turn()).into()),
                }
            }
            #[cfg(test)]
            PooledConn::Scripted(mut stream, reused) => {
                stream.send_head(&self.request, end).map_err(|error| self.unsendable(&error))?;
                (HttpStream::Scripted(Box::new(stream)), None, reused)
            }
        };
        let sent_at = worker.now();
        Ok(UpstreamStream { stream, version, endpoint, ticket, reused, early, sent_at })
    }

    /// Whether the request may be sent before a handshake is complete, where the cluster does that: it does no harm if an
    /// attacker repeats it, and this is its first attempt.
    fn may_go_early(&self) -> bool {
        self.method.is_safe()
            && self.upload.is_empty()
            && self.request.upgrade().is_none()
            && self.summary.attempts.is_empty()
    }

    /// The error for request headers that could not be sent; if no endpoint could be sent them, the request is at
    /// fault.
    fn unsendable(&mut self, error: &HttpError) -> AttemptError {
        if !matches!(error.kind(), ErrorKind::Malformed(400)) {
            return failed_attempt(error, false).into();
        }
        self.summary.detail = Some(error.detail().into());
        let body = "the request cannot be forwarded\n";
        Stop::reply(Reply::malformed("request_malformed", body)).into()
    }

    /// The failure for an expired deadline of the whole exchange, or of the response headers over all attempts.
    pub(super) fn overall_timed_out(&self) -> FailedAttempt {
        let deadlines = &self.deadlines;
        if deadlines.due(Deadline::Response) < deadlines.due(Deadline::Total) {
            return timed_out("timeout.response", deadlines.timeout(Deadline::Response));
        }
        let (name, bound) = (deadlines.total_name(), deadlines.timeout(Deadline::Total));
        lasted_too_long(name, bound, self.late_status())
    }

    /// The status if a request and its response last too long: that of the side that is waited for.
    pub(super) const fn late_status(&self) -> u16 {
        if self.upload.is_received() { 504 } else { 408 }
    }

    /// Runs a future until it is ready, `by` passes (`None`), or the client has gone. The future stays where it is pinned:
    /// passed by value, it would have its memory here several times.
    pub(super) async fn guarded<F: Future + Unpin>(
        &self,
        down: &mut HttpStream,
        by: Moment,
        mut doing: F,
    ) -> Result<Option<F::Output>, Stop> {
        let watched = poll_fn(|cx| {
            if let Poll::Ready(done) = Pin::new(&mut doing).poll(cx) {
                return Poll::Ready(Ok(done));
            }
            down.poll_gone(cx, self.worker()).map(|error| Err(Stop::Downstream(error)))
        });
        match self.timer().until(by, watched).await {
            Ok(done) => done.map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// The failure of a request that waited too long for a stream on a shared connection.
fn no_turn() -> ConnectFailure {
    let detail = "no stream became available on the endpoint's connection in time".to_owned();
    ConnectFailure { why: upstream_reasons::CONNECT_TIMEOUT, errno: None, detail: Some(detail) }
}

/// How long a request may wait for a stream on a shared connection.
const OPEN_TIME: Duration = Duration::from_secs(5);
