//! The sockets of a worker, and who waits for them.
//!
//! Owns: what is known about the readiness of each socket, and one waker for each.
//! Refuses to know: what the sockets are. Keeps: readiness that was told holds until an operation
//! found none; a socket has one task, so one waker does; events only wake, they run nothing, so no
//! socket comes or goes between an event and the note of it.
//!
//! The queue is nested in the runtime's own, which sees a single descriptor. A socket costs two dozen
//! bytes here, no lock, and no call when it is closed (docs/decisions/0004).

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
    /// Bytes, the end, or an error.
    Read,
    /// Room for bytes.
    Write,
}

#[derive(Debug, Default)]
struct Waiter {
    waker: Option<Waker>,
    read: Readiness,
    write: Readiness,
    failed: bool,
    /// It is counted among the sockets of UDP flows.
    of_flow: bool,
}

#[derive(Debug, Default)]
struct Readiness {
    now: bool,
    /// Closed or in error: ready for ever.
    ever: bool,
    awaited: bool,
}

impl Readiness {
    /// Notes an event; whether somebody waited for it.
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
    /// No sockets yet. [`Reactor::drive`] must run for any to be waited for. Sockets that come are counted against
    /// `descriptors`; whether there may be another is asked by whoever opens it.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(descriptors: Rc<Allowance>) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self { queue: Queue::new()?, sockets: RefCell::default(), descriptors }))
    }

    /// A reactor whose sockets nobody bounds, for tests and tools.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn unbounded() -> io::Result<Rc<Self>> {
        Self::new(Budget::unlimited().allowance())
    }

    /// How many more sockets may be opened here.
    pub fn descriptors(&self) -> &Allowance {
        &self.descriptors
    }

    /// Wakes those who wait, for ever.
    pub async fn drive(self: Rc<Self>) {
        let driven = async {
            let watched = self.queue.watch()?;
            poll_fn(|cx| {
                // The runtime does not wait while there is more to do, and time goes on all the same.
                turn::next();
                watched.poll(cx, |key, happened| self.tell(key, happened))
            })
            .await
        };
        if let Err(error) = driven.await {
            let error: io::Error = error;
            tracing::error!(%error, "the system tells of no socket any more; restart sluice");
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

    /// Takes a non-blocking stream or listening socket in.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` said.
    pub fn register(self: &Rc<Self>, socket: impl Into<OwnedFd>) -> io::Result<Source> {
        self.take(socket, WatchKind::Stream, false)
    }

    /// Takes a non-blocking socket of datagrams in. Nobody can wait for room on it.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` said.
    pub fn register_datagrams(self: &Rc<Self>, socket: impl Into<OwnedFd>) -> io::Result<Source> {
        self.take(socket, WatchKind::Datagrams, false)
    }

    /// Takes the non-blocking socket of a UDP flow in, which is counted among those.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` said.
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
        let source = Source { key, socket, reactor: Rc::clone(self) };
        self.queue.add(&source.socket, key as u64, watch)?;
        Ok(source)
    }
}

/// A socket that can be waited for, by one task.
#[derive(Debug)]
pub struct Source {
    socket: OwnedFd,
    key: usize,
    reactor: Rc<Reactor>,
}

impl Source {
    /// Ready when an operation on that side is worth a try.
    pub fn poll_ready(&self, cx: &Context<'_>, side: Interest) -> Poll<()> {
        let mut sockets = self.reactor.sockets.borrow_mut();
        let waiting = &mut sockets[self.key];
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

    /// Whether an operation on that side is worth a try now; nobody waits.
    pub fn is_ready(&self, side: Interest) -> bool {
        let mut sockets = self.reactor.sockets.borrow_mut();
        let readiness = sockets[self.key].side(side);
        readiness.now || readiness.ever
    }

    /// Tries `operation` whenever it is worth it, until it does not say `WouldBlock`.
    ///
    /// # Errors
    /// What `operation` said.
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

    /// Notes that an operation found less than it asked for: the next event will tell of more.
    pub fn exhausted(&self, side: Interest) {
        self.reactor.sockets.borrow_mut()[self.key].side(side).now = false;
    }

    /// Notes that an operation found nothing, whatever was told before: an error of a datagram
    /// socket passes with whoever met it.
    pub fn would_block(&self, side: Interest) {
        let mut sockets = self.reactor.sockets.borrow_mut();
        let readiness = sockets[self.key].side(side);
        (readiness.now, readiness.ever) = (false, false);
    }

    /// Takes the socket out of the queue. Only a socket of which somebody else holds a descriptor
    /// needs it; others leave when they are closed.
    pub fn leave(&self) {
        self.reactor.queue.remove(&self.socket);
    }

    /// Whether the peer was said to send no more, in order. What it sent before has all come.
    pub fn has_ended(&self) -> bool {
        let waiting = &self.reactor.sockets.borrow()[self.key];
        waiting.read.ever && !waiting.failed
    }

    /// Whether the socket was said to be in error; asking it which clears that.
    pub fn has_failed(&self) -> bool {
        self.reactor.sockets.borrow()[self.key].failed
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // Closing the socket takes it out of the queue.
        let waiting = self.reactor.sockets.borrow_mut().remove(self.key);
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
            // The end is told once and holds for ever.
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
            // Another takes the key; nothing is told under it but its own events.
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

    /// The error of a datagram socket may be met by a send; whoever reads then must wait, not spin.
    #[test]
    fn a_reader_waits_when_somebody_else_met_the_error() {
        on_reactor(async |reactor| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            socket.connect(gone).unwrap();
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

    /// On a worker that always has something to do the runtime never waits.
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
            // Until all of them are at it.
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
