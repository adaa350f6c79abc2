use proptest::prelude::*;

use super::*;
use crate::balance::{Balance, BalancePlan, FailoverPlan, LocalityPlan};
use crate::endpoint::{EjectionKind, Locality, Target};
use crate::overrides::OverrideAction;

/// An endpoint, for a table: priority, zone and its weight, state.
#[derive(Clone, Copy, Debug)]
struct Given {
    priority: u32,
    zone: u8,
    state: Standing,
}

struct World {
    plan: BalancingPlan,
    endpoints: Vec<Arc<EndpointState>>,
    traits: Vec<EndpointTraits>,
    fleet: FleetZones,
    rng: fastrand::Rng,
    turns: Vec<usize>,
}

impl World {
    fn new(plan: BalancingPlan, given: &[Given], zone_weights: &[u32]) -> Self {
        let endpoint = |port: usize| {
            let port = u16::try_from(port + 1).unwrap();
            Arc::new(EndpointState::new(Target::Ip(([127, 0, 0, 1], port).into()), None))
        };
        let endpoints: Vec<_> = (0..given.len()).map(endpoint).collect();
        for (endpoint, given) in endpoints.iter().zip(given) {
            endpoint.set_degraded(given.state == Standing::Degraded);
            let usable = given.state != Standing::Unusable;
            endpoint.set_health(if usable { Ok(()) } else { Err("refused") });
            let withdrawn = given.state == Standing::Withdrawn;
            endpoint.set_override(withdrawn.then_some(OverrideAction::Drain));
        }
        let traits = given.iter().map(|given| {
            let zone = format!("z{}", given.zone).into();
            EndpointTraits {
                priority: given.priority,
                locality: Some(Arc::new(Locality { zone, ..Locality::default() })),
                locality_weight: zone_weights.get(usize::from(given.zone)).copied().unwrap_or(0),
                ..EndpointTraits::default()
            }
        });
        let rng = fastrand::Rng::with_seed(5);
        let (traits, fleet) = (traits.collect(), FleetZones::default());
        Self { plan, endpoints, traits, fleet, rng, turns: vec![0; 64] }
    }

    fn build(&self, old: Option<&LoadBalancer>) -> LoadBalancer {
        let balanced: Vec<BalancedEndpoint<'_>> = self
            .traits
            .iter()
            .zip(&self.endpoints)
            .map(|(traits, endpoint)| {
                let standing = match (endpoint.is_usable(), endpoint.is_degraded()) {
                    (false, _) if endpoint.is_withdrawn() => Standing::Withdrawn,
                    (false, _) => Standing::Unusable,
                    (true, true) => Standing::Degraded,
                    (true, false) => Standing::Healthy,
                };
                BalancedEndpoint { traits, standing, weight: traits.weight, part: 1000 }
            })
            .collect();
        let all: Vec<u32> = (0..).zip(&balanced).map(|(index, _)| index).collect();
        let input = BalancerInput {
            plan: &self.plan,
            endpoints: &self.endpoints,
            balanced: &balanced,
            fleet: &self.fleet,
        };
        LoadBalancer::build(input, &all, old)
    }

    fn pick(
        &mut self,
        selection: &LoadBalancer,
        hash: Option<u64>,
        full: &dyn Fn(usize) -> bool,
        tried: &dyn Fn(usize) -> bool,
    ) -> Result<u32, Shortage> {
        let Self { endpoints, rng, turns, .. } = self;
        let place = |endpoint: &EndpointState| {
            endpoints.iter().position(|one| one.name == endpoint.name).unwrap()
        };
        let openings = Openings {
            is_full: &|endpoint| full(place(endpoint)),
            is_tried: &|index, _| tried(index as usize),
        };
        let mut chooser = Chooser {
            random: &mut |bound| if bound == 0 { 0 } else { rng.usize(..bound) },
            turn: &mut |table| {
                turns[table] += 1;
                turns[table]
            },
            hash,
            load: &|| 0,
            now: &|| Moment::from_micros(0),
            failed: None,
        };
        selection.pick(endpoints, &openings, &mut chooser)
    }

    /// How often each endpoint is picked, in thousandths.
    fn shares(&mut self, selection: &LoadBalancer, hashed: bool) -> Vec<u32> {
        let mut counts = vec![0; self.endpoints.len()];
        for _ in 0..100_000 {
            let hash = hashed.then(|| self.rng.u64(..));
            if let Ok(index) = self.pick(selection, hash, &|_| false, &|_| false) {
                counts[index as usize] += 1;
            }
        }
        counts.into_iter().map(|count: u32| count / 100).collect()
    }
}

fn plan(balance: Balance) -> BalancingPlan {
    let failover =
        FailoverPlan { overprovisioning: Some(140), panic: 50, ..FailoverPlan::default() };
    let balance = BalancePlan::from(balance);
    BalancingPlan { balance, failover, ..BalancingPlan::default() }
}

fn given(text: &str) -> Vec<Given> {
    let one = |text: &str| {
        let mut letters = text.chars();
        let mut digit = || letters.next().unwrap().to_digit(10).unwrap();
        let (priority, zone) = (digit(), u8::try_from(digit()).unwrap());
        let state = match letters.next() {
            None => Standing::Healthy,
            Some('d') => Standing::Degraded,
            Some('w') => Standing::Withdrawn,
            Some(_) => Standing::Unusable,
        };
        Given { priority, zone, state }
    };
    text.split_whitespace().map(one).collect()
}

#[test]
fn traffic_is_split_as_the_shares_say() {
    use Balance::{LeastRequest, Maglev, Random, RoundRobin};
    for (balance, text, expected) in [
        (RoundRobin, "00 00 10", [500, 500, 0].as_slice()),
        (RoundRobin, "00 00u 10", &[700, 0, 300]),
        (Random, "00 00u 10", &[700, 0, 300]),
        (LeastRequest, "00 00u 10", &[700, 0, 300]),
        (Maglev, "00 00u 10", &[700, 0, 300]),
        (RoundRobin, "00u 00u 10", &[0, 0, 1000]),
        // Panic: everything is used.
        (RoundRobin, "00 00u 00u 00u", &[250; 4]),
        (RoundRobin, "00u 10u 10u 10u", &[250; 4]),
        // Degraded endpoints get what the healthy ones leave.
        (RoundRobin, "00 00d 00d 00d", &[350, 217, 217, 217]),
        (RoundRobin, "00d 10", &[0, 1000]),
        (Maglev, "00 00d 00u 00u", &[500, 500, 0, 0]),
        // What an operator withholds does not count: no spill, and no use in panic.
        (RoundRobin, "00 00w 10", &[1000, 0, 0]),
        (Maglev, "00 00w 10", &[1000, 0, 0]),
        (RoundRobin, "00w 10", &[0, 1000]),
        (RoundRobin, "00 00u 00u 00w", &[333, 333, 333, 0]),
        (Maglev, "00w 00u 10u", &[0, 500, 500]),
    ] {
        let mut world = World::new(plan(balance), &given(text), &[]);
        let selection = world.build(None);
        let shares = world.shares(&selection, balance == Maglev);
        for (share, expected) in shares.iter().zip(expected) {
            assert!(share.abs_diff(*expected) <= 8, "{balance:?} {text}: {shares:?}");
        }
    }
}

#[test]
fn localities_have_their_weights() {
    for (balance, text, weights, expected) in [
        (Balance::RoundRobin, "00 01 01 01", [1, 1], [500, 167, 167, 167]),
        (Balance::RoundRobin, "00 01 01 01", [3, 1], [750, 83, 83, 83]),
        (Balance::Maglev, "00 01 01 01", [3, 1], [750, 83, 83, 83]),
        // A locality of which a third is gone can still serve its part; with two gone, it serves 1.4 thirds of it.
        (Balance::RoundRobin, "00 01 01 01u", [1, 1], [517, 242, 242, 0]),
        (Balance::Random, "00 01 01u 01u", [1, 1], [685, 315, 0, 0]),
        // Without weights they are not told apart; one without a weight gets nothing.
        (Balance::RoundRobin, "00 01 01 01", [0, 0], [250, 250, 250, 250]),
        (Balance::RoundRobin, "00 01 01 01", [1, 0], [1000, 0, 0, 0]),
        (Balance::Maglev, "00 01 01 01", [0, 0], [250, 250, 250, 250]),
    ] {
        let plan = BalancingPlan {
            localities: LocalityPlan::Weighted,
            failover: FailoverPlan { panic: 0, ..plan(balance).failover },
            ..plan(balance)
        };
        let mut world = World::new(plan, &given(text), &weights);
        let selection = world.build(None);
        let shares = world.shares(&selection, balance == Balance::Maglev);
        for (share, expected) in shares.iter().zip(expected) {
            assert!(share.abs_diff(expected) <= 8, "{balance:?} {text} {weights:?}: {shares:?}");
        }
    }
}

#[test]
fn a_locality_without_a_weight_is_offered_nothing() {
    for (balance, text, weights, offered) in [
        (Balance::RoundRobin, "00 01 01", [1, 0], "0"),
        (Balance::Maglev, "00 01 01", [1, 0], "0"),
        (Balance::RoundRobin, "00 01 01", [0, 0], "012"),
        (Balance::Maglev, "00 01 01", [0, 0], "012"),
        // Where no endpoint with a weight is left, weights do not count; on a ring they always do.
        (Balance::RoundRobin, "00u 01 01", [1, 0], "12"),
        (Balance::Maglev, "00u 01 01", [1, 0], ""),
        (Balance::RoundRobin, "00 01 01u", [1, 1], "01"),
    ] {
        let plan = BalancingPlan { localities: LocalityPlan::Weighted, ..plan(balance) };
        let plan = BalancingPlan { failover: FailoverPlan { panic: 0, ..plan.failover }, ..plan };
        let mut world = World::new(plan, &given(text), &weights);
        let selection = world.build(None);
        let all = (0..).zip(&world.endpoints);
        let found: String = all
            .filter(|(index, endpoint)| selection.offers(*index, endpoint))
            .map(|(index, _)| index.to_string())
            .collect();
        assert_eq!(found, offered, "{balance:?} {text} {weights:?}");
        // A limit does not lead elsewhere.
        let full = |place: usize| offered.contains(&place.to_string());
        let hash = (balance == Balance::Maglev).then_some(7);
        let expected = if offered.is_empty() { Shortage::None } else { Shortage::Full };
        let picked = world.pick(&selection, hash, &full, &|_| false);
        assert_eq!(picked, Err(expected), "{balance:?} {text} {weights:?}");
    }
}

#[test]
fn the_load_of_each_locality_is_told() {
    for (balance, text, weights, expected) in [
        (Balance::RoundRobin, "00 01 01 01u", [1, 1], "0 z0 51.8, 0 z1 48.2"),
        (Balance::RoundRobin, "00 01d 10", [1, 1], "0 z0 70.0, 1 z0 30.0, 0 z1 degraded 0.0"),
        (Balance::RoundRobin, "00 00", [1, 1], "0 z0 100.0"),
        (Balance::RoundRobin, "00 01", [0, 0], ""),
        (Balance::Maglev, "00 01", [1, 1], ""),
    ] {
        let plan = BalancingPlan { localities: LocalityPlan::Weighted, ..plan(balance) };
        let world = World::new(plan, &given(text), &weights);
        let show = |load: LocalityLoad| {
            let degraded = if load.degraded { " degraded" } else { "" };
            format!("{} {}{degraded} {:.1}", load.priority, load.locality, load.percent)
        };
        let loads: Vec<String> = world.build(None).locality_loads().into_iter().map(show).collect();
        assert_eq!(loads.join(", "), expected, "{text} {weights:?}");
    }
}

#[test]
fn another_priority_is_for_those_that_were_tried_not_for_a_limit() {
    let mut world = World::new(plan(Balance::RoundRobin), &given("00 00 10"), &[]);
    let selection = world.build(None);
    for (full, tried, expected) in [
        (&[][..], &[][..], Ok(0)),
        (&[0], &[], Ok(1)),
        (&[0, 1], &[], Err(Shortage::Full)),
        (&[0], &[1], Err(Shortage::Full)),
        (&[], &[0, 1], Ok(2)),
        (&[2], &[0, 1], Err(Shortage::Full)),
        (&[0], &[0, 1], Ok(2)),
        (&[], &[0, 1, 2], Err(Shortage::None)),
    ] {
        let picked =
            world.pick(&selection, None, &|at| full.contains(&at), &|at| tried.contains(&at));
        let same = picked == expected || expected == Ok(0) && picked == Ok(1);
        assert!(same, "{full:?} {tried:?}: {picked:?}");
    }
}

#[test]
fn a_state_that_changed_since_is_seen() {
    for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::RingHash] {
        let mut world = World::new(plan(balance), &given("00 00 00"), &[]);
        let selection = world.build(None);
        world.endpoints[1].eject(EjectionKind::ConnectFailures, "it failed");
        for _ in 0..100 {
            let hash = Some(world.rng.u64(..));
            assert_ne!(world.pick(&selection, hash, &|_| false, &|_| false), Ok(1), "{balance:?}");
        }
        let next = world.build(Some(&selection));
        assert_eq!(next.hash_tables.len(), usize::from(balance == Balance::RingHash));
        let same = next.hash_tables.iter().zip(&selection.hash_tables);
        assert!(same.into_iter().all(|(new, old)| Arc::ptr_eq(new.1, old.1)));
    }
}

#[test]
fn what_an_operator_withholds_since_is_not_used_in_panic_either() {
    for action in [OverrideAction::Drain, OverrideAction::Maintenance] {
        let mut world = World::new(plan(Balance::RoundRobin), &given("00 00u 00u"), &[]);
        let selection = world.build(None);
        assert!(selection.panics());
        world.endpoints[1].set_override(Some(action));
        for _ in 0..100 {
            assert_ne!(world.pick(&selection, None, &|_| false, &|_| false), Ok(1), "{action}");
        }
    }
}

#[test]
fn equal_hashes_meet_in_every_state() {
    let mut world = World::new(plan(Balance::RingHash), &given("00 00 00u 10 10"), &[]);
    let selection = world.build(None);
    for hash in 0..500_u64 {
        let hash = Some(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let first = world.pick(&selection, hash, &|_| false, &|_| false);
        assert!(first.is_ok());
        assert_eq!(world.pick(&selection, hash, &|_| false, &|_| false), first);
    }
}

/// A plain reference: whether a pick may go to `index`, and whether there may be none.
fn allowed(world: &World, picked: Result<u32, Shortage>, full: &[bool], tried: &[bool]) -> bool {
    let usable = |at: usize| world.endpoints[at].is_usable();
    let all = 0..world.endpoints.len();
    match picked {
        Ok(index) => {
            let at = index as usize;
            let panics = world.build(None).panics();
            !full[at] && !tried[at] && (usable(at) || panics)
        }
        Err(Shortage::Full) => all.clone().any(|at| full[at]),
        // Everything that could be used was tried.
        Err(Shortage::None) => all.clone().all(|at| !usable(at) || tried[at]),
    }
}

proptest! {
    #[test]
    fn a_pick_is_one_that_may_be_picked(
        states in prop::collection::vec((0_u32..3, 0_u8..3, 0_u8..4, any::<bool>(), any::<bool>()), 1..12),
        panic in prop::sample::select(vec![0_u8, 50, 100]),
        factor in prop::sample::select(vec![None, Some(140)]),
        weighted: bool,
        seed: u64,
    ) {
        let given: Vec<Given> = states.iter().map(|(priority, zone, state, ..)| Given {
            priority: *priority,
            zone: *zone,
            state: match state {
                0 => Standing::Unusable,
                1 => Standing::Degraded,
                _ => Standing::Healthy,
            },
        }).collect();
        let full: Vec<bool> = states.iter().map(|state| state.3).collect();
        let tried: Vec<bool> = states.iter().map(|state| state.4).collect();
        for balance in
            [Balance::RoundRobin, Balance::LeastRequest, Balance::Random, Balance::RingHash]
        {
            let failover = FailoverPlan { panic, overprovisioning: factor, ..FailoverPlan::default() };
            let localities = if weighted { LocalityPlan::Weighted } else { LocalityPlan::Ignored };
            let plan = BalancingPlan { failover, localities, ..plan(balance) };
            let mut world = World::new(plan, &given, &[1, 2, 3]);
            world.rng = fastrand::Rng::with_seed(seed);
            let selection = world.build(None);
            for _ in 0..20 {
                let hash = Some(world.rng.u64(..));
                let picked = world.pick(&selection, hash, &|at| full[at], &|at| tried[at]);
                prop_assert!(allowed(&world, picked, &full, &tried), "{balance:?} {picked:?}");
            }
        }
    }
}

#[test]
fn an_aperture_takes_others_for_those_that_fail_and_spills_no_earlier() {
    let aperture = Some(crate::balance::AperturePlan::new(3, "process"));
    let failover = FailoverPlan::default();
    let plan = BalancingPlan { aperture, failover, ..plan(Balance::RoundRobin) };
    let mut world = World::new(plan, &given("00 00 00 00 00 00 10 10 10 10"), &[]);
    let offered = |world: &World| -> Vec<u32> {
        let mut all: Vec<u32> = world.build(None).offered().collect();
        all.sort_unstable();
        all
    };
    let first = offered(&world);
    assert_eq!((first.len(), first.iter().filter(|index| **index < 6).count()), (6, 3));
    // All three fail: the next ones serve, and the backup still gets nothing.
    for index in first.iter().filter(|index| **index < 6) {
        world.endpoints[*index as usize].set_health(Err("refused"));
    }
    let second = offered(&world);
    assert!(second.len() == 6 && first.iter().all(|index| *index >= 6 || !second.contains(index)));
    let selection = world.build(None);
    let shares = world.shares(&selection, false);
    for (index, share) in (0_u32..).zip(shares) {
        let expected = if index < 6 && second.contains(&index) { 333 } else { 0 };
        assert!(share.abs_diff(expected) <= 8, "{index}: {share}");
        assert_eq!(selection.offers(index, &world.endpoints[index as usize]), expected > 0);
    }
}
