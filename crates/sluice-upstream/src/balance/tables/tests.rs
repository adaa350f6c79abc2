use super::*;
use crate::balance::{Balance, MaglevPlan};
use crate::endpoint::Target;
use proptest::prelude::*;

fn endpoints(count: usize) -> Vec<Arc<EndpointState>> {
    (1000_u16..)
        .take(count)
        .map(|port| Arc::new(EndpointState::new(Target::Ip(([127, 0, 0, 1], port).into()), None)))
        .collect()
}

fn weighted(weights: &[u32]) -> Vec<Weighted> {
    let all = (0_u32..).zip(weights);
    all.map(|(index, weight)| Weighted { index, weight: u64::from(*weight) }).collect()
}

/// A table over endpoints with these weights.
fn table(
    balance: impl Into<BalancePlan>,
    weights: &[u32],
) -> (BalancerTable, Vec<Arc<EndpointState>>) {
    let endpoints = endpoints(weights.len());
    (BalancerTable::build(&balance.into(), &endpoints, weighted(weights)), endpoints)
}

/// Picks of one worker.
struct Picks {
    rng: fastrand::Rng,
    turn: usize,
    load: u64,
    now: Moment,
}

impl Picks {
    fn new(seed: u64) -> Self {
        let now = Moment::from_micros(1_000_000);
        Self { rng: fastrand::Rng::with_seed(seed), turn: 0, load: 0, now }
    }

    fn pick(
        &mut self,
        table: &BalancerTable,
        endpoints: &[Arc<EndpointState>],
        hash: Option<u64>,
        may: &dyn Fn(u32) -> bool,
    ) -> Option<u32> {
        let Self { rng, turn, load, now } = self;
        let mut pick = Pick {
            random: &mut |bound| if bound == 0 { 0 } else { rng.usize(..bound) },
            turn: &mut || {
                *turn = turn.wrapping_add(1);
                *turn
            },
            hash,
            may,
            load: &|| *load,
            now: &|| *now,
            failed: None,
        };
        table.pick(endpoints, &mut pick)
    }
}

const ALL: [Balance; 7] = [
    Balance::RoundRobin,
    Balance::LeastRequest,
    Balance::PeakEwma,
    Balance::LoadReports,
    Balance::Random,
    Balance::RingHash,
    Balance::Maglev,
];

/// How often each endpoint is picked over `rounds`, with a new hash each time.
fn shares(balance: BalancePlan, weights: &[u32], rounds: usize) -> Vec<usize> {
    let (table, endpoints) = table(balance, weights);
    let mut picks = Picks::new(7);
    let mut hashes = fastrand::Rng::with_seed(11);
    let mut counts = vec![0; weights.len()];
    for _ in 0..rounds {
        let picked = picks.pick(&table, &endpoints, Some(hashes.u64(..)), &|_| true).unwrap();
        counts[picked as usize] += 1;
    }
    counts
}

#[test]
fn weights_are_kept() {
    for balance in [Balance::RoundRobin, Balance::Random, Balance::RingHash, Balance::Maglev] {
        for weights in [[1, 2, 5], [10, 20, 50], [7, 14, 35]] {
            let counts = shares(balance.into(), &weights, 80_000);
            for (count, expected) in counts.iter().zip([10_000, 20_000, 50_000]) {
                let off = count.abs_diff(expected) * 100 / expected;
                let bound = if balance == Balance::RingHash { 30 } else { 4 };
                assert!(off <= bound, "{balance:?}: {counts:?}");
            }
        }
    }
    // Without load, the least loaded of all are those with the highest weight.
    let all = LeastRequestPlan { choices: None, bias: 1000 };
    assert_eq!(shares(BalancePlan::LeastRequest(all), &[1, 2, 2], 100)[0], 0);
}

#[test]
fn the_less_loaded_is_taken() {
    let least = |choices, bias| BalancePlan::LeastRequest(LeastRequestPlan { choices, bias });
    let (two, endpoints) = table(least(Some(2), 1000), &[1, 1]);
    let _busy: Vec<_> = (0..5).map(|_| endpoints[0].lease()).collect();
    let mut picks = Picks::new(1);
    let took = (0..1000).filter(|_| picks.pick(&two, &endpoints, None, &|_| true) == Some(1));
    // Two of two are all of them.
    assert_eq!(took.count(), 1000);

    let (all, endpoints) = table(least(None, 1000), &[1; 9]);
    let _busy: Vec<_> = (0..9).filter(|n| *n != 4).map(|n| endpoints[n].lease()).collect();
    assert_eq!(picks.pick(&all, &endpoints, None, &|_| true), Some(4));
    assert_ne!(picks.pick(&all, &endpoints, None, &|index| index != 4), Some(4));

    // With a weight of 4 and three requests, (3 + 1) / 4 is less than (1 + 1) / 1; if load counts twice, it is not.
    for (bias, expected) in [(1000, 0), (2000, 1), (0, 0)] {
        let (all, endpoints) = table(least(None, bias), &[4, 1]);
        let _three: Vec<_> = (0..3).map(|_| endpoints[0].lease()).collect();
        let _one = endpoints[1].lease_request();
        let heavier = picks.pick(&all, &endpoints, None, &|_| true);
        // 16 / 4 = 4 against 4 / 1: equal, so that either may be taken.
        let ok = heavier == Some(expected) || bias == 2000;
        assert!(ok, "{bias}: {heavier:?}");
    }

    let (some, endpoints) = table(least(Some(5), 1000), &[1; 100]);
    let _busy: Vec<_> = (0..50).map(|n| endpoints[n].lease()).collect();
    let mut idle = 0;
    for _ in 0..10_000 {
        idle += usize::from(picks.pick(&some, &endpoints, None, &|_| true) >= Some(50));
    }
    // All five are busy in one of 32 picks.
    assert!((9_500..9_850).contains(&idle), "{idle}");
}

#[test]
fn losing_one_endpoint_moves_little_else() {
    for (balance, bound) in [(Balance::RingHash, 0), (Balance::Maglev, 5)] {
        let (all, endpoints) = table(balance, &[1; 10]);
        let less = BalancerTable::build(&balance.into(), &endpoints[..9], weighted(&[1; 9]));
        let mut picks = Picks::new(1);
        let (mut moved, mut moved_by_state) = (0, 0);
        for hash in (0..10_000_u64).map(|n| Some(xxh3_64(&n.to_ne_bytes()))) {
            let before = picks.pick(&all, &endpoints, hash, &|_| true);
            let after = picks.pick(&less, &endpoints[..9], hash, &|_| true);
            let down = picks.pick(&all, &endpoints, hash, &|index| index != 9);
            moved += usize::from(before != Some(9) && before != after);
            moved_by_state += usize::from(before != Some(9) && before != down);
        }
        assert!(moved * 100 / 10_000 <= bound, "{balance:?} moved {moved} of 10000");
        assert_eq!(moved_by_state, 0, "{balance:?}");
    }
}

#[test]
fn sizes_are_kept() {
    for (size_min, size_max, count, expected) in [
        (1024, 1 << 20, 2, 1024),
        (1, 1 << 20, 2, 320),
        (1024, 1 << 20, 100, 16_000),
        (1024, 2000, 100, 2000),
        (1, 10, 100, 100),
    ] {
        let plan = RingPlan { size_min, size_max, ..RingPlan::default() };
        let endpoints = endpoints(count);
        let points = ring(&plan, &endpoints, &weighted(&vec![1; count]));
        assert_eq!(points.len(), expected, "{size_min} {size_max} {count}");
    }
    let (table, endpoints) =
        table(BalancePlan::Maglev(MaglevPlan { slots: 7, ..MaglevPlan::default() }), &[1, 2]);
    let BalancerTable::Hash(HashTable { entries: HashEntries::Maglev(slots), .. }) = &table else {
        panic!("{table:?}")
    };
    assert_eq!(slots.len(), 7);
    assert!(Picks::new(1).pick(&table, &endpoints, Some(8), &|_| true).is_some());
}

#[test]
fn a_host_keeps_its_hashes_when_its_address_changes() {
    let of = |address: u8, host: &str| {
        let target = Target::Ip(([127, 0, 0, address], 80).into());
        Arc::new(EndpointState::new(target, Some(host.into())))
    };
    // `c.test` has two addresses, of which the first has the places of the host.
    let before = [of(1, "a.test"), of(2, "b.test"), of(3, "c.test"), of(4, "c.test")];
    let after = [of(9, "b.test"), of(4, "c.test"), of(8, "a.test"), of(3, "c.test")];
    for balance in [
        BalancePlan::RingHash(RingPlan { by_host: true, ..RingPlan::default() }),
        BalancePlan::Maglev(MaglevPlan { by_host: true, ..MaglevPlan::default() }),
    ] {
        let build = |endpoints: &[_]| {
            BalancerTable::build(&balance, endpoints, weighted(&vec![1; endpoints.len()]))
        };
        let (old, new) = (build(&before), build(&after));
        let mut picks = Picks::new(5);
        let (mut moved, mut seen) = (0, std::collections::HashSet::new());
        for hash in (0..10_000_u64).map(|n| Some(xxh3_64(&n.to_ne_bytes()))) {
            let was = picks.pick(&old, &before, hash, &|_| true).unwrap();
            let is = picks.pick(&new, &after, hash, &|_| true).unwrap();
            let (was, is) = (&before[was as usize], &after[is as usize]);
            moved += usize::from(was.host != is.host);
            seen.insert(Arc::clone(&was.name));
        }
        assert_eq!(seen.len(), 4, "every address is used: {balance:?}");
        // Maglev fills its table in the order of the endpoints, so that a few slots differ.
        assert!(moved <= 100, "{balance:?} moved {moved} of 10000");
    }
}

#[test]
fn an_overloaded_endpoint_is_passed_over() {
    for balance in [
        BalancePlan::RingHash(RingPlan { load_max: Some(150), ..RingPlan::default() }),
        BalancePlan::Maglev(MaglevPlan { load_max: Some(150), ..MaglevPlan::default() }),
    ] {
        let (table, endpoints) = table(balance, &[1, 1, 2]);
        let mut picks = Picks::new(3);
        let mut leases = Vec::new();
        // One key gets all requests: no endpoint gets more than one and a half times its share of them.
        for load in 0..400 {
            picks.load = load;
            let picked = picks.pick(&table, &endpoints, Some(42), &|_| true).unwrap();
            leases.push(endpoints[picked as usize].lease_request());
        }
        let loads: Vec<u64> = endpoints.iter().map(|endpoint| endpoint.load()).collect();
        assert!(loads[0] <= 150 && loads[1] <= 150 && loads[2] <= 300, "{loads:?}");
        drop(leases);
        // Where all are overloaded, the hash decides.
        picks.load = 0;
        let _each: Vec<_> = endpoints.iter().map(|endpoint| endpoint.lease_request()).collect();
        let first = picks.pick(&table, &endpoints, Some(42), &|_| true);
        picks.load = 1 << 40;
        assert_eq!(picks.pick(&table, &endpoints, Some(42), &|_| true), first);
    }
}

proptest! {
    #[test]
    fn an_endpoint_that_may_be_chosen_is_found(
        weights in prop::collection::vec(1_u32..100, 0..12),
        allowed in prop::collection::vec(any::<bool>(), 12),
        hash: Option<u64>,
        seed: u64,
    ) {
        for balance in ALL {
            let (table, endpoints) = table(balance, &weights);
            let may = |index: u32| allowed[index as usize];
            let picked = Picks::new(seed).pick(&table, &endpoints, hash, &may);
            let any = allowed.iter().take(weights.len()).any(|allowed| *allowed);
            prop_assert_eq!(picked.is_some(), any, "{:?}", balance);
            prop_assert!(picked.is_none_or(|index| allowed[index as usize]));
        }
    }
}

/// Requests to endpoints that take this many milliseconds, one a millisecond: how many each gets.
struct Simulation {
    table: BalancerTable,
    endpoints: Vec<Arc<EndpointState>>,
    picks: Picks,
    /// When each request ends, where, and how long it took.
    open: Vec<(u64, usize, u64, crate::endpoint::CountedLoad)>,
    millis: u64,
}

impl Simulation {
    fn new(seed: u64, count: usize) -> Self {
        let (table, endpoints) = table(Balance::PeakEwma, &vec![1; count]);
        endpoints.iter().for_each(|endpoint| endpoint.latency.track(true));
        Self { table, endpoints, picks: Picks::new(seed), open: Vec::new(), millis: 0 }
    }

    fn run(&mut self, millis: u64, takes: &[u64]) -> Vec<u32> {
        let decay = PeakEwmaPlan::default().decay;
        let mut counts = vec![0; takes.len()];
        for _ in 0..millis {
            self.millis += 1;
            let now = Moment::from_micros(self.millis * 1000);
            self.picks.now = now;
            let (ended, open) =
                std::mem::take(&mut self.open).into_iter().partition(|one| one.0 <= self.millis);
            self.open = open;
            for (_, place, took, _lease) in ended {
                let took = std::time::Duration::from_millis(took);
                self.endpoints[place].latency.observe(took, now, decay);
            }
            let picked = self.picks.pick(&self.table, &self.endpoints, None, &|_| true).unwrap();
            let place = picked as usize;
            counts[place] += 1;
            let lease = self.endpoints[place].lease_request();
            self.open.push((self.millis + takes[place], place, takes[place], lease));
        }
        counts
    }
}

#[test]
fn fast_endpoints_get_more_and_a_stalled_one_next_to_nothing() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 4);
        let total = |counts: &[u32]| counts.iter().sum::<u32>();
        // Equals are used alike.
        let counts = simulation.run(8000, &[5; 4]);
        assert!(counts.iter().all(|count| count.abs_diff(2000) < 400), "seed {seed}: {counts:?}");
        // Ten times as slow: it gets what shows that, and what its fading peak makes seem worth a try.
        let counts = simulation.run(8000, &[50, 5, 5, 5]);
        assert!(counts[0] * 10 < total(&counts), "seed {seed}: {counts:?}");
        assert!(counts[0] > 0, "seed {seed}: it is tried now and then");
        // It recovers, which is noticed as its average fades.
        simulation.run(60_000, &[5; 4]);
        let counts = simulation.run(8000, &[5; 4]);
        assert!(counts[0].abs_diff(2000) < 500, "seed {seed}: {counts:?}");
    }
}

#[test]
fn an_endpoint_of_which_nothing_is_known_is_tried_once_until_it_responds() {
    let (table, endpoints) = table(Balance::PeakEwma, &[1, 1]);
    endpoints.iter().for_each(|endpoint| endpoint.latency.track(true));
    let decay = PeakEwmaPlan::default().decay;
    let mut picks = Picks::new(1);
    endpoints[0].latency.observe(std::time::Duration::from_millis(9), picks.now, decay);
    let first = picks.pick(&table, &endpoints, None, &|_| true).unwrap();
    assert_eq!(first, 1);
    let _lease = endpoints[1].lease_request();
    assert!((0..20).all(|_| picks.pick(&table, &endpoints, None, &|_| true) == Some(0)));
}
