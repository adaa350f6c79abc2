//! UDP: datagrams of one client to one endpoint, as flows.
//!
//! Owns: what a UDP listener does. Refuses to know: what datagrams say.
//! Keeps: an endpoint is chosen when a flow begins and stays; a flow ends with one record and one
//! reason; the table of flows is bounded.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::Name;
use sluice_io::ConnectionFilterPlan;
use sluice_upstream::Cluster;

use crate::relay::Hash;
use crate::select::ChainTable;

pub mod driver;
pub mod flow_table;
pub mod listener;
mod names;

pub use driver::UdpSlot;
pub use listener::UdpListener;

/// A UDP listener, shared by all workers.
#[derive(Debug)]
pub struct UdpPlan {
    /// Its name.
    pub name: Name,
    /// Filters that judge the source of a new flow.
    pub filters: Vec<Arc<dyn ConnectionFilterPlan>>,
    /// The index over the chains.
    pub table: ChainTable,
    /// The chains.
    pub chains: Vec<FlowChainPlan>,
    /// Whether some chain asks what a hello of QUIC says.
    pub named: bool,
}

/// A chain of a UDP listener.
#[derive(Debug)]
pub struct FlowChainPlan {
    /// Its name.
    pub name: Name,
    /// Its own filters.
    pub filters: Vec<Arc<dyn ConnectionFilterPlan>>,
    /// Where its flows go.
    pub cluster: Arc<Cluster>,
    /// What a hash balancer goes by.
    pub hash: Option<Hash>,
    /// How long a flow may be idle; `None` for ever.
    pub idle_timeout: Option<Duration>,
    /// Answers that each datagram gets; the flow ends when all have come.
    pub responses: Option<u32>,
}
