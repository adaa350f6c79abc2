//! The whole body of a request, for a filter that needs it before anything is forwarded.
//!
//! Owns: the size limit, and the `content-length` that the request has afterwards. Refuses to know: which filter needs
//! the body, and why. Keeps: a client that waits for `100 Continue` gets it from here, since no endpoint has been asked
//! yet.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use sluice_codec::{Head, HttpStream, Known};
use sluice_core::Moment;

use super::body::{FailedSide, late};
use super::deadlines::Deadline;
use super::pieces::{Piece, PieceInFilters};
use super::{RequestTask, Stop};
use crate::reasons;
use crate::reply::Reply;

impl RequestTask {
    /// Reads the whole body for a filter that needs it, and sets `content-length`.
    pub(super) async fn read_whole(
        &mut self,
        down: &mut HttpStream,
        max: usize,
    ) -> Result<(), Stop> {
        if self.request.content_length().is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        self.continue_here(down).await?;
        self.collect(down, max).await
    }

    /// Shows the buffered body to the filters from `from` on, which had not seen the headers when it was received.
    pub(super) async fn show_buffered(
        &mut self,
        down: &mut HttpStream,
        from: usize,
        max: usize,
    ) -> Result<(), Stop> {
        let trailers = self.upload.trailers().is_some() && from < self.entered;
        if !trailers && !self.is_seen_from(from) {
            return Ok(());
        }
        let Some((body, trailers)) = self.upload.take_buffered() else { return Ok(()) };
        let piece = PieceInFilters::buffered(body, trailers, from);
        self.waiting_upload = Some(Box::new(piece));
        self.collect(down, max).await
    }

    /// Collects what passes the filters until the body has ended.
    async fn collect(&mut self, down: &mut HttpStream, max: usize) -> Result<(), Stop> {
        let mut all = BytesMut::new();
        while !self.upload.is_received() {
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
                Ok(Ok(Piece::Data(body, _))) => {
                    if all.len() + body.len() > max {
                        return Err(too_large());
                    }
                    all.extend_from_slice(&body);
                }
                Ok(Ok(Piece::Trailers(trailers))) => self.upload.set_trailers(trailers),
                Ok(Ok(Piece::End)) => {}
            }
        }
        self.timer().set(Moment::NEVER);
        let length = all.len();
        if self.upload.trailers().is_none()
            && (length > 0 || self.request.content_length().is_some())
        {
            let length = length.to_string();
            self.request.set(Known::ContentLength.text().as_bytes(), length.as_bytes());
        }
        self.upload.buffered(all.freeze());
        Ok(())
    }

    /// Sends `100 Continue` to a client that expects it, since no endpoint has been asked yet.
    async fn continue_here(&mut self, down: &mut HttpStream) -> Result<(), Stop> {
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

fn too_large() -> Stop {
    let body = "the request body is too large\n";
    let reply = Reply::new(413, reasons::BODY_TOO_LARGE, "request_payload_too_large", body);
    Stop::reply(reply.closing())
}

/// The reply if the deadline of the exchange passed before the request was forwarded.
fn overdue() -> Stop {
    let body = "the request body was not received in time\n";
    Stop::reply(Reply::new(504, reasons::ROUTE_TIMEOUT, "request_overall_timeout", body))
}
