//! Slow start: an endpoint that has just joined, or recovered, gets less traffic than its weight would give it.
//!
//! Owns: the part of its weight that an endpoint has after a time. Refuses to know: when it joined. Keeps: the part grows
//! with time, and is the whole at the end of the window. Source: Envoy, "Slow start mode".

use std::time::Duration;

/// Settings of slow start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlowStartPlan {
    /// How long an endpoint has less than its weight.
    pub window: Duration,
    /// The speed at first, in thousandths: the part is that of time to the power of 1/aggression. 1000 is linear, more
    /// is faster at first.
    pub aggression: u32,
    /// The part of its weight that an endpoint has at least, in percent.
    pub weight_min: u8,
}

/// The whole of a weight, in the unit of [`SlowStartPlan::part`].
pub const WHOLE: u32 = 1000;

/// How often weights follow the time, within a window.
const STEPS: u32 = 50;

impl SlowStartPlan {
    /// The part of its weight, in thousandths, that an endpoint has `age` after it joined.
    pub fn part(&self, age: Duration) -> u32 {
        if age >= self.window {
            return WHOLE;
        }
        let time = age.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        let part = time.powf(1000.0 / f64::from(self.aggression.max(1)));
        let least = WHOLE * u32::from(self.weight_min.min(100)) / 100;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part is from 0 to 1"
        )]
        let part = (part * f64::from(WHOLE)) as u32;
        part.clamp(least.max(1), WHOLE)
    }

    /// How long weights stay before they follow the time again.
    pub fn step(&self) -> Duration {
        (self.window / STEPS).clamp(Duration::from_millis(100), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn plan(aggression: u32, weight_min: u8) -> SlowStartPlan {
        SlowStartPlan { window: Duration::from_secs(100), aggression, weight_min }
    }

    #[test]
    fn the_part_grows_to_the_whole() {
        for (aggression, weight_min, seconds, expected) in [
            (1000, 10, 0, 100),
            (1000, 10, 5, 100),
            (1000, 10, 50, 500),
            (1000, 10, 99, 990),
            (1000, 10, 100, 1000),
            (1000, 10, 1000, 1000),
            (2000, 10, 25, 500),
            (500, 10, 50, 250),
            (1000, 0, 0, 1),
            (1000, 100, 0, 1000),
            (0, 0, 1, 1),
        ] {
            let part = plan(aggression, weight_min).part(Duration::from_secs(seconds));
            assert_eq!(part, expected, "{aggression} {weight_min} % {seconds} s");
        }
        for aggression in [100, 1000, 1500, 10_000] {
            let parts: Vec<u32> =
                (0..=100).map(|s| plan(aggression, 1).part(Duration::from_secs(s))).collect();
            assert!(parts.is_sorted(), "{parts:?}");
        }
    }
}
