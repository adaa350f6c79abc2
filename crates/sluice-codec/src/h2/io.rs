//! A stream of ours in the form that the library reads and writes.
//!
//! Owns: the stream, and what was written to it and has not left; what was read of bodies and nobody has taken.
//! Refuses to know: frames, except by [`Watch`].
//! Keeps: a write is taken whole or waits; small writes leave together, when the connection's driver has
//! done its round and calls [`Wire::push`], and never later. What the library holds of bodies is charged to the
//! worker; nothing more is read once it is too much, or what comes is a flood.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::{FlowControl, RecvStream};
use slab::Slab;
use sluice_core::limits::Limit;
use sluice_io::buffers::{Buf, BufPool, Charge, SCRATCH};
use sluice_io::{Conn, Stream, WorkerCx};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::{ErrorKind, HttpError};
use crate::h1::Role;
use crate::h2::H2Options;
use crate::h2::watch::Watch;

/// Bytes that are gathered before they leave. The library asks for a flush behind every frame of data;
/// one call to the kernel, or one record of TLS, for the frames of many streams costs a copy.
const GATHER: usize = 16 << 10;

/// A stream that the library and the driver of its connection share.
#[derive(Clone, Debug)]
pub struct Wire(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: Stream,
    worker: Rc<WorkerCx>,
    /// Where bytes are counted, for a client's connection.
    conn: Option<Rc<Conn>>,
    gathered: Option<Buf>,
    /// Whether a flush waits for the driver's push.
    driven: bool,
    watch: Watch,
    /// Streams on which a body comes: how much of it lies in the library.
    bodies: Slab<FlowControl>,
    /// What lay in the library of bodies, when it was counted last.
    held: Charge,
    /// How much had come then.
    counted_at: u64,
    held_max: usize,
    fields_max: usize,
    /// Why nothing more is read.
    broken: Option<Broken>,
}

/// Why a connection has to end, beside what the library finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer sends frames that bring nothing, without end.
    Flood,
    /// More lies here of bodies, for readers that do not read, than may.
    Held,
}

impl Broken {
    pub(crate) fn error(self) -> HttpError {
        match self {
            Self::Flood => HttpError::new(ErrorKind::Flood, "http2.frames_without_progress"),
            Self::Held => HttpError::new(
                ErrorKind::Buffers,
                "more of bodies waits for slow readers than connection_buffer_bytes or worker_buffer_bytes allow",
            ),
        }
    }
}

impl Wire {
    /// Over a stream of clear text. Every flush leaves at once until [`Wire::set_driven`] is called.
    pub(crate) fn new(
        stream: Stream,
        worker: Rc<WorkerCx>,
        role: Role,
        options: &H2Options,
        conn: Option<Rc<Conn>>,
    ) -> Self {
        let now = worker.now();
        let (watch, held_max) = match role {
            Role::Server => (Watch::of_client(now), worker.limits.size(Limit::ConnectionBuffers)),
            // Many clients share it: its streams are bounded by their windows, and all by the worker's limit.
            Role::Client => (Watch::of_server(now), usize::MAX),
        };
        Self(Rc::new(RefCell::new(Inner {
            stream,
            conn,
            gathered: None,
            driven: false,
            watch,
            bodies: Slab::new(),
            counted_at: 0,
            held: worker.buffers.charge(),
            held_max,
            fields_max: options.head_fields,
            broken: None,
            worker,
        })))
    }

    /// Why the connection has to end, if it has to.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.0.borrow().broken
    }

    /// Counts a body that comes among those that are held, until the value that it returns is dropped.
    pub(crate) fn count_body(&self, incoming: &mut RecvStream) -> CountedBody {
        let key = self.0.borrow_mut().bodies.insert(incoming.flow_control().clone());
        CountedBody { wire: self.clone(), key }
    }

    /// A piece of a body was given to the library to be sent.
    pub(crate) fn note_sent(&self) {
        self.0.borrow_mut().watch.progress();
    }

    /// How many fields a head may have.
    pub(crate) fn fields_max(&self) -> usize {
        self.0.borrow().fields_max
    }

    /// The buffers of its worker.
    pub(crate) fn buffers(&self) -> BufPool {
        self.0.borrow().worker.buffers.clone()
    }

    /// Says that a driver pushes after each of its rounds.
    pub fn set_driven(&self) {
        self.0.borrow_mut().driven = true;
    }

    /// Sends what was gathered; ready when all of it has left.
    ///
    /// # Errors
    /// What the socket or TLS said.
    pub fn push(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().push(cx)
    }
}

impl Inner {
    /// Charges what the library holds of bodies. It is counted when so much has come that it may have changed.
    fn recount(&mut self) {
        let came = self.watch.data();
        if came - self.counted_at < RECOUNT {
            return;
        }
        self.counted_at = came;
        let held = self.bodies.iter().map(|(_, body)| body.used_capacity()).sum();
        if held > self.held_max || self.held.set(held).is_err() {
            self.broken.get_or_insert(Broken::Held);
        }
    }

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

/// A body that is counted among those that come.
#[derive(Debug)]
pub(crate) struct CountedBody {
    wire: Wire,
    key: usize,
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        let mut inner = self.wire.0.borrow_mut();
        inner.bodies.remove(self.key);
        if inner.bodies.is_empty() {
            // Less is always possible.
            let _ = inner.held.set(0);
        }
    }
}

/// Bytes of bodies between two counts of what is held.
const RECOUNT: u64 = 64 << 10;

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.broken.is_some() {
            // Whoever drives the connection looks, and ends it.
            return Poll::Pending;
        }
        let room = buf.remaining().min(SCRATCH);
        let into = buf.initialize_unfilled_to(room);
        let count = ready!(inner.stream.poll_recv(cx, &inner.worker, into))?;
        inner.watch.take(&into[..count], inner.worker.now());
        buf.advance(count);
        if let Some(conn) = &inner.conn {
            conn.info.add_received(count);
        }
        inner.recount();
        if inner.watch.is_flood() {
            inner.broken.get_or_insert(Broken::Flood);
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
        let Inner { stream, worker, .. } = &mut *inner;
        stream.say_goodbye(cx, worker)?;
        ready!(stream.poll_flushed(cx))?;
        Poll::Ready(stream.raw().finish())
    }
}
