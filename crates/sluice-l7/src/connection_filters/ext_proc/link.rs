//! The conversation with the service about one connection.
//!
//! Owns: the call, what is sent in it, and the answer that each side waits for. Refuses to know: what becomes of bytes. Keeps: a side waits
//! for one answer at a time, so that what is held of questions and answers is bounded; once the conversation has ended, it ended
//! the same way for both sides; the call ends soon after the connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use sluice_core::{Moment, Reason};
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_io::timers::Timer;
use sluice_upstream::Cluster;

use super::messages::{BytesAnswerMessage, BytesQuestion, BytesSaid, BytesSide};
use crate::GrpcMethod;
use crate::side_calls::{GrpcConversation, GrpcStream, SideCalls, until_closed};
use crate::{metrics, reasons};

/// How long the service may take to end the call when the connection has ended.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// What a side gets for what was sent.
#[derive(Debug)]
pub(super) enum BytesAnswer {
    AsTheyAre,
    Changed(Bytes),
    None(BytesEnd),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BytesEnd {
    /// The service ended the conversation: the rest passes without it.
    Left,
    /// It has the connection closed.
    Close,
    /// It has it reset.
    Reset,
    /// It failed.
    Failed(Reason),
}

/// The conversation.
#[derive(Debug)]
pub(super) struct BytesLink {
    worker: Rc<WorkerCx>,
    cluster: Arc<Cluster>,
    method: GrpcMethod,
    listener: Rc<str>,
    state: RefCell<BytesLinkState>,
}

#[derive(Debug)]
struct BytesLinkState {
    /// Whether the call was begun.
    opened: bool,
    outgoing: VecDeque<BytesQuestion>,
    received: SideWait,
    sent: SideWait,
    charge: Charge,
    end: Option<BytesEnd>,
    /// What the record says of the end.
    said: Option<String>,
    /// When the call is dropped; nothing more is sent then.
    closes: Option<Moment>,
    driver: Option<Waker>,
}

/// What a side waits for.
#[derive(Debug, Default)]
struct SideWait {
    awaits: bool,
    /// The bytes that were sent or answered, and not taken yet.
    held: usize,
    answer: Option<Option<Bytes>>,
    waker: Option<Waker>,
}

impl BytesLinkState {
    const fn side(&mut self, side: BytesSide) -> &mut SideWait {
        match side {
            BytesSide::Received => &mut self.received,
            BytesSide::Sent => &mut self.sent,
        }
    }

    /// Counts what is held towards the buffers of the worker.
    fn account(&mut self) -> bool {
        self.charge.set(self.received.held + self.sent.held).is_ok()
    }

    fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    /// Ends the conversation; the first end counts.
    fn finish(&mut self, end: BytesEnd, said: impl FnOnce() -> Option<String>) {
        if self.end.is_none() {
            (self.end, self.said) = (Some(end), said());
        }
        self.outgoing.clear();
        for side in [&mut self.received, &mut self.sent] {
            side.waker.take().into_iter().for_each(Waker::wake);
        }
        self.wake_driver();
    }
}

impl BytesLink {
    /// A conversation that begins with the first piece.
    pub(super) fn new(
        worker: &Rc<WorkerCx>,
        cluster: &Arc<Cluster>,
        method: &GrpcMethod,
        listener: &Rc<str>,
    ) -> Rc<Self> {
        let state = BytesLinkState {
            opened: false,
            outgoing: VecDeque::new(),
            received: SideWait::default(),
            sent: SideWait::default(),
            charge: worker.buffers.charge(),
            end: None,
            said: None,
            closes: None,
            driver: None,
        };
        Rc::new(Self {
            worker: Rc::clone(worker),
            cluster: Arc::clone(cluster),
            method: method.clone(),
            listener: Rc::clone(listener),
            state: RefCell::new(state),
        })
    }

    /// How the conversation ended, if it has.
    pub(super) fn end(&self) -> Option<BytesEnd> {
        self.state.borrow().end
    }

    /// What the record says of its end.
    pub(super) fn said(&self) -> Option<String> {
        self.state.borrow_mut().said.take()
    }

    /// Sends a piece, whose answer the side waits for.
    pub(super) fn send(self: &Rc<Self>, side: BytesSide, bytes: &[u8], last: bool) {
        let mut state = self.state.borrow_mut();
        let waiting = state.side(side);
        (waiting.awaits, waiting.held) = (true, bytes.len());
        if !state.account() {
            let said = || Some("the worker has no buffer left".to_owned());
            return state.finish(BytesEnd::Failed(sluice_l4::reasons::BUFFERS), said);
        }
        state.outgoing.push_back(BytesQuestion::of(side, bytes, last));
        if !std::mem::replace(&mut state.opened, true) {
            self.worker.spawn(Rc::clone(self).drive());
        }
        state.wake_driver();
    }

    /// Waits for the answer to what a side sent last.
    pub(super) async fn answered(
        self: Rc<Self>,
        side: BytesSide,
        timeout: Duration,
    ) -> BytesAnswer {
        let timer = Timer::new(&self.worker.timers);
        timer.set(self.worker.now().after(timeout));
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let waiting = state.side(side);
            if let Some(answer) = waiting.answer.take() {
                waiting.held = 0;
                state.account();
                let changed = answer.map_or(BytesAnswer::AsTheyAre, BytesAnswer::Changed);
                return Poll::Ready(changed);
            }
            if let Some(end) = state.end {
                return Poll::Ready(BytesAnswer::None(end));
            }
            if timer.poll(cx).is_ready() {
                let end = BytesEnd::Failed(reasons::EXT_PROC_TIMEOUT);
                state.closes = Some(Moment::from_micros(0));
                state.finish(end, || Some(format!("no answer within {timeout:?}")));
                return Poll::Ready(BytesAnswer::None(end));
            }
            state.side(side).waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The connection has ended: nothing more is sent. The service may still end the call itself, unless it has failed.
    pub(super) fn close(&self) {
        let mut state = self.state.borrow_mut();
        let at_once = matches!(state.end, Some(BytesEnd::Failed(_)));
        let left = if at_once { Duration::ZERO } else { CLOSES_WITHIN };
        let closes = self.worker.now().after(left);
        state.closes.get_or_insert(closes);
        state.wake_driver();
        if state.opened {
            let result = match state.end {
                None => "processed",
                Some(BytesEnd::Left) => "left",
                Some(BytesEnd::Close | BytesEnd::Reset) => "closed",
                Some(BytesEnd::Failed(_)) => "failed",
            };
            let labels = [&*self.listener, result];
            self.worker.shard.counter(&metrics::EXT_PROC_CONNECTIONS, &labels).increment();
        }
    }

    /// Drives the call until it has ended, or is to be dropped.
    async fn drive(self: Rc<Self>) {
        let closes = |waker: &Waker| {
            let mut state = self.state.borrow_mut();
            state.driver = Some(waker.clone());
            state.closes
        };
        until_closed(&self.worker, self.converse(), closes).await;
    }

    async fn converse(&self) {
        // It lasts as long as the connection; what waits for it has a time of its own.
        let calls = SideCalls::unbounded(&self.worker);
        let opened = calls.open_grpc(&self.cluster, self.method.clone(), Moment::NEVER).await;
        let mut stream: GrpcStream<BytesQuestion, BytesAnswerMessage> = match opened {
            Ok(stream) => stream,
            Err(error) => {
                let said = || Some(error.to_string());
                return self.state.borrow_mut().finish(BytesEnd::Failed(error.why()), said);
            }
        };
        loop {
            match stream.converse(&mut BytesLinkEnd(self)).await {
                Ok(Some(answer)) => {
                    if !self.arrived(answer) {
                        return;
                    }
                }
                Ok(None) => return self.state.borrow_mut().finish(BytesEnd::Left, || None),
                Err(error) => {
                    let said = || Some(error.to_string());
                    return self.state.borrow_mut().finish(BytesEnd::Failed(error.why()), said);
                }
            }
        }
    }

    /// Takes an answer; returns whether there may be more.
    fn arrived(&self, answer: BytesAnswerMessage) -> bool {
        let mut state = self.state.borrow_mut();
        let (side, bytes) = match answer.said() {
            BytesSaid::Nothing => return true,
            BytesSaid::Pass(side, bytes) => (side, bytes),
            said @ (BytesSaid::Close | BytesSaid::Reset) => {
                let is_reset = said == BytesSaid::Reset;
                let end = if is_reset { BytesEnd::Reset } else { BytesEnd::Close };
                state.finish(end, || Some("the service closed the connection".to_owned()));
                return false;
            }
        };
        let waiting = state.side(side);
        if !std::mem::replace(&mut waiting.awaits, false) {
            let end = BytesEnd::Failed(reasons::EXT_PROC_UNEXPECTED);
            let what = match side {
                BytesSide::Received => "an answer to `read_data` was not due",
                BytesSide::Sent => "an answer to `write_data` was not due",
            };
            state.finish(end, || Some(what.to_owned()));
            return false;
        }
        waiting.held += bytes.as_ref().map_or(0, Bytes::len);
        waiting.answer = Some(bytes);
        waiting.waker.take().into_iter().for_each(Waker::wake);
        if !state.account() {
            let said = || Some("the worker has no buffer left".to_owned());
            state.finish(BytesEnd::Failed(sluice_l4::reasons::BUFFERS), said);
            return false;
        }
        true
    }
}

/// The end of a conversation that the call sees. The driver keeps its waker.
struct BytesLinkEnd<'a>(&'a BytesLink);

impl GrpcConversation<BytesQuestion> for BytesLinkEnd<'_> {
    fn poll_outgoing(&mut self, _cx: &mut Context<'_>) -> Poll<Option<BytesQuestion>> {
        let mut state = self.0.state.borrow_mut();
        match state.outgoing.pop_front() {
            Some(question) => Poll::Ready(Some(question)),
            None if state.closes.is_some() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        // Answers that are due are as many as questions.
        Poll::Ready(())
    }
}
