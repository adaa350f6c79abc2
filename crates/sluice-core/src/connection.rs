//! What is known about a connection, phase by phase.
//!
//! Owns: the record that the phases fill. Refuses to know: sockets, and what inspectors find. Keeps: a fact is written
//! once, by the phase that finds it; counters are written by one task.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::values::ConnValues;
use crate::{Facts, Moment, Name};

/// The remote end of a socket, or the one that a PROXY header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address.
    Ip(SocketAddr),
    /// A unix socket; its peers have no address.
    Unix,
    /// An address that a trusted hop sent but that cannot be read. Matches no address block.
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

/// What the certificate says that a client has proved to own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertFacts {
    /// The subject.
    pub subject: Box<str>,
    /// The URIs among the alternative names, as they are written: SPIFFE IDs, for example.
    pub uris: Box<[Box<str>]>,
    /// The DNS names among the alternative names, in lower case.
    pub names: Box<[Box<str>]>,
    /// The SHA-256 hash of the certificate, in hexadecimal.
    pub sha256: Box<str>,
    /// The certificate itself (DER).
    pub der: Box<[u8]>,
}

/// What TLS termination found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: &'static str,
    /// The ALPN protocol negotiated.
    pub alpn: Option<Box<[u8]>>,
    /// What the client's certificate says, if it sent one.
    pub client: Option<Arc<ClientCertFacts>>,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// Whether data arrived before the handshake was complete, over TCP; [`PathFacts`] says it of QUIC.
    pub early: bool,
}

/// A snapshot of the path of a transport that tracks its own path, as QUIC does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathFacts {
    /// The protocol version.
    pub version: &'static str,
    /// The client's current address.
    pub client: SocketAddr,
    /// The round-trip time.
    pub rtt: Duration,
    /// The maximum packet size in bytes.
    pub mtu: u16,
    /// Packets sent to the client.
    pub packets_sent: u64,
    /// Packets sent that are considered lost.
    pub packets_lost: u64,
    /// The number of validated client migrations.
    pub migrations: u64,
    /// Whether a request arrived before the handshake was complete.
    pub early_data: bool,
}

impl TlsFacts {
    /// The subject of the client's certificate, if it sent one.
    pub fn client_subject(&self) -> Option<&str> {
        self.client.as_deref().map(|client| &*client.subject)
    }
}

/// The path of a connection whose transport tracks it.
pub trait QuicPath: fmt::Debug {
    /// The current state of the path.
    fn facts(&self) -> PathFacts;

    /// Notes that a request arrived before the handshake was complete.
    fn note_early(&self);

    /// Called once, when the connection has ended.
    fn ended(&self) {}
}

/// An attempt to connect to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// Why it failed, with the `errno`, if any; `None` if the endpoint was reached.
    pub failure: Option<(crate::Reason, Option<i32>)>,
    /// What TLS or the codec reported about the failure; of an attempt that succeeded, what was unusual about it.
    pub detail: Option<Box<str>>,
    /// The rule by which the failure led to another attempt, if there is one to name.
    pub retried: Option<&'static str>,
    /// The place of the endpoint in its cluster, unless that has one only.
    pub place: Option<Arc<EndpointPlace>>,
}

/// The place of an endpoint among those of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPlace {
    /// The priority; 0 is the highest.
    pub priority: u32,
    /// The locality as text, if it has one.
    pub locality: Option<Box<str>>,
}

impl Attempt {
    /// An attempt that reached its endpoint.
    pub const fn reached(endpoint: Arc<str>) -> Self {
        Self { endpoint, failure: None, detail: None, retried: None, place: None }
    }

    /// An attempt that failed.
    pub const fn failed(
        endpoint: Arc<str>,
        why: crate::Reason,
        errno: Option<i32>,
        detail: Option<Box<str>>,
    ) -> Self {
        Self { endpoint, failure: Some((why, errno)), detail, retried: None, place: None }
    }

    /// The same attempt, at an endpoint in that place.
    #[must_use]
    pub fn in_place(self, place: Option<Arc<EndpointPlace>>) -> Self {
        Self { place, ..self }
    }

    /// The endpoint and its error as text, for the record's detail.
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
            write!(f, "{} ok", self.endpoint)?;
            if let Some(detail) = &self.detail {
                write!(f, ": {detail}")?;
            }
            return self.show_place(f);
        };
        write!(f, "{} {reason}", self.endpoint)?;
        if let Some(errno) = errno {
            write!(f, " (errno {errno})")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        self.show_place(f)?;
        match self.retried {
            None => Ok(()),
            Some(rule) => write!(f, ", retried by {rule}"),
        }
    }
}

impl Attempt {
    /// Most clusters have one priority and no localities.
    fn show_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(EndpointPlace { priority, locality }) = self.place.as_deref() else {
            return Ok(());
        };
        if *priority > 0 {
            write!(f, ", priority {priority}")?;
        }
        match locality {
            None => Ok(()),
            Some(locality) => write!(f, ", locality {locality}"),
        }
    }
}

/// The destination of a connection as a whole; an HTTP connection has none, its requests do.
#[derive(Debug, Default)]
pub struct Reached {
    /// The cluster that serves it.
    pub cluster: OnceCell<Name>,
    /// Attempts to reach an endpoint, in order.
    pub attempts: RefCell<SmallVec<[Attempt; 1]>>,
    /// Sluice's own address on the connection to the endpoint.
    pub upstream_local: Cell<Option<SocketAddr>>,
    /// The endpoint it is connected to.
    pub endpoint: RefCell<Option<Arc<str>>>,
}

/// What is known about one connection. Belongs to one worker.
#[derive(Debug)]
pub struct ConnInfo {
    /// The ID, unique in the process.
    pub id: u64,
    /// The listener that accepted it.
    pub listener: Name,
    /// The remote end of the socket.
    pub peer: Peer,
    /// The address that the client connected to.
    pub local: Peer,
    /// When it was accepted.
    pub started: Moment,
    /// Whether `local` is where the client wanted to go before a firewall redirected the connection here.
    pub redirected: Cell<bool>,
    /// The source and destination from a trusted PROXY header. Boxed: most connections have none.
    pub proxied: OnceCell<Box<(Peer, Peer)>>,
    /// What inspection found.
    pub facts: OnceCell<Box<Facts>>,
    /// What inspection found inside a terminated stream.
    pub inner_facts: OnceCell<Box<Facts>>,
    /// The selected chain.
    pub chain: OnceCell<Name>,
    /// What TLS termination found.
    pub tls: OnceCell<Box<TlsFacts>>,
    /// The path, where the transport tracks it.
    pub path: OnceCell<Box<dyn QuicPath>>,
    /// Boxed: requests have a destination, HTTP connections do not.
    reached: OnceCell<Box<Reached>>,
    /// Bytes received from the client.
    pub received: Cell<u64>,
    /// Bytes sent to the client.
    pub sent: Cell<u64>,
    /// How the connection ended, for the record: an error of the system or of TLS.
    pub detail: OnceCell<Box<str>>,
    /// What filters share about the connection.
    pub values: ConnValues,
}

impl ConnInfo {
    /// Creates the record of a newly accepted connection.
    pub fn new(id: u64, listener: Name, peer: Peer, local: Peer, started: Moment) -> Self {
        Self {
            id,
            listener,
            peer,
            local,
            started,
            redirected: Cell::new(false),
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
            values: ConnValues::default(),
        }
    }

    /// The destination, created if absent, to be filled in.
    pub fn reach(&self) -> &Reached {
        self.reached.get_or_init(Box::default)
    }

    /// The destination, if there is one.
    pub fn reached(&self) -> Option<&Reached> {
        self.reached.get().map(|reached| &**reached)
    }

    /// The cluster that serves it.
    pub fn cluster(&self) -> Option<&Name> {
        self.reached()?.cluster.get()
    }

    /// The source: the peer, or the source from a trusted PROXY header.
    pub fn source(&self) -> Peer {
        self.proxied.get().map_or(self.peer, |proxied| proxied.0)
    }

    /// The destination: the local address, or the destination from a trusted PROXY header.
    pub fn destination(&self) -> Peer {
        self.proxied.get().map_or(self.local, |proxied| proxied.1)
    }

    /// The destination, if it is not just the address that this process listens on.
    pub fn restored_destination(&self) -> Option<SocketAddr> {
        let restored = self.redirected.get() || self.proxied.get().is_some();
        self.destination().socket().filter(|_| restored)
    }

    /// The facts nearest to the data: those inside TLS if it was terminated and inspected.
    pub fn nearest_facts(&self) -> Option<&Facts> {
        self.inner_facts.get().or_else(|| self.facts.get()).map(|facts| &**facts)
    }

    /// Counts bytes received from the client.
    pub fn add_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// Counts bytes sent to the client.
    pub fn add_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Notes how the connection ended; the first note wins, since the first error is the cause.
    pub fn note(&self, detail: impl fmt::Display) {
        self.detail.get_or_init(|| detail.to_string().into_boxed_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::end;

    #[test]
    fn an_attempt_names_its_end_and_the_place_of_its_endpoint() {
        let reached = || Attempt::reached("a:1".into());
        assert_eq!(reached().to_string(), "a:1 ok");
        let place = |priority, locality: Option<&str>| {
            Some(Arc::new(EndpointPlace { priority, locality: locality.map(Into::into) }))
        };
        assert_eq!(reached().in_place(place(2, None)).to_string(), "a:1 ok, priority 2");
        let near = reached().in_place(place(0, Some("eu/eu-1a")));
        assert_eq!(near.to_string(), "a:1 ok, locality eu/eu-1a");
        let failed = Attempt::failed("a:1".into(), end::IDLE, Some(5), Some("late".into()));
        let failed = Attempt { retried: Some("reset"), ..failed.in_place(place(1, Some("b"))) };
        let expected = "a:1 end.idle (errno 5): late, priority 1, locality b, retried by reset";
        assert_eq!(failed.to_string(), expected);
    }
}
