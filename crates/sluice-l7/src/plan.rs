//! HTTP on a chain, as planned for all workers.

use std::sync::Arc;
use std::time::Duration;

use sluice_codec::h1::stream::H1Options;
use sluice_codec::h2::H2Options;
use sluice_codec::h3::H3Options;
use sluice_core::Name;

use crate::client_auth::OwnClientAuth;
use crate::edge::Edge;
use crate::filters::HttpFilterPlan;
use crate::hygiene::Hygiene;
use crate::routes::RouteCell;
use crate::runtime::Runtime;

/// HTTP on a chain.
#[derive(Clone, Debug)]
pub struct HttpPlan {
    /// The listener, for metrics.
    pub listener: Name,
    /// Listener and chain; the state of filters is kept under it.
    pub owner: Name,
    /// The routes.
    pub routes: Arc<RouteCell>,
    /// The filters in order, by name.
    pub filters: Vec<(&'static str, Arc<dyn HttpFilterPlan>)>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// Which requests ask for a host whose clients are authenticated otherwise; `None` where the chains of the
    /// listener all ask for the same.
    pub client_auth: Option<OwnClientAuth>,
    /// How.
    pub options: HttpOptions,
}

/// How HTTP is spoken with clients.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// HTTP/1.
    pub h1: H1Options,
    /// HTTP/2.
    pub h2: H2Options,
    /// HTTP/3.
    pub h3: H3Options,
    /// Whether clients of HTTP/1 and HTTP/2 hear that HTTP/3 is spoken on the same port.
    pub advertise_h3: bool,
    /// Which versions are spoken.
    pub versions: Versions,
    /// Paths and names.
    pub hygiene: Hygiene,
    /// Hops in front.
    pub edge: Edge,
    /// How long the head of a request may take.
    pub head_timeout: Duration,
    /// How long a client may take between two parts of a body.
    pub body_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Option<Duration>,
    /// Requests on one connection; `None` without end.
    pub requests_max: Option<u64>,
}

sluice_core::choice! {
    /// Which versions of HTTP are spoken.
    pub enum Versions {
        /// HTTP/1 and HTTP/2, told apart by ALPN or by the first bytes.
        Any = "any",
        /// HTTP/1 alone.
        Http1 = "http1",
        /// HTTP/2 alone.
        Http2 = "http2",
    }
}
