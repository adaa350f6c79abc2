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
use sluice_io::buffers::BufPool;

use super::flow_table::FlowKey;
use super::held::HeldDatagrams;
use crate::quic::ids::{self, Owner};
use crate::quic::{Asked, Hellos, initial};

/// How long datagrams are held.
const KEPT: Duration = Duration::from_secs(10);

/// Clients whose hello is incomplete.
#[derive(Debug)]
pub(super) struct SniTable {
    hellos: Hellos,
    held: RefCell<PendingHellos>,
    pool: BufPool,
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
    held: HeldDatagrams,
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
        let pool = worker.buffers.clone();
        Self { hellos: Hellos::new(worker), held: RefCell::default(), pool, bound }
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
            && (since.after(KEPT) <= now
                || (held.order.len() >= self.bound && !held.clients.contains_key(&key)))
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
            let hello = PendingHello { since: now, held: HeldDatagrams::within(&self.pool) };
            held.clients.insert(key, hello);
        }
        held.clients.get_mut(&key).is_some_and(|waiting| waiting.held.push(datagram))
    }

    fn release(&self, key: &FlowKey) -> Vec<Box<[u8]>> {
        let waiting = self.held.borrow_mut().clients.remove(key);
        waiting.map(|waiting| waiting.held.release()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::Clock;

    use super::*;
    use crate::inspect::tests::{hello, server_name};
    use crate::inspect::tls;
    use crate::quic::tests::piece_of_hello;
    use crate::udp::held::HELD_MAX;

    fn client(n: u16) -> FlowKey {
        FlowKey { client: ([192, 0, 2, 1], n).into(), local: None, endpoint: None }
    }

    fn table(bound: usize) -> SniTable {
        SniTable { bound, ..SniTable::new(&WorkerCx::solitary(Clock::held())) }
    }

    /// What begins with a datagram, and the datagrams that were held before it; `None` if this one is held too.
    fn look(table: &SniTable, n: u16, datagram: &[u8]) -> Option<(Facts, Vec<Box<[u8]>>)> {
        match table.look(Moment::default(), client(n), &"l".into(), datagram) {
            FirstDatagram::Held => None,
            FirstDatagram::Begins { facts, owner, kept } => {
                assert_eq!(owner, None);
                Some((facts, kept))
            }
        }
    }

    #[test]
    fn datagrams_are_held_until_the_hello_is_whole_and_stay_in_order() {
        let hello = hello(&[server_name("app.test")]);
        let (first, second) = hello.split_at(20);
        let first = piece_of_hello(b"client-1", 0, first);
        let second = piece_of_hello(b"client-1", 20, second);
        for (one, other) in [(&first, &second), (&second, &first)] {
            let table = table(8);
            assert_eq!(look(&table, 1, one), None);
            // Of another client, whose hello is not this one.
            assert_eq!(look(&table, 2, &piece_of_hello(b"client-2", 0, &hello[..9])), None);
            let (facts, kept) = look(&table, 1, other).expect("the hello is whole");
            assert_eq!(facts.get(&tls::SNI), Some("app.test"));
            assert_eq!(kept, [one.clone().into_boxed_slice()]);
            assert!(table.release(&client(1)).is_empty(), "they are handed out once");
            assert_eq!(table.release(&client(2)).len(), 1);
        }
    }

    #[test]
    fn what_is_no_hello_is_not_held() {
        let table = table(8);
        assert_eq!(look(&table, 1, b"syslog"), Some((Facts::default(), Vec::new())));
        let mut other_version = piece_of_hello(b"client-1", 0, b"x");
        other_version[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
        let quic = Facts::new(None, TransportKind::Quic);
        assert_eq!(look(&table, 1, &other_version), Some((quic.clone(), Vec::new())));
        // It claims to be an Initial of this version, and cannot be decrypted.
        let mut noise = piece_of_hello(b"client-1", 0, b"x");
        noise[100] ^= 1;
        assert_eq!(look(&table, 1, &noise), Some((quic, Vec::new())));
        assert!(table.held.borrow().clients.is_empty());
    }

    #[test]
    fn the_bytes_of_a_client_are_bounded() {
        let table = table(8);
        let now = Moment::default();
        let datagram = [0; HELD_MAX / 2];
        assert!(table.hold(now, client(1), &datagram));
        assert!(!table.hold(now, client(1), &datagram));
        assert!(table.hold(now, client(2), &datagram), "each client has its own bound");
        assert_eq!(table.release(&client(1)).len(), 1);
    }

    #[test]
    fn the_number_of_clients_is_bounded_and_the_oldest_makes_room() {
        let table = table(3);
        let now = Moment::default();
        for n in 1..=5 {
            assert!(table.hold(now, client(n), b"x"));
        }
        // Another datagram of a client that is held already evicts no client, and not its own first datagram.
        for n in 3..=5 {
            assert!(table.hold(now, client(n), b"y"));
        }
        let held: Vec<usize> = (1..=5).map(|n| table.release(&client(n)).len()).collect();
        assert_eq!(held, [0, 0, 2, 2, 2]);
    }

    #[test]
    fn datagrams_are_held_for_a_while() {
        let table = table(8);
        let began = Moment::default();
        assert!(table.hold(began, client(1), b"x"));
        assert!(table.hold(began.after(KEPT / 2), client(2), b"x"));
        assert!(table.hold(began.after(KEPT), client(3), b"x"));
        let held: Vec<usize> = (1..=3).map(|n| table.release(&client(n)).len()).collect();
        assert_eq!(held, [0, 1, 1]);
    }

    #[test]
    fn a_client_that_came_back_is_not_forgotten_for_its_first_visit() {
        let table = table(8);
        let began = Moment::default();
        assert!(table.hold(began, client(1), b"first"));
        assert_eq!(table.release(&client(1)).len(), 1);
        assert!(table.hold(began.after(KEPT / 2), client(1), b"second"));
        // Now the first visit is over.
        assert!(table.hold(began.after(KEPT), client(2), b"x"));
        assert_eq!(table.release(&client(1)), [Box::from(&b"second"[..])]);
    }
}
