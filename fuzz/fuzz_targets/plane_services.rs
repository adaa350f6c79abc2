//! What a plane wants to be told of load and health: it is refused, or everything about it is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use sluice_core::Moment;
use sluice_xds::messages::health::HealthSpecifier;
use sluice_xds::messages::load_stats::LoadStatsResponse;
use sluice_xds::{AskedHealth, CheckedHealth, ClusterLoad, LoadReporter};

/// The most checks that are taken.
const MOST: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(specifier) = HealthSpecifier::decode(bytes)
        && let Ok(asked) = AskedHealth::of(specifier, MOST)
    {
        assert!(asked.clusters.len() <= MOST);
        for cluster in &asked.clusters {
            for check in 0..cluster.checks() {
                assert!(!cluster.encoded("own", check).is_empty());
            }
        }
        let answer = asked.answer(|_, _| CheckedHealth::Unknown);
        assert!(answer.encoded_len() > 0);
    }
    if let Ok(response) = LoadStatsResponse::decode(bytes) {
        let now = Moment::from_micros(1);
        let mut reporter = LoadReporter::new(b"");
        let first = response.clusters.first().cloned();
        reporter.receive(response, now);
        assert!(reporter.due().is_some_and(|due| due > now));
        if let Some(name) = first {
            assert!(reporter.wants(&name));
            let load = ClusterLoad { name: name.into(), ..ClusterLoad::default() };
            reporter.begin(vec![load.clone()], now);
            assert_eq!(reporter.report(vec![load], now).cluster_stats.len(), 1);
        }
    }
});
