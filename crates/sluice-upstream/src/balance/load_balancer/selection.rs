//! The tables of a selection, and which endpoints are in them.
//!
//! Owns: what a tier offers, and how it is divided by localities and zones. Refuses to know: how traffic is divided among
//! tiers. Keeps: a table by hash does not depend on states.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::tables::{BalancerTable, Weighted};
use super::super::zones::{self, ZoneAwarePlan, ZoneRouting};
use super::super::{LocalityPlan, OVERPROVISIONING};
use super::{Accepts, BalancedEndpoint, BalancerInput, LoadBalancer, LocalityTable, Standing};
use crate::endpoint::Locality;

/// The tables of a selection, while it is built.
pub(super) struct Tables<'a> {
    pub(super) input: BalancerInput<'a>,
    pub(super) old: Option<&'a LoadBalancer>,
    pub(super) hashes: BTreeMap<u32, Arc<BalancerTable>>,
    pub(super) zones: Option<ZoneRouting>,
}

impl<'a> Tables<'a> {
    /// Those of `level` that a tier offers: within the aperture, and of localities with a weight, if any has one.
    pub(super) fn members(&self, level: &[u32], accepts: Accepts) -> Vec<u32> {
        let offered = |index: &&u32| {
            let standing = self.input.balanced[**index as usize].standing;
            match accepts {
                Accepts::Healthy => standing == Standing::Healthy,
                Accepts::Degraded => standing == Standing::Degraded,
                Accepts::All => standing != Standing::Withdrawn,
            }
        };
        let mut members: Vec<u32> = level.iter().filter(offered).copied().collect();
        let BalancerInput { plan, endpoints, .. } = self.input;
        if plan.localities == LocalityPlan::Weighted {
            let has_weight =
                |index: &u32| self.input.balanced[*index as usize].traits.locality_weight > 0;
            // The table of a hash does not depend on states, nor do the localities in it.
            let weighted = if plan.balance.hashes() { level } else { &members };
            if weighted.iter().any(has_weight) {
                members.retain(has_weight);
            }
        }
        match &plan.aperture {
            None => members,
            Some(aperture) => aperture.choose(endpoints, members),
        }
    }

    /// The tables over `members` of a level, by locality, each with its weight.
    pub(super) fn of_tier(
        &mut self,
        priority: u32,
        accepts: Accepts,
        level: &[u32],
        members: &[u32],
    ) -> Vec<LocalityTable> {
        let BalancerInput { plan, endpoints, .. } = self.input;
        if plan.balance.hashes() {
            let table = self.hash_table(priority, level);
            return vec![LocalityTable { weight: 1, locality: None, table }];
        }
        let localities = match &plan.localities {
            LocalityPlan::Ignored => Vec::new(),
            LocalityPlan::Weighted => self.locality_weights(level, members),
            LocalityPlan::ZoneAware(plan) if priority == 0 => {
                self.zone_weights(plan, accepts, members)
            }
            LocalityPlan::ZoneAware(_) => Vec::new(),
        };
        // Without any weight, localities are not told apart.
        let parts = if localities.is_empty() { vec![(1, members.to_vec())] } else { localities };
        let is_told_apart = plan.localities != LocalityPlan::Ignored;
        let table = |(weight, members): (u64, Vec<u32>)| {
            let of = self.locality(members[0]);
            // Without weights, this is the table of all localities.
            let is_one = is_told_apart && members.iter().all(|index| self.locality(*index) == of);
            let locality = is_one.then(|| of.cloned().unwrap_or_default());
            let chosen = members.iter().map(|index| self.weighted(*index)).collect();
            let table = BalancerTable::build(&plan.balance, endpoints, chosen);
            LocalityTable { weight, locality, table: Arc::new(table) }
        };
        parts.into_iter().map(table).collect()
    }

    fn weighted(&self, index: u32) -> Weighted {
        let BalancedEndpoint { weight, part, .. } = self.input.balanced[index as usize];
        Weighted { index, weight: u64::from(weight) * u64::from(part) }
    }

    /// The zones with a weight, and all members last: for traffic that is not routed by zones, and for what the
    /// endpoints of its zone have failed. Nothing if zones are ignored.
    fn zone_weights(
        &mut self,
        plan: &ZoneAwarePlan,
        accepts: Accepts,
        members: &[u32],
    ) -> Vec<(u64, Vec<u32>)> {
        match accepts {
            Accepts::Healthy => {}
            Accepts::Degraded => return Vec::new(),
            Accepts::All => {
                self.zones = Some(ZoneRouting::Off("panic mode"));
                return Vec::new();
            }
        }
        let mut zones: BTreeMap<Option<&Arc<Locality>>, Vec<u32>> = BTreeMap::new();
        for index in members {
            zones.entry(self.locality(*index)).or_default().push(*index);
        }
        let counts = zones.iter().map(|(zone, members)| (*zone, members.len() as u64)).collect();
        let weights = match plan.weights(self.input.fleet, &counts) {
            Ok(weights) => weights,
            Err(why) => {
                self.zones = Some(ZoneRouting::Off(why));
                return Vec::new();
            }
        };
        let own = counts.keys().position(|zone| *zone == Some(&plan.own));
        let stays = own.map_or(0, |own| weights[own] / (zones::WHOLE / 10_000));
        self.zones = Some(ZoneRouting::Own(u32::try_from(stays).unwrap_or(0)));
        let routed = u64::from(plan.routing.min(100));
        let all = (zones::WHOLE * (100 - routed), members.to_vec());
        let zones = zones.into_values().zip(weights);
        let zones = zones.filter(|(_, weight)| *weight > 0);
        zones.map(|(members, weight)| (weight * routed, members)).chain([all]).collect()
    }

    /// The localities with members and a weight. A locality keeps its weight until too few of its endpoints are usable;
    /// then it has the part that they can serve. Source: Envoy, "Locality weighted load balancing".
    fn locality_weights(&self, level: &[u32], members: &[u32]) -> Vec<(u64, Vec<u32>)> {
        let factor =
            u64::from(self.input.plan.failover.overprovisioning.unwrap_or(OVERPROVISIONING));
        let mut all: BTreeMap<Option<&Arc<Locality>>, u64> = BTreeMap::new();
        for index in level {
            let counts = self.input.balanced[*index as usize].standing != Standing::Withdrawn;
            *all.entry(self.locality(*index)).or_default() += u64::from(counts);
        }
        let mut usable: BTreeMap<Option<&Arc<Locality>>, Vec<u32>> = BTreeMap::new();
        for index in members {
            usable.entry(self.locality(*index)).or_default().push(*index);
        }
        let weighted = usable.into_iter().map(|(locality, members)| {
            let weight = self.input.balanced[members[0] as usize].traits.locality_weight;
            let served = (members.len() as u64 * factor / all[&locality]).min(100);
            (u64::from(weight) * served, members)
        });
        weighted.filter(|(weight, _)| *weight > 0).collect()
    }

    fn locality(&self, index: u32) -> Option<&'a Arc<Locality>> {
        self.input.balanced[index as usize].traits.locality.as_ref()
    }

    /// The table over all endpoints of a level, whatever their states: a pick passes over those that cannot be used, so
    /// that a change of state moves no hash between the others.
    fn hash_table(&mut self, priority: u32, level: &[u32]) -> Arc<BalancerTable> {
        let known = self.old.and_then(|old| old.hash_tables.get(&priority));
        let made = self.hashes.get(&priority).or(known).cloned();
        let table = made.unwrap_or_else(|| {
            let chosen = self.hash_weights(level);
            let BalancerInput { plan, endpoints, .. } = self.input;
            Arc::new(BalancerTable::build(&plan.balance, endpoints, chosen))
        });
        self.hashes.insert(priority, Arc::clone(&table));
        table
    }

    /// The weights of a level's endpoints on a ring: each locality has its weight, if they are told apart.
    fn hash_weights(&self, level: &[u32]) -> Vec<Weighted> {
        /// The resolution of the part that an endpoint has in its locality.
        const SCALE: u64 = 1 << 16;
        let of = |index: u32| &self.input.balanced[index as usize];
        let mut totals: BTreeMap<Option<&Arc<Locality>>, u64> = BTreeMap::new();
        let has_weight = level.iter().any(|index| of(*index).traits.locality_weight > 0);
        if self.input.plan.localities == LocalityPlan::Weighted && has_weight {
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
