//! One HTTP/1 connection, as an exchange of messages uses it.
//!
//! Owns: the bytes read but not yet parsed, the position of each direction in its message, whether the connection can
//! be reused. Refuses to know: what messages are for. Keeps: an idle connection holds no buffer; a body is read only on
//! request; a message that was not read or sent to its end prevents reuse of the connection.

use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_io::buffers::{Buf, SCRATCH};
use sluice_io::tls::HandshakeError;
use sluice_io::{Stream, WorkerCx};

use crate::error::{ErrorKind, HttpError};
use crate::h1::chunked::Chunked;
use crate::h1::parse::{HeadLimits, Scan};
use crate::head::{Head, Method, Version};

mod place;
mod receiving;
mod sending;

/// Our end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We receive requests.
    Server,
    /// We send requests.
    Client,
}

/// The configuration of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H1Options {
    /// Bounds on heads and trailers.
    pub limits: HeadLimits,
    /// Convert header names to lower case; otherwise they stay as they are.
    pub lower: bool,
}

impl Default for H1Options {
    fn default() -> Self {
        Self { limits: HeadLimits::default(), lower: true }
    }
}

/// Bytes of one read, unless the caller sets less.
#[allow(clippy::cast_possible_truncation, reason = "64 KiB")]
const READ_MAX: u32 = SCRATCH as u32;

/// A connection that speaks HTTP/1.
#[derive(Debug)]
pub struct H1Stream {
    stream: Stream,
    role: Role,
    options: Rc<H1Options>,
    input: Option<Buf>,
    receiving: H1Receiving,
    sending: Sending,
    staged: Option<Buf>,
    /// Of the request in flight.
    method: Method,
    asked_upgrade: bool,
    peer: Version,
    keep_alive: bool,
    /// Bytes read and sent since they were last taken.
    moved: (u64, u64),
    /// Bytes that one read takes at most.
    read_max: u32,
    /// Whether heads that we send stay off the wire: the peer does not speak HTTP.
    headless: bool,
}

/// A piece of a body that was spliced.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The number of bytes.
    pub count: u64,
    /// Whether nothing follows.
    pub last: bool,
}

#[derive(Debug)]
enum H1Receiving {
    /// A tunnel that was opened without a message: its head is not on the wire.
    Opened,
    /// How far the search for the end of a head has come.
    Head(Scan),
    Counted(u64),
    Chunked(Chunked),
    /// The body has been handed out, these trailers have not.
    Trailers(Box<Head>),
    UntilEnd,
    Tunnel,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Head,
    /// Data is accepted and discarded: the response to HEAD.
    Nothing,
    Counted(u64),
    Chunked,
    UntilEnd,
    Tunnel,
    /// A tunnel whose peer has not yet been notified that our side ended.
    Ending,
    Done,
}

// An idle connection holds one.
const _: () = assert!(size_of::<H1Stream>() <= 160);

impl H1Stream {
    /// Creates a connection before its first message. Boxed because each exchange passes it on, and a future that does
    /// so reserves space for every copy.
    pub fn new(stream: Stream, role: Role, options: Rc<H1Options>) -> Box<Self> {
        Box::new(Self {
            stream,
            role,
            options,
            input: None,
            receiving: H1Receiving::Head(Scan::default()),
            sending: Sending::Head,
            staged: None,
            method: Method::Get,
            asked_upgrade: false,
            peer: Version::Http11,
            keep_alive: true,
            moved: (0, 0),
            read_max: READ_MAX,
            headless: false,
        })
    }

    /// A tunnel over a connection on which nothing of HTTP is sent: its first head is a response with status 200, and
    /// both directions are raw bytes after that.
    pub fn tunnel(stream: Stream, options: Rc<H1Options>) -> Box<Self> {
        let mut tunnel = Self::new(stream, Role::Client, options);
        tunnel.method = Method::Connect;
        tunnel.receiving = H1Receiving::Opened;
        tunnel.sending = Sending::Tunnel;
        tunnel.keep_alive = false;
        tunnel
    }

    /// A connection whose client does not speak HTTP, as a request that has been received: what the client sends is its
    /// body, and the body of a response with a status of the 2xx is what it gets. Heads, and all other responses, it never
    /// sees.
    pub fn headless(stream: Stream, options: Rc<H1Options>) -> Box<Self> {
        let mut headless = Self::new(stream, Role::Server, options);
        headless.receiving = H1Receiving::Tunnel;
        headless.keep_alive = false;
        headless.headless = true;
        headless
    }

    /// Limits one read to this many bytes; from [`SCRATCH`] on, to the room in the buffer.
    pub fn set_read_max(&mut self, bytes: usize) {
        self.read_max = u32::try_from(bytes).unwrap_or(READ_MAX).min(READ_MAX);
    }

    /// Returns the underlying stream.
    pub const fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Performs what is left of a TLS handshake, on a stream on which a request was sent early.
    ///
    /// # Errors
    /// As for [`Stream::poll_handshake`].
    pub fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), HandshakeError>> {
        self.stream.poll_handshake(cx, worker)
    }

    /// Returns the underlying stream and the bytes read from it but not parsed.
    pub fn into_parts(self) -> (Stream, Option<Buf>) {
        (self.stream, self.input)
    }

    /// Returns the bytes read but not yet parsed.
    pub fn unparsed(&self) -> &[u8] {
        self.input.as_deref().unwrap_or_default()
    }

    /// Uses other options from the next head on.
    pub fn set_options(&mut self, options: &Rc<H1Options>) {
        self.options = Rc::clone(options);
    }

    /// Returns the version of the peer's last message.
    pub const fn peer_version(&self) -> Version {
        self.peer
    }

    /// Whether an idle connection has received nothing.
    pub fn is_quiet(&mut self, worker: &WorkerCx) -> bool {
        self.input.is_none() && self.stream.is_quiet(worker)
    }

    /// Prevents reuse of the connection.
    pub const fn refuse_reuse(&mut self) {
        self.keep_alive = false;
    }

    /// Prepares for the next exchange and returns true if there may be one: both messages were complete and neither
    /// side closes. A connection to an endpoint must also be between two messages: the whole request has left, and
    /// nothing came after the response.
    pub fn next_exchange(&mut self) -> bool {
        if !self.keep_alive || !self.is_received() || !self.is_sent() {
            return false;
        }
        let left = self.staged.is_some() || !self.stream.raw().is_flushed();
        if self.role == Role::Client && (left || self.input.is_some()) {
            return false;
        }
        self.receiving = H1Receiving::Head(Scan::default());
        self.sending = Sending::Head;
        true
    }

    /// Makes dropping this value reset the connection to the peer.
    pub fn reset(&mut self) {
        self.keep_alive = false;
        self.stream.raw().reset_on_drop();
    }
}

fn closed_in_body() -> HttpError {
    HttpError::new(ErrorKind::ClosedEarly, "the peer closed in the middle of a body")
}

fn copy(worker: &WorkerCx, bytes: &[u8]) -> Result<Buf, HttpError> {
    worker.buffers.copy(bytes).map_err(|_| HttpError::buffers())
}
