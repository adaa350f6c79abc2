//! A stream as phases and pumps see it: plaintext in, plaintext out.
//!
//! Owns: the choice between a bare socket and TLS over one. Refuses to know: the peers.
//! Keeps: an enum, never a box on the byte path, so that the pump can see two bare sockets.

use std::io;
use std::task::{Context, Poll, Waker};

use crate::buffers::{BufPool, Exhausted};
use crate::raw::RawStream;
use crate::reactor::Interest;
use crate::tls::{HandshakeError, TlsStream};
use crate::worker::WorkerCx;

/// A bidirectional stream of bytes.
#[derive(Debug)]
pub enum Stream {
    /// Directly over the socket.
    Raw(RawStream),
    /// TLS, after the handshake.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Ready when a read may return something; over TLS, always. Until then the task of `cx` is woken as by a read.
    pub fn poll_arrived(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Raw(raw) => raw.poll_arrived(cx),
            Self::Tls(_) => Poll::Ready(()),
        }
    }

    /// Reads plaintext into `into`, which is no larger than the scratch; 0 means end of stream.
    ///
    /// # Errors
    /// The error of the socket or of TLS.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Raw(raw) => raw.poll_recv(cx, into),
            Self::Tls(tls) => tls.poll_recv(cx, worker, into),
        }
    }

    /// Ready when no bytes of the last `send` remain.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Raw(raw) => raw.poll_flushed(cx),
            Self::Tls(tls) => tls.raw.poll_flushed(cx),
        }
    }

    /// Sends all of `data`, at most [`SCRATCH`](crate::buffers::SCRATCH) bytes. Call it when [`Stream::poll_flushed`]
    /// is ready.
    ///
    /// # Errors
    /// The error of the socket or of TLS.
    pub fn send(&mut self, cx: &mut Context<'_>, worker: &WorkerCx, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.send(cx, &worker.buffers, data),
            Self::Tls(tls) => tls.send(cx, worker, data),
        }
    }

    /// Sends all of `parts`, at most [`PARTS_MAX`](crate::raw::PARTS_MAX); together at most a full scratch plus a head. Over
    /// TLS each begins a record.
    ///
    /// # Errors
    /// The error of the socket or of TLS.
    pub fn send_parts<'a>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        mut parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.send_parts(cx, &worker.buffers, parts),
            Self::Tls(tls) => parts.try_for_each(|part| tls.send(cx, worker, part)),
        }
    }

    /// Whether nothing has arrived on a stream that no task reads: no bytes, no end, no error. TLS messages that are
    /// not data, such as session tickets, are processed and do not count.
    pub fn is_quiet(&mut self, worker: &WorkerCx) -> bool {
        if !self.raw().socket().is_ready(Interest::Read) {
            return true;
        }
        match self {
            Self::Raw(_) => false,
            Self::Tls(tls) => {
                let mut cx = Context::from_waker(Waker::noop());
                worker.with_scratch(|scratch| tls.poll_recv(&mut cx, worker, scratch)).is_pending()
            }
        }
    }

    /// See [`RawStream::poll_gone`]. Over TLS, a peer that has ended its side expects no more.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Raw(raw) => raw.poll_gone(cx),
            Self::Tls(tls) => tls.raw.socket().poll_ended(cx),
        }
    }

    /// Sends a close_notify over TLS; has no effect on a bare socket.
    ///
    /// # Errors
    /// The error of the socket or of TLS.
    pub fn close_notify(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> io::Result<()> {
        match self {
            Self::Raw(_) => Ok(()),
            Self::Tls(tls) => tls.close_notify(cx, worker),
        }
    }

    /// See [`RawStream::is_last_read`]; always `false` for TLS.
    pub fn is_last_read(&self) -> bool {
        matches!(self, Self::Raw(raw) if raw.is_last_read())
    }

    /// See [`RawStream::expect_end`].
    pub fn expect_end(&mut self) {
        match self {
            Self::Raw(raw) => raw.expect_end(),
            Self::Tls(tls) => tls.raw.expect_end(),
        }
    }

    /// Whether bytes can be moved from or to it without being inspected.
    pub const fn is_bare(&self) -> bool {
        matches!(self, Self::Raw(raw) if raw.is_bare())
    }

    /// Takes bytes from another stream without inspecting them; see [`RawStream::poll_take_from`]. Both are bare.
    ///
    /// # Errors
    /// The error of the other stream's socket.
    pub fn poll_take_from(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        other: &Self,
        max: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        match (self, other) {
            (Self::Raw(to), Self::Raw(from)) => {
                to.poll_take_from(cx, from, max, &worker.pipes, worker.now())
            }
            _ => Poll::Ready(Ok(None)),
        }
    }

    /// The underlying socket.
    pub const fn raw(&self) -> &RawStream {
        match self {
            Self::Raw(raw) => raw,
            Self::Tls(tls) => &tls.raw,
        }
    }

    /// See [`TlsStream::is_early`].
    pub fn is_early(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_early())
    }

    /// See [`TlsStream::had_early_data`].
    pub fn had_early_data(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.had_early_data())
    }

    /// Performs what is left of a TLS handshake, on a stream on which data was sent early.
    ///
    /// # Errors
    /// As for [`TlsStream::poll_handshake`].
    pub fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), HandshakeError>> {
        match self {
            Self::Raw(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_handshake(cx, worker),
        }
    }

    /// Whether the peer ended a TLS stream without a close_notify.
    pub const fn was_truncated(&self) -> bool {
        match self {
            Self::Raw(_) => false,
            Self::Tls(tls) => tls.was_truncated(),
        }
    }

    /// Returns plaintext to the stream: it is read before anything else.
    ///
    /// # Errors
    /// No buffer is left for it, or together with what is already kept it exceeds the largest.
    pub fn give_back(&mut self, buffers: &BufPool, bytes: &[u8]) -> Result<(), Exhausted> {
        match self {
            Self::Raw(raw) => raw.give_back(buffers, bytes),
            Self::Tls(tls) => tls.give_back(buffers, bytes),
        }
    }
}
