//! The first packets that clients send to a socket.
//!
//! Owns: hellos that are incomplete or not retrieved yet, and the record of unsupported versions. Refuses to know: what
//! becomes of a client. Keeps: a packet from an address that may be forged costs no more than the hello it carries; how
//! many unsupported versions are recorded is bounded.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sluice_core::Moment;
use sluice_core::connection::Peer;
use sluice_io::WorkerCx;
use sluice_l4::connection::refuse_quic;
use sluice_l4::quic::initial::{ids_of_long, version_of_long};
use sluice_l4::quic::{DATAGRAM_MIN, Hellos};

use crate::connection_ids::ReuseportMember;
use crate::endpoint::FirstPacketHook;
use crate::listener::QuicListener;
use crate::reasons;

/// Records per second and socket of clients with an unsupported QUIC version: any packet can cause one.
const VERSIONS_RECORDED: u32 = 10;

const SECOND: Duration = Duration::from_secs(1);

/// The handling of first packets on a socket: ClientHellos, and unsupported versions.
#[derive(Debug)]
pub(crate) struct FirstPackets {
    worker: Rc<WorkerCx>,
    pub(crate) hellos: Hellos,
    /// The listener in force.
    pub(crate) listener: RefCell<Rc<QuicListener>>,
    /// The address that clients connect to.
    pub(crate) local: SocketAddr,
    /// The start of the current second, and the records of unsupported versions in it.
    recorded: Cell<(Moment, u32)>,
}

impl FirstPackets {
    pub(crate) fn new(
        listener: Rc<QuicListener>,
        local: SocketAddr,
        worker: &Rc<WorkerCx>,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            hellos: Hellos::new(worker),
            listener: RefCell::new(listener),
            local,
            recorded: Cell::default(),
        }
    }

    /// Counts a client with an unsupported version, and records some. The QUIC library tells them which one is
    /// supported.
    fn refuse_version(&self, now: Moment, from: SocketAddr, version: u32) {
        let listener = self.listener.borrow();
        listener.unknown_versions.increment();
        let (mut since, mut count) = self.recorded.get();
        if now.since(since) >= SECOND {
            (since, count) = (now, 0);
        }
        self.recorded.set((since, count + 1));
        if count < VERSIONS_RECORDED {
            let ends = (Peer::Ip(from), Peer::Ip(self.local));
            let detail = format_args!("version {version:#010x}");
            refuse_quic(&listener.listener, &self.worker, ends, reasons::QUIC_VERSION, detail);
        }
    }
}

impl FirstPacketHook for FirstPackets {
    fn long(&self, from: SocketAddr, datagram: &[u8]) {
        let now = self.worker.now();
        match version_of_long(datagram) {
            // Shorter datagrams get no reply, RFC 9000 §6.1. Version 0 is Version Negotiation, which only servers send.
            Some(version) if version > 1 && datagram.len() >= DATAGRAM_MIN => {
                self.refuse_version(now, from, version);
            }
            _ => {
                let id = ids_of_long(datagram).map(|(destination, _)| destination);
                let proven = id.is_some_and(|id| ReuseportMember::is_retry_id(from, id));
                self.hellos.take(now, datagram, proven);
            }
        }
    }
}
