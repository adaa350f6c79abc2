//! Which stream sends next.
//!
//! Owns: the queue of streams that have data and room. Refuses to know: sockets; the driver asks for bytes when the
//! socket takes them. Keeps: control frames and heads first; of equal streams each sends a frame in turn; a stream whose
//! window is empty is not in the queue, so it costs the others nothing; a stream of lesser urgency sends when no other
//! can.
//!
//! Source: RFC 9113 §5.2 and §5.3, RFC 9218 §10.

use sluice_io::raw::PARTS_MAX;

use super::{H2Machine, OUT_FREE};
use crate::h2::code::H2Code;
use crate::h2::entry::{AfterData, StreamEntry, URGENCY};
use crate::h2::frame::{FRAME_MAX, FrameHead, HEAD_LEN, flag, kind};
use crate::hpack::HpackEncoder;

/// DATA frames whose headers are in [`H2Machine::waiting`] and whose data is sent from where it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectPieces {
    pieces: [DirectPiece; DIRECT_MAX],
    count: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct DirectPiece {
    key: usize,
    /// How much of [`H2Machine::waiting`] is before it.
    behind: usize,
    /// Where its data begins in the body.
    from: usize,
    len: usize,
}

/// Pieces that are sent directly at once; each has a header before it, and something may follow the last.
const DIRECT_MAX: usize = (PARTS_MAX - 1) / 2;

impl DirectPieces {
    /// Bytes of their data.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, piece: DirectPiece) {
        self.pieces[self.count] = piece;
        self.count += 1;
        self.bytes += piece.len;
    }

    fn all(&self) -> &[DirectPiece] {
        &self.pieces[..self.count]
    }
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

    /// Returns the bytes to be sent, with the data of direct pieces, in order.
    pub fn parts<'a>(&'a self, pieces: &'a DirectPieces) -> impl Iterator<Item = &'a [u8]> + Clone {
        let pieces = pieces.all();
        let behind = |at: usize| pieces.get(at).map_or(self.out.len(), |piece| piece.behind);
        (0..=2 * pieces.len()).map(move |part| {
            let at = part / 2;
            if part % 2 == 0 {
                return &self.out[at.checked_sub(1).map_or(0, behind)..behind(at)];
            }
            let DirectPiece { key, from, len, .. } = pieces[at];
            &self.streams.get(key).unsent.as_deref().unwrap_or_default()[from..from + len]
        })
    }

    /// Whether there is anything to send now.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty() || (!self.ready.is_empty() && self.send.room() > 0)
    }

    /// Notes that all of [`H2Machine::waiting`], and the direct pieces between, was given to the socket.
    pub fn sent(&mut self, pieces: &DirectPieces) {
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
        for piece in pieces.all() {
            let entry = self.streams.get(piece.key);
            if entry.unsent.is_some() && entry.unsent_len() == 0 {
                self.finish_piece(piece.key);
            }
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

    /// Adds DATA frames to [`H2Machine::waiting`] until there are `max` bytes. Data of at least `direct_min` bytes is not
    /// copied but returned, to be sent from where it is; the last such frame may exceed `max`.
    pub fn fill(&mut self, max: usize, direct_min: usize) -> DirectPieces {
        let mut pieces = DirectPieces::default();
        if !self.ready.is_empty() {
            self.prepare_out();
        }
        let mut rounds = self.ready.len();
        while rounds > 0 && pieces.count < DIRECT_MAX {
            let filled = self.out.len() + pieces.bytes + HEAD_LEN;
            if filled >= max {
                break;
            }
            let Some(key) = self.next_ready() else { break };
            let entry = self.streams.get(key);
            let unsent = entry.unsent_len();
            let frame_max = self.peer.frame_max.min(FRAME_MAX) as usize;
            let room = self.send.room().min(entry.send.room()).min(frame_max);
            let len = unsent.min(room);
            let direct = len >= direct_min;
            let len = if direct { len } else { len.min(max - filled) };
            if len == 0 && unsent > 0 && entry.send.room() == 0 {
                self.streams.get_mut(key).queued = false;
                rounds -= 1;
                continue;
            }
            // Trailers may be large; they begin a write.
            let trails = pieces.count > 0 && matches!(entry.after, AfterData::Trailers(_));
            if (len == 0 && unsent > 0) || (trails && !direct) {
                // Without a window of the connection it stays where it is.
                self.ready.push_front(u32::try_from(key).unwrap_or(u32::MAX));
                break;
            }
            let from = entry.unsent_from;
            self.write_data(key, len, direct);
            if direct {
                pieces.push(DirectPiece { key, behind: self.out.len(), from, len });
            }
            let refers = pieces.all().iter().any(|piece| piece.key == key);
            self.advance(key, len, refers);
            rounds = self.ready.len();
        }
        pieces
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

    /// Moves on behind data that was written, or is sent from where it is; `refers` if a direct piece refers to the body.
    fn advance(&mut self, key: usize, len: usize, refers: bool) {
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
        } else if !refers {
            self.finish_piece(key);
        }
    }

    /// Gives up a piece that was sent, and writes what follows it.
    fn finish_piece(&mut self, key: usize) {
        let entry = self.streams.get_mut(key);
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
