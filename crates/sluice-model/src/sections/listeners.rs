//! Listeners and their filter chains.
//!
//! Owns: addresses, sockets, inspection, and which chain takes a connection. Refuses to know: what serves it then. Keeps:
//! with one chain, its fields may stand on the listener itself.

use std::num::NonZeroU32;
use std::time::Duration;

use sluice_core::settings::{Members, OrNone, Plain, Short, ShortForm, Window, wrong_kind};
use sluice_core::sni_pattern::SniPattern;
use sluice_core::value::WordPattern;
use sluice_core::{
    Cidr, Diags, ListenAddress, Name, Node, Path, Setting, Shape, Spanned, Value, choice, section,
};

use super::{Http, HttpsRedirect, Relay, Tls};

section! {
    /// A listener. With a single chain, the fields of the chain may be set on the listener itself.
    pub struct Listener {
        /// Name in logs and metrics; `-` stands for the first address, with `-` in place of colons.
        pub name: Spanned<Name> = "-",
        /// Address to listen on: 127.0.0.1:5432, "[::1]:443", udp://127.0.0.1:53, unix:///run/x.sock; one or a list.
        pub address: Vec<Spanned<ListenAddress>>,
        /// The same as `address`, for a list under a plural name.
        pub addresses: Vec<Spanned<ListenAddress>>,
        /// Whether connections that a firewall of this host redirects here (`REDIRECT` of iptables, `redirect` of nftables) have
        /// the destination that they had before: for `match`, for clusters with `forward: { by: destination }` and in
        /// records. TCP only.
        pub original_destination: bool = "false",
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
        /// Whether an address may be listened on that this machine does not have yet (`IP_FREEBIND`).
        pub freebind: bool = "false",
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
        /// Server names (SNI): exact, or *.suffix for any name below it. A mesh's service with tags is one, such as
        /// `orders{mesh=default}`.
        pub sni: Vec<SniPattern>,
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
