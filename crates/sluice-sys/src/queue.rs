//! The event queue of a worker: epoll, edge-triggered, itself watched by the runtime.
//!
//! Owns: the queue, and the one promise that the runtime requires for a descriptor it watches.
//! Refuses to know: the tasks that wait for events. Keeps: an event carries the key under which its socket was added; a
//! socket leaves the queue when its last descriptor is closed, or is removed before.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The directions in which a socket is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// Both directions.
    Stream,
    /// Reading only: a datagram that does not fit the send buffer is dropped, and the kernel would report writability
    /// after each datagram sent.
    Datagrams,
}

impl WatchKind {
    const fn flags(self) -> EventFlags {
        let read = EventFlags::IN.union(EventFlags::ET);
        match self {
            Self::Stream => read.union(EventFlags::OUT).union(EventFlags::RDHUP),
            Self::Datagrams => read,
        }
    }
}

/// The maximum number of events per call.
const BATCH: usize = 256;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The state of a socket as reported by an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Reading will not block: there are bytes, end of stream, or an error.
    pub readable: bool,
    /// Writing will not block.
    pub writable: bool,
    /// The peer sends no more, or the socket has an error: reading never blocks again.
    pub read_closed: bool,
    /// The socket is closed or has an error: writing never blocks again.
    pub write_closed: bool,
    /// The socket has an error.
    pub failed: bool,
}

impl Happened {
    fn of(flags: EventFlags) -> Self {
        let any = |of: EventFlags| flags.intersects(of);
        let failed = any(EventFlags::ERR);
        let closed = failed || any(EventFlags::HUP);
        let read_closed = closed || any(EventFlags::RDHUP);
        Self {
            readable: read_closed || any(EventFlags::IN),
            writable: closed || any(EventFlags::OUT),
            read_closed,
            write_closed: closed,
            failed,
        }
    }
}

/// A queue of socket events.
#[derive(Debug)]
pub struct Queue(OwnedFd);

impl Queue {
    /// Creates an empty queue.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Adds a socket; its events carry `key`.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub fn add(&self, socket: impl AsFd, key: u64, watch: WatchKind) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, EventData::new_u64(key), watch.flags())?)
    }

    /// Removes a socket before it is closed.
    pub fn remove(&self, socket: impl AsFd) {
        // An error means that it is not in the queue, which is the desired result.
        let _ = epoll::delete(&self.0, socket);
    }

    /// Registers the queue with the current runtime.
    ///
    /// # Errors
    /// The error of the runtime.
    pub fn watch(&self) -> io::Result<WatchedQueue> {
        let descriptor = self.0.try_clone()?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, so it stays open and the same.
        let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(WatchedQueue(watched?))
    }
}

/// A queue watched by the runtime.
#[derive(Debug)]
pub struct WatchedQueue(AsyncFd<OwnedFd>);

impl WatchedQueue {
    /// Passes the available events to `tell`; never ready except with an error. The task is woken again by the next
    /// event, and once after each batch.
    ///
    /// # Errors
    /// The error of `epoll_wait(2)` or of the runtime.
    pub fn poll(
        &self,
        cx: &mut Context<'_>,
        mut tell: impl FnMut(u64, Happened),
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let mut room = [MaybeUninit::<Event>::uninit(); BATCH];
            let events = match epoll::wait(ready.get_inner(), &mut room, Some(&AT_ONCE)) {
                Ok((events, _)) => events,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            if events.is_empty() {
                // Events from here on wake the task again.
                ready.clear_ready();
                continue;
            }
            for event in events {
                tell(event.data.u64(), Happened::of(event.flags));
            }
            // Let the notified tasks run. On a busy worker there are more events by then, and polling again immediately
            // saves a turn of the runtime's own queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    async fn next(watched: &WatchedQueue) -> (u64, Happened) {
        let mut last = None;
        poll_fn(|cx| {
            let polled = watched.poll(cx, |key, happened| last = Some((key, happened)));
            assert!(!matches!(polled, Poll::Ready(Err(_))), "{polled:?}");
            last.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    #[tokio::test]
    async fn bytes_the_end_and_a_close_are_told_under_the_key() {
        let queue = Queue::new().unwrap();
        let watched = queue.watch().unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        queue.add(&near, 7, WatchKind::Stream).unwrap();
        let (key, happened) = next(&watched).await;
        assert_eq!((key, happened.readable, happened.writable), (7, false, true));
        far.write_all(b"x").unwrap();
        let (_, happened) = next(&watched).await;
        assert!(happened.readable && !happened.read_closed);
        near.read_exact(&mut [0]).unwrap();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        let (_, happened) = next(&watched).await;
        assert!(happened.read_closed && !happened.write_closed);
        drop(far);
        let (_, happened) = next(&watched).await;
        assert!(happened.write_closed);
    }

    #[tokio::test]
    async fn more_events_than_a_batch_all_come() {
        let queue = Queue::new().unwrap();
        let watched = queue.watch().unwrap();
        let pairs: Vec<_> = (0..BATCH as u64 + 3)
            .map(|key| {
                let pair = UnixStream::pair().unwrap();
                queue.add(&pair.0, key, WatchKind::Stream).unwrap();
                pair
            })
            .collect();
        let mut seen = std::collections::BTreeSet::new();
        poll_fn(|cx| {
            let polled = watched.poll(cx, |key, _| {
                seen.insert(key);
            });
            assert!(!matches!(polled, Poll::Ready(Err(_))), "{polled:?}");
            if seen.len() == pairs.len() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
