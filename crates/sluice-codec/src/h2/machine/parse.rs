//! Bytes become frames.
//!
//! Owns: what has arrived of a frame. Refuses to know: what frames mean. Keeps: the result does not depend on how the
//! bytes were cut; the payload of DATA is passed on as it arrives, that of other frames whole, and a frame that arrives
//! in several reads is held in a buffer of the worker.

use sluice_core::Moment;
use sluice_io::buffers::Buf;

use super::H2Machine;
use crate::h1::Role;
use crate::h2::budget::cost;
use crate::h2::code::H2Violation;
use crate::h2::frame::{FrameHead, HEAD_LEN, PREFACE, flag, kind};
use crate::h2::machine::ConnectionEnd;

/// A DATA frame whose payload is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataFrame {
    pub(super) id: u32,
    /// Bytes of payload that have not arrived.
    pub(super) left: u32,
    /// Bytes of padding; `None` before the first byte of a padded frame.
    pub(super) padding: Option<u8>,
    pub(super) ends: bool,
}

/// What is being read.
#[derive(Debug)]
pub(super) enum Reading {
    /// The preface of a client, of which so many bytes have arrived.
    Preface(usize),
    /// A frame header, of which so many bytes have arrived.
    Head([u8; HEAD_LEN], usize),
    /// The payload of a frame that is handled whole.
    Payload(FrameHead, Option<Buf>),
    /// The payload of DATA.
    Data(DataFrame),
    /// A payload that is skipped.
    Skip(u32),
}

impl Reading {
    pub(super) const fn start(role: Role) -> Self {
        match role {
            Role::Server => Self::Preface(0),
            Role::Client => Self::NEXT,
        }
    }

    /// The next frame.
    pub(super) const NEXT: Self = Self::Head([0; HEAD_LEN], 0);
}

/// Takes at most `count` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count.min(bytes.len()));
    *bytes = rest;
    taken
}

impl H2Machine {
    /// Takes received bytes.
    pub fn feed(&mut self, mut bytes: &[u8], now: Moment) {
        self.now = now;
        let before = self.out.len();
        while !bytes.is_empty() && self.end.is_none() {
            if let Err(violation) = self.step(&mut bytes) {
                self.violated(violation);
            }
            if !self.is_partial() {
                self.partial_since = None;
            }
        }
        if self.is_partial() {
            self.partial_since.get_or_insert(now);
        }
        self.replied += self.out.len() - before;
    }

    /// Whether a frame other than DATA, or a header block, has arrived in part.
    const fn is_partial(&self) -> bool {
        let of_frame = matches!(self.reading, Reading::Head(_, 1..) | Reading::Payload(..));
        of_frame || self.block.is_some()
    }

    /// Takes bytes off the front: those of one part of a frame.
    fn step(&mut self, bytes: &mut &[u8]) -> Result<(), H2Violation> {
        match &mut self.reading {
            Reading::Preface(read) => {
                let part = take(bytes, PREFACE.len() - *read);
                let expected = &PREFACE[*read..*read + part.len()];
                *read += part.len();
                if part != expected {
                    // Not HTTP/2, so no GOAWAY would be understood.
                    self.fail(ConnectionEnd::NotHttp2);
                } else if *read == PREFACE.len() {
                    self.reading = Reading::NEXT;
                }
                Ok(())
            }
            Reading::Head(head, read) => {
                let part = take(bytes, HEAD_LEN - *read);
                head[*read..*read + part.len()].copy_from_slice(part);
                *read += part.len();
                if *read < HEAD_LEN {
                    return Ok(());
                }
                if !self.greeted && self.role == Role::Client && head.starts_with(b"HTTP/1.") {
                    // Usually 400 for the preface. Read as a frame it would only be an odd one.
                    self.fail(ConnectionEnd::SpeaksHttp1);
                    return Ok(());
                }
                let head = FrameHead::read(*head);
                self.begin(head, bytes)
            }
            Reading::Payload(head, held) => {
                let head = *head;
                let Some(mut payload) = held.take() else { return Ok(()) };
                payload.append(take(bytes, head.len as usize - payload.len()));
                if payload.len() < head.len as usize {
                    *held = Some(payload);
                    return Ok(());
                }
                self.reading = Reading::NEXT;
                self.handle(head, &payload)
            }
            Reading::Data(_) => self.read_data(bytes),
            Reading::Skip(left) => {
                let skipped = take(bytes, *left as usize).len();
                *left -= u32::try_from(skipped).unwrap_or(*left);
                if *left == 0 {
                    self.reading = Reading::NEXT;
                }
                Ok(())
            }
        }
    }

    /// Handles a frame header, and the payload if all of it has arrived.
    fn begin(&mut self, head: FrameHead, bytes: &mut &[u8]) -> Result<(), H2Violation> {
        // Whatever is wrong with it, the next frame begins behind it.
        self.skip(head.len);
        self.check_order(head)?;
        head.check()?;
        match head.kind {
            kind::DATA => self.begin_data(head),
            kind::HEADERS..=kind::CONTINUATION | kind::PRIORITY_UPDATE => {
                let len = head.len as usize;
                if bytes.len() >= len {
                    self.reading = Reading::NEXT;
                    let payload = take(bytes, len);
                    return self.handle(head, payload);
                }
                let held = self.supply.buffers.take_for_head(len);
                let mut held = held.map_err(|_| H2Violation::Buffers)?;
                held.append(take(bytes, len));
                self.reading = Reading::Payload(head, Some(held));
                Ok(())
            }
            // RFC 9113 §5.5: unknown types are ignored.
            _ => self.spend(cost::FRAME),
        }
    }

    /// Skips so many bytes.
    pub(super) fn skip(&mut self, len: u32) {
        self.reading = if len == 0 { Reading::NEXT } else { Reading::Skip(len) };
    }

    /// Checks that the first frame is SETTINGS (RFC 9113 §3.4), and that nothing interrupts a header block (§4.3).
    fn check_order(&mut self, head: FrameHead) -> Result<(), H2Violation> {
        if !self.greeted {
            if head.kind != kind::SETTINGS || head.has(flag::ACK) {
                return Err(H2Violation::protocol("http2.settings_missing"));
            }
            self.greeted = true;
        }
        match &self.block {
            Some(block) if head.kind != kind::CONTINUATION || head.stream != block.id => {
                Err(H2Violation::protocol("http2.header_block_interrupted"))
            }
            None if head.kind == kind::CONTINUATION => {
                Err(H2Violation::protocol("http2.continuation_unexpected"))
            }
            _ => Ok(()),
        }
    }

    /// Handles a whole frame.
    fn handle(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), H2Violation> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::RST_STREAM => self.reset_received(head.stream, payload),
            kind::SETTINGS if head.has(flag::ACK) => self.settings_acknowledged(),
            kind::SETTINGS => self.settings(payload),
            kind::PING => self.ping_received(head, payload),
            kind::GOAWAY => self.goaway_received(payload),
            kind::WINDOW_UPDATE => self.window_update(head.stream, payload),
            kind::PRIORITY_UPDATE => self.priority_update(payload),
            // We allow none, RFC 9113 §6.6 and §8.4.
            kind::PUSH_PROMISE => Err(H2Violation::protocol("http2.push_not_allowed")),
            // Dependencies are deprecated, RFC 9113 §5.3.2.
            _ => self.spend(cost::FRAME),
        }
    }
}
