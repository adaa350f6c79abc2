//! gRPC calls of filters: one message or several, errors of every kind, bounds.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_codec::{ErrorKind, Head};
use sluice_core::limits::Limit;
use sluice_core::{Limits, Moment, Reason};
use sluice_upstream::Cluster;
use sluice_upstream::plan::HttpVersion;
use sluice_upstream::reasons as upstream_reasons;

use super::kit::{Bench, Hooks, Running, cluster_over, connects, get, is_reset, opens, response};
use crate::attempts::Departure;
use crate::filters::{Cx, HeadStep};
use crate::pools::scripted::ScriptedConnect;
use crate::reasons;
use crate::reply::Reply;
use crate::routes::RuleOptions;
use crate::side_calls::{GrpcCallError, GrpcStream};

/// The message of the test's service, both ways.
#[derive(Clone, PartialEq, prost::Message)]
struct Word {
    #[prost(string, tag = "1")]
    text: String,
}

thread_local! {
    /// The cluster that the filter asks.
    static AUTH: RefCell<Option<Arc<Cluster>>> = RefCell::default();
}

fn auth() -> Arc<Cluster> {
    AUTH.with_borrow(Clone::clone).unwrap()
}

fn word(text: &str) -> Word {
    Word { text: text.to_owned() }
}

/// Answers with what was returned, or with the reason of the error.
fn answer(returned: Result<String, GrpcCallError>) -> HeadStep {
    HeadStep::reply(match returned {
        Ok(text) => Reply::new(200, reasons::LOCAL, "said", text),
        Err(error) => Reply::new(503, error.why(), "failed", ""),
    })
}

/// Asks with one message for one.
fn asks(cx: &mut Cx<'_>, _: &mut Head) -> HeadStep {
    let called = cx.side_calls().call_grpc(&auth(), "/t.S/Say", &word("who?"), Moment::NEVER);
    HeadStep::wait(async move {
        let returned = called.await.map(|word: Word| word.text);
        move |_: &mut Cx<'_>, _: &mut Head| answer(returned)
    })
}

/// Sends two messages and takes all that come back.
fn chats(cx: &mut Cx<'_>, _: &mut Head) -> HeadStep {
    let opened = cx.side_calls().open_grpc(&auth(), "/t.S/Chat", Moment::NEVER);
    HeadStep::wait(async move {
        let chat = async {
            let mut stream: GrpcStream<Word, Word> = opened.await?;
            stream.send(&word("a")).await?;
            stream.send(&word("b")).await?;
            stream.finish().await?;
            let mut all = String::new();
            while let Some(word) = stream.message().await? {
                all.push_str(&word.text);
            }
            assert_eq!(stream.message().await, Ok(None), "the end stays");
            Ok(all)
        };
        let returned = chat.await;
        move |_: &mut Cx<'_>, _: &mut Head| answer(returned)
    })
}

const ASKS: Hooks = Hooks { request: asks, ..Hooks::NONE };
const CHATS: Hooks = Hooks { request: chats, ..Hooks::NONE };

fn bench(filter: Hooks) -> Bench {
    with(filter, HttpVersion::Http2, &[])
}

fn with(filter: Hooks, protocol: HttpVersion, set: &[(Limit, u64)]) -> Bench {
    AUTH.set(Some(cluster_over("auth", protocol)));
    let mut limits = Limits::default();
    set.iter().for_each(|(limit, value)| limits.set(*limit, *value).unwrap());
    Bench::with_limits(limits, RuleOptions::default(), &[filter])
}

/// A piece of a body.
fn piece(bytes: &[u8]) -> PeerEvent {
    PeerEvent::Data(Bytes::copy_from_slice(bytes), false)
}

/// A message in its frame.
fn said(text: &str) -> Vec<u8> {
    let message = prost::Message::encode_to_vec(&word(text));
    sluice_codec::grpc::frame(&message).unwrap().to_vec()
}

fn trailers(status: &str, text: &str) -> PeerEvent {
    let mut trailers = Head::default();
    trailers.append(b"grpc-status", status.as_bytes());
    trailers.append(b"grpc-message", text.as_bytes());
    PeerEvent::Trailers(trailers)
}

fn recorded(request: &Running<'_>) -> String {
    let calls = request.ended().side_calls.iter().map(ToString::to_string);
    calls.collect::<Vec<_>>().join(", ")
}

/// Lets the service do these things, and expects this end of the call.
#[track_caller]
fn check(filter: Hooks, events: Vec<PeerEvent>, why: Option<Reason>, call: &str) -> ScriptedPeer {
    let bench = with(filter, HttpVersion::Http2, &[(Limit::SideCallBytes, 1024)]);
    let service = opens(&bench.pool_of(&auth()));
    let mut request = bench.serve(get(), true);
    for event in events {
        request.after(&service, event);
    }
    match why {
        None => request.check(200, reasons::LOCAL),
        Some(why) => request.check(503, why),
    }
    // Either endpoint may have been picked.
    let found = recorded(&request).replace("192.0.2.2", "192.0.2.1");
    assert_eq!(found, format!("auth {call}"));
    assert_eq!(bench.worker.buffers.bytes_out(), 0);
    service
}

#[test]
fn a_method_takes_a_message_and_returns_one() {
    let bench = bench(ASKS);
    let service = opens(&bench.pool_of(&auth()));
    let mut request = bench.serve(get(), true);
    let SentEvent::Head(head, false) = service.sent()[0].clone() else { panic!("no head") };
    for part in [
        "POST",
        "/t.S/Say",
        "content-type: application/grpc",
        "te: trailers",
        "grpc-timeout: 9900000u",
        "192.0.2.",
    ] {
        assert!(head.contains(part), "{head}");
    }
    assert!(!head.contains("content-length"), "{head}");
    assert_eq!(service.body(), said("who?"));
    request.after(&service, response(200, false));
    for byte in said("ann") {
        request.after(&service, piece(&[byte]));
        assert!(request.is_waiting());
    }
    request.after(&service, trailers("0", "")).check(200, reasons::LOCAL);
    assert_eq!(request.client.body(), b"ann");
    assert_eq!(recorded(&request), "auth 200 in 0 ms");
    assert!(!is_reset(&service));
}

#[test]
fn an_error_of_the_service_is_an_error_of_the_call() {
    let malformed = Some(reasons::SIDE_CALL_MALFORMED);
    let status = Some(reasons::SIDE_CALL_STATUS);
    for filter in [ASKS, CHATS] {
        let after_head = |events: Vec<PeerEvent>, why, call: &str| {
            check(filter, [vec![response(200, false)], events].concat(), why, call);
        };
        after_head(
            vec![piece(&said("x")), trailers("7", "not%20you")],
            status,
            "failed in 0 ms: sidecall.grpc_status: gRPC status 7 PERMISSION_DENIED: not you",
        );
        after_head(
            vec![piece(&said("x")), PeerEvent::End],
            status,
            "failed in 0 ms: sidecall.grpc_status: gRPC status 2 UNKNOWN: HTTP status 200 and no gRPC status",
        );
        after_head(
            vec![piece(&said("x")[..3]), trailers("0", "")],
            malformed,
            "failed in 0 ms: sidecall.malformed: the body ended within a message",
        );
        after_head(
            vec![piece(b"\0\0\0\0\x02\x0a\x05"), trailers("0", "")],
            malformed,
            "failed in 0 ms: sidecall.malformed: a message is not valid protobuf of its type",
        );
        after_head(
            vec![piece(b"\x01\0\0\0\0"), trailers("0", "")],
            malformed,
            "failed in 0 ms: sidecall.malformed: a message is compressed, although none was asked for",
        );
        let mut only = Head::response(200);
        only.append(b"grpc-status", b"14");
        check(
            filter,
            vec![PeerEvent::Head(only, true)],
            status,
            "failed in 0 ms: sidecall.grpc_status: gRPC status 14 UNAVAILABLE",
        );
        check(
            filter,
            vec![response(100, false), response(404, true)],
            status,
            "failed in 0 ms: sidecall.grpc_status: gRPC status 12 UNIMPLEMENTED: HTTP status 404 and no gRPC status",
        );
        let failed = check(
            filter,
            vec![PeerEvent::Fails(ErrorKind::Reset)],
            Some(upstream_reasons::RESET),
            "failed in 0 ms: upstream.reset: 192.0.2.1:80: as scripted",
        );
        assert!(is_reset(&failed));
    }
}

#[test]
fn a_method_that_returns_one_message_returns_neither_none_nor_two() {
    let ok = || trailers("0", "");
    check(
        ASKS,
        vec![response(200, false), ok()],
        Some(reasons::SIDE_CALL_MALFORMED),
        "failed in 0 ms: sidecall.malformed: the status is OK, and there is no message",
    );
    check(
        ASKS,
        vec![response(200, false), piece(&said("a")), piece(&said("b")), ok()],
        Some(reasons::SIDE_CALL_MALFORMED),
        "failed in 0 ms: sidecall.malformed: there are several messages instead of one",
    );
}

#[test]
fn messages_go_both_ways_in_order() {
    let bench = bench(CHATS);
    let service = opens(&bench.pool_of(&auth()));
    let mut request = bench.serve(get(), true);
    assert_eq!(service.body(), [said("a"), said("b")].concat());
    assert!(matches!(service.sent()[..], [_, _, _, SentEvent::End(false)]));
    request.after(&service, response(200, false));
    let all = [said("x"), said("y"), said("")].concat();
    request.after(&service, piece(&all[..9])).after(&service, piece(&all[9..]));
    assert!(request.is_waiting());
    request.after(&service, trailers("0", "")).check(200, reasons::LOCAL);
    assert_eq!(request.client.body(), b"xy");
    assert_eq!(recorded(&request), "auth 200 in 0 ms");
    assert!(!is_reset(&service));
}

#[test]
fn a_service_that_does_not_read_holds_up_what_is_sent() {
    let bench = bench(CHATS);
    let service = opens(&bench.pool_of(&auth()));
    service.reads(false);
    let mut request = bench.serve(get(), true);
    assert!(service.body().is_empty() && request.is_waiting());
    service.reads(true);
    request.go_on();
    assert_eq!(service.body(), [said("a"), said("b")].concat());
    request.after(&service, response(200, false)).after(&service, trailers("0", ""));
    request.check(200, reasons::LOCAL);
}

#[test]
fn a_message_that_is_too_large_ends_the_call_before_it_is_received() {
    let events = vec![response(200, false), piece(b"\0\0\0\x04\x01")];
    let service = check(
        CHATS,
        events,
        Some(reasons::SIDE_CALL_TOO_LARGE),
        "failed in 0 ms: sidecall.too_large: a message of 1025 bytes, and 1024 are accepted",
    );
    assert!(is_reset(&service));
    let mut events = vec![response(200, false)];
    events.extend([(); 9].map(|()| piece(&[0; 128])));
    let bench = with(ASKS, HttpVersion::Http2, &[(Limit::SideCallBytes, 1024)]);
    let service = opens(&bench.pool_of(&auth()));
    let mut request = bench.serve(get(), true);
    for event in events {
        request.after(&service, event);
    }
    request.check(503, reasons::SIDE_CALL_TOO_LARGE);
}

#[test]
fn grpc_needs_http2() {
    for filter in [ASKS, CHATS] {
        for protocol in [HttpVersion::Http1, HttpVersion::Http3, HttpVersion::Auto] {
            let bench = with(filter, protocol, &[]);
            // An endpoint that chooses HTTP/1.
            let _service =
                (protocol == HttpVersion::Auto).then(|| connects(&bench.pool_of(&auth()), false));
            let request = bench.serve(get(), true);
            request.check(503, reasons::SIDE_CALL_PROTOCOL);
            assert!(recorded(&request).contains("`protocol: http2`"), "{}", recorded(&request));
        }
        let bench = with(filter, HttpVersion::Auto, &[]);
        let service = opens(&bench.pool_of(&auth()));
        let mut request = bench.serve(get(), true);
        request.after(&service, response(200, false)).after(&service, piece(&said("a")));
        request.after(&service, trailers("0", "")).check(200, reasons::LOCAL);
    }
}

#[test]
fn calls_of_grpc_have_the_bounds_of_side_calls() {
    for filter in [ASKS, CHATS] {
        let bench = with(filter, HttpVersion::Http2, &[(Limit::SideCalls, 1)]);
        let pool = bench.pool_of(&auth());
        // What no endpoint can have seen is repeated.
        let refused = ScriptedConnect::Fails(upstream_reasons::REFUSED);
        pool.scripted.borrow_mut().push_back(refused);
        let service = opens(&pool);
        let mut first = bench.serve(get(), true);
        first.after(&service, response(200, false)).after(&service, piece(&said("a")));
        let second = bench.serve(get(), true);
        second.check(503, reasons::SIDE_CALL_LIMIT);
        first.pass(Duration::from_millis(9_890));
        assert!(first.is_waiting());
        first.pass(Duration::from_millis(20)).check(503, reasons::SIDE_CALL_TIMEOUT);
        assert!(is_reset(&service));

        // A call that is dropped leaves nothing behind.
        let service = opens(&pool);
        let mut third = bench.serve(get(), true);
        third.client.goes();
        third.go_on();
        assert!(is_reset(&service));
        assert_eq!(recorded(&third), "auth dropped after 0 ms");
        assert_eq!(bench.worker.buffers.bytes_out(), 0);

        // So does one whose endpoint leaves.
        let service = opens(&pool);
        let mut fourth = bench.serve(get(), true);
        fourth.after(&service, response(200, false));
        let names = ["192.0.2.1:80", "192.0.2.2:80"].map(Arc::from).into();
        let attempts = &crate::worker::HttpWorker::of(&bench.worker).attempts;
        attempts.cancel(&auth().name, &names, Moment::NEVER, Departure::Removed);
        fourth.go_on().check(503, sluice_core::reason::end::ENDPOINT_REMOVED);
        assert!(is_reset(&service));
    }
}
