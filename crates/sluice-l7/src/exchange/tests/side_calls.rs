//! Requests of filters to clusters: answered, failed, late, dropped, bounded.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluice_codec::scripted::{PeerEvent, SentEvent};
use sluice_codec::{ErrorKind, Head};
use sluice_core::limits::Limit;
use sluice_core::settings::OrNone;
use sluice_core::{Limits, LocalFuture, Moment, Reason};
use sluice_upstream::endpoint::Target;
use sluice_upstream::hops::{HopTransport, ListenerGuard};
use sluice_upstream::reasons as upstream_reasons;
use sluice_upstream::{Cluster, EndpointState};

use super::kit::{Bench, Hooks, cluster, connects, data, get, is_reset, response};
use crate::filters::{Cx, HeadStep};
use crate::hop_count::HopCount;
use crate::pools::scripted::ScriptedConnect;
use crate::reasons;
use crate::record::Summary;
use crate::reply::Reply;
use crate::routes::{RuleOptions, Timeouts};
use crate::side_calls::{SideCallError, SideCalls, SideRequest, SideResponse};

const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    /// The cluster that the filter asks.
    static AUTH: RefCell<Option<Arc<Cluster>>> = RefCell::default();
}

/// Asks the cluster, and takes the user from the response; refuses the request for whatever else happens.
fn asks(cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
    let (calls, auth) = (cx.side_calls(), AUTH.with_borrow(Clone::clone).unwrap());
    let request = SideRequest::new("POST", "/check").with("x-path", head.path().as_bytes());
    HeadStep::wait(async move {
        let answer = calls.call(&auth, request.body("who?"), Moment::NEVER).await;
        move |_: &mut Cx<'_>, head: &mut Head| match answer {
            Ok(answer) if answer.head.status() == 200 => {
                head.set(b"x-user", &answer.body);
                HeadStep::Continue
            }
            Ok(_) => HeadStep::reply(Reply::new(403, reasons::DENIED, "denied", "")),
            Err(error) => HeadStep::reply(Reply::new(503, error.why, "failed", "")),
        }
    })
}

const ASKS: Hooks = Hooks { request: asks, ..Hooks::NONE };

fn bench() -> Bench {
    with_limit(Limit::SideCalls, 1024)
}

fn with_limit(limit: Limit, value: u64) -> Bench {
    AUTH.set(Some(cluster("auth")));
    let mut limits = Limits::default();
    limits.set(limit, value).unwrap();
    Bench::with_limits(limits, RuleOptions::default(), &[ASKS])
}

fn auth() -> Arc<Cluster> {
    AUTH.with_borrow(Clone::clone).unwrap()
}

fn recorded(summary: &Summary) -> Vec<String> {
    summary.side_calls.iter().map(ToString::to_string).collect()
}

#[test]
fn a_filter_asks_a_cluster_before_it_decides() {
    let bench = bench();
    let asked = connects(&bench.pool_of(&auth()), false);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    let SentEvent::Head(head, false) = asked.sent()[0].clone() else { panic!("no head was sent") };
    for part in ["POST", "/check", "x-path: /", "content-length: 4", "192.0.2."] {
        assert!(head.contains(part), "{head}");
    }
    assert_eq!(asked.body(), b"who?");
    assert!(endpoint.sent().is_empty() && request.is_waiting());
    request.after(&asked, response(100, false)).pass(3 * SECOND);
    request.after(&asked, response(200, false));
    request.after(&asked, data("a", false)).after(&asked, data("nn", true));
    let sent = endpoint.sent();
    assert!(matches!(&sent[0], SentEvent::Head(head, _) if head.contains("x-user: ann")));
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(recorded(request.ended()), ["auth 200 in 3000 ms"]);
    assert!(!is_reset(&asked));
}

#[test]
fn a_call_goes_to_the_cluster_in_place_of_one_without_usable_endpoints() {
    let bench = bench();
    let (first, second) = (auth(), cluster("second"));
    first.set_fallback(vec![Arc::clone(&second)]);
    let judge = |cluster: &Cluster, health: Result<(), &str>| {
        cluster.members().endpoints.iter().for_each(|of| assert!(of.set_health(health)));
    };
    judge(&first, Err("refused"));
    let asked = connects(&bench.pool_of(&second), false);
    let mut request = bench.serve(get(), true);
    assert!(!asked.sent().is_empty() && request.is_waiting());
    bench.connects(false);
    request.after(&asked, response(403, true)).check(403, reasons::DENIED);
    assert_eq!(recorded(request.ended()), ["second 403 in 0 ms"]);

    // It is called again as soon as it can be.
    judge(&first, Ok(()));
    let asked = connects(&bench.pool_of(&first), false);
    let mut request = bench.serve(get(), true);
    request.after(&asked, response(403, true)).check(403, reasons::DENIED);
    assert_eq!(recorded(request.ended()), ["auth 403 in 0 ms"]);

    judge(&first, Err("refused"));
    judge(&second, Err("refused"));
    let request = bench.serve(get(), true);
    request.check(503, upstream_reasons::NO_HEALTHY);
    let recorded = recorded(request.ended());
    assert!(
        recorded[0].starts_with("second ") && recorded[0].contains("no_healthy"),
        "{recorded:?}"
    );
}

#[test]
fn a_status_is_the_business_of_the_filter() {
    let bench = bench();
    let asked = connects(&bench.pool_of(&auth()), false);
    let mut request = bench.serve(get(), true);
    request.after(&asked, response(401, true)).check(403, reasons::DENIED);
    assert_eq!(recorded(request.ended()), ["auth 401 in 0 ms"]);
}

#[test]
fn attempts_that_no_endpoint_can_have_seen_are_repeated_and_others_are_not() {
    let bench = bench();
    let pool = bench.pool_of(&auth());
    let refused = || ScriptedConnect::Fails(upstream_reasons::REFUSED);
    pool.scripted.borrow_mut().push_back(refused());
    let asked = connects(&pool, false);
    let mut request = bench.serve(get(), true);
    assert!(!asked.sent().is_empty() && request.is_waiting());
    request.after(&asked, PeerEvent::Fails(ErrorKind::Reset));
    request.check(503, upstream_reasons::RESET);

    pool.scripted.borrow_mut().extend([refused(), refused(), refused()]);
    let request = bench.serve(get(), true);
    request.check(503, upstream_reasons::REFUSED);
    assert!(pool.scripted.borrow().is_empty());
    assert!(
        recorded(request.ended())[0]
            .starts_with("auth failed in 0 ms and 3 attempts: upstream.refused")
    );
}

#[test]
fn a_call_ends_before_the_time_of_its_caller_does() {
    let total = Some(OrNone(Some(4 * SECOND)));
    let timeouts = Timeouts { total, ..Timeouts::default() };
    for (options, seconds) in
        [(RuleOptions::default(), 10), (RuleOptions { timeouts, ..RuleOptions::default() }, 4)]
    {
        AUTH.set(Some(cluster("auth")));
        let bench = Bench::with_filters(options, &[ASKS]);
        let asked = connects(&bench.pool_of(&auth()), false);
        let mut request = bench.serve(get(), true);
        request.pass(seconds * SECOND - Duration::from_millis(110));
        assert!(request.is_waiting());
        request.pass(Duration::from_millis(20)).check(503, reasons::SIDE_CALL_TIMEOUT);
        assert!(is_reset(&asked), "an abandoned call leaves nothing behind");
    }
}

#[test]
fn a_client_that_leaves_takes_the_call_with_it() {
    let bench = bench();
    let asked = connects(&bench.pool_of(&auth()), false);
    let mut request = bench.serve(get(), true);
    request.client.goes();
    request.go_on();
    assert!(is_reset(&asked));
    assert_eq!(recorded(request.ended()), ["auth dropped after 0 ms"]);
}

#[test]
fn a_response_that_is_too_large_is_given_up() {
    let bench = with_limit(Limit::SideCallBytes, 1024);
    let asked = connects(&bench.pool_of(&auth()), false);
    let mut request = bench.serve(get(), true);
    request.after(&asked, response(200, false));
    for _ in 0..=8 {
        request.after(&asked, PeerEvent::Data(vec![b'x'; 128].into(), false));
    }
    request.check(503, reasons::SIDE_CALL_TOO_LARGE);
    assert!(is_reset(&asked));
    assert_eq!(bench.worker.buffers.bytes_out(), 0);
}

/// A request that `side_calls` calls led to, one within the other.
fn at_depth(side_calls: u32) -> Head {
    let mut head = get();
    HopCount { listeners: 1, side_calls }.write(&mut head);
    head
}

#[test]
fn calls_are_bounded_at_each_depth_and_end_at_the_second() {
    let bench = with_limit(Limit::SideCalls, 1);
    let pool = bench.pool_of(&auth());
    let refusal = |head: Head| bench.serve(head, true).ended().reason.map(Reason::code);
    let outer = connects(&pool, false);
    let mut first = bench.serve(get(), true);
    assert_eq!(refusal(get()), Some("sidecall.limit"));
    // The call of a request that is a side call itself has room although none is left for others.
    let inner = connects(&pool, false);
    let mut second = bench.serve(at_depth(1), true);
    assert!(first.is_waiting() && second.is_waiting());
    assert_eq!(refusal(at_depth(1)), Some("sidecall.limit"));
    assert_eq!(refusal(at_depth(2)), Some("sidecall.loop"));
    second.after(&inner, response(401, true));
    first.after(&outer, response(401, true));
    let again = connects(&pool, false);
    let mut third = bench.serve(get(), true);
    third.after(&again, response(401, true)).check(403, reasons::DENIED);
}

/// A request of the control thread; it is driven by the caller.
fn of_control(bench: &Bench, by: Moment) -> LocalFuture<Result<SideResponse, SideCallError>> {
    SideCalls::unbounded(&bench.worker).call(&auth(), SideRequest::new("GET", "/list"), by)
}

fn is_pending<T>(future: &mut LocalFuture<T>) -> bool {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn a_call_of_the_control_thread_has_its_own_time_and_counts_at_our_listeners() {
    let bench = bench();
    let pool = bench.pool_of(&auth());
    let asked = connects(&pool, false);
    let listens = |endpoint: &Arc<EndpointState>| {
        let Target::Ip(address) = endpoint.target else { panic!("an address") };
        let guard = ListenerGuard::on(HopTransport::Stream, address);
        endpoint.note_local(HopTransport::Stream, || Some(address.ip()));
        guard
    };
    let listening: Vec<_> = auth().members().endpoints.iter().map(listens).collect();
    let mut call = of_control(&bench, Moment::NEVER);
    assert!(is_pending(&mut call));
    let SentEvent::Head(head, true) = asked.sent()[0].clone() else { panic!("no head was sent") };
    assert!(head.contains("x-sluice-hops: 1.1."), "it is the first side call: {head}");
    // Filters have less time than this.
    bench.worker.clock.advance(3600 * SECOND);
    bench.worker.timers.expire();
    assert!(is_pending(&mut call));
    asked.does(response(200, true));
    let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it was answered")
    };
    assert_eq!(answer.unwrap().head.status(), 200);
    drop(listening);

    let asked = connects(&pool, false);
    let mut late = of_control(&bench, bench.worker.now().after(SECOND));
    assert!(is_pending(&mut late));
    bench.worker.clock.advance(2 * SECOND);
    bench.worker.timers.expire();
    let Poll::Ready(Err(error)) = late.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("its time is over")
    };
    assert_eq!(error.why, reasons::SIDE_CALL_TIMEOUT);
    assert!(is_reset(&asked));
}
