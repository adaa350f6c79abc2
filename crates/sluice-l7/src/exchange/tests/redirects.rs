//! Redirects that are followed: which, to where, with which body, and through which filters.

use sluice_codec::Head;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_core::Limits;

use super::kit::{Bench, Hooks, OwnHooks, data, get, post, response};
use crate::filters::HeadStep;
use crate::reasons;
use crate::reply::Reply;
use crate::routes::{FollowPlan, FollowScheme, HostRewrite, RuleOptions};

fn plan() -> FollowPlan {
    FollowPlan {
        statuses: vec![302, 303, 307],
        redirects_max: 1,
        scheme: FollowScheme::Same,
        routes: Vec::new(),
        new_routes_only: false,
        copy_headers: Vec::new(),
    }
}

/// A worker with a rule for `/new` and one for everything else.
fn bench(plan: FollowPlan, filters: &[Hooks], own: &[OwnHooks]) -> Bench {
    let follow = Some(Box::new(plan));
    // The endpoint gets another host than the client asked for.
    let host = HostRewrite::Literal("inner.test".into());
    let options = RuleOptions { follow, host, ..RuleOptions::default() };
    Bench::with_rules(Limits::default(), options, filters, &[("/new", own)])
}

fn redirect(status: u16, location: &str) -> PeerEvent {
    let mut head = Head::response(status);
    head.append(b"location", location.as_bytes());
    head.append(b"x-token", b"t");
    PeerEvent::Head(head, true)
}

fn head_of(peer: &ScriptedPeer) -> String {
    match &peer.sent()[0] {
        SentEvent::Head(text, _) => text.clone(),
        other => panic!("{other:?} came before a head"),
    }
}

#[test]
fn a_redirect_is_followed_by_route_up_to_a_bound() {
    let copying = FollowPlan { copy_headers: vec!["x-token".into()], ..plan() };
    let bench = bench(copying, &[], &[]);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.after(&one, redirect(302, "/new/x?y"));
    let head = head_of(&two);
    assert!(head.contains("/new/x?y") && head.contains("x-token: t"), "{head}");
    request.after(&two, redirect(302, "/new/z")).check(302, reasons::VIA_UPSTREAM);
    assert_eq!(request.ended().route.as_deref(), Some("/new"));
    request.check_attempts(&[Some(reasons::RETRIED), None]);
    assert_eq!(request.statuses(), [302], "the client sees one response");
}

#[test]
fn a_redirect_that_cannot_be_followed_goes_to_the_client() {
    let named = |rule: &str| FollowPlan { routes: vec![rule.into()], ..plan() };
    let new = FollowPlan { new_routes_only: true, ..plan() };
    let safer = FollowPlan { scheme: FollowScheme::Safer, ..plan() };
    for (plan, event, followed) in [
        (plan(), redirect(302, "http://other.test/new"), true),
        (plan(), redirect(301, "/new"), false),
        (plan(), response(302, true), false),
        (plan(), redirect(302, "new"), false),
        (plan(), redirect(302, "/new/../../etc"), false),
        (plan(), redirect(302, "/new\\..\\x"), false),
        (plan(), redirect(302, "http://u@other.test/new"), false),
        (plan(), redirect(302, "https://other.test/new"), false),
        (safer, redirect(302, "https://other.test/new"), true),
        (named("/new"), redirect(302, "/new"), true),
        (named("/new"), redirect(302, "/other"), false),
        (new.clone(), redirect(302, "/new"), true),
        (new, redirect(302, "/other"), false),
    ] {
        let bench = bench(plan.clone(), &[], &[]);
        let (one, two) = (bench.connects(false), bench.connects(false));
        let mut request = bench.serve(get(), true);
        request.after(&one, event.clone());
        assert_eq!(request.is_waiting(), followed, "{plan:?} {event:?}");
        if followed {
            request.after(&two, response(200, true)).check(200, reasons::VIA_UPSTREAM);
        } else {
            assert!(two.sent().is_empty());
            assert_eq!(request.ended().route.as_deref(), Some("/"));
        }
    }
}

#[test]
fn a_kept_body_is_sent_again_and_a_303_drops_it() {
    for (status, body, method) in [(307, &b"body"[..], "POST"), (303, b"", "GET")] {
        let bench = bench(plan(), &[], &[]);
        let (one, two) = (bench.connects(false), bench.connects(false));
        let mut request = bench.serve(post(), false);
        request.client_does(data("bo", false)).client_does(data("dy", true));
        request.after(&one, redirect(status, "/new"));
        assert_eq!((one.body(), two.body()), (b"body".to_vec(), body.to_vec()));
        assert!(head_of(&two).contains(method), "{}", head_of(&two));
        request.after(&two, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    }
    // The body is not complete yet.
    let bench = bench(plan(), &[], &[]);
    let one = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("bo", false)).after(&one, redirect(307, "/new"));
    assert_eq!(request.statuses(), [307]);
}

const GUARD: Hooks = Hooks { guards: true, ..Hooks::NONE };
const REFUSES: Hooks = Hooks {
    request: |_, _| HeadStep::reply(Reply::new(403, reasons::DENIED, "denied", "")),
    ..GUARD
};
const COUNTS: Hooks = Hooks {
    request: |_, head| {
        head.append(b"x-ran", b"1");
        HeadStep::Continue
    },
    ..Hooks::NONE
};

#[test]
fn the_guards_of_the_new_rule_apply() {
    let bench = bench(plan(), &[GUARD, COUNTS], &[(0, Some(REFUSES))]);
    let one = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&one, redirect(302, "/new")).check(403, reasons::DENIED);
}

#[test]
fn what_does_not_change_runs_once() {
    let bench = bench(plan(), &[GUARD, COUNTS], &[]);
    let (one, two) = (bench.connects(false), bench.connects(false));
    let mut request = bench.serve(get(), true);
    request.after(&one, redirect(302, "/new"));
    assert_eq!(head_of(&two).matches("x-ran: 1").count(), 1);
    request.after(&two, response(200, true)).check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_body_that_a_guard_of_the_new_rule_has_not_seen_is_not_sent_there() {
    let bench = bench(plan(), &[GUARD], &[(0, Some(REFUSES))]);
    let one = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", true)).after(&one, redirect(307, "/new"));
    request.check(307, reasons::VIA_UPSTREAM);
}
