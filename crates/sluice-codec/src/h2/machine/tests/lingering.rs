//! Responses that are complete before their requests: the client may end its stream, within bounds.

use std::time::Duration;

use super::*;

/// A server and the stream of a request that it has responded to and that the client has not ended.
fn responded() -> Scripted {
    let mut server = Scripted::new(Role::Server);
    respond(&mut server, 1);
    server
}

fn respond(server: &mut Scripted, stream: u32) {
    server.request(stream, false);
    let Some(MachineEvent::Request(key, _)) = server.0.poll_event() else { panic!() };
    // What has arrived and was not read is dropped.
    server.send(kind::DATA, 0, stream, &[0; 1000]);
    server.0.send_head(key, &response(), false).unwrap();
    server.0.send_data(key, data(10), true).unwrap();
    server.0.release(key);
    assert_eq!(server.0.bytes_waiting(), 0);
    assert!(server.0.has_new_lingering(), "the driver is to set a timer");
}

fn after(millis: u64) -> Moment {
    NOW.after(Duration::from_millis(millis))
}

/// What a client may do on a lingering stream, and the reset that it gets at once.
#[test]
fn a_client_that_ends_its_request_gets_no_reset() {
    const RST: u8 = kind::RST_STREAM;
    let code = |code: H2Code| Some(code);
    let mut trailers = Vec::new();
    let mut fields = Head::default();
    fields.append(b"x-sum", b"1");
    HpackEncoder::new().trailers(&fields, &mut trailers).unwrap();
    let (end, block) = (flag::END_STREAM, flag::END_HEADERS);
    let trailers = &trailers[..];
    let (full, padded) = (&[0; 16_000][..], &[9, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0][..]);
    type Sent<'a> = &'a [(u8, u8, &'a [u8])];
    let cases: [(Sent<'_>, Option<H2Code>, usize); 9] = [
        (&[(kind::DATA, end, b"")], None, 0),
        (&[(kind::DATA, 0, full), (kind::DATA, end, full)], None, 0),
        (&[(kind::DATA, flag::PADDED, padded), (kind::DATA, end, b"x")], None, 0),
        (&[(kind::HEADERS, end | block, trailers)], None, 0),
        (&[(RST, 0, &[0, 0, 0, 8])], None, 0),
        // Without an end it goes on.
        (&[(kind::DATA, 0, full), (kind::WINDOW_UPDATE, 0, &[0, 0, 1, 0])], None, 1),
        (&[(kind::HEADERS, block, trailers)], code(H2Code::PROTOCOL_ERROR), 0),
        (&[(kind::DATA, 0, full); 7], code(H2Code::FLOW_CONTROL_ERROR), 0),
        (&[(kind::DATA, end, b""), (kind::DATA, 0, b"x")], code(H2Code::STREAM_CLOSED), 0),
    ];
    for (sent, reset, open) in cases {
        let mut server = responded();
        server.0.expire_lingering(NOW);
        server.send(kind::SETTINGS, flag::ACK, 0, b"");
        for (kind, flags, payload) in sent {
            server.send(*kind, *flags, 1, payload);
        }
        let kinds: Vec<u8> = sent.iter().map(|(kind, ..)| *kind).collect();
        let expected = reset.map(|code| (1, code)).into_iter().collect::<Vec<_>>();
        assert_eq!(server.codes(), (None, expected), "{kinds:?}");
        assert_eq!(server.0.open_streams(), open, "{kinds:?}");
        assert_eq!(server.0.expire_lingering(NOW).is_some(), open == 1, "{kinds:?}");
        assert!(server.0.recv.is_whole(), "the connection's window is given back: {kinds:?}");
        assert_eq!(server.0.supply.buffers.bytes_out(), 0);
    }
}

#[test]
fn a_length_that_is_wrong_is_still_an_error() {
    let mut server = Scripted::new(Role::Server);
    let mut head = request("/");
    head.append(b"content-length", b"5");
    let mut block = Vec::new();
    HpackEncoder::new().request(&head, &mut block).unwrap();
    server.send(kind::HEADERS, flag::END_HEADERS, 1, &block);
    let Some(MachineEvent::Request(key, _)) = server.0.poll_event() else { panic!() };
    server.0.send_head(key, &response(), true).unwrap();
    server.0.release(key);
    server.send(kind::DATA, flag::END_STREAM, 1, b"four");
    assert_eq!(server.codes().1, [(1, H2Code::PROTOCOL_ERROR)]);
    assert_eq!(server.0.open_streams(), 0);
}

#[test]
fn a_client_that_does_not_end_its_request_is_reset_in_time() {
    let mut server = responded();
    assert_eq!(server.0.expire_lingering(NOW), Some(after(1000)));
    server.send(kind::DATA, 0, 1, b"more");
    assert_eq!(server.0.expire_lingering(after(999)), Some(after(1000)));
    assert_eq!(server.codes(), (None, vec![]));
    // Each has its own time.
    respond(&mut server, 3);
    assert_eq!(server.0.expire_lingering(after(999)), Some(after(1000)));
    assert_eq!(server.0.expire_lingering(after(1000)), Some(after(1999)));
    assert_eq!(server.codes().1, [(1, H2Code::NO_ERROR)]);
    assert_eq!(server.0.expire_lingering(after(1999)), None);
    assert_eq!(server.codes().1, [(3, H2Code::NO_ERROR)]);
    // What is still on its way is no error.
    server.send(kind::DATA, flag::END_STREAM, 1, b"late");
    assert_eq!((server.codes(), server.0.open_streams()), ((None, vec![]), 0));
}

#[test]
fn a_client_without_window_is_reset_soon() {
    // The window is exhausted before or after the response.
    for before in [false, true] {
        let mut server = Scripted::new(Role::Server);
        server.request(1, false);
        let Some(MachineEvent::Request(key, _)) = server.0.poll_event() else { panic!() };
        server.0.send_head(key, &response(), true).unwrap();
        let fill = |server: &mut Scripted| {
            (0..10).for_each(|_| server.send(kind::DATA, 0, 1, &[0; 10_000]));
        };
        if before {
            fill(&mut server);
        }
        server.0.release(key);
        if !before {
            assert_eq!(server.0.expire_lingering(NOW), Some(after(1000)));
            fill(&mut server);
            assert!(server.0.has_new_lingering());
        }
        assert_eq!(server.0.expire_lingering(NOW), Some(after(100)));
        assert_eq!(server.codes(), (None, vec![]), "the response has not been followed at once");
        assert_eq!(server.0.expire_lingering(after(100)), None);
        assert_eq!(server.codes().1, [(1, H2Code::NO_ERROR)]);
    }
}

#[test]
fn lingering_streams_count_as_open() {
    let mut server = Scripted::new(Role::Server);
    let max = options().streams_max;
    (0..max).for_each(|n| respond(&mut server, 2 * n + 1));
    server.codes();
    server.request(2 * max + 1, true);
    assert_eq!(server.codes().1, [(2 * max + 1, H2Code::REFUSED_STREAM)]);
    expire(&mut server.0);
    assert_eq!(server.codes().1.len(), max as usize);
    respond(&mut server, 2 * max + 3);
    // A drain waits for them, and the end of the connection does not.
    server.0.drain();
    server.send(kind::PING, flag::ACK, 0, &DRAIN_PING);
    assert!(!server.0.is_winding_down());
    expire(&mut server.0);
    assert!(server.0.is_winding_down());
    let mut server = responded();
    server.0.closed();
    assert_eq!((server.0.open_streams(), server.0.expire_lingering(NOW)), (0, None));
    assert!(server.0.streams.is_empty());
}

#[test]
fn a_refused_request_lingers_too() {
    let mut server = Scripted::new(Role::Server);
    let mut head = request("/");
    (0..=options().head_fields).for_each(|_| head.append(b"x-many", b"1"));
    let mut block = Vec::new();
    HpackEncoder::new().request(&head, &mut block).unwrap();
    server.send(kind::HEADERS, flag::END_HEADERS, 1, &block);
    assert!(matches!(server.0.poll_event(), Some(MachineEvent::Refused(_))));
    assert_eq!((server.codes(), server.0.open_streams()), ((None, vec![]), 1));
    server.send(kind::DATA, flag::END_STREAM, 1, b"x");
    assert_eq!((server.codes(), server.0.open_streams()), ((None, vec![]), 0));
}

#[test]
fn without_a_time_the_reset_follows_at_once() {
    let options = H2Options { linger: Duration::ZERO, ..options() };
    let mut pair = Pair::with(options);
    let (here, there) = pair.open("/", false);
    pair.server.send_head(there, &response(), true).unwrap();
    pair.server.release(there);
    assert_eq!(pair.server.open_streams(), 0);
    pair.settle();
    assert!(pair.client.poll_gone(here, &cx()).is_ready());
}
