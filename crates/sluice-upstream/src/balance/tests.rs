use super::*;
use crate::endpoint::Target;
use proptest::prelude::*;

fn endpoints(weights: &[u32]) -> Vec<Arc<EndpointState>> {
    (0_u16..)
        .zip(weights)
        .map(|(n, weight)| {
            let target = Target::Ip(([127, 0, 0, 1], 1000 + n).into());
            Arc::new(EndpointState::new(target, None, *weight))
        })
        .collect()
}

const ALL: [Balance; 5] = [
    Balance::RoundRobin,
    Balance::LeastRequest,
    Balance::Random,
    Balance::RingHash,
    Balance::Maglev,
];

/// How often each endpoint is picked over `rounds`, with a new hash each time.
fn shares(balance: Balance, weights: &[u32], rounds: usize) -> Vec<usize> {
    let endpoints = endpoints(weights);
    let table = BalancerTable::build(balance, &endpoints);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts = vec![0; weights.len()];
    for round in 0..rounds {
        let hash = Some(rng.u64(..));
        let mut pick = Pick {
            random: &mut |bound| rng.usize(..bound.max(1)),
            position: round,
            hash,
            may: &|_| true,
        };
        counts[table.pick(&endpoints, &mut pick).unwrap()] += 1;
    }
    counts
}

#[test]
fn weights_are_kept() {
    for balance in [Balance::RoundRobin, Balance::Random, Balance::RingHash, Balance::Maglev] {
        let counts = shares(balance, &[1, 2, 5], 80_000);
        for (count, expected) in counts.iter().zip([10_000, 20_000, 50_000]) {
            let off = count.abs_diff(expected) * 100 / expected;
            let bound = if balance == Balance::RingHash { 30 } else { 4 };
            assert!(off <= bound, "{balance:?}: {counts:?}");
        }
    }
}

#[test]
fn turns_are_smooth() {
    let endpoints = endpoints(&[5, 1, 1]);
    let BalancerTable::InTurn(sequence) = BalancerTable::build(Balance::RoundRobin, &endpoints)
    else {
        panic!()
    };
    assert_eq!(sequence, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn the_less_loaded_of_two_is_taken() {
    let endpoints = endpoints(&[1, 1]);
    let table = BalancerTable::build(Balance::LeastRequest, &endpoints);
    let _busy: Vec<_> = (0..5).map(|_| endpoints[0].lease()).collect();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..100 {
        let mut pick = Pick {
            random: &mut |bound| rng.usize(..bound),
            position: 0,
            hash: None,
            may: &|_| true,
        };
        assert_eq!(table.pick(&endpoints, &mut pick), Some(1));
    }
}

#[test]
fn losing_one_endpoint_moves_little_else() {
    for (balance, bound) in [(Balance::RingHash, 0), (Balance::Maglev, 5)] {
        let all = endpoints(&[1; 10]);
        let (before, after) =
            (BalancerTable::build(balance, &all), BalancerTable::build(balance, &all[..9]));
        let mut moved = 0;
        for hash in (0..10_000_u64).map(|n| xxh3_64(&n.to_ne_bytes())) {
            let choose = |table: &BalancerTable, endpoints: &[_]| {
                let mut random = |_| 0;
                let mut pick =
                    Pick { random: &mut random, position: 0, hash: Some(hash), may: &|_| true };
                table.pick(endpoints, &mut pick)
            };
            let was = choose(&before, &all);
            moved += usize::from(was != Some(9) && was != choose(&after, &all[..9]));
        }
        assert!(moved * 100 / 10_000 <= bound, "{balance:?} moved {moved} of 10000");
    }
}

proptest! {
    #[test]
    fn an_endpoint_that_may_be_chosen_is_found(
        weights in prop::collection::vec(1_u32..100, 0..12),
        allowed in prop::collection::vec(any::<bool>(), 12),
        position: usize,
        hash: Option<u64>,
        seed: u64,
    ) {
        let endpoints = endpoints(&weights);
        for balance in ALL {
            let table = BalancerTable::build(balance, &endpoints);
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut pick = Pick {
                random: &mut |bound| if bound == 0 { 0 } else { rng.usize(..bound) },
                position,
                hash,
                may: &|index| index < weights.len() && allowed[index],
            };
            let picked = table.pick(&endpoints, &mut pick);
            let any = allowed.iter().take(weights.len()).any(|allowed| *allowed);
            prop_assert_eq!(picked.is_some(), any, "{:?}", balance);
            prop_assert!(picked.is_none_or(|index| allowed[index]));
        }
    }
}
