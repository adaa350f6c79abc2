//! A service for rate limits, and what becomes of what it does not decide about.
//!
//! Owns: the call, and the limit of this process that stands in for the service. Refuses to know: whether a request or a
//! connection is asked about. Keeps: no decision is waited for longer than the time-out; without one, the settings decide.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_core::value::Rate;
use sluice_core::{LocalFuture, Moment};
use sluice_io::WorkerCx;
use sluice_l4::filters::buckets::{LockedRates, PerOwner, RateTable, forgotten};
use sluice_telemetry::Counter;
use sluice_upstream::Cluster;

use super::messages::{DescriptorMessage, RateLimitRequest, RateLimitResponse, SHOULD_RATE_LIMIT};
use crate::filters::rate_limit::WithoutDecision;
use crate::side_calls::{GrpcCallError, SideCalls};

/// The service, and how it is asked.
#[derive(Clone, Debug)]
pub(crate) struct RateService {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) domain: String,
    pub(crate) timeout: Duration,
    pub(crate) on_error: WithoutDecision,
    pub(crate) local: Option<Rate>,
}

/// The buckets of the limit that stands in for a service, shared by all workers.
#[derive(Debug)]
pub(crate) struct LocalBuckets {
    table: Arc<Mutex<RateTable<u128>>>,
    forgotten: Counter,
}

impl LocalBuckets {
    /// Those of a chain or rule.
    pub(crate) fn of(all: &PerOwner<LockedRates<u128>>, owner: &str, worker: &WorkerCx) -> Self {
        Self { table: all.of(owner, worker, RateTable::locked), forgotten: forgotten(worker) }
    }
}

/// What the settings say without a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// It passes.
    Pass,
    /// It is refused because there is no decision.
    Refuse,
    /// It exceeds the limit of this process, for so long.
    Limited(Duration),
}

impl RateService {
    /// Asks the service.
    pub(crate) fn ask(
        &self,
        calls: &SideCalls,
        now: Moment,
        descriptors: Vec<DescriptorMessage>,
    ) -> LocalFuture<Result<RateLimitResponse, GrpcCallError>> {
        let question = RateLimitRequest { domain: self.domain.clone(), descriptors };
        calls.call_grpc(&self.cluster, SHOULD_RATE_LIMIT, &question, now.after(self.timeout))
    }

    /// The descriptors as keys of buckets, if the limit of this process may be needed; the service gets the originals.
    pub(crate) fn keys(
        &self,
        buckets: &LocalBuckets,
        descriptors: &[DescriptorMessage],
    ) -> Vec<u128> {
        if self.on_error != WithoutDecision::Local {
            return Vec::new();
        }
        let table = buckets.table.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |descriptor: &DescriptorMessage| {
            let mut text = Vec::new();
            for part in descriptor.entries.iter().flat_map(|entry| [&entry.key, &entry.value]) {
                text.extend_from_slice(&part.len().to_le_bytes());
                text.extend_from_slice(part.as_bytes());
            }
            table.number_of(&text)
        };
        descriptors.iter().map(key).collect()
    }

    /// Decides in place of the service. Each descriptor has a bucket of its own.
    pub(crate) fn without_decision(
        &self,
        worker: &WorkerCx,
        buckets: &LocalBuckets,
        keys: &[u128],
    ) -> Fallback {
        let rate = match (self.on_error, self.local) {
            (WithoutDecision::Deny, _) => return Fallback::Refuse,
            (WithoutDecision::Local, Some(rate)) => rate,
            _ => return Fallback::Pass,
        };
        let (now, every) = (worker.now(), rate.per / rate.count);
        let mut table = buckets.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wait = None;
        for key in keys {
            let (bucket, taken, forgot) = table.take(*key, now, every, rate.count);
            if !taken {
                wait = wait.max(Some(bucket.wait(now, every, rate.count)));
            }
            if forgot {
                buckets.forgotten.increment();
            }
        }
        wait.map_or(Fallback::Pass, Fallback::Limited)
    }
}
