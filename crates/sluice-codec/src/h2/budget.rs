//! The budget of frames that make no progress.
//!
//! Owns: what such a frame costs, and what refills the budget. Refuses to know: frames and time beyond what it is given.
//! Keeps: a peer may always send frames that request or carry something; others it may send as fast as a busy, honest
//! peer does, and no faster. One budget counts them all, so that no mix of them gets further than the worst alone.
//!
//! Source: RFC 9113 §10.5.

use sluice_core::Moment;

/// What a peer may spend at once.
pub const BURST: u32 = 2_000;

/// What a peer may spend each second, indefinitely.
const PER_SECOND: u32 = 200;

/// What is earned by a head, and by a frame of ours that carries something: peers respond to such frames with two window
/// updates and, to measure the round trip, a ping. A request earns nothing before it is responded to.
const EARNED: u32 = 4;

/// Bytes below which a frame earns nothing if it is only so short because a window is: such a window is a way to make us
/// send more frames than we receive.
const FRAGMENT: usize = 256;

/// Bytes of a body for which honest peers update both windows: some do so for each 4 KiB that they read.
const UPDATED_EACH: usize = 4 << 10;

/// What frames without progress cost.
pub mod cost {
    /// PING, SETTINGS, PRIORITY, WINDOW_UPDATE, an unknown frame, a small frame of padding, a frame on a stream that has
    /// ended.
    pub const FRAME: u32 = 1;
    /// A DATA or CONTINUATION frame that carries nothing: no honest peer sends many.
    pub const EMPTY: u32 = 20;
    /// A reset of a request that was not responded to yet, or that we had to reset.
    pub const RESET: u32 = 4;
}

/// What a peer may still spend.
#[derive(Debug)]
pub struct FrameBudget {
    left: u32,
    filled_at: Moment,
}

impl FrameBudget {
    /// Creates a full budget.
    pub const fn new(now: Moment) -> Self {
        Self { left: BURST, filled_at: now }
    }

    /// Notes a head that was sent, or a final one that was received in response.
    pub fn earn_head(&mut self) {
        self.earn(EARNED);
    }

    /// Notes so many bytes of a body that were sent in a frame; `whole` if more could not have been.
    pub fn earn_sent(&mut self, bytes: usize, whole: bool) {
        if whole || bytes >= FRAGMENT {
            let updates = u32::try_from(2 * bytes.div_ceil(UPDATED_EACH)).unwrap_or(BURST);
            self.earn(EARNED.saturating_add(updates));
        }
    }

    /// Notes so many bytes of a body that were received in a frame.
    pub fn earn_received(&mut self, bytes: usize) {
        let updates = u32::try_from(2 * (bytes / UPDATED_EACH)).unwrap_or(BURST);
        self.earn(updates.saturating_add(1));
    }

    fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(BURST);
    }

    /// Notes a frame that made no progress; returns whether the peer may go on.
    pub fn spend(&mut self, cost: u32, now: Moment) -> bool {
        if self.left <= cost {
            let millis = now.since(self.filled_at).as_millis().min(u128::from(u32::MAX));
            let more = u64::try_from(millis).unwrap_or(u64::MAX) * u64::from(PER_SECOND) / 1000;
            if more > 0 {
                let more = u32::try_from(more).unwrap_or(BURST);
                self.left = self.left.saturating_add(more).min(BURST);
                self.filled_at = now;
            }
        }
        self.left = self.left.saturating_sub(cost);
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Moment = Moment::from_micros(0);

    #[test]
    fn frames_that_bring_nothing_are_a_flood() {
        let mut budget = FrameBudget::new(START);
        for n in 1..BURST {
            assert!(budget.spend(cost::FRAME, START), "{n}");
        }
        assert!(!budget.spend(cost::FRAME, START));
        let mut budget = FrameBudget::new(START);
        let empty = (0..BURST).take_while(|_| budget.spend(cost::EMPTY, START)).count();
        assert_eq!(empty, (BURST / cost::EMPTY) as usize - 1);
    }

    #[test]
    fn honest_peers_are_no_flood() {
        let mut budget = FrameBudget::new(START);
        for _ in 0..10 * BURST {
            // 64 KiB, read in pieces of 4 KiB with two updates each, and a ping.
            budget.earn_sent(64 << 10, true);
            for _ in 0..33 {
                assert!(budget.spend(cost::FRAME, START));
            }
        }
        // A slow sender that stays within the rate.
        let mut budget = FrameBudget::new(START);
        let mut now = START;
        for _ in 0..10 * BURST {
            now = now.after(Duration::from_secs(1) / PER_SECOND);
            assert!(budget.spend(cost::FRAME, now));
        }
    }
}
