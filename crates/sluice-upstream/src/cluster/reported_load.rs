//! What a cluster counts for reports of its load, and what it drops to keep its load down.
//!
//! Owns: whether requests are counted, drops by category, and the decision to drop. Refuses to know: who the reports go to.
//! Keeps: a cluster whose load nobody asks for counts no requests; drops are counted always, since they are few or wanted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::Reason;
use sluice_io::WorkerCx;

use super::{Cluster, ClusterHandle};
use crate::balance::LoadReport;
use crate::endpoint::EndpointState;
use crate::plan::{DROP_CATEGORIES_MAX, DropPlan};
use crate::{metrics, reasons};

/// The millionths of the whole.
const WHOLE: usize = 1_000_000;

/// The counts of a cluster that reports of its load need.
#[derive(Debug, Default)]
pub(super) struct ReportedLoad {
    /// Whether requests are counted.
    on: AtomicBool,
    /// What limits have refused.
    refused: AtomicU64,
    dropped: Mutex<BTreeMap<Arc<str>, u64>>,
}

/// What was not sent to any endpoint, since the cluster came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropTotals {
    /// What limits have refused.
    pub refused: u64,
    /// What was dropped, by category.
    pub dropped: BTreeMap<Arc<str>, u64>,
}

impl Cluster {
    /// Begins or ends to count the requests of its endpoints, for reports of load.
    pub fn report_load(&self, on: bool) {
        self.reported.on.store(on, Relaxed);
    }

    /// Whether the requests of its endpoints are counted.
    pub fn reports_load(&self) -> bool {
        self.reported.on.load(Relaxed)
    }

    /// What was not sent to any endpoint.
    pub fn drop_totals(&self) -> DropTotals {
        let dropped = self.reported.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        DropTotals { refused: self.reported.refused.load(Relaxed), dropped: dropped.clone() }
    }

    /// Counts what a limit has refused.
    pub(super) fn note_refused(&self) {
        self.reported.refused.fetch_add(1, Relaxed);
    }

    /// Counts what is dropped; returns the category that it counts as.
    fn note_dropped(&self, category: &Arc<str>) -> Arc<str> {
        let mut dropped = self.reported.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let is_one_more = !dropped.contains_key(category) && dropped.len() >= DROP_CATEGORIES_MAX;
        let category = if is_one_more { "other".into() } else { Arc::clone(category) };
        *dropped.entry(Arc::clone(&category)).or_default() += 1;
        category
    }
}

impl ClusterHandle {
    /// Decides whether a connection, flow or request is dropped, and counts it if so.
    ///
    /// # Errors
    /// It is: the reason, and the category.
    pub fn drop_by_chance(&self, worker: &WorkerCx) -> Result<(), (Reason, Arc<str>)> {
        let plan = self.plan();
        if plan.drops.is_empty() {
            return Ok(());
        }
        let is_dropped = |of: &&DropPlan| worker.random_below(WHOLE) < of.millionths as usize;
        let Some(DropPlan { category, .. }) = plan.drops.iter().find(is_dropped) else {
            return Ok(());
        };
        let counted = self.cluster.note_dropped(category);
        let labels = [&*self.cluster.name, &counted];
        worker.shard.counter(&metrics::DROPPED, &labels).increment();
        Err((reasons::DROPPED, Arc::clone(category)))
    }

    /// Notes that a request to `endpoint` has ended, for reports of load.
    pub fn note_result(&self, endpoint: &EndpointState, succeeded: bool) {
        if self.cluster.reports_load() {
            endpoint.request_counts().end(succeeded);
        }
    }

    /// Whether it matters what `endpoint` reports with its responses.
    pub fn heeds_reports(&self, endpoint: &EndpointState) -> bool {
        endpoint.reported().is_some()
            || (self.cluster.reports_load() && !self.plan().report_metrics.is_empty())
    }

    /// Sums up what `endpoint` reports, for reports of load.
    pub(crate) fn note_metrics(&self, endpoint: &EndpointState, report: &LoadReport) {
        if !self.cluster.reports_load() {
            return;
        }
        let fields = [
            ("application_utilization", report.application),
            ("cpu_utilization", report.cpu),
            ("eps", report.errors),
            ("rps_fractional", report.requests),
        ];
        let fields = fields.into_iter().filter(|(_, value)| *value > 0.0);
        let named = report.metrics.iter().map(|(name, value)| (&**name, *value));
        let wanted = &self.plan().report_metrics;
        endpoint.request_counts().add_metrics(fields.chain(named), wanted);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use sluice_core::Clock;

    use super::*;
    use crate::cluster::tests::{member, plan};
    use crate::cluster::{Affinity, TrafficClass, Tried, WhenFull};
    use crate::plan::{ClusterPlan, ClusterSettings};

    fn dropping(drops: Vec<DropPlan>) -> (Rc<WorkerCx>, Rc<ClusterHandle>) {
        let ClusterPlan { name, settings, tls } = plan(None);
        let settings = Arc::new(ClusterSettings { drops, ..(*settings).clone() });
        let worker = WorkerCx::solitary(Clock::held());
        let cluster = Arc::new(Cluster::new(Arc::new(ClusterPlan { name, settings, tls })));
        cluster.publish(&[member(1)]);
        let handle = ClusterHandle::new(cluster, &worker);
        (worker, handle)
    }

    fn share(category: &str, percent: u32) -> DropPlan {
        DropPlan { category: category.into(), millionths: percent * 10_000 }
    }

    #[test]
    fn categories_take_their_shares_of_what_others_have_left() {
        let (worker, handle) = dropping(vec![share("half", 50), share("rest", 50)]);
        let passed = (0..4000).filter(|_| handle.drop_by_chance(&worker).is_ok()).count();
        let totals = handle.cluster.drop_totals();
        let near = |count: u64, expected: u64| count.abs_diff(expected) < 300;
        assert!(near(passed as u64, 1000), "{passed}");
        assert!(near(totals.dropped["half"], 2000) && near(totals.dropped["rest"], 1000));
        let (worker, handle) = dropping(Vec::new());
        assert!((0..100).all(|_| handle.drop_by_chance(&worker).is_ok()));
        let (worker, handle) = dropping(vec![share("all", 100)]);
        let affinity = Affinity::default();
        let refused = handle.pick(&worker, affinity, &[], WhenFull::Refuse).unwrap_err();
        assert_eq!(refused, reasons::DROPPED);
        let shortage = handle.shortage(refused);
        assert_eq!(shortage.as_deref(), Some("`drop`: all 100%"));
        // An attempt that follows another one is not dropped.
        let tried: [Arc<str>; 1] = ["other".into()];
        assert!(handle.pick(&worker, affinity, &tried, WhenFull::Refuse).is_ok());
    }

    #[test]
    fn categories_that_come_and_go_are_bounded() {
        let (_, handle) = dropping(Vec::new());
        for number in 0..2 * DROP_CATEGORIES_MAX {
            handle.cluster.note_dropped(&number.to_string().into());
        }
        let dropped = handle.cluster.drop_totals().dropped;
        assert_eq!(dropped.len(), DROP_CATEGORIES_MAX + 1);
        assert_eq!(dropped["other"], DROP_CATEGORIES_MAX as u64);
    }

    #[test]
    fn requests_are_counted_while_somebody_wants_to_know() {
        let (worker, handle) = dropping(Vec::new());
        let request = || {
            let (class, tried) = (TrafficClass::Request, Tried::NOTHING);
            let affinity = Affinity::default();
            let full = WhenFull::Refuse;
            handle.pick_for_request(&worker, class, affinity, tried, full).unwrap()
        };
        drop(request());
        handle.cluster.report_load(true);
        let (endpoint, _claim) = request();
        handle.note_result(&endpoint, false);
        let totals = endpoint.request_totals();
        assert_eq!((totals.issued, totals.succeeded, totals.failed), (1, 0, 1));
        handle.cluster.report_load(false);
        drop(request());
        assert_eq!(endpoint.request_totals(), totals);
    }
}
