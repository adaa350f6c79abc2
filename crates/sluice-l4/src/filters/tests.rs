use std::time::Duration;

use sluice_core::connection::Peer;
use sluice_core::limits::Limit;
use sluice_core::tree::MapEntry;
use sluice_core::{Clock, ConnInfo, Diags, Node, Path, Span, Value, Verdict};
use sluice_io::descriptors::Budget;
use sluice_io::{Admit, ConnectionFilter, WorkerCx};
use std::rc::Rc;
use std::sync::Arc;

use super::buckets::{Bucket, BytePace, KeyedTable, PacePlan, PerOwner, RateTable, source_of};
use super::registry::NoNames;
use super::*;
use crate::reasons;

fn scalar(text: &str) -> Node {
    Node { value: Value::Scalar { text: text.into(), quoted: false }, span: Span::default() }
}

fn map(fields: &[(&str, &str)]) -> Node {
    let entry = |(key, value): &(&str, &str)| MapEntry {
        key: (*key).into(),
        key_span: Span::default(),
        node: scalar(value),
    };
    Node { value: Value::Map(fields.iter().map(entry).collect()), span: Span::default() }
}

fn check(
    filters: &Filters,
    name: &str,
    settings: &Node,
    diags: &mut Diags,
) -> Option<Arc<dyn ConnectionFilterPlan>> {
    let owner = FilterOwner::Listener("l");
    let mut names = NoNames;
    let mut context = CheckContext::new(&Path::ROOT, owner, diags, &mut names);
    filters.get(name).unwrap().check(settings, &mut context)
}

fn filter(
    worker: &Rc<WorkerCx>,
    filters: &Filters,
    name: &str,
    settings: &Node,
) -> Rc<dyn ConnectionFilter> {
    let mut diags = Diags::new();
    let plan = check(filters, name, settings, &mut diags);
    plan.unwrap_or_else(|| panic!("{:?}", diags.iter().collect::<Vec<_>>())).on_worker(worker, "l")
}

fn from(address: &str) -> ConnInfo {
    numbered(1, address)
}

fn numbered(id: u64, address: &str) -> ConnInfo {
    let peer = Peer::Ip(format!("{address}:1").parse().unwrap());
    ConnInfo::new(id, "l".into(), peer, peer, sluice_core::Moment::default())
}

/// A worker whose tables of sources have this bound.
fn with_source_table(clock: &Clock, bound: u32) -> Rc<WorkerCx> {
    let shard = sluice_telemetry::Registry::new().shard(1);
    let log = sluice_telemetry::LogQueue::nowhere(&shard);
    let mut limits = sluice_core::Limits::default();
    limits.set(Limit::SourceTable, u64::from(bound)).expect("it is within its range");
    WorkerCx::new(0, clock.clone(), shard, log, limits, &Budget::unlimited())
}

#[track_caller]
fn verdict(filter: &Rc<dyn ConnectionFilter>, conn: &ConnInfo) -> Verdict {
    match filter.admit(conn) {
        Admit::Now(verdict) => verdict,
        Admit::Wait(_) => panic!("built-in filters answer at once"),
    }
}

#[test]
fn allow_and_deny_are_opposites() {
    let (worker, filters) = (WorkerCx::solitary(Clock::held()), built_in());
    let block = scalar("10.0.0.0/8");
    let (inside, outside) = (from("10.1.1.1"), from("192.0.2.1"));
    let denied = Verdict::Reject(reasons::DENIED);
    for (name, of_inside, of_outside) in
        [("allow", Verdict::Continue, denied), ("deny", denied, Verdict::Continue)]
    {
        let filter = filter(&worker, &filters, name, &block);
        assert_eq!(
            (verdict(&filter, &inside), verdict(&filter, &outside)),
            (of_inside, of_outside)
        );
    }
}

#[test]
fn connections_are_counted_and_given_back_also_over_a_reload() {
    let (worker, filters) = (WorkerCx::solitary(Clock::held()), built_in());
    let settings = map(&[("max", "3"), ("per_source", "2")]);
    let first = filter(&worker, &filters, "connection_limit", &settings);
    let (a, b) = (from("10.0.0.1"), from("10.0.0.2"));
    assert_eq!(verdict(&first, &a), Verdict::Continue);
    assert_eq!(verdict(&first, &a), Verdict::Continue);
    assert_eq!(verdict(&first, &a), Verdict::Reject(reasons::SOURCE_LIMIT));
    // The same filter after a reload knows which connections the old one admitted.
    let second = filter(&worker, &filters, "connection_limit", &settings);
    assert_eq!(verdict(&second, &b), Verdict::Continue);
    assert_eq!(verdict(&second, &b), Verdict::Reject(reasons::LIMIT));
    first.ended(&a);
    assert_eq!(verdict(&second, &a), Verdict::Continue);
}

#[test]
fn a_bucket_fills_at_its_rate() {
    let clock = Clock::held();
    let (worker, filters) = (WorkerCx::solitary(clock.clone()), built_in());
    let settings = map(&[("connections", "10/s"), ("burst", "3"), ("per", "source_ip")]);
    let filter = filter(&worker, &filters, "rate_limit", &settings);
    let passed = |conn: &ConnInfo, tries: u32| {
        (0..tries).filter(|_| verdict(&filter, conn) == Verdict::Continue).count()
    };
    let (a, b) = (from("10.0.0.1"), from("10.0.0.2"));
    assert_eq!((passed(&a, 10), passed(&b, 10)), (3, 3));
    clock.advance(Duration::from_millis(250));
    assert_eq!(passed(&a, 10), 2);
    clock.advance(Duration::from_secs(60));
    assert_eq!(passed(&a, 10), 3);
}

#[test]
fn a_bucket_that_was_emptied_slowly_is_filled_fast_once_it_may_be() {
    let (clock, mut bucket) = (Clock::held(), Bucket::default());
    let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
    assert!((0..10).all(|_| bucket.take(clock.now(), hour, 10)));
    assert!(!bucket.take(clock.now(), second, 10));
    clock.advance(second);
    assert!(bucket.take(clock.now(), second, 10));
    assert!(!bucket.take(clock.now(), second, 10));
}

#[test]
fn a_source_is_an_address_or_a_network_of_one_host() {
    let source = |text: &str| source_of(Peer::Ip(text.parse().unwrap()));
    assert_eq!(source("[2001:db8::1]:1"), source("[2001:db8::2]:9"));
    assert_ne!(source("[2001:db8::1]:1"), source("[2001:db8:0:1::1]:1"));
    assert_eq!(source("[::ffff:192.0.2.1]:1"), source("192.0.2.1:9"));
    assert_ne!(source("192.0.2.1:1"), source("192.0.2.2:1"));
}

/// Connections of ever new sources come and go, or stay: nobody who has connections gets to open more than it may.
#[test]
fn a_flood_of_sources_lets_nobody_open_more_connections() {
    let clock = Clock::held();
    let bound = 256_u32;
    let worker = with_source_table(&clock, bound);
    let settings = map(&[("per_source", "2")]);
    let filter = filter(&worker, &built_in(), "connection_limit", &settings);
    let mut numbers = 0..;
    let mut open = |source: u32| {
        let ip = std::net::Ipv4Addr::from_bits(source).to_string();
        let conn = numbered(numbers.next().expect("it has no end"), &ip);
        (verdict(&filter, &conn) == Verdict::Continue).then_some(conn)
    };
    let honest = [open(1), open(1)].map(|conn| conn.expect("it may have two"));
    assert!(open(1).is_none());
    for source in 2..100_000 {
        clock.advance(Duration::from_millis(1));
        filter.ended(&open(source).expect("the first of its source"));
        if source % 1000 == 0 {
            assert!(open(1).is_none(), "it is known as long as it has connections");
        }
    }
    // Sources that keep their connections fill the table; further ones are not counted, and those that are stay so.
    let staying: Vec<ConnInfo> = (2..1000).map(|source| open(source).expect("first")).collect();
    let more: Vec<ConnInfo> = (2..1000).filter_map(&mut open).collect();
    assert_eq!(more.len(), staying.len(), "two of each");
    let third: Vec<ConnInfo> = (2..1000).filter_map(&mut open).collect();
    let known = bound as usize - 1;
    assert_eq!(third.len(), staying.len() - known, "the table is full of those that have two");
    assert!(open(1).is_none());
    // What was not counted gives nothing back.
    third.iter().chain(&more).for_each(|conn| filter.ended(conn));
    let again: Vec<ConnInfo> = (2..=bound).filter_map(&mut open).collect();
    assert_eq!(again.len(), known, "each has one left");
    assert!((2..=bound).all(|source| open(source).is_none()));
    honest.iter().for_each(|conn| filter.ended(conn));
    assert!(open(1).is_some() && open(1).is_some() && open(1).is_none());
}

#[test]
fn settings_that_limit_nothing_are_an_error() {
    for (name, settings) in
        [("connection_limit", map(&[])), ("rate_limit", map(&[])), ("deny", map(&[]))]
    {
        let mut diags = Diags::new();
        let filters = built_in();
        let plan = check(&filters, name, &settings, &mut diags);
        assert!(plan.is_none() && diags.has_errors(), "{name}");
    }
}

#[test]
fn state_that_nothing_uses_any_more_is_given_up() {
    let worker = WorkerCx::solitary(Clock::held());
    let states = PerOwner::default();
    let in_use: Arc<u32> = states.of("in use", &worker, |_| 7);
    for number in 0..10_000 {
        states.of(&format!("owner {number}"), &worker, |_| 0);
    }
    assert!(states.len() < 100, "{} owners are remembered", states.len());
    assert!(Arc::ptr_eq(&in_use, &states.of("in use", &worker, |_| 0)));
}

#[test]
fn a_key_in_use_keeps_its_entry_whatever_else_there_is() {
    let (clock, bound) = (Clock::held(), 500);
    let mut table = KeyedTable::<BytePace>::new(bound);
    let plan = PacePlan { rate: sluice_core::value::ByteRate(1000), burst: 1 };
    let mut entry = |key: &str, now| table.entry(key.as_bytes(), now);
    let (held, _) = entry("held", clock.now());
    let owing = {
        let (owing, _) = entry("owing", clock.now());
        owing.take(plan, clock.now(), 500_000).go();
        Arc::downgrade(&owing)
    };
    for number in 0..100_000 {
        clock.advance(Duration::from_millis(1));
        let (_, kept) = entry(&format!("{number}"), clock.now());
        assert!(kept, "unused entries make room");
    }
    assert!(Arc::ptr_eq(&held, &entry("held", clock.now()).0));
    let found = owing.upgrade().expect("it owes time, though nothing uses it");
    assert!(Arc::ptr_eq(&found, &entry("owing", clock.now()).0));
    drop(found);
    clock.advance(Duration::from_secs(500));
    (0..1000).for_each(|number| drop(entry(&format!("{number}"), clock.now())));
    assert!(owing.upgrade().is_none(), "it owes nothing any more");
    // All entries in use: further keys get one that is not found again.
    let mut all: Vec<_> =
        (0..500).map(|number| entry(&format!("u{number}"), clock.now())).collect();
    clock.advance(Duration::from_secs(1));
    all.extend((0..500).map(|number| entry(&format!("u{number}"), clock.now())));
    let kept = all.iter().filter(|(_, kept)| *kept).count();
    assert_eq!(kept, 2 * (bound - 1), "one is held from before");
    let (first, second) = (entry("more", clock.now()), entry("more", clock.now()));
    assert!(!first.1 && !second.1 && !Arc::ptr_eq(&first.0, &second.0));
    assert_eq!(table.len(), bound);
}

/// An attacker who sends requests under ever new keys does not get its own bucket filled, nor wipe that of others.
#[test]
fn a_flood_of_keys_gives_nobody_tokens_back() {
    const KEYS: u64 = 1_000_000;
    let (clock, bound, burst) = (Clock::held(), 4096, 10);
    let mut table = RateTable::<u64>::new(bound);
    let (hour, mut forgot) = (Duration::from_secs(3600), 0);
    let spent = KEYS + 1;
    assert!((0..burst).all(|_| table.take(spent, clock.now(), hour, burst).1));
    for key in 0..KEYS {
        forgot += u64::from(table.take(key, clock.now(), hour, burst).2);
    }
    assert!(forgot > 0 && table.len() <= bound, "the table is at its bound");
    assert_eq!(table.cells(), 4 * bound);
    assert!(!table.take(spent, clock.now(), hour, burst).1, "what is spent stays spent");
    // Who has sent nothing has all tokens.
    let left: Vec<u32> = (0..1000)
        .map(|honest| {
            let key = KEYS + 2 + honest;
            (0..burst).map(|_| u32::from(table.take(key, clock.now(), hour, burst).1)).sum()
        })
        .collect();
    let few = left.iter().filter(|left| **left < burst).count();
    assert!(few <= 5, "{few} of 1000 clients that have sent nothing lack tokens");
    // Time gives tokens back, in the sketch as well.
    clock.advance(hour * 3);
    let taken = (0..burst).filter(|_| table.take(spent, clock.now(), hour, burst).1).count();
    assert_eq!(taken, 3);
}

/// Keys at random, far more than the table has room for; `SLUICE_FLOOD_KEYS` for another number of them than a million.
#[test]
fn a_flood_of_random_keys_takes_no_memory_and_no_count_away() {
    let keys = flood_keys(1_000_000);
    let (clock, bound, burst) = (Clock::held(), 65_536, 10);
    let mut table = RateTable::<u128>::new(bound);
    let (hour, mut random) = (Duration::from_secs(3600), fastrand::Rng::with_seed(7));
    // Clients that have used some of what they may, and are seen no more while the flood lasts.
    let honest: Vec<u128> =
        (0..100).map(|name: u32| table.number_of(&name.to_le_bytes())).collect();
    for key in &honest {
        assert!((0..5).all(|_| table.take(*key, clock.now(), hour, burst).1));
    }
    let often = table.number_of(b"often");
    let mut taken = 0;
    for step in 0..keys {
        table.take(random.u128(..), clock.now(), hour, burst);
        // Seen again before as many others as the table has room for.
        if step % (bound as u64 * 3 / 4) == 0 {
            taken += u32::from(table.take(often, clock.now(), hour, burst).1);
            assert!(table.len() <= bound && table.cells() <= 4 * bound, "step {step}");
        }
    }
    assert_eq!(taken, burst, "a client that comes again and again keeps its count");
    // A forgotten client shares the cells of its sketch with others, which may take a token of it, but give none back.
    let left = honest
        .iter()
        .map(|key| (0..burst).filter(|_| table.take(*key, clock.now(), hour, burst).1).count());
    let left: Vec<usize> = left.collect();
    assert!(left.iter().all(|left| *left <= 5), "{left:?}: a forgotten client keeps its count");
    let fewer = left.iter().filter(|left| **left < 5).count();
    assert!(fewer <= 10, "{left:?}: {fewer} of 100 have less than was theirs");
}

/// The same for tables of what is in use: connections, requests in flight, rates of bytes.
#[test]
fn a_flood_of_random_keys_takes_no_entry_in_use_away() {
    let keys = flood_keys(200_000);
    let (clock, bound) = (Clock::held(), 65_536);
    let mut table = KeyedTable::<BytePace>::new(bound);
    let mut random = fastrand::Rng::with_seed(7);
    let honest: Vec<_> =
        (0..100_u32).map(|name| table.entry(&name.to_le_bytes(), clock.now()).0).collect();
    for step in 0..keys {
        let (_, kept) = table.entry(&random.u128(..).to_le_bytes(), clock.now());
        assert!(kept && table.len() <= bound, "step {step}");
    }
    for (name, entry) in (0_u32..).zip(&honest) {
        assert!(Arc::ptr_eq(entry, &table.entry(&name.to_le_bytes(), clock.now()).0));
    }
}

/// The keys of a flood: more by hand, see `benches/README.md`.
fn flood_keys(usual: u64) -> u64 {
    std::env::var("SLUICE_FLOOD_KEYS").map_or(usual, |keys| keys.parse().unwrap())
}

#[test]
fn texts_have_numbers_of_their_own() {
    let table = RateTable::<u128>::new(64);
    let mut seen = std::collections::HashSet::new();
    assert!((0..100_000_u32).all(|text| seen.insert(table.number_of(&text.to_le_bytes()))));
    assert_ne!(table.number_of(b"a"), RateTable::<u128>::new(64).number_of(b"a"));
}
