//! The socket of an HTTP/2 connection, and what its driver and its streams share.
//!
//! Owns: reading, writing and closing. Refuses to know: frames, and what streams are for. Keeps: one task, the driver,
//! uses the socket; streams change the machine and wake the driver, so that everything one round of tasks has produced
//! leaves with one write. An idle connection holds no buffer.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use sluice_io::buffers::SCRATCH;
use sluice_io::timers::Timer;
use sluice_io::{Conn, Stream, WorkerCx};

use crate::error::HttpError;
use crate::h1::Role;
use crate::h2::H2Options;
use crate::h2::machine::{ConnectionEnd, H2Machine, MachineEvent};
use crate::h2::supply::H2Supply;

/// Reads in a row, after which other tasks get their turn.
const READS: usize = 8;

/// Data of at least this length is sent from where it is; less is copied behind other frames, to leave with them.
const DIRECT_MIN: usize = 8 << 10;

/// A connection, as its driver and its streams share it.
#[derive(Debug)]
pub(crate) struct H2Shared {
    machine: RefCell<H2Machine>,
    driver: RefCell<Option<Waker>>,
    /// Whether the driver was woken and has not run since.
    notified: Cell<bool>,
    /// See [`Stream::is_early`].
    early: Cell<bool>,
    /// Whether the server took what was sent early.
    early_taken: Cell<bool>,
    /// Woken when the connection is no longer early.
    completing: RefCell<Option<Waker>>,
}

impl H2Shared {
    /// Uses the machine, and wakes the driver if there is something for it to do.
    pub(crate) fn with<R>(&self, using: impl FnOnce(&mut H2Machine) -> R) -> R {
        let mut machine = self.machine.borrow_mut();
        let result = using(&mut machine);
        let wanted =
            machine.has_output() || machine.is_winding_down() || machine.has_new_lingering();
        if wanted
            && !self.notified.replace(true)
            && let Some(driver) = &*self.driver.borrow()
        {
            driver.wake_by_ref();
        }
        result
    }

    /// Uses the machine to look only.
    pub(crate) fn look<R>(&self, looking: impl FnOnce(&H2Machine) -> R) -> R {
        looking(&self.machine.borrow())
    }

    /// Whether the handshake below is not complete, so that requests may be replays.
    pub(crate) const fn is_early(&self) -> bool {
        self.early.get()
    }

    /// Ready when the handshake below is complete: whether the server took what was sent before.
    ///
    /// # Errors
    /// Why the connection ended instead.
    pub(crate) fn poll_handshake(&self, cx: &Context<'_>) -> Poll<Result<bool, HttpError>> {
        if !self.is_early() {
            return Poll::Ready(Ok(self.early_taken.get()));
        }
        if let Some(end) = self.machine.borrow().end() {
            return Poll::Ready(Err(end.error()));
        }
        *self.completing.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn completed(&self) {
        if let Some(waker) = self.completing.take() {
            waker.wake();
        }
    }

    fn listen(&self, cx: &Context<'_>) {
        self.notified.set(false);
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
    }
}

impl Drop for H2Driver {
    /// Ends the streams of a connection that is given up.
    fn drop(&mut self) {
        self.shared.machine.borrow_mut().give_up();
        self.shared.completed();
    }
}

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Driven {
    /// Something happened.
    Event(MachineEvent),
    /// The connection has ended.
    Over(ConnectionEnd),
}

/// The driver of a connection.
#[derive(Debug)]
pub(crate) struct H2Driver {
    shared: Rc<H2Shared>,
    role: Role,
    stream: Stream,
    worker: Rc<WorkerCx>,
    /// Where bytes are counted, for a client's connection.
    conn: Option<Rc<Conn>>,
    /// Runs while streams linger.
    linger: Option<Timer>,
}

impl H2Driver {
    /// Creates a connection on a stream of plaintext.
    pub(crate) fn new(
        role: Role,
        stream: Stream,
        worker: Rc<WorkerCx>,
        options: &H2Options,
        conn: Option<Rc<Conn>>,
    ) -> Self {
        let supply = H2Supply::of(&worker);
        let machine = H2Machine::new(role, options, supply, worker.now());
        let shared = Rc::new(H2Shared {
            machine: RefCell::new(machine),
            driver: RefCell::default(),
            notified: Cell::new(false),
            early: Cell::new(stream.is_early()),
            early_taken: Cell::new(false),
            completing: RefCell::default(),
        });
        Self { shared, role, stream, worker, conn, linger: None }
    }

    /// Returns what the streams of the connection share with it.
    pub(crate) const fn shared(&self) -> &Rc<H2Shared> {
        &self.shared
    }

    /// Ready when the preface of a client has arrived, or cannot arrive any more.
    pub(crate) fn poll_greeted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionEnd>> {
        self.shared.listen(cx);
        loop {
            let machine = self.shared.machine.borrow();
            if let Some(end) = machine.end().cloned() {
                drop(machine);
                self.close(cx);
                return Poll::Ready(Err(end));
            }
            if machine.is_greeted() {
                return Poll::Ready(Ok(()));
            }
            drop(machine);
            if self.read(cx).is_pending() && !self.write(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Reads and writes until something happens; must be polled as long as the connection lives.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Driven> {
        self.shared.listen(cx);
        for _ in 0..READS {
            if let Some(done) = self.next(cx) {
                return done;
            }
            if !self.shared.look(H2Machine::may_read) {
                // What waits to be sent leaves before more is read that may add to it.
                if self.write(cx) {
                    continue;
                }
                if !self.shared.look(H2Machine::may_read) {
                    return Poll::Pending;
                }
            }
            if self.read(cx).is_pending() {
                if self.write(cx) {
                    continue;
                }
                return Poll::Pending;
            }
        }
        if let Some(done) = self.next(cx) {
            return done;
        }
        self.write(cx);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns the next event, or the end.
    fn next(&mut self, cx: &mut Context<'_>) -> Option<Poll<Driven>> {
        let mut machine = self.shared.machine.borrow_mut();
        if let Some(event) = machine.poll_event() {
            return Some(Poll::Ready(Driven::Event(event)));
        }
        match machine.expire_lingering(self.worker.now()) {
            None => self.linger = None,
            Some(due) => {
                let timer = self.linger.get_or_insert_with(|| Timer::new(&self.worker.timers));
                timer.set(due);
                let _ = timer.poll(cx);
            }
        }
        machine.end_if_drained();
        let end = machine.end()?.clone();
        drop(machine);
        // A drained connection has its last responses to send; another is over as it is.
        if end == ConnectionEnd::Done && self.role == Role::Server && self.push(cx).is_pending() {
            return Some(Poll::Pending);
        }
        self.close(cx);
        Some(Poll::Ready(Driven::Over(end)))
    }

    /// Reads once.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { shared, stream, worker, conn, .. } = self;
        worker.with_scratch(|scratch| {
            let read = ready!(stream.poll_recv(cx, worker, scratch));
            if shared.early.replace(stream.is_early()) && !shared.is_early() {
                shared.early_taken.set(stream.had_early_data());
                shared.completed();
            }
            let mut machine = shared.machine.borrow_mut();
            match read {
                Ok(0) => machine.closed(),
                Ok(count) => {
                    if let Some(conn) = conn {
                        conn.info.add_received(count);
                    }
                    machine.feed(&scratch[..count], worker.now());
                }
                // Of what was sent early, the server may have got nothing.
                Err(error) if shared.is_early() => {
                    machine.broken(io::Error::new(io::ErrorKind::ConnectionReset, error));
                }
                Err(error) => machine.broken(error),
            }
            Poll::Ready(())
        })
    }

    /// Writes what the socket takes; returns whether the connection has ended by that.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(Err(error)) = self.push(cx) else { return false };
        self.shared.machine.borrow_mut().broken(error);
        true
    }

    /// Sends everything that may be sent; ready when it has left.
    fn push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let direct_min = match &self.stream {
            Stream::Raw(_) => DIRECT_MIN,
            // It is copied by encryption, and each piece would be a record of its own.
            Stream::Tls(_) => usize::MAX,
        };
        loop {
            ready!(self.stream.poll_flushed(cx))?;
            let mut machine = self.shared.machine.borrow_mut();
            let pieces = machine.fill(SCRATCH, direct_min);
            let waiting = machine.waiting();
            if waiting.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Some(conn) = &self.conn {
                conn.info.add_sent(waiting.len().min(SCRATCH) + pieces.bytes());
            }
            if waiting.len() > SCRATCH {
                self.stream.send(cx, &self.worker, &waiting[..SCRATCH])?;
                machine.sent_first(SCRATCH);
                continue;
            }
            if pieces.bytes() == 0 {
                self.stream.send(cx, &self.worker, waiting)?;
            } else {
                self.stream.send_parts(cx, &self.worker, machine.parts(&pieces))?;
            }
            machine.sent(&pieces);
        }
    }

    /// Sends a GOAWAY as far as the socket accepts it, and ends our side.
    fn close(&mut self, cx: &mut Context<'_>) {
        // The connection is over either way.
        let _ = self.push(cx);
        let _ = self.stream.close_notify(cx, &self.worker);
        let _ = self.stream.raw().finish();
    }
}
