//! The exchange without a socket: retries, early responses, every deadline, tunnels, cancellation, and a seeded
//! simulation of all of it.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::scripted::{PeerEvent, SentEvent};
use sluice_codec::{ErrorKind, Head};
use sluice_core::reason::end;
use sluice_core::settings::OrNone;
use sluice_upstream::reasons as upstream_reasons;

use self::kit::{BODY_TIMEOUT, Bench, data, get, is_reset, post, response};
use crate::attempts::Departure;
use crate::reasons;
use crate::routes::{RetryPlan, RetryWhen, RuleOptions, Timeouts};

mod additions;
mod admission;
mod attempts;
mod bodies;
mod classes;
mod connecting;
mod costs;
mod ending;
mod filters;
mod grpc_calls;
mod guards;
mod hedging;
mod held;
pub(crate) mod kit;
mod load_guards;
mod mirror;
mod on_demand;
mod pieces;
mod queue;
mod redirects;
mod reroute;
mod retries;
mod side_call_retries;
mod side_calls;
mod simulation;
mod stream_duration;
mod time_limits;
mod whole;

const SECOND: Duration = Duration::from_secs(1);

fn retrying(attempts: u32, when: RetryWhen) -> RuleOptions {
    RuleOptions {
        retry: RetryPlan { attempts, when, ..RetryPlan::default() },
        ..RuleOptions::default()
    }
}

fn within(timeouts: Timeouts) -> RuleOptions {
    RuleOptions { timeouts, ..RuleOptions::default() }
}

/// Time-outs of which only `total`, `response`, `per_try` and `idle`, in seconds, are set.
fn timeouts(total: u64, response: u64, per_try: u64, idle: u64) -> Timeouts {
    let timeout = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
    Timeouts {
        total: Some(OrNone(timeout(total))),
        response: timeout(response),
        per_try: timeout(per_try),
        idle: timeout(idle),
        ..Timeouts::default()
    }
}

// --- ordinary requests ---

#[test]
fn a_request_and_its_response_are_forwarded() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    assert!(matches!(&endpoint.sent()[..], [SentEvent::Head(text, true)] if text.contains("GET")));
    request.after(&endpoint, response(200, false));
    request.after(&endpoint, data("hel", false)).after(&endpoint, data("lo", true));
    assert_eq!((request.statuses(), request.client.body()), (vec![200], b"hello".to_vec()));
    request.check(200, reasons::VIA_UPSTREAM);
    request.check_attempts(&[None]);
    assert!(!is_reset(&endpoint));
}

#[test]
fn both_bodies_flow_at_once() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("one ", false));
    assert_eq!(endpoint.body(), b"one ");
    request.after(&endpoint, response(200, false)).after(&endpoint, data("first ", false));
    assert_eq!(request.client.body(), b"first ");
    request.client_does(data("two", true)).after(&endpoint, data("second", true));
    assert_eq!(
        (endpoint.body(), request.client.body()),
        (b"one two".into(), b"first second".into())
    );
    request.check(200, reasons::VIA_UPSTREAM);
    assert_eq!((request.ended().received, request.ended().sent), (7, 12));
}

#[test]
fn the_endpoint_is_not_read_ahead_of_a_slow_client() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    request.client.reads(false);
    request.after(&endpoint, data("a", false)).after(&endpoint, data("b", true));
    assert!(request.client.body().len() <= 1 && request.is_waiting());
    request.client.reads(true);
    request.go_on();
    assert_eq!(request.client.body(), b"ab");
    request.check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn trailers_are_forwarded_both_ways() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", false)).client_does(PeerEvent::Trailers(Head::default()));
    request.after(&endpoint, response(200, false));
    let mut trailers = Head::default();
    trailers.append(b"grpc-status", b"5");
    request.after(&endpoint, PeerEvent::Trailers(trailers));
    assert_eq!(endpoint.sent().last(), Some(&SentEvent::End(true)));
    assert_eq!(request.client.sent().last(), Some(&SentEvent::End(true)));
    assert_eq!(request.ended().grpc_status, Some(5));
}

// --- informational and early responses ---

#[test]
fn informational_responses_are_forwarded_up_to_a_bound() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(103, false)).after(&endpoint, response(200, true));
    assert_eq!(request.statuses(), [103, 200]);

    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    for _ in 0..32 {
        request.after(&endpoint, response(103, false));
    }
    request.check(502, reasons::UPSTREAM_PROTOCOL);
    assert!(is_reset(&endpoint));
}

#[test]
fn a_100_is_forwarded_only_to_a_client_that_expects_it() {
    for expects in [false, true] {
        let bench = Bench::new(RuleOptions::default());
        let endpoint = bench.connects(false);
        let mut head = post();
        if expects {
            head.append(b"expect", b"100-continue");
        }
        let mut request = bench.serve(head, false);
        request.after(&endpoint, response(100, false));
        request.client_does(data("x", true)).after(&endpoint, response(204, true));
        let expected = if expects { &[100, 204][..] } else { &[204] };
        assert_eq!(request.statuses(), expected);
    }
}

#[test]
fn an_early_response_ends_the_request() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("much", false));
    request.after(&endpoint, response(413, true));
    request.check(413, reasons::VIA_UPSTREAM);
    assert!(is_reset(&endpoint), "the rest of the request goes nowhere");
}

#[test]
fn an_endpoint_that_stops_reading_may_still_respond() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    endpoint.reads(false);
    request.client_does(data("never taken", false));
    request.after(&endpoint, response(503, true));
    request.check(503, reasons::VIA_UPSTREAM);
}

// --- retries ---

#[test]
fn an_unreachable_endpoint_is_replaced_by_another() {
    let bench = Bench::new(RuleOptions::default());
    bench.fails_to_connect(upstream_reasons::REFUSED);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("body", true)).after(&endpoint, response(200, true));
    assert_eq!(endpoint.body(), b"body");
    request.check(200, reasons::VIA_UPSTREAM);
    request.check_attempts(&[Some(upstream_reasons::REFUSED), None]);
    let names: Vec<_> = request.ended().attempts.iter().map(|attempt| &attempt.endpoint).collect();
    assert_ne!(names[0], names[1], "another endpoint is preferred");
}

#[test]
fn attempts_to_connect_are_bounded() {
    let bench = Bench::new(RuleOptions::default());
    (0..3).for_each(|_| bench.fails_to_connect(upstream_reasons::REFUSED));
    let request = bench.serve(get(), true);
    request.check(503, upstream_reasons::REFUSED);
    request.check_attempts(&[Some(upstream_reasons::REFUSED); 3]);
}

#[test]
fn a_stale_connection_is_replaced_for_idempotent_requests_only() {
    for (head, status) in [(get(), 200), (post(), 503)] {
        let bench = Bench::new(RuleOptions::default());
        let (stale, fresh) = (bench.connects(true), bench.connects(false));
        let mut request = bench.serve(head, true);
        request.after(&stale, PeerEvent::Fails(ErrorKind::Finished));
        if request.is_waiting() {
            request.after(&fresh, response(200, true));
        }
        assert_eq!(request.statuses(), [status]);
    }
}

#[test]
fn a_reset_is_retried_if_the_route_allows_it() {
    let reset = PeerEvent::Fails(ErrorKind::Reset);
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, reset.clone());
    request.check(503, upstream_reasons::RESET);

    let bench = Bench::new(retrying(3, RetryWhen { reset: true, ..RetryWhen::default() }));
    let endpoints = [bench.connects(false), bench.connects(false), bench.connects(false)];
    let mut request = bench.serve(get(), true);
    for endpoint in &endpoints {
        assert!(request.is_waiting() && !endpoint.sent().is_empty());
        request.after(endpoint, reset.clone()).pass(SECOND);
    }
    request.check(503, reasons::RETRIES_EXHAUSTED);
    request.check_attempts(&[Some(upstream_reasons::RESET); 3]);
    assert!(endpoints.iter().all(is_reset), "an attempt that is given up leaves no stream behind");
}

#[test]
fn a_retried_response_never_reaches_the_client_and_the_body_is_sent_again() {
    let bench = Bench::new(retrying(2, RetryWhen { server_error: true, ..RetryWhen::default() }));
    let (bad, good) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(post(), false);
    request.client_does(data("one ", false)).client_does(data("two", true));
    request.after(&bad, response(500, true)).pass(SECOND);
    request.after(&good, response(200, true));
    assert_eq!((bad.body(), good.body()), (b"one two".to_vec(), b"one two".to_vec()));
    assert_eq!(request.statuses(), [200]);
    request.check_attempts(&[Some(reasons::RETRIED), None]);
}

#[test]
fn a_body_that_is_too_large_to_keep_is_sent_once() {
    let when = RetryWhen { server_error: true, reset: true, ..RetryWhen::default() };
    let mut options = retrying(3, when);
    options.retry.body_max = 4;
    let bench = Bench::new(options);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("12345", true)).after(&endpoint, response(500, true));
    request.check(500, reasons::VIA_UPSTREAM);
    request.check_attempts(&[None]);
}

#[test]
fn retries_in_flight_are_bounded_per_cluster() {
    let bench = Bench::new(retrying(9, RetryWhen { reset: true, ..RetryWhen::default() }));
    let requests: Vec<_> = (0..4)
        .map(|_| {
            let endpoint = bench.connects(false);
            let mut request = bench.serve(get(), true);
            let retry = bench.connects(false);
            request.after(&endpoint, PeerEvent::Fails(ErrorKind::Reset)).pass(SECOND);
            if request.is_waiting() {
                assert!(!retry.sent().is_empty());
            } else {
                bench.pool.scripted.borrow_mut().clear();
            }
            request
        })
        .collect();
    let retried = requests.iter().filter(|request| request.is_waiting()).count();
    assert_eq!(retried, 3, "as many as `limits.retries` of the cluster");
    requests[3].check(503, upstream_reasons::RESET);
}

// --- deadlines ---

#[test]
fn the_response_timeout_spans_all_attempts() {
    let when = RetryWhen { reset: true, ..RetryWhen::default() };
    let bench = Bench::new(RuleOptions { timeouts: timeouts(0, 10, 0, 0), ..retrying(3, when) });
    let (first, second) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 6).after(&first, PeerEvent::Fails(ErrorKind::Reset)).pass(SECOND);
    assert!(request.is_waiting() && !second.sent().is_empty());
    request.pass(SECOND * 4);
    request.check(504, reasons::ROUTE_TIMEOUT);
    assert!(is_reset(&second));
}

#[test]
fn the_response_timeout_starts_when_the_request_is_complete() {
    let bench = Bench::new(within(timeouts(0, 10, 0, 0)));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    for _ in 0..5 {
        request.pass(SECOND * 9).client_does(data("x", false));
    }
    request.client_does(data("x", true)).pass(SECOND * 9);
    assert!(request.is_waiting());
    request.pass(SECOND * 2);
    request.check(504, reasons::ROUTE_TIMEOUT);
    assert!(is_reset(&endpoint));
}

#[test]
fn an_attempt_that_times_out_is_retried() {
    let when = RetryWhen { per_try_timeout: true, ..RetryWhen::default() };
    let bench = Bench::new(RuleOptions { timeouts: timeouts(0, 0, 5, 0), ..retrying(2, when) });
    let (slow, fast) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 6).pass(SECOND);
    assert!(is_reset(&slow));
    request.after(&fast, response(200, true));
    request.check(200, reasons::VIA_UPSTREAM);
    request.check_attempts(&[Some(reasons::TRY_TIMEOUT), None]);
}

#[test]
fn the_total_timeout_applies_in_every_phase() {
    // Connecting.
    let bench = Bench::new(within(timeouts(10, 0, 0, 0)));
    bench.never_connects();
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 11);
    request.check(504, reasons::ROUTE_TIMEOUT);
    // Waiting for the response.
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 11);
    request.check(504, reasons::ROUTE_TIMEOUT);
    assert!(is_reset(&endpoint));
    // In the middle of the response: it cannot be completed, so it is cut.
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false)).after(&endpoint, data("half", false));
    request.pass(SECOND * 11);
    request.check(200, reasons::ROUTE_TIMEOUT);
    assert!(is_reset(&endpoint) && is_reset(&request.client));
}

#[test]
fn the_total_timeout_is_longer_by_a_random_part() {
    let timeouts = Timeouts { total_jitter_percent: 100, ..timeouts(10, 0, 0, 0) };
    let bench = Bench::new(within(timeouts));
    let mut ended_halfway = 0;
    for _ in 0..40 {
        let endpoint = bench.connects(false);
        let mut request = bench.serve(get(), true);
        request.pass(SECOND * 9);
        assert!(!is_reset(&endpoint));
        request.pass(SECOND * 6);
        ended_halfway += usize::from(is_reset(&endpoint));
        request.pass(SECOND * 6);
        request.check(504, reasons::ROUTE_TIMEOUT);
    }
    assert!((1..40).contains(&ended_halfway), "{ended_halfway}");
}

#[test]
fn a_grpc_client_can_shorten_the_exchange() {
    let bench = Bench::new(within(timeouts(100, 0, 0, 0)));
    let _endpoint = bench.connects(false);
    let mut head = post();
    head.append(b"content-type", b"application/grpc");
    head.append(b"grpc-timeout", b"2S");
    let mut request = bench.serve(head, true);
    request.pass(SECOND * 3);
    assert_eq!(request.ended().reason.map(|why| why.code()), Some(reasons::ROUTE_TIMEOUT.code()));
    assert!(
        request.ended().detail.as_deref().is_some_and(|detail| detail.contains("grpc-timeout"))
    );
}

#[test]
fn a_client_that_stalls_in_its_body_times_out() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    for _ in 0..3 {
        request.pass(BODY_TIMEOUT - SECOND).client_does(data("x", false));
    }
    assert!(request.is_waiting());
    request.pass(BODY_TIMEOUT + SECOND);
    request.check(408, reasons::BODY_TIMEOUT);
    assert!(is_reset(&endpoint));
}

#[test]
fn an_exchange_without_data_in_either_direction_times_out() {
    let bench = Bench::new(within(timeouts(0, 0, 0, 20)));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    for _ in 0..3 {
        request.pass(SECOND * 19).after(&endpoint, data("x", false));
    }
    assert!(request.is_waiting());
    request.pass(SECOND * 21);
    request.check(200, reasons::STREAM_IDLE);
    assert!(is_reset(&endpoint));
}

// --- peers that leave ---

#[test]
fn a_client_that_leaves_cancels_its_attempt() {
    for stage in 0..3 {
        let bench = Bench::new(RuleOptions::default());
        let endpoint = (stage > 0).then(|| bench.connects(false));
        if stage == 0 {
            bench.never_connects();
        }
        let mut request = bench.serve(get(), true);
        if let (2, Some(endpoint)) = (stage, &endpoint) {
            request.after(endpoint, response(200, false));
        }
        request.client.goes();
        request.go_on();
        assert_eq!(
            request.ended().reason.map(|why| why.code()),
            Some(end::DOWNSTREAM_RESET.code())
        );
        assert!(endpoint.as_ref().is_none_or(is_reset), "stage {stage}");
    }
}

#[test]
fn a_response_that_breaks_off_is_cut() {
    let bench = Bench::new(retrying(3, RetryWhen { reset: true, ..RetryWhen::default() }));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false)).after(&endpoint, data("half", false));
    request.after(&endpoint, PeerEvent::Fails(ErrorKind::Reset));
    request.check(200, reasons::UPSTREAM_CUT);
    assert!(is_reset(&request.client), "it must not look complete");
}

#[test]
fn an_attempt_at_a_removed_endpoint_is_retried_or_cut() {
    let when = RetryWhen { reset: true, ..RetryWhen::default() };
    let bench = Bench::new(retrying(2, when));
    let (leaving, other) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    let members = bench.cluster.members();
    let names: HashSet<_> =
        members.endpoints.iter().map(|e| std::sync::Arc::clone(&e.name)).collect();
    bench.manager.shared.attempts.cancel(
        &"app".into(),
        &names,
        bench.worker.now(),
        Departure::Removed,
    );
    request.go_on().pass(SECOND);
    assert!(is_reset(&leaving));
    request.after(&other, response(200, false));
    bench.manager.shared.attempts.cancel(
        &"app".into(),
        &names,
        bench.worker.now(),
        Departure::Removed,
    );
    request.go_on();
    request.check(200, end::ENDPOINT_REMOVED);
    assert_eq!(request.ended().details, "endpoint_removed");
    assert!(is_reset(&other) && is_reset(&request.client));
}

// --- tunnels ---

#[test]
fn an_accepted_upgrade_becomes_a_tunnel() {
    let bench = Bench::new(RuleOptions { upgrades: vec!["chat".into()], ..RuleOptions::default() });
    let endpoint = bench.connects(false);
    let mut head = get();
    head.set_upgrade(b"chat");
    let mut request = bench.serve(head, false);
    request.client_does(data("early", false));
    assert_eq!(endpoint.body(), b"", "nothing is sent before the endpoint agrees");
    let mut agreed = Head::response(101);
    agreed.set_upgrade(b"chat");
    request.after(&endpoint, PeerEvent::Head(agreed, false));
    assert_eq!(endpoint.body(), b"early");
    request.pass(BODY_TIMEOUT * 2).after(&endpoint, data("hello", false));
    assert_eq!(request.client.body(), b"hello", "a tunnel may be silent for long");
    request.after(&endpoint, PeerEvent::End);
    assert!(request.is_waiting(), "each side ends by itself");
    request.client_does(PeerEvent::End);
    request.check(101, reasons::VIA_UPSTREAM);
}

#[test]
fn an_upgrade_that_the_route_does_not_allow_is_refused() {
    let bench = Bench::new(RuleOptions::default());
    let mut head = get();
    head.set_upgrade(b"chat");
    bench.serve(head, false).check(403, reasons::UPGRADE_DENIED);
    let connect = Head::request("CONNECT", "http", "db.test:5432", "");
    bench.serve(connect, false).check(403, reasons::UPGRADE_DENIED);
}

#[test]
fn a_connect_refused_by_the_endpoint_is_an_ordinary_response() {
    let bench = Bench::new(RuleOptions { connect: true, ..RuleOptions::default() });
    let endpoint = bench.connects(false);
    let mut request = bench.serve(Head::request("CONNECT", "http", "db.test:5432", ""), false);
    request.after(&endpoint, response(403, false)).after(&endpoint, data("no", true));
    assert_eq!(request.client.body(), b"no");
    request.check(403, reasons::VIA_UPSTREAM);
}

#[test]
fn a_tunnel_carries_bytes_in_any_number_of_pieces() {
    let bench = Bench::new(RuleOptions { connect: true, ..RuleOptions::default() });
    let endpoint = bench.connects(false);
    let mut request = bench.serve(Head::request("CONNECT", "http", "db.test:5432", ""), false);
    request.after(&endpoint, response(200, false));
    let piece = Bytes::from_static(&[7; 1000]);
    for _ in 0..100 {
        request.client.does(PeerEvent::Data(piece.clone(), false));
        endpoint.does(PeerEvent::Data(piece.clone(), false));
    }
    request.go_on();
    assert_eq!((endpoint.body().len(), request.client.body().len()), (100_000, 100_000));
}
