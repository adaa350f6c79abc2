//! gRPC calls of guests that are open.
//!
//! Owns: what a guest sends in a call with several messages, and whether it was cancelled. Refuses to know: the wire, and who is told
//! what arrives. Keeps: what was not sent yet is bounded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use sluice_l7::RawMessage;

/// A call.
#[derive(Debug)]
pub(crate) struct GrpcLink {
    /// The context that made it.
    pub(crate) context: u32,
    /// Whether it has several messages.
    pub(crate) is_stream: bool,
    state: RefCell<GrpcLinkState>,
}

#[derive(Debug, Default)]
struct GrpcLinkState {
    outgoing: VecDeque<Bytes>,
    held: usize,
    /// The guest sends no more.
    finished: bool,
    cancelled: bool,
    driver: Option<Waker>,
}

impl GrpcLink {
    pub(crate) fn new(context: u32, is_stream: bool) -> Self {
        Self { context, is_stream, state: RefCell::default() }
    }

    /// Adds a message; returns whether there is room for it, below `room` bytes.
    pub(crate) fn send(&self, message: Bytes, last: bool, room: usize) -> bool {
        let mut state = self.state.borrow_mut();
        if state.held + message.len() > room {
            return false;
        }
        if !state.finished {
            state.held += message.len();
            state.outgoing.push_back(message);
            state.finished = last;
        }
        let driver = state.driver.take();
        drop(state);
        driver.into_iter().for_each(Waker::wake);
        true
    }

    /// The guest sends no more.
    pub(crate) fn finish(&self) {
        self.state.borrow_mut().finished = true;
        self.wake();
    }

    /// Nothing more is sent or told.
    pub(crate) fn cancel(&self) {
        self.state.borrow_mut().cancelled = true;
        self.wake();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.state.borrow().cancelled
    }

    /// Has the driver of the call woken when the guest did something.
    pub(crate) fn wake_with(&self, waker: &Waker) {
        self.state.borrow_mut().driver = Some(waker.clone());
    }

    fn wake(&self) {
        let driver = self.state.borrow_mut().driver.take();
        driver.into_iter().for_each(Waker::wake);
    }

    /// The next message to send; `None` ends them.
    pub(crate) fn poll_outgoing(&self, cx: &Context<'_>) -> Poll<Option<RawMessage>> {
        let mut state = self.state.borrow_mut();
        match state.outgoing.pop_front() {
            Some(message) => {
                state.held -= message.len();
                Poll::Ready(Some(RawMessage(message)))
            }
            None if state.finished => Poll::Ready(None),
            None => {
                state.driver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sent_in_order_and_bounded() {
        let link = GrpcLink::new(1, true);
        let cx = Context::from_waker(Waker::noop());
        assert!(link.poll_outgoing(&cx).is_pending());
        assert!(link.send(Bytes::from_static(b"ab"), false, 3));
        assert!(!link.send(Bytes::from_static(b"cd"), false, 3));
        assert!(link.send(Bytes::from_static(b"e"), true, 3));
        // After the last, nothing is sent.
        assert!(link.send(Bytes::new(), false, 3));
        let next = || match link.poll_outgoing(&cx) {
            Poll::Ready(message) => message.map(|of| of.0),
            Poll::Pending => panic!("there is more"),
        };
        assert_eq!((next(), next(), next()), (Some("ab".into()), Some("e".into()), None));
    }
}
