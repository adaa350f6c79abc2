//! Subsets of a cluster's endpoints, by their metadata.
//!
//! Owns: which endpoints are in which subset, what a pick gets whose subset is missing, and the load balancer of each
//! subset. Refuses to know: where a connection or request has the metadata from that it asks for. Keeps: members are
//! found when endpoints change, never by a pick; a subset has at least one endpoint, usable or not; priorities, panic
//! mode and localities apply within a subset. Source: Envoy, "Load balancer subsets".

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::load_balancer::{BalancedEndpoint, BalancerInput, LoadBalancer};
use crate::endpoint::EndpointTraits;
use crate::metadata::SubsetKey;

/// How a cluster is divided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubsetsPlan {
    /// The keys that make subsets: one subset for each combination of their values.
    pub selectors: Vec<SelectorPlan>,
    /// What a pick gets that asks for nothing, or for a subset that does not exist.
    pub fallback: SubsetFallback,
    /// What the endpoints of the default subset have.
    pub default_subset: SubsetKey,
    /// The most subsets; those of the first endpoints are made.
    pub count_max: usize,
}

/// Keys that make subsets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SelectorPlan {
    /// The keys, in order.
    pub keys: Vec<Arc<str>>,
    /// What a pick gets that asks for a subset of these keys that does not exist; `None`: what the cluster says.
    pub fallback: Option<SelectorFallback>,
}

/// What a pick gets instead of a subset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SubsetFallback {
    /// Nothing.
    #[default]
    Refuse,
    /// Any endpoint.
    AnyEndpoint,
    /// An endpoint of the default subset.
    DefaultSubset,
}

/// What a pick gets instead of a subset of certain keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SelectorFallback {
    /// The same for all keys.
    Usual(SubsetFallback),
    /// The subset by some of its keys, in order; fewer than all.
    Keys(Vec<Arc<str>>),
}

/// Which endpoints are in which subset.
#[derive(Debug)]
struct SubsetIndex {
    plan: Arc<SubsetsPlan>,
    by_key: HashMap<SubsetKey, usize>,
    /// What each subset is made by, and the indexes of its endpoints.
    groups: Vec<(SubsetKey, Vec<u32>)>,
    /// The place of the default subset, if any endpoint is in it.
    default: Option<usize>,
    left_out: usize,
}

/// The subsets of a membership.
#[derive(Debug)]
pub struct SubsetTable {
    index: Arc<SubsetIndex>,
    subsets: Box<[Subset]>,
}

/// A subset.
#[derive(Debug)]
pub struct Subset {
    /// What its endpoints have.
    pub key: SubsetKey,
    /// The number of its endpoints.
    pub len: usize,
    /// Those that may be picked.
    pub balancer: Arc<LoadBalancer>,
    /// The first of the worker's positions that belong to it.
    pub turns_from: usize,
}

/// What a pick is made from.
#[derive(Clone, Copy, Debug)]
pub enum SubsetChoice<'a> {
    /// The subset that was asked for.
    Asked(&'a Subset),
    /// Another subset, as a fallback.
    Instead(&'a Subset),
    /// All endpoints, as a fallback.
    All,
    /// Nothing.
    Nothing,
}

/// What changed since a table was built.
#[derive(Clone, Copy, Debug)]
pub struct StateChanges<'a> {
    /// The endpoints with another state or weight, in order.
    pub endpoints: &'a [u32],
    /// Whether any has another weight, apart from slow start.
    pub reweighted: bool,
}

impl SubsetIndex {
    fn build(plan: Arc<SubsetsPlan>, endpoints: &[BalancedEndpoint<'_>]) -> Self {
        let mut by_key: HashMap<SubsetKey, usize> = HashMap::new();
        let mut groups: Vec<(SubsetKey, Vec<u32>)> = Vec::new();
        let mut left_out = HashSet::new();
        for (index, BalancedEndpoint { traits, .. }) in (0_u32..).zip(endpoints) {
            for selector in &plan.selectors {
                let (count, keys) = keys_of(selector, traits);
                if count > plan.count_max {
                    // Not each of them is looked at below.
                    let own = groups
                        .iter_mut()
                        .filter(|(key, _)| key.has_keys(&selector.keys) && traits.has(key));
                    own.for_each(|(_, members)| add(members, index));
                }
                for key in keys.take(plan.count_max.saturating_add(1)) {
                    match by_key.get(&key) {
                        Some(place) => add(&mut groups[*place].1, index),
                        None if groups.len() < plan.count_max => {
                            by_key.insert(key.clone(), groups.len());
                            groups.push((key, vec![index]));
                        }
                        None => {
                            left_out.insert(key);
                        }
                    }
                }
            }
        }
        let has = |(_, of): &(u32, &BalancedEndpoint<'_>)| of.traits.has(&plan.default_subset);
        let of_default: Vec<u32> =
            (0_u32..).zip(endpoints).filter(has).map(|(index, _)| index).collect();
        let default = (plan.uses_default() && !of_default.is_empty()).then_some(groups.len());
        if default.is_some() {
            groups.push((plan.default_subset.clone(), of_default));
        }
        Self { by_key, groups, default, left_out: left_out.len(), plan }
    }
}

impl SubsetsPlan {
    /// Whether a pick may get the default subset.
    fn uses_default(&self) -> bool {
        let default = SelectorFallback::Usual(SubsetFallback::DefaultSubset);
        self.fallback == SubsetFallback::DefaultSubset
            || self.selectors.iter().any(|selector| selector.fallback.as_ref() == Some(&default))
    }
}

/// Adds an endpoint to a subset, in which the last one may be the same.
fn add(members: &mut Vec<u32>, index: u32) {
    if members.last() != Some(&index) {
        members.push(index);
    }
}

/// The subsets of a selector that an endpoint is in, and their number: one for each combination of its values.
fn keys_of(
    selector: &SelectorPlan,
    traits: &EndpointTraits,
) -> (usize, impl Iterator<Item = SubsetKey>) {
    let metadata = traits.metadata.as_deref();
    let values = |key: &Arc<str>| metadata.map_or(&[][..], |metadata| metadata.values(key));
    let all: Vec<(&Arc<str>, &[Arc<str>])> =
        selector.keys.iter().map(|key| (key, values(key))).collect();
    let count = all.iter().fold(1, |count: usize, (_, values)| count.saturating_mul(values.len()));
    let keys = (0..count).map(move |number| {
        let mut rest = number;
        SubsetKey::new(all.iter().map(|(key, values)| {
            let value = &values[rest % values.len()];
            rest /= values.len();
            (Arc::clone(key), Arc::clone(value))
        }))
    });
    (count, keys)
}

impl SubsetTable {
    /// Divides the endpoints of a membership. `turns_from` is the first position that no other balancer has.
    pub fn build(plan: &Arc<SubsetsPlan>, input: BalancerInput<'_>, turns_from: usize) -> Self {
        let index = SubsetIndex::build(Arc::clone(plan), input.balanced);
        let build = |_, members: &[u32]| Arc::new(LoadBalancer::build(input, members, None));
        Self::of(Arc::new(index), turns_from, build)
    }

    /// The same subsets after some endpoints have changed.
    #[must_use]
    pub fn rebuild(
        &self,
        input: BalancerInput<'_>,
        changes: StateChanges<'_>,
        turns_from: usize,
    ) -> Self {
        let changed: HashSet<u32> = changes.endpoints.iter().copied().collect();
        let build = |place: usize, members: &[u32]| {
            let old = &self.subsets[place].balancer;
            if !members.iter().any(|index| changed.contains(index)) {
                return Arc::clone(old);
            }
            let known = (!changes.reweighted).then_some(&**old);
            Arc::new(LoadBalancer::build(input, members, known))
        };
        Self::of(Arc::clone(&self.index), turns_from, build)
    }

    fn of(
        index: Arc<SubsetIndex>,
        mut turns_from: usize,
        build: impl Fn(usize, &[u32]) -> Arc<LoadBalancer>,
    ) -> Self {
        let subset = |(place, (key, members)): (usize, &(SubsetKey, Vec<u32>))| {
            let balancer = build(place, members);
            let subset = Subset { key: key.clone(), len: members.len(), balancer, turns_from };
            turns_from += subset.balancer.turns();
            subset
        };
        let subsets = index.groups.iter().enumerate().map(subset).collect();
        Self { index, subsets }
    }

    /// What a pick is made from that asks for `key`.
    pub fn find(&self, key: Option<&SubsetKey>) -> SubsetChoice<'_> {
        match key.and_then(|key| self.index.by_key.get(key)) {
            Some(place) => SubsetChoice::Asked(&self.subsets[*place]),
            None => self.fall_back(key),
        }
    }

    fn fall_back(&self, key: Option<&SubsetKey>) -> SubsetChoice<'_> {
        let plan = &self.index.plan;
        let of_keys = |key: &SubsetKey| {
            plan.selectors.iter().find(|selector| key.has_keys(&selector.keys))?.fallback.as_ref()
        };
        let fallback = match (key, key.and_then(of_keys)) {
            (_, None) | (None, _) => plan.fallback,
            (_, Some(SelectorFallback::Usual(fallback))) => *fallback,
            (Some(key), Some(SelectorFallback::Keys(keys))) => {
                let fewer = key.only(keys);
                // The number of keys shrinks, so that this ends.
                if fewer.iter().count() >= key.iter().count() {
                    return SubsetChoice::Nothing;
                }
                return match self.find(Some(&fewer)) {
                    SubsetChoice::Asked(subset) => SubsetChoice::Instead(subset),
                    other => other,
                };
            }
        };
        match fallback {
            SubsetFallback::Refuse => SubsetChoice::Nothing,
            SubsetFallback::AnyEndpoint => SubsetChoice::All,
            SubsetFallback::DefaultSubset => self
                .index
                .default
                .map_or(SubsetChoice::Nothing, |place| SubsetChoice::Instead(&self.subsets[place])),
        }
    }

    /// Every subset: those by keys, and the default subset last.
    pub fn iter(&self) -> impl Iterator<Item = &Subset> {
        self.subsets.iter()
    }

    /// How many subsets were not made, as there would be too many.
    pub fn left_out(&self) -> usize {
        self.index.left_out
    }
}

#[cfg(test)]
mod tests;
