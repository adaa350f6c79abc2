//! The sections of a configuration.
//!
//! Owns: every field, its default and its documentation. Refuses to know: how fields
//! interact. Keeps: fields are declared in the order of the reference page.

use sluice_core::settings::{Members, Named, OrNone, Short};
use sluice_core::{SecretText, Spanned, section};

pub mod balancing;
pub mod cluster_limits;
pub mod clusters;
pub mod control_plane;
pub mod discovery;
mod drops;
pub mod health;
pub mod http;
pub mod listeners;
pub mod log_format;
pub mod log_sink;
pub mod maps;
mod pem;
pub mod process;
pub mod redirect;
pub mod relay;
pub mod routes;
pub mod sockets;
pub mod subsets;
pub mod tls;

pub use balancing::{
    ApertureSize, Balancer, Failover, LocalityName, LocalityWeights, OwnNode, Priority, SessionTtl,
    SlowStart, ZoneAware,
};
pub use cluster_limits::{ClusterLimits, EndpointLimits, HighLimits, Queue};
pub use clusters::{
    CheckOf, Cluster, ClusterProtocol, ConnectBackoff, DrainFor, EndpointEntry, OnEndpointRemoved,
    OnEndpointUnhealthy, Preconnect, ProxyHeader, Reuse,
};
pub use control_plane::{ControlPlane, PlaneResource};
pub use discovery::{Dns, Egress, Family, Forward, NameMode, Refresh};
pub use drops::DropShares;
pub use health::{Health, Outlier};
pub use http::Http;
pub use listeners::{
    Chain, Congestion, FilterUse, InnerChain, Inspect, Listener, Match, OnTimeout, ProtocolMatch,
    ProxyAcceptance, ProxyProtocol, Quic, SocketOptions, TransportMatch,
};
pub use log_format::LogFormat;
pub use log_sink::LogSink;
pub use maps::LookupMap;
pub use process::{AccessLog, Admin, Drain, LimitValues, LogKind};
pub use redirect::HttpsRedirect;
pub use relay::{
    ClusterFrom, FLOW_IDLE, HashBy, HashedPayload, Relay, RelayHash, STREAM_IDLE, StickySource,
};
pub use routes::{HostOrRule, RuntimeSection, Shares, VirtualHost};
pub use sockets::{ClusterHttp2, ClusterHttp3, ClusterSocket, Http3Race, Http3When, Keepalive};
pub use subsets::{MetadataEntries, SubsetValues, Subsets};
pub use tls::{
    Certificate, ClientAuth, ClientAuthMode, NameOfCert, Pem, PlainHttp, Tls, TlsVersion,
    UpstreamTls, Verification,
};

section! {
    /// The whole configuration. All files in a folder are read as one: their listeners, clusters, routes, secrets
    /// and access logs add up.
    pub struct Config {
        /// The admin interface, which serves metrics and state.
        pub admin: Option<Admin>,
        /// The listeners: addresses to accept traffic on, and what to do with it.
        pub listeners: Members<Listener>,
        /// Clusters (backends, upstreams) that traffic goes to, by name: `app: 127.0.0.1:9000`.
        pub clusters: Named<Short<Cluster>>,
        /// This process among others of its kind.
        pub node: OwnNode,
        /// HTTP routes, by name: each a list of virtual hosts, or a single rule for any host: `web: { cluster: app }`.
        pub routes: Named<Members<HostOrRule>>,
        /// Secrets that filters use, by name: `session_key: { file: session.key }`. A new text takes effect without new
        /// listeners.
        pub secrets: Named<SecretText>,
        /// Lookup tables, by name: `offices: { entries: { 10.0.0.0/8: inside }, lookup: cidr }`. Whatever looks something up names
        /// one: expressions (`lookup('offices', source.address)`), `set_values`, the connection filters `allow` and `deny`, a relay with
        /// `cluster_from`.
        pub maps: Named<LookupMap>,
        /// A control plane that sends listeners and clusters beside those of the files. If omitted, there is none.
        pub xds: Option<Spanned<ControlPlane>>,
        /// Values that change without a new configuration.
        pub runtime: RuntimeSection,
        /// Access logs: where a record of each ended connection, flow and request is written. If omitted, none are.
        pub access_log: Members<AccessLog>,
        /// How Sluice shuts down gracefully.
        pub drain: Drain,
        /// Limits on buffers, tables and waits, by name; `sluice explain --limits` lists them.
        pub limits: LimitValues,
    }
}

impl Config {
    /// The same configuration with the context-dependent defaults filled in.
    #[must_use]
    pub fn completed(mut self) -> Self {
        for listener in self.listeners.iter_mut() {
            let usual = if listener.is_udp() { FLOW_IDLE } else { STREAM_IDLE };
            let listener = &mut listener.value;
            let mut relays: Vec<&mut Relay> =
                listener.relay.iter_mut().map(|relay| &mut relay.value.0).collect();
            for chain in listener.chains.iter_mut().map(|chain| &mut chain.value) {
                relays.extend(chain.relay.iter_mut().map(|relay| &mut relay.value.0));
                let inner = chain.chains.iter_mut().filter_map(|inner| inner.value.relay.as_mut());
                relays.extend(inner.map(|relay| &mut relay.value.0));
            }
            for relay in relays {
                relay.idle_timeout.get_or_insert(OrNone(Some(usual)));
            }
        }
        self
    }
}

impl Config {
    /// Names listeners without a name of their own after their first address: `127.0.0.1:8080` is `127.0.0.1-8080`.
    pub fn name_listeners(&mut self) {
        for listener in self.listeners.iter_mut().filter(|listener| &*listener.name.value == "-") {
            let first = listener.value.all_addresses().next();
            if let Some((address, span)) = first.map(|first| (first.value.to_string(), first.span))
            {
                let kept = |c: char| c.is_ascii_alphanumeric() || c == '.';
                let parts = address.split(|c| !kept(c)).filter(|part| !part.is_empty());
                let name = parts.collect::<Vec<_>>().join("-");
                listener.value.name = Spanned { value: name.into(), span };
            }
        }
    }
}
