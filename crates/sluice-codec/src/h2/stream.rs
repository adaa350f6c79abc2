//! One HTTP/2 stream, as an exchange of messages uses it.
//!
//! Owns: its place on the connection. Refuses to know: everything else, which is in the machine of its connection.
//! Keeps: a stream that is dropped is released, and reset if it is not complete.

use std::rc::Rc;
use std::task::{Context, Poll};

use crate::body::{Body, Frame};
use crate::error::HttpError;
use crate::h2::code::H2Code;
use crate::h2::connection::H2Shared;
use crate::head::Head;
use crate::open_streams::OpenStream;

/// A stream that speaks HTTP/2.
#[derive(Debug)]
pub struct H2Stream {
    shared: Rc<H2Shared>,
    key: usize,
    /// Its slot on a connection to an endpoint.
    place: Option<OpenStream>,
}

impl H2Stream {
    pub(crate) const fn new(shared: Rc<H2Shared>, key: usize, place: Option<OpenStream>) -> Self {
        Self { shared, key, place }
    }

    /// Whether the request may be a replay, because the handshake of its connection is not complete, RFC 8470 §3.
    pub(crate) fn is_early(&self) -> bool {
        self.shared.is_early()
    }

    /// Receives the next response head, with a status of at least 100.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_recv_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Head,
    ) -> Poll<Result<(), HttpError>> {
        self.shared.with(|machine| machine.poll_recv_head(self.key, cx, head))
    }

    /// Sets whether the receiver of the incoming message is not reading.
    pub fn set_blocked(&mut self, blocked: bool) {
        if let Some(place) = &mut self.place {
            place.set_blocked(blocked);
        }
    }

    /// Receives the next piece of the body.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, HttpError>> {
        self.shared.with(|machine| machine.poll_recv(self.key, cx))
    }

    /// Whether the incoming message has been read to its end.
    pub fn is_received(&self) -> bool {
        self.shared.look(|machine| machine.is_received(self.key))
    }

    /// Ready when the peer has abandoned the stream.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<HttpError> {
        self.shared.with(|machine| machine.poll_gone(self.key, cx))
    }

    /// Sends a response head.
    ///
    /// # Errors
    /// The head cannot be expressed in HTTP/2, or the stream has ended.
    pub fn send_head(&mut self, head: &Head, end: bool) -> Result<(), HttpError> {
        self.shared.with(|machine| machine.send_head(self.key, head, end))
    }

    /// Ready when everything that was sent has left, as far as the peer's windows and the socket allow.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        self.shared.with(|machine| machine.poll_flushed(self.key, cx))
    }

    /// Sends data of the body. Call it when [`H2Stream::poll_flushed`] is ready.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn send_data(&mut self, body: Body, last: bool) -> Result<(), HttpError> {
        self.shared.with(|machine| machine.send_data(self.key, body, last))
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn send_end(&mut self, trailers: Option<&Head>) -> Result<(), HttpError> {
        self.shared.with(|machine| machine.send_end(self.key, trailers))
    }

    /// Whether the outgoing message has been sent to its end.
    pub fn is_sent(&self) -> bool {
        self.shared.look(|machine| machine.is_sent(self.key))
    }

    /// Whether a head has been sent.
    pub fn is_head_sent(&self) -> bool {
        self.shared.look(|machine| machine.is_head_sent(self.key))
    }

    /// Resets the stream.
    pub fn reset(&mut self, code: H2Code) {
        self.shared.with(|machine| machine.reset(self.key, code));
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        self.shared.with(|machine| machine.release(self.key));
    }
}
