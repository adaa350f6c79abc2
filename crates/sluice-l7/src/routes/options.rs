//! The options of a rule that forwards to a cluster.
//!
//! Owns: time-outs, retries, rewrites, hashing, and allowed upgrades, with their defaults. Refuses to know: how any of
//! it is carried out. Keeps: plain values; rules with equal options share them.

use std::time::Duration;

use sluice_core::Name;
use sluice_core::settings::OrNone;
use sluice_upstream::plan::BreakerClass;

use super::conditions::RuntimeShare;
use super::endpoint_match::EndpointMatch;
use super::{PathRewrite, RegexSubstitution};
use crate::expression::RequestExpression;
use crate::retry_plan::RetryPlan;

/// How the requests of a rule are handled.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct RuleOptions {
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: RetryPlan,
    /// The path sent to the endpoint.
    pub path: Option<PathRewrite>,
    /// The host sent to the endpoint.
    pub host: HostRewrite,
    /// What endpoints are told of the request before its rewrites.
    pub originals: Originals,
    /// What a hash balancer hashes; the first source that yields a value is used.
    pub hash: Vec<HashBy>,
    /// The metadata that the endpoint must have, if the cluster has subsets.
    pub endpoint: Option<EndpointMatch>,
    /// Which limits of the cluster apply.
    pub class: BreakerClass,
    /// Where copies of requests go.
    pub mirrors: Vec<Mirror>,
    /// Whether Envoy's request headers for retries and time-outs are heeded, and overload is reported in its way.
    pub envoy_headers: bool,
    /// Whether endpoints are told the number of the attempt.
    pub attempt_in_request: bool,
    /// Whether clients are told the number of attempts.
    pub attempts_in_response: bool,
    /// The redirects that are followed; `None` sends all of them to the client.
    pub follow: Option<Box<FollowPlan>>,
    /// The protocols that a client may upgrade to.
    pub upgrades: Vec<String>,
    /// Whether CONNECT may be tunnelled to the cluster.
    pub connect: bool,
    /// Whether the tunnel of CONNECT ends here, so that endpoints get its bytes alone.
    pub ends_connect: bool,
    /// Whether POST is such a tunnel as well: its body is what endpoints get.
    pub ends_post: bool,
}

impl Default for RuleOptions {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            retry: RetryPlan::default(),
            path: None,
            host: HostRewrite::Keep,
            originals: Originals::default(),
            hash: Vec::new(),
            endpoint: None,
            class: BreakerClass::Default,
            mirrors: Vec::new(),
            follow: None,
            envoy_headers: false,
            attempt_in_request: false,
            attempts_in_response: false,
            upgrades: vec!["websocket".into()],
            connect: false,
            ends_connect: false,
            ends_post: false,
        }
    }
}

/// A cluster that gets copies of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where the copies go.
    pub to: MirrorTarget,
    /// The share of requests; drawn for each mirror alone.
    pub share: RuntimeShare,
    /// What is added to the name of the host.
    pub host_suffix: String,
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorTarget {
    /// To this cluster.
    Cluster(Name),
    /// To the cluster that this request header names; a request without it, or with another name, is not copied.
    Header(Box<str>),
    /// To the cluster whose name an expression makes; where it makes none, or another name, the request is not copied.
    Expression(Box<RequestExpression>),
}

/// The redirects of endpoints that are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowPlan {
    /// Their statuses.
    pub statuses: Vec<u16>,
    /// The most redirects of one request.
    pub redirects_max: u32,
    /// The schemes that they may lead to.
    pub scheme: FollowScheme,
    /// The rules that they may lead to; if empty, all.
    pub routes: Vec<Name>,
    /// Whether they lead only to rules that the request has not matched yet.
    pub new_routes_only: bool,
    /// Response headers that are copied to the next request.
    pub copy_headers: Vec<String>,
}

/// The schemes that a redirect may lead to, compared with that of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowScheme {
    /// The same.
    Same,
    /// The same, or https.
    Safer,
    /// Any.
    Any,
}

/// The time-outs of a request; `None` disables one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request headers to the last byte; `None` leaves it to the listener.
    pub total: Option<OrNone<Duration>>,
    /// How much longer than `total` that may be, at random, in percent.
    pub total_jitter_percent: u8,
    /// From the end of the request to the response headers, over all attempts; when it expires, there is no retry.
    pub response: Option<Duration>,
    /// From the request headers of an attempt to the last byte; `None` leaves it to the cluster.
    pub stream: Option<OrNone<Duration>>,
    /// From the start of an attempt, connecting included, to the response headers.
    pub per_try: Option<Duration>,
    /// The longest time without a byte in either direction, within one attempt.
    pub per_try_idle: Option<Duration>,
    /// The longest time without a byte in either direction.
    pub idle: Option<Duration>,
    /// The most that counts of the timeout that a gRPC client set.
    pub grpc_max: Option<Duration>,
    /// What is taken off the timeout that a gRPC client set, if it is longer.
    pub grpc_offset: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            total: None,
            total_jitter_percent: 0,
            stream: None,
            response: Some(Duration::from_secs(60)),
            per_try: None,
            per_try_idle: None,
            grpc_max: None,
            grpc_offset: Duration::ZERO,
            idle: Some(Duration::from_secs(300)),
        }
    }
}

/// The host sent to the endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HostRewrite {
    /// The host that the client sent.
    #[default]
    Keep,
    /// Always this host.
    Literal(String),
    /// The name of the endpoint.
    Endpoint,
    /// The value of this header; the host that the client sent if it is missing or empty.
    Header(String),
    /// The path without its query, with a substitution; the host that the client sent if nothing matches.
    OfPath(Box<RegexSubstitution>),
    /// The value of this header, with a substitution; the host that the client sent if nothing matches.
    OfHeader(Box<(String, RegexSubstitution)>),
}

/// What endpoints are told of a request before its rewrites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Originals {
    /// The path, in `x-envoy-original-path`.
    pub path: bool,
    /// The host, in `x-envoy-original-host`.
    pub host: bool,
    /// The host, at the end of `x-forwarded-host`.
    pub forwarded_host: bool,
}

/// What to hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The source address.
    SourceIp,
    /// A header.
    Header(String),
    /// A query parameter.
    Query(String),
    /// What an expression makes.
    Cel(Box<RequestExpression>),
    /// A cookie; if it has a time to live, it is created if missing.
    Cookie {
        /// Its name.
        name: String,
        /// How long a browser keeps it; `None` never creates one.
        ttl: Option<Duration>,
        /// The path it is for.
        path: Option<String>,
    },
}
