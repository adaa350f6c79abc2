//! Listening sockets of a worker that are ready to serve a snapshot but do not serve it yet.
//!
//! Owns: the step from plans and sockets to slots, in two halves: everything that may fail, and the switch.
//! Refuses to know: what the old slots do. Keeps: preparing changes nothing in force, so that the result can be
//! discarded; committing it cannot fail.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use sluice_core::Name;
use sluice_io::WorkerCx;
use sluice_l4::Listener;
use sluice_l4::accept::{ListenSocket, Slot};
use sluice_l4::udp::{UdpListener, UdpSlot};
use sluice_model::compile::PlanKind;
use sluice_model::model::listener::SocketOptions;
use sluice_quic::{QuicListener, QuicSlot, ReuseportMember};
use sluice_sys::listen::TcpOptions;

use super::{AnySlot, SlotMap, SocketKey, UnservedListener};

/// What a worker is to serve on one socket.
pub(crate) struct Wanted {
    pub(crate) key: SocketKey,
    pub(crate) listener: Name,
    pub(crate) plan: PlanKind,
    /// The socket, if it is new.
    pub(crate) socket: Option<OwnedFd>,
    /// New options for a socket in use.
    pub(crate) change: Option<SocketOptions>,
}

/// The options of a stream socket.
pub(crate) fn tcp_options(options: &SocketOptions) -> TcpOptions {
    TcpOptions {
        backlog: options.backlog,
        keepalive: options.keepalive,
        fast_open: options.fast_open,
        freebind: options.freebind,
    }
}

/// Everything that a worker is to serve, ready to commit.
pub(super) struct Prepared {
    next: Vec<(SocketKey, PreparedSocket)>,
}

/// A socket with the listener it is to serve and the options it is to get.
struct PreparedSocket {
    listener: NextListener,
    change: Option<SocketOptions>,
}

enum NextListener {
    Stream(Rc<Slot>, Rc<Listener>),
    Datagram(Rc<UdpSlot>, Rc<UdpListener>),
    Quic(Rc<QuicSlot>, Rc<QuicListener>),
    NewStream(Rc<Slot>, ListenSocket),
    NewDatagram(Rc<UdpSlot>),
    NewQuic(Rc<QuicSlot>),
}

impl Prepared {
    /// Creates listeners, and registers new sockets, alongside the slots in force.
    ///
    /// # Errors
    /// The first socket that cannot be served, with the reason; also if a filter panics while it is created.
    pub(super) fn new(
        wanted: Vec<Wanted>,
        slots: &SlotMap,
        place: ReuseportMember,
        worker: &Rc<WorkerCx>,
    ) -> Result<Self, UnservedListener> {
        let mut next = Vec::new();
        for Wanted { key, listener, plan, socket, change } in wanted {
            let unserved = |problem: String| UnservedListener { name: listener.clone(), problem };
            // Third-party filters are created here. One that panics must fail the reload, not the worker.
            let made = catch_unwind(AssertUnwindSafe(|| {
                NextListener::new(plan, slots.get(&key), socket, place, worker)
            }));
            let made = made
                .map_err(|_| format!("{}: a filter panicked while it was being created", key.0));
            let made = made.map_err(unserved)?;
            let listener = made.map_err(|error| unserved(format!("{}: {error}", key.0)))?;
            next.push((key, PreparedSocket { listener, change }));
        }
        Ok(Self { next })
    }

    /// Puts the sockets selected by `which` in force.
    pub(super) fn commit(
        &mut self,
        which: impl Fn(&SocketKey) -> bool,
        slots: &mut SlotMap,
        worker: &Rc<WorkerCx>,
    ) {
        for (key, next) in self.next.extract_if(.., |(key, _)| which(key)) {
            let slot = next.listener.commit(worker);
            if let Some(options) = next.change
                && let Err(error) = slot.change_options(&options)
            {
                tracing::warn!(
                    "{}: its `socket` options take effect after a restart: {error}",
                    key.0
                );
            }
            slots.insert(key, slot);
        }
    }
}

impl NextListener {
    fn new(
        plan: PlanKind,
        slot: Option<&AnySlot>,
        socket: Option<OwnedFd>,
        place: ReuseportMember,
        worker: &Rc<WorkerCx>,
    ) -> io::Result<Self> {
        let none = || io::Error::new(io::ErrorKind::NotFound, "no socket was provided");
        Ok(match (plan, slot) {
            (PlanKind::Stream(plan), Some(AnySlot::Stream(slot))) => {
                Self::Stream(Rc::clone(slot), Listener::on_worker(plan, worker))
            }
            (PlanKind::Datagram(plan), Some(AnySlot::Datagram(slot))) => {
                Self::Datagram(Rc::clone(slot), UdpListener::on_worker(plan, worker))
            }
            (PlanKind::Quic(plan), Some(AnySlot::Quic(slot))) => {
                Self::Quic(Rc::clone(slot), QuicListener::on_worker(plan, worker))
            }
            (PlanKind::Stream(plan), _) => {
                let socket = worker.reactor.register(socket.ok_or_else(none)?)?;
                let slot = Slot::new(Listener::on_worker(plan, worker));
                Self::NewStream(slot, ListenSocket::new(socket))
            }
            (PlanKind::Datagram(plan), _) => {
                let listener = UdpListener::on_worker(plan, worker);
                Self::NewDatagram(UdpSlot::new(socket.ok_or_else(none)?, listener, worker)?)
            }
            (PlanKind::Quic(plan), _) => {
                let listener = QuicListener::on_worker(plan, worker);
                let socket = socket.ok_or_else(none)?;
                Self::NewQuic(QuicSlot::new(socket, place, listener, worker)?)
            }
        })
    }

    fn commit(self, worker: &Rc<WorkerCx>) -> AnySlot {
        match self {
            Self::Stream(slot, listener) => {
                slot.replace(listener);
                AnySlot::Stream(slot)
            }
            Self::Datagram(slot, listener) => {
                slot.replace(listener);
                AnySlot::Datagram(slot)
            }
            Self::Quic(slot, listener) => {
                slot.replace(listener);
                AnySlot::Quic(slot)
            }
            Self::NewStream(slot, listening) => {
                worker.spawn(Rc::clone(&slot).accept(listening, Rc::clone(worker)));
                AnySlot::Stream(slot)
            }
            Self::NewDatagram(slot) => {
                worker.spawn(Rc::clone(&slot).run());
                AnySlot::Datagram(slot)
            }
            Self::NewQuic(slot) => {
                worker.spawn(Rc::clone(&slot).run());
                AnySlot::Quic(slot)
            }
        }
    }
}

impl AnySlot {
    /// Changes the options of a socket in use.
    fn change_options(&self, options: &SocketOptions) -> io::Result<()> {
        match self {
            Self::Stream(slot) => slot.change_options(tcp_options(options)),
            Self::Datagram(slot) => slot.change_receive_buffer(options.udp_receive_buffer),
            Self::Quic(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the QUIC socket is in use by its connections",
            )),
        }
    }
}
