//! The headers that an endpoint is sent, the count of hops, and which time-out ended the wait for a response.

use sluice_codec::Head;
use sluice_codec::scripted::{ScriptedPeer, SentEvent};
use sluice_core::connection::Peer;
use sluice_io::Conn;
use sluice_upstream::hops::{HopTransport, ListenerGuard};
use sluice_upstream::reasons as upstream_reasons;

use super::kit::{Bench, Hooks, data, get, head_sent_to, header_in, post, response};
use super::{SECOND, timeouts, within};
use crate::filters::BodyAccess;
use crate::reasons;
use crate::routes::{HostRewrite, RuleOptions};

// --- headers ---

#[test]
fn the_host_may_become_that_of_the_endpoint() {
    for (host, shown) in
        [(HostRewrite::Keep, "GET app.test/"), (HostRewrite::Endpoint, "GET 192.0.2.")]
    {
        let bench = Bench::new(RuleOptions { host, ..RuleOptions::default() });
        let endpoint = bench.connects(false);
        let _request = bench.serve(get(), true);
        assert!(head_sent_to(&endpoint).starts_with(shown), "{}", head_sent_to(&endpoint));
    }
}

#[test]
fn the_headers_end_the_request_unless_something_may_follow() {
    let connect = || Head::request("CONNECT", "http", "db.test:5432", "");
    let mut upgrade = get();
    upgrade.set_upgrade(b"chat");
    for (head, whole, ends) in [
        (get(), true, true),
        (post(), true, true),
        (post(), false, false),
        (connect(), true, false),
        (upgrade, true, false),
    ] {
        let upgrades = vec!["chat".into()];
        let bench = Bench::new(RuleOptions { connect: true, upgrades, ..RuleOptions::default() });
        let endpoint = bench.connects(false);
        let _request = bench.serve(head, whole);
        let sent = &endpoint.sent()[0];
        assert!(matches!(sent, SentEvent::Head(_, end) if *end == ends), "{sent:?}");
    }
}

#[test]
fn a_request_that_is_complete_expects_nothing() {
    for (whole, kept) in [(true, None), (false, Some("100-continue"))] {
        let bench = Bench::new(RuleOptions::default());
        let endpoint = bench.connects(false);
        let mut head = post();
        head.append(b"expect", b"100-continue");
        let _request = bench.serve(head, whole);
        assert_eq!(header_in(&head_sent_to(&endpoint), "expect").as_deref(), kept);
    }
}

#[test]
fn a_body_that_filters_may_change_has_no_stated_length() {
    for (access, kept) in
        [(BodyAccess::None, Some("1")), (BodyAccess::Read, Some("1")), (BodyAccess::Edit, None)]
    {
        let filter = Hooks { access, ..Hooks::NONE };
        let bench = Bench::with_filters(RuleOptions::default(), &[filter]);
        let endpoint = bench.connects(false);
        let mut head = post();
        head.append(b"content-length", b"1");
        let mut request = bench.serve(head, false);
        request.client_does(data("x", true));
        let sent = head_sent_to(&endpoint);
        assert_eq!(header_in(&sent, "content-length").as_deref(), kept, "{access:?}");
    }
}

// --- hops ---

/// Makes the endpoints listeners of this process.
fn endpoints_are_ours(bench: &Bench) -> Vec<ListenerGuard> {
    let members = bench.cluster.members();
    let guards = members.endpoints.iter().map(|endpoint| {
        let sluice_upstream::Target::Ip(address) = endpoint.target else {
            panic!("the endpoints of the kit have addresses")
        };
        let guard = ListenerGuard::on(HopTransport::Stream, address);
        endpoint.note_local(HopTransport::Stream, || Some(address.ip()));
        assert!(endpoint.is_ours());
        guard
    });
    guards.collect()
}

fn with_hops(count: &str) -> Head {
    let mut head = get();
    head.append(b"x-sluice-hops", count.as_bytes());
    head
}

#[test]
fn hops_are_counted_on_the_way_to_listeners_of_this_process() {
    let bench = Bench::new(RuleOptions::default());
    let _ours = endpoints_are_ours(&bench);
    for (head, sent) in [(get(), "1"), (with_hops("1"), "2"), (with_hops("7"), "8")] {
        let endpoint = bench.connects(false);
        let _request = bench.serve(head, true);
        assert_eq!(header_in(&head_sent_to(&endpoint), "x-sluice-hops").as_deref(), Some(sent));
    }
    let endpoint = bench.connects(false);
    let request = bench.serve(with_hops("8"), true);
    request.check(508, upstream_reasons::LOOP);
    request.check_attempts(&[Some(upstream_reasons::LOOP)]);
    assert!(!endpoint.sent().iter().any(|sent| matches!(sent, SentEvent::Head(..))));
}

#[test]
fn the_count_of_this_process_does_not_leave_it() {
    let bench = Bench::new(RuleOptions::default());
    let hops_of = |prepare: fn(&Conn, &ScriptedPeer)| {
        let endpoint = bench.connects(false);
        let _request = bench.serve_after(with_hops("3"), true, prepare);
        header_in(&head_sent_to(&endpoint), "x-sluice-hops")
    };
    // The client of the kit has the address of the listener.
    assert_eq!(hops_of(|_, _| {}), None);
    // That of another host may be its own, and says nothing here.
    let proxied = hops_of(|conn, _| {
        let (source, destination) = ([203, 0, 113, 9], [203, 0, 113, 1]);
        let ends = (Peer::Ip((source, 1).into()), Peer::Ip((destination, 2).into()));
        conn.info.proxied.set(Box::new(ends)).unwrap();
    });
    assert_eq!(proxied.as_deref(), Some("3"));
}

#[test]
fn a_retry_elsewhere_is_not_sent_the_count_for_the_first_endpoint() {
    let bench = Bench::new(RuleOptions::default());
    let ours = endpoints_are_ours(&bench);
    let (stale, fresh) = (bench.connects(true), bench.connects(false));
    let mut request = bench.serve(get(), true);
    assert_eq!(header_in(&head_sent_to(&stale), "x-sluice-hops").as_deref(), Some("1"));
    drop(ours);
    for endpoint in bench.cluster.members().endpoints.iter() {
        endpoint.note_local(HopTransport::Stream, || None);
    }
    let gone = sluice_codec::ErrorKind::Finished;
    request.after(&stale, sluice_codec::scripted::PeerEvent::Fails(gone));
    assert_eq!(header_in(&head_sent_to(&fresh), "x-sluice-hops"), None);
    request.after(&fresh, response(200, true)).check(200, reasons::VIA_UPSTREAM);
}

// --- time-outs ---

/// Checks which time-out the record names if an endpoint does not respond.
#[track_caller]
fn check_late(total: u64, response: u64, head: Head, named: &str) {
    let bench = Bench::new(within(timeouts(total, response, 0, 0)));
    let _endpoint = bench.connects(false);
    let mut request = bench.serve(head, true);
    request.pass(SECOND * 100);
    let detail = request.ended().detail.clone().unwrap_or_default();
    assert!(detail.contains(&format!("`{named}`")), "{detail}");
}

#[test]
fn the_record_names_the_timeout_that_was_the_first() {
    check_late(10, 0, get(), "timeout.total");
    check_late(0, 10, get(), "timeout.response");
    check_late(20, 10, get(), "timeout.response");
    check_late(10, 20, get(), "timeout.total");
    check_late(10, 10, get(), "timeout.total");
    let mut grpc = post();
    grpc.append(b"content-type", b"application/grpc");
    grpc.append(b"grpc-timeout", b"5S");
    check_late(10, 20, grpc.clone(), "grpc-timeout");
    check_late(4, 20, grpc.clone(), "timeout.total");
    check_late(10, 4, grpc, "timeout.response");
}

#[test]
fn nobody_waits_for_a_connection_longer_than_for_the_response() {
    let bench = Bench::new(within(timeouts(10, 0, 0, 0)));
    bench.never_connects();
    let mut request = bench.serve(get(), true);
    assert!(request.pass(SECOND * 9).is_waiting());
    request.pass(SECOND * 2).check(504, reasons::ROUTE_TIMEOUT);
    // The client leaves meanwhile.
    bench.never_connects();
    let mut request = bench.serve(get(), true);
    request.client.goes();
    request.go_on();
    assert!(!request.is_waiting() && request.statuses().is_empty());
}
