//! Clusters at run time: which endpoints are in them, which are healthy, which is next, and how to connect to it.
//!
//! Owns: cluster and endpoint state that outlives every configuration, balancers, connection limits, passive ejection,
//! active checks, name resolution, the overrides of operators, the connector. Refuses to know: listeners, chains, and what the bytes of traffic
//! mean; only checks speak protocols. Keeps: membership is published as a whole and read without a lock; health is set
//! by any thread that observes it and cleared by the control thread alone.
#![forbid(unsafe_code)]

pub mod balance;
pub mod cluster;
pub mod connector;
pub mod demand;
pub mod directory;
pub mod dns;
pub mod egress;
pub mod endpoint;
pub mod events;
pub mod forward;
pub mod health;
pub mod hops;
pub mod metadata;
pub mod metrics;
pub mod name_state;
pub mod outlier;
pub mod overrides;
pub mod plan;
pub mod pool;
pub mod published;
pub mod reasons;
pub mod registry;

pub use balance::{Balance, BalancePlan};
pub use cluster::{Cluster, ClusterHandle};
pub use connector::{Connected, Preface, connect};
pub use directory::ClusterDirectory;
pub use egress::EgressPolicy;
pub use endpoint::{EndpointState, EndpointTraits, LeftEndpoints, Locality, Target};
pub use forward::{ForwardFailure, ForwardHost, ForwardPattern, ForwardPlan, HostNaming};
pub use metadata::{EndpointMetadata, SubsetKey};
pub use plan::{ClusterPlan, ClusterSettings, EndpointPlan};
pub use pool::Pool;
pub use published::{Published, PublishedView};
pub use registry::Clusters;
