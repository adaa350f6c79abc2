//! UDP: datagrams from one client to one endpoint, as flows.
//!
//! Owns: what a UDP listener does. Refuses to know: the content of datagrams. Keeps: the endpoint is chosen when a flow
//! begins and does not change, so that a client whose
//! datagrams are spread has a flow to each; a flow ends with one record and one reason; the flow table is bounded.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::Name;
use sluice_io::ConnectionFilterPlan;
use sluice_telemetry::metrics::SeriesLabels;

use crate::relay::Hash;
use crate::select::ChainTable;
use crate::split::WeightedCluster;

mod admission;
mod batch;
pub mod driver;
pub mod flow;
pub mod flow_table;
mod held;
pub mod listener;
mod names;

pub use driver::UdpSlot;
pub use listener::UdpListener;

/// A UDP listener, shared by all workers.
#[derive(Debug)]
pub struct UdpPlan {
    /// The listener's name.
    pub name: Name,
    /// Filters on the source of a new flow.
    pub filters: Vec<Arc<dyn ConnectionFilterPlan>>,
    /// The index over the chains.
    pub table: ChainTable,
    /// The chains.
    pub chains: Vec<FlowChainPlan>,
    /// Whether a chain matches on the content of a QUIC ClientHello.
    pub named: bool,
}

impl UdpPlan {
    /// Whether a chain or filter of the listener may count in the series with these labels.
    pub fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        let chains = self.chains.iter();
        let mut filters = self.filters.iter().chain(chains.clone().flat_map(|of| &of.filters));
        filters.any(|filter| filter.counts_in(series))
            || chains.map(|chain| &*chain.name).any(|name| series.get("chain") == Some(name))
    }
}

/// A chain of a UDP listener.
#[derive(Debug)]
pub struct FlowChainPlan {
    /// The chain's name.
    pub name: Name,
    /// The chain's own filters.
    pub filters: Vec<Arc<dyn ConnectionFilterPlan>>,
    /// The clusters that its flows go to: at least one.
    pub clusters: Vec<WeightedCluster>,
    /// The input of a hash balancer.
    pub hash: Option<Hash>,
    /// How long a source may be away and still return to its endpoint; `None` does not remember sources.
    pub sticky: Option<Duration>,
    /// The idle timeout of a flow; `None` is unlimited.
    pub idle_timeout: Option<Duration>,
    /// Whether each datagram goes to an endpoint of its own, rather than all of a client to one.
    pub per_packet: bool,
    /// Replies per datagram; the flow ends when all have been received.
    pub responses: Option<u32>,
}
