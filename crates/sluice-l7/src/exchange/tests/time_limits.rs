//! Time limits of single attempts, of gRPC clients, and of connections.

use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::scripted::SentEvent;

use super::SECOND;
use super::kit::{Bench, data, get, is_reset, post, response};
use crate::reasons;
use crate::routes::{RetryPlan, RetryWhen, RuleOptions, Timeouts};

fn within(timeouts: Timeouts) -> RuleOptions {
    RuleOptions { timeouts, ..RuleOptions::default() }
}

#[test]
fn a_silent_attempt_is_retried_and_one_that_moves_is_not() {
    let when = RetryWhen { per_try_timeout: true, ..RetryWhen::default() };
    let retry = RetryPlan { attempts: 2, when, ..RetryPlan::default() };
    let timeouts = Timeouts { per_try_idle: Some(SECOND * 5), ..Timeouts::default() };
    let bench = Bench::new(RuleOptions { timeouts, retry, ..RuleOptions::default() });
    let (silent, other) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(post(), false);
    for _ in 0..3 {
        request.pass(SECOND * 4).client_does(data("x", false));
    }
    request.client_does(data("x", true)).pass(SECOND * 4);
    // An informational response is a sign of life.
    request.after(&silent, response(103, false)).pass(SECOND * 4);
    assert!(!is_reset(&silent));
    request.pass(SECOND * 2).pass(SECOND);
    assert!(is_reset(&silent));
    assert_eq!(other.body(), b"xxxx");
    request.after(&other, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    request.check_attempts(&[Some(reasons::TRY_TIMEOUT), None]);
}

#[test]
fn a_response_that_pauses_too_long_for_its_attempt_is_cut() {
    let per_try_idle = Some(SECOND * 5);
    let bench = Bench::new(within(Timeouts { per_try_idle, ..Timeouts::default() }));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    request.pass(SECOND * 4).after(&endpoint, data("x", false)).pass(SECOND * 4);
    assert!(request.is_waiting());
    request.pass(SECOND * 2).check(200, reasons::STREAM_IDLE);
    assert!(request.ended().detail.as_deref().unwrap().contains("`timeout.per_try_idle` (5s)"));
}

/// The `grpc-timeout` that the endpoint receives, and when the request ends, in seconds.
fn grpc(timeouts: Timeouts, client: &str) -> (String, u64) {
    let bench = Bench::new(within(timeouts));
    let endpoint = bench.connects(false);
    let mut head = Head::request("POST", "http", "app.test", "/s.S/M");
    head.append(b"content-type", b"application/grpc");
    head.append(b"grpc-timeout", client.as_bytes());
    let mut request = bench.serve(head, true);
    let SentEvent::Head(text, _) = endpoint.sent()[0].clone() else { panic!("no head was sent") };
    let sent = text.lines().find_map(|line| line.strip_prefix("grpc-timeout: ")).map(str::to_owned);
    let mut seconds = 0;
    while request.is_waiting() {
        request.pass(SECOND);
        seconds += 1;
    }
    request.check(200, reasons::ROUTE_TIMEOUT);
    (sent.unwrap(), seconds)
}

#[test]
fn a_rule_bounds_the_deadline_of_a_grpc_client() {
    let bounds = |max: Option<u64>, offset| Timeouts {
        grpc_max: max.map(Duration::from_secs),
        grpc_offset: Duration::from_secs(offset),
        ..Timeouts::default()
    };
    assert_eq!(grpc(bounds(None, 0), "20S"), ("20S".into(), 20));
    assert_eq!(grpc(bounds(Some(30), 0), "20S"), ("20S".into(), 20));
    assert_eq!(grpc(bounds(None, 2), "20S"), ("20S".into(), 18));
    assert_eq!(grpc(bounds(None, 20), "20S"), ("20S".into(), 20));
    let (sent, ended) = grpc(bounds(Some(10), 2), "20S");
    assert_eq!((sluice_codec::grpc::parse_timeout(sent.as_bytes()), ended), (Some(SECOND * 10), 8));
}
