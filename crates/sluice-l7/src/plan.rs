//! The plan for HTTP on a filter chain, shared by all workers.

use std::sync::Arc;
use std::time::Duration;

use sluice_codec::h1::stream::H1Options;
use sluice_codec::h2::H2Options;
use sluice_codec::h3::H3Options;
use sluice_core::Name;
use sluice_telemetry::metrics::SeriesLabels;

use crate::client_auth::OwnClientAuth;
use crate::edge::Edge;
use crate::filters::HttpFilterPlan;
use crate::hygiene::Hygiene;
use crate::local_replies::settings::LocalReplies;
use crate::metrics;
use crate::proxy_status::ProxyStatus;
use crate::routes::{RouteCell, ScopeKeyPart};
use crate::runtime::Runtime;

/// The plan for HTTP on a filter chain.
#[derive(Clone, Debug)]
pub struct HttpPlan {
    /// The listener, for metrics.
    pub listener: Name,
    /// The listener and chain; the state of filters is kept under this name.
    pub owner: Name,
    /// The routes.
    pub routes: Arc<RouteCell>,
    /// The filters in order, each with the key of its use.
    pub filters: Vec<(Name, Arc<dyn HttpFilterPlan>)>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// Which requests name a host with other client authentication; `None` if all chains of the listener ask for the
    /// same.
    pub client_auth: Option<OwnClientAuth>,
    /// The options.
    pub options: HttpOptions,
}

impl HttpPlan {
    /// Whether a filter of the chain, or of a rule in force, may count in the series with these labels.
    pub(crate) fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        let of_filter = |name: &str, plan: Option<&dyn HttpFilterPlan>| {
            let replies = series.metric == metrics::FILTER_REPLIES.name;
            (replies && series.get("filter") == Some(name))
                || plan.is_some_and(|plan| plan.counts_in(series))
        };
        let table = self.routes.get();
        let mut overrides = table.overrides.iter().flat_map(|set| &set.said);
        self.filters.iter().any(|(name, plan)| of_filter(name, Some(&**plan)))
            || overrides.any(|(name, said)| of_filter(name, said.own_plan()))
    }
}

/// How HTTP is served to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// Options for HTTP/1.
    pub h1: H1Options,
    /// Options for HTTP/2.
    pub h2: H2Options,
    /// Options for HTTP/3.
    pub h3: H3Options,
    /// Whether HTTP/1 and HTTP/2 clients are told that HTTP/3 is served on the same port.
    pub advertise_h3: bool,
    /// What responses say about this hop (RFC 9209), if anything.
    pub proxy_status: Option<ProxyStatus>,
    /// How responses look that Sluice generates itself, if it is not as they are.
    pub local_replies: Option<Arc<LocalReplies>>,
    /// The HTTP versions that are served.
    pub versions: Versions,
    /// The normalisation of paths and header names.
    pub hygiene: Hygiene,
    /// The handling of forwarding headers.
    pub edge: Edge,
    /// How long the headers of a request may take.
    pub head_timeout: Duration,
    /// How long a client may pause between two parts of a body.
    pub body_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Option<Duration>,
    /// How long a request and its response may last, unless their rule says; `None` is unlimited.
    pub stream_duration_max: Option<Duration>,
    /// How long a request waits for its cluster, if that comes on demand; `None` does not wait.
    pub cluster_wait: Option<Duration>,
    /// Virtual hosts that come on demand.
    pub hosts_on_demand: Option<HostDemand>,
    /// Scopes whose routes come on demand.
    pub scopes_on_demand: Option<ScopeDemand>,
    /// The most requests on one connection; `None` is unlimited.
    pub requests_max: Option<u64>,
    /// The age at which a connection takes no further request; `None` is unlimited.
    pub age_max: Option<Duration>,
    /// How much later that may be for a connection, at random, in percent of `age_max`.
    pub age_jitter_percent: u8,
    /// How long a client has to receive its last response before its connection is closed.
    pub delayed_close: Duration,
    /// The request that each connection is, if clients do not speak HTTP.
    pub tunnel: Option<TunnelRequest>,
}

/// Virtual hosts that a control plane is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDemand {
    /// The name of their route table at the plane.
    pub table: Name,
    /// How long a request that no rule matches waits for its host.
    pub wait: Duration,
}

/// Scopes whose routes a control plane is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeDemand {
    /// What the key of a scope is made of.
    pub key: Arc<[ScopeKeyPart]>,
    /// How long a request of no scope waits for its own.
    pub wait: Duration,
}

/// A request that carries the bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRequest {
    /// The host and port that it is for.
    pub host: String,
    /// The path of a POST request; `None` is a CONNECT request.
    pub post: Option<String>,
}

sluice_core::choice! {
    /// The HTTP versions that are served.
    pub enum Versions {
        /// HTTP/1 and HTTP/2, distinguished by ALPN or by the first bytes.
        Any = "any",
        /// HTTP/1 only.
        Http1 = "http1",
        /// HTTP/2 only.
        Http2 = "http2",
    }
}
