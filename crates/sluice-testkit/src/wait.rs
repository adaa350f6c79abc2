//! Waiting for something to become true.

use std::time::{Duration, Instant};

/// How long a test waits for an event before it fails: long, because machines are slow at times.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `ask` until it returns a value.
///
/// # Panics
/// When there is none within [`PATIENCE`]; `what` names the event in the message.
#[track_caller]
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, ask).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for: {what}"))
}

/// Polls `ask` until it returns a value, or `bound` has passed.
#[allow(clippy::disallowed_methods, reason = "tests have no clock of their own to hold")]
pub fn within<T>(bound: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + bound;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
