//! How long to wait before a stream is opened again.
//!
//! Owns: growth, bound and jitter of the wait. Refuses to know: clocks. Keeps: many clients of a plane that comes back do
//! not come at once.

use std::time::Duration;

/// The waits between attempts; Envoy's defaults are 500 ms up to 30 s.
#[derive(Clone, Debug)]
pub struct ReconnectBackoff {
    base: Duration,
    max: Duration,
    /// Attempts since the last success.
    attempts: u32,
    random: fastrand::Rng,
}

impl ReconnectBackoff {
    /// Waits of at most `base`, `2 * base` and so on, up to `max`. A `seed` fixes the jitter.
    pub fn new(base: Duration, max: Duration, seed: u64) -> Self {
        Self { base, max, attempts: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// The next wait: between half of the bound and the bound.
    pub fn next_wait(&mut self) -> Duration {
        let factor = 1_u32 << self.attempts.min(16);
        self.attempts = self.attempts.saturating_add(1);
        let bound = self.base.saturating_mul(factor).min(self.max);
        let half = bound / 2;
        half + half.mul_f64(self.random.f64())
    }

    /// A stream has worked: a response arrived.
    pub const fn succeeded(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_begin_again_after_success() {
        let (base, max) = (Duration::from_millis(500), Duration::from_secs(30));
        let mut backoff = ReconnectBackoff::new(base, max, 7);
        for attempt in 0..100 {
            let bound = base.saturating_mul(1 << attempt.min(16)).min(max);
            let wait = backoff.next_wait();
            assert!(wait >= bound / 2 && wait <= bound, "{attempt}: {wait:?}");
        }
        backoff.succeeded();
        assert!(backoff.next_wait() <= base);
        let others: Vec<_> =
            (0..8).map(|seed| ReconnectBackoff::new(base, max, seed).next_wait()).collect();
        assert!(others.iter().any(|wait| *wait != others[0]), "clients do not come at once");
    }
}
