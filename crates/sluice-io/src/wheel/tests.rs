use super::*;
use std::collections::BTreeMap;

/// The slow, obvious version: every deadline in a map.
#[derive(Default)]
struct Oracle {
    now: u64,
    deadlines: BTreeMap<u32, Option<u64>>,
}

impl Oracle {
    fn advance(&mut self, now: u64) -> Vec<u32> {
        self.now = self.now.max(now);
        let due = |deadline: &Option<u64>| deadline.is_some_and(|deadline| deadline <= self.now);
        let ids: Vec<u32> = self
            .deadlines
            .iter()
            .filter(|(_, deadline)| due(deadline))
            .map(|(id, _)| *id)
            .collect();
        for id in &ids {
            self.deadlines.insert(*id, None);
        }
        ids
    }
}

fn simulate(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut wheel, mut oracle) = (Wheel::default(), Oracle::default());
    let mut keys: BTreeMap<u32, TimerKey> = BTreeMap::new();
    for step in 0..2000_u32 {
        let far = 1_u64 << rng.u32(0..28);
        match rng.u8(0..10) {
            0..=2 => {
                keys.insert(step, wheel.insert(step));
                oracle.deadlines.insert(step, None);
            }
            3..=6 => {
                if let Some((id, key)) = rng.choice(keys.iter()) {
                    let deadline = (oracle.now + rng.u64(0..far)).saturating_sub(rng.u64(0..4));
                    wheel.set(*key, deadline);
                    oracle.deadlines.insert(*id, Some(deadline));
                }
            }
            7 => {
                if let Some(id) = rng.choice(keys.keys().copied().collect::<Vec<_>>()) {
                    assert_eq!(wheel.remove(keys.remove(&id).unwrap()), id);
                    oracle.deadlines.remove(&id);
                }
            }
            _ => {
                let now = oracle.now + rng.u64(0..far);
                let mut due = Vec::new();
                wheel.advance(now, |id| due.push(*id));
                due.sort_unstable();
                assert_eq!(due, oracle.advance(now), "seed {seed}, step {step}, now {now}");
                let earliest = oracle.deadlines.values().flatten().min();
                assert!(
                    wheel.next().unwrap_or(u64::MAX) <= *earliest.unwrap_or(&u64::MAX),
                    "seed {seed}, step {step}: the wheel would sleep past a deadline"
                );
            }
        }
    }
}

#[test]
fn the_wheel_agrees_with_a_sorted_map() {
    let replay = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    match replay {
        Some(seed) => simulate(seed),
        None => (0..200).for_each(simulate),
    }
}

#[test]
fn nothing_to_do_means_nothing_to_wait_for() {
    let mut wheel = Wheel::default();
    assert_eq!(wheel.next(), None);
    let key = wheel.insert(());
    wheel.set(key, 1000);
    assert!(wheel.next().is_some_and(|tick| tick <= 1000));
    wheel.set(key, u64::MAX);
    wheel.advance(5000, |()| panic!("it has no deadline any more"));
    assert_eq!(wheel.next(), None);
}
