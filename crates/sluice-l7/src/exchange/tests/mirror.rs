//! Copies of requests: what they contain, when they are sent, and that the request itself does not notice.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use sluice_codec::scripted::SentEvent;
use sluice_core::fine_percent::{FinePercent, PERCENT};
use sluice_core::limits::Limit;
use sluice_core::{Clock, Limits};
use tokio::task::LocalSet;

use super::SECOND;
use super::kit::{Bench, Hooks, connects, data, fill, get, post, response};
use crate::filters::HeadStep;
use crate::hop_count::HopCount;
use crate::pools::ClusterPool;
use crate::reasons;
use crate::routes::{Mirror, MirrorTarget, RetryPlan, RetryWhen, RuleOptions, RuntimeShare};

/// A worker whose only rule sends copies to another cluster.
struct Mirrored {
    bench: Bench,
    shadow: Rc<ClusterPool>,
    tasks: LocalSet,
}

impl Mirrored {
    fn new(percent: u32, limits: Limits, filters: &[Hooks]) -> Self {
        let mirror = Mirror {
            to: MirrorTarget::Cluster("shadow".into()),
            share: RuntimeShare { key: None, percent: FinePercent(percent * PERCENT) },
            host_suffix: "-shadow".into(),
        };
        let when = RetryWhen { server_error: true, ..RetryWhen::default() };
        let retry = RetryPlan { attempts: 2, when, ..RetryPlan::default() };
        let options = RuleOptions { mirrors: vec![mirror], retry, ..RuleOptions::default() };
        let bench = Bench::with_limits(limits, options, filters);
        let snapshot = bench.manager.snapshot();
        let cluster = snapshot.table.directory.reference(&"shadow".into());
        fill(&cluster);
        Self { shadow: bench.pool_of(&cluster), bench, tasks: LocalSet::new() }
    }

    /// Lets the copies do what they can.
    fn run(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.tasks).poll(&mut cx);
    }
}

fn head_of(sent: &[SentEvent]) -> String {
    match &sent[0] {
        SentEvent::Head(text, _) => text.clone(),
        other => panic!("{other:?} came before a head"),
    }
}

#[test]
fn a_copy_is_sent_once_the_request_is_complete_whatever_becomes_of_both() {
    let mut mirrored = Mirrored::new(100, Limits::default(), &[]);
    let copy = connects(&mirrored.shadow, false);
    let (bad, good) = (mirrored.bench.connects(false), mirrored.bench.connects(false));
    let entered = mirrored.tasks.enter();
    let mut request = mirrored.bench.serve(post(), false);
    request.client_does(data("one ", false));
    assert_eq!((bad.body(), copy.sent().len()), (b"one ".to_vec(), 0));
    request.client_does(data("two", true));
    request.after(&bad, response(500, true)).pass(SECOND);
    request.after(&good, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    drop((request, entered));
    mirrored.run();
    let head = head_of(&copy.sent());
    assert!(head.contains("app.test-shadow") && head.contains("content-length: 7"), "{head}");
    assert_eq!(copy.body(), b"one two", "a retry of the request does not repeat its body");
    copy.does(response(503, true));
    mirrored.run();
    assert_eq!(mirrored.shadow.in_flight(), (0, 0));
}

#[test]
fn a_request_without_a_body_and_one_that_a_filter_received_whole_are_copied_too() {
    let mut mirrored = Mirrored::new(100, Limits::default(), &[]);
    let (copy, _endpoint) = (connects(&mirrored.shadow, false), mirrored.bench.connects(false));
    let entered = mirrored.tasks.enter();
    drop(mirrored.bench.serve(get(), true));
    drop(entered);
    mirrored.run();
    assert!(matches!(&copy.sent()[..], [SentEvent::Head(head, true)] if head.contains("GET")));

    let buffers = Hooks {
        request: |_, _| {
            HeadStep::buffer(100, |_: &mut _, _: &mut _| crate::filters::WholeStep::Continue)
        },
        ..Hooks::NONE
    };
    let mut mirrored = Mirrored::new(100, Limits::default(), &[buffers]);
    let (copy, _endpoint) = (connects(&mirrored.shadow, false), mirrored.bench.connects(false));
    let entered = mirrored.tasks.enter();
    let mut request = mirrored.bench.serve(post(), false);
    request.client_does(data("a", false)).client_does(data("b", true));
    drop((request, entered));
    mirrored.run();
    assert_eq!(copy.body(), b"ab");
}

#[test]
fn a_body_beyond_the_limit_costs_the_copy_and_not_the_request() {
    let mut limits = Limits::default();
    limits.set(Limit::MirrorBytes, 4).unwrap();
    let mut mirrored = Mirrored::new(100, limits, &[]);
    let (copy, endpoint) = (connects(&mirrored.shadow, false), mirrored.bench.connects(false));
    let entered = mirrored.tasks.enter();
    let mut request = mirrored.bench.serve(post(), false);
    request.client_does(data("123", false)).client_does(data("45", true));
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(endpoint.body(), b"12345");
    drop((request, entered));
    mirrored.run();
    assert!(copy.sent().is_empty());
    assert_eq!(mirrored.bench.worker.buffers.bytes_out(), 0);
}

#[test]
fn requests_that_end_early_tunnels_copies_and_others_than_the_share_are_not_copied() {
    let mut marked = get();
    HopCount { listeners: 1, side_calls: 1 }.write(&mut marked);
    let mut upgrade = get();
    upgrade.set_upgrade(b"websocket");
    for (percent, head, whole) in
        [(100, post(), false), (100, marked, true), (100, upgrade, true), (0, get(), true)]
    {
        let mut mirrored = Mirrored::new(percent, Limits::default(), &[]);
        let (copy, endpoint) = (connects(&mirrored.shadow, false), mirrored.bench.connects(false));
        let entered = mirrored.tasks.enter();
        let mut request = mirrored.bench.serve(head, whole);
        request.after(&endpoint, response(200, true));
        drop((request, entered));
        mirrored.run();
        assert!(copy.sent().is_empty());
    }
}

#[test]
fn copies_in_flight_are_bounded_in_number_and_time() {
    let mut limits = Limits::default();
    limits.set(Limit::Mirrors, 1).unwrap();
    let mut mirrored = Mirrored::new(100, limits, &[]);
    let (first, second) = (connects(&mirrored.shadow, false), connects(&mirrored.shadow, false));
    let entered = mirrored.tasks.enter();
    for _ in 0..2 {
        let endpoint = mirrored.bench.connects(false);
        let mut request = mirrored.bench.serve(get(), true);
        request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    }
    drop(entered);
    mirrored.run();
    assert!(!first.sent().is_empty() && second.sent().is_empty());
    // It never gets a response.
    let clock: &Clock = &mirrored.bench.worker.clock;
    clock.advance(SECOND * 61);
    mirrored.bench.worker.timers.expire();
    mirrored.run();
    assert_eq!(mirrored.shadow.in_flight(), (0, 0));
}
