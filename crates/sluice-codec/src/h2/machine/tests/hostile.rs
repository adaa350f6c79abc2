//! Peers that attack: what they can make us do, hold and send is bounded, and their connection ends.

use super::*;
use crate::h2::budget::BURST;
use crate::h2::frame::FRAME_MAX;
use crate::request_memory::REQUEST_BYTES;

/// Feeds a server until it ends the connection, at most `max` times; returns how often.
fn attack(server: &mut Scripted, max: u32, mut round: impl FnMut(&mut Scripted, u32)) -> u32 {
    (0..max)
        .take_while(|n| {
            round(server, *n);
            output(&mut server.0);
            server.0.end().is_none()
        })
        .count()
        .try_into()
        .unwrap()
}

#[track_caller]
fn assert_flood(machine: &H2Machine) {
    let error = machine.end().expect("the connection has ended").error();
    assert_eq!(error.kind(), ErrorKind::Flood, "{error}");
}

fn update(more: u32) -> [u8; 4] {
    more.to_be_bytes()
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    pairs
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect()
}

/// Requests that the server hands out.
fn handed_out(server: &mut Scripted) -> Vec<usize> {
    std::iter::from_fn(|| server.0.poll_event())
        .filter_map(|event| match event {
            MachineEvent::Request(key, _) => Some(key),
            MachineEvent::Refused(_) => None,
        })
        .collect()
}

#[test]
fn requests_that_are_reset_at_once_are_a_flood() {
    // CVE-2023-44487; those in progress, and those that have not been handed out yet.
    for taken in [true, false] {
        let mut server = Scripted::new(Role::Server);
        let mut requests = 0;
        let rounds = attack(&mut server, 10_000, |server, n| {
            server.request(2 * n + 1, true);
            if taken {
                requests += handed_out(server).len();
            }
            server.send(kind::RST_STREAM, 0, 2 * n + 1, &update(8));
        });
        assert_flood(&server.0);
        assert!(rounds <= if taken { BURST / 4 } else { 64 }, "{rounds} rounds");
        assert!(requests <= 500 && server.0.streams.keys().len() <= 500);
    }
}

#[test]
fn streams_that_we_are_made_to_reset_are_a_flood() {
    // CVE-2025-8671: the stream ends for us, and the task of the request does not know.
    let ways: [fn(&mut Scripted, u32); 5] = [
        |server, id| server.send(kind::WINDOW_UPDATE, 0, id, &update(0)),
        |server, id| server.send(kind::WINDOW_UPDATE, 0, id, &update(u32::MAX >> 1)),
        |server, id| server.send(kind::DATA, 0, id, b"after the end"),
        |server, id| server.send(kind::HEADERS, flag::END_HEADERS, id, b""),
        |server, id| server.send(kind::PRIORITY, 0, id, b"four"),
    ];
    for (way, attack_with) in ways.iter().enumerate() {
        let mut server = Scripted::new(Role::Server);
        let mut requests = 0;
        let rounds = attack(&mut server, 10_000, |server, n| {
            server.request(2 * n + 1, true);
            requests += handed_out(server).len();
            attack_with(server, 2 * n + 1);
        });
        assert!(rounds <= BURST / 4 && requests <= 500, "way {way}: {rounds}, {requests}");
        assert_flood(&server.0);
    }
}

#[test]
fn malformed_requests_are_a_flood() {
    for block in [&b"\x82"[..], b"\x82\x86\x84", b"\x82\x86\x84\x01\x01a\x00\x01X\x00"] {
        let mut server = Scripted::new(Role::Server);
        let mut bytes = 0;
        let mut sent = 0;
        let rounds = (0..10_000).take_while(|n| {
            let flags = flag::END_HEADERS | flag::END_STREAM;
            server.send(kind::HEADERS, flags, 2 * n + 1, block);
            bytes += HEAD_LEN + block.len();
            sent += output(&mut server.0).len();
            server.0.end().is_none()
        });
        assert!(rounds.count() <= BURST as usize, "{block:x?}");
        assert_flood(&server.0);
        assert!(sent < 4 * bytes, "{sent} bytes for {bytes}");
        assert!(handed_out(&mut server).is_empty());
    }
}

#[test]
fn header_blocks_without_end_are_bounded() {
    for len in [0, 1, 100] {
        let mut server = Scripted::new(Role::Server);
        server.send(kind::HEADERS, 0, 1, b"\x82");
        let rounds = attack(&mut server, 10_000, |server, _| {
            server.send(kind::CONTINUATION, 0, 1, &vec![0x82; len]);
            assert!(server.0.supply.buffers.bytes_out() <= 256 << 10);
        });
        assert_flood(&server.0);
        assert!(rounds <= BURST, "{rounds} frames of {len} bytes");
        assert_eq!(server.0.supply.buffers.bytes_out(), 0);
    }
}

#[test]
fn a_peer_that_does_not_read_cannot_make_us_respond_without_end() {
    let response: [(u8, &[u8]); 3] =
        [(kind::PING, b"12345678"), (kind::SETTINGS, b""), (kind::SETTINGS, b"\0\x04\0\0\0\x01")];
    for (kind, payload) in response {
        let mut server = Scripted::new(Role::Server);
        let mut bytes = Vec::new();
        while bytes.len() < 16 << 10 {
            frame::write(&mut bytes, kind, 0, 0, payload);
        }
        let mut fed = 0;
        while server.0.may_read() && server.0.end().is_none() {
            server.0.feed(&bytes, NOW);
            fed += bytes.len();
        }
        assert!(fed <= 1 << 20 && server.0.out.len() <= OUT_HIGH + bytes.len());
    }
}

#[test]
fn responses_that_nobody_reads_hold_one_piece_each() {
    let mut server = Scripted::new(Role::Server);
    server.send(kind::SETTINGS, 0, 0, &settings(&[(4, 0)]));
    let options = options();
    for n in 0..options.streams_max {
        server.request(2 * n + 1, true);
    }
    let keys = handed_out(&mut server);
    assert_eq!(keys.len(), options.streams_max as usize);
    let buffers = server.0.supply.buffers.clone();
    for key in &keys {
        server.0.send_head(*key, &response(), false).unwrap();
        let piece = buffers.copy(&[0; 16 << 10]).unwrap();
        server.0.send_data(*key, Body::Pooled(piece), false).unwrap();
        assert!(server.0.poll_flushed(*key, &cx()).is_pending(), "no more is asked for");
    }
    output(&mut server.0);
    assert!(buffers.bytes_out() <= keys.len() * (24 << 10), "{}", buffers.bytes_out());
    // More streams than that are refused.
    server.request(2 * options.streams_max + 1, true);
    let refused = (2 * options.streams_max + 1, H2Code::REFUSED_STREAM);
    assert_eq!(server.codes(), (None, vec![refused]));
    keys.iter().for_each(|key| server.0.release(*key));
    assert_eq!(buffers.bytes_out(), 0);
}

/// A server with a response on each of many streams, whose windows are empty.
fn with_empty_windows() -> Scripted {
    let mut server = Scripted::new(Role::Server);
    server.send(kind::SETTINGS, 0, 0, &settings(&[(4, 0)]));
    (0..100).for_each(|n| server.request(2 * n + 1, true));
    for key in handed_out(&mut server) {
        server.0.send_head(key, &response(), false).unwrap();
        server.0.send_data(key, data(60_000), true).unwrap();
    }
    output(&mut server.0);
    server
}

#[test]
fn windows_that_grow_by_a_byte_are_a_flood() {
    // CVE-2019-9511 and CVE-2019-9517: fifteen bytes of SETTINGS would be worth a hundred frames.
    let mut server = with_empty_windows();
    let mut window = 0;
    let rounds = attack(&mut server, 10_000, |server, _| {
        window += 1;
        server.send(kind::SETTINGS, 0, 0, &settings(&[(4, window)]));
    });
    assert!(rounds <= BURST, "{rounds} SETTINGS");
    assert_flood(&server.0);
    let mut server = with_empty_windows();
    let rounds = attack(&mut server, 20_000, |server, n| {
        server.send(kind::WINDOW_UPDATE, 0, 2 * (n % 100) + 1, &update(1));
    });
    assert!(rounds <= 2 * BURST, "{rounds} WINDOW_UPDATEs");
    assert_flood(&server.0);
}

#[test]
fn data_in_single_bytes_earns_nothing() {
    let mut server = Scripted::new(Role::Server);
    server.request(1, false);
    let keys = handed_out(&mut server);
    let rounds = attack(&mut server, 50_000, |server, _| {
        server.send(kind::DATA, 0, 1, b"x");
        server.send(kind::PING, 0, 0, b"12345678");
        server.send(kind::PING, 0, 0, b"12345678");
        let _ = server.0.poll_recv(keys[0], &cx());
    });
    assert!(rounds <= 2 * BURST, "{rounds} rounds");
    assert_flood(&server.0);
}

#[test]
fn padding_is_a_flood_and_gives_its_window_back() {
    let mut server = Scripted::new(Role::Server);
    server.request(1, false);
    handed_out(&mut server);
    let mut padded = [0; 256];
    padded[0] = 255;
    let rounds = attack(&mut server, 10_000, |server, _| {
        server.send(kind::DATA, flag::PADDED, 1, &padded);
    });
    assert!((BURST / 2..=BURST).contains(&rounds), "{rounds}: it is not stopped by the window");
    assert_flood(&server.0);
    assert_eq!(server.0.bytes_waiting(), 0);
}

#[test]
fn blocks_that_stand_for_more_than_they_are_hold_no_more_than_a_head() {
    let mut server = Scripted::new(Role::Server);
    // An entry of almost the whole table, and then as many references to it as fit.
    let mut block = b"\x82\x86\x84\x01\x01a\x40\x01x\x7f\xbd\x1d".to_vec();
    block.extend(vec![b'v'; 3900]);
    block.extend(vec![0xbe; 10_000]);
    for n in 0..200 {
        let flags = flag::END_HEADERS | flag::END_STREAM;
        server.send(kind::HEADERS, flags, 2 * n + 1, &block);
        output(&mut server.0);
        block = b"\x82\x86\x84\x01\x01a".to_vec();
        block.extend(vec![0xbe; 16_000]);
    }
    assert!(handed_out(&mut server).is_empty(), "all are too large");
    assert!(server.0.decoder.bytes_held() <= 12 << 10);
    let head = server.0.supply.heads.take();
    assert!(head.wire_size() == 0, "and their heads are empty again");
}

#[test]
fn informational_responses_without_end_are_a_flood() {
    // An endpoint, and a user that passes each of them on.
    let mut client = Scripted::new(Role::Client);
    let key = client.0.open(&request("/"), true).unwrap();
    let mut block = Vec::new();
    HpackEncoder::new().response(&Head::response(103), &mut block).unwrap();
    let rounds = attack(&mut client, 10_000, |client, _| {
        client.send(kind::HEADERS, flag::END_HEADERS, 1, &block);
        let _ = client.0.poll_recv_head(key, &cx(), &mut Head::default());
    });
    assert!(rounds <= BURST, "{rounds} heads");
}

#[test]
fn what_an_endpoint_sends_and_nobody_takes_is_in_the_account() {
    let mut client = Scripted::new(Role::Client);
    let mut head = Head::response(200);
    head.append(b"x", &vec![b'v'; 40_000]);
    let mut early = head.clone();
    early.set_status(103);
    let mut encoder = HpackEncoder::new();
    let mut send = |client: &mut Scripted, id: u32, head: &Head| {
        let mut out = vec![0; HEAD_LEN];
        encoder.response(head, &mut out).unwrap();
        frame::close_block(&mut out, 0, id, 0, FRAME_MAX as usize);
        client.0.feed(&out, NOW);
    };
    let mut keys = Vec::new();
    for n in 0..20 {
        keys.push(client.0.open(&request("/"), true).unwrap());
        (0..8).for_each(|_| send(&mut client, 2 * n + 1, &early));
        send(&mut client, 2 * n + 1, &head);
    }
    let held = 20 * 9 * 40_000;
    let charged = client.0.supply.buffers.bytes_out();
    assert!(charged >= held / 2, "{charged} of about {held} bytes are in the account");
    keys.iter().for_each(|key| client.0.release(*key));
    assert_eq!(client.0.supply.buffers.bytes_out(), 0);
}

#[test]
fn a_client_that_repeats_what_was_refused_without_end_is_a_flood() {
    let mut server = Scripted::new(Role::Server);
    // All that requests may have, but for one.
    let buffers = server.0.supply.buffers.clone();
    let held = buffers.charge_request((60 << 20) - REQUEST_BYTES, true).unwrap();
    server.request(1, true);
    server.request(3, true);
    assert_eq!((handed_out(&mut server).len(), server.0.take_starved()), (1, 1));
    assert_eq!(server.codes(), (None, vec![(3, H2Code::REFUSED_STREAM)]));
    let rounds = attack(&mut server, 10_000, |server, n| server.request(2 * n + 5, true));
    assert!(rounds <= BURST, "{rounds} requests");
    assert_flood(&server.0);
    assert!(server.0.take_starved() >= rounds);
    drop((server, held));
    assert_eq!(buffers.bytes_out(), 0);
}
