//! Bodies and trailers on their way through the filters, in either direction.
//!
//! Owns: the piece that passes the filters, and the filter that it has reached. Refuses to know: where pieces come from
//! and go to. Keeps: one piece at a time in each direction, and the next is not read before it has passed; a filter that
//! makes a piece wait holds up its own direction only, and for a bounded time.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use sluice_codec::{Body, Frame, Head, Known, Method};
use sluice_core::LocalFuture;
use sluice_io::buffers::{Charge, SCRATCH};

use super::RequestTask;
use crate::filters::{BodyAccess, Cx, HttpFilter, PieceResume, PieceStep};

mod hooks;

pub(super) use hooks::{PieceHooks, RequestHooks, ResponseHooks};

/// A piece of a message that has passed the filters.
pub(super) enum Piece {
    /// Data; `true` if nothing follows.
    Data(Body, bool),
    /// Trailers, which end the message.
    Trailers(Box<Head>),
    /// The end.
    End,
}

/// A piece and the filters that it has yet to pass.
pub(super) enum PieceInFilters<E> {
    /// Data; `last` if no more data follows, and then perhaps trailers. Filters before `from` have seen both. The `rest` of
    /// a piece that was divided follows.
    Data {
        body: Body,
        last: bool,
        trailers: Option<Box<Head>>,
        from: usize,
        walk: FilterWalk<Body, E>,
        rest: Option<Box<Self>>,
        /// Counts what was held until it has passed.
        charge: Option<Charge>,
    },
    /// Trailers; `own` if the message has them, rather than the filters that may add some.
    Trailers { trailers: Box<Head>, own: bool, walk: FilterWalk<Head, E> },
}

/// How far a piece has got.
pub(super) struct FilterWalk<T, E> {
    passed: usize,
    /// What the next filter waits for.
    later: Option<LocalFuture<PieceResume<T, E>>>,
}

impl<T, E> FilterWalk<T, E> {
    const fn behind(passed: usize) -> Self {
        Self { passed, later: None }
    }
}

impl<E> PieceInFilters<E> {
    const fn data(body: Body, last: bool, trailers: Option<Box<Head>>) -> Self {
        let walk = FilterWalk::behind(0);
        Self::Data { body, last, trailers, from: 0, walk, rest: None, charge: None }
    }

    /// The start of a body that has passed `from` filters.
    pub(super) fn start(body: Bytes, from: usize, charge: Charge) -> Self {
        let (body, walk, charge) = (Body::Shared(body), FilterWalk::behind(from), Some(charge));
        Self::Data { body, last: false, trailers: None, from, walk, rest: None, charge }
    }

    /// What has passed `from` filters of a body, before a piece that has not.
    pub(super) fn start_before(body: Bytes, from: usize, charge: Charge, then: Box<Self>) -> Self {
        let mut start = Self::start(body, from, charge);
        if let Self::Data { rest, .. } = &mut start {
            *rest = Some(then);
        }
        start
    }

    /// A whole body that has passed `from` filters.
    pub(super) fn buffered(body: Bytes, trailers: Option<Box<Head>>, from: usize) -> Self {
        let walk = FilterWalk::behind(from);
        let body = Body::Shared(body);
        Self::Data { body, last: true, trailers, from, walk, rest: None, charge: None }
    }

    /// Takes the first part off data that is larger than a stream takes at once, as that of a filter may be.
    fn split(&mut self) -> Option<Body> {
        let Self::Data { body, .. } = self else { return None };
        if body.len() <= SCRATCH {
            return None;
        }
        let mut bytes = std::mem::replace(body, Body::Shared(Bytes::new())).into_bytes();
        let first = bytes.split_to(SCRATCH);
        *body = Body::Shared(bytes);
        Some(Body::Shared(first))
    }

    const fn trailers(trailers: Box<Head>, own: bool, from: usize) -> Self {
        Self::Trailers { trailers, own, walk: FilterWalk::behind(from) }
    }

    /// The number of filters that it has passed.
    pub(super) const fn passed(&self) -> usize {
        let (Self::Data { walk: FilterWalk { passed, .. }, .. }
        | Self::Trailers { walk: FilterWalk { passed, .. }, .. }) = self;
        *passed
    }

    /// The index of the filter that it has reached, of `count` in all.
    pub(super) fn place<D: PieceHooks>(&self, count: usize) -> usize {
        D::index(self.passed(), count)
    }
}

impl RequestTask {
    /// What the filters do with the body of this direction.
    pub(super) fn body_access<D: PieceHooks>(&mut self) -> BodyAccess {
        self.body_access_from::<D>(0)
    }

    /// What the filters do with the body of this direction, without the first `from` that it passes.
    pub(super) fn body_access_from<D: PieceHooks>(&mut self, from: usize) -> BodyAccess {
        let (reach, count) = (D::reach(self), self.entered);
        let access = |passed| {
            let place = D::index(passed, count);
            self.with_filter(place, |filter, cx| D::access(filter, cx))
        };
        (from..reach).map(access).max().unwrap_or(BodyAccess::None)
    }

    /// Removes the length from the head of a response if a filter may still change the body, or `end` if it has none but
    /// says how long it would be.
    pub(super) fn repair_response_length(&mut self, end: bool) {
        let from = self.waiting_download.as_ref().map_or(0, |buffered| buffered.passed());
        let removes = (!end || self.is_described())
            && self.body_access_from::<ResponseHooks>(from) == BodyAccess::Edit;
        if removes {
            self.response.remove_known(Known::ContentLength);
        }
    }

    /// Whether the response has no body, and its headers may describe one.
    pub(super) fn is_described(&self) -> bool {
        self.method == Method::Head || self.response.status() == 304
    }

    /// Whether a piece of this direction is still in the filters.
    pub(super) fn is_in_filters<D: PieceHooks>(&mut self) -> bool {
        D::waiting(self).is_some()
    }

    /// Shows the filters what was received.
    pub(super) fn poll_filters<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
        frame: Frame,
    ) -> Poll<Result<Piece, D::End>> {
        if D::reach(self) == 0 {
            return Poll::Ready(Ok(match frame {
                Frame::Data { body, last: true } if body.is_empty() => Piece::End,
                Frame::Data { body, last } => Piece::Data(body, last),
                Frame::Trailers(trailers) => Piece::Trailers(trailers),
                Frame::End => Piece::End,
            }));
        }
        let empty = || Body::Shared(Bytes::new());
        let piece = match frame {
            Frame::Data { body, last } => PieceInFilters::data(body, last, None),
            // A filter that holds parts of the body back learns of the end before the trailers.
            Frame::Trailers(trailers) if self.body_access::<D>() != BodyAccess::None => {
                PieceInFilters::data(empty(), true, Some(trailers))
            }
            Frame::Trailers(trailers) => PieceInFilters::trailers(trailers, true, 0),
            Frame::End if self.body_access::<D>() != BodyAccess::None => {
                PieceInFilters::data(empty(), true, None)
            }
            Frame::End => return Poll::Ready(Ok(Piece::End)),
        };
        self.poll_piece_in_filters::<D>(cx, piece)
    }

    /// Continues with the piece that is still in the filters.
    pub(super) fn poll_waiting<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Piece, D::End>> {
        match D::waiting(self).take() {
            Some(mut piece) => {
                self.divide::<D>(&mut piece);
                if self.poll_walk::<D>(cx, &mut piece)?.is_pending() {
                    *D::waiting(self) = Some(piece);
                    return Poll::Pending;
                }
                self.passed::<D>(cx, *piece)
            }
            None => Poll::Ready(Ok(Piece::End)),
        }
    }

    /// Shows the filters what one of them adds to the body while nothing is received.
    pub(super) fn poll_addition<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Piece, D::End>> {
        let (reach, count) = (D::reach(self), self.entered);
        let adds = |passed: &usize| {
            self.with_filter(D::index(*passed, count), |filter, hook_cx| {
                D::access(filter, hook_cx) == BodyAccess::Edit
                    && D::poll_addition(filter, hook_cx, cx).is_ready()
            })
        };
        let Some(passed) = (0..reach).find(adds) else { return Poll::Pending };
        let mut piece = PieceInFilters::data(Body::Shared(Bytes::new()), false, None);
        if let PieceInFilters::Data { walk, .. } = &mut piece {
            walk.passed = passed;
        }
        self.poll_piece_in_filters::<D>(cx, piece)
    }

    fn poll_piece_in_filters<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
        mut piece: PieceInFilters<D::End>,
    ) -> Poll<Result<Piece, D::End>> {
        self.divide::<D>(&mut piece);
        if self.poll_walk::<D>(cx, &mut piece)?.is_pending() {
            *D::waiting(self) = Some(Box::new(piece));
            return Poll::Pending;
        }
        self.passed::<D>(cx, piece)
    }

    /// Divides data that has not reached a filter yet, if it is more than some filter takes at once.
    fn divide<D: PieceHooks>(&mut self, piece: &mut PieceInFilters<D::End>) {
        let PieceInFilters::Data { body, last, trailers, from, walk, rest, charge } = piece else {
            return;
        };
        if walk.passed > *from || walk.later.is_some() || rest.is_some() || body.is_empty() {
            return;
        }
        let (reach, count) = (D::reach(self), self.entered);
        let limits = (*from..reach).map(|passed| {
            let place = D::index(passed, count);
            self.with_filter(place, |filter, cx| D::piece_max(filter, cx))
        });
        let Some(max) = limits.min().filter(|max| body.len() > *max) else { return };
        // Without a buffer for a part, it passes whole.
        let Ok(part) = self.worker().buffers.copy(&body[..max.max(1)]) else { return };
        let remainder = match std::mem::replace(body, Body::Pooled(part)) {
            Body::Pooled(mut buf) => {
                buf.consume(max.max(1));
                Body::Pooled(buf)
            }
            Body::Shared(bytes) => Body::Shared(bytes.slice(max.max(1)..)),
        };
        let walk = FilterWalk::behind(*from);
        let (last, trailers) = (std::mem::take(last), trailers.take());
        *rest = Some(Box::new(PieceInFilters::Data {
            body: remainder,
            last,
            trailers,
            from: *from,
            walk,
            rest: None,
            charge: charge.take(),
        }));
    }

    /// A piece that has passed all filters; data that is followed by trailers leaves them to be shown next.
    fn passed<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
        mut piece: PieceInFilters<D::End>,
    ) -> Poll<Result<Piece, D::End>> {
        if let Some(first) = piece.split() {
            *D::waiting(self) = Some(Box::new(piece));
            return Poll::Ready(Ok(Piece::Data(first, false)));
        }
        Poll::Ready(Ok(match piece {
            PieceInFilters::Trailers { trailers, own: false, .. } if trailers.is_empty() => {
                self.manager.shared.head_pool.give(trailers);
                Piece::End
            }
            PieceInFilters::Trailers { trailers, .. } => Piece::Trailers(trailers),
            PieceInFilters::Data { body, rest: Some(rest), .. } => {
                *D::waiting(self) = Some(rest);
                Piece::Data(body, false)
            }
            PieceInFilters::Data { body, trailers: Some(trailers), from, .. } => {
                let trailers = PieceInFilters::trailers(trailers, true, from);
                if body.is_empty() {
                    return self.poll_piece_in_filters::<D>(cx, trailers);
                }
                *D::waiting(self) = Some(Box::new(trailers));
                Piece::Data(body, false)
            }
            PieceInFilters::Data { body, last: true, from, .. } => {
                return self.poll_end::<D>(cx, body, from);
            }
            PieceInFilters::Data { body, last: false, .. } => Piece::Data(body, false),
        }))
    }

    /// Ends a message that has no trailers with the last piece of its body, unless filters behind the first `from` add
    /// some.
    fn poll_end<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
        body: Body,
        from: usize,
    ) -> Poll<Result<Piece, D::End>> {
        let mut last = true;
        if self.body_access_from::<D>(from) == BodyAccess::Edit {
            let none = self.manager.shared.head_pool.take();
            let mut trailers = PieceInFilters::trailers(none, false, from);
            if self.poll_walk::<D>(cx, &mut trailers)?.is_pending() {
                *D::waiting(self) = Some(Box::new(trailers));
                if body.is_empty() {
                    return Poll::Pending;
                }
                return Poll::Ready(Ok(Piece::Data(body, false)));
            }
            match trailers {
                PieceInFilters::Trailers { trailers, .. } if trailers.is_empty() => {
                    self.manager.shared.head_pool.give(trailers);
                }
                PieceInFilters::Trailers { trailers, .. } if body.is_empty() => {
                    return Poll::Ready(Ok(Piece::Trailers(trailers)));
                }
                added => {
                    *D::waiting(self) = Some(Box::new(added));
                    last = false;
                }
            }
        }
        Poll::Ready(Ok(if last && body.is_empty() { Piece::End } else { Piece::Data(body, last) }))
    }

    fn poll_walk<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut PieceInFilters<D::End>,
    ) -> Result<Poll<()>, D::End> {
        match piece {
            PieceInFilters::Data { body, last, trailers, from, walk, rest, charge } => loop {
                let is_last = *last;
                self.hook.again = false;
                self.hook.trailers = trailers.take();
                let walked = self.poll_walk_of::<D, _>(cx, walk, body, |filter, cx, body| {
                    match D::access(filter, cx) {
                        BodyAccess::None => PieceStep::Continue,
                        BodyAccess::Read | BodyAccess::Edit => D::body(filter, cx, body, is_last),
                    }
                });
                *trailers = self.hook.trailers.take();
                if walked.is_err() || !std::mem::take(&mut self.hook.again) {
                    return walked;
                }
                // The filter that has just been passed is called once more, before what follows of the message.
                let behind = PieceInFilters::Data {
                    body: Body::Shared(Bytes::new()),
                    last: std::mem::take(last),
                    trailers: trailers.take(),
                    from: *from,
                    walk: FilterWalk::behind(walk.passed - 1),
                    rest: rest.take(),
                    charge: charge.take(),
                };
                *rest = Some(Box::new(behind));
            },
            PieceInFilters::Trailers { trailers, own, walk } => {
                let own = *own;
                loop {
                    self.hook.again = false;
                    let walked = self.poll_walk_of::<D, _>(cx, walk, trailers, |filter, cx, it| {
                        // Only a filter that edits the message may be the first to add some.
                        if !own && it.is_empty() && D::access(filter, cx) != BodyAccess::Edit {
                            return PieceStep::Continue;
                        }
                        D::trailers(filter, cx, it)
                    });
                    if walked.is_err() || !self.hook.again {
                        return walked;
                    }
                }
            }
        }
    }

    fn poll_walk_of<D: PieceHooks, T>(
        &mut self,
        cx: &mut Context<'_>,
        walk: &mut FilterWalk<T, D::End>,
        piece: &mut T,
        hook: impl Fn(&dyn HttpFilter, &mut Cx<'_>, &mut T) -> PieceStep<T, D::End>,
    ) -> Result<Poll<()>, D::End> {
        while walk.passed < D::reach(self) {
            let place = D::index(walk.passed, self.entered);
            let step = match &mut walk.later {
                None => self.with_filter(place, |filter, cx| hook(filter, cx, piece)),
                Some(later) => {
                    let Poll::Ready(resume) = later.as_mut().poll(cx) else {
                        return Ok(Poll::Pending);
                    };
                    walk.later = None;
                    self.deadlines.stop(D::DEADLINE);
                    self.note_side_calls();
                    self.with_filter(place, |_, cx| resume(cx, piece))
                }
            };
            match step {
                PieceStep::Continue => {
                    walk.passed += 1;
                    if self.hook.again {
                        return Ok(Poll::Ready(()));
                    }
                }
                PieceStep::Stop(end) => {
                    let name = Rc::clone(&self.filters[place].name);
                    self.note_filter_reply(&name);
                    return Err(end);
                }
                PieceStep::Wait(later) => {
                    walk.later = Some(later);
                    self.deadlines.start(D::DEADLINE, self.worker().now());
                }
            }
        }
        Ok(Poll::Ready(()))
    }
}
