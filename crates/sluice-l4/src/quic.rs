//! QUIC as L4 sees it: the ClientHello in its first packets, and the life of a connection.
//!
//! Owns: which hellos are under way, and putting them together. Refuses to know: everything of QUIC behind the
//! first packets; what speaks it is told which chain to shake hands for. Keeps: what is held of clients that
//! have proved nothing is bounded, in number, bytes and time; the outcome does not depend on how a hello was
//! cut into packets, nor on their order.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluice_core::{Facts, Moment, Reason};
use sluice_io::{Conn, LocalFuture, StreamHandler};
use sluice_tls::{InitialKeys, ServerTls};

use crate::inspect::tls::{Hello, read_message};

pub mod ids;
pub mod initial;

use initial::Initial;

/// Bytes of a hello; larger ones are nobody's.
const HELLO_MAX: usize = 16 << 10;

/// Holes in what has come of a hello.
const PIECES_MAX: usize = 16;

/// Bytes of a datagram that carries a hello, at least.
const DATAGRAM_MIN: usize = 1200;

/// How long a hello that is not whole is kept, and one that nobody asked for.
const KEPT: Duration = Duration::from_secs(10);

/// Speaks QUIC with one client.
pub trait QuicClient {
    /// Shakes hands as `tls` says. What is returned serves the connection.
    fn shake(
        self: Box<Self>,
        tls: &ServerTls,
        conn: Rc<Conn>,
    ) -> LocalFuture<Result<Serve, (Reason, String)>>;
}

/// Serves a connection that has shaken hands, with the handler of its chain.
pub type Serve = Box<dyn FnOnce(Rc<dyn StreamHandler>, Rc<Conn>) -> LocalFuture<Reason>>;

/// The hellos that are under way on one socket.
#[derive(Debug)]
pub struct Hellos {
    bound: usize,
    table: RefCell<Table>,
}

/// What is known of a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It says this.
    Facts(Facts),
    /// It is none.
    Nothing,
    /// More of it is to come.
    Wait,
}

#[derive(Debug, Default)]
struct Table {
    hellos: HashMap<Box<[u8]>, Entry, foldhash::fast::RandomState>,
    /// In the order in which they began.
    order: VecDeque<(Moment, Box<[u8]>)>,
}

#[derive(Debug)]
struct Entry {
    began: Moment,
    from: SocketAddr,
    keys: InitialKeys,
    state: State,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum State {
    Gathering(Pieces),
    Whole(Facts),
    Malformed,
}

impl Hellos {
    /// None yet; at most `bound`.
    pub fn new(bound: usize) -> Self {
        Self { bound, table: RefCell::default() }
    }

    /// Takes a datagram in; one whose first packet is no Initial says nothing, and neither does one that does not open
    /// under the keys of the ID that it is for: later packets to the ID that we chose, and noise.
    pub fn take(&self, now: Moment, from: SocketAddr, datagram: &[u8]) {
        // Shorter ones are discarded, RFC 9000 §14.1.
        let Some((first, rest)) =
            initial::first(datagram).filter(|_| datagram.len() >= DATAGRAM_MIN)
        else {
            return;
        };
        let mut table = self.table.borrow_mut();
        table.expire(now, self.bound);
        if let Some(entry) = table.hellos.get_mut(first.destination) {
            entry.take(&first, rest);
        } else if let Some(mut entry) = Entry::begin(now, from, &first)
            && entry.take(&first, rest)
        {
            table.order.push_back((now, first.destination.into()));
            table.hellos.insert(first.destination.into(), entry);
        }
    }

    /// Waits for a client's hello; `None` where it is none. See [`Hellos::ask`].
    pub fn poll_facts(
        &self,
        cx: &Context<'_>,
        first: &[u8],
        from: SocketAddr,
    ) -> Poll<Option<Facts>> {
        self.look(first, from, Some(cx)).map_or(Poll::Pending, Poll::Ready)
    }

    /// What a client's hello says, once it is whole. `first` is the ID that the client chose for us; behind a
    /// Retry its hello stands under another, and is found by its address.
    pub fn ask(&self, first: &[u8], from: SocketAddr) -> Asked {
        match self.look(first, from, None) {
            None => Asked::Wait,
            Some(None) => Asked::Nothing,
            Some(Some(facts)) => Asked::Facts(facts),
        }
    }

    /// The outer `None` says that more is to come; whoever waits is told then.
    #[allow(clippy::option_option, reason = "not yet, and never, are different answers")]
    fn look(
        &self,
        first: &[u8],
        from: SocketAddr,
        cx: Option<&Context<'_>>,
    ) -> Option<Option<Facts>> {
        let mut table = self.table.borrow_mut();
        let id: Option<Box<[u8]>> = if table.hellos.contains_key(first) {
            Some(first.into())
        } else {
            table.hellos.iter().find(|(_, entry)| entry.from == from).map(|(id, _)| id.clone())
        };
        let Some(id) = id else { return Some(None) };
        let entry = table.hellos.get_mut(&id).expect("it was there");
        if let State::Gathering(_) = entry.state {
            entry.waker = cx.map(|cx| cx.waker().clone());
            return None;
        }
        Some(match table.hellos.remove(&id).map(|entry| entry.state) {
            Some(State::Whole(facts)) => Some(facts),
            _ => None,
        })
    }
}

impl Table {
    /// Forgets what is old, and what there is no room for.
    fn expire(&mut self, now: Moment, bound: usize) {
        while let Some((began, _)) = self.order.front()
            && (began.after(KEPT) <= now || self.order.len() >= bound)
        {
            // One that was answered since, and came again under the same ID, has its own place here.
            if let Some((began, id)) = self.order.pop_front()
                && self.hellos.get(&id).is_some_and(|entry| entry.began == began)
                && let Some(Entry { waker: Some(waker), .. }) = self.hellos.remove(&id)
            {
                waker.wake();
            }
        }
    }
}

impl Entry {
    fn begin(now: Moment, from: SocketAddr, packet: &Initial<'_>) -> Option<Self> {
        let keys = InitialKeys::new(packet.version, packet.destination)?;
        let state = State::Gathering(Pieces::default());
        Some(Self { began: now, from, keys, state, waker: None })
    }

    /// Takes the packets of a datagram in; whether the first of them opens.
    fn take(&mut self, first: &Initial<'_>, mut rest: &[u8]) -> bool {
        let (mut next, mut opens) = (Some(*first), true);
        while let Some(packet) = next {
            let State::Gathering(pieces) = &mut self.state else { return opens };
            let mut fits = true;
            let opened = packet.open(&self.keys, |at, piece| {
                // Once something does not fit, nothing more is looked at.
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
                Hello::Whole(facts) => self.state = State::Whole(facts),
                Hello::Malformed => self.state = State::Malformed,
                Hello::NeedMore(Some(bytes)) if bytes > HELLO_MAX => self.state = State::Malformed,
                Hello::NeedMore(_) if !fits => self.state = State::Malformed,
                Hello::NeedMore(_) => continue,
            }
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
        opens
    }
}

/// Bytes that come in pieces and in any order.
#[derive(Debug, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
    /// Where something is, in order, never touching.
    there: Vec<(usize, usize)>,
}

impl Pieces {
    /// Takes a piece in; `false` where it lies too far out, or leaves too many holes.
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

    /// What is there from the beginning on without a hole.
    pub fn front(&self) -> &[u8] {
        match self.there.first() {
            Some((0, end)) => &self.bytes[..*end],
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
