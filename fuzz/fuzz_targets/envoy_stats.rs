//! Statistics as pages of Envoy show them: whatever the names and the filter are, the pages are in their forms, and bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_envoy::stats::show::{self, StatQuery};
use sluice_envoy::stats::{StatKind, StatRules, Statistic};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let mut query = StatQuery::default();
    let filter = lines.next().unwrap_or_default();
    let usable = query.set_filter(filter).is_ok();
    query.inverted = filter.len() % 2 == 1;
    let all: Vec<Statistic> = lines
        .enumerate()
        .map(|(number, name)| match number % 3 {
            0 => Statistic::counter(name, number as u64),
            1 => Statistic::gauge(name, u64::MAX),
            _ => Statistic {
                kind: StatKind::Histogram,
                times: vec![number as u64; number % 21],
                ..Statistic::counter(name, 0)
            },
        })
        .collect();
    let rules = StatRules::default();
    let chosen = query.select(&rules, &all);
    assert!(chosen.len() <= all.len() && (usable || chosen.len() == all.len()));
    assert_eq!(show::text(&chosen).lines().count(), chosen.len());
    assert!(show::as_json(&chosen).starts_with("{\"stats\":"));
    for line in show::prometheus(&rules, &chosen).lines() {
        assert!(line.starts_with("# TYPE envoy_") || line.starts_with("envoy_"), "{line}");
    }
});
