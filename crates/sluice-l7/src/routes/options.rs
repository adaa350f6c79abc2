//! The options of a rule that forwards to a cluster.
//!
//! Owns: time-outs, retries, rewrites, hashing, and allowed upgrades, with their defaults. Refuses to know: how any of
//! it is carried out. Keeps: plain values; rules with equal options share them.

use std::time::Duration;

use super::PathRewrite;
use crate::retry_plan::RetryPlan;

/// How the requests of a rule are handled.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleOptions {
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: RetryPlan,
    /// The path sent to the endpoint.
    pub path: Option<PathRewrite>,
    /// The host sent to the endpoint.
    pub host: HostRewrite,
    /// What a hash balancer hashes; the first source that yields a value is used.
    pub hash: Vec<HashBy>,
    /// The protocols that a client may upgrade to.
    pub upgrades: Vec<String>,
    /// Whether CONNECT may be tunnelled to the cluster.
    pub connect: bool,
}

impl Default for RuleOptions {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            retry: RetryPlan::default(),
            path: None,
            host: HostRewrite::Keep,
            hash: Vec::new(),
            upgrades: vec!["websocket".into()],
            connect: false,
        }
    }
}

/// The time-outs of a request; `None` disables one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request headers to the last byte.
    pub total: Option<Duration>,
    /// From the end of the request to the response headers, over all attempts; when it expires, there is no retry.
    pub response: Option<Duration>,
    /// From the start of an attempt, connecting included, to the response headers.
    pub per_try: Option<Duration>,
    /// The longest time without a byte in either direction.
    pub idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            total: None,
            response: Some(Duration::from_secs(60)),
            per_try: None,
            idle: Some(Duration::from_secs(300)),
        }
    }
}

/// The host sent to the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
