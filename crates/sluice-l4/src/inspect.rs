//! The inspectors of a listener and the panel that asks them.
//!
//! Owns: which inspectors there are, and when the vote is decided. Refuses to know: sockets, deadlines. Keeps: the
//! result does not depend on how the bytes were segmented; an inspector that returned `No` is not asked again, one that
//! needs more bytes is not asked before it has them or no more will come.

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

/// The inspectors that the chains of a listener need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// TLS: a chain matches on server name, ALPN or transport, or on the protocol `tls`.
    pub tls: bool,
    /// PostgreSQL: a chain matches on it, its database or its user.
    pub postgres: bool,
    /// Whether an SSLRequest is granted: a PostgreSQL chain has `sni` or `tls`.
    pub postgres_tls: bool,
    /// HTTP/1.
    pub http1: bool,
    /// HTTP/2 with prior knowledge.
    pub http2: bool,
    /// Redis.
    pub redis: bool,
    /// SSH.
    pub ssh: bool,
    /// No inspector, but the first bytes are still awaited: a chain matches on `silent` or `unknown`.
    pub presence: bool,
}

impl Needs {
    /// Every inspector, with requests for TLS granted.
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

    /// Whether to wait for the first bytes.
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
            // A client may start TLS at once, with the ALPN `postgresql`.
            Protocol::Postgres => (self.postgres, self.tls) = (true, true),
            Protocol::Redis => self.redis = true,
            Protocol::Ssh => self.ssh = true,
            Protocol::Silent | Protocol::Unknown => self.presence = true,
        }
    }

    /// The inspectors, in tie-breaking order.
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
    starttls: bool,
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
        Self { seats: inspectors.iter().map(seat).collect(), starttls: false }
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

    /// The result if no more bytes will come: the first match, although others still waited.
    pub fn give_up(&self, prefix: &[u8]) -> Option<Facts> {
        let open = self.seats.iter().filter(|seat| seat.vote != Vote::No);
        open.map(|seat| seat.inspector.inspect(prefix)).find_map(|said| match said {
            Inspection::Match(facts) => Some(self.settle(facts)),
            _ => None,
        })
    }

    fn reply(&mut self, bytes: &'static [u8], consumed: usize, starttls: bool) -> Look {
        self.starttls |= starttls;
        // The stream starts again after the request; after a granted STARTTLS only TLS may follow.
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

/// Needs more bytes, at least one.
pub(crate) fn need(bytes: usize) -> Inspection {
    Inspection::NeedMore(NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN))
}
