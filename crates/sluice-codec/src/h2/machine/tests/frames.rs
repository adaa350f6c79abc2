//! What a peer may do, frame by frame. `tests/cases/http2.txt` has the cases of the whole server.

use super::*;
use proptest::prelude::*;

#[test]
fn frames_have_the_codes_that_the_rfc_names() {
    use kind::*;
    let all = flag::END_HEADERS;
    let ends = |expected: H2Code, sent: &[(u8, u8, u32, &[u8])]| {
        let mut scripted = Scripted::new(Role::Server);
        for (kind, flags, stream, payload) in sent {
            scripted.send(*kind, *flags, *stream, payload);
        }
        assert_eq!(scripted.codes().0, Some(expected), "{sent:?}");
        assert!(scripted.0.end().is_some());
    };
    let (protocol, size) = (H2Code::PROTOCOL_ERROR, H2Code::FRAME_SIZE_ERROR);
    ends(protocol, &[(DATA, 0, 1, b"x")]);
    ends(protocol, &[(HEADERS, all, 2, b"\x82")]);
    ends(protocol, &[(CONTINUATION, all, 1, b"\x82")]);
    ends(protocol, &[(HEADERS, 0, 1, b"\x82"), (PING, 0, 0, b"12345678")]);
    ends(protocol, &[(PUSH_PROMISE, all, 1, b"\0\0\0\x02")]);
    ends(protocol, &[(RST_STREAM, 0, 1, b"\0\0\0\x08")]);
    ends(protocol, &[(WINDOW_UPDATE, 0, 0, &[0; 4])]);
    ends(protocol, &[(PRIORITY_UPDATE, 0, 0, &[0; 4])]);
    ends(H2Code::FLOW_CONTROL_ERROR, &[(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255])]);
    ends(H2Code::COMPRESSION_ERROR, &[(HEADERS, all, 1, b"\x80")]);
    ends(size, &[(PING, 0, 0, b"1234567")]);
    ends(size, &[(SETTINGS, 0, 0, b"12345")]);
    ends(protocol, &[(SETTINGS, flag::ACK, 0, b""), (SETTINGS, flag::ACK, 0, b"")]);
    ends(protocol, &[(GOAWAY, 0, 0, &[0; 8]), (GOAWAY, 0, 0, &[0, 0, 0, 9, 0, 0, 0, 0])]);
}

#[test]
fn a_stream_error_leaves_the_connection() {
    let mut scripted = Scripted::new(Role::Server);
    scripted.request(1, true);
    let Some(MachineEvent::Request(key, _)) = scripted.0.poll_event() else { panic!() };
    scripted.send(kind::DATA, 0, 1, b"x");
    assert_eq!(scripted.codes(), (None, vec![(1, H2Code::STREAM_CLOSED)]));
    // What was in flight is ignored, and its part of the window is not lost.
    scripted.send(kind::DATA, 0, 1, &[0; 1000]);
    scripted.send(kind::WINDOW_UPDATE, 0, 1, &[0; 4]);
    assert_eq!(scripted.codes(), (None, vec![]));
    let error = scripted.0.poll_recv(key, &cx());
    assert!(matches!(error, Poll::Ready(Ok(Frame::End))), "the request was whole before");
    assert!(scripted.0.poll_gone(key, &cx()).is_ready());
    scripted.0.release(key);
    scripted.request(3, true);
    assert!(matches!(scripted.0.poll_event(), Some(MachineEvent::Request(..))));
}

#[test]
fn an_endpoint_that_speaks_http1_is_known_by_its_first_bytes() {
    let response = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    for cut in 1..response.len() {
        let mut client = H2Machine::new(Role::Client, &options(), supply(), NOW);
        let key = client.open(&request("/"), true).unwrap();
        output(&mut client);
        let (first, rest) = response.split_at(cut);
        client.feed(first, NOW);
        client.feed(rest, NOW);
        let Poll::Ready(error) = client.poll_gone(key, &cx()) else { panic!("cut at {cut}") };
        assert_eq!(error.code(), Some("http2.endpoint_speaks_http1"));
        assert!(output(&mut client).is_empty(), "no GOAWAY would be understood");
    }
    // Only the first bytes of a server say so.
    let mut server = H2Machine::new(Role::Server, &options(), supply(), NOW);
    server.feed(PREFACE, NOW);
    server.feed(response, NOW);
    assert!(matches!(server.end(), Some(ConnectionEnd::ByUs(H2Code::PROTOCOL_ERROR, _))));
}

#[test]
fn windows_are_kept_by_both_sides() {
    let mut scripted = Scripted::new(Role::Server);
    scripted.send(kind::SETTINGS, flag::ACK, 0, &[]);
    scripted.request(1, false);
    let Some(MachineEvent::Request(key, _)) = scripted.0.poll_event() else { panic!() };
    for _ in 0..6 {
        scripted.send(kind::DATA, 0, 1, &[0; 16_000]);
    }
    assert_eq!(scripted.codes(), (None, vec![]));
    scripted.send(kind::DATA, 0, 1, &[0; 5_000]);
    assert_eq!(scripted.codes(), (None, vec![(1, H2Code::FLOW_CONTROL_ERROR)]));
    scripted.0.release(key);
    // A lower initial window makes open windows negative.
    scripted.request(3, true);
    let Some(MachineEvent::Request(key, _)) = scripted.0.poll_event() else { panic!() };
    scripted.0.send_head(key, &response(), false).unwrap();
    scripted.0.send_data(key, data(60_000), true).unwrap();
    output(&mut scripted.0);
    scripted.0.send_data(key, data(1), true).unwrap();
    assert!(scripted.0.is_sent(key));
    scripted.request(5, true);
    let Some(MachineEvent::Request(key, _)) = scripted.0.poll_event() else { panic!() };
    scripted.send(kind::WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]);
    scripted.0.send_head(key, &response(), false).unwrap();
    scripted.0.send_data(key, data(40_000), false).unwrap();
    output(&mut scripted.0);
    scripted.send(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    scripted.0.send_data(key, data(10), true).unwrap();
    scripted.send(kind::WINDOW_UPDATE, 0, 5, &[0, 0, 0x9c, 0x40]);
    output(&mut scripted.0);
    assert!(!scripted.0.is_sent(key), "it is at zero again");
    scripted.send(kind::WINDOW_UPDATE, 0, 5, &[0, 0, 0, 10]);
    output(&mut scripted.0);
    assert!(scripted.0.is_sent(key));
}

#[test]
fn a_flood_of_any_kind_ends_the_connection() {
    use kind::*;
    let floods: [(u8, u8, u32, &[u8]); 8] = [
        (PING, 0, 0, b"12345678"),
        (PING, flag::ACK, 0, b"12345678"),
        (SETTINGS, 0, 0, b""),
        (PRIORITY, 0, 3, b"\0\0\0\x01\x10"),
        (WINDOW_UPDATE, 0, 0, b"\0\0\0\x01"),
        (RST_STREAM, 0, 1, b"\0\0\0\x08"),
        (99, 0, 0, b"x"),
        (DATA, 0, 1, b""),
    ];
    for (kind, flags, stream, payload) in floods {
        let mut scripted = Scripted::new(Role::Server);
        scripted.request(1, false);
        scripted.0.poll_event();
        for _ in 0..2_100 {
            scripted.send(kind, flags, stream, payload);
            assert!(scripted.0.out.len() < 1 << 20);
            output(&mut scripted.0);
        }
        let end = scripted.0.end().unwrap().error();
        assert_eq!((end.kind(), end.code()), (ErrorKind::Flood, Some(FLOOD)), "{kind}");
    }
    let mut scripted = Scripted::new(Role::Server);
    for n in 0..100 {
        scripted.request(2 * n + 1, true);
        scripted.send(RST_STREAM, 0, 2 * n + 1, &[0; 4]);
    }
    assert_eq!(scripted.0.end().unwrap().error().code(), Some(FLOOD), "rapid resets");
    assert!(scripted.0.poll_event().is_none(), "and none of them was handed out");
}

const FLOOD: &str = "http2.frames_without_progress";

#[test]
fn a_block_without_end_is_bounded_and_charged() {
    let mut scripted = Scripted::new(Role::Server);
    scripted.send(kind::HEADERS, 0, 1, &[0; 16_000]);
    for _ in 0..3 {
        scripted.send(kind::CONTINUATION, 0, 1, &[0; 16_000]);
    }
    assert_eq!(scripted.0.supply.buffers.bytes_out(), 64_000);
    for _ in 0..10 {
        scripted.send(kind::CONTINUATION, 0, 1, &[0; 16_000]);
    }
    assert_eq!(scripted.codes().0, Some(H2Code::ENHANCE_YOUR_CALM));
    assert_eq!(scripted.0.supply.buffers.bytes_out(), 0);
}

#[test]
fn unread_bodies_end_at_the_limit_of_the_worker() {
    let supply = H2Supply::new(BufPool::new(240_000));
    let mut server = H2Machine::new(Role::Server, &options(), supply, NOW);
    let mut client = H2Machine::new(Role::Client, &options(), super::supply(), NOW);
    client.feed(&output(&mut server), NOW);
    let keys: Vec<usize> = (0..3)
        .map(|_| {
            let key = client.open(&request("/"), false).unwrap();
            server.feed(&output(&mut client), NOW);
            let Some(MachineEvent::Request(there, _)) = server.poll_event() else { panic!() };
            drop(server.take_charge(there));
            client.send_data(key, data(80_000), false).unwrap();
            server.feed(&output(&mut client), NOW);
            client.feed(&output(&mut server), NOW);
            there
        })
        .collect();
    assert!(server.supply.buffers.bytes_out() <= 240_000 && server.end().is_none());
    let ended = keys.iter().map(|key| match server.poll_gone(*key, &cx()) {
        Poll::Ready(error) => error.kind() == ErrorKind::Buffers,
        Poll::Pending => false,
    });
    assert_eq!(ended.collect::<Vec<_>>(), [false, false, true], "the one at the limit");
}

fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(vec![0x82, 0x86, 0x84, 0x41, 0x01, b'a']),
        Just(vec![0x88]),
        Just(vec![0; 4]),
        Just(vec![0, 0, 1, 0]),
        Just(vec![0, 4, 0, 0, 0, 5]),
        Just(b"12345678".to_vec()),
    ];
    (0_u8..18, any::<u8>(), 0_u32..8, payload).prop_map(|(kind, flags, stream, payload)| {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind, flags, stream, &payload);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// No frames make the machine panic or hold anything after its end, and cutting them changes nothing.
    #[test]
    fn any_frames_are_survived(
        client in any::<bool>(),
        sent in prop::collection::vec(some_frame(), 0..30),
        garbage in prop::collection::vec(any::<u8>(), 0..60),
        cuts in prop::collection::vec(1_usize..50, 1..8),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let mut bytes = sent.concat();
        bytes.extend(garbage);
        let run = |cut: bool| {
            let mut machine = Scripted::new(role).0;
            let mut keys = Vec::new();
            if client {
                keys.extend((0..3).map(|n| machine.open(&request("/"), n == 0).unwrap()));
            }
            let mut rest = &bytes[..];
            for size in cuts.iter().cycle() {
                let size = if cut { *size } else { rest.len() };
                let (piece, behind) = rest.split_at(size.min(rest.len()));
                machine.feed(piece, NOW);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            while let Some(event) = machine.poll_event() {
                if let MachineEvent::Request(key, _) = event {
                    let _ = machine.send_head(key, &response(), false);
                    let _ = machine.send_data(key, data(9_000), true);
                    keys.push(key);
                }
            }
            let out = output(&mut machine);
            for key in keys {
                let _ = machine.poll_recv(key, &cx());
                machine.release(key);
            }
            expire(&mut machine);
            assert_eq!((machine.open_streams(), machine.bytes_waiting()), (0, 0));
            out
        };
        prop_assert_eq!(run(false), run(true));
    }
}
