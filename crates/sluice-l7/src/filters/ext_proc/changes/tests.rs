//! Which changes are made.
use sluice_core::settings::{Plain, Setting as _};

use super::*;
use crate::filters::ext_authz::messages::{HeaderValueMessage, HeaderValueOption};

fn pattern(text: &str) -> Option<WholeRegex> {
    Some(WholeRegex::of(text).unwrap())
}

fn set_to(name: &str, value: &str, append_action: i32) -> HeaderValueOption {
    let header = HeaderValueMessage {
        key: name.into(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec().into(),
    };
    HeaderValueOption { header: Some(header), append: None, append_action }
}

/// Whether a header may be set under these rules.
#[track_caller]
fn check(allowed: AllowedChanges, of: ChangedHead, name: &str, value: &str, expected: bool) {
    let mut head = match of {
        ChangedHead::Request => Head::request("GET", "http", "a.test", "/"),
        ChangedHead::Response | ChangedHead::Trailers => Head::response(200),
    };
    let mutation =
        HeaderMutation { set_headers: vec![set_to(name, value, 2)], remove_headers: Vec::new() };
    let changed = HeaderChanges::new(allowed).apply(mutation, &mut head, of).unwrap();
    let counts = if expected { (1, 0) } else { (0, 1) };
    assert_eq!((changed.made, changed.ignored), counts, "{name}: {value}");
}

#[test]
fn what_frames_or_routes_a_message_is_not_changed_by_default() {
    use ChangedHead::{Request, Response, Trailers};
    for (of, name, value, expected) in [
        (Request, "x-user", "ann", true),
        (Request, "X-User", "ann", true),
        (Request, ":path", "/b?c=d", true),
        (Request, ":path", "b", false),
        (Request, ":path", "/a b", false),
        (Request, "host", "b.test", false),
        (Request, ":authority", "b.test", false),
        (Request, ":method", "POST", false),
        (Request, ":scheme", "https", false),
        (Request, ":status", "201", false),
        (Request, "x-envoy-retry-on", "5xx", false),
        (Request, "content-length", "5", false),
        (Request, "transfer-encoding", "chunked", false),
        (Request, "connection", "close", false),
        (Request, "te", "trailers", false),
        (Request, "x-sluice-hops", "1", false),
        (Request, "x y", "1", false),
        (Request, "", "1", false),
        (Request, "x-user", "a\r\nb: c", false),
        (Response, ":status", "201", true),
        (Response, ":status", "99", false),
        (Response, ":status", "204", false),
        (Response, ":status", "600", false),
        (Response, ":path", "/b", false),
        (Response, "content-type", "text/html", true),
        (Trailers, "x-sum", "1", true),
        (Trailers, ":status", "201", false),
        (Trailers, "content-length", "1", false),
    ] {
        check(AllowedChanges::usual(), of, name, value, expected);
    }
}

#[test]
fn rules_widen_and_narrow_what_may_change() {
    use ChangedHead::Request;
    let usual = AllowedChanges::usual;
    let routing = || AllowedChanges { routing: true, ..usual() };
    check(routing(), Request, "host", "b.test", true);
    check(routing(), Request, ":authority", "b.test:8080", true);
    check(routing(), Request, ":method", "POST", true);
    check(routing(), Request, ":method", "CONNECT", false);
    check(routing(), Request, ":method", "P T", false);
    check(AllowedChanges { envoy: true, ..usual() }, Request, "x-envoy-retry-on", "5xx", true);
    check(AllowedChanges { system: false, ..usual() }, Request, ":path", "/b", false);
    let none = || AllowedChanges { others: false, allow: pattern("x-shop-.*"), ..usual() };
    check(none(), Request, "x-user", "1", false);
    check(none(), Request, "x-shop-user", "1", true);
    check(none(), Request, "my-x-shop-user", "1", false);
    let denied = || AllowedChanges { allow: pattern("x-.*"), deny: pattern("x-user"), ..usual() };
    check(denied(), Request, "x-user", "1", false);
    check(denied(), Request, "x-users", "1", true);
    // What is allowed still frames no message.
    let all = AllowedChanges { routing: true, allow: pattern(".*"), ..usual() };
    check(all, Request, "content-length", "1", false);
}

#[test]
fn headers_are_removed_added_and_replaced() {
    let head = || {
        let mut head = Head::request("GET", "http", "a.test", "/");
        head.append(b"x-a", b"1");
        head
    };
    let changes = HeaderChanges::new(AllowedChanges::usual());
    for (action, there, absent) in [(0, "1,2", "2"), (1, "1", "2"), (2, "2", "2"), (3, "2", "")] {
        for (name, expected) in [("x-a", there), ("x-b", absent)] {
            let mut head = head();
            let mutation = HeaderMutation {
                set_headers: vec![set_to(name, "2", action)],
                remove_headers: Vec::new(),
            };
            changes.apply(mutation, &mut head, ChangedHead::Request).unwrap();
            let values: Vec<&[u8]> = head.values(name.as_bytes()).collect();
            assert_eq!(values.join(&b","[..]), expected.as_bytes(), "{name} {action}");
        }
    }
    let mut removed = head();
    let names = ["X-A", "host", ":path", "content-length"].map(str::to_owned);
    let mutation = HeaderMutation { set_headers: Vec::new(), remove_headers: names.into() };
    let changed = changes.apply(mutation, &mut removed, ChangedHead::Request);
    assert_eq!(changed, Ok(Changed { made: 1, ignored: 3 }));
    assert!(removed.is_empty());
}

#[test]
fn strict_rules_make_a_forbidden_change_a_failure() {
    let strict = HeaderChanges::new(AllowedChanges { strict: true, ..AllowedChanges::usual() });
    let mutation = HeaderMutation { remove_headers: vec!["host".into()], ..Default::default() };
    let mut head = Head::request("GET", "http", "a.test", "/");
    let changed = strict.apply(mutation, &mut head, ChangedHead::Request);
    assert_eq!(changed, Err("it may not change the header \"host\"".into()));
}

#[test]
fn patterns_are_shown_as_written() {
    assert_eq!(pattern("x-.*").unwrap().show(), Plain::Text("x-.*".into()));
}
