//! The configuration of a cluster: plain values, shared by all workers.
//!
//! Owns: what is configured of a cluster, apart from its endpoints. Refuses to know: where it was configured.
//! Keeps: settings that are equal can be one allocation, so that a cluster costs what sets it apart.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sluice_core::{Endpoint, Name};
use sluice_tls::ClientTls;

use crate::balance::BalancingPlan;
use crate::egress::{EgressDenial, EgressPolicy};
use crate::endpoint::{EndpointState, EndpointTraits, LoadKind};
use crate::forward::ForwardPlan;
use crate::hops;

mod checks;
mod drops;
mod http;
mod outlier;

pub use checks::{
    CheckKind, DnsCheck, HealthPlan, HttpCheck, Login, MysqlCheck, Password, PostgresCheck,
    RedisCheck, SendExpect, ServerRole, StatusRanges,
};
pub use drops::{DROP_CATEGORIES_MAX, DropPlan};
pub use http::{Congestion, Http2Plan, Http3Plan, HttpVersion, PreconnectPlan, ReusePlan};
pub use outlier::{
    EnforcePlan, FailurePercentagePlan, LatencyPlan, OutlierPlan, SilencePlan, SuccessRatePlan,
};

/// A cluster as configured, apart from its endpoints.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// The cluster's name.
    pub name: Name,
    /// Its settings; clusters with equal ones may share them.
    pub settings: Arc<ClusterSettings>,
    /// TLS to the endpoints.
    pub tls: Option<ClientTls>,
}

impl ClusterPlan {
    /// Judges an address of `endpoint` that is about to be connected to. What the configuration lists by address is
    /// allowed.
    ///
    /// # Errors
    /// Why the egress policy denies it.
    pub fn admit(&self, endpoint: &EndpointState, to: SocketAddr) -> Result<(), EgressDenial> {
        match &self.egress {
            Some(policy) if endpoint.is_resolved() => policy.judge(to, hops::is_ours),
            _ => Ok(()),
        }
    }

    /// The same for the address on a port that the endpoint has named: the configuration lists it only if the port is the
    /// endpoint's own.
    ///
    /// # Errors
    /// Why the egress policy denies it.
    pub fn admit_advertised(
        &self,
        endpoint: &EndpointState,
        to: SocketAddr,
    ) -> Result<(), EgressDenial> {
        match &self.egress {
            Some(policy) if !endpoint.is_at(to) => policy.judge(to, hops::is_ours),
            _ => self.admit(endpoint, to),
        }
    }
}

impl Deref for ClusterPlan {
    type Target = ClusterSettings;

    fn deref(&self) -> &ClusterSettings {
        &self.settings
    }
}

/// The settings of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterSettings {
    /// How endpoints are chosen.
    pub balancing: BalancingPlan,
    /// The timeout for making a connection, TLS included.
    pub connect_timeout: Duration,
    /// The cluster that serves while no endpoint of this one is usable.
    pub fallback: Vec<Name>,
    /// Endpoints attempted for one connection.
    pub connect_attempts: u32,
    /// Waits before further endpoints are attempted for a relayed connection; `None` does not wait.
    pub connect_backoff: Option<ConnectBackoffPlan>,
    /// Active checks.
    pub health: Option<HealthPlan>,
    /// Passive ejection; `None` never ejects.
    pub outlier: Option<OutlierPlan>,
    /// The HTTP version to the endpoints, if a chain speaks HTTP.
    pub protocol: HttpVersion,
    /// How long a stream to an endpoint may last, from the request headers to the end of the response; `None` is
    /// unlimited.
    pub stream_duration_max: Option<Duration>,
    /// How connections are reused.
    pub reuse: ReusePlan,
    /// Connections made ahead of requests; `None` makes none.
    pub preconnect: Option<PreconnectPlan>,
    /// HTTP/2 on connections to endpoints.
    pub http2: Http2Plan,
    /// HTTP/3 on connections to endpoints.
    pub http3: Http3Plan,
    /// Concurrent requests, over all workers.
    pub requests_max: Option<u64>,
    /// Concurrent requests to one endpoint, over all workers.
    pub endpoint_requests_max: Option<u64>,
    /// Requests that may wait for a connection at once, per worker.
    pub pending_max: u64,
    /// Concurrent retries, per worker; or `retry_percent` of the requests in flight, if that is more.
    pub retries_max: u64,
    /// The share of the requests in flight that may be retries.
    pub retry_percent: u8,
    /// Concurrent connections, over all workers.
    pub connections_max: Option<u64>,
    /// Concurrent connections to one endpoint, over all workers.
    pub endpoint_connections_max: Option<u64>,
    /// Where connections and requests wait that exceed these limits; `None` refuses them.
    pub queue: Option<QueuePlan>,
    /// The limits of requests with high priority, which are counted apart.
    pub high: HighLimits,
    /// What happens to connections whose endpoint leaves.
    pub on_endpoint_removed: OnRemoved,
    /// What happens to connections and flows whose endpoint becomes unhealthy or is ejected.
    pub on_endpoint_unhealthy: OnUnhealthy,
    /// How names are resolved.
    pub dns: DnsPlan,
    /// Set if the endpoints are hosts that clients name.
    pub forward: Option<ForwardPlan>,
    /// Which addresses of names may be used; `None` allows all.
    pub egress: Option<EgressPolicy>,
    /// The version of the PROXY header that is sent first.
    pub send_proxy: Option<ProxyVersion>,
    /// Options of the sockets to endpoints; `None` leaves them as they are.
    pub socket: Option<SocketPlan>,
    /// What part of the traffic is dropped, in order.
    pub drops: Vec<DropPlan>,
    /// The metrics of endpoints that reports of load contain.
    pub report_metrics: Vec<Arc<str>>,
}

impl ClusterSettings {
    /// Whether connections and checks that were begun under these settings may go on under `other`.
    pub fn is_as_good_as(&self, other: &Self) -> bool {
        let drops = self.drops.clone();
        let report_metrics = self.report_metrics.clone();
        self == other || *self == Self { drops, report_metrics, ..other.clone() }
    }

    /// The limit of `load` over all endpoints, for `class`.
    pub const fn limit_of(&self, load: LoadKind, class: BreakerClass) -> Option<u64> {
        match (class, load) {
            (BreakerClass::Default, LoadKind::Connection) => self.connections_max,
            (BreakerClass::Default, LoadKind::Request) => self.requests_max,
            (BreakerClass::High, LoadKind::Connection) => self.high.connections_max,
            (BreakerClass::High, LoadKind::Request) => self.high.requests_max,
        }
    }

    /// The most requests of `class` that wait for a connection, per worker.
    pub const fn pending_of(&self, class: BreakerClass) -> u64 {
        match class {
            BreakerClass::Default => self.pending_max,
            BreakerClass::High => self.high.pending_max,
        }
    }

    /// The most concurrent retries of `class`, per worker, and the percentage of its requests that may be more.
    pub const fn retries_of(&self, class: BreakerClass) -> (u64, u8) {
        match class {
            BreakerClass::Default => (self.retries_max, self.retry_percent),
            BreakerClass::High => (self.high.retries_max, self.high.retry_percent),
        }
    }

    /// The limit of `load` at each endpoint that has none of its own.
    pub const fn endpoint_limit_of(&self, load: LoadKind) -> Option<u64> {
        match load {
            LoadKind::Connection => self.endpoint_connections_max,
            LoadKind::Request => self.endpoint_requests_max,
        }
    }

    /// Whether the cluster counts `load`: requests only if a limit or the balancer needs it.
    pub fn counts(&self, load: LoadKind, class: BreakerClass) -> bool {
        match load {
            LoadKind::Connection => true,
            LoadKind::Request => {
                let limit = self.limit_of(load, class);
                limit.is_some() || self.balancing.balance.load_max().is_some()
            }
        }
    }

    /// Whether nothing that happens to an endpoint closes its connections.
    pub fn keeps_connections(&self) -> bool {
        self.on_endpoint_removed == OnRemoved::Keep
            && self.on_endpoint_unhealthy != OnUnhealthy::Close
    }

    /// Whether connections to `endpoint` are closed because it is unhealthy, ejected or in maintenance.
    pub fn closes_on(&self, endpoint: &EndpointState) -> bool {
        self.on_endpoint_unhealthy == OnUnhealthy::Close && !endpoint.may_continue()
    }

    /// Settings without any limit, check or wait but those that every cluster has: of a cluster that is referred to
    /// and not configured.
    pub fn bare() -> Arc<Self> {
        static BARE: LazyLock<Arc<ClusterSettings>> = LazyLock::new(|| {
            Arc::new(ClusterSettings {
                balancing: BalancingPlan::default(),
                connect_timeout: Duration::from_secs(5),
                fallback: Vec::new(),
                connect_attempts: 1,
                connect_backoff: None,
                health: None,
                outlier: None,
                protocol: HttpVersion::Http1,
                stream_duration_max: None,
                reuse: ReusePlan {
                    idle_timeout: Duration::from_secs(60),
                    age_max: None,
                    requests_max: None,
                    streams_max: 100,
                    idle_max: 16,
                    across_changes: true,
                },
                preconnect: None,
                http2: Http2Plan::default(),
                http3: Http3Plan::default(),
                requests_max: None,
                endpoint_requests_max: None,
                pending_max: 16,
                retries_max: 3,
                retry_percent: 20,
                connections_max: None,
                endpoint_connections_max: None,
                queue: None,
                high: HighLimits {
                    connections_max: None,
                    requests_max: None,
                    pending_max: 16,
                    retries_max: 3,
                    retry_percent: 20,
                },
                on_endpoint_removed: OnRemoved::Keep,
                on_endpoint_unhealthy: OnUnhealthy::Keep,
                dns: DnsPlan {
                    mode: ResolutionMode::Strict,
                    family: AddressFamily::All,
                    refresh: None,
                    ttl_min: Duration::from_secs(1),
                    ttl_max: Duration::from_secs(300),
                    retry: Duration::from_millis(500),
                    retry_max: Duration::from_secs(30),
                    serve_stale: None,
                    servers: Vec::new(),
                    https_records: None,
                    addresses_max: 8,
                },
                forward: None,
                egress: None,
                send_proxy: None,
                socket: None,
                drops: Vec::new(),
                report_metrics: Vec::new(),
            })
        });
        Arc::clone(&BARE)
    }
}

/// Whose limits apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BreakerClass {
    /// Requests with high priority.
    High,
    /// All else.
    #[default]
    Default,
}

impl BreakerClass {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Default, Self::High];
}

/// The limits of requests with high priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HighLimits {
    /// Concurrent connections, over all workers.
    pub connections_max: Option<u64>,
    /// Concurrent requests, over all workers.
    pub requests_max: Option<u64>,
    /// Requests that may wait for a connection at once, per worker.
    pub pending_max: u64,
    /// Concurrent retries, per worker; or `retry_percent` of the requests in flight, if that is more.
    pub retries_max: u64,
    /// The share of the requests in flight that may be retries.
    pub retry_percent: u8,
}

/// Where what exceeds the limits of a cluster waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueuePlan {
    /// The most connections and requests that wait, over all workers.
    pub size: u64,
    /// How long each may wait.
    pub timeout: Duration,
    /// How long what has a session or a hash waits for its own endpoint before others will do.
    pub own_timeout: Duration,
}

/// Waits between attempts to connect: random ones, whose bound grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectBackoffPlan {
    /// The bound of the first wait.
    pub base: Duration,
    /// The bound of any wait.
    pub max: Duration,
}

impl ConnectBackoffPlan {
    /// The bound of the wait after `failed` attempts: `base` after the first, 2^n - 1 times as long after the n-th.
    pub fn bound(&self, failed: usize) -> Duration {
        let factor = (1_u32 << failed.clamp(1, 16)) - 1;
        self.base.saturating_mul(factor).min(self.max)
    }
}

/// One entry of the endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointPlan {
    /// The address.
    pub address: Endpoint,
    /// What else the cluster says of it; neighbours of which it says the same share it.
    pub traits: Arc<EndpointTraits>,
}

/// Options of the sockets to endpoints that have an IP address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketPlan {
    /// TCP: probes of idle connections.
    pub keepalive: Option<KeepalivePlan>,
    /// TCP: how long sent data may be unacknowledged before the connection fails.
    pub user_timeout: Option<Duration>,
    /// The DSCP of packets, 0 to 63.
    pub dscp: Option<u8>,
    /// The addresses to connect from, of which the first of the endpoint's family is used.
    pub sources: Vec<IpAddr>,
}

/// Probes of idle connections; what is `None` is as the system has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeepalivePlan {
    /// When the first is sent, in whole seconds.
    pub idle: Option<Duration>,
    /// The time between them, in whole seconds.
    pub interval: Option<Duration>,
    /// How many may fail.
    pub probes: Option<u32>,
}

/// What happens to connections whose endpoint leaves its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnRemoved {
    /// They continue.
    Keep,
    /// They may continue for this long.
    Drain(Duration),
    /// They are closed.
    Close,
}

/// What happens to connections and UDP flows whose endpoint becomes unhealthy or is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnUnhealthy {
    /// They stay.
    Keep,
    /// Connections stay; the client's next datagram begins a new flow to another endpoint, if one is healthy.
    Move,
    /// They are closed.
    Close,
}

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsPlan {
    /// What the addresses of a name are.
    pub mode: ResolutionMode,
    /// Which addresses are asked for.
    pub family: AddressFamily,
    /// Time between look-ups; `None` uses the TTL of the answer.
    pub refresh: Option<Duration>,
    /// The shortest time between look-ups that follow the TTL.
    pub ttl_min: Duration,
    /// The longest time between look-ups that follow the TTL.
    pub ttl_max: Duration,
    /// The first pause after a failed look-up; it doubles with each further failure.
    pub retry: Duration,
    /// The longest pause after a failed look-up.
    pub retry_max: Duration,
    /// How long the last good answer is kept while look-ups fail; `None` keeps it forever.
    pub serve_stale: Option<Duration>,
    /// Name servers; if empty, those of the system.
    pub servers: Vec<SocketAddr>,
    /// Set if HTTPS records are asked for first: the version that those speak that can be used.
    pub https_records: Option<HttpVersion>,
    /// Addresses used per host name.
    pub addresses_max: usize,
}

/// What the addresses of a name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResolutionMode {
    /// Each is an endpoint.
    Strict,
    /// Together they are one endpoint: the first that accepts a connection.
    Logical,
}

/// Which addresses of a name are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// IPv4 and IPv6.
    All,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// IPv4, or IPv6 if there is none.
    V4Preferred,
    /// IPv6, or IPv4 if there is none.
    V6Preferred,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_a_wait_grows_to_the_maximum() {
        let plan =
            ConnectBackoffPlan { base: Duration::from_millis(25), max: Duration::from_millis(250) };
        let bounds = [0, 1, 2, 3, 4, 5, 1000].map(|failed| plan.bound(failed).as_millis());
        assert_eq!(bounds, [25, 25, 75, 175, 250, 250, 250]);
    }
}
