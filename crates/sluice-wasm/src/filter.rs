//! The filter: functions of a guest in the hooks of a request.
//!
//! Owns: which function runs when, and what a hook returns for it. Refuses to know: what guests may do within. Keeps: a guest sees nothing of a request after a call that failed, and always the end.

use std::rc::Rc;

use bytes::Bytes;
use sluice_codec::{Body, Head};
use sluice_io::WorkerCx;
use sluice_l7::filters::{
    BodyAccess, BodyStep, Cx, HeadDecision, HeadStep, HttpFilter, MessageEnd, PieceStep,
    ResponseBodyStep, ResponseStep, ResponseTrailersStep, TrailersStep, WholeMessage, WholeStep,
};

use crate::held::{HeldPiece, WithoutGuest, joined, of_request, take};
use crate::hooks::GuestHook;
use crate::in_use::{GuestBodies, GuestUse};
use crate::message::{GuestHookCall, GuestMessage};
use crate::running::{GuestVerdict, RunningGuest};
use crate::stream::{StreamCell, StreamWait};

/// The filter of one worker.
#[derive(Debug)]
pub(crate) struct WasmFilter(Rc<RunningGuest>);

impl WasmFilter {
    /// Begins the instance, so that it is there before the first request.
    pub(crate) fn new(plan: GuestUse, worker: &Rc<WorkerCx>) -> Self {
        let running = RunningGuest::new(plan, worker);
        if let Err(failure) = running.current(worker) {
            running.note(&failure, 0);
        }
        Self(Rc::new(running))
    }
}

impl HttpFilter for WasmFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        self.0.head(cx, head)
    }

    fn request_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        self.0.access(cx, false)
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> BodyStep {
        self.0.piece(cx, body, last)
    }

    fn request_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> TrailersStep {
        self.0.trailers(cx, trailers)
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        self.0.head(cx, head)
    }

    fn response_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        self.0.access(cx, true)
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> ResponseBodyStep {
        self.0.piece(cx, body, last)
    }

    fn response_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> ResponseTrailersStep {
        self.0.trailers(cx, trailers)
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        let Some(of) = take(cx) else { return };
        let message = &mut GuestMessage::Nothing;
        of.vm.end(&of.cell, &mut GuestHookCall { cx, message, response: true });
    }
}

impl RunningGuest {
    /// Runs the function for headers.
    fn head<D: HeadDecision>(self: &Rc<Self>, cx: &mut Cx<'_>, head: &mut Head) -> D {
        // A response without a request is that of a filter before this one.
        if !D::RESPONSE || cx.state.is_none() {
            *cx.state = None;
            if let Err(failure) = self.create(cx, D::RESPONSE) {
                *cx.state = Some(Box::new(WithoutGuest));
                return match self.failed(cx, failure) {
                    Some(reply) => D::reply(reply),
                    None => D::go_on(),
                };
            }
        }
        let end = cx.ends_with_head();
        let hook = if D::RESPONSE { GuestHook::ResponseHeaders } else { GuestHook::RequestHeaders };
        // Pseudo-headers count.
        let count = head.len() + if D::RESPONSE { 1 } else { 4 };
        let args = [count, usize::from(end)];
        let verdict = self.run(cx, &mut GuestMessage::Head(head), D::RESPONSE, hook, args);
        self.after_head(cx, verdict, end)
    }

    fn after_head<D: HeadDecision>(
        self: &Rc<Self>,
        cx: &Cx<'_>,
        verdict: GuestVerdict,
        end: bool,
    ) -> D {
        let running = Rc::clone(self);
        match (verdict, cell_of(cx)) {
            (GuestVerdict::Reply(reply), _) => D::reply(reply),
            (GuestVerdict::Pause, Some(_)) if self.plan.headers_wait_for_body && !end => {
                D::buffer(self.plan.plugin.body_max, move |cx, whole| {
                    running.whole(cx, whole, D::RESPONSE, false)
                })
            }
            (GuestVerdict::Pause, Some(cell)) => {
                let wait = StreamWait::new(&cell, D::RESPONSE);
                D::wait(wait, move |(), cx, head| {
                    let verdict = running.woken(cx, &mut GuestMessage::Head(head), D::RESPONSE);
                    running.after_head(cx, verdict, true)
                })
            }
            _ => D::go_on(),
        }
    }

    /// Runs the functions for body and trailers with a whole message; `trailers` if it is their turn.
    fn whole(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        whole: &mut WholeMessage,
        response: bool,
        trailers: bool,
    ) -> WholeStep {
        let count = whole.trailers.as_ref().map_or(0, |of| of.len());
        let args = if trailers { [count, 0] } else { [whole.body.len(), usize::from(count == 0)] };
        let hook = hook_of(response, trailers);
        let verdict = self.run(cx, &mut GuestMessage::Whole(whole), response, hook, args);
        self.after_whole(cx, whole, response, trailers, verdict)
    }

    fn after_whole(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        whole: &mut WholeMessage,
        response: bool,
        trailers: bool,
        verdict: GuestVerdict,
    ) -> WholeStep {
        let follow = !trailers && whole.trailers.as_ref().is_some_and(|of| !of.is_empty());
        match (verdict, cell_of(cx)) {
            (GuestVerdict::Reply(reply), _) => WholeStep::Stop(reply),
            // What a guest waits for may be the trailers.
            (GuestVerdict::Continue | GuestVerdict::Pause, Some(_)) if follow => {
                self.whole(cx, whole, response, true)
            }
            (GuestVerdict::Pause, Some(cell)) => {
                let (running, wait) = (Rc::clone(self), StreamWait::new(&cell, response));
                WholeStep::wait(async move {
                    wait.await;
                    move |cx: &mut Cx<'_>, whole: &mut WholeMessage| {
                        let verdict = running.woken(cx, &mut GuestMessage::Whole(whole), response);
                        running.after_whole(cx, whole, response, trailers, verdict)
                    }
                })
            }
            _ => WholeStep::Continue,
        }
    }

    /// Runs the function for a piece of a body, with what was held of those before it.
    fn piece<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
    ) -> PieceStep<Body, E> {
        let side = usize::from(E::RESPONSE);
        let Some(mut of) = take(cx) else { return PieceStep::Continue };
        let skipped = of.failed || body.is_empty() && !last;
        let mut held = of.take_held(E::RESPONSE);
        let editable = self.plan.bodies == GuestBodies::Edit;
        let piece = std::mem::replace(body, Body::Shared(Bytes::new())).into_bytes();
        *cx.state = Some(of);
        if skipped {
            *body = Body::Shared(joined(&joined(&held.sent, &held.body), &piece));
            return PieceStep::Continue;
        }
        held.body = joined(&held.body, &piece);
        let trailers = cx.following_trailers().cloned().filter(|of| last && !of.is_empty());
        let args = [held.body.len(), usize::from(last && trailers.is_none())];
        let mut message = GuestMessage::Piece { body: &mut held.body, editable, trailers: None };
        let mut verdict =
            self.run(cx, &mut message, E::RESPONSE, hook_of(E::RESPONSE, false), args);
        if matches!(verdict, GuestVerdict::Pause) && !last && editable {
            if held.body.len() > self.plan.plugin.body_max {
                return PieceStep::Stop(E::of(Box::new(self.too_large(E::RESPONSE))));
            }
            // What may go on now goes on; the guest sees the rest with the next piece.
            *body = Body::Shared(std::mem::take(&mut held.sent));
            if let Some(mut of) = take(cx) {
                of.held[side] = held.body;
                *cx.state = Some(of);
            }
            return PieceStep::Continue;
        }
        if matches!(verdict, GuestVerdict::Pause)
            && let Some(trailers) = trailers
        {
            // The guest waits for the end of the message, which the trailers are.
            let trailers = held.trailers.insert(Box::new(trailers));
            let args = [trailers.len(), 0];
            let (body, trailers) = (&mut held.body, Some(&mut **trailers));
            let mut message = GuestMessage::Piece { body, editable, trailers };
            verdict = self.run(cx, &mut message, E::RESPONSE, hook_of(E::RESPONSE, true), args);
        }
        self.after_piece(cx, body, held, verdict)
    }

    fn after_piece<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        mut held: HeldPiece,
        verdict: GuestVerdict,
    ) -> PieceStep<Body, E> {
        let editable = self.plan.bodies == GuestBodies::Edit;
        match (verdict, cell_of(cx)) {
            (GuestVerdict::Reply(reply), _) => PieceStep::Stop(E::of(reply)),
            (GuestVerdict::Pause, Some(cell)) => {
                let (running, wait) = (Rc::clone(self), StreamWait::new(&cell, E::RESPONSE));
                PieceStep::wait(async move {
                    wait.await;
                    move |cx: &mut Cx<'_>, piece: &mut Body| {
                        let (body, trailers) = (&mut held.body, held.trailers.as_deref_mut());
                        let mut message = GuestMessage::Piece { body, editable, trailers };
                        let verdict = running.woken(cx, &mut message, E::RESPONSE);
                        running.after_piece(cx, piece, held, verdict)
                    }
                })
            }
            _ => {
                *piece = Body::Shared(joined(&held.sent, &held.body));
                if let Some(mut of) = take(cx) {
                    of.trailers[usize::from(E::RESPONSE)] = held.trailers;
                    *cx.state = Some(of);
                }
                PieceStep::Continue
            }
        }
    }

    /// Runs the function for trailers, unless it ran with the last piece.
    fn trailers<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
    ) -> PieceStep<Head, E> {
        let Some(mut of) = take(cx) else { return PieceStep::Continue };
        let seen = of.trailers[usize::from(E::RESPONSE)].take();
        *cx.state = Some(of);
        let editable = self.plan.bodies == GuestBodies::Edit;
        match seen {
            Some(seen) if editable => {
                *trailers = *seen;
                return PieceStep::Continue;
            }
            None if !trailers.is_empty() => {}
            _ => return PieceStep::Continue,
        }
        let args = [trailers.len(), 0];
        let mut message = GuestMessage::Trailers(trailers, editable);
        let verdict = self.run(cx, &mut message, E::RESPONSE, hook_of(E::RESPONSE, true), args);
        self.after_trailers(cx, verdict)
    }

    fn after_trailers<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &Cx<'_>,
        verdict: GuestVerdict,
    ) -> PieceStep<Head, E> {
        let editable = self.plan.bodies == GuestBodies::Edit;
        match (verdict, cell_of(cx)) {
            (GuestVerdict::Reply(reply), _) => PieceStep::Stop(E::of(reply)),
            (GuestVerdict::Pause, Some(cell)) => {
                let (running, wait) = (Rc::clone(self), StreamWait::new(&cell, E::RESPONSE));
                PieceStep::wait(async move {
                    wait.await;
                    move |cx: &mut Cx<'_>, trailers: &mut Head| {
                        let mut message = GuestMessage::Trailers(trailers, editable);
                        let verdict = running.woken(cx, &mut message, E::RESPONSE);
                        running.after_trailers(cx, verdict)
                    }
                })
            }
            _ => PieceStep::Continue,
        }
    }
}

/// The context of the request.
fn cell_of(cx: &Cx<'_>) -> Option<Rc<StreamCell>> {
    of_request(cx).map(|of| Rc::clone(&of.cell))
}

/// The function for a body, or for trailers.
const fn hook_of(response: bool, trailers: bool) -> GuestHook {
    match (response, trailers) {
        (false, false) => GuestHook::RequestBody,
        (false, true) => GuestHook::RequestTrailers,
        (true, false) => GuestHook::ResponseBody,
        (true, true) => GuestHook::ResponseTrailers,
    }
}
