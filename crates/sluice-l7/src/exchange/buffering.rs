//! Whole requests and starts of bodies, for filters that decide on them before anything is forwarded.
//!
//! Owns: receiving the body of a request, or the start of it, and handing it back for the attempts. Refuses to know: which filter needs
//! the body, and why. Keeps: a client that waits for `100 Continue` gets it from here, since no endpoint has been asked
//! yet; every filter sees the body once.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use sluice_codec::{Head, HttpStream, Method};
use sluice_core::Moment;

use super::body::{FailedSide, late};
use super::deadlines::Deadline;
use super::pieces::{Piece, PieceInFilters, RequestHooks};
use super::whole::{Buffering, HeldMessage, NoRoom, announce, no_buffers};
use super::{RequestTask, Stop};
use crate::filters::{BodyAccess, BodyStart};
use crate::reasons;
use crate::reply::Reply;

/// A request that was received whole for a filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffered {
    /// The number of filters that have seen the body.
    pub(super) seen: usize,
    /// The most bytes of the body.
    pub(super) max: usize,
}

impl RequestTask {
    /// Receives the whole body for a filter, or continues with what was `buffered` for an earlier one, and has the filter
    /// decide.
    pub(super) async fn buffer_request(
        &mut self,
        down: &mut HttpStream,
        buffered: Option<Buffered>,
        asked: Buffering,
    ) -> Result<Buffered, Stop> {
        let (seen, max) = (asked.place + 1, asked.max);
        if self.request.content_length().is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        let tunnel = self.has_no_body();
        let mut held = HeldMessage::new(self.worker());
        if !tunnel {
            self.continue_here(down).await?;
            if let Some(buffered) = buffered {
                self.receive_again(buffered.seen);
            }
            self.collect(down, max, usize::MAX, &mut held).await?;
        }
        let (mut body, mut trailers, mut charge) = held.into_parts();
        self.decide_on_whole::<RequestHooks>(down, asked, &mut body, &mut trailers).await?;
        if !tunnel {
            announce(&mut self.request, &body, trailers.is_some());
            charge.set(body.len()).map_err(|_| no_buffers())?;
            let max = max.max(body.len());
            self.upload.buffered(body, trailers, charge);
            return Ok(Buffered { seen, max });
        }
        Ok(Buffered { seen, max })
    }

    /// Shows the buffered body to the filters that have not seen it, since they had not seen the headers when it was
    /// received.
    pub(super) async fn show_buffered(
        &mut self,
        down: &mut HttpStream,
        buffered: Buffered,
    ) -> Result<(), Stop> {
        let Buffered { seen, max } = buffered;
        let trailers = self.upload.trailers().is_some() && seen < self.entered;
        if !trailers && self.body_access_from::<RequestHooks>(seen) == BodyAccess::None {
            return Ok(());
        }
        self.receive_again(seen);
        let mut held = HeldMessage::new(self.worker());
        self.collect(down, max, usize::MAX, &mut held).await?;
        let (body, trailers, charge) = held.into_parts();
        announce(&mut self.request, &body, trailers.is_some());
        self.upload.buffered(body, trailers, charge);
        Ok(())
    }

    /// Receives the first `max` bytes of the body for the filter at `place`, unless it ends before. What was received
    /// is the next piece of the body for the filters behind.
    pub(super) async fn peek_request(
        &mut self,
        down: &mut HttpStream,
        buffered: &mut Option<Buffered>,
        place: usize,
        max: usize,
    ) -> Result<BodyStart, Stop> {
        if self.has_no_body() {
            return Ok(BodyStart { bytes: Bytes::new(), whole: true });
        }
        self.continue_here(down).await?;
        let bound = buffered.map(|buffered| {
            self.receive_again(buffered.seen);
            buffered.max
        });
        let mut held = HeldMessage::new(self.worker());
        // What is there already need not be cut.
        let enough = if bound.is_some() { usize::MAX } else { max };
        self.collect(down, bound.unwrap_or(usize::MAX), enough, &mut held).await?;
        let whole = self.upload.is_received();
        let (body, trailers, charge) = held.into_parts();
        let bytes = body.slice(..body.len().min(max));
        let start = BodyStart { whole: whole && bytes.len() == body.len(), bytes };
        let seen = place + 1;
        if whole {
            let max = bound.unwrap_or_default().max(body.len());
            announce(&mut self.request, &body, trailers.is_some());
            self.upload.buffered(body, trailers, charge);
            *buffered = Some(Buffered { seen, max });
        } else {
            self.waiting_upload = Some(Box::new(PieceInFilters::start(body, seen, charge)));
        }
        Ok(start)
    }

    /// Whether what follows the headers is not a body: that of an upgrade or tunnel.
    pub(super) fn has_no_body(&self) -> bool {
        self.request.upgrade().is_some() || self.method == Method::Connect
    }

    /// Has what was buffered pass the filters from `seen` on, as if it was received again.
    pub(super) fn receive_again(&mut self, seen: usize) {
        if let Some((body, trailers)) = self.upload.take_buffered() {
            self.waiting_upload = Some(Box::new(PieceInFilters::buffered(body, trailers, seen)));
        }
    }

    /// Collects what passes the filters until the body has ended, or there is `enough` of it.
    async fn collect(
        &mut self,
        down: &mut HttpStream,
        max: usize,
        enough: usize,
        held: &mut HeldMessage,
    ) -> Result<(), Stop> {
        while !self.upload.is_received() && held.len() < enough {
            let piece = poll_fn(|cx| match self.poll_piece(cx, down) {
                Poll::Ready(piece) => Poll::Ready(Ok(piece)),
                Poll::Pending => {
                    let (due, deadline) = self.deadlines.first();
                    let timer = self.timer();
                    timer.set(due);
                    timer.poll(cx).map(|()| Err(deadline))
                }
            })
            .await;
            match piece {
                Err(Deadline::Body) => return Err(Stop::Downstream(late())),
                Err(deadline @ Deadline::RequestFilter) => {
                    return Err(self.filter_timed_out(deadline));
                }
                Err(_) => return Err(overdue()),
                Ok(Err(FailedSide::Down(error) | FailedSide::Up(error))) => {
                    return Err(Stop::Downstream(error));
                }
                Ok(Err(FailedSide::Reply(reply))) => return Err(Stop::Reply(reply)),
                Ok(Ok(Piece::Data(body, _))) => held.add(body, max).map_err(|why| match why {
                    NoRoom::TooLarge => too_large(),
                    NoRoom::Buffers => no_buffers(),
                })?,
                Ok(Ok(Piece::Trailers(trailers))) => held.trailers = Some(trailers),
                Ok(Ok(Piece::End)) => {}
            }
        }
        self.timer().set(Moment::NEVER);
        Ok(())
    }

    /// Sends `100 Continue` to a client that expects it, since no endpoint has been asked yet.
    pub(super) async fn continue_here(&mut self, down: &mut HttpStream) -> Result<(), Stop> {
        if !self.request.remove(b"expect") || self.upload.is_received() {
            return Ok(());
        }
        let worker = Rc::clone(self.worker());
        let head = Head::response(100);
        let sent = down.send_head(&worker, &head, false, false);
        sent.map_err(Stop::Downstream)?;
        poll_fn(|cx| Poll::Ready(down.push(cx, &worker))).await.map_err(Stop::Downstream)
    }
}

pub(super) fn too_large() -> Stop {
    let body = "the request body is too large\n";
    let reply = Reply::new(413, reasons::BODY_TOO_LARGE, "request_payload_too_large", body);
    Stop::reply(reply.closing())
}

/// The reply if the deadline of the exchange passed before the request was forwarded.
pub(super) fn overdue() -> Stop {
    let body = "the request body was not received in time\n";
    Stop::reply(Reply::new(408, reasons::ROUTE_TIMEOUT, "max_duration_timeout", body))
}
