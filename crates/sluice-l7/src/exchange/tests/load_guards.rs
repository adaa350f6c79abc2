//! The filters that guard against load, in an exchange whose time only the test advances.

use std::time::Duration;

use bytes::Bytes;
use sluice_codec::ErrorKind;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_core::tree::MapEntry;
use sluice_core::{Diags, Limits, Node, Path, Span, Value};
use sluice_l4::filters::registry::NoNames;
use sluice_l4::filters::{CheckContext, FilterOwner};

use super::kit::{Bench, Running, data, get, plan, post, response};
use crate::filters::built_in;
use crate::reasons;
use crate::routes::RuleOptions;

const SECOND: Duration = Duration::from_secs(1);

/// A map of scalars and maps, as `key value` pairs.
fn settings(fields: &[(&str, &str)]) -> Node {
    let node = |value| Node { value, span: Span::default() };
    let entry = |(key, text): &(&str, &str)| MapEntry {
        key: (*key).into(),
        key_span: Span::default(),
        node: node(Value::Scalar { text: (*text).into(), quoted: false }),
    };
    node(Value::Map(fields.iter().map(entry).collect()))
}

/// A worker whose only route has this filter.
fn bench(name: &'static str, settings: &Node) -> Bench {
    let (mut chain, cluster) = plan(RuleOptions::default(), &[], &[]);
    let (mut diags, mut names) = (Diags::new(), NoNames);
    let mut context =
        CheckContext::new(&Path::ROOT, FilterOwner::Listener("web"), &mut diags, &mut names);
    let filter = built_in().get(name).expect("there is one").check(settings, &mut context);
    let filter = filter.unwrap_or_else(|| panic!("{:?}", diags.iter().collect::<Vec<_>>()));
    chain.filters = vec![(name.into(), filter)];
    Bench::of(Limits::default(), chain, cluster)
}

/// The bytes of a body that a peer was sent.
fn bytes_to(peer: &ScriptedPeer) -> usize {
    let sent = peer.sent().into_iter();
    sent.map(|sent| if let SentEvent::Data(bytes, _) = sent { bytes.len() } else { 0 }).sum()
}

fn large(bytes: usize, last: bool) -> PeerEvent {
    PeerEvent::Data(Bytes::from(vec![b'x'; bytes]), last)
}

/// Advances the clock in steps, and checks after each that a peer has what the rate allows, and nothing more.
fn follow(
    running: &mut Running<'_>,
    peer: &ScriptedPeer,
    (rate, burst, all): (usize, usize, usize),
) {
    let step = Duration::from_millis(25);
    let mut millis = 0;
    while bytes_to(peer) < all {
        let passed = bytes_to(peer);
        let most = (burst + rate * millis / 1000).min(all);
        assert!(passed <= most, "{passed} of {most} after {millis} ms");
        // One portion may not be due yet, and a timer may be a tick late.
        let least = (rate * millis / 1000).saturating_sub(2 * burst).min(all);
        assert!(passed >= least, "{passed}, at least {least}, after {millis} ms");
        running.pass(step);
        millis += 25;
    }
}

#[test]
fn a_response_passes_at_its_rate_in_small_portions() {
    let bench = bench("bandwidth_limit", &settings(&[("response", "10000/s"), ("per", "request")]));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false)).after(&endpoint, large(60_000, true));
    assert_eq!(bytes_to(&request.client), 500, "what the rate allows in 50 ms");
    let client = request.client.clone();
    follow(&mut request, &client, (10_000, 500, 60_000));
    request.check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_request_passes_at_its_rate_and_its_beginning_at_once() {
    let fields = [("request", "1000/s"), ("after", "5000"), ("interval", "100ms")];
    let bench = bench("bandwidth_limit", &settings(&fields));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(large(5_000, false));
    assert_eq!(bytes_to(&endpoint), 5_000);
    request.client_does(large(3_000, true));
    assert_eq!(bytes_to(&endpoint), 5_100);
    for _ in 0..29 {
        let before = bytes_to(&endpoint);
        request.pass(Duration::from_millis(120));
        assert!((before..=before + 200).contains(&bytes_to(&endpoint)));
    }
    assert_eq!(bytes_to(&endpoint), 8_000);
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn responses_share_a_rate_and_one_that_ends_leaves_it_to_the_others() {
    let bench = bench("bandwidth_limit", &settings(&[("response", "1000/s")]));
    let begin = || {
        let endpoint = bench.connects(false);
        let mut request = bench.serve(get(), true);
        request.after(&endpoint, response(200, false)).after(&endpoint, large(10_000, true));
        request
    };
    let (mut first, mut second) = (begin(), begin());
    for _ in 0..200 {
        first.pass(Duration::from_millis(25));
        second.go_on();
    }
    let (one, other) = (bytes_to(&first.client), bytes_to(&second.client));
    assert!(one.abs_diff(other) <= 100, "{one} and {other}");
    assert!((4_800..=5_050).contains(&(one + other)), "{one} and {other} in 5 s");
    drop(second);
    let mut millis = 0;
    while first.is_waiting() {
        first.pass(Duration::from_millis(25));
        millis += 25;
    }
    let left = 10_000 - one;
    assert!(millis + 100 >= left && millis <= left + 200, "{left} bytes in {millis} ms");
}

#[test]
fn a_rate_holds_nothing_up_that_is_slower() {
    let bench = bench("bandwidth_limit", &settings(&[("response", "1MiB/s")]));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false));
    for _ in 0..50 {
        request.after(&endpoint, large(5_000, false));
        request.pass(Duration::from_millis(5));
    }
    assert_eq!(bytes_to(&request.client), 250_000);
    request.after(&endpoint, data("", true)).check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn waiting_for_a_rate_is_no_wait_of_a_filter_that_never_decides() {
    let bench = bench("bandwidth_limit", &settings(&[("response", "1/s"), ("burst", "1")]));
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, false)).after(&endpoint, large(3, true));
    request.pass(SECOND * 2).pass(SECOND * 2);
    request.check(200, reasons::VIA_UPSTREAM);
    // Of two that share a rate, one waits for longer than a filter may wait.
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut first = bench.serve(get(), true);
    first.after(&one, response(200, false)).after(&one, large(1, true));
    let mut long = bench.serve(get(), true);
    long.after(&two, response(200, false)).after(&two, large(40, true));
    for _ in 0..50 {
        long.pass(SECOND);
    }
    long.check(200, reasons::VIA_UPSTREAM);
    drop(first);
}

#[test]
fn a_request_in_the_queue_has_its_slot_when_another_ends() {
    let fields = [("max", "1"), ("queue", "2")];
    let bench = bench("concurrency_limit", &settings(&fields));
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut first = bench.serve(get(), true);
    let (mut second, mut late) = (bench.serve(get(), true), bench.serve(get(), true));
    bench.serve(get(), true).check(429, reasons::CONCURRENCY);
    assert!(second.is_waiting() && two.sent().is_empty());
    late.pass(SECOND / 2);
    first.after(&one, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    drop(first);
    second.go_on().after(&two, response(200, false));
    // Half a second more than the queue's second has passed for the last one.
    late.pass(SECOND).check(429, reasons::CONCURRENCY);
    second.after(&two, data("end", true)).check(200, reasons::VIA_UPSTREAM);
}

/// Whatever becomes of requests, the next ones find all slots.
#[test]
fn slots_come_back_from_requests_that_end_in_any_way() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bench = bench("concurrency_limit", &settings(&[("max", "3"), ("queue", "3")]));
        let endpoints: Vec<_> = (0..60).map(|_| bench.connects(false)).collect();
        let asked = || endpoints.iter().filter(|endpoint| !endpoint.sent().is_empty()).count();
        let mut responded = vec![false; endpoints.len()];
        let mut running: Vec<Running<'_>> = Vec::new();
        for _ in 0..50 {
            running.push(bench.serve(get(), true));
            let at = random.usize(..asked().max(1));
            let endpoint = &endpoints[at];
            match random.u32(..5) {
                0..=2 if std::mem::replace(&mut responded[at], true) => {}
                0 => endpoint.does(response(200, true)),
                1 => endpoint.does(response(200, false)),
                2 => endpoint.does(PeerEvent::Fails(ErrorKind::Reset)),
                3 => drop(running.swap_remove(random.usize(..running.len()))),
                _ => bench.worker.clock.advance(Duration::from_millis(400)),
            }
            bench.worker.timers.expire();
            // Some react late.
            for request in &mut running {
                if random.bool() {
                    request.go_on();
                }
            }
            running.retain(Running::is_waiting);
            assert!(running.len() <= 6, "seed {seed}: three have slots, three wait");
        }
        drop(running);
        let before = asked();
        let free: Vec<_> = (0..3).map(|_| bench.serve(get(), true)).collect();
        assert_eq!(asked(), before + 3, "seed {seed}: all slots are back");
        assert!(bench.serve(get(), true).is_waiting());
        assert_eq!(asked(), before + 3, "seed {seed}: and no more");
        drop(free);
    }
}
