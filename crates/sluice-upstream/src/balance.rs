//! Load balancing: which endpoint is next.
//!
//! Owns: the settings of balancers. Below it: the tables of balancers, the shares of priorities, the weights of endpoints
//! in slow start, subsets, and the selection that joins them. Refuses to know: who connects, and what limits apply; the caller of a
//! pick decides. Keeps: a usable endpoint is found if there is one; weights are kept; a hash leads to the same endpoint
//! on every worker and in every Sluice.

use std::sync::Arc;
use std::time::Duration;

pub mod aperture;
pub mod load_balancer;
pub mod load_reports;
pub mod priorities;
pub mod slow_start;
pub mod subsets;
pub mod tables;
pub mod zones;

pub use aperture::AperturePlan;
pub use load_balancer::LoadBalancer;
pub use load_reports::{LoadReport, LoadReportsPlan};
pub use priorities::FailoverPlan;
pub use slow_start::SlowStartPlan;
pub use subsets::SubsetsPlan;
pub use tables::extension::{BalancerExtension, ExtensionPlan};
pub use zones::ZoneAwarePlan;

sluice_core::choice! {
    /// How a cluster chooses among its endpoints.
    pub enum Balance {
        /// In turn, by weight. Each worker starts at a random position.
        RoundRobin = "round_robin",
        /// Of two random endpoints, the one with less load for its weight: relayed connections plus requests in flight.
        LeastRequest = "least_request",
        /// Of two random endpoints, the one with the lower latency for its load and weight.
        PeakEwma = "peak_ewma",
        /// In turn, by weight, which follows from the load that endpoints report with their responses (ORCA).
        LoadReports = "load_reports",
        /// At random, by weight.
        Random = "random",
        /// By hash on a ring; adding or removing an endpoint moves few hashes to other endpoints.
        RingHash = "ring_hash",
        /// By hash in a table; spreads more evenly than a ring and has faster look-ups.
        Maglev = "maglev",
    }
}

/// How the endpoints of a cluster are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BalancingPlan {
    /// The balancer.
    pub balance: BalancePlan,
    /// How traffic moves between priorities.
    pub failover: FailoverPlan,
    /// How traffic is spread over localities.
    pub localities: LocalityPlan,
    /// Slow start of new and recovered endpoints.
    pub slow_start: Option<SlowStartPlan>,
    /// How the endpoints are divided by their metadata; `None` does not tell them apart.
    pub subsets: Option<Arc<SubsetsPlan>>,
    /// How many of the endpoints this process uses; `None` uses all.
    pub aperture: Option<AperturePlan>,
}

/// A balancer and its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum BalancePlan {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The least loaded of some random endpoints, or of all.
    LeastRequest(LeastRequestPlan),
    /// The fastest of two random endpoints, by latency and load.
    PeakEwma(PeakEwmaPlan),
    /// In turn, by weight, which follows from reports of endpoints.
    LoadReports(Arc<LoadReportsPlan>),
    /// At random, by weight.
    Random,
    /// By hash on a ring.
    RingHash(RingPlan),
    /// By hash in a table.
    Maglev(MaglevPlan),
    /// As an extension says.
    Extension(ExtensionPlan),
}

/// Settings of the balancer `least_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeastRequestPlan {
    /// The number of random endpoints compared; `None` compares all.
    pub choices: Option<u32>,
    /// How strongly load counts against weight, in thousandths: the weight is divided by (load + 1) to the power of
    /// this. 1000 is proportional, 0 ignores load.
    pub bias: u32,
}

/// Settings of the balancer `peak_ewma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeakEwmaPlan {
    /// The time after which a measurement counts for about a third of what it did.
    pub decay: Duration,
}

/// Settings of the balancer `ring_hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingPlan {
    /// The fewest points on the ring.
    pub size_min: u64,
    /// The most points on the ring.
    pub size_max: u64,
    /// The most load of an endpoint, in percent of its fair share; `None` is unbounded.
    pub load_max: Option<u32>,
    /// Whether endpoints have their places by the host names that they were resolved from, instead of their addresses.
    pub by_host: bool,
}

/// Settings of the balancer `maglev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaglevPlan {
    /// Slots of the table, a prime.
    pub slots: u32,
    /// The most load of an endpoint, in percent of its fair share; `None` is unbounded.
    pub load_max: Option<u32>,
    /// Whether endpoints have their places by the host names that they were resolved from, instead of their addresses.
    pub by_host: bool,
}

impl Default for LeastRequestPlan {
    fn default() -> Self {
        Self { choices: Some(2), bias: 1000 }
    }
}

impl Default for PeakEwmaPlan {
    fn default() -> Self {
        Self { decay: Duration::from_secs(10) }
    }
}

impl Default for RingPlan {
    fn default() -> Self {
        Self { size_min: 1024, size_max: 1 << 20, load_max: None, by_host: false }
    }
}

impl Default for MaglevPlan {
    fn default() -> Self {
        // Over a hundred times the number of endpoints in a usual cluster.
        Self { slots: 65_537, load_max: None, by_host: false }
    }
}

impl BalancePlan {
    /// The balancer without its settings; `None` for one that is no part of Sluice.
    pub const fn kind(&self) -> Option<Balance> {
        Some(match self {
            Self::RoundRobin => Balance::RoundRobin,
            Self::LeastRequest(_) => Balance::LeastRequest,
            Self::PeakEwma(_) => Balance::PeakEwma,
            Self::LoadReports(_) => Balance::LoadReports,
            Self::Random => Balance::Random,
            Self::RingHash(_) => Balance::RingHash,
            Self::Maglev(_) => Balance::Maglev,
            Self::Extension(_) => return None,
        })
    }

    /// The balancer as configurations name it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Extension(plan) => plan.0.word(),
            own => own.kind().map_or("", Balance::word),
        }
    }

    /// Whether the balancer may make use of a hash.
    pub const fn uses_hash(&self) -> bool {
        self.hashes() || matches!(self, Self::Extension(_))
    }

    /// Whether the balancer chooses by hash.
    pub const fn hashes(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }

    /// The most load of an endpoint, in percent of its fair share, if it is bounded.
    pub const fn load_max(&self) -> Option<u32> {
        match self {
            Self::RingHash(RingPlan { load_max, .. })
            | Self::Maglev(MaglevPlan { load_max, .. }) => *load_max,
            Self::RoundRobin
            | Self::LeastRequest(_)
            | Self::PeakEwma(_)
            | Self::LoadReports(_)
            | Self::Random
            | Self::Extension(_) => None,
        }
    }
}

impl From<Balance> for BalancePlan {
    /// The balancer with its default settings.
    fn from(kind: Balance) -> Self {
        match kind {
            Balance::RoundRobin => Self::RoundRobin,
            Balance::LeastRequest => Self::LeastRequest(LeastRequestPlan::default()),
            Balance::PeakEwma => Self::PeakEwma(PeakEwmaPlan::default()),
            Balance::LoadReports => Self::LoadReports(Arc::default()),
            Balance::Random => Self::Random,
            Balance::RingHash => Self::RingHash(RingPlan::default()),
            Balance::Maglev => Self::Maglev(MaglevPlan::default()),
        }
    }
}

/// How traffic is spread over the localities of a priority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum LocalityPlan {
    /// Localities are not told apart.
    #[default]
    Ignored,
    /// By the weight of each, less the share of its endpoints that cannot be used.
    Weighted,
    /// The own one first, as far as every endpoint still gets its share.
    ZoneAware(Arc<ZoneAwarePlan>),
}

/// The default overprovisioning, in percent, as in Envoy: a priority or locality has its full share of traffic until
/// fewer than 100/140 of its endpoints are usable.
pub(crate) const OVERPROVISIONING: u32 = 140;
