//! Zone-aware routing: a process prefers the endpoints of its own zone, as far as every endpoint still gets its share.
//!
//! Owns: how much of the traffic of this process goes to each zone. Refuses to know: which processes there are; it is
//! told how many each zone has. Keeps: if all processes have the same traffic and go by the same numbers, every
//! endpoint gets the same. Source: Envoy, "Zone aware routing".

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_core::Name;

use crate::endpoint::{EndpointState, EndpointTraits, Locality};

/// Settings of zone-aware routing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ZoneAwarePlan {
    /// Where this process is.
    pub own: Arc<Locality>,
    /// The cluster whose endpoints are all processes of this kind.
    pub fleet: Name,
    /// The number of healthy endpoints below which zones are ignored.
    pub endpoints_min: u32,
    /// The share of the traffic that is routed by zones, in percent.
    pub routing: u8,
}

/// The healthy processes of each zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetZones(BTreeMap<Option<Arc<Locality>>, u64>);

/// What zone-aware routing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneRouting {
    /// Zones are ignored, for this reason.
    Off(&'static str),
    /// Of the traffic that is routed by zones, this much stays in the own one, in hundredths of a percent.
    Own(u32),
}

/// All of the traffic, in the unit of the weights of zones.
pub const WHOLE: u64 = 1_000_000;

impl FleetZones {
    /// Counts the healthy ones of the highest priority.
    pub fn of(endpoints: &[Arc<EndpointState>], traits: &[Arc<EndpointTraits>]) -> Self {
        let mut zones = BTreeMap::new();
        for (endpoint, traits) in endpoints.iter().zip(traits) {
            if traits.priority == 0 && endpoint.is_usable() && !endpoint.is_degraded() {
                *zones.entry(traits.locality.clone()).or_default() += 1;
            }
        }
        Self(zones)
    }

    fn count(&self, zone: Option<&Arc<Locality>>) -> u64 {
        self.0.iter().find(|(known, _)| known.as_ref() == zone).map_or(0, |(_, count)| *count)
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl ZoneAwarePlan {
    /// The weight of each zone, of [`WHOLE`], for the number of healthy endpoints that it has.
    ///
    /// # Errors
    /// Why zones are to be ignored.
    pub fn weights(
        &self,
        fleet: &FleetZones,
        healthy: &BTreeMap<Option<&Arc<Locality>>, u64>,
    ) -> Result<Vec<u64>, &'static str> {
        let own = Some(&self.own);
        let all: u64 = healthy.values().sum();
        let processes = fleet.total();
        if healthy.len() < 2 {
            return Err("all healthy endpoints are in one zone");
        }
        if all < u64::from(self.endpoints_min) {
            return Err("there are fewer healthy endpoints than `min_endpoints`");
        }
        if fleet.0.len() < 2 {
            return Err("all healthy processes are in one zone");
        }
        if fleet.count(own) == 0 {
            return Err("no healthy process is in the own zone");
        }
        // Shares of zones in endpoints and in processes, on a common scale.
        let of_endpoints = |count: u64| u128::from(count) * u128::from(processes);
        let of_processes =
            |zone: Option<&Arc<Locality>>| u128::from(fleet.count(zone)) * u128::from(all);
        let (here, wanted) =
            (of_endpoints(healthy.get(&own).copied().unwrap_or(0)), of_processes(own));
        let whole = u128::from(WHOLE);
        let stays = if here >= wanted { whole } else { whole * here / wanted };
        // What other zones can serve besides the traffic of their own processes.
        let spare = |zone: Option<&Arc<Locality>>, count: u64| {
            if zone == own { 0 } else { of_endpoints(count).saturating_sub(of_processes(zone)) }
        };
        let total: u128 = healthy.iter().map(|(zone, count)| spare(*zone, *count)).sum();
        let weight = |(zone, count): (&Option<&Arc<Locality>>, &u64)| {
            let weight = match (*zone == own, total) {
                (true, _) => stays,
                (false, 0) => 0,
                (false, total) => (whole - stays) * spare(*zone, *count) / total,
            };
            u64::try_from(weight).unwrap_or(WHOLE)
        };
        let weights: Vec<u64> = healthy.iter().map(weight).collect();
        if weights.iter().all(|weight| *weight == 0) {
            return Err("no zone has endpoints to spare");
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(number: u8) -> Arc<Locality> {
        Arc::new(Locality { zone: format!("z{number}").into(), ..Locality::default() })
    }

    fn plan(own: u8, endpoints_min: u32) -> ZoneAwarePlan {
        ZoneAwarePlan { own: zone(own), fleet: "fleet".into(), endpoints_min, routing: 100 }
    }

    fn fleet(counts: &[u64]) -> FleetZones {
        let counts = (0..).zip(counts).filter(|(_, count)| **count > 0);
        FleetZones(counts.map(|(number, count)| (Some(zone(number)), *count)).collect())
    }

    /// The percentages of the traffic of a process in zone `own` for each zone with endpoints.
    fn shares(own: u8, processes: &[u64], endpoints: &[u64]) -> Result<Vec<f64>, &'static str> {
        let zones: Vec<Arc<Locality>> = (0..).zip(endpoints).map(|(n, _)| zone(n)).collect();
        let healthy = zones.iter().zip(endpoints).filter(|(_, count)| **count > 0);
        let healthy = healthy.map(|(zone, count)| (Some(zone), *count)).collect();
        let weights = plan(own, 6).weights(&fleet(processes), &healthy)?;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let percent = |weight: u64| weight as f64 * 100.0 / WHOLE as f64;
        Ok(weights.into_iter().map(percent).collect())
    }

    #[test]
    fn traffic_stays_as_far_as_the_zone_can_serve_it() {
        for (own, processes, endpoints, expected) in [
            // As many endpoints as processes, in parts: everything stays.
            (0, [1, 1, 1], [2, 2, 2], [100.0, 0.0, 0.0]),
            (0, [1, 1, 1], [4, 1, 1], [100.0, 0.0, 0.0]),
            // A zone with half of what it needs sends the other half to the one that has more.
            (1, [1, 1, 1], [3, 1, 2], [50.0, 50.0, 0.0]),
            // The example in the documentation of Envoy, by parts of what is left elsewhere.
            (0, [5, 3, 2], [2, 4, 4], [40.0, 20.0, 40.0]),
        ] {
            let shares = shares(own, &processes, &endpoints).unwrap();
            for (share, expected) in shares.iter().zip(expected) {
                assert!(
                    (share - expected).abs() < 0.001,
                    "{processes:?} {endpoints:?}: {shares:?}"
                );
            }
        }
    }

    #[test]
    fn zones_are_ignored_where_they_would_do_harm() {
        for (own, processes, endpoints, expected) in [
            (0, [1, 1, 1], [9, 0, 0], "all healthy endpoints are in one zone"),
            (0, [1, 1, 1], [3, 2, 0], "there are fewer healthy endpoints than `min_endpoints`"),
            (0, [4, 0, 0], [3, 3, 3], "all healthy processes are in one zone"),
            (0, [0, 2, 2], [3, 3, 3], "no healthy process is in the own zone"),
        ] {
            assert_eq!(shares(own, &processes, &endpoints), Err(expected));
        }
        // Without endpoints in the own zone, everything leaves.
        assert_eq!(shares(0, &[1, 1, 1], &[0, 3, 3]).unwrap(), [50.0, 50.0]);
    }

    /// If all processes go by the same numbers, each zone gets as much as it has endpoints; a process sends nothing away
    /// that its zone can serve.
    #[test]
    fn every_endpoint_gets_the_same_from_all_processes_together() {
        let mut checked = 0;
        for seed in 0..2000 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let count = rng.usize(2..6);
            let processes: Vec<u64> = (0..count).map(|_| rng.u64(1..20)).collect();
            let endpoints: Vec<u64> = (0..count).map(|_| rng.u64(1..40)).collect();
            let (all, total): (u64, u64) = (endpoints.iter().sum(), processes.iter().sum());
            if all < 6 {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let part = |count: u64, all: u64| count as f64 * 100.0 / all as f64;
            let mut gets = vec![0.0; count];
            for own in 0..count {
                let of_processes = part(processes[own], total);
                let shares = shares(u8::try_from(own).unwrap(), &processes, &endpoints).unwrap();
                assert!(
                    (shares.iter().sum::<f64>() - 100.0).abs() < 0.01,
                    "seed {seed}: {shares:?}"
                );
                let enough = part(endpoints[own], all) >= of_processes;
                assert_eq!((shares[own] - 100.0).abs() < 1e-9, enough, "seed {seed}: {shares:?}");
                for (gets, share) in gets.iter_mut().zip(shares) {
                    *gets += of_processes * share / 100.0;
                }
            }
            for (gets, endpoints) in gets.iter().zip(&endpoints) {
                assert!((gets - part(*endpoints, all)).abs() < 0.01, "seed {seed}: {gets:?}");
            }
            checked += 1;
        }
        assert!(checked > 1900);
    }

    #[test]
    fn only_healthy_processes_of_the_highest_priority_count() {
        use crate::endpoint::Target;
        let endpoints: Vec<Arc<EndpointState>> = (1..=5_u16)
            .map(|port| {
                Arc::new(EndpointState::new(Target::Ip(([127, 0, 0, 1], port).into()), None))
            })
            .collect();
        let traits: Vec<Arc<EndpointTraits>> = [0, 0, 0, 1, 0]
            .into_iter()
            .zip([0, 0, 1, 1, 1])
            .map(|(priority, number)| EndpointTraits {
                priority,
                locality: Some(zone(number)),
                ..EndpointTraits::default()
            })
            .map(Arc::new)
            .collect();
        assert_eq!(FleetZones::of(&endpoints, &traits), fleet(&[2, 2]));
        endpoints[0].set_health(Err("refused"));
        endpoints[4].set_degraded(true);
        assert_eq!(FleetZones::of(&endpoints, &traits), fleet(&[1, 1]));
    }
}
