//! The inspectors of a listener and the panel that asks them.
//!
//! Owns: which inspectors there are, and when the votes are in. Refuses to know: sockets, deadlines.
//! Keeps: the outcome does not depend on how the bytes were cut; an inspector that said `No` is not
//! asked again, one that wants more is not asked before it has it or nothing more will come.

use std::num::NonZeroUsize;
use std::rc::Rc;

use sluice_core::{Facts, Protocol};
use sluice_io::{Inspection, Inspector};
use smallvec::SmallVec;

pub mod http;
pub mod postgres;
pub mod reader;
pub mod redis;
pub mod ssh;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;

/// Which inspectors the chains of a listener ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// TLS: some chain matches a server name, ALPN or transport, or the protocol `tls`.
    pub tls: bool,
    /// PostgreSQL: some chain matches it, its database or its user.
    pub postgres: bool,
    /// Whether an SSLRequest is granted: some PostgreSQL chain has `sni` or `tls`.
    pub postgres_tls: bool,
    /// HTTP/1.
    pub http1: bool,
    /// HTTP/2 with prior knowledge.
    pub http2: bool,
    /// Redis.
    pub redis: bool,
    /// SSH.
    pub ssh: bool,
    /// No inspector, and still the first bytes are waited for: a chain matches `silent` or `unknown`.
    pub presence: bool,
}

impl Needs {
    /// Every inspector, and requests for TLS granted.
    pub const ALL: Self = Self {
        tls: true,
        postgres: true,
        postgres_tls: true,
        http1: true,
        http2: true,
        redis: true,
        ssh: true,
        presence: true,
    };

    /// Whether the first bytes are waited for.
    pub const fn any(self) -> bool {
        self.tls
            || self.postgres
            || self.http1
            || self.http2
            || self.redis
            || self.ssh
            || self.presence
    }

    /// Adds what a match on `protocol` needs.
    pub const fn add(&mut self, protocol: Protocol) {
        match protocol {
            Protocol::Tls => self.tls = true,
            Protocol::Http1 => self.http1 = true,
            Protocol::Http2 => self.http2 = true,
            // A client may begin TLS at once, with an ALPN that says postgresql.
            Protocol::Postgres => (self.postgres, self.tls) = (true, true),
            Protocol::Redis => self.redis = true,
            Protocol::Ssh => self.ssh = true,
            Protocol::Silent | Protocol::Unknown => self.presence = true,
        }
    }

    /// The inspectors, in the order in which a tie is broken.
    pub fn inspectors(self) -> Vec<Rc<dyn Inspector>> {
        let mut all: Vec<Rc<dyn Inspector>> = Vec::new();
        if self.tls {
            all.push(Rc::new(tls::TlsInspector));
        }
        if self.postgres {
            all.push(Rc::new(postgres::PostgresInspector { grant_tls: self.postgres_tls }));
        }
        if self.http2 {
            all.push(Rc::new(http::Http2Inspector));
        }
        if self.http1 {
            all.push(Rc::new(http::Http1Inspector));
        }
        if self.redis {
            all.push(Rc::new(redis::RedisInspector));
        }
        if self.ssh {
            all.push(Rc::new(ssh::SshInspector));
        }
        all
    }
}

/// What the panel says after it has seen a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The votes are in.
    Decided(Facts),
    /// More bytes are needed.
    More,
    /// The peer wants an answer first: send it, take `consumed` bytes off the prefix, look again.
    Reply {
        /// What to send.
        bytes: &'static [u8],
        /// What to take off.
        consumed: usize,
    },
    /// The peer said that TLS would follow, and it did not.
    Malformed,
}

/// A round of votes over one stream.
#[derive(Debug)]
pub struct Panel<'a> {
    seats: SmallVec<[Seat<'a>; 6]>,
    starttls: bool,
}

#[derive(Debug)]
struct Seat<'a> {
    inspector: &'a dyn Inspector,
    vote: Vote,
}

#[derive(Debug, PartialEq, Eq)]
enum Vote {
    /// Not before the prefix is so long.
    Open(usize),
    No,
}

impl<'a> Panel<'a> {
    /// A panel of `inspectors`, in the order in which a tie is broken.
    pub fn new(inspectors: &'a [Rc<dyn Inspector>]) -> Self {
        let seat = |inspector: &'a Rc<dyn Inspector>| Seat {
            inspector: &**inspector,
            vote: Vote::Open(1),
        };
        Self { seats: inspectors.iter().map(seat).collect(), starttls: false }
    }

    /// Asks whoever has not voted. A match counts once everybody before it in the order has said
    /// no: which of two it is must not hang on how the bytes were cut.
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
                    return self.reply(bytes, consumed, starttls);
                }
            }
        }
        if waiting {
            Look::More
        } else if self.starttls {
            Look::Malformed
        } else {
            Look::Decided(Facts::of(Protocol::Unknown))
        }
    }

    /// What it is when nothing more will come: the first match, though others still waited.
    pub fn give_up(&self, prefix: &[u8]) -> Option<Facts> {
        let open = self.seats.iter().filter(|seat| seat.vote != Vote::No);
        open.map(|seat| seat.inspector.inspect(prefix)).find_map(|said| match said {
            Inspection::Match(facts) => Some(self.settle(facts)),
            _ => None,
        })
    }

    fn reply(&mut self, bytes: &'static [u8], consumed: usize, starttls: bool) -> Look {
        self.starttls |= starttls;
        // The stream begins anew behind the request; after a granted STARTTLS only TLS may follow.
        for seat in &mut self.seats {
            let speaks = !self.starttls || seat.inspector.name() == Protocol::Tls.word();
            seat.vote = if speaks { Vote::Open(1) } else { Vote::No };
        }
        Look::Reply { bytes, consumed }
    }

    fn settle(&self, mut facts: Facts) -> Facts {
        facts.starttls = self.starttls;
        let direct = facts.alpn.iter().any(|alpn| **alpn == *postgres::ALPN);
        if facts.tls && (self.starttls || direct) {
            facts.protocol = Some(Protocol::Postgres);
        }
        facts
    }
}

/// More bytes, at least one.
pub(crate) fn need(bytes: usize) -> Inspection {
    Inspection::NeedMore(NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN))
}
