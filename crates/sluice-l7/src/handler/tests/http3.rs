//! HTTP/3: GOAWAY, idle time and refused streams, frame by frame over a QUIC connection on loopback.
//!
//! Network time passes by itself here and the handler's clock does not, so that each step waits for what it causes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, RecvStream, SendStream};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use sluice_quic::QuicHandler as _;
use tokio::sync::Notify;

use super::super::http3::DELIVERY_TIME;
use super::*;

// RFC 9114 §7.2.
const DATA: u64 = 0;
const HEADERS: u64 = 1;
const SETTINGS: u64 = 4;
const GOAWAY: u64 = 7;

// RFC 9114 §8.1.
const NO_ERROR: u32 = 0x100;
const FRAME_UNEXPECTED: u32 = 0x105;
const REQUEST_REJECTED: u32 = 0x10b;
const REQUEST_CANCELLED: u32 = 0x10c;

/// The preface of the client's control stream: its type, and an empty SETTINGS frame.
const CONTROL: &[u8] = &[0, 4, 0];

/// RFC 9204, appendix A: GET, https, /, and the authority as a literal.
const REQUEST_HEAD: &[u8] = b"\0\0\xd1\xd7\xc1\x50\x08app.test";

/// A client that writes and reads frames by hand.
struct QuicClient {
    quic: quinn::Connection,
    /// Its control stream, which must stay open.
    control: SendStream,
    /// The control stream of the server.
    from_server: RecvStream,
    conn: Rc<Conn>,
    ended: Rc<Cell<Option<Reason>>>,
    on_end: Rc<Notify>,
    _endpoints: [Endpoint; 2],
}

/// A request stream.
struct Stream3 {
    send: SendStream,
    recv: RecvStream,
}

/// Both ends of a QUIC connection.
async fn quic_pair() -> ([Endpoint; 2], [quinn::Connection; 2]) {
    let made = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = [&rustls::version::TLS13];
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let mut server = server
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    server.alpn_protocols = vec![b"h3".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider);
    let mut client = client
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h3".to_vec()];
    let server = QuicServerConfig::try_from(server).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(server));
    let client = QuicClientConfig::try_from(client).unwrap();
    let client = quinn::ClientConfig::new(Arc::new(client));
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let near = Endpoint::server(server, any).unwrap();
    let far = Endpoint::client(any).unwrap();
    let connecting = far.connect_with(client, near.local_addr().unwrap(), "app.test").unwrap();
    let accepting = async { near.accept().await.unwrap().await };
    let (of_client, of_server) = tokio::try_join!(connecting, accepting).unwrap();
    ([near, far], [of_client, of_server])
}

/// A number as RFC 9000 §16 writes it.
async fn read_number(from: &mut RecvStream) -> Option<u64> {
    let mut first = [0];
    from.read_exact(&mut first).await.ok()?;
    let mut value = u64::from(first[0] & 0x3f);
    for _ in 1..1_usize << (first[0] >> 6) {
        let mut next = [0];
        from.read_exact(&mut next).await.ok()?;
        value = value << 8 | u64::from(next[0]);
    }
    Some(value)
}

/// The type and content of the next frame; `None` at the end of the stream.
async fn read_frame(from: &mut RecvStream) -> Option<(u64, Vec<u8>)> {
    let kind = read_number(from).await?;
    let length = usize::try_from(read_number(from).await?).unwrap();
    let mut content = vec![0; length];
    from.read_exact(&mut content).await.ok()?;
    Some((kind, content))
}

/// A frame of fewer than 64 bytes.
fn frame(kind: u64, content: &[u8]) -> Vec<u8> {
    let head = [u8::try_from(kind).unwrap(), u8::try_from(content.len()).unwrap()];
    assert!(head.iter().all(|byte| *byte < 64));
    [&head, content].concat()
}

impl QuicClient {
    /// A client whose handshake is done.
    async fn on(bench: &Bench) -> Self {
        let mut client = Self::silent(bench).await;
        client.control.write_all(CONTROL).await.unwrap();
        assert_eq!(read_frame(&mut client.from_server).await.unwrap().0, SETTINGS);
        client
    }

    /// A client that has not begun with HTTP/3 yet.
    async fn silent(bench: &Bench) -> Self {
        let (endpoints, [quic, of_server]) = quic_pair().await;
        let info = ConnInfo::new(1, "web".into(), Peer::Unix, Peer::Unix, bench.worker.now());
        let conn = Conn::enter(&bench.worker, info);
        let (ended, on_end) = (Rc::new(Cell::new(None)), Rc::new(Notify::new()));
        let serving = Rc::clone(&bench.handler).serve(of_server, Rc::clone(&conn));
        let (of_task, why, told) = (Rc::clone(&conn), Rc::clone(&ended), Rc::clone(&on_end));
        bench.worker.spawn(async move {
            let (Ok(reason) | Err(reason)) = of_task.live(serving).await;
            why.set(Some(reason));
            told.notify_one();
        });
        let control = quic.open_uni().await.unwrap();
        // The other streams of the server are those of QPACK, which it does not use.
        let from_server = loop {
            let mut stream = quic.accept_uni().await.unwrap();
            if read_number(&mut stream).await == Some(0) {
                break stream;
            }
        };
        Self { quic, control, from_server, conn, ended, on_end, _endpoints: endpoints }
    }

    /// Opens a stream and sends these bytes.
    async fn open(&self, bytes: &[u8]) -> Stream3 {
        let (mut send, recv) = self.quic.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        Stream3 { send, recv }
    }

    /// Sends a request without a body.
    async fn requests(&self) -> Stream3 {
        let mut stream = self.open(&frame(HEADERS, REQUEST_HEAD)).await;
        stream.send.finish().unwrap();
        stream
    }

    /// Waits for GOAWAY; returns the first stream that will not be served.
    async fn goaway(&mut self) -> u64 {
        let (kind, content) = read_frame(&mut self.from_server).await.unwrap();
        assert_eq!((kind, content.len()), (GOAWAY, 1));
        content[0].into()
    }

    /// Waits until the handler has ended, and checks why.
    async fn check_end(&self, expected: Reason) {
        if self.ended.get().is_none() {
            self.on_end.notified().await;
        }
        assert_eq!(self.ended.get().map(Reason::code), Some(expected.code()));
    }

    /// Waits until the server has closed the connection; returns the code.
    async fn closed(&self) -> u32 {
        match self.quic.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                close.error_code.into_inner().try_into().unwrap()
            }
            other => panic!("{other}"),
        }
    }
}

impl Stream3 {
    /// Waits for the response, to its end; returns its status.
    async fn response(&mut self) -> u16 {
        let (kind, head) = read_frame(&mut self.recv).await.unwrap();
        assert_eq!(kind, HEADERS);
        while let Some((kind, _)) = read_frame(&mut self.recv).await {
            assert_eq!(kind, DATA);
        }
        // Behind the prefix of the field section; RFC 9204, appendix A.
        match &head[2..] {
            [0xd9, ..] => 200,
            [0xff, 4, ..] => 400,
            // A literal with the name of entry 24.
            [0x5f, 9, 3, digits @ ..] => {
                std::str::from_utf8(&digits[..3]).unwrap().parse().unwrap()
            }
            other => panic!("{other:x?}"),
        }
    }
}

/// Waits until something has happened on the network.
async fn until(happened: impl Fn() -> bool) {
    while !happened() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn streams_are_served_at_the_same_time() {
    on_bench(
        |_| {},
        async |bench| {
            let endpoints = [bench.endpoint(), bench.endpoint(), bench.endpoint()];
            let client = QuicClient::on(&bench).await;
            let mut streams = Vec::new();
            for endpoint in &endpoints {
                streams.push(client.requests().await);
                until(|| !endpoint.sent().is_empty()).await;
            }
            for (endpoint, stream) in endpoints.iter().zip(&mut streams).rev() {
                endpoint.does(kit::response(200, true));
                assert_eq!(stream.response().await, 200);
            }
            client.quic.close(NO_ERROR.into(), b"");
            client.check_end(end::DONE).await;
            let (received, sent) = (client.conn.info.received.get(), client.conn.info.sent.get());
            // A HEADERS frame each at least, of which the responses have the shorter one.
            assert!(received > 3 * REQUEST_HEAD.len() as u64 && sent >= 3 * 5, "{received} {sent}");
        },
    );
}

#[test]
fn a_stream_that_is_reset_does_not_end_the_connection() {
    on_bench(
        |_| {},
        async |bench| {
            let endpoint = bench.endpoint();
            let client = QuicClient::on(&bench).await;
            let mut stream = client.open(&frame(HEADERS, REQUEST_HEAD)).await;
            until(|| !endpoint.sent().is_empty()).await;
            stream.send.reset(REQUEST_CANCELLED.into()).unwrap();
            until(|| kit::is_reset(&endpoint)).await;
            bench.responds(200);
            assert_eq!(client.requests().await.response().await, 200);
        },
    );
}

#[test]
fn a_client_that_says_nothing_ends() {
    on_bench(
        |_| {},
        async |bench| {
            let client = QuicClient::silent(&bench).await;
            bench.pass(IDLE_TIMEOUT + SECOND).await;
            assert!(client.ended.get().is_none());
            bench.pass(DELIVERY_TIME + SECOND).await;
            client.check_end(reasons::KEEPALIVE_IDLE).await;
        },
    );
}

#[test]
fn a_request_whose_headers_do_not_arrive_is_refused_and_others_are_served() {
    on_bench(
        |_| {},
        async |bench| {
            let client = QuicClient::on(&bench).await;
            // The beginning of a HEADERS frame.
            let mut late = client.open(&[1, 15, 0, 0]).await;
            // Streams are accepted in order.
            bench.responds(200);
            assert_eq!(client.requests().await.response().await, 200);
            bench.pass(HEAD_TIMEOUT + SECOND).await;
            assert_eq!(late.response().await, 408);
            assert_eq!(bench.faults("http3.head_timeout"), 1);
        },
    );
}

#[test]
fn a_frame_that_must_not_be_there_ends_the_connection_and_is_counted() {
    on_bench(
        |_| {},
        async |bench| {
            let client = QuicClient::on(&bench).await;
            // DATA before HEADERS, RFC 9114 §4.1.
            let _stream = client.open(&frame(DATA, b"x")).await;
            assert_eq!(client.closed().await, FRAME_UNEXPECTED);
            client.check_end(reasons::MALFORMED).await;
        },
    );
}

#[test]
fn an_idle_connection_is_given_time_to_close() {
    on_bench(
        |_| {},
        async |bench| {
            bench.responds(200);
            let mut client = QuicClient::on(&bench).await;
            assert_eq!(client.requests().await.response().await, 200);
            turns().await;
            bench.pass(IDLE_TIMEOUT - SECOND).await;
            assert!(client.ended.get().is_none());
            bench.pass(SECOND * 2).await;
            assert_eq!(client.goaway().await, 4);
            assert!(client.ended.get().is_none(), "responses may still be in flight");
            bench.pass(DELIVERY_TIME + SECOND).await;
            client.check_end(reasons::KEEPALIVE_IDLE).await;
            assert_eq!(client.closed().await, NO_ERROR);
        },
    );
}

#[test]
fn a_connection_that_drains_finishes_its_requests() {
    on_bench(
        |_| {},
        async |bench| {
            let endpoint = bench.endpoint();
            let mut client = QuicClient::on(&bench).await;
            let mut stream = client.requests().await;
            until(|| !endpoint.sent().is_empty()).await;
            client.conn.finish();
            assert_eq!(client.goaway().await, 4);
            // It is not processed, and may be sent elsewhere (RFC 9114 §5.2).
            let mut refused = client.requests().await;
            let reset = refused.recv.read_to_end(64).await;
            assert!(format!("{reset:?}").contains("Reset"), "{reset:?}");
            endpoint.does(kit::response(200, true));
            assert_eq!(stream.response().await, 200);
            client.quic.close(NO_ERROR.into(), b"");
            client.check_end(end::DRAIN).await;
        },
    );
}

#[test]
fn the_last_request_of_a_connection_is_followed_by_goaway() {
    on_bench(
        |plan| plan.options.requests_max = Some(2),
        async |bench| {
            (0..2).for_each(|_| bench.responds(200));
            let mut client = QuicClient::on(&bench).await;
            for _ in 0..2 {
                assert_eq!(client.requests().await.response().await, 200);
            }
            assert_eq!(client.goaway().await, 8);
            client.quic.close(NO_ERROR.into(), b"");
            client.check_end(end::DRAIN).await;
        },
    );
}

#[test]
fn a_stream_without_memory_is_rejected_before_its_request_is_read() {
    on_bench(
        |_| {},
        async |bench| {
            let client = QuicClient::on(&bench).await;
            let held = bench.fill_memory(2 * REQUEST_BYTES);
            let endpoint = bench.endpoint();
            let mut served = client.requests().await;
            until(|| !endpoint.sent().is_empty()).await;
            let (mut send, mut recv) = client.quic.open_bi().await.unwrap();
            send.write_all(b"x").await.unwrap();
            match recv.read(&mut [0]).await.unwrap_err() {
                quinn::ReadError::Reset(code) => assert_eq!(code, REQUEST_REJECTED.into()),
                other => panic!("{other}"),
            }
            assert_eq!(bench.ended_for_memory(), 1);
            endpoint.does(kit::response(200, true));
            assert_eq!(served.response().await, 200);
            drop((held, served));
            until(|| bench.worker.buffers.bytes_out() == 0).await;
        },
    );
}
