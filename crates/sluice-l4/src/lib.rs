//! TCP and UDP: from an accepted socket to its record.
//!
//! Owns: listeners on a worker, inspectors, chain selection, connection filters, the relay, UDP flows, records. Refuses
//! to know: configuration files, HTTP beyond its first bytes. Keeps: the seven phases of a connection run in one order
//! in one place; every connection and flow ends with exactly one record and one reason.
#![forbid(unsafe_code)]

pub mod accept;
pub mod chain;
pub mod connection;
pub mod filters;
pub mod inspect;
pub mod listener;
pub mod metrics;
pub mod named_clusters;
pub mod plain_http;
pub mod proxy_protocol;
pub mod quic;
pub mod rbac;
pub mod reasons;
pub mod record;
pub mod regexes;
pub mod relay;
pub mod select;
pub mod split;
pub mod tap;
pub mod udp;

pub use chain::{Chain, ChainPlan, HandlerPlan, Termination, Transport};
pub use listener::{InspectPlan, Listener, ListenerPlan, OnTimeout, ProxyAccept, ProxyPlan};
pub use named_clusters::{NamedBy, NamedClusters};
pub use relay::{Hash, PayloadSlice, RelayOptions, RelayPlan, RelayTarget};
pub use select::{ChainInput, ChainTable, Criteria};
pub use split::WeightedCluster;
