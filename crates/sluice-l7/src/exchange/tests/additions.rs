//! Filters that add to bodies in their own time, and that see a body before they decide on its headers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use sluice_codec::scripted::{PeerEvent, SentEvent};
use sluice_codec::{Body, Head};
use tokio::sync::oneshot;

use super::kit::{Bench, Hooks, data, post, response};
use crate::filters::{BodyAccess, Cx, HeadStep, PieceStep};
use crate::reasons;
use crate::routes::RuleOptions;

thread_local! {
    /// What the filter adds, one after the other.
    static ADDED: RefCell<VecDeque<&'static str>> = RefCell::default();
    static ASKED: RefCell<Option<Waker>> = RefCell::default();
    static DECIDES: RefCell<Option<oneshot::Sender<()>>> = RefCell::default();
}

/// Has the filter add something.
fn add(text: &'static str) {
    ADDED.with_borrow_mut(|added| added.push_back(text));
    ASKED.take().into_iter().for_each(Waker::wake);
}

fn poll_addition(cx: &mut Context<'_>) -> Poll<()> {
    if ADDED.with_borrow(VecDeque::is_empty) {
        ASKED.set(Some(cx.waker().clone()));
        return Poll::Pending;
    }
    Poll::Ready(())
}

/// Puts what is added in the place of every piece; at the end, one after the other until nothing is left.
fn replace<E>(cx: &mut Cx<'_>, body: &mut Body, last: bool) -> PieceStep<Body, E> {
    let next = ADDED.with_borrow_mut(VecDeque::pop_front);
    *body = Body::Shared(Bytes::from(next.unwrap_or_default()));
    if last && !ADDED.with_borrow(VecDeque::is_empty) {
        cx.call_again();
    }
    PieceStep::Continue
}

const ADDS: Hooks = Hooks {
    access: BodyAccess::Edit,
    request_body: replace,
    response_body: replace,
    addition: poll_addition,
    ..Hooks::NONE
};

#[test]
fn a_filter_adds_to_a_body_while_nothing_arrives_and_after_its_last_piece() {
    for trailers in [false, true] {
        // Another filter on either side sees every piece once.
        let marks = Hooks {
            access: BodyAccess::Edit,
            request_body: |_, body, _| {
                if !body.is_empty() {
                    *body = Body::Shared([&body[..], b"."].concat().into());
                }
                PieceStep::Continue
            },
            ..Hooks::NONE
        };
        let bench = Bench::with_filters(RuleOptions::default(), &[marks, ADDS, marks]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(post(), false);
        request.client_does(data("x", false));
        assert!(endpoint.body().is_empty());
        add("one");
        request.go_on();
        assert_eq!(endpoint.body(), b"one.");
        ["two", "three", "four"].into_iter().for_each(|text| {
            ADDED.with_borrow_mut(|added| added.push_back(text));
        });
        let end = if trailers { PeerEvent::Trailers(Head::default()) } else { data("y", true) };
        request.client_does(end);
        assert_eq!(endpoint.body(), b"one.two.three.four.");
        if trailers {
            assert_eq!(endpoint.sent().last(), Some(&SentEvent::End(true)));
        }
        request.after(&endpoint, response(200, false));
        add("answer");
        request.go_on();
        assert_eq!(request.client.body(), b"answer");
        request.after(&endpoint, data("", true));
        request.check(200, reasons::VIA_UPSTREAM);
    }
}

#[test]
fn what_a_filter_makes_larger_than_a_stream_takes_at_once_is_divided() {
    const GROWS: Hooks = Hooks {
        access: BodyAccess::Edit,
        request_body: |_, body, _| {
            *body = Body::Shared(body.repeat(100_000).into());
            PieceStep::Continue
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[GROWS]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("ab", false)).client_does(data("c", true));
    let expected = [b"ab".repeat(100_000), b"c".repeat(100_000)].concat();
    assert!(endpoint.body() == expected, "{} bytes", endpoint.body().len());
    let pieces = endpoint.sent().into_iter().filter(|sent| matches!(sent, SentEvent::Data(..)));
    assert_eq!(pieces.count(), 4 + 2);
    request.after(&endpoint, response(200, false)).after(&endpoint, data("", true));
    request.check(200, reasons::VIA_UPSTREAM);
}

/// Decides on the headers when the test says so, and marks them.
fn decides(_: &mut Cx<'_>, _: &mut Head) -> HeadStep {
    let (decide, decided) = oneshot::channel();
    DECIDES.set(Some(decide));
    HeadStep::WaitWithBody(
        8,
        Box::pin(async move {
            let _ = decided.await;
            Box::new(|_: &mut Cx<'_>, head: &mut Head| {
                head.append(b"x-decided", b"yes");
                HeadStep::Continue
            }) as _
        }),
    )
}

fn decide() {
    DECIDES.take().expect("the filter waits").send(()).expect("it still does");
}

const DECIDES_LATER: Hooks = Hooks {
    request: decides,
    access: BodyAccess::Edit,
    request_body: |_, body, _| {
        *body = Body::Shared(body.to_ascii_uppercase().into());
        PieceStep::Continue
    },
    ..Hooks::NONE
};

#[test]
fn a_body_is_received_while_a_filter_decides_on_its_headers() {
    for (before, after) in
        [(&[][..], &["one", "two"][..]), (&["one"], &["two"]), (&["one", "two"], &[])]
    {
        let bench = Bench::with_filters(RuleOptions::default(), &[DECIDES_LATER]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(post(), false);
        let all = before.len() + after.len();
        for (number, text) in before.iter().enumerate() {
            request.client_does(data(text, number + 1 == all));
        }
        assert!(endpoint.sent().is_empty() && request.is_waiting());
        decide();
        request.go_on();
        for (number, text) in after.iter().enumerate() {
            request.client_does(data(text, before.len() + number + 1 == all));
        }
        assert_eq!(endpoint.body(), b"ONETWO");
        let head = endpoint.sent().remove(0);
        assert!(matches!(head, SentEvent::Head(text, _) if text.contains("x-decided")));
        request.after(&endpoint, response(200, false)).after(&endpoint, data("", true));
        request.check(200, reasons::VIA_UPSTREAM);
    }
}

#[test]
fn what_is_held_while_a_filter_decides_is_bounded() {
    let bench = Bench::with_filters(RuleOptions::default(), &[DECIDES_LATER]);
    let mut request = bench.serve(post(), false);
    request.client_does(data("12345678", false)).client_does(data("9", false));
    request.check(413, reasons::BODY_TOO_LARGE);
}
