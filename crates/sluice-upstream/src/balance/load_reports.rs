//! Weights that endpoints report with their responses.
//!
//! Owns: the settings, what a report is worth, and the weights that follow from all of them. Refuses to know: how a report
//! is written, and how a weight leads to a pick. Keeps: an endpoint that has not reported for long enough counts as an
//! average one; without two that have, all do. Source: gRFC A58, "client-side weighted round robin"; Envoy,
//! `client_side_weighted_round_robin`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::endpoint::ReportedWeight;

/// Settings of the balancer `load_reports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoadReportsPlan {
    /// How long an endpoint must have reported before its weight counts.
    pub blackout: Duration,
    /// How long after its last report the weight of an endpoint counts.
    pub expiry: Duration,
    /// The time between updates of the weights.
    pub update: Duration,
    /// How much errors count against an endpoint, in thousandths: the utilization grows by this part of the share of errors.
    pub error_penalty: u32,
    /// The metrics that tell the utilization where the application does not, by map and name (`named_metrics.queue`); the
    /// highest counts.
    pub metrics: Vec<Arc<str>>,
}

impl Default for LoadReportsPlan {
    fn default() -> Self {
        Self {
            blackout: Duration::from_secs(10),
            expiry: Duration::from_secs(180),
            update: Duration::from_secs(1),
            error_penalty: 1000,
            metrics: Vec::new(),
        }
    }
}

/// What an endpoint reports of its load (Open Request Cost Aggregation, ORCA).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// Requests per second.
    pub requests: f64,
    /// Errors per second.
    pub errors: f64,
    /// The utilization as the application sees it; 0 if it does not say.
    pub application: f64,
    /// The utilization of the CPU.
    pub cpu: f64,
    /// Metrics by map and name: `named_metrics.queue`, `utilization.disk`.
    pub metrics: Vec<(Box<str>, f64)>,
}

impl LoadReportsPlan {
    /// The weight of an endpoint that reports this: requests per second for its utilization. `None` if the report does not
    /// say enough.
    pub fn weight(&self, report: &LoadReport) -> Option<f64> {
        let is_wanted = |name: &str| self.metrics.iter().any(|wanted| **wanted == *name);
        let named = report.metrics.iter().filter(|(name, _)| is_wanted(name));
        let highest = named.map(|(_, value)| *value).fold(0.0, f64::max);
        let told = [report.application, highest, report.cpu].into_iter().find(|told| *told > 0.0);
        let utilization = told.filter(|_| report.requests > 0.0)?;
        let penalty = f64::from(self.error_penalty) / 1000.0 * (report.errors / report.requests);
        let weight = report.requests / (utilization + penalty);
        (weight.is_finite() && weight > 0.0).then_some(weight)
    }
}

/// What is remembered of the reports of one endpoint.
#[derive(Clone, Copy, Debug)]
struct ReportHistory {
    count: u64,
    /// Since when it reports without a gap.
    since: Option<Instant>,
    last: Instant,
    weight: f64,
}

/// The reports of all endpoints of a cluster, as of the last update.
#[derive(Debug, Default)]
pub(crate) struct ReportedLoads {
    by_endpoint: HashMap<Arc<str>, ReportHistory>,
    /// What the weight of each endpoint that has one is multiplied by.
    factors: HashMap<Arc<str>, f64>,
    next: Option<Instant>,
}

impl ReportedLoads {
    /// Looks at the reports, if the time has come; returns when it will come again.
    pub(crate) fn update<'e>(
        &mut self,
        plan: &LoadReportsPlan,
        endpoints: impl Iterator<Item = (&'e Arc<str>, Option<&'e ReportedWeight>)>,
        now: Instant,
    ) -> Instant {
        if let Some(next) = self.next.filter(|next| now < *next) {
            return next;
        }
        let old = std::mem::take(&mut self.by_endpoint);
        for (name, reported) in endpoints {
            let (count, weight) = reported.map_or((0, 0.0), ReportedWeight::news);
            let known = old.get(name).copied().unwrap_or(ReportHistory {
                count: 1,
                since: None,
                last: now,
                weight: 0.0,
            });
            let mut history = known;
            if count > 1 && count != known.count {
                history.count = count;
                history.last = now;
                history.since = known.since.or(Some(now));
                history.weight = weight;
            } else if now.saturating_duration_since(known.last) >= plan.expiry {
                // What it reports after a gap counts after another blackout.
                history.since = None;
            }
            self.by_endpoint.insert(Arc::clone(name), history);
        }
        let counts = |history: &&ReportHistory| {
            history.since.is_some_and(|since| now.saturating_duration_since(since) >= plan.blackout)
        };
        let mut weights: Vec<f64> =
            self.by_endpoint.values().filter(counts).map(|history| history.weight).collect();
        weights.sort_unstable_by(f64::total_cmp);
        self.factors.clear();
        if weights.len() > 1 {
            let median = weights[weights.len() / 2];
            let all = self.by_endpoint.iter().filter(|(_, history)| counts(history));
            let factor =
                |(name, of): (&Arc<str>, &ReportHistory)| (Arc::clone(name), of.weight / median);
            self.factors.extend(all.map(factor));
        }
        let next = now + plan.update;
        self.next = Some(next);
        next
    }

    /// The weights that endpoints have instead of `own`, in the same order; the same if none has reported.
    pub(crate) fn weigh<'e>(
        &self,
        endpoints: impl Iterator<Item = &'e Arc<str>>,
        own: Vec<u32>,
    ) -> Vec<u32> {
        if self.factors.is_empty() {
            return own;
        }
        let factor = |name: &Arc<str>| self.factors.get(name).copied().unwrap_or(1.0);
        let weights: Vec<f64> =
            endpoints.zip(own).map(|(name, own)| f64::from(own) * factor(name)).collect();
        let highest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let scaled = |weight: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and WEIGHT_MAX"
            )]
            let weight = (weight / highest * WEIGHT_MAX).round() as u32;
            weight.max(1)
        };
        weights.into_iter().map(scaled).collect()
    }
}

/// The weight of the endpoint with the highest one.
const WEIGHT_MAX: f64 = 100_000.0;

#[cfg(test)]
mod tests;
