//! The options of a rule that forwards to a cluster.
//!
//! Owns: time-outs, retries, rewrites, hashing, and allowed upgrades, with their defaults. Refuses to know: how any of
//! it is carried out. Keeps: plain values; rules with equal options share them.

use std::time::Duration;

use super::PathRewrite;

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

/// Retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPlan {
    /// The most attempts; with 1, only what [`RetryWhen`] always retries is retried.
    pub attempts: u32,
    /// The failures to retry.
    pub when: RetryWhen,
    /// The statuses to retry.
    pub statuses: Vec<u16>,
    /// The upper bound of the first wait; that of the n-th wait is 2^n - 1 times as long. A wait is random up to its
    /// bound.
    pub backoff: Duration,
    /// The upper bound of every wait.
    pub backoff_max: Duration,
    /// The most bytes of a request body kept for retries; once more is sent, the request is not retried.
    pub body_max: usize,
}

impl Default for RetryPlan {
    fn default() -> Self {
        Self {
            attempts: 1,
            when: RetryWhen::default(),
            statuses: Vec::new(),
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            body_max: 64 << 10,
        }
    }
}

/// The failures to retry. Requests that the endpoint cannot have processed are always retried, and so are idempotent
/// requests whose reused connection ended without a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a word of its own in the configuration")]
pub struct RetryWhen {
    /// Any status from 500, no response at all, and a time-out of the attempt.
    pub server_error: bool,
    /// 502, 503, 504, and a time-out of the attempt.
    pub gateway_error: bool,
    /// The endpoint ended the stream before it responded.
    pub reset: bool,
    /// The attempt timed out.
    pub per_try_timeout: bool,
    /// 409.
    pub conflict: bool,
    /// gRPC statuses in a response without a body, as bits.
    pub grpc: u32,
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
