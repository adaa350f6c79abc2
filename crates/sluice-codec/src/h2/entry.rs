//! The streams of a connection.
//!
//! Owns: what is kept of each stream, found by number or by the key that its user holds. Refuses to know: frames. Keeps:
//! an entry lives until the stream is closed and its user has released it; what is remembered of streams that were reset
//! is bounded.

use std::collections::VecDeque;
use std::task::Waker;

use slab::Slab;
use sluice_io::buffers::{BufPool, Charge};

use crate::body::Body;
use crate::h2::pieces::PieceList;
use crate::h2::state::{RecvPhase, StreamEnd, StreamState};
use crate::h2::window::{RecvWindow, SendWindow};
use crate::head::Head;

/// What follows the unsent data of a stream.
#[derive(Debug)]
pub(crate) enum AfterData {
    /// More data.
    More,
    /// The end.
    End,
    /// Trailers.
    Trailers(Box<Head>),
    /// Nothing; the end was sent.
    Nothing,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct StreamEntry {
    pub(crate) id: u32,
    pub(crate) state: StreamState,
    pub(crate) end: Option<StreamEnd>,
    /// Whether its request has not been taken by a user yet.
    pub(crate) pending: bool,
    /// Whether it has no user and waits for the end of its request.
    pub(crate) lingers: bool,
    /// Wakes its user.
    pub(crate) waiter: Option<Waker>,
    // --- receiving ---
    pub(crate) phase: RecvPhase,
    /// Informational responses, in order.
    #[allow(clippy::vec_box, reason = "heads move by their boxes, and are large")]
    pub(crate) informational: Vec<Box<Head>>,
    pub(crate) head: Option<Box<Head>>,
    pub(crate) pieces: PieceList,
    pub(crate) trailers: Option<Box<Head>>,
    /// What the request is charged with, until its user takes that.
    pub(crate) charge: Option<Charge>,
    /// What of these heads is charged to the worker.
    pub(crate) heads_charge: Option<Charge>,
    pub(crate) recv: RecvWindow,
    /// Bytes that `content-length` promises and that have not arrived.
    pub(crate) length_left: Option<u64>,
    /// Whether the response has no body, whatever its head states.
    pub(crate) bodiless: bool,
    /// Whether its user has received everything.
    pub(crate) delivered: bool,
    // --- sending ---
    pub(crate) send: SendWindow,
    pub(crate) head_sent: bool,
    pub(crate) unsent: Option<Body>,
    /// Bytes of `unsent` that were sent.
    pub(crate) unsent_from: usize,
    pub(crate) after: AfterData,
    /// Whether it is in the queue of the scheduler.
    pub(crate) queued: bool,
    pub(crate) urgency: u8,
    /// Whether it shares its turn with others of its urgency, RFC 9218 §4.2.
    pub(crate) incremental: bool,
}

/// The urgency of a stream that states none, RFC 9218 §4.1.
pub(crate) const URGENCY: u8 = 3;

impl StreamEntry {
    pub(crate) fn new(id: u32, state: StreamState, recv: RecvWindow, send: SendWindow) -> Self {
        Self {
            id,
            state,
            end: None,
            pending: false,
            lingers: false,
            waiter: None,
            phase: RecvPhase::Body,
            informational: Vec::new(),
            head: None,
            pieces: PieceList::default(),
            trailers: None,
            charge: None,
            heads_charge: None,
            recv,
            length_left: None,
            bodiless: false,
            delivered: false,
            send,
            head_sent: false,
            unsent: None,
            unsent_from: 0,
            after: AfterData::More,
            queued: false,
            urgency: URGENCY,
            incremental: true,
        }
    }

    /// Bytes of data that wait to be sent.
    pub(crate) fn unsent_len(&self) -> usize {
        self.unsent.as_ref().map_or(0, |body| body.len() - self.unsent_from)
    }

    /// Whether there is anything to send that was not sent.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.is_some() || matches!(self.after, AfterData::End | AfterData::Trailers(_))
    }

    /// Whether something may be sent now.
    pub(crate) fn may_send(&self) -> bool {
        self.state.sends() && self.has_unsent() && (self.unsent.is_none() || self.send.room() > 0)
    }

    /// Charges the heads that wait for its user, and `more` bytes; returns whether the worker has room for them.
    pub(crate) fn charge_heads(&mut self, buffers: &BufPool, more: usize) -> bool {
        let heads = self.informational.iter().chain(&self.head).chain(&self.trailers);
        let held = heads.map(|head| head.bytes_held()).sum::<usize>() + more;
        if held <= HEADS_FREE {
            self.heads_charge = None;
            return true;
        }
        self.heads_charge.get_or_insert_with(|| buffers.charge()).set(held).is_ok()
    }

    /// Wakes its user.
    pub(crate) fn wake(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

/// Bytes of heads that wait beyond which they are charged to the worker: every stream may have so many.
const HEADS_FREE: usize = 2 << 10;

/// Streams that we have reset and that are remembered, so that what was in flight is ignored.
const REMEMBERED: usize = 256;

/// Where the streams of a connection are.
#[derive(Debug, Default)]
pub(crate) struct StreamSlots {
    entries: Slab<StreamEntry>,
    /// Keys by number, in ascending order of numbers.
    by_id: Vec<(u32, u32)>,
}

impl StreamSlots {
    /// Whether there are no streams.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Streams for which there is memory.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }
}

/// The streams of a connection.
#[derive(Debug, Default)]
pub(crate) struct StreamTable {
    slots: StreamSlots,
    /// Streams that are not closed.
    active: usize,
    /// The streams that we have reset last.
    reset: VecDeque<u32>,
}

impl StreamTable {
    /// Streams that are not closed.
    pub(crate) const fn active(&self) -> usize {
        self.active
    }

    /// Whether there are no streams, closed ones included.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.entries.is_empty()
    }

    /// Adds a stream that is not closed and whose number is larger than all others.
    pub(crate) fn insert(&mut self, entry: StreamEntry) -> usize {
        let id = entry.id;
        let key = self.slots.entries.insert(entry);
        self.slots.by_id.push((id, u32::try_from(key).unwrap_or(u32::MAX)));
        self.active += 1;
        key
    }

    /// Finds a stream by its number.
    pub(crate) fn find(&self, id: u32) -> Option<usize> {
        let at = self.slots.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.slots.by_id[at].1 as usize)
    }

    pub(crate) fn get(&self, key: usize) -> &StreamEntry {
        &self.slots.entries[key]
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> &mut StreamEntry {
        &mut self.slots.entries[key]
    }

    /// Returns the keys of all streams, in order of their numbers.
    pub(crate) fn keys(&self) -> Vec<usize> {
        self.slots.by_id.iter().map(|(_, key)| *key as usize).collect()
    }

    /// Returns all streams, in no order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut StreamEntry)> {
        self.slots.entries.iter_mut()
    }

    /// Changes the state of a stream, and keeps the count of those that are not closed.
    pub(crate) fn change(&mut self, key: usize, change: impl FnOnce(&mut StreamState)) {
        let state = &mut self.slots.entries[key].state;
        let was_closed = *state == StreamState::Closed;
        change(state);
        if !was_closed && *state == StreamState::Closed {
            self.active -= 1;
        }
    }

    /// Removes a stream that is closed and released.
    pub(crate) fn remove(&mut self, key: usize) -> StreamEntry {
        let entry = self.slots.entries.remove(key);
        debug_assert!(entry.state == StreamState::Closed, "an open stream is never removed");
        if let Ok(at) = self.slots.by_id.binary_search_by_key(&entry.id, |(id, _)| *id) {
            self.slots.by_id.remove(at);
        }
        entry
    }

    /// Whether there is no memory for streams.
    pub(crate) fn is_bare(&self) -> bool {
        self.slots.capacity() == 0
    }

    /// Uses this memory for streams; there are none.
    pub(crate) fn adopt(&mut self, slots: StreamSlots) {
        self.slots = slots;
    }

    /// Gives the memory for streams away; there are none.
    pub(crate) fn give_up(&mut self) -> StreamSlots {
        let mut slots = std::mem::take(&mut self.slots);
        slots.entries.clear();
        slots
    }

    /// Remembers that we have reset a stream on which the peer may still be sending.
    pub(crate) fn remember_reset(&mut self, id: u32) {
        if self.reset.len() == REMEMBERED {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Whether we have reset that stream not long ago.
    pub(crate) fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u32) -> StreamEntry {
        StreamEntry::new(id, StreamState::Open, RecvWindow::new(1, 1), SendWindow::new(1))
    }

    #[test]
    fn streams_are_found_by_number_and_counted_until_they_close() {
        let mut table = StreamTable::default();
        let keys: Vec<usize> = [1, 5, 9].map(|id| table.insert(entry(id))).into();
        assert_eq!((table.find(5), table.find(3), table.active()), (Some(keys[1]), None, 3));
        table.change(keys[1], StreamState::end_sent);
        assert_eq!(table.active(), 3);
        table.change(keys[1], StreamState::end_received);
        table.change(keys[1], StreamState::abort);
        assert_eq!((table.active(), table.find(5)), (2, Some(keys[1])));
        assert_eq!(table.remove(keys[1]).id, 5);
        assert_eq!((table.find(5), table.find(9), table.keys().len()), (None, Some(keys[2]), 2));
    }

    #[test]
    fn resets_are_remembered_for_a_while() {
        let mut table = StreamTable::default();
        (0..300).for_each(|id| table.remember_reset(id));
        assert!(table.was_reset(299) && table.was_reset(44) && !table.was_reset(43));
    }
}
