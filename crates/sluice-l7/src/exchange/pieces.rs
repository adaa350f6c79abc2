//! Bodies and trailers on their way through the filters, in either direction.
//!
//! Owns: the piece that passes the filters, and the filter that it has reached. Refuses to know: where pieces come from
//! and go to. Keeps: one piece at a time in each direction, and the next is not read before it has passed; a filter that
//! makes a piece wait holds up its own direction only, and for a bounded time.

use std::task::{Context, Poll};

use bytes::Bytes;
use sluice_codec::{Body, Frame, Head, Known, Method};
use sluice_core::{LocalFuture, Reason};

use super::RequestTask;
use super::deadlines::Deadline;
use crate::filters::{BodyAccess, Cx, HttpFilter, PieceResume, PieceStep};
use crate::reply::Reply;

/// A piece of a message that has passed the filters.
pub(super) enum Piece {
    /// Data; `true` if nothing follows.
    Data(Body, bool),
    /// Trailers, which end the message.
    Trailers(Box<Head>),
    /// The end.
    End,
}

/// A direction, and the hooks that belong to it.
pub(super) trait PieceHooks {
    /// What a filter ends the message with.
    type End: 'static;

    /// Bounds the time that a filter makes a piece wait.
    const DEADLINE: Deadline;

    /// The piece that waits.
    fn waiting(task: &mut RequestTask) -> &mut Option<Box<PieceInFilters<Self::End>>>;

    /// The index of the filter that comes after `passed` others, of `count` in all.
    fn index(passed: usize, count: usize) -> usize;

    fn access(filter: &dyn HttpFilter, cx: &Cx<'_>) -> BodyAccess;

    fn body(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
    ) -> PieceStep<Body, Self::End>;

    fn trailers(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
    ) -> PieceStep<Head, Self::End>;
}

/// The request, from the client to the endpoint.
pub(super) struct RequestHooks;

impl PieceHooks for RequestHooks {
    type End = Box<Reply>;

    const DEADLINE: Deadline = Deadline::RequestFilter;

    fn waiting(task: &mut RequestTask) -> &mut Option<Box<PieceInFilters<Self::End>>> {
        &mut task.waiting_upload
    }

    fn index(passed: usize, _count: usize) -> usize {
        passed
    }

    fn access(filter: &dyn HttpFilter, cx: &Cx<'_>) -> BodyAccess {
        filter.request_body_access(cx)
    }

    fn body(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
    ) -> PieceStep<Body, Self::End> {
        filter.request_body(cx, body, last)
    }

    fn trailers(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
    ) -> PieceStep<Head, Self::End> {
        filter.request_trailers(cx, trailers)
    }
}

/// The response, in the reverse order of the filters.
pub(super) struct ResponseHooks;

impl PieceHooks for ResponseHooks {
    type End = Reason;

    const DEADLINE: Deadline = Deadline::ResponseFilter;

    fn waiting(task: &mut RequestTask) -> &mut Option<Box<PieceInFilters<Self::End>>> {
        &mut task.waiting_download
    }

    fn index(passed: usize, count: usize) -> usize {
        count - 1 - passed
    }

    fn access(filter: &dyn HttpFilter, cx: &Cx<'_>) -> BodyAccess {
        filter.response_body_access(cx)
    }

    fn body(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
    ) -> PieceStep<Body, Self::End> {
        filter.response_body(cx, body, last)
    }

    fn trailers(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
    ) -> PieceStep<Head, Self::End> {
        filter.response_trailers(cx, trailers)
    }
}

/// A piece and the filters that it has yet to pass.
pub(super) enum PieceInFilters<E> {
    /// Data; `last` if no more data follows, and then perhaps trailers. Filters before `from` have seen both.
    Data {
        body: Body,
        last: bool,
        trailers: Option<Box<Head>>,
        from: usize,
        walk: FilterWalk<Body, E>,
    },
    /// Trailers.
    Trailers { trailers: Box<Head>, walk: FilterWalk<Head, E> },
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
        Self::Data { body, last, trailers, from: 0, walk: FilterWalk::behind(0) }
    }

    /// A whole body that has passed the filters before `from`.
    pub(super) const fn buffered(body: Bytes, trailers: Option<Box<Head>>, from: usize) -> Self {
        let walk = FilterWalk::behind(from);
        Self::Data { body: Body::Shared(body), last: true, trailers, from, walk }
    }

    const fn trailers(trailers: Box<Head>, from: usize) -> Self {
        Self::Trailers { trailers, walk: FilterWalk::behind(from) }
    }

    /// The index of the filter that it has reached, of `count` in all.
    pub(super) fn place<D: PieceHooks>(&self, count: usize) -> usize {
        let (Self::Data { walk: FilterWalk { passed, .. }, .. }
        | Self::Trailers { walk: FilterWalk { passed, .. }, .. }) = self;
        D::index(*passed, count)
    }
}

impl RequestTask {
    /// What the filters do with the body of this direction.
    pub(super) fn body_access<D: PieceHooks>(&mut self) -> BodyAccess {
        let entered = 0..self.entered;
        let access = |place| self.with_filter(place, |filter, cx| D::access(filter, cx));
        entered.map(access).max().unwrap_or(BodyAccess::None)
    }

    /// Whether a filter from `from` on sees the body of the request.
    pub(super) fn is_seen_from(&mut self, from: usize) -> bool {
        let behind = from..self.entered;
        let access = |place| self.with_filter(place, |filter, cx| filter.request_body_access(cx));
        behind.map(access).any(|access| access != BodyAccess::None)
    }

    /// Removes the length from the head of a response if a filter may change the body, or `end` if it has none but says
    /// how long it would be.
    pub(super) fn repair_response_length(&mut self, end: bool) {
        let described = self.method == Method::Head || self.response.status() == 304;
        if (!end || described) && self.body_access::<ResponseHooks>() == BodyAccess::Edit {
            self.response.remove(Known::ContentLength.text().as_bytes());
        }
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
        let empty = || Body::Shared(Bytes::new());
        let piece = match frame {
            Frame::Data { body, last } => PieceInFilters::data(body, last, None),
            // A filter that holds parts of the body back learns of the end before the trailers.
            Frame::Trailers(trailers) if self.body_access::<D>() != BodyAccess::None => {
                PieceInFilters::data(empty(), true, Some(trailers))
            }
            Frame::Trailers(trailers) => PieceInFilters::trailers(trailers, 0),
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
                if self.poll_walk::<D>(cx, &mut piece)?.is_pending() {
                    *D::waiting(self) = Some(piece);
                    return Poll::Pending;
                }
                self.passed::<D>(cx, *piece)
            }
            None => Poll::Ready(Ok(Piece::End)),
        }
    }

    fn poll_piece_in_filters<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
        mut piece: PieceInFilters<D::End>,
    ) -> Poll<Result<Piece, D::End>> {
        if self.poll_walk::<D>(cx, &mut piece)?.is_pending() {
            *D::waiting(self) = Some(Box::new(piece));
            return Poll::Pending;
        }
        self.passed::<D>(cx, piece)
    }

    /// A piece that has passed all filters; data that is followed by trailers leaves them to be shown next.
    fn passed<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
        piece: PieceInFilters<D::End>,
    ) -> Poll<Result<Piece, D::End>> {
        Poll::Ready(Ok(match piece {
            PieceInFilters::Trailers { trailers, .. } => Piece::Trailers(trailers),
            PieceInFilters::Data { body, trailers: Some(trailers), from, .. } => {
                let trailers = PieceInFilters::trailers(trailers, from);
                if body.is_empty() {
                    return self.poll_piece_in_filters::<D>(cx, trailers);
                }
                *D::waiting(self) = Some(Box::new(trailers));
                Piece::Data(body, false)
            }
            PieceInFilters::Data { body, last: true, .. } if body.is_empty() => Piece::End,
            PieceInFilters::Data { body, last, .. } => Piece::Data(body, last),
        }))
    }

    fn poll_walk<D: PieceHooks>(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut PieceInFilters<D::End>,
    ) -> Result<Poll<()>, D::End> {
        match piece {
            PieceInFilters::Data { body, last, walk, .. } => {
                let last = *last;
                self.poll_walk_of::<D, _>(cx, walk, body, |filter, cx, body| {
                    match D::access(filter, cx) {
                        BodyAccess::None => PieceStep::Continue,
                        BodyAccess::Read | BodyAccess::Edit => D::body(filter, cx, body, last),
                    }
                })
            }
            PieceInFilters::Trailers { trailers, walk } => {
                self.poll_walk_of::<D, _>(cx, walk, trailers, D::trailers)
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
        while walk.passed < self.entered {
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
                PieceStep::Continue => walk.passed += 1,
                PieceStep::Stop(end) => {
                    let name = self.filters[place].name;
                    self.manager.count_filter_reply(name);
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
