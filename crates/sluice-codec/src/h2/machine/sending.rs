//! What the user of a stream sends.
//!
//! Owns: opening streams, heads, the piece of a body that waits for room. Refuses to know: the order in which streams
//! send. Keeps: a stream holds one piece; heads leave in the order in which they were encoded, because the tables depend
//! on it; a small piece for which there is room leaves at once, behind its head and in the same write.

use std::task::{Context, Poll};

use super::message::is_bodiless;
use super::receiving::wait;
use super::{H2Machine, OUT_FREE, OUT_HIGH};
use crate::body::Body;
use crate::error::{ErrorKind, HttpError};
use crate::h2::entry::{AfterData, StreamEntry};
use crate::h2::frame::{self, FRAME_MAX, HEAD_LEN, flag, kind};
use crate::h2::state::{RecvPhase, StreamState};
use crate::head::Head;
use crate::hpack::HpackEncoder;

/// Pieces of at most this many bytes are copied behind their heads.
const COPIED_MAX: usize = 4 << 10;

/// Bytes of a start line, for the account: a head is charged by its headers.
const START_LINE: usize = 256;

/// Encodes one kind of head.
pub(super) type EncodeHead = fn(&mut HpackEncoder, &Head, &mut Vec<u8>) -> Result<(), HttpError>;

/// Streams that we open before the peer's SETTINGS have arrived.
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// The largest number of a stream, RFC 9113 §5.1.1.
const STREAM_MAX: u32 = (1 << 31) - 1;

impl H2Machine {
    /// Whether streams may still be opened.
    pub const fn is_alive(&self) -> bool {
        self.end.is_none() && self.peer_goaway.is_none() && self.next_id <= STREAM_MAX
    }

    /// Streams that the peer allows at once; as many as RFC 9113 §6.5.2 asks for before its SETTINGS say.
    pub const fn peer_streams_max(&self) -> usize {
        if self.greeted { self.peer.streams_max as usize } else { STREAMS_BEFORE_SETTINGS }
    }

    /// Ready when a stream with this head can be opened.
    ///
    /// # Errors
    /// None can be opened any more, or the server does not accept extended CONNECT (RFC 8441 §3).
    pub fn poll_open(&mut self, head: &Head, cx: &Context<'_>) -> Poll<Result<(), HttpError>> {
        if !self.is_alive() {
            return Poll::Ready(Err(match &self.end {
                Some(end) if self.peer_goaway.is_none() => {
                    let detail = end.error().detail().to_owned();
                    HttpError::new(ErrorKind::Refused, detail)
                }
                _ => self.refusal(),
            }));
        }
        let extended = head.upgrade().is_some();
        if extended && self.greeted && !self.peer.connect_protocol {
            let detail = "http2.extended_connect_not_accepted";
            return Poll::Ready(Err(HttpError::coded(ErrorKind::Malformed(502), detail)));
        }
        if self.streams.active() < self.peer_streams_max() && (!extended || self.greeted) {
            return Poll::Ready(Ok(()));
        }
        if !self.openers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.openers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Opens a stream with a request, when [`H2Machine::poll_open`] is ready; `end` means that it has no body.
    ///
    /// # Errors
    /// The head cannot be expressed in HTTP/2, or the worker is at the limit of its buffers.
    pub fn open(&mut self, head: &Head, end: bool) -> Result<usize, HttpError> {
        let id = self.next_id;
        self.write_head(HpackEncoder::request, id, head, end)?;
        self.next_id += 2;
        let mut entry: StreamEntry = self.new_entry(id, StreamState::Open);
        entry.phase = RecvPhase::Head;
        entry.bodiless = is_bodiless(head);
        entry.head_sent = true;
        if end {
            entry.state.end_sent();
            entry.after = AfterData::Nothing;
        }
        Ok(self.insert(entry))
    }

    /// Sends a response head.
    ///
    /// # Errors
    /// The head cannot be expressed in HTTP/2, or the stream has ended.
    pub fn send_head(&mut self, key: usize, head: &Head, end: bool) -> Result<(), HttpError> {
        let entry = self.streams.get(key);
        if entry.head_sent {
            return Err(HttpError::new(ErrorKind::Finished, "a final head was already sent"));
        }
        if let Some(error) = self.error_of(entry.end) {
            return Err(error);
        }
        let (id, informational) = (entry.id, head.status() < 200);
        self.write_head(HpackEncoder::response, id, head, end && !informational)?;
        if informational {
            return Ok(());
        }
        self.budget.earn_head();
        self.streams.get_mut(key).head_sent = true;
        if end {
            self.end_sent(key);
        }
        Ok(())
    }

    /// Encodes a head as HEADERS and CONTINUATION frames.
    pub(super) fn write_head(
        &mut self,
        encode: EncodeHead,
        id: u32,
        head: &Head,
        end: bool,
    ) -> Result<(), HttpError> {
        self.charge_out(head.wire_size() + START_LINE)?;
        self.prepare_out();
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEAD_LEN]);
        if let Err(error) = encode(&mut self.encoder, head, &mut self.out) {
            self.out.truncate(start);
            return Err(error);
        }
        let flags = if end { flag::END_STREAM } else { 0 };
        frame::close_block(&mut self.out, start, id, flags, FRAME_MAX as usize);
        Ok(())
    }

    /// Takes memory for what is to be sent, if there is none.
    pub(super) fn prepare_out(&mut self) {
        if self.out.capacity() == 0 {
            self.out = self.supply.take_bytes();
        }
    }

    /// Charges what waits to be sent, and `more`.
    fn charge_out(&mut self, more: usize) -> Result<(), HttpError> {
        let waiting = self.out.len() + more;
        if waiting > OUT_FREE.max(self.out_charge.bytes()) {
            self.out_charge.set(waiting).map_err(|_| HttpError::buffers())?;
        }
        Ok(())
    }

    /// Ready when everything that the user gave has been sent, as far as the peer's windows and the socket allow.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn poll_flushed(&mut self, key: usize, cx: &Context<'_>) -> Poll<Result<(), HttpError>> {
        let entry = self.streams.get_mut(key);
        if entry.has_unsent() {
            wait(entry, cx);
            return Poll::Pending;
        }
        let is_sent = matches!(entry.after, AfterData::Nothing);
        let (head_sent, end) = (entry.head_sent, entry.end);
        if let Some(error) = self.error_of(end).filter(|_| head_sent && !is_sent) {
            return Poll::Ready(Err(error));
        }
        if self.out.len() > OUT_HIGH && self.end.is_none() {
            self.out_waiters.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends data of the body. Call it when [`H2Machine::poll_flushed`] is ready.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub fn send_data(&mut self, key: usize, body: Body, last: bool) -> Result<(), HttpError> {
        let entry = self.streams.get_mut(key);
        if matches!(entry.after, AfterData::Nothing) || (body.is_empty() && !last) {
            // A response to HEAD has no body, whatever an HTTP/1 endpoint sent.
            return Ok(());
        }
        debug_assert!(!entry.has_unsent(), "the piece before it was sent");
        if let Some(error) = self.error_of(self.streams.get(key).end) {
            return Err(error);
        }
        let entry = self.streams.get_mut(key);
        let room = entry.send.room().min(self.send.room()).min(COPIED_MAX);
        if body.len() <= room && self.out.len() < OUT_HIGH / 2 {
            entry.send.take(body.len());
            self.send.take(body.len());
            let flags = if last { flag::END_STREAM } else { 0 };
            frame::write(&mut self.out, kind::DATA, flags, entry.id, &body);
            self.budget.earn_sent(body.len(), true);
            if last {
                self.end_sent(key);
            }
            return Ok(());
        }
        // What waits for room keeps no buffer that is much larger.
        let body = match body {
            Body::Pooled(buf) => match self.supply.buffers.settle(buf, true) {
                Some(buf) => Body::Pooled(buf),
                None => Body::Shared(bytes::Bytes::new()),
            },
            shared => shared,
        };
        (entry.unsent, entry.unsent_from) = (Some(body), 0);
        if last {
            entry.after = AfterData::End;
        }
        self.queue(key);
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The error that ended the stream, or the trailers cannot be expressed in HTTP/2.
    pub fn send_end(&mut self, key: usize, trailers: Option<&Head>) -> Result<(), HttpError> {
        let entry = self.streams.get(key);
        if matches!(entry.after, AfterData::Nothing) {
            return Ok(());
        }
        if let Some(error) = self.error_of(entry.end) {
            return Err(error);
        }
        let (id, waits) = (entry.id, entry.unsent.is_some());
        match (trailers, waits) {
            (None, true) => self.streams.get_mut(key).after = AfterData::End,
            (None, false) => {
                frame::write(&mut self.out, kind::DATA, flag::END_STREAM, id, &[]);
                self.end_sent(key);
            }
            (Some(trailers), true) => {
                if !trailers.is_sound() {
                    let detail = "http2.field_cannot_be_sent";
                    return Err(HttpError::coded(ErrorKind::Malformed(502), detail));
                }
                let mut kept = self.supply.heads.take();
                kept.copy_fields(trailers);
                self.streams.get_mut(key).after = AfterData::Trailers(kept);
            }
            (Some(trailers), false) => {
                self.write_head(HpackEncoder::trailers, id, trailers, true)?;
                self.end_sent(key);
            }
        }
        Ok(())
    }

    /// We have sent END_STREAM.
    pub(super) fn end_sent(&mut self, key: usize) {
        self.streams.get_mut(key).after = AfterData::Nothing;
        self.change(key, StreamState::end_sent);
    }

    /// Whether the outgoing message was sent to its end.
    pub fn is_sent(&self, key: usize) -> bool {
        matches!(self.streams.get(key).after, AfterData::Nothing)
    }

    /// Whether a final head was sent.
    pub fn is_head_sent(&self, key: usize) -> bool {
        self.streams.get(key).head_sent
    }
}
