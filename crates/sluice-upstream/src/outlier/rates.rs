//! Endpoints whose results are worse than those of the others, or bad by themselves.
//!
//! Owns: the arithmetic over the results of one period. Refuses to know: endpoints, time and ejections. Keeps: an
//! endpoint with few results is neither judged nor compared with.

use crate::endpoint::counts::Tally;
use crate::plan::{FailurePercentagePlan, SuccessRatePlan};

/// What is wrong with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outlying {
    /// Its success rate is below that of the others by more than the allowed deviations: both in percent.
    Rate { percent: f64, below: f64 },
    /// Its share of failures, in percent, is too large.
    Failures { percent: f64 },
}

impl std::fmt::Display for Outlying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate { percent, below } => {
                write!(f, "success rate of {percent:.1} %, below {below:.1} %")
            }
            Self::Failures { percent } => write!(f, "failure percentage of {percent:.1} %"),
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

/// The success rates in percent of the endpoints with enough results; none if they are too few.
fn judged(results: &[Tally], requests_min: u64, endpoints_min: usize) -> Vec<(usize, f64)> {
    let enough = results.iter().enumerate().filter(|(_, tally)| tally.has(requests_min.max(1)));
    let rates: Vec<(usize, f64)> =
        enough.map(|(index, tally)| (index, tally.success_percent())).collect();
    if rates.len() < endpoints_min { Vec::new() } else { rates }
}

#[cfg(test)]
mod tests {
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
