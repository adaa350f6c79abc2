//! What a configuration says of a cluster: plain values, shared by all workers.

use std::net::SocketAddr;
use std::time::Duration;

use sluice_core::{Endpoint, Name};
use sluice_tls::ClientTls;

use crate::balance::Balance;

/// A cluster as configured.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Its name.
    pub name: Name,
    /// Where it connects to, as written.
    pub endpoints: Vec<EndpointPlan>,
    /// Who is next.
    pub balance: Balance,
    /// How long a connection may take to be made, TLS included.
    pub connect_timeout: Duration,
    /// Endpoints tried for one connection.
    pub connect_attempts: u32,
    /// TLS towards the endpoints.
    pub tls: Option<ClientTls>,
    /// Active checks.
    pub health: Option<HealthPlan>,
    /// Passive ejection; `None` never ejects.
    pub outlier: Option<OutlierPlan>,
    /// The version of HTTP spoken to the endpoints, where a chain speaks HTTP.
    pub protocol: HttpVersion,
    /// How connections are used again.
    pub reuse: ReusePlan,
    /// Requests at once, over all workers.
    pub requests_max: Option<u64>,
    /// Requests at once to one endpoint, over all workers.
    pub endpoint_requests_max: Option<u64>,
    /// Requests that wait for a connection at once, per worker.
    pub pending_max: u64,
    /// Retries under way at once, per worker; a fifth of the requests under way may be retries too.
    pub retries_max: u64,
    /// Connections at once, over all workers.
    pub connections_max: Option<u64>,
    /// Connections at once to one endpoint, over all workers.
    pub endpoint_connections_max: Option<u64>,
    /// What happens to connections whose endpoint leaves.
    pub on_endpoint_removed: OnRemoved,
    /// What happens to UDP flows whose endpoint becomes unhealthy or is ejected.
    pub on_endpoint_unhealthy: OnUnhealthy,
    /// How host names are resolved.
    pub dns: DnsPlan,
    /// The PROXY header sent first.
    pub send_proxy: Option<ProxyVersion>,
}

/// One entry of the endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPlan {
    /// Where.
    pub address: Endpoint,
    /// Its share, from 1.
    pub weight: u32,
}

/// A version of HTTP towards endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3, over QUIC.
    Http3,
    /// What TLS agrees on.
    Auto,
}

/// How connections are used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReusePlan {
    /// How long one may lie idle.
    pub idle_timeout: Duration,
    /// How old one may grow; `None` for ever.
    pub age_max: Option<Duration>,
    /// Requests that one may carry; `None` without end.
    pub requests_max: Option<u64>,
    /// Streams at once on one connection of HTTP/2.
    pub streams_max: usize,
    /// Idle connections that a worker keeps to one endpoint.
    pub idle_max: usize,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Whether a connection is accepted.
    Tcp,
    /// An HTTP request.
    Http {
        /// Path and query.
        path: String,
        /// The host that is asked for; the endpoint's own name where it is left out.
        host: Option<String>,
        /// Statuses of those who are well, as ranges.
        expect: Vec<(u16, u16)>,
    },
    /// The health service of gRPC.
    Grpc {
        /// The service that is asked for; empty for the server as a whole.
        service: String,
    },
}

/// An active check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPlan {
    /// What is asked.
    pub kind: CheckKind,
    /// Time between checks of one endpoint; each is moved by up to a tenth at random.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_after: u32,
}

/// Passive ejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierPlan {
    /// Failures to connect in a row that eject an endpoint.
    pub connect_failures: u32,
    /// Server errors in a row, no answer included, that eject an endpoint; 0 never does.
    pub consecutive_5xx: u32,
    /// How long the first ejection lasts; the n-th lasts n times as long.
    pub ejection: Duration,
    /// The longest ejection.
    pub ejection_max: Duration,
    /// The share of endpoints that may be ejected; one always may, unless it is the last.
    pub max_ejected_percent: u8,
}

/// What happens to connections whose endpoint leaves its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRemoved {
    /// They go on.
    Keep,
    /// They may go on for so long.
    Drain(Duration),
    /// They end.
    Close,
}

/// What happens to UDP flows whose endpoint becomes unhealthy or is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnhealthy {
    /// They stay.
    Keep,
    /// The client's next datagram begins a new flow to another endpoint, if one is healthy.
    Move,
}

/// How host names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsPlan {
    /// Time between look-ups; `None` goes by the time to live of the answer.
    pub refresh: Option<Duration>,
    /// How long the last good answer is kept while look-ups fail; `None` keeps it for ever.
    pub serve_stale: Option<Duration>,
    /// Name servers; empty takes those of the system.
    pub servers: Vec<SocketAddr>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}
