//! The conversation with the service about one request.
//!
//! Owns: the call, what is sent in it, the answers that were not taken yet, and the time for each. Refuses to know: what is
//! sent, and what an answer changes. Keeps: what is held of answers is bounded; once the conversation has ended, it ended
//! the same way for both directions; the call ends soon after the request.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_core::{Moment, Reason};
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_io::timers::Timer;

use super::machine::{AnswerPart, ProcAnswer, ProcEvent, ProcFault, ProcMachine};
use super::messages::{ImmediateResponse, ProcessingRequest, ProcessingResponse};
use super::parts::{MessageSide, SentPart};
use super::settings::ProcSettings;
use crate::reasons;
use crate::side_calls::{GrpcCallError, GrpcConversation, GrpcStream, SideCalls, until_closed};

/// No further answer is received while those that were not taken have this many bytes.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// What an answer counts besides the piece of a body in it.
const ANSWER_BYTES: usize = 256;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) enum ProcEnd {
    /// The service ended the conversation: the rest passes without it.
    Closed,
    /// It responded in place of all.
    Responded,
    /// It failed.
    Failed(ProcFailure),
}

/// How a service failed.
#[derive(Clone, Debug)]
pub(super) struct ProcFailure {
    pub(super) why: Reason,
    pub(super) details: Cow<'static, str>,
}

impl ProcFailure {
    pub(super) fn unexpected(what: impl std::fmt::Display) -> Self {
        let details = format!("ext_proc_unexpected[{what}]");
        Self { why: reasons::EXT_PROC_UNEXPECTED, details: details.into() }
    }
}

/// What a direction gets for what it waits for.
#[derive(Debug)]
pub(super) enum PartAnswered {
    Answer(ProcAnswer),
    Respond(Box<ImmediateResponse>),
    End(ProcEnd),
}

/// What a direction gets that streams a body.
#[derive(Debug)]
pub(super) enum StreamTurn {
    /// There is room for another piece.
    Room,
    /// The answer to the trailers is next.
    Trailers,
    PartAnswered(PartAnswered),
}

/// The conversation.
#[derive(Debug)]
pub(super) struct ProcLink {
    worker: Rc<WorkerCx>,
    settings: Arc<ProcSettings>,
    state: RefCell<LinkState>,
}

#[derive(Debug)]
struct LinkState {
    machine: ProcMachine,
    outgoing: VecDeque<ProcessingRequest>,
    /// The bytes of bodies in `outgoing`.
    outgoing_bytes: usize,
    request: WaitingSide,
    response: WaitingSide,
    held: usize,
    charge: Charge,
    end: Option<ProcEnd>,
    /// When the call is dropped; nothing more is sent then.
    closes: Option<Moment>,
    driver: Option<Waker>,
}

#[derive(Debug)]
struct WaitingSide {
    answers: VecDeque<ProcAnswer>,
    responds: Option<Box<ImmediateResponse>>,
    by: Moment,
    waker: Option<Waker>,
}

impl WaitingSide {
    const fn new() -> Self {
        Self { answers: VecDeque::new(), responds: None, by: Moment::NEVER, waker: None }
    }
}

impl LinkState {
    const fn side(&mut self, side: MessageSide) -> &mut WaitingSide {
        match side {
            MessageSide::Request => &mut self.request,
            MessageSide::Response => &mut self.response,
        }
    }

    fn wake_sides(&mut self) {
        for side in [&mut self.request, &mut self.response] {
            side.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    /// Ends the conversation; the first end counts.
    fn finish(&mut self, end: ProcEnd) {
        self.end.get_or_insert(end);
        self.outgoing.clear();
        self.wake_sides();
        self.wake_driver();
    }

    /// Ends the conversation, since an answer is late.
    fn late(&mut self) -> PartAnswered {
        let (why, details) = (reasons::EXT_PROC_TIMEOUT, Cow::Borrowed("ext_proc_timeout"));
        let end = ProcEnd::Failed(ProcFailure { why, details });
        self.closes = Some(Moment::from_micros(0));
        self.finish(end.clone());
        PartAnswered::End(end)
    }

    /// Takes what a direction gets, if there is anything.
    fn take(&mut self, side: MessageSide) -> Option<PartAnswered> {
        let waiting = self.side(side);
        if let Some(answer) = waiting.answers.pop_front() {
            self.held -= size_of_answer(&answer);
            // It has become less.
            let _ = self.charge.set(self.held);
            self.wake_driver();
            return Some(PartAnswered::Answer(answer));
        }
        if let Some(response) = waiting.responds.take() {
            return Some(PartAnswered::Respond(response));
        }
        self.end.clone().map(PartAnswered::End)
    }
}

fn size_of_answer(answer: &ProcAnswer) -> usize {
    let piece = match &answer.of {
        AnswerPart::Piece(bytes, _) => bytes.len(),
        AnswerPart::Headers(..) | AnswerPart::Body(_) | AnswerPart::Trailers(_) => 0,
    };
    ANSWER_BYTES + piece
}

impl ProcLink {
    /// Begins a conversation, on a task of its own.
    pub(super) fn open(
        worker: &Rc<WorkerCx>,
        settings: &Arc<ProcSettings>,
        calls: SideCalls,
    ) -> Rc<Self> {
        let link = Rc::new(Self {
            worker: Rc::clone(worker),
            settings: Arc::clone(settings),
            state: RefCell::new(LinkState {
                machine: ProcMachine::new(settings.timeout_max),
                outgoing: VecDeque::new(),
                outgoing_bytes: 0,
                request: WaitingSide::new(),
                response: WaitingSide::new(),
                held: 0,
                charge: worker.buffers.charge(),
                end: None,
                closes: None,
                driver: None,
            }),
        });
        worker.spawn(Rc::clone(&link).drive(calls));
        link
    }

    /// Sends a part. Unless the service only observes, its answer is due from now on, until `by`.
    pub(super) fn send(
        &self,
        side: MessageSide,
        part: SentPart,
        message: ProcessingRequest,
        bytes: usize,
        by: Moment,
    ) {
        let mut state = self.state.borrow_mut();
        if state.end.is_some() || state.closes.is_some() {
            return;
        }
        state.outgoing_bytes += bytes;
        if self.settings.observe {
            if state.outgoing_bytes > self.settings.body_max {
                let details = Cow::Borrowed("ext_proc_behind");
                let why = reasons::EXT_PROC_TIMEOUT;
                state.closes = Some(Moment::from_micros(0));
                return state.finish(ProcEnd::Failed(ProcFailure { why, details }));
            }
        } else {
            // Pieces of the body do not give the answer to the headers more time.
            if !state.machine.awaits_headers(side) {
                state.side(side).by = by;
            }
            state.machine.sent(side, part);
        }
        state.outgoing.push_back(message);
        state.wake_driver();
    }

    /// The most time for anything: somewhat less than a filter has to decide, so that it learns what became of it.
    pub(super) fn patience(&self) -> Duration {
        let wait = Duration::from_secs(self.worker.limits.get(Limit::FilterWait));
        wait - (wait / 10).min(Duration::from_millis(100))
    }

    /// Waits for what a direction gets for what was sent last, for as long as that may take.
    pub(super) async fn answered(self: Rc<Self>, side: MessageSide) -> PartAnswered {
        let timer = Timer::new(&self.worker.timers);
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if let Some(answered) = state.take(side) {
                return Poll::Ready(answered);
            }
            timer.set(state.side(side).by);
            if timer.poll(cx).is_ready() {
                return Poll::Ready(state.late());
            }
            state.side(side).waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits for a piece of a streamed body, or, unless the old body has `ended`, for room for more of that.
    pub(super) async fn turn(self: Rc<Self>, side: MessageSide, ended: bool) -> StreamTurn {
        let timer = Timer::new(&self.worker.timers);
        timer.set(self.worker.now().after(self.patience()));
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let next = state.side(side).answers.front().map(|answer| &answer.of);
            let is_headers = matches!(next, Some(AnswerPart::Headers(..)));
            if matches!(next, Some(AnswerPart::Trailers(_))) {
                return Poll::Ready(StreamTurn::Trailers);
            }
            // The answer to the headers is for those who wait for it.
            if !is_headers && let Some(answered) = state.take(side) {
                return Poll::Ready(StreamTurn::PartAnswered(answered));
            }
            if !ended && state.outgoing.is_empty() {
                return Poll::Ready(StreamTurn::Room);
            }
            if timer.poll(cx).is_ready() {
                return Poll::Ready(StreamTurn::PartAnswered(state.late()));
            }
            state.side(side).waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ready if a direction that streams has something to take.
    pub(super) fn poll_something(&self, side: MessageSide, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        let has_ended = state.end.is_some();
        let waiting = state.side(side);
        let next = waiting.answers.front().map(|answer| &answer.of);
        let is_own = matches!(next, Some(AnswerPart::Piece(..)));
        if has_ended || is_own || waiting.responds.is_some() {
            return Poll::Ready(());
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the conversation, and drops the call.
    pub(super) fn fail(&self, failure: &ProcFailure) {
        let mut state = self.state.borrow_mut();
        state.closes = Some(Moment::from_micros(0));
        state.finish(ProcEnd::Failed(failure.clone()));
    }

    /// Whether the service has pieces of a body that it has not given back.
    pub(super) fn holds_body(&self, side: MessageSide) -> bool {
        self.state.borrow().machine.holds_body(side)
    }

    /// Nothing more is sent. The service may still end the call itself, unless it has failed.
    pub(super) fn close(&self) {
        let mut state = self.state.borrow_mut();
        let at_once = matches!(state.end, Some(ProcEnd::Failed(_) | ProcEnd::Responded));
        let left = if at_once { Duration::ZERO } else { self.settings.close_timeout };
        let closes = self.worker.now().after(left);
        state.closes = Some(state.closes.map_or(closes, |earlier| earlier.min(closes)));
        state.wake_driver();
    }

    /// Drives the call until it has ended, or is to be dropped.
    async fn drive(self: Rc<Self>, calls: SideCalls) {
        let closes = |waker: &Waker| {
            let mut state = self.state.borrow_mut();
            state.driver = Some(waker.clone());
            state.closes
        };
        until_closed(&self.worker, self.converse(calls), closes).await;
    }

    async fn converse(&self, calls: SideCalls) {
        let (cluster, method) = (&self.settings.cluster, self.settings.method.clone());
        let opened = calls.open_grpc(cluster, method, Moment::NEVER).await;
        let mut stream: GrpcStream<ProcessingRequest, ProcessingResponse> = match opened {
            Ok(stream) => stream,
            Err(error) => return self.failed(&error),
        };
        loop {
            match stream.converse(&mut LinkEnd(self)).await {
                Ok(Some(answer)) => {
                    if !self.arrived(answer) {
                        return;
                    }
                }
                Ok(None) => return self.state.borrow_mut().finish(ProcEnd::Closed),
                Err(error) => return self.failed(&error),
            }
        }
    }

    fn failed(&self, error: &GrpcCallError) {
        let failure = ProcFailure { why: error.why(), details: Cow::Borrowed("ext_proc_error") };
        self.state.borrow_mut().finish(ProcEnd::Failed(failure));
    }

    /// Takes an answer; returns whether there may be more.
    fn arrived(&self, answer: ProcessingResponse) -> bool {
        if self.settings.observe {
            return true;
        }
        let mut state = self.state.borrow_mut();
        match state.machine.answer(answer) {
            Ok(ProcEvent::Answer(side, answer)) => {
                state.held += size_of_answer(&answer);
                let held = state.held;
                state.side(side).answers.push_back(answer);
                if state.charge.set(held).is_err() {
                    let details = Cow::Borrowed("ext_proc_error");
                    let why = sluice_l4::reasons::BUFFERS;
                    state.finish(ProcEnd::Failed(ProcFailure { why, details }));
                    return false;
                }
                state.wake_sides();
                true
            }
            Ok(ProcEvent::MoreTime(time)) => {
                let by = self.worker.now().after(time.min(self.patience()));
                (state.request.by, state.response.by) = (by, by);
                state.wake_sides();
                true
            }
            Ok(ProcEvent::Respond(side, response)) => {
                state.side(side).responds = Some(response);
                state.finish(ProcEnd::Responded);
                false
            }
            Ok(ProcEvent::Ignored) => true,
            Err(fault) => {
                state.finish(ProcEnd::Failed(unexpected(fault)));
                false
            }
        }
    }
}

fn unexpected(fault: ProcFault) -> ProcFailure {
    ProcFailure::unexpected(fault)
}

/// The end of a conversation that the call sees. The driver keeps its waker.
struct LinkEnd<'a>(&'a ProcLink);

impl GrpcConversation<ProcessingRequest> for LinkEnd<'_> {
    fn poll_outgoing(&mut self, _cx: &mut Context<'_>) -> Poll<Option<ProcessingRequest>> {
        let mut state = self.0.state.borrow_mut();
        match state.outgoing.pop_front() {
            Some(message) => {
                if state.outgoing.is_empty() {
                    state.outgoing_bytes = 0;
                    state.wake_sides();
                }
                Poll::Ready(Some(message))
            }
            None if state.closes.is_some() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        let is_full = self.0.state.borrow().held >= HELD_BYTES_MAX;
        if is_full { Poll::Pending } else { Poll::Ready(()) }
    }
}
