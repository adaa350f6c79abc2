//! The turns of a thread's event loop.
//!
//! Owns: a counter per thread. Refuses to know: clocks and their readers. Keeps: time may be taken to stand still
//! between two turns; a thread that never counts turns reads the clock each time.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// Notes on this thread that time has passed: that its runtime woke up (`on_thread_unpark`), that socket events are
/// about to be dispatched, or that deadlines have expired.
pub fn next() {
    TURN.with(|turn| turn.set(turn.get() + 1));
}

/// The number of the current turn; 0 if turns are not counted.
pub(crate) fn number() -> u64 {
    TURN.with(Cell::get)
}
