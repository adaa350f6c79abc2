//! The limits of clusters and of their endpoints.

use std::num::NonZeroU64;
use std::time::Duration;

use sluice_core::settings::{OrNone, OrZero};
use sluice_core::value::Percent;
use sluice_core::{Spanned, section};

section! {
    /// Circuit breaker limits, over all workers unless stated otherwise.
    pub struct ClusterLimits {
        /// Maximum number of concurrent connections.
        pub connections: OrNone<NonZeroU64> = "none",
        /// Maximum number of concurrent connections to one endpoint.
        pub connections_per_endpoint: OrNone<NonZeroU64> = "none",
        /// Maximum number of concurrent HTTP requests.
        pub requests: OrNone<NonZeroU64> = "none",
        /// Maximum number of concurrent HTTP requests to one endpoint.
        pub requests_per_endpoint: OrNone<NonZeroU64> = "none",
        /// What exceeds the limits above waits here; if omitted, it is refused. UDP flows, side calls and mirrors do not
        /// wait. Not with `subsets` or `forward`.
        pub queue: Option<Spanned<Queue>>,
        /// Maximum number of HTTP requests waiting for a connection, per worker.
        pub pending: u64 = "1024",
        /// Maximum number of retries in flight, per worker; `retry_share` of the requests in flight if that is more.
        pub retries: u64 = "3",
        /// The share of a worker's requests in flight that may be retries (retry budget); with 0%, `retries` alone counts.
        pub retry_share: Percent = "20%",
        /// The limits of requests by rules with `priority: high`, which are counted apart.
        pub high: HighLimits,
    }
}

section! {
    /// Circuit breaker limits of requests with high priority, over all workers unless stated otherwise.
    pub struct HighLimits {
        /// Maximum number of concurrent connections.
        pub connections: OrNone<NonZeroU64> = "none",
        /// Maximum number of concurrent HTTP requests.
        pub requests: OrNone<NonZeroU64> = "none",
        /// Maximum number of HTTP requests waiting for a connection, per worker.
        pub pending: u64 = "1024",
        /// Maximum number of retries in flight, per worker; `retry_share` of the requests in flight if that is more.
        pub retries: u64 = "3",
        /// The share of a worker's requests in flight that may be retries; with 0%, `retries` alone counts.
        pub retry_share: Percent = "20%",
    }
}

section! {
    /// A queue for what exceeds the limits of a cluster, over all workers: first come, first served; those by rules with
    /// `priority: high` come before all others.
    pub struct Queue {
        /// Maximum number of connections and requests that wait.
        pub size: NonZeroU64 = "1024",
        /// How long each may wait.
        pub timeout: Duration = "5s",
        /// How long one with a session or a hash waits for its own endpoint before any will do; at most `timeout`.
        pub sticky_timeout: OrZero = "0s",
    }
}

section! {
    /// The limits of one endpoint, over all workers, in place of those that the cluster sets for each.
    pub struct EndpointLimits {
        /// Maximum number of concurrent connections; if omitted, `connections_per_endpoint` of the cluster.
        pub connections: Option<NonZeroU64>,
        /// Maximum number of concurrent HTTP requests; if omitted, `requests_per_endpoint` of the cluster.
        pub requests: Option<NonZeroU64>,
    }
}
