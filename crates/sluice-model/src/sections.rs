//! The sections of a configuration.
//!
//! Owns: every field, its default and its one sentence of documentation. Refuses to know: what
//! fields mean together. Keeps: the order of fields here is the order on the reference page.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use sluice_core::limits::{self, Limits, Unit};
use sluice_core::settings::{
    Empty, FieldShape, Members, Named, OrNone, OrZero, Plain, Short, ShortForm, Status, Window,
    bind_scalar, suggest_word, wrong_kind,
};
use sluice_core::value::{
    Authority, NamePattern, Percent, WordPattern, parse_duration, parse_size, show_duration,
    show_size,
};
use sluice_core::{
    Cidr, Diags, Endpoint, ListenAddress, Name, Node, Path, Setting, Shape, Spanned, Value, choice,
    section,
};
use sluice_upstream::Balance;

pub mod http;
pub mod log_format;
pub mod routes;

pub use http::Http;
pub use log_format::LogFormat;
pub use routes::{RuntimeSection, VirtualHost};

section! {
    /// A whole configuration. Several files in a folder are read as one: their listeners, clusters
    /// and access logs add up.
    pub struct Config {
        /// Where metrics and state can be read.
        pub admin: Option<Admin>,
        /// What listens where.
        pub listeners: Members<Listener>,
        /// Where connections go, by name.
        pub clusters: Named<Cluster>,
        /// Where HTTP requests go, by name: each a list of virtual hosts.
        pub routes: Named<Members<VirtualHost>>,
        /// Values that change without a new configuration.
        pub runtime: RuntimeSection,
        /// Where records of ended connections, flows and requests go; left out, none are written.
        pub access_log: Members<AccessLog>,
        /// What happens when Sluice is told to stop.
        pub drain: Drain,
        /// Bounds on buffers, tables and waits, by name; `sluice explain --limits` lists them.
        pub limits: LimitValues,
    }
}

section! {
    /// The admin pages: read-only, in text and JSON.
    pub struct Admin {
        /// An IP address with a port, or unix:///path. Keep it on loopback: there is no authentication.
        pub address: Spanned<ListenAddress>,
        /// Whether runtime values may be overridden there.
        pub writable: bool = "false",
        /// Names by which the pages may be asked for, beside IP addresses and `localhost`, e.g. `sluice.internal`. Any other is refused, except for `/ready` and `/metrics`, so that no web page reads them through a browser.
        pub hosts: Vec<Spanned<String>>,
    }
}

section! {
    /// What happens when Sluice is told to stop.
    pub struct Drain {
        /// How long open connections may go on after SIGTERM.
        pub timeout: OrZero = "30s",
    }
}

section! {
    /// Something that listens. A listener with one chain may have the chain's fields itself.
    pub struct Listener {
        /// Its name in logs and metrics.
        pub name: Spanned<Name>,
        /// Where it listens: 127.0.0.1:5432, "[::1]:443", udp://127.0.0.1:53, unix:///run/x.sock; one or a list.
        pub address: Vec<Spanned<ListenAddress>>,
        /// The same as `address`, for those who like to read a list under a plural.
        pub addresses: Vec<Spanned<ListenAddress>>,
        /// Whether a PROXY header is taken, and from whom.
        pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
        /// How the first bytes are looked at, where chains ask for it.
        pub inspect: Inspect,
        /// Filters that judge the source before anything is read for a chain, in order.
        pub filters: Vec<FilterUse>,
        /// Short form of one chain: terminate TLS.
        pub tls: Option<Spanned<Tls>>,
        /// Short form of one chain: relay to this cluster.
        pub relay: Option<Spanned<Short<Relay>>>,
        /// Short form of one chain: speak HTTP.
        pub http: Option<Spanned<Short<Http>>>,
        /// The chains; the most specific match wins.
        pub chains: Members<Chain>,
        /// Speak QUIC on the UDP port of the same number: chains that have `tls` and `http` serve HTTP/3 too, and
        /// clients of HTTP/1 and HTTP/2 hear of it (Alt-Svc).
        pub quic: Option<Spanned<Short<Quic>>>,
        /// Socket options.
        pub socket: SocketOptions,
    }
}

section! {
    /// QUIC with clients.
    pub struct Quic {
        /// Whether it is spoken.
        pub enabled: bool = "true",
        /// How long a connection may be silent.
        pub idle_timeout: Duration = "60s",
        /// Handshakes under way on a worker from which on clients must first show that they are where they say
        /// (Retry); 0 asks everybody.
        pub retry_above: u32 = "256",
        /// Requests that a client may have open at once.
        pub streams: NonZeroU32 = "100",
        /// Streams that a client may reset before they were looked at; more is a flood.
        pub resets: u32 = "64",
        /// Bytes of one stream that a client may send ahead.
        pub stream_window: Window = "256KiB",
        /// The same for all streams of a connection together; none leaves each stream its own window. A smaller one
        /// than streams x stream_window lets streams whose endpoint is slow stop the others of the connection.
        pub connection_window: OrNone<Window> = "none",
        /// What decides how fast is sent.
        pub congestion: Congestion = "cubic",
        /// Clients whose sessions each chain remembers so that they may make requests with their first packets (0-RTT), at
        /// most 65536; 0 is off. Chains that ask for client certificates do without.
        pub early_data_sessions: u32 = "0",
        /// A folder in which each connection leaves a trace of its packets (qlog), to find faults with.
        pub qlog: Option<Spanned<String>>,
    }
}

choice! {
    /// What decides how fast QUIC sends.
    pub enum Congestion {
        /// By loss, RFC 9438.
        Cubic = "cubic",
        /// By loss, RFC 9002.
        NewReno = "new_reno",
        /// By measured bandwidth and round-trip time; experimental.
        Bbr = "bbr",
    }
}

impl ShortForm for Quic {
    const KEY: &'static str = "enabled";
}

section! {
    /// Options of listening sockets and the connections accepted from them.
    pub struct SocketOptions {
        /// Connections that may wait to be accepted, per worker.
        pub backlog: NonZeroU32 = "4096",
        /// Whether the kernel probes idle connections.
        pub keepalive: bool = "true",
        /// Clients known by cookie may send data with their SYN; so many wait at most. 0 is off.
        pub fast_open: u32 = "0",
        /// Bytes of datagrams that may wait to be read, per worker; the kernel caps it.
        pub udp_receive_buffer: sluice_core::settings::Size = "2MiB",
    }
}

choice! {
    /// Whether a PROXY header must be there.
    pub enum ProxyAcceptance {
        /// It may be there; whoever sends nothing at first waits out `timeout`.
        Optional = "optional",
        /// A connection without one is refused.
        Required = "required",
    }
}

section! {
    /// Taking a PROXY header, version 1 or 2.
    pub struct ProxyProtocol {
        /// Whether it must be there.
        pub accept: ProxyAcceptance = "required",
        /// Who may send one; a header from elsewhere is refused.
        pub trust: Vec<Spanned<Cidr>>,
        /// How long it is waited for.
        pub timeout: Duration = "5s",
    }
}

choice! {
    /// What happens when the first bytes do not tell in time.
    pub enum OnTimeout {
        /// The chain is chosen with the protocol `silent` or `unknown`.
        Continue = "continue",
        /// The connection is closed.
        Close = "close",
    }
}

section! {
    /// How the first bytes are looked at. Nothing is awaited unless some chain asks for it.
    pub struct Inspect {
        /// How long the first bytes are waited for.
        pub timeout: Duration = "5s",
        /// How many are held at most.
        pub bytes: sluice_core::settings::Size = "16KiB",
        /// What happens when they do not tell in time.
        pub on_timeout: OnTimeout = "continue",
    }
}

section! {
    /// A filter chain: which connections, and what happens to them.
    pub struct Chain {
        /// Its name in logs and metrics; by default its place in the list.
        pub name: Option<Name>,
        /// Which connections it takes; without one it is the default chain.
        pub matches as "match": Option<Spanned<Match>>,
        /// Terminate TLS; left out, bytes stay as they are.
        pub tls: Option<Spanned<Tls>>,
        /// The chain's own filters, in order.
        pub filters: Vec<FilterUse>,
        /// Relay to this cluster.
        pub relay: Option<Spanned<Short<Relay>>>,
        /// Speak HTTP.
        pub http: Option<Spanned<Short<Http>>>,
        /// Chains selected on the clear text behind `tls`; one level only.
        pub chains: Members<InnerChain>,
    }
}

section! {
    /// A chain on the clear text of a terminated stream.
    pub struct InnerChain {
        /// Its name in logs and metrics; by default its place in the list.
        pub name: Option<Name>,
        /// Which streams it takes; without one it is the default chain.
        pub matches as "match": Option<Spanned<Match>>,
        /// The chain's own filters, in order.
        pub filters: Vec<FilterUse>,
        /// Relay to this cluster.
        pub relay: Option<Spanned<Short<Relay>>>,
        /// Speak HTTP.
        pub http: Option<Spanned<Short<Http>>>,
    }
}

choice! {
    /// How bytes travel.
    pub enum TransportMatch {
        /// In clear.
        Plain = "plain",
        /// In TLS.
        Tls = "tls",
        /// In QUIC.
        Quic = "quic",
    }
}

choice! {
    /// What a stream carries.
    pub enum ProtocolMatch {
        /// TLS, whatever is inside.
        Tls = "tls",
        /// HTTP/1.0 or HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2 with prior knowledge.
        Http2 = "http2",
        /// PostgreSQL, in clear, with STARTTLS or with direct TLS.
        Postgres = "postgres",
        /// Redis.
        Redis = "redis",
        /// SSH, where the client speaks first.
        Ssh = "ssh",
        /// The client said nothing within `inspect.timeout`: the server speaks first.
        Silent = "silent",
        /// Bytes came and nobody knew them.
        Unknown = "unknown",
    }
}

section! {
    /// Which connections a chain takes. Every field that is there must fit. Of several chains that
    /// fit, the more specific wins, compared field by field in the order below.
    pub struct Match {
        /// Destination ports.
        pub port: Vec<u16>,
        /// Destination addresses.
        pub destination: Vec<Cidr>,
        /// Server names: exact, or *.suffix for any name below.
        pub sni: Vec<NamePattern>,
        /// In clear or in TLS.
        pub transport: Vec<TransportMatch>,
        /// ALPN protocols, any of which the client offers.
        pub alpn: Vec<String>,
        /// What the stream carries.
        pub protocol: Vec<ProtocolMatch>,
        /// PostgreSQL databases: a name, or a beginning and a star.
        pub database: Vec<WordPattern>,
        /// PostgreSQL users: a name, or a beginning and a star.
        pub user: Vec<WordPattern>,
        /// Source addresses.
        pub source: Vec<Cidr>,
        /// Source ports.
        pub source_port: Vec<u16>,
    }
}

choice! {
    /// A version of TLS.
    pub enum TlsVersion {
        /// TLS 1.2.
        V1_2 = "1.2",
        /// TLS 1.3.
        V1_3 = "1.3",
    }
}

section! {
    /// A certificate and its key, as PEM files. Paths are relative to the configuration file. They
    /// are read again when they change.
    pub struct Certificate {
        /// The chain, the own certificate first.
        pub cert: Spanned<PathBuf>,
        /// The private key.
        pub key: Spanned<PathBuf>,
    }
}

choice! {
    /// Whether a client must show a certificate.
    pub enum ClientAuthMode {
        /// It must.
        Required = "required",
        /// It may; one that does not verify is refused all the same.
        Optional = "optional",
    }
}

section! {
    /// Certificates that clients show. A session is resumed only where the same is asked for: the same
    /// authorities, revocations and mode.
    pub struct ClientAuth {
        /// Authorities that must have signed them.
        pub ca: Spanned<PathBuf>,
        /// Revoked certificates.
        pub crl: Option<Spanned<PathBuf>>,
        /// Whether a client must show one.
        pub mode: ClientAuthMode = "required",
    }
}

section! {
    /// TLS that ends here.
    pub struct Tls {
        /// Certificates, chosen by server name; the first where no name fits.
        pub certificates: Vec<Certificate>,
        /// Certificates that clients show.
        pub client_auth: Option<ClientAuth>,
        /// ALPN protocols in order of preference. Left out, a chain that speaks HTTP agrees on what it
        /// speaks, and others on none.
        pub alpn: Vec<String>,
        /// The oldest version spoken.
        pub min_version: TlsVersion = "1.2",
        /// How long the handshake may take.
        pub handshake_timeout: Duration = "10s",
        /// What a client hears that sends a plain HTTP request to this TLS port.
        pub plain_http: PlainHttp = "close",
    }
}

choice! {
    /// What a client hears that sends a plain HTTP request to a TLS port.
    pub enum PlainHttp {
        /// Nothing: the connection is closed.
        Close = "close",
        /// A response with status 400 that says so.
        Answer = "answer",
        /// A redirect (308) to the same address with `https`.
        Redirect = "redirect",
    }
}

choice! {
    /// What a hash balancer goes by.
    pub enum HashBy {
        /// The address of the source.
        SourceIp = "source_ip",
    }
}

section! {
    /// A relay to a cluster. The short form is the name of the cluster.
    pub struct Relay {
        /// The cluster.
        pub cluster: Spanned<Name>,
        /// What `ring_hash` and `maglev` go by.
        pub hash: Option<HashBy>,
        /// How long no byte may move: 1h for connections and 1m for UDP flows where it is left out.
        pub idle_timeout: Option<OrNone<Duration>>,
        /// The same once one side has finished.
        pub half_close_timeout: OrNone<Duration> = "5m",
        /// How long a connection may last in all.
        pub max_duration: OrNone<Duration> = "none",
        /// UDP: answers that each datagram gets; the flow ends when all have come. Left out, it
        /// ends by idleness.
        pub responses: Option<NonZeroU32>,
    }
}

/// How long a connection may be idle where nothing is said, as Envoy has it.
pub const STREAM_IDLE: Duration = Duration::from_secs(3600);

/// How long a flow may be idle where nothing is said, as Envoy has it.
pub const FLOW_IDLE: Duration = Duration::from_secs(60);

/// A relay to a cluster of which nothing else is said.
pub fn relay_to(cluster: &Spanned<Name>) -> Relay {
    let entry = sluice_core::tree::MapEntry {
        key: "cluster".into(),
        key_span: cluster.span,
        node: Node {
            value: Value::Scalar { text: cluster.value.clone(), quoted: true },
            span: cluster.span,
        },
    };
    let node = Node { value: Value::Map(vec![entry]), span: cluster.span };
    Relay::bind(&node, &Path::ROOT, &mut Diags::new()).expect("a name is all that a relay needs")
}

impl ShortForm for Relay {
    const KEY: &'static str = "cluster";
}

section! {
    /// Where connections go.
    pub struct Cluster {
        /// Who is in: IP addresses, host names (every address they resolve to) or unix:///path, with a port.
        pub endpoints: Vec<Spanned<Short<EndpointEntry>>>,
        /// Who is next.
        pub balance: Balance = "round_robin",
        /// The version of HTTP spoken with endpoints, where a rule leads here.
        pub protocol: ClusterProtocol = "http1",
        /// How connections are used again, where HTTP is spoken.
        pub reuse: Reuse,
        /// How long a connection may take to be made, TLS included.
        pub connect_timeout: Duration = "5s",
        /// Endpoints tried for one connection; nothing of the client's is sent before one is reached.
        pub connect_attempts: NonZeroU32 = "3",
        /// TLS towards the endpoints. Verifies the server.
        pub tls: Option<Spanned<UpstreamTls>>,
        /// Active checks.
        pub health: Option<Health>,
        /// Putting endpoints aside that fail connections; `none` never does.
        pub outlier: OrNone<Outlier>,
        /// Bounds over all workers.
        pub limits: ClusterLimits,
        /// What happens to connections whose endpoint leaves: keep, close or { drain: 30s }.
        pub on_endpoint_removed: OnEndpointRemoved = "keep",
        /// What happens to UDP flows whose endpoint becomes unhealthy or is ejected.
        pub on_endpoint_unhealthy: OnEndpointUnhealthy = "move",
        /// How host names are resolved.
        pub dns: Dns,
        /// The PROXY header that endpoints get first.
        pub send_proxy_protocol: Option<ProxyHeader>,
    }
}

choice! {
    /// What happens to UDP flows whose endpoint becomes unhealthy or is ejected.
    pub enum OnEndpointUnhealthy {
        /// They stay with it until they end.
        Keep = "keep",
        /// The client's next datagram begins a new flow to a healthy endpoint, if there is one. QUIC connections that are
        /// passed through stay with their endpoint once it has answered.
        Move = "move",
    }
}

choice! {
    /// The version of HTTP spoken with endpoints.
    pub enum ClusterProtocol {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2, with prior knowledge where there is no TLS.
        Http2 = "http2",
        /// HTTP/3, over QUIC; `tls` is needed.
        Http3 = "http3",
        /// What TLS agrees on.
        Auto = "auto",
    }
}

section! {
    /// How connections are used again, where HTTP is spoken.
    pub struct Reuse {
        /// How long one may lie idle.
        pub idle_timeout: Duration = "60s",
        /// How old one may grow.
        pub max_age: OrNone<Duration> = "none",
        /// Requests that one may carry.
        pub requests: OrNone<NonZeroU64> = "none",
        /// Streams at once on one connection of HTTP/2.
        pub streams: NonZeroU32 = "100",
        /// Idle connections that a worker keeps to one endpoint.
        pub idle: u32 = "256",
    }
}

section! {
    /// An endpoint. The short form is its address.
    pub struct EndpointEntry {
        /// An IP address or host name with a port, or unix:///path.
        pub address: Spanned<Endpoint>,
        /// Its share.
        pub weight: NonZeroU32 = "1",
    }
}

impl ShortForm for EndpointEntry {
    const KEY: &'static str = "address";
}

choice! {
    /// A version of the PROXY protocol.
    pub enum ProxyHeader {
        /// The text form.
        V1 = "v1",
        /// The binary form.
        V2 = "v2",
    }
}

choice! {
    /// Whether a server must prove who it is.
    pub enum Verification {
        /// It must.
        Full = "full",
        /// Anybody is believed. The connection is open to whoever stands between.
        Nobody = "none",
    }
}

section! {
    /// TLS towards endpoints.
    pub struct UpstreamTls {
        /// The name sent and verified; the endpoint's own name or address where it is left out.
        pub sni: Option<Spanned<String>>,
        /// Authorities that are trusted; the system's where it is left out.
        pub ca: Option<Spanned<PathBuf>>,
        /// Whether the server must prove who it is.
        pub verify: Verification = "full",
        /// The certificate shown when the server asks.
        pub certificate: Option<Certificate>,
        /// ALPN protocols offered; left out, those of `protocol` where the cluster is spoken HTTP with.
        pub alpn: Vec<String>,
        /// The oldest version spoken.
        pub min_version: TlsVersion = "1.2",
    }
}

section! {
    /// Active checks.
    pub struct Health {
        /// Well is whoever accepts a connection.
        pub tcp: Option<Empty>,
        /// Well is whoever answers a request as expected.
        pub http: Option<HttpCheck>,
        /// Well is whose gRPC health service says SERVING.
        pub grpc: Option<GrpcCheck>,
        /// Time between checks of one endpoint; each is moved by up to a tenth at random.
        pub interval: Duration = "5s",
        /// How long one check may take.
        pub timeout: Duration = "2s",
        /// Failures in a row that make an endpoint unhealthy.
        pub unhealthy_after: NonZeroU32 = "3",
        /// Successes in a row that make it healthy again.
        pub healthy_after: NonZeroU32 = "2",
    }
}

section! {
    /// A check by an HTTP request, in the version that the cluster speaks.
    pub struct HttpCheck {
        /// Path and query.
        pub path: String = "/",
        /// The host that is asked for; the endpoint's own name where it is left out.
        pub host: Option<Authority>,
        /// Statuses of those who are well.
        pub expect: Vec<Status>,
    }
}

section! {
    /// A check by the health service of gRPC.
    pub struct GrpcCheck {
        /// The service that is asked for; the server as a whole where it is left out.
        pub service: String = "",
    }
}

section! {
    /// Putting endpoints aside that fail connections or requests.
    pub struct Outlier {
        /// Failures to connect in a row.
        pub connect_failures: NonZeroU32 = "5",
        /// Answers with a status from 500 on, or no answer, in a row.
        pub consecutive_5xx: OrNone<NonZeroU32> = "none",
        /// How long the first time lasts; the n-th lasts n times as long.
        pub ejection: Duration = "30s",
        /// The longest.
        pub ejection_max: Duration = "5m",
        /// The share that may be aside at once; one always may, unless it is the last.
        pub max_ejected: Percent = "50%",
    }
}

section! {
    /// Bounds over all workers.
    pub struct ClusterLimits {
        /// Connections at once.
        pub connections: OrNone<NonZeroU64> = "none",
        /// Connections at once to one endpoint.
        pub connections_per_endpoint: OrNone<NonZeroU64> = "none",
        /// HTTP requests at once.
        pub requests: OrNone<NonZeroU64> = "none",
        /// HTTP requests at once to one endpoint.
        pub requests_per_endpoint: OrNone<NonZeroU64> = "none",
        /// HTTP requests that may wait for a connection, per worker.
        pub pending: u64 = "1024",
        /// Further tries under way at once, per worker; a fifth of the requests under way may be, too.
        pub retries: u64 = "3",
    }
}

section! {
    /// How host names are resolved.
    pub struct Dns {
        /// Time between look-ups; `ttl` goes by the answer, from 1s to 5m.
        pub refresh: Refresh = "ttl",
        /// How long the last good answer is kept while look-ups fail; `none` keeps it for ever, `0s` drops it at once.
        pub serve_stale: OrNone<OrZero> = "none",
        /// Name servers; the system's where it is left out.
        pub servers: Vec<SocketAddr>,
    }
}

choice! {
    /// What a record is about.
    pub enum LogKind {
        /// A TCP or unix connection.
        Connection = "connection",
        /// A UDP flow.
        Flow = "flow",
        /// An HTTP request.
        Request = "request",
    }
}

section! {
    /// A place that records go to.
    pub struct AccessLog {
        /// `stdout`, `stderr`, or the path of a file. SIGUSR1 reopens files.
        pub sink: Spanned<String> = "stdout",
        /// `json`, `text`, a line with %OPERATOR%s, or `{ json: { NAME: "%OPERATOR%" } }`; the operators are listed
        /// at the end of this page.
        pub format: Spanned<LogFormat> = "json",
        /// Which records; all where it is left out.
        pub kinds: Vec<LogKind>,
    }
}

/// Time between look-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// By the time to live of the answer.
    Ttl,
    /// Always so long.
    Every(Duration),
}

impl Setting for Refresh {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "ttl or a duration", |text| match text {
            "ttl" => Ok(Self::Ttl),
            "0" | "0s" => {
                Err("look-ups need some time between them; write `ttl` or at least 1s".into())
            }
            _ => parse_duration(text).map(Self::Every),
        })
    }

    fn shape() -> Shape {
        Shape::Text { what: "ttl or a duration", example: "ttl" }
    }

    fn show(&self) -> Plain {
        Plain::Text(match self {
            Self::Ttl => "ttl".into(),
            Self::Every(duration) => show_duration(*duration),
        })
    }
}

/// What happens to connections whose endpoint leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEndpointRemoved {
    /// They go on.
    Keep,
    /// They end.
    Close,
    /// They may go on for so long.
    Drain(Duration),
}

section! {
    /// Connections may go on for a while.
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
        let words = vec![("keep", "They go on."), ("close", "They end.")];
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
    /// Which filter.
    pub name: Spanned<String>,
    /// Its settings, bound by the filter.
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
                    .error("wrong-kind", entries[1].key_span, at, "one filter per item of the list")
                    .help("begin a new item: a line of its own with `- `");
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

/// Bounds by name.
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
                        format!("`{}` is no limit", entry.key),
                    )
                    .help(help.unwrap_or_else(|| "`sluice explain --limits` lists them".into()));
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
                    let message = format!("`{}` lies from {min} to {max}", def.name);
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
    /// The same configuration with the defaults written out that depend on where they are.
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

impl Listener {
    /// Every address, whichever field it was written in.
    pub fn all_addresses(&self) -> impl Iterator<Item = &Spanned<ListenAddress>> {
        self.address.iter().chain(&self.addresses)
    }

    /// Whether it listens for datagrams.
    pub fn is_udp(&self) -> bool {
        self.all_addresses().any(|address| matches!(address.value, ListenAddress::Udp(_)))
    }

    /// What is configured of QUIC, where it is spoken.
    pub fn quic(&self) -> Option<&Spanned<Short<Quic>>> {
        self.quic.as_ref().filter(|quic| quic.0.enabled)
    }
}
