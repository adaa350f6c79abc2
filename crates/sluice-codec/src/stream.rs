//! An HTTP stream, whatever its version: the seam between codecs and everything above them.
//!
//! Owns: the choice between versions. Refuses to know: which role or route it serves. Keeps: an enum, never a boxed
//! trait, on the byte path; back-pressure is exerted by not reading.

use std::task::{Context, Poll};

use sluice_io::WorkerCx;
use sluice_io::buffers::SCRATCH;

use crate::body::{Body, Frame};
use crate::error::HttpError;
use crate::h1::{H1Stream, Taken};
use crate::h2::{H2Code, H2Stream};
use crate::h3::H3Stream;
use crate::h3::frame::code;
use crate::head::Head;
#[cfg(feature = "scripted")]
use crate::scripted::ScriptedStream;

/// Bytes read at once for a client that has many streams on a connection, until it has shown that it reads: each of
/// these streams may keep what was read waiting.
pub const READ_SHARED: usize = 16 << 10;

/// One request and its response, on either side.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the larger is by far the more frequent")]
pub enum HttpStream {
    /// A whole HTTP/1 connection, lent to one exchange after the other.
    H1(Box<H1Stream>),
    /// An HTTP/2 stream.
    H2(H2Stream),
    /// An HTTP/3 stream.
    H3(Box<H3Stream>),
    /// A stream without a connection, in tests.
    #[cfg(feature = "scripted")]
    Scripted(Box<ScriptedStream>),
}

impl HttpStream {
    /// Whether the request may be a replay by an attacker: it arrived before the handshake was complete, and it still is
    /// not, RFC 8470 §3.
    pub fn is_early(&self) -> bool {
        match self {
            Self::H3(h3) => h3.is_early(),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.is_early(),
            Self::H1(h1) => h1.stream().is_early(),
            Self::H2(h2) => h2.is_early(),
        }
    }

    /// Receives the next head: a request, or a response with a status of at least 100.
    ///
    /// # Errors
    /// The error of the stream.
    pub fn poll_recv_head(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        head: &mut Head,
    ) -> Poll<Result<(), HttpError>> {
        match self {
            Self::H1(h1) => h1.poll_recv_head(cx, worker, head),
            Self::H2(h2) => h2.poll_recv_head(cx, head),
            Self::H3(h3) => h3.poll_recv_head(cx, worker, head),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.poll_recv_head(cx, head),
        }
    }

    /// Receives the next piece of the body.
    ///
    /// # Errors
    /// The error of the stream.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<Frame, HttpError>> {
        match self {
            Self::H1(h1) => h1.poll_recv(cx, worker),
            Self::H2(h2) => h2.poll_recv(cx),
            Self::H3(h3) => h3.poll_recv(cx, worker),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.poll_recv(cx),
        }
    }

    /// Sets whether the receiver of the incoming message is not reading: less is then read at once, and what the peer
    /// may send ahead is charged. `shared` means that this receiver has other streams on the same connection.
    ///
    /// # Errors
    /// The worker is at the limit of its buffers.
    pub fn set_blocked(
        &mut self,
        worker: &WorkerCx,
        blocked: bool,
        shared: bool,
    ) -> Result<(), HttpError> {
        match self {
            Self::H1(h1) => h1.set_read_max(if blocked && shared { READ_SHARED } else { SCRATCH }),
            Self::H2(h2) => h2.set_blocked(blocked),
            Self::H3(h3) => return h3.set_blocked(worker, blocked),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.set_blocked(blocked),
        }
        Ok(())
    }

    /// Whether its connection carries other streams as well.
    pub const fn is_shared(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::H2(_) | Self::H3(_) => true,
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.is_shared(),
        }
    }

    /// Whether the incoming message has been read to its end.
    pub fn is_received(&self) -> bool {
        match self {
            Self::H1(h1) => h1.is_received(),
            Self::H2(h2) => h2.is_received(),
            Self::H3(h3) => h3.is_received(),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.is_received(),
        }
    }

    /// Ready when the peer has gone while it waits for a response.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> Poll<HttpError> {
        match self {
            Self::H1(h1) => h1.poll_gone(cx, worker),
            Self::H2(h2) => h2.poll_gone(cx),
            Self::H3(h3) => h3.poll_gone(cx),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.poll_gone(cx),
        }
    }

    /// Ready when everything sent before has left.
    ///
    /// # Errors
    /// The error of the stream.
    pub fn poll_flushed(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), HttpError>> {
        match self {
            Self::H1(h1) => h1.poll_flushed(cx, worker),
            Self::H2(h2) => h2.poll_flushed(cx),
            Self::H3(h3) => h3.poll_flushed(cx),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.poll_flushed(cx),
        }
    }

    /// Sends a head, or stages it until data follows or [`HttpStream::push`] is called. `end` means that nothing
    /// follows; `close`, that the connection is to end after this message.
    ///
    /// # Errors
    /// The error of the stream.
    pub fn send_head(
        &mut self,
        worker: &WorkerCx,
        head: &Head,
        end: bool,
        close: bool,
    ) -> Result<(), HttpError> {
        match self {
            Self::H1(h1) => h1.send_head(worker, head, end, close),
            Self::H2(h2) => h2.send_head(head, end),
            Self::H3(h3) => h3.send_head(head, end),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.send_head(head, end),
        }
    }

    /// Sends what is staged.
    ///
    /// # Errors
    /// The error of the stream.
    pub fn push(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> Result<(), HttpError> {
        match self {
            Self::H1(h1) => h1.push(cx, worker),
            Self::H2(_) => Ok(()),
            Self::H3(h3) => h3.push(cx),
            #[cfg(feature = "scripted")]
            Self::Scripted(_) => Ok(()),
        }
    }

    /// Sends data of the body. Call it when [`HttpStream::poll_flushed`] is ready.
    ///
    /// # Errors
    /// The error of the stream.
    pub fn send_data(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        body: Body,
        last: bool,
    ) -> Result<(), HttpError> {
        match self {
            Self::H1(h1) => h1.send_data(cx, worker, body, last),
            Self::H2(h2) => h2.send_data(body, last),
            Self::H3(h3) => h3.send_data(cx, body, last),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.send_data(body, last),
        }
    }

    /// Splices a piece of a body from another stream, where possible; see [`H1Stream::poll_take_from`].
    ///
    /// # Errors
    /// The error of the other stream.
    pub fn poll_take_from(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        from: &mut Self,
    ) -> Poll<Result<Option<Taken>, HttpError>> {
        match (self, from) {
            (Self::H1(to), Self::H1(from)) => to.poll_take_from(cx, worker, from),
            #[cfg(feature = "scripted")]
            (Self::Scripted(to), Self::Scripted(from)) => to.poll_take_from(cx, from),
            _ => Poll::Ready(Ok(None)),
        }
    }

    /// Ends the body, with trailers if there are any.
    ///
    /// # Errors
    /// The error of the stream.
    pub fn send_end(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        trailers: Option<&Head>,
    ) -> Result<(), HttpError> {
        match self {
            Self::H1(h1) => h1.send_end(cx, worker, trailers),
            Self::H2(h2) => h2.send_end(trailers),
            Self::H3(h3) => h3.send_end(cx, trailers),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.send_end(trailers),
        }
    }

    /// Whether the outgoing message has been sent to its end.
    pub fn is_sent(&self) -> bool {
        match self {
            Self::H1(h1) => h1.is_sent(),
            Self::H2(h2) => h2.is_sent(),
            Self::H3(h3) => h3.is_sent(),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.is_sent(),
        }
    }

    /// Whether a head has been sent that a body may follow.
    pub fn is_head_sent(&self) -> bool {
        match self {
            Self::H1(h1) => h1.is_head_sent(),
            Self::H2(h2) => h2.is_head_sent(),
            Self::H3(h3) => h3.is_head_sent(),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.is_head_sent(),
        }
    }

    /// Refuses a request of which nothing has been processed: the client may repeat it, RFC 9113 §8.7 and RFC 9114 §4.1.1.
    /// HTTP/1 has no such end, so its connection ends.
    pub fn refuse(&mut self) {
        match self {
            Self::H1(h1) => h1.reset(),
            Self::H2(h2) => h2.reset(H2Code::REFUSED_STREAM),
            Self::H3(h3) => h3.reset(code::REQUEST_REJECTED),
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.refuse(),
        }
    }

    /// Aborts the exchange; `cancel` means that neither side is at fault.
    pub fn reset(&mut self, cancel: bool) {
        match self {
            Self::H1(h1) => h1.reset(),
            Self::H2(h2) => {
                h2.reset(if cancel { H2Code::CANCEL } else { H2Code::INTERNAL_ERROR });
            }
            Self::H3(h3) => {
                h3.reset(if cancel { code::REQUEST_CANCELLED } else { code::INTERNAL_ERROR });
            }
            #[cfg(feature = "scripted")]
            Self::Scripted(scripted) => scripted.reset(cancel),
        }
    }
}
