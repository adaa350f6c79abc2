//! Passive health: what becomes of connections and requests decides which endpoints are ejected.
//!
//! Owns: what counts as a failure of an endpoint, streaks of failures, and how many endpoints may be ejected at once.
//! Refuses to know: when an ejection ends, which the control thread decides. Keeps: only faults of the endpoint itself
//! count; the last endpoint that is not ejected stays.

use std::sync::Arc;

use sluice_core::{Moment, Reason, reason};
use sluice_io::WorkerCx;

use crate::cluster::{Cluster, ClusterHandle};
use crate::endpoint::{EjectionKind, EndpointState};
use crate::metrics;
use crate::plan::{CheckKind, OutlierPlan};
use crate::reasons;

pub(crate) mod rates;

/// Whether a check that succeeded shows that a fault is over: that a connection is accepted says nothing about
/// responses.
pub(crate) const fn is_refuted(kind: EjectionKind, check: &CheckKind) -> bool {
    !kind.is_of_answers() || matches!(check, CheckKind::Http(_) | CheckKind::Grpc { .. })
}

impl Cluster {
    /// Ejects an endpoint unless too many are ejected already; returns whether it did. From any thread.
    pub(crate) fn eject(
        &self,
        endpoint: &EndpointState,
        outlier: &OutlierPlan,
        kind: EjectionKind,
        cause: &str,
    ) -> bool {
        let members = self.members();
        let count = members.endpoints.len();
        let aside = members.endpoints.iter().filter(|other| other.is_ejected()).count();
        let allowed = (count * usize::from(outlier.max_ejected_percent) / 100)
            .max(1)
            .min(count.saturating_sub(1));
        if aside >= allowed || !endpoint.eject(kind, cause) {
            return false;
        }
        self.announce();
        let (cluster, endpoint) = (&*self.name, &*endpoint.name);
        tracing::warn!(cluster, endpoint, "endpoint ejected: {cause}");
        true
    }
}

impl ClusterHandle {
    /// Notes that a connection to `endpoint`, started at `started`, was made.
    pub fn note_connected(
        &self,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
        started: Moment,
    ) {
        endpoint.succeeded();
        self.made.increment();
        self.connect_time.record(worker.now().since(started));
        self.count_endpoint(worker, &endpoint.name);
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

    fn eject(
        &self,
        worker: &WorkerCx,
        endpoint: &EndpointState,
        outlier: &OutlierPlan,
        kind: EjectionKind,
        cause: &str,
    ) {
        if self.cluster.eject(endpoint, outlier, kind, cause) {
            let labels = [&*self.cluster.name, kind.word()];
            worker.shard.counter(&metrics::EJECTIONS, &labels).increment();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
