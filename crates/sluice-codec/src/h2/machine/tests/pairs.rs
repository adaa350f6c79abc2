//! A client and a server.

use super::*;

#[test]
fn a_request_and_its_response() {
    let mut pair = Pair::new();
    let (here, there) = pair.open("/", false);
    pair.client.send_data(here, data(10), true).unwrap();
    pair.settle();
    assert_eq!(received(&mut pair.server, there), (10, true));
    pair.server.send_head(there, &Head::response(103), false).unwrap();
    pair.server.send_head(there, &response(), false).unwrap();
    pair.server.send_data(there, data(50_000), false).unwrap();
    let mut trailers = Head::default();
    trailers.append(b"x-sum", b"1");
    pair.server.send_end(there, Some(&trailers)).unwrap();
    pair.settle();
    let mut head = Head::default();
    for status in [103, 200] {
        assert!(matches!(pair.client.poll_recv_head(here, &cx(), &mut head), Poll::Ready(Ok(()))));
        assert_eq!(head.status(), status);
    }
    let mut bytes = 0;
    let trailers = loop {
        match pair.client.poll_recv(here, &cx()) {
            Poll::Ready(Ok(Frame::Data { body, last: false })) => bytes += body.len(),
            Poll::Ready(Ok(Frame::Trailers(trailers))) => break trailers,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((bytes, trailers.get_named(b"x-sum")), (50_000, Some(&b"1"[..])));
    assert!(pair.client.is_received(here) && pair.server.is_sent(there));
    pair.client.release(here);
    pair.server.release(there);
    pair.settle();
    assert_eq!((pair.client.open_streams(), pair.server.open_streams()), (0, 0));
    assert_eq!(pair.client.end(), None, "both sides are content");
}

#[test]
fn cutting_changes_nothing() {
    let mut client = H2Machine::new(Role::Client, &options(), supply(), NOW);
    let key = client.open(&request("/a"), false).unwrap();
    let mut bytes = output(&mut client);
    client.send_data(key, data(300), false).unwrap();
    bytes.extend(output(&mut client));
    frame::write(&mut bytes, kind::DATA, flag::PADDED, 1, b"\x03x\0\0\0");
    frame::write(&mut bytes, kind::DATA, flag::PADDED, 1, b"\x02\0\0");
    frame::write(&mut bytes, kind::DATA, flag::PADDED, 1, b"\0yz");
    let mut trailers = Head::default();
    trailers.append(b"x", b"y");
    client.send_end(key, Some(&trailers)).unwrap();
    bytes.extend(output(&mut client));
    frame::write(&mut bytes, kind::PING, 0, 0, b"12345678");
    frame::write(&mut bytes, 99, 0, 0, b"unknown");
    let run = |cuts: &mut dyn Iterator<Item = usize>| {
        let mut server = H2Machine::new(Role::Server, &options(), supply(), NOW);
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            server.feed(piece, NOW);
            rest = behind;
        }
        server.feed(rest, NOW);
        let Some(MachineEvent::Request(key, head)) = server.poll_event() else {
            panic!("there is no request");
        };
        (format!("{head:?}"), received(&mut server, key), output(&mut server))
    };
    let whole = run(&mut std::iter::empty());
    assert_eq!(whole.1, (303, true));
    for at in 0..bytes.len() {
        assert_eq!(run(&mut std::iter::once(at)), whole, "cut at {at}");
    }
    assert_eq!(run(&mut std::iter::repeat_n(1, bytes.len())), whole, "byte by byte");
}

#[test]
fn a_stream_that_is_not_read_holds_up_no_other() {
    let mut pair = Pair::new();
    // Ten streams fill their windows, which are two and a half times that of the connection.
    for n in 0..10 {
        let (here, there) = pair.open(&format!("/{n}"), true);
        pair.server.send_head(there, &response(), false).unwrap();
        pair.server.send_data(there, data(200_000), true).unwrap();
        pair.settle();
        assert!(!pair.server.is_sent(there), "stream {here} is not read");
        if pair.client.bytes_waiting() > 400_000 {
            break;
        }
        let (here, there) = pair.open("/live", true);
        pair.server.send_head(there, &response(), false).unwrap();
        pair.server.send_data(there, data(150_000), true).unwrap();
        let mut bytes = 0;
        while !pair.client.is_received(here) {
            pair.settle();
            bytes += received(&mut pair.client, here).0;
        }
        assert_eq!(bytes, 150_000, "behind {} that are not read", n + 1);
        pair.client.release(here);
    }
    assert!(pair.client.bytes_waiting() > 400_000 && pair.client.end().is_none());
}

#[test]
fn a_stream_that_is_reset_gives_back_the_window_of_the_connection() {
    let mut pair = Pair::new();
    for _ in 0..40 {
        let (here, there) = pair.open("/", false);
        pair.client.send_data(here, data(90_000), false).unwrap();
        pair.settle();
        pair.server.release(there);
        pair.settle();
        assert!(matches!(pair.client.poll_gone(here, &cx()), Poll::Ready(_)));
        pair.client.release(here);
    }
    assert_eq!((pair.server.bytes_waiting(), pair.server.supply.buffers.bytes_out()), (0, 0));
    let (here, _) = pair.open("/", false);
    pair.client.send_data(here, data(90_000), true).unwrap();
    pair.settle();
    assert!(pair.client.is_sent(here));
}

#[test]
fn streams_share_the_connection_frame_by_frame() {
    let mut pair = Pair::new();
    let keys: Vec<usize> = (0..3).map(|n| pair.open(&format!("/{n}"), true).1).collect();
    for key in keys {
        pair.server.send_head(key, &response(), false).unwrap();
        pair.server.send_data(key, data(40_000), true).unwrap();
    }
    let order: Vec<u32> = frames(&output(&mut pair.server))
        .iter()
        .filter_map(|(kind, _, stream, _)| (*kind == kind::DATA).then_some(*stream))
        .collect();
    assert_eq!(order[..6], [1, 3, 5, 1, 3, 5]);
}

#[test]
fn an_urgent_stream_goes_first_and_one_at_a_time() {
    let mut pair = Pair::new();
    let mut open = |priority: &str| {
        let mut head = request("/");
        head.append(b"priority", priority.as_bytes());
        pair.client.open(&head, true).unwrap();
        pair.settle();
        pair.accept().unwrap()
    };
    let keys = [open("u=5"), open("u=1"), open("u=1, i")];
    for key in keys {
        pair.server.send_head(key, &response(), false).unwrap();
        pair.server.send_data(key, data(30_000), true).unwrap();
    }
    let order: Vec<u32> = frames(&output(&mut pair.server))
        .iter()
        .filter_map(|(kind, _, stream, _)| (*kind == kind::DATA).then_some(*stream))
        .collect();
    // Stream 3 as a whole, then 5, and only then 1; frames are cut where a write is full.
    let mut runs = order.clone();
    runs.dedup();
    assert_eq!(runs, [3, 5, 1], "{order:?}");
}

#[test]
fn a_drain_serves_what_is_open_and_refuses_what_comes_late() {
    let mut pair = Pair::new();
    let (here, there) = pair.open("/", true);
    pair.server.drain();
    // The client opens one more before it knows.
    let late = pair.client.open(&request("/late"), true).unwrap();
    let goaway = output(&mut pair.server);
    let requests = output(&mut pair.client);
    pair.server.feed(&requests, NOW);
    pair.client.feed(&goaway, NOW);
    assert!(!pair.client.is_alive());
    let second = pair.accept().expect("it was opened in time");
    pair.settle();
    for key in [there, second] {
        assert!(!pair.server.is_winding_down());
        pair.server.send_head(key, &response(), true).unwrap();
    }
    pair.settle();
    assert!(received(&mut pair.client, here).1 && received(&mut pair.client, late).1);
    assert!(pair.server.is_winding_down());
    pair.server.end_if_drained();
    assert_eq!(pair.server.end(), Some(&ConnectionEnd::Done));
}

#[test]
fn what_a_goaway_does_not_name_is_refused() {
    let mut pair = Pair::new();
    let keys = [(); 3].map(|()| pair.client.open(&request("/"), true).unwrap());
    let mut goaway = Vec::new();
    frame::write_goaway(&mut goaway, 3, H2Code::ENHANCE_YOUR_CALM);
    let len = goaway.len();
    goaway[2] += 7;
    goaway.extend_from_slice(b"go easy");
    assert_eq!(goaway.len(), len + 7);
    pair.client.feed(&goaway, NOW);
    let gone = |pair: &mut Pair, key| match pair.client.poll_gone(key, &cx()) {
        Poll::Ready(error) => Some((error.kind(), error.detail().to_owned())),
        Poll::Pending => None,
    };
    assert_eq!(gone(&mut pair, keys[0]), None);
    assert_eq!(gone(&mut pair, keys[1]), None);
    let text = "http2: GOAWAY received: ENHANCE_YOUR_CALM (11) (\"go easy\")".to_owned();
    assert_eq!(gone(&mut pair, keys[2]), Some((ErrorKind::Refused, text)));
    assert!(matches!(pair.client.poll_open(&request("/"), &cx()), Poll::Ready(Err(_))));
}

#[test]
fn a_client_waits_for_a_stream_and_for_extended_connect() {
    let options = H2Options { streams_max: 1, ..options() };
    let mut client = H2Machine::new(Role::Client, &options, supply(), NOW);
    let mut socket = request("/chat");
    socket.set_upgrade(b"websocket");
    assert!(client.poll_open(&socket, &cx()).is_pending(), "the server's SETTINGS say whether");
    let mut server = H2Machine::new(Role::Server, &options, supply(), NOW);
    client.feed(&output(&mut server), NOW);
    assert!(client.poll_open(&socket, &cx()).is_ready());
    let mut pair = Pair { client, server };
    let (here, there) = pair.open("/", true);
    assert!(pair.client.poll_open(&request("/"), &cx()).is_pending(), "one is allowed");
    pair.server.send_head(there, &response(), true).unwrap();
    pair.settle();
    assert!(received(&mut pair.client, here).1);
    assert!(pair.client.poll_open(&request("/"), &cx()).is_ready());
    let mut plain = Scripted::new(Role::Client);
    let refused = plain.0.poll_open(&socket, &cx());
    assert!(
        matches!(refused, Poll::Ready(Err(error)) if error.kind() == ErrorKind::Malformed(502))
    );
}

#[test]
fn a_large_head_waits_for_its_account_and_is_cut() {
    let mut pair = Pair::new();
    let (here, there) = pair.open("/", true);
    let mut head = response();
    (0..50).for_each(|n| head.append(b"x", format!("{n}").repeat(400).as_bytes()));
    pair.server.send_head(there, &head, true).unwrap();
    assert!(pair.server.out_charge.bytes() > 20_000);
    pair.settle();
    assert_eq!(pair.server.out_charge.bytes(), 0);
    let mut seen = Head::default();
    assert!(pair.client.poll_recv_head(here, &cx(), &mut seen).is_ready());
    assert_eq!(seen.len(), 50);
    let (_, there) = pair.open("/", true);
    // All that data may take.
    let buffers = pair.server.supply.buffers.clone();
    let mut all = buffers.charge();
    all.set((56 << 20) - buffers.bytes_out()).unwrap();
    let refused = pair.server.send_head(there, &head, true).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Buffers);
    drop(all);
    pair.server.send_head(there, &head, true).unwrap();
    pair.settle();
    assert_eq!(pair.client.end(), None, "the tables are in step");
}
