//! Conflicts between resources of control planes.
//!
//! Owns: what two resources must not be together. Refuses to know: which of the two came first. Keeps: the one that
//! would make the conflict is rejected, and the other stays in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_core::{Diags, ListenAddress, Name, Path};
use sluice_upstream::cluster::FALLBACKS_MAX;

use super::{Held, Store};
use crate::model::listener::Traffic;
use crate::model::{Cluster, Kind, Listener, Resource};

/// The resources as they will be, apart from the one that is looked at.
pub(super) struct Others<'a> {
    pub(super) store: &'a Store,
    pub(super) set: &'a BTreeMap<(Kind, Name), Held>,
    pub(super) removed: &'a BTreeSet<(Kind, Name)>,
}

impl Others<'_> {
    /// An address has one listener, and datagrams go to a cluster without TLS, since they would leave it unencrypted.
    pub(super) fn of_listener(&self, name: &Name, listener: &Listener, found: &mut Diags) {
        let taken = bound_by(listener);
        for (other, listener) in self.listeners().filter(|(other, _)| *other != name) {
            if let Some(address) = bound_by(listener).intersection(&taken).next() {
                let message = format!("the listener `{other}` has the address {address}");
                found.error("duplicate-address", None, "addresses", message);
            }
        }
        let list = Path::ROOT.key("chains");
        let Traffic::Datagrams(chains) = &listener.traffic else { return };
        for (place, chain) in chains.iter().enumerate() {
            for name in chain.to.clusters() {
                let Some((secured, _)) = self.served_by(name).find(|(_, of)| of.tls.is_some())
                else {
                    continue;
                };
                let at = list.index(place);
                let (at, _) = chain.to.place(name, &at.key("relay"));
                found.error("wrong-kind", None, at, unencrypted(secured));
            }
        }
    }

    pub(super) fn of_cluster(&self, name: &Name, cluster: &Cluster, found: &mut Diags) {
        let fallback = &cluster.settings.fallback;
        let behind = || fallback.iter().flat_map(|next| self.served_by(next));
        if fallback.contains(name) || behind().any(|(by, _)| by == name) {
            let message = format!("the cluster `{name}` would serve in place of itself");
            found.error("fallback-loop", None, "fallback", message);
            return;
        }
        let secured = match &cluster.tls {
            Some(_) => Some(("tls", name)),
            None => behind().find(|(_, of)| of.tls.is_some()).map(|(by, _)| ("fallback", by)),
        };
        if let Some((at, secured)) = secured
            && self.listeners().any(|(_, listener)| self.gets_datagrams(listener, name))
        {
            found.error("wrong-kind", None, at, unencrypted(secured));
        }
    }

    /// Whether datagrams of `listener` may get to the cluster `name`.
    fn gets_datagrams(&self, listener: &Listener, name: &Name) -> bool {
        let Traffic::Datagrams(chains) = &listener.traffic else { return false };
        let next = |of: &Cluster| of.settings.fallback.contains(name);
        chains
            .iter()
            .flat_map(|chain| chain.to.clusters())
            .any(|to| to == name || self.served_by(to).any(|(by, of)| by == name || next(of)))
    }

    /// A cluster, and those that serve in its place.
    fn served_by<'s>(&'s self, name: &'s Name) -> impl Iterator<Item = (&'s Name, &'s Cluster)> {
        let of = |name: &'s Name| Some((name, self.cluster(name)?));
        let mut found: Vec<(&'s Name, &'s Cluster)> = of(name).into_iter().collect();
        let mut start = 0;
        for _ in 0..FALLBACKS_MAX {
            let last = found[start..].iter().flat_map(|(_, cluster)| &cluster.settings.fallback);
            let next: Vec<_> = last.filter_map(of).collect();
            start = found.len();
            for (name, cluster) in next {
                if !found.iter().any(|(known, _)| *known == name) {
                    found.push((name, cluster));
                }
            }
        }
        found.into_iter()
    }

    fn listeners(&self) -> impl Iterator<Item = (&Name, &Listener)> {
        let of_batch = self.set.iter().filter_map(|((_, name), held)| match &held.resource {
            Resource::Listener(listener) => Some((name, &**listener)),
            _ => None,
        });
        let replaced = |name: &Name| {
            let key = (Kind::Listener, Arc::clone(name));
            self.set.contains_key(&key) || self.removed.contains(&key)
        };
        of_batch.chain(self.store.listeners().filter(move |(name, _)| !replaced(name)))
    }

    fn cluster(&self, name: &Name) -> Option<&Cluster> {
        let key = (Kind::Cluster, Arc::clone(name));
        let in_force = || self.store.get(key.0, name).filter(|_| !self.removed.contains(&key));
        match &self.set.get(&key).or_else(in_force)?.resource {
            Resource::Cluster(cluster) => Some(cluster),
            _ => None,
        }
    }
}

fn unencrypted(cluster: &str) -> String {
    format!("the cluster `{cluster}` has TLS, but datagrams would be sent unencrypted")
}

/// The addresses that a listener binds, apart from those for which the system chooses a port.
fn bound_by(listener: &Listener) -> BTreeSet<ListenAddress> {
    let quic = matches!(&listener.traffic, Traffic::Streams(streams) if streams.quic.is_some());
    let mut all: BTreeSet<ListenAddress> = listener.addresses.iter().cloned().collect();
    if quic {
        all.extend(listener.addresses.iter().filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(ListenAddress::Udp(*address)),
            ListenAddress::Udp(_) | ListenAddress::Unix(_) => None,
        }));
    }
    all.retain(|address| {
        !matches!(address, ListenAddress::Tcp(of) | ListenAddress::Udp(of) if of.port() == 0)
    });
    all
}
