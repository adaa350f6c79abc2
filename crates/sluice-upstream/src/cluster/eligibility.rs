//! Which endpoints the next pick may take, and why not the others: for people.
//!
//! Owns: the causes and their words. Refuses to know: picks, which look at the same states themselves. Keeps: an endpoint
//! that has no cause can be picked; all causes are named, not only the first. For the control thread.

use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use super::claim::LimitReached;
use super::{BreakerLimit, Cluster};
use crate::balance::priorities::Share;
use crate::balance::slow_start::WHOLE;
use crate::endpoint::{EndpointState, EndpointStatus, EndpointTraits, LoadKind, Trouble};
use crate::overrides::OverrideAction;
use crate::plan::BreakerClass;

/// Why an endpoint is not picked.
#[derive(Clone, Debug)]
pub enum Ineligible {
    /// Active checks consider it unhealthy.
    Unhealthy(Arc<Trouble>),
    /// The list of endpoints says that it does not serve.
    Stated(EndpointStatus),
    /// It is ejected, until then; `None` for a moment, until that is decided.
    Ejected(Arc<Trouble>, Option<Instant>),
    /// An operator drained it.
    Drained,
    /// An operator took it out for maintenance.
    Maintenance,
    /// Its priority failed, and has its traffic back then.
    HeldBack(Instant),
    /// This process uses others (`aperture`).
    OutsideAperture,
    /// Its priority gets no traffic: higher ones suffice.
    PriorityUnused,
    /// It is degraded, and healthy endpoints suffice.
    DegradedUnused,
    /// It is at a limit, which `limits` names so; its own, or that of the cluster for each endpoint.
    AtLimit(&'static str, u64),
}

impl Ineligible {
    /// The word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Unhealthy(_) => "unhealthy",
            Self::Stated(EndpointStatus::Draining) => "status_draining",
            Self::Stated(_) => "status_unhealthy",
            Self::Ejected(..) => "ejected",
            Self::Drained => "drained",
            Self::Maintenance => "maintenance",
            Self::HeldBack(_) => "held_back",
            Self::OutsideAperture => "aperture",
            Self::PriorityUnused => "priority_unused",
            Self::DegradedUnused => "degraded_unused",
            Self::AtLimit(..) => "limit",
        }
    }
}

/// Whether one endpoint is picked.
#[derive(Clone, Debug, Default)]
pub struct Eligibility {
    /// Why it is not; empty if it is.
    pub why_not: Vec<Ineligible>,
    /// The part of its weight that it has in slow start, in percent.
    pub slow_start: Option<u32>,
}

impl Cluster {
    /// Of each endpoint, in the order of the membership.
    pub fn eligibility(&self) -> Vec<Eligibility> {
        let (plan, members) = (self.peek_plan(), self.members());
        let (overrides, now) = (self.overrides(), Instant::now());
        let standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        let offered = plan.balancing.aperture.as_ref().map(|_| members.offered());
        let of =
            |(index, (endpoint, traits)): (usize, (&Arc<EndpointState>, &Arc<EndpointTraits>))| {
                let shares = &members.balancer.shares;
                let share = shares.iter().find(|(priority, _)| *priority == traits.priority);
                let share = share.map_or_else(Share::default, |(_, share)| *share);
                let action = overrides.get(&endpoint.name).map(|one| one.action);
                let mut why_not = match action {
                    Some(OverrideAction::Drain) => vec![Ineligible::Drained],
                    Some(OverrideAction::Maintenance) => vec![Ineligible::Maintenance],
                    Some(OverrideAction::Weight(_)) | None => Vec::new(),
                };
                // In panic, the states do not matter.
                if !share.panics {
                    why_not.extend(of_state(endpoint));
                }
                match traits.status {
                    EndpointStatus::Draining => why_not.push(Ineligible::Stated(traits.status)),
                    EndpointStatus::Unhealthy if !share.panics => {
                        why_not.push(Ineligible::Stated(traits.status));
                    }
                    EndpointStatus::Healthy
                    | EndpointStatus::Degraded
                    | EndpointStatus::Unhealthy => {}
                }
                // What is withheld or cannot be used does not count for its priority; hosts that clients name have none.
                if !share.panics && why_not.is_empty() && plan.forward.is_none() {
                    let held = standings.held_back(traits.priority).filter(|at| *at > now);
                    why_not.extend(of_share(endpoint, share, held));
                }
                let index_of = u32::try_from(index).unwrap_or(u32::MAX);
                let is_outside = offered.as_ref().is_some_and(|of| !of.contains(&index_of));
                if why_not.is_empty() && is_outside {
                    why_not.push(Ineligible::OutsideAperture);
                }
                for load in [LoadKind::Connection, LoadKind::Request] {
                    let max = endpoint.limit_of(load, plan.endpoint_limit_of(load));
                    if let Some(max) = max.filter(|max| endpoint.in_use(load) >= *max) {
                        let limit = BreakerLimit::of(load, LimitReached::Endpoint);
                        why_not.push(Ineligible::AtLimit(limit.word(BreakerClass::Default), max));
                    }
                }
                let part = standings.part(index).filter(|part| *part < WHOLE);
                Eligibility { why_not, slow_start: part.map(|part| (part * 100).div_ceil(WHOLE)) }
            };
        members.endpoints.iter().zip(&*members.traits).enumerate().map(of).collect()
    }
}

/// What its own state has against an endpoint.
fn of_state(endpoint: &EndpointState) -> impl Iterator<Item = Ineligible> + use<> {
    let unhealthy = endpoint.why_unhealthy().map(Ineligible::Unhealthy);
    let ejected = endpoint.why_ejected();
    let ejected = ejected.map(|why| Ineligible::Ejected(why, endpoint.ejected_until()));
    unhealthy.into_iter().chain(ejected)
}

/// What the share of its priority has against an endpoint that could be used.
fn of_share(endpoint: &EndpointState, share: Share, held: Option<Instant>) -> Option<Ineligible> {
    if let Some(at) = held {
        return Some(Ineligible::HeldBack(at));
    }
    let share = if endpoint.is_degraded() { share.degraded } else { share.healthy };
    match (share, endpoint.is_degraded()) {
        (0, false) => Some(Ineligible::PriorityUnused),
        (0, true) => Some(Ineligible::DegradedUnused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};
    use std::time::Duration;

    use super::super::tests::{member, plan};
    use super::*;
    use crate::balance::{BalancingPlan, FailoverPlan, SlowStartPlan};
    use crate::endpoint::{EjectionKind, EndpointLimits};
    use crate::overrides::{ClusterOverrides, EndpointOverride};
    use crate::plan::{ClusterPlan, ClusterSettings};

    fn cluster(failover: FailoverPlan, endpoint_connections_max: Option<u64>) -> Cluster {
        let bare = ClusterSettings::clone(&ClusterSettings::bare());
        let slow_start = Some(SlowStartPlan {
            window: Duration::from_secs(100),
            aggression: 1000,
            weight_min: 10,
        });
        let balancing = BalancingPlan { failover, slow_start, ..BalancingPlan::default() };
        let settings = ClusterSettings { balancing, endpoint_connections_max, ..bare };
        let cluster =
            Cluster::new(Arc::new(ClusterPlan { settings: Arc::new(settings), ..plan(None) }));
        let mut members: Vec<_> = [1, 2, 3].map(member).into();
        Arc::make_mut(&mut members[2].traits).priority = 1;
        cluster.publish(&members);
        cluster
    }

    /// The words of each endpoint, and its part in slow start.
    fn shown(cluster: &Cluster) -> String {
        cluster.rebalance();
        let one = |of: &Eligibility| {
            let words: Vec<&str> = of.why_not.iter().map(Ineligible::word).collect();
            let part = of.slow_start.map_or_else(String::new, |part| format!(" {part}%"));
            format!("{}{part}", words.join("+"))
        };
        cluster.eligibility().iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn every_cause_is_named() {
        let cluster = cluster(FailoverPlan::default(), Some(1));
        let members = cluster.members();
        let [one, two, three] = [0, 1, 2].map(|index| &members.endpoints[index]);
        assert_eq!(shown(&cluster), ", , priority_unused");
        one.set_degraded(true);
        assert_eq!(shown(&cluster), "degraded_unused, , priority_unused");
        one.set_degraded(false);
        one.set_health(Err("refused"));
        one.eject(EjectionKind::ConnectFailures, "5 in a row");
        let lease = two.lease();
        assert_eq!(shown(&cluster), "unhealthy+ejected, limit, priority_unused");
        let of_one = cluster.eligibility().remove(0).why_not;
        assert!(matches!(&of_one[1], Ineligible::Ejected(why, None) if why.cause == "5 in a row"));
        drop(lease);
        two.set_health(Err("refused"));
        assert_eq!(shown(&cluster), "unhealthy+ejected, unhealthy, ");
        three.set_health(Err("refused"));
        assert_eq!(shown(&cluster), "unhealthy+ejected, unhealthy, unhealthy");
        two.set_health(Ok(()));
        assert_eq!(shown(&cluster), "unhealthy+ejected,  10%, unhealthy");
    }

    #[test]
    fn an_endpoint_may_have_a_limit_of_its_own() {
        let cluster = cluster(FailoverPlan::default(), Some(1));
        let members = cluster.members();
        let [one, two, _] = [0, 1, 2].map(|index| &members.endpoints[index]);
        one.set_limits(EndpointLimits { connections: NonZeroU64::new(2), ..Default::default() });
        let leases = [one.lease(), two.lease()];
        assert_eq!(shown(&cluster), ", limit, priority_unused");
        let full = one.lease();
        assert_eq!(shown(&cluster), "limit, limit, priority_unused");
        let of_one = cluster.eligibility().remove(0).why_not;
        assert!(matches!(of_one[0], Ineligible::AtLimit("connections_per_endpoint", 2)));
        drop((leases, full));
    }

    #[test]
    fn operators_and_panic_are_told_apart_from_states() {
        let failover = FailoverPlan { panic: 50, ..FailoverPlan::default() };
        let cluster = cluster(failover, None);
        let members = cluster.members();
        let until = None;
        let set = |actions: &[OverrideAction]| {
            let one = |action| EndpointOverride { action, since: Instant::now(), until };
            let named = members.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.name));
            let all: ClusterOverrides =
                named.zip(actions.iter().map(|action| one(*action))).collect();
            cluster.set_overrides(Arc::new(all));
        };
        set(&[OverrideAction::Drain, OverrideAction::Weight(NonZeroU32::new(3).unwrap())]);
        assert_eq!(shown(&cluster), "drained, , priority_unused");
        set(&[OverrideAction::Maintenance]);
        members.endpoints.iter().for_each(|endpoint| _ = endpoint.set_health(Err("refused")));
        assert_eq!(shown(&cluster), "maintenance, , ", "in panic all are used");
    }

    #[test]
    fn a_priority_that_is_held_back_says_until_when() {
        let failback_delay = Duration::from_secs(1000);
        let cluster = cluster(FailoverPlan { failback_delay, ..FailoverPlan::default() }, None);
        let members = cluster.members();
        let all = |result: Result<(), &str>| {
            members.endpoints[..2].iter().for_each(|endpoint| _ = endpoint.set_health(result));
        };
        all(Err("refused"));
        assert_eq!(shown(&cluster), "unhealthy, unhealthy, ");
        all(Ok(()));
        assert_eq!(shown(&cluster), "held_back, held_back, ");
    }
}
