//! Bodies that are received while a filter decides on the headers of their request.
//!
//! Owns: the wait, and what passes the filters during it. Refuses to know: what the filter waits for. Keeps: what is held is
//! bounded and counted; the filters behind see the headers first, and every piece once.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sluice_codec::HttpStream;
use sluice_core::{LocalFuture, Moment};

use super::body::{FailedSide, late};
use super::buffering::{Buffered, overdue, too_large};
use super::deadlines::Deadline;
use super::pieces::{Piece, PieceInFilters, RequestHooks};
use super::whole::{HeldMessage, NoRoom, announce, no_buffers};
use super::{RequestTask, Stop, filter_wait};
use crate::filters::HeadResume;

/// A filter that waits.
#[derive(Clone, Debug)]
pub(super) struct Meanwhile {
    pub(super) place: usize,
    pub(super) name: Rc<str>,
    /// The most bytes that are held.
    pub(super) max: usize,
}

/// What happened first.
enum WhileWaiting {
    Decided(HeadResume),
    Piece(Result<Piece, FailedSide>),
    Due(Deadline),
}

impl RequestTask {
    /// Waits for the filter, and receives the body meanwhile.
    pub(super) async fn receive_while(
        &mut self,
        down: &mut HttpStream,
        buffered: &mut Option<Buffered>,
        asked: Meanwhile,
        mut later: LocalFuture<HeadResume>,
    ) -> Result<HeadResume, Stop> {
        let has_ended = self.upload.is_received() && buffered.is_none();
        if has_ended || self.has_no_body() {
            return self.await_filter(down, &asked.name, later).await;
        }
        self.continue_here(down).await?;
        if let Some(buffered) = buffered {
            self.receive_again(buffered.seen);
        }
        let worker = Rc::clone(self.worker());
        let by = worker.now().after(filter_wait(&worker));
        let mut held = HeldMessage::new(&worker);
        let resume = loop {
            let next = poll_fn(|cx| {
                if let Poll::Ready(resume) = later.as_mut().poll(cx) {
                    return Poll::Ready(WhileWaiting::Decided(resume));
                }
                if !self.upload.is_received()
                    && let Poll::Ready(piece) = self.poll_piece(cx, down)
                {
                    return Poll::Ready(WhileWaiting::Piece(piece));
                }
                let (due, deadline) = self.deadlines.first();
                let (due, deadline) =
                    if by < due { (by, Deadline::RequestFilter) } else { (due, deadline) };
                let timer = self.timer();
                timer.set(due);
                timer.poll(cx).map(|()| WhileWaiting::Due(deadline))
            });
            match next.await {
                WhileWaiting::Decided(resume) => break resume,
                WhileWaiting::Due(Deadline::Body) => return Err(Stop::Downstream(late())),
                WhileWaiting::Due(deadline @ Deadline::RequestFilter) => {
                    return Err(self.filter_timed_out(deadline));
                }
                WhileWaiting::Due(_) => return Err(overdue()),
                WhileWaiting::Piece(Err(FailedSide::Down(error) | FailedSide::Up(error))) => {
                    return Err(Stop::Downstream(error));
                }
                WhileWaiting::Piece(Err(FailedSide::Reply(reply))) => {
                    return Err(Stop::Reply(reply));
                }
                WhileWaiting::Piece(Ok(Piece::Data(body, _))) => {
                    held.add(body, asked.max).map_err(|why| match why {
                        NoRoom::TooLarge => too_large(),
                        NoRoom::Buffers => no_buffers(),
                    })?;
                }
                WhileWaiting::Piece(Ok(Piece::Trailers(trailers))) => {
                    held.trailers = Some(trailers)
                }
                WhileWaiting::Piece(Ok(Piece::End)) => {}
            }
        };
        self.timer().set(Moment::NEVER);
        self.note_side_calls();
        self.pass_on(buffered, asked, held);
        Ok(resume)
    }

    /// What came out of the filters is what those behind see first.
    fn pass_on(&mut self, buffered: &mut Option<Buffered>, asked: Meanwhile, held: HeldMessage) {
        let seen = asked.place + 1;
        let has_ended = self.upload.is_received() && !self.is_in_filters::<RequestHooks>();
        let (body, trailers, charge) = held.into_parts();
        if has_ended {
            let max = buffered.map_or(asked.max, |buffered| buffered.max).max(body.len());
            announce(&mut self.request, &body, trailers.is_some());
            self.upload.buffered(body, trailers, charge);
            *buffered = Some(Buffered { seen, max });
            return;
        }
        *buffered = None;
        if !body.is_empty() {
            let start = match self.waiting_upload.take() {
                Some(then) => PieceInFilters::start_before(body, seen, charge, then),
                None => PieceInFilters::start(body, seen, charge),
            };
            self.waiting_upload = Some(Box::new(start));
        }
    }
}
