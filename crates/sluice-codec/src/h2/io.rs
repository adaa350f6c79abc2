//! A stream of ours in the form that the library reads and writes.
//!
//! Owns: the stream and the worker that it lives on. Refuses to know: frames.
//! Keeps: a write takes everything, and the next one waits until it has left.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_io::buffers::SCRATCH;
use sluice_io::{Stream, WorkerCx};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream and its worker.
#[derive(Debug)]
pub struct H2Io {
    stream: Stream,
    worker: Rc<WorkerCx>,
}

impl H2Io {
    /// Over a stream of clear text.
    pub const fn new(stream: Stream, worker: Rc<WorkerCx>) -> Self {
        Self { stream, worker }
    }
}

impl AsyncRead for H2Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, worker } = self.get_mut();
        let room = buf.remaining().min(SCRATCH);
        let count = ready!(stream.poll_recv(cx, worker, buf.initialize_unfilled_to(room)))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, worker } = self.get_mut();
        ready!(stream.poll_flushed(cx))?;
        let count = data.len().min(SCRATCH);
        stream.send(cx, worker, &data[..count])?;
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, worker } = self.get_mut();
        ready!(stream.poll_flushed(cx))?;
        let mut parts = parts.iter().filter(|part| !part.is_empty());
        let (first, second) = (parts.next(), parts.next());
        let first = first.map_or(&[][..], |part| &part[..part.len().min(SCRATCH)]);
        let second = second.map_or(&[][..], |part| &part[..part.len().min(SCRATCH - first.len())]);
        stream.send_two(cx, worker, first, second)?;
        Poll::Ready(Ok(first.len() + second.len()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.poll_flushed(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, worker } = self.get_mut();
        ready!(stream.poll_flushed(cx))?;
        stream.say_goodbye(cx, worker)?;
        ready!(stream.poll_flushed(cx))?;
        Poll::Ready(stream.raw().finish())
    }
}
