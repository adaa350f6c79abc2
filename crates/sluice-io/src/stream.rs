//! A stream as phases and pumps see it: clear text in, clear text out.
//!
//! Owns: the choice between a bare socket and TLS over one. Refuses to know: who is at either end.
//! Keeps: an enum, never a box on the byte path, so that the pump can see two bare sockets.

use std::io;
use std::task::{Context, Poll, Waker};

use crate::buffers::{BufPool, Exhausted};
use crate::raw::RawStream;
use crate::reactor::Interest;
use crate::tls::TlsStream;
use crate::worker::WorkerCx;

/// A stream of bytes both ways.
#[derive(Debug)]
pub enum Stream {
    /// Straight to the socket.
    Raw(RawStream),
    /// TLS, shaken hands.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Reads clear text into `into`, which is no larger than the scratch; 0 is the end.
    ///
    /// # Errors
    /// What the socket or TLS said.
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

    /// Ready when nothing is left over from the last `send`.
    ///
    /// # Errors
    /// What the socket said.
    pub fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Raw(raw) => raw.poll_flushed(cx),
            Self::Tls(tls) => tls.raw.poll_flushed(cx),
        }
    }

    /// Sends all of `data`, at most a scratch full. Call it when [`Stream::poll_flushed`] is ready.
    ///
    /// # Errors
    /// What the socket or TLS said.
    pub fn send(&mut self, cx: &mut Context<'_>, worker: &WorkerCx, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.send(cx, &worker.buffers, data),
            Self::Tls(tls) => tls.send(cx, worker, data),
        }
    }

    /// Sends all of `first` and then all of `second`; together no more than a scratch full and a head.
    ///
    /// # Errors
    /// What the socket or TLS said.
    pub fn send_two(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        first: &[u8],
        second: &[u8],
    ) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.send_two(cx, &worker.buffers, first, second),
            Self::Tls(tls) => {
                tls.send(cx, worker, first)?;
                tls.send(cx, worker, second)
            }
        }
    }

    /// Whether nothing has come on a stream that nobody reads: no bytes, no end, no error. Words
    /// between TLS sessions, such as tickets, are heard and do not count.
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

    /// Says in TLS that nothing more will be sent; a bare socket has no such word.
    ///
    /// # Errors
    /// What the socket or TLS said.
    pub fn close_notify(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> io::Result<()> {
        match self {
            Self::Raw(_) => Ok(()),
            Self::Tls(tls) => tls.close_notify(cx, worker),
        }
    }

    /// See [`RawStream::is_last_read`]; a TLS stream does not know.
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

    /// Whether bytes can move from or to it without anybody looking at them.
    pub const fn is_bare(&self) -> bool {
        matches!(self, Self::Raw(raw) if raw.is_bare())
    }

    /// Takes bytes from another stream unseen; see [`RawStream::poll_take_from`]. Both are bare.
    ///
    /// # Errors
    /// What the socket of the other said.
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

    /// The socket below.
    pub const fn raw(&self) -> &RawStream {
        match self {
            Self::Raw(raw) => raw,
            Self::Tls(tls) => &tls.raw,
        }
    }

    /// Whether the peer ended a TLS stream without saying so.
    pub const fn was_truncated(&self) -> bool {
        match self {
            Self::Raw(_) => false,
            Self::Tls(tls) => tls.was_truncated(),
        }
    }

    /// Gives clear text back: it is read before anything else.
    ///
    /// # Errors
    /// No buffer is left to keep it in, or it and what is kept already exceed the largest.
    pub fn give_back(&mut self, buffers: &BufPool, bytes: &[u8]) -> Result<(), Exhausted> {
        match self {
            Self::Raw(raw) => raw.give_back(buffers, bytes),
            Self::Tls(tls) => tls.give_back(buffers, bytes),
        }
    }
}
