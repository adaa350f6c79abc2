//! A stream without a connection, for tests of code that is built on the codecs.
//!
//! Owns: what the peer does, step by step, and what was sent to it. Refuses to know: bytes on a wire. Keeps: it behaves
//! like a stream of a codec: nothing is received before the peer sends it, nothing is flushed while the peer does not
//! read, and nothing is sent after the end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::body::{Body, Frame};
use crate::error::{ErrorKind, HttpError};
use crate::h1::stream::Taken;
use crate::head::Head;

/// What the peer does next.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// It sends a head; `true` if nothing follows.
    Head(Head, bool),
    /// It sends a piece of the body; `true` if nothing follows.
    Data(Bytes, bool),
    /// It ends the body with trailers.
    Trailers(Head),
    /// It ends the body.
    End,
    /// The stream fails.
    Fails(ErrorKind),
}

/// What was sent to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentEvent {
    /// A head, as `Debug` shows it; `true` if nothing follows.
    Head(String, bool),
    /// A piece of the body; `true` if nothing follows.
    Data(Bytes, bool),
    /// The end of the body; `true` with trailers.
    End(bool),
    /// The stream was reset or dropped before its end; `true` if it was only cancelled.
    Reset(bool),
}

/// The peer of a [`ScriptedStream`], held by the test.
#[derive(Clone, Debug, Default)]
pub struct ScriptedPeer(Rc<RefCell<Script>>);

#[derive(Debug, Default)]
struct Script {
    incoming: VecDeque<PeerEvent>,
    sent: Vec<SentEvent>,
    /// Whether the peer's whole message has been received.
    received: bool,
    head_sent: bool,
    ended: bool,
    /// Whether the peer has stopped reading.
    blocked: bool,
    gone: bool,
    early: bool,
    /// The pieces of the peer's message that were spliced, if it can be.
    spliced: Option<usize>,
    /// Whether the receiver of the peer's message was last said not to read; `None` if nothing was said.
    held_back: Option<bool>,
    waker: Option<Waker>,
}

/// A stream whose peer is a script.
#[derive(Debug)]
pub struct ScriptedStream {
    script: Rc<RefCell<Script>>,
    shared: bool,
}

impl ScriptedPeer {
    /// The peer of a client whose request has been received, up to the headers; `whole` if it has no body.
    pub fn client(whole: bool) -> Self {
        let peer = Self::default();
        peer.0.borrow_mut().received = whole;
        peer
    }

    /// Creates the stream to this peer; `shared` if its connection carries others.
    pub fn stream(&self, shared: bool) -> ScriptedStream {
        ScriptedStream { script: Rc::clone(&self.0), shared }
    }

    /// Lets the peer do something.
    pub fn does(&self, event: PeerEvent) {
        self.change(|script| script.incoming.push_back(event));
    }

    /// Lets the peer read, or stop reading.
    pub fn reads(&self, reads: bool) {
        self.change(|script| script.blocked = !reads);
    }

    /// Lets the peer go away.
    pub fn goes(&self) {
        self.change(|script| script.gone = true);
    }

    /// Lets the body of the peer's message be spliced, where possible.
    pub fn is_spliced(&self) {
        self.change(|script| script.spliced = Some(0));
    }

    /// Returns how many pieces of the peer's message were spliced.
    pub fn spliced(&self) -> usize {
        self.0.borrow().spliced.unwrap_or_default()
    }

    /// Whether less of the peer's message is read than it may send; `None` if nothing was said about that. See
    /// [`HttpStream::set_blocked`].
    ///
    /// [`HttpStream::set_blocked`]: crate::HttpStream::set_blocked
    pub fn is_held_back(&self) -> Option<bool> {
        self.0.borrow().held_back
    }

    /// Lets the peer's message have arrived before the handshake was complete.
    pub fn is_early(&self) {
        self.change(|script| script.early = true);
    }

    /// Returns what was sent so far.
    pub fn sent(&self) -> Vec<SentEvent> {
        self.0.borrow().sent.clone()
    }

    /// Returns the body that was sent so far.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for sent in &self.0.borrow().sent {
            if let SentEvent::Data(data, _) = sent {
                body.extend_from_slice(data);
            }
        }
        body
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.0.borrow_mut();
        change(&mut script);
        if let Some(waker) = script.waker.take() {
            waker.wake();
        }
    }
}

impl Script {
    /// The next event.
    fn next(&mut self, cx: &Context<'_>) -> Poll<PeerEvent> {
        match self.incoming.pop_front() {
            Some(event) => Poll::Ready(event),
            None => self.wait(cx),
        }
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn reset(&mut self, cancel: bool) {
        self.sent.push(SentEvent::Reset(cancel));
        (self.ended, self.received) = (true, true);
    }

    fn send(&mut self, event: SentEvent, ends: bool) {
        assert!(!self.ended, "{event:?} was sent after the end");
        self.sent.push(event);
        self.ended = ends;
    }
}

fn failed(kind: ErrorKind) -> HttpError {
    HttpError::new(kind, "as scripted")
}

#[allow(clippy::missing_errors_doc, reason = "as the methods of `HttpStream`")]
#[allow(missing_docs, reason = "as the methods of `HttpStream`")]
impl ScriptedStream {
    pub fn poll_recv_head(
        &mut self,
        cx: &Context<'_>,
        head: &mut Head,
    ) -> Poll<Result<(), HttpError>> {
        let mut script = self.script.borrow_mut();
        match std::task::ready!(script.next(cx)) {
            PeerEvent::Head(sent, last) => {
                *head = sent;
                script.received = last;
                Poll::Ready(Ok(()))
            }
            PeerEvent::Fails(kind) => Poll::Ready(Err(failed(kind))),
            other => panic!("the peer does {other:?} where a head is due"),
        }
    }

    pub fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Result<Frame, HttpError>> {
        let mut script = self.script.borrow_mut();
        if script.received {
            return Poll::Ready(Ok(Frame::End));
        }
        let frame = match std::task::ready!(script.next(cx)) {
            PeerEvent::Data(data, last) => {
                script.received = last;
                Frame::Data { body: Body::Shared(data), last }
            }
            PeerEvent::Trailers(trailers) => {
                script.received = true;
                Frame::Trailers(Box::new(trailers))
            }
            PeerEvent::End => {
                script.received = true;
                Frame::End
            }
            PeerEvent::Fails(kind) => return Poll::Ready(Err(failed(kind))),
            PeerEvent::Head(..) => panic!("the peer sends a second head"),
        };
        Poll::Ready(Ok(frame))
    }

    pub fn is_early(&self) -> bool {
        self.script.borrow().early
    }

    pub const fn is_shared(&self) -> bool {
        self.shared
    }

    pub fn is_received(&self) -> bool {
        self.script.borrow().received
    }

    pub fn set_blocked(&mut self, blocked: bool) {
        self.script.borrow_mut().held_back = Some(blocked);
    }

    pub fn poll_take_from(
        &mut self,
        cx: &Context<'_>,
        from: &Self,
    ) -> Poll<Result<Option<Taken>, HttpError>> {
        let mut script = from.script.borrow_mut();
        let Some(spliced) = script.spliced else { return Poll::Ready(Ok(None)) };
        let (data, last) = match script.incoming.pop_front() {
            Some(PeerEvent::Data(data, last)) => (data, last),
            Some(other) => {
                script.incoming.push_front(other);
                return Poll::Ready(Ok(None));
            }
            None => return script.wait(cx),
        };
        (script.received, script.spliced) = (last, Some(spliced + 1));
        let count = data.len() as u64;
        self.script.borrow_mut().send(SentEvent::Data(data, last), last);
        Poll::Ready(Ok(Some(Taken { count, last })))
    }

    pub fn poll_gone(&mut self, cx: &Context<'_>) -> Poll<HttpError> {
        let mut script = self.script.borrow_mut();
        if script.gone { Poll::Ready(failed(ErrorKind::Reset)) } else { script.wait(cx) }
    }

    pub fn poll_flushed(&mut self, cx: &Context<'_>) -> Poll<Result<(), HttpError>> {
        let mut script = self.script.borrow_mut();
        match (script.gone, script.blocked) {
            (true, _) => Poll::Ready(Err(failed(ErrorKind::Reset))),
            (_, true) => script.wait(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    pub fn send_head(&mut self, head: &Head, end: bool) -> Result<(), HttpError> {
        let mut script = self.script.borrow_mut();
        let informational = (100..200).contains(&head.status()) && head.status() != 101;
        script.head_sent |= !informational;
        script.send(SentEvent::Head(format!("{head:?}"), end), end);
        Ok(())
    }

    pub fn send_data(&mut self, body: Body, last: bool) -> Result<(), HttpError> {
        self.script.borrow_mut().send(SentEvent::Data(body.into_bytes(), last), last);
        Ok(())
    }

    pub fn send_end(&mut self, trailers: Option<&Head>) -> Result<(), HttpError> {
        let mut script = self.script.borrow_mut();
        // As in the codecs, a stream that has ended may be ended again.
        if !script.ended {
            script.send(SentEvent::End(trailers.is_some()), true);
        }
        Ok(())
    }

    pub fn is_sent(&self) -> bool {
        self.script.borrow().ended
    }

    pub fn is_head_sent(&self) -> bool {
        self.script.borrow().head_sent
    }

    pub fn refuse(&mut self) {
        self.script.borrow_mut().reset(true);
    }

    pub fn reset(&mut self, cancel: bool) {
        self.script.borrow_mut().reset(cancel);
    }
}

impl Drop for ScriptedStream {
    fn drop(&mut self) {
        let mut script = self.script.borrow_mut();
        if !(script.ended && script.received) {
            script.reset(true);
        }
    }
}
