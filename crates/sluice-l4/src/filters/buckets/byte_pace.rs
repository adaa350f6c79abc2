//! A rate of bytes that any number of streams share, on any worker.
//!
//! Owns: the time up to which the rate is used up. Refuses to know: streams, clocks, waiting. Keeps: over any time, no more
//! bytes may go than the rate allows in it and the burst; streams get their turns in the order in which they ask; what is
//! given back is free again.
//!
//! A token bucket by the generic cell rate algorithm (ITU-T I.371): one number, changed without a lock. Each piece of bytes
//! takes its time at once and waits for it, so that nothing has to be woken when others are done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sluice_core::Moment;
use sluice_core::value::ByteRate;

use super::KeyState;

/// How a rate is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacePlan {
    /// The rate.
    pub rate: ByteRate,
    /// The bytes that may go at once after a pause.
    pub burst: u64,
}

/// The time up to which a rate is used up, in nanoseconds since the start of the clock.
#[derive(Debug, Default)]
pub struct BytePace(AtomicU64);

impl PacePlan {
    /// How long the rate takes for so many bytes, in nanoseconds; rounded up, so that no rate is exceeded.
    fn nanos(self, bytes: u64) -> u64 {
        let nanos = u128::from(bytes) * 1_000_000_000;
        u64::try_from(nanos.div_ceil(u128::from(self.rate.0.max(1)))).unwrap_or(u64::MAX)
    }
}

impl BytePace {
    /// Takes the time of so many bytes.
    pub fn take(self: &Arc<Self>, plan: PacePlan, now: Moment, bytes: u64) -> BytesDue {
        let (now, taken) = (now.as_micros().saturating_mul(1000), plan.nanos(bytes));
        let used = |until: u64| until.max(now).saturating_add(taken);
        let before = self.0.fetch_update(Relaxed, Relaxed, |until| Some(used(until)));
        let until = used(before.unwrap_or_else(|until| until));
        let at = until.saturating_sub(plan.nanos(plan.burst));
        let at = Moment::from_micros(at.div_ceil(1000));
        BytesDue { pace: Arc::clone(self), at, taken }
    }
}

impl KeyState for BytePace {
    fn is_blank(&self, now: Moment) -> bool {
        self.0.load(Relaxed) <= now.as_micros().saturating_mul(1000)
    }
}

/// The time of a piece of bytes; given back if they do not go.
#[derive(Debug)]
#[must_use = "dropping it gives the time back"]
pub struct BytesDue {
    pace: Arc<BytePace>,
    at: Moment,
    taken: u64,
}

impl BytesDue {
    /// When the bytes may go.
    pub const fn at(&self) -> Moment {
        self.at
    }

    /// The bytes go.
    pub fn go(mut self) {
        self.taken = 0;
    }
}

impl Drop for BytesDue {
    fn drop(&mut self) {
        if self.taken > 0 {
            let less = |until: u64| Some(until.saturating_sub(self.taken));
            // It cannot fail: `less` always has a result.
            let _ = self.pace.0.fetch_update(Relaxed, Relaxed, less);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PLAN: PacePlan = PacePlan { rate: ByteRate(100_000), burst: 5_000 };

    fn at(micros: u64) -> Moment {
        Moment::from_micros(micros)
    }

    #[test]
    fn what_exceeds_the_burst_waits_for_the_rate() {
        let pace = Arc::new(BytePace::default());
        let due = |now, bytes| {
            let due = pace.take(PLAN, at(now), bytes);
            let when = due.at().as_micros();
            due.go();
            when
        };
        assert_eq!(due(1_000_000, 5_000), 1_000_000);
        assert_eq!(due(1_000_000, 1_000), 1_010_000);
        assert_eq!(due(1_000_000, 1), 1_010_010, "in order, and rounded up");
        assert_eq!(due(1_010_010, 0), 1_010_010);
        // Late by 20 ms: that much of the burst is there again.
        assert_eq!(due(1_030_010, 2_000), 1_030_010);
        assert_eq!(due(1_030_010, 1), 1_030_020);
        assert!(!pace.is_blank(at(1_030_020)));
        assert!(pace.is_blank(at(1_080_021)), "the burst is there again");
        assert_eq!(due(u64::MAX / 1000, u64::MAX), u64::MAX.div_ceil(1000) - 50_000, "no overflow");
    }

    #[test]
    fn what_does_not_go_is_given_back() {
        let pace = Arc::new(BytePace::default());
        pace.take(PLAN, at(0), 5_000).go();
        let second = pace.take(PLAN, at(0), 50_000);
        assert_eq!(second.at(), at(500_000));
        drop(second);
        let third = pace.take(PLAN, at(0), 100);
        assert_eq!(third.at(), at(1000));
    }

    #[test]
    fn streams_together_keep_the_rate_however_they_are_late() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let pace = Arc::new(BytePace::default());
            let plan = PacePlan {
                rate: ByteRate(random.u64(1..10_000_000)),
                burst: random.u64(1..100_000),
            };
            let (mut now, mut gone) = (0_u64, Vec::<(u64, u64)>::new());
            // Each stream has a piece that is due, or asks for one.
            let mut streams: Vec<Option<(BytesDue, u64)>> = (0..10).map(|_| None).collect();
            for _ in 0..3_000 {
                now += random.u64(0..20_000);
                let stream = &mut streams[random.usize(..10)];
                match stream.take() {
                    None => {
                        let bytes = random.u64(1..10_000);
                        *stream = Some((pace.take(plan, at(now), bytes), bytes));
                    }
                    Some((due, bytes)) if due.at() <= at(now) => {
                        due.go();
                        gone.push((now, bytes));
                    }
                    Some(_) if random.u32(..10) == 0 => {}
                    waits => *stream = waits,
                }
            }
            // In any span, the bytes that went are within the rate and the burst.
            for first in (0..gone.len()).step_by(37) {
                let mut bytes = 0;
                for (when, more) in &gone[first..] {
                    bytes += more;
                    let micros = Duration::from_micros(when - gone[first].0).as_micros();
                    let allowed = u128::from(plan.rate.0) * micros / 1_000_000;
                    // Pieces that were due together may be late together.
                    let slack = u128::from(plan.burst) + 10 * 10_000 + 1;
                    assert!(u128::from(bytes) <= allowed + slack, "seed {seed}");
                }
            }
        }
    }
}
