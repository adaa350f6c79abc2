//! The results of recent requests, and which part of further ones is refused.
//!
//! Owns: counts by second, the probability. Refuses to know: clocks, requests. Keeps: results are counted exactly, by all
//! workers and without a lock, up to a million in a second; the part grows with the failures and never exceeds its bound.
//!
//! Source: Envoy's admission control, after "Handling Overload" in Site Reliability Engineering (client-side throttling): of n
//! requests of which s succeeded, the part is `(n - s / threshold) / (n + 1)`, to the power of 1 / aggression.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// When requests are refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AdmissionPlan {
    /// Seconds.
    pub(super) window: u64,
    /// From 0 to 1.
    pub(super) threshold: f64,
    /// From 1.
    pub(super) aggression: f64,
    /// From 0 to 1.
    pub(super) max_refused: f64,
    /// Requests per second.
    pub(super) min_rate: u32,
}

/// The longest window, in seconds.
pub(super) const WINDOW_MAX: u64 = 300;

/// The results of the last seconds: a ring of one number for each, which holds which second it is of (24 bits), all
/// requests and those that succeeded (20 bits each).
#[derive(Debug)]
pub(super) struct RecentResults(Box<[AtomicU64]>);

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const SECOND_MASK: u64 = (1 << 24) - 1;

impl Default for RecentResults {
    fn default() -> Self {
        // A worker may be behind another one by a turn: it finds its second still there.
        Self((0..WINDOW_MAX + 2).map(|_| AtomicU64::new(0)).collect())
    }
}

impl RecentResults {
    fn slot(&self, second: u64) -> &AtomicU64 {
        let place = usize::try_from(second % self.0.len() as u64).unwrap_or(0);
        &self.0[place]
    }

    /// Adds a result; `now` is in seconds.
    pub(super) fn add(&self, now: u64, success: bool) {
        let stamp = (now & SECOND_MASK) << (2 * COUNT_BITS);
        let more = |slot: u64| {
            let own = slot >> (2 * COUNT_BITS) == now & SECOND_MASK;
            let counts = if own { slot & ((1 << (2 * COUNT_BITS)) - 1) } else { 0 };
            // Beyond what a number holds, the share stays as it is.
            let fits = counts >> COUNT_BITS < COUNT_MASK;
            let added = (1 << COUNT_BITS) + u64::from(success);
            Some(stamp | if fits { counts + added } else { counts })
        };
        // It cannot fail: `more` always has a result.
        let _ = self.slot(now).fetch_update(Relaxed, Relaxed, more);
    }

    /// All results of the window, and the successes among them.
    fn sums(&self, window: u64, now: u64) -> (u64, u64) {
        let seconds = (now + 1).saturating_sub(window)..=now;
        seconds.fold((0, 0), |(all, successes), second| {
            let slot = self.slot(second).load(Relaxed);
            if slot >> (2 * COUNT_BITS) != second & SECOND_MASK {
                return (all, successes);
            }
            (all + (slot >> COUNT_BITS & COUNT_MASK), successes + (slot & COUNT_MASK))
        })
    }

    /// The part of the requests that is refused now, from 0 to 1.
    #[allow(clippy::cast_precision_loss, reason = "a part needs no more precision")]
    pub(super) fn refused_part(&self, plan: &AdmissionPlan, now: u64) -> f64 {
        let (all, successes) = self.sums(plan.window, now);
        if all < u64::from(plan.min_rate) * plan.window {
            return 0.0;
        }
        let (all, successes) = (all as f64, successes as f64);
        let part = (all - successes / plan.threshold) / (all + 1.0);
        part.max(0.0).powf(1.0 / plan.aggression).min(plan.max_refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: AdmissionPlan = AdmissionPlan {
        window: 30,
        threshold: 0.95,
        aggression: 1.0,
        max_refused: 0.8,
        min_rate: 0,
    };

    fn part(plan: &AdmissionPlan, failures: u32, successes: u32) -> f64 {
        let results = RecentResults::default();
        (0..failures).for_each(|_| results.add(7, false));
        (0..successes).for_each(|_| results.add(7, true));
        results.refused_part(plan, 7)
    }

    #[test]
    fn the_part_grows_with_the_failures() {
        let near = |plan: &AdmissionPlan, failures, successes, expected: f64| {
            let part = part(plan, failures, successes);
            assert!((part - expected).abs() < 0.005, "{failures} {successes}: {part}");
        };
        near(&PLAN, 0, 0, 0.0);
        near(&PLAN, 0, 100, 0.0);
        near(&PLAN, 5, 95, 0.0);
        near(&PLAN, 50, 50, 0.469);
        near(&PLAN, 1000, 0, 0.8);
        near(&PLAN, 1, 0, 0.5);
        let harsh = AdmissionPlan { aggression: 2.0, ..PLAN };
        near(&harsh, 50, 50, 0.685);
        let busy = AdmissionPlan { min_rate: 5, ..PLAN };
        near(&busy, 149, 0, 0.0);
        near(&busy, 150, 0, 0.8);
    }

    #[test]
    fn results_count_as_in_a_plain_list_of_them() {
        let mut random = fastrand::Rng::with_seed(5);
        for window in [1, 3, 30, WINDOW_MAX] {
            let plan = AdmissionPlan { window, ..PLAN };
            let (results, mut plain) = (RecentResults::default(), Vec::<(u64, bool)>::new());
            let mut now = 100;
            for step in 0..20_000 {
                if random.u32(..20) == 0 {
                    now += random.u64(0..window + 2);
                }
                let success = random.u32(..100) < 90;
                results.add(now, success);
                plain.push((now, success));
                let within = plain.iter().filter(|(second, _)| second + window > now);
                let (all, good) = within.fold((0_u32, 0_u32), |(all, good), (_, success)| {
                    (all + 1, good + u32::from(*success))
                });
                let (all, good) = (f64::from(all), f64::from(good));
                let expected = ((all - good / 0.95) / (all + 1.0)).clamp(0.0, 0.8);
                let part = results.refused_part(&plan, now);
                assert!((part - expected).abs() < 1e-9, "step {step}: {part} {expected}");
                if step % 64 == 0 {
                    plain.retain(|(second, _)| second + window > now);
                }
            }
        }
    }

    #[test]
    fn a_second_with_more_results_than_a_number_holds_keeps_its_share() {
        let results = RecentResults::default();
        for number in 0..(1 << COUNT_BITS) + 1000 {
            results.add(3, number % 2 == 0);
        }
        let (all, successes) = results.sums(1, 3);
        assert_eq!((all, successes), (COUNT_MASK, COUNT_MASK.div_ceil(2)));
        assert_eq!(results.sums(1, 4), (0, 0));
        // The numbers of seconds wrap, and the ring is used again.
        let later = 3 + (1 << 24) + 302 * 5;
        results.add(later, true);
        assert_eq!(results.sums(WINDOW_MAX, later), (1, 1));
    }

    #[test]
    fn threads_lose_no_result() {
        let results = RecentResults::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let results = &results;
                scope.spawn(move || {
                    for number in 0..10_000_u64 {
                        results.add(100 + number / 1000, number % 4 < thread);
                    }
                });
            }
        });
        assert_eq!(results.sums(10, 109), (40_000, 15_000));
    }
}
