//! HTTP/2: GOAWAY, pings and idle time, frame by frame.

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Time between pings, and for their acknowledgement.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

fn on_http2(change: impl FnOnce(&mut HttpPlan), test: impl AsyncFnOnce(Bench)) {
    let options = |plan: &mut HttpPlan| {
        plan.options.versions = Versions::Http2;
        plan.options.h2.ping_timeout = PING_TIMEOUT;
        change(plan);
    };
    on_bench(options, test);
}

/// A frame as it was received.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A client that acknowledges what is to be acknowledged, unless it is told not to.
struct FrameClient {
    client: Client,
    partial: Vec<u8>,
    acknowledges: bool,
    next: u32,
}

impl FrameClient {
    /// A client whose handshake is done.
    async fn on(bench: &Bench) -> Self {
        let mut client = bench.connect().await;
        client.send(PREFACE).await;
        let mut client = Self { client, partial: Vec::new(), acknowledges: true, next: 1 };
        assert_eq!(client.frames().await.first().map(|frame| frame.kind), Some(SETTINGS));
        client
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.client.send(&frame(kind, flags, stream, payload)).await;
    }

    /// Sends a request without a body; returns its stream.
    async fn requests(&mut self) -> u32 {
        let (stream, frame) = self.request();
        self.client.send(&frame).await;
        stream
    }

    /// A request without a body: its stream and its frame.
    fn request(&mut self) -> (u32, Vec<u8>) {
        let stream = self.next;
        self.next += 2;
        // RFC 7541 §6: GET, http, /, and the authority as a literal.
        let head = [&[0x82, 0x86, 0x84, 0x41, 8][..], b"app.test"].concat();
        (stream, frame(HEADERS, END_HEADERS | END_STREAM, stream, &head))
    }

    /// The frames received since the last call; their acknowledgements are sent.
    async fn frames(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let (received, _) = self.client.receive();
            if received.is_empty() {
                return frames;
            }
            self.partial.extend(received);
            let before = frames.len();
            while let Some(frame) = take_frame(&mut self.partial) {
                frames.push(frame);
            }
            for frame in &frames[before..] {
                let asks = matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0;
                if asks && self.acknowledges && self.client.ended.get().is_none() {
                    let payload: &[u8] = if frame.kind == PING { &frame.payload } else { &[] };
                    self.send(frame.kind, ACK, 0, payload).await;
                }
            }
        }
    }

    /// How many frames of this kind have been received since the last call, acknowledgements not counted.
    async fn count(&mut self, kind: u8) -> usize {
        let is_ack = |frame: &Frame| matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK > 0;
        let frames = self.frames().await;
        frames.iter().filter(|frame| frame.kind == kind && !is_ack(frame)).count()
    }

    /// Checks that a stream has its whole response, without a body.
    async fn check_response(&mut self, stream: u32) {
        let frames = self.frames().await;
        let of_stream: Vec<&Frame> = frames.iter().filter(|frame| frame.stream == stream).collect();
        assert_eq!(of_stream.first().map(|frame| frame.kind), Some(HEADERS), "{frames:?}");
        assert!(of_stream.iter().any(|frame| frame.flags & END_STREAM > 0), "{frames:?}");
    }

    fn is_closed(&mut self) -> bool {
        self.client.receive().1
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn take_frame(bytes: &mut Vec<u8>) -> Option<Frame> {
    let (length, rest) = bytes.split_first_chunk::<3>()?;
    let length =
        usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    let payload = rest.get(6..6 + length)?.to_vec();
    let stream = u32::from_be_bytes([rest[2], rest[3], rest[4], rest[5]]);
    let frame = Frame { kind: rest[0], flags: rest[1], stream, payload };
    bytes.drain(..9 + length);
    Some(frame)
}

#[test]
fn a_header_block_that_does_not_arrive_ends_the_connection() {
    // Nothing; a part of a frame header; a part of a header block; one that is to go on.
    let head = [&[0x82, 0x86, 0x84, 0x41, 8][..], b"app.test"].concat();
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head);
    let unended = frame(HEADERS, END_STREAM, 1, &head);
    for (sent, is_due) in
        [(&[][..], false), (&whole[..3], true), (&whole[..15], true), (&unended[..], true)]
    {
        for open in [false, true] {
            on_http2(
                |plan| plan.options.h2.ping_interval = None,
                async |bench| {
                    let endpoint = bench.endpoint();
                    let mut client = FrameClient::on(&bench).await;
                    if open {
                        client.next = 3;
                        client.requests().await;
                    }
                    // A stream that is opened later has a larger number.
                    let mut sent = sent.to_vec();
                    if let Some(id) = sent.get_mut(8).filter(|_| open) {
                        *id = 5;
                    }
                    client.client.send(&sent).await;
                    bench.pass(HEAD_TIMEOUT - SECOND).await;
                    // More of it does not help; it is the whole that counts.
                    if sent.len() > 9 {
                        client.client.send(&whole[15..16]).await;
                    }
                    client.client.check_end(None);
                    bench.pass(SECOND * 2).await;
                    client.client.check_end(is_due.then_some(reasons::HEAD_TIMEOUT));
                    assert_eq!(client.count(GOAWAY).await, usize::from(is_due));
                    assert_eq!(bench.faults("http2.head_timeout"), i64::from(is_due));
                    drop(endpoint);
                },
            );
        }
    }
}

#[test]
fn frames_that_are_cut_anywhere_are_not_overdue() {
    on_http2(
        |plan| plan.options.h2.ping_interval = None,
        async |bench| {
            let mut client = FrameClient::on(&bench).await;
            for _ in 0..20 {
                bench.responds(204);
                let (stream, request) = client.request();
                // Each read ends within a frame, but none takes long.
                client.client.send(&request[..5]).await;
                bench.pass(HEAD_TIMEOUT / 4).await;
                client.client.send(&request[5..]).await;
                client.check_response(stream).await;
                bench.pass(HEAD_TIMEOUT / 4).await;
            }
            client.client.check_end(None);
        },
    );
}

#[test]
fn many_requests_at_once_leave_others_their_turn() {
    on_http2(
        |_| {},
        async |bench| {
            let mut client = FrameClient::on(&bench).await;
            let count = 64;
            (0..count).for_each(|_| bench.responds(200));
            let requests: Vec<u8> = (0..count).flat_map(|_| client.request().1).collect();
            let most = bench.most_in_a_row(&mut client.client, &requests, 64).await;
            assert!(most <= 32, "{most} requests");
        },
    );
}

#[test]
fn streams_are_served_at_the_same_time() {
    on_http2(
        |_| {},
        async |bench| {
            let endpoints = [bench.endpoint(), bench.endpoint(), bench.endpoint()];
            let mut client = FrameClient::on(&bench).await;
            let mut streams = Vec::new();
            for _ in &endpoints {
                streams.push(client.requests().await);
            }
            for (endpoint, stream) in endpoints.iter().zip(streams).rev() {
                endpoint.does(kit::response(204, true));
                turns().await;
                client.check_response(stream).await;
            }
            client.client.ends().await;
            client.client.check_end(Some(end::DONE));
        },
    );
}

#[test]
fn a_stream_that_is_reset_does_not_end_the_connection() {
    on_http2(
        |_| {},
        async |bench| {
            let endpoint = bench.endpoint();
            let mut client = FrameClient::on(&bench).await;
            let stream = client.requests().await;
            client.send(3, 0, stream, &[0, 0, 0, 8]).await;
            assert!(kit::is_reset(&endpoint), "its request is cancelled");
            bench.responds(200);
            let stream = client.requests().await;
            client.check_response(stream).await;
            client.client.check_end(None);
        },
    );
}

// --- the handshake ---

#[test]
fn a_client_without_a_preface_ends() {
    on_http2(
        |_| {},
        async |bench| {
            let mut silent = bench.connect().await;
            bench.pass(HEAD_TIMEOUT - SECOND).await;
            silent.check_end(None);
            bench.pass(SECOND * 2).await;
            silent.check_end(Some(reasons::HEAD_TIMEOUT));
            assert!(silent.receive().1);
            let mut other = bench.connect().await;
            other.send(REQUEST).await;
            other.check_end(Some(reasons::MALFORMED));
            assert_eq!(bench.faults("http2.preface_malformed"), 1);
        },
    );
}

#[test]
fn a_malformed_frame_ends_the_connection_and_is_counted() {
    on_http2(
        |_| {},
        async |bench| {
            let mut client = FrameClient::on(&bench).await;
            // DATA on a stream that nobody opened.
            client.send(DATA, 0, 1, b"x").await;
            client.client.check_end(Some(reasons::MALFORMED));
            assert_eq!(client.count(GOAWAY).await, 1);
            assert_eq!(bench.faults("http2.frame_on_idle_stream"), 1);
        },
    );
}

#[test]
fn a_malformed_request_ends_only_its_stream() {
    on_http2(
        |_| {},
        async |bench| {
            let mut client = FrameClient::on(&bench).await;
            // A header that belongs to a connection, RFC 9113 §8.2.2: GET, http, /, and `te: no`.
            let head = [&[0x82, 0x86, 0x84, 0x00, 2][..], b"te", &[2], b"no"].concat();
            client.send(HEADERS, END_HEADERS | END_STREAM, 1, &head).await;
            client.client.check_end(None);
            client.next = 3;
            bench.responds(200);
            let stream = client.requests().await;
            client.check_response(stream).await;
        },
    );
}

// --- idle time ---

#[test]
fn an_idle_connection_is_given_time_to_close() {
    on_http2(
        |_| {},
        async |bench| {
            bench.responds(200);
            let mut client = FrameClient::on(&bench).await;
            bench.pass(IDLE_TIMEOUT - SECOND).await;
            let stream = client.requests().await;
            client.check_response(stream).await;
            bench.pass(IDLE_TIMEOUT - SECOND).await;
            // Other frames are no use of the connection.
            client.send(PING, 0, 0, &[0; 8]).await;
            assert_eq!(client.count(GOAWAY).await, 0);
            // One that closes the connection itself would acknowledge the PING that follows GOAWAY.
            client.acknowledges = false;
            bench.pass(SECOND * 2).await;
            assert!(client.count(GOAWAY).await > 0);
            client.client.check_end(None);
            bench.pass(SECOND / 2).await;
            client.client.check_end(None);
            bench.pass(SECOND).await;
            client.client.check_end(Some(reasons::KEEPALIVE_IDLE));
            assert!(client.is_closed());
        },
    );
}

#[test]
fn a_client_that_closes_after_goaway_has_been_idle() {
    on_http2(
        |_| {},
        async |bench| {
            let mut client = FrameClient::on(&bench).await;
            bench.pass(IDLE_TIMEOUT + SECOND).await;
            assert!(client.count(GOAWAY).await > 0);
            client.client.ends().await;
            client.client.check_end(Some(reasons::KEEPALIVE_IDLE));
        },
    );
}

#[test]
fn a_connection_with_an_open_stream_is_not_idle() {
    on_http2(
        |_| {},
        async |bench| {
            let endpoint = bench.endpoint();
            let mut client = FrameClient::on(&bench).await;
            let stream = client.requests().await;
            bench.pass(IDLE_TIMEOUT * 3).await;
            assert_eq!(client.count(GOAWAY).await, 0);
            endpoint.does(kit::response(204, true));
            turns().await;
            client.check_response(stream).await;
            // It is idle from now on.
            bench.pass(IDLE_TIMEOUT - SECOND).await;
            assert_eq!(client.count(GOAWAY).await, 0);
            bench.pass(SECOND * 2).await;
            assert!(client.count(GOAWAY).await > 0);
        },
    );
}

// --- pings ---

fn with_pings(plan: &mut HttpPlan) {
    plan.options.h2.ping_interval = Some(PING_INTERVAL);
}

#[test]
fn a_client_with_an_open_stream_is_asked_whether_it_is_there() {
    on_http2(with_pings, async |bench| {
        let endpoint = bench.endpoint();
        let mut client = FrameClient::on(&bench).await;
        let stream = client.requests().await;
        client.frames().await;
        for _ in 0..3 {
            bench.pass(PING_INTERVAL - SECOND).await;
            assert_eq!(client.count(PING).await, 0);
            bench.pass(SECOND * 2).await;
            assert_eq!(client.count(PING).await, 1, "which it acknowledges");
            bench.pass(PING_TIMEOUT + SECOND).await;
            client.client.check_end(None);
            // The interval begins with the acknowledgement, or the next time that the connection is looked at.
            client.send(PING, 0, 0, &[0; 8]).await;
        }
        endpoint.does(kit::response(204, true));
        turns().await;
        client.check_response(stream).await;
        assert!(client.client.conn.info.detail.get().is_none());
    });
}

#[test]
fn a_client_that_does_not_reply_to_a_ping_has_gone() {
    on_http2(with_pings, async |bench| {
        let endpoint = bench.endpoint();
        let mut client = FrameClient::on(&bench).await;
        client.requests().await;
        client.frames().await;
        client.acknowledges = false;
        bench.pass(PING_INTERVAL + SECOND).await;
        assert_eq!(client.count(PING).await, 1);
        bench.pass(PING_TIMEOUT - SECOND * 2).await;
        client.client.check_end(None);
        bench.pass(SECOND * 3).await;
        client.client.check_end(Some(end::DOWNSTREAM_CLOSED));
        turns().await;
        assert!(kit::is_reset(&endpoint), "its requests are cancelled");
    });
}

#[test]
fn a_connection_without_streams_is_not_asked() {
    on_http2(with_pings, async |bench| {
        let mut client = FrameClient::on(&bench).await;
        bench.pass(PING_INTERVAL * 2).await;
        assert_eq!(client.count(PING).await, 0);
    });
}

// --- draining ---

#[test]
fn a_connection_that_drains_finishes_its_requests() {
    on_http2(
        |_| {},
        async |bench| {
            let endpoint = bench.endpoint();
            let mut client = FrameClient::on(&bench).await;
            let stream = client.requests().await;
            client.client.conn.finish();
            turns().await;
            assert!(client.count(GOAWAY).await > 0);
            client.client.check_end(None);
            endpoint.does(kit::response(204, true));
            turns().await;
            client.check_response(stream).await;
            client.client.check_end(Some(end::DRAIN));
            assert!(client.is_closed());
        },
    );
}

#[test]
fn the_last_request_of_a_connection_is_followed_by_goaway() {
    on_http2(
        |plan| plan.options.requests_max = Some(2),
        async |bench| {
            (0..2).for_each(|_| bench.responds(204));
            let mut client = FrameClient::on(&bench).await;
            let stream = client.requests().await;
            client.check_response(stream).await;
            assert_eq!(client.count(GOAWAY).await, 0);
            client.requests().await;
            let frames = client.frames().await;
            assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "{frames:?}");
            client.frames().await;
            client.client.check_end(Some(end::DONE));
        },
    );
}

#[test]
fn a_stream_without_memory_is_refused_and_the_only_one_last() {
    const RST_STREAM: u8 = 3;
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    on_http2(
        |_| {},
        async |bench| {
            let mut client = FrameClient::on(&bench).await;
            let held = bench.fill_memory(2 * REQUEST_BYTES);
            let endpoint = bench.endpoint();
            let served = client.requests().await;
            let refused = client.requests().await;
            let frames = client.frames().await;
            let reset = frames.iter().find(|frame| frame.kind == RST_STREAM).unwrap();
            assert_eq!((reset.stream, &*reset.payload), (refused, &REFUSED_STREAM[..]));
            assert_eq!(bench.ended_for_memory(), 1);
            endpoint.does(kit::response(200, true));
            turns().await;
            client.check_response(served).await;
            // There is less now than a request takes.
            let more = bench.worker.buffers.charge_request(REQUEST_BYTES + 1, true).unwrap();
            client.requests().await;
            assert_eq!(client.count(RST_STREAM).await, 1);
            drop((held, more));
            assert_eq!(bench.worker.buffers.bytes_out(), 0);
            bench.responds(200);
            let served = client.requests().await;
            client.check_response(served).await;
        },
    );
}
