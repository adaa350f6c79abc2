//! HTTP/2 over blocking sockets, for the demo: the codec's machine needs no more than bytes.
//!
//! Owns: the socket and the loop around the machine. Refuses to know: Sluice's own workers. Keeps: each connection has
//! its own thread, so what it holds is bounded by the windows of the machine.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::task::{Context, Poll, Waker};

use sluice_codec::h1::Role;
use sluice_codec::h2::H2Options;
use sluice_codec::h2::machine::{H2Machine, MachineEvent};
use sluice_codec::h2::supply::H2Supply;
use sluice_codec::{Frame, Head, HttpError};
use sluice_core::Moment;
use sluice_io::buffers::BufPool;

/// Bytes that a connection may hold.
const HELD_MAX: usize = 4 << 20;

/// An HTTP/2 connection.
#[derive(Debug)]
pub(super) struct BlockingHttp2 {
    machine: H2Machine,
    stream: TcpStream,
}

/// A response and what came with it.
#[derive(Debug, Default)]
pub(super) struct Called {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) grpc_status: Option<String>,
}

impl BlockingHttp2 {
    pub(super) fn new(role: Role, stream: TcpStream) -> Self {
        let supply = H2Supply::new(BufPool::new(HELD_MAX));
        let now = Moment::from_micros(0);
        Self { machine: H2Machine::new(role, &H2Options::default(), supply, now), stream }
    }

    /// Sends what is to be sent, and reads once; `false` at the end of the connection.
    fn turn(&mut self) -> io::Result<bool> {
        loop {
            let pieces = self.machine.fill(64 << 10, usize::MAX);
            if self.machine.waiting().is_empty() {
                break;
            }
            self.stream.write_all(self.machine.waiting())?;
            self.machine.sent(&pieces);
        }
        let mut bytes = [0; 16 << 10];
        let count = self.stream.read(&mut bytes)?;
        self.machine.feed(&bytes[..count], Moment::from_micros(0));
        Ok(count > 0 && self.machine.end().is_none())
    }

    /// Sends a gRPC request and receives its response.
    pub(super) fn call(mut self, mut head: Head, body: &[u8]) -> anyhow::Result<Called> {
        let cx = Context::from_waker(Waker::noop());
        head.append(b"content-type", b"application/grpc");
        let key = self.machine.open(&head, false)?;
        self.machine.send_data(key, sluice_codec::Body::Shared(body.to_vec().into()), true)?;
        let mut called = Called::default();
        let mut response = Head::default();
        loop {
            anyhow::ensure!(self.turn()?, "the connection ended");
            if called.status == 0 {
                let Poll::Ready(head) = self.machine.poll_recv_head(key, &cx, &mut response) else {
                    continue;
                };
                head?;
                called.status = response.status();
            }
            while let Poll::Ready(frame) = self.machine.poll_recv(key, &cx) {
                match frame? {
                    Frame::Data { body, last } => {
                        called.body.extend_from_slice(&body);
                        if last {
                            return Ok(called);
                        }
                    }
                    Frame::Trailers(trailers) => {
                        let status = trailers.get_named(b"grpc-status");
                        called.grpc_status =
                            status.map(|status| String::from_utf8_lossy(status).into_owned());
                        return Ok(called);
                    }
                    Frame::End => return Ok(called),
                }
            }
        }
    }

    /// Responds to every call with the messages that it carries.
    pub(super) fn echo_calls(mut self) -> io::Result<()> {
        let mut calls = Vec::new();
        while self.turn()? {
            while let Some(event) = self.machine.poll_event() {
                if let MachineEvent::Request(key, _) = event {
                    let mut head = Head::response(200);
                    head.append(b"content-type", b"application/grpc");
                    if self.machine.send_head(key, &head, false).is_ok() {
                        calls.push(key);
                    }
                }
            }
            calls.retain(|key| {
                let goes_on = matches!(self.echo_more(*key), Ok(true));
                if !goes_on {
                    self.machine.release(*key);
                }
                goes_on
            });
        }
        Ok(())
    }

    /// Echoes what has arrived of a call; `false` at its end.
    fn echo_more(&mut self, key: usize) -> Result<bool, HttpError> {
        let cx = Context::from_waker(Waker::noop());
        loop {
            if self.machine.poll_flushed(key, &cx)?.is_pending() {
                return Ok(true);
            }
            let Poll::Ready(frame) = self.machine.poll_recv(key, &cx) else { return Ok(true) };
            let last = match frame? {
                Frame::Data { body, last } => {
                    self.machine.send_data(key, body, false)?;
                    last
                }
                Frame::Trailers(_) | Frame::End => true,
            };
            if last {
                let mut trailers = Head::default();
                trailers.append(b"grpc-status", b"0");
                self.machine.send_end(key, Some(&trailers))?;
                // What the client has no room for yet leaves before the stream is released.
                return Ok(!self.machine.is_sent(key));
            }
        }
    }
}
