//! The sockets of a worker and the tasks that wait for them.
//!
//! Owns: the known readiness of each socket, and one waker for each.
//! Refuses to know: what the sockets are for. Keeps: reported readiness holds until an operation returns `WouldBlock`
//! or less than requested; a socket has one task, so one waker suffices; events only wake, they run nothing, so no
//! socket is added or removed between an event and its record.
//!
//! The queue is nested in the runtime's own, which sees a single descriptor. A socket costs two dozen bytes here, no
//! lock, and no system call to deregister it (docs/decisions/0004).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use slab::Slab;
use sluice_sys::queue::{Happened, Queue, WatchKind};

use crate::descriptors::{Allowance, Budget};
use crate::turn;

/// The sockets of one thread.
#[derive(Debug)]
pub struct Reactor {
    queue: Queue,
    sockets: RefCell<Slab<Waiter>>,
    descriptors: Rc<Allowance>,
}

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, end of stream, or an error.
    Read,
    /// Room for writing.
    Write,
}

#[derive(Debug, Default)]
struct Waiter {
    waker: Option<Waker>,
    read: Readiness,
    write: Readiness,
    failed: bool,
    /// It counts as the socket of a UDP flow.
    of_flow: bool,
}

#[derive(Debug, Default)]
struct Readiness {
    now: bool,
    /// Closed or failed: ready forever.
    ever: bool,
    awaited: bool,
}

impl Readiness {
    /// Records an event; returns whether a task waited for it.
    const fn happened(&mut self, now: bool, ever: bool) -> bool {
        self.now |= now;
        self.ever |= ever;
        let wakes = self.awaited && now;
        self.awaited &= !wakes;
        wakes
    }
}

impl Waiter {
    const fn side(&mut self, side: Interest) -> &mut Readiness {
        match side {
            Interest::Read => &mut self.read,
            Interest::Write => &mut self.write,
        }
    }
}

impl Reactor {
    /// Creates a reactor without sockets. Events are delivered only while [`Reactor::drive`] runs. Registered sockets
    /// count against `descriptors`; the code that opens a socket checks whether another is allowed.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new(descriptors: Rc<Allowance>) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self { queue: Queue::new()?, sockets: RefCell::default(), descriptors }))
    }

    /// Creates a reactor without a limit on sockets, for tests and tools.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn unbounded() -> io::Result<Rc<Self>> {
        Self::new(Budget::unlimited().allowance())
    }

    /// The allowance for further sockets.
    pub fn descriptors(&self) -> &Allowance {
        &self.descriptors
    }

    /// Wakes waiting tasks, forever.
    pub async fn drive(self: Rc<Self>) {
        let driven = async {
            let watched = self.queue.watch()?;
            poll_fn(|cx| {
                // The runtime does not park while there is more to do, and time passes all the same.
                turn::next();
                watched.poll(cx, |key, happened| self.tell(key, happened))
            })
            .await
        };
        if let Err(error) = driven.await {
            let error: io::Error = error;
            tracing::error!(%error, "socket events can no longer be received; restart sluice");
        }
    }

    fn tell(&self, key: u64, happened: Happened) {
        let mut sockets = self.sockets.borrow_mut();
        let Some(waiting) = usize::try_from(key).ok().and_then(|key| sockets.get_mut(key)) else {
            return;
        };
        waiting.failed |= happened.failed;
        let reads = waiting.read.happened(happened.readable, happened.read_closed);
        let writes = waiting.write.happened(happened.writable, happened.write_closed);
        if (reads || writes)
            && let Some(waker) = &waiting.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Registers a non-blocking stream or listening socket.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub fn register(self: &Rc<Self>, socket: impl Into<OwnedFd>) -> io::Result<Source> {
        self.take(socket, WatchKind::Stream, false)
    }

    /// Registers a non-blocking datagram socket. It cannot be waited on for writability.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub fn register_datagrams(self: &Rc<Self>, socket: impl Into<OwnedFd>) -> io::Result<Source> {
        self.take(socket, WatchKind::Datagrams, false)
    }

    /// Registers the non-blocking socket of a UDP flow, which is counted as such.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub fn register_flow(self: &Rc<Self>, socket: impl Into<OwnedFd>) -> io::Result<Source> {
        self.take(socket, WatchKind::Datagrams, true)
    }

    fn take(
        self: &Rc<Self>,
        socket: impl Into<OwnedFd>,
        watch: WatchKind,
        of_flow: bool,
    ) -> io::Result<Source> {
        let socket = socket.into();
        let waiting = Waiter { of_flow, ..Waiter::default() };
        let key = self.sockets.borrow_mut().insert(waiting);
        if of_flow {
            self.descriptors.opened_for_flow();
        } else {
            self.descriptors.opened(1);
        }
        #[allow(clippy::cast_possible_truncation, reason = "descriptors are numbers of 31 bits")]
        let source = Source { key: key as u32, socket, reactor: Rc::clone(self) };
        self.queue.add(&source.socket, key as u64, watch)?;
        Ok(source)
    }
}

/// A registered socket that one task can wait for.
#[derive(Debug)]
pub struct Source {
    socket: OwnedFd,
    /// Half a word, as the descriptor is: every connection has two.
    key: u32,
    reactor: Rc<Reactor>,
}

impl Source {
    const fn place(&self) -> usize {
        self.key as usize
    }

    /// Ready when an operation in that direction is worth attempting.
    pub fn poll_ready(&self, cx: &Context<'_>, side: Interest) -> Poll<()> {
        let mut sockets = self.reactor.sockets.borrow_mut();
        let waiting = &mut sockets[self.place()];
        let readiness = waiting.side(side);
        if readiness.now || readiness.ever {
            return Poll::Ready(());
        }
        readiness.awaited = true;
        if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ready when the peer has ended its side or the socket has failed; bytes alone do not count. Wakes the task of `cx`
    /// for every event on the reading side until the socket has failed.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        let mut sockets = self.reactor.sockets.borrow_mut();
        let waiting = &mut sockets[self.place()];
        if !waiting.failed {
            waiting.read.awaited = true;
            if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                waiting.waker = Some(cx.waker().clone());
            }
        }
        if waiting.read.ever { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether an operation in that direction is worth attempting now; does not wait.
    pub fn is_ready(&self, side: Interest) -> bool {
        let mut sockets = self.reactor.sockets.borrow_mut();
        let readiness = sockets[self.place()].side(side);
        readiness.now || readiness.ever
    }

    /// Attempts `operation` whenever the socket is ready, until it returns something other than `WouldBlock`.
    ///
    /// # Errors
    /// The error of `operation`.
    pub fn poll_io<T>(
        &self,
        cx: &Context<'_>,
        side: Interest,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_ready(cx, side));
            match operation(self.socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.would_block(side),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Notes that an operation returned less than requested: the next event will report more.
    pub fn exhausted(&self, side: Interest) {
        self.reactor.sockets.borrow_mut()[self.place()].side(side).now = false;
    }

    /// Notes that an operation returned `WouldBlock`, whatever was reported before: the error of a datagram socket is
    /// cleared by the first operation that reports it.
    pub fn would_block(&self, side: Interest) {
        let mut sockets = self.reactor.sockets.borrow_mut();
        let readiness = sockets[self.place()].side(side);
        (readiness.now, readiness.ever) = (false, false);
    }

    /// Removes the socket from the queue. Needed only if another descriptor of the socket exists; others are removed
    /// when they are closed.
    pub fn leave(&self) {
        self.reactor.queue.remove(&self.socket);
    }

    /// Whether the peer was reported to have ended its side cleanly. Everything it sent before has arrived.
    pub fn has_ended(&self) -> bool {
        let waiting = &self.reactor.sockets.borrow()[self.place()];
        waiting.read.ever && !waiting.failed
    }

    /// Whether an error was reported for the socket; reading the error clears it.
    pub fn has_failed(&self) -> bool {
        self.reactor.sockets.borrow()[self.place()].failed
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // Closing the socket removes it from the queue.
        let waiting = self.reactor.sockets.borrow_mut().remove(self.place());
        if waiting.of_flow {
            self.reactor.descriptors.closed_for_flow();
        } else {
            self.reactor.descriptors.closed(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    /// A registered socket and its peer, on a driven reactor.
    fn pair(reactor: &Rc<Reactor>) -> (Source, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (reactor.register(near).unwrap(), far)
    }

    fn on_reactor<F: Future>(test: impl FnOnce(Rc<Reactor>) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reactor = Reactor::unbounded().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            tokio::task::spawn_local(Rc::clone(&reactor).drive());
            test(reactor).await
        })
    }

    async fn read(source: &Source, room: usize) -> Vec<u8> {
        let mut into = vec![0; room];
        let read = |fd: BorrowedFd<'_>| Ok(rustix::io::read(fd, &mut into)?);
        let mut read = read;
        let count = poll_fn(|cx| source.poll_io(cx, Interest::Read, &mut read)).await.unwrap();
        into.truncate(count);
        into
    }

    #[test]
    fn a_reader_is_woken_by_bytes_and_by_the_end() {
        on_reactor(async |reactor| {
            let (near, mut far) = pair(&reactor);
            let writer = async {
                tokio::task::yield_now().await;
                far.write_all(b"one").unwrap();
            };
            let (got, ()) = tokio::join!(read(&near, 9), writer);
            assert_eq!(got, b"one");
            near.exhausted(Interest::Read);
            drop(far);
            assert_eq!(read(&near, 9).await, b"");
            // The end is reported once and holds forever.
            near.exhausted(Interest::Read);
            assert_eq!(read(&near, 9).await, b"");
        });
    }

    #[test]
    fn a_writer_waits_for_room() {
        on_reactor(async |reactor| {
            let (near, mut far) = pair(&reactor);
            far.set_nonblocking(true).unwrap();
            let data = vec![7; 1 << 20];
            let mut sent = 0;
            let write = poll_fn(|cx| {
                while sent < data.len() {
                    let some = |fd: BorrowedFd<'_>| Ok(rustix::io::write(fd, &data[sent..])?);
                    sent += ready!(near.poll_io(cx, Interest::Write, some)).unwrap();
                }
                Poll::Ready(())
            });
            let mut got = 0;
            let drain = async {
                let mut into = vec![0; 64 << 10];
                while got < data.len() {
                    match far.read(&mut into) {
                        Ok(count) => got += count,
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            };
            tokio::join!(write, drain);
            assert_eq!(got, data.len());
        });
    }

    #[test]
    fn a_socket_that_left_is_not_heard_of() {
        on_reactor(async |reactor| {
            let (near, mut far) = pair(&reactor);
            let shared = near.as_fd().try_clone_to_owned().unwrap();
            near.leave();
            drop(near);
            far.write_all(b"x").unwrap();
            // Another socket takes the key; only its own events are reported under it.
            let (other, mut peer) = pair(&reactor);
            poll_fn(|cx| other.poll_ready(cx, Interest::Write)).await;
            assert!(
                poll_fn(|cx| Poll::Ready(other.poll_ready(cx, Interest::Read))).await.is_pending()
            );
            peer.write_all(b"y").unwrap();
            assert_eq!(read(&other, 1).await, b"y");
            drop(shared);
        });
    }

    /// A send may consume the error of a datagram socket; a reader must then wait, not spin.
    #[test]
    fn a_reader_waits_when_somebody_else_met_the_error() {
        on_reactor(async |reactor| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            // A socket that is connected to another address refuses what comes from this one, and keeps its port.
            let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            other.connect("127.0.0.1:9").unwrap();
            socket.connect(other.local_addr().unwrap()).unwrap();
            socket.set_nonblocking(true).unwrap();
            let source = reactor.register_datagrams(socket.try_clone().unwrap()).unwrap();
            socket.send(b"x").unwrap();
            poll_fn(|cx| source.poll_ready(cx, Interest::Read)).await;
            assert!(source.has_failed());
            let refused = socket.send(b"x").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let mut read = |fd: BorrowedFd<'_>| Ok(rustix::io::read(fd, &mut [0; 8])?);
            let polled =
                poll_fn(|cx| Poll::Ready(source.poll_io(cx, Interest::Read, &mut read))).await;
            assert!(polled.is_pending(), "{polled:?}");
        });
    }

    /// On a worker that is always busy the runtime never parks.
    #[test]
    fn time_goes_on_while_a_worker_is_busy() {
        use crate::WorkerCx;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_unpark(turn::next)
            .build_local(Default::default())
            .unwrap();
        runtime.block_on(async {
            let worker = WorkerCx::solitary(sluice_core::clock::ClockOrigin::read().clock());
            worker.start();
            for _ in 0..8 {
                let (near, mut far) = pair(&worker.reactor);
                worker.spawn(async move {
                    loop {
                        far.write_all(b"x").unwrap();
                        assert_eq!(read(&near, 1).await, b"x");
                        near.exhausted(Interest::Read);
                    }
                });
            }
            // Until all of them are running.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            let began = worker.now();
            while worker.now() <= began {
                let waited = worker.clock.now().since(began);
                assert!(waited < std::time::Duration::from_secs(30), "time stands still");
                tokio::task::yield_now().await;
            }
        });
    }
}
