//! A bounded table of what is remembered about each source.
//!
//! Owns: the bound and what is forgotten at it. Refuses to know: what is remembered.
//! Keeps: never more entries than the bound; what is forgotten has not been used for longer than
//! what stays, give or take half the table.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;

use sluice_core::Cidr;
use sluice_core::connection::Peer;

/// Two generations: what was used since the last turn, and what was used before it. When the young
/// one has grown to half the bound, the old one is forgotten.
#[derive(Debug)]
pub(super) struct Sources<T, S = foldhash::quality::RandomState> {
    young: HashMap<Cidr, T, S>,
    old: HashMap<Cidr, T, S>,
    half: usize,
}

/// Who a source is: its IPv4 address, or the /64 that its IPv6 address lies in, since one host has
/// all of that. `None` for unix sockets, which share one entry.
pub(super) fn source_of(peer: Peer) -> Cidr {
    match peer.ip().map(|ip| ip.to_canonical()) {
        Some(ip @ IpAddr::V4(_)) => Cidr::around(ip, 32),
        Some(ip @ IpAddr::V6(_)) => Cidr::around(ip, 64),
        None => Cidr::around(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 32),
    }
}

impl<T: Default, S: BuildHasher + Default> Sources<T, S> {
    pub(super) fn new(bound: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), half: (bound / 2).max(1) }
    }

    /// The entry of a source; returns whether others were forgotten for it.
    pub(super) fn entry(&mut self, source: Cidr) -> (&mut T, bool) {
        let mut forgot = false;
        if !self.young.contains_key(&source) {
            if self.young.len() >= self.half {
                forgot = !self.old.is_empty();
                self.old = std::mem::take(&mut self.young);
            }
            let value = self.old.remove(&source).unwrap_or_default();
            self.young.insert(source, value);
        }
        (self.young.entry(source).or_default(), forgot)
    }

    /// Takes a source out.
    pub(super) fn remove(&mut self, source: Cidr) {
        self.young.remove(&source);
        self.old.remove(&source);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
