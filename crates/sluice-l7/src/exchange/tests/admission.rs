//! Everything before a request is forwarded: hygiene, early data, misdirected requests, and the actions of rules.

use std::sync::Arc;

use sluice_codec::Head;
use sluice_codec::scripted::ScriptedPeer;
use sluice_core::Limits;
use sluice_core::value::{HostPattern, parse_name_pattern};
use sluice_io::Conn;
use sluice_l4::{ChainTable, Criteria};

use super::kit::{
    Bench, cluster, connects, get, head_sent_to, header_in, plan, post, response, tls_facts,
};
use crate::client_auth::{ChainsByName, ListenerClientAuth, OwnClientAuth};
use crate::hygiene::{EscapedSlashes, Hygiene, Underscores};
use crate::plan::{HttpOptions, HttpPlan};
use crate::reasons;
use crate::routes::{
    Action, HashBy, PathMatch, PathRewrite, Redirect, RouteCell, RouteTable, Rule, RuleOptions,
    Share, VirtualHost,
};

/// A chain with other options than the usual.
fn bench(change: impl FnOnce(&mut HttpPlan)) -> Bench {
    let (mut plan, cluster) = plan(RuleOptions::default(), &[], &[]);
    change(&mut plan);
    Bench::of(Limits::default(), plan, cluster)
}

fn with_hygiene(hygiene: Hygiene) -> Bench {
    bench(|plan| plan.options = HttpOptions { hygiene, ..plan.options.clone() })
}

fn get_path(path: &str) -> Head {
    Head::request("GET", "http", "app.test", path)
}

// --- hygiene ---

#[test]
fn a_path_is_normalised_before_it_is_routed() {
    let bench = with_hygiene(Hygiene::default());
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get_path("/a/../b/%7ec?d=/../e"), true);
    assert!(head_sent_to(&endpoint).contains("app.test/b/~c?d=/../e\n"));
    request.after(&endpoint, response(200, true));
    assert_eq!(request.ended().original_path, "/a/../b/%7ec?d=/../e");

    let endpoint = bench.connects(false);
    let mut request = bench.serve(get_path("/b"), true);
    request.after(&endpoint, response(200, true));
    assert_eq!(request.ended().original_path, "", "nothing was changed");
}

#[test]
fn a_path_that_cannot_be_normalised_is_refused_or_redirected() {
    let slashes = |escaped_slashes| Hygiene { escaped_slashes, ..Hygiene::default() };
    let bench = with_hygiene(slashes(EscapedSlashes::Reject));
    let request = bench.serve(get_path("/a%2Fb"), true);
    request.check(400, reasons::MALFORMED);
    assert_eq!(request.ended().details, "path_normalization_failed");
    let bench = with_hygiene(slashes(EscapedSlashes::Redirect));
    let request = bench.serve(get_path("/a%2Fb?c"), true);
    request.check(307, reasons::LOCAL);
    assert_eq!(request.header("location").as_deref(), Some("/a/b?c"));
}

#[test]
fn headers_with_underscores_are_kept_or_dropped_or_refused() {
    let request = |name: &[u8]| {
        let mut head = get();
        head.append(name, b"1");
        head.append(b"x-other", b"2");
        head
    };
    for (underscores, kept) in
        [(Underscores::Keep, Some("1")), (Underscores::Drop, None), (Underscores::Reject, None)]
    {
        let bench = with_hygiene(Hygiene { underscores, ..Hygiene::default() });
        let with = bench.connects(false);
        let served = bench.serve(request(b"x_some"), true);
        if underscores == Underscores::Reject {
            served.check(400, reasons::MALFORMED);
            assert_eq!(served.ended().details, "header_with_underscore");
            bench.pool.scripted.borrow_mut().clear();
        } else {
            let sent = head_sent_to(&with);
            assert_eq!(header_in(&sent, "x_some").as_deref(), kept);
            assert_eq!(header_in(&sent, "x-other").as_deref(), Some("2"));
        }
        let without = bench.connects(false);
        let _served = bench.serve(request(b"x-some"), true);
        assert_eq!(header_in(&head_sent_to(&without), "x-some").as_deref(), Some("1"));
    }
}

// --- early data ---

#[test]
fn only_safe_requests_are_served_from_early_data() {
    let early = |_: &Conn, client: &ScriptedPeer| client.is_early();
    let bench = Bench::new(RuleOptions::default());
    bench.serve_after(post(), true, early).check(425, reasons::TOO_EARLY);
    let endpoint = bench.connects(false);
    let _safe = bench.serve_after(get(), true, early);
    assert_eq!(header_in(&head_sent_to(&endpoint), "early-data").as_deref(), Some("1"));
    for head in [post(), get()] {
        let endpoint = bench.connects(false);
        let _late = bench.serve(head, true);
        assert_eq!(header_in(&head_sent_to(&endpoint), "early-data"), None);
    }
}

// --- misdirected requests ---

/// A listener with chains for `a.test`, `b.test` and every other name, which all ask for other certificates; the
/// connection belongs to the first.
fn client_auth() -> OwnClientAuth {
    let criteria = |names: &[&str]| Criteria {
        names: names.iter().map(|name| parse_name_pattern(name).unwrap()).collect(),
        ..Criteria::default()
    };
    let table = ChainTable::build(&[criteria(&["a.test"]), criteria(&["b.test"]), criteria(&[])]);
    let tcp = ChainsByName { table: table.unwrap(), requirements: vec![0, 1, 2] };
    let listener = Arc::new(ListenerClientAuth { tcp, quic: None });
    OwnClientAuth { listener, own: 0 }
}

#[test]
fn a_request_for_a_host_with_other_client_certificates_is_refused() {
    let tls = |conn: &Conn, _: &ScriptedPeer| conn.info.tls.set(tls_facts(None)).unwrap();
    let mut websocket = Head::request("CONNECT", "https", "other.test", "/");
    websocket.set_upgrade(b"websocket");
    let bench = bench(|plan| plan.client_auth = Some(client_auth()));
    for (head, misdirected) in [
        (Head::request("GET", "https", "a.test", "/"), false),
        (Head::request("GET", "https", "b.test", "/"), true),
        (Head::request("GET", "https", "other.test", "/"), true),
        // The target of a tunnel is a host of this listener only if a chain names it.
        (Head::request("CONNECT", "https", "b.test:443", ""), true),
        (Head::request("CONNECT", "https", "other.test:443", ""), false),
        // That of a WebSocket over HTTP/2 is not the target of a tunnel.
        (websocket, true),
    ] {
        let shown = format!("{head:?}");
        let _endpoint = bench.connects(false);
        let request = bench.serve_after(head, true, tls);
        if misdirected {
            request.check(421, reasons::MISDIRECTED);
        } else {
            assert!(!request.statuses().contains(&421), "{shown}");
        }
        bench.pool.scripted.borrow_mut().clear();
    }
    // The connection is to no name at all without TLS, and every host is the same without chains.
    let endpoint = bench.connects(false);
    let _request = bench.serve(Head::request("GET", "http", "b.test", "/"), true);
    assert!(!endpoint.sent().is_empty());
}

// --- actions ---

fn rule(path: PathMatch, action: Action) -> Rule {
    Rule {
        name: "rule".into(),
        path,
        conditions: None,
        action,
        options: Arc::default(),
        overrides: 0,
    }
}

/// A chain with this rule alone.
fn with_rule(rule: Rule, clusters: Vec<Arc<sluice_upstream::Cluster>>) -> Bench {
    bench(|plan| {
        let host = VirtualHost::new(vec![HostPattern::Any], vec![rule]);
        let table = RouteTable::build(vec![host], clusters, Arc::default(), Vec::new()).unwrap();
        plan.routes = Arc::new(RouteCell::new("main".into(), Arc::new(table)));
    })
}

/// How often each cluster of a split with these weights gets one of 100 requests.
fn split(weights: &[u64]) -> Vec<usize> {
    split_of(weights, RuleOptions::default(), |_| get())
}

/// The same with these options of the rule, for these requests.
fn split_of(weights: &[u64], options: RuleOptions, request: impl Fn(usize) -> Head) -> Vec<usize> {
    let clusters: Vec<_> = (0..weights.len()).map(|n| cluster(&format!("c{n}"))).collect();
    let share = |(cluster, weight): (usize, &u64)| Share {
        cluster: u32::try_from(cluster).unwrap(),
        weight: *weight,
        runtime: None,
        endpoint: None,
    };
    let shares: Vec<Share> = weights.iter().enumerate().map(share).collect();
    let of_split = rule(PathMatch::Any, Action::Split(Box::new(shares)));
    let bench = with_rule(Rule { options: Arc::new(options), ..of_split }, clusters.clone());
    let pools: Vec<_> = clusters.iter().map(|cluster| bench.pool_of(cluster)).collect();
    let mut counts = vec![0; weights.len()];
    for number in 0..100 {
        let endpoints: Vec<_> = pools.iter().map(|pool| connects(pool, false)).collect();
        let _request = bench.serve(request(number), true);
        for (count, endpoint) in counts.iter_mut().zip(&endpoints) {
            *count += usize::from(!endpoint.sent().is_empty());
        }
        pools.iter().for_each(|pool| pool.scripted.borrow_mut().clear());
    }
    assert_eq!(counts.iter().sum::<usize>(), 100);
    counts
}

#[test]
fn a_split_follows_the_weights() {
    assert_eq!(split(&[7]), [100]);
    assert_eq!(split(&[1, 0, 0]), [100, 0, 0]);
    assert_eq!(split(&[0, 1, 0]), [0, 100, 0]);
    assert_eq!(split(&[0, 0, 3]), [0, 0, 100]);
    assert_eq!(split(&[0, 0]), [100, 0], "without any weight the first one gets all");
    assert!(split(&[1, 1]).iter().all(|count| *count > 0));
    let most = split(&[1, u64::MAX, 1]);
    assert_eq!(most[1], 100, "{most:?}");
}

#[test]
fn a_split_sends_requests_with_the_same_hash_to_the_same_cluster() {
    let by_user = || {
        let hash = vec![HashBy::Header("x-user".into())];
        RuleOptions { hash, ..RuleOptions::default() }
    };
    let of_user = |user: usize| {
        let mut head = get();
        head.append(b"x-user", user.to_string().as_bytes());
        head
    };
    for user in 0..8 {
        let counts = split_of(&[1, 1], by_user(), |_| of_user(user));
        assert!(counts.contains(&100), "{user}: {counts:?}");
    }
    let of_users = split_of(&[50, 50], by_user(), of_user);
    assert!(of_users.iter().all(|count| (25..=75).contains(count)), "{of_users:?}");
    let with_no_hash = split_of(&[1, 1], by_user(), |_| get());
    assert!(with_no_hash.iter().all(|count| *count > 0), "{with_no_hash:?}");
}

/// Checks the `location` of a request for this scheme, authority and path.
#[track_caller]
fn check_location(matched: PathMatch, redirect: Redirect, request: [&str; 3], expected: &str) {
    let [scheme, authority, path] = request;
    let action = Action::Redirect(Box::new(Redirect { status: 308, ..redirect }));
    let bench = with_rule(rule(matched, action), Vec::new());
    let head = Head::request("GET", scheme, authority, path);
    let request = bench.serve_after(head, true, |conn, _| {
        if scheme == "https" {
            conn.info.tls.set(tls_facts(None)).unwrap();
        }
    });
    request.check(308, reasons::LOCAL);
    assert_eq!(request.header("location").as_deref(), Some(expected));
}

#[test]
fn a_redirect_changes_what_the_rule_says_and_keeps_the_rest() {
    let check = |redirect: Redirect, request: [&str; 3], expected: &str| {
        check_location(PathMatch::Any, redirect, request, expected);
    };
    let unchanged = Redirect::default;
    let request = ["http", "app.test:8080", "/a?b=c"];
    check(unchanged(), request, "http://app.test:8080/a?b=c");
    // The usual port of the scheme is left out, also if the client named it.
    check(unchanged(), ["http", "app.test:80", "/"], "http://app.test/");
    check(unchanged(), ["https", "app.test:443", "/"], "https://app.test/");
    check(unchanged(), ["https", "app.test:80", "/"], "https://app.test:80/");
    check(unchanged(), ["http", "[2001:db8::1]:443", "/"], "http://[2001:db8::1]:443/");
    // Another scheme has another default port.
    let secure = || Redirect { scheme: Some("https".into()), ..Redirect::default() };
    check(secure(), request, "https://app.test/a?b=c");
    check(Redirect { port: Some(8443), ..secure() }, request, "https://app.test:8443/a?b=c");
    check(Redirect { port: Some(443), ..secure() }, request, "https://app.test/a?b=c");
    check(Redirect { port: Some(80), ..unchanged() }, request, "http://app.test/a?b=c");
    let host = Redirect { host: Some("new.test".into()), ..Redirect::default() };
    check(host, request, "http://new.test/a?b=c");
    let strip = || Redirect { strip_query: true, ..Redirect::default() };
    check(strip(), request, "http://app.test:8080/a");
    let whole = |path: &str| Some(PathRewrite::Whole(path.into()));
    check(Redirect { path: whole("/x"), ..unchanged() }, request, "http://app.test:8080/x?b=c");
    // A new query replaces the old one, and stays if that is stripped.
    let query = || whole("/x?y");
    check(Redirect { path: query(), ..unchanged() }, request, "http://app.test:8080/x?y");
    check(Redirect { path: query(), ..strip() }, request, "http://app.test:8080/x?y");
}

#[test]
fn a_request_without_a_host_is_redirected_only_to_another() {
    let https = |host: Option<&str>| {
        let (scheme, host) = (Some("https".into()), host.map(str::to_owned));
        Redirect { scheme, host, ..Redirect::default() }
    };
    check_location(PathMatch::Any, https(Some("b.test")), ["http", "", "/a"], "https://b.test/a");
    let action = Action::Redirect(Box::new(Redirect { status: 308, ..https(None) }));
    let bench = with_rule(rule(PathMatch::Any, action), Vec::new());
    for authority in ["", ":80"] {
        let request = bench.serve(Head::request("GET", "http", authority, "/a"), true);
        request.check(400, reasons::MALFORMED);
        assert_eq!(request.ended().details, "missing_host");
    }
}

#[test]
fn a_prefix_is_replaced_by_another_and_slashes_neither_double_nor_vanish() {
    let check = |matched: &str, prefix: &str, path: &str, expected: &str| {
        let path_rewrite = Some(PathRewrite::Prefix(prefix.into()));
        let redirect = Redirect { path: path_rewrite, ..Redirect::default() };
        let expected = format!("http://app.test{expected}");
        let matched = PathMatch::StartsWith(matched.into());
        check_location(matched, redirect, ["http", "app.test", path], &expected);
    };
    check("/old", "/new", "/old/x", "/new/x");
    check("/old", "/new", "/old", "/new");
    check("/old", "/new/", "/old/x", "/new/x");
    check("/old/", "/new/", "/old/x", "/new/x");
    check("/old", "/", "/old/x", "/x");
    check("/old", "", "/old/x", "/x");
    check("/old", "", "/old", "/");
    check("/old/", "new", "/old/x?q", "/newx?q");
}

#[test]
fn a_rewritten_path_may_not_leave_its_folder() {
    let path = Some(PathRewrite::Prefix("/new/".into()));
    let redirect = Redirect { status: 308, path, ..Redirect::default() };
    let action = Action::Redirect(Box::new(redirect));
    let bench = with_rule(rule(PathMatch::StartsWith("/o".into()), action), Vec::new());
    let request = bench.serve(get_path("/o../secret"), true);
    request.check(400, reasons::MALFORMED);
    assert_eq!(request.ended().details, "path_rewrite_failed");
}
