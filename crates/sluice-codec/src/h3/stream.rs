//! One request of an HTTP/3 connection, as an exchange of messages uses it.
//!
//! Owns: the frames of a stream in both directions, one piece of a body that the peer has no room for yet. Refuses to
//! know: its connection's other streams. Keeps: data is read only on request and sent only against room; a message
//! whose body does not have the stated length is refused; a frame that is not allowed on a request stream ends the
//! connection.
//!
//! Source: RFC 9114 §4.1, §7.1 and §7.2.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use sluice_core::LocalFuture;
use sluice_io::WorkerCx;
use sluice_io::buffers::{Buf, Charge, SCRATCH};

use crate::body::{Body, Frame};
use crate::error::{ErrorKind, HttpError};
use crate::field_section::{FieldFault, SectionKind};
use crate::h1::Role;
use crate::h3::connection::H3Shared;
use crate::h3::convert::{self, SectionRefusal};
use crate::h3::frame::{self, code, kind};
use crate::head::{Head, Method, Version};
use crate::open_streams::OpenStream;

/// A stream that speaks HTTP/3.
pub struct H3Stream {
    shared: Rc<H3Shared>,
    send: SendStream,
    recv: RecvStream,
    input: Option<Buf>,
    receiving: H3Receiving,
    /// Bytes that remain of the body according to `content-length`.
    left: Option<u64>,
    /// The memory of the last field section, for the next one.
    section: Vec<u8>,
    /// Trailers that have arrived, until the end of the stream.
    trailers: Option<Box<Head>>,
    /// Frames and frame headers to send before `body`.
    out: Vec<u8>,
    body: Option<Body>,
    /// How much of `body` has been sent.
    taken: usize,
    after: H3SendEnd,
    method: Method,
    head_sent: bool,
    stopped: Option<LocalFuture<Result<Option<VarInt>, StoppedError>>>,
    /// The charge for what the library may hold while the receiver of the incoming message is not reading.
    blocked: Option<Charge>,
    /// Its slot on a connection to an endpoint.
    place: Option<OpenStream>,
}

impl std::fmt::Debug for H3Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "H3Stream({})", self.send.id())
    }
}

/// The position in the incoming message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum H3Receiving {
    Between(FramePosition),
    /// In a DATA frame.
    Data(u64),
    /// In a frame of unknown type, and the position after it.
    Skip(u64, FramePosition),
    Done,
}

/// A position between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FramePosition {
    /// Before the head.
    Head,
    /// After the head.
    Body,
    /// After the trailers.
    Ended,
}

const IN_BODY: H3Receiving = H3Receiving::Between(FramePosition::Body);

/// What follows the unsent data.
#[derive(Debug)]
enum H3SendEnd {
    More,
    End,
    Nothing,
}

impl H3Stream {
    /// Creates a stream with a request to send; its head leaves with what follows, or with [`H3Stream::push`]. `end`
    /// means that nothing follows.
    pub(crate) fn client(
        shared: Rc<H3Shared>,
        send: SendStream,
        recv: RecvStream,
        head: &Head,
        end: bool,
        place: OpenStream,
    ) -> Result<Self, HttpError> {
        let mut stream = Self::new(shared, send, recv);
        stream.place = Some(place);
        convert::put_request(&mut stream.out, head)?;
        stream.method = head.method();
        stream.head_sent = true;
        if end {
            stream.after = H3SendEnd::End;
        }
        Ok(stream)
    }

    /// Creates a stream before its first message: for a server, one on which a client will send a request.
    pub(crate) fn new(shared: Rc<H3Shared>, send: SendStream, recv: RecvStream) -> Self {
        shared.open.set(shared.open.get() + 1);
        Self {
            shared,
            send,
            recv,
            input: None,
            receiving: H3Receiving::Between(FramePosition::Head),
            left: None,
            section: Vec::new(),
            trailers: None,
            blocked: None,
            place: None,
            out: Vec::new(),
            body: None,
            taken: 0,
            after: H3SendEnd::More,
            method: Method::Get,
            head_sent: false,
            stopped: None,
        }
    }

    /// Whether the request arrived before the handshake was complete, and it still is not: the request may then be a
    /// replay by an attacker, RFC 8470 §3.
    pub fn is_early(&self) -> bool {
        self.recv.is_0rtt() && self.shared.connection.stats().frame_tx.handshake_done == 0
    }

    // --- receiving ---

    /// Receives the head of the request, or the next head of its response, with a status of at least 100.
    ///
    /// # Errors
    /// The error that ended the stream, or why the head is malformed: a request can then still get a response.
    pub fn poll_recv_head(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        head: &mut Head,
    ) -> Poll<Result<(), HttpError>> {
        let head = ready!(self.poll_head(cx, worker, head));
        if self.shared.role == Role::Server {
            let reset = head.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled);
            self.shared.count_begun(reset);
        }
        Poll::Ready(head)
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        head: &mut Head,
    ) -> Poll<Result<(), HttpError>> {
        loop {
            match ready!(self.poll_frame(cx, worker))? {
                Some((kind::HEADERS, length)) => {
                    let max = self.shared.options.bounds();
                    let kind = match self.shared.role {
                        Role::Server => SectionKind::Request,
                        Role::Client => SectionKind::Response,
                    };
                    let section = ready!(self.poll_section(cx, worker, length, kind))?;
                    let read = convert::read(kind, &section, max, head);
                    self.recycle(section);
                    read.map_err(|refusal| self.refuse(refusal))?;
                    if self.shared.role == Role::Server {
                        self.method = head.method();
                        self.left = head.content_length();
                    } else if head.status() < 200 {
                        return Poll::Ready(Ok(()));
                    } else if self.method == Method::Head || matches!(head.status(), 204 | 304) {
                        // A length stated here describes another response.
                        self.left = Some(0);
                    } else {
                        self.left = head.content_length();
                    }
                    self.receiving = IN_BODY;
                    // Most requests end here, and the caller needs to know. Frames of unknown types may arrive before
                    // the end: some clients send one with each request (RFC 9114 §7.2.8).
                    return Poll::Ready(match self.poll_frame(cx, worker) {
                        Poll::Ready(Ok(None)) => self.end(),
                        Poll::Ready(Err(error)) => Err(error),
                        Poll::Ready(Ok(Some(_))) | Poll::Pending => Ok(()),
                    });
                }
                Some((kind::DATA, _)) => return Poll::Ready(Err(self.unexpected())),
                Some(_) => {}
                None => {
                    self.reset(code::REQUEST_INCOMPLETE);
                    let error = "the stream ended before its headers were complete";
                    return Poll::Ready(Err(HttpError::new(ErrorKind::ClosedEarly, error)));
                }
            }
        }
    }

    /// Receives the next piece of the body.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<Frame, HttpError>> {
        loop {
            match self.receiving {
                H3Receiving::Done => return Poll::Ready(Ok(Frame::End)),
                H3Receiving::Data(0) => self.receiving = IN_BODY,
                H3Receiving::Data(left) => return self.poll_data(cx, worker, left),
                H3Receiving::Between(_) | H3Receiving::Skip(..) => {
                    match ready!(self.poll_frame(cx, worker))? {
                        None => {
                            self.end()?;
                            let trailers = self.trailers.take();
                            return Poll::Ready(Ok(trailers.map_or(Frame::End, Frame::Trailers)));
                        }
                        Some((kind::DATA, length)) if self.receiving == IN_BODY => {
                            self.count(length)?;
                            self.consume_head();
                            self.receiving = H3Receiving::Data(length);
                        }
                        Some((kind::HEADERS, length)) if self.receiving == IN_BODY => {
                            let max = self.shared.options.bounds();
                            let kind = SectionKind::Trailers;
                            let section = ready!(self.poll_section(cx, worker, length, kind))?;
                            let mut trailers = Box::<Head>::default();
                            let read = convert::read(kind, &section, max, &mut trailers);
                            self.recycle(section);
                            read.map_err(|refusal| self.refuse(refusal))?;
                            self.whole()?;
                            // They are handed out at the end of the stream: nothing may follow, RFC 9114 §4.1.
                            self.receiving = H3Receiving::Between(FramePosition::Ended);
                            self.trailers = Some(trailers);
                        }
                        Some((kind::DATA | kind::HEADERS, _)) => {
                            return Poll::Ready(Err(self.unexpected()));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }

    /// Sets whether the receiver of the incoming message is not reading. While it is not, what the peer may send ahead
    /// is charged to the worker: the library does not report how much has arrived.
    ///
    /// # Errors
    /// The worker is at the limit of its buffers.
    pub fn set_blocked(&mut self, worker: &WorkerCx, blocked: bool) -> Result<(), HttpError> {
        if blocked == self.blocked.is_some() || (blocked && self.is_received()) {
            return Ok(());
        }
        if let Some(place) = &mut self.place {
            place.set_blocked(blocked);
        }
        self.blocked = None;
        if blocked {
            let mut charge = worker.buffers.charge();
            let window = self.shared.options.stream_window as usize;
            charge.set(window).map_err(|_| HttpError::buffers())?;
            self.blocked = Some(charge);
        }
        Ok(())
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        left: u64,
    ) -> Poll<Result<Frame, HttpError>> {
        if self.input.is_none() && ready!(self.poll_fill(cx, worker))? == 0 {
            return Poll::Ready(Err(self.cut()));
        }
        let Some(mut data) = self.input.take() else { return Poll::Ready(Err(self.cut())) };
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        if count < data.len() {
            self.input =
                Some(worker.buffers.copy(&data[count..]).map_err(|_| HttpError::buffers())?);
            data.truncate(count);
        }
        self.receiving = H3Receiving::Data(left - count as u64);
        // Whether this was the last piece is known only if the end has arrived with it.
        let mut last = false;
        if self.receiving == H3Receiving::Data(0)
            && let Poll::Ready(Ok(0)) = self.poll_fill_if_empty(cx, worker)
        {
            self.end()?;
            last = true;
        }
        Poll::Ready(Ok(Frame::Data { body: Body::Pooled(data), last }))
    }

    /// Returns the type and length of the next frame, once they have arrived; frames of unknown types are skipped.
    /// `None` at the end of the stream. The frame header is not consumed.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<Option<(u64, u64)>, HttpError>> {
        loop {
            let at = match self.receiving {
                H3Receiving::Between(place) | H3Receiving::Skip(_, place) => place,
                // Callers request a frame only between two.
                H3Receiving::Data(_) | H3Receiving::Done => FramePosition::Body,
            };
            if let H3Receiving::Skip(left, behind) = self.receiving {
                let there = self.input.as_ref().map_or(0, |input| input.len());
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(there);
                self.consume(count);
                let left = left - count as u64;
                self.receiving = match left {
                    0 => H3Receiving::Between(behind),
                    left => H3Receiving::Skip(left, behind),
                };
                if left > 0 && ready!(self.poll_fill(cx, worker))? == 0 {
                    return Poll::Ready(Err(self.cut()));
                }
                continue;
            }
            let bytes = self.input.as_deref().unwrap_or_default();
            let Some((kind, length, skip)) = frame::head(bytes) else {
                if ready!(self.poll_fill(cx, worker))? > 0 {
                    continue;
                }
                return Poll::Ready(match self.input {
                    None => Ok(None),
                    Some(_) => Err(self.cut()),
                });
            };
            match kind {
                kind::DATA | kind::HEADERS => return Poll::Ready(Ok(Some((kind, length)))),
                kind::CANCEL_PUSH
                | kind::SETTINGS
                | kind::PUSH_PROMISE
                | kind::GOAWAY
                | kind::MAX_PUSH_ID => return Poll::Ready(Err(self.unexpected())),
                kind if kind::is_of_http2(kind) => return Poll::Ready(Err(self.unexpected())),
                _ => {
                    self.consume(skip);
                    self.receiving = H3Receiving::Skip(length, at);
                }
            }
        }
    }

    /// Returns the payload of the frame whose header is at the front, once it is complete.
    fn poll_section(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        length: u64,
        kind: SectionKind,
    ) -> Poll<Result<Vec<u8>, HttpError>> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let max = self.shared.options.bounds();
        if length > max.bytes {
            let error = FieldFault::TooLarge.error_of(kind, Version::Http3, max);
            return Poll::Ready(Err(error));
        }
        loop {
            let bytes = self.input.as_deref().unwrap_or_default();
            let (_, _, skip) = frame::head(bytes).expect("the head of the frame was there");
            if let Some(payload) = bytes.get(skip..skip + length) {
                let mut section = std::mem::take(&mut self.section);
                section.extend_from_slice(payload);
                self.consume(skip + length);
                return Poll::Ready(Ok(section));
            }
            if ready!(self.poll_fill(cx, worker))? == 0 {
                return Poll::Ready(Err(self.cut()));
            }
        }
    }

    /// Keeps the memory of a section for the next one.
    fn recycle(&mut self, mut section: Vec<u8>) {
        section.clear();
        self.section = section;
    }

    fn consume_head(&mut self) {
        let bytes = self.input.as_deref().unwrap_or_default();
        let (_, _, skip) = frame::head(bytes).expect("the head of the frame was there");
        self.consume(skip);
    }

    fn consume(&mut self, count: usize) {
        if let Some(input) = &mut self.input {
            input.consume(count);
            if input.is_empty() {
                self.input = None;
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
        let is_head = self.receiving == H3Receiving::Between(FramePosition::Head);
        let room = pool.room_for_read(self.input.take(), SCRATCH, is_head);
        let mut input = room.map_err(|_| HttpError::buffers())?;
        let spare = input.spare();
        let room = spare.len().min(SCRATCH);
        if room == 0 {
            // No frame that is held whole is so large; an empty read would look like the end.
            return Poll::Ready(Err(self
                .shared
                .fail(code::EXCESSIVE_LOAD, "http3.frame_too_large")));
        }
        let got = self.recv.poll_read(cx, &mut spare[..room]);
        if let Poll::Ready(Ok(count)) = &got {
            input.fill(*count);
            self.shared.received.set(self.shared.received.get() + *count as u64);
        }
        // A slow peer holds a small buffer, not a large one.
        self.input = pool.settle(input, got.is_pending());
        got.map_err(|error| read_error(&error, self.shared.lost()))
    }

    fn poll_fill_if_empty(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<usize, HttpError>> {
        if self.input.is_some() {
            return Poll::Ready(Ok(1));
        }
        self.poll_fill(cx, worker)
    }

    /// Counts data against the length that the head stated.
    fn count(&mut self, length: u64) -> Result<(), HttpError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(length).ok_or_else(|| wrong_length(&mut self.send))?;
        }
        Ok(())
    }

    /// Checks at the end of the body that it has the stated length.
    fn whole(&mut self) -> Result<(), HttpError> {
        match self.left {
            Some(left) if left > 0 => Err(wrong_length(&mut self.send)),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), HttpError> {
        if self.receiving != H3Receiving::Between(FramePosition::Ended) {
            self.whole()?;
        }
        self.receiving = H3Receiving::Done;
        Ok(())
    }

    /// Fails the connection: the stream ended in the middle of a frame, RFC 9114 §7.1.
    fn cut(&self) -> HttpError {
        self.shared.fail(code::FRAME_ERROR, "http3.frame_cut")
    }

    fn unexpected(&self) -> HttpError {
        self.shared.fail(code::FRAME_UNEXPECTED, "http3.frame_unexpected")
    }

    fn refuse(&self, refusal: SectionRefusal) -> HttpError {
        match refusal {
            SectionRefusal::Connection(code, detail) => self.shared.fail(code, detail),
            SectionRefusal::Message(error) => error,
        }
    }

    /// Whether the incoming message has been read to its end.
    pub const fn is_received(&self) -> bool {
        matches!(self.receiving, H3Receiving::Done)
    }

    /// Ready when the peer no longer reads the outgoing message.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<HttpError> {
        let stopped = self.stopped.get_or_insert_with(|| Box::pin(self.send.stopped()));
        match ready!(stopped.as_mut().poll(cx)) {
            Ok(Some(_)) => {
                Poll::Ready(HttpError::new(ErrorKind::Cancelled, "the client cancelled the stream"))
            }
            // The peer has received everything.
            Ok(None) => {
                self.stopped = Some(Box::pin(std::future::pending()));
                Poll::Pending
            }
            Err(error) => Poll::Ready(HttpError::new(self.shared.lost(), error.to_string())),
        }
    }

    // --- sending ---

    /// Stages a response head; it leaves with what follows, or with [`H3Stream::push`].
    ///
    /// # Errors
    /// The head contains an invalid header.
    pub fn send_head(&mut self, head: &Head, end: bool) -> Result<(), HttpError> {
        convert::put_response(&mut self.out, head)?;
        if head.status() < 200 {
            return Ok(());
        }
        self.head_sent = true;
        if end || (self.method == Method::Head) {
            self.after = H3SendEnd::End;
        }
        Ok(())
    }

    /// Sends what is staged.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn push(&mut self, cx: &mut Context<'_>) -> Result<(), HttpError> {
        match self.poll_flushed(cx) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }

    /// Sends data of the body. Call it when [`H3Stream::poll_flushed`] is ready.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn send_data(
        &mut self,
        cx: &mut Context<'_>,
        body: Body,
        last: bool,
    ) -> Result<(), HttpError> {
        if !matches!(self.after, H3SendEnd::More) {
            // A response to HEAD has no body, whatever an HTTP/1 endpoint sent.
            return self.push(cx);
        }
        if !body.is_empty() {
            frame::put_head(&mut self.out, kind::DATA, body.len());
            (self.body, self.taken) = (Some(body), 0);
        }
        if last {
            self.after = H3SendEnd::End;
        }
        self.push(cx)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn send_end(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&Head>,
    ) -> Result<(), HttpError> {
        if matches!(self.after, H3SendEnd::More) {
            if let Some(trailers) = trailers {
                convert::put_trailers(&mut self.out, trailers)?;
            }
            self.after = H3SendEnd::End;
        }
        self.push(cx)
    }

    /// Ready when the library has accepted everything that was sent; what the peer has no room for waits here.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        let polled = self.poll_write(cx);
        if polled.is_pending() && self.shared.widen_send_window() {
            return self.poll_write(cx);
        }
        polled
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        let mut written = 0;
        while written < self.out.len() {
            match Pin::new(&mut self.send).poll_write(cx, &self.out[written..]) {
                Poll::Ready(count) => {
                    let count = count.map_err(|error| write_error(&error, self.shared.lost()))?;
                    written += count;
                    self.shared.count_sent(count);
                }
                Poll::Pending => {
                    self.out.drain(..written);
                    return Poll::Pending;
                }
            }
        }
        self.out.clear();
        while let Some(body) = self.body.as_deref().filter(|body| self.taken < body.len()) {
            let count = ready!(Pin::new(&mut self.send).poll_write(cx, &body[self.taken..]));
            let count = count.map_err(|error| write_error(&error, self.shared.lost()))?;
            self.taken += count;
            self.shared.count_sent(count);
        }
        self.body = None;
        if matches!(self.after, H3SendEnd::End) {
            self.after = H3SendEnd::Nothing;
            // If the peer has stopped the stream, it needs no notice of the end.
            let _ = self.send.finish();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the library has accepted the outgoing message to its end.
    pub const fn is_sent(&self) -> bool {
        matches!(self.after, H3SendEnd::Nothing)
    }

    /// Whether a head has been sent.
    pub const fn is_head_sent(&self) -> bool {
        self.head_sent
    }

    /// Resets the stream.
    pub fn reset(&mut self, code: u32) {
        let _ = self.send.reset(code.into());
        self.stop(code);
        self.after = H3SendEnd::Nothing;
    }

    fn stop(&mut self, code: u32) {
        if self.receiving != H3Receiving::Done {
            let _ = self.recv.stop(code.into());
            self.receiving = H3Receiving::Done;
        }
    }
}

impl Drop for H3Stream {
    fn drop(&mut self) {
        if !self.is_sent() {
            let client = self.shared.role == Role::Client;
            let code = if client { code::REQUEST_CANCELLED } else { code::INTERNAL_ERROR };
            let _ = self.send.reset(code.into());
        }
        // As a server, a response that did not wait for its request, RFC 9114 §4.1; as a client, a response that is no
        // longer needed.
        let server = self.shared.role == Role::Server;
        self.stop(if server { code::NO_ERROR } else { code::REQUEST_CANCELLED });
        self.shared.closed();
    }
}

fn wrong_length(send: &mut SendStream) -> HttpError {
    let _ = send.reset(code::MESSAGE_ERROR.into());
    HttpError::coded(ErrorKind::Reset, "http3.content_length_wrong")
}

/// The error for `error`; `lost` is its kind if the connection was lost.
fn read_error(error: &ReadError, lost: ErrorKind) -> HttpError {
    match error {
        ReadError::Reset(code) if *code == code::REQUEST_REJECTED.into() => {
            HttpError::new(ErrorKind::Refused, "http3: the server rejected the request unprocessed")
        }
        ReadError::Reset(code) => {
            let detail = format!("http3: RESET_STREAM received: {}", code::word((*code).into()));
            HttpError::new(ErrorKind::Cancelled, detail)
        }
        ReadError::ZeroRttRejected => early_data_rejected(),
        error => HttpError::new(lost, error.to_string()),
    }
}

/// The server took nothing of what was sent before the handshake was complete.
fn early_data_rejected() -> HttpError {
    HttpError::new(ErrorKind::Reset, "http3: the server rejected early data (0-RTT)")
}

fn write_error(error: &WriteError, lost: ErrorKind) -> HttpError {
    match error {
        WriteError::Stopped(code) => {
            let detail = format!("http3: STOP_SENDING received: {}", code::word((*code).into()));
            HttpError::new(ErrorKind::Cancelled, detail)
        }
        WriteError::ZeroRttRejected => early_data_rejected(),
        error => HttpError::new(lost, error.to_string()),
    }
}
