//! A stream over a kernel socket.
//!
//! Owns: the socket, bytes given back to be read again, bytes that the peer was too slow to take, copied or in a pipe.
//! Refuses to know: TLS and the meaning of the bytes. Keeps: bytes are read in the order of arrival, given-back ones
//! first; `send` takes everything, and is called only when no unsent bytes remain.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll, ready};

use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown,
};
use sluice_core::Moment;
use sluice_sys::socket::{reset_on_close, set_nodelay};

use crate::buffers::{Buf, BufPool, Exhausted};
use crate::pipes::{PipePool, PooledPipe};
use crate::reactor::{Interest, Source};

/// Parts that are sent with one call.
pub const PARTS_MAX: usize = 17;

/// A socket, the bytes given back, and the unsent bytes.
#[derive(Debug)]
pub struct RawStream {
    socket: Source,
    replay: Option<Buf>,
    unsent: Option<Unsent>,
    pace: Pace,
    /// The end of our side follows immediately and is sent together with the data.
    ending: bool,
}

/// Bytes that the peer was too slow to take.
#[derive(Debug)]
enum Unsent {
    Copied(Buf),
    /// Never empty between two polls.
    Piped(PooledPipe),
}

/// Whether small writes wait for an acknowledgement (Nagle). Accepted sockets send immediately, as they inherit
/// `TCP_NODELAY` from their listener. It is set on a socket that we connected at its second write: the first never
/// waits, and many connections have no second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    AtOnce,
    FirstWrite,
    LaterWrites,
}

impl RawStream {
    /// Creates a stream over a socket that sends immediately: an accepted one, or a unix socket.
    pub const fn new(socket: Source) -> Self {
        Self { socket, replay: None, unsent: None, pace: Pace::AtOnce, ending: false }
    }

    /// Creates a stream over a TCP socket that we connected.
    pub const fn connected(socket: Source) -> Self {
        Self { socket, replay: None, unsent: None, pace: Pace::FirstWrite, ending: false }
    }

    /// The socket.
    pub const fn socket(&self) -> &Source {
        &self.socket
    }

    /// Gives bytes back: they are read before anything else.
    ///
    /// # Errors
    /// No buffer is left for them, or together with what is already kept they exceed the largest.
    pub fn give_back(&mut self, buffers: &BufPool, bytes: &[u8]) -> Result<(), Exhausted> {
        self.replay = buffers.before(bytes, self.replay.take())?;
        Ok(())
    }

    /// Whether bytes move directly between the socket and the caller.
    pub const fn is_bare(&self) -> bool {
        self.replay.is_none() && self.unsent.is_none()
    }

    /// Ready when there is something to read, its end included.
    pub fn poll_arrived(&self, cx: &Context<'_>) -> Poll<()> {
        if self.replay.is_some() {
            return Poll::Ready(());
        }
        self.socket.poll_ready(cx, Interest::Read)
    }

    /// Reads into `into`; 0 means end of stream.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(replay) = &mut self.replay {
            let count = replay.len().min(into.len());
            into[..count].copy_from_slice(&replay[..count]);
            replay.consume(count);
            if replay.is_empty() {
                self.replay = None;
            }
            return Poll::Ready(Ok(count));
        }
        let room = into.len();
        let read = |socket: BorrowedFd<'_>| Ok(recv(socket, &mut *into, RecvFlags::empty())?.0);
        let count = ready!(self.socket.poll_io(cx, Interest::Read, read))?;
        if count < room {
            // That was all for now; another read would return `WouldBlock`.
            self.socket.exhausted(Interest::Read);
        }
        Poll::Ready(Ok(count))
    }

    /// Ready when no bytes of the last `send` remain.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.unsent {
                None => return Poll::Ready(Ok(())),
                Some(Unsent::Copied(unsent)) => {
                    let more = if self.ending { SendFlags::MORE } else { SendFlags::empty() };
                    let count = ready!(poll_send(&self.socket, cx, unsent, more))?;
                    unsent.consume(count);
                    if unsent.is_empty() {
                        self.unsent = None;
                    }
                }
                Some(Unsent::Piped(pipe)) => {
                    ready!(self.socket.poll_io(cx, Interest::Write, |socket| pipe.drain(socket)))?;
                    if pipe.held() == 0 {
                        self.unsent = None;
                    }
                }
            }
        }
    }

    /// The local address; `None` for a unix socket.
    pub fn local_address(&self) -> Option<std::net::SocketAddr> {
        sluice_sys::socket::local_address(&self.socket)
    }

    /// Whether no bytes of the last `send` remain.
    pub const fn is_flushed(&self) -> bool {
        self.unsent.is_none()
    }

    /// Sends all of `data`: immediately what the socket accepts, the rest when it accepts more.
    ///
    /// # Errors
    /// The error of the socket; `OutOfMemory` if the worker has no buffer for the rest.
    pub fn send(
        &mut self,
        cx: &mut Context<'_>,
        pool: &BufPool,
        mut data: &[u8],
    ) -> io::Result<()> {
        debug_assert!(!matches!(self.unsent, Some(Unsent::Piped(_))), "a pipe is flushed first");
        if let Some(Unsent::Copied(unsent)) = &mut self.unsent {
            let count = unsent.append(data);
            if count < data.len() {
                // A larger buffer holds both.
                let mut both = pool.take(unsent.len() + data.len() - count).map_err(no_buffer)?;
                both.append(unsent);
                both.append(&data[count..]);
                *unsent = both;
            }
            return Ok(());
        }
        self.hurry();
        let more = if self.ending { SendFlags::MORE } else { SendFlags::empty() };
        while !data.is_empty() {
            match poll_send(&self.socket, cx, data, more) {
                Poll::Ready(count) => data = &data[count?..],
                Poll::Pending => {
                    self.unsent = Some(Unsent::Copied(pool.copy(data).map_err(no_buffer)?));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends all of `parts`, at most [`PARTS_MAX`], with one call if the socket accepts them. See [`RawStream::send`].
    ///
    /// # Errors
    /// As for [`RawStream::send`].
    pub fn send_parts<'a>(
        &mut self,
        cx: &mut Context<'_>,
        pool: &BufPool,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> io::Result<()> {
        if self.unsent.is_some() {
            return parts.into_iter().try_for_each(|part| self.send(cx, pool, part));
        }
        let mut slices = [IoSlice::new(&[]); PARTS_MAX];
        let (mut count, mut left) = (0, 0);
        for part in parts.clone().filter(|part| !part.is_empty()) {
            slices[count] = IoSlice::new(part);
            (count, left) = (count + 1, left + part.len());
        }
        if left == 0 {
            return Ok(());
        }
        self.hurry();
        let more = if self.ending { SendFlags::MORE } else { SendFlags::empty() };
        let write = |socket: BorrowedFd<'_>| {
            let flags = SendFlags::NOSIGNAL | more;
            Ok(sendmsg(socket, &slices[..count], &mut SendAncillaryBuffer::default(), flags)?)
        };
        let mut sent = match self.socket.poll_io(cx, Interest::Write, write) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        left -= sent;
        if left == 0 {
            return Ok(());
        }
        let mut unsent = pool.take(left).map_err(no_buffer)?;
        for part in parts {
            let skipped = sent.min(part.len());
            sent -= skipped;
            unsent.append(&part[skipped..]);
        }
        self.unsent = Some(Unsent::Copied(unsent));
        match self.poll_flushed(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    fn hurry(&mut self) {
        match self.pace {
            Pace::AtOnce => {}
            Pace::FirstWrite => self.pace = Pace::LaterWrites,
            Pace::LaterWrites => {
                // A socket that refuses the option is slower but still works.
                let _ = set_nodelay(&self.socket);
                self.pace = Pace::AtOnce;
            }
        }
    }

    /// Whether the next read is known to return the rest of the stream or its end.
    pub fn is_last_read(&self) -> bool {
        self.replay.is_none() && self.socket.has_ended()
    }

    /// Ready when the peer is gone: the socket failed, or the peer has ended its side and nothing that it sent is unread.
    /// For a stream that no task reads.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        ready!(self.socket.poll_ended(cx));
        if self.socket.has_failed() {
            return Poll::Ready(());
        }
        let mut first = [0; 1];
        let unread = recv(&self.socket, &mut first, RecvFlags::PEEK);
        let is_read = self.replay.is_none() && matches!(unread, Ok((0, _)) | Err(_));
        if is_read { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Lets the data sent from now on wait for [`RawStream::finish`] or the close, which must follow immediately: the
    /// last bytes and the FIN share one packet.
    pub const fn expect_end(&mut self) {
        self.ending = true;
    }

    /// Ends our side of the stream. Call it when everything is flushed.
    ///
    /// # Errors
    /// The error of the socket; a socket that the peer has already closed is not an error.
    pub fn finish(&self) -> io::Result<()> {
        match shutdown(&self.socket, Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes dropping this value reset the connection.
    pub fn reset_on_drop(&self) {
        reset_on_close(&self.socket);
    }

    /// Takes at most `max` bytes from another socket without inspecting them: they are held here, and
    /// [`RawStream::poll_flushed`] sends them on. `None` if they have to be copied: no pipe is available, or one of the
    /// sockets cannot be spliced. 0 means end of stream. Call it when neither stream holds unread or unsent bytes.
    ///
    /// # Errors
    /// The error of `splice(2)` on the other socket.
    pub fn poll_take_from(
        &mut self,
        cx: &mut Context<'_>,
        other: &Self,
        max: usize,
        pipes: &PipePool,
        now: Moment,
    ) -> Poll<io::Result<Option<usize>>> {
        debug_assert!(
            self.unsent.is_none() && other.replay.is_none(),
            "bytes would overtake others"
        );
        let Some(mut pipe) = pipes.take(now) else { return Poll::Ready(Ok(None)) };
        self.hurry();
        let filled = other.socket.poll_io(cx, Interest::Read, |socket| pipe.fill(socket, max));
        Poll::Ready(match ready!(filled) {
            Ok(count) => {
                self.unsent = (count > 0).then_some(Unsent::Piped(pipe));
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(error),
        })
    }
}

fn poll_send(
    socket: &Source,
    cx: &Context<'_>,
    data: &[u8],
    more: SendFlags,
) -> Poll<io::Result<usize>> {
    let write = |socket: BorrowedFd<'_>| Ok(send(socket, data, SendFlags::NOSIGNAL | more)?);
    let count = ready!(socket.poll_io(cx, Interest::Write, write))?;
    if count < data.len() {
        socket.exhausted(Interest::Write);
    }
    Poll::Ready(Ok(count))
}

pub(crate) fn no_buffer(_: Exhausted) -> io::Error {
    io::Error::new(
        io::ErrorKind::OutOfMemory,
        "the worker has reached `limits.worker_buffer_bytes`",
    )
}
