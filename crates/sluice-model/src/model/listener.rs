//! Listeners and their filter chains.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::value::NamePattern;
use sluice_core::{ListenAddress, Name, Path};
use sluice_l4::{Criteria, Hash, NamedBy, OnTimeout, ProxyPlan, RelayOptions};
use sluice_l7::plan::HttpOptions;
use sluice_quic::QuicOptions;
use sluice_upstream::SubsetKey;

use super::tls::ServerTls;
use super::{FilterConfig, Kind, Reference, References};

/// A listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The addresses it listens on.
    pub addresses: Vec<ListenAddress>,
    /// Options of its sockets.
    pub socket: SocketOptions,
    /// Filters on the source, run before anything is read for a chain.
    pub filters: Vec<FilterConfig>,
    /// What it accepts, and what becomes of it.
    pub traffic: Traffic,
}

/// Options of listening sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Connections that may wait to be accepted, per worker.
    pub backlog: u32,
    /// Whether addresses may be listened on that the machine does not have yet.
    pub freebind: bool,
    /// Whether the kernel probes idle connections.
    pub keepalive: bool,
    /// Queue length of TCP Fast Open; 0 turns it off.
    pub fast_open: u32,
    /// Receive buffer of UDP sockets in bytes, per worker.
    pub udp_receive_buffer: usize,
}

/// What a listener accepts.
#[derive(Clone, Debug, PartialEq)]
pub enum Traffic {
    /// Connections, over TCP or unix sockets.
    Streams(Streams),
    /// Datagrams.
    Datagrams(Vec<FlowChain>),
}

/// How a listener treats connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Streams {
    /// Whether connections that a firewall redirected have the destination that they had before.
    pub original_destination: bool,
    /// Whether and from which sources a PROXY header is accepted.
    pub proxy_protocol: Option<ProxyPlan>,
    /// How the first bytes are inspected for chains that match on them.
    pub inspect: Inspect,
    /// The chains; the most specific match wins.
    pub chains: Vec<FilterChain>,
    /// QUIC on the UDP ports of the same numbers, for the chains that terminate TLS and serve HTTP.
    pub quic: Option<QuicOptions>,
}

/// Bounds on the inspection of first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// How long to wait for them.
    pub timeout: Duration,
    /// How many are held.
    pub bytes: usize,
    /// What to do when they do not identify the protocol.
    pub on_timeout: OnTimeout,
}

/// A filter chain: which connections it takes, and what happens to them.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterChain {
    /// Its name in records and metrics.
    pub name: Name,
    /// Which connections it takes.
    pub criteria: Criteria,
    /// Its connection filters.
    pub filters: Vec<FilterConfig>,
    /// What becomes of its connections.
    pub kind: ChainKind,
}

/// What becomes of the connections of a chain.
#[derive(Clone, Debug, PartialEq)]
pub enum ChainKind {
    /// Their bytes are served as they arrive, encrypted or not.
    Plain(Service),
    /// TLS is terminated, and the decrypted stream is served.
    Terminate(Box<ServerTls>, Service),
    /// TLS is terminated, and the decrypted stream selects among these chains.
    Inspect(Box<ServerTls>, Vec<InnerChain>),
}

/// A chain for decrypted streams.
#[derive(Clone, Debug, PartialEq)]
pub struct InnerChain {
    /// Its name in records and metrics.
    pub name: Name,
    /// Which streams it takes.
    pub criteria: Criteria,
    /// Its connection filters.
    pub filters: Vec<FilterConfig>,
    /// What serves them.
    pub service: Service,
}

/// What serves a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Service {
    /// It is relayed to a cluster.
    Relay {
        /// Where to.
        to: RelayTo,
        /// The options.
        options: RelayOptions,
    },
    /// It is HTTP.
    Http(Box<Http>),
}

/// The cluster of a relay, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayTo {
    /// One cluster.
    Cluster {
        /// Its name.
        name: Name,
        /// The metadata that the endpoint must have, if the cluster has subsets.
        subset: Option<Arc<SubsetKey>>,
    },
    /// One of several clusters for each connection or flow, by weight.
    Split(Vec<RelayShare>),
    /// The cluster that a connection names by its server name (SNI), or that a filter chooses.
    Named {
        /// What names it.
        by: NamedBy,
        /// The clusters that may be named.
        allow: Vec<NamePattern>,
        /// The lookup table that says which cluster a server name means; without one, it is the name of the cluster.
        map: Option<Name>,
    },
}

/// The share of one cluster in the split of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayShare {
    /// The cluster.
    pub cluster: Name,
    /// Its weight in relation to those of the others.
    pub weight: u64,
    /// The metadata that the endpoint must have, if the cluster has subsets.
    pub subset: Option<Arc<SubsetKey>>,
}

impl RelayTo {
    /// A cluster, any endpoint of it.
    pub const fn cluster(name: Name) -> Self {
        Self::Cluster { name, subset: None }
    }

    /// Whether clients may name the cluster `name`.
    pub fn may_name(&self, name: &str) -> bool {
        match self {
            Self::Named { allow, .. } => allow.iter().any(|pattern| pattern.fits(name)),
            Self::Cluster { .. } | Self::Split(_) => false,
        }
    }

    /// Every cluster that it names with its share; the only one has them all.
    pub fn shares(&self) -> impl Iterator<Item = RelayShare> {
        let (one, shares) = match self {
            Self::Cluster { name, subset } => {
                let (cluster, subset) = (Arc::clone(name), subset.clone());
                (Some(RelayShare { cluster, weight: 1, subset }), &[][..])
            }
            Self::Split(shares) => (None, shares.as_slice()),
            Self::Named { .. } => (None, &[][..]),
        };
        one.into_iter().chain(shares.iter().cloned())
    }

    /// Every cluster that it names.
    pub fn clusters(&self) -> impl Iterator<Item = &Name> {
        let (one, shares) = match self {
            Self::Cluster { name, .. } => (Some(name), &[][..]),
            Self::Split(shares) => (None, shares.as_slice()),
            Self::Named { .. } => (None, &[][..]),
        };
        one.into_iter().chain(shares.iter().map(|share| &share.cluster))
    }

    /// The field that names `cluster`, and whether its key is the name.
    pub(crate) fn place(&self, cluster: &Name, relay: &Path<'_>) -> (String, bool) {
        match self {
            Self::Cluster { .. } => (relay.key("cluster").to_string(), false),
            Self::Split(_) => (relay.key("split").key(cluster).to_string(), true),
            Self::Named { .. } => (relay.key("allow").to_string(), false),
        }
    }

    fn references(&self, relay: &Path<'_>, found: &mut References) {
        if let Self::Named { map: Some(map), .. } = self {
            found.add(Kind::Map, map, relay.key("map"));
        }
        found.0.extend(self.clusters().map(|name| {
            let (at, in_key) = self.place(name, relay);
            Reference { kind: Kind::Cluster, name: Name::clone(name), at, in_key }
        }));
    }
}

/// HTTP on a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// The route table.
    pub routes: Name,
    /// The HTTP filters.
    pub filters: Vec<FilterConfig>,
    /// The options.
    pub options: HttpOptions,
}

/// A chain of a listener for datagrams.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowChain {
    /// Its name in records and metrics.
    pub name: Name,
    /// Which flows it takes.
    pub criteria: Criteria,
    /// Its connection filters.
    pub filters: Vec<FilterConfig>,
    /// Where its flows are relayed to.
    pub to: RelayTo,
    /// The input of a hash balancer.
    pub hash: Option<Hash>,
    /// How long a source may be away and still return to its endpoint; `None` does not remember sources.
    pub sticky: Option<Duration>,
    /// How long no datagram may arrive in either direction; `None` is unlimited.
    pub idle_timeout: Option<Duration>,
    /// Responses to each datagram, after which the flow ends.
    pub responses: Option<NonZeroU32>,
    /// Whether each datagram goes to an endpoint of its own.
    pub per_packet: bool,
}

impl Listener {
    /// Everything that serves a stream, with the name of its chain (`web`, or `tls/web` for an inner chain) and whether
    /// that chain terminates TLS.
    pub fn services(&self) -> Vec<(String, bool, &Service)> {
        let Traffic::Streams(streams) = &self.traffic else { return Vec::new() };
        let mut all = Vec::new();
        for chain in &streams.chains {
            match &chain.kind {
                ChainKind::Plain(service) | ChainKind::Terminate(_, service) => {
                    all.push((chain.name.to_string(), chain.tls().is_some(), service));
                }
                ChainKind::Inspect(_, inner) => all.extend(
                    inner
                        .iter()
                        .map(|of| (format!("{}/{}", chain.name, of.name), true, &of.service)),
                ),
            }
        }
        all
    }

    /// Whether a connection over TLS with this server name, in lower case, can get the chain of that name: not if the chain
    /// takes other names, or if another chain takes this one whatever else is known of the connection.
    pub fn can_get(&self, chain: &str, server_name: &str) -> bool {
        let Traffic::Streams(streams) = &self.traffic else { return false };
        let outer = chain.split_once('/').map_or(chain, |(outer, _)| outer);
        let own = streams.chains.iter().find(|of| *of.name == *outer).map(|of| &of.criteria);
        let Some(own) = own.filter(|own| own.takes_encrypted()) else { return false };
        let Some(fit) = own.name_fit(server_name) else { return false };
        // Ports and addresses come before names.
        let by_place = !own.ports.is_empty() || !own.destinations.is_empty();
        let takes = |other: &Criteria| {
            other.is_by_name_only(own) && other.name_fit(server_name) > Some(fit)
        };
        by_place || !streams.chains.iter().any(|other| takes(&other.criteria))
    }

    /// The number of its filter chains.
    pub const fn chain_count(&self) -> usize {
        match &self.traffic {
            Traffic::Streams(streams) => streams.chains.len(),
            Traffic::Datagrams(chains) => chains.len(),
        }
    }

    pub(crate) fn references(&self, found: &mut References) {
        let list = Path::ROOT.key("chains");
        match &self.traffic {
            Traffic::Streams(streams) => {
                for (place, chain) in streams.chains.iter().enumerate() {
                    chain.references(&list.index(place), found);
                }
            }
            Traffic::Datagrams(chains) => {
                for (place, chain) in chains.iter().enumerate() {
                    let at = list.index(place);
                    chain.to.references(&at.key("relay"), found);
                }
            }
        }
    }
}

impl FilterChain {
    /// How TLS is terminated, if it is.
    pub const fn tls(&self) -> Option<&ServerTls> {
        match &self.kind {
            ChainKind::Plain(_) => None,
            ChainKind::Terminate(tls, _) | ChainKind::Inspect(tls, _) => Some(tls),
        }
    }

    /// Whether it reads the server name of the ClientHello: a relay does to the cluster that it names, and what
    /// terminates TLS, for filters, routes and records.
    pub fn reads_server_name(&self) -> bool {
        match &self.kind {
            ChainKind::Plain(Service::Relay { options, .. }) => options.by_name,
            ChainKind::Plain(Service::Http(_)) => false,
            ChainKind::Terminate(..) | ChainKind::Inspect(..) => true,
        }
    }

    fn references(&self, at: &Path<'_>, found: &mut References) {
        if let Some(tls) = self.tls() {
            let tls_at = at.key("tls");
            let list = tls_at.key("certificates");
            for (place, certificate) in tls.certificates.iter().enumerate() {
                certificate.reference(&list.index(place), found);
            }
        }
        match &self.kind {
            ChainKind::Plain(service) | ChainKind::Terminate(_, service) => {
                service.references(at, found);
            }
            ChainKind::Inspect(_, inner) => {
                let list = at.key("chains");
                for (place, chain) in inner.iter().enumerate() {
                    chain.service.references(&list.index(place), found);
                }
            }
        }
    }
}

impl Service {
    fn references(&self, at: &Path<'_>, found: &mut References) {
        match self {
            Self::Relay { to, .. } => to.references(&at.key("relay"), found),
            Self::Http(http) => {
                let section = at.key("http");
                found.add(Kind::Routes, &http.routes, section.key("routes"));
            }
        }
    }
}
