//! Accepting: a worker's listening socket, which outlives the listener plans it serves.
//!
//! Owns: the accept loop. Refuses to know: what happens to a connection. Keeps: a draining socket accepts its whole
//! queue before it is closed, paused or not, so that no queued connection is reset; running out of descriptors pauses accepting, it
//! does not end it.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_core::Moment;
use sluice_core::connection::Peer;
use sluice_io::{Interest, Source, WorkerCx};
use sluice_sys::listen::{TcpOptions, change_stream};
use sluice_sys::socket::{accept, has_waiting, local_address, no_descriptor};
use sluice_upstream::hops::{self, HopTransport};
use tokio::sync::Notify;

use crate::connection;
use crate::listener::Listener;

/// A worker's listening socket, which outlives the listener plans it serves.
#[derive(Debug)]
pub struct Slot {
    listener: RefCell<Rc<Listener>>,
    /// The socket, while connections are accepted from it.
    socket: RefCell<Weak<ListenSocket>>,
    draining: Cell<bool>,
    /// Whether clients wait in the backlog, by an operator's decision.
    paused: Cell<bool>,
    wake: Notify,
}

/// A listening socket.
#[derive(Debug)]
pub struct ListenSocket(Source);

/// Connections accepted in a row before other tasks get their turn.
const IN_A_ROW: u32 = 32;

/// How long recurring errors are not logged again; they are counted meanwhile.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Descriptors of a connection: its own, and that of the connection to an endpoint.
const PER_CONNECTION: i64 = 2;

/// How long accepting pauses when the process has no descriptors left, or the system no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Slot {
    /// Creates a socket that serves `listener`.
    pub fn new(listener: Rc<Listener>) -> Rc<Self> {
        Rc::new(Self {
            listener: RefCell::new(listener),
            socket: RefCell::default(),
            draining: Cell::new(false),
            paused: Cell::new(false),
            wake: Notify::new(),
        })
    }

    /// The listener in force.
    pub fn listener(&self) -> Rc<Listener> {
        Rc::clone(&self.listener.borrow())
    }

    /// Serves `listener` from the next connection on.
    pub fn replace(&self, listener: Rc<Listener>) {
        *self.listener.borrow_mut() = listener;
    }

    /// Changes the options of the socket.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn change_options(&self, options: TcpOptions) -> io::Result<()> {
        let Some(socket) = self.socket.borrow().upgrade() else { return Ok(()) };
        change_stream(&socket.0, socket.is_tcp(), options)
    }

    /// Stops accepting, or goes on: meanwhile clients wait in the backlog, those of a pause before as well.
    pub fn pause(&self, paused: bool) {
        if self.paused.replace(paused) != paused {
            self.wake.notify_one();
        }
    }

    /// Accepts what is queued and then closes the socket.
    pub fn drain(&self) {
        self.draining.set(true);
        self.wake.notify_one();
    }

    /// Accepts until drained.
    pub async fn accept(self: Rc<Self>, socket: ListenSocket, worker: Rc<WorkerCx>) {
        let socket = Rc::new(socket);
        *self.socket.borrow_mut() = Rc::downgrade(&socket);
        // On a wildcard socket, each connection has its own local address.
        let bound = socket.local();
        let _own =
            local_address(&socket.0).map(|own| hops::ListenerGuard::on(HopTransport::Stream, own));
        let (mut in_a_row, mut tell_at) = (0, Moment::default());
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            let accepted = poll_fn(|cx| {
                if self.draining.get() {
                    // The known readiness of the socket may be stale; the socket itself is asked.
                    return Poll::Ready(socket.accept_now(&worker));
                }
                if self.paused.get() {
                    in_a_row = 0;
                    return woken.as_mut().poll(cx).map(|()| None);
                }
                match socket.poll_accept(cx, &worker) {
                    Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                    Poll::Pending => {
                        in_a_row = 0;
                        woken.as_mut().poll(cx).map(|()| None)
                    }
                }
            })
            .await;
            match accepted {
                None if self.draining.get() => return,
                None => {}
                Some(Ok((socket, peer))) => {
                    let own = || local_address(&socket).map_or(Peer::Unix, Peer::Ip);
                    let local = bound.unwrap_or_else(own);
                    connection::start(&self.listener(), &worker, socket, peer, local);
                }
                Some(Err(error)) => {
                    self.listener().counters.accept_errors.increment();
                    if !is_of_client(&error) {
                        if worker.now() >= tell_at {
                            tell_at = worker.now().after(TELL_AGAIN);
                            tracing::error!(listener = &**self.listener().name(), %error, "cannot accept connections; {}", remedy(&error));
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            in_a_row += 1;
            if in_a_row == IN_A_ROW {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Whether the error concerns only the queued connection: its client or its network went away. Any other error concerns
/// the process or the system, and will recur. Source: accept(2).
fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
            | io::ErrorKind::PermissionDenied
    ) || error.raw_os_error() == Some(EPROTO)
}

/// How to remedy an error that recurs.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(EMFILE | ENFILE) => {
            "all file descriptors outside `descriptor_reserve` are in use; raise the limit (ulimit -n)"
        }
        Some(ENOSPC) => "raise fs.epoll.max_user_watches",
        Some(ENOBUFS | ENOMEM) => "the system has no memory left for sockets",
        _ => "clients wait in the backlog",
    }
}

const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EPROTO: i32 = 71;
const ENOBUFS: i32 = 105;

impl ListenSocket {
    /// A listening socket that is registered with its worker's reactor.
    pub const fn new(socket: Source) -> Self {
        Self(socket)
    }

    /// The local address of connections, unless each has its own.
    fn local(&self) -> Option<Peer> {
        match local_address(&self.0) {
            Some(address) if address.ip().is_unspecified() => None,
            Some(address) => Some(Peer::Ip(address)),
            None => Some(Peer::Unix),
        }
    }

    fn is_tcp(&self) -> bool {
        local_address(&self.0).is_some()
    }

    fn poll_accept(&self, cx: &Context<'_>, worker: &WorkerCx) -> Poll<io::Result<(Source, Peer)>> {
        ready!(self.0.poll_ready(cx, Interest::Read));
        // Clients that cannot be served wait in the backlog: the remaining descriptors are for what is open already.
        if !worker.reactor.descriptors().has(PER_CONNECTION) && has_waiting(&self.0) {
            return Poll::Ready(Err(no_descriptor()));
        }
        let accepted = self.0.poll_io(cx, Interest::Read, |socket| accept(socket));
        accepted.map(|accepted| enter(accepted?, worker))
    }

    /// The next queued connection, if there is one.
    fn accept_now(&self, worker: &WorkerCx) -> Option<io::Result<(Source, Peer)>> {
        match accept(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            accepted => Some(accepted.and_then(|accepted| enter(accepted, worker))),
        }
    }
}

fn enter(
    (socket, peer): (OwnedFd, Option<SocketAddr>),
    worker: &WorkerCx,
) -> io::Result<(Source, Peer)> {
    Ok((worker.reactor.register(socket)?, peer.map_or(Peer::Unix, Peer::Ip)))
}

impl Drop for ListenSocket {
    fn drop(&mut self) {
        // The listening socket of a unix path is shared by all workers.
        self.0.leave();
    }
}
