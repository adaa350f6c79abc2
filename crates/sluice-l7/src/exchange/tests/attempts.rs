//! What attempts leave behind: evidence against endpoints, counters, and what a retry may send again.

use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_codec::{ErrorKind, Head};
use sluice_upstream::reasons as upstream_reasons;

use super::kit::{Bench, Running, configure, data, get, post, response, strict};
use super::{SECOND, retrying, timeouts, within};
use crate::metrics;
use crate::reasons;
use crate::routes::{RetryWhen, RuleOptions};

/// A chain whose cluster ejects an endpoint after one failure.
fn ejecting(options: RuleOptions) -> Bench {
    let bench = Bench::new(options);
    configure(&bench.cluster, |settings| settings.outlier = Some(strict()));
    bench
}

/// The number of endpoints that were ejected.
fn ejected(bench: &Bench) -> usize {
    let members = bench.cluster.members();
    members.endpoints.iter().filter(|endpoint| !endpoint.is_usable()).count()
}

fn grpc(timeout: &str) -> Head {
    let mut head = post();
    head.append(b"content-type", b"application/grpc");
    head.append(b"grpc-timeout", timeout.as_bytes());
    head
}

/// Checks whether an attempt that ends like this counts against its endpoint.
#[track_caller]
fn check_blame(
    options: RuleOptions,
    head: Head,
    reused: bool,
    ends: impl FnOnce(&mut Running<'_>, &ScriptedPeer),
    blamed: bool,
) {
    let bench = ejecting(options);
    let endpoint = bench.connects(reused);
    let mut request = bench.serve(head, true);
    ends(&mut request, &endpoint);
    assert!(!request.is_waiting());
    assert_eq!(ejected(&bench), usize::from(blamed), "{:?}", request.ended().attempts);
}

#[test]
fn responses_and_failures_of_an_endpoint_are_evidence_and_those_of_others_are_not() {
    let none = RuleOptions::default;
    let responds = |status| {
        move |request: &mut Running<'_>, endpoint: &ScriptedPeer| {
            request.after(endpoint, response(status, true));
        }
    };
    for (status, blamed) in [(200, false), (404, false), (499, false), (500, true), (503, true)] {
        check_blame(none(), get(), false, responds(status), blamed);
    }
    let fails = |kind| {
        move |request: &mut Running<'_>, endpoint: &ScriptedPeer| {
            request.after(endpoint, PeerEvent::Fails(kind));
        }
    };
    check_blame(none(), post(), false, fails(ErrorKind::Reset), true);
    check_blame(none(), post(), false, fails(ErrorKind::Malformed(502)), true);
    // Sluice itself lacked a buffer.
    check_blame(none(), post(), false, fails(ErrorKind::Buffers), false);
    let late = |request: &mut Running<'_>, _: &ScriptedPeer| {
        request.pass(SECOND * 11);
    };
    check_blame(within(timeouts(0, 10, 0, 0)), post(), false, late, true);
    check_blame(within(timeouts(10, 0, 0, 0)), post(), false, late, true);
    check_blame(within(timeouts(0, 0, 10, 0)), post(), false, late, true);
    // The client would have given it more time, or less, than the rule does.
    check_blame(within(timeouts(10, 0, 0, 0)), grpc("20S"), false, late, true);
    check_blame(within(timeouts(20, 0, 0, 0)), grpc("10S"), false, late, false);
    check_blame(within(timeouts(0, 10, 0, 0)), grpc("20S"), false, late, true);
    check_blame(none(), grpc("20S"), false, fails(ErrorKind::Reset), true);
}

#[test]
fn a_stale_connection_is_no_evidence() {
    let bench = ejecting(RuleOptions::default());
    let (stale, fresh) = (bench.connects(true), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.after(&stale, PeerEvent::Fails(ErrorKind::Finished));
    request.after(&fresh, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(ejected(&bench), 0);
}

#[test]
fn every_attempt_is_counted_by_its_result() {
    let when = RetryWhen { reset: true, server_error: true, ..RetryWhen::default() };
    let bench = Bench::new(retrying(3, when));
    let endpoints = [bench.connects(false), bench.connects(false), bench.connects(false)];
    let mut request = bench.serve(get(), true);
    request.after(&endpoints[0], PeerEvent::Fails(ErrorKind::Reset)).pass(SECOND);
    request.after(&endpoints[1], response(503, true)).pass(SECOND);
    request.after(&endpoints[2], response(200, true)).check(200, reasons::VIA_UPSTREAM);
    for class in ["none", "5xx", "2xx"] {
        let count = bench.registry.value(metrics::CLUSTER_REQUESTS.name, &["app", class]);
        assert_eq!(count, Some(1), "{class}");
    }
}

#[test]
fn a_body_is_kept_only_where_the_rule_retries() {
    let put = || Head::request("PUT", "http", "app.test", "/");
    for (attempts, status) in [(1, 503), (2, 200)] {
        let bench = Bench::new(retrying(attempts, RetryWhen::default()));
        let (stale, fresh) = (bench.connects(true), bench.connects(false));
        let mut request = bench.serve(put(), false);
        request.client_does(data("body", true));
        request.after(&stale, PeerEvent::Fails(ErrorKind::Finished));
        if request.is_waiting() {
            request.after(&fresh, response(200, true));
            assert_eq!(fresh.body(), b"body");
        }
        assert_eq!(request.statuses(), [status], "with {attempts} attempts");
    }
}

#[test]
fn no_retry_begins_after_the_total_timeout() {
    let when = RetryWhen { reset: true, ..RetryWhen::default() };
    let bench = Bench::new(RuleOptions { timeouts: timeouts(10, 0, 0, 0), ..retrying(3, when) });
    let (first, second) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    // Both happen before the request is looked at again.
    first.does(PeerEvent::Fails(ErrorKind::Reset));
    bench.worker.clock.advance(SECOND * 10);
    request.go_on();
    request.check(503, upstream_reasons::RESET);
    assert!(second.sent().is_empty());
}

#[test]
fn a_failure_shows_the_request_id_of_the_client_if_it_is_harmless() {
    let body_for = |id: &[u8]| {
        let bench = Bench::new(RuleOptions::default());
        let endpoint = bench.connects(false);
        let mut head = get();
        head.append(b"x-request-id", id);
        let mut request = bench.serve(head, true);
        request.after(&endpoint, PeerEvent::Fails(ErrorKind::Reset));
        String::from_utf8(request.client.body()).unwrap()
    };
    let long = "i".repeat(64);
    for id in ["a", "Ab-9_x.y", &long] {
        assert!(body_for(id.as_bytes()).contains(&format!("request {id})")), "{id}");
    }
    for id in ["", "<b>", "a b", "\u{e9}", &format!("{long}i")] {
        let body = body_for(id.as_bytes());
        assert!(!body.contains(&format!("request {id})")), "{body}");
    }
}

#[test]
fn a_retry_waits_no_longer_than_the_request_may_take() {
    let when = RetryWhen { reset: true, ..RetryWhen::default() };
    let mut options = RuleOptions { timeouts: timeouts(10, 0, 0, 0), ..retrying(2, when) };
    options.retry.backoff = SECOND * 100_000;
    options.retry.backoff_max = SECOND * 100_000;
    let bench = Bench::new(options);
    let (first, second) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.after(&first, PeerEvent::Fails(ErrorKind::Reset));
    assert!(second.sent().is_empty());
    request.pass(SECOND * 11);
    assert!(!request.is_waiting());
    assert!(matches!(request.client.sent()[..], [SentEvent::Head(..), ..]), "it gets a response");
}
