//! Whole messages while they are held: their limits, and what goes wrong meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use sluice_codec::scripted::{PeerEvent, ScriptedPeer};
use sluice_codec::{ErrorKind, Head};
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{Limits, Moment, Reason};

use super::kit::{BODY_TIMEOUT, Bench, Hooks, Running, data, get, is_reset, post, response};
use super::whole::{HOLDS, MAX, field, with};
use super::{SECOND, timeouts, within};
use crate::attempts::Departure;
use crate::filters::{BodyAccess, BodyStep, HeadStep, ResponseBodyStep, ResponseStep, WholeStep};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::RuleOptions;

#[test]
fn a_response_that_is_too_large_is_replaced() {
    let announced = field(Head::response(200), "content-length", "17");
    for (head, pieces) in [(announced, 0), (Head::response(200), 3)] {
        let bench = with(&[HOLDS]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(get(), true);
        request.after(&endpoint, PeerEvent::Head(head, false));
        for _ in 0..pieces {
            assert!(request.is_waiting());
            request.after(&endpoint, data("6bytes", false));
        }
        request.check(500, reasons::RESPONSE_TOO_LARGE);
        assert_eq!(request.ended().details, "response_payload_too_large");
        let detail = request.ended().detail.as_deref();
        assert_eq!(detail, Some("more than 16 bytes for the filter hooks"));
        assert!(is_reset(&endpoint) && !is_reset(&request.client));
        assert_eq!(bench.worker.buffers.bytes_out(), 0);
    }
    // One of exactly the limit is not.
    let bench = with(&[HOLDS]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    request.after(&endpoint, data("sixteen bytes ok", true)).check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn what_is_held_counts_towards_the_buffers_of_the_worker() {
    const BYTES: usize = 2 << 20;
    let holds = Hooks {
        request: |_, _| HeadStep::buffer(BYTES, |_, _| WholeStep::Continue),
        response: |_, _| ResponseStep::buffer(BYTES, |_, _| WholeStep::Continue),
        ..Hooks::NONE
    };
    let mut limits = Limits::default();
    limits.set(Limit::WorkerBuffers, 1 << 20).unwrap();
    let bench = Bench::with_limits(limits, RuleOptions::default(), &[holds]);
    let large = || PeerEvent::Data(vec![0; BYTES].into(), true);
    bench.serve(post(), false).client_does(large()).check(503, sluice_l4::reasons::BUFFERS);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false)).after(&endpoint, large());
    request.check(503, sluice_l4::reasons::BUFFERS);
    assert!(is_reset(&endpoint));
    assert_eq!(bench.worker.buffers.bytes_out(), 0);
}

#[test]
fn what_goes_wrong_while_a_response_is_held_is_answered() {
    type Fault = fn(&mut Running<'_>, &ScriptedPeer);
    let faults: [(Fault, u16, Reason, &str); 6] = [
        (
            |request, endpoint| {
                request.after(endpoint, PeerEvent::Fails(ErrorKind::Reset));
            },
            502,
            reasons::UPSTREAM_CUT,
            "upstream_reset_before_response_started",
        ),
        (
            |request, endpoint| {
                for _ in 0..3 {
                    request.pass(SECOND * 19).after(endpoint, data("x", false));
                }
                assert!(request.is_waiting());
                request.pass(SECOND * 21);
            },
            504,
            reasons::STREAM_IDLE,
            "stream_idle_timeout",
        ),
        (
            |request, endpoint| {
                for _ in 0..6 {
                    request.pass(SECOND * 19).after(endpoint, data("x", false));
                }
            },
            504,
            reasons::ROUTE_TIMEOUT,
            "max_duration_timeout",
        ),
        (
            |request, _| {
                let members = request.bench.cluster.members();
                let names: HashSet<_> =
                    members.endpoints.iter().map(|it| std::sync::Arc::clone(&it.name)).collect();
                let attempts = &request.bench.manager.shared.attempts;
                attempts.cancel(&"app".into(), &names, Moment::NEVER, Departure::Removed);
                request.go_on();
            },
            503,
            end::ENDPOINT_REMOVED,
            "endpoint_removed",
        ),
        (
            |request, endpoint| {
                request.after(endpoint, data("cut", false));
            },
            502,
            reasons::DENIED,
            "filter_cut_response",
        ),
        (
            |request, endpoint| {
                request.after(endpoint, data("wait", false)).pass(SECOND * 11);
            },
            504,
            sluice_l4::reasons::FILTER_TIMEOUT,
            "filter_timeout",
        ),
    ];
    let judges = Hooks {
        access: BodyAccess::Read,
        response_body: |_, body, _| match &body[..] {
            b"cut" => ResponseBodyStep::cut(reasons::DENIED),
            b"wait" => ResponseBodyStep::Wait(Box::pin(std::future::pending())),
            _ => ResponseBodyStep::Continue,
        },
        ..Hooks::NONE
    };
    for (fault, status, why, details) in faults {
        let bench = Bench::with_filters(within(timeouts(100, 0, 0, 20)), &[HOLDS, judges]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(get(), true);
        request.after(&endpoint, response(200, false)).after(&endpoint, data("half", false));
        assert!(request.client.sent().is_empty());
        fault(&mut request, &endpoint);
        request.check(status, why);
        assert_eq!((&*request.ended().details, request.statuses()), (details, vec![status]));
        assert!(is_reset(&endpoint) && !is_reset(&request.client), "{details}");
        assert_eq!(bench.worker.buffers.bytes_out(), 0, "{details}");
    }
}

#[test]
fn a_client_that_leaves_while_its_response_is_held_cancels_it() {
    let waits = Hooks {
        response: |_, _| {
            ResponseStep::buffer(MAX, |_, _| WholeStep::Wait(Box::pin(std::future::pending())))
        },
        ..Hooks::NONE
    };
    for complete in [false, true] {
        let bench = with(&[waits]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(get(), true);
        request.after(&endpoint, response(200, false)).after(&endpoint, data("x", complete));
        request.client.goes();
        request.go_on();
        let why = request.ended().reason.map(Reason::code);
        assert_eq!(why, Some(end::DOWNSTREAM_RESET.code()));
        assert!(is_reset(&endpoint));
        assert_eq!(bench.worker.buffers.bytes_out(), 0);
    }
    // One that waits is given up after a while.
    let bench = with(&[waits]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false)).after(&endpoint, data("x", true));
    request.pass(Duration::from_secs(11)).check(504, sluice_l4::reasons::FILTER_TIMEOUT);
}

#[test]
fn the_request_goes_on_while_its_response_is_held() {
    let judges = Hooks {
        access: BodyAccess::Read,
        request_body: |_, body, _| {
            if &body[..] == b"bad" {
                return BodyStep::reply(Reply::new(403, reasons::DENIED, "refused", "no\n"));
            }
            BodyStep::Continue
        },
        ..Hooks::NONE
    };
    let holds = Hooks { request: Hooks::NONE.request, ..HOLDS };
    let serve = |bench: &Bench, check: &dyn Fn(&mut Running<'_>, &ScriptedPeer)| {
        let endpoint = bench.connects(false);
        let mut request = bench.serve(post(), false);
        request.client_does(data("one ", false)).after(&endpoint, response(200, false));
        request.after(&endpoint, data("answer", false)).client_does(data("two", false));
        assert_eq!(endpoint.body(), b"one two");
        check(&mut request, &endpoint);
    };
    // It is complete before its response is.
    serve(&with(&[holds]), &|request, endpoint| {
        request.client_does(PeerEvent::End).after(endpoint, PeerEvent::End);
        assert_eq!(request.client.body(), b"answer");
        request.check(200, reasons::VIA_UPSTREAM);
        assert!(!is_reset(endpoint));
    });
    // Its response is complete before it is.
    serve(&with(&[holds]), &|request, endpoint| {
        request.after(endpoint, PeerEvent::End).check(200, reasons::VIA_UPSTREAM);
        assert!(is_reset(endpoint), "the rest of the request goes nowhere");
    });
    // A filter refuses it: nothing has been sent yet.
    serve(&with(&[holds, judges]), &|request, _| {
        request.client_does(data("bad", false)).check(403, reasons::DENIED);
    });
    // The client stalls.
    serve(&with(&[holds]), &|request, endpoint| {
        request.pass(BODY_TIMEOUT + SECOND).check(408, reasons::BODY_TIMEOUT);
        assert!(is_reset(endpoint));
    });
    // The endpoint stops reading.
    serve(&with(&[holds]), &|request, endpoint| {
        endpoint.reads(false);
        request.client_does(data("more", false)).after(endpoint, PeerEvent::End);
        request.check(200, reasons::VIA_UPSTREAM);
    });
}

#[test]
fn a_request_has_no_room_for_what_few_requests_need() {
    let bytes = Bench::new(RuleOptions::default()).future_size();
    assert!(bytes <= 6 << 10, "the future of a request has {bytes} bytes");
}
