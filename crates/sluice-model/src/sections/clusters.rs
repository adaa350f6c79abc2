//! Clusters and their endpoints.
//!
//! Owns: what is said of a cluster and of each endpoint. Refuses to know: balancing, health, discovery and limits, which
//! have files of their own. Keeps: the short form of a cluster is its endpoints, that of an endpoint its address.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use sluice_core::settings::{OrNone, OrZero, Plain, Short, ShortForm, bind_scalar};
use sluice_core::value::{Authority, FactorPercent};
use sluice_core::{
    Diags, Endpoint, Name, Node, Path, Setting, Shape, Spanned, Value, choice, section,
};
use sluice_upstream::endpoint::EndpointStatus;

use super::{
    ApertureSize, Balancer, ClusterHttp2, ClusterHttp3, ClusterLimits, ClusterSocket, Dns,
    DropShares, Egress, EndpointLimits, Failover, Forward, Health, LocalityName, LocalityWeights,
    MetadataEntries, Outlier, Priority, SlowStart, Subsets, UpstreamTls, ZoneAware,
};

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
        /// Whether `endpoints` may be missing or empty; what goes to the cluster is then refused (`upstream.no_endpoint`).
        pub allow_empty: bool = "false",
        /// In place of `endpoints`: a forward proxy, whose endpoints are the hosts that clients name: by the server name of
        /// TLS on a relay, by host on a rule. The egress policy is always on. `true` serves all hosts on the usual port.
        pub forward: Option<Spanned<Forward>>,
        /// The cluster that serves while this one has no usable endpoint, with its own limits, protocol and TLS; of several,
        /// the first that has a usable one. A limit that is reached does not lead there. At most 4 clusters one after the
        /// other, and at most 16 side by side.
        pub fallback: Vec<Spanned<Name>>,
        /// The load balancing algorithm: a word, or a map of it with its settings.
        pub balance: Balancer = "round_robin",
        /// Failover between the priorities of endpoints, and panic mode.
        pub failover: Failover,
        /// Weights of localities, by name: each locality gets traffic by its weight, less what its usable endpoints cannot
        /// serve. If omitted, localities are not told apart.
        pub localities: LocalityWeights,
        /// Zone-aware routing: endpoints in the zone of this process are preferred; needs `node`. `round_robin`,
        /// `random`, `least_request`, `peak_ewma` and `load_reports` only.
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
        /// HTTP: how long one attempt of a request may last, from its headers to the last byte of the response. Then its
        /// stream is reset, and it may be retried if the response has not begun (`retry: { when: reset }`). Event
        /// streams, WebSockets and tunnels are bounded as well.
        pub max_stream_duration: OrNone<Duration> = "none",
        /// Connection pool: how HTTP connections to endpoints are reused.
        pub reuse: Reuse,
        /// Connections made ahead of the requests that will need them; `150%` sets `per_endpoint`. If omitted, none.
        pub preconnect: Option<Spanned<Short<Preconnect>>>,
        /// HTTP/2: flow-control windows and pings.
        pub http2: Option<Spanned<ClusterHttp2>>,
        /// HTTP/3: idle timeout, pings, flow-control windows, congestion control. With `protocol: auto`, `true` attempts
        /// HTTP/3 beside TCP; with `protocol: same`, requests over HTTP/3 go on over HTTP/3.
        pub http3: Option<Spanned<Short<ClusterHttp3>>>,
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
        /// `forward`, those of the public internet, unless only the destination of a connection names them.
        pub egress: Option<Spanned<Egress>>,
        /// The PROXY protocol header to send first on connections to endpoints.
        pub send_proxy_protocol: Option<ProxyHeader>,
        /// Sockets to endpoints: TCP keepalive, time-out of unacknowledged data, DSCP, source address.
        pub socket: Option<Spanned<ClusterSocket>>,
        /// What part of the connections, flows and requests is dropped to protect the endpoints (load shedding), by
        /// category, one after the other: `{ overload: 10% }`. A change takes effect without new connections.
        pub drop: DropShares,
        /// The metrics of endpoints (ORCA) that reports of load to a control plane contain, such as `cpu_utilization` or
        /// `named_metrics.queue`; `named_metrics.*` stands for all of a map.
        pub report_metrics: Vec<Spanned<String>>,
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
        /// The version negotiated in the TLS handshake (ALPN); with `http3`, also HTTP/3.
        Auto = "auto",
        /// That of each request. Requests over HTTP/3 use HTTP/2, unless `http3` is set too.
        Same = "same",
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
        /// Whether connections are reused after endpoints have joined or left the cluster. With `false`, each change lets
        /// all of its connections go: idle ones are closed, others take no more requests.
        pub across_changes: bool = "true",
    }
}

section! {
    /// HTTP connections made ahead of the requests that will need them, on each worker, within the limits of the cluster.
    pub struct Preconnect {
        /// For how many requests each endpoint has connections, in percent of the requests in flight there: with 200%, for
        /// each HTTP/1 connection in use another one is kept ready. 100% to 300%.
        pub per_endpoint: FactorPercent = "100%",
        /// The same over the whole cluster, at the endpoints that the load balancer will pick next. 100% to 300%. Not with
        /// `subsets`, or a balancer that goes by a hash.
        pub predicted: FactorPercent = "100%",
    }
}

impl ShortForm for Preconnect {
    const KEY: &'static str = "per_endpoint";
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
        /// Its state as you know it. Checks and operators may find worse, not better.
        pub status: EndpointStatus = "healthy",
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

impl Cluster {
    /// Whether it speaks HTTP/3 as well as what TCP carries.
    pub fn adds_http3(&self) -> bool {
        matches!(self.protocol, ClusterProtocol::Auto | ClusterProtocol::Same)
            && self.http3.as_ref().is_some_and(|http3| http3.enabled)
    }

    /// Whether it attempts HTTP/3 beside TCP.
    pub fn races_http3(&self) -> bool {
        self.protocol == ClusterProtocol::Auto && self.adds_http3()
    }
}

impl ShortForm for Cluster {
    const KEY: &'static str = "endpoints";
}
