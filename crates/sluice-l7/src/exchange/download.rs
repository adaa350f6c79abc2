//! The body of a response on its way to the client.
//!
//! Owns: the pump in that direction, and whether the client keeps up with it. Refuses to know: the other direction, and
//! which version either side speaks. Keeps: the endpoint is read only when the client has taken what was read before.

use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_codec::grpc::status_number;
use sluice_codec::{ErrorKind, Frame, HttpError, HttpStream};
use sluice_core::Reason;

use super::pieces::{Piece, ResponseHooks};
use super::{RequestTask, Stop};
use crate::errors::{self, At};
use crate::filters::BodyAccess;

/// The most frames moved in one direction per poll, so that other tasks get a turn.
pub(super) const BUDGET: u8 = 16;

/// How far the response has come.
pub(super) struct Download {
    pub(super) done: bool,
    /// The endpoint accepts no more of the request.
    pub(super) upload_broken: bool,
    pub(super) flow: Backpressure,
}

/// Whether the client keeps up with the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backpressure {
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

/// The error of a tunnel that receives trailers: a tunnel carries only bytes, RFC 9113 §8.5, RFC 9114 §4.4.
pub(super) fn fields_in_tunnel() -> HttpError {
    HttpError::coded(ErrorKind::Malformed(400), "http.fields_in_tunnel")
}

/// The stop for a response that ended prematurely.
pub(super) fn cut(error: HttpError) -> Stop {
    let reason = errors::reason(error.kind(), At::Response);
    Stop::Cut(reason, error)
}

impl RequestTask {
    /// Moves the response body to the client as far as both sides allow; ready when it is complete.
    pub(super) fn poll_download(
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
