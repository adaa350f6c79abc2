//! Our stream in the form that the library reads and writes.
//!
//! Owns: the stream, and what was written to it and has not left. Refuses to know: frames; the ledger reads their
//! headers. Keeps: a write is accepted whole or waits; small writes leave together, when the connection's driver has
//! finished a round and calls [`Wire::push`], and never later. A connection that must end is not read any further.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_io::buffers::{Buf, SCRATCH};
use sluice_io::{Conn, Stream, WorkerCx};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::h2::ledger::Ledger;

/// Bytes that are gathered before they leave. The library flushes after every DATA frame; the frames of many streams
/// share one system call, or one TLS record, at the cost of a copy.
const GATHER: usize = 16 << 10;

/// A stream that the library and the driver of its connection share.
#[derive(Clone, Debug)]
pub struct Wire(Rc<RefCell<WireState>>);

#[derive(Debug)]
struct WireState {
    stream: Stream,
    worker: Rc<WorkerCx>,
    /// Where bytes are counted, for a client's connection.
    conn: Option<Rc<Conn>>,
    gathered: Option<Buf>,
    /// Whether a flush waits for the driver's push.
    driven: bool,
    ledger: Ledger,
}

impl Wire {
    /// Wraps a stream of plaintext. Every flush leaves at once until [`Wire::set_driven`] is called.
    pub(crate) fn new(
        stream: Stream,
        worker: Rc<WorkerCx>,
        ledger: Ledger,
        conn: Option<Rc<Conn>>,
    ) -> Self {
        let inner = WireState { stream, worker, conn, gathered: None, driven: false, ledger };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// Leaves flushing to a driver, which pushes after each of its rounds.
    pub fn set_driven(&self) {
        self.0.borrow_mut().driven = true;
    }

    /// Sends what was gathered; ready when all of it has left.
    ///
    /// # Errors
    /// The error of the socket or of TLS.
    pub fn push(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().push(cx)
    }
}

impl WireState {
    fn push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.poll_flushed(cx))?;
        match self.gathered.take() {
            Some(gathered) => {
                self.stream.send(cx, &self.worker, &gathered)?;
                self.stream.poll_flushed(cx)
            }
            None => Poll::Ready(Ok(())),
        }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        let first = &first[..first.len().min(SCRATCH)];
        let second = &second[..second.len().min(SCRATCH - first.len())];
        let total = first.len() + second.len();
        if self.gathered.is_none() && total < GATHER {
            // Without a buffer it leaves at once.
            self.gathered = self.worker.buffers.take(GATHER).ok();
        }
        match &mut self.gathered {
            Some(gathered) if gathered.room() >= total => {
                gathered.append(first);
                gathered.append(second);
            }
            _ => {
                ready!(self.push(cx))?;
                self.stream.send_two(cx, &self.worker, first, second)?;
            }
        }
        if let Some(conn) = &self.conn {
            conn.info.add_sent(total);
        }
        Poll::Ready(Ok(total))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.ledger.broken().is_some() {
            // The driver of the connection sees this, and ends it.
            return Poll::Pending;
        }
        let room = buf.remaining().min(SCRATCH);
        let into = buf.initialize_unfilled_to(room);
        let count = ready!(inner.stream.poll_recv(cx, &inner.worker, into))?;
        inner.ledger.note_came(&into[..count], inner.worker.now());
        buf.advance(count);
        if let Some(conn) = &inner.conn {
            conn.info.add_received(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(cx, data, &[])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut parts = parts.iter().filter(|part| !part.is_empty());
        let mut next = || parts.next().map_or(&[][..], |part| &**part);
        let (first, second) = (next(), next());
        self.0.borrow_mut().write(cx, first, second)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        if inner.driven { Poll::Ready(Ok(())) } else { inner.push(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.push(cx))?;
        let WireState { stream, worker, .. } = &mut *inner;
        stream.close_notify(cx, worker)?;
        ready!(stream.poll_flushed(cx))?;
        Poll::Ready(stream.raw().finish())
    }
}
