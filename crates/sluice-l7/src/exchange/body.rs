//! The bodies of an exchange: in one direction, the other, or both at once.
//!
//! Owns: the pump between the two streams. Refuses to know: which version either side speaks, and why there is a retry.
//! Keeps: a side is read only when the other has taken what was read before; what is kept for a retry goes through
//! `Upload`, which bounds it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_codec::grpc::status_number;
use sluice_codec::{Body, ErrorKind, Frame, HttpError, HttpStream};
use sluice_core::Reason;
use sluice_core::limits::Limit;
use sluice_core::value::show_duration;

use super::deadlines::Deadline;
use super::pieces::{Piece, RequestHooks, ResponseHooks};
use super::upload::Next;
use super::{RequestTask, Stop};
use crate::errors::{self, At};
use crate::filters::BodyAccess;
use crate::reasons;
use crate::reply::Reply;

/// The most frames moved in one direction per poll, so that other tasks get a turn.
const BUDGET: u8 = 16;

/// Which side of an exchange failed.
#[derive(Debug)]
pub(super) enum FailedSide {
    /// The client's.
    Down(HttpError),
    /// The endpoint's.
    Up(HttpError),
    /// A filter replied.
    Reply(Box<Reply>),
}

/// The error of a tunnel that receives trailers: a tunnel carries only bytes, RFC 9113 §8.5, RFC 9114 §4.4.
fn fields_in_tunnel() -> HttpError {
    HttpError::coded(ErrorKind::Malformed(400), "http.fields_in_tunnel")
}

impl RequestTask {
    /// Reads the next piece of the request and shows it to the filters.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
    ) -> Poll<Result<Piece, FailedSide>> {
        let passed = if self.is_in_filters::<RequestHooks>() {
            ready!(self.poll_waiting::<RequestHooks>(cx))
        } else {
            let worker = Rc::clone(self.worker());
            let frame = match down.poll_recv(cx, &worker) {
                Poll::Pending => {
                    return match self.poll_addition::<RequestHooks>(cx) {
                        Poll::Pending => self.await_piece(),
                        Poll::Ready(added) => Poll::Ready(added.map_err(FailedSide::Reply)),
                    };
                }
                Poll::Ready(frame) => frame.map_err(FailedSide::Down)?,
            };
            self.deadlines.stop(Deadline::Body);
            match &frame {
                Frame::Data { body, .. } => self.summary.received += body.len() as u64,
                Frame::Trailers(_) if self.upload.is_tunnel() => {
                    return Poll::Ready(Err(FailedSide::Down(fields_in_tunnel())));
                }
                Frame::Trailers(_) | Frame::End => {}
            }
            ready!(self.poll_filters::<RequestHooks>(cx, frame))
        };
        let piece = passed.map_err(FailedSide::Reply)?;
        if !matches!(piece, Piece::Data(_, false)) {
            self.note_received();
        }
        Poll::Ready(Ok(piece))
    }

    /// Waits for the next piece of the request, until the body deadline; a tunnel has none.
    fn await_piece<T>(&mut self) -> Poll<T> {
        if !self.upload.is_tunnel() {
            self.deadlines.start_once(Deadline::Body, self.worker().now());
        }
        Poll::Pending
    }

    /// Notes that the request has been received completely.
    fn note_received(&mut self) {
        self.upload.end_received();
        self.summary.request_end = Some(self.worker().now().since(self.began));
    }

    /// Moves the request body to the endpoint as far as both sides allow; ready when the endpoint has taken all of it.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
        up: &mut HttpStream,
    ) -> Poll<Result<(), FailedSide>> {
        let worker = Rc::clone(self.worker());
        for _ in 0..BUDGET {
            let polled = up.poll_flushed(cx, &worker);
            if !self.upload.is_sent() {
                let waits = polled.is_pending();
                down.set_blocked(&worker, waits, up.is_shared()).map_err(FailedSide::Down)?;
            }
            ready!(polled).map_err(FailedSide::Up)?;
            match self.upload.next() {
                Next::Nothing => return Poll::Ready(Ok(())),
                Next::Send { bytes, last } => {
                    let body = Body::Shared(bytes);
                    up.send_data(cx, &worker, body, last).map_err(FailedSide::Up)?;
                }
                Next::End => {
                    let trailers = self.upload.trailers();
                    up.send_end(cx, &worker, trailers).map_err(FailedSide::Up)?;
                }
                Next::Read { keep } => ready!(self.poll_pass_on(cx, down, up, keep))?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Forwards the client's next piece; ready once a piece was forwarded.
    fn poll_pass_on(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
        up: &mut HttpStream,
        keep: bool,
    ) -> Poll<Result<(), FailedSide>> {
        let worker = Rc::clone(self.worker());
        if !keep
            && self.mirroring.is_none()
            && !self.is_in_filters::<RequestHooks>()
            && self.body_access::<RequestHooks>() == BodyAccess::None
        {
            match up.poll_take_from(cx, &worker, down) {
                Poll::Pending => return self.await_piece(),
                Poll::Ready(taken) => {
                    if let Some(taken) = taken.map_err(FailedSide::Down)? {
                        self.deadlines.stop(Deadline::Body);
                        self.summary.received += taken.count;
                        if taken.last {
                            self.note_received();
                        }
                        self.upload.pass();
                        if taken.last && up.is_sent() {
                            self.upload.end_sent(None);
                        }
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        match self.poll_piece(cx, down) {
            Poll::Pending => {
                up.push(cx, &worker).map_err(FailedSide::Up)?;
                return Poll::Pending;
            }
            Poll::Ready(piece) => match piece? {
                // A filter holds it back.
                Piece::Data(body, false) if body.is_empty() => {}
                Piece::Data(body, last) => {
                    let body = if keep || self.mirroring.is_some() {
                        let bytes = body.into_bytes();
                        self.mirror_piece(&bytes);
                        if keep {
                            self.upload.keep(&bytes, &worker.buffers);
                        } else {
                            self.upload.pass();
                        }
                        Body::Shared(bytes)
                    } else {
                        self.upload.pass();
                        body
                    };
                    if last {
                        self.finish_mirrors();
                    }
                    up.send_data(cx, &worker, body, last).map_err(FailedSide::Up)?;
                    if last {
                        self.upload.end_sent(None);
                    }
                }
                Piece::Trailers(trailers) => {
                    self.finish_mirrors();
                    up.send_end(cx, &worker, Some(&trailers)).map_err(FailedSide::Up)?;
                    self.upload.end_sent(Some(trailers));
                }
                Piece::End => {
                    self.finish_mirrors();
                    up.send_end(cx, &worker, None).map_err(FailedSide::Up)?;
                    self.upload.end_sent(None);
                }
            },
        }
        Poll::Ready(Ok(()))
    }

    /// Moves both bodies until the response is complete or, in a tunnel, until both sides have ended. The response
    /// headers have been sent.
    pub(super) async fn relay(
        &mut self,
        down: &mut HttpStream,
        up: &mut HttpStream,
        tunnel: bool,
    ) -> Result<(), Stop> {
        let worker = Rc::clone(self.worker());
        self.deadlines.start(Deadline::Idle, worker.now());
        let mut download = Download { done: false, upload_broken: false, flow: Backpressure::New };
        poll_fn(|cx| {
            let before = (self.summary.received, self.summary.sent);
            if let Poll::Ready(done) = self.poll_both(cx, down, up, tunnel, &mut download) {
                return Poll::Ready(done);
            }
            if before != (self.summary.received, self.summary.sent) {
                self.entry.count(self.summary.received, self.summary.sent);
                self.deadlines.start(Deadline::Idle, worker.now());
            }
            let (due, deadline) = self.deadlines.first();
            let timer = self.timer();
            timer.set(due);
            ready!(timer.poll(cx));
            Poll::Ready(Err(self.incomplete_by(deadline)))
        })
        .await
    }

    /// How the request ends if `deadline` expires before the response is complete.
    pub(super) fn incomplete_by(&self, deadline: Deadline) -> Stop {
        let timeout = self.deadlines.timeout(deadline).map_or_else(String::new, show_duration);
        let (reason, detail) = match deadline {
            Deadline::Total => {
                let name = self.deadlines.total_name();
                (
                    reasons::ROUTE_TIMEOUT,
                    format!("the response was not complete within `{name}` ({timeout})"),
                )
            }
            Deadline::Stream => (
                reasons::STREAM_DURATION,
                format!(
                    "the response was not complete within `max_stream_duration` of the cluster ({timeout})"
                ),
            ),
            Deadline::Body => {
                (reasons::BODY_TIMEOUT, "the client stopped sending its body".to_owned())
            }
            Deadline::RequestFilter | Deadline::ResponseFilter => {
                sluice_l4::metrics::count_limit(self.worker(), Limit::FilterWait);
                (sluice_l4::reasons::FILTER_TIMEOUT, self.late_filter(deadline))
            }
            // The response headers have been received, so the deadlines for them are stopped.
            Deadline::Idle | Deadline::Response | Deadline::Attempt | Deadline::AttemptIdle => {
                let name = self.deadlines.idle_name();
                (reasons::STREAM_IDLE, format!("no data was transferred for `{name}` ({timeout})"))
            }
        };
        Stop::Cut(reason, HttpError::new(ErrorKind::Cancelled, detail))
    }

    fn poll_both(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
        up: &mut HttpStream,
        tunnel: bool,
        download: &mut Download,
    ) -> Poll<Result<(), Stop>> {
        if !download.upload_broken {
            match self.poll_upload(cx, down, up) {
                Poll::Ready(Err(FailedSide::Down(error))) => {
                    return Poll::Ready(Err(Stop::Downstream(error)));
                }
                // The endpoint may still respond, without reading the rest of the request.
                Poll::Ready(Err(FailedSide::Up(_) | FailedSide::Reply(_))) => {
                    download.upload_broken = true
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if !download.done {
            let flow = &mut download.flow;
            download.done = matches!(self.poll_download(cx, down, up, flow)?, Poll::Ready(()));
        }
        let worker = Rc::clone(self.worker());
        // The exchange lasts until the client has taken the whole response; a tunnel lasts until both sides have ended,
        // so that each is notified of the other's end.
        if download.done
            && let Poll::Ready(flushed) = down.poll_flushed(cx, &worker)
        {
            flushed.map_err(Stop::Downstream)?;
            if !tunnel || self.upload.is_sent() || download.upload_broken {
                return Poll::Ready(Ok(()));
            }
        }
        match down.poll_gone(cx, &worker) {
            Poll::Ready(error) => Poll::Ready(Err(Stop::Downstream(error))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Moves the response body to the client as far as both sides allow; ready when it is complete.
    fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
        up: &mut HttpStream,
        flow: &mut Backpressure,
    ) -> Result<Poll<()>, Stop> {
        let worker = Rc::clone(self.worker());
        for _ in 0..BUDGET {
            let polled = down.poll_flushed(cx, &worker);
            let next = flow.after(polled.is_pending(), self.summary.sent > 0);
            if next != std::mem::replace(flow, next) {
                up.set_blocked(&worker, next == Backpressure::Blocked, down.is_shared())
                    .map_err(cut)?;
            }
            match polled {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(flushed) => flushed.map_err(Stop::Downstream)?,
            }
            if self.is_in_filters::<ResponseHooks>() {
                let Poll::Ready(passed) = self.poll_waiting::<ResponseHooks>(cx) else {
                    down.push(cx, &worker).map_err(Stop::Downstream)?;
                    return Ok(Poll::Pending);
                };
                let piece = passed.map_err(|why| self.cut_by_filter(why))?;
                if self.send_piece(cx, down, piece)? {
                    return Ok(Poll::Ready(()));
                }
                continue;
            }
            if self.body_access::<ResponseHooks>() == BodyAccess::None {
                match down.poll_take_from(cx, &worker, up) {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(Err(error)) => return Err(cut(error)),
                    Poll::Ready(Ok(Some(taken))) => {
                        self.summary.sent += taken.count;
                        if taken.last && down.is_sent() {
                            return Ok(Poll::Ready(()));
                        }
                        continue;
                    }
                    Poll::Ready(Ok(None)) => {}
                }
            }
            match up.poll_recv(cx, &worker) {
                Poll::Pending => {
                    let Poll::Ready(added) = self.poll_addition::<ResponseHooks>(cx) else {
                        down.push(cx, &worker).map_err(Stop::Downstream)?;
                        return Ok(Poll::Pending);
                    };
                    let piece = added.map_err(|why| self.cut_by_filter(why))?;
                    if self.send_piece(cx, down, piece)? {
                        return Ok(Poll::Ready(()));
                    }
                }
                Poll::Ready(Err(error)) => {
                    // Send what was received before the client is notified of the failure.
                    let _ = down.push(cx, &worker);
                    return Err(cut(error));
                }
                Poll::Ready(Ok(Frame::Trailers(_))) if self.upload.is_tunnel() => {
                    return Err(cut(fields_in_tunnel()));
                }
                Poll::Ready(Ok(frame)) => {
                    if let Frame::Trailers(trailers) = &frame {
                        self.note_trailers(trailers);
                    }
                    let Poll::Ready(passed) = self.poll_filters::<ResponseHooks>(cx, frame) else {
                        continue;
                    };
                    let piece = passed.map_err(|why| self.cut_by_filter(why))?;
                    if self.send_piece(cx, down, piece)? {
                        return Ok(Poll::Ready(()));
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Sends a piece of the response to the client; returns whether it was the last.
    fn send_piece(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
        piece: Piece,
    ) -> Result<bool, Stop> {
        let worker = Rc::clone(self.worker());
        let (sent, last) = match piece {
            // A filter holds it back.
            Piece::Data(body, false) if body.is_empty() => (Ok(()), false),
            Piece::Data(body, last) => {
                self.summary.sent += body.len() as u64;
                (down.send_data(cx, &worker, body, last), last)
            }
            Piece::Trailers(trailers) => {
                self.summary.grpc_status = status_number(&trailers).or(self.summary.grpc_status);
                (down.send_end(cx, &worker, Some(&trailers)), true)
            }
            Piece::End => (down.send_end(cx, &worker, None), true),
        };
        sent.map_err(Stop::Downstream)?;
        Ok(last)
    }

    /// The stop for a response that a filter cuts off.
    pub(super) fn cut_by_filter(&mut self, why: Reason) -> Stop {
        self.finish(why, "filter_cut_response");
        Stop::Cut(why, HttpError::new(ErrorKind::Cancelled, "a filter cut the response off"))
    }
}

/// The stop for a response that ended prematurely.
pub(super) fn cut(error: HttpError) -> Stop {
    let reason = errors::reason(error.kind(), At::Response);
    Stop::Cut(reason, error)
}

struct Download {
    done: bool,
    /// The endpoint accepts no more of the request.
    upload_broken: bool,
    flow: Backpressure,
}

/// Whether the client keeps up with the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backpressure {
    /// Nothing has been sent yet.
    New,
    /// The client has taken the last piece.
    Flows,
    /// The client has not taken all of the last piece.
    Blocked,
}

impl Backpressure {
    /// The next state; `waits` if earlier data is not flushed yet, `sent` if any data was sent at all.
    const fn after(self, waits: bool, sent: bool) -> Self {
        match (self, waits, sent) {
            (_, true, _) => Self::Blocked,
            (Self::New, false, false) => Self::New,
            _ => Self::Flows,
        }
    }
}

/// The error for a client that took too long to send its body.
pub(super) fn late() -> HttpError {
    HttpError::coded(ErrorKind::Timeout, "http.body_timeout")
}
