//! What a cluster remembers of its endpoints from one selection to the next.
//!
//! Owns: since when an endpoint is usable, for slow start; when a priority that failed may have its traffic back.
//! Refuses to know: which endpoints the selection makes of it. Keeps: a priority is held back only while another
//! one has a usable endpoint; what is remembered of an endpoint goes when it leaves.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::time::Instant;

use crate::balance::load_balancer::{BalancedEndpoint, Standing};
use crate::balance::load_reports::ReportedLoads;
use crate::balance::slow_start::WHOLE;
use crate::balance::zones::FleetZones;
use crate::balance::{BalancePlan, BalancingPlan};
use crate::endpoint::{EndpointState, EndpointTraits};

/// The memory of one cluster.
#[derive(Debug, Default)]
pub(super) struct Standings {
    /// Of each endpoint of the membership: its state, and the part of its weight that it has in slow start.
    current: Vec<(Standing, u32)>,
    /// The weight of each: that of the cluster, or an operator's.
    weights: Vec<u32>,
    /// When usable endpoints became so; `None` for those that were there from the start. Empty without slow start.
    usable_since: HashMap<Arc<str>, Option<Instant>>,
    /// What endpoints report of their load. Empty unless the balancer goes by it.
    reports: ReportedLoads,
    /// Of each priority that has had a usable endpoint. Empty without a delay.
    priorities: BTreeMap<u32, Service>,
    /// The processes of each zone, as of the last selection.
    pub(super) fleet: FleetZones,
}

/// Whether a priority serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Serving,
    /// None of its endpoints is usable.
    Failed,
    /// One is usable again; the priority is held back until then.
    Returning(Instant),
}

/// The outcome of [`Standings::follow`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Followed {
    /// The endpoints that have another state or weight than before, in order.
    pub(super) changed: Vec<u32>,
    /// Whether any has another weight, apart from slow start.
    pub(super) reweighted: bool,
    /// When time alone will change one.
    pub(super) again_at: Option<Instant>,
}

impl Standings {
    /// Looks at the states of all endpoints.
    pub(super) fn follow(
        &mut self,
        plan: &BalancingPlan,
        endpoints: &[Arc<EndpointState>],
        traits: &[Arc<EndpointTraits>],
        now: Instant,
    ) -> Followed {
        let mut next: Vec<(Standing, u32)> =
            endpoints.iter().map(|endpoint| (standing_of(endpoint), WHOLE)).collect();
        let returns = self.hold_back(plan, traits, &mut next, now);
        let warmer = self.warm(plan, endpoints, &mut next, now);
        let weights: Vec<u32> = endpoints.iter().zip(traits).map(weight_of).collect();
        let (weights, reported) = self.weigh(plan, endpoints, weights, now);
        let reweighted = weights != self.weights;
        let is_same = |place: usize| {
            self.current.get(place) == Some(&next[place])
                && self.weights.get(place) == Some(&weights[place])
        };
        let changed =
            (0_u32..).zip(0..next.len()).filter(|(_, place)| !is_same(*place)).map(|(n, _)| n);
        let changed = changed.collect();
        self.current = next;
        self.weights = weights;
        let again_at = returns.into_iter().chain(warmer).chain(reported).min();
        Followed { changed, reweighted, again_at }
    }

    /// The endpoints as they were last seen.
    pub(super) fn balanced<'a>(
        &self,
        traits: &'a [Arc<EndpointTraits>],
    ) -> Vec<BalancedEndpoint<'a>> {
        let all = traits.iter().zip(&self.current).zip(&self.weights);
        all.map(|((traits, (standing, part)), weight)| BalancedEndpoint {
            traits,
            standing: *standing,
            weight: *weight,
            part: *part,
        })
        .collect()
    }

    /// The part of its weight, in thousandths, that the endpoint at this place of the membership has.
    pub(super) fn part(&self, place: usize) -> Option<u32> {
        self.current.get(place).filter(|(standing, _)| standing.serves()).map(|(_, part)| *part)
    }

    /// Until when a priority is held back, if it is.
    pub(super) fn held_back(&self, priority: u32) -> Option<Instant> {
        match self.priorities.get(&priority) {
            Some(Service::Returning(at)) => Some(*at),
            Some(Service::Serving | Service::Failed) | None => None,
        }
    }

    /// Weighs endpoints by what they report, if the balancer goes by it. Returns when they are to be weighed again.
    fn weigh(
        &mut self,
        plan: &BalancingPlan,
        endpoints: &[Arc<EndpointState>],
        own: Vec<u32>,
        now: Instant,
    ) -> (Vec<u32>, Option<Instant>) {
        let BalancePlan::LoadReports(plan) = &plan.balance else {
            self.reports = ReportedLoads::default();
            return (own, None);
        };
        let reported = endpoints.iter().map(|endpoint| (&endpoint.name, endpoint.reported()));
        let next = self.reports.update(plan, reported, now);
        let names = endpoints.iter().map(|endpoint| &endpoint.name);
        (self.reports.weigh(names, own), Some(next))
    }

    /// Makes endpoints of priorities unusable that have failed and may not have their traffic back yet. Returns when the
    /// first of them may.
    fn hold_back(
        &mut self,
        plan: &BalancingPlan,
        traits: &[Arc<EndpointTraits>],
        next: &mut [(Standing, u32)],
        now: Instant,
    ) -> Option<Instant> {
        let delay = plan.failover.failback_delay;
        if delay.is_zero() {
            self.priorities.clear();
            return None;
        }
        let mut usable: BTreeMap<u32, bool> = BTreeMap::new();
        for (traits, (standing, _)) in traits.iter().zip(&*next) {
            *usable.entry(traits.priority).or_default() |= standing.serves();
        }
        self.priorities.retain(|priority, _| usable.contains_key(priority));
        for (priority, usable) in &usable {
            let known = self.priorities.get(priority).copied();
            let service = match (known, usable) {
                (None, false) => continue,
                (Some(_), false) => Service::Failed,
                (None | Some(Service::Serving), true) => Service::Serving,
                (Some(Service::Failed), true) => Service::Returning(now + delay),
                (Some(Service::Returning(at)), true) if at <= now => Service::Serving,
                (Some(Service::Returning(at)), true) => Service::Returning(at),
            };
            self.priorities.insert(*priority, service);
        }
        if !self.priorities.values().any(|service| *service == Service::Serving) {
            // No other priority can serve meanwhile.
            for service in self.priorities.values_mut() {
                if matches!(service, Service::Returning(_)) {
                    *service = Service::Serving;
                }
            }
        }
        for (traits, (standing, _)) in traits.iter().zip(next) {
            if standing.serves() && self.held_back(traits.priority).is_some() {
                *standing = Standing::Unusable;
            }
        }
        usable.keys().filter_map(|priority| self.held_back(*priority)).min()
    }

    /// Lowers the weights of endpoints in slow start. Returns when they are to grow.
    fn warm(
        &mut self,
        plan: &BalancingPlan,
        endpoints: &[Arc<EndpointState>],
        next: &mut [(Standing, u32)],
        now: Instant,
    ) -> Option<Instant> {
        let Some(plan) = &plan.slow_start else {
            self.usable_since.clear();
            return None;
        };
        // When a cluster starts, all its endpoints do.
        let since = if self.current.is_empty() { None } else { Some(now) };
        let old = std::mem::take(&mut self.usable_since);
        let mut any = false;
        for (endpoint, (standing, part)) in endpoints.iter().zip(next) {
            if !standing.serves() {
                continue;
            }
            let since = old.get(&endpoint.name).copied().unwrap_or(since);
            self.usable_since.insert(Arc::clone(&endpoint.name), since);
            if let Some(since) = since {
                *part = plan.part(now.saturating_duration_since(since));
                any |= *part < WHOLE;
            }
        }
        any.then(|| now + plan.step())
    }
}

fn standing_of(endpoint: &EndpointState) -> Standing {
    if endpoint.is_withdrawn() {
        return Standing::Withdrawn;
    }
    match (endpoint.is_usable(), endpoint.is_degraded()) {
        (false, _) => Standing::Unusable,
        (true, false) => Standing::Healthy,
        (true, true) => Standing::Degraded,
    }
}

fn weight_of((endpoint, traits): (&Arc<EndpointState>, &Arc<EndpointTraits>)) -> u32 {
    endpoint.weight_override().map_or(traits.weight, NonZeroU32::get)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::balance::{FailoverPlan, SlowStartPlan};
    use crate::endpoint::Target;
    use crate::overrides::OverrideAction;

    fn endpoints(count: u16) -> Vec<Arc<EndpointState>> {
        let target = |port| Target::Ip(([127, 0, 0, 1], port).into());
        (1..=count).map(|port| Arc::new(EndpointState::new(target(port), None))).collect()
    }

    fn of_priority(priority: u32) -> Arc<EndpointTraits> {
        Arc::new(EndpointTraits { priority, ..EndpointTraits::default() })
    }

    fn set(endpoint: &EndpointState, usable: bool) {
        endpoint.set_health(if usable { Ok(()) } else { Err("refused") });
    }

    /// `H`ealthy, `D`egraded or `U`nusable, for each endpoint.
    fn states(standings: &Standings) -> String {
        let letter = |(standing, _): &(Standing, u32)| match standing {
            Standing::Healthy => 'H',
            Standing::Degraded => 'D',
            Standing::Unusable => 'U',
            Standing::Withdrawn => 'W',
        };
        standings.current.iter().map(letter).collect()
    }

    #[test]
    fn a_priority_that_failed_is_held_back_while_another_serves() {
        let delay = Duration::from_secs(10);
        let failover = FailoverPlan { failback_delay: delay, ..FailoverPlan::default() };
        let plan = BalancingPlan { failover, ..BalancingPlan::default() };
        let all = endpoints(3);
        let traits = [of_priority(0), of_priority(0), of_priority(1)];
        let (mut standings, start) = (Standings::default(), Instant::now());
        let mut at = |seconds: u64, usable: [bool; 3]| {
            all.iter().zip(usable).for_each(|(endpoint, usable)| set(endpoint, usable));
            let now = start + Duration::from_secs(seconds);
            let followed = standings.follow(&plan, &all, &traits, now);
            let again = followed.again_at.map(|at| (at - start).as_secs());
            (states(&standings), again)
        };
        for (seconds, usable, expected, again) in [
            (0, [false, false, true], "UUH", None),
            // It has not served yet, so that it need not come back.
            (1, [true, true, true], "HHH", None),
            (2, [false, true, true], "UHH", None),
            (3, [true, true, true], "HHH", None),
            (4, [false, false, true], "UUH", None),
            (5, [true, false, true], "UUH", Some(15)),
            (14, [true, true, true], "UUH", Some(15)),
            (15, [true, true, true], "HHH", None),
            // The delay begins again with each failure.
            (20, [false, false, true], "UUH", None),
            (21, [true, false, true], "UUH", Some(31)),
            (22, [false, false, true], "UUH", None),
            (30, [true, false, true], "UUH", Some(40)),
            // The other fails as well: nobody waits.
            (31, [true, false, false], "HUU", None),
            (32, [true, false, true], "HUU", Some(42)),
        ] {
            assert_eq!(at(seconds, usable), (expected.to_owned(), again), "{seconds} s");
        }
    }

    #[test]
    fn those_who_join_or_recover_start_slowly() {
        let slow =
            SlowStartPlan { window: Duration::from_secs(100), aggression: 1000, weight_min: 10 };
        let plan = BalancingPlan { slow_start: Some(slow), ..BalancingPlan::default() };
        let all = endpoints(3);
        let traits = vec![Arc::<EndpointTraits>::default(); 3];
        let (mut standings, start) = (Standings::default(), Instant::now());
        let mut at = |seconds: u64, count: usize| {
            let now = start + Duration::from_secs(seconds);
            let followed = standings.follow(&plan, &all[..count], &traits[..count], now);
            let parts: Vec<u32> = standings.current.iter().map(|(_, part)| *part).collect();
            (parts, followed.again_at.is_some())
        };
        assert_eq!(at(0, 2), (vec![1000, 1000], false), "all start together");
        assert_eq!(at(1, 3), (vec![1000, 1000, 100], true));
        assert_eq!(at(51, 3), (vec![1000, 1000, 500], true));
        set(&all[0], false);
        assert_eq!(at(52, 3).0[2], 510);
        set(&all[0], true);
        assert_eq!(at(60, 3), (vec![100, 1000, 590], true));
        assert_eq!(at(200, 3), (vec![1000; 3], false));
        assert_eq!(at(201, 2), (vec![1000; 2], false));
        assert_eq!(at(202, 3), (vec![1000, 1000, 100], true), "it left and came back");
    }

    #[test]
    fn an_operator_withdraws_endpoints_and_sets_weights() {
        let slow =
            SlowStartPlan { window: Duration::from_secs(100), aggression: 100, weight_min: 10 };
        let plan = BalancingPlan { slow_start: Some(slow), ..BalancingPlan::default() };
        let all = endpoints(2);
        let traits =
            [(); 2].map(|()| Arc::new(EndpointTraits { weight: 3, ..EndpointTraits::default() }));
        let (mut standings, start) = (Standings::default(), Instant::now());
        let mut after = |seconds: u64, action: Option<OverrideAction>| {
            all[1].set_override(action);
            let now = start + Duration::from_secs(seconds);
            let followed = standings.follow(&plan, &all, &traits, now);
            let (part, weight) = (standings.current[1].1, standings.weights[1]);
            (states(&standings), part, weight, !followed.changed.is_empty(), followed.reweighted)
        };
        let weight = |weight| Some(OverrideAction::Weight(NonZeroU32::new(weight).unwrap()));
        for (seconds, action, expected) in [
            (0, None, ("HH", 1000, 3, true, true)),
            (1, weight(9), ("HH", 1000, 9, true, true)),
            (2, weight(9), ("HH", 1000, 9, false, false)),
            (3, Some(OverrideAction::Drain), ("HW", 1000, 3, true, true)),
            (4, Some(OverrideAction::Maintenance), ("HW", 1000, 3, false, false)),
            // It starts slowly, as if it had been away.
            (5, None, ("HH", 100, 3, true, false)),
        ] {
            let (states, part, weight, changed, reweighted) = after(seconds, action);
            assert_eq!((&*states, part, weight, changed, reweighted), expected, "{seconds} s");
        }
    }

    #[test]
    fn only_a_change_is_a_change() {
        let plan = BalancingPlan::default();
        let all = endpoints(2);
        let traits = vec![Arc::<EndpointTraits>::default(); 2];
        let mut standings = Standings::default();
        let mut changed = || standings.follow(&plan, &all, &traits, Instant::now()).changed;
        assert_eq!(changed(), [0, 1]);
        assert_eq!(changed(), []);
        set(&all[1], false);
        assert_eq!(changed(), [1]);
        assert_eq!(changed(), []);
        assert!(all[0].set_degraded(true));
        assert_eq!(changed(), [0]);
    }
}
