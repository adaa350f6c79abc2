//! The metrics that guests define.
//!
//! Owns: their names, numbers and values in the process. Refuses to know: how they are shown. Keeps: a name is one metric of one
//! kind for all instances of a listener; there is a bounded number of them.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sluice_io::WorkerCx;

use crate::abi::Status;
use crate::limits::METRICS;
use crate::metrics;

static ALL: LazyLock<Mutex<Vec<Arc<GuestMetric>>>> = LazyLock::new(Mutex::default);

/// The kinds, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestMetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric.
#[derive(Debug)]
pub(crate) struct GuestMetric {
    /// From 1.
    pub(crate) id: u32,
    listener: String,
    name: String,
    kind: GuestMetricKind,
    /// Of a histogram, the last value.
    value: AtomicI64,
}

/// The metric of that name, made if there is none.
///
/// # Errors
/// There is one of another kind, or there are too many.
pub(crate) fn define(kind: u32, listener: &str, name: &str) -> Result<Arc<GuestMetric>, Status> {
    let kind = match kind {
        0 => GuestMetricKind::Counter,
        1 => GuestMetricKind::Gauge,
        2 => GuestMetricKind::Histogram,
        _ => return Err(Status::BadArgument),
    };
    if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
        return Err(Status::BadArgument);
    }
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.iter().find(|of| of.listener == listener && of.name == name) {
        return if known.kind == kind { Ok(Arc::clone(known)) } else { Err(Status::BadArgument) };
    }
    if all.len() >= METRICS {
        return Err(Status::InternalFailure);
    }
    let id = u32::try_from(all.len() + 1).map_err(|_| Status::InternalFailure)?;
    let (listener, name, value) = (listener.to_owned(), name.to_owned(), AtomicI64::new(0));
    let made = Arc::new(GuestMetric { id, listener, name, kind, value });
    all.push(Arc::clone(&made));
    Ok(made)
}

/// The metric of that number.
pub(crate) fn metric(id: u32) -> Option<Arc<GuestMetric>> {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.get((id as usize).checked_sub(1)?).cloned()
}

impl GuestMetric {
    /// Its value in the process.
    pub(crate) fn value(&self) -> u64 {
        self.value.load(Relaxed).cast_unsigned()
    }

    /// Adds to a counter or gauge.
    ///
    /// # Errors
    /// A counter does not decrease, and a histogram has records.
    pub(crate) fn increment(&self, by: i64, worker: Option<&WorkerCx>) -> Result<(), Status> {
        match self.kind {
            GuestMetricKind::Counter if by >= 0 => {}
            GuestMetricKind::Gauge => {}
            _ => return Err(Status::BadArgument),
        }
        self.value.fetch_add(by, Relaxed);
        self.show(by, worker);
        Ok(())
    }

    /// Sets a gauge, adds to a counter what is missing, or adds to a histogram.
    pub(crate) fn record(&self, value: u64, worker: Option<&WorkerCx>) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        match self.kind {
            GuestMetricKind::Counter => {
                self.value.fetch_add(value, Relaxed);
                self.show(value, worker);
            }
            GuestMetricKind::Gauge => {
                let before = self.value.swap(value, Relaxed);
                self.show(value.wrapping_sub(before), worker);
            }
            GuestMetricKind::Histogram => {
                self.value.store(value, Relaxed);
                let Some(worker) = worker else { return };
                let labels = [&*self.listener, &*self.name];
                worker.shard.counter(&metrics::HISTOGRAM_COUNT, &labels).increment();
                worker.shard.counter(&metrics::HISTOGRAM_SUM, &labels).add(value.cast_unsigned());
            }
        }
    }

    /// Adds a change to what the metrics of Sluice show.
    fn show(&self, by: i64, worker: Option<&WorkerCx>) {
        let Some(worker) = worker else { return };
        let labels = [&*self.listener, &*self.name];
        match self.kind {
            GuestMetricKind::Counter => {
                worker.shard.counter(&metrics::COUNTS, &labels).add(by.cast_unsigned());
            }
            _ => worker.shard.gauge(&metrics::GAUGES, &labels).add(by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_metric_of_one_kind() {
        let counter = define(0, "metrics-test", "a").unwrap();
        assert_eq!(define(0, "metrics-test", "a").unwrap().id, counter.id);
        assert_eq!(define(1, "metrics-test", "a").unwrap_err(), Status::BadArgument);
        assert_eq!(define(3, "metrics-test", "b").unwrap_err(), Status::BadArgument);
        assert_ne!(define(0, "metrics-other", "a").unwrap().id, counter.id);
        assert_eq!(counter.increment(2, None), Ok(()));
        assert_eq!(counter.increment(-1, None), Err(Status::BadArgument));
        assert_eq!(metric(counter.id).unwrap().value(), 2);
        let gauge = define(1, "metrics-test", "g").unwrap();
        gauge.record(7, None);
        assert_eq!((gauge.increment(-3, None), gauge.value()), (Ok(()), 4));
        assert!(metric(0).is_none() && metric(u32::MAX).is_none());
    }
}
