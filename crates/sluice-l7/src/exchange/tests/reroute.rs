//! Filters that change the route: which guards run again, and with which settings.

use sluice_codec::Head;
use sluice_core::Limits;

use super::kit::{Bench, Hooks, OwnHooks, get, head_sent_to, response};
use crate::filters::{Cx, HeadStep};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::RuleOptions;

/// Settings of one filter in a rule.
type Own = &'static [OwnHooks];

fn mark(head: &mut Head, mark: &str) -> HeadStep {
    head.append(b"x-ran", mark.as_bytes());
    HeadStep::Continue
}

/// A guard of the chain, and the one that the rule for `/new` has in its place.
const GUARD: Hooks = Hooks { request: |_, head| mark(head, "guard"), guards: true, ..Hooks::NONE };
const STRICT: Hooks = Hooks { request: |_, head| mark(head, "strict"), ..GUARD };
const REFUSES: Hooks = Hooks {
    request: |_, _| HeadStep::reply(Reply::new(403, reasons::DENIED, "denied", "")),
    ..GUARD
};
const PLAIN: Hooks = Hooks { request: |_, head| mark(head, "plain"), ..Hooks::NONE };

fn moves(cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
    head.set_path(b"/new/x");
    cx.reroute();
    mark(head, "moves")
}

const MOVES: Hooks = Hooks { request: moves, ..Hooks::NONE };

/// Serves a request for `/`, and checks what the endpoint was sent and the route; `None` if it was refused.
#[track_caller]
fn check(filters: &[Hooks], own: Own, expected: Option<&[&str]>) {
    let rules = [("/new", own)];
    let bench = Bench::with_rules(Limits::default(), RuleOptions::default(), filters, &rules);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    let Some(expected) = expected else {
        request.check(403, reasons::DENIED);
        return assert!(endpoint.sent().is_empty());
    };
    let head = head_sent_to(&endpoint);
    let ran = head.lines().filter_map(|line| line.strip_prefix("x-ran: "));
    assert_eq!(ran.collect::<Vec<_>>(), expected);
    assert!(head.contains("/new/x"));
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(request.ended().route.as_deref(), Some("/new"));
}

#[test]
fn a_guard_that_the_new_route_configures_differently_runs_again() {
    check(
        &[GUARD, MOVES, PLAIN],
        &[(0, Some(STRICT))],
        Some(&["guard", "moves", "strict", "plain"]),
    );
    check(&[GUARD, MOVES, PLAIN], &[(0, Some(REFUSES))], None);
}

#[test]
fn what_the_new_route_does_not_change_runs_once() {
    check(&[GUARD, MOVES, PLAIN], &[], Some(&["guard", "moves", "plain"]));
    // Its settings differ, but it refuses nothing.
    check(&[PLAIN, MOVES, GUARD], &[(0, Some(MOVES))], Some(&["plain", "moves", "guard"]));
}

#[test]
fn filters_behind_have_the_settings_of_the_new_route() {
    check(&[MOVES, GUARD, PLAIN], &[(1, Some(STRICT))], Some(&["moves", "strict", "plain"]));
    check(&[MOVES, GUARD, PLAIN], &[(2, None)], Some(&["moves", "guard"]));
    check(&[MOVES, GUARD, PLAIN], &[(1, Some(REFUSES))], None);
    // The filter that moves the request may itself be left out there.
    check(&[GUARD, MOVES, PLAIN], &[(1, None)], Some(&["guard", "moves", "plain"]));
}

#[test]
fn a_request_that_is_moved_in_circles_ends() {
    /// Moves every request back to where it came from.
    fn back(cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        head.set_path(if head.path() == "/" { b"/new/x" } else { b"/" });
        cx.reroute();
        mark(head, "back")
    }
    const BACK: Hooks = Hooks { request: back, guards: true, ..Hooks::NONE };
    check(&[GUARD, BACK, PLAIN], &[(1, Some(MOVES))], Some(&["guard", "back", "plain"]));
    let rules: [(&str, Own); 1] = [("/new", &[(1, Some(BACK))])];
    let filters = [GUARD, BACK, PLAIN];
    let bench = Bench::with_rules(Limits::default(), RuleOptions::default(), &filters, &rules);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(request.ended().route.as_deref(), Some("/"));
}

#[test]
fn a_path_without_a_route_is_answered_with_404() {
    let lost = Hooks {
        request: |cx, head| {
            head.set_path(b"*");
            cx.reroute();
            HeadStep::Continue
        },
        ..Hooks::NONE
    };
    let (limits, options) = (Limits::default(), RuleOptions::default());
    let bench = Bench::with_rules(limits, options, &[lost], &[("/new", &[])]);
    bench.serve(get(), true).check(404, reasons::ROUTE_UNMATCHED);
}

#[test]
fn filters_that_only_rules_have_run_in_the_order_of_the_new_route() {
    const BEHIND: Hooks = Hooks { request: |_, head| mark(head, "behind"), ..Hooks::NONE };
    let old: Own = &[(1, Some(MOVES))];
    let new: Own = &[(0, Some(PLAIN)), (1, Some(STRICT)), (2, Some(BEHIND))];
    let rules = [("/old", old), ("/new", new)];
    let bench = Bench::with_rules(Limits::default(), RuleOptions::default(), &[], &rules);
    let endpoint = bench.connects(false);
    let _request = bench.serve(Head::request("GET", "http", "app.test", "/old/x"), true);
    let head = head_sent_to(&endpoint);
    let ran: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("x-ran: ")).collect();
    assert_eq!(ran, ["moves", "strict", "behind"], "the first one is before the filter that moved");
}

/// Judges the path, whatever its settings are.
const JUDGE: Hooks = Hooks {
    request: |_, head| {
        let path = head.path().to_owned();
        mark(head, &format!("judge {path}"))
    },
    judges: true,
    ..GUARD
};
const EDITS: Hooks = Hooks {
    request: |_, head| {
        head.set_path(b"/new/%78");
        mark(head, "edits")
    },
    ..Hooks::NONE
};

/// Serves a request for `/` that a filter sends to `/new/x`, and checks which filters ran.
#[track_caller]
fn check_judged(filters: &[Hooks], own: Own, expected: &[&str]) {
    let rules = [("/new", own)];
    let bench = Bench::with_rules(Limits::default(), RuleOptions::default(), filters, &rules);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    let head = head_sent_to(&endpoint);
    let ran = head.lines().filter_map(|line| line.strip_prefix("x-ran: "));
    assert_eq!(ran.collect::<Vec<_>>(), expected);
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_guard_that_judges_the_target_judges_what_is_forwarded() {
    // Once more, after all others, with the path as it is normalised.
    let twice: &[&str] = &["judge /", "moves", "plain", "judge /new/x"];
    check_judged(&[JUDGE, MOVES, PLAIN], &[], twice);
    // Once if nothing changes the path after it, or the route has its own settings for it, or leaves it out.
    check_judged(&[MOVES, JUDGE, PLAIN], &[], &["moves", "judge /new/x", "plain"]);
    let strict: Own = &[(0, Some(STRICT))];
    check_judged(&[JUDGE, MOVES, PLAIN], strict, &["judge /", "moves", "strict", "plain"]);
    check_judged(&[JUDGE, MOVES, PLAIN], &[(0, None)], &["judge /", "moves", "plain"]);
}

#[test]
fn an_edit_after_a_guard_is_judged_even_if_the_route_stays() {
    let bench = Bench::with_filters(RuleOptions::default(), &[JUDGE, EDITS, PLAIN]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    let head = head_sent_to(&endpoint);
    let ran = head.lines().filter_map(|line| line.strip_prefix("x-ran: "));
    assert_eq!(ran.collect::<Vec<_>>(), ["judge /", "edits", "plain", "judge /new/x"]);
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    let refuses = Hooks {
        request: |_, head| {
            let reply = Reply::new(403, reasons::DENIED, "denied", "");
            if head.path() == "/" { HeadStep::Continue } else { HeadStep::reply(reply) }
        },
        ..JUDGE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[refuses, EDITS]);
    let endpoint = bench.connects(false);
    bench.serve(get(), true).check(403, reasons::DENIED);
    assert!(endpoint.sent().is_empty());
}

#[test]
fn a_guard_that_edits_what_it_judges_does_not_go_round_in_circles() {
    let hooks = Hooks {
        request: |_, head| {
            let path = format!("{}x", head.path());
            head.set_path(path.as_bytes());
            mark(head, "both")
        },
        ..JUDGE
    };
    let bench = Bench::with_filters(RuleOptions::default(), &[hooks, EDITS]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    let head = head_sent_to(&endpoint);
    assert_eq!(head.matches("x-ran: both").count(), 2, "{head}");
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
}
