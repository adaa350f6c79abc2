//! The inspectors of a listener and the panel that asks them.
//!
//! Owns: the list of inspectors, and when the vote is decided. Refuses to know: sockets, deadlines, and what any
//! protocol looks like. Keeps: the result does not depend on how the bytes were segmented; an inspector that returned
//! `No` is not asked again, one that needs more bytes is not asked before it has them or no more will come.

use std::num::NonZeroUsize;
use std::rc::Rc;

use sluice_core::facts::FactKey;
use sluice_core::{Facts, Protocol, TransportKind};
use sluice_io::{Inspection, Inspector};
use sluice_telemetry::Operator;
use smallvec::SmallVec;

pub mod http;
pub mod postgres;
pub mod redis;
pub mod ssh;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;

/// Every inspector, in the order that breaks ties.
pub static INSPECTORS: [&InspectorDef; 6] =
    [&tls::TLS_DEF, &postgres::DEF, &http::HTTP2_DEF, &http::HTTP1_DEF, &redis::DEF, &ssh::DEF];

/// A protocol that can be recognised by its first bytes. Declared beside its inspector.
#[derive(Debug)]
pub struct InspectorDef {
    /// The protocol.
    pub protocol: Protocol,
    /// Creates the inspector.
    pub make: fn(Needs) -> Rc<dyn Inspector>,
    /// How the protocol changes to TLS, if it does.
    pub upgrade: Option<TlsUpgrade>,
    /// The facts that chains match by words, in the order in which they are compared.
    pub words: &'static [&'static WordFact],
}

/// How a protocol changes to TLS.
#[derive(Debug)]
pub struct TlsUpgrade {
    /// Asks a server for TLS.
    pub request: &'static [u8],
    /// The byte with which the server grants it.
    pub granted: u8,
    /// The ALPN protocol of a client that starts TLS at once, without asking.
    pub alpn: &'static [u8],
}

/// A fact that chains match by words: a name, or a prefix and a star.
#[derive(Debug)]
pub struct WordFact {
    /// The fact.
    pub key: FactKey<Box<str>>,
    /// The protocol that has it; a match on the fact implies it.
    pub protocol: Protocol,
    /// A word as the protocol's servers read it.
    pub as_read: fn(&[u8]) -> String,
    /// The operator that shows it in records.
    pub operator: Operator,
}

impl PartialEq for WordFact {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for WordFact {}

/// The facts of every protocol that chains match by words, in the order in which they are compared.
pub fn word_facts() -> impl Iterator<Item = &'static WordFact> {
    INSPECTORS.iter().flat_map(|of| of.words).copied()
}

/// The declaration of a protocol, if an inspector recognises it.
pub fn inspector_of(protocol: Protocol) -> Option<&'static InspectorDef> {
    INSPECTORS.into_iter().find(|of| of.protocol == protocol)
}

/// The inspectors that the chains of a listener need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// A bit for each of [`INSPECTORS`].
    inspectors: u32,
    /// The same, for those whose clients are granted TLS when they ask for it.
    grants: u32,
    /// No inspector, but the first bytes are still awaited: a chain matches on `silent` or `unknown`.
    presence: bool,
}

const _: () = assert!(INSPECTORS.len() < 32, "a bit for each");

impl Needs {
    /// Every inspector, with requests for TLS granted.
    pub const ALL: Self = {
        let all = (1 << INSPECTORS.len()) - 1;
        Self { inspectors: all, grants: all, presence: true }
    };

    /// What a match on `protocol` needs.
    pub fn of(protocol: Protocol) -> Self {
        let mut needs = Self::default();
        needs.add(protocol);
        needs
    }

    /// Whether to wait for the first bytes.
    pub const fn any(self) -> bool {
        self.inspectors != 0 || self.presence
    }

    /// Adds what a match on `protocol` needs.
    pub fn add(&mut self, protocol: Protocol) {
        self.inspectors |= bit(protocol);
        match inspector_of(protocol) {
            None => self.presence = true,
            // A client may start TLS at once.
            Some(InspectorDef { upgrade: Some(_), .. }) => self.inspectors |= bit(tls::TLS),
            Some(_) => {}
        }
    }

    /// Removes the inspector of a protocol.
    pub fn remove(&mut self, protocol: Protocol) {
        self.inspectors &= !bit(protocol);
    }

    /// Grants TLS to clients of a protocol that ask for it, because some chain takes it.
    pub fn grant_tls(&mut self, protocol: Protocol) {
        self.grants |= bit(protocol);
    }

    /// Whether clients of a protocol are granted TLS when they ask for it.
    pub fn grants_tls(self, protocol: Protocol) -> bool {
        self.grants & bit(protocol) != 0
    }

    /// The inspectors, in tie-breaking order.
    pub fn inspectors(self) -> Vec<Rc<dyn Inspector>> {
        let needed = |index: &usize| self.inspectors & (1 << index) != 0;
        let indexes = (0..INSPECTORS.len()).filter(needed);
        indexes.map(|index| (INSPECTORS[index].make)(self)).collect()
    }
}

/// The bit of a protocol's inspector; none if it has no inspector.
fn bit(protocol: Protocol) -> u32 {
    let index = INSPECTORS.iter().position(|of| of.protocol == protocol);
    index.map_or(0, |index| 1 << index)
}

/// The result of the panel for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The vote is decided.
    Decided(Facts),
    /// More bytes are needed.
    More,
    /// The peer needs a reply first: send it, remove `consumed` bytes from the prefix, look again.
    Reply {
        /// What to send.
        bytes: &'static [u8],
        /// The bytes to remove.
        consumed: usize,
    },
    /// The peer announced TLS, and it did not follow.
    Malformed,
}

/// A vote on one stream.
#[derive(Debug)]
pub struct Panel<'a> {
    seats: SmallVec<[Seat<'a>; 6]>,
    /// The protocol that was granted TLS.
    starttls: Option<Protocol>,
}

#[derive(Debug)]
struct Seat<'a> {
    inspector: &'a dyn Inspector,
    vote: Vote,
}

#[derive(Debug, PartialEq, Eq)]
enum Vote {
    /// Not asked before the prefix has this length.
    Open(usize),
    No,
}

impl<'a> Panel<'a> {
    /// A panel of `inspectors`, in tie-breaking order.
    pub fn new(inspectors: &'a [Rc<dyn Inspector>]) -> Self {
        let seat = |inspector: &'a Rc<dyn Inspector>| Seat {
            inspector: &**inspector,
            vote: Vote::Open(1),
        };
        Self { seats: inspectors.iter().map(seat).collect(), starttls: None }
    }

    /// Asks the inspectors that have not voted. A match counts only once all inspectors before it have returned `No`:
    /// which of two matches wins must not depend on how the bytes were segmented.
    pub fn look(&mut self, prefix: &[u8]) -> Look {
        let mut waiting = prefix.is_empty();
        for seat in &mut self.seats {
            match seat.vote {
                Vote::No => continue,
                Vote::Open(least) if prefix.len() < least => {
                    waiting = true;
                    continue;
                }
                Vote::Open(_) => {}
            }
            match seat.inspector.inspect(prefix) {
                Inspection::Match(_) | Inspection::Reply { .. } if waiting => {}
                Inspection::Match(facts) => return Look::Decided(self.settle(facts)),
                Inspection::No => seat.vote = Vote::No,
                Inspection::NeedMore(by) => {
                    waiting = true;
                    seat.vote = Vote::Open(prefix.len().saturating_add(by.get()));
                }
                Inspection::Reply { bytes, consumed, starttls } => {
                    let granted = starttls.then(|| seat.inspector.protocol());
                    return self.reply(bytes, consumed, granted);
                }
            }
        }
        if waiting {
            Look::More
        } else if self.starttls.is_some() {
            Look::Malformed
        } else {
            Look::Decided(Facts::of(Protocol::UNKNOWN))
        }
    }

    /// The result if no more bytes will come: the first match, although others still waited.
    pub fn give_up(&self, prefix: &[u8]) -> Option<Facts> {
        let open = self.seats.iter().filter(|seat| seat.vote != Vote::No);
        open.map(|seat| seat.inspector.inspect(prefix)).find_map(|said| match said {
            Inspection::Match(facts) => Some(self.settle(facts)),
            _ => None,
        })
    }

    fn reply(&mut self, bytes: &'static [u8], consumed: usize, granted: Option<Protocol>) -> Look {
        self.starttls = granted.or(self.starttls);
        // The stream starts again after the request; after a granted STARTTLS only TLS may follow.
        for seat in &mut self.seats {
            let speaks = self.starttls.is_none() || seat.inspector.protocol() == tls::TLS;
            seat.vote = if speaks { Vote::Open(1) } else { Vote::No };
        }
        Look::Reply { bytes, consumed }
    }

    /// A protocol that changes to TLS is recognised by its request, or by its ALPN protocol.
    fn settle(&self, mut facts: Facts) -> Facts {
        if self.starttls.is_some() {
            facts.set(&tls::STARTTLS, ());
        }
        if facts.transport != TransportKind::Plain {
            let starts = |of: &&&InspectorDef| {
                let offers = facts.get(&tls::OFFERS);
                let alpn = of.upgrade.as_ref().map(|upgrade| upgrade.alpn);
                alpn.is_some_and(|alpn| offers.is_some_and(|offers| offers.contains(alpn)))
            };
            let direct = || INSPECTORS.iter().find(starts).map(|of| of.protocol);
            facts.protocol = self.starttls.or_else(direct).or(facts.protocol);
        }
        facts
    }
}

/// Needs more bytes, at least one.
pub(crate) fn need(bytes: usize) -> Inspection {
    Inspection::NeedMore(NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN))
}
