//! How long a stream may last: with the client by its listener or rule, with the endpoint by its cluster.

use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::scripted::PeerEvent;
use sluice_core::Limits;
use sluice_core::settings::OrNone;
use sluice_upstream::plan::OutlierPlan;

use super::SECOND;
use super::kit::{Bench, Hooks, configure, data, get, is_reset, plan, post, response, strict};
use crate::filters::HeadStep;
use crate::reasons;
use crate::routes::{RetryPlan, RetryWhen, RuleOptions, Timeouts};

/// What is neither bounded by its rule, nor while it waits for the response.
fn unbounded(total: Option<OrNone<Duration>>) -> RuleOptions {
    let timeouts = Timeouts { total, response: None, idle: None, ..Timeouts::default() };
    RuleOptions { timeouts, ..RuleOptions::default() }
}

/// A listener with 10 s for each request.
fn of_listener(total: Option<OrNone<Duration>>, filters: &[Hooks]) -> Bench {
    let (mut plan, cluster) = plan(unbounded(total), filters, &[]);
    plan.options.stream_duration_max = Some(SECOND * 10);
    Bench::of(Limits::default(), plan, cluster)
}

/// A cluster with 5 s for each stream.
fn of_cluster(options: RuleOptions) -> Bench {
    of_cluster_with(options, None)
}

fn of_cluster_with(options: RuleOptions, outlier: Option<OutlierPlan>) -> Bench {
    let bench = Bench::new(options);
    configure(&bench.cluster, |settings| {
        settings.stream_duration_max = Some(SECOND * 5);
        settings.outlier = outlier;
    });
    bench
}

fn retrying() -> RuleOptions {
    let when = RetryWhen { reset: true, ..RetryWhen::default() };
    let retry = RetryPlan { attempts: 2, when, backoff: Duration::ZERO, ..RetryPlan::default() };
    RuleOptions { retry, ..unbounded(None) }
}

#[test]
fn a_listener_bounds_requests_in_every_phase() {
    // Connecting, and waiting for the response.
    for connects in [false, true] {
        let bench = of_listener(None, &[]);
        let endpoint = connects.then(|| bench.connects(false));
        if !connects {
            bench.never_connects();
        }
        let mut request = bench.serve(get(), true);
        assert!(request.pass(SECOND * 9).is_waiting());
        request.pass(SECOND * 2).check(504, reasons::ROUTE_TIMEOUT);
        assert_eq!(request.ended().details, "max_duration_timeout");
        let detail = request.ended().detail.as_deref().unwrap();
        assert!(detail.contains("no response within `max_stream_duration` (10s)"), "{detail}");
        assert!(endpoint.as_ref().is_none_or(is_reset));
    }
    // Within the request: it is the client that is late.
    let bench = of_listener(None, &[]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", false)).pass(SECOND * 11);
    request.check(408, reasons::ROUTE_TIMEOUT);
    assert!(is_reset(&endpoint));
    // Within the response: it cannot be completed.
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    for _ in 0..3 {
        request.pass(SECOND * 3).after(&endpoint, data("x", false));
    }
    assert!(request.is_waiting(), "however much of it arrives");
    request.pass(SECOND * 2).check(200, reasons::ROUTE_TIMEOUT);
    assert_eq!(request.ended().details, "max_duration_timeout");
    assert!(is_reset(&endpoint) && is_reset(&request.client));
}

#[test]
fn a_rule_has_the_last_word() {
    for (total, seconds) in [(Some(20), 20), (Some(4), 4), (None, 1000)] {
        let bench = of_listener(Some(OrNone(total.map(Duration::from_secs))), &[]);
        let _endpoint = bench.connects(false);
        let mut request = bench.serve(get(), true);
        request.pass(SECOND * (seconds - 1));
        assert!(request.is_waiting(), "{total:?}");
        request.pass(SECOND * 2);
        match total {
            None => assert!(request.is_waiting()),
            Some(_) => {
                request.check(504, reasons::ROUTE_TIMEOUT);
                assert!(request.ended().detail.as_deref().unwrap().contains("`timeout.total`"));
            }
        }
    }
}

#[test]
fn a_listener_bounds_what_no_rule_does_yet() {
    let waits =
        Hooks { request: |_, _| HeadStep::Wait(Box::pin(std::future::pending())), ..Hooks::NONE };
    let (mut plan, cluster) = plan(unbounded(None), &[waits], &[("/a", &[])]);
    plan.options.stream_duration_max = Some(SECOND * 5);
    let bench = Bench::of(Limits::default(), plan, cluster);
    // No rule matches it.
    let lost = Head::request("GET", "http", "app.test", "*");
    for head in [get(), lost] {
        let mut request = bench.serve(head, true);
        request.pass(SECOND * 6).check(504, reasons::ROUTE_TIMEOUT);
        assert_eq!(request.ended().details, "max_duration_timeout");
    }
}

#[test]
fn a_cluster_bounds_streams_and_no_endpoint_is_blamed() {
    let outlier = OutlierPlan { consecutive_gateway_errors: 1, ..strict() };
    let bench = of_cluster_with(unbounded(None), Some(outlier));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    assert!(request.pass(SECOND * 4).is_waiting());
    request.pass(SECOND * 2).check(504, reasons::STREAM_DURATION);
    assert_eq!(request.ended().details, "upstream_max_stream_duration_reached");
    request.check_attempts(&[Some(reasons::STREAM_DURATION)]);
    let attempt = request.ended().attempts[0].to_string();
    assert!(attempt.ends_with("no response within `max_stream_duration` (5s)"), "{attempt}");
    assert!(is_reset(&endpoint));
    assert!(bench.cluster.members().endpoints.iter().all(|it| it.may_continue()));
    // Within the request.
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", false)).pass(SECOND * 6);
    request.check(408, reasons::STREAM_DURATION);
    assert!(is_reset(&endpoint));
    // Within the response.
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 3).after(&endpoint, response(200, false));
    request.after(&endpoint, data("half", false)).pass(SECOND * 3);
    request.check(200, reasons::STREAM_DURATION);
    assert_eq!(request.ended().details, "upstream_max_stream_duration_reached");
    assert!(is_reset(&endpoint) && is_reset(&request.client));
}

#[test]
fn each_attempt_has_the_time_of_a_stream_from_its_headers_on() {
    let bench = of_cluster(retrying());
    let endpoints = [bench.connects(false), bench.connects(false)];
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 6);
    assert!(is_reset(&endpoints[0]) && !is_reset(&endpoints[1]));
    assert!(request.pass(SECOND * 4).is_waiting());
    request.pass(SECOND * 2).check(504, reasons::RETRIES_EXHAUSTED);
    request.check_attempts(&[Some(reasons::STREAM_DURATION); 2]);
    // What comes in time after a retry is delivered whole.
    let bench = of_cluster(retrying());
    let endpoints = [bench.connects(false), bench.connects(false)];
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 6).pass(SECOND * 4).after(&endpoints[1], response(200, true));
    request.check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_tunnel_is_a_stream_as_well() {
    for by_cluster in [true, false] {
        let upgrades = vec!["chat".into()];
        let options = RuleOptions { upgrades, ..unbounded(None) };
        let bench = if by_cluster {
            of_cluster(options)
        } else {
            let (mut plan, cluster) = plan(options, &[], &[]);
            plan.options.stream_duration_max = Some(SECOND * 5);
            Bench::of(Limits::default(), plan, cluster)
        };
        let endpoint = bench.connects(false);
        let mut head = get();
        head.set_upgrade(b"chat");
        let mut request = bench.serve(head, false);
        let mut agreed = Head::response(101);
        agreed.set_upgrade(b"chat");
        request.after(&endpoint, PeerEvent::Head(agreed, false));
        request.pass(SECOND * 4).after(&endpoint, data("hello", false));
        assert!(request.is_waiting());
        let why = if by_cluster { reasons::STREAM_DURATION } else { reasons::ROUTE_TIMEOUT };
        request.pass(SECOND * 2).check(101, why);
        assert!(is_reset(&endpoint));
    }
}

#[test]
fn a_client_that_is_trusted_sets_it_for_its_request() {
    for (asked, seconds) in [("2000", 2), ("9000", 9), ("0", 1000), ("soon", 5)] {
        let bench = of_cluster(RuleOptions { envoy_headers: true, ..unbounded(None) });
        let endpoint = bench.connects(false);
        let mut head = get();
        head.append(b"x-envoy-upstream-stream-duration-ms", asked.as_bytes());
        let mut request = bench.serve(head, true);
        request.pass(SECOND * seconds - SECOND / 2);
        assert!(request.is_waiting(), "{asked}");
        request.pass(SECOND);
        assert_eq!(is_reset(&endpoint), asked != "0", "{asked}");
    }
}

#[test]
fn a_late_attempt_keeps_the_time_of_its_stream() {
    let hedging = || {
        let when = RetryWhen { server_error: true, ..RetryWhen::default() };
        let retry = RetryPlan { when, hedge: true, ..retrying().retry };
        let timeouts = Timeouts { per_try: Some(SECOND * 2), ..unbounded(None).timeouts };
        of_cluster(RuleOptions { retry, timeouts, ..RuleOptions::default() })
    };
    let bench = hedging();
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 2);
    assert!(!is_reset(&one) && !two.sent().is_empty(), "both are in flight");
    request.pass(SECOND * 4);
    assert!(is_reset(&one) && request.is_waiting() && !is_reset(&two));
    request.pass(SECOND * 2);
    assert!(is_reset(&two) && !request.is_waiting());
    // The late one responds first, and is cut when its own time is over.
    let bench = hedging();
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.pass(SECOND * 2).pass(SECOND).after(&one, response(200, false));
    assert!(is_reset(&two) && request.is_waiting());
    request.pass(SECOND * 3).check(200, reasons::STREAM_DURATION);
    assert!(is_reset(&one));
}
