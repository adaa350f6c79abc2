use std::collections::BTreeMap;

use super::*;
use crate::balance::load_balancer::Standing;
use crate::balance::zones::FleetZones;
use crate::balance::{Balance, BalancePlan, BalancingPlan, FailoverPlan};
use crate::endpoint::{EndpointState, Target};
use crate::metadata::EndpointMetadata;

/// Values by key, each of an endpoint possibly with several.
type Plain = BTreeMap<&'static str, Vec<u8>>;

struct World {
    given: Vec<Plain>,
    traits: Vec<EndpointTraits>,
    endpoints: Vec<Arc<EndpointState>>,
}

impl World {
    fn new(given: Vec<Plain>) -> Self {
        let texts =
            |values: &Vec<u8>| values.iter().map(|value| value.to_string().into()).collect();
        let traits = given.iter().map(|plain| EndpointTraits {
            metadata: (!plain.is_empty()).then(|| {
                let entries = plain.iter().map(|(key, values)| ((*key).into(), texts(values)));
                Arc::new(EndpointMetadata::new(entries))
            }),
            ..EndpointTraits::default()
        });
        let endpoint = |port: usize| {
            let port = u16::try_from(port + 1).unwrap();
            Arc::new(EndpointState::new(Target::Ip(([127, 0, 0, 1], port).into()), None))
        };
        Self {
            traits: traits.collect(),
            endpoints: (0..given.len()).map(endpoint).collect(),
            given,
        }
    }

    fn balanced(&self) -> Vec<BalancedEndpoint<'_>> {
        let balanced = |(traits, endpoint): (_, &Arc<EndpointState>)| {
            let usable = endpoint.is_usable();
            let standing = if usable { Standing::Healthy } else { Standing::Unusable };
            BalancedEndpoint { traits, standing, weight: 1, part: 1000 }
        };
        self.traits.iter().zip(&self.endpoints).map(balanced).collect()
    }

    fn table(&self, plan: &Arc<SubsetsPlan>) -> SubsetTable {
        let (balancing, balanced) = (balancing(), self.balanced());
        SubsetTable::build(plan, self.input(&balancing, &balanced), 1)
    }

    fn input<'a>(
        &'a self,
        plan: &'a BalancingPlan,
        balanced: &'a [BalancedEndpoint<'a>],
    ) -> BalancerInput<'a> {
        static FLEET: std::sync::LazyLock<FleetZones> =
            std::sync::LazyLock::new(FleetZones::default);
        BalancerInput { plan, endpoints: &self.endpoints, balanced, fleet: &FLEET }
    }

    /// The endpoints that have these values, found one by one.
    fn having(&self, asked: &BTreeMap<&'static str, u8>) -> Vec<u32> {
        let has = |plain: &Plain| {
            asked
                .iter()
                .all(|(key, value)| plain.get(key).is_some_and(|values| values.contains(value)))
        };
        (0_u32..).zip(&self.given).filter(|(_, plain)| has(plain)).map(|(n, _)| n).collect()
    }
}

fn balancing() -> BalancingPlan {
    let failover =
        FailoverPlan { overprovisioning: Some(140), panic: 50, ..FailoverPlan::default() };
    let balance = BalancePlan::from(Balance::RoundRobin);
    BalancingPlan { balance, failover, ..BalancingPlan::default() }
}

fn key(asked: &BTreeMap<&'static str, u8>) -> SubsetKey {
    SubsetKey::new(asked.iter().map(|(key, value)| ((*key).into(), value.to_string().into())))
}

/// What a pick gets: the endpoints, found one by one; `None` is a refusal.
fn expected(
    world: &World,
    plan: &SubsetsPlan,
    default: &BTreeMap<&'static str, u8>,
    asked: Option<&BTreeMap<&'static str, u8>>,
) -> Option<Vec<u32>> {
    let selector = asked.and_then(|asked| {
        let keys: Vec<&str> = asked.keys().copied().collect();
        plan.selectors.iter().find(|of| of.keys.iter().map(|key| &**key).eq(keys.clone()))
    });
    if let (Some(_), Some(asked)) = (selector, asked) {
        let found = world.having(asked);
        if !found.is_empty() {
            return Some(found);
        }
    }
    let usual = match selector.and_then(|of| of.fallback.as_ref()) {
        None => plan.fallback,
        Some(SelectorFallback::Usual(usual)) => *usual,
        Some(SelectorFallback::Keys(keys)) => {
            let mut fewer = asked.unwrap().clone();
            fewer.retain(|key, _| keys.iter().any(|kept| &**kept == *key));
            return expected(world, plan, default, Some(&fewer));
        }
    };
    match usual {
        SubsetFallback::Refuse => None,
        SubsetFallback::AnyEndpoint => Some((0_u32..).take(world.given.len()).collect()),
        SubsetFallback::DefaultSubset => {
            Some(world.having(default)).filter(|found| !found.is_empty())
        }
    }
}

const KEYS: [&str; 3] = ["a", "b", "c"];

fn random_plan(
    rng: &mut fastrand::Rng,
    default: &BTreeMap<&'static str, u8>,
    count_max: usize,
) -> Arc<SubsetsPlan> {
    const USUAL: [SubsetFallback; 3] =
        [SubsetFallback::Refuse, SubsetFallback::AnyEndpoint, SubsetFallback::DefaultSubset];
    // Each set of keys is a bit pattern.
    let mut patterns: Vec<usize> = (1..8).collect();
    rng.shuffle(&mut patterns);
    let keys = |pattern: usize| -> Vec<Arc<str>> {
        let chosen = KEYS.iter().enumerate().filter(|(bit, _)| pattern >> bit & 1 == 1);
        chosen.map(|(_, key)| Arc::from(*key)).collect()
    };
    let selectors = patterns.iter().take(rng.usize(1..5)).map(|pattern| {
        let fewer = pattern & rng.usize(1..8);
        let fallback = match rng.usize(..4) {
            0 => None,
            1 if fewer != 0 && fewer != *pattern => Some(SelectorFallback::Keys(keys(fewer))),
            _ => Some(SelectorFallback::Usual(USUAL[rng.usize(..3)])),
        };
        SelectorPlan { keys: keys(*pattern), fallback }
    });
    let selectors = selectors.collect();
    let (fallback, default_subset) = (USUAL[rng.usize(..3)], key(default));
    Arc::new(SubsetsPlan { selectors, fallback, default_subset, count_max })
}

fn random_world(rng: &mut fastrand::Rng) -> World {
    let plain = |rng: &mut fastrand::Rng| {
        let mut plain = Plain::new();
        for key in KEYS {
            let mut values: Vec<u8> = (0..rng.usize(..3)).map(|_| rng.u8(..4)).collect();
            values.dedup();
            if !values.is_empty() {
                plain.insert(key, values);
            }
        }
        plain
    };
    let count = rng.usize(1..20);
    World::new((0..count).map(|_| plain(rng)).collect())
}

fn random_key(rng: &mut fastrand::Rng) -> BTreeMap<&'static str, u8> {
    let mut asked = BTreeMap::new();
    for key in KEYS {
        if rng.bool() {
            asked.insert(key, rng.u8(..4));
        }
    }
    asked
}

/// The endpoints of what a pick is made from.
fn found(world: &World, table: &SubsetTable, key: Option<&SubsetKey>) -> Option<Vec<u32>> {
    match table.find(key) {
        SubsetChoice::Nothing => None,
        SubsetChoice::All => Some((0_u32..).take(world.given.len()).collect()),
        SubsetChoice::Asked(subset) | SubsetChoice::Instead(subset) => {
            let place = table.subsets.iter().position(|of| std::ptr::eq(of, subset)).unwrap();
            assert_eq!(table.index.groups[place].1.len(), subset.len);
            Some(table.index.groups[place].1.clone())
        }
    }
}

#[test]
fn subsets_are_those_that_a_search_one_by_one_finds() {
    let (mut refused, mut picked) = (0, 0);
    for seed in 0..400 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let world = random_world(rng);
        let default = BTreeMap::from([("a", rng.u8(..4))]);
        let plan = random_plan(rng, &default, 1024);
        let table = world.table(&plan);
        for _ in 0..40 {
            let asked = (rng.usize(..10) > 0).then(|| random_key(rng));
            let expected = expected(&world, &plan, &default, asked.as_ref());
            let found = found(&world, &table, asked.as_ref().map(key).as_ref());
            assert_eq!(found, expected, "seed {seed}: {asked:?} of {plan:?}");
            if found.is_none() { refused += 1 } else { picked += 1 }
        }
    }
    assert!(refused > 1000 && picked > 1000, "{refused} {picked}");
}

#[test]
fn only_subsets_with_an_endpoint_that_changed_are_built_again() {
    for seed in 0..100 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let world = random_world(rng);
        let plan = random_plan(rng, &BTreeMap::from([("a", 1)]), 1024);
        let mut table = world.table(&plan);
        for _ in 0..10 {
            let mut changed: Vec<u32> = Vec::new();
            for (index, endpoint) in (0_u32..).zip(&world.endpoints) {
                let healthy = rng.bool();
                if endpoint.set_health(if healthy { Ok(()) } else { Err("refused") }) {
                    changed.push(index);
                }
            }
            let changes = StateChanges { endpoints: &changed, reweighted: rng.bool() };
            let balanced = world.balanced();
            let plan_of_all = balancing();
            let next = table.rebuild(world.input(&plan_of_all, &balanced), changes, 1);
            let fresh = world.table(&plan);
            for (place, subset) in next.iter().enumerate() {
                let old = &table.subsets[place].balancer;
                let members = &table.index.groups[place].1;
                let is_touched = members.iter().any(|index| changed.contains(index));
                assert_eq!(Arc::ptr_eq(old, &subset.balancer), !is_touched, "seed {seed}");
                assert_eq!(subset.balancer.shares, fresh.subsets[place].balancer.shares);
            }
            table = next;
        }
    }
}

#[test]
fn no_two_balancers_share_a_position() {
    for seed in 0..100 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let world = random_world(rng);
        let table = world.table(&random_plan(rng, &BTreeMap::from([("a", 1)]), 1024));
        let mut from = 1;
        for subset in table.iter() {
            assert_eq!(subset.turns_from, from, "seed {seed}");
            from += subset.balancer.turns();
        }
    }
}

#[test]
fn there_are_no_more_subsets_than_the_limit_allows() {
    for seed in 0..200 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let world = random_world(rng);
        let default = BTreeMap::from([("a", 1)]);
        let whole = random_plan(rng, &default, 1024);
        let all = world.table(&whole).index.by_key.len();
        assert_eq!(world.table(&whole).left_out(), 0);
        let count_max = rng.usize(1..10);
        let table = world.table(&Arc::new(SubsetsPlan { count_max, ..(*whole).clone() }));
        assert_eq!(table.index.by_key.len(), all.min(count_max), "seed {seed}");
        assert_eq!(table.left_out() > 0, all > count_max, "seed {seed}");
        // What is made is whole.
        for (key, place) in &table.index.by_key {
            let members: Vec<u32> = (0_u32..)
                .zip(&world.traits)
                .filter(|(_, traits)| traits.has(key))
                .map(|(index, _)| index)
                .collect();
            assert_eq!(table.index.groups[*place].1, members, "seed {seed}: {key}");
        }
    }
}

#[test]
fn an_endpoint_with_many_values_ends_at_the_limit() {
    let values: Vec<u8> = (0..64).collect();
    let plain: Plain = KEYS.iter().map(|key| (*key, values.clone())).collect();
    let world = World::new(vec![plain, Plain::from([("a", vec![1])])]);
    let keys = KEYS.map(Arc::from).to_vec();
    let selectors = vec![
        SelectorPlan { keys, fallback: None },
        SelectorPlan { keys: vec!["a".into()], fallback: None },
    ];
    let fallback = SubsetFallback::Refuse;
    let plan =
        SubsetsPlan { selectors, fallback, default_subset: SubsetKey::new([]), count_max: 100 };
    let table = world.table(&Arc::new(plan));
    assert_eq!(table.iter().count(), 100);
    assert!(table.left_out() > 0);
}
