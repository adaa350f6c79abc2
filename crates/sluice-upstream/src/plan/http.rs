//! HTTP to the endpoints of a cluster: its version, and the settings of its connections.
//!
//! Owns: plain values. Refuses to know: how a version is spoken. Keeps: what is not configured has the same defaults in
//! every cluster.

use std::time::Duration;

use crate::endpoint::RacePlan;

/// An HTTP version to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3, over QUIC.
    Http3,
    /// What the TLS handshake negotiates.
    Auto,
    /// That of the request. Requests over HTTP/3 use HTTP/2 unless [`Http3Plan::follows`] is set; what is no request of a
    /// client uses HTTP/1.1, or HTTP/2 for gRPC.
    Same,
}

/// How connections are reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReusePlan {
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// The maximum age of a connection; `None` is unlimited.
    pub age_max: Option<Duration>,
    /// The most requests on a connection; `None` is unlimited.
    pub requests_max: Option<u64>,
    /// The most concurrent streams on an HTTP/2 or HTTP/3 connection.
    pub streams_max: usize,
    /// Idle connections that a worker keeps to one endpoint.
    pub idle_max: usize,
    /// Whether connections are reused after endpoints have joined or left the cluster.
    pub across_changes: bool,
}

/// Connections made ahead of the requests that will need them, on each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PreconnectPlan {
    /// For how many requests an endpoint has connections, in percent of those in flight there; 100 makes none ahead.
    pub per_endpoint: u32,
    /// The same over all endpoints: the endpoints that will be picked next get connections.
    pub predicted: u32,
}

/// HTTP/2 on connections to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Http2Plan {
    /// Bytes of a response that an endpoint may send ahead.
    pub stream_window: u32,
    /// The same for all streams of a connection; `None` leaves each stream its own window.
    pub connection_window: Option<u32>,
    /// The time between pings; `None` sends none.
    pub ping_interval: Option<Duration>,
    /// How long a ping may remain without a response.
    pub ping_timeout: Duration,
}

impl Default for Http2Plan {
    fn default() -> Self {
        Self {
            stream_window: 256 << 10,
            connection_window: None,
            ping_interval: Some(Duration::from_secs(30)),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// HTTP/3 on connections to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Http3Plan {
    /// How long a connection may receive nothing.
    pub idle_timeout: Duration,
    /// The time between pings on an idle connection; `None` sends none.
    pub ping_interval: Option<Duration>,
    /// Bytes of a response that an endpoint may send ahead.
    pub stream_window: u32,
    /// The same for all streams of a connection; `None` leaves each stream its own window.
    pub connection_window: Option<u32>,
    /// The congestion control algorithm.
    pub congestion: Congestion,
    /// Whether requests over HTTP/3 go on over HTTP/3, with [`HttpVersion::Same`].
    pub follows: bool,
    /// Set if HTTP/3 is attempted beside TCP, which [`HttpVersion::Auto`] may do.
    pub race: Option<RacePlan>,
}

impl Default for Http3Plan {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60),
            ping_interval: Some(Duration::from_secs(25)),
            stream_window: 256 << 10,
            connection_window: None,
            congestion: Congestion::Cubic,
            follows: false,
            race: None,
        }
    }
}

/// A congestion control algorithm of QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// RFC 9002 §7.
    NewReno,
    /// By measured bandwidth and round-trip time; the library calls it experimental.
    Bbr,
}
