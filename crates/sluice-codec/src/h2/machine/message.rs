//! Frames that carry messages: HEADERS, CONTINUATION and DATA.
//!
//! Owns: which message may follow which, RFC 9113 §8.1. Refuses to know: what a head contains. Keeps: every block is
//! decoded, also of streams that are refused or were reset, because the tables must stay in step; what a stream may not
//! receive never reaches its user; the connection's window is given back whatever becomes of the data.

use super::parse::{DataFrame, Reading};
use super::{H2Machine, MachineEvent};
use crate::error::HttpError;
use crate::h1::Role;
use crate::h2::budget::cost;
use crate::h2::code::{H2Code, H2Violation};
use crate::h2::entry::{AfterData, StreamEntry};
use crate::h2::frame::{self, FrameHead, flag};
use crate::h2::state::{RecvPhase, StreamEnd, StreamState};
use crate::h2::window::{RecvWindow, SendWindow};
use crate::head::{Head, Method};
use crate::hpack::{BlockRefusal, HpackEncoder};
use crate::request_memory::{charge_head, charge_request};

/// A header block that continues in the next frame.
#[derive(Debug)]
pub(super) struct PartialBlock {
    pub(super) id: u32,
    ends: bool,
    bytes: Vec<u8>,
    charge: sluice_io::buffers::Charge,
}

/// Bytes of a header block beyond the bound of its head: a head that is too large is answered, a block without end is
/// not.
const BLOCK_MARGIN: usize = 64 << 10;

/// A padded DATA frame of at most this length may be nothing but padding.
const PADDING_MAX: u32 = 256;

/// Bytes that a client's connection may hold when the worker's buffers are exhausted; connections with more are what
/// exhausts them.
const SPARED: usize = 1 << 20;

/// Informational responses that wait for the user of a stream.
const INFORMATIONAL_MAX: usize = 8;

const STREAM_CLOSED: H2Code = H2Code::STREAM_CLOSED;

impl H2Machine {
    pub(super) fn headers(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), H2Violation> {
        let fragment = frame::fragment(head, payload)?;
        let ends = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, ends, fragment);
        }
        let charge = self.supply.buffers.charge();
        let block = PartialBlock { id: head.stream, ends, bytes: Vec::new(), charge };
        let mut block = Box::new(block);
        self.extend(&mut block, fragment)?;
        self.block = Some(block);
        Ok(())
    }

    pub(super) fn continuation(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), H2Violation> {
        self.spend(if payload.is_empty() { cost::EMPTY } else { cost::FRAME })?;
        let Some(mut block) = self.block.take() else { return Ok(()) };
        self.extend(&mut block, payload)?;
        if head.has(flag::END_HEADERS) {
            return self.block(block.id, block.ends, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    fn extend(&self, block: &mut PartialBlock, fragment: &[u8]) -> Result<(), H2Violation> {
        let len = block.bytes.len() + fragment.len();
        if len > self.options.head_bytes as usize + BLOCK_MARGIN {
            let detail = "http2.header_block_too_long";
            return Err(H2Violation::Connection(H2Code::ENHANCE_YOUR_CALM, detail));
        }
        block.charge.set(len).map_err(|_| H2Violation::Buffers)?;
        block.bytes.extend_from_slice(fragment);
        Ok(())
    }

    /// Handles a whole header block.
    fn block(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), H2Violation> {
        let key = self.streams.find(id);
        match (key, self.role) {
            (None, Role::Server) if id % 2 == 1 && id > self.last_peer => {
                self.request(id, ends, block)
            }
            (Some(key), _) => self.block_on(key, ends, block),
            // What a server had sent before it knew that the request was cancelled.
            (None, Role::Client) if id % 2 == 1 && id < self.next_id => self.ignore(block),
            (None, _) if self.streams.was_reset(id) => self.ignore(block),
            // RFC 9113 §5.1.1: numbers rise, and clients' are odd.
            (None, _) => Err(H2Violation::protocol("http2.stream_number")),
        }
    }

    /// Keeps the table in step with a block that is not used.
    fn ignore(&mut self, block: &[u8]) -> Result<(), H2Violation> {
        let mut scratch = self.supply.heads.take();
        let skipped = self.decoder.skip(block, &mut scratch);
        self.supply.heads.give(scratch);
        match skipped {
            Err(BlockRefusal::Compression(detail)) => {
                Err(H2Violation::Connection(H2Code::COMPRESSION_ERROR, detail))
            }
            _ => self.spend(cost::FRAME),
        }
    }

    /// Handles the block that opens a stream of a client.
    fn request(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), H2Violation> {
        self.last_peer = id;
        let active = self.streams.active();
        if active >= self.options.streams_max as usize || self.is_beyond_drain(id) {
            // Before our SETTINGS are acknowledged a client cannot know the limit; it may try again in any case.
            self.ignore(block)?;
            self.turn_away(id, ends);
            return Ok(());
        }
        let Ok(mut charge) = charge_request(&self.supply.buffers, active == 0) else {
            self.starved += 1;
            self.ignore(block)?;
            self.turn_away(id, ends);
            return Ok(());
        };
        let mut head = self.supply.heads.take();
        match self.decoder.request(block, self.bounds(), &mut head) {
            Ok(()) => {}
            Err(refusal) => {
                self.supply.heads.give(head);
                return self.refuse(id, ends, refusal);
            }
        }
        let length = head.content_length();
        if ends && length.is_some_and(|length| length > 0) {
            self.supply.heads.give(head);
            let error = HttpError::coded(crate::ErrorKind::Malformed(400), LENGTH);
            return self.refuse(id, ends, BlockRefusal::Malformed(error));
        }
        if charge_head(&mut charge, &head).is_err() {
            self.supply.heads.give(head);
            self.starved += 1;
            self.turn_away(id, ends);
            return self.spend(cost::FRAME);
        }
        let mut entry = self.new_entry(id, StreamState::Open);
        entry.charge = Some(charge);
        entry.length_left = length;
        entry.pending = true;
        if let Some(priority) = head.get_named(b"priority") {
            self.prioritized |= entry.set_priority(priority);
        }
        if ends {
            entry.state.end_received();
            entry.phase = RecvPhase::Done;
            entry.delivered = true;
        }
        let key = self.insert(entry);
        self.events.push_back(MachineEvent::Request(key, head));
        Ok(())
    }

    /// Refuses a request of which nothing has been processed: the client may repeat it, RFC 9113 §8.7.
    fn turn_away(&mut self, id: u32, ends: bool) {
        frame::write_reset(&mut self.out, id, H2Code::REFUSED_STREAM);
        if !ends {
            self.streams.remember_reset(id);
        }
    }

    /// Refuses a request: malformed ones with a reset, others with a response (RFC 9113 §8.1.1 allows both).
    fn refuse(&mut self, id: u32, ends: bool, refusal: BlockRefusal) -> Result<(), H2Violation> {
        let (status, error) = match refusal {
            BlockRefusal::Compression(detail) => {
                return Err(H2Violation::Connection(H2Code::COMPRESSION_ERROR, detail));
            }
            BlockRefusal::Malformed(error) => (None, error),
            BlockRefusal::Unacceptable(error) => (Some(error.status().unwrap_or(400)), error),
        };
        if let Some(status) = status {
            let mut head = self.supply.heads.take();
            head.set_status(status);
            let sent = self.write_head(HpackEncoder::response, id, &head, true);
            self.supply.heads.give(head);
            debug_assert!(sent.is_ok(), "a status alone can always be sent");
        }
        match status {
            None => {
                frame::write_reset(&mut self.out, id, H2Code::PROTOCOL_ERROR);
                if !ends {
                    self.streams.remember_reset(id);
                }
            }
            Some(_) if !ends => {
                let mut entry = self.new_entry(id, StreamState::HalfClosedLocal);
                (entry.head_sent, entry.after) = (true, AfterData::Nothing);
                let key = self.insert(entry);
                self.linger(key);
            }
            Some(_) => {}
        }
        self.events.push_back(MachineEvent::Refused(error));
        self.spend(cost::FRAME)
    }

    pub(super) fn new_entry(&self, id: u32, state: StreamState) -> StreamEntry {
        let window = self.options.stream_window;
        // A larger initial window than ours holds until our SETTINGS are acknowledged, RFC 9113 §6.9.3.
        let granted = if self.unacknowledged { window.max(super::INITIAL_WINDOW) } else { window };
        let recv = RecvWindow::new(window, granted);
        StreamEntry::new(id, state, recv, SendWindow::new(self.peer.stream_window))
    }

    /// Handles a block on a stream that is known: a response, trailers, or what is not allowed.
    fn block_on(&mut self, key: usize, ends: bool, block: &[u8]) -> Result<(), H2Violation> {
        let entry = self.streams.get(key);
        let (id, phase) = (entry.id, entry.phase);
        if !entry.state.receives() {
            let end = entry.end;
            let is_closed = entry.state == StreamState::Closed;
            self.ignore(block)?;
            return match end {
                Some(StreamEnd::ByPeer(_)) => Err(H2Violation::protocol("http2.stream_number")),
                // What was in flight when we reset it.
                Some(_) => Ok(()),
                None if is_closed => Err(H2Violation::protocol("http2.stream_number")),
                None => Err(H2Violation::Stream(id, STREAM_CLOSED, "http2.frame_after_end")),
            };
        }
        let mut head = self.supply.heads.take();
        let bounds = self.bounds();
        let decoded = match phase {
            RecvPhase::Head => self.decoder.response(block, bounds, &mut head),
            _ => self.decoder.trailers(block, bounds, &mut head),
        };
        let wrong = |detail| H2Violation::Stream(id, H2Code::PROTOCOL_ERROR, detail);
        let taken = match decoded {
            Err(BlockRefusal::Compression(detail)) => {
                Err(H2Violation::Connection(H2Code::COMPRESSION_ERROR, detail))
            }
            Err(BlockRefusal::Malformed(error) | BlockRefusal::Unacceptable(error)) => {
                Err(wrong(error.code().unwrap_or("http2.head_malformed")))
            }
            Ok(()) if phase != RecvPhase::Head && !ends => Err(wrong("http2.trailers_without_end")),
            Ok(()) if !self.has_room_for(key, &head) => {
                self.reset_with(key, H2Code::INTERNAL_ERROR, StreamEnd::Buffers);
                Ok(())
            }
            Ok(()) if phase == RecvPhase::Head => {
                return self.response(key, head, ends);
            }
            Ok(()) => {
                self.streams.get_mut(key).trailers = Some(head);
                return self.end_received(key);
            }
        };
        self.supply.heads.give(head);
        taken
    }

    /// Whether the worker has room for a head that waits for the user of a stream.
    fn has_room_for(&mut self, key: usize, head: &Head) -> bool {
        self.streams.get_mut(key).charge_heads(&self.supply.buffers, head.bytes_held())
    }

    /// Handles a response head.
    fn response(&mut self, key: usize, head: Box<Head>, ends: bool) -> Result<(), H2Violation> {
        if head.status() < 200 {
            // A server may send any number of these before a response.
            self.spend(cost::FRAME)?;
        } else {
            self.budget.earn_head();
        }
        let entry = self.streams.get_mut(key);
        let wrong = |detail| Err(H2Violation::Stream(entry.id, H2Code::PROTOCOL_ERROR, detail));
        if head.status() < 200 {
            if ends {
                return wrong("http2.informational_with_end");
            }
            if entry.informational.len() == INFORMATIONAL_MAX {
                return wrong("http2.informational_flood");
            }
            entry.informational.push(head);
        } else {
            entry.phase = RecvPhase::Body;
            let bodiless = entry.bodiless || matches!(head.status(), 204 | 304);
            entry.length_left = head.content_length().filter(|_| !bodiless);
            entry.head = Some(head);
            if ends {
                return self.end_received(key);
            }
        }
        entry.wake();
        Ok(())
    }

    /// The peer has sent END_STREAM.
    fn end_received(&mut self, key: usize) -> Result<(), H2Violation> {
        let entry = self.streams.get_mut(key);
        if entry.length_left.is_some_and(|left| left > 0) {
            let code = H2Code::PROTOCOL_ERROR;
            return Err(H2Violation::Stream(entry.id, code, LENGTH));
        }
        entry.phase = RecvPhase::Done;
        entry.wake();
        let lingers = entry.lingers;
        self.change(key, StreamState::end_received);
        if lingers {
            self.dispose(key);
        }
        Ok(())
    }

    // --- DATA ---

    /// Handles the header of a DATA frame: windows and states.
    pub(super) fn begin_data(&mut self, head: FrameHead) -> Result<(), H2Violation> {
        let flow = H2Code::FLOW_CONTROL_ERROR;
        let ends = head.has(flag::END_STREAM);
        let padded = head.has(flag::PADDED);
        if self.is_idle(head.stream) {
            return Err(H2Violation::protocol("http2.frame_on_idle_stream"));
        }
        let overrun = H2Violation::Connection(flow, "http2.connection_window");
        self.recv.receive(head.len).map_err(|_| overrun)?;
        self.give_back(head.len);
        match (head.len, ends) {
            (0, false) => self.spend(cost::EMPTY)?,
            (1..=PADDING_MAX, false) if padded => self.spend(cost::FRAME)?,
            _ => {}
        }
        let closed = H2Violation::Stream(head.stream, STREAM_CLOSED, "http2.frame_after_end");
        let Some(key) = self.streams.find(head.stream) else {
            self.spend(cost::FRAME)?;
            return if self.streams.was_reset(head.stream) { Ok(()) } else { Err(closed) };
        };
        let entry = self.streams.get_mut(key);
        if !entry.state.receives() {
            let ours = entry.end.is_some_and(|end| !matches!(end, StreamEnd::ByPeer(_)));
            self.spend(cost::FRAME)?;
            return if ours { Ok(()) } else { Err(closed) };
        }
        if entry.phase == RecvPhase::Head {
            let code = H2Code::PROTOCOL_ERROR;
            return Err(H2Violation::Stream(head.stream, code, "http2.data_before_head"));
        }
        let overrun = H2Violation::Stream(head.stream, flow, "http2.stream_window");
        entry.recv.receive(head.len).map_err(|_| overrun)?;
        // Only what a stream takes is progress.
        if entry.lingers {
            if entry.recv.is_exhausted() {
                self.stuck();
            }
        } else if head.len > PADDING_MAX || !padded {
            self.budget.earn_received(head.len as usize);
        }
        let padding = if padded { None } else { Some(0) };
        let data = DataFrame { id: head.stream, left: head.len, padding, ends };
        if head.len == 0 {
            return self.finish_data(data);
        }
        self.reading = Reading::Data(data);
        Ok(())
    }

    /// Takes bytes of a DATA frame off the front.
    pub(super) fn read_data(&mut self, bytes: &mut &[u8]) -> Result<(), H2Violation> {
        let Reading::Data(mut data) = self.reading else { return Ok(()) };
        let Some(padding) = data.padding else {
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            *bytes = rest;
            data.left -= 1;
            data.padding = Some(*first);
            if u32::from(*first) > data.left {
                return Err(H2Violation::protocol("http2.padding"));
            }
            // Padding takes no room, so its part of the window is free at once.
            if let Some(key) = self.streams.find(data.id) {
                self.taken(key, u32::from(*first) + 1);
            }
            return self.go_on(data);
        };
        // Padding is last.
        let content = data.left - u32::from(padding);
        let wanted = if content > 0 { content } else { data.left };
        let (part, rest) = bytes.split_at(bytes.len().min(wanted as usize));
        *bytes = rest;
        data.left -= u32::try_from(part.len()).unwrap_or(wanted);
        if content == 0 {
            data.padding = Some(u8::try_from(data.left).unwrap_or(padding));
            return self.go_on(data);
        }
        // If the stream ends here, the rest of the frame is skipped.
        self.skip(data.left);
        if self.deliver(data.id, part)? { self.go_on(data) } else { Ok(()) }
    }

    fn go_on(&mut self, data: DataFrame) -> Result<(), H2Violation> {
        if data.left > 0 {
            self.reading = Reading::Data(data);
            return Ok(());
        }
        self.reading = Reading::NEXT;
        self.finish_data(data)
    }

    fn finish_data(&mut self, data: DataFrame) -> Result<(), H2Violation> {
        match self.streams.find(data.id) {
            Some(key) if data.ends && self.streams.get(key).state.receives() => {
                self.end_received(key)
            }
            _ => Ok(()),
        }
    }

    /// Gives data to its stream; returns whether it still wants any.
    fn deliver(&mut self, id: u32, data: &[u8]) -> Result<bool, H2Violation> {
        let Some(key) = self.streams.find(id) else { return Ok(false) };
        let entry = self.streams.get_mut(key);
        if !entry.state.receives() {
            return Ok(false);
        }
        if let Some(left) = &mut entry.length_left {
            let wrong = H2Violation::Stream(id, H2Code::PROTOCOL_ERROR, LENGTH);
            *left = left.checked_sub(data.len() as u64).ok_or(wrong)?;
        }
        if entry.lingers {
            return Ok(true);
        }
        if self.pieces.push(&mut entry.pieces, data).is_err() {
            if self.role == Role::Server && self.pieces.held() > SPARED {
                return Err(H2Violation::Buffers);
            }
            self.reset_with(key, H2Code::INTERNAL_ERROR, StreamEnd::Buffers);
            return Ok(false);
        }
        self.streams.get_mut(key).wake();
        Ok(true)
    }

    /// Whether a stream was never opened, RFC 9113 §5.1.
    pub(super) const fn is_idle(&self, id: u32) -> bool {
        match (self.role, id % 2) {
            (Role::Server, 1) => id > self.last_peer,
            (Role::Client, 1) => id >= self.next_id,
            _ => true,
        }
    }
}

/// A body has another length than its head states.
const LENGTH: &str = "http2.content_length_wrong";

/// Whether the response to a request never has a body that its head describes, RFC 9110 §6.4.1.
pub(super) fn is_bodiless(request: &Head) -> bool {
    matches!(request.method(), Method::Head | Method::Connect) || request.upgrade().is_some()
}
