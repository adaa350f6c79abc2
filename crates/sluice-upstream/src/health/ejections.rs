//! Sweeps over the results of endpoints, and the end of ejections.
//!
//! Owns: how long each ejection lasts, and when results are compared. Refuses to know: what counts as a failure. Keeps:
//! an endpoint that is ejected again and again stays out for longer each time; time without an ejection counts in its
//! favour.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sluice_io::WorkerCx;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::endpoint::counts::{Tally, TimeTally};
use crate::endpoint::{EjectionKind, EndpointState};
use crate::events::EndpointEvent;
use crate::outlier::EjectionOutcome;
use crate::outlier::rates::{self, Outlying};
use crate::plan::OutlierPlan;

/// The ejections of a cluster's endpoints.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    of: HashMap<Arc<str>, Ejection>,
    next_sweep: Option<Instant>,
}

#[derive(Debug, Default)]
struct Ejection {
    /// How often it has been ejected, less the sweeps that found it in use.
    times: u32,
    until: Option<Instant>,
}

impl Ejections {
    /// Readmits ejected endpoints when their time is over; at once if the cluster has no ejection any more. Compares
    /// results when it is time to, and returns what it found. `random` is from 0 to 1.
    pub(super) fn look(
        &mut self,
        worker: &WorkerCx,
        cluster: &Cluster,
        endpoints: &[Arc<EndpointState>],
        outlier: Option<&OutlierPlan>,
        now: Instant,
        random: &mut dyn FnMut() -> f64,
    ) -> Vec<(EjectionKind, EjectionOutcome)> {
        self.of.retain(|name, _| endpoints.iter().any(|endpoint| endpoint.name == *name));
        let mut ejected = Vec::new();
        if let Some(outlier) = outlier
            && self.is_due(outlier, now)
        {
            self.forgive(endpoints);
            if outlier.measures_rates() {
                ejected = compare(worker, cluster, endpoints, outlier, random);
            }
        }
        for endpoint in endpoints {
            endpoint.counts.measure(outlier.is_some_and(OutlierPlan::measures_rates));
            endpoint.counts.await_replies(outlier.is_some_and(|plan| plan.silence.is_some()));
            if endpoint.is_ejected() {
                self.readmit(worker, cluster, endpoint, outlier, now, random);
            } else if let Some(entry) = self.of.get_mut(&endpoint.name) {
                // A check readmitted it.
                entry.until = None;
            }
        }
        ejected
    }

    /// When to look again: without ejections, never.
    pub(super) fn next(&self, outlier: Option<&OutlierPlan>) -> Option<Instant> {
        let outlier = outlier?;
        let ends = self.of.values().filter_map(|ejection| ejection.until);
        let sweeps = outlier.measures_rates()
            || self.of.values().any(|ejection| ejection.times > 0 && ejection.until.is_none());
        ends.chain(self.next_sweep.filter(|_| sweeps)).min()
    }

    fn is_due(&mut self, outlier: &OutlierPlan, now: Instant) -> bool {
        let due = self.next_sweep.is_some_and(|next| next <= now);
        if due || self.next_sweep.is_none() {
            self.next_sweep = Some(now + outlier.interval);
        }
        due
    }

    /// An endpoint that is in use has its next ejection shortened.
    fn forgive(&mut self, endpoints: &[Arc<EndpointState>]) {
        for endpoint in endpoints.iter().filter(|endpoint| !endpoint.is_ejected()) {
            if let Some(entry) = self.of.get_mut(&endpoint.name) {
                entry.times = entry.times.saturating_sub(1);
            }
        }
    }

    fn readmit(
        &mut self,
        worker: &WorkerCx,
        cluster: &Cluster,
        endpoint: &EndpointState,
        outlier: Option<&OutlierPlan>,
        now: Instant,
        random: &mut dyn FnMut() -> f64,
    ) {
        let entry = self.of.entry(Arc::clone(&endpoint.name)).or_default();
        let until = if outlier.is_some() { entry.until } else { Some(now) };
        match (until, outlier) {
            (None, Some(outlier)) => {
                entry.times = entry.times.saturating_add(1);
                let length = outlier.ejection.saturating_mul(entry.times).min(outlier.ejection_max);
                let until = now + length + jitter(outlier.ejection_jitter, random);
                entry.until = Some(until);
                endpoint.note_ejected_until(until);
            }
            (Some(until), _) if until <= now => {
                entry.until = None;
                endpoint.readmit();
                EndpointEvent::EjectionOver.tell(worker, cluster, endpoint);
            }
            _ => {}
        }
    }
}

fn jitter(most: Duration, random: &mut dyn FnMut() -> f64) -> Duration {
    if most.is_zero() { most } else { most.mul_f64(random()) }
}

/// Ejects endpoints whose results since the last sweep are outliers.
fn compare(
    worker: &WorkerCx,
    cluster: &Cluster,
    endpoints: &[Arc<EndpointState>],
    outlier: &OutlierPlan,
    random: &mut dyn FnMut() -> f64,
) -> Vec<(EjectionKind, EjectionOutcome)> {
    let all: Vec<(Tally, Tally)> =
        endpoints.iter().map(|endpoint| endpoint.counts.take()).collect();
    let in_use = |endpoint: &EndpointState, tally: Tally| {
        if endpoint.is_ejected() { Tally::default() } else { tally }
    };
    let tallies = |of: fn(&(Tally, Tally)) -> Tally| {
        let each = endpoints.iter().zip(&all);
        each.map(|(endpoint, both)| in_use(endpoint, of(both))).collect::<Vec<_>>()
    };
    let (answers, connects) = (tallies(|both| both.0), tallies(|both| both.1));
    let mut found: Vec<(usize, EjectionKind, Outlying, &str)> = Vec::new();
    if let Some(plan) = &outlier.success_rate {
        let of = |(index, why), kind, what| (index, kind, why, what);
        let (by_answer, by_connect) = (EjectionKind::SuccessRate, EjectionKind::ConnectSuccessRate);
        let rates = rates::by_success_rate;
        found.extend(rates(&answers, plan).into_iter().map(|it| of(it, by_answer, "requests")));
        found
            .extend(rates(&connects, plan).into_iter().map(|it| of(it, by_connect, "connections")));
    }
    if let Some(plan) = &outlier.failure_percentage {
        let of = |(index, why), kind, what| (index, kind, why, what);
        let (by_answer, by_connect) =
            (EjectionKind::FailurePercentage, EjectionKind::ConnectFailurePercentage);
        let rates = rates::by_failure_percentage;
        found.extend(rates(&answers, plan).into_iter().map(|it| of(it, by_answer, "requests")));
        found
            .extend(rates(&connects, plan).into_iter().map(|it| of(it, by_connect, "connections")));
    }
    let times = endpoints.iter().map(|endpoint| (endpoint, endpoint.counts.take_times()));
    let times: Vec<TimeTally> = times
        .map(|(endpoint, times)| if endpoint.is_ejected() { TimeTally::default() } else { times })
        .collect();
    if let Some(plan) = &outlier.latency {
        let slow = rates::by_latency(&times, plan).into_iter();
        found.extend(slow.map(|(index, why)| (index, EjectionKind::Latency, why, "requests")));
    }
    let mut results = Vec::new();
    for (index, kind, why, what) in found {
        let Some(endpoint) = endpoints.get(index) else { continue };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number from 0 to 100"
        )]
        let roll = ((random() * 100.0) as usize).min(99);
        let found =
            cluster.eject(worker, endpoint, outlier, kind, &format!("{why} of {what}"), roll);
        results.extend(found.map(|found| (kind, found)));
    }
    results
}

#[cfg(test)]
mod tests;
