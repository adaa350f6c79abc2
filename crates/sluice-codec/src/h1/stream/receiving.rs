//! The messages of the peer: heads, bodies, trailers.
//!
//! Owns: when the socket is read, and how far a body has come. Refuses to know: what was sent. Keeps: a body is read only
//! on request; a slow peer holds a small buffer; what follows a message stays for the next one.

use std::task::{Context, Poll, ready};

use sluice_io::WorkerCx;

use super::place::{in_chunks, in_head, in_trailers};
use super::{H1Receiving, H1Stream, Role, Sending, closed_in_body, copy};
use crate::body::{Body, Frame};
use crate::error::{ErrorKind, HttpError};
use crate::h1::chunked::Chunked;
use crate::h1::parse::{self, BodyLength, Meta, Scan};
use crate::head::{Head, Method};
use crate::parse_error::ParseError;

impl H1Stream {
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
        if matches!(self.receiving, H1Receiving::Opened) {
            *head = Head::response(200);
            self.receiving = H1Receiving::Tunnel;
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some(meta) = self.parse_head(head)? {
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

    /// Parses the next head and consumes it, if it has arrived.
    fn parse_head(&mut self, head: &mut Head) -> Result<Option<Meta>, HttpError> {
        let (limits, lower, role) = (self.options.limits, self.options.lower, self.role);
        let (Some(input), H1Receiving::Head(scan)) = (&mut self.input, &mut self.receiving) else {
            return Ok(None);
        };
        // Most requests arrive alone and whole. If this is not one, the search decides what it is.
        if role == Role::Server
            && *scan == Scan::default()
            && input.len() <= limits.bytes
            && input.ends_with(b"\r\n\r\n")
            && let Ok(meta) = parse::request(input, head, limits, lower)
        {
            self.input = None;
            return Ok(Some(meta));
        }
        let found = scan.find_end(input, limits);
        let found = found.map_err(|fault| in_head(fault, role, input, limits))?;
        let Some((start, end)) = found else { return Ok(None) };
        let bytes = &input[start..end];
        let meta = match role {
            Role::Server => parse::request(bytes, head, limits, lower),
            Role::Client => parse::response(bytes, head, self.method, limits, lower),
        };
        let meta = meta.map_err(|fault| in_head(fault, role, bytes, limits))?;
        if role == Role::Client && head.status() == 101 && !self.asked_upgrade {
            return Err(in_head(ParseError::UpgradeUnasked, role, bytes, limits));
        }
        input.consume(end);
        if input.is_empty() {
            self.input = None;
        }
        *scan = Scan::default();
        Ok(Some(meta))
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
            if matches!(
                self.receiving,
                H1Receiving::Done | H1Receiving::Head(_) | H1Receiving::Opened
            ) {
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
                    let limits = self.options.limits;
                    let read = chunked.read(&mut data, limits.bytes);
                    let piece = read
                        .map_err(|fault| in_chunks(fault, self.role, chunked.passed(), limits))?;
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
                        parse::trailers(lines, &mut trailers, limits, self.options.lower)
                            .map_err(|fault| in_trailers(fault, self.role, lines, limits))?;
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
                H1Receiving::Opened
                | H1Receiving::Head(_)
                | H1Receiving::Trailers(_)
                | H1Receiving::Done => {
                    unreachable!("looked at above")
                }
            }
        }
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

    /// Reads once, appending to what is buffered; 0 is the end.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<usize, HttpError>> {
        if self.input.is_none() {
            // Most polls find nothing, and need no buffer to do so.
            ready!(self.stream.poll_arrived(cx));
        }
        let pool = &worker.buffers;
        let max = self.read_max as usize;
        let is_head = matches!(self.receiving, H1Receiving::Head(_));
        let room = pool.room_for_read(self.input.take(), max, is_head);
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
            // The directions of a tunnel end on their own.
            Ok(0) if self.headless || matches!(self.sending, Sending::Tunnel | Sending::Ending) => {
                Poll::Pending
            }
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
}
