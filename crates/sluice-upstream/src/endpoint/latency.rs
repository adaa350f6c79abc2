//! The latency of an endpoint: an average that follows a peak at once, and fades when nothing is measured.
//!
//! Owns: the average, in one word. Refuses to know: what was measured. Keeps: a measurement above the average replaces
//! it; one below moves it the more, the longer ago the last one was; no reader sees half of a value. Source: Finagle,
//! "Peak EWMA"; the sensitivity to peaks is what keeps traffic away from an endpoint that begins to stall.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sluice_core::Moment;

/// The average latency of an endpoint: microseconds (32 bits, at most 71 minutes) and the time of the last measurement in
/// milliseconds (32 bits, the lowest always 1). 0: nothing is measured, as no balancer asks.
#[derive(Debug, Default)]
pub struct LatencyAverage(AtomicU64);

/// Measured, and nothing known yet.
const UNKNOWN: u64 = 1;

/// What an endpoint is taken to cost, in microseconds, that has requests and has not responded yet.
const PENALTY: f64 = 1e9;

impl LatencyAverage {
    /// Begins or ends to measure.
    pub fn track(&self, on: bool) {
        if self.is_tracked() != on {
            self.0.store(if on { UNKNOWN } else { 0 }, Relaxed);
        }
    }

    /// Whether it is measured.
    pub fn is_tracked(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Takes a measurement into account.
    pub fn observe(&self, took: Duration, now: Moment, decay: Duration) {
        let sample = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        // Of two threads that measure at once, each counts.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let (average, then) = split(word);
            let next = if average == 0 || sample > average {
                sample
            } else {
                let kept = fading(then, now, decay);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between two numbers of 32 bits"
                )]
                let next =
                    (f64::from(average) * kept + f64::from(sample) * (1.0 - kept)).round() as u32;
                next.max(1)
            };
            (word != 0).then(|| u64::from(next) << 32 | u64::from(stamp(now)))
        });
    }

    /// What a further request would cost with `load` in flight: the average, less what has faded, for each of them.
    pub fn cost(&self, load: u64, now: Moment, decay: Duration) -> f64 {
        let (average, then) = split(self.0.load(Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "precise up to 2^52 requests")]
        let load = load as f64;
        match average {
            // It is tried, by one request until it responds.
            0 if load == 0.0 => 0.0,
            0 => PENALTY + load,
            average => f64::from(average) * fading(then, now, decay) * (load + 1.0),
        }
    }

    /// The average without fading, if anything was measured.
    pub fn latency(&self) -> Option<Duration> {
        let (average, _) = split(self.0.load(Relaxed));
        (average > 0).then(|| Duration::from_micros(average.into()))
    }
}

/// The average and the time of the last measurement.
#[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
const fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[expect(clippy::cast_possible_truncation, reason = "time wraps after 49 days")]
const fn stamp(now: Moment) -> u32 {
    (now.as_micros() / 1000) as u32 | 1
}

/// The part of an average that is left since `then`.
fn fading(then: u32, now: Moment, decay: Duration) -> f64 {
    let elapsed = stamp(now).wrapping_sub(then);
    // Clocks of workers differ by less than a millisecond; a measurement from the future is new.
    if elapsed > u32::MAX / 2 {
        return 1.0;
    }
    (-f64::from(elapsed) / (decay.as_secs_f64() * 1000.0).max(1.0)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    fn average(samples: &[(u64, u64)]) -> LatencyAverage {
        let average = LatencyAverage::default();
        average.track(true);
        for (millis, took) in samples {
            average.observe(Duration::from_millis(*took), at(*millis), DECAY);
        }
        average
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let millis = |samples: &[(u64, u64)]| average(samples).latency().map(|of| of.as_millis());
        for (samples, expected) in [
            (&[][..], None),
            (&[(0, 10)], Some(10)),
            (&[(0, 10), (10, 500)], Some(500)),
            // Right after a peak, a fast response changes little.
            (&[(0, 500), (2, 10)], Some(499)),
            // e^-1 of 490 is left after the time of decay.
            (&[(0, 500), (10_000, 10)], Some(190)),
            (&[(0, 500), (100_000, 10)], Some(10)),
            (&[(0, 0)], Some(0)),
        ] {
            assert_eq!(millis(samples), expected, "{samples:?}");
        }
        assert_eq!(
            average(&[(0, u64::from(u32::MAX))]).latency(),
            Some(Duration::from_micros(u32::MAX.into()))
        );
    }

    #[test]
    fn the_cost_grows_with_load_and_fades_without_news() {
        let one = average(&[(0, 10)]);
        let cost = |load, millis| one.cost(load, at(millis), DECAY).round();
        assert_eq!((cost(0, 0), cost(1, 0), cost(9, 0)), (10_000.0, 20_000.0, 100_000.0));
        assert_eq!(cost(0, 10_000), (10_000.0 / std::f64::consts::E).round());
        let none = average(&[]);
        assert_eq!(none.cost(0, at(5), DECAY), 0.0);
        assert!(none.cost(1, at(5), DECAY) > one.cost(1000, at(5), DECAY));
        // The time of the average is later than that of a reader.
        assert_eq!(average(&[(100, 10)]).cost(0, at(50), DECAY).round(), 10_000.0);
    }

    #[test]
    fn nothing_is_measured_unless_asked() {
        let average = LatencyAverage::default();
        average.observe(DECAY, at(1), DECAY);
        assert!(!average.is_tracked() && average.latency().is_none());
        average.track(true);
        average.observe(DECAY, at(1), DECAY);
        average.track(true);
        assert_eq!(average.latency(), Some(DECAY));
        average.track(false);
        average.track(true);
        assert_eq!(average.latency(), None);
    }

    /// Against the same in plain numbers.
    #[test]
    fn the_word_holds_what_plain_numbers_would() {
        for seed in 0..200 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let word = average(&[]);
            let (mut value, mut then, mut now) = (0.0_f64, 0_u64, 0_u64);
            for _ in 0..200 {
                now += rng.u64(..4000);
                let took = rng.u64(1..2_000_000);
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let (sample, elapsed) = (took as f64, (now - then) as f64);
                let kept = (-elapsed / 10_000.0).exp();
                value = if sample > value { sample } else { value * kept + sample * (1.0 - kept) };
                then = now;
                word.observe(Duration::from_micros(took), at(now), DECAY);
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let held = word.latency().unwrap().as_micros() as f64;
                // Times are rounded to two milliseconds.
                assert!((held - value).abs() < value * 0.002 + 5.0, "seed {seed}: {held} {value}");
            }
        }
    }
}
