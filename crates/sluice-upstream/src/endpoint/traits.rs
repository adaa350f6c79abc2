//! What a cluster says of an endpoint.
//!
//! Owns: its weight, priority, locality, limits and metadata. Refuses to know: addresses and states. Keeps: plain values; equal
//! ones are the same to a balancer.

use std::fmt;
use std::sync::Arc;

use super::{EndpointCheck, EndpointLimits, EndpointStatus};
use crate::metadata::{EndpointMetadata, SubsetKey};

/// The lowest priority of an endpoint, as in Envoy.
pub const PRIORITY_MAX: u32 = 127;

/// What a cluster says of an endpoint, apart from its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointTraits {
    /// The load balancing weight, at least 1.
    pub weight: u32,
    /// The priority: 0 is the highest.
    pub priority: u32,
    /// Where it is.
    pub locality: Option<Arc<Locality>>,
    /// The weight of its locality, within the priority.
    pub locality_weight: u32,
    /// Its limits, in place of those that the cluster sets for each endpoint.
    pub limits: EndpointLimits,
    /// What it is told apart by; `None` if it has no metadata.
    pub metadata: Option<Arc<EndpointMetadata>>,
    /// Where and as what it is checked, if not as the cluster says; most endpoints have none.
    pub check: Option<Arc<EndpointCheck>>,
    /// What the list of endpoints says of its state.
    pub status: EndpointStatus,
    /// The UDP port on which it speaks HTTP/3, as its DNS name says.
    pub http3_port: Option<u16>,
}

impl EndpointTraits {
    /// Adds what a second entry for the same address says: weight and limits.
    pub(crate) fn add(&mut self, other: &Self) {
        self.weight = self.weight.saturating_add(other.weight);
        self.limits = self.limits.plus(other.limits);
    }

    /// Whether the metadata of the endpoint has every value that `asked` contains.
    pub fn has(&self, asked: &SubsetKey) -> bool {
        self.metadata.as_ref().map_or(asked.is_empty(), |metadata| metadata.has(asked))
    }
}

impl Default for EndpointTraits {
    fn default() -> Self {
        Self {
            weight: 1,
            priority: 0,
            locality: None,
            locality_weight: 0,
            limits: EndpointLimits::default(),
            metadata: None,
            check: None,
            status: EndpointStatus::Healthy,
            http3_port: None,
        }
    }
}

/// Where an endpoint is; empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// The region.
    pub region: Box<str>,
    /// The zone in the region.
    pub zone: Box<str>,
    /// A part of the zone.
    pub sub_zone: Box<str>,
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, zone, sub_zone } = self;
        match (&**region, &**sub_zone) {
            ("", "") => f.write_str(zone),
            (_, "") => write!(f, "{region}/{zone}"),
            (_, _) => write!(f, "{region}/{zone}/{sub_zone}"),
        }
    }
}
