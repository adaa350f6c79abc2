//! Responses of Sluice itself, and how responses that cannot be completed end.

use sluice_codec::scripted::{PeerEvent, SentEvent};
use sluice_codec::{ErrorKind, Head, Version};
use sluice_core::{Limits, Reason};
use sluice_upstream::reasons as upstream_reasons;

use super::kit::{
    BODY_TIMEOUT, Bench, Hooks, data, get, is_reset, plan, post, response, tls_facts,
};
use super::{SECOND, timeouts, within};
use crate::filters::{BodyAccess, ResponseBodyStep};
use crate::reasons;
use crate::routes::RuleOptions;

#[test]
fn a_local_response_has_a_body_unless_the_request_is_head() {
    for (method, body) in [("GET", true), ("HEAD", false)] {
        let bench = Bench::new(RuleOptions::default());
        (0..3).for_each(|_| bench.fails_to_connect(upstream_reasons::REFUSED));
        let request = bench.serve(Head::request(method, "http", "app.test", "/"), true);
        request.check(503, upstream_reasons::REFUSED);
        assert_eq!(!request.client.body().is_empty(), body, "{method}");
        assert_eq!(request.ended().sent > 0, body, "{method}");
        let ends = matches!(
            request.client.sent().last(),
            Some(SentEvent::Head(_, true) | SentEvent::Data(_, true))
        );
        assert!(ends, "{method}: it is complete");
    }
}

// --- advertising HTTP/3 ---

/// The `alt-svc` header of a response that an endpoint sent with this header, if any.
fn alt_svc(advertise: bool, version: Version, tls: bool, own: Option<&str>) -> Option<String> {
    let (mut plan, cluster) = plan(RuleOptions::default(), &[], &[]);
    plan.options.advertise_h3 = advertise;
    let bench = Bench::of(Limits::default(), plan, cluster);
    let endpoint = bench.connects(false);
    let mut head = get();
    head.set_version(version);
    let mut request = bench.serve_after(head, true, |conn, _| {
        if tls {
            conn.info.tls.set(tls_facts(None)).unwrap();
        }
    });
    let mut response = Head::response(200);
    if let Some(own) = own {
        response.append(b"alt-svc", own.as_bytes());
    }
    request.after(&endpoint, PeerEvent::Head(response, true));
    request.header("alt-svc")
}

#[test]
fn http3_is_advertised_to_tls_clients_of_other_versions() {
    // As `Debug` shows it.
    let port = "h3=\\\":4711\\\"; ma=86400";
    for version in [Version::Http11, Version::Http2] {
        assert_eq!(alt_svc(true, version, true, None).as_deref(), Some(port));
    }
    assert_eq!(alt_svc(true, Version::Http3, true, None), None, "it uses it already");
    assert_eq!(alt_svc(true, Version::Http11, false, None), None, "HTTP/3 needs TLS");
    assert_eq!(alt_svc(false, Version::Http11, true, None), None);
    // What an endpoint says is about the endpoint.
    assert_eq!(alt_svc(true, Version::Http11, true, Some("clear")).as_deref(), Some(port));
    assert_eq!(alt_svc(false, Version::Http11, true, Some("h3=\":1\"")), None);
}

// --- responses that are cut ---

/// Checks how a request ends that does not get its whole response: because of this event, or because time passes.
#[track_caller]
fn check_cut(
    options: RuleOptions,
    filters: &[Hooks],
    event: Option<PeerEvent>,
    reason: Reason,
    details: &str,
) {
    let bench = Bench::with_filters(options, filters);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", false));
    request.after(&endpoint, response(200, false)).after(&endpoint, data("half", false));
    match event {
        Some(event) => request.after(&endpoint, event),
        None => request.pass(BODY_TIMEOUT + SECOND),
    };
    request.check(200, reason);
    assert_eq!(request.ended().details, details);
    assert!(is_reset(&request.client) && is_reset(&endpoint));
}

#[test]
fn a_response_that_is_cut_says_why() {
    let none = RuleOptions::default;
    let idle = within(timeouts(0, 0, 0, 20));
    check_cut(idle, &[], None, reasons::STREAM_IDLE, "stream_idle_timeout");
    let total = within(timeouts(20, 0, 0, 0));
    check_cut(total, &[], None, reasons::ROUTE_TIMEOUT, "max_duration_timeout");
    check_cut(none(), &[], None, reasons::BODY_TIMEOUT, "request_body_timeout");
    let waits = Hooks {
        access: BodyAccess::Read,
        response_body: |_, _, _| ResponseBodyStep::Wait(Box::pin(std::future::pending())),
        ..Hooks::NONE
    };
    let late = sluice_l4::reasons::FILTER_TIMEOUT;
    check_cut(none(), &[waits], None, late, "filter_timeout");
    let broken = Some(PeerEvent::Fails(ErrorKind::Reset));
    let details = "upstream_reset_after_response_started";
    check_cut(none(), &[], broken, reasons::UPSTREAM_CUT, details);
}
