//! The sections of a configuration.
//!
//! Owns: every field, its default and its documentation. Refuses to know: how fields
//! interact. Keeps: fields are declared in the order of the reference page.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use sluice_core::limits::{self, Limits, Unit};
use sluice_core::settings::{
    FieldShape, Members, Named, OrNone, OrZero, Plain, Short, ShortForm, Window, bind_scalar,
    suggest_word, wrong_kind,
};
use sluice_core::value::{Authority, NamePattern, WordPattern, parse_size, show_size};
use sluice_core::{
    Cidr, Diags, Endpoint, ListenAddress, Name, Node, Path, SecretText, Setting, Shape, Spanned,
    Value, choice, section,
};

pub mod balancing;
pub mod cluster_limits;
pub mod discovery;
pub mod health;
pub mod http;
pub mod log_format;
pub mod redirect;
pub mod routes;
pub mod sockets;
pub mod subsets;

pub use balancing::{
    ApertureSize, Balancer, Failover, LocalityName, LocalityWeights, OwnNode, Priority, SessionTtl,
    SlowStart, ZoneAware,
};
pub use cluster_limits::{ClusterLimits, EndpointLimits, Queue};
pub use discovery::{Dns, Egress, Family, Forward, NameMode, Refresh};
pub use health::{Health, Outlier};
pub use http::Http;
pub use log_format::LogFormat;
pub use redirect::HttpsRedirect;
pub use routes::{HostOrRule, RuntimeSection, Shares, VirtualHost};
pub use sockets::{ClusterHttp2, ClusterSocket, Keepalive};
pub use subsets::{MetadataEntries, SubsetValues, Subsets};

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

section! {
    /// The admin interface: read-only pages in text and JSON.
    pub struct Admin {
        /// An IP address with a port, or unix:///path. Keep it on loopback: there is no authentication.
        pub address: Spanned<ListenAddress>,
        /// Whether it takes changes: runtime values, and operators' actions such as `sluice endpoint`.
        pub writable: bool = "false",
        /// Host names that requests to the admin pages may carry, besides IP addresses and `localhost`, e.g.
        /// `sluice.internal`. Any other host is refused, except for `/ready` and `/metrics`, so that no web page reads
        /// the pages through a browser (DNS rebinding).
        pub hosts: Vec<Spanned<String>>,
    }
}

section! {
    /// Graceful shutdown (connection draining).
    pub struct Drain {
        /// How long open connections may continue after SIGTERM.
        pub timeout: OrZero = "30s",
        /// How long connections are still accepted after SIGTERM, while `/ready` and the filter `health_check` fail already,
        /// so that load balancers in front send no more. `timeout` begins after it.
        pub delay: OrZero = "0s",
    }
}

section! {
    /// A listener. With a single chain, the fields of the chain may be set on the listener itself.
    pub struct Listener {
        /// Name in logs and metrics; `-` stands for the first address, with `-` in place of colons.
        pub name: Spanned<Name> = "-",
        /// Address to listen on: 127.0.0.1:5432, "[::1]:443", udp://127.0.0.1:53, unix:///run/x.sock; one or a list.
        pub address: Vec<Spanned<ListenAddress>>,
        /// The same as `address`, for a list under a plural name.
        pub addresses: Vec<Spanned<ListenAddress>>,
        /// Whether a PROXY protocol header is accepted, and from which senders.
        pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
        /// How the first bytes of a connection are inspected, for chains that match on them.
        pub inspect: Inspect,
        /// Filters that check the source before the first bytes are inspected to select a chain, in order.
        pub filters: Vec<FilterUse>,
        /// Short form of a single chain: terminate TLS.
        pub tls: Option<Spanned<Short<Tls>>>,
        /// Short form of a single chain: relay to this cluster, or to these endpoints.
        pub relay: Option<Spanned<Short<Relay>>>,
        /// Short form of a single chain: serve HTTP.
        pub http: Option<Spanned<Short<Http>>>,
        /// Short form of a single chain that redirects every HTTP request (308) to the same host and path with `https`,
        /// on its default port. The route table is `LISTENER.redirect` in logs, metrics and admin pages.
        pub redirect: Option<Spanned<HttpsRedirect>>,
        /// The filter chains; the most specific match wins.
        pub chains: Members<Chain>,
        /// Accept QUIC on the UDP port of the same number: chains with `tls` and `http` also serve HTTP/3, which is
        /// advertised to HTTP/1 and HTTP/2 clients (Alt-Svc).
        pub quic: Option<Spanned<Short<Quic>>>,
        /// Socket options.
        pub socket: SocketOptions,
    }
}

section! {
    /// QUIC with clients.
    pub struct Quic {
        /// Whether QUIC is accepted.
        pub enabled: bool = "true",
        /// How long a connection may be idle.
        pub idle_timeout: Duration = "60s",
        /// Number of handshakes in flight on a worker above which new clients must first validate their address
        /// (Retry); 0 requires it of every client.
        pub retry_above: u32 = "256",
        /// Maximum number of concurrent requests per connection.
        pub streams: NonZeroU32 = "100",
        /// Number of streams that a client may reset before they are processed; more is treated as a flood.
        pub resets: u32 = "64",
        /// Flow-control window of a stream: bytes that a client may send ahead.
        pub stream_window: Window = "256KiB",
        /// Flow-control window of a connection, for all its streams together; `none` leaves each stream its own window.
        /// With less than streams x stream_window, streams to a slow endpoint can stall the others of the connection.
        pub connection_window: OrNone<Window> = "none",
        /// The congestion control algorithm.
        pub congestion: Congestion = "cubic",
        /// Number of TLS sessions that each chain remembers so that returning clients may send requests with their
        /// first packets (0-RTT, early data), at most 65536; 0 turns it off. Not used by chains that ask for client
        /// certificates.
        pub early_data_sessions: u32 = "0",
        /// An existing folder in which each connection writes a trace of its packets (qlog), for debugging.
        pub qlog: Option<Spanned<String>>,
    }
}

choice! {
    /// The congestion control algorithm of QUIC.
    pub enum Congestion {
        /// CUBIC, loss-based (RFC 9438).
        Cubic = "cubic",
        /// NewReno, loss-based (RFC 9002).
        NewReno = "new_reno",
        /// BBR, by measured bandwidth and round-trip time; experimental.
        Bbr = "bbr",
    }
}

impl ShortForm for Quic {
    const KEY: &'static str = "enabled";
}

section! {
    /// Options of listening sockets and of the connections accepted from them.
    pub struct SocketOptions {
        /// Listen backlog: connections that may wait to be accepted, per worker.
        pub backlog: NonZeroU32 = "4096",
        /// Whether the kernel probes idle connections (TCP keepalive).
        pub keepalive: bool = "true",
        /// Queue length of TCP Fast Open, with which clients that hold a cookie send data in their SYN. 0 turns it off.
        pub fast_open: u32 = "0",
        /// Receive buffer of UDP sockets in bytes, per worker; the kernel caps it.
        pub udp_receive_buffer: sluice_core::settings::Size = "2MiB",
    }
}

choice! {
    /// Whether a PROXY protocol header is required.
    pub enum ProxyAcceptance {
        /// The header may be missing; a client that does not speak first then waits for `timeout`.
        Optional = "optional",
        /// A connection without the header is refused.
        Required = "required",
    }
}

section! {
    /// The PROXY protocol from senders in front, version 1 or 2.
    pub struct ProxyProtocol {
        /// Whether the header is required.
        pub accept: ProxyAcceptance = "required",
        /// Addresses that may send the header; one from any other address is refused.
        pub trust: Vec<Spanned<Cidr>>,
        /// How long to wait for the header.
        pub timeout: Duration = "5s",
    }
}

choice! {
    /// What to do when the first bytes do not identify the protocol.
    pub enum OnTimeout {
        /// Select a chain with the protocol `silent` or `unknown`.
        Continue = "continue",
        /// Close the connection.
        Close = "close",
    }
}

section! {
    /// Inspection of the first bytes of a connection. Sluice waits for them only if a chain matches on them.
    pub struct Inspect {
        /// How long to wait for the first bytes.
        pub timeout: Duration = "5s",
        /// Maximum number of bytes held for inspection, at most `limits.inspect_bytes`.
        pub bytes: sluice_core::settings::Size = "16KiB",
        /// What to do when the first bytes do not identify the protocol within `timeout` and `bytes`.
        pub on_timeout: OnTimeout = "continue",
    }
}

section! {
    /// A filter chain: which connections it takes, and what happens to them.
    pub struct Chain {
        /// Name in logs and metrics; if omitted, `default` without a `match`, otherwise `chain` with its index in the
        /// list.
        pub name: Option<Name>,
        /// Which connections the chain takes; without `match` it is the default chain.
        pub matches as "match": Option<Spanned<Match>>,
        /// Terminate TLS; if omitted, bytes are passed through unchanged.
        pub tls: Option<Spanned<Short<Tls>>>,
        /// Filters of this chain, in order.
        pub filters: Vec<FilterUse>,
        /// Relay to this cluster, or to these endpoints.
        pub relay: Option<Spanned<Short<Relay>>>,
        /// Serve HTTP.
        pub http: Option<Spanned<Short<Http>>>,
        /// Chains selected by the decrypted stream after `tls` has been terminated; one level only.
        pub chains: Members<InnerChain>,
    }
}

section! {
    /// A chain for the decrypted stream after TLS termination.
    pub struct InnerChain {
        /// Name in logs and metrics; if omitted, `default` without a `match`, otherwise `chain` with its index in the
        /// list.
        pub name: Option<Name>,
        /// Which streams the chain takes; without `match` it is the default chain.
        pub matches as "match": Option<Spanned<Match>>,
        /// Filters of this chain, in order.
        pub filters: Vec<FilterUse>,
        /// Relay to this cluster, or to these endpoints.
        pub relay: Option<Spanned<Short<Relay>>>,
        /// Serve HTTP.
        pub http: Option<Spanned<Short<Http>>>,
    }
}

choice! {
    /// The transport of a connection.
    pub enum TransportMatch {
        /// Plaintext.
        Plain = "plain",
        /// TLS.
        Tls = "tls",
        /// QUIC.
        Quic = "quic",
    }
}

choice! {
    /// The protocol of a stream.
    pub enum ProtocolMatch {
        /// TLS, whatever it carries.
        Tls = "tls",
        /// HTTP/1.0 or HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2 with prior knowledge.
        Http2 = "http2",
        /// PostgreSQL: plaintext, STARTTLS or direct TLS.
        Postgres = "postgres",
        /// Redis.
        Redis = "redis",
        /// SSH, where the client speaks first.
        Ssh = "ssh",
        /// The client sent nothing within `inspect.timeout`: the server speaks first.
        Silent = "silent",
        /// The bytes received match no known protocol.
        Unknown = "unknown",
    }
}

section! {
    /// Which connections a chain takes. All given fields must match. If several chains match, the most specific wins:
    /// they are compared field by field in the order below.
    pub struct Match {
        /// Destination ports.
        pub port: Vec<u16>,
        /// Destination addresses.
        pub destination: Vec<Cidr>,
        /// Server names (SNI): exact, or *.suffix for any name below it.
        pub sni: Vec<NamePattern>,
        /// Plaintext, TLS or QUIC.
        pub transport: Vec<TransportMatch>,
        /// ALPN protocols; the client offers at least one of them.
        pub alpn: Vec<String>,
        /// The protocol of the stream.
        pub protocol: Vec<ProtocolMatch>,
        /// PostgreSQL databases: a name, or a prefix and a star.
        pub database: Vec<WordPattern>,
        /// PostgreSQL users: a name, or a prefix and a star.
        pub user: Vec<WordPattern>,
        /// Source addresses.
        pub source: Vec<Cidr>,
        /// Source ports.
        pub source_port: Vec<u16>,
    }
}

choice! {
    /// A TLS version.
    pub enum TlsVersion {
        /// TLS 1.2.
        V1_2 = "1.2",
        /// TLS 1.3.
        V1_3 = "1.3",
    }
}

section! {
    /// A certificate and its private key, as PEM files. Paths are relative to the configuration file. The files are
    /// reloaded when they change. The short form is `cert`.
    pub struct Certificate {
        /// The certificate chain, leaf certificate first.
        pub cert: Spanned<PathBuf>,
        /// The private key; if omitted, the file of the same name with the ending `.key`, or else `cert` itself.
        pub key: Option<Spanned<PathBuf>>,
    }
}

choice! {
    /// Whether a client must present a certificate.
    pub enum ClientAuthMode {
        /// A client without a certificate is refused.
        Required = "required",
        /// A client may omit it; a certificate that does not verify is refused all the same.
        Optional = "optional",
    }
}

section! {
    /// Client certificates (mutual TLS, mTLS). A session is resumed only where the same authorities, revocation list
    /// and mode apply.
    pub struct ClientAuth {
        /// Certificate authorities that must have signed the client certificates.
        pub ca: Spanned<PathBuf>,
        /// Certificate revocation list (CRL).
        pub crl: Option<Spanned<PathBuf>>,
        /// Whether a client must present a certificate.
        pub mode: ClientAuthMode = "required",
    }
}

section! {
    /// TLS termination. The short form is its certificates: one or a list.
    pub struct Tls {
        /// Certificates, selected by server name (SNI); the first is used if no name matches.
        pub certificates: Vec<Short<Certificate>>,
        /// Verification of client certificates (mutual TLS).
        pub client_auth: Option<ClientAuth>,
        /// ALPN protocols in order of preference. If omitted, a chain that serves HTTP negotiates the versions it
        /// serves, and other chains negotiate none.
        pub alpn: Vec<String>,
        /// The oldest TLS version accepted.
        pub min_version: TlsVersion = "1.2",
        /// How long the TLS handshake may take.
        pub handshake_timeout: Duration = "10s",
        /// How to respond to a client that sends a plain HTTP request to this TLS port.
        pub plain_http: PlainHttp = "close",
    }
}

choice! {
    /// How to respond to a client that sends a plain HTTP request to a TLS port.
    pub enum PlainHttp {
        /// Close the connection without a response.
        Close = "close",
        /// Respond with status 400 and a text that explains the error.
        Answer = "answer",
        /// Redirect (308) to the same address with `https`; 400 if the request has no usable host.
        Redirect = "redirect",
    }
}

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
        /// How long a connection may last in total.
        pub max_duration: OrNone<Duration> = "none",
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

section! {
    /// A cluster: a group of endpoints (servers) that share load, with health checks and limits. The short form is its
    /// endpoints: one or a list.
    pub struct Cluster {
        /// The endpoints: IP addresses or host names with a port, unix:///path, or srv://_SERVICE._tcp.DOMAIN for the
        /// targets of SRV records.
        pub endpoints: Vec<Spanned<Short<EndpointEntry>>>,
        /// In place of `endpoints`: a file that contains them as a list, in YAML or JSON. New content takes effect when
        /// it is complete and correct; until then the last good content stays.
        pub endpoints_file: Option<Spanned<PathBuf>>,
        /// In place of `endpoints`: a forward proxy, whose endpoints are the hosts that clients name: by the server name of
        /// TLS on a relay, by host on a rule. The egress policy is always on. `true` serves all hosts on the usual port.
        pub forward: Option<Spanned<Forward>>,
        /// The cluster that serves while this one has no usable endpoint, with its own limits, protocol and TLS. A limit that
        /// is reached does not lead there, nor do requests of filters. At most 4 clusters one after the other.
        pub fallback: Option<Spanned<Name>>,
        /// The load balancing algorithm: a word, or a map of it with its settings.
        pub balance: Balancer = "round_robin",
        /// Failover between the priorities of endpoints, and panic mode.
        pub failover: Failover,
        /// Weights of localities, by name: each locality gets traffic by its weight, less what its usable endpoints cannot
        /// serve. If omitted, localities are not told apart.
        pub localities: LocalityWeights,
        /// Zone-aware routing: endpoints in the zone of this process are preferred; needs `node`. `round_robin`,
        /// `random`, `least_request` and `peak_ewma` only.
        pub zone_aware: Option<Spanned<Short<ZoneAware>>>,
        /// Aperture (random subsetting): this process uses only so many endpoints of each priority, others use others. For
        /// large clusters with many processes in front. Not with `localities`, `zone_aware` or a balancer that goes by a
        /// hash.
        pub aperture: Option<Spanned<ApertureSize>>,
        /// Slow start of endpoints that join or recover; not with a balancer that goes by a hash.
        pub slow_start: Option<Spanned<Short<SlowStart>>>,
        /// Subsets of the endpoints by their metadata, such as versions. If omitted, endpoints are not told apart.
        pub subsets: Option<Spanned<Short<Subsets>>>,
        /// The HTTP version spoken to endpoints, if a rule routes to this cluster.
        pub protocol: ClusterProtocol = "http1",
        /// Connection pool: how HTTP connections to endpoints are reused.
        pub reuse: Reuse,
        /// HTTP/2: flow-control windows and pings.
        pub http2: Option<Spanned<ClusterHttp2>>,
        /// How long establishing a connection may take, TLS handshake included.
        pub connect_timeout: Duration = "5s",
        /// Number of endpoints tried for one connection (failover); no client data is sent before one is connected.
        pub connect_attempts: NonZeroU32 = "3",
        /// Relayed connections: random waits before further endpoints are tried. If omitted, they are tried at once.
        pub connect_backoff: Option<Spanned<ConnectBackoff>>,
        /// TLS to endpoints. Verifies the server.
        pub tls: Option<Spanned<UpstreamTls>>,
        /// Active health checks.
        pub health: Option<Health>,
        /// Outlier ejection: endpoints that fail connections or requests are removed for a while; `none` turns it off.
        pub outlier: OrNone<Outlier>,
        /// Circuit breaker: limits on connections and requests.
        pub limits: ClusterLimits,
        /// What happens to connections whose endpoint is removed from the cluster: keep, close or { drain: 30s }.
        pub on_endpoint_removed: OnEndpointRemoved = "keep",
        /// What happens to connections and UDP flows whose endpoint becomes unhealthy or is ejected.
        pub on_endpoint_unhealthy: OnEndpointUnhealthy = "move",
        /// DNS: how names are resolved.
        pub dns: Dns,
        /// Which addresses of names may be used: with `true`, those of the public internet. If omitted, all; with
        /// `forward`, those of the public internet.
        pub egress: Option<Spanned<Egress>>,
        /// The PROXY protocol header to send first on connections to endpoints.
        pub send_proxy_protocol: Option<ProxyHeader>,
        /// Sockets to endpoints: TCP keepalive, time-out of unacknowledged data, DSCP, source address.
        pub socket: Option<Spanned<ClusterSocket>>,
    }
}

section! {
    /// Waits between the attempts to connect to endpoints (exponential backoff).
    pub struct ConnectBackoff {
        /// Upper bound of the first wait; the n-th wait is random, up to 2^n - 1 times as long.
        pub base: Duration = "25ms",
        /// Maximum wait, at most 10s.
        pub max: Duration = "250ms",
    }
}

choice! {
    /// What happens to connections and UDP flows whose endpoint becomes unhealthy or is ejected.
    pub enum OnEndpointUnhealthy {
        /// They stay with the endpoint until they end.
        Keep = "keep",
        /// Connections stay. A UDP flow is replaced when its client sends the next datagram, by one to a healthy
        /// endpoint, if there is one. QUIC connections that are passed through stay with their endpoint once it has
        /// responded.
        Move = "move",
        /// They are closed: relayed connections, UDP flows, and HTTP requests in flight.
        Close = "close",
    }
}

choice! {
    /// The HTTP version spoken to endpoints.
    pub enum ClusterProtocol {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2; with prior knowledge if there is no `tls`.
        Http2 = "http2",
        /// HTTP/3, over QUIC; requires `tls`.
        Http3 = "http3",
        /// The version negotiated in the TLS handshake (ALPN).
        Auto = "auto",
    }
}

section! {
    /// Connection pool: how HTTP connections to endpoints are reused.
    pub struct Reuse {
        /// How long a pooled connection may be idle.
        pub idle_timeout: Duration = "60s",
        /// Maximum age of a connection.
        pub max_age: OrNone<Duration> = "none",
        /// Maximum number of requests per connection.
        pub requests: OrNone<NonZeroU64> = "none",
        /// Maximum number of concurrent streams per HTTP/2 or HTTP/3 connection.
        pub streams: NonZeroU32 = "100",
        /// Maximum number of idle connections to one endpoint, per worker.
        pub idle: u32 = "256",
    }
}

section! {
    /// An endpoint. The short form is its address.
    pub struct EndpointEntry {
        /// An IP address or host name with a port, unix:///path, or srv://_SERVICE._tcp.DOMAIN.
        pub address: Spanned<Endpoint>,
        /// Load balancing weight.
        pub weight: NonZeroU32 = "1",
        /// Whether it is a backup, which gets traffic when the others are unusable: the same as `priority: 1`.
        pub backup: bool = "false",
        /// The priority; 0 is the highest. A lower one gets traffic as `failover` says.
        pub priority: Priority = "0",
        /// Where it is: a zone, region/zone or region/zone/sub-zone.
        pub locality: Option<Spanned<LocalityName>>,
        /// Its own limits.
        pub limits: Option<Spanned<EndpointLimits>>,
        /// What it is told apart by, for `subsets` of the cluster: a value for each key, or several in a list, of which
        /// each counts.
        pub metadata: Option<Spanned<MetadataEntries>>,
        /// What differs in its health checks from those of the cluster (`health`).
        pub check: Option<Spanned<CheckOf>>,
    }
}

section! {
    /// What differs in the health checks of one endpoint from those of its cluster. What is omitted is as in `health`.
    pub struct CheckOf {
        /// The port that is checked.
        pub port: Option<NonZeroU16>,
        /// The IP address that is checked.
        pub address: Option<IpAddr>,
        /// The host to request, for checks by `http` and `grpc`.
        pub host: Option<Authority>,
    }
}

impl ShortForm for EndpointEntry {
    const KEY: &'static str = "address";
}

choice! {
    /// A version of the PROXY protocol.
    pub enum ProxyHeader {
        /// Version 1, the text format.
        V1 = "v1",
        /// Version 2, the binary format.
        V2 = "v2",
    }
}

choice! {
    /// Whether the certificate of a server is verified.
    pub enum Verification {
        /// The certificate must be valid and match the name.
        Full = "full",
        /// Any certificate is accepted. The connection is open to man-in-the-middle attacks.
        Unverified = "none",
    }
}

section! {
    /// TLS to endpoints.
    pub struct UpstreamTls {
        /// The server name sent (SNI) and verified; if omitted, the endpoint's own name or address.
        pub sni: Option<Spanned<String>>,
        /// Trusted certificate authorities; if omitted, those of the system.
        pub ca: Option<Spanned<PathBuf>>,
        /// Whether the server certificate is verified.
        pub verify: Verification = "full",
        /// The client certificate presented when the server requests one (mutual TLS).
        pub certificate: Option<Short<Certificate>>,
        /// ALPN protocols offered; if omitted, those of `protocol` if the cluster is used for HTTP.
        pub alpn: Vec<String>,
        /// The oldest TLS version accepted.
        pub min_version: TlsVersion = "1.2",
    }
}

choice! {
    /// The kind of an access log record.
    pub enum LogKind {
        /// A TCP or unix socket connection.
        Connection = "connection",
        /// A UDP flow.
        Flow = "flow",
        /// An HTTP request.
        Request = "request",
    }
}

section! {
    /// An access log.
    pub struct AccessLog {
        /// `stdout`, `stderr`, or the path of a file. SIGUSR1 reopens files.
        pub sink: Spanned<String> = "stdout",
        /// `json`, `text`, a line with %OPERATOR%s, or `{ json: { NAME: "%OPERATOR%" } }`; the operators are listed at
        /// the end of this page.
        pub format: Spanned<LogFormat> = "json",
        /// The kinds of records to write; if omitted, all.
        pub kinds: Vec<LogKind>,
    }
}

/// What happens to connections whose endpoint is removed from the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEndpointRemoved {
    /// They continue.
    Keep,
    /// They are closed.
    Close,
    /// They may continue for this long.
    Drain(Duration),
}

section! {
    /// Connections may continue for a while.
    pub struct DrainFor {
        /// For how long.
        pub drain: OrZero,
    }
}

impl Setting for OnEndpointRemoved {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            return DrainFor::bind(node, at, diags).map(|long| Self::Drain(long.drain.0));
        }
        bind_scalar(node, at, diags, "keep, close or { drain: 30s }", |text| match text {
            "keep" => Ok(Self::Keep),
            "close" => Ok(Self::Close),
            _ => Err(format!("expected keep, close or {{ drain: 30s }}, not `{text}`")),
        })
    }

    fn shape() -> Shape {
        let words = vec![("keep", "They continue."), ("close", "They are closed.")];
        Shape::Either(vec![Shape::Choice(words), DrainFor::shape()])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Keep => Plain::Text("keep".into()),
            Self::Close => Plain::Text("close".into()),
            Self::Drain(drain) => DrainFor { drain: OrZero(*drain) }.show(),
        }
    }
}

/// One use of a filter: `- deny: [192.0.2.0/24]`.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterUse {
    /// The name of the filter.
    pub name: Spanned<String>,
    /// Its settings, parsed by the filter.
    pub settings: Node,
}

impl Setting for FilterUse {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        match &node.value {
            Value::Map(entries) if entries.len() == 1 => Some(Self {
                name: Spanned { value: entries[0].key.to_string(), span: entries[0].key_span },
                settings: entries[0].node.clone(),
            }),
            Value::Map(entries) if entries.len() > 1 => {
                diags
                    .error(
                        "wrong-kind",
                        entries[1].key_span,
                        at,
                        "a list item takes only one filter",
                    )
                    .help("begin a new item on its own line with `- `");
                None
            }
            _ => {
                wrong_kind(node, at, diags, "a filter by name, such as `- deny: [192.0.2.0/24]`");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Any
    }

    fn show(&self) -> Plain {
        Plain::Map(vec![(self.name.value.clone(), self.settings.show())])
    }
}

/// Limits by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitValues(pub Limits);

impl Setting for LimitValues {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            _ => {
                wrong_kind(node, at, diags, "a map of limits");
                return None;
            }
        };
        let names: Vec<&str> = limits::TABLE.iter().map(|row| row.name).collect();
        let mut values = Some(Limits::default());
        for entry in entries {
            let here = at.key(&entry.key);
            let row = limits::Limit::ALL.iter().find(|limit| limit.def().name == &*entry.key);
            let Some(limit) = row else {
                let help = suggest_word(&entry.key, &names);
                diags
                    .error(
                        "unknown-field",
                        entry.key_span,
                        here,
                        format!("unknown limit `{}`", entry.key),
                    )
                    .help(
                        help.unwrap_or_else(|| "`sluice explain --limits` lists the limits".into()),
                    );
                values = None;
                continue;
            };
            let def = limit.def();
            let parse = |text: &str| match def.unit {
                Unit::Bytes => parse_size(text),
                Unit::Count => {
                    text.parse().map_err(|_| format!("expected a whole number, not `{text}`"))
                }
            };
            let bound = bind_scalar(&entry.node, &here, diags, "a number", parse);
            let set = bound.and_then(|value| match values.as_mut()?.set(*limit, value) {
                Ok(()) => Some(()),
                Err((min, max)) => {
                    let message = format!("`{}` must be from {min} to {max}", def.name);
                    diags.error("bad-value", entry.node.span, here, message);
                    None
                }
            });
            if set.is_none() {
                values = None;
            }
        }
        values.map(Self)
    }

    fn shape() -> Shape {
        let field = |row: &'static limits::LimitDef| FieldShape {
            key: row.name,
            doc: row.help.to_owned(),
            required: false,
            default: None,
            shape: match row.unit {
                Unit::Bytes => sluice_core::settings::Size::shape(),
                Unit::Count => u64::shape(),
            },
        };
        Shape::Fields(limits::TABLE.iter().map(field).collect())
    }

    fn show(&self) -> Plain {
        let shown = limits::Limit::ALL.iter().map(|limit| {
            let value = self.0.get(*limit);
            let value = match limit.def().unit {
                Unit::Bytes => Plain::Text(show_size(value)),
                Unit::Count => Plain::Number(value),
            };
            (limit.def().name.to_owned(), value)
        });
        Plain::Map(shown.collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
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

impl ShortForm for Tls {
    const KEY: &'static str = "certificates";
    const NOT_A_SWITCH: Option<&'static str> = Some(
        "to terminate TLS, name a certificate: `tls: site.pem`; to pass TLS through, leave the field out",
    );
}

impl ShortForm for Certificate {
    const KEY: &'static str = "cert";
}

impl ShortForm for Cluster {
    const KEY: &'static str = "endpoints";
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

impl Listener {
    /// Every address, from `address` and `addresses`.
    pub fn all_addresses(&self) -> impl Iterator<Item = &Spanned<ListenAddress>> {
        self.address.iter().chain(&self.addresses)
    }

    /// Whether it listens for datagrams.
    pub fn is_udp(&self) -> bool {
        self.all_addresses().any(|address| matches!(address.value, ListenAddress::Udp(_)))
    }

    /// The QUIC settings, if QUIC is enabled.
    pub fn quic(&self) -> Option<&Spanned<Short<Quic>>> {
        self.quic.as_ref().filter(|quic| quic.0.enabled)
    }
}
