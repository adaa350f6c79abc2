//! Requests that Sluice responds to itself, and requests that end early.
//!
//! Owns: local responses, and how a stream without a response ends. Refuses to know: why a request ends; it is given a
//! [`Stop`]. Keeps: a request has one reason, the first; a response that cannot be completed is reset, never ended as
//! if it were complete.

use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::h1::H1Stream;
use sluice_codec::h3::H3Stream;
use sluice_codec::h3::frame::code;
use sluice_codec::{Body, Head, HttpError, HttpStream, Known, Method, Version};
use sluice_core::Reason;
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::settings::Verbatim;
use sluice_io::timers::Timer;
use sluice_l4::metrics::count_limit;

use super::deadlines::Deadline;
use super::response_buffering::ResponseBody;
use super::{RequestTask, Stop};
use crate::attempts::Departure;
use crate::connection_manager::ConnectionManager;
use crate::errors::{self, At};
use crate::reasons;
use crate::reply::Reply;

impl RequestTask {
    /// Ends a request that is not served normally.
    pub(super) async fn stop(&mut self, stream: &mut HttpStream, stop: Stop) {
        match stop {
            Stop::Reply(reply) => {
                if reply.reason == reasons::MALFORMED {
                    self.summary.detail = Some(reply.details.as_ref().into());
                }
                self.answer(stream, reply).await;
            }
            Stop::Downstream(error) => {
                let reason = errors::reason(error.kind(), At::Client);
                if let Some(status) = error.status()
                    && !stream.is_head_sent()
                {
                    self.manager.count_protocol_error(&error);
                    self.summary.detail = Some(error.detail().into());
                    let code = error.code_or_detail();
                    let reply = Reply::new(status, reason, code.to_owned(), format!("{code}\n"));
                    return self.answer(stream, Box::new(reply.closing())).await;
                }
                self.finish(reason, "downstream_remote_disconnect");
                self.summary.detail = Some(error.detail().into());
                stream.reset(true);
            }
            Stop::Cut(reason, error) => {
                let is_begun = stream.is_head_sent();
                self.finish(reason, cut_details(reason, is_begun));
                self.summary.detail = Some(error.detail().into());
                if is_begun {
                    return stream.reset(false);
                }
                // The response was held back for a filter, or waited for one.
                let body = self.failure_body("the response was not complete", reason);
                let details = self.summary.details.clone();
                let reply = Reply::new(cut_status(reason), reason, details, body);
                self.answer(stream, Box::new(reply)).await;
            }
        }
    }

    /// Refuses a request for which the worker has no memory, in such a way that the client may repeat it.
    pub(super) async fn turn_away(&mut self, stream: &mut HttpStream) {
        count_limit(self.worker(), Limit::WorkerBuffers);
        self.summary.detail = Some(NO_MEMORY.into());
        if stream.is_shared() {
            self.finish(reasons::MEMORY, "overload");
            return stream.refuse();
        }
        let text = self.failure_body("too many requests in flight", reasons::MEMORY);
        self.stop(stream, Stop::reply(Reply::new(503, reasons::MEMORY, "overload", text))).await;
    }

    /// Sends a local response.
    async fn answer(&mut self, stream: &mut HttpStream, mut reply: Box<Reply>) {
        // What was received of another response is not sent any more.
        (self.waiting_download, self.response_charge) = (None, None);
        let is_endpoints = self.has_response && self.summary.response_start.is_some();
        let received = is_endpoints.then(|| self.response.status());
        loop {
            self.summary.reason = Some(reply.reason);
            self.summary.details = reply.details.clone();
            self.has_response = true;
            self.summary.local_text = Some(reply.plain_text());
            self.rewrite_reply(&mut reply);
            if !reply.apply_to(&mut self.response, self.grpc) {
                reply.body.clear();
            }
            // For the filters, which may replace it.
            self.summary.status = self.response.status();
            match self.filter_response(stream, ResponseBody::Local(&mut reply)).await {
                Ok(None) => {}
                Ok(Some(other)) | Err(Stop::Reply(other)) => {
                    reply = other;
                    continue;
                }
                // The client left while a filter was deciding.
                Err(Stop::Downstream(error) | Stop::Cut(_, error)) => {
                    self.summary.detail.get_or_insert_with(|| error.detail().into());
                    self.summary.status = 0;
                    return stream.reset(true);
                }
            }
            let close =
                reply.close || !stream.is_received() || self.downstream.is_ending(self.worker());
            self.summary.status = self.response.status();
            self.note_grpc_status_of_head();
            self.advertise();
            if let Some(status) = &self.manager.plan.options.proxy_status {
                status.note_reply(&self.summary, received, &mut self.response);
            }
            let worker = Rc::clone(self.worker());
            let has_body = !reply.body.is_empty() && self.method != Method::Head;
            let end = !has_body && reply.trailers.is_none();
            let mut sent = stream.send_head(&worker, &self.response, end, close);
            if sent.is_ok() {
                let mut body = has_body.then(|| Body::Shared(reply.body.clone()));
                self.summary.sent = body.as_ref().map_or(0, |body| body.len() as u64);
                sent = poll_fn(|cx| {
                    ready!(stream.poll_flushed(cx, &worker))?;
                    let last = reply.trailers.is_none();
                    if let Some(body) = body.take() {
                        stream.send_data(cx, &worker, body, last)?;
                        if last {
                            return Poll::Ready(Ok(()));
                        }
                        ready!(stream.poll_flushed(cx, &worker))?;
                    }
                    Poll::Ready(stream.send_end(cx, &worker, reply.trailers.as_deref()))
                })
                .await;
                // HTTP/1 also flushes between requests, but an HTTP/2 stream does not outlive its exchange.
                let idle = self.deadlines.timeout(Deadline::Idle).or(self
                    .manager
                    .plan
                    .options
                    .idle_timeout);
                let by = worker.now().after_bound(idle);
                let flushing = poll_fn(|cx| stream.poll_flushed(cx, &worker));
                if let Ok(Err(error)) = self.timer().until(by, flushing).await {
                    sent = Err(error);
                }
            }
            if let Err(error) = sent {
                // The cause of the response is a better detail than the error of a client that did not wait for it.
                self.summary.detail.get_or_insert_with(|| error.detail().into());
            }
            return;
        }
    }

    /// Advertises HTTP/3 on the port that the client connected to, RFC 7838 §3, unless a filter has set `alt-svc`.
    pub(super) fn advertise(&mut self) {
        let wanted = self.manager.plan.options.advertise_h3
            && self.summary.version != Version::Http3
            && self.downstream.conn.info.tls.get().is_some()
            && self.response.get(Known::AltSvc).is_none();
        if let (true, Some(local)) = (wanted, self.downstream.conn.info.destination().socket()) {
            let value = format!("h3=\":{}\"; ma=86400", local.port());
            self.response.append_known(Known::AltSvc, value.as_bytes());
        }
    }

    /// Makes a reply look as the connection manager is told, before filters see it.
    fn rewrite_reply(&mut self, reply: &mut Reply) {
        let Some(replies) = self.manager.plan.options.local_replies.clone() else { return };
        // The page of a filter is what is wanted for it.
        if reply.keeps_headers {
            return;
        }
        reply.apply_to(&mut self.response, false);
        self.summary.status = reply.status;
        let rule = replies.rule(&self.view());
        if let Some(rule) = rule {
            if let Some(Verbatim(text)) = &rule.text {
                reply.body = Bytes::copy_from_slice(text.as_bytes());
                self.summary.local_text = Some(reply.body.clone());
            }
            rule.reply_headers(&self.view()).apply_to(reply);
            reply.status = rule.status.unwrap_or(reply.status);
            reply.apply_to(&mut self.response, false);
            self.summary.status = reply.status;
        }
        let content_type = reply.take_content_type();
        replies.write_body(rule, &self.view(), reply);
        if let Some(content_type) = content_type {
            reply.content_type = content_type.into();
        }
    }

    /// Notes why the request ended; the first reason wins.
    pub(super) fn finish(&mut self, reason: Reason, details: impl Into<Cow<'static, str>>) {
        if self.summary.reason.is_none() {
            self.summary.reason = Some(reason);
            self.summary.details = details.into();
        }
    }
}

/// The status in place of a response that cannot be completed, if none of it was sent.
fn cut_status(reason: Reason) -> u16 {
    if reason == reasons::BODY_TIMEOUT {
        408
    } else if reason == end::ENDPOINT_REMOVED {
        503
    } else if [
        reasons::STREAM_IDLE,
        reasons::STREAM_DURATION,
        reasons::ROUTE_TIMEOUT,
        sluice_l4::reasons::FILTER_TIMEOUT,
    ]
    .contains(&reason)
    {
        504
    } else {
        502
    }
}

/// Why a response was cut short, or replaced before it had begun, in Envoy's words where Envoy has any.
fn cut_details(reason: Reason, is_begun: bool) -> &'static str {
    if reason == reasons::STREAM_IDLE {
        "stream_idle_timeout"
    } else if reason == reasons::STREAM_DURATION {
        "upstream_max_stream_duration_reached"
    } else if reason == reasons::ROUTE_TIMEOUT {
        "max_duration_timeout"
    } else if reason == reasons::BODY_TIMEOUT {
        "request_body_timeout"
    } else if reason == sluice_l4::reasons::FILTER_TIMEOUT {
        "filter_timeout"
    } else if reason == end::ENDPOINT_REMOVED {
        Departure::Removed.details()
    } else if reason == end::ENDPOINT_UNHEALTHY {
        Departure::Unhealthy.details()
    } else if !is_begun {
        "upstream_reset_before_response_started"
    } else {
        "upstream_reset_after_response_started"
    }
}

/// Responds to an HTTP/1 message that could not be read as a request.
pub(crate) async fn refuse(manager: &ConnectionManager, h1: &mut H1Stream, error: &HttpError) {
    let Some(status) = error.status() else { return };
    let code = error.code_or_detail();
    let reply = Reply::new(status, reasons::MALFORMED, code.to_owned(), format!("{code}\n"));
    let head = refusal_head(manager, &reply);
    let body = Body::Shared(reply.body.clone());
    let worker = &manager.worker;
    // An error, here or below, means that the client has gone; the response is lost with it.
    let _ = h1.send_head(worker, &head, false, true);
    let mut body = Some(body);
    let _ = poll_fn(|cx| {
        let Some(body) = body.take() else { return Poll::Ready(Ok(())) };
        Poll::Ready(h1.send_data(cx, worker, body, true))
    })
    .await;
}

fn refusal_head(manager: &ConnectionManager, reply: &Reply) -> Head {
    let mut head = Head::default();
    reply.apply_to(&mut head, false);
    if let Some(status) = &manager.plan.options.proxy_status {
        status.note_refusal(reply.reason, &mut head);
    }
    head
}

/// Responds on an HTTP/3 stream on which no request could be read, if the request was too large or too late; resets any
/// other with the code for a malformed message, RFC 9114 §4.1.2.
pub(crate) async fn refuse_stream(
    manager: &ConnectionManager,
    stream: &mut H3Stream,
    status: u16,
    error: &HttpError,
) {
    if !matches!(status, 408 | 431) {
        return stream.reset(code::MESSAGE_ERROR);
    }
    let code = error.code_or_detail();
    let reply = Reply::new(status, reasons::MALFORMED, code.to_owned(), format!("{code}\n"));
    let head = refusal_head(manager, &reply);
    if stream.send_head(&head, false).is_err() {
        return stream.reset(code::INTERNAL_ERROR);
    }
    let mut body = Some(Body::Shared(reply.body.clone()));
    let by = manager.worker.now().after(REFUSAL_TIME);
    let sending = poll_fn(|cx| {
        if let Some(body) = body.take() {
            stream.send_data(cx, body, true)?;
        }
        stream.poll_flushed(cx)
    });
    // An error means that the client has gone; the response is lost with it.
    let _ = Timer::new(&manager.worker.timers).until(by, sending).await;
}

/// Why a request is turned away.
const NO_MEMORY: &str =
    "`limits.worker_buffer_bytes`, or `process_buffer_bytes`, leaves no memory to further requests";

/// How long sending a refusal may take.
const REFUSAL_TIME: Duration = Duration::from_secs(5);
