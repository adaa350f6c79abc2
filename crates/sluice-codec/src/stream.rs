//! A stream of HTTP, whatever its version: the seam between codecs and everything above them.
//!
//! Owns: the choice between versions. Refuses to know: which role or route it serves.
//! Keeps: an enum, never a box of a trait on the byte path; back-pressure is not asking.

use std::task::{Context, Poll};

use sluice_io::WorkerCx;
use sluice_io::buffers::SCRATCH;

use crate::body::{Body, Frame};
use crate::error::HttpError;
use crate::h1::{H1Stream, Taken};
use crate::h2::H2Stream;
use crate::h3::H3Stream;
use crate::h3::frame::code;
use crate::head::Head;

/// What is read at once for a client that has many streams on a connection, before it has shown that it takes what
/// comes: each of them may keep it waiting.
pub const READ_SHARED: usize = 16 << 10;

/// One request and its answer, on either side.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the larger is by far the more frequent")]
pub enum HttpStream {
    /// A whole connection of HTTP/1, lent to one exchange after the other.
    H1(Box<H1Stream>),
    /// A stream of HTTP/2.
    H2(Box<H2Stream>),
    /// A stream of HTTP/3.
    H3(Box<H3Stream>),
}

impl HttpStream {
    /// Whether the request may have been recorded and repeated by somebody else, since it came before the handshake
    /// had ended; see [`H3Stream::is_early`].
    pub fn is_early(&self) -> bool {
        matches!(self, Self::H3(h3) if h3.is_early())
    }

    /// Receives the next head: a request, or a response with a status from 100 on.
    ///
    /// # Errors
    /// What went wrong with the stream.
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
        }
    }

    /// Receives the next piece of the body.
    ///
    /// # Errors
    /// What went wrong with the stream.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<Frame, HttpError>> {
        match self {
            Self::H1(h1) => h1.poll_recv(cx, worker),
            Self::H2(h2) => h2.poll_recv(cx),
            Self::H3(h3) => h3.poll_recv(cx, worker),
        }
    }

    /// Says whether whoever gets what comes in does not take it: then less is read at once, and what may come ahead
    /// counts. `shared` says that the one who does not take it has other streams on the same connection.
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
        }
        Ok(())
    }

    /// Whether its connection carries other streams beside it.
    pub const fn is_shared(&self) -> bool {
        !matches!(self, Self::H1(_))
    }

    /// Whether the message that comes in has been read to its end.
    pub const fn is_received(&self) -> bool {
        match self {
            Self::H1(h1) => h1.is_received(),
            Self::H2(h2) => h2.is_received(),
            Self::H3(h3) => h3.is_received(),
        }
    }

    /// Ready when the peer has gone although it waits for an answer.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> Poll<HttpError> {
        match self {
            Self::H1(h1) => h1.poll_gone(cx, worker),
            Self::H2(h2) => h2.poll_gone(cx),
            Self::H3(h3) => h3.poll_gone(cx),
        }
    }

    /// Ready when nothing is left over from what was sent before.
    ///
    /// # Errors
    /// What went wrong with the stream.
    pub fn poll_flushed(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), HttpError>> {
        match self {
            Self::H1(h1) => h1.poll_flushed(cx, worker),
            Self::H2(h2) => h2.poll_flushed(cx),
            Self::H3(h3) => h3.poll_flushed(cx),
        }
    }

    /// Sends a head, or stages it until data follows or [`HttpStream::push`] is called. `end` says
    /// that nothing follows; `close`, that the connection shall end after this message.
    ///
    /// # Errors
    /// What went wrong with the stream.
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
        }
    }

    /// Sends what is staged.
    ///
    /// # Errors
    /// What went wrong with the stream.
    pub fn push(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> Result<(), HttpError> {
        match self {
            Self::H1(h1) => h1.push(cx, worker),
            Self::H2(_) => Ok(()),
            Self::H3(h3) => h3.push(cx),
        }
    }

    /// Sends data of the body. Call it when [`HttpStream::poll_flushed`] is ready.
    ///
    /// # Errors
    /// What went wrong with the stream.
    pub fn send_data(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        body: Body,
        last: bool,
    ) -> Result<(), HttpError> {
        match self {
            Self::H1(h1) => h1.send_data(cx, worker, body, last),
            Self::H2(h2) => h2.send_data(cx, body, last),
            Self::H3(h3) => h3.send_data(cx, body, last),
        }
    }

    /// Takes a piece of a body from another stream unseen, where that can be; see
    /// [`H1Stream::poll_take_from`].
    ///
    /// # Errors
    /// What went wrong with the other stream.
    pub fn poll_take_from(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        from: &mut Self,
    ) -> Poll<Result<Option<Taken>, HttpError>> {
        match (self, from) {
            (Self::H1(to), Self::H1(from)) => to.poll_take_from(cx, worker, from),
            _ => Poll::Ready(Ok(None)),
        }
    }

    /// Ends the body, with trailers where there are any.
    ///
    /// # Errors
    /// What went wrong with the stream.
    pub fn send_end(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        trailers: Option<&Head>,
    ) -> Result<(), HttpError> {
        match self {
            Self::H1(h1) => h1.send_end(cx, worker, trailers),
            Self::H2(h2) => h2.send_end(cx, trailers),
            Self::H3(h3) => h3.send_end(cx, trailers),
        }
    }

    /// Whether the message that goes out has been sent to its end.
    pub fn is_sent(&self) -> bool {
        match self {
            Self::H1(h1) => h1.is_sent(),
            Self::H2(h2) => h2.is_sent(),
            Self::H3(h3) => h3.is_sent(),
        }
    }

    /// Whether a head was sent that a body may follow.
    pub fn is_head_sent(&self) -> bool {
        match self {
            Self::H1(h1) => h1.is_head_sent(),
            Self::H2(h2) => h2.is_head_sent(),
            Self::H3(h3) => h3.is_head_sent(),
        }
    }

    /// Gives the exchange up; `cancel` says that nobody is at fault.
    pub fn reset(&mut self, cancel: bool) {
        match self {
            Self::H1(h1) => h1.reset(),
            Self::H2(h2) => {
                h2.reset(if cancel { h2::Reason::CANCEL } else { h2::Reason::INTERNAL_ERROR });
            }
            Self::H3(h3) => {
                h3.reset(if cancel { code::REQUEST_CANCELLED } else { code::INTERNAL_ERROR });
            }
        }
    }
}
