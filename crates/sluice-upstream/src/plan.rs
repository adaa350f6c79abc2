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
    /// Connections at once, over all workers.
    pub connections_max: Option<u64>,
    /// Connections at once to one endpoint, over all workers.
    pub endpoint_connections_max: Option<u64>,
    /// What happens to connections whose endpoint leaves.
    pub on_endpoint_removed: OnRemoved,
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

/// An active check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPlan {
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
