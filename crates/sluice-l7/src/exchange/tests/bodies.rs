//! The bodies of an exchange: spliced or piece by piece, and who is held back when the other side does not read.

use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_codec::{Body, Head};
use sluice_io::Conn;

use super::kit::{BODY_TIMEOUT, Bench, Hooks, data, get, is_reset, post, response};
use super::{SECOND, timeouts, within};
use crate::filters::{BodyAccess, BodyStep, ResponseBodyStep};
use crate::reasons;
use crate::routes::{RetryPlan, RetryWhen, RuleOptions};

/// How many pieces of a body were sent to a peer, however large.
fn pieces(peer: &ScriptedPeer) -> usize {
    peer.sent().iter().filter(|sent| matches!(sent, SentEvent::Data(..))).count()
}

// --- splicing ---

fn spliced(_: &Conn, client: &ScriptedPeer) {
    client.is_spliced();
}

#[test]
fn spliced_bodies_are_counted_and_timed_like_others() {
    let bench = Bench::new(within(timeouts(0, 0, 0, 0)));
    let endpoint = bench.connects(false);
    endpoint.is_spliced();
    let mut request = bench.serve_after(post(), false, spliced);
    for _ in 0..3 {
        request.pass(BODY_TIMEOUT - SECOND).client_does(data("four", false));
    }
    assert!(request.is_waiting());
    request.client_does(data("last", true));
    assert_eq!(endpoint.body(), b"fourfourfourlast");
    assert!(request.pass(BODY_TIMEOUT * 2).is_waiting(), "the body is complete");
    request.after(&endpoint, response(200, false));
    request.after(&endpoint, data("some", false)).after(&endpoint, data(" more", true));
    request.check(200, reasons::VIA_UPSTREAM);
    assert_eq!(request.client.body(), b"some more");
    assert_eq!((request.client.spliced(), endpoint.spliced()), (4, 2));
    assert_eq!((request.ended().received, request.ended().sent), (16, 9));
    assert!(request.ended().request_end.is_some());
}

#[test]
fn a_spliced_body_that_stalls_times_out() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve_after(post(), false, spliced);
    request.client_does(data("some", false)).pass(BODY_TIMEOUT + SECOND);
    request.check(408, reasons::BODY_TIMEOUT);
    assert!(is_reset(&endpoint));
}

#[test]
fn a_spliced_body_may_end_with_trailers() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    endpoint.is_spliced();
    let mut request = bench.serve_after(post(), false, spliced);
    request.client_does(data("x", false)).client_does(PeerEvent::Trailers(Head::default()));
    assert_eq!(endpoint.sent().last(), Some(&SentEvent::End(true)));
    request.after(&endpoint, response(200, false)).after(&endpoint, data("y", false));
    request.after(&endpoint, PeerEvent::End);
    request.check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_body_that_is_kept_or_filtered_is_not_spliced() {
    let when = RetryWhen { server_error: true, ..RetryWhen::default() };
    let retry = RetryPlan { attempts: 2, when, ..RetryPlan::default() };
    let bench = Bench::new(RuleOptions { retry, ..RuleOptions::default() });
    let (bad, good) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve_after(post(), false, spliced);
    request.client_does(data("body", true)).after(&bad, response(500, true)).pass(SECOND);
    request.after(&good, response(200, true));
    assert_eq!((good.body(), request.client.spliced()), (b"body".to_vec(), 0));

    let shouts = Hooks {
        access: BodyAccess::Edit,
        request_body: |_, body, _| {
            *body = shouted(body);
            BodyStep::Continue
        },
        response_body: |_, body, _| {
            *body = shouted(body);
            ResponseBodyStep::Continue
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[shouts]);
    let endpoint = bench.connects(false);
    endpoint.is_spliced();
    let mut request = bench.serve_after(post(), false, spliced);
    request.client_does(data("request", true));
    request.after(&endpoint, response(200, false)).after(&endpoint, data("response", true));
    assert_eq!(endpoint.body(), b"REQUEST");
    assert_eq!(request.client.body(), b"RESPONSE");
}

fn shouted(body: &Body) -> Body {
    Body::Shared(body.to_ascii_uppercase().into())
}

#[test]
fn a_piece_that_a_filter_holds_back_is_not_sent_empty() {
    let holds = Hooks {
        access: BodyAccess::Edit,
        request_body: |_, body, last| {
            *body = if last { shouted(body) } else { Body::Shared(Default::default()) };
            BodyStep::Continue
        },
        response_body: |_, body, last| {
            *body = if last { shouted(body) } else { Body::Shared(Default::default()) };
            ResponseBodyStep::Continue
        },
        ..Hooks::NONE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[holds]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("held", false)).client_does(data("last", true));
    assert_eq!((endpoint.body(), pieces(&endpoint)), (b"LAST".to_vec(), 1));
    request.after(&endpoint, response(200, false));
    request.after(&endpoint, data("held", false)).after(&endpoint, data("last", true));
    assert_eq!((request.client.body(), pieces(&request.client)), (b"LAST".to_vec(), 1));
    request.check(200, reasons::VIA_UPSTREAM);
}

// --- tunnels ---

#[test]
fn a_tunnel_has_no_trailers() {
    let trailers = || PeerEvent::Trailers(Head::default());
    for of_client in [true, false] {
        let bench = Bench::new(RuleOptions { connect: true, ..RuleOptions::default() });
        let endpoint = bench.connects(false);
        let mut request = bench.serve(Head::request("CONNECT", "http", "db.test:5432", ""), false);
        request.after(&endpoint, response(200, false));
        if of_client {
            request.client_does(trailers());
            request.check(200, reasons::MALFORMED);
        } else {
            request.after(&endpoint, trailers());
            request.check(200, reasons::UPSTREAM_PROTOCOL);
        }
        assert!(is_reset(&endpoint) && is_reset(&request.client));
    }
}

// --- backpressure ---

#[test]
fn a_client_is_held_back_while_the_endpoint_does_not_read() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", false));
    assert_eq!(request.client.is_held_back(), Some(false));
    endpoint.reads(false);
    request.client_does(data("y", false));
    assert_eq!(request.client.is_held_back(), Some(true));
    endpoint.reads(true);
    request.go_on();
    assert_eq!(request.client.is_held_back(), Some(false));
    // Nothing more comes from the client, so there is nothing to hold back.
    request.client_does(data("z", true));
    endpoint.reads(false);
    request.go_on();
    assert_eq!(request.client.is_held_back(), Some(false));
}

#[test]
fn an_endpoint_is_held_back_while_the_client_does_not_read() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.client.reads(false);
    request.after(&endpoint, response(200, false));
    assert_eq!(endpoint.is_held_back(), Some(true));
    request.client.reads(true);
    request.after(&endpoint, data("x", false));
    assert_eq!(endpoint.is_held_back(), Some(false));
    request.client.reads(false);
    request.after(&endpoint, data("y", false)).after(&endpoint, data("z", false));
    assert_eq!(endpoint.is_held_back(), Some(true));
    request.client.reads(true);
    request.go_on();
    assert_eq!(endpoint.is_held_back(), Some(false));
    assert_eq!(request.client.body(), b"xyz");
}

#[test]
fn nothing_is_said_about_reading_before_something_was_sent() {
    let bench = Bench::new(RuleOptions::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    assert_eq!(endpoint.is_held_back(), None);
    request.after(&endpoint, data("x", false)).after(&endpoint, data("y", false));
    assert_eq!(endpoint.is_held_back(), Some(false));
}

#[test]
fn a_client_that_does_not_read_is_not_waited_for_forever() {
    let bench = Bench::new(within(timeouts(0, 0, 0, 20)));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    request.client.reads(false);
    request.after(&endpoint, data("x", true)).pass(SECOND * 21);
    request.check(200, reasons::STREAM_IDLE);
}
