//! Whole responses, for filters that decide on them before the client gets anything.
//!
//! Owns: receiving the body of a response while the request may still be on its way. Refuses to know: which filter needs
//! the body, and why. Keeps: as long as nothing was sent to the client, whatever goes wrong is answered with a response;
//! every filter sees the body once.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use sluice_codec::{HttpStream, Known, Method};
use sluice_core::Moment;
use sluice_core::value::plural;

use super::body::FailedSide;
use super::deadlines::Deadline;
use super::download::cut;
use super::pieces::{Piece, PieceInFilters, ResponseHooks};
use super::whole::{Buffering, HeldMessage, NoRoom, announce, no_buffers};
use super::{RequestTask, Stop};
use crate::filters::BodyAccess;
use crate::reasons;
use crate::reply::Reply;

/// Where the body of a response comes from.
pub(super) enum ResponseBody<'a> {
    /// From an endpoint.
    Endpoint(&'a mut HttpStream),
    /// From Sluice, or a filter.
    Local(&'a mut Reply),
    /// There is none: what follows belongs to a tunnel.
    Tunnel,
}

impl RequestTask {
    /// Receives the whole response for a filter, and has it decide.
    pub(super) async fn buffer_response(
        &mut self,
        down: &mut HttpStream,
        from: &mut ResponseBody<'_>,
        asked: Buffering,
    ) -> Result<(), Stop> {
        match from {
            ResponseBody::Endpoint(up) => self.buffer_received(down, up, asked).await,
            ResponseBody::Local(reply) => self.buffer_local(down, reply, asked).await,
            ResponseBody::Tunnel => {
                let (mut body, mut trailers) = (Bytes::new(), None);
                self.decide_on_whole::<ResponseHooks>(down, asked, &mut body, &mut trailers).await
            }
        }
    }

    /// Whether the response has no body, whatever its headers say.
    fn is_bodiless(&self) -> bool {
        self.is_described() || self.response.status() == 204
    }

    /// Removes the length of a body that the filter did not see, and would have changed perhaps.
    fn forget_described_length(&mut self) {
        if self.is_described() {
            self.response.remove_known(Known::ContentLength);
        }
    }

    async fn buffer_local(
        &mut self,
        down: &mut HttpStream,
        reply: &mut Reply,
        asked: Buffering,
    ) -> Result<(), Stop> {
        let shown = self.method != Method::Head;
        let mut body = if shown { reply.body.clone() } else { Bytes::new() };
        let mut trailers = reply.trailers.take();
        self.decide_on_whole::<ResponseHooks>(down, asked, &mut body, &mut trailers).await?;
        if self.is_bodiless() {
            reply.body = Bytes::new();
            self.forget_described_length();
        } else {
            announce(&mut self.response, &body, trailers.is_some());
            (reply.body, reply.trailers) = (body, trailers);
        }
        Ok(())
    }

    async fn buffer_received(
        &mut self,
        down: &mut HttpStream,
        up: &mut HttpStream,
        asked: Buffering,
    ) -> Result<(), Stop> {
        let has_ended = up.is_received() && self.waiting_download.is_none();
        let seen = self.entered - asked.place;
        self.response_charge = None;
        let mut held = HeldMessage::new(self.worker());
        if !has_ended {
            self.receive_response(down, up, &asked, &mut held).await?;
        }
        let (mut body, mut trailers, mut charge) = held.into_parts();
        self.decide_on_whole::<ResponseHooks>(down, asked, &mut body, &mut trailers).await?;
        if self.is_bodiless() {
            self.forget_described_length();
            return Ok(());
        }
        announce(&mut self.response, &body, trailers.is_some());
        // If it ended with its headers, and still does, there is nothing for the filters that follow.
        if !(has_ended && body.is_empty() && trailers.is_none()) {
            charge.set(body.len()).map_err(|_| no_buffers())?;
            self.response_charge = Some(Box::new(charge));
            let piece = PieceInFilters::buffered(body, trailers, seen);
            self.waiting_download = Some(Box::new(piece));
        }
        Ok(())
    }

    /// Receives a response until it has ended, as it passes the filters that have seen its headers.
    async fn receive_response(
        &mut self,
        down: &mut HttpStream,
        up: &mut HttpStream,
        asked: &Buffering,
        held: &mut HeldMessage,
    ) -> Result<(), Stop> {
        let max = asked.max;
        let is_announced = self.response.content_length().is_some_and(|length| length > max as u64);
        if is_announced && self.body_access_from::<ResponseHooks>(0) != BodyAccess::Edit {
            return Err(self.too_large(asked));
        }
        let worker = Rc::clone(self.worker());
        self.deadlines.start(Deadline::Idle, worker.now());
        let mut upload_broken = false;
        loop {
            let piece = poll_fn(|cx| {
                if let Poll::Ready(piece) = self.poll_response(cx, down, up, &mut upload_broken) {
                    return Poll::Ready(piece);
                }
                if let Poll::Ready(error) = down.poll_gone(cx, &worker) {
                    return Poll::Ready(Err(Stop::Downstream(error)));
                }
                let (due, deadline) = self.deadlines.first();
                let timer = self.timer();
                timer.set(due);
                ready!(timer.poll(cx));
                Poll::Ready(Err(self.incomplete_by(deadline)))
            })
            .await?;
            match piece {
                Piece::Data(body, last) => {
                    held.add(body, max).map_err(|why| match why {
                        NoRoom::TooLarge => self.too_large(asked),
                        NoRoom::Buffers => no_buffers(),
                    })?;
                    if last {
                        break;
                    }
                }
                Piece::Trailers(trailers) => {
                    held.trailers = Some(trailers);
                    break;
                }
                Piece::End => break,
            }
        }
        self.deadlines.stop(Deadline::Idle);
        self.timer().set(Moment::NEVER);
        Ok(())
    }

    /// Moves the request on, and receives the next piece of the response.
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut HttpStream,
        up: &mut HttpStream,
        upload_broken: &mut bool,
    ) -> Poll<Result<Piece, Stop>> {
        let worker = Rc::clone(self.worker());
        let before = self.summary.received;
        if !*upload_broken {
            match self.poll_upload(cx, down, up) {
                Poll::Ready(Err(FailedSide::Down(error))) => {
                    return Poll::Ready(Err(Stop::Downstream(error)));
                }
                Poll::Ready(Err(FailedSide::Reply(reply))) => {
                    return Poll::Ready(Err(Stop::Reply(reply)));
                }
                // The endpoint may respond without reading the rest of the request.
                Poll::Ready(Err(FailedSide::Up(_))) => *upload_broken = true,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if before != self.summary.received {
            self.deadlines.start(Deadline::Idle, worker.now());
        }
        let passed = if self.is_in_filters::<ResponseHooks>() {
            ready!(self.poll_waiting::<ResponseHooks>(cx))
        } else {
            match up.poll_recv(cx, &worker) {
                Poll::Pending => ready!(self.poll_addition::<ResponseHooks>(cx)),
                Poll::Ready(frame) => {
                    let frame = frame.map_err(cut)?;
                    self.deadlines.start(Deadline::Idle, worker.now());
                    ready!(self.poll_filters::<ResponseHooks>(cx, frame))
                }
            }
        };
        Poll::Ready(passed.map_err(|why| self.cut_by_filter(why)))
    }

    /// The stop for a response that is larger than the filter allows.
    fn too_large(&mut self, asked: &Buffering) -> Stop {
        let Buffering { name, max, .. } = asked;
        self.note_filter_reply(name);
        let bound = plural(*max as u64, "byte");
        self.summary.detail = Some(format!("more than {bound} for the filter {name}").into());
        let why = reasons::RESPONSE_TOO_LARGE;
        let body = self.failure_body("the response is too large", why);
        Stop::reply(Reply::new(500, why, "response_payload_too_large", body))
    }
}
