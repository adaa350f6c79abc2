//! A timer wheel: deadlines in, due entries out.
//!
//! Owns: the order of deadlines, and the conversion of ticks and moments. Refuses to know: clocks, wakers, tasks.
//! Keeps: an entry is due no earlier than its deadline and at the first `advance` past it; inserting, removing and
//! postponing take constant time.
//!
//! Four levels of 64 slots. A tick is [`TICK`]; the levels span 0.5 s, 33 s, 35 min and 37 h, and an entry farther away
//! waits in the last slot of the last level until it fits. Postponing a deadline only writes the field: the entry is
//! moved to the right slot when its old slot expires.

use std::time::Duration;

use slab::Slab;
use sluice_core::Moment;

/// The granularity of deadlines.
pub const TICK: Duration = Duration::from_micros(TICK_MICROS);

const TICK_MICROS: u64 = 8000;

const LEVELS: usize = 4;
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const NIL: u32 = u32::MAX;

/// Entries with deadlines in ticks.
#[derive(Debug)]
pub struct Wheel<T> {
    now: u64,
    entries: Slab<WheelEntry<T>>,
    heads: [[u32; SLOTS]; LEVELS],
    /// One bit per slot, set if the slot is not empty.
    occupied: [u64; LEVELS],
}

#[derive(Debug)]
struct WheelEntry<T> {
    deadline: u64,
    place: Option<(u8, u8)>,
    previous: u32,
    next: u32,
    value: T,
}

/// Identifies an entry until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerKey(u32);

/// The tick that contains `at`.
pub const fn tick_of(at: Moment) -> u64 {
    at.as_micros() / TICK_MICROS
}

/// The first tick that is not before `at`; `u64::MAX` for [`Moment::NEVER`].
pub const fn tick_after(at: Moment) -> u64 {
    if at.as_micros() == Moment::NEVER.as_micros() {
        u64::MAX
    } else {
        at.as_micros().div_ceil(TICK_MICROS)
    }
}

/// The start of a tick.
pub const fn start_of(tick: u64) -> Moment {
    Moment::from_micros(tick.saturating_mul(TICK_MICROS))
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self { now: 0, entries: Slab::new(), heads: [[NIL; SLOTS]; LEVELS], occupied: [0; LEVELS] }
    }
}

impl<T> Wheel<T> {
    /// Adds an entry without a deadline.
    pub fn insert(&mut self, value: T) -> TimerKey {
        let entry = WheelEntry { deadline: u64::MAX, place: None, previous: NIL, next: NIL, value };
        TimerKey(u32::try_from(self.entries.insert(entry)).expect("fewer than 2^32 timers"))
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: TimerKey) -> T {
        self.unlink(key.0);
        self.entries.remove(key.0 as usize).value
    }

    /// The value of an entry.
    pub fn value(&mut self, key: TimerKey) -> &mut T {
        &mut self.entries[key.0 as usize].value
    }

    /// Whether the deadline of an entry has passed.
    pub fn is_due(&self, key: TimerKey) -> bool {
        self.entries[key.0 as usize].deadline <= self.now
    }

    /// Sets a deadline; `u64::MAX` means none.
    pub fn set(&mut self, key: TimerKey, deadline: u64) {
        let entry = &mut self.entries[key.0 as usize];
        let later = entry.place.is_some() && deadline >= entry.deadline;
        entry.deadline = deadline;
        if !later {
            self.unlink(key.0);
            self.link(key.0);
        }
    }

    /// The tick at which `advance` next has work to do, if any.
    pub fn next(&self) -> Option<u64> {
        (0..LEVELS).filter_map(|level| self.next_of(level)).min()
    }

    /// Advances to `now` and passes every due entry to `due`, each once; it stays until removed.
    pub fn advance(&mut self, now: u64, mut due: impl FnMut(&mut T)) {
        while let Some(tick) = self.next().filter(|tick| *tick <= now) {
            self.now = self.now.max(tick);
            for level in (0..LEVELS).rev() {
                if self.next_of(level) == Some(tick) {
                    self.empty_slot(level, tick, &mut due);
                }
            }
        }
        self.now = self.now.max(now);
    }

    fn empty_slot(&mut self, level: usize, tick: u64, due: &mut impl FnMut(&mut T)) {
        let slot = slot_of(tick, level);
        let mut index = std::mem::replace(&mut self.heads[level][slot], NIL);
        self.occupied[level] &= !(1 << slot);
        while index != NIL {
            let entry = &mut self.entries[index as usize];
            let next = entry.next;
            entry.place = None;
            if entry.deadline <= tick {
                due(&mut entry.value);
            } else {
                self.link(index);
            }
            index = next;
        }
    }

    /// The tick at which the next occupied slot of a level expires: its first tick, never before now.
    fn next_of(&self, level: usize) -> Option<u64> {
        let occupied = self.occupied[level];
        if occupied == 0 {
            return None;
        }
        let width = BITS * u32::try_from(level).expect("few levels");
        let here = self.now >> width;
        let current = u32::try_from(here % SLOTS as u64).expect("below the number of slots");
        let ahead = u64::from(occupied.rotate_right(current).trailing_zeros());
        Some(((here + ahead) << width).max(self.now))
    }

    fn link(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        if deadline == u64::MAX {
            return;
        }
        let ticks = deadline.saturating_sub(self.now);
        let fits = (0..LEVELS).find(|level| {
            let width = BITS * u32::try_from(*level).expect("few levels");
            // Slots ahead at this level, in its own granularity: must not wrap around to the current slot.
            (self.now + ticks) >> width < (self.now >> width) + SLOTS as u64
        });
        let (level, tick) = match fits {
            Some(level) => (level, self.now + ticks),
            None => {
                let width = BITS * u32::try_from(LEVELS - 1).expect("few levels");
                (LEVELS - 1, ((self.now >> width) + SLOTS as u64 - 1) << width)
            }
        };
        let slot = slot_of(tick, level);
        let head = self.heads[level][slot];
        if head != NIL {
            self.entries[head as usize].previous = index;
        }
        let entry = &mut self.entries[index as usize];
        (entry.previous, entry.next) = (NIL, head);
        let narrow = |n: usize| u8::try_from(n).expect("levels and slots are few");
        entry.place = Some((narrow(level), narrow(slot)));
        self.heads[level][slot] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let Some((level, slot)) = entry.place.take() else { return };
        let (previous, next) = (entry.previous, entry.next);
        if next != NIL {
            self.entries[next as usize].previous = previous;
        }
        if previous == NIL {
            let (level, slot) = (usize::from(level), usize::from(slot));
            self.heads[level][slot] = next;
            if next == NIL {
                self.occupied[level] &= !(1 << slot);
            }
        } else {
            self.entries[previous as usize].next = next;
        }
    }
}

fn slot_of(tick: u64, level: usize) -> usize {
    let width = BITS * u32::try_from(level).expect("few levels");
    usize::try_from((tick >> width) % SLOTS as u64).expect("below the number of slots")
}

#[cfg(test)]
mod tests;
