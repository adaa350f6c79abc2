//! Streams that linger: the response was complete before the request was, and the client may still end it.
//!
//! Owns: which streams linger, and until when. Refuses to know: clocks; the driver tells the time. Keeps: a stream that
//! its client ends in time is not reset, because many clients drop a response that a reset follows closely, although
//! RFC 9113 §8.1 asks them not to; a lingering stream has no user, counts as open, and gets no more of its window, so it
//! receives at most one window and is reset at the end of its time.

use std::time::Duration;

use sluice_core::Moment;

use super::H2Machine;
use crate::h2::code::H2Code;
use crate::h2::state::StreamEnd;

/// How long a client whose stream has no window left, and which therefore cannot end it, has to read the response
/// before the reset.
const STUCK: Duration = Duration::from_millis(100);

/// The lingering streams of a connection.
#[derive(Debug)]
pub(super) struct LingeringStreams {
    /// Their keys and when they are reset; [`Moment::NEVER`] before the driver has told the time.
    streams: Vec<(usize, Moment)>,
    /// When the first of them is reset.
    due: Moment,
    /// Whether the times are to be set again.
    changed: bool,
}

impl Default for LingeringStreams {
    fn default() -> Self {
        Self { streams: Vec::new(), due: Moment::NEVER, changed: false }
    }
}

impl H2Machine {
    /// Lets the client end a request whose response was sent to its end; its user has released the stream.
    pub(super) fn linger(&mut self, key: usize) {
        if self.options.linger.is_zero() {
            self.reset_with(key, H2Code::NO_ERROR, StreamEnd::Abandoned);
            self.dispose(key);
            return;
        }
        let entry = self.streams.get_mut(key);
        entry.lingers = true;
        entry.waiter = None;
        self.pieces.clear(&mut entry.pieces);
        self.lingering.streams.push((key, Moment::NEVER));
        self.lingering.changed = true;
        self.give_back(0);
    }

    /// Notes that a lingering stream has no window left.
    pub(super) const fn stuck(&mut self) {
        self.lingering.changed = true;
    }

    /// Forgets a lingering stream.
    pub(super) fn forget_lingering(&mut self, key: usize) {
        let streams = &mut self.lingering.streams;
        if let Some(at) = streams.iter().position(|(lingering, _)| *lingering == key) {
            streams.swap_remove(at);
        }
        if streams.is_empty() {
            self.lingering = LingeringStreams::default();
        }
    }

    /// Whether [`H2Machine::expire_lingering`] is to be called now, although the time that it returned has not come.
    pub const fn has_new_lingering(&self) -> bool {
        self.lingering.changed
    }

    /// Resets lingering streams whose time is over; returns when to call it again, `None` if no stream lingers.
    pub fn expire_lingering(&mut self, now: Moment) -> Option<Moment> {
        if !self.lingering.changed && now < self.lingering.due {
            return (!self.lingering.streams.is_empty()).then_some(self.lingering.due);
        }
        let mut due = Moment::NEVER;
        let mut over = Vec::new();
        for (key, until) in &mut self.lingering.streams {
            if *until == Moment::NEVER {
                *until = now.after(self.options.linger);
            }
            if self.streams.get(*key).recv.is_exhausted() {
                *until = (*until).min(now.after(STUCK));
            }
            if *until <= now {
                over.push(*key);
            } else {
                due = due.min(*until);
            }
        }
        (self.lingering.due, self.lingering.changed) = (due, false);
        for key in over {
            self.reset_with(key, H2Code::NO_ERROR, StreamEnd::Abandoned);
        }
        (!self.lingering.streams.is_empty()).then_some(due)
    }
}
