//! The client of a control plane that speaks xDS.
//!
//! Owns: the protocol of discovery streams, in both forms, and which resources are complete enough to be used. Refuses
//! to know: sockets, clocks, what a resource says. Keeps: a response is answered once, with the nonce that it came
//! with; what a plane said last and was accepted stays in use until it says otherwise.
//!
//! A driver opens a stream, hands each message to [`StreamMachine::receive`], puts what it gets into the [`Inventory`],
//! applies what [`Inventory::ready`] returns, and answers with [`StreamMachine::answer`]. Before it waits, it sends what
//! [`StreamMachine::poll_request`] returns.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod health_discovery;
pub mod inventory;
pub mod last_good;
pub mod load_reports;
pub mod messages;
pub mod stream;

mod kinds;
mod nack;

pub use backoff::ReconnectBackoff;
pub use health_discovery::{AskedEndpoint, AskedHealth, CheckedCluster, CheckedHealth};
pub use inventory::{
    Inventory, InventoryEntry, NeedUntil, OwnerKey, OwnerKind, PartKey, READY_CLUSTERS_MAX,
    ReadyUnit, RefusedVersion, Versioned,
};
pub use kinds::XdsType;
pub use last_good::{Keeper, KeptVersion};
pub use load_reports::{ClusterLoad, CountedEndpoint, LoadReporter, LoadTotals, MetricLoad};
pub use nack::ResourceFault;
pub use stream::{
    DiscoveryForm, StreamMachine, WantedNames, XdsMessage, XdsRequest, XdsResource, XdsResponse,
};
