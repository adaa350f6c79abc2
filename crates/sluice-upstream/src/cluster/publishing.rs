//! How one membership of a cluster follows another: endpoints join, leave or change their state.
//!
//! Owns: building memberships, with the tables of their balancers. Refuses to know: where endpoints come from, and who picks
//! them. Keeps: an endpoint that stays keeps its state; only the control thread calls it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use super::Cluster;
use super::membership::{Member, MemberIndex, Membership};
use crate::balance::load_balancer::BalancerInput;
use crate::balance::subsets::{StateChanges, SubsetTable};
use crate::balance::{Balance, LoadBalancer};
use crate::endpoint::{EndpointState, EndpointTraits, Target};
use crate::hops;
use crate::overrides::ClusterOverrides;

impl Cluster {
    /// Publishes a membership; endpoints that stay keep their state. Returns the endpoints that left: not those that stay
    /// because their checks succeed, if the cluster has that. For the control thread.
    pub fn publish(&self, members: &[Member]) -> Vec<Arc<EndpointState>> {
        let plan = self.plan.peek();
        let keeps = plan.health.as_ref().is_some_and(|health| health.keeps_removed);
        let stays = |endpoint: &EndpointState| {
            let is_allowed = match (&plan.egress, &endpoint.target) {
                (Some(egress), Target::Ip(address)) => {
                    egress.judge(*address, hops::is_ours).is_ok()
                }
                _ => true,
            };
            endpoint.is_healthy() && !endpoint.awaits_check() && is_allowed
        };
        self.publish_keeping(members, |endpoint| keeps && stays(endpoint))
    }

    /// Removes the endpoints that stayed because their checks succeeded, and do so no longer; returns them. For the control
    /// thread.
    pub(crate) fn dismiss(&self) -> Vec<Arc<EndpointState>> {
        let members = self.members();
        let all = members.endpoints.iter().zip(&*members.traits);
        if all.clone().all(|(endpoint, _)| !endpoint.is_leaving() || endpoint.is_healthy()) {
            return Vec::new();
        }
        let staying = all.filter(|(endpoint, _)| !endpoint.is_leaving());
        let staying: Vec<Member> = staying
            .map(|(endpoint, traits)| Member {
                target: endpoint.target.clone(),
                host: endpoint.host.clone(),
                name: endpoint.own_name().cloned(),
                alternates: endpoint.alternates().map_or_else(Vec::new, |of| of.to_vec()),
                traits: traits.clone(),
            })
            .collect();
        self.publish(&staying)
    }

    /// The same as `publish`, where endpoints that are not among the members stay if they `may`.
    pub(super) fn publish_keeping(
        &self,
        members: &[Member],
        may: impl Fn(&EndpointState) -> bool,
    ) -> Vec<Arc<EndpointState>> {
        let (plan, old) = (self.plan.peek(), self.members.get());
        let overrides = self.overrides.load();
        let mut known: HashMap<_, &Arc<EndpointState>> = old
            .endpoints
            .iter()
            .map(|endpoint| ((&endpoint.target, endpoint.own_name()), endpoint))
            .collect();
        let mut places: HashMap<_, usize> = HashMap::with_capacity(members.len());
        let mut endpoints: Vec<Arc<EndpointState>> = Vec::with_capacity(members.len());
        let mut traits: Vec<Arc<EndpointTraits>> = Vec::with_capacity(members.len());
        for member in members {
            let key = (&member.target, member.name.as_ref());
            // The same address declared twice is one endpoint with the weight and the limits of both.
            if let Some(place) = places.get(&key) {
                Arc::make_mut(&mut traits[*place]).add(&member.traits);
                continue;
            }
            places.insert(key, endpoints.len());
            let new = || {
                let (target, host) = (member.target.clone(), member.host.clone());
                let endpoint = match &member.name {
                    Some(name) => EndpointState::forwarded(Arc::clone(name), target, host),
                    None => EndpointState::new(target, host),
                };
                if let Some(health) = &plan.health {
                    endpoint.await_check(health.waits);
                }
                endpoint.set_override(overrides.get(&endpoint.name).map(|one| one.action));
                Arc::new(endpoint)
            };
            // The host is what TLS verifies and the egress policy goes by.
            let same = |known: &&Arc<EndpointState>| known.host == member.host;
            let endpoint = match known.get(&key).copied().filter(same) {
                Some(endpoint) => {
                    known.remove(&key);
                    Arc::clone(endpoint)
                }
                None => new(),
            };
            endpoint.set_leaving(false);
            endpoint.set_alternates(&member.alternates);
            endpoint.latency.track(plan.balancing.balance.kind() == Some(Balance::PeakEwma));
            endpoint.track_reports(plan.balancing.balance.kind() == Some(Balance::LoadReports));
            endpoint.set_traits(&member.traits);
            endpoints.push(endpoint);
            traits.push(Arc::clone(&member.traits));
        }
        for (endpoint, of) in old.endpoints.iter().zip(&*old.traits) {
            let key = (&endpoint.target, endpoint.own_name());
            if known.contains_key(&key) && !places.contains_key(&key) && may(endpoint) {
                known.remove(&key);
                endpoint.set_leaving(true);
                endpoints.push(Arc::clone(endpoint));
                traits.push(Arc::clone(of));
            }
        }
        for (endpoint, traits) in endpoints.iter().zip(&traits) {
            endpoint.set_limits(traits.limits);
        }
        let left: Vec<_> = known.into_values().cloned().collect();
        let joined = endpoints.len() + left.len() > old.endpoints.len();
        if !plan.reuse.across_changes && (joined || !left.is_empty()) {
            self.renew();
        }
        let (endpoints, traits): (Arc<[_]>, Arc<[_]>) = (endpoints.into(), traits.into());
        let version = old.version + 1;
        if plan.forward.is_some() {
            self.members.set(Arc::new(Membership::of_hosts(version, endpoints, traits)));
            self.announce();
            return left;
        }
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.follow(&plan.balancing, &endpoints, &traits, Instant::now());
        standings.fleet = self.fleet_zones(&plan.balancing);
        let balanced = standings.balanced(&traits);
        let (plan, fleet) = (&plan.balancing, &standings.fleet);
        let input = BalancerInput { plan, endpoints: &endpoints, balanced: &balanced, fleet };
        let all = indexes(&endpoints);
        let balancer = LoadBalancer::build(input, &all, None);
        let subsets = plan.subsets.as_ref();
        let subsets = subsets.map(|plan| SubsetTable::build(plan, input, balancer.turns()));
        drop(balanced);
        drop(standings);
        if let Some(subsets) = &subsets {
            tell_left_out(&self.name, subsets, old.subsets.as_ref());
        }
        let index = MemberIndex::of(&endpoints);
        let members = Membership::new(version, endpoints, traits, index, balancer, subsets);
        self.members.set(Arc::new(members));
        self.announce();
        self.tell_followers();
        left
    }

    /// What operators decided about endpoints, members or not.
    pub fn overrides(&self) -> Arc<ClusterOverrides> {
        self.overrides.load_full()
    }

    /// Sets what operators decided about endpoints; it holds for the next pick. For the control thread.
    pub(crate) fn set_overrides(&self, overrides: Arc<ClusterOverrides>) {
        for endpoint in &*self.members.peek().endpoints {
            endpoint.set_override(overrides.get(&endpoint.name).map(|one| one.action));
        }
        self.overrides.store(overrides);
        self.rebalance();
        self.announce();
    }

    /// Builds the load balancer again if the state of an endpoint has changed, or the part that it has in slow start.
    /// Returns when time alone will change one. For the control thread.
    pub(crate) fn rebalance(&self) -> Option<Instant> {
        let (plan, old) = (self.plan.peek(), self.members.get());
        let Membership { version, endpoints, traits, balancer, subsets, index, .. } = &*old;
        // Nothing is picked among hosts that clients name.
        if plan.forward.is_some() {
            return None;
        }
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = standings.follow(&plan.balancing, endpoints, traits, Instant::now());
        let fleet = self.fleet_zones(&plan.balancing);
        let moved = standings.fleet != fleet;
        if !followed.changed.is_empty() || moved {
            standings.fleet = fleet;
            let (balanced, all) = (standings.balanced(traits), indexes(endpoints));
            let (plan, fleet) = (&plan.balancing, &standings.fleet);
            let input = BalancerInput { plan, endpoints, balanced: &balanced, fleet };
            // Tables that depend on weights alone go on while those are the same.
            let known = (!followed.reweighted).then_some(balancer);
            let balancer = LoadBalancer::build(input, &all, known);
            let subsets = subsets.as_ref().map(|subsets| {
                let endpoints = if moved { &all } else { &followed.changed };
                let changes = StateChanges { endpoints, reweighted: followed.reweighted };
                subsets.rebuild(input, changes, balancer.turns())
            });
            if balancer.panics() != old.balancer.panics() {
                tell_panic(&self.name, balancer.panics());
            }
            let (endpoints, traits) = (Arc::clone(endpoints), Arc::clone(traits));
            let (version, index) = (*version, index.clone());
            let members = Membership::new(version, endpoints, traits, index, balancer, subsets);
            self.members.set(Arc::new(members));
            self.review_queue();
            self.tell_followers();
        }
        followed.again_at
    }
}

/// The indexes of all endpoints.
fn indexes(endpoints: &[Arc<EndpointState>]) -> Vec<u32> {
    (0_u32..).zip(endpoints).map(|(index, _)| index).collect()
}

fn tell_panic(cluster: &str, panics: bool) {
    if panics {
        tracing::warn!(cluster, "too few endpoints are usable: all are used (panic mode)");
    } else {
        tracing::info!(cluster, "enough endpoints are usable again: panic mode ends");
    }
}

/// Tells that subsets are missing, once for each time that their number changes.
fn tell_left_out(cluster: &str, subsets: &SubsetTable, old: Option<&SubsetTable>) {
    let left_out = subsets.left_out();
    if left_out > 0 && old.is_none_or(|old| old.left_out() != left_out) {
        tracing::warn!(
            cluster,
            left_out,
            "the endpoints make too many subsets (`limits.subsets`): requests for some get the fallback"
        );
    }
}
