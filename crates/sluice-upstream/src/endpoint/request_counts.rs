//! What became of the requests to one endpoint, for reports of load to a control plane.
//!
//! Owns: totals since the endpoint came, and sums of the metrics that it reports with its responses. Refuses to know: who
//! asks, and how often. Keeps: totals only grow, so that a report has the difference to what was read before;
//! there are at most `METRICS_MAX` metrics, and further ones are left out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Most metrics of one endpoint that are summed up.
pub const METRICS_MAX: usize = 64;

/// The requests of an endpoint since it came.
#[derive(Debug, Default)]
pub struct RequestCounts {
    issued: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    metrics: Mutex<BTreeMap<Box<str>, MetricSum>>,
}

/// The same, as read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTotals {
    /// Requests that were sent to it, and connections that were relayed to it.
    pub issued: u64,
    /// Those with a response that is no server error.
    pub succeeded: u64,
    /// Those with a server error, or without a response.
    pub failed: u64,
}

/// What an endpoint reported of one metric.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricSum {
    /// Responses that reported it.
    pub count: u64,
    /// The sum of what they reported.
    pub total: f64,
}

impl RequestTotals {
    /// What has been added since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            issued: self.issued.saturating_sub(before.issued),
            succeeded: self.succeeded.saturating_sub(before.succeeded),
            failed: self.failed.saturating_sub(before.failed),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            issued: self.issued.saturating_add(other.issued),
            succeeded: self.succeeded.saturating_add(other.succeeded),
            failed: self.failed.saturating_add(other.failed),
        }
    }
}

impl RequestCounts {
    /// Counts a request that is sent.
    pub(crate) fn issue(&self) {
        self.issued.fetch_add(1, Relaxed);
    }

    /// Counts a request that has ended.
    pub(crate) fn end(&self, succeeded: bool) {
        let count = if succeeded { &self.succeeded } else { &self.failed };
        count.fetch_add(1, Relaxed);
    }

    /// Sums up the metrics of a report that are wanted: by name, or `named_metrics.*` for all of a map.
    pub(crate) fn add_metrics<'m>(
        &self,
        report: impl Iterator<Item = (&'m str, f64)>,
        wanted: &[impl AsRef<str>],
    ) {
        let mut sums = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in report {
            if !wanted.iter().any(|wanted| is_wanted(wanted.as_ref(), name)) {
                continue;
            }
            if !sums.contains_key(name) && sums.len() >= METRICS_MAX {
                continue;
            }
            let sum = sums.entry(name.into()).or_default();
            sum.count += 1;
            sum.total += value;
        }
    }

    /// The totals.
    pub fn totals(&self) -> RequestTotals {
        // What has ended is read first, so that it is never more than what was sent.
        let (succeeded, failed) = (self.succeeded.load(Relaxed), self.failed.load(Relaxed));
        RequestTotals { issued: self.issued.load(Relaxed), succeeded, failed }
    }

    /// The metrics since the last call.
    pub fn take_metrics(&self) -> BTreeMap<Box<str>, MetricSum> {
        std::mem::take(&mut *self.metrics.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_wanted(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(map) if map.ends_with('.') => name.starts_with(map),
        _ => wanted == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_compared_with_those_of_before() {
        let counts = RequestCounts::default();
        counts.issue();
        counts.end(true);
        let before = counts.totals();
        counts.issue();
        counts.issue();
        counts.end(false);
        let new = counts.totals().since(before);
        assert_eq!(new, RequestTotals { issued: 2, succeeded: 0, failed: 1 });
        assert_eq!(before.plus(new), counts.totals());
    }

    #[test]
    fn metrics_that_are_wanted_are_summed_up_and_their_number_is_bounded() {
        let add = |counts: &RequestCounts, name: &str, value, wanted: &[&str]| {
            let report = [("cpu_utilization", 0.5), (name, value), ("utilization.disk", 9.0)];
            counts.add_metrics(report.into_iter(), wanted);
        };
        let counts = RequestCounts::default();
        let wanted = ["cpu_utilization", "named_metrics.*"];
        add(&counts, "named_metrics.queue", 2.0, &wanted);
        add(&counts, "named_metrics.queue", 3.0, &wanted);
        let taken = counts.take_metrics();
        let expected = [
            ("cpu_utilization", MetricSum { count: 2, total: 1.0 }),
            ("named_metrics.queue", MetricSum { count: 2, total: 5.0 }),
        ];
        assert_eq!(taken, expected.map(|(name, sum)| (name.into(), sum)).into());
        assert!(counts.take_metrics().is_empty());
        for number in 0..2 * METRICS_MAX {
            add(&counts, &format!("named_metrics.{number}"), 1.0, &wanted);
        }
        assert_eq!(counts.take_metrics().len(), METRICS_MAX);
    }
}
