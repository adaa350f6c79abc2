//! Our messages: heads, bodies, trailers.
//!
//! Owns: the framing of what is sent, and what is staged to leave together. Refuses to know: buffers of the socket. Keeps:
//! a body has the length that its head stated, or the stream reports an error; a message that was not sent to its end
//! prevents reuse of the connection.

use std::task::{Context, Poll, ready};

use sluice_io::WorkerCx;

use super::{H1Receiving, H1Stream, Role, Sending, Taken, closed_in_body, copy};
use crate::body::Body;
use crate::error::{ErrorKind, HttpError};
use crate::h1::parse::Scan;
use crate::h1::write::{self, Framing, Persistence, Unwritable};
use crate::head::{Head, Method, Version};
use crate::parse_error::ParseError;

/// Body data of at most this many bytes is copied into the buffer of its head, to leave with it.
const JOINED_MAX: usize = 2048;

/// Bytes that must remain of a body for it to be spliced. Measured: 100 KiB cost half as much again spliced as copied,
/// because there are more and smaller moves.
const UNSEEN_MIN: u64 = 1 << 20;

impl H1Stream {
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
        if self.headless {
            self.note_head(head, end);
            return Ok(());
        }
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
                self.receiving = H1Receiving::Head(Scan::default());
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

    /// What becomes of the body of a response whose head is not sent.
    fn note_head(&mut self, head: &Head, end: bool) {
        self.sending = match (head.status(), end) {
            (..200, _) => return,
            (200..300, false) => Sending::Tunnel,
            (200..300, true) => Sending::Ending,
            (_, false) => Sending::Nothing,
            (_, true) => Sending::Done,
        };
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
        Ok(self.stream.send_parts(cx, worker, [first, second].into_iter())?)
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
}
