//! The request counters of a cluster on one worker.
//!
//! Owns: counters and times of the cluster and of each endpoint. Refuses to know: connections. Keeps: endpoints beyond
//! `endpoint_series` share one label.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_telemetry::metrics::other;
use sluice_telemetry::{Counter, CounterSet, Histogram, SeriesSet};
use sluice_upstream::LeftEndpoints;

use crate::metrics;
use crate::retry_plan::RetryRule;

/// The most statuses of a cluster that have series of their own.
const STATUSES: usize = 64;

/// The request counters of a cluster.
#[derive(Debug)]
pub(crate) struct PoolCounters {
    pub(crate) reused: Counter,
    time: Histogram,
    pub(crate) retried: Counter,
    pub(crate) retry_refused: Counter,
    retry_rules: CounterSet<RetryRule>,
    classes: CounterSet<u16>,
    /// By status; 0 for those beyond [`STATUSES`].
    statuses: CounterSet<u16>,
    side_calls: CounterSet<&'static str>,
    mirrors: CounterSet<&'static str>,
    http3: CounterSet<&'static str>,
    alt_svc: CounterSet<&'static str>,
    early_data: CounterSet<&'static str>,
    preconnects: CounterSet<&'static str>,
    hedges: CounterSet<&'static str>,
    side_call_time: OnceCell<Histogram>,
    /// By endpoint name; endpoints beyond the limit share `other`.
    endpoints: SeriesSet<Arc<str>, EndpointCounters>,
}

/// The request counters of one endpoint.
#[derive(Debug)]
struct EndpointCounters {
    /// The value of its metric label.
    name: Arc<str>,
    time: Histogram,
    classes: CounterSet<u16>,
}

impl PoolCounters {
    pub(super) fn new(cluster: &str, worker: &WorkerCx) -> Self {
        let shard = &worker.shard;
        let bound = worker.limits.size(Limit::EndpointSeries);
        Self {
            reused: shard.counter(&metrics::POOLED, &[cluster]),
            time: shard.histogram(&metrics::CLUSTER_TIME, &[cluster]),
            retried: shard.counter(&metrics::RETRIES, &[cluster, "made"]),
            retry_refused: shard.counter(&metrics::RETRIES, &[cluster, "limit"]),
            retry_rules: CounterSet::default(),
            classes: CounterSet::default(),
            statuses: CounterSet::bounded(STATUSES, |_| 0),
            side_calls: CounterSet::default(),
            mirrors: CounterSet::default(),
            http3: CounterSet::default(),
            alt_svc: CounterSet::default(),
            early_data: CounterSet::default(),
            preconnects: CounterSet::default(),
            hedges: CounterSet::default(),
            side_call_time: OnceCell::new(),
            endpoints: SeriesSet::bounded(bound, |_| other()),
        }
    }

    /// Forgets the series of endpoints that have left.
    pub(super) fn forget(&self, left: &LeftEndpoints) {
        self.endpoints.retain(|endpoint| !left.contains(endpoint));
    }

    /// Counts a retry by its rule.
    pub(crate) fn count_retry(&self, worker: &WorkerCx, cluster: &str, rule: RetryRule) {
        let counter =
            |rule: &RetryRule| worker.shard.counter(&metrics::RETRY_RULES, &[cluster, rule.word()]);
        self.retry_rules.count(&rule, counter);
    }

    /// Counts a side call that has ended.
    pub(crate) fn count_side_call(
        &self,
        worker: &WorkerCx,
        cluster: &str,
        result: &'static str,
        took: Duration,
    ) {
        let shard = &worker.shard;
        self.side_calls
            .count(&result, |result| shard.counter(&metrics::SIDE_CALLS, &[cluster, result]));
        let time = || shard.histogram(&metrics::SIDE_CALL_TIME, &[cluster]);
        self.side_call_time.get_or_init(time).record(took);
    }

    /// Counts a request with a late attempt, by the attempt that responded first.
    pub(crate) fn count_hedge(&self, worker: &WorkerCx, cluster: &str, first: &'static str) {
        let counter =
            |first: &&'static str| worker.shard.counter(&metrics::HEDGES, &[cluster, first]);
        self.hedges.count(&first, counter);
    }

    /// Counts a copy of a request that has ended, or was not sent.
    pub(crate) fn count_mirror(&self, worker: &WorkerCx, cluster: &str, result: &'static str) {
        let counter =
            |result: &&'static str| worker.shard.counter(&metrics::MIRRORS, &[cluster, result]);
        self.mirrors.count(&result, counter);
    }

    /// Counts an attempt to connect over HTTP/3 that has ended, or that a limit did not allow.
    pub(crate) fn count_http3(&self, worker: &WorkerCx, cluster: &str, result: &'static str) {
        let counter = |result: &&'static str| {
            worker.shard.counter(&metrics::HTTP3_ATTEMPTS, &[cluster, result])
        };
        self.http3.count(&result, counter);
    }

    /// Counts what an `alt-svc` header changed.
    pub(crate) fn count_alt_svc(&self, worker: &WorkerCx, cluster: &str, result: &'static str) {
        let counter =
            |result: &&'static str| worker.shard.counter(&metrics::ALT_SVC, &[cluster, result]);
        self.alt_svc.count(&result, counter);
    }

    /// Counts a connection that was made ahead, or was to be.
    pub(crate) fn count_preconnect(&self, worker: &WorkerCx, cluster: &str, result: &'static str) {
        let counter =
            |result: &&'static str| worker.shard.counter(&metrics::PRECONNECTS, &[cluster, result]);
        self.preconnects.count(&result, counter);
    }

    /// Counts a connection on which a request was sent before its handshake was complete, by how that ended; and responses
    /// that such a request was too early.
    pub(crate) fn count_early_data(&self, worker: &WorkerCx, cluster: &str, result: &'static str) {
        let counter =
            |result: &&'static str| worker.shard.counter(&metrics::EARLY_DATA, &[cluster, result]);
        self.early_data.count(&result, counter);
    }

    /// Counts a response of an endpoint by its status class (0 for no response), and the time to its headers.
    pub(crate) fn count(
        &self,
        worker: &WorkerCx,
        cluster: &str,
        endpoint: &Arc<str>,
        status: u16,
        took: Option<Duration>,
    ) {
        let (shard, class) = (&worker.shard, status / 100);
        self.classes.count(&class, |class| {
            shard.counter(&metrics::CLUSTER_REQUESTS, &[cluster, class_word(*class)])
        });
        if status > 0 {
            self.statuses.count(&status, |status| match status {
                0 => shard.counter(&metrics::CLUSTER_STATUSES, &[cluster, &*other()]),
                _ => shard.counter(&metrics::CLUSTER_STATUSES, &[cluster, &status.to_string()]),
            });
        }
        if let Some(took) = took {
            self.time.record(took);
        }
        let counters = |endpoint: &Arc<str>| EndpointCounters {
            name: Arc::clone(endpoint),
            time: shard.histogram(&metrics::ENDPOINT_TIME, &[cluster, endpoint]),
            classes: CounterSet::default(),
        };
        self.endpoints.with(endpoint, counters, |counters| {
            counters.classes.count(&class, |class| {
                let labels = [cluster, &counters.name, class_word(*class)];
                shard.counter(&metrics::ENDPOINT_REQUESTS, &labels)
            });
            if let Some(took) = took {
                counters.time.record(took);
            }
        });
    }
}

/// The label of a status class.
pub(crate) const fn class_word(class: u16) -> &'static str {
    match class {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "none",
    }
}
