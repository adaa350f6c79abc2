//! Which cluster tells where the processes of this kind are.
//!
//! Owns: the links between clusters with zone-aware routing and the one that they go by. Refuses to know: what they
//! make of it. Keeps: a cluster that goes by another is told of each change of its endpoints and their states.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;

use super::Cluster;
use crate::balance::zones::FleetZones;
use crate::balance::{BalancingPlan, LocalityPlan};

/// The links of one cluster. For the control thread.
#[derive(Debug, Default)]
pub(super) struct FleetLinks {
    /// The cluster that this one goes by.
    of: ArcSwapOption<Cluster>,
    /// The clusters that go by this one.
    followers: Mutex<Vec<Weak<Cluster>>>,
}

impl Cluster {
    /// Sets the cluster whose endpoints are all processes of this kind. For the control thread.
    pub fn set_fleet(self: &Arc<Self>, fleet: Option<Arc<Self>>) {
        let old = self.fleet.of.swap(fleet.clone());
        if let Some(old) = &old {
            old.followers().retain(|known| !known.ptr_eq(&Arc::downgrade(self)));
        }
        if let Some(fleet) = fleet {
            fleet.followers().push(Arc::downgrade(self));
        }
    }

    /// The processes of each zone; none without zone-aware routing.
    pub(super) fn fleet_zones(&self, plan: &BalancingPlan) -> FleetZones {
        if !matches!(plan.localities, LocalityPlan::ZoneAware(_)) {
            return FleetZones::default();
        }
        let Some(fleet) = self.fleet.of.load_full() else { return FleetZones::default() };
        let members = fleet.members();
        FleetZones::of(&members.endpoints, &members.traits)
    }

    /// Has those that go by this cluster look at it again.
    pub(super) fn tell_followers(&self) {
        let followers = self.followers();
        followers.iter().filter_map(Weak::upgrade).for_each(|follower| follower.announce());
    }

    fn followers(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Self>>> {
        self.fleet.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use sluice_core::Clock;
    use sluice_io::WorkerCx;

    use super::super::tests::member;
    use super::super::{Affinity, ClusterHandle, Member, WhenFull};
    use super::*;
    use crate::balance::zones::{ZoneAwarePlan, ZoneRouting};
    use crate::endpoint::{EndpointTraits, Locality};
    use crate::plan::{ClusterPlan, ClusterSettings};

    fn zone(name: &str) -> Arc<Locality> {
        Arc::new(Locality { zone: name.into(), ..Locality::default() })
    }

    fn cluster(name: &str, localities: LocalityPlan) -> Arc<Cluster> {
        let balancing = BalancingPlan { localities, ..BalancingPlan::default() };
        let settings = ClusterSettings { balancing, ..(*ClusterSettings::bare()).clone() };
        let plan = ClusterPlan { name: name.into(), settings: Arc::new(settings), tls: None };
        Arc::new(Cluster::new(Arc::new(plan)))
    }

    fn aware(own: &str, routing: u8) -> LocalityPlan {
        let (own, fleet) = (zone(own), "fleet".into());
        LocalityPlan::ZoneAware(Arc::new(ZoneAwarePlan { own, fleet, endpoints_min: 6, routing }))
    }

    /// A member in each of these zones.
    fn members(zones: &str) -> Vec<Member> {
        let member = |(port, name): (u16, char)| {
            let locality = Some(zone(&name.to_string()));
            let traits = Arc::new(EndpointTraits { locality, ..EndpointTraits::default() });
            Member { traits, ..member(port) }
        };
        (1..).zip(zones.chars()).map(member).collect()
    }

    /// Of 1200 picks, how many each zone gets.
    fn picks(cluster: &Arc<Cluster>, handle: &Rc<ClusterHandle>, worker: &WorkerCx) -> Vec<usize> {
        let members = cluster.members();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for traits in &*members.traits {
            counts.entry(traits.locality.as_ref().unwrap().to_string()).or_default();
        }
        for _ in 0..1200 {
            let claim = handle.pick(worker, Affinity::default(), &[], WhenFull::Refuse).unwrap();
            let place = members.endpoints.iter().position(|of| Arc::ptr_eq(of, claim.endpoint()));
            let locality = members.traits[place.unwrap()].locality.as_ref().unwrap();
            *counts.get_mut(&locality.to_string()).unwrap() += 1;
        }
        counts.into_values().collect()
    }

    #[test]
    fn traffic_follows_the_processes_and_the_endpoints() {
        let worker = WorkerCx::solitary(Clock::held());
        let fleet = cluster("fleet", LocalityPlan::Ignored);
        let cluster = cluster("up", aware("a", 100));
        cluster.set_fleet(Some(Arc::clone(&fleet)));
        let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
        let picks = || picks(&cluster, &handle, &worker);
        let near = |counts: &[usize], expected: &[usize]| {
            counts.iter().zip(expected).all(|(count, expected)| count.abs_diff(*expected) <= 30)
        };
        cluster.publish(&members("aabbcc"));
        // Nobody knows where the processes are.
        assert!(near(&picks(), &[400, 400, 400]));
        fleet.publish(&members("abc"));
        cluster.rebalance();
        assert_eq!(picks(), [1200, 0, 0]);
        assert_eq!(cluster.members().balancer.zones, Some(ZoneRouting::Own(10_000)));

        // Two of four processes are here, but a third of the endpoints.
        fleet.publish(&members("aabc"));
        cluster.rebalance();
        let counts = picks();
        assert!(near(&counts, &[800, 200, 200]), "{counts:?}");
        fleet.members().endpoints[0].set_health(Err("refused"));
        fleet.rebalance();
        cluster.rebalance();
        assert_eq!(picks(), [1200, 0, 0]);

        // Fewer than six endpoints are healthy; a retry passes over those that failed in any zone.
        let endpoints = Arc::clone(&cluster.members().endpoints);
        let tried: Vec<Arc<str>> = endpoints[..2].iter().map(|of| Arc::clone(&of.name)).collect();
        let other = handle.pick(&worker, Affinity::default(), &tried, WhenFull::Refuse).unwrap();
        assert!(!tried.contains(&other.endpoint().name));
        endpoints[5].set_health(Err("refused"));
        cluster.rebalance();
        assert!(near(&picks(), &[480, 480, 240]));
        assert!(matches!(cluster.members().balancer.zones, Some(ZoneRouting::Off(_))));
    }

    #[test]
    fn a_part_of_the_traffic_may_ignore_zones() {
        let worker = WorkerCx::solitary(Clock::held());
        let fleet = cluster("fleet", LocalityPlan::Ignored);
        let cluster = cluster("up", aware("b", 50));
        cluster.set_fleet(Some(Arc::clone(&fleet)));
        fleet.publish(&members("abc"));
        cluster.publish(&members("aabbcc"));
        let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
        let counts = picks(&cluster, &handle, &worker);
        let near = |count: usize, expected: usize| count.abs_diff(expected) <= 30;
        assert!(near(counts[0], 200) && near(counts[1], 800), "{counts:?}");
    }

    #[test]
    fn who_goes_by_a_cluster_is_told_of_its_changes_until_it_no_longer_does() {
        let (fleet, follower) =
            (cluster("fleet", LocalityPlan::Ignored), cluster("up", aware("a", 100)));
        follower.set_fleet(Some(Arc::clone(&fleet)));
        follower.set_fleet(Some(Arc::clone(&fleet)));
        assert_eq!(fleet.followers().len(), 1);
        let told = || {
            let waker = std::task::Waker::noop();
            let mut changed = std::pin::pin!(follower.changed());
            let polled = changed.as_mut().poll(&mut std::task::Context::from_waker(waker));
            polled.is_ready()
        };
        assert!(!told());
        fleet.publish(&members("ab"));
        assert!(told());
        assert!(!told());
        fleet.members().endpoints[0].set_health(Err("refused"));
        fleet.rebalance();
        assert!(told());
        follower.set_fleet(None);
        fleet.publish(&members("a"));
        assert!(!told() && fleet.followers().is_empty());
    }
}
