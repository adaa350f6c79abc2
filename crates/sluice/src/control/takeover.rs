//! When to look for UDP ports that another process holds.
//!
//! Owns: the pause between two looks, and which failure was told. Refuses to know: sockets.
//! Keeps: looks that bring nothing get rarer, and the same failure is told once.

use std::time::Duration;

/// The first pause between two looks, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The looks of a process that takes over.
#[derive(Debug)]
pub(super) struct Looks {
    pause: Duration,
    told: Option<String>,
}

impl Looks {
    pub(super) const fn new() -> Self {
        Self { pause: PAUSE_MIN, told: None }
    }

    /// How long to wait before the next look.
    pub(super) const fn pause(&self) -> Duration {
        self.pause
    }

    /// Notes that a port was taken over.
    pub(super) fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// Notes that a port seemed free and none was taken over. Whether the reason is a new one.
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
