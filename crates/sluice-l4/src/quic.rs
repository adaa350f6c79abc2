//! QUIC as L4 sees it: the ClientHello in its first packets, and a client that performs the handshake itself.
//!
//! Owns: incomplete hellos, and assembling them, for passthrough and for termination. Refuses to know: QUIC beyond the
//! first packets; the QUIC implementation is told which chain to handshake for. Keeps: what is held for clients is
//! bounded in number, bytes and time, and hellos from validated addresses are not evicted by those from other
//! addresses; a hello is found by the connection ID of its packets, never by address alone, since several connections
//! may share an address; the result does not depend on how a hello was split into packets, nor on their order.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_core::{Facts, LocalFuture, Moment, Reason};
use sluice_io::{Conn, WorkerCx};
use sluice_telemetry::Counter;
use sluice_tls::InitialKeys;

use crate::inspect::tls::{Hello, read_message};
use crate::metrics;

pub mod ids;
pub mod initial;

use initial::Initial;

/// The largest hello in bytes; no client sends a larger one.
const HELLO_MAX: usize = 16 << 10;

/// The most separate pieces of a hello, with holes between them.
const PIECES_MAX: usize = 16;

/// The smallest datagram, in bytes, that may carry a hello.
pub const DATAGRAM_MIN: usize = 1200;

/// How long a hello is kept while it is incomplete or not retrieved.
const KEPT: Duration = Duration::from_secs(10);

/// Speaks QUIC with one client.
pub trait QuicClient {
    /// Performs the handshake with the settings of the listener's chain at this position. The future that it returns
    /// serves the connection, and ends with the reason why the connection ended.
    fn accept_handshake(
        self: Box<Self>,
        chain: usize,
        conn: Rc<Conn>,
    ) -> LocalFuture<Result<LocalFuture<Reason>, (Reason, String)>>;
}

/// The hellos of one socket that are incomplete or not retrieved yet.
#[derive(Debug)]
pub struct Hellos {
    bound: usize,
    /// Hellos that were evicted to make room for others.
    evicted: Counter,
    table: RefCell<HelloTable>,
}

/// What is known about a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is complete and contains this.
    Facts(Facts),
    /// There is no hello, or it is malformed.
    Nothing,
    /// It is incomplete.
    Wait,
}

#[derive(Debug, Default)]
struct HelloTable {
    hellos: HashMap<Box<[u8]>, HelloEntry, foldhash::fast::RandomState>,
    /// Hellos of clients whose address may be forged, in order of arrival.
    unproven: ArrivalOrder,
    /// Hellos of clients whose address is validated.
    proven: ArrivalOrder,
}

type ArrivalOrder = VecDeque<(Moment, Box<[u8]>)>;

#[derive(Debug)]
struct HelloEntry {
    began: Moment,
    keys: InitialKeys,
    state: HelloState,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum HelloState {
    Gathering(Pieces),
    Whole(Facts),
    Malformed,
}

impl Hellos {
    /// Creates an empty table for as many hellos as the limits of `worker` allow, and as many again from clients with a
    /// validated address.
    pub fn new(worker: &WorkerCx) -> Self {
        let limit = Limit::QuicHellos;
        let evicted = worker.shard.counter(&metrics::LIMIT_REACHED, &[limit.def().name]);
        Self::bounded(worker.limits.size(limit), evicted)
    }

    fn bounded(bound: usize, evicted: Counter) -> Self {
        Self { bound, evicted, table: RefCell::default() }
    }

    /// Takes a datagram. Ignores one whose first packet is not an Initial or cannot be decrypted with the keys of its
    /// destination ID: a later packet to the ID that we chose, or noise. `proven` if the sender's address is validated.
    pub fn take(&self, now: Moment, datagram: &[u8], proven: bool) {
        // Shorter datagrams are discarded, RFC 9000 §14.1.
        let Some((first, rest)) =
            initial::first(datagram).filter(|_| datagram.len() >= DATAGRAM_MIN)
        else {
            return;
        };
        let mut table = self.table.borrow_mut();
        self.evicted.add(table.expire(now, self.bound));
        if let Some(entry) = table.hellos.get_mut(first.destination) {
            entry.take(&first, rest);
        } else if let Some(mut entry) = HelloEntry::begin(now, &first)
            && entry.take(&first, rest)
        {
            let order = if proven { &mut table.proven } else { &mut table.unproven };
            order.push_back((now, first.destination.into()));
            table.hellos.insert(first.destination.into(), entry);
        }
    }

    /// Waits for a client's hello; `None` if there is none. It is stored under the ID that the client first chose for
    /// us or, after a Retry, under the ID that the client got in the Retry.
    pub fn poll_facts(&self, cx: &Context<'_>, ids: [&[u8]; 2]) -> Poll<Option<Facts>> {
        match self.look(&ids, Some(cx)) {
            Asked::Wait => Poll::Pending,
            Asked::Nothing => Poll::Ready(None),
            Asked::Facts(facts) => Poll::Ready(Some(facts)),
        }
    }

    /// What a client's hello contains, once it is complete. `first` is the ID that the client chose for us.
    pub fn ask(&self, first: &[u8]) -> Asked {
        self.look(&[first], None)
    }

    fn look(&self, ids: &[&[u8]], cx: Option<&Context<'_>>) -> Asked {
        let mut table = self.table.borrow_mut();
        let (mut waits, mut facts) = (false, None);
        for id in ids {
            match table.hellos.get_mut(*id) {
                Some(entry) if matches!(entry.state, HelloState::Gathering(_)) => {
                    waits = true;
                    entry.waker = cx.map(|cx| cx.waker().clone());
                }
                Some(HelloEntry { state: HelloState::Whole(found), .. }) => {
                    facts.get_or_insert_with(|| found.clone());
                }
                Some(_) | None => {}
            }
        }
        if waits && facts.is_none() {
            return Asked::Wait;
        }
        for id in ids {
            table.hellos.remove(*id);
        }
        facts.map_or(Asked::Nothing, Asked::Facts)
    }
}

impl HelloTable {
    /// Removes expired entries, and the oldest ones if there is no room; returns the number of the latter.
    fn expire(&mut self, now: Moment, bound: usize) -> u64 {
        let mut evicted = 0;
        for order in [&mut self.unproven, &mut self.proven] {
            while let Some((began, _)) = order.front() {
                let old = began.after(KEPT) <= now;
                if !old && order.len() < bound {
                    break;
                }
                // If a hello was retrieved and then received again under the same ID, it has a newer entry.
                if let Some((began, id)) = order.pop_front()
                    && self.hellos.get(&id).is_some_and(|entry| entry.began == began)
                    && let Some(entry) = self.hellos.remove(&id)
                {
                    evicted += u64::from(!old);
                    entry.waker.into_iter().for_each(Waker::wake);
                }
            }
        }
        evicted
    }
}

impl HelloEntry {
    fn begin(now: Moment, packet: &Initial<'_>) -> Option<Self> {
        let keys = InitialKeys::new(packet.version, packet.destination)?;
        let state = HelloState::Gathering(Pieces::default());
        Some(Self { began: now, keys, state, waker: None })
    }

    /// Takes the packets of a datagram; returns whether the first can be decrypted.
    fn take(&mut self, first: &Initial<'_>, mut rest: &[u8]) -> bool {
        let (mut next, mut opens) = (Some(*first), true);
        while let Some(packet) = next {
            let HelloState::Gathering(pieces) = &mut self.state else { return opens };
            let mut fits = true;
            let opened = packet.open(&self.keys, |at, piece| {
                // Once a piece does not fit, no more pieces are read.
                fits = fits && pieces.add(at, piece);
            });
            opens &= opened || packet != *first;
            // Packets of one datagram are for one connection, RFC 9000 §12.2.
            let of_first = |packet: &Initial<'_>| packet.destination == first.destination;
            next = initial::first(rest).map(|(packet, behind)| {
                rest = behind;
                packet
            });
            next = next.filter(of_first);
            match read_message(pieces.front()) {
                Hello::Whole(facts) => self.state = HelloState::Whole(facts),
                Hello::Malformed => self.state = HelloState::Malformed,
                Hello::NeedMore(Some(bytes)) if bytes > HELLO_MAX => {
                    self.state = HelloState::Malformed
                }
                Hello::NeedMore(_) if !fits => self.state = HelloState::Malformed,
                Hello::NeedMore(_) => continue,
            }
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
        opens
    }
}

/// Bytes that are received in pieces, in any order.
#[derive(Debug, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
    /// The ranges received, in order, never adjacent.
    there: Vec<(usize, usize)>,
}

impl Pieces {
    /// Adds a piece; returns `false` if it ends beyond the largest hello, or if there are too many holes.
    pub fn add(&mut self, at: usize, piece: &[u8]) -> bool {
        let end = at.saturating_add(piece.len());
        if end > HELLO_MAX {
            return false;
        }
        if self.there.len() > PIECES_MAX {
            return false;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(piece);
        let (mut begin, mut stop) = (at, end);
        self.there.retain(|(from, to)| {
            let apart = *to < begin || *from > stop;
            if !apart {
                (begin, stop) = (begin.min(*from), stop.max(*to));
            }
            apart
        });
        let place = self.there.partition_point(|(from, _)| *from < begin);
        self.there.insert(place, (begin, stop));
        self.there.len() <= PIECES_MAX
    }

    /// The bytes from the start up to the first hole.
    pub fn front(&self) -> &[u8] {
        match self.there.first() {
            Some((0, end)) => &self.bytes[..*end],
            _ => &[],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inspect::tests::{hello, server_name};
    use crate::inspect::tls;

    #[test]
    fn pieces_come_together_in_any_order() {
        let whole: Vec<u8> = (0..200).collect();
        let cuts: Vec<(usize, usize)> = (0..20).map(|n| (n * 10, n * 10 + 12)).collect();
        for seed in 0..50 {
            let mut cuts = cuts.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut cuts);
            let mut pieces = Pieces::default();
            for (from, to) in cuts {
                pieces.add(from, &whole[from..to.min(200)]);
            }
            assert_eq!(pieces.front(), whole);
        }
    }

    #[test]
    fn holes_and_sizes_are_bounded() {
        let mut pieces = Pieces::default();
        assert!((0..PIECES_MAX).all(|n| pieces.add(n * 3, b"x")));
        assert!(!pieces.add(PIECES_MAX * 3, b"x"));
        assert!(!Pieces::default().add(HELLO_MAX, b"x"));
        assert!(!Pieces::default().add(usize::MAX, b"x"));
        let mut late = Pieces::default();
        late.add(1, b"b");
        assert_eq!(late.front(), b"");
        late.add(0, b"a");
        assert_eq!(late.front(), b"ab");
    }

    /// A datagram with a hello for `name`, to the connection ID `id`.
    fn initial(id: &[u8], name: &str) -> Vec<u8> {
        piece_of_hello(id, 0, &hello(&[server_name(name)]))
    }

    /// A datagram to the connection ID `id` with a piece of a hello that begins `at` this byte.
    pub(crate) fn piece_of_hello(id: &[u8], at: u16, piece: &[u8]) -> Vec<u8> {
        let mut payload = vec![6];
        payload.extend((0x4000 | at).to_be_bytes());
        payload.extend((0x4000 | u16::try_from(piece.len()).unwrap()).to_be_bytes());
        payload.extend(piece);
        payload.resize(1200, 0);
        let suites = &sluice_tls::provider().cipher_suites;
        let suite = suites.iter().find_map(|suite| match suite {
            rustls::SupportedCipherSuite::Tls13(suite)
                if suite.common.suite == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 =>
            {
                Some(*suite)
            }
            _ => None,
        });
        let (suite, side) = (suite.unwrap(), rustls::Side::Client);
        let version = rustls::quic::Version::V1;
        let keys = rustls::quic::Keys::initial(version, suite, suite.quic.unwrap(), id, side).local;
        // Long header, version 1, our ID, none of the client's, no token, a length of two bytes, number 0.
        let mut packet = vec![0xc0, 0, 0, 0, 1, u8::try_from(id.len()).unwrap()];
        packet.extend(id);
        packet.extend([0, 0]);
        let length = u16::try_from(1 + payload.len() + 16).unwrap();
        packet.extend((0x4000 | length).to_be_bytes());
        let number_at = packet.len();
        packet.push(0);
        let tag = keys.packet.encrypt_in_place(0, &packet, &mut payload).unwrap();
        packet.extend(&payload);
        packet.extend(tag.as_ref());
        let (header, rest) = packet.split_at_mut(number_at + 4);
        let (first, number) = header.split_first_mut().unwrap();
        let number = &mut number[number_at - 1..];
        keys.header.encrypt_in_place(&rest[..16], first, number).unwrap();
        packet
    }

    fn evictions() -> Counter {
        let shard = sluice_telemetry::Registry::new().shard(1);
        shard.counter(&metrics::LIMIT_REACHED, &["quic_hellos"])
    }

    fn name_of(asked: Asked) -> Option<String> {
        match asked {
            Asked::Facts(facts) => facts.get(&tls::SNI).map(String::from),
            Asked::Nothing | Asked::Wait => None,
        }
    }

    #[test]
    fn a_hello_is_found_by_its_id_and_by_nothing_else() {
        let hellos = Hellos::bounded(16, evictions());
        let now = Moment::default();
        for (id, name) in [(b"client-1", "one.test"), (b"client-2", "two.test")] {
            hellos.take(now, &initial(id, name), false);
        }
        assert_eq!(hellos.ask(b"client-3"), Asked::Nothing, "nobody's hello is another's");
        assert_eq!(name_of(hellos.ask(b"client-2")).as_deref(), Some("two.test"));
        let cx = Context::from_waker(Waker::noop());
        // After a Retry it is stored under the ID from the Retry.
        hellos.take(now, &initial(b"retry-id", "one.test"), true);
        let facts = hellos.poll_facts(&cx, [b"client-9", b"retry-id"]);
        let Poll::Ready(Some(facts)) = facts else { panic!("{facts:?}") };
        assert_eq!(facts.get(&tls::SNI), Some("one.test"));
        assert!(hellos.poll_facts(&cx, [b"client-9", b"retry-id"]) == Poll::Ready(None));
    }

    #[test]
    fn hellos_from_forged_addresses_push_none_out_that_was_shown_to_be_true() {
        let hellos = Hellos::bounded(16, evictions());
        let now = Moment::default();
        hellos.take(now, &initial(b"retry-id", "true.test"), true);
        for n in 0..100_u64 {
            hellos.take(now, &initial(&n.to_be_bytes(), "forged.test"), false);
        }
        assert!(hellos.table.borrow().hellos.len() <= 17);
        assert_eq!(name_of(hellos.ask(b"retry-id")).as_deref(), Some("true.test"));
        for n in 0..100_u64 {
            hellos.take(now, &initial(&n.to_be_bytes(), "true.test"), true);
        }
        assert!(hellos.table.borrow().hellos.len() <= 32, "those are bounded too");
    }
}
