//! Passive health: what becomes of connections and requests decides which endpoints are ejected.
//!
//! Owns: what counts as a failure of an endpoint, streaks of failures, and how many endpoints may be ejected at once.
//! Refuses to know: when an ejection ends, which the control thread decides. Keeps: only faults of the endpoint itself
//! count; the last endpoint that is not ejected stays.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::value::show_duration;
use sluice_core::{Moment, Reason, reason};
use sluice_io::WorkerCx;
use sluice_telemetry::Shard;

use crate::balance::{BalancePlan, LoadReport};
use crate::cluster::{Cluster, ClusterHandle};
use crate::endpoint::{EjectionKind, EndpointState};
use crate::events::EndpointEvent;
use crate::metrics;
use crate::plan::{CheckKind, OutlierPlan, SilencePlan};
use crate::reasons;

pub(crate) mod rates;

/// Whether a check that succeeded shows that a fault is over: that a connection is accepted says nothing about
/// responses, nor about datagrams.
pub(crate) const fn is_refuted(kind: EjectionKind, check: &CheckKind) -> bool {
    match kind {
        EjectionKind::Silence => matches!(check, CheckKind::Udp(_) | CheckKind::Dns(_)),
        // A check that succeeds may be as slow.
        EjectionKind::Latency => false,
        _ => !kind.is_of_answers() || matches!(check, CheckKind::Http(_) | CheckKind::Grpc { .. }),
    }
}

/// What a fault of an endpoint led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EjectionOutcome {
    /// The endpoint is ejected.
    Ejected,
    /// It would have been, but for `enforce`.
    Counted,
}

impl EjectionOutcome {
    /// Counts it.
    pub(crate) fn count(self, shard: &Shard, cluster: &str, kind: EjectionKind) {
        let metric = match self {
            Self::Ejected => &metrics::EJECTIONS,
            Self::Counted => &metrics::NOT_ENFORCED,
        };
        shard.counter(metric, &[cluster, kind.word()]).increment();
    }
}

impl Cluster {
    /// Ejects an endpoint unless too many are ejected already, or by chance it is only counted: `roll` is a random number
    /// below 100. Returns whether it was ejected or counted, and which. From any thread, with its context.
    pub(crate) fn eject(
        &self,
        worker: &WorkerCx,
        endpoint: &EndpointState,
        outlier: &OutlierPlan,
        kind: EjectionKind,
        cause: &str,
        roll: usize,
    ) -> Option<EjectionOutcome> {
        let members = self.members();
        let count = members.endpoints.len();
        let aside = members.endpoints.iter().filter(|other| other.is_ejected()).count();
        let allowed = (count * usize::from(outlier.max_ejected_percent) / 100)
            .max(1)
            .min(count.saturating_sub(1));
        if aside >= allowed || endpoint.is_ejected() {
            return None;
        }
        if roll >= usize::from(outlier.enforce.of(kind)) {
            endpoint.counts.end_streak_of(kind);
            EndpointEvent::NotEjected(cause).tell(worker, self, endpoint);
            return Some(EjectionOutcome::Counted);
        }
        if !endpoint.eject(kind, cause) {
            return None;
        }
        self.announce();
        EndpointEvent::Ejected(cause).tell(worker, self, endpoint);
        Some(EjectionOutcome::Ejected)
    }
}

impl ClusterHandle {
    /// Notes that a connection to `endpoint`, started at `started`, was made; returns how long that took.
    pub fn note_connected(
        &self,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
        started: Moment,
    ) -> Duration {
        let took = worker.now().since(started);
        endpoint.succeeded();
        self.made.increment();
        self.connect_time.record(took);
        self.count_endpoint(worker, &endpoint.name);
        took
    }

    /// Notes how long a relayed connection to `endpoint` took, or a response was waited for in vain, for a balancer that
    /// goes by it.
    pub fn note_latency(&self, worker: &WorkerCx, endpoint: &EndpointState, took: Duration) {
        if endpoint.latency.is_tracked()
            && let BalancePlan::PeakEwma(plan) = &self.plan().balancing.balance
        {
            endpoint.latency.observe(took, worker.now(), plan.decay);
        }
    }

    /// Notes what `endpoint` reports of its load; `None` if the report cannot be read. For a balancer that goes by it, and
    /// for reports to a control plane.
    pub fn note_load_report(
        &self,
        worker: &WorkerCx,
        endpoint: &EndpointState,
        report: Option<&LoadReport>,
    ) {
        if let Some(report) = report {
            self.note_metrics(endpoint, report);
        }
        let plan = self.plan();
        let BalancePlan::LoadReports(plan) = &plan.balancing.balance else { return };
        let weight = report.map(|report| plan.weight(report));
        let result = match weight {
            None => "malformed",
            Some(None) => "incomplete",
            Some(Some(weight)) => {
                if let Some(reported) = endpoint.reported() {
                    reported.note(weight);
                }
                "used"
            }
        };
        self.load_reports.count(&result, |result| {
            worker.shard.counter(&metrics::LOAD_REPORTS, &[&self.cluster.name, result])
        });
    }

    /// Notes that an attempt to reach `endpoint` failed. Only faults of the endpoint itself are counted as its failures
    /// and may eject it: a limit of ours, or our lack of descriptors, says nothing about an endpoint.
    pub fn note_failure(&self, worker: &WorkerCx, endpoint: &EndpointState, why: Reason) {
        if why == reasons::EGRESS {
            self.count_denial(worker);
        }
        if why.def().side != reason::Side::Upstream {
            return;
        }
        self.count_failure(worker, why);
        let plan = self.cluster.plan();
        let Some(outlier) = &plan.outlier else { return };
        if endpoint.failed() >= outlier.connect_failures && outlier.connect_failures > 0 {
            let cause = format!("consecutive connection failures, the last with {why}");
            self.eject(worker, endpoint, outlier, EjectionKind::ConnectFailures, &cause);
        }
        if outlier.connect_failures_as_503 {
            self.note_answer(worker, endpoint, Some(503));
        }
    }

    /// Notes the status of the response to a request to `endpoint`, or that there was none; failures may eject the
    /// endpoint.
    pub fn note_answer(&self, worker: &WorkerCx, endpoint: &EndpointState, status: Option<u16>) {
        if status.is_some_and(|status| status < 500) {
            endpoint.counts.answered();
            return;
        }
        let gateway = status.is_none_or(|status| (502..=504).contains(&status));
        let (errors, gateway_errors) = endpoint.counts.answered_badly(gateway);
        let plan = self.cluster.plan();
        let Some(outlier) = &plan.outlier else { return };
        let reached = |count: u32, limit: u32| limit > 0 && count >= limit;
        if reached(errors, outlier.consecutive_5xx) {
            let kind = EjectionKind::Consecutive5xx;
            self.eject(worker, endpoint, outlier, kind, "consecutive server errors");
        }
        if gateway && reached(gateway_errors, outlier.consecutive_gateway_errors) {
            let kind = EjectionKind::ConsecutiveGatewayErrors;
            self.eject(worker, endpoint, outlier, kind, "consecutive gateway errors");
        }
    }

    /// Notes how long `endpoint` took to respond: for a balancer that goes by it, and for ejection by latency.
    pub fn note_response_time(&self, worker: &WorkerCx, endpoint: &EndpointState, took: Duration) {
        self.note_latency(worker, endpoint, took);
        endpoint.counts.took(took);
    }

    /// Notes that `count` datagrams go to `endpoint`; if it has not replied for too long, that may eject it.
    pub fn note_datagrams(&self, worker: &WorkerCx, endpoint: &EndpointState, count: u64) {
        if !endpoint.counts.awaits_replies() {
            return;
        }
        let plan = self.cluster.plan();
        let Some(outlier) = &plan.outlier else { return };
        let Some(SilencePlan { datagrams, time }) = outlier.silence else { return };
        let now = worker.now();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let (unanswered, from) = endpoint.counts.sent(count, now);
        if unanswered >= datagrams && now.since(from) >= time {
            // Counted from zero again, so that an endpoint that may not be ejected is not considered for each datagram.
            endpoint.counts.end_streak_of(EjectionKind::Silence);
            let cause = format!(
                "no reply to {unanswered} datagrams in {}",
                show_duration(Duration::from_millis(millis(now.since(from))))
            );
            self.eject(worker, endpoint, outlier, EjectionKind::Silence, &cause);
        }
    }

    fn eject(
        &self,
        worker: &WorkerCx,
        endpoint: &EndpointState,
        outlier: &OutlierPlan,
        kind: EjectionKind,
        cause: &str,
    ) {
        let roll = worker.random_below(100);
        if let Some(found) = self.cluster.eject(worker, endpoint, outlier, kind, cause, roll) {
            found.count(&worker.shard, &self.cluster.name, kind);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
