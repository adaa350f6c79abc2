//! What filters remember: per listener or chain that uses them, and there about each source.
//!
//! Owns: state that outlives a reload, the bound on sources and what is forgotten at it.
//! Refuses to know: what is remembered.
//! Keeps: never more entries than the bound; what is forgotten has not been used for longer than
//! what stays, give or take half the table.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::Cidr;
use sluice_core::connection::Peer;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_telemetry::Counter;

use crate::metrics;

/// A filter's state for each listener or chain that uses it, shared by all workers and kept over
/// every reload.
#[derive(Debug)]
pub(super) struct PerOwner<T>(Arc<Mutex<HashMap<String, Arc<Mutex<T>>>>>);

impl<T> Default for PerOwner<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for PerOwner<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PerOwner<T> {
    /// The state of `owner`, made with the bound on sources where there is none yet.
    pub(super) fn of(
        &self,
        owner: &str,
        worker: &WorkerCx,
        new: impl FnOnce(usize) -> T,
    ) -> Arc<Mutex<T>> {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Mutex::new(new(worker.limits.size(Limit::SourceTable))));
        Arc::clone(owners.entry(owner.to_owned()).or_insert_with(new))
    }
}

/// Counts the times that sources were forgotten.
pub(super) fn forgotten(worker: &WorkerCx) -> Counter {
    worker.shard.counter(&metrics::LIMIT_REACHED, &[Limit::SourceTable.def().name])
}

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
