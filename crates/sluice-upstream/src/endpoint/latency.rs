//! The latency of an endpoint: its last peak, which fades with time.
//!
//! Owns: the peak, in one word. Refuses to know: what was measured. Keeps: a measurement is a new peak if it is not below
//! what is left of the last one; no reader sees half of a value. Source: Finagle, "Peak EWMA", whose average fades with
//! each look at it. That a peak counts at once keeps traffic away from an endpoint that begins to stall; that it fades
//! lets one back that has recovered.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sluice_core::Moment;

/// The last peak of the latency of an endpoint: microseconds (32 bits, at most 71 minutes) and its time in milliseconds (32 bits, the lowest always 1). 0: nothing is measured, as no balancer asks.
#[derive(Debug, Default)]
pub struct PeakLatency(AtomicU64);

/// Measured, and nothing known yet.
const UNKNOWN: u64 = 1;

/// What an endpoint is taken to cost, in microseconds, that has requests and has not responded yet.
const PENALTY: f64 = 1e9;

impl PeakLatency {
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
            let (peak, then) = split(word);
            let is_peak = f64::from(sample) >= f64::from(peak) * fading(then, now, decay);
            (word != 0 && is_peak).then(|| u64::from(sample) << 32 | u64::from(stamp(now)))
        });
    }

    /// What a further request would cost with `load` in flight: what is left of the peak, for each of them.
    pub fn cost(&self, load: u64, now: Moment, decay: Duration) -> f64 {
        let (peak, then) = split(self.0.load(Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "precise up to 2^52 requests")]
        let load = load as f64;
        match peak {
            // It is tried, by one request until it responds.
            0 if load == 0.0 => 0.0,
            0 => PENALTY + load,
            peak => f64::from(peak) * fading(then, now, decay) * (load + 1.0),
        }
    }

    /// The last peak, as it was measured.
    pub fn peak(&self) -> Option<Duration> {
        let (peak, _) = split(self.0.load(Relaxed));
        (peak > 0).then(|| Duration::from_micros(peak.into()))
    }
}

/// The peak and its time.
#[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
const fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[expect(clippy::cast_possible_truncation, reason = "time wraps after 49 days")]
const fn stamp(now: Moment) -> u32 {
    (now.as_micros() / 1000) as u32 | 1
}

/// The part of a peak that is left since `then`.
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

    fn measured(samples: &[(u64, u64)]) -> PeakLatency {
        let average = PeakLatency::default();
        average.track(true);
        for (millis, took) in samples {
            average.observe(Duration::from_millis(*took), at(*millis), DECAY);
        }
        average
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let millis = |samples: &[(u64, u64)]| {
            let last = samples.last().map_or(0, |(millis, _)| *millis);
            let cost = measured(samples).cost(0, at(last), DECAY) / 1000.0;
            measured(samples).peak().map(|_| cost.round())
        };
        for (samples, expected) in [
            (&[][..], None),
            (&[(0, 10)], Some(10.0)),
            (&[(0, 10), (10, 500)], Some(500.0)),
            // Right after a peak, a fast response changes little.
            (&[(0, 500), (2, 10)], Some(500.0)),
            // e^-1 is left after the time of decay.
            (&[(0, 500), (10_000, 10)], Some(184.0)),
            (&[(0, 500), (100_000, 10)], Some(10.0)),
            (&[(0, 0)], Some(0.0)),
        ] {
            assert_eq!(millis(samples), expected, "{samples:?}");
        }
        assert_eq!(
            measured(&[(0, u64::from(u32::MAX))]).peak(),
            Some(Duration::from_micros(u32::MAX.into()))
        );
    }

    #[test]
    fn the_cost_grows_with_load_and_fades_without_news() {
        let one = measured(&[(0, 10)]);
        let cost = |load, millis| one.cost(load, at(millis), DECAY).round();
        assert_eq!((cost(0, 0), cost(1, 0), cost(9, 0)), (10_000.0, 20_000.0, 100_000.0));
        assert_eq!(cost(0, 10_000), (10_000.0 / std::f64::consts::E).round());
        let none = measured(&[]);
        assert_eq!(none.cost(0, at(5), DECAY), 0.0);
        assert!(none.cost(1, at(5), DECAY) > one.cost(1000, at(5), DECAY));
        // The time of the average is later than that of a reader.
        assert_eq!(measured(&[(100, 10)]).cost(0, at(50), DECAY).round(), 10_000.0);
    }

    #[test]
    fn nothing_is_measured_unless_asked() {
        let average = PeakLatency::default();
        average.observe(DECAY, at(1), DECAY);
        assert!(!average.is_tracked() && average.peak().is_none());
        average.track(true);
        average.observe(DECAY, at(1), DECAY);
        average.track(true);
        assert_eq!(average.peak(), Some(DECAY));
        average.track(false);
        average.track(true);
        assert_eq!(average.peak(), None);
    }

    /// Against the same in plain numbers.
    #[test]
    fn the_word_holds_what_plain_numbers_would() {
        for seed in 0..200 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let word = measured(&[]);
            let (mut value, mut then, mut now) = (0.0_f64, 0_u64, 0_u64);
            for _ in 0..200 {
                now += rng.u64(..4000);
                let took = rng.u64(1..2_000_000);
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let (sample, elapsed) = (took as f64, (now - then) as f64);
                let kept = (-elapsed / 10_000.0).exp();
                value = sample.max(value * kept);
                then = now;
                word.observe(Duration::from_micros(took), at(now), DECAY);
                let held = word.cost(0, at(now), DECAY);
                // Times are rounded to two milliseconds.
                assert!((held - value).abs() < value * 0.002 + 5.0, "seed {seed}: {held} {value}");
            }
        }
    }
}
