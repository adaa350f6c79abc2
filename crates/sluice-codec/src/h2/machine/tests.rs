//! The machine without sockets: two of them, or one and frames written by hand.

use std::task::{Context, Poll, Waker};

use sluice_io::buffers::BufPool;

use super::*;
use crate::body::{Body, Frame};
use crate::error::ErrorKind;
use crate::h2::frame::{FrameHead, HEAD_LEN, flag, kind};
use crate::head::Head;

mod frames;
mod hostile;
mod lingering;
mod pairs;
mod simulation;

const NOW: Moment = Moment::from_micros(0);

fn supply() -> H2Supply {
    H2Supply::new(BufPool::new(64 << 20))
}

fn options() -> H2Options {
    H2Options { stream_window: 100_000, connection_window: 400_000, ..H2Options::default() }
}

/// Takes everything that a machine sends now.
fn output(machine: &mut H2Machine) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let pieces = machine.fill(64 << 10, usize::MAX);
        assert_eq!(pieces.bytes(), 0, "nothing is that long");
        if machine.waiting().is_empty() {
            return out;
        }
        out.extend_from_slice(machine.waiting());
        machine.sent(&pieces);
    }
}

/// Lets the time of all lingering streams pass.
fn expire(machine: &mut H2Machine) {
    let mut now = NOW;
    while let Some(due) = machine.expire_lingering(now) {
        now = due;
    }
}

/// Cuts bytes into frames: kind, flags, stream and payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    bytes = bytes.strip_prefix(&PREFACE[..]).unwrap_or(bytes);
    while let Some(head) = bytes.first_chunk() {
        let head = FrameHead::read(*head);
        let end = HEAD_LEN + head.len as usize;
        frames.push((head.kind, head.flags, head.stream, bytes[HEAD_LEN..end].to_vec()));
        bytes = &bytes[end..];
    }
    frames
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn request(path: &str) -> Head {
    Head::request("POST", "http", "a.test", path)
}

fn response() -> Head {
    Head::response(200)
}

fn data(len: usize) -> Body {
    Body::Shared(vec![b'x'; len].into())
}

/// Receives what a stream has: the bytes of its body, and whether it has ended.
fn received(machine: &mut H2Machine, key: usize) -> (usize, bool) {
    let mut bytes = 0;
    loop {
        match machine.poll_recv(key, &cx()) {
            Poll::Ready(Ok(Frame::Data { body, last })) => {
                bytes += body.len();
                if last {
                    return (bytes, true);
                }
            }
            Poll::Ready(Ok(Frame::End | Frame::Trailers(_))) => return (bytes, true),
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => return (bytes, false),
        }
    }
}

/// A client and a server.
struct Pair {
    client: H2Machine,
    server: H2Machine,
}

impl Pair {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: H2Options) -> Self {
        let mut pair = Self {
            client: H2Machine::new(Role::Client, &options, supply(), NOW),
            server: H2Machine::new(Role::Server, &options, supply(), NOW),
        };
        pair.settle();
        pair
    }

    /// Carries bytes both ways until there are none.
    fn settle(&mut self) {
        loop {
            let (there, back) = (output(&mut self.client), output(&mut self.server));
            if there.is_empty() && back.is_empty() {
                return;
            }
            self.server.feed(&there, NOW);
            self.client.feed(&back, NOW);
        }
    }

    /// Opens a stream and returns its key on either side.
    fn open(&mut self, path: &str, end: bool) -> (usize, usize) {
        assert!(self.client.poll_open(&request(path), &cx()).is_ready());
        let here = self.client.open(&request(path), end).unwrap();
        self.settle();
        (here, self.accept().expect("the request has arrived"))
    }

    fn accept(&mut self) -> Option<usize> {
        match self.server.poll_event()? {
            MachineEvent::Request(key, _) => Some(key),
            MachineEvent::Refused(error) => panic!("{error}"),
        }
    }
}

/// A machine and frames written by hand.
struct Scripted(H2Machine);

impl Scripted {
    fn new(role: Role) -> Self {
        let mut machine = H2Machine::new(role, &options(), supply(), NOW);
        if role == Role::Server {
            machine.feed(PREFACE, NOW);
        }
        let mut this = Self(machine);
        this.send(kind::SETTINGS, 0, 0, &[]);
        output(&mut this.0);
        this
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind, flags, stream, payload);
        self.0.feed(&bytes, NOW);
    }

    /// Sends a request without a table.
    fn request(&mut self, stream: u32, end: bool) {
        let mut block = Vec::new();
        HpackEncoder::new().request(&request("/"), &mut block).unwrap();
        // Every block is encoded with an empty table.
        self.0.decoder = HpackDecoder::new(TABLE_BYTES);
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        self.send(kind::HEADERS, flags, stream, &block);
    }

    /// The codes of GOAWAY and of resets by stream that the machine sends.
    fn codes(&mut self) -> (Option<H2Code>, Vec<(u32, H2Code)>) {
        let code = |payload: &[u8], at: usize| H2Code(frame::first_u32(&payload[at..]));
        let (mut goaway, mut resets) = (None, Vec::new());
        for (kind, _, stream, payload) in frames(&output(&mut self.0)) {
            match kind {
                kind::GOAWAY => goaway = Some(code(&payload, 4)),
                kind::RST_STREAM => resets.push((stream, code(&payload, 0))),
                _ => {}
            }
        }
        (goaway, resets)
    }
}
