//! One HTTP/1 connection, as an exchange of messages uses it.
//!
//! Owns: the bytes read but not yet parsed, the position of each direction in its message, whether the connection can
//! be reused. Refuses to know: what messages are for. Keeps: an idle connection holds no buffer; a body is read only on
//! request; a message that was not read or sent to its end prevents reuse of the connection.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_io::buffers::{Buf, SCRATCH};
use sluice_io::{Stream, WorkerCx};

use crate::body::{Body, Frame};
use crate::error::{ErrorKind, HttpError};
use crate::h1::chunked::Chunked;
use crate::h1::parse::{self, BodyLength, HeadLimits, Meta, Scan};
use crate::h1::write::{self, Framing, Persistence, Unwritable};
use crate::head::{Head, Method, Version};
use crate::parse_error::ParseError;

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

/// Body data of at most this many bytes is copied into the buffer of its head, to leave with it.
const JOINED_MAX: usize = 2048;

/// Bytes that must remain of a body for it to be spliced. Measured: 100 KiB cost half as much again spliced as copied,
/// because there are more and smaller moves.
const UNSEEN_MIN: u64 = 1 << 20;

/// A connection that speaks HTTP/1.
#[derive(Debug)]
pub struct H1Stream {
    stream: Stream,
    role: Role,
    options: Rc<H1Options>,
    input: Option<Buf>,
    scan: Scan,
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
    Head,
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

impl H1Stream {
    /// Creates a connection before its first message. Boxed because each exchange passes it on, and a future that does
    /// so reserves space for every copy.
    pub fn new(stream: Stream, role: Role, options: Rc<H1Options>) -> Box<Self> {
        Box::new(Self {
            stream,
            role,
            options,
            input: None,
            scan: Scan::default(),
            receiving: H1Receiving::Head,
            sending: Sending::Head,
            staged: None,
            method: Method::Get,
            asked_upgrade: false,
            peer: Version::Http11,
            keep_alive: true,
            moved: (0, 0),
            read_max: READ_MAX,
        })
    }

    /// Limits one read to this many bytes; from [`SCRATCH`] on, to the room in the buffer.
    pub fn set_read_max(&mut self, bytes: usize) {
        self.read_max = u32::try_from(bytes).unwrap_or(READ_MAX).min(READ_MAX);
    }

    /// Returns the underlying stream.
    pub const fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Returns the underlying stream and the bytes read from it but not parsed.
    pub fn into_parts(self) -> (Stream, Option<Buf>) {
        (self.stream, self.input)
    }

    /// Returns the bytes read but not yet parsed.
    pub fn unparsed(&self) -> &[u8] {
        self.input.as_deref().unwrap_or_default()
    }

    /// Reads until at least this many unparsed bytes are buffered, or the stream ends.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn poll_unparsed(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        least: usize,
    ) -> Poll<Result<(), HttpError>> {
        while self.unparsed().len() < least && ready!(self.poll_fill(cx, worker))? > 0 {}
        Poll::Ready(Ok(()))
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

    // --- receiving ---

    /// Receives the next head: a request, or a response with a status of at least 100.
    ///
    /// # Errors
    /// [`ErrorKind::Finished`] if the peer closed before its first byte, or the error of the connection.
    pub fn poll_recv_head(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        head: &mut Head,
    ) -> Poll<Result<(), HttpError>> {
        let limits = self.options.limits;
        let role = self.role;
        loop {
            if let Some(input) = &mut self.input
                && let Some((start, end)) =
                    self.scan.find_end(input, limits).map_err(|fault| faulty(role, fault, input))?
            {
                let bytes = &input[start..end];
                let lower = self.options.lower;
                let asked_upgrade = self.asked_upgrade;
                let meta = match self.role {
                    Role::Server => parse::request(bytes, head, limits, lower)?,
                    Role::Client => parse::response(bytes, head, self.method, limits, lower)
                        .map_err(|fault| faulty(role, fault, bytes))?,
                };
                if self.role == Role::Client && head.status() == 101 && !asked_upgrade {
                    return Poll::Ready(Err(ParseError::UpgradeUnasked.into()));
                }
                input.consume(end);
                if input.is_empty() {
                    self.input = None;
                }
                self.scan = Scan::default();
                self.begin_body(head, meta);
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_fill(cx, worker))? == 0 {
                return Poll::Ready(Err(if self.input.is_none() {
                    HttpError::new(ErrorKind::Finished, "the peer closed the connection")
                } else {
                    HttpError::new(
                        ErrorKind::ClosedEarly,
                        "the peer closed in the middle of a head",
                    )
                }));
            }
        }
    }

    fn begin_body(&mut self, head: &Head, meta: Meta) {
        self.keep_alive &= meta.keep_alive;
        self.peer = head.version();
        if self.role == Role::Server {
            self.method = head.method();
            self.asked_upgrade = head.upgrade().is_some();
            if self.method == Method::Connect {
                // What follows belongs to the tunnel, if it is established.
                self.receiving = H1Receiving::Tunnel;
                return;
            }
        } else if head.status() < 200 && head.status() != 101 {
            return;
        }
        self.receiving = match meta.body {
            BodyLength::None => H1Receiving::Done,
            BodyLength::Counted(length) => H1Receiving::Counted(length),
            BodyLength::Chunked => H1Receiving::Chunked(Chunked::default()),
            BodyLength::UntilEnd => H1Receiving::UntilEnd,
            BodyLength::Tunnel => {
                self.sending = Sending::Tunnel;
                H1Receiving::Tunnel
            }
        };
    }

    /// Receives the next piece of the body.
    ///
    /// # Errors
    /// The error of the connection or of the framing.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<Frame, HttpError>> {
        loop {
            if matches!(self.receiving, H1Receiving::Done | H1Receiving::Head) {
                return Poll::Ready(Ok(Frame::End));
            }
            if let H1Receiving::Trailers(trailers) = &mut self.receiving {
                let trailers = std::mem::take(trailers);
                self.receiving = H1Receiving::Done;
                return Poll::Ready(Ok(Frame::Trailers(trailers)));
            }
            if self.input.is_none() && ready!(self.poll_fill(cx, worker))? == 0 {
                return Poll::Ready(match self.receiving {
                    H1Receiving::UntilEnd | H1Receiving::Tunnel => {
                        self.receiving = H1Receiving::Done;
                        Ok(Frame::End)
                    }
                    _ => Err(closed_in_body()),
                });
            }
            let Some(mut data) = self.input.take() else { continue };
            match &mut self.receiving {
                H1Receiving::Counted(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                    *left -= count as u64;
                    let last = *left == 0;
                    if count < data.len() {
                        self.input = Some(copy(worker, &data[count..])?);
                        data.truncate(count);
                    }
                    if last {
                        self.receiving = H1Receiving::Done;
                    }
                    return Poll::Ready(Ok(Frame::Data { body: Body::Pooled(data), last }));
                }
                H1Receiving::Chunked(chunked) => {
                    let piece = chunked.read(&mut data, self.options.limits.bytes)?;
                    let done = chunked.is_done();
                    if piece.read < data.len() {
                        self.input = Some(copy(worker, &data[piece.read..])?);
                    }
                    data.truncate(piece.data);
                    if !done && data.is_empty() {
                        continue;
                    }
                    let lines = chunked.trailer_lines();
                    let last = done && lines.is_empty();
                    if done && !last {
                        let mut trailers = Box::<Head>::default();
                        let options = &self.options;
                        parse::trailers(lines, &mut trailers, options.limits, options.lower)?;
                        self.receiving = H1Receiving::Trailers(trailers);
                    } else if last {
                        self.receiving = H1Receiving::Done;
                    }
                    if !data.is_empty() {
                        let body = Body::Pooled(data);
                        return Poll::Ready(Ok(Frame::Data { body, last }));
                    }
                }
                H1Receiving::UntilEnd | H1Receiving::Tunnel => {
                    return Poll::Ready(Ok(Frame::Data { body: Body::Pooled(data), last: false }));
                }
                H1Receiving::Head | H1Receiving::Trailers(_) | H1Receiving::Done => {
                    unreachable!("looked at above")
                }
            }
        }
    }

    /// Reads once, appending to what is buffered; 0 is the end.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<usize, HttpError>> {
        let pool = &worker.buffers;
        let max = self.read_max as usize;
        let room = pool.room_for_read(self.input.take(), max);
        let mut input = room.map_err(|_| HttpError::buffers())?;
        let spare = input.spare();
        let room = spare.len().min(max);
        let got = self.stream.poll_recv(cx, worker, &mut spare[..room]);
        if let Poll::Ready(Ok(count)) = &got {
            input.fill(*count);
            self.moved.0 += *count as u64;
        }
        // A slow peer holds a small buffer, not a large one.
        self.input = pool.settle(input, got.is_pending());
        got.map_err(HttpError::from)
    }

    /// Ready when the peer has gone while it waits for a response. Reads no more than a buffer full of pipelined
    /// requests.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> Poll<HttpError> {
        if self.input.is_some() || !matches!(self.receiving, H1Receiving::Done) {
            return Poll::Pending;
        }
        match ready!(self.poll_fill(cx, worker)) {
            Ok(0) => Poll::Ready(HttpError::new(
                ErrorKind::ClosedEarly,
                "the peer closed before its answer was complete",
            )),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// Whether the incoming message has been read to its end.
    pub const fn is_received(&self) -> bool {
        matches!(self.receiving, H1Receiving::Done)
    }

    // --- sending ---

    /// Ready when everything sent before has left, including the end of a tunnel; staged bytes do not count.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn poll_flushed(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), HttpError>> {
        ready!(self.stream.poll_flushed(cx))?;
        if self.sending == Sending::Ending {
            ready!(self.poll_close_notify(cx, worker))?;
            self.sending = Sending::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends close_notify on TLS and shuts down our side. Everything sent before has left.
    fn poll_close_notify(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), HttpError>> {
        self.stream.close_notify(cx, worker)?;
        ready!(self.stream.poll_flushed(cx))?;
        self.stream.raw().finish()?;
        Poll::Ready(Ok(()))
    }

    /// Stages a head; it leaves with the data that follows, or with [`H1Stream::push`]. `end` means that no body and no
    /// trailers follow; `close`, that the connection is to end after this message.
    ///
    /// # Errors
    /// The head cannot be written, the worker has no buffer for it, or it is a 101 that the client did not request.
    pub fn send_head(
        &mut self,
        worker: &WorkerCx,
        head: &Head,
        end: bool,
        close: bool,
    ) -> Result<(), HttpError> {
        self.keep_alive &= !close;
        let pool = &worker.buffers;
        if self.role == Role::Server && head.status() == 101 && !self.asked_upgrade {
            // What the client has already sent is another request, not tunnel data.
            let kind = ErrorKind::Malformed(502);
            return Err(HttpError::coded(kind, ParseError::UpgradeUnasked.detail()));
        }
        let (written, framing) = match self.role {
            Role::Client => {
                self.method = head.method();
                self.asked_upgrade = head.upgrade().is_some();
                // A peer that declines may still have read part of what follows as the other protocol.
                self.keep_alive &= !self.asked_upgrade && self.method != Method::Connect;
                self.receiving = H1Receiving::Head;
                let framing = write::request_framing(head, end);
                (write::request(head, framing, pool), framing)
            }
            Role::Server => {
                let framing = write::response_framing(head, self.method, self.peer, end);
                self.keep_alive &= framing != Framing::UntilEnd;
                let persistence = match (head.status(), self.keep_alive, self.peer) {
                    (..200, _, _) => Persistence::Default,
                    (_, false, _) => Persistence::Close,
                    (_, true, Version::Http10) => Persistence::KeepAlive,
                    (_, true, _) => Persistence::Default,
                };
                (write::response(head, framing, persistence, pool), framing)
            }
        };
        let mut written = written.map_err(|why| self.unwritable(why))?;
        if let Some(before) = self.staged.take() {
            // A 103 that is still staged goes first.
            let mut both =
                pool.take(before.len() + written.len()).map_err(|_| HttpError::buffers())?;
            both.append(&before);
            both.append(&written);
            written = both;
        }
        self.staged = Some(written);
        if self.role == Role::Server && head.status() < 200 && head.status() != 101 {
            return Ok(());
        }
        let tunnels = head.status() == 101
            || (self.role == Role::Server
                && self.method == Method::Connect
                && (200..300).contains(&head.status()));
        self.sending = if tunnels {
            // Both directions are raw bytes from here on.
            self.receiving = H1Receiving::Tunnel;
            self.keep_alive = false;
            Sending::Tunnel
        } else {
            match framing {
                Framing::Stated(length) => Sending::Counted(length),
                Framing::Chunked => Sending::Chunked,
                Framing::UntilEnd => Sending::UntilEnd,
                Framing::Bare | Framing::Described | Framing::Empty if end => Sending::Done,
                Framing::Bare | Framing::Described | Framing::Empty => Sending::Nothing,
            }
        };
        if end && matches!(self.sending, Sending::Nothing | Sending::Counted(0)) {
            self.sending = Sending::Done;
        }
        Ok(())
    }

    /// Returns the error for a head that cannot be written: either the request that led to it is at fault, or the
    /// response.
    fn unwritable(&mut self, why: Unwritable) -> HttpError {
        self.keep_alive = false;
        match (why, self.role) {
            (Unwritable::NoBuffer, _) => HttpError::buffers(),
            (Unwritable::Malformed, Role::Client) => {
                HttpError::coded(ErrorKind::Malformed(400), "http1.head_cannot_be_sent")
            }
            (Unwritable::Malformed, Role::Server) => {
                HttpError::coded(ErrorKind::Malformed(502), "http1.head_cannot_be_sent")
            }
        }
    }

    /// Sends what is staged.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn push(&mut self, cx: &mut Context<'_>, worker: &WorkerCx) -> Result<(), HttpError> {
        match self.staged.take() {
            Some(staged) => self.put(cx, worker, &staged),
            None => Ok(()),
        }
    }

    /// Sends data of the body. Call it when [`H1Stream::poll_flushed`] is ready. `last` means that neither data nor
    /// trailers follow.
    ///
    /// # Errors
    /// More data than the head stated, or the error of the socket.
    pub fn send_data(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        body: Body,
        last: bool,
    ) -> Result<(), HttpError> {
        if body.is_empty() {
            return if last { self.send_end(cx, worker, None) } else { Ok(()) };
        }
        match &mut self.sending {
            Sending::Nothing => {
                if last {
                    self.sending = Sending::Done;
                }
                self.push(cx, worker)
            }
            Sending::Counted(left) => {
                let Some(rest) = left.checked_sub(body.len() as u64) else {
                    return Err(HttpError::new(
                        ErrorKind::LengthMismatch,
                        "more body came than content-length had said",
                    ));
                };
                *left = rest;
                self.send_plain(cx, worker, &body)?;
                if last {
                    return self.send_end(cx, worker, None);
                }
                Ok(())
            }
            Sending::UntilEnd | Sending::Tunnel => {
                self.send_plain(cx, worker, &body)?;
                if last { self.send_end(cx, worker, None) } else { Ok(()) }
            }
            Sending::Chunked => self.send_chunk(cx, worker, body, last),
            Sending::Head | Sending::Ending | Sending::Done => Err(HttpError::new(
                ErrorKind::LengthMismatch,
                "body came behind the end of its message",
            )),
        }
    }

    /// Splices a piece of a body from another connection if both have stated its length, it is long, and both are plain
    /// sockets; otherwise returns `None`, and the piece must be received and sent. Call it when
    /// [`H1Stream::poll_flushed`] is ready.
    ///
    /// # Errors
    /// The error of the other connection's socket.
    pub fn poll_take_from(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        from: &mut Self,
    ) -> Poll<Result<Option<Taken>, HttpError>> {
        let (H1Receiving::Counted(left), Sending::Counted(room)) =
            (&mut from.receiving, &mut self.sending)
        else {
            return Poll::Ready(Ok(None));
        };
        let max = (*left).min(*room);
        let seen = from.input.is_some() || self.staged.is_some();
        if seen || max < UNSEEN_MIN || !from.stream.is_bare() || !self.stream.is_bare() {
            return Poll::Ready(Ok(None));
        }
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let count = match ready!(self.stream.poll_take_from(cx, worker, &from.stream, max))? {
            None => return Poll::Ready(Ok(None)),
            Some(0) => return Poll::Ready(Err(closed_in_body())),
            Some(count) => count as u64,
        };
        (*left, *room) = (*left - count, *room - count);
        (from.moved.0, self.moved.1) = (from.moved.0 + count, self.moved.1 + count);
        let last = *left == 0;
        if last {
            from.receiving = H1Receiving::Done;
            // If more was stated than arrives, ending the body will report it.
            if *room == 0 {
                self.sending = Sending::Done;
            }
        }
        Poll::Ready(Ok(Some(Taken { count, last })))
    }

    fn send_plain(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        data: &[u8],
    ) -> Result<(), HttpError> {
        let Some(mut staged) = self.staged.take() else {
            return self.put(cx, worker, data);
        };
        if data.len() <= JOINED_MAX && staged.room() >= data.len() {
            staged.append(data);
            self.put(cx, worker, &staged)
        } else {
            self.put_two(cx, worker, &staged, data)
        }
    }

    fn send_chunk(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        body: Body,
        last: bool,
    ) -> Result<(), HttpError> {
        let mut line = [0; 18];
        let line_len = write::chunk_size(body.len(), &mut line);
        let tail: &[u8] = if last { b"\r\n0\r\n\r\n" } else { b"\r\n" };
        let mut data = match body {
            Body::Pooled(data) => data,
            Body::Shared(bytes) => {
                let room = bytes.len() + tail.len();
                let mut data = worker.buffers.take(room).map_err(|_| HttpError::buffers())?;
                data.append(&bytes);
                data
            }
        };
        let staged = match self.staged.take() {
            Some(mut staged) if staged.room() >= line_len => {
                staged.append(&line[..line_len]);
                Some(staged)
            }
            Some(staged) => {
                self.put(cx, worker, &staged)?;
                None
            }
            None => None,
        };
        let first: &[u8] = staged.as_deref().unwrap_or(&line[..line_len]);
        if data.room() >= tail.len() {
            data.append(tail);
            self.put_two(cx, worker, first, &data)?;
        } else {
            self.put_two(cx, worker, first, &data)?;
            self.put(cx, worker, tail)?;
        }
        if last {
            self.sending = Sending::Done;
        }
        Ok(())
    }

    fn put(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        data: &[u8],
    ) -> Result<(), HttpError> {
        self.moved.1 += data.len() as u64;
        Ok(self.stream.send(cx, worker, data)?)
    }

    fn put_two(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        first: &[u8],
        second: &[u8],
    ) -> Result<(), HttpError> {
        self.moved.1 += (first.len() + second.len()) as u64;
        Ok(self.stream.send_two(cx, worker, first, second)?)
    }

    /// Ends the body, with trailers if there are any and the framing can carry them.
    ///
    /// # Errors
    /// Less data than the head stated, or the error of the socket.
    pub fn send_end(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        trailers: Option<&Head>,
    ) -> Result<(), HttpError> {
        match self.sending {
            Sending::Chunked => {
                let end = match trailers {
                    Some(trailers) => write::trailers(trailers, &worker.buffers)
                        .map_err(|why| self.unwritable(why))?,
                    None => copy(worker, b"0\r\n\r\n")?,
                };
                self.send_plain(cx, worker, &end)?;
            }
            Sending::Counted(left) if left > 0 => {
                self.keep_alive = false;
                return Err(HttpError::new(
                    ErrorKind::LengthMismatch,
                    "less body came than content-length had said",
                ));
            }
            _ => self.push(cx, worker)?,
        }
        let tunnels = self.sending == Sending::Tunnel;
        self.sending = if tunnels { Sending::Ending } else { Sending::Done };
        Ok(())
    }

    /// Whether the outgoing message has been sent to its end.
    pub fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Done | Sending::Ending)
    }

    /// Whether the head of the outgoing message has been given.
    pub fn is_head_sent(&self) -> bool {
        !matches!(self.sending, Sending::Head)
    }

    /// Returns the bytes read and sent since the last call, including heads and framing.
    pub fn take_moved(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.moved)
    }

    // --- between messages ---

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
        self.receiving = H1Receiving::Head;
        self.sending = Sending::Head;
        true
    }

    /// Sends what is staged, then close_notify on TLS, and shuts down our side.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), HttpError>> {
        ready!(self.stream.poll_flushed(cx))?;
        self.push(cx, worker)?;
        ready!(self.stream.poll_flushed(cx))?;
        self.poll_close_notify(cx, worker)
    }

    /// Reads what the peer still sends and discards it; 0 is the end.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn poll_discard(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        scratch: &mut [u8],
    ) -> Poll<Result<usize, HttpError>> {
        self.input = None;
        self.stream.poll_recv(cx, worker, scratch).map_err(HttpError::from)
    }

    /// Makes dropping this value reset the connection to the peer.
    pub fn reset(&mut self) {
        self.keep_alive = false;
        self.stream.raw().reset_on_drop();
    }
}

/// Returns the error for a fault in a head; for an endpoint's it includes the place, since the client is not shown it.
fn faulty(role: Role, fault: ParseError, head: &[u8]) -> HttpError {
    match role {
        Role::Server => fault.into(),
        Role::Client => HttpError::new(
            ErrorKind::Malformed(fault.status()),
            parse::place::in_response(fault, head),
        ),
    }
}

fn closed_in_body() -> HttpError {
    HttpError::new(ErrorKind::ClosedEarly, "the peer closed in the middle of a body")
}

fn copy(worker: &WorkerCx, bytes: &[u8]) -> Result<Buf, HttpError> {
    worker.buffers.copy(bytes).map_err(|_| HttpError::buffers())
}
