//! The sections of HTTP on a chain.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use sluice_core::settings::{OrNone, OrZero, Short, ShortForm, Size, Window};
use sluice_core::value::{Authority, Percent};
use sluice_core::{Name, Spanned, choice, section};
use sluice_l7::edge::{ClientScheme, Forwarded, TrustedHeader};
use sluice_l7::hygiene::{EscapedSlashes, Underscores};
use sluice_l7::local_replies::settings::LocalReplies;
use sluice_l7::plan::Versions;
use sluice_l7::proxy_status::ProxyStatus;

use super::FilterUse;
use super::routes::scopes::ScopePart;

choice! {
    /// What happens to the case of header names.
    pub enum HeaderCase {
        /// They are sent in lower case, as in HTTP/2.
        Lower = "lower",
        /// They are sent as received, if both sides speak HTTP/1.
        Keep = "keep",
    }
}

section! {
    /// HTTP/1 and HTTP/2 with clients. The short form is the name of the routes.
    pub struct Http {
        /// The name of the routes.
        pub routes: Spanned<Name>,
        /// HTTP filters that requests pass, in order; see the page on filters.
        pub filters: Vec<FilterUse>,
        /// The HTTP versions accepted.
        pub versions: Versions = "any",
        /// Number of proxies in front that are trusted to report the client address in `trusted_header`.
        pub trusted_hops: u32 = "0",
        /// The header in which trusted proxies report the client address. No other is read.
        pub trusted_header: TrustedHeader = "x-forwarded-for",
        /// What happens to a Forwarded header (RFC 7239) before the request goes to an endpoint.
        pub forwarded: Forwarded = "append",
        /// The scheme of all requests, in place of the one that they arrive over or that a trusted proxy reports; endpoints
        /// are told this one. For a proxy in front that terminates TLS and does not say so.
        pub scheme: Option<ClientScheme>,
        /// How paths are normalised before routing and filters.
        pub path: PathHygiene,
        /// What happens to header names with an underscore, which some servers read as a hyphen.
        pub underscores: Underscores = "keep",
        /// The field `proxy-status` of responses (RFC 9209); none by default.
        pub proxy_status: Option<Short<ProxyStatus>>,
        /// How responses look that Sluice generates itself.
        pub local_replies: Option<Spanned<LocalReplies>>,
        /// What happens to the case of header names.
        pub header_case: HeaderCase = "lower",
        /// Maximum size of the request headers; larger ones get a 431 response.
        pub head_bytes: Size = "60KiB",
        /// Maximum number of headers in a request.
        pub head_fields: u32 = "100",
        /// How long the request headers may take, from their first byte or from accept.
        pub head_timeout: Duration = "10s",
        /// How long a client may pause between two parts of a request body.
        pub body_timeout: Duration = "60s",
        /// How long a request may last, from its headers to the last byte of the response; a rule with `timeout.total`
        /// says so itself, even with `none`. Event streams, WebSockets and tunnels are bounded as well.
        pub max_stream_duration: OrNone<Duration> = "none",
        /// Requests for a cluster that is not there wait for the control plane (`xds`), which is asked for it: at most that long.
        /// Clusters must not come from it otherwise.
        pub on_demand: OrNone<Duration> = "none",
        /// Requests that no rule matches wait for their virtual host, which the control plane of a bootstrap of Envoy is asked
        /// for (VHDS). What such a bootstrap is mapped to; files of Sluice cannot have it.
        pub hosts_on_demand: Option<Spanned<HostsOnDemand>>,
        /// Requests of no scope wait for theirs, whose routes the control plane of a bootstrap of Envoy is asked for (SRDS). What
        /// such a bootstrap is mapped to; files of Sluice cannot have it.
        pub scopes_on_demand: Option<Spanned<ScopesOnDemand>>,
        /// How long a connection may wait for its next request (keep-alive timeout).
        pub idle_timeout: OrNone<Duration> = "5m",
        /// The age at which a connection takes no further request and is closed once its requests have ended.
        pub max_age: OrNone<Duration> = "none",
        /// How much later than at `max_age` that may be, at random, so that connections do not all end at once.
        pub max_age_jitter: Percent = "10%",
        /// How long a client has to receive its last response and close the connection, before Sluice closes it (HTTP/1
        /// and HTTP/2); and how long a client of HTTP/2 may go on sending a request whose response is complete, before
        /// its stream is reset.
        pub delayed_close: OrZero = "1s",
        /// Maximum number of requests per connection.
        pub requests_per_connection: OrNone<NonZeroU64> = "none",
        /// HTTP/2 with clients.
        pub http2: Http2,
        /// For clients that do not speak HTTP: each connection is a request through which its bytes pass. Rules and filters
        /// treat it as any other, and headers are added by `set_headers`. A connection whose request is not granted (2xx) is
        /// closed.
        pub tunnel: Option<Spanned<Short<Tunnel>>>,
    }
}

section! {
    /// Virtual hosts that come on demand.
    pub struct HostsOnDemand {
        /// The name of their route table at the plane.
        pub table: String,
        /// How long a request waits for its host.
        pub wait: Duration = "15s",
    }
}

section! {
    /// Scopes whose routes come on demand.
    pub struct ScopesOnDemand {
        /// What the key of a scope is made of, as in the scopes of the routes.
        pub key: Vec<Spanned<Short<ScopePart>>>,
        /// How long a request waits for the routes of its scope.
        pub wait: Duration = "15s",
    }
}

section! {
    /// The request that carries the bytes of a connection. The short form is its host.
    pub struct Tunnel {
        /// The host and port that CONNECT asks the endpoint to connect to.
        pub host: Authority,
        /// The path of a POST request in place of CONNECT.
        pub post: Option<String>,
    }
}

impl ShortForm for Tunnel {
    const KEY: &'static str = "host";
}

impl ShortForm for Http {
    const KEY: &'static str = "routes";
}

section! {
    /// How paths are normalised before routing and filters.
    pub struct PathHygiene {
        /// Remove dot segments and decode what need not be encoded (RFC 3986 section 6.2.2).
        pub normalize: bool = "true",
        /// Merge consecutive slashes into one.
        pub merge_slashes: bool = "false",
        /// What happens to %2F and %5C (escaped slashes).
        pub escaped_slashes: EscapedSlashes = "keep",
    }
}

section! {
    /// HTTP/2 with clients.
    pub struct Http2 {
        /// Maximum number of concurrent streams per connection.
        pub streams: NonZeroU32 = "128",
        /// Flow-control window of a stream: bytes of a request body that a client may send ahead.
        pub stream_window: Window = "256KiB",
        /// Flow-control window of a connection, for all its streams together; `none` leaves each stream its own window.
        /// It is granted again as data arrives, unless as much waits to be read: only then can streams to a slow endpoint
        /// stall the others of the connection.
        pub connection_window: OrNone<Window> = "none",
        /// Number of streams that a client may reset before they are processed; more is treated as a flood (rapid
        /// reset).
        pub resets: u32 = "64",
        /// Time between pings to a client that has open streams and sends nothing.
        pub ping_interval: OrNone<Duration> = "30s",
        /// How long to wait for the response to a ping.
        pub ping_timeout: Duration = "20s",
    }
}
