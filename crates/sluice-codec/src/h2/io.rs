//! A stream of ours in the form that the library reads and writes.
//!
//! Owns: the stream and the worker that it lives on. Refuses to know: frames.
//! Keeps: a write takes everything, and the next one waits until it has left.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_io::buffers::SCRATCH;
use sluice_io::{Conn, Stream, WorkerCx};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream and its worker.
#[derive(Debug)]
pub struct H2Io {
    stream: Stream,
    worker: Rc<WorkerCx>,
    /// Where bytes are counted, for a client's connection.
    conn: Option<Rc<Conn>>,
}

impl H2Io {
    /// Over a stream of clear text.
    pub const fn new(stream: Stream, worker: Rc<WorkerCx>, conn: Option<Rc<Conn>>) -> Self {
        Self { stream, worker, conn }
    }

    fn count_sent(&self, count: usize) -> usize {
        if let Some(conn) = &self.conn {
            conn.info.add_sent(count);
        }
        count
    }
}

impl AsyncRead for H2Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, worker, conn } = self.get_mut();
        let room = buf.remaining().min(SCRATCH);
        let count = ready!(stream.poll_recv(cx, worker, buf.initialize_unfilled_to(room)))?;
        buf.advance(count);
        if let Some(conn) = conn {
            conn.info.add_received(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Self { stream, worker, .. } = this;
        ready!(stream.poll_flushed(cx))?;
        let count = data.len().min(SCRATCH);
        stream.send(cx, worker, &data[..count])?;
        Poll::Ready(Ok(this.count_sent(count)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Self { stream, worker, .. } = this;
        ready!(stream.poll_flushed(cx))?;
        let mut parts = parts.iter().filter(|part| !part.is_empty());
        let (first, second) = (parts.next(), parts.next());
        let first = first.map_or(&[][..], |part| &part[..part.len().min(SCRATCH)]);
        let second = second.map_or(&[][..], |part| &part[..part.len().min(SCRATCH - first.len())]);
        stream.send_two(cx, worker, first, second)?;
        let count = first.len() + second.len();
        Poll::Ready(Ok(this.count_sent(count)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.poll_flushed(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Self { stream, worker, .. } = this;
        ready!(stream.poll_flushed(cx))?;
        stream.say_goodbye(cx, worker)?;
        ready!(stream.poll_flushed(cx))?;
        Poll::Ready(stream.raw().finish())
    }
}
