//! What is known about a connection, phase by phase.
//!
//! Owns: the facts that inspectors find and the record that phases fill. Refuses to know: sockets.
//! Keeps: a fact is written once, by the phase that learns it; counters are written by one task.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::{Moment, Name};

/// What a stream turned out to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TLS, nothing more is known.
    Tls,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// PostgreSQL.
    Postgres,
    /// Redis (RESP).
    Redis,
    /// SSH.
    Ssh,
    /// The client said nothing until the deadline: it waits for the server to speak first.
    Silent,
    /// Bytes came, and no inspector knew them.
    Unknown,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: &[Self] = &[
        Self::Tls,
        Self::Http1,
        Self::Http2,
        Self::Postgres,
        Self::Redis,
        Self::Ssh,
        Self::Silent,
        Self::Unknown,
    ];

    /// The word used in configuration, logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Ssh => "ssh",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
        }
    }
}

/// How the bytes of a connection travel, as a chain matches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportKind {
    /// In clear.
    Plain,
    /// In TLS.
    Tls,
    /// In QUIC, which has TLS inside.
    Quic,
}

impl TransportKind {
    /// The word used in configuration and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }
}

/// The ALPN protocols that a client offers, in its order.
pub type AlpnList = SmallVec<[Box<[u8]>; 0]>;

/// What the first bytes of a stream say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What the stream carries.
    pub protocol: Option<Protocol>,
    /// Whether it is TLS, be it from the first byte or after a STARTTLS.
    pub tls: bool,
    /// Whether it is QUIC; then it is TLS too.
    pub quic: bool,
    /// The server name in the ClientHello, lower case.
    pub sni: Option<Box<str>>,
    /// The ALPN protocols offered.
    pub alpn: AlpnList,
    /// The PostgreSQL user of the startup message.
    pub postgres_user: Option<Box<str>>,
    /// The PostgreSQL database; where none is given it is the user.
    pub postgres_database: Option<Box<str>>,
    /// Whether the stream began with a PostgreSQL SSLRequest that was answered.
    pub starttls: bool,
}

impl Facts {
    /// Just a protocol.
    pub fn of(protocol: Protocol) -> Self {
        Self { protocol: Some(protocol), ..Self::default() }
    }
}

/// The other end of a socket, or of what a PROXY header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address.
    Ip(SocketAddr),
    /// A unix socket; its peers have no address.
    Unix,
    /// Somebody of whom a trusted hop said what cannot be read. Fits no block of addresses.
    Unknown,
}

impl Peer {
    /// The IP address, if there is one.
    pub const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix | Self::Unknown => None,
        }
    }

    /// The socket address, if there is one.
    pub const fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Unix => f.write_str("unix"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// What termination found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: &'static str,
    /// The ALPN protocol agreed on.
    pub alpn: Option<Box<[u8]>>,
    /// Subject of the client's certificate, if it gave one.
    pub client_subject: Option<Box<str>>,
    /// Whether the session was resumed.
    pub resumed: bool,
}

/// What a transport that minds its own path, as QUIC does, knows of it at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathFacts {
    /// The version spoken.
    pub version: &'static str,
    /// Where the client is now.
    pub client: SocketAddr,
    /// The round-trip time.
    pub rtt: Duration,
    /// Bytes that a packet may have.
    pub mtu: u16,
    /// Packets sent to the client.
    pub packets_sent: u64,
    /// Those of them that are held to be lost.
    pub packets_lost: u64,
    /// Times that the client showed to be where it had moved to.
    pub migrations: u64,
    /// Whether a request came before the handshake had ended.
    pub early_data: bool,
}

/// The path of a connection whose transport minds it.
pub trait MindedPath: fmt::Debug {
    /// What is known now.
    fn facts(&self) -> PathFacts;

    /// A request came before the handshake had ended.
    fn note_early(&self);
}

/// An attempt to reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// Why it failed, with the system's word for it; `None` when it was reached.
    pub failure: Option<(crate::Reason, Option<i32>)>,
    /// What TLS or the codec said about the failure.
    pub detail: Option<Box<str>>,
}

impl Attempt {
    /// An attempt that reached its endpoint.
    pub const fn reached(endpoint: Arc<str>) -> Self {
        Self { endpoint, failure: None, detail: None }
    }

    /// An attempt that failed.
    pub const fn failed(
        endpoint: Arc<str>,
        why: crate::Reason,
        errno: Option<i32>,
        detail: Option<Box<str>>,
    ) -> Self {
        Self { endpoint, failure: Some((why, errno)), detail }
    }

    /// The endpoint and what went wrong there in words, for the record's detail.
    pub fn cause(&self) -> Option<Box<str>> {
        let (_, errno) = self.failure?;
        let endpoint = &self.endpoint;
        if let Some(detail) = &self.detail {
            return Some(format!("{endpoint}: {detail}").into());
        }
        let error = std::io::Error::from_raw_os_error(errno?);
        Some(format!("{endpoint}: {error}").into())
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((reason, errno)) = &self.failure else {
            return write!(f, "{} ok", self.endpoint);
        };
        write!(f, "{} {reason}", self.endpoint)?;
        if let Some(errno) = errno {
            write!(f, " (errno {errno})")?;
        }
        match &self.detail {
            None => Ok(()),
            Some(detail) => write!(f, ": {detail}"),
        }
    }
}

/// Where a connection as a whole led; one of HTTP leads nowhere, its requests do.
#[derive(Debug, Default)]
pub struct Reached {
    /// The cluster that serves it.
    pub cluster: OnceCell<Name>,
    /// Attempts to reach an endpoint, in order.
    pub attempts: RefCell<SmallVec<[Attempt; 1]>>,
    /// Sluice's own address towards the endpoint.
    pub upstream_local: Cell<Option<SocketAddr>>,
    /// The endpoint it is connected to.
    pub endpoint: RefCell<Option<Arc<str>>>,
}

/// What is known about one connection. Lives on one worker.
#[derive(Debug)]
pub struct ConnInfo {
    /// Unique in the process.
    pub id: u64,
    /// The listener that accepted it.
    pub listener: Name,
    /// The other end of the socket.
    pub peer: Peer,
    /// The address that was connected to.
    pub local: Peer,
    /// When it was accepted.
    pub started: Moment,
    /// Source and destination that a trusted PROXY header named. Boxed: most connections have none.
    pub proxied: OnceCell<Box<(Peer, Peer)>>,
    /// What inspection found.
    pub facts: OnceCell<Box<Facts>>,
    /// What inspection found inside a terminated stream.
    pub inner_facts: OnceCell<Box<Facts>>,
    /// The chain that was selected.
    pub chain: OnceCell<Name>,
    /// What termination found.
    pub tls: OnceCell<Box<TlsFacts>>,
    /// Its path, where the transport minds it.
    pub path: OnceCell<Box<dyn MindedPath>>,
    /// Boxed: requests lead somewhere, connections of HTTP do not.
    reached: OnceCell<Box<Reached>>,
    /// Bytes from the client.
    pub received: Cell<u64>,
    /// Bytes to the client.
    pub sent: Cell<u64>,
    /// A note on how the end came about, for the record: an error of the system or of TLS.
    pub detail: OnceCell<Box<str>>,
}

impl ConnInfo {
    /// A connection that was just accepted.
    pub fn new(id: u64, listener: Name, peer: Peer, local: Peer, started: Moment) -> Self {
        Self {
            id,
            listener,
            peer,
            local,
            started,
            proxied: OnceCell::new(),
            facts: OnceCell::new(),
            inner_facts: OnceCell::new(),
            chain: OnceCell::new(),
            tls: OnceCell::new(),
            path: OnceCell::new(),
            reached: OnceCell::new(),
            received: Cell::new(0),
            sent: Cell::new(0),
            detail: OnceCell::new(),
        }
    }

    /// Where it led, to be written.
    pub fn reach(&self) -> &Reached {
        self.reached.get_or_init(Box::default)
    }

    /// Where it led, if it did.
    pub fn reached(&self) -> Option<&Reached> {
        self.reached.get().map(|reached| &**reached)
    }

    /// The cluster that serves it.
    pub fn cluster(&self) -> Option<&Name> {
        self.reached()?.cluster.get()
    }

    /// Who it comes from: the peer, or what a trusted PROXY header says.
    pub fn source(&self) -> Peer {
        self.proxied.get().map_or(self.peer, |proxied| proxied.0)
    }

    /// Where it was meant for: the local address, or what a trusted PROXY header says.
    pub fn destination(&self) -> Peer {
        self.proxied.get().map_or(self.local, |proxied| proxied.1)
    }

    /// The facts that are nearest to the data: those inside TLS, where it was opened and looked into.
    pub fn nearest_facts(&self) -> Facts {
        let facts = self.inner_facts.get().or_else(|| self.facts.get());
        facts.map(|facts| Facts::clone(facts)).unwrap_or_default()
    }

    /// Counts bytes from the client.
    pub fn add_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// Counts bytes to the client.
    pub fn add_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Notes how the end came about; the first note stays, since the first error is the cause.
    pub fn note(&self, detail: impl fmt::Display) {
        self.detail.get_or_init(|| detail.to_string().into_boxed_str());
    }
}
