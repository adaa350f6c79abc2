//! The response of an endpoint: waiting for its headers, and forwarding it.
//!
//! Owns: informational responses, upgrades, and what becomes of the connection afterwards. Refuses to know: whether
//! there is a retry. Keeps: a connection returns to its pool only between two messages.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};

use sluice_codec::grpc::status_number;
use sluice_codec::request_memory::charge_head;
use sluice_codec::{ErrorKind, HttpError, HttpStream, Known, Method, Version};
use sluice_core::Moment;

use super::attempt_error::AttemptError;
use super::body::{FailedSide, late};
use super::deadlines::Deadline;
use super::response_buffering::ResponseBody;
use super::upload::Upload;
use super::{RequestTask, Stop};
use crate::failed_attempt::{attempt_timed_out, failed_attempt, stream_too_long};
use crate::reasons;
use crate::reply::Reply;
use crate::upstream_stream::{RESPONSE_HEADS_MAX, UpstreamStream};

/// What was awaited of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AwaitedHead {
    /// The response headers have arrived.
    Received,
    /// The time for the attempt is over, and the endpoint has the whole request.
    Late,
}

impl RequestTask {
    /// Sends the available part of the request body, and waits for the response headers; if the attempt `hedges`, no
    /// longer than for its own time, after which it can go on.
    pub(super) async fn await_head(
        &mut self,
        down: &mut HttpStream,
        up: &mut UpstreamStream,
        hedges: bool,
    ) -> Result<AwaitedHead, AttemptError> {
        let worker = Rc::clone(self.worker());
        let mut broken: Option<HttpError> = None;
        let tunnel = self.request.upgrade().is_some() || self.method == Method::Connect;
        let forwards = self.summary.version != Version::Http10;
        let mut moved = self.moved();
        self.deadlines.start(Deadline::AttemptIdle, worker.now());
        for _ in 0..RESPONSE_HEADS_MAX {
            let received = poll_fn(|cx| {
                // Data after the headers of an upgrade or tunnel waits until the endpoint accepts it.
                if !tunnel && broken.is_none() {
                    match self.poll_upload(cx, down, &mut up.stream) {
                        Poll::Ready(Err(FailedSide::Down(error))) => {
                            return Poll::Ready(Err(Stop::Downstream(error).into()));
                        }
                        Poll::Ready(Err(FailedSide::Reply(reply))) => {
                            return Poll::Ready(Err(Stop::Reply(reply).into()));
                        }
                        // The endpoint may have responded before it stopped reading.
                        Poll::Ready(Err(FailedSide::Up(error))) => broken = Some(error),
                        Poll::Ready(Ok(())) | Poll::Pending => {}
                    }
                }
                // Push only now, so that the headers leave together with the available part of the body.
                if let Err(error) = up.stream.push(cx, &worker) {
                    broken.get_or_insert(error);
                }
                let polled = up.stream.poll_recv_head(cx, &worker, &mut self.response);
                if let Poll::Ready(received) = polled {
                    return Poll::Ready(Ok(Some(received)));
                }
                if let Poll::Ready(error) = down.poll_gone(cx, &worker) {
                    return Poll::Ready(Err(Stop::Downstream(error).into()));
                }
                if self.upload.is_sent() || tunnel {
                    self.deadlines.start_once(Deadline::Response, worker.now());
                }
                if moved != self.moved() {
                    moved = self.moved();
                    self.deadlines.start(Deadline::AttemptIdle, worker.now());
                }
                let (due, deadline) = self.deadlines.first();
                let timer = self.timer();
                timer.set(due);
                ready!(timer.poll(cx));
                if hedges && deadline == Deadline::Attempt && self.upload.is_sent() {
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Err(self.no_response_by(deadline)))
            })
            .await;
            let Some(received) = received? else { return Ok(AwaitedHead::Late) };
            if let Err(error) = received {
                let error = broken.take().unwrap_or(error);
                return Err(failed_attempt(&error, up.reused).into());
            }
            match self.response.status() {
                status @ 100..200 if status != 101 => {
                    self.deadlines.start(Deadline::AttemptIdle, worker.now());
                    let wanted = status != 100 || self.request.get(Known::Expect).is_some();
                    if wanted && forwards {
                        self.response.set_version(self.summary.version);
                        down.send_head(&worker, &self.response, false, false)
                            .map_err(Stop::Downstream)?;
                        poll_fn(|cx| Poll::Ready(down.push(cx, &worker)))
                            .await
                            .map_err(Stop::Downstream)?;
                    }
                }
                _ => {
                    let since = worker.now().since(self.began);
                    self.summary.response_start = Some(since);
                    return Ok(AwaitedHead::Received);
                }
            }
        }
        let error = HttpError::new(ErrorKind::Malformed(502), "too many interim responses");
        Err(failed_attempt(&error, false).into())
    }

    /// How much of the request has moved: what was received, and what was sent again.
    const fn moved(&self) -> (u64, usize) {
        (self.summary.received, self.upload.pieces_sent())
    }

    /// The error for a deadline that expires before the response headers are received.
    fn no_response_by(&mut self, deadline: Deadline) -> AttemptError {
        match deadline {
            Deadline::Body => Stop::Downstream(late()).into(),
            Deadline::Attempt => {
                attempt_timed_out("timeout.per_try", self.deadlines.timeout(deadline)).into()
            }
            Deadline::Stream => {
                stream_too_long(self.deadlines.timeout(deadline), self.late_status()).into()
            }
            Deadline::AttemptIdle => {
                let timeout = self.deadlines.timeout(deadline);
                attempt_timed_out("timeout.per_try_idle", timeout).into()
            }
            Deadline::RequestFilter | Deadline::ResponseFilter => {
                self.filter_timed_out(deadline).into()
            }
            // The idle deadline is not running yet.
            Deadline::Total | Deadline::Response | Deadline::Idle => {
                self.overall_timed_out().into()
            }
        }
    }

    /// Forwards the response, whose headers have been received.
    pub(super) async fn deliver(
        &mut self,
        down: &mut HttpStream,
        up: &mut UpstreamStream,
    ) -> Result<(), Stop> {
        let worker = Rc::clone(self.worker());
        self.deadlines.response_began();
        let status = self.response.status();
        let upgrades = self.request.upgrade().is_some();
        let tunnel = match up.version {
            _ if self.method == Method::Connect && !upgrades => (200..300).contains(&status),
            version if version.has_extended_connect() => upgrades && (200..300).contains(&status),
            _ => status == 101,
        };
        let asked = self.request.upgrade().unwrap_or_default();
        let agrees = !tunnel
            || !upgrades
            || self.handshake.answer(&mut self.response, asked, self.summary.version, up.version);
        if !agrees {
            up.stream.reset(true);
            let why = reasons::UPSTREAM_PROTOCOL;
            let detail = "the endpoint accepted an upgrade that was not requested";
            self.summary.detail = Some(format!("{}: {detail}", up.endpoint.name).into());
            let body = self.failure_body("the upgrade failed", why);
            return Err(Stop::reply(Reply::new(502, why, "upgrade_failed", body)));
        }
        if let Some(charge) = &mut self.charge
            && charge_head(charge, &self.response).is_err()
        {
            up.stream.reset(true);
            return Err(Stop::Cut(sluice_l4::reasons::BUFFERS, HttpError::buffers()));
        }
        self.note_grpc_status_of_head();
        self.has_response = true;
        // For the filters, which may replace it.
        self.summary.status = self.response.status();
        let body =
            if tunnel { ResponseBody::Tunnel } else { ResponseBody::Endpoint(&mut up.stream) };
        let filtered = self.filter_response(down, body).await;
        if let Some(stop) = filtered.map_or_else(Some, |reply| reply.map(Stop::Reply)) {
            up.stream.reset(true);
            self.summary.status = 0;
            return Err(stop);
        }
        if tunnel {
            self.upload = Upload::of_tunnel();
            self.deadlines.stop(Deadline::Body);
        }
        self.summary.status = self.response.status();
        self.advertise();
        if let Some(status) = &self.manager.plan.options.proxy_status {
            status.note_forwarded(&mut self.response);
        }
        let end = !tunnel && up.stream.is_received() && self.waiting_download.is_none();
        self.repair_response_length(end);
        let close = self.downstream.is_ending(&worker);
        let sent = down.send_head(&worker, &self.response, end, close);
        let relayed = match sent {
            // The response cannot be sent to this client.
            Err(error)
                if matches!(error.kind(), ErrorKind::Malformed(_)) && !down.is_head_sent() =>
            {
                self.summary.detail = Some(error.detail().into());
                let why = reasons::UPSTREAM_PROTOCOL;
                let text = self.failure_body("the response cannot be forwarded", why);
                Err(Stop::reply(Reply::new(502, why, "response_malformed", text)))
            }
            Err(error) => Err(Stop::Downstream(error)),
            Ok(()) if end && self.upload.is_sent() => {
                let pushed = poll_fn(|cx| Poll::Ready(down.push(cx, &worker))).await;
                pushed.map_err(Stop::Downstream)
            }
            Ok(()) => self.relay(down, &mut up.stream, tunnel).await,
        };
        self.timer().set(Moment::NEVER);
        if let Err(stop) = relayed {
            up.stream.reset(true);
            return Err(stop);
        }
        self.finish(reasons::VIA_UPSTREAM, "via_upstream");
        Ok(())
    }

    pub(super) fn note_grpc_status_of_head(&mut self) {
        self.summary.grpc_status = status_number(&self.response);
    }
}
