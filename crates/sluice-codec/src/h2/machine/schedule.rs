//! Which stream sends next.
//!
//! Owns: the queue of streams that have data and room. Refuses to know: sockets; the driver asks for bytes when the
//! socket takes them. Keeps: control frames and heads first; of equal streams each sends a frame in turn; a stream whose
//! window is empty is not in the queue, so it costs the others nothing; a stream of lesser urgency sends when no other
//! can.
//!
//! Source: RFC 9113 §5.2 and §5.3, RFC 9218 §10.

use super::{H2Machine, OUT_FREE};
use crate::h2::code::H2Code;
use crate::h2::entry::{AfterData, StreamEntry, URGENCY};
use crate::h2::frame::{FRAME_MAX, FrameHead, HEAD_LEN, flag, kind};
use crate::hpack::HpackEncoder;

/// The data of a frame whose header ends [`H2Machine::waiting`]: it is sent from where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectPiece {
    key: usize,
    len: usize,
}

impl StreamEntry {
    /// Applies a hint about the order of responses (RFC 9218 §4); returns whether it differs from the default.
    pub(super) fn set_priority(&mut self, hint: &[u8]) -> bool {
        (self.urgency, self.incremental) = (URGENCY, false);
        for parameter in hint.split(|byte| *byte == b',') {
            match parameter.trim_ascii() {
                [b'u', b'=', digit @ b'0'..=b'7'] => self.urgency = digit & 7,
                b"i" | b"i=?1" => self.incremental = true,
                _ => {}
            }
        }
        self.urgency != URGENCY || !self.incremental
    }
}

impl H2Machine {
    /// Returns the bytes to be sent.
    pub fn waiting(&self) -> &[u8] {
        &self.out
    }

    /// Returns the data of a direct piece.
    pub fn direct(&self, piece: DirectPiece) -> &[u8] {
        let entry = self.streams.get(piece.key);
        let body = entry.unsent.as_deref().unwrap_or_default();
        &body[entry.unsent_from..entry.unsent_from + piece.len]
    }

    /// Whether there is anything to send now.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty() || (!self.ready.is_empty() && self.send.room() > 0)
    }

    /// Notes that all of [`H2Machine::waiting`], and the direct piece behind it, was given to the socket.
    pub fn sent(&mut self, piece: Option<DirectPiece>) {
        self.out.clear();
        self.replied = 0;
        if self.out.capacity() > OUT_FREE || self.streams.is_empty() {
            // An idle connection holds no memory for it, and none more than is free.
            self.supply.give_bytes(std::mem::take(&mut self.out));
        }
        if self.out_charge.bytes() > 0 {
            let _ = self.out_charge.set(0);
        }
        self.out_waiters.drain(..).for_each(std::task::Waker::wake);
        if let Some(piece) = piece {
            self.advance(piece.key, piece.len);
        }
    }

    /// Notes that the first bytes of [`H2Machine::waiting`] were given to the socket.
    pub fn sent_first(&mut self, count: usize) {
        self.out.drain(..count);
    }

    /// Enters a stream that may send into the queue.
    pub(super) fn queue(&mut self, key: usize) {
        let entry = self.streams.get_mut(key);
        if !entry.queued && entry.may_send() {
            entry.queued = true;
            self.ready.push_back(u32::try_from(key).unwrap_or(u32::MAX));
        }
    }

    /// Adds DATA frames to [`H2Machine::waiting`] until it has `max` bytes. A frame with at least `direct_min` bytes of
    /// data ends it: then its data is returned, to be sent from where it is.
    pub fn fill(&mut self, max: usize, direct_min: usize) -> Option<DirectPiece> {
        if !self.ready.is_empty() {
            self.prepare_out();
        }
        let mut rounds = self.ready.len();
        while self.out.len() + HEAD_LEN < max && rounds > 0 {
            let key = self.next_ready()?;
            let entry = self.streams.get(key);
            let unsent = entry.unsent_len();
            let frame_max = self.peer.frame_max.min(FRAME_MAX) as usize;
            let room = self.send.room().min(entry.send.room()).min(frame_max);
            let len = unsent.min(room);
            let direct = len >= direct_min;
            let len = if direct { len } else { len.min(max - self.out.len() - HEAD_LEN) };
            if len == 0 && unsent > 0 {
                if entry.send.room() > 0 {
                    // The connection's window is empty: it stays where it is.
                    self.ready.push_front(u32::try_from(key).unwrap_or(u32::MAX));
                    return None;
                }
                self.streams.get_mut(key).queued = false;
                rounds -= 1;
                continue;
            }
            self.write_data(key, len, direct);
            if direct {
                return Some(DirectPiece { key, len });
            }
            self.advance(key, len);
            rounds = self.ready.len();
        }
        None
    }

    /// Takes the stream that sends next off the queue.
    fn next_ready(&mut self) -> Option<usize> {
        let at = if self.prioritized {
            let urgency = |key: &u32| self.streams.get(*key as usize).urgency;
            let least = self.ready.iter().map(urgency).min()?;
            self.ready.iter().position(|key| urgency(key) == least)?
        } else {
            0
        };
        self.ready.remove(at).map(|key| key as usize)
    }

    /// Writes the header of a DATA frame, and its data unless it is sent from where it is.
    fn write_data(&mut self, key: usize, len: usize, direct: bool) {
        let entry = self.streams.get_mut(key);
        let ends = len == entry.unsent_len() && matches!(entry.after, AfterData::End);
        let flags = if ends { flag::END_STREAM } else { 0 };
        // Trailers alone need no frame before them.
        if len > 0 || ends {
            let bytes = u32::try_from(len).unwrap_or(u32::MAX);
            FrameHead { len: bytes, kind: kind::DATA, flags, stream: entry.id }
                .write(&mut self.out);
        }
        if !direct && let Some(body) = &entry.unsent {
            let from = entry.unsent_from;
            self.out.extend_from_slice(&body[from..from + len]);
        }
        entry.send.take(len);
        self.send.take(len);
        self.budget.earn_sent(len, len == entry.unsent_len());
    }

    /// Moves on behind data that was written.
    fn advance(&mut self, key: usize, len: usize) {
        let entry = self.streams.get_mut(key);
        entry.queued = false;
        entry.unsent_from += len;
        if entry.unsent_len() > 0 {
            if entry.may_send() {
                entry.queued = true;
                let (incremental, key) =
                    (entry.incremental, u32::try_from(key).unwrap_or(u32::MAX));
                if incremental { self.ready.push_back(key) } else { self.ready.push_front(key) }
            }
            return;
        }
        (entry.unsent, entry.unsent_from) = (None, 0);
        entry.wake();
        let id = entry.id;
        match std::mem::replace(&mut entry.after, AfterData::More) {
            AfterData::More => {}
            AfterData::End | AfterData::Nothing => self.end_sent(key),
            AfterData::Trailers(trailers) => {
                let written = self.write_head(HpackEncoder::trailers, id, &trailers, true);
                self.supply.heads.give(trailers);
                match written {
                    Ok(()) => self.end_sent(key),
                    Err(_) => self.reset(key, H2Code::INTERNAL_ERROR),
                }
            }
        }
    }
}
