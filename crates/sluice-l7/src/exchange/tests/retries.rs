//! Retries: what covers a response, which requests have them, which wait comes first, and what records show.

use std::time::Duration;

use sluice_codec::scripted::PeerEvent;
use sluice_codec::{ErrorKind, Head};
use sluice_upstream::reasons as upstream_reasons;

use super::SECOND;
use super::kit::{Bench, Running, get, post, response};
use crate::reasons;
use crate::routes::{
    ResetHeader, RetryPlan, RetryReset, RetryWhen, RuleOptions, Timeouts, ValueMatch,
};

const RESET: RetryWhen = RetryWhen {
    server_error: false,
    gateway_error: false,
    reset: true,
    unsent: false,
    per_try_timeout: false,
    conflict: false,
    rate_limited: false,
    grpc: 0,
};

fn bench(retry: RetryPlan) -> Bench {
    Bench::new(RuleOptions { retry, ..RuleOptions::default() })
}

/// A plan of two attempts without a wait in between.
fn twice() -> RetryPlan {
    RetryPlan { attempts: 2, backoff: Duration::ZERO, ..RetryPlan::default() }
}

fn with_fields(status: u16, fields: &[(&str, &str)]) -> PeerEvent {
    let mut head = Head::response(status);
    fields.iter().for_each(|(name, value)| head.append(name.as_bytes(), value.as_bytes()));
    PeerEvent::Head(head, true)
}

/// What the record shows of each attempt after its endpoint.
#[track_caller]
fn shown(request: &Running<'_>) -> Vec<String> {
    let attempts = request.ended().attempts.iter().map(ToString::to_string);
    attempts.map(|text| text.split_once(' ').unwrap().1.to_owned()).collect()
}

#[test]
fn a_response_is_retried_by_its_status_range_or_header() {
    let named = |name: &str| vec![(name.to_owned(), ValueMatch::Present(true))];
    for (plan, first, rule) in [
        (RetryPlan { statuses: vec![(420, 429)], ..twice() }, with_fields(429, &[]), "statuses"),
        (
            RetryPlan { response_headers: named("x-again"), ..twice() },
            with_fields(200, &[("x-again", "1")]),
            "response_headers",
        ),
    ] {
        let bench = bench(plan);
        let (one, two) = (bench.connects(false), bench.connects(false));
        let mut request = bench.serve(get(), true);
        request.after(&one, first).pass(SECOND).after(&two, response(200, true));
        request.check(200, reasons::VIA_UPSTREAM);
        let text = &shown(&request)[0];
        assert!(text.ends_with(&format!("retried by {rule}")), "{text}");
    }
}

#[test]
fn only_requests_that_the_plan_takes_are_retried() {
    let methods = RetryPlan { methods: vec!["GET".into()], when: RESET, ..twice() };
    let named = vec![("x-safe".to_owned(), ValueMatch::Exact("yes".into()))];
    let headers = RetryPlan { request_headers: named, when: RESET, ..twice() };
    let mut marked = post();
    marked.append(b"x-safe", b"yes");
    for (plan, head, retried) in [
        (&methods, get(), true),
        (&methods, post(), false),
        (&headers, post(), false),
        (&headers, marked, true),
    ] {
        let bench = bench(plan.clone());
        let one = bench.connects(false);
        let mut request = bench.serve(head, true);
        if !retried {
            request.after(&one, PeerEvent::Fails(ErrorKind::Reset));
            request.check(503, upstream_reasons::RESET);
            continue;
        }
        let two = bench.connects(false);
        request.after(&one, PeerEvent::Fails(ErrorKind::Reset)).pass(SECOND);
        request.after(&two, response(200, true)).check(200, reasons::VIA_UPSTREAM);
        assert!(shown(&request)[0].ends_with("retried by reset"), "{:?}", shown(&request));
    }
}

#[test]
fn connections_are_attempted_as_often_as_the_plan_says() {
    let when = RetryWhen { reset: false, unsent: true, ..RESET };
    let bench = bench(RetryPlan { attempts: 4, when, ..twice() });
    (0..5).for_each(|_| bench.fails_to_connect(upstream_reasons::REFUSED));
    let last = bench.connects(false);
    // Two retries need no plan, and three are the plan's.
    let mut request = bench.serve(get(), true);
    request.after(&last, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(request.ended().attempts.len(), 6);
}

#[test]
fn a_response_may_name_the_wait() {
    let headers = vec![ResetHeader { name: "retry-after".into(), is_unix: false }];
    let reset = Some(Box::new(RetryReset { headers, wait_max: SECOND * 20 }));
    let plan = RetryPlan { statuses: vec![(429, 429)], reset, ..twice() };
    let bench = bench(plan);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.after(&one, with_fields(429, &[("retry-after", "10")]));
    request.pass(SECOND * 9);
    assert!(two.sent().is_empty(), "the wait is not over");
    request.pass(SECOND * 6);
    request.after(&two, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    // A longer one is ignored.
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.after(&one, with_fields(429, &[("retry-after", "21")])).pass(SECOND / 100);
    request.after(&two, response(200, true)).check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_response_is_delivered_if_there_is_no_time_for_the_wait_that_it_names() {
    let headers = vec![ResetHeader { name: "retry-after".into(), is_unix: false }];
    let reset = Some(Box::new(RetryReset { headers, wait_max: SECOND * 20 }));
    let retry = RetryPlan { statuses: vec![(429, 429)], reset, ..twice() };
    let timeouts = Timeouts { response: Some(SECOND * 5), ..Timeouts::default() };
    let bench = Bench::new(RuleOptions { retry, timeouts, ..RuleOptions::default() });
    let one = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&one, with_fields(429, &[("retry-after", "10")]));
    request.check(429, reasons::VIA_UPSTREAM);
}
