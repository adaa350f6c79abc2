//! Endpoints whose results are worse than those of the others, or bad by themselves.
//!
//! Owns: the arithmetic over the results of one period. Refuses to know: endpoints, time and ejections. Keeps: an
//! endpoint with few results is neither judged nor compared with.

use crate::endpoint::counts::{Tally, TimeTally};
use crate::plan::{FailurePercentagePlan, LatencyPlan, SuccessRatePlan};

/// What is wrong with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outlying {
    /// Its success rate is below that of the others by more than the allowed deviations: both in percent.
    Rate { percent: f64, below: f64 },
    /// Its share of failures, in percent, is too large.
    Failures { percent: f64 },
    /// Its mean response time is far above the median of all: both in milliseconds.
    Slow { mean: f64, median: f64 },
}

impl std::fmt::Display for Outlying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate { percent, below } => {
                write!(f, "success rate of {percent:.1} %, below {below:.1} %")
            }
            Self::Failures { percent } => write!(f, "failure percentage of {percent:.1} %"),
            Self::Slow { mean, median } => {
                write!(f, "mean response time of {mean:.1} ms, where others have {median:.1} ms,")
            }
        }
    }
}

impl Tally {
    #[allow(clippy::cast_precision_loss, reason = "a percentage of fewer than 2^53 results")]
    fn success_percent(self) -> f64 {
        100.0 * self.good as f64 / (self.good.saturating_add(self.bad)).max(1) as f64
    }

    const fn has(self, results: u64) -> bool {
        self.good.saturating_add(self.bad) >= results
    }
}

/// The endpoints, by index, whose success rate is below the mean by more than `stdev_factor` standard deviations.
pub(crate) fn by_success_rate(results: &[Tally], plan: &SuccessRatePlan) -> Vec<(usize, Outlying)> {
    let rates = judged(results, plan.requests_min, plan.endpoints_min);
    #[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 endpoints")]
    let count = rates.len().max(1) as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let below = mean - variance.sqrt() * f64::from(plan.stdev_factor_thousandths) / 1000.0;
    let outlying = rates.into_iter().filter(|(_, percent)| *percent < below);
    outlying.map(|(index, percent)| (index, Outlying::Rate { percent, below })).collect()
}

/// The endpoints, by index, of which at least the given percentage of results are failures.
pub(crate) fn by_failure_percentage(
    results: &[Tally],
    plan: &FailurePercentagePlan,
) -> Vec<(usize, Outlying)> {
    let failures = judged(results, plan.requests_min, plan.endpoints_min);
    let failures = failures.into_iter().map(|(index, rate)| (index, 100.0 - rate));
    let outlying = failures.filter(|(_, percent)| *percent >= f64::from(plan.percent));
    outlying.map(|(index, percent)| (index, Outlying::Failures { percent })).collect()
}

/// The endpoints, by index, whose mean response time exceeds the median of all by the given factor and time.
pub(crate) fn by_latency(times: &[TimeTally], plan: &LatencyPlan) -> Vec<(usize, Outlying)> {
    let enough = |times: &TimeTally| times.count >= plan.requests_min.max(1);
    let judged = times.iter().enumerate().filter(|(_, times)| enough(times));
    #[allow(clippy::cast_precision_loss, reason = "a mean for people")]
    let millis = |times: &TimeTally| times.micros as f64 / times.count as f64 / 1000.0;
    let means: Vec<(usize, f64)> = judged.map(|(index, times)| (index, millis(times))).collect();
    if means.len() < plan.endpoints_min.max(2) {
        return Vec::new();
    }
    let mut sorted: Vec<f64> = means.iter().map(|(_, mean)| *mean).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    // Of two in the middle, the lower: with two endpoints, the slower is compared with the other.
    let median = sorted.get((sorted.len() - 1) / 2).copied().unwrap_or_default();
    let factor = f64::from(plan.factor_thousandths) / 1000.0;
    let excess = plan.excess_min.as_secs_f64() * 1000.0;
    let is_slow = |mean: f64| mean > median * factor && mean - median >= excess;
    let slow = means.into_iter().filter(|(_, mean)| is_slow(*mean));
    slow.map(|(index, mean)| (index, Outlying::Slow { mean, median })).collect()
}

/// The success rates in percent of the endpoints with enough results; none if they are too few.
fn judged(results: &[Tally], requests_min: u64, endpoints_min: usize) -> Vec<(usize, f64)> {
    let enough = results.iter().enumerate().filter(|(_, tally)| tally.has(requests_min.max(1)));
    let rates: Vec<(usize, f64)> =
        enough.map(|(index, tally)| (index, tally.success_percent())).collect();
    if rates.len() < endpoints_min { Vec::new() } else { rates }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tallies(of: &[(u64, u64)]) -> Vec<Tally> {
        of.iter().map(|(good, bad)| Tally { good: *good, bad: *bad }).collect()
    }

    #[track_caller]
    fn check(results: &[(u64, u64)], by_rate: &[usize], by_failures: &[usize]) {
        let rate =
            SuccessRatePlan { stdev_factor_thousandths: 1900, endpoints_min: 5, requests_min: 100 };
        let failures = FailurePercentagePlan { percent: 85, endpoints_min: 5, requests_min: 50 };
        let results = tallies(results);
        let indexes =
            |of: Vec<(usize, Outlying)>| of.into_iter().map(|(index, _)| index).collect::<Vec<_>>();
        assert_eq!(indexes(by_success_rate(&results, &rate)), by_rate);
        assert_eq!(indexes(by_failure_percentage(&results, &failures)), by_failures);
    }

    #[test]
    fn outliers() {
        check(&[], &[], &[]);
        check(&[(100, 0); 5], &[], &[]);
        // Worse than the others, and not bad by itself.
        check(&[(100, 0), (100, 0), (100, 0), (100, 0), (100, 0), (80, 20)], &[5], &[]);
        check(&[(100, 0), (100, 0), (15, 85), (100, 0), (100, 0), (100, 0)], &[2], &[2]);
        // All are bad: nobody is worse than the others.
        check(&[(10, 90); 5], &[], &[0, 1, 2, 3, 4]);
        // Too few results, or endpoints with enough of them.
        check(&[(100, 0), (100, 0), (100, 0), (100, 0), (100, 0), (0, 99)], &[], &[5]);
        check(&[(100, 0), (100, 0), (100, 0), (100, 0), (100, 0), (0, 49)], &[], &[]);
        check(&[(100, 0), (100, 0), (100, 0), (0, 100)], &[], &[]);
        // 84.9 % is less than 85 %.
        check(&[(151, 849), (1000, 0), (1000, 0), (1000, 0), (1000, 0)], &[0], &[]);
        check(&[(150, 850), (1000, 0), (1000, 0), (1000, 0), (1000, 0)], &[0], &[0]);
    }

    #[test]
    fn slow_endpoints_are_far_above_the_median() {
        let plan = LatencyPlan {
            factor_thousandths: 3000,
            excess_min: Duration::from_millis(5),
            endpoints_min: 2,
            requests_min: 10,
        };
        let slow = |means: &[(u64, u64)]| {
            let times = |(count, millis): &(u64, u64)| TimeTally {
                count: *count,
                micros: count * millis * 1000,
            };
            let times: Vec<TimeTally> = means.iter().map(times).collect();
            by_latency(&times, &plan).into_iter().map(|(index, _)| index).collect::<Vec<_>>()
        };
        assert_eq!(slow(&[]), []);
        assert_eq!(slow(&[(10, 500)]), [], "there is nothing to compare with");
        assert_eq!(slow(&[(10, 10), (10, 12), (10, 37)]), [2]);
        assert_eq!(slow(&[(10, 10), (10, 12), (10, 36)]), [], "it is no more than three times");
        assert_eq!(slow(&[(10, 10), (10, 31)]), [1], "the slower of two");
        assert_eq!(slow(&[(10, 1), (10, 5)]), [], "the difference is small");
        assert_eq!(slow(&[(10, 10), (9, 100), (10, 10)]), [], "too few responses");
        assert_eq!(slow(&[(10, 100), (10, 100), (10, 1)]), [], "one is fast");
    }

    #[test]
    fn the_cause_is_shown() {
        let results = tallies(&[(100, 0), (100, 0), (100, 0), (100, 0), (100, 0), (80, 20)]);
        let plan =
            SuccessRatePlan { stdev_factor_thousandths: 1900, endpoints_min: 5, requests_min: 100 };
        let found = by_success_rate(&results, &plan);
        assert_eq!(found[0].1.to_string(), "success rate of 80.0 %, below 82.5 %");
        assert_eq!(
            Outlying::Failures { percent: 85.0 }.to_string(),
            "failure percentage of 85.0 %"
        );
    }
}
