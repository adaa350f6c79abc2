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
use crate::{metrics, reasons};

/// Most categories of a cluster that are told apart; what further ones drop is counted as `other`.
pub const DROP_CATEGORIES_MAX: usize = 64;

/// The millionths of the whole.
const WHOLE: usize = 1_000_000;

/// A part of the traffic of a cluster that is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DropPlan {
    /// Its name in reports and metrics.
    pub category: Arc<str>,
    /// How much of what earlier categories have left, in millionths.
    pub millionths: u32,
}

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
            endpoint.requests.end(succeeded);
        }
    }

    /// Whether it matters what `endpoint` reports with its responses.
    pub fn heeds_reports(&self, endpoint: &EndpointState) -> bool {
        endpoint.reported.is_tracked()
            || (self.cluster.reports_load() && !self.plan().report_metrics.is_empty())
    }

    /// Sums up what `endpoint` reports, for reports of load.
    pub(crate) fn note_metrics(&self, endpoint: &EndpointState, report: &LoadReport) {
        if self.cluster.reports_load() {
            endpoint.requests.add_metrics(report, &self.plan().report_metrics);
        }
    }
}
