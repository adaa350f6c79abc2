//! Retries of side calls: what a plan covers, and what bounds it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_codec::{ErrorKind, Head};
use sluice_core::{Moment, Reason};
use sluice_upstream::Cluster;
use sluice_upstream::plan::HttpVersion;
use sluice_upstream::reasons as upstream_reasons;

use super::SECOND;
use super::kit::{
    Bench, Hooks, Running, cluster, cluster_over, connects, data, get, is_reset, opens, response,
};
use crate::filters::{Cx, HeadStep};
use crate::pools::scripted::ScriptedConnect;
use crate::reasons;
use crate::reply::Reply;
use crate::routes::{RetryPlan, RetryWhen, RuleOptions};
use crate::side_calls::{GrpcMethod, GrpcRequest, SideRequest};

thread_local! {
    /// The cluster that the filter asks, and what it asks for.
    static ASKED: RefCell<Option<(Arc<Cluster>, SideRequest)>> = RefCell::default();
    /// The same for a gRPC call.
    static CALLED: RefCell<Option<(Arc<Cluster>, GrpcRequest)>> = RefCell::default();
}

/// Responds with the status of the service, or 599 and the reason of the error.
fn answer(ended: Result<u16, Reason>) -> HeadStep {
    let (status, why) = ended.map_or_else(|why| (599, why), |status| (status, reasons::LOCAL));
    HeadStep::reply(Reply::new(status, why, "asked", ""))
}

fn asks(cx: &mut Cx<'_>, _: &mut Head) -> HeadStep {
    let (cluster, request) = ASKED.with_borrow(Clone::clone).unwrap();
    let asked = cx.side_calls().call(&cluster, request, Moment::NEVER);
    HeadStep::wait(async move {
        let ended = asked.await;
        let ended = ended.map(|response| response.head.status()).map_err(|error| error.why);
        move |_: &mut Cx<'_>, _: &mut Head| answer(ended)
    })
}

fn calls(cx: &mut Cx<'_>, _: &mut Head) -> HeadStep {
    let (cluster, request) = CALLED.with_borrow(Clone::clone).unwrap();
    let called = cx.side_calls().call_grpc::<(), ()>(&cluster, request, &(), Moment::NEVER);
    HeadStep::wait(async move {
        let ended = called.await.map(|()| 200).map_err(|error| error.why());
        move |_: &mut Cx<'_>, _: &mut Head| answer(ended)
    })
}

fn plan(attempts: u32, when: RetryWhen) -> RetryPlan {
    RetryPlan { attempts, when, ..RetryPlan::default() }
}

const SERVER_ERROR: RetryWhen = RetryWhen {
    server_error: true,
    gateway_error: false,
    unsent: false,
    rate_limited: false,
    reset: false,
    per_try_timeout: false,
    conflict: false,
    grpc: 0,
};

fn asking(request: SideRequest) -> (Bench, Arc<Cluster>) {
    let auth = cluster("auth");
    ASKED.set(Some((Arc::clone(&auth), request)));
    let hooks = Hooks { request: asks, ..Hooks::NONE };
    (Bench::with_filters(RuleOptions::default(), &[hooks]), auth)
}

fn calling(request: GrpcRequest) -> (Bench, Arc<Cluster>) {
    let auth = cluster_over("auth", HttpVersion::Http2);
    CALLED.set(Some((Arc::clone(&auth), request)));
    let hooks = Hooks { request: calls, ..Hooks::NONE };
    (Bench::with_filters(RuleOptions::default(), &[hooks]), auth)
}

fn post(plan: RetryPlan) -> SideRequest {
    SideRequest::new("POST", "/check").body("who?").retries(plan)
}

#[track_caller]
fn check(request: &Running<'_>, status: u16, why: Reason, call: &str) {
    request.check(status, why);
    let calls: Vec<_> = request.ended().side_calls.iter().map(ToString::to_string).collect();
    assert!(calls.len() == 1 && calls[0].starts_with(call), "{calls:?}");
}

fn head_of(peer: &ScriptedPeer) -> String {
    match &peer.sent()[0] {
        SentEvent::Head(head, _) => head.clone(),
        other => panic!("{other:?} was sent first"),
    }
}

#[test]
fn a_call_is_retried_for_what_its_plan_names_and_for_nothing_else() {
    let reset = || vec![PeerEvent::Fails(ErrorKind::Reset)];
    let breaks_off =
        || vec![response(200, false), data("half", false), PeerEvent::Fails(ErrorKind::Reset)];
    let status = |status| vec![response(status, true)];
    let only_reset = RetryWhen { reset: true, ..RetryWhen::default() };
    let gateway = RetryWhen { gateway_error: true, ..RetryWhen::default() };
    let conflict = RetryWhen { conflict: true, ..RetryWhen::default() };
    let listed = RetryPlan { statuses: vec![(429, 429)], ..plan(2, RetryWhen::default()) };
    for (plan, events, retried) in [
        (plan(2, SERVER_ERROR), status(500), true),
        (plan(2, SERVER_ERROR), reset(), true),
        (plan(2, SERVER_ERROR), breaks_off(), true),
        (plan(2, SERVER_ERROR), status(404), false),
        (plan(1, SERVER_ERROR), status(500), false),
        (plan(2, only_reset), reset(), true),
        (plan(2, only_reset), breaks_off(), true),
        (plan(2, only_reset), status(500), false),
        (plan(2, gateway), status(503), true),
        (plan(2, gateway), status(500), false),
        (plan(2, gateway), reset(), true),
        (plan(2, conflict), status(409), true),
        (listed.clone(), status(429), true),
        (listed, status(500), false),
        (plan(9, RetryWhen::default()), reset(), false),
    ] {
        let (bench, auth) = asking(post(plan.clone()));
        let pool = bench.pool_of(&auth);
        let (first, second) = (connects(&pool, false), connects(&pool, false));
        let mut request = bench.serve(get(), true);
        for event in events.clone() {
            request.after(&first, event);
        }
        request.pass(SECOND);
        assert_eq!(request.is_waiting(), retried, "{plan:?} {events:?}");
        if retried {
            assert_eq!(second.body(), b"who?");
            request.after(&second, response(200, true));
            check(&request, 200, reasons::LOCAL, "auth 200 in 1000 ms and 2 attempts");
            let authority =
                |peer| head_of(peer).lines().find(|it| it.contains("192.0.2")).map(str::to_owned);
            assert_ne!(authority(&first), authority(&second), "another endpoint is preferred");
        } else {
            assert!(second.sent().is_empty());
        }
        drop(request);
        assert_eq!(pool.in_flight(), (0, 0));
        assert_eq!(bench.worker.buffers.bytes_out(), 0);
    }
}

#[test]
fn what_the_last_attempt_ended_with_is_the_end_of_the_call() {
    let (bench, auth) = asking(post(plan(3, SERVER_ERROR)));
    let pool = bench.pool_of(&auth);
    let services = [(); 3].map(|()| connects(&pool, false));
    let mut request = bench.serve(get(), true);
    request.after(&services[0], PeerEvent::Fails(ErrorKind::Reset)).pass(SECOND);
    request.after(&services[1], response(500, true)).pass(SECOND);
    request.after(&services[2], response(503, true));
    check(&request, 503, reasons::LOCAL, "auth 503 in 2000 ms and 3 attempts");

    let services = [(); 3].map(|()| connects(&pool, false));
    let mut request = bench.serve(get(), true);
    request.after(&services[0], response(500, true)).pass(SECOND);
    request.after(&services[1], response(500, true)).pass(SECOND);
    request.after(&services[2], PeerEvent::Fails(ErrorKind::Reset));
    check(&request, 599, upstream_reasons::RESET, "auth failed in 2000 ms and 3 attempts");
    assert!(is_reset(&services[2]));
}

#[test]
fn retries_of_calls_take_part_in_the_budget_of_the_cluster() {
    let (bench, auth) = asking(post(plan(9, SERVER_ERROR)));
    let pool = bench.pool_of(&auth);
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            let (first, second) = (connects(&pool, false), connects(&pool, false));
            let mut request = bench.serve(get(), true);
            request.after(&first, response(500, true)).pass(SECOND);
            assert!(request.is_waiting() && !second.sent().is_empty());
            request
        })
        .collect();
    assert_eq!(pool.in_flight(), (3, 3));
    let only = connects(&pool, false);
    let mut refused = bench.serve(get(), true);
    refused.after(&only, response(500, true));
    check(&refused, 500, reasons::LOCAL, "auth 500 in 0 ms");
    // One that ends makes room, however it ends.
    waiting[0].client.goes();
    waiting[0].go_on();
    assert_eq!(pool.in_flight(), (2, 2));
    let (first, second) = (connects(&pool, false), connects(&pool, false));
    let mut request = bench.serve(get(), true);
    request.after(&first, response(500, true)).pass(SECOND).after(&second, response(200, true));
    check(&request, 200, reasons::LOCAL, "auth 200");
}

#[test]
fn no_retry_begins_that_the_time_of_the_call_has_no_room_for() {
    let forever = Duration::from_secs(1 << 40);
    let patient = RetryPlan { backoff: forever, backoff_max: forever, ..plan(2, SERVER_ERROR) };
    let (bench, auth) = asking(post(patient));
    let pool = bench.pool_of(&auth);
    let first = connects(&pool, false);
    let mut request = bench.serve(get(), true);
    request.after(&first, response(500, true));
    check(&request, 500, reasons::LOCAL, "auth 500 in 0 ms");
    assert_eq!(pool.in_flight().1, 0);
    // A retry that has begun ends with the call.
    let (bench, auth) = asking(post(plan(9, SERVER_ERROR)));
    let pool = bench.pool_of(&auth);
    let (first, second) = (connects(&pool, false), connects(&pool, false));
    let mut request = bench.serve(get(), true);
    request.pass(SECOND).after(&first, response(500, true)).pass(SECOND);
    assert!(!second.sent().is_empty());
    request.pass(8 * SECOND);
    check(&request, 599, reasons::SIDE_CALL_TIMEOUT, "auth failed in 10000 ms and 2 attempts");
    assert!(is_reset(&second) && pool.in_flight().1 == 0);
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up_and_retried() {
    let when = RetryWhen { per_try_timeout: true, ..RetryWhen::default() };
    for (attempts, retried) in [(2, true), (1, false)] {
        let (bench, auth) = asking(post(plan(attempts, when)).attempt_timeout(2 * SECOND));
        let pool = bench.pool_of(&auth);
        let (slow, fast) = (connects(&pool, false), connects(&pool, false));
        let mut request = bench.serve(get(), true);
        request.pass(SECOND);
        assert!(!is_reset(&slow));
        request.pass(2 * SECOND).pass(SECOND);
        assert!(is_reset(&slow));
        if retried {
            // Once there are headers, the response may take longer.
            request.after(&fast, response(200, false)).pass(3 * SECOND);
            request.after(&fast, PeerEvent::End);
            check(&request, 200, reasons::LOCAL, "auth 200 in 7000 ms and 2 attempts");
        } else {
            let call = "auth failed in 3000 ms: route.try_timeout: 192.0.2.";
            check(&request, 599, reasons::TRY_TIMEOUT, call);
            let call = request.ended().side_calls[0].to_string();
            assert!(call.contains("no response within `attempt_timeout` (2s)"), "{call}");
        }
    }
}

#[test]
fn a_body_that_is_too_large_is_sent_again_only_if_no_endpoint_can_have_seen_it() {
    let small = RetryPlan { body_max: 3, ..plan(3, SERVER_ERROR) };
    let (bench, auth) = asking(post(small));
    let pool = bench.pool_of(&auth);
    let refused = ScriptedConnect::Fails(upstream_reasons::REFUSED);
    pool.scripted.borrow_mut().push_back(refused);
    let service = connects(&pool, false);
    let mut request = bench.serve(get(), true);
    assert_eq!(service.body(), b"who?");
    request.after(&service, response(500, true));
    check(&request, 500, reasons::LOCAL, "auth 500 in 0 ms and 2 attempts");
}

#[test]
fn a_grpc_call_is_retried_by_its_status_and_sends_its_metadata_each_time() {
    let unavailable = plan(2, RetryWhen { grpc: 1 << 14, ..RetryWhen::default() });
    let method = GrpcMethod::new("/t.S/Say").with("x-user", b"ann");
    let method = method.and_then(|method| method.with("trace-bin", b"\0\x01")).unwrap();
    let with_status = |status: &str| {
        let mut head = Head::default();
        head.append(b"grpc-status", status.as_bytes());
        head
    };
    let in_headers = |status: &str| {
        let mut head = with_status(status);
        head.set_status(200);
        vec![PeerEvent::Head(head, true)]
    };
    let in_trailers =
        |status: &str| vec![response(200, false), PeerEvent::Trailers(with_status(status))];
    for (events, retried) in [
        (in_headers("14"), true),
        (in_trailers("14"), true),
        (in_headers("7"), false),
        (in_trailers("7"), false),
    ] {
        let (bench, auth) = calling(method.clone().retries(unavailable.clone()));
        let pool = bench.pool_of(&auth);
        let (first, second) = (opens(&pool), opens(&pool));
        let mut request = bench.serve(get(), true);
        assert!(head_of(&first).contains("grpc-timeout: 9900000u"), "{}", head_of(&first));
        for event in events {
            request.after(&first, event);
        }
        if !retried {
            check(&request, 599, reasons::SIDE_CALL_STATUS, "auth failed in 0 ms: sidecall.grpc");
            continue;
        }
        request.pass(SECOND);
        for part in ["x-user: ann", "trace-bin: AAE", "grpc-timeout: 8900000u"] {
            assert!(head_of(&second).contains(part), "{part} {}", head_of(&second));
        }
        let message = PeerEvent::Data(vec![0; 5].into(), false);
        request.after(&second, response(200, false)).after(&second, message);
        request.after(&second, PeerEvent::Trailers(with_status("0")));
        check(&request, 200, reasons::LOCAL, "auth 200 in 1000 ms and 2 attempts");
    }
}
