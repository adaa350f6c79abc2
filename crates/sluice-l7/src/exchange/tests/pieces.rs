//! Bodies and trailers in the filters: edited, held back, delayed, refused, in both directions.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_codec::{Body, Head};
use tokio::sync::oneshot;

use super::kit::{Bench, Hooks, data, is_reset, post, response};
use crate::filters::{
    BodyAccess, BodyStep, Cx, HeadStep, PieceStep, ResponseBodyStep, ResponseTrailersStep,
    TrailersStep, WholeStep,
};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::{RetryPlan, RetryWhen, RuleOptions};

const SECOND: Duration = Duration::from_secs(1);

sluice_core::values! {
    CALLS: u64 = "test.calls", "How often a hook was called.";
}

thread_local! {
    /// What the waits of a test end with, in order.
    static GATES: RefCell<Vec<oneshot::Sender<()>>> = RefCell::default();
}

/// Waits until the test opens the gate, then adds a mark.
fn gated<E: 'static>(mark: &'static str) -> PieceStep<Body, E> {
    let (open, opened) = oneshot::channel();
    GATES.with_borrow_mut(|gates| gates.push(open));
    PieceStep::wait(async move {
        let _ = opened.await;
        move |_: &mut Cx<'_>, body: &mut Body| {
            add(body, mark);
            PieceStep::Continue
        }
    })
}

/// Opens the oldest gate.
fn open_gate() {
    let gate = GATES.with_borrow_mut(|gates| gates.remove(0));
    gate.send(()).expect("the filter waits");
}

fn add(body: &mut Body, mark: &str) {
    *body = Body::Shared(Bytes::from([&body[..], mark.as_bytes()].concat()));
}

/// Keeps everything until the end, and sends it in upper case.
fn collect<E>(cx: &mut Cx<'_>, body: &mut Body, last: bool) -> PieceStep<Body, E> {
    let kept = cx.state.get_or_insert_with(|| Box::new(Vec::<u8>::new()));
    let kept: &mut Vec<u8> = kept.downcast_mut().expect("only this filter uses it");
    kept.extend(body.to_ascii_uppercase());
    *body = Body::Shared(if last { Bytes::from(std::mem::take(kept)) } else { Bytes::new() });
    PieceStep::Continue
}

fn first_head(peer: &ScriptedPeer) -> String {
    peer.sent()
        .into_iter()
        .find_map(|sent| match sent {
            SentEvent::Head(text, _) => Some(text),
            _ => None,
        })
        .expect("a head was sent")
}

fn with_length(mut head: Head, length: &str) -> Head {
    head.append(b"content-length", length.as_bytes());
    head
}

const EDITS: Hooks = Hooks {
    access: BodyAccess::Edit,
    request_body: |_, body, _| {
        add(body, "!");
        BodyStep::Continue
    },
    response_body: |_, body, _| {
        add(body, "?");
        ResponseBodyStep::Continue
    },
    ..Hooks::NONE
};

#[test]
fn a_body_that_is_edited_loses_its_length_and_one_that_is_read_keeps_it() {
    for (access, states) in [(BodyAccess::Edit, false), (BodyAccess::Read, true)] {
        let hooks = if states { Hooks { access, ..Hooks::NONE } } else { EDITS };
        let bench = Bench::with_filters(RuleOptions::default(), &[hooks]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(with_length(post(), "2"), false);
        request.client_does(data("hi", true));
        let answer = with_length(Head::response(200), "2");
        request.after(&endpoint, PeerEvent::Head(answer, false)).after(&endpoint, data("yo", true));
        assert_eq!(first_head(&endpoint).contains("content-length"), states);
        assert_eq!(first_head(&request.client).contains("content-length"), states);
        let (sent, received): (&[u8], &[u8]) =
            if states { (b"hi", b"yo") } else { (b"hi!", b"yo?") };
        assert_eq!((&*endpoint.body(), &*request.client.body()), (sent, received));
        assert_eq!(request.ended().received, 2, "what the client sent is counted");
        request.check(200, reasons::VIA_UPSTREAM);
    }
}

#[test]
fn what_a_filter_holds_back_is_sent_at_the_end_before_its_trailers() {
    let hooks = Hooks {
        access: BodyAccess::Edit,
        request_body: collect,
        request_trailers: |_, trailers| {
            trailers.append(b"x-sum", b"1");
            TrailersStep::Continue
        },
        ..Hooks::NONE
    };
    for trailers in [false, true] {
        let bench = Bench::with_filters(RuleOptions::default(), &[hooks]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(post(), false);
        request.client_does(data("one ", false)).client_does(data("two", false));
        assert!(endpoint.body().is_empty());
        let end = if trailers { PeerEvent::Trailers(Head::default()) } else { PeerEvent::End };
        request.client_does(end);
        assert_eq!(endpoint.body(), b"ONE TWO");
        assert_eq!(endpoint.sent().last(), Some(&SentEvent::End(true)));
        request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    }
}

#[test]
fn a_piece_waits_for_its_filter_and_only_its_direction_with_it() {
    let waits = Hooks {
        access: BodyAccess::Edit,
        request_body: |_, body, _| {
            if body.is_empty() { BodyStep::Continue } else { gated("-late") }
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[waits, EDITS]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("a", false)).client_does(data("b", true));
    assert!(endpoint.body().is_empty());
    // The response flows meanwhile.
    request.after(&endpoint, response(200, false)).after(&endpoint, data("early", false));
    assert_eq!(request.client.body(), b"early?");
    open_gate();
    request.go_on();
    assert_eq!(endpoint.body(), b"a-late!", "the filters behind see what the filter made of it");
    open_gate();
    request.go_on();
    assert_eq!(endpoint.body(), b"a-late!b-late!");
    request.after(&endpoint, data("", true));
    request.check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_response_and_the_trailers_of_both_sides_may_wait() {
    let waits = Hooks {
        access: BodyAccess::Edit,
        response_body: |_, body, _| {
            if body.is_empty() { ResponseBodyStep::Continue } else { gated("+") }
        },
        request_trailers: |_, _| {
            TrailersStep::wait(async {
                |_: &mut Cx<'_>, trailers: &mut Head| {
                    trailers.append(b"x-late", b"1");
                    TrailersStep::Continue
                }
            })
        },
        response_trailers: |_, _| {
            ResponseTrailersStep::wait(async {
                |_: &mut Cx<'_>, trailers: &mut Head| {
                    trailers.append(b"grpc-status", b"7");
                    ResponseTrailersStep::Continue
                }
            })
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[waits]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(PeerEvent::Trailers(Head::default()));
    assert_eq!(endpoint.sent().last(), Some(&SentEvent::End(true)));
    request.after(&endpoint, response(200, false)).after(&endpoint, data("x", false));
    request.after(&endpoint, PeerEvent::Trailers(Head::default()));
    assert!(request.client.body().is_empty() && request.is_waiting());
    open_gate();
    request.go_on();
    assert_eq!(request.client.body(), b"x+");
    assert_eq!(request.client.sent().last(), Some(&SentEvent::End(true)));
    assert_eq!(request.ended().grpc_status, Some(7));
}

#[test]
fn a_filter_that_never_lets_a_piece_go_is_given_up() {
    let never = Hooks {
        access: BodyAccess::Read,
        request_body: |_, _, _| BodyStep::Wait(Box::pin(std::future::pending())),
        response_body: |_, _, _| ResponseBodyStep::Wait(Box::pin(std::future::pending())),
        ..Hooks::NONE
    };
    // Before the response has begun, the client gets one.
    let bench = Bench::with_filters(RuleOptions::default(), &[never]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", false)).pass(SECOND * 11);
    request.check(504, sluice_l4::reasons::FILTER_TIMEOUT);
    let detail = request.ended().detail.as_deref();
    assert_eq!(detail, Some("the filter hooks did not decide in time"));
    assert!(is_reset(&endpoint));
    // After that, the response is cut off.
    let bench = Bench::with_filters(RuleOptions::default(), &[never]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(super::kit::get(), true);
    request.after(&endpoint, response(200, false)).after(&endpoint, data("x", true));
    request.pass(SECOND * 11).check(200, sluice_l4::reasons::FILTER_TIMEOUT);
    assert!(is_reset(&request.client) && is_reset(&endpoint));
}

#[test]
fn a_filter_may_refuse_a_body_and_cut_a_response_off() {
    let refuses = Hooks {
        access: BodyAccess::Read,
        request_body: |_, _, _| {
            BodyStep::wait(async {
                |_: &mut Cx<'_>, _: &mut Body| {
                    BodyStep::reply(Reply::new(403, reasons::DENIED, "refused", "no\n"))
                }
            })
        },
        response_body: |_, _, _| ResponseBodyStep::cut(reasons::DENIED),
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[refuses]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", false)).check(403, reasons::DENIED);
    assert!(is_reset(&endpoint) && endpoint.body().is_empty());

    let bench = Bench::with_filters(RuleOptions::default(), &[refuses]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(super::kit::get(), true);
    request.after(&endpoint, response(200, false)).after(&endpoint, data("x", true));
    request.check(200, reasons::DENIED);
    assert_eq!(request.ended().details, "filter_cut_response");
    assert!(is_reset(&request.client) && request.client.body().is_empty());
}

#[test]
fn a_filter_may_refuse_trailers_at_once_or_later() {
    const DENIES: fn() -> TrailersStep =
        || TrailersStep::reply(Reply::new(403, reasons::DENIED, "refused", "no\n"));
    let at_once = Hooks {
        request_trailers: |_, _| DENIES(),
        response_trailers: |_, _| ResponseTrailersStep::cut(reasons::DENIED),
        ..Hooks::NONE
    };
    let later = Hooks {
        request_trailers: |_, _| {
            TrailersStep::wait(async { |_: &mut Cx<'_>, _: &mut Head| DENIES() })
        },
        response_trailers: |_, _| {
            ResponseTrailersStep::wait(async {
                |_: &mut Cx<'_>, _: &mut Head| ResponseTrailersStep::cut(reasons::DENIED)
            })
        },
        ..Hooks::NONE
    };
    for hooks in [at_once, later] {
        let bench = Bench::with_filters(RuleOptions::default(), &[hooks]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(post(), false);
        request.client_does(data("x", false));
        request.client_does(PeerEvent::Trailers(Head::default())).check(403, reasons::DENIED);
        assert!(is_reset(&endpoint));

        let endpoint = bench.connects(false);
        let mut request = bench.serve(super::kit::get(), true);
        request.after(&endpoint, response(200, false)).after(&endpoint, data("x", false));
        request.after(&endpoint, PeerEvent::Trailers(Head::default()));
        request.check(200, reasons::DENIED);
        assert!(is_reset(&request.client) && request.client.body() == b"x");
    }
}

#[test]
fn what_a_filter_refuses_of_a_request_whose_response_has_begun_goes_nowhere() {
    let refuses = Hooks {
        access: BodyAccess::Read,
        request_body: |_, body, _| {
            if &body[..] == b"bad" {
                return BodyStep::reply(Reply::new(403, reasons::DENIED, "refused", "no\n"));
            }
            BodyStep::Continue
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[refuses]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("good", false)).after(&endpoint, response(200, false));
    request.client_does(data("bad", false)).client_does(data("more", true));
    assert_eq!(endpoint.body(), b"good");
    request.after(&endpoint, data("answer", true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(request.client.body(), b"answer");
    assert!(is_reset(&endpoint), "it does not take a part for the whole");
}

#[test]
fn a_retry_sends_the_body_as_the_filters_left_it() {
    let when = RetryWhen { reset: true, ..RetryWhen::default() };
    let retry = RetryPlan { attempts: 2, when, ..RetryPlan::default() };
    let bench = Bench::with_filters(RuleOptions { retry, ..RuleOptions::default() }, &[EDITS]);
    let (bad, good) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", true));
    request.after(&bad, PeerEvent::Fails(sluice_codec::ErrorKind::Reset)).pass(SECOND);
    request.after(&good, response(200, true));
    assert_eq!((bad.body(), good.body()), (b"x!".to_vec(), b"x!".to_vec()));
}

#[test]
fn filters_behind_one_that_buffers_see_the_body_once_and_whole() {
    /// Counts how often the hook was called, in the request.
    fn count(cx: &mut Cx<'_>, body: &mut Body, _last: bool) -> BodyStep {
        let calls = cx.values.get(&CALLS).copied().unwrap_or(0);
        cx.values.set(&CALLS, calls + 1);
        add(body, "!");
        BodyStep::Continue
    }
    let seen = Hooks {
        access: BodyAccess::Edit,
        request_body: count,
        request_trailers: |cx, trailers| {
            if trailers.is_empty() {
                return TrailersStep::Continue;
            }
            let calls = cx.values.get(&CALLS).copied().unwrap_or(0);
            trailers.append(b"x-calls", calls.to_string().as_bytes());
            TrailersStep::Continue
        },
        ..Hooks::NONE
    };
    let buffers =
        Hooks { request: |_, _| HeadStep::buffer(100, |_, _| WholeStep::Continue), ..Hooks::NONE };
    for trailers in [false, true] {
        let bench = Bench::with_filters(RuleOptions::default(), &[buffers, seen]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(post(), false);
        request.client_does(data("one ", false)).client_does(data("two", false));
        assert!(endpoint.sent().is_empty());
        let mut own = Head::default();
        own.append(b"x-own", b"1");
        request.client_does(if trailers { PeerEvent::Trailers(own) } else { PeerEvent::End });
        assert_eq!(endpoint.body(), b"one two!");
        assert_eq!(first_head(&endpoint).contains("content-length: 8"), !trailers);
        assert_eq!(endpoint.sent().last() == Some(&SentEvent::End(true)), trailers);
        request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    }
    // What a filter adds counts towards the limit of the one that buffers.
    let adds = Hooks {
        access: BodyAccess::Edit,
        request_body: |_, body, _| {
            add(body, &"x".repeat(100));
            BodyStep::Continue
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[buffers, adds]);
    let mut request = bench.serve(post(), false);
    request.client_does(data("one", true)).check(413, reasons::BODY_TOO_LARGE);
}
