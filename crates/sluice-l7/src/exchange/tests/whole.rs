//! Filters that decide on whole messages, and filters that add trailers: what they may change.

use bytes::Bytes;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_codec::{Body, Head};

use super::kit::{Bench, Hooks, data, get, is_reset, opens, post, response};
use crate::filters::{
    BodyAccess, Cx, HeadStep, PieceStep, ResponseStep, ResponseTrailersStep, TrailersStep,
    WholeMessage, WholeStep,
};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::RuleOptions;

pub(super) const MAX: usize = 16;

/// Adds a mark to the head and to the body.
fn marks(whole: &mut WholeMessage, mark: &str) -> WholeStep {
    whole.head.append(b"x-whole", mark.as_bytes());
    whole.body = Bytes::from([&whole.body[..], mark.as_bytes()].concat());
    WholeStep::Continue
}

/// Receives everything, and adds a mark.
const MARKS: Hooks = Hooks {
    request: |_, _| HeadStep::buffer(MAX, |_, whole| marks(whole, "!")),
    response: |_, _| ResponseStep::buffer(MAX, |_, whole| marks(whole, "?")),
    ..Hooks::NONE
};

/// Only receives everything.
pub(super) const HOLDS: Hooks = Hooks {
    request: |_, _| HeadStep::buffer(MAX, |_, _| WholeStep::Continue),
    response: |_, _| ResponseStep::buffer(MAX, |_, _| WholeStep::Continue),
    ..Hooks::NONE
};

pub(super) fn with(filters: &[Hooks]) -> Bench {
    Bench::with_filters(RuleOptions::default(), filters)
}

/// A head with a field.
pub(super) fn field(mut head: Head, name: &str, value: &str) -> Head {
    head.append(name.as_bytes(), value.as_bytes());
    head
}

/// The head that was sent last.
fn head_of(peer: &ScriptedPeer) -> (String, bool) {
    let heads = peer.sent().into_iter().filter_map(|sent| match sent {
        SentEvent::Head(text, last) => Some((text, last)),
        _ => None,
    });
    heads.last().expect("a head was sent")
}

fn length_of(peer: &ScriptedPeer) -> Option<String> {
    let (head, _) = head_of(peer);
    let length = head.lines().find_map(|line| line.trim().strip_prefix("content-length: "));
    length.map(str::to_owned)
}

// --- what a filter may change ---

#[test]
fn a_filter_decides_on_a_whole_response_before_the_client_gets_any_of_it() {
    for shared in [false, true] {
        for trailers in [false, true] {
            let bench = with(&[Hooks { request: Hooks::NONE.request, ..MARKS }]);
            let endpoint = if shared { opens(&bench.pool) } else { bench.connects(false) };
            let mut request = bench.serve(get(), true);
            request.after(&endpoint, response(103, false));
            let head = field(Head::response(200), "content-length", "7");
            request.after(&endpoint, PeerEvent::Head(head, false));
            request.after(&endpoint, data("one ", false)).after(&endpoint, data("two", false));
            assert_eq!(request.statuses(), [103], "what is held back is not sent in part");
            assert_eq!(bench.worker.buffers.bytes_out(), 7);
            let status = field(Head::default(), "grpc-status", "5");
            let end = if trailers { PeerEvent::Trailers(status) } else { PeerEvent::End };
            request.after(&endpoint, end).check(200, reasons::VIA_UPSTREAM);
            assert!(head_of(&request.client).0.contains("x-whole: ?"));
            assert_eq!(request.client.body(), b"one two?");
            let length = (!trailers).then(|| "8".to_owned());
            assert_eq!(length_of(&request.client), length);
            let last = request.client.sent().pop();
            assert_eq!(last == Some(SentEvent::End(true)), trailers, "{last:?}");
            assert_eq!(request.ended().grpc_status, trailers.then_some(5));
            assert_eq!((request.ended().sent, is_reset(&endpoint)), (8, false));
            drop(request);
            assert_eq!(bench.worker.buffers.bytes_out(), 0);
        }
    }
}

#[test]
fn a_filter_decides_on_a_whole_request_before_any_of_it_is_forwarded() {
    for trailers in [false, true] {
        let bench = with(&[MARKS]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(field(post(), "content-length", "7"), false);
        request.client_does(data("one ", false)).client_does(data("two", false));
        assert!(endpoint.sent().is_empty());
        assert_eq!(bench.worker.buffers.bytes_out(), 7);
        let end = if trailers { PeerEvent::Trailers(Head::default()) } else { PeerEvent::End };
        request.client_does(end);
        assert!(head_of(&endpoint).0.contains("x-whole: !"));
        assert_eq!(endpoint.body(), b"one two!");
        assert_eq!(length_of(&endpoint), (!trailers).then(|| "8".to_owned()));
        request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    }
}

#[test]
fn a_filter_decides_by_the_start_of_a_body_and_all_of_it_is_forwarded() {
    // Three bytes, and whether that is all.
    const PEEKS: Hooks = Hooks {
        request: |_, _| {
            HeadStep::peek(3, |_, head, start| {
                head.append(b"x-start", &start.bytes);
                head.append(b"x-whole", start.whole.to_string().as_bytes());
                HeadStep::Continue
            })
        },
        ..Hooks::NONE
    };
    // Every body hook sees every byte once, whichever side of a filter that peeks it is on.
    const COUNTS: Hooks = Hooks {
        access: BodyAccess::Read,
        request_body: |cx, body, _| {
            let so_far = cx.state.take().and_then(|state| state.downcast().ok());
            let count = so_far.map_or(0, |count: Box<usize>| *count) + body.len();
            *cx.state = Some(Box::new(count));
            PieceStep::Continue
        },
        response: |cx, head| {
            let count = cx.state.as_ref().and_then(|state| state.downcast_ref::<usize>());
            head.append(b"x-count", count.copied().unwrap_or_default().to_string().as_bytes());
            ResponseStep::Continue
        },
        ..Hooks::NONE
    };
    for (pieces, start, whole) in [
        (&[][..], "", true),
        (&["ab"], "ab", true),
        (&["abc"], "abc", true),
        (&["ab", "cdef"], "abc", false),
        (&["abcd"], "abc", false),
        (&["a", "b", "c", "d", "e"], "abc", false),
    ] {
        for filters in [&[PEEKS][..], &[COUNTS, PEEKS, COUNTS], &[COUNTS, PEEKS, HOLDS, COUNTS]] {
            let bench = with(filters);
            let endpoint = bench.connects(false);
            let mut request = bench.serve(post(), false);
            let body: String = pieces.concat();
            for (place, piece) in pieces.iter().enumerate() {
                let too_few = pieces[..place].concat().len() < 3;
                assert_eq!(endpoint.sent().is_empty(), too_few || filters.len() == 4);
                request.client_does(data(piece, place + 1 == pieces.len() && body.len() > 3));
            }
            if body.len() <= 3 {
                // That it is whole is known by its end.
                if body.len() < 3 {
                    assert!(endpoint.sent().is_empty());
                }
                request.client_does(PeerEvent::End);
            }
            let (head, _) = head_of(&endpoint);
            // A body of the size that was asked for may still go on.
            let known = whole && body.len() < 3;
            assert!(head.contains(&format!("x-start: {start}")), "{head}");
            assert!(head.contains(&format!("x-whole: {known}")), "{pieces:?} {head}");
            assert_eq!(endpoint.body(), body.as_bytes());
            request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
            let counts =
                head_of(&request.client).0.matches(&format!("x-count: {}", body.len())).count();
            assert_eq!(counts, filters.len().saturating_sub(1).min(2), "{pieces:?}");
            drop(request);
            assert_eq!(bench.worker.buffers.bytes_out(), 0);
        }
    }
}

#[test]
fn a_filter_that_refuses_by_the_start_of_a_body_has_nothing_forwarded() {
    let peeks = Hooks {
        request: |_, _| {
            HeadStep::peek(2, |_, _, start| {
                assert_eq!(&start.bytes[..], b"no");
                HeadStep::reply(Reply::new(451, reasons::DENIED, "blocked", "no\n"))
            })
        },
        ..Hooks::NONE
    };
    let bench = with(&[peeks]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(field(post(), "expect", "100-continue"), false);
    assert_eq!(request.statuses(), [100], "no endpoint says that the body may come");
    request.client_does(data("n", false));
    assert_eq!(bench.worker.buffers.bytes_out(), 1);
    request.client_does(data("othing", false)).check(451, reasons::DENIED);
    assert!(endpoint.sent().is_empty());
    drop(request);
    assert_eq!(bench.worker.buffers.bytes_out(), 0);
}

#[test]
fn a_filter_may_replace_a_whole_message_at_once_or_later() {
    const DENIES: fn() -> WholeStep =
        || WholeStep::reply(Reply::new(451, reasons::DENIED, "blocked", "no\n"));
    let at_once = Hooks {
        request: |_, _| HeadStep::buffer(MAX, |_, _| DENIES()),
        response: |_, _| ResponseStep::buffer(MAX, |_, _| DENIES()),
        ..Hooks::NONE
    };
    let later = Hooks {
        request: |_, _| {
            HeadStep::buffer(MAX, |_, _| {
                WholeStep::wait(async { |_: &mut Cx<'_>, _: &mut WholeMessage| DENIES() })
            })
        },
        response: |_, _| {
            ResponseStep::buffer(MAX, |_, whole| {
                assert_eq!(&whole.body[..], b"secret");
                WholeStep::wait(async { |_: &mut Cx<'_>, _: &mut WholeMessage| DENIES() })
            })
        },
        ..Hooks::NONE
    };
    let tags = Hooks {
        response: |_, head| {
            head.append(b"x-seen", b"1");
            ResponseStep::Continue
        },
        ..Hooks::NONE
    };
    for replaces in [at_once, later] {
        // The filter before it sees what the client gets, once.
        let only_responses = Hooks { request: Hooks::NONE.request, ..replaces };
        let bench = with(&[tags, only_responses]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(get(), true);
        // A reply of the filter is shown to the filters that have not seen a response.
        request.after(&endpoint, response(200, false)).after(&endpoint, data("secret", true));
        request.check(451, reasons::DENIED);
        assert_eq!(request.client.body(), b"no\n");
        assert_eq!(head_of(&request.client).0.matches("x-seen").count(), 1);

        let bench = with(&[Hooks { response: Hooks::NONE.response, ..replaces }]);
        let mut request = bench.serve(post(), false);
        request.client_does(data("secret", true)).check(451, reasons::DENIED);
    }
}

#[test]
fn every_filter_sees_a_body_once_and_as_those_before_left_it() {
    /// Adds a mark to each piece.
    fn piece<E>(body: &mut Body, mark: &str) -> PieceStep<Body, E> {
        *body = Body::Shared(Bytes::from([&body[..], mark.as_bytes()].concat()));
        PieceStep::Continue
    }
    let edits = Hooks {
        access: BodyAccess::Edit,
        request_body: |_, body, _| piece(body, "-"),
        response_body: |_, body, _| piece(body, "+"),
        ..Hooks::NONE
    };
    let bench = with(&[edits, MARKS, edits, MARKS, edits]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(field(post(), "content-length", "2"), false);
    request.client_does(data("a", false)).client_does(data("b", true));
    assert_eq!(endpoint.body(), b"a-b-!-!-", "pieces, then all, then all");
    assert_eq!(length_of(&endpoint).as_deref(), Some("8"));
    let head = field(Head::response(200), "content-length", "2");
    request.after(&endpoint, PeerEvent::Head(head, false));
    request.after(&endpoint, data("c", false)).after(&endpoint, data("d", true));
    assert_eq!(request.client.body(), b"c+d+?+?+");
    assert_eq!(length_of(&request.client), None, "the first filter edits what is sent");
    request.check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn two_filters_that_hold_a_request_leave_its_length_alone() {
    let bench = with(&[HOLDS, HOLDS]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(field(post(), "content-length", "3"), false);
    request.client_does(data("abc", true));
    assert_eq!((length_of(&endpoint).as_deref(), endpoint.body()), (Some("3"), b"abc".to_vec()));
    let head = field(Head::response(200), "content-length", "3");
    request.after(&endpoint, PeerEvent::Head(head, false)).after(&endpoint, data("xyz", true));
    assert_eq!(length_of(&request.client).as_deref(), Some("3"));
    assert_eq!(request.client.body(), b"xyz");
    request.check(200, reasons::VIA_UPSTREAM);
}

#[test]
fn a_filter_may_add_trailers_to_a_message_that_has_none() {
    let of_whole = Hooks {
        request: |_, _| {
            HeadStep::buffer(MAX, |_, whole| {
                whole.trailers = Some(Box::new(field(Head::default(), "x-sum", "1")));
                WholeStep::Continue
            })
        },
        response: |_, _| {
            ResponseStep::buffer(MAX, |_, whole| {
                whole.trailers = Some(Box::new(field(Head::default(), "grpc-status", "7")));
                WholeStep::Continue
            })
        },
        ..Hooks::NONE
    };
    let of_pieces = Hooks {
        access: BodyAccess::Edit,
        request_trailers: |_, trailers| {
            trailers.append(b"x-sum", b"1");
            TrailersStep::Continue
        },
        response_trailers: |_, trailers| {
            trailers.append(b"grpc-status", b"7");
            ResponseTrailersStep::Continue
        },
        ..Hooks::NONE
    };
    let later = Hooks {
        request_trailers: |_, _| {
            TrailersStep::wait(async {
                |_: &mut Cx<'_>, trailers: &mut Head| {
                    trailers.append(b"x-sum", b"1");
                    TrailersStep::Continue
                }
            })
        },
        response_trailers: |_, _| {
            ResponseTrailersStep::wait(async {
                |_: &mut Cx<'_>, trailers: &mut Head| {
                    trailers.append(b"grpc-status", b"7");
                    ResponseTrailersStep::Continue
                }
            })
        },
        ..of_pieces
    };
    for (hooks, body) in
        [of_whole, of_pieces, later].into_iter().flat_map(|hooks| [(hooks, "x"), (hooks, "")])
    {
        let bench = with(&[hooks]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(field(post(), "content-length", "1"), false);
        request.client_does(data(body, true));
        assert_eq!((&*endpoint.body(), length_of(&endpoint)), (body.as_bytes(), None));
        assert_eq!(endpoint.sent().last(), Some(&SentEvent::End(true)));
        let head = field(Head::response(200), "content-length", "1");
        request.after(&endpoint, PeerEvent::Head(head, false)).after(&endpoint, data(body, true));
        assert_eq!((&*request.client.body(), length_of(&request.client)), (body.as_bytes(), None));
        assert_eq!(request.client.sent().last(), Some(&SentEvent::End(true)));
        assert_eq!(request.ended().grpc_status, Some(7));
    }
}

#[test]
fn trailers_are_added_only_by_filters_that_edit() {
    let adds = Hooks {
        access: BodyAccess::Read,
        request_trailers: |_, _| panic!("there are none"),
        response_trailers: |_, _| panic!("there are none"),
        ..Hooks::NONE
    };
    let edits = Hooks { access: BodyAccess::Edit, ..Hooks::NONE };
    let bench = with(&[adds, edits, adds]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("x", true));
    assert!(matches!(endpoint.sent().last(), Some(SentEvent::Data(_, true))));
    request.after(&endpoint, response(200, false)).after(&endpoint, data("y", false));
    request.after(&endpoint, PeerEvent::End).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(request.client.sent().last(), Some(&SentEvent::End(false)));
}

#[test]
fn a_path_that_a_filter_sets_for_a_whole_request_is_checked() {
    let sets = Hooks {
        request: |_, _| {
            HeadStep::buffer(MAX, |_, whole| {
                let path = [b"/a/", &whole.body[..]].concat();
                assert!(whole.head.set_path(&path));
                WholeStep::Continue
            })
        },
        ..Hooks::NONE
    };
    let bench = with(&[sets]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(post(), false);
    request.client_does(data("%41", true));
    assert!(head_of(&endpoint).0.contains("/a/A"), "{:?}", endpoint.sent());
    let mut request = bench.serve(post(), false);
    request.client_does(data("../b", true)).check(400, reasons::MALFORMED);
}

// --- messages without a body, and Sluice's own ---

#[test]
fn a_response_without_a_body_is_decided_on_at_once() {
    for (method, status, length) in
        [("HEAD", 200, Some("7")), ("GET", 204, None), ("GET", 304, Some("7"))]
    {
        let bench = with(&[MARKS]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(Head::request(method, "http", "app.test", "/"), true);
        let mut head = Head::response(status);
        length.iter().for_each(|length| head.append(b"content-length", length.as_bytes()));
        request.after(&endpoint, PeerEvent::Head(head, true));
        request.check(status, reasons::VIA_UPSTREAM);
        let (head, last) = head_of(&request.client);
        assert!(last && head.contains("x-whole: ?"), "{method} {status} {head}");
        assert_eq!(length_of(&request.client), None, "the filter changes what GET returns");
    }
    // Another response that ends with its headers may get a body.
    let bench = with(&[MARKS]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    let head = field(Head::response(200), "content-length", "0");
    request.after(&endpoint, PeerEvent::Head(head, true)).check(200, reasons::VIA_UPSTREAM);
    assert_eq!(request.client.body(), b"?");
    assert_eq!(length_of(&request.client).as_deref(), Some("1"));
    // One that stays empty still ends with its headers.
    let bench = with(&[HOLDS]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(get(), true);
    request.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    assert!(head_of(&request.client).1);
}

#[test]
fn a_tunnel_has_no_body_to_wait_for() {
    let options =
        || RuleOptions { upgrades: vec!["chat".into()], connect: true, ..RuleOptions::default() };
    let mut upgrade = get();
    upgrade.set_upgrade(b"chat");
    let connect = Head::request("CONNECT", "http", "db.test:5432", "");
    for (head, status) in [(upgrade, 101), (connect.clone(), 200)] {
        let bench = Bench::with_filters(options(), &[MARKS]);
        let endpoint = bench.connects(false);
        let mut request = bench.serve(head, false);
        assert!(head_of(&endpoint).0.contains("x-whole: !"));
        let mut agreed = Head::response(status);
        if status == 101 {
            agreed.set_upgrade(b"chat");
        }
        request.after(&endpoint, PeerEvent::Head(agreed, false));
        assert!(head_of(&request.client).0.contains("x-whole: ?"));
        request.client_does(data("in", false)).after(&endpoint, data("out", false));
        assert_eq!((endpoint.body(), request.client.body()), (b"in".to_vec(), b"out".to_vec()));
        assert!(request.is_waiting());
    }
    // A refusal is a response like any other.
    let bench = Bench::with_filters(options(), &[MARKS]);
    let endpoint = bench.connects(false);
    let mut request = bench.serve(connect, false);
    request.after(&endpoint, response(403, false)).after(&endpoint, data("no", true));
    assert_eq!(request.client.body(), b"no?");
    request.check(403, reasons::VIA_UPSTREAM);
}

#[test]
fn a_filter_may_change_the_responses_of_sluice_itself() {
    let trailers = Hooks {
        response: |_, _| {
            ResponseStep::buffer(0, |_, whole| {
                whole.trailers = Some(Box::new(field(Head::default(), "x-sum", "1")));
                marks(whole, "?")
            })
        },
        ..Hooks::NONE
    };
    for (hooks, has_trailers) in [(MARKS, false), (trailers, true)] {
        let answers = Hooks {
            request: |_, _| {
                HeadStep::reply(Reply::new(403, reasons::DENIED, "denied", "a longer text, no\n"))
            },
            ..Hooks::NONE
        };
        let bench = with(&[Hooks { request: Hooks::NONE.request, ..hooks }, answers]);
        let request = bench.serve(get(), true);
        request.check(403, reasons::DENIED);
        assert_eq!(request.client.body(), b"a longer text, no\n?", "no limit is needed here");
        assert_eq!(length_of(&request.client), (!has_trailers).then(|| "19".to_owned()));
        let last = request.client.sent().pop();
        assert_eq!(last == Some(SentEvent::End(true)), has_trailers, "{last:?}");

        let head = bench.serve(Head::request("HEAD", "http", "app.test", "/"), true);
        head.check(403, reasons::DENIED);
        assert!(head_of(&head.client).1 && head.client.body().is_empty());
    }
}
