//! Hedging: a late attempt goes on beside the next, and the first good response counts.

use std::time::Duration;

use sluice_codec::ErrorKind;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer};
use sluice_core::settings::OrNone;
use sluice_upstream::reasons as upstream_reasons;

use super::SECOND;
use super::kit::{Bench, Running, configure, data, get, is_reset, post, response};
use crate::routes::{RetryPlan, RetryWhen, RuleOptions, Timeouts};
use crate::{metrics, reasons};

const TRY: Duration = SECOND;

fn options(attempts: u32) -> RuleOptions {
    let when = RetryWhen { server_error: true, ..RetryWhen::default() };
    RuleOptions {
        retry: RetryPlan {
            attempts,
            when,
            hedge: true,
            backoff: Duration::ZERO,
            ..RetryPlan::default()
        },
        timeouts: Timeouts {
            per_try: Some(TRY),
            total: Some(OrNone(Some(TRY * 10))),
            ..Timeouts::default()
        },
        ..RuleOptions::default()
    }
}

fn bench(attempts: u32) -> Bench {
    Bench::new(options(attempts))
}

/// What the record shows of each attempt after its endpoint.
#[track_caller]
fn shown(request: &Running<'_>) -> Vec<String> {
    let attempts = request.ended().attempts.iter().map(ToString::to_string);
    attempts.map(|text| text.split_once(' ').unwrap().1.to_owned()).collect()
}

/// Whether an endpoint has a request that was neither ended nor reset.
fn is_asked(endpoint: &ScriptedPeer) -> bool {
    !endpoint.sent().is_empty() && !is_reset(endpoint)
}

#[track_caller]
fn check_hedges(bench: &Bench, first: &str) {
    let count = bench.registry.value(metrics::HEDGES.name, &["app", first]);
    assert_eq!(count, Some(1));
}

#[test]
fn the_retry_responds_first_and_the_late_attempt_is_reset() {
    let bench = bench(2);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(TRY);
    assert!(is_asked(&one) && is_asked(&two), "both are in flight");
    request.after(&two, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert!(is_reset(&one));
    let [late, won] = &shown(&request)[..] else { panic!("two attempts") };
    assert!(
        late.starts_with(
            "route.try_timeout: no response within `timeout.per_try` (1s), nor before 192.0.2."
        ),
        "{late}"
    );
    assert!(late.ends_with("responded, retried by try_timeout"), "{late}");
    assert_eq!(won, "ok");
    check_hedges(&bench, "retry");
}

#[test]
fn the_late_attempt_responds_first_and_the_retry_is_reset() {
    let bench = bench(2);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(TRY).pass(TRY / 2);
    request.after(&one, response(200, false));
    assert!(is_reset(&two) && request.is_waiting(), "the body follows");
    request.after(&one, data("x", true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(
        shown(&request),
        [
            "route.overtaken: waiting for the response for 500 ms".to_owned(),
            "ok: late, after 1500 ms".to_owned(),
        ]
    );
    check_hedges(&bench, "late");
}

#[test]
fn the_late_attempt_may_respond_while_the_next_still_connects_or_waits() {
    let bench = bench(2);
    let one = bench.connects(false);
    bench.never_connects();
    let mut request = bench.serve(get(), true);
    request.pass(TRY).after(&one, response(204, true)).check(204, reasons::VIA_UPSTREAM);
    assert!(shown(&request)[0].starts_with("route.overtaken: connecting for 0 ms"));

    let mut options = options(2);
    (options.retry.backoff, options.retry.backoff_max) = (TRY * 5, TRY * 5);
    let bench = Bench::new(options);
    let one = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.pass(TRY).after(&one, response(204, true)).check(204, reasons::VIA_UPSTREAM);
    assert_eq!(shown(&request), ["ok: late, after 1000 ms"]);
}

#[test]
fn a_response_that_would_be_retried_does_not_end_the_others() {
    for bad_first in [true, false] {
        let bench = bench(2);
        let (one, two) = (bench.connects(false), bench.connects(false));
        let mut request = bench.serve(get(), true);
        request.pass(TRY);
        let (bad, good) = if bad_first { (&one, &two) } else { (&two, &one) };
        request.after(bad, response(503, true));
        assert!(request.is_waiting() && is_asked(good));
        request.after(good, response(200, true)).check(200, reasons::VIA_UPSTREAM);
        let all = shown(&request);
        let bad = all.iter().find(|text| text.contains("status 503")).unwrap();
        assert!(bad.starts_with("route.retried: "), "{bad}");
    }
    // The last of several is delivered as it is.
    let bench = bench(2);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(TRY).after(&two, response(503, true)).after(&one, response(502, true));
    request.check(502, reasons::VIA_UPSTREAM);
}

#[test]
fn all_attempts_may_fail() {
    let bench = bench(2);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(TRY).after(&one, PeerEvent::Fails(ErrorKind::Reset));
    assert!(request.is_waiting());
    request.after(&two, PeerEvent::Fails(ErrorKind::Reset));
    request.check(503, reasons::RETRIES_EXHAUSTED);
    let all = shown(&request);
    assert!(all[0].starts_with(&format!("{}: late", upstream_reasons::RESET)), "{all:?}");
    check_hedges(&bench, "none");
}

#[test]
fn the_last_attempt_waits_for_all_the_time_there_is() {
    let bench = bench(3);
    let endpoints: Vec<_> = (0..3).map(|_| bench.connects(false)).collect();
    let mut request = bench.serve(get(), true);
    for _ in 0..4 {
        request.pass(TRY);
    }
    assert!(endpoints.iter().all(is_asked), "no attempt was given up");
    request.pass(TRY * 6).check(504, reasons::ROUTE_TIMEOUT);
    assert!(endpoints.iter().all(is_reset));
    assert_eq!(request.ended().attempts.len(), 3);
    let detail = request.ended().detail.as_deref().unwrap();
    assert_eq!(detail, "no response within `timeout.total` (10s)");
}

#[test]
fn a_request_that_is_not_whole_or_not_for_retries_has_one_attempt_at_a_time() {
    // The body is still coming: the attempt is given up, as without hedging.
    let bench = bench(2);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(post(), false);
    request.pass(TRY);
    assert!(is_reset(&one) && is_asked(&two));
    request.client_does(data("x", true)).after(&two, response(200, true));
    request.check(200, reasons::VIA_UPSTREAM);
    // What is not retried is not sent twice, and waits on.
    let mut options = options(2);
    options.retry.methods = vec!["GET".into()];
    let bench = Bench::new(options);
    let one = bench.connects(false);
    let mut request = bench.serve(post(), true);
    request.pass(TRY * 5);
    assert!(is_asked(&one));
    request.after(&one, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(shown(&request), ["ok: late, after 5000 ms"]);
}

#[test]
fn a_late_attempt_counts_towards_the_limits_until_it_ends() {
    let bench = bench(3);
    configure(&bench.cluster, |settings| {
        settings.retries_max = 1;
        settings.retry_percent = 0;
        settings.requests_max = Some(10);
    });
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(TRY);
    assert_eq!(bench.cluster.requests(), 2);
    // The budget has room for one retry, and that is still in flight.
    request.pass(TRY);
    assert_eq!(bench.cluster.requests(), 2);
    assert!(is_asked(&one) && is_asked(&two));
    request.after(&two, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(bench.cluster.requests(), 0);
    drop(request);
}

#[test]
fn a_client_that_leaves_ends_all_attempts() {
    let bench = bench(2);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(TRY);
    request.client.goes();
    request.go_on();
    assert!(!request.is_waiting() && is_reset(&one) && is_reset(&two));
}
