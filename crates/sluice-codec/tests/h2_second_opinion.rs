//! The crate `h2` as a second opinion: as the client of our machine, and as the server of it.
//!
//! Keeps: whatever the sizes of bodies, windows, frames and cuts, both sides see the same messages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use sluice_codec::h1::Role;
use sluice_codec::h2::H2Options;
use sluice_codec::h2::machine::{H2Machine, MachineEvent};
use sluice_codec::h2::supply::H2Supply;
use sluice_codec::{Body, Frame, Head};
use sluice_core::Moment;
use sluice_io::buffers::BufPool;
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};

const NOW: Moment = Moment::from_micros(0);

fn machine(role: Role, random: &mut fastrand::Rng) -> H2Machine {
    let supply = H2Supply::new(BufPool::new(64 << 20));
    let options = H2Options {
        stream_window: 1 + random.u32(..100_000),
        connection_window: 65_535 + random.u32(..100_000),
        ..H2Options::default()
    };
    H2Machine::new(role, &options, supply, NOW)
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A message body, its trailers if any, and how it is cut.
#[derive(Clone, Debug)]
struct Message {
    fields: Vec<(String, String)>,
    pieces: Vec<usize>,
    trailer: Option<String>,
}

impl Message {
    fn new(random: &mut fastrand::Rng) -> Self {
        let text = |random: &mut fastrand::Rng, max| -> String {
            let len = random.usize(..max);
            (0..len)
                .map(|_| char::from(random.choice(*b"abcdef0123456789-_=;,").unwrap()))
                .collect()
        };
        let fields = (0..random.usize(..12))
            .map(|_| {
                let known = ["accept", "user-agent", "x-one", "cookie-like", "etag"];
                let name = random.choice(known).unwrap();
                let max = if random.u8(..10) == 0 { 3000 } else { 40 };
                (name.to_owned(), text(random, max))
            })
            .collect();
        let pieces = (0..random.usize(..4)).map(|_| 1 + random.usize(..60_000)).collect();
        Self { fields, pieces, trailer: random.bool().then(|| text(random, 20)) }
    }

    fn len(&self) -> usize {
        self.pieces.iter().sum()
    }

    fn head(&self, mut head: Head) -> Head {
        self.fields.iter().for_each(|(name, value)| head.append(name.as_bytes(), value.as_bytes()));
        head
    }

    fn trailers(&self) -> Option<Head> {
        let mut head = Head::default();
        head.append(b"x-trailer", self.trailer.as_ref()?.as_bytes());
        Some(head)
    }

    fn map(&self) -> http::HeaderMap {
        let pair = |(name, value): &(String, String)| {
            (http::HeaderName::try_from(name).unwrap(), http::HeaderValue::try_from(value).unwrap())
        };
        let mut map = http::HeaderMap::new();
        for (name, value) in self.fields.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn trailer_map(&self) -> Option<http::HeaderMap> {
        let value = http::HeaderValue::try_from(self.trailer.as_ref()?).unwrap();
        Some([(http::HeaderName::from_static("x-trailer"), value)].into_iter().collect())
    }

    /// Whether a head, a length and a trailer are those of the message.
    fn check(&self, head: &Head, len: usize, trailer: Option<&[u8]>) {
        let mut seen: Vec<_> = head.fields().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        let mut fields: Vec<_> = self
            .fields
            .iter()
            .map(|(n, v)| (n.clone().into_bytes(), v.clone().into_bytes()))
            .collect();
        // The library groups fields by name.
        seen.sort();
        fields.sort();
        assert_eq!(seen, fields);
        assert_eq!((len, trailer), (self.len(), self.trailer.as_ref().map(String::as_bytes)));
    }

    fn check_map(&self, head: &http::HeaderMap, len: usize, trailers: Option<&http::HeaderMap>) {
        let mut ours = Head::default();
        head.iter().for_each(|(name, value)| ours.append(name.as_ref(), value.as_bytes()));
        let trailer = trailers.and_then(|map| map.get("x-trailer"));
        self.check(&ours, len, trailer.map(http::HeaderValue::as_bytes));
    }
}

/// A stream of our machine: what is sent on it and what was received.
struct Ours {
    key: usize,
    message: Message,
    sent: usize,
    ended: bool,
    head: Option<Head>,
    len: usize,
    trailer: Option<Vec<u8>>,
    whole: bool,
}

impl Ours {
    fn new(key: usize, message: Message, head: Option<Head>) -> Self {
        let (sent, len) = (0, 0);
        Self { key, message, sent, ended: false, head, len, trailer: None, whole: false }
    }

    fn go_on(&mut self, machine: &mut H2Machine) {
        while !self.ended && matches!(machine.poll_flushed(self.key, &cx()), Poll::Ready(Ok(()))) {
            if let Some(piece) = self.message.pieces.get(self.sent) {
                self.sent += 1;
                let body = Body::Shared(vec![b'x'; *piece].into());
                machine.send_data(self.key, body, false).unwrap();
            } else {
                self.ended = true;
                machine.send_end(self.key, self.message.trailers().as_ref()).unwrap();
            }
        }
        if self.head.is_none() {
            let mut head = Head::default();
            if let Poll::Ready(read) = machine.poll_recv_head(self.key, &cx(), &mut head) {
                read.unwrap();
                self.head = Some(head);
            }
        }
        while let (Some(_), false) = (&self.head, self.whole) {
            match machine.poll_recv(self.key, &cx()) {
                Poll::Pending => return,
                Poll::Ready(Ok(Frame::Data { body, last })) => {
                    self.len += body.len();
                    self.whole = last;
                }
                Poll::Ready(Ok(Frame::Trailers(trailers))) => {
                    self.trailer = trailers.get_named(b"x-trailer").map(<[u8]>::to_vec);
                    self.whole = true;
                }
                Poll::Ready(Ok(Frame::End)) => self.whole = true,
                Poll::Ready(Err(error)) => panic!("{error}"),
            }
        }
    }
}

/// Carries bytes between a machine and the socket of the library, and lets `users` act, until `done`. It reads while it
/// cannot write, as the driver does: the library stops reading when it cannot write.
async fn drive(
    machine: &mut H2Machine,
    socket: &mut DuplexStream,
    mut users: impl FnMut(&mut H2Machine) -> bool,
) {
    let mut unsent = Vec::new();
    loop {
        let done = users(machine);
        if unsent.is_empty() {
            machine.fill(64 << 10, usize::MAX);
            unsent.extend_from_slice(machine.waiting());
            machine.sent(None);
        }
        if done && unsent.is_empty() {
            return;
        }
        poll_fn(|cx| {
            let mut moved = false;
            if !unsent.is_empty()
                && let Poll::Ready(count) = Pin::new(&mut *socket).poll_write(cx, &unsent)
            {
                unsent.drain(..count.unwrap());
                moved = true;
            }
            let mut bytes = [0; 5000];
            let mut into = ReadBuf::new(&mut bytes);
            if let Poll::Ready(read) = Pin::new(&mut *socket).poll_read(cx, &mut into) {
                read.unwrap();
                assert!(!into.filled().is_empty(), "the library closed the connection");
                machine.feed(into.filled(), NOW);
                moved = true;
            }
            if moved { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert_eq!(machine.end(), None);
    }
}

async fn read_all(body: &mut h2::RecvStream) -> (usize, Option<http::HeaderMap>) {
    let mut len = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        len += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    (len, body.trailers().await.unwrap())
}

async fn send_all(out: &mut h2::SendStream<Bytes>, message: &Message) {
    for piece in &message.pieces {
        let mut left = *piece;
        while left > 0 {
            out.reserve_capacity(left);
            let room = poll_fn(|cx| out.poll_capacity(cx)).await.unwrap().unwrap();
            let now = room.min(left);
            out.send_data(vec![b'x'; now].into(), false).unwrap();
            left -= now;
        }
    }
    match message.trailer_map() {
        Some(trailers) => out.send_trailers(trailers).unwrap(),
        None => out.send_data(Bytes::new(), true).unwrap(),
    }
}

fn on_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .build_local(Default::default())
        .unwrap()
        .block_on(test);
}

fn messages(random: &mut fastrand::Rng) -> Vec<(Message, Message)> {
    (0..1 + random.usize(..8)).map(|_| (Message::new(random), Message::new(random))).collect()
}

#[test]
fn its_client_understands_our_server() {
    for seed in 0..40 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (all, window) = (messages(random), random.u32(1..200_000));
        let mut server = machine(Role::Server, random);
        on_runtime(async {
            let (mut ours, theirs) = tokio::io::duplex(1 + random.usize(..100_000));
            let client = async {
                let mut builder = h2::client::Builder::new();
                builder.initial_window_size(window).max_frame_size(16_384 + window % 1000);
                let (client, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
                tokio::task::spawn_local(connection);
                let mut tasks = Vec::new();
                for (number, (request, response)) in all.clone().into_iter().enumerate() {
                    let mut client = client.clone().ready().await.unwrap();
                    tasks.push(tokio::task::spawn_local(async move {
                        let mut head = http::Request::post(format!("http://a/{number}"));
                        *head.headers_mut().unwrap() = request.map();
                        let (answer, mut out) =
                            client.send_request(head.body(()).unwrap(), false).unwrap();
                        let sending = send_all(&mut out, &request);
                        let receiving = async {
                            let (head, mut body) = answer.await.unwrap().into_parts();
                            let (len, trailers) = read_all(&mut body).await;
                            response.check_map(&head.headers, len, trailers.as_ref());
                        };
                        tokio::join!(sending, receiving);
                    }));
                }
                for task in tasks {
                    task.await.unwrap();
                }
            };
            let mut streams: Vec<Ours> = Vec::new();
            let serving = drive(&mut server, &mut ours, |machine| {
                while let Some(event) = machine.poll_event() {
                    let MachineEvent::Request(key, head) = event else { panic!("{event:?}") };
                    let number: usize = head.path()[1..].parse().unwrap();
                    let (request, response) = &all[number];
                    machine.send_head(key, &response.head(Head::response(200)), false).unwrap();
                    let mut stream = Ours::new(key, response.clone(), Some(*head));
                    stream.trailer = None;
                    streams.push(stream);
                    let _ = request;
                }
                streams.iter_mut().for_each(|stream| stream.go_on(machine));
                false
            });
            let (mut client, mut serving) = (pin!(client), pin!(serving));
            tokio::select! {
                () = &mut client => {}
                () = &mut serving => panic!("it goes on"),
            }
        });
        assert_eq!(server.end(), None, "seed {seed}");
    }
}

#[test]
fn its_server_understands_our_client() {
    for seed in 0..40 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (all, window) = (messages(random), random.u32(1..200_000));
        let mut client = machine(Role::Client, random);
        on_runtime(async {
            let (mut ours, theirs) = tokio::io::duplex(1 + random.usize(..100_000));
            let expected = all.clone();
            tokio::task::spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                builder.initial_window_size(window).max_concurrent_streams(3);
                let mut connection = builder.handshake::<_, Bytes>(theirs).await.unwrap();
                while let Some(accepted) = connection.accept().await {
                    let (request, mut respond) = accepted.unwrap();
                    let number: usize = request.uri().path()[1..].parse().unwrap();
                    let (sent, response) = expected[number].clone();
                    tokio::task::spawn_local(async move {
                        let (head, mut body) = request.into_parts();
                        let mut answer = http::Response::new(());
                        *answer.headers_mut() = response.map();
                        let mut out = respond.send_response(answer, false).unwrap();
                        let receiving = async {
                            let (len, trailers) = read_all(&mut body).await;
                            sent.check_map(&head.headers, len, trailers.as_ref());
                        };
                        tokio::join!(send_all(&mut out, &response), receiving);
                    });
                }
            });
            let mut to_open = all.iter().enumerate();
            let mut next = to_open.next();
            let mut streams: Vec<Ours> = Vec::new();
            drive(&mut client, &mut ours, |machine| {
                while let Some((number, (request, response))) = next {
                    let head =
                        request.head(Head::request("POST", "http", "a", &format!("/{number}")));
                    // Before its SETTINGS, a client cannot know how many streams a server allows.
                    if !machine.is_greeted() || machine.poll_open(&head, &cx()).is_pending() {
                        break;
                    }
                    let key = machine.open(&head, false).unwrap();
                    streams.push(Ours::new(key, request.clone(), None));
                    let _ = response;
                    next = to_open.next();
                }
                streams.iter_mut().for_each(|stream| stream.go_on(machine));
                next.is_none() && streams.iter().all(|stream| stream.whole && stream.ended)
            })
            .await;
            for (stream, (_, response)) in streams.iter().zip(&all) {
                response.check(
                    stream.head.as_ref().unwrap(),
                    stream.len,
                    stream.trailer.as_deref(),
                );
            }
        });
    }
}
