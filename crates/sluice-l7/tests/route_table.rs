//! What a large route table costs: bytes for each rule, and instructions for each look-up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::value::HostPattern;
use sluice_l7::routes::{Action, PathMatch, Rule, RuleOptions, Subject, VirtualHost};
use sluice_l7::{RouteTable, Runtime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RULES: usize = 20;

/// A table of so many hosts with [`RULES`] rules each, for paths that share no beginning.
fn table(hosts: usize) -> RouteTable {
    // Rules that say the same share what they say, as those of a configuration do.
    let options = Arc::new(RuleOptions::default());
    let rule = |host: usize, number: usize| Rule {
        name: format!("host{host}.example.test/{number}").into(),
        path: PathMatch::Prefix(format!("/service{number}").into()),
        conditions: None,
        action: Action::Cluster(0),
        options: Arc::clone(&options),
        overrides: 0,
    };
    let hosts = (0..hosts).map(|host| {
        let rules = (0..RULES).map(|number| rule(host, number)).collect();
        VirtualHost::new(vec![HostPattern::Exact(format!("host{host}.example.test"))], rules)
    });
    RouteTable::build(hosts.collect(), Vec::new(), BTreeMap::new(), Vec::new()).unwrap()
}

#[test]
fn a_rule_of_a_large_table_takes_at_most_three_hundred_bytes() {
    const HOSTS: usize = 10_000;
    let region = Region::new(ALLOCATOR);
    let table = table(HOSTS);
    let change = region.change();
    let live = change.bytes_allocated - change.bytes_deallocated;
    let each = live / (HOSTS * RULES);
    assert!(each <= 300, "{each} bytes for each rule");
    drop(table);
}

/// Look-ups alone, to be run under callgrind with `HOSTS` and `LOOKUPS` in the environment; what a look-up takes is the
/// difference between two runs.
#[test]
#[ignore = "for callgrind; see docs/performance.md"]
fn look_ups() {
    let number = |name: &str| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let (hosts, look_ups) = (number("HOSTS"), number("LOOKUPS"));
    let (table, runtime) = (table(hosts), Runtime::default());
    let heads: Vec<Head> = (0..97)
        .map(|n| {
            let host = format!("host{}.example.test", n * 7919 % hosts);
            Head::request("GET", "http", &host, &format!("/service{}/x/y", n % RULES))
        })
        .collect();
    for head in heads.iter().cycle().take(look_ups) {
        let subject = Subject { head, source: None, tls: None, runtime: &runtime, random: 7 };
        assert!(black_box(table.find(&subject)).is_some());
    }
}
