//! The gradient controller: finds how many requests in flight a service handles at its ideal latency.
//!
//! Owns: the ideal latency, the latencies of an interval, the limit. Refuses to know: clocks, requests. Keeps: the limit stays
//! within its bounds; what it remembers is bounded.
//!
//! Source: Envoy's gradient controller, after Netflix's concurrency-limits. The ideal latency is measured with few requests in
//! flight; after each interval the limit is multiplied by the ideal latency and its tolerance over that of the interval, at
//! least by 1/2 and at most by 2, and its square root is added, so that it can rise.

use std::cmp::Ordering;
use std::time::Duration;

use sluice_core::Moment;

/// The latest latencies that are kept of an interval.
const SAMPLES_MAX: usize = 1024;

/// After so many intervals in a row at its lowest, the limit is no answer: the ideal latency is measured again.
const LOWEST_MAX: u32 = 5;

/// How the controller behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct GradientPlan {
    pub(super) max: u32,
    pub(super) min: u32,
    /// From 0 to 1.
    pub(super) percentile: f64,
    pub(super) interval: Duration,
    /// The ideal latency, if it is not to be measured.
    pub(super) ideal: Option<Duration>,
    /// By how many requests the ideal latency is measured.
    pub(super) measure_requests: u32,
    /// From 0.
    pub(super) tolerance: f64,
}

/// What is being found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GradientPhase {
    /// The ideal latency, by requests that began at that time or later.
    Ideal { since: Moment },
    /// The limit.
    Limit { interval_ends: Moment, measure_at: Moment },
}

/// What became of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GradientStep {
    Raised,
    Lowered,
    Kept,
    /// The ideal latency is being measured again.
    Measuring,
    /// It has been measured.
    Measured,
}

impl GradientStep {
    /// In metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Lowered => "lowered",
            Self::Kept => "kept",
            Self::Measuring => "measuring",
            Self::Measured => "measured",
        }
    }
}

/// The controller.
#[derive(Debug)]
pub(super) struct Gradient {
    plan: GradientPlan,
    phase: GradientPhase,
    /// The limit, while the ideal latency is not being measured.
    limit: u32,
    ideal: Duration,
    latencies: Vec<Duration>,
    /// How many latencies there were, also those that made room.
    seen: usize,
    at_lowest: u32,
}

impl Gradient {
    /// A controller that begins with measuring the ideal latency, unless it is known.
    pub(super) fn new(plan: GradientPlan) -> Self {
        let begin = Moment::default();
        let phase = match plan.ideal {
            None => GradientPhase::Ideal { since: begin },
            Some(_) => GradientPhase::Limit { interval_ends: begin, measure_at: Moment::NEVER },
        };
        Self {
            plan,
            phase,
            limit: plan.min,
            ideal: plan.ideal.unwrap_or_default(),
            latencies: Vec::new(),
            seen: 0,
            at_lowest: 0,
        }
    }

    /// Takes other settings; what has been found out stays, unless the ideal latency is known now, or no longer.
    pub(super) fn configure(&mut self, plan: GradientPlan) {
        if plan.ideal != self.plan.ideal {
            *self = Self::new(plan);
        }
        self.plan = plan;
        self.limit = self.limit.clamp(plan.min, plan.max);
    }

    /// When time alone changes something.
    pub(super) fn due(&self) -> Moment {
        match self.phase {
            GradientPhase::Ideal { .. } => Moment::NEVER,
            GradientPhase::Limit { interval_ends, measure_at } => interval_ends.min(measure_at),
        }
    }

    /// The most requests in flight.
    pub(super) const fn limit(&self) -> u32 {
        match self.phase {
            GradientPhase::Ideal { .. } => self.plan.min,
            GradientPhase::Limit { .. } => self.limit,
        }
    }

    /// Notes how long a request took that began at that time.
    pub(super) fn sample(&mut self, began: Moment, took: Duration) {
        // The load of the time before is not that at which the ideal latency shows.
        if matches!(self.phase, GradientPhase::Ideal { since } if began < since) {
            return;
        }
        if self.latencies.len() < SAMPLES_MAX {
            self.latencies.push(took);
        } else {
            self.latencies[self.seen % SAMPLES_MAX] = took;
        }
        self.seen += 1;
    }

    /// Adapts the limit if it is time for that; `pause` says for how long from now on the ideal latency is not measured
    /// again.
    pub(super) fn adapt(
        &mut self,
        now: Moment,
        pause: impl FnOnce() -> Duration,
    ) -> Option<GradientStep> {
        match self.phase {
            GradientPhase::Ideal { .. } => {
                if self.seen < self.plan.measure_requests as usize {
                    return None;
                }
                self.ideal = self.take_percentile().unwrap_or(self.ideal);
                self.at_lowest = 0;
                let interval_ends = now.after(self.plan.interval);
                self.phase = GradientPhase::Limit { interval_ends, measure_at: now.after(pause()) };
                Some(GradientStep::Measured)
            }
            GradientPhase::Limit { measure_at, .. } if now >= measure_at => Some(self.measure(now)),
            GradientPhase::Limit { interval_ends, measure_at } => {
                if now < interval_ends {
                    return None;
                }
                let interval_ends = now.after(self.plan.interval);
                self.phase = GradientPhase::Limit { interval_ends, measure_at };
                let latency = self.take_percentile()?;
                let before = self.limit;
                self.limit = next_limit(&self.plan, self.limit, self.ideal, latency);
                let lowest = self.limit == self.plan.min;
                self.at_lowest = if lowest { self.at_lowest + 1 } else { 0 };
                if self.at_lowest >= LOWEST_MAX && self.plan.ideal.is_none() {
                    return Some(self.measure(now));
                }
                Some(match self.limit.cmp(&before) {
                    Ordering::Greater => GradientStep::Raised,
                    Ordering::Less => GradientStep::Lowered,
                    Ordering::Equal => GradientStep::Kept,
                })
            }
        }
    }

    fn measure(&mut self, now: Moment) -> GradientStep {
        self.latencies.clear();
        self.seen = 0;
        self.phase = GradientPhase::Ideal { since: now };
        GradientStep::Measuring
    }

    /// The latency that counts, of those since the last call.
    fn take_percentile(&mut self) -> Option<Duration> {
        self.seen = 0;
        let latency = percentile(&mut self.latencies, self.plan.percentile);
        self.latencies.clear();
        latency
    }
}

/// The smallest latency that this part of them does not exceed.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "it is a place in a list of at most a thousand"
)]
fn percentile(latencies: &mut [Duration], part: f64) -> Option<Duration> {
    let place = (latencies.len() as f64 * part).ceil() as usize;
    let place = place.clamp(1, latencies.len().max(1)) - 1;
    if latencies.is_empty() {
        return None;
    }
    let (_, latency, _) = latencies.select_nth_unstable(place);
    Some(*latency)
}

/// The limit of the next interval.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within the bounds of limits"
)]
fn next_limit(plan: &GradientPlan, limit: u32, ideal: Duration, latency: Duration) -> u32 {
    let tolerated = ideal.as_secs_f64() * (1.0 + plan.tolerance);
    // No time at all is as fast as can be.
    let gradient = if latency.is_zero() { 2.0 } else { tolerated / latency.as_secs_f64() };
    let scaled = f64::from(limit) * gradient.clamp(0.5, 2.0);
    let next = scaled + scaled.sqrt();
    (next as u32).clamp(plan.min, plan.max)
}

#[cfg(test)]
mod tests;
