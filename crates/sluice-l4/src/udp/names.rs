//! QUIC flows that are selected by server name.
//!
//! Owns: datagrams that wait for the rest of a hello. Refuses to know: flows and sockets. Keeps: what is held for
//! clients without a flow is bounded in number, bytes and time; datagrams stay in order.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_core::{Facts, Moment, Name, TransportKind};
use sluice_io::WorkerCx;

use super::flow_table::FlowKey;
use crate::quic::ids::{self, Owner};
use crate::quic::{Asked, Hellos, initial};

/// The most bytes held for one client; the datagrams of a whole hello are smaller.
const HELD_MAX: usize = 32 << 10;

/// How long datagrams are held.
const KEPT: Duration = Duration::from_secs(10);

/// Clients whose hello is incomplete.
#[derive(Debug)]
pub(super) struct SniTable {
    hellos: Hellos,
    held: RefCell<PendingHellos>,
    bound: usize,
}

#[derive(Debug, Default)]
struct PendingHellos {
    clients: HashMap<FlowKey, PendingHello, foldhash::quality::RandomState>,
    order: VecDeque<(Moment, FlowKey)>,
}

#[derive(Debug)]
struct PendingHello {
    since: Moment,
    datagrams: Vec<Box<[u8]>>,
    bytes: usize,
}

/// What happens to a datagram from an unknown source.
pub(super) enum FirstDatagram {
    /// It is kept, since the hello is incomplete.
    Held,
    /// A flow begins with the kept datagrams, followed by this one.
    Begins {
        /// What its hello contains, or what else is known.
        facts: Facts,
        /// Where it must go, because it belongs to an existing connection.
        owner: Option<Owner>,
        /// The kept datagrams, in order.
        kept: Vec<Box<[u8]>>,
    },
}

impl SniTable {
    /// Creates an empty table for as many clients as the limits of `worker` allow hellos.
    pub(super) fn new(worker: &WorkerCx) -> Self {
        let bound = worker.limits.size(Limit::QuicHellos);
        Self { hellos: Hellos::new(worker), held: RefCell::default(), bound }
    }

    /// Handles a datagram from an unknown source.
    pub(super) fn look(
        &self,
        now: Moment,
        key: FlowKey,
        listener: &Name,
        datagram: &[u8],
    ) -> FirstDatagram {
        let begins =
            |facts, owner| FirstDatagram::Begins { facts, owner, kept: self.release(&key) };
        let quic = Facts::new(None, TransportKind::Quic);
        if let Some(owner) = ids::owner(listener, datagram) {
            return begins(quic, Some(owner));
        }
        let Some((first, _)) = initial::first(datagram) else {
            // Another version of QUIC, or not QUIC at all: selected by its addresses.
            let is_quic = initial::ids_of_long(datagram).is_some();
            return begins(if is_quic { quic } else { Facts::default() }, None);
        };
        self.hellos.take(now, datagram, false);
        match self.hellos.ask(first.destination) {
            Asked::Facts(facts) => begins(facts, None),
            Asked::Wait if self.hold(now, key, datagram) => FirstDatagram::Held,
            // Not a hello, or more data than a hello can contain: the server name stays unknown.
            Asked::Nothing | Asked::Wait => begins(quic, None),
        }
    }

    /// Keeps a datagram; returns `false` if that would be too many bytes.
    fn hold(&self, now: Moment, key: FlowKey, datagram: &[u8]) -> bool {
        let mut held = self.held.borrow_mut();
        while let Some((since, _)) = held.order.front()
            && (since.after(KEPT) <= now || held.order.len() >= self.bound)
        {
            // If the client got a flow and came back later, it has a newer entry.
            if let Some((since, oldest)) = held.order.pop_front()
                && held.clients.get(&oldest).is_some_and(|waiting| waiting.since == since)
            {
                held.clients.remove(&oldest);
            }
        }
        if !held.clients.contains_key(&key) {
            held.order.push_back((now, key));
            held.clients.insert(key, PendingHello { since: now, datagrams: Vec::new(), bytes: 0 });
        }
        let Some(waiting) = held.clients.get_mut(&key) else { return false };
        waiting.bytes += datagram.len();
        if waiting.bytes > HELD_MAX {
            return false;
        }
        waiting.datagrams.push(datagram.into());
        true
    }

    fn release(&self, key: &FlowKey) -> Vec<Box<[u8]>> {
        let waiting = self.held.borrow_mut().clients.remove(key);
        waiting.map(|waiting| waiting.datagrams).unwrap_or_default()
    }
}
