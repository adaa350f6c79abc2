//! The endpoints that may be picked now, by priority, state and locality.
//!
//! Owns: which tables there are and how much of the traffic each gets, as of the last change of an endpoint's state.
//! Refuses to know: limits, and which endpoints a connection has tried. Keeps: a pick goes to another priority only if
//! those endpoints that its own can offer were tried, not if they are at a limit; each table has a position of its own in
//! every worker.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::priorities::{Census, Share, shares};
use super::tables::{BalancerTable, Pick, Weighted};
use super::{BalancingPlan, LocalityPlan, OVERPROVISIONING};
use crate::endpoint::{EndpointState, EndpointTraits, Locality};

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
    /// The tables of balancers that choose by hash, by priority: they do not depend on states.
    hash_tables: BTreeMap<u32, Arc<BalancerTable>>,
}

/// Endpoints of one priority in one state.
#[derive(Debug)]
struct Tier {
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
    table: Arc<BalancerTable>,
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
}

impl LoadBalancer {
    /// Builds the selection over all endpoints. `old` is that of the same membership before, if there is one.
    pub fn build(
        plan: &BalancingPlan,
        endpoints: &[Arc<EndpointState>],
        balanced: &[BalancedEndpoint<'_>],
        old: Option<&Self>,
    ) -> Self {
        let mut levels: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (index, one) in (0_u32..).zip(balanced) {
            levels.entry(one.traits.priority).or_default().push(index);
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
        let mut tables = Tables { plan, endpoints, balanced, old, hashes: BTreeMap::new() };
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
                let tables = tables.of_tier(priority, level, &members);
                parts.extend(spread(tables, below, percent, tier));
                tiers.push(Tier { accepts, members, parts: start..parts.len() });
            }
            below += u64::from(percent);
        }
        let shares = levels.keys().copied().zip(shares).collect();
        let hashes = plan.balance.hashes();
        let hash_tables = tables.hashes;
        Self { tiers: tiers.into(), parts: parts.into(), hashes, shares, hash_tables }
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

/// Gives each table its part of the `percent` of a tier, by its weight.
fn spread(
    tables: Vec<(u64, Arc<BalancerTable>)>,
    below: u64,
    percent: u32,
    tier: usize,
) -> impl Iterator<Item = Part> {
    let total = tables.iter().map(|(weight, _)| *weight).sum::<u64>().max(1);
    let mut up_to = 0;
    tables.into_iter().map(move |(weight, table)| {
        up_to += weight;
        let hundredths =
            u128::from(below) * u128::from(total) + u128::from(percent) * u128::from(up_to);
        let up_to = hundredths * u128::from(TRAFFIC) / (100 * u128::from(total));
        Part { up_to: u64::try_from(up_to).unwrap_or(TRAFFIC), tier, table }
    })
}

/// The tables of a selection, while it is built.
struct Tables<'a> {
    plan: &'a BalancingPlan,
    endpoints: &'a [Arc<EndpointState>],
    balanced: &'a [BalancedEndpoint<'a>],
    old: Option<&'a LoadBalancer>,
    hashes: BTreeMap<u32, Arc<BalancerTable>>,
}

impl Tables<'_> {
    /// Those of `level` that a tier offers.
    fn members(&self, level: &[u32], accepts: Accepts) -> Box<[u32]> {
        let offered = |index: &&u32| {
            let standing = self.balanced[**index as usize].standing;
            match accepts {
                Accepts::Healthy => standing == Standing::Healthy,
                Accepts::Degraded => standing == Standing::Degraded,
                Accepts::All => standing != Standing::Withdrawn,
            }
        };
        level.iter().filter(offered).copied().collect()
    }

    /// The tables over `members` of a level, by locality, each with its weight.
    fn of_tier(
        &mut self,
        priority: u32,
        level: &[u32],
        members: &[u32],
    ) -> Vec<(u64, Arc<BalancerTable>)> {
        if self.plan.balance.hashes() {
            return vec![(1, self.hash_table(priority, level))];
        }
        let localities = self.localities(level, members).into_iter();
        let table = |(weight, members): (u64, Vec<u32>)| {
            let chosen = members.iter().map(|index| self.weighted(*index)).collect();
            let table = BalancerTable::build(&self.plan.balance, self.endpoints, chosen);
            (weight, Arc::new(table))
        };
        localities.map(table).collect()
    }

    fn weighted(&self, index: u32) -> Weighted {
        let BalancedEndpoint { weight, part, .. } = self.balanced[index as usize];
        Weighted { index, weight: u64::from(weight) * u64::from(part) }
    }

    /// `members` of a level by locality, each with its weight.
    fn localities(&self, level: &[u32], members: &[u32]) -> Vec<(u64, Vec<u32>)> {
        let weights = match self.plan.localities {
            LocalityPlan::Ignored => Vec::new(),
            LocalityPlan::Weighted => self.locality_weights(level, members),
        };
        // Without any weight, localities are not told apart.
        if weights.is_empty() { vec![(1, members.to_vec())] } else { weights }
    }

    /// The localities with members and a weight. A locality keeps its weight until too few of its endpoints are usable;
    /// then it has the part that they can serve. Source: Envoy, "Locality weighted load balancing".
    fn locality_weights(&self, level: &[u32], members: &[u32]) -> Vec<(u64, Vec<u32>)> {
        let factor = u64::from(self.plan.failover.overprovisioning.unwrap_or(OVERPROVISIONING));
        let mut all: BTreeMap<Option<&Arc<Locality>>, u64> = BTreeMap::new();
        for index in level {
            let counts = self.balanced[*index as usize].standing != Standing::Withdrawn;
            *all.entry(self.locality(*index)).or_default() += u64::from(counts);
        }
        let mut usable: BTreeMap<Option<&Arc<Locality>>, Vec<u32>> = BTreeMap::new();
        for index in members {
            usable.entry(self.locality(*index)).or_default().push(*index);
        }
        let weighted = usable.into_iter().map(|(locality, members)| {
            let weight = self.balanced[members[0] as usize].traits.locality_weight;
            let served = (members.len() as u64 * factor / all[&locality]).min(100);
            (u64::from(weight) * served, members)
        });
        weighted.filter(|(weight, _)| *weight > 0).collect()
    }

    fn locality(&self, index: u32) -> Option<&Arc<Locality>> {
        self.balanced[index as usize].traits.locality.as_ref()
    }

    /// The table over all endpoints of a level, whatever their states: a pick passes over those that cannot be used, so
    /// that a change of state moves no hash between the others.
    fn hash_table(&mut self, priority: u32, level: &[u32]) -> Arc<BalancerTable> {
        let known = self.old.and_then(|old| old.hash_tables.get(&priority));
        let made = self.hashes.get(&priority).or(known).cloned();
        let table = made.unwrap_or_else(|| {
            let chosen = self.hash_weights(level);
            Arc::new(BalancerTable::build(&self.plan.balance, self.endpoints, chosen))
        });
        self.hashes.insert(priority, Arc::clone(&table));
        table
    }

    /// The weights of a level's endpoints on a ring: each locality has its weight, if they are told apart.
    fn hash_weights(&self, level: &[u32]) -> Vec<Weighted> {
        /// The resolution of the part that an endpoint has in its locality.
        const SCALE: u64 = 1 << 16;
        let of = |index: u32| &self.balanced[index as usize];
        let mut totals: BTreeMap<Option<&Arc<Locality>>, u64> = BTreeMap::new();
        let has_weight = level.iter().any(|index| of(*index).traits.locality_weight > 0);
        if self.plan.localities == LocalityPlan::Weighted && has_weight {
            for index in level {
                *totals.entry(self.locality(*index)).or_default() += u64::from(of(*index).weight);
            }
        }
        let weighted = level.iter().map(|index| {
            let BalancedEndpoint { traits, weight, .. } = of(*index);
            let own = u64::from(*weight);
            let weight = match totals.get(&self.locality(*index)) {
                Some(total) => (own * SCALE / total).max(1) * u64::from(traits.locality_weight),
                None => own,
            };
            Weighted { index: *index, weight }
        });
        weighted.filter(|one| one.weight > 0).collect()
    }
}

#[cfg(test)]
mod tests;
