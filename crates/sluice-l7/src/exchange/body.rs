//! The bodies of an exchange: one way, the other, or both at once.
//!
//! Owns: what was kept of a request for another try, the pump between two streams.
//! Refuses to know: which version either side speaks, and why there is another try.
//! Keeps: a side is read only when the other has taken what was read before; what is kept is bounded.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_codec::{Body, ErrorKind, Frame, Head, HttpError, HttpStream, Known};
use sluice_core::Moment;
use sluice_core::value::show_duration;
use sluice_io::buffers::{BufPool, Charge};

use super::{RequestTask, Stop};
use crate::filters::{Cx, HttpFilter, Step};
use crate::reasons;
use crate::reply::Reply;

/// Frames of one direction in one poll; then others get their turn.
const BUDGET: u8 = 16;

/// Pieces of a body that are kept for another attempt; a client that sends more and smaller ones gets one attempt.
const PIECES_MAX: usize = 1024;

/// Bytes below which a piece is copied to be kept.
const SMALL: usize = 1024;

/// The request's body as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// Pieces that have come, while all of them are kept.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// What is kept counts towards the worker's buffers.
    kept_charge: Option<Charge>,
    /// How many bytes are kept at most; nothing is kept where it is 0.
    pub(super) keep_max: usize,
    /// More came than is kept: there is no other try.
    pub(super) forgotten: bool,
    /// It is bytes, and no message.
    tunnel: bool,
    /// Everything has come.
    whole: bool,
    trailers: Option<Box<Head>>,
    /// Pieces of `kept` that this try has sent.
    sent: usize,
    /// This try has sent everything.
    pub(super) done: bool,
    /// When the client's next piece is due; set while it is waited for.
    due: Option<Moment>,
}

/// Which side of an exchange failed.
#[derive(Debug)]
pub(super) enum FailedSide {
    /// The client's.
    Down(HttpError),
    /// The endpoint's.
    Up(HttpError),
    /// A filter answers.
    Reply(Box<Reply>),
}

/// A piece of a request.
enum UploadPiece {
    Data(Body, bool),
    Trailers(Box<Head>),
    End,
}

impl Upload {
    /// Of a request whose head has come; `whole` says that it has no body.
    pub(super) fn new(whole: bool) -> Self {
        Self { whole, ..Self::default() }
    }

    /// Whether nothing follows the head.
    pub(super) fn is_empty(&self) -> bool {
        self.whole && self.kept.is_empty() && self.trailers.is_none()
    }

    /// Whether everything has come.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Of a tunnel: bytes that end when the client says so, and are never sent twice.
    pub(super) fn of_tunnel() -> Self {
        Self { forgotten: true, tunnel: true, ..Self::default() }
    }

    /// Begins from the start for another try.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.done = self.is_empty();
    }

    /// Keeps a piece for another attempt, as long as all of them are few, small enough together, and the worker has
    /// room for them.
    fn keep(&mut self, bytes: &Bytes, buffers: &BufPool) {
        if self.forgotten {
            return;
        }
        self.kept_bytes += bytes.len();
        let charge = self.kept_charge.get_or_insert_with(|| buffers.charge());
        let fits = self.kept_bytes <= self.keep_max && self.kept.len() < PIECES_MAX;
        if fits && charge.set(self.kept_bytes).is_ok() {
            // A small piece may be part of a large buffer, which it would hold.
            let small = bytes.len() < SMALL;
            self.kept.push(if small { Bytes::copy_from_slice(bytes) } else { bytes.clone() });
            self.sent = self.kept.len();
        } else {
            self.forgotten = true;
            self.kept = Vec::new();
            self.kept_charge = None;
            self.sent = 0;
        }
    }
}

/// What ends a tunnel in which fields come: bytes have no trailers, RFC 9113 §8.5, RFC 9114 §4.4.
fn fields_in_tunnel() -> HttpError {
    HttpError::new(ErrorKind::Malformed(400), "http.fields_in_tunnel")
}

impl RequestTask {
    /// Reads the next piece of the request and shows it to the filters.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
    ) -> Poll<Result<UploadPiece, FailedSide>> {
        let worker = Rc::clone(self.worker());
        let frame = match down.poll_recv(cx, &worker) {
            Poll::Pending => return self.await_piece(),
            Poll::Ready(frame) => frame.map_err(FailedSide::Down)?,
        };
        Poll::Ready(Ok(match frame {
            Frame::Data { mut body, last } => {
                if let Some(reply) = self.show_request_body(&mut body, last) {
                    return Poll::Ready(Err(FailedSide::Reply(reply)));
                }
                self.received(body.len() as u64, last);
                UploadPiece::Data(body, last)
            }
            Frame::Trailers(_) if self.upload.tunnel => {
                return Poll::Ready(Err(FailedSide::Down(fields_in_tunnel())));
            }
            Frame::Trailers(mut trailers) => {
                for place in 0..self.entered {
                    self.with_filter(place, |filter, cx| {
                        filter.request_trailers(cx, &mut trailers)
                    });
                }
                self.received(0, true);
                UploadPiece::Trailers(trailers)
            }
            Frame::End => {
                self.received(0, true);
                UploadPiece::End
            }
        }))
    }

    /// Waits for the next piece of the request, for which there is a time.
    fn await_piece<T>(&mut self) -> Poll<T> {
        let due = self.worker().now().after(self.manager.plan.options.body_timeout);
        self.upload.due.get_or_insert(due);
        Poll::Pending
    }

    /// Counts a piece of the request that has come.
    fn received(&mut self, count: u64, last: bool) {
        self.upload.due = None;
        self.summary.received += count;
        if last {
            self.upload.whole = true;
            self.summary.request_end = Some(self.worker().now().since(self.began));
        }
    }

    /// Whether no filter wants to see a body.
    fn nobody_wants(&mut self, wants: impl Fn(&dyn HttpFilter, &Cx<'_>) -> bool) -> bool {
        (0..self.entered).all(|place| !self.with_filter(place, |filter, cx| wants(filter, cx)))
    }

    fn show_request_body(&mut self, body: &mut Body, last: bool) -> Option<Box<Reply>> {
        for place in 0..self.entered {
            let step = self.with_filter(place, |filter, cx| {
                if filter.wants_request_body(cx) {
                    filter.request_body(cx, body, last)
                } else {
                    Step::Continue
                }
            });
            if let Step::Reply(reply) = step {
                return Some(reply);
            }
        }
        None
    }

    /// Reads the whole body for a filter that wants it, and states its length.
    pub(super) async fn read_whole(
        &mut self,
        down: &mut HttpStream,
        max: usize,
    ) -> Result<(), Stop> {
        let too_large = || {
            let body = "the body of the request is too large\n";
            let reply = Reply::new(413, reasons::BODY_TOO_LARGE, "request_payload_too_large", body);
            Stop::reply(reply.closing())
        };
        if self.request.content_length().is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        self.continue_here(down).await?;
        let mut all = BytesMut::new();
        while !self.upload.whole {
            let piece = poll_fn(|cx| match self.poll_piece(cx, down) {
                Poll::Ready(piece) => Poll::Ready(Some(piece)),
                Poll::Pending => {
                    let due = self.upload.due.unwrap_or(Moment::NEVER);
                    let timer = self.timer();
                    timer.set(due);
                    timer.poll(cx).map(|()| None)
                }
            })
            .await;
            match piece {
                None => return Err(Stop::Downstream(late())),
                Some(Err(FailedSide::Down(error) | FailedSide::Up(error))) => {
                    return Err(Stop::Downstream(error));
                }
                Some(Err(FailedSide::Reply(reply))) => return Err(Stop::Reply(reply)),
                Some(Ok(UploadPiece::Data(body, _))) => {
                    if all.len() + body.len() > max {
                        return Err(too_large());
                    }
                    all.extend_from_slice(&body);
                }
                Some(Ok(UploadPiece::Trailers(trailers))) => self.upload.trailers = Some(trailers),
                Some(Ok(UploadPiece::End)) => {}
            }
        }
        self.timer().set(Moment::NEVER);
        let length = all.len();
        if length > 0 {
            self.upload.kept = vec![all.freeze()];
            self.upload.kept_bytes = length;
        }
        if self.upload.trailers.is_none() && (length > 0 || self.request.content_length().is_some())
        {
            let length = length.to_string();
            self.request.set(Known::ContentLength.text().as_bytes(), length.as_bytes());
        }
        self.upload.rewind();
        Ok(())
    }

    /// Tells a client that waits for it to go on, since the endpoint is not asked yet.
    async fn continue_here(&mut self, down: &mut HttpStream) -> Result<(), Stop> {
        if !self.request.remove(b"expect") || self.upload.whole {
            return Ok(());
        }
        let worker = Rc::clone(self.worker());
        let head = Head::response(100);
        let told = down.send_head(&worker, &head, false, false);
        told.map_err(Stop::Downstream)?;
        poll_fn(|cx| Poll::Ready(down.push(cx, &worker))).await.map_err(Stop::Downstream)
    }

    /// Moves the request's body to the endpoint as far as both sides allow; ready when the endpoint has
    /// taken all of it.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
        up: &mut HttpStream,
    ) -> Poll<Result<(), FailedSide>> {
        let worker = Rc::clone(self.worker());
        for _ in 0..BUDGET {
            let polled = up.poll_flushed(cx, &worker);
            if !self.upload.done {
                let waits = polled.is_pending();
                down.set_blocked(&worker, waits, up.is_shared()).map_err(FailedSide::Down)?;
            }
            ready!(polled).map_err(FailedSide::Up)?;
            if self.upload.done {
                return Poll::Ready(Ok(()));
            }
            let upload = &mut self.upload;
            if let Some(piece) = upload.kept.get(upload.sent) {
                upload.sent += 1;
                let last =
                    upload.whole && upload.sent == upload.kept.len() && upload.trailers.is_none();
                let body = Body::Shared(piece.clone());
                up.send_data(cx, &worker, body, last).map_err(FailedSide::Up)?;
                upload.done = last;
                continue;
            }
            if upload.whole {
                let trailers = upload.trailers.as_deref();
                up.send_end(cx, &worker, trailers).map_err(FailedSide::Up)?;
                upload.done = true;
                continue;
            }
            let keeps = upload.keep_max > 0 && !upload.forgotten;
            if !keeps && self.nobody_wants(|filter, cx| filter.wants_request_body(cx)) {
                match up.poll_take_from(cx, &worker, down) {
                    Poll::Pending => return self.await_piece(),
                    Poll::Ready(taken) => {
                        if let Some(taken) = taken.map_err(FailedSide::Down)? {
                            self.received(taken.count, taken.last);
                            self.upload.forgotten = true;
                            self.upload.done = taken.last && up.is_sent();
                            continue;
                        }
                    }
                }
            }
            match self.poll_piece(cx, down) {
                Poll::Pending => {
                    up.push(cx, &worker).map_err(FailedSide::Up)?;
                    return Poll::Pending;
                }
                Poll::Ready(Err(side)) => return Poll::Ready(Err(side)),
                Poll::Ready(Ok(UploadPiece::Data(body, last))) => {
                    let body = if keeps {
                        let bytes = body.into_bytes();
                        self.upload.keep(&bytes, &worker.buffers);
                        Body::Shared(bytes)
                    } else {
                        self.upload.forgotten = true;
                        body
                    };
                    up.send_data(cx, &worker, body, last).map_err(FailedSide::Up)?;
                    self.upload.done = last;
                }
                Poll::Ready(Ok(UploadPiece::Trailers(trailers))) => {
                    up.send_end(cx, &worker, Some(&trailers)).map_err(FailedSide::Up)?;
                    self.upload.trailers = Some(trailers);
                    self.upload.done = true;
                }
                Poll::Ready(Ok(UploadPiece::End)) => {
                    up.send_end(cx, &worker, None).map_err(FailedSide::Up)?;
                    self.upload.done = true;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// When the client's next piece is due; never while none is waited for.
    pub(super) fn body_due(&self) -> Moment {
        self.upload.due.unwrap_or(Moment::NEVER)
    }

    /// Moves both bodies until the answer is complete; of a tunnel, until both sides have finished.
    /// The head of the answer has been sent.
    pub(super) async fn relay(
        &mut self,
        down: &mut HttpStream,
        up: &mut HttpStream,
        tunnel: bool,
    ) -> Result<(), Stop> {
        let (worker, idle) = (Rc::clone(self.worker()), self.idle_timeout);
        let mut download = Download { done: false, upload_broken: false, flow: Backpressure::New };
        poll_fn(|cx| {
            let before = (self.summary.received, self.summary.sent);
            if let Poll::Ready(done) = self.poll_both(cx, down, up, tunnel, &mut download) {
                return Poll::Ready(done);
            }
            let now = worker.now();
            if before != (self.summary.received, self.summary.sent) || self.idle_at == Moment::NEVER
            {
                self.entry.count(self.summary.received, self.summary.sent);
                self.idle_at = now.after_bound(idle);
            }
            let body_due = if tunnel { Moment::NEVER } else { self.body_due() };
            let due = self.idle_at.min(self.total_at).min(body_due);
            let timer = self.timer();
            timer.set(due);
            ready!(timer.poll(cx));
            let shown = |bound: Option<Duration>| bound.map_or_else(String::new, show_duration);
            let (reason, detail) = if self.total_at <= now {
                let bound = shown(self.total_timeout);
                (reasons::ROUTE_TIMEOUT, format!("not complete within `timeout.total` ({bound})"))
            } else if body_due <= now {
                (reasons::BODY_TIMEOUT, "the client sent no more of its body".to_owned())
            } else {
                let bound = shown(idle);
                (reasons::STREAM_IDLE, format!("no byte moved for `timeout.idle` ({bound})"))
            };
            Poll::Ready(Err(Stop::Cut(reason, HttpError::new(ErrorKind::Cancelled, detail))))
        })
        .await
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
                // It may answer all the same, and need not read to the end for it.
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
        // The exchange lasts until the client has taken all of its answer; a tunnel, until both have
        // ended, and each hears of the end of the other.
        if download.done
            && let Poll::Ready(flushed) = down.poll_flushed(cx, &worker)
        {
            flushed.map_err(Stop::Downstream)?;
            if !tunnel || self.upload.done || download.upload_broken {
                return Poll::Ready(Ok(()));
            }
        }
        match down.poll_gone(cx, &worker) {
            Poll::Ready(error) => Poll::Ready(Err(Stop::Downstream(error))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Moves the answer's body to the client as far as both sides allow; ready when it is complete.
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
            if self.nobody_wants(|filter, cx| filter.wants_response_body(cx)) {
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
                    down.push(cx, &worker).map_err(Stop::Downstream)?;
                    return Ok(Poll::Pending);
                }
                Poll::Ready(Err(error)) => {
                    // What had come leaves before the client hears of the end.
                    let _ = down.push(cx, &worker);
                    return Err(cut(error));
                }
                Poll::Ready(Ok(Frame::Data { mut body, last })) => {
                    self.show_response_body(&mut body, last);
                    self.summary.sent += body.len() as u64;
                    down.send_data(cx, &worker, body, last).map_err(Stop::Downstream)?;
                    if last {
                        return Ok(Poll::Ready(()));
                    }
                }
                Poll::Ready(Ok(Frame::Trailers(_))) if self.upload.tunnel => {
                    return Err(cut(fields_in_tunnel()));
                }
                Poll::Ready(Ok(Frame::Trailers(mut trailers))) => {
                    for place in (0..self.entered).rev() {
                        self.with_filter(place, |filter, cx| {
                            filter.response_trailers(cx, &mut trailers);
                        });
                    }
                    self.note_grpc_status(&trailers);
                    let sent = down.send_end(cx, &worker, Some(&trailers));
                    sent.map_err(Stop::Downstream)?;
                    return Ok(Poll::Ready(()));
                }
                Poll::Ready(Ok(Frame::End)) => {
                    down.send_end(cx, &worker, None).map_err(Stop::Downstream)?;
                    return Ok(Poll::Ready(()));
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    fn show_response_body(&mut self, body: &mut Body, last: bool) {
        for place in (0..self.entered).rev() {
            self.with_filter(place, |filter, cx| {
                if filter.wants_response_body(cx) {
                    filter.response_body(cx, body, last);
                }
            });
        }
    }

    pub(super) fn note_grpc_status(&mut self, head: &Head) {
        let status = head.get(Known::GrpcStatus);
        let status = status.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        self.summary.grpc_status = status.or(self.summary.grpc_status);
    }
}

/// The answer ended before its end.
fn cut(error: HttpError) -> Stop {
    let reason = match error.kind() {
        ErrorKind::Malformed(_) | ErrorKind::Flood => reasons::UPSTREAM_PROTOCOL,
        _ => reasons::UPSTREAM_CUT,
    };
    Stop::Cut(reason, error)
}

struct Download {
    done: bool,
    /// The endpoint takes no more of the request.
    upload_broken: bool,
    flow: Backpressure,
}

/// Whether a client takes what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backpressure {
    /// Nothing was sent yet.
    New,
    /// It took the last piece.
    Flows,
    /// It has not taken all of the last piece.
    Blocked,
}

impl Backpressure {
    /// What it is, when what was sent before, if anything was, has left or has to wait.
    const fn after(self, waits: bool, sent: bool) -> Self {
        match (self, waits, sent) {
            (_, true, _) => Self::Blocked,
            (Self::New, false, false) => Self::New,
            _ => Self::Flows,
        }
    }
}

/// The client took too long for its body.
pub(super) fn late() -> HttpError {
    HttpError::new(ErrorKind::Malformed(408), "http.body_timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pieces: &[&'static [u8]], keep_max: usize, buffers: &BufPool) -> Upload {
        let mut upload = Upload { keep_max, ..Upload::new(false) };
        pieces.iter().for_each(|piece| upload.keep(&Bytes::from_static(piece), buffers));
        upload
    }

    #[test]
    fn what_is_kept_for_another_attempt_is_bounded_and_counted() {
        let buffers = BufPool::new(8 << 10);
        let upload = kept(&[b"abc", b"de"], 5, &buffers);
        assert_eq!((upload.forgotten, upload.kept.len(), buffers.bytes_out()), (false, 2, 5));
        drop(upload);
        assert_eq!(buffers.bytes_out(), 0);
        for forgotten in [
            kept(&[b"abc", b"def"], 5, &buffers),
            kept(&[&[0; 9 << 10]], 1 << 20, &buffers),
            kept(&vec![&b"x"[..]; PIECES_MAX + 1], 1 << 20, &buffers),
        ] {
            assert!(forgotten.forgotten && forgotten.kept.is_empty());
            assert_eq!(buffers.bytes_out(), 0);
        }
        assert!(!kept(&vec![&b"x"[..]; PIECES_MAX], 1 << 20, &buffers).forgotten);
    }
}
