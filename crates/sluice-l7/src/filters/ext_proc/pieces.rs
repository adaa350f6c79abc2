//! Bodies and trailers, whole and piece by piece.
//!
//! Owns: what is sent of them in which mode, and what takes their place. Refuses to know: which answers fit. Keeps: what is
//! held of a body is bounded by `body_max` and counted; a piece that was sent is not passed on before its answer.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use sluice_codec::{Body, Head};

use super::changes::ChangedHead;
use super::link::{PartAnswered, ProcFailure, StreamTurn};
use super::machine::{AnswerPart, PieceEnd};
use super::messages::{BodyChange, CommonResponse};
use super::parts::{MessageSide, SentPart};
use super::question;
use super::settings::BodyMode;
use super::state::{OfProc, ProcRunning, side_of, with_state};
use crate::filters::{Cx, MessageEnd, PieceStep, WholeMessage, WholeStep};
use crate::reasons;
use crate::reply::Reply;

/// Ready if the service has sent a piece of a streamed body, or ended the conversation.
pub(super) fn poll_addition(
    of: Option<&OfProc>,
    side: MessageSide,
    task: &Context<'_>,
) -> Poll<()> {
    let link = of.and_then(|of| of.link.as_ref());
    match link.filter(|link| link.holds_body(side)) {
        Some(link) => link.poll_something(side, task),
        None => Poll::Pending,
    }
}

impl ProcRunning {
    /// Sends a whole body.
    pub(super) fn whole(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        whole: &mut WholeMessage,
        side: MessageSide,
    ) -> WholeStep {
        let asked = with_state(cx, |cx, of| {
            let part = question::body(side, whole.body.clone(), whole.trailers.is_none());
            let request = (side == MessageSide::Request).then_some(&*whole.head);
            self.ask(cx, of, side, request, SentPart::Body, part)
        });
        let Some(Some(answered)) = asked else { return WholeStep::Continue };
        let running = Rc::clone(self);
        WholeStep::wait(async move {
            let answered = answered.await;
            move |cx: &mut Cx<'_>, whole: &mut WholeMessage| {
                running.whole_answered(cx, whole, side, answered)
            }
        })
    }

    fn whole_answered(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        whole: &mut WholeMessage,
        side: MessageSide,
        answered: PartAnswered,
    ) -> WholeStep {
        let common = match self.expect(cx, side, answered, body_response) {
            Ok(common) => common,
            Err(step) => return step,
        };
        let CommonResponse { status, header_mutation, body_mutation, .. } = common;
        let of_what = match side {
            MessageSide::Request => ChangedHead::Request,
            MessageSide::Response => ChangedHead::Response,
        };
        if let Some(mutation) = header_mutation
            && let Err(failure) = self.change(cx, &mut whole.head, mutation, of_what)
        {
            return ended(self.failed(cx, side, failure));
        }
        if let Some(body) = body_mutation.and_then(|of| replaced(of.mutation)) {
            whole.body = body;
        }
        if status == 1 {
            with_state(cx, |_, of| of.leave(side));
        }
        self.whole_trailers(cx, whole, side)
    }

    fn whole_trailers(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        whole: &WholeMessage,
        side: MessageSide,
    ) -> WholeStep {
        let Some(trailers) = &whole.trailers else { return WholeStep::Continue };
        let asked = with_state(cx, |cx, of| {
            if !of.side(side).trailers {
                return None;
            }
            let part = question::trailers(&of.settings, side, trailers);
            let request = (side == MessageSide::Request).then_some(&*whole.head);
            self.ask(cx, of, side, request, SentPart::Trailers, part)
        });
        let Some(Some(answered)) = asked else { return WholeStep::Continue };
        let running = Rc::clone(self);
        WholeStep::wait(async move {
            let answered = answered.await;
            move |cx: &mut Cx<'_>, whole: &mut WholeMessage| {
                let Some(trailers) = &mut whole.trailers else { return WholeStep::Continue };
                running.trailers_answered(cx, trailers, side, answered)
            }
        })
    }

    /// Shows a piece of a body to the service.
    pub(super) fn piece<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        last: bool,
    ) -> PieceStep<Body, E> {
        let side = side_of(E::RESPONSE);
        let follows = cx.following_trailers().is_some();
        let mode = with_state(cx, |_, of| {
            let holds = of.link.as_ref().is_some_and(|link| link.holds_body(side));
            let progress = of.side(side);
            let mode = progress.body;
            if of.is_over && !holds { BodyMode::None } else { mode }
        });
        match mode {
            None | Some(BodyMode::None | BodyMode::Buffered) => self.release(cx, piece, side),
            Some(BodyMode::Streamed) => {
                // The end alone is sent if nothing else tells it.
                if piece.is_empty() && (!last || follows) {
                    return PieceStep::Continue;
                }
                self.send_piece(cx, piece, side, last && !follows)
            }
            Some(BodyMode::Partial) => self.hold(cx, piece, side, last, follows),
            Some(BodyMode::Duplex) => self.stream(cx, piece, side, last, follows),
        }
    }

    /// Passes on what was held of a body that is not sent any more.
    fn release<E>(
        &self,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        side: MessageSide,
    ) -> PieceStep<Body, E> {
        with_state(cx, |_, of| {
            let progress = of.side(side);
            if !progress.held.is_empty() {
                progress.held.extend_from_slice(piece);
                *piece = Body::Shared(std::mem::take(&mut progress.held).freeze());
                progress.charge = None;
            }
        });
        PieceStep::Continue
    }

    /// Sends a piece and waits for what takes its place.
    fn send_piece<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        side: MessageSide,
        ends: bool,
    ) -> PieceStep<Body, E> {
        let body = std::mem::replace(piece, Body::Shared(Bytes::new())).into_bytes();
        *piece = Body::Shared(body.clone());
        let asked = with_state(cx, |cx, of| {
            self.ask(cx, of, side, None, SentPart::Body, question::body(side, body, ends))
        });
        let Some(Some(answered)) = asked else { return PieceStep::Continue };
        let running = Rc::clone(self);
        PieceStep::wait(async move {
            let answered = answered.await;
            move |cx: &mut Cx<'_>, piece: &mut Body| running.piece_answered(cx, piece, answered)
        })
    }

    fn piece_answered<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        answered: PartAnswered,
    ) -> PieceStep<Body, E> {
        let side = side_of(E::RESPONSE);
        let common = match self.expect(cx, side, answered, body_response) {
            Ok(common) => common,
            Err(step) => return step,
        };
        // The headers have been passed on, so that changes of them come too late.
        if let Some(body) = common.body_mutation.and_then(|of| replaced(of.mutation)) {
            *piece = Body::Shared(body);
        }
        if common.status == 1 {
            with_state(cx, |_, of| of.leave(side));
        }
        PieceStep::Continue
    }

    /// Holds the start of a body until there is enough of it, and sends it then.
    fn hold<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        side: MessageSide,
        last: bool,
        follows: bool,
    ) -> PieceStep<Body, E> {
        let max = self.body_max();
        let held = with_state(cx, |cx, of| {
            let progress = of.side(side);
            let charge = progress.charge.get_or_insert_with(|| cx.worker.buffers.charge());
            charge.set(progress.held.len() + piece.len()).map_err(drop)?;
            progress.held.extend_from_slice(piece);
            *piece = Body::Shared(Bytes::new());
            let is_due = last || progress.held.len() >= max;
            Ok(is_due.then(|| {
                // What follows passes as it is.
                progress.body = BodyMode::None;
                progress.charge = None;
                std::mem::take(&mut progress.held).freeze()
            }))
        });
        match held {
            Some(Err(())) => {
                let (why, details) = (sluice_l4::reasons::BUFFERS, "ext_proc_error".into());
                let failed = self.failed(cx, side, ProcFailure { why, details });
                if failed.is_none() {
                    return self.release(cx, piece, side);
                }
                ended(failed)
            }
            Some(Ok(Some(body))) => {
                *piece = Body::Shared(body);
                self.send_piece(cx, piece, side, last && !follows)
            }
            Some(Ok(None)) | None => PieceStep::Continue,
        }
    }

    /// Sends a piece, and passes on what the service has sent in its own time.
    fn stream<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        side: MessageSide,
        last: bool,
        follows: bool,
    ) -> PieceStep<Body, E> {
        let body = std::mem::replace(piece, Body::Shared(Bytes::new())).into_bytes();
        let trailers = cx.following_trailers().cloned();
        let turn = with_state(cx, |cx, of| {
            let is_new = !std::mem::replace(&mut of.side(side).ended, last);
            if is_new && (!body.is_empty() || (last && !follows)) {
                let ended = last && !follows;
                let part = question::body(side, body, ended);
                drop(self.ask(cx, of, side, None, SentPart::Piece { ended }, part));
            }
            if let Some(trailers) = trailers.filter(|_| is_new && last) {
                let part = question::trailers(&of.settings, side, &trailers);
                drop(self.ask(cx, of, side, None, SentPart::Trailers, part));
            }
            let link = of.link.clone()?;
            Some(link.turn(side, last))
        });
        let Some(Some(turn)) = turn else { return PieceStep::Continue };
        let running = Rc::clone(self);
        PieceStep::wait(async move {
            let turn = turn.await;
            move |cx: &mut Cx<'_>, piece: &mut Body| running.streamed(cx, piece, last, turn)
        })
    }

    fn streamed<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        last: bool,
        turn: StreamTurn,
    ) -> PieceStep<Body, E> {
        let side = side_of(E::RESPONSE);
        let answered = match turn {
            StreamTurn::Room | StreamTurn::Trailers => return PieceStep::Continue,
            StreamTurn::PartAnswered(answered) => answered,
        };
        let streamed = |part| match part {
            AnswerPart::Piece(body, end) => Some((body, end)),
            _ => None,
        };
        let (body, end) = match self.expect(cx, side, answered, streamed) {
            Ok(streamed) => streamed,
            Err(step) => return step,
        };
        *piece = Body::Shared(body);
        if end == PieceEnd::Last {
            with_state(cx, |_, of| of.leave(side));
        } else if last {
            cx.call_again();
        }
        PieceStep::Continue
    }

    /// Shows trailers to the service.
    pub(super) fn trailers<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
    ) -> PieceStep<Head, E> {
        let side = side_of(E::RESPONSE);
        let asked = with_state(cx, |cx, of| {
            let progress = of.side(side);
            let is_sent = progress.ended;
            let is_due = progress.trailers && progress.body != BodyMode::Buffered;
            if of.is_over || !is_due || trailers.is_empty() {
                return None;
            }
            if is_sent {
                // With the last piece of a streamed body.
                return of.link.clone().map(|link| Box::pin(link.answered(side)) as _);
            }
            let part = question::trailers(&of.settings, side, trailers);
            self.ask(cx, of, side, None, SentPart::Trailers, part)
        });
        let Some(Some(answered)) = asked else { return PieceStep::Continue };
        let running = Rc::clone(self);
        PieceStep::wait(async move {
            let answered = answered.await;
            move |cx: &mut Cx<'_>, trailers: &mut Head| {
                running.trailers_answered(cx, trailers, side, answered)
            }
        })
    }

    fn trailers_answered<T, E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
        side: MessageSide,
        answered: PartAnswered,
    ) -> PieceStep<T, E> {
        let changes = |part| match part {
            AnswerPart::Trailers(mutation) => Some(mutation),
            _ => None,
        };
        let mutation = match self.expect(cx, side, answered, changes) {
            Ok(mutation) => mutation,
            Err(step) => return step,
        };
        match self.change(cx, trailers, mutation, ChangedHead::Trailers) {
            Ok(()) => PieceStep::Continue,
            Err(failure) => ended(self.failed(cx, side, failure)),
        }
    }

    /// What `kind` takes of the answer to a part.
    ///
    /// # Errors
    /// The step if there is no such answer: another one is a failure of the service.
    fn expect<P, T, E: MessageEnd>(
        &self,
        cx: &mut Cx<'_>,
        side: MessageSide,
        answered: PartAnswered,
        kind: impl FnOnce(AnswerPart) -> Option<P>,
    ) -> Result<P, PieceStep<T, E>> {
        match self.settle(cx, side, answered) {
            Ok(Some(part)) => kind(part).ok_or_else(|| ended(self.misplaced(cx, side))),
            Ok(None) => Err(PieceStep::Continue),
            Err(reply) => Err(ended(Some(reply))),
        }
    }
}

fn body_response(part: AnswerPart) -> Option<CommonResponse> {
    match part {
        AnswerPart::Body(common) => Some(common),
        _ => None,
    }
}

/// The body that takes the place of one that was sent.
fn replaced(change: Option<BodyChange>) -> Option<Bytes> {
    match change {
        Some(BodyChange::Replace(body)) => Some(body),
        Some(BodyChange::Clear(true)) => Some(Bytes::new()),
        Some(BodyChange::Clear(false) | BodyChange::Streamed(_)) | None => None,
    }
}

/// Ends a message with a reply. Once the headers of a response have been sent, a response of the service cuts it off.
fn ended<T, E: MessageEnd>(reply: Option<Box<Reply>>) -> PieceStep<T, E> {
    let Some(mut reply) = reply else { return PieceStep::Continue };
    if E::RESPONSE && reply.reason == reasons::LOCAL {
        reply.reason = reasons::EXT_PROC_CUT;
    }
    PieceStep::Stop(E::of(reply))
}
