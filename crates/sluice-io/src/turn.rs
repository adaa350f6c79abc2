//! When a thread last looked up from its work.
//!
//! Owns: a count per thread. Refuses to know: clocks and who reads them. Keeps: between two turns time
//! may be taken to stand still; a thread that is never told of turns reads the clock each time.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// Tells this thread that time has passed: that its runtime woke up (`on_thread_unpark`), that events
/// of sockets are about to be told, or that deadlines have come.
pub fn next() {
    TURN.with(|turn| turn.set(turn.get() + 1));
}

/// The number of this turn; 0 while nobody tells.
pub(crate) fn number() -> u64 {
    TURN.with(Cell::get)
}
