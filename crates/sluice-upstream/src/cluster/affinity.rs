//! What ties a client to an endpoint, or to some of them.
//!
//! Owns: what a pick goes by besides the balancer, and which endpoint a session leads to. Refuses to know: where a
//! session comes from, such as a cookie. Keeps: a session leads to an endpoint only while it is usable and below its
//! limits.

use std::fmt;
use std::time::Duration;

use crate::endpoint::EndpointId;
use crate::metadata::SubsetKey;

/// What a pick goes by, besides the balancer. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Affinity<'a> {
    /// The hash for a balancer that goes by one.
    pub hash: Option<u64>,
    /// The client's session.
    pub session: Option<ClientSession>,
    /// The metadata that the endpoint must have, for a cluster with subsets.
    pub subset: Option<&'a SubsetKey>,
}

/// A client that should stay with its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientSession {
    /// The client names its endpoint.
    Endpoint(PreferredEndpoint),
    /// The cluster remembers the endpoint of the source.
    Source {
        /// The hash of the source.
        source: u64,
        /// How long the source may be away; at most [`SESSION_MAX`].
        ttl: Duration,
    },
}

/// The longest that a source may be away and still be remembered.
pub const SESSION_MAX: Duration = Duration::from_secs(86_400);

/// The endpoint that a connection or request should go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreferredEndpoint {
    /// Which.
    pub id: EndpointId,
    /// Whether it fails if that endpoint cannot be used; otherwise the balancer picks another.
    pub strict: bool,
}

impl fmt::Display for PreferredEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

impl Affinity<'_> {
    /// By hash only.
    pub const fn hashed(hash: Option<u64>) -> Self {
        Self { hash, session: None, subset: None }
    }
}
