//! Relays of connections and datagrams.
//!
//! Owns: where they lead, and what keeps a client with its endpoint. Refuses to know: clusters. Keeps: the default idle
//! time-outs are those of Envoy.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use sluice_core::settings::{OrNone, Short, ShortForm};
use sluice_core::value::{NamePattern, Percent};
use sluice_core::{Name, Node, Spanned, choice, section};

use super::{EndpointEntry, SessionTtl, Shares, SubsetValues};

choice! {
    /// The hash key of a hash-based balancer.
    pub enum HashBy {
        /// The source address.
        SourceIp = "source_ip",
    }
}

section! {
    /// A relay to a cluster (TCP or UDP proxying), or to one of several. The short form is the name of the cluster, or the endpoints: one or a
    /// list. An endpoint has a port, or is unix:///path; the name of a cluster contains no colon.
    pub struct Relay {
        /// The cluster to relay to.
        pub cluster: Option<Spanned<Name>>,
        /// In place of `cluster`: split connections or flows among clusters, in percent or by weight: `split: { a: 90%, b: 10% }`.
        /// With `hash` or `sticky` a source stays with its cluster.
        pub split: Option<Spanned<Shares>>,
        /// In place of `cluster`: what of the connection names the cluster. `allow` lists the clusters that may be named.
        pub cluster_from: Option<Spanned<ClusterFrom>>,
        /// With `cluster_from`: the lookup table that says which cluster a name means; `allow` then lists the clusters that it
        /// may name.
        pub map: Option<Spanned<Name>>,
        /// With `cluster_from`: the clusters that clients may name: exact names, or *.suffix for any name below it.
        pub allow: Vec<Spanned<NamePattern>>,
        /// In place of `cluster`: endpoints, which form a cluster with default settings. Its name in logs, metrics and
        /// admin pages is that of the listener and the chain, joined by a dot: `db.default`.
        pub endpoints: Vec<Spanned<Short<EndpointEntry>>>,
        /// The metadata that the endpoint must have, for a cluster with `subsets`.
        pub endpoint_metadata: Option<Spanned<SubsetValues>>,
        /// The hash key of `ring_hash` and `maglev` (sticky sessions). The short form is `source_ip`.
        pub hash: Option<Spanned<Short<RelayHash>>>,
        /// Sticky sessions: a source that comes back goes to the endpoint that it went to before, as long as that is
        /// usable. The short form is `source_ip`.
        pub sticky: Option<Short<StickySource>>,
        /// How long no byte may move in either direction; if omitted, 1h for connections and 1m for UDP flows.
        pub idle_timeout: Option<OrNone<Duration>>,
        /// The same after one side has finished sending.
        pub half_close_timeout: OrNone<Duration> = "5m",
        /// How long a connection may last in total, connecting included.
        pub max_duration: OrNone<Duration> = "none",
        /// Part of `max_duration` by which it is longer, at random up to this share, so that connections do not all end at
        /// once.
        pub max_duration_jitter: Percent = "0%",
        /// UDP: number of responses to each datagram; the flow ends when all have arrived. If omitted, it ends when
        /// idle.
        pub responses: Option<NonZeroU32>,
        /// UDP: whether each datagram goes to an endpoint of its own, by the balancer, rather than all of a client to
        /// one. Replies come back to the client from each.
        pub per_packet: bool = "false",
    }
}

section! {
    /// The hash key of a relay: one of these fields.
    pub struct RelayHash {
        /// What is hashed of the client.
        pub by: Option<HashBy>,
        /// A text that is always hashed, so that all connections and flows go to one endpoint.
        pub key: Option<String>,
        /// UDP: a part of the datagram that a flow begins with; with `per_packet`, of each.
        pub payload: Option<HashedPayload>,
    }
}

impl ShortForm for RelayHash {
    const KEY: &'static str = "by";
}

section! {
    /// A part of a datagram. Of a shorter datagram it is what is left; if nothing is, there is no hash, and the
    /// balancer picks at random.
    pub struct HashedPayload {
        /// Bytes before it.
        pub offset: u16 = "0",
        /// Its length in bytes.
        pub length: NonZeroU16,
    }
}

choice! {
    /// What of a connection names its cluster.
    pub enum ClusterFrom {
        /// The server name of TLS, in lower case.
        Sni = "sni",
        /// A filter of the listener or chain: a script (`setCluster` of the connection filter `lua`), or a filter of your own.
        Filter = "filter",
    }
}

section! {
    /// Sticky sessions of connections and UDP flows.
    pub struct StickySource {
        /// What identifies a client.
        pub by: HashBy,
        /// How long a client may be away; at most 1d.
        pub ttl: SessionTtl = "30m",
    }
}

impl ShortForm for StickySource {
    const KEY: &'static str = "by";
}

/// The default idle timeout of a connection, as in Envoy.
pub const STREAM_IDLE: Duration = Duration::from_secs(3600);

/// The default idle timeout of a UDP flow, as in Envoy.
pub const FLOW_IDLE: Duration = Duration::from_secs(60);

impl Relay {
    /// The clusters that it names.
    pub fn clusters(&self) -> impl Iterator<Item = &Spanned<Name>> {
        let split = self.split.iter().flat_map(|split| split.0.iter().map(|(name, _)| name));
        self.cluster.iter().chain(split)
    }

    /// Whether clients may name the cluster `name`.
    pub fn may_name(&self, name: &str) -> bool {
        self.allow.iter().any(|pattern| pattern.fits(name))
    }
}

impl ShortForm for Relay {
    const KEY: &'static str = "cluster";
    const OTHER_KEY: Option<&'static str> = Some("endpoints");

    fn key(node: &Node) -> &'static str {
        // An IP address without its port is an endpoint with a mistake.
        let name = |text: &str| !text.contains(':') && text.parse::<IpAddr>().is_err();
        if node.text().is_some_and(name) { Self::KEY } else { "endpoints" }
    }
}
