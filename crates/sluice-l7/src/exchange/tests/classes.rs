//! Requests with high priority, which have limits and connections of their own.

use sluice_upstream::plan::BreakerClass;
use sluice_upstream::reasons as upstream_reasons;

use super::kit::{Bench, configure, connects, get, response};
use crate::reasons;
use crate::routes::RuleOptions;

#[test]
fn the_limits_of_high_priority_are_counted_apart() {
    for (class, limit) in
        [(BreakerClass::Default, "limits.requests"), (BreakerClass::High, "limits.high.requests")]
    {
        let bench = Bench::new(RuleOptions { class, ..RuleOptions::default() });
        configure(&bench.cluster, |settings| {
            settings.requests_max = Some(1);
            settings.high.requests_max = Some(2);
        });
        let pool = bench.manager.shared.pools.to_class(&bench.cluster, class, &bench.worker);
        let count = if class == BreakerClass::High { 2 } else { 1 };
        let endpoints: Vec<_> = (0..count).map(|_| connects(&pool, false)).collect();
        let mut served: Vec<_> = endpoints.iter().map(|_| bench.serve(get(), true)).collect();
        let refused = bench.serve(get(), true);
        refused.check(503, upstream_reasons::LIMIT);
        let detail = refused.ended().detail.as_deref().unwrap_or_default();
        assert!(detail.contains(limit), "{detail}");
        for (request, endpoint) in served.iter_mut().zip(&endpoints) {
            request.after(endpoint, response(200, true));
            request.check(200, reasons::VIA_UPSTREAM);
        }
        assert_eq!(bench.cluster.requests(), 0);
    }
}
