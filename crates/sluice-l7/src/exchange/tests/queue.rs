//! Requests that wait for an endpoint below its limit.

use std::time::Duration;

use sluice_core::reason::end;
use sluice_upstream::plan::QueuePlan;
use sluice_upstream::reasons as upstream_reasons;

use super::kit::{Bench, configure, get, response};
use super::{SECOND, timeouts, within};
use crate::reasons;
use crate::routes::RuleOptions;

/// A chain whose cluster takes two requests, one at each endpoint; one more waits for three seconds.
fn queued(options: RuleOptions) -> Bench {
    let bench = Bench::new(options);
    let queue = QueuePlan { size: 1, timeout: 3 * SECOND, own_timeout: Duration::ZERO };
    configure(&bench.cluster, |settings| {
        settings.endpoint_requests_max = Some(1);
        settings.queue = Some(queue);
    });
    bench
}

#[test]
fn a_request_waits_until_another_is_done() {
    let bench = queued(RuleOptions::default());
    let endpoints = [bench.connects(false), bench.connects(false)];
    let [mut first, _second] = endpoints.each_ref().map(|_| bench.serve(get(), true));
    let mut third = bench.serve(get(), true);
    assert!(third.is_waiting() && bench.cluster.waiting() == 1);
    let fourth = bench.serve(get(), true);
    fourth.check(503, upstream_reasons::QUEUE_FULL);
    fourth.check_attempts(&[]);
    let last = bench.connects(false);
    first.after(&endpoints[0], response(200, true));
    first.check(200, reasons::VIA_UPSTREAM);
    third.go_on().after(&last, response(204, true));
    third.check(204, reasons::VIA_UPSTREAM);
    assert_eq!(bench.cluster.waiting(), 0);
}

#[test]
fn a_wait_in_the_queue_ends_with_the_first_of_its_deadlines() {
    for (options, expected) in [
        (RuleOptions::default(), upstream_reasons::QUEUE_TIMEOUT),
        (within(timeouts(2, 0, 0, 0)), reasons::ROUTE_TIMEOUT),
        // An attempt has not begun yet.
        (within(timeouts(0, 0, 1, 0)), upstream_reasons::QUEUE_TIMEOUT),
    ] {
        let bench = queued(options);
        let _endpoints = [bench.connects(false), bench.connects(false)];
        let _held: Vec<_> = (0..2).map(|_| bench.serve(get(), true)).collect();
        let mut third = bench.serve(get(), true);
        third.pass(SECOND * 5 / 2).pass(2 * SECOND);
        assert_eq!(third.ended().reason.map(|why| why.code()), Some(expected.code()));
        assert_eq!(bench.cluster.waiting(), 0);
    }
}

#[test]
fn a_request_that_is_cancelled_leaves_the_queue() {
    let bench = queued(RuleOptions::default());
    let _endpoints = [bench.connects(false), bench.connects(false)];
    let _held: Vec<_> = (0..2).map(|_| bench.serve(get(), true)).collect();
    let mut third = bench.serve(get(), true);
    third.client.goes();
    third.go_on();
    let why = third.ended().reason.map(|why| why.code());
    assert_eq!(why, Some(end::DOWNSTREAM_RESET.code()));
    assert_eq!(bench.cluster.waiting(), 0);
}
