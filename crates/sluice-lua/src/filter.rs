//! The filter: scripts in the hooks of a request.
//!
//! Owns: when a script runs, what a hook returns for what it waits for, and what becomes of its failures. Refuses to know:
//! Lua. Keeps: a script that waits across hooks is resumed by the hook that has what it waits for, and never after its
//! request has ended.

use std::any::Any;
use std::rc::Rc;

use bytes::Bytes;
use sluice_codec::{Body, Head};
use sluice_io::WorkerCx;
use sluice_l7::Reply;
use sluice_l7::filters::{
    BodyAccess, BodyStep, Cx, HeadDecision, HeadStep, HttpFilter, MessageEnd, PieceStep,
    ResponseBodyStep, ResponseStep, ResponseTrailersStep, TrailersStep, WholeMessage, WholeStep,
};

use crate::decisions::{RunVerdict, WaitAnswer, answer};
use crate::failure::{FailureKind, ScriptFailure};
use crate::in_use::{LuaUse, OnScriptError};
use crate::metrics::{ScriptCounts, ScriptInstance};
use crate::ops;
use crate::script::States;
use crate::side::{Input, MessageAtHand, Parked, ScriptRun, ScriptSide};
use crate::state::{LuaState, RunOutcome, WaitedFor};

/// The filter of one worker.
#[derive(Debug)]
pub(crate) struct LuaFilter(Rc<LuaRunning>);

/// What a request that waits needs of the filter.
#[derive(Debug)]
struct LuaRunning {
    plan: LuaUse,
    counts: ScriptCounts,
}

/// The scripts of one request.
#[derive(Debug)]
struct OfRequest {
    state: Rc<LuaState>,
    _instance: ScriptInstance,
    request: Option<ScriptSide>,
    response: Option<ScriptSide>,
}

impl OfRequest {
    fn side(&mut self, response: bool) -> Option<&mut ScriptSide> {
        if response { self.response.as_mut() } else { self.request.as_mut() }
    }
}

impl LuaFilter {
    /// `owner` begins with the name of the listener.
    pub(crate) fn new(plan: LuaUse, worker: &Rc<WorkerCx>, owner: &str) -> Self {
        let counts = ScriptCounts::new(worker, owner, &plan.exposed.name);
        Self(Rc::new(LuaRunning { plan, counts }))
    }
}

impl HttpFilter for LuaFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        self.0.begin(cx, head)
    }

    fn request_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        access(cx, false)
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> BodyStep {
        self.0.piece(cx, body, last, false)
    }

    fn request_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> TrailersStep {
        self.0.trailers(cx, trailers, false)
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        self.0.begin(cx, head)
    }

    fn response_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        access(cx, true)
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> ResponseBodyStep {
        self.0.piece(cx, body, last, true)
    }

    fn response_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> ResponseTrailersStep {
        self.0.trailers(cx, trailers, true)
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        // A message without a body has no pieces: what waits for one learns so here.
        for response in [false, true] {
            if parked(cx, response) != Parked::No {
                self.0.run(cx, response, &mut MessageAtHand::Sent, Input::Nothing);
            }
        }
        *cx.state = None;
    }
}

fn of_request(state: &Option<Box<dyn Any>>) -> Option<&OfRequest> {
    state.as_ref()?.downcast_ref()
}

fn parked(cx: &Cx<'_>, response: bool) -> Parked {
    let of = of_request(cx.state);
    let side = of.and_then(|of| if response { of.response.as_ref() } else { of.request.as_ref() });
    side.map_or(Parked::No, |side| side.parked)
}

fn access(cx: &Cx<'_>, response: bool) -> BodyAccess {
    match parked(cx, response) {
        Parked::No => BodyAccess::None,
        Parked::Chunk | Parked::Trailers => BodyAccess::Edit,
    }
}

impl LuaRunning {
    /// Begins the script of a message.
    fn begin<D: HeadDecision>(self: &Rc<Self>, cx: &mut Cx<'_>, head: &mut Head) -> D {
        match self.create(cx, D::RESPONSE) {
            Ok(None) => D::go_on(),
            Ok(Some(id)) => {
                let input = Input::Start { response: D::RESPONSE, id };
                self.head(cx, head, input)
            }
            Err(failure) => match self.failed(cx, failure) {
                Some(reply) => D::reply(reply),
                None => D::go_on(),
            },
        }
    }

    /// Creates the coroutine of a message, if the script has a function for it.
    fn create(&self, cx: &mut Cx<'_>, response: bool) -> Result<Option<u64>, ScriptFailure> {
        let script = match &self.plan.script {
            None => return Ok(None),
            // The request has failed already, or passed in spite of it.
            Some(Err(_)) if response => return Ok(None),
            Some(Err(missing)) => return Err(ScriptFailure::new(FailureKind::Error, missing)),
            Some(Ok(script)) => script,
        };
        let begun = cx.state.take().and_then(|state| state.downcast::<OfRequest>().ok());
        let mut of = match begun {
            Some(of) => of,
            None => {
                let count = |why| self.counts.replaced(why);
                let state = States::of(cx.worker).state(script, self.plan.limits, count)?;
                let _instance = self.counts.instance();
                Box::new(OfRequest { state, _instance, request: None, response: None })
            }
        };
        if of.request.as_ref().is_some_and(|side| side.gone) {
            *cx.state = Some(of);
            return Ok(None);
        }
        let made = if of.state.has_hook(response) { Some(of.state.coroutine()) } else { None };
        let made = made.transpose();
        let id = made.map(|made| {
            made.map(|(thread, id)| {
                let side =
                    ScriptSide { thread, id, response, parked: Parked::No, chunk: 0, gone: false };
                *(if response { &mut of.response } else { &mut of.request }) = Some(side);
                id
            })
        });
        *cx.state = Some(of);
        id
    }

    /// Runs a script while its message has not been sent.
    fn head<D: HeadDecision>(self: &Rc<Self>, cx: &mut Cx<'_>, head: &mut Head, input: Input) -> D {
        let running = Rc::clone(self);
        match self.run(cx, D::RESPONSE, &mut MessageAtHand::Head(head), input) {
            RunVerdict::Continue => D::go_on(),
            RunVerdict::Reply(reply) => D::reply(reply),
            RunVerdict::Buffer => D::buffer(self.plan.body_max, move |cx, whole| {
                let present = Input::Present(!whole.body.is_empty());
                running.whole(cx, whole, D::RESPONSE, present)
            }),
            RunVerdict::Call(calling) => D::wait(calling, move |called, cx, head| {
                running.head(cx, head, Input::called(called))
            }),
        }
    }

    /// Runs a script that has a whole message.
    fn whole(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        whole: &mut WholeMessage,
        response: bool,
        input: Input,
    ) -> WholeStep {
        let running = Rc::clone(self);
        match self.run(cx, response, &mut MessageAtHand::Whole(whole), input) {
            RunVerdict::Continue | RunVerdict::Buffer => WholeStep::Continue,
            RunVerdict::Reply(reply) => WholeStep::Stop(reply),
            RunVerdict::Call(calling) => WholeStep::wait(async move {
                let called = calling.await;
                move |cx: &mut Cx<'_>, whole: &mut WholeMessage| {
                    running.whole(cx, whole, response, Input::called(called))
                }
            }),
        }
    }

    /// Shows a piece of a body to a script that waits for it.
    fn piece<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
        response: bool,
    ) -> PieceStep<Body, E> {
        // The last piece may be empty: a script still adds to the body there. Trailers say themselves that they are the end.
        let ends = last && cx.following_trailers().is_none();
        if parked(cx, response) != Parked::Chunk || body.is_empty() && !ends {
            return PieceStep::Continue;
        }
        let number = self.next_chunk(cx, response);
        self.chunk(cx, body, ends, response, Input::Chunk(number))
    }

    fn next_chunk(&self, cx: &mut Cx<'_>, response: bool) -> u32 {
        let of = cx.state.as_mut().and_then(|state| state.downcast_mut::<OfRequest>());
        of.and_then(|of| of.side(response)).map_or(0, |side| {
            side.chunk += 1;
            side.chunk
        })
    }

    fn chunk<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        ends: bool,
        response: bool,
        input: Input,
    ) -> PieceStep<Body, E> {
        let running = Rc::clone(self);
        let body = std::mem::replace(piece, Body::Shared(Bytes::new())).into_bytes();
        let mut message = MessageAtHand::Chunk(body, ends);
        let verdict = self.run(cx, response, &mut message, input);
        if let MessageAtHand::Chunk(body, _) = message {
            *piece = Body::Shared(body);
        }
        match verdict {
            RunVerdict::Continue | RunVerdict::Buffer => PieceStep::Continue,
            RunVerdict::Reply(reply) => PieceStep::Stop(E::of(reply)),
            RunVerdict::Call(calling) => PieceStep::wait(async move {
                let called = calling.await;
                move |cx: &mut Cx<'_>, piece: &mut Body| {
                    running.chunk(cx, piece, ends, response, Input::called(called))
                }
            }),
        }
    }

    /// Shows the trailers to a script that waits for them, or for a piece that does not come any more.
    fn trailers<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
        response: bool,
    ) -> PieceStep<Head, E> {
        let input = match parked(cx, response) {
            Parked::No => return PieceStep::Continue,
            Parked::Chunk => Input::Nothing,
            Parked::Trailers if trailers.is_empty() => Input::Nothing,
            Parked::Trailers => Input::Present(true),
        };
        self.at_trailers(cx, trailers, response, input)
    }

    fn at_trailers<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
        response: bool,
        input: Input,
    ) -> PieceStep<Head, E> {
        let running = Rc::clone(self);
        match self.run(cx, response, &mut MessageAtHand::Trailers(trailers), input) {
            RunVerdict::Continue | RunVerdict::Buffer => PieceStep::Continue,
            RunVerdict::Reply(reply) => PieceStep::Stop(E::of(reply)),
            RunVerdict::Call(calling) => PieceStep::wait(async move {
                let called = calling.await;
                move |cx: &mut Cx<'_>, trailers: &mut Head| {
                    running.at_trailers(cx, trailers, response, Input::called(called))
                }
            }),
        }
    }

    /// Runs the script of a message until the hook has something to return.
    fn run(
        &self,
        cx: &mut Cx<'_>,
        response: bool,
        message: &mut MessageAtHand<'_>,
        input: Input,
    ) -> RunVerdict {
        let state = cx.state.take().and_then(|state| state.downcast::<OfRequest>().ok());
        let Some(mut of) = state else { return RunVerdict::Continue };
        let lua = Rc::clone(&of.state);
        let verdict = match of.side(response) {
            Some(side) => {
                side.parked = Parked::No;
                self.run_side(cx, &lua, side, message, input)
            }
            None => RunVerdict::Continue,
        };
        *cx.state = Some(of);
        verdict
    }

    fn run_side(
        &self,
        cx: &mut Cx<'_>,
        lua: &LuaState,
        side: &mut ScriptSide,
        message: &mut MessageAtHand<'_>,
        mut input: Input,
    ) -> RunVerdict {
        loop {
            let ends = cx.ends_with_head();
            let mut run = ScriptRun {
                cx,
                message,
                plan: &self.plan.exposed,
                id: side.id,
                response: side.response,
                chunk: side.chunk,
                reply: None,
                call: None,
                logged: 0,
            };
            let outcome =
                self.counts.run(|| lua.resume(&side.thread, input, &mut run), || lua.memory_used());
            let (reply, call) = (run.reply.take(), run.call.take());
            input = match (outcome, call) {
                (RunOutcome::Done, _) => return RunVerdict::Continue,
                (RunOutcome::Respond, _) => {
                    return reply
                        .map_or(RunVerdict::Continue, |reply| RunVerdict::Reply(Box::new(reply)));
                }
                (RunOutcome::Failed(failure), _) => {
                    side.gone = failure.kind == FailureKind::Memory;
                    return self
                        .failed(cx, failure)
                        .map_or(RunVerdict::Continue, RunVerdict::Reply);
                }
                (RunOutcome::Wait(WaitedFor::Call), Some(calling)) => {
                    return RunVerdict::Call(calling);
                }
                (RunOutcome::Wait(wanted), _) => match answer(wanted, message, ends) {
                    WaitAnswer::Buffer => return RunVerdict::Buffer,
                    WaitAnswer::Park(parked) => {
                        side.parked = parked;
                        return RunVerdict::Continue;
                    }
                    WaitAnswer::Now(input) => input,
                },
            };
        }
    }

    /// Counts and logs a failure; returns the reply, if the request fails with it.
    fn failed(&self, cx: &mut Cx<'_>, failure: ScriptFailure) -> Option<Box<Reply>> {
        let reason = failure.reason();
        self.counts.failure(&failure);
        let (script, request) = (&*self.plan.exposed.name, cx.summary.id);
        tracing::warn!(script, request, reason = reason.code(), "{}", failure.message);
        match self.plan.on_error {
            OnScriptError::Fail => Some(Box::new(failure.reply())),
            OnScriptError::Continue => {
                cx.values.set(&ops::ERROR, failure.message);
                None
            }
        }
    }
}
