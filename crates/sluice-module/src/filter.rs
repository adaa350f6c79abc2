//! The filter: hooks of a library in the hooks of a request.
//!
//! Owns: which hook of a library runs when, what a hook of the filter returns for it, and what becomes of failures. Refuses to
//! know: what libraries may do within. Keeps: a library sees no hook of a request after one that failed, and always the end.

use std::any::Any;
use std::rc::Rc;

use bytes::Bytes;
use sluice_codec::{Body, Head};
use sluice_io::WorkerCx;
use sluice_l7::filters::{
    BodyAccess, BodyStep, Cx, HeadDecision, HeadStep, HttpFilter, MessageEnd, PieceStep,
    ResponseBodyStep, ResponseStep, ResponseTrailersStep, TrailersStep, WholeMessage, WholeStep,
};
use sluice_l7::{Reply, reasons};
use sluice_sys::module::{ModuleHook, ModuleRequest};
use sluice_telemetry::metrics::Seconds;
use sluice_telemetry::{Counter, Gauge};

use crate::calls::{CallAnswer, LibraryCallEnd};
use crate::hook_call::{HookCall, OfFilter};
use crate::in_use::{ModuleUse, OnModuleError};
use crate::message::HookMessage;
use crate::metrics;
use crate::values;
use crate::verdict::{HookPlace, HookVerdict, judge, named};
use crate::waits::Waits;

/// The filter of one worker.
#[derive(Debug)]
pub(crate) struct ModuleFilter(Rc<RunningFilter>);

/// What a request that waits needs of the filter.
#[derive(Debug)]
struct RunningFilter {
    plan: ModuleUse,
    of: OfFilter,
    worker: Rc<WorkerCx>,
    active: Gauge,
    calls: Counter,
    seconds: Seconds,
    failures: Counter,
}

/// What a library has of a request.
#[derive(Debug)]
struct ModuleInstance {
    running: Rc<RunningFilter>,
    /// Until the end.
    request: Option<ModuleRequest>,
    /// What it does with the bodies of request and response.
    access: [BodyAccess; 2],
    failed: bool,
}

impl Drop for ModuleInstance {
    fn drop(&mut self) {
        self.running.active.decrement();
    }
}

/// How a hook of a library is called.
#[derive(Debug)]
enum HookEntry {
    /// For the first time; whether nothing of the message follows.
    Begin { end: bool },
    /// Once what it waited for has happened; how its call ended, if it was one.
    Resumed(Option<Box<LibraryCallEnd>>),
}

impl ModuleFilter {
    /// `owner` begins with the name of the listener.
    pub(crate) fn new(plan: ModuleUse, worker: &Rc<WorkerCx>, owner: &str) -> Self {
        let listener = owner.split('/').next().unwrap_or_default();
        let filter = plan.filter.clone();
        let made = plan.made.as_ref().ok();
        let counter = |name: &String| worker.shard.counter(&metrics::COUNTS, &[&filter, name]);
        let counters = made.iter().flat_map(|made| &made.declared.counters).map(counter);
        let of = OfFilter {
            listener: listener.to_owned(),
            counters: counters.collect(),
            edits_target: made.is_some_and(|made| made.declared.edits_target),
            body_max: plan.body_max,
            clusters: plan.clusters.clone(),
            waits: Waits::of(worker),
            filter,
        };
        let labels = [listener, &*of.filter];
        let active = worker.shard.gauge(&metrics::INSTANCES, &labels);
        let (calls, seconds, failures) = (
            worker.shard.counter(&metrics::RUNS, &labels),
            worker.shard.seconds(&metrics::SECONDS, &labels),
            worker.shard.counter(&metrics::FAILURES, &labels),
        );
        let worker = Rc::clone(worker);
        Self(Rc::new(RunningFilter { plan, of, worker, active, calls, seconds, failures }))
    }
}

impl HttpFilter for ModuleFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        *cx.state = None;
        match self.0.create(cx) {
            Ok(()) => {
                let end = cx.ends_with_head();
                self.0.head(cx, head, HookEntry::Begin { end })
            }
            Err(problem) => match self.0.failed(cx, problem) {
                Some(reply) => HeadStep::Reply(reply),
                None => HeadStep::Continue,
            },
        }
    }

    fn request_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        access(cx, false)
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> BodyStep {
        self.0.piece(cx, body, last)
    }

    fn request_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> TrailersStep {
        self.0.trailers(cx, trailers, HookEntry::Begin { end: true })
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        let end = cx.ends_with_head();
        self.0.head(cx, head, HookEntry::Begin { end })
    }

    fn response_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        access(cx, true)
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> ResponseBodyStep {
        self.0.piece(cx, body, last)
    }

    fn response_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> ResponseTrailersStep {
        self.0.trailers(cx, trailers, HookEntry::Begin { end: true })
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        let Some(mut of) = take(cx) else { return };
        if let Some(request) = of.request.take() {
            let mut message = HookMessage::Nothing;
            request.end(&mut HookCall::new(cx, &mut message, true, &self.0.of));
        }
    }
}

fn take(cx: &mut Cx<'_>) -> Option<Box<ModuleInstance>> {
    cx.state.take()?.downcast().ok()
}

fn access(cx: &Cx<'_>, response: bool) -> BodyAccess {
    let state: Option<&Box<dyn Any>> = cx.state.as_ref();
    let of = state.and_then(|state| state.downcast_ref::<ModuleInstance>());
    of.filter(|of| !of.failed).map_or(BodyAccess::None, |of| of.access[usize::from(response)])
}

impl RunningFilter {
    /// Begins a request.
    fn create(self: &Rc<Self>, cx: &mut Cx<'_>) -> Result<(), String> {
        let config = self.plan.made.as_ref().map_err(String::clone)?;
        let mut message = HookMessage::Nothing;
        let number = self.of.waits.next_request();
        let begun =
            config.object.begin(number, &mut HookCall::new(cx, &mut message, false, &self.of));
        let request = begun.map_err(|code| format!("request_new returned {code}"))?;
        self.active.increment();
        *cx.state = Some(Box::new(ModuleInstance {
            running: Rc::clone(self),
            request: Some(request),
            access: [BodyAccess::None; 2],
            failed: false,
        }));
        Ok(())
    }

    /// Runs the hook for headers.
    fn head<D: HeadDecision>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        head: &mut Head,
        how: HookEntry,
    ) -> D {
        let hook =
            if D::RESPONSE { ModuleHook::ResponseHeaders } else { ModuleHook::RequestHeaders };
        let running = Rc::clone(self);
        match self.run(cx, &mut HookMessage::Head(head), hook, how) {
            HookVerdict::Continue(access) => {
                let of = cx.state.as_mut().and_then(|state| state.downcast_mut::<ModuleInstance>());
                if let Some(of) = of {
                    of.access[usize::from(D::RESPONSE)] = access;
                }
                D::go_on()
            }
            HookVerdict::Reply(reply) => D::reply(reply),
            HookVerdict::Buffer => D::buffer(self.plan.body_max, move |cx, whole| {
                let how = HookEntry::Begin { end: whole.trailers.is_none() };
                running.whole(cx, whole, D::RESPONSE, false, how)
            }),
            HookVerdict::Wait(wait) => D::wait(wait.over(), move |end, cx, head| {
                running.head(cx, head, HookEntry::Resumed(end))
            }),
            // Not before the headers have been sent.
            HookVerdict::Cut => D::go_on(),
        }
    }

    /// Runs the hooks for body and trailers with a whole message; `trailers` if it is their turn.
    fn whole(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        whole: &mut WholeMessage,
        response: bool,
        mut trailers: bool,
        mut how: HookEntry,
    ) -> WholeStep {
        loop {
            let hook = match (response, trailers) {
                (false, false) => ModuleHook::RequestBody,
                (false, true) => ModuleHook::RequestTrailers,
                (true, false) => ModuleHook::ResponseBody,
                (true, true) => ModuleHook::ResponseTrailers,
            };
            match self.run(cx, &mut HookMessage::Whole(whole), hook, how) {
                HookVerdict::Reply(reply) => return WholeStep::Stop(reply),
                HookVerdict::Wait(wait) => {
                    let running = Rc::clone(self);
                    return WholeStep::wait(async move {
                        let how = HookEntry::Resumed(wait.over().await);
                        move |cx: &mut Cx<'_>, whole: &mut WholeMessage| {
                            running.whole(cx, whole, response, trailers, how)
                        }
                    });
                }
                _ if !trailers && whole.trailers.as_ref().is_some_and(|of| !of.is_empty()) => {
                    (trailers, how) = (true, HookEntry::Begin { end: true });
                }
                _ => return WholeStep::Continue,
            }
        }
    }

    /// Runs the hook for a piece of a body.
    fn piece<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
    ) -> PieceStep<Body, E> {
        if access(cx, E::RESPONSE) == BodyAccess::None || body.is_empty() && !last {
            return PieceStep::Continue;
        }
        let end = last && cx.following_trailers().is_none();
        self.at_piece(cx, body, HookEntry::Begin { end })
    }

    fn at_piece<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        piece: &mut Body,
        how: HookEntry,
    ) -> PieceStep<Body, E> {
        let editable = access(cx, E::RESPONSE) == BodyAccess::Edit;
        let hook = if E::RESPONSE { ModuleHook::ResponseBody } else { ModuleHook::RequestBody };
        let body = std::mem::replace(piece, Body::Shared(Bytes::new())).into_bytes();
        let mut message = HookMessage::Piece(body, editable);
        let verdict = self.run(cx, &mut message, hook, how);
        if let HookMessage::Piece(body, _) = message {
            *piece = Body::Shared(body);
        }
        let running = Rc::clone(self);
        sent(verdict, move |end, cx, piece| running.at_piece(cx, piece, HookEntry::Resumed(end)))
    }

    /// Runs the hook for trailers.
    fn trailers<E: MessageEnd>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
        how: HookEntry,
    ) -> PieceStep<Head, E> {
        let access = access(cx, E::RESPONSE);
        if access == BodyAccess::None {
            return PieceStep::Continue;
        }
        let hook =
            if E::RESPONSE { ModuleHook::ResponseTrailers } else { ModuleHook::RequestTrailers };
        let mut message = HookMessage::Trailers(trailers, access == BodyAccess::Edit);
        let verdict = self.run(cx, &mut message, hook, how);
        let running = Rc::clone(self);
        sent(verdict, move |end, cx, trailers| {
            running.trailers(cx, trailers, HookEntry::Resumed(end))
        })
    }

    /// Runs a hook of the library.
    fn run(
        &self,
        cx: &mut Cx<'_>,
        message: &mut HookMessage<'_>,
        hook: ModuleHook,
        how: HookEntry,
    ) -> HookVerdict {
        let none = HookVerdict::Continue(BodyAccess::None);
        let Some(mut of) = take(cx) else { return none };
        let place = match message {
            HookMessage::Head(_) => HookPlace::Head,
            HookMessage::Whole(_) => HookPlace::Whole,
            _ => HookPlace::Sent,
        };
        let failed = of.failed;
        let request = of.request.as_mut().filter(|_| !failed);
        let verdict = request.and_then(|request| {
            let mut call = HookCall::new(cx, message, named(hook).1, &self.of);
            let began = self.worker.clock.now();
            let returned = match how {
                HookEntry::Begin { end } => request.hook(hook, &mut call, end),
                HookEntry::Resumed(end) => {
                    call.answer = end.map(CallAnswer::new);
                    request.resumed(hook, &mut call)
                }
            };
            self.calls.increment();
            self.seconds.add(self.worker.clock.now().since(began));
            let (reply, wait) = (call.reply.take(), call.wait.take());
            Some(judge(returned?, hook, place, reply, wait))
        });
        of.failed |= matches!(verdict, Some(Err(_)));
        *cx.state = Some(of);
        match verdict {
            None => none,
            Some(Ok(verdict)) => verdict,
            Some(Err(problem)) => self.failed(cx, problem).map_or(none, HookVerdict::Reply),
        }
    }

    /// Counts and logs a failure; returns the reply, if the request fails with it.
    fn failed(&self, cx: &mut Cx<'_>, problem: String) -> Option<Box<Reply>> {
        self.failures.increment();
        let (filter, request) = (&*self.of.filter, cx.summary.id);
        tracing::warn!(filter, request, reason = reasons::MODULE_ERROR.code(), "{problem}");
        match self.plan.on_error {
            OnModuleError::Continue => {
                cx.values.set(&values::ERROR, problem);
                None
            }
            OnModuleError::Fail => {
                let details = format!("module_error[{filter}: {problem}]");
                let body = "the request could not be processed\n";
                Some(Box::new(Reply::new(500, reasons::MODULE_ERROR, details, body)))
            }
        }
    }
}

/// The step of a hook whose headers have been sent; `then` continues after a wait.
fn sent<T: 'static, E: MessageEnd>(
    verdict: HookVerdict,
    then: impl FnOnce(Option<Box<LibraryCallEnd>>, &mut Cx<'_>, &mut T) -> PieceStep<T, E> + 'static,
) -> PieceStep<T, E> {
    match verdict {
        HookVerdict::Continue(_) | HookVerdict::Buffer => PieceStep::Continue,
        HookVerdict::Reply(reply) => PieceStep::Stop(E::of(reply)),
        HookVerdict::Cut => {
            let cut = Reply::new(500, reasons::MODULE_CUT, "module_cut", "");
            PieceStep::Stop(E::of(Box::new(cut)))
        }
        HookVerdict::Wait(wait) => PieceStep::wait(async move {
            let end = wait.over().await;
            move |cx: &mut Cx<'_>, of: &mut T| then(end, cx, of)
        }),
    }
}
