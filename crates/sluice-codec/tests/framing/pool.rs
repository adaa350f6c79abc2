//! A connection to an endpoint over many exchanges, as a pool uses it.
//!
//! Owns: clients that refuse, cut short, upgrade and give up; an endpoint that counts bytes and responds at any time.
//! Refuses to know: pools; it asks the same questions. Keeps: a connection that may be reused is between two messages
//! for the endpoint too.

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;

use sluice_codec::h1::stream::H1Options;
use sluice_codec::h1::{H1Stream, Role};
use sluice_codec::{Body, Frame, Head, Method};
use sluice_core::clock::ClockOrigin;
use sluice_io::{RawStream, Stream, WorkerCx};

use crate::oracle::Requests;

/// Runs of [`exchanges`]; each is a seed.
const RUNS: u64 = 1000;

/// A failure reports its seed, and `SLUICE_SEED` replays it.
#[test]
fn a_reused_connection_is_between_two_messages() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        let replay = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seeds = replay.map_or(0..RUNS, |seed| seed..seed + 1);
        let mut reused = 0;
        for seed in seeds {
            reused += exchanges(seed, &worker).await;
        }
        assert!(replay.is_some() || reused > RUNS / 4, "only {reused} connections were used again");
    });
}

/// Uses one connection until it may not be reused; returns how often it was used.
async fn exchanges(seed: u64, worker: &Rc<WorkerCx>) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    let source = worker.reactor.register(near).unwrap();
    let stream = Stream::Raw(RawStream::new(source));
    let mut client = H1Stream::new(stream, Role::Client, Rc::new(H1Options::default()));
    let mut endpoint = Endpoint { stream: far, requests: Requests::default() };
    for round in 0..20_u8 {
        exchange(&mut random, worker, &mut client, &mut endpoint).await;
        endpoint.read();
        if !client.next_exchange() {
            return round.into();
        }
        let requests = &endpoint.requests;
        assert!(requests.is_between(), "seed {seed}, round {round}: {requests:?}");
        assert_eq!(requests.heads, usize::from(round) + 1, "seed {seed}");
    }
    20
}

struct Endpoint {
    stream: UnixStream,
    requests: Requests,
}

impl Endpoint {
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => self.requests.take(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Responds with something valid for the method, however much of the request was read.
    fn answer(&mut self, random: &mut fastrand::Rng, head: &Head) {
        let empty = head.method() == Method::Head;
        for _ in 0..random.u8(..3) / 2 {
            self.write("HTTP/1.1 103 Early Hints\r\n\r\n");
        }
        match random.u8(..8) {
            0 if head.upgrade().is_some() => {
                self.write(
                    "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                );
            }
            0 | 1 => self.write("HTTP/1.1 204 No Content\r\n\r\n"),
            2 if !empty => {
                self.write(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                );
            }
            3 => self.write("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n"),
            4 => self
                .write("HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
            // More than declared: a client that reads on would take it for the next response.
            5 if !empty => {
                self.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n\r\n")
            }
            _ if empty => self.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
            _ => self.write("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nab"),
        }
    }

    fn write(&mut self, text: &str) {
        // The client may have given up.
        let _ = self.stream.write_all(text.as_bytes());
    }
}

fn head(random: &mut fastrand::Rng) -> Head {
    let method =
        ["GET", "GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT"][random.usize(..8)];
    let mut head = Head::request(method, "http", "a.test", "/x");
    if random.u8(..8) == 0 {
        head.set_upgrade(b"websocket");
    }
    for _ in 0..random.u8(..3) {
        let length = ["0", "3", "5", "+1", "x"][random.usize(..5)];
        head.append(b"content-length", length.as_bytes());
    }
    head
}

/// One exchange: a head, some of the body or none, and a response at some point, read or not.
async fn exchange(
    random: &mut fastrand::Rng,
    worker: &Rc<WorkerCx>,
    client: &mut H1Stream,
    endpoint: &mut Endpoint,
) {
    let head = head(random);
    let end = random.bool();
    let whole = end || head.upgrade().is_some() || head.method() == Method::Connect;
    if client.send_head(worker, &head, whole, random.u8(..20) == 0).is_err() {
        return;
    }
    let answers_at = random.u8(..4);
    let mut broken = false;
    for step in 0..4 {
        if step == answers_at {
            now(|cx| client.push(cx, worker)).await.unwrap();
            endpoint.read();
            endpoint.answer(random, &head);
        }
        if end || broken || client.is_sent() {
            continue;
        }
        broken = match random.u8(..8) {
            0 => true,
            1..4 => now(|cx| client.send_end(cx, worker, None)).await.is_err(),
            _ => {
                let (count, last) = (random.usize(..4), random.u8(..3) == 0);
                let body = Body::Shared(vec![b'x'; count].into());
                now(|cx| client.send_data(cx, worker, body, last)).await.is_err()
            }
        };
    }
    let _ = now(|cx| client.push(cx, worker)).await;
    if random.u8(..8) > 0 {
        let _ = poll_fn(|cx| client.poll_flushed(cx, worker)).await;
    }
    let mut response = Head::default();
    loop {
        let received = poll_fn(|cx| client.poll_recv_head(cx, worker, &mut response)).await;
        match received {
            Err(_) => return client.reset(),
            Ok(()) if response.status() >= 200 || response.status() == 101 => break,
            Ok(()) => {}
        }
    }
    // The endpoint never ends a tunnel here.
    if response.status() == 101 || head.method() == Method::Connect {
        return;
    }
    for _ in 0..random.u8(1..12) {
        match poll_fn(|cx| client.poll_recv(cx, worker)).await {
            Ok(Frame::Data { last: false, .. }) => {}
            _ => return,
        }
    }
}

/// Runs something that needs the context of a task.
fn now<T: Unpin>(doing: impl FnOnce(&mut std::task::Context<'_>) -> T) -> impl Future<Output = T> {
    let mut doing = Some(doing);
    poll_fn(move |cx| Poll::Ready(doing.take().map(|doing| doing(cx)).expect("polled once")))
}
