//! The endpoints that may be picked now, by priority, state and locality.
//!
//! Owns: which tables there are and how much of the traffic each gets, as of the last change of an endpoint's state.
//! Refuses to know: limits, and which endpoints a connection has tried. Keeps: a pick goes to another priority only if
//! those endpoints that its own can offer were tried, not if they are at a limit; each table has a position of its own in
//! every worker.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sluice_core::Moment;

use super::BalancingPlan;
use super::priorities::{Census, Share, shares};
use super::tables::{BalancerTable, Pick};
use super::zones::{FleetZones, ZoneRouting};
use crate::endpoint::{EndpointState, EndpointTraits, Locality};

mod selection;

use selection::Tables;

/// What is known of an endpoint when a selection is built.
#[derive(Clone, Copy, Debug)]
pub struct BalancedEndpoint<'a> {
    /// What the cluster says of it.
    pub traits: &'a EndpointTraits,
    /// Its state.
    pub standing: Standing,
    /// Its weight: that of the cluster, or an operator's.
    pub weight: u32,
    /// The part of its weight that it has, in thousandths.
    pub part: u32,
}

/// What a selection is built from.
#[derive(Clone, Copy, Debug)]
pub struct BalancerInput<'a> {
    /// How endpoints are chosen.
    pub plan: &'a BalancingPlan,
    /// The membership.
    pub endpoints: &'a [Arc<EndpointState>],
    /// What is known of each.
    pub balanced: &'a [BalancedEndpoint<'a>],
    /// The processes of each zone, for zone-aware routing.
    pub fleet: &'a FleetZones,
}

/// Whether an endpoint can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Healthy,
    /// Only as far as healthy endpoints do not suffice.
    Degraded,
    /// No: unhealthy, ejected, or held back after it recovered.
    Unusable,
    /// No, by an operator's decision: it does not count, as if it had left.
    Withdrawn,
}

impl Standing {
    /// Whether an endpoint in this state takes traffic.
    pub const fn serves(self) -> bool {
        match self {
            Self::Healthy | Self::Degraded => true,
            Self::Unusable | Self::Withdrawn => false,
        }
    }
}

/// The endpoints that may be picked, and their shares of the traffic.
#[derive(Debug, Default)]
pub struct LoadBalancer {
    tiers: Box<[Tier]>,
    /// Those of a tier are neighbours, in the order of the tiers.
    parts: Box<[Part]>,
    /// Whether the balancer chooses by hash.
    hashes: bool,
    /// The shares, for the admin pages: of each priority that has endpoints, in order.
    pub shares: Box<[(u32, Share)]>,
    /// What zone-aware routing does in the highest priority, for the admin pages.
    pub zones: Option<ZoneRouting>,
    /// The tables of balancers that choose by hash, by priority: they do not depend on states.
    hash_tables: BTreeMap<u32, Arc<BalancerTable>>,
}

/// Endpoints of one priority in one state.
#[derive(Debug)]
struct Tier {
    priority: u32,
    accepts: Accepts,
    /// The indexes of its endpoints, in order.
    members: Box<[u32]>,
    /// At least one.
    parts: Range<usize>,
}

/// The endpoints of a tier in one locality; all of its endpoints, where localities are not told apart.
#[derive(Debug)]
struct Part {
    /// The traffic of this part and all before it, of [`TRAFFIC`].
    up_to: u64,
    tier: usize,
    /// Where localities are told apart.
    locality: Option<Arc<Locality>>,
    table: Arc<BalancerTable>,
}

/// The traffic of the endpoints of one priority, state and locality.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalityLoad {
    /// The priority.
    pub priority: u32,
    /// Whether these are the degraded endpoints.
    pub degraded: bool,
    /// The locality.
    pub locality: Arc<Locality>,
    /// Percent of the traffic of the cluster.
    pub percent: f64,
}

/// All traffic of a cluster.
const TRAFFIC: u64 = 1 << 32;

/// The position of a worker that chooses among the parts; that in the table of part 0 is the next.
const CHOICE: usize = 0;

/// The endpoints that a tier offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepts {
    Healthy,
    Degraded,
    /// In panic.
    All,
}

/// Why a pick finds no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Endpoints that could be used are at a limit.
    Full,
    /// No endpoint can be used.
    None,
}

/// What a pick asks of an endpoint, besides its state.
pub struct Openings<'a> {
    /// Whether it is at a limit.
    pub is_full: &'a dyn Fn(&EndpointState) -> bool,
    /// Whether it has been tried before; by its index as well.
    pub is_tried: &'a dyn Fn(u32, &EndpointState) -> bool,
}

/// What a pick takes from its worker.
pub struct Chooser<'a> {
    /// A random number below a bound.
    pub random: &'a mut dyn FnMut(usize) -> usize,
    /// The next of the worker's positions of this number.
    pub turn: &'a mut dyn FnMut(usize) -> usize,
    /// The hash of the connection.
    pub hash: Option<u64>,
    /// The load of all endpoints together.
    pub load: &'a dyn Fn() -> u64,
    /// The time.
    pub now: &'a dyn Fn() -> Moment,
    /// As in [`Pick`].
    pub failed: Option<&'a dyn Fn()>,
}

impl LoadBalancer {
    /// Builds the selection over `members`, which are indexes of endpoints in order. `old` is that of the same members
    /// before, if there is one.
    pub fn build(input: BalancerInput<'_>, members: &[u32], old: Option<&Self>) -> Self {
        let BalancerInput { plan, balanced, .. } = input;
        let mut levels: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for index in members {
            let priority = balanced[*index as usize].traits.priority;
            levels.entry(priority).or_default().push(*index);
        }
        let count = |members: &[u32], standing| {
            members.iter().filter(|index| balanced[**index as usize].standing == standing).count()
        };
        let censuses: Vec<Census> = levels
            .values()
            .map(|members| Census {
                all: members.len() - count(members, Standing::Withdrawn),
                healthy: count(members, Standing::Healthy),
                degraded: count(members, Standing::Degraded),
            })
            .collect();
        let shares = shares(&censuses, &plan.failover);
        let mut tables = Tables { input, old, hashes: BTreeMap::new(), zones: None };
        let healthy = levels.iter().zip(&shares).map(|((priority, level), share)| {
            let accepts = if share.panics { Accepts::All } else { Accepts::Healthy };
            (*priority, level, accepts, share.healthy)
        });
        let degraded = levels.iter().zip(&shares).filter(|(_, share)| !share.panics).map(
            |((priority, level), share)| (*priority, level, Accepts::Degraded, share.degraded),
        );
        let (mut tiers, mut parts) = (Vec::new(), Vec::new());
        let mut below = 0;
        for (priority, level, accepts, percent) in healthy.chain(degraded) {
            let members = tables.members(level, accepts);
            if !members.is_empty() {
                let tier = tiers.len();
                let start = parts.len();
                let tables = tables.of_tier(priority, accepts, level, &members);
                parts.extend(spread(tables, below, percent, tier));
                let members = members.into();
                tiers.push(Tier { priority, accepts, members, parts: start..parts.len() });
            }
            below += u64::from(percent);
        }
        let shares = levels.keys().copied().zip(shares).collect();
        let hashes = plan.balance.hashes();
        let Tables { hashes: hash_tables, zones, .. } = tables;
        Self { tiers: tiers.into(), parts: parts.into(), hashes, shares, zones, hash_tables }
    }

    /// The indexes of the endpoints that it offers.
    pub fn offered(&self) -> impl Iterator<Item = u32> {
        self.tiers.iter().flat_map(|tier| tier.members.iter().copied())
    }

    /// How many of the worker's positions it has.
    pub fn turns(&self) -> usize {
        if self.parts.len() < 2 { 1 } else { self.parts.len() + 1 }
    }

    /// The traffic of each locality, where they are told apart: for the admin pages.
    pub fn locality_loads(&self) -> Vec<LocalityLoad> {
        let mut below = 0;
        let load = |part: &Part| {
            let own = part.up_to - std::mem::replace(&mut below, part.up_to);
            let Tier { priority, accepts, .. } = self.tiers[part.tier];
            #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
            let percent = own as f64 * 100.0 / TRAFFIC as f64;
            let degraded = accepts == Accepts::Degraded;
            Some(LocalityLoad { priority, degraded, locality: part.locality.clone()?, percent })
        };
        self.parts.iter().filter_map(load).collect()
    }

    /// Whether some priority is in panic mode.
    pub fn panics(&self) -> bool {
        self.shares.iter().any(|(_, share)| share.panics)
    }

    /// Whether the endpoint with this index gets traffic: it can be used, and its priority has a share.
    pub fn offers(&self, index: u32, endpoint: &EndpointState) -> bool {
        let below = |part: usize| part.checked_sub(1).map_or(0, |part| self.parts[part].up_to);
        self.tiers.iter().any(|tier| {
            tier.accepts.takes(endpoint)
                && below(tier.parts.end) > below(tier.parts.start)
                && tier.members.binary_search(&index).is_ok()
        })
    }

    /// The index of an endpoint.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick(
        &self,
        endpoints: &[Arc<EndpointState>],
        openings: &Openings<'_>,
        chooser: &mut Chooser<'_>,
    ) -> Result<u32, Shortage> {
        let first = match &*self.parts {
            [] => return Err(Shortage::None),
            [_] => 0,
            parts => {
                // As connections with the same hash should meet, they also choose the same priority.
                let number = match chooser.hash.filter(|_| self.hashes) {
                    Some(hash) => hash,
                    // Multiples of the golden ratio are spread more evenly than random numbers, and cost less.
                    None => ((chooser.turn)(CHOICE) as u64).wrapping_mul(0x9e37_79b9),
                } % TRAFFIC;
                parts.iter().position(|part| number < part.up_to).unwrap_or(parts.len() - 1)
            }
        };
        let first_tier = self.parts[first].tier;
        if let Some(index) = self.pick_from(first, endpoints, openings, chooser) {
            return Ok(index);
        }
        let rest = self.tiers[first_tier].parts.clone().filter(|part| *part != first);
        let mut passed = first_tier;
        let others = (0..self.tiers.len()).filter(|tier| *tier != first_tier);
        let others = others.flat_map(|tier| self.tiers[tier].parts.clone());
        for part in rest.chain(others) {
            let tier = self.parts[part].tier;
            if tier != passed {
                self.tiers[passed].check_tried(endpoints, openings)?;
                passed = tier;
            }
            if let Some(index) = self.pick_from(part, endpoints, openings, chooser) {
                return Ok(index);
            }
        }
        self.tiers[passed].check_tried(endpoints, openings)?;
        Err(Shortage::None)
    }

    fn pick_from(
        &self,
        part: usize,
        endpoints: &[Arc<EndpointState>],
        openings: &Openings<'_>,
        chooser: &mut Chooser<'_>,
    ) -> Option<u32> {
        let Part { tier, table, .. } = &self.parts[part];
        let accepts = self.tiers[*tier].accepts;
        let may = |index: u32| {
            let endpoint = &*endpoints[index as usize];
            accepts.takes(endpoint)
                && !(openings.is_full)(endpoint)
                && !(openings.is_tried)(index, endpoint)
        };
        let turn_of = if self.parts.len() == 1 { CHOICE } else { part + 1 };
        let mut turn = || (chooser.turn)(turn_of);
        let mut pick = Pick {
            random: chooser.random,
            turn: &mut turn,
            hash: chooser.hash,
            may: &may,
            load: chooser.load,
            now: chooser.now,
            failed: chooser.failed,
        };
        table.pick(endpoints, &mut pick)
    }
}

impl Tier {
    /// Fails if an endpoint of this tier that was not tried could be used: it is at a limit.
    fn check_tried(
        &self,
        endpoints: &[Arc<EndpointState>],
        openings: &Openings<'_>,
    ) -> Result<(), Shortage> {
        let mut members = self.members.iter().map(|index| (*index, &*endpoints[*index as usize]));
        let is_open = |(index, endpoint)| {
            self.accepts.takes(endpoint) && !(openings.is_tried)(index, endpoint)
        };
        if members.any(is_open) { Err(Shortage::Full) } else { Ok(()) }
    }
}

impl Accepts {
    fn takes(self, endpoint: &EndpointState) -> bool {
        match self {
            Self::All => !endpoint.is_withdrawn(),
            Self::Healthy => endpoint.is_usable() && !endpoint.is_degraded(),
            Self::Degraded => endpoint.is_usable() && endpoint.is_degraded(),
        }
    }
}

/// A table over endpoints of one locality, where localities are told apart, and its weight.
struct LocalityTable {
    weight: u64,
    locality: Option<Arc<Locality>>,
    table: Arc<BalancerTable>,
}

/// Gives each table its part of the `percent` of a tier, by its weight.
fn spread(
    tables: Vec<LocalityTable>,
    below: u64,
    percent: u32,
    tier: usize,
) -> impl Iterator<Item = Part> {
    let total = tables.iter().map(|one| one.weight).sum::<u64>().max(1);
    let mut up_to = 0;
    tables.into_iter().map(move |LocalityTable { weight, locality, table }| {
        up_to += weight;
        let hundredths =
            u128::from(below) * u128::from(total) + u128::from(percent) * u128::from(up_to);
        let up_to = hundredths * u128::from(TRAFFIC) / (100 * u128::from(total));
        Part { up_to: u64::try_from(up_to).unwrap_or(TRAFFIC), tier, locality, table }
    })
}

#[cfg(test)]
mod tests;
