//! The `metrics` facade on the same registry, for the control plane and for third parties.
//!
//! Its cells are shared between threads and written with atomic additions: suitable for rare events, not for bytes and
//! connections.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

use super::{BUCKETS, CellArray, Family, MetricKind, Registry, Series};

/// Makes the macros of the `metrics` crate count in `registry`.
///
/// # Errors
/// A recorder is already installed.
pub fn install_recorder(registry: &Registry) -> Result<(), metrics::SetRecorderError<Facade>> {
    metrics::set_global_recorder(Facade { registry: registry.clone(), names: Mutex::default() })
}

/// The recorder.
#[derive(Debug)]
pub struct Facade {
    registry: Registry,
    /// Names are few and live as long as the process; each is leaked once.
    names: Mutex<BTreeSet<&'static str>>,
}

impl Facade {
    fn intern(&self, text: &str) -> &'static str {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(text) {
            return known;
        }
        let name: &'static str = Box::leak(text.into());
        names.insert(name);
        name
    }

    fn describe(&self, name: &KeyName, kind: MetricKind, help: &SharedString) {
        let name = self.intern(name.as_str());
        let mut families = self.registry.families();
        let family = families.entry(name).or_insert_with(|| Family {
            kind,
            help: String::new(),
            labels: Vec::new(),
            series: Series::new(),
        });
        family.help = help.to_string();
    }

    /// The cells of `key`; `None` if the name is in use with another type or other labels.
    fn cells(&self, key: &Key, kind: MetricKind) -> Option<CellArray> {
        let name = self.intern(key.name());
        let mut labels: Vec<_> = key.labels().collect();
        labels.sort();
        let names: Vec<&'static str> = labels.iter().map(|l| self.intern(l.key())).collect();
        let mut families = self.registry.families();
        let family = families.entry(name).or_insert_with(|| Family {
            kind,
            help: String::new(),
            labels: names.clone(),
            series: Series::new(),
        });
        if family.series.is_empty() {
            family.labels.clone_from(&names);
        }
        if family.kind != kind || family.labels != names {
            return None;
        }
        let values = labels.iter().map(|label| Arc::from(label.value())).collect();
        Some(family.series.entry(values).or_default().of(0, kind))
    }
}

impl Recorder for Facade {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&key, MetricKind::Counter, &help);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&key, MetricKind::Gauge, &help);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&key, MetricKind::Histogram, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.cells(key, MetricKind::Counter)
            .map_or_else(Counter::noop, |cells| Counter::from_arc(Arc::new(SharedCells(cells))))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.cells(key, MetricKind::Gauge)
            .map_or_else(Gauge::noop, |cells| Gauge::from_arc(Arc::new(SharedCells(cells))))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.cells(key, MetricKind::Histogram)
            .map_or_else(Histogram::noop, |cells| Histogram::from_arc(Arc::new(SharedCells(cells))))
    }
}

/// Cells that several threads write.
struct SharedCells(CellArray);

impl CounterFn for SharedCells {
    fn increment(&self, value: u64) {
        self.0[0].fetch_add(value, Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0[0].fetch_max(value, Relaxed);
    }
}

/// Gauges of the facade are floating-point numbers; ours are integers, and are rounded to the nearest.
impl GaugeFn for SharedCells {
    fn increment(&self, value: f64) {
        self.0[0].fetch_add(whole(value), Relaxed);
    }

    fn decrement(&self, value: f64) {
        self.0[0].fetch_sub(whole(value), Relaxed);
    }

    fn set(&self, value: f64) {
        self.0[0].store(whole(value), Relaxed);
    }
}

impl HistogramFn for SharedCells {
    fn record(&self, seconds: f64) {
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let bucket = BUCKETS.iter().position(|bound| duration <= *bound).unwrap_or(BUCKETS.len());
        self.0[bucket].fetch_add(1, Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0[BUCKETS.len() + 1].fetch_add(micros, Relaxed);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "`as` saturates, which is what a gauge wants")]
fn whole(value: f64) -> u64 {
    (value.round() as i64).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_macros_count_in_the_registry() {
        let registry = Registry::new();
        let facade = Facade { registry: registry.clone(), names: Mutex::default() };
        metrics::with_local_recorder(&facade, || {
            metrics::describe_counter!("facade_total", "Counted through the facade.");
            metrics::counter!("facade_total", "who" => "me").increment(3);
            metrics::counter!("facade_total").increment(3);
            metrics::gauge!("facade_open").set(5.4);
            metrics::histogram!("facade_seconds").record(0.25);
        });
        assert_eq!(registry.value("facade_total", &["me"]), Some(3));
        assert_eq!(registry.value("facade_total", &[]), None, "other labels are refused");
        assert_eq!(registry.value("facade_open", &[]), Some(5));
        let text = registry.render();
        assert!(
            text.contains("# HELP facade_total Counted")
                && text.contains("facade_seconds_sum 0.25")
        );
    }
}
