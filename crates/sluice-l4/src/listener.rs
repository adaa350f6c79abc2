//! A listener: as planned for all workers, and as it stands on one.
//!
//! Owns: what a listener does with a socket before a chain is chosen, and accepting.
//! Refuses to know: what becomes of a connection after that.
//! Keeps: a socket outlives the plans that come and go over it; a draining socket is accepted empty
//! before it is closed, so that nobody who was queued is reset.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_core::connection::Peer;
use sluice_core::{Cidr, Name, Reason};
use sluice_io::{ConnectionFilter, FilterPlan, Inspector, Socket, WorkerCx};
use sluice_telemetry::{Counter, Gauge, Histogram};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

use crate::chain::{Chain, Chains};
use crate::connection;
use crate::inspect::Needs;
use crate::metrics;
use crate::select::ChainTable;

/// A listener, shared by all workers.
#[derive(Debug)]
pub struct ListenerPlan {
    /// Its name.
    pub name: Name,
    /// Filters that judge the source before anything is read for a chain.
    pub filters: Vec<Arc<dyn FilterPlan>>,
    /// Whether and from whom a PROXY header is taken.
    pub proxy_protocol: Option<ProxyPlan>,
    /// How the first bytes are looked at.
    pub inspect: InspectPlan,
    /// The index over the chains.
    pub table: ChainTable,
    /// The chains.
    pub chains: Arc<Chains>,
}

/// Taking a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyPlan {
    /// Whether it must be there.
    pub accept: ProxyAccept,
    /// Who may send one.
    pub trust: Vec<Cidr>,
    /// How long it is waited for.
    pub timeout: Duration,
}

/// Whether a PROXY header must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyAccept {
    /// It may be there.
    Optional,
    /// A connection without one is refused.
    Required,
}

/// Looking at the first bytes.
#[derive(Clone, Debug)]
pub struct InspectPlan {
    /// Which inspectors are asked.
    pub needs: Needs,
    /// How long the first bytes are waited for.
    pub timeout: Duration,
    /// How many are held at most.
    pub bytes: usize,
    /// What happens when they do not tell in time.
    pub on_timeout: OnTimeout,
}

/// What happens when the first bytes do not tell in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeout {
    /// The chain is chosen with the protocol `silent` or `unknown`.
    Continue,
    /// The connection is closed.
    Close,
}

/// A listener on one worker.
#[derive(Debug)]
pub struct Listener {
    pub(crate) plan: Arc<ListenerPlan>,
    pub(crate) filters: Vec<Rc<dyn ConnectionFilter>>,
    pub(crate) inspectors: Vec<Rc<dyn Inspector>>,
    pub(crate) chains: Vec<Rc<Chain>>,
    pub(crate) cells: Cells,
}

/// The metric cells of a listener on one worker.
#[derive(Debug)]
pub(crate) struct Cells {
    pub(crate) accepted: Counter,
    pub(crate) active: Gauge,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) handshake_time: Histogram,
    pub(crate) handshakes: Handshakes,
    ended: RefCell<Vec<(Reason, Counter)>>,
}

/// TLS handshakes with clients, by result.
#[derive(Debug)]
pub(crate) struct Handshakes {
    pub(crate) full: Counter,
    pub(crate) resumed: Counter,
    pub(crate) failed: Counter,
}

impl Listener {
    /// The listener on `worker`.
    pub fn on_worker(plan: Arc<ListenerPlan>, worker: &Rc<WorkerCx>) -> Rc<Self> {
        let (name, shard) = (&*plan.name, &worker.shard);
        Rc::new(Self {
            filters: plan.filters.iter().map(|filter| filter.on_worker(worker, name)).collect(),
            inspectors: plan.inspect.needs.inspectors(),
            chains: Chain::all_on_worker(&plan.chains, name, worker),
            cells: Cells {
                accepted: shard.counter(&metrics::ACCEPTED, &[name]),
                active: shard.gauge(&metrics::ACTIVE, &[name]),
                received: shard.counter(&metrics::RECEIVED, &[name]),
                sent: shard.counter(&metrics::SENT, &[name]),
                accept_errors: shard.counter(&metrics::ACCEPT_ERRORS, &[name]),
                handshake_time: shard.histogram(&metrics::HANDSHAKE_TIME, &[name]),
                handshakes: {
                    let counter = |code| shard.counter(&metrics::HANDSHAKES, &[name, code]);
                    Handshakes {
                        full: counter("full"),
                        resumed: counter("resumed"),
                        failed: counter("failed"),
                    }
                },
                ended: RefCell::default(),
            },
            plan,
        })
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.plan.name
    }

    /// Counts an end.
    pub(crate) fn count_end(&self, worker: &WorkerCx, why: Reason) {
        let mut ended = self.cells.ended.borrow_mut();
        if let Some((_, counter)) = ended.iter().find(|(reason, _)| *reason == why) {
            return counter.increment();
        }
        let counter = worker.shard.counter(&metrics::ENDED, &[self.name(), why.code()]);
        counter.increment();
        ended.push((why, counter));
    }
}

/// A listening socket of a worker, over all the plans that come and go.
#[derive(Debug)]
pub struct Slot {
    listener: RefCell<Rc<Listener>>,
    draining: Cell<bool>,
    wake: Notify,
}

/// A listening socket.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// How long accepting pauses when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Slot {
    /// A socket that serves `listener` from now on.
    pub fn new(listener: Rc<Listener>) -> Rc<Self> {
        Rc::new(Self {
            listener: RefCell::new(listener),
            draining: Cell::new(false),
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

    /// Accepts what is queued and then closes the socket.
    pub fn drain(&self) {
        self.draining.set(true);
        self.wake.notify_one();
    }

    /// Accepts until drained.
    pub async fn accept(self: Rc<Self>, socket: Listening, worker: Rc<WorkerCx>) {
        // A wildcard socket must ask each connection for its own address.
        let bound = socket.local();
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            let accepted = poll_fn(|cx| match socket.poll_accept(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                // Nobody is queued any more.
                Poll::Pending if self.draining.get() => Poll::Ready(None),
                Poll::Pending => woken.as_mut().poll(cx).map(|()| None),
            })
            .await;
            match accepted {
                None if self.draining.get() => return,
                None => {}
                Some(Ok((socket, peer))) => {
                    let local = bound.or_else(|| own_address(&socket)).unwrap_or(Peer::Unix);
                    connection::start(&self.listener(), &worker, socket, peer, local);
                }
                Some(Err(error)) => {
                    self.listener().cells.accept_errors.increment();
                    if is_shortage(&error) {
                        tracing::error!(listener = &**self.listener().name(), %error, "cannot accept; raise the limit of open files (ulimit -n)");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}

/// Want of descriptors or memory, as opposed to a client that went away while it was queued.
fn is_shortage(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    const ENOMEM: i32 = 12;
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

fn own_address(socket: &Socket) -> Option<Peer> {
    match socket {
        Socket::Tcp(tcp) => tcp.local_addr().ok().map(Peer::Ip),
        Socket::Unix(_) => None,
    }
}

impl Listening {
    fn local(&self) -> Option<Peer> {
        match self {
            Self::Tcp(tcp) => {
                tcp.local_addr().ok().filter(|address| !address.ip().is_unspecified()).map(Peer::Ip)
            }
            Self::Unix(_) => Some(Peer::Unix),
        }
    }

    fn poll_accept(&self, cx: &mut std::task::Context<'_>) -> Poll<io::Result<(Socket, Peer)>> {
        match self {
            Self::Tcp(tcp) => {
                tcp.poll_accept(cx).map_ok(|(socket, peer)| (Socket::Tcp(socket), Peer::Ip(peer)))
            }
            Self::Unix(unix) => {
                unix.poll_accept(cx).map_ok(|(socket, _)| (Socket::Unix(socket), Peer::Unix))
            }
        }
    }
}
