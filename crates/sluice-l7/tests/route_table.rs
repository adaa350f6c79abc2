//! The cost of a large route table: bytes per rule; and instructions per lookup, for external counting.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::connection::Peer;
use sluice_core::value::HostPattern;
use sluice_l7::routes::{Action, PathMatch, RouteInput, Rule, RuleOptions, VirtualHost};
use sluice_l7::{RouteTable, Runtime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RULES: usize = 20;

/// A table of `hosts` hosts with [`RULES`] rules each, whose paths share no prefix.
fn table(hosts: usize) -> RouteTable {
    // Rules with equal options share them, as the rules of a configuration do.
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
    RouteTable::build(hosts.collect(), Vec::new(), Arc::default(), Vec::new()).unwrap()
}

/// A number from the environment, used to count instructions: see docs/performance.md.
fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn a_rule_of_a_large_table_takes_at_most_three_hundred_bytes_and_is_found() {
    let hosts = number("HOSTS", 10_000);
    let region = Region::new(ALLOCATOR);
    let table = table(hosts);
    let change = region.change();
    let live = change.bytes_allocated - change.bytes_deallocated;
    let each = live / (hosts * RULES);
    assert!(each <= 300, "{each} bytes for each rule, its host included");
    let runtime = Runtime::default();
    let asked = (0..97).map(|n| (n * 7919 % hosts, n % RULES));
    let asked: Vec<(usize, usize, Head)> = asked
        .map(|(host, rule)| {
            let (name, path) = (format!("host{host}.example.test"), format!("/service{rule}/x/y"));
            (host, rule, Head::request("GET", "http", &name, &path))
        })
        .collect();
    for (host, rule, head) in asked.iter().cycle().take(number("LOOKUPS", 1000)) {
        let subject = RouteInput {
            head,
            source: Peer::Unknown,
            conn: None,
            values: None,
            runtime: &runtime,
            random: 7,
        };
        assert_eq!(table.find(&subject), Some((*host, *rule)));
    }
}
