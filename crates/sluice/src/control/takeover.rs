//! When to check UDP ports that another process holds.
//!
//! Owns: the pause between two checks, and which failure was reported. Refuses to know: sockets.
//! Keeps: the pause grows while checks fail, and the same failure is reported once.

use std::time::Duration;

/// The first and the longest pause between two checks.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The checks of a process that takes over.
#[derive(Debug)]
pub(super) struct Looks {
    pause: Duration,
    told: Option<String>,
}

impl Looks {
    pub(super) const fn new() -> Self {
        Self { pause: PAUSE_MIN, told: None }
    }

    /// The pause before the next check.
    pub(super) const fn pause(&self) -> Duration {
        self.pause
    }

    /// Records that a port was taken over.
    pub(super) fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// Records that a port seemed free but was not taken over. Returns whether the reason is new.
    pub(super) fn failed(&mut self, why: String) -> bool {
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let new = self.told.as_ref() != Some(&why);
        self.told = Some(why);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_fail_get_rarer_and_the_same_failure_is_told_once() {
        let mut looks = Looks::new();
        assert!(looks.failed("denied".into()));
        assert_eq!(looks.pause(), PAUSE_MIN * 2);
        assert!(!looks.failed("denied".into()));
        assert!(looks.failed("no buffers".into()));
        (0..100).for_each(|_| assert!(!looks.failed("no buffers".into())));
        assert_eq!(looks.pause(), PAUSE_MAX);
        looks.succeeded();
        assert_eq!(looks.pause(), PAUSE_MIN);
        assert!(looks.failed("no buffers".into()));
    }
}
