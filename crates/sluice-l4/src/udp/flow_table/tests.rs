use super::*;
use sluice_io::wheel::TICK;
use std::collections::BTreeMap;

/// The slow, obvious version: keys with the time of their last use.
#[derive(Default)]
struct Oracle {
    used: BTreeMap<u16, (Moment, Duration)>,
}

fn key(n: u16) -> FlowKey {
    FlowKey { client: ([127, 0, 0, 1], n).into(), local: None, endpoint: None }
}

/// One run of random actions; a failure reports the seed, and SLUICE_SEED replays it.
fn simulate(seed: u64) {
    const BOUND: usize = 20;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut table: FlowTable<u16> = FlowTable::new(BOUND);
    let mut oracle = Oracle::default();
    let mut now = Moment::default();
    for step in 0..3000 {
        let context = format!("seed {seed}, step {step}");
        now = now.after(Duration::from_millis(rng.u64(0..200)));
        let n = rng.u16(1..60);
        match rng.u8(0..10) {
            0..=6 => match table.arrive(&key(n), now) {
                Some(_) => {
                    let (used, _) = oracle.used.get_mut(&n).expect(&context);
                    *used = now;
                }
                None => {
                    assert!(!oracle.used.contains_key(&n), "{context}");
                    let idle = Duration::from_millis(rng.u64(100..5000));
                    let full = oracle.used.len() == BOUND;
                    let oldest = oracle.used.iter().min_by_key(|(_, (used, _))| *used);
                    let oldest = oldest.map(|(n, (used, _))| (*n, *used));
                    assert_eq!(table.is_full(), full, "{context}");
                    if full {
                        let oldest = oldest.unwrap().1;
                        let Some(spare) = table.spare(now) else {
                            assert!(now.since(oldest) < SPARE, "{context}");
                            continue;
                        };
                        let gone = table.remove(spare);
                        assert_eq!(oracle.used[&gone].0, oldest, "{context}");
                        assert!(now.since(oldest) >= SPARE, "{context}");
                        oracle.used.remove(&gone);
                    }
                    table.admit(key(n), Some(idle), now, n);
                    oracle.used.insert(n, (now, idle));
                }
            },
            7 => {
                let first = table.iter().next().map(|(id, value)| (id, *value));
                if let Some((id, value)) = first {
                    assert_eq!(table.remove(id), value);
                    oracle.used.remove(&value).expect(&context);
                }
            }
            _ => {
                let mut ended = Vec::new();
                table.expire(now, |n| ended.push(n));
                for n in ended {
                    let (used, idle) = oracle.used.remove(&n).expect(&context);
                    assert!(now.since(used) >= idle, "{context}: flow {n} ended early");
                }
                for (n, (used, idle)) in &oracle.used {
                    assert!(
                        now.since(*used) < *idle + TICK,
                        "{context}: flow {n} outlived its time"
                    );
                }
            }
        }
        table.check_invariants();
        assert_eq!(table.len(), oracle.used.len(), "{context}");
    }
}

#[test]
fn the_table_agrees_with_the_obvious_version() {
    match std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => simulate(seed),
        None => (0..150).for_each(simulate),
    }
}

#[test]
fn a_flood_of_new_sources_does_not_push_out_those_who_talk() {
    let mut table: FlowTable<u16> = FlowTable::new(4);
    let second = Duration::from_secs(1);
    let mut now = Moment::default();
    for n in 0..4 {
        table.admit(key(n), None, now, n);
    }
    for _ in 0..10 {
        now = now.after(second / 2);
        assert!((0..4).all(|n| table.arrive(&key(n), now).is_some()));
        assert!(table.is_full() && table.spare(now).is_none());
    }
    now = now.after(second);
    let spare = table.spare(now).unwrap();
    assert_eq!(table.remove(spare), 0);
}

#[test]
fn a_flow_lives_longer_once_it_may() {
    let mut table: FlowTable<u16> = FlowTable::new(4);
    let second = Duration::from_secs(1);
    let mut now = Moment::default();
    let id = table.admit(key(1), Some(second), now, 1);
    let ended = |table: &mut FlowTable<u16>, now| {
        let mut count = 0;
        table.expire(now, |_| count += 1);
        count
    };
    table.set_idle(id, Some(60 * second));
    table.touch(id, now);
    now = now.after(30 * second);
    assert_eq!(ended(&mut table, now), 0);
    now = now.after(31 * second);
    assert_eq!(ended(&mut table, now), 1);
}
