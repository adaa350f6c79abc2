//! Metrics as cells with one writer each.
//!
//! Owns: the registry of families and series, and the handles to their cells.
//! Refuses to know: the names of listeners and clusters; they are passed as labels.
//! Keeps: the cells of a shard are written by one thread (load and store, no locked instruction) and summed when they
//! are rendered; requesting a series again returns the same cell, so that its value survives every reload.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

mod counter_set;
mod facade;
mod forget;
pub use forget::{NameLabels, SeriesLabels};
mod prometheus;

pub use counter_set::{CounterSet, SeriesSet, other};
pub use facade::{Facade, install_recorder};
pub use prometheus::FamilySnapshot;

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only increases.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// A time that only increases: stored in microseconds, exported in seconds.
    Seconds,
    /// A distribution of durations.
    Histogram,
}

impl MetricKind {
    /// The number of cells of a series.
    const fn cells(self) -> usize {
        match self {
            Self::Counter | Self::Gauge | Self::Seconds => 1,
            Self::Histogram => BUCKETS.len() + 2,
        }
    }

    fn new_cells(self) -> CellArray {
        (0..self.cells()).map(|_| AtomicU64::new(0)).collect()
    }
}

/// A metric as its layer declares it.
#[derive(Debug)]
pub struct MetricDef {
    /// `sluice_<subject>_<noun>_<unit>[_total]`.
    pub name: &'static str,
    /// The type.
    pub kind: MetricKind,
    /// The labels, in order.
    pub labels: &'static [&'static str],
    /// One sentence of help.
    pub help: &'static str,
}

/// Declares metrics: one constant per row and `METRICS` with all of them.
#[macro_export]
macro_rules! metrics {
    ($($name:ident = $text:literal, $kind:ident, [$($label:literal),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            #[allow(unreachable_pub, reason = "how far it reaches is up to the module that declares it")]
            pub const $name: $crate::MetricDef = $crate::MetricDef {
                name: $text,
                kind: $crate::MetricKind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+
        /// Every metric declared here.
        #[allow(dead_code, unreachable_pub, reason = "how far it reaches is up to the module that declares it")]
        pub const METRICS: &[&$crate::MetricDef] = &[$(&$name),+];
    };
}

/// The upper bounds of the histogram buckets; the last bucket is unbounded.
pub const BUCKETS: [Duration; 18] = {
    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }
    [
        Duration::from_micros(100),
        Duration::from_micros(500),
        ms(1),
        Duration::from_micros(2500),
        ms(5),
        ms(10),
        ms(25),
        ms(50),
        ms(100),
        ms(250),
        ms(500),
        ms(1000),
        ms(2500),
        ms(5000),
        ms(10_000),
        ms(30_000),
        ms(60_000),
        ms(300_000),
    ]
};

/// The values of one series in one shard. A histogram has a cell per bucket and one for the sum in microseconds; the
/// other types use one cell.
type CellArray = Arc<[AtomicU64]>;

/// The values of the labels of a series, in the order of their names.
pub type LabelValues = Box<[Arc<str>]>;

type Series = BTreeMap<LabelValues, ShardCells>;

/// The cells of one series, by shard: exactly as long as there are shards that have counted in it, which are few.
#[derive(Debug, Default)]
struct ShardCells(Vec<(usize, CellArray)>);

impl ShardCells {
    /// The cells of a shard, which are created when it asks for the first time.
    fn of(&mut self, number: usize, kind: MetricKind) -> CellArray {
        let known = self.0.iter().find(|(shard, _)| *shard == number);
        if let Some((_, cells)) = known {
            return Arc::clone(cells);
        }
        let cells = kind.new_cells();
        self.0.reserve_exact(1);
        self.0.push((number, Arc::clone(&cells)));
        cells
    }

    /// The sum of this cell over all shards.
    fn sum(&self, cell: usize) -> u64 {
        self.0.iter().map(|(_, cells)| cells[cell].load(Relaxed)).fold(0, u64::wrapping_add)
    }

    /// Whether a thread holds a handle to them.
    fn are_held(&self) -> bool {
        self.0.iter().any(|(_, cells)| Arc::strong_count(cells) > 1)
    }
}

/// All metrics of the process.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<RegistryState>);

type Families = BTreeMap<&'static str, Family>;

#[derive(Debug, Default)]
struct RegistryState {
    families: Mutex<Families>,
    /// The number of lookups of a series by its labels.
    lookups: AtomicU64,
}

#[derive(Debug)]
struct Family {
    kind: MetricKind,
    help: String,
    labels: Vec<&'static str>,
    series: Series,
}

impl Registry {
    /// Creates an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The cells of one thread. Each thread uses its own number; 0 is for the facade.
    pub fn shard(&self, number: usize) -> Shard {
        Shard { registry: self.clone(), number, not_send: PhantomData }
    }

    /// The sum of a series over all shards; for tests and admin pages.
    pub fn value(&self, name: &str, labels: &[&str]) -> Option<i64> {
        let families = self.families();
        let wanted: LabelValues = labels.iter().map(|label| Arc::from(*label)).collect();
        let shards = families.get(name)?.series.get(&wanted)?;
        Some(shards.sum(0).cast_signed())
    }

    /// The series of a metric: their label values, and the sum of each over all shards, in units of its kind; times are in
    /// microseconds. For admin pages.
    pub fn series(&self, name: &str) -> Vec<(Box<[Arc<str>]>, u64)> {
        let families = self.families();
        let series = families.get(name).into_iter().flat_map(|family| &family.series);
        series.map(|(labels, shards)| (labels.clone(), shards.sum(0))).collect()
    }

    /// As [`Registry::series`], not added up: with the number of the shard of each.
    pub fn series_of_shards(&self, name: &str) -> Vec<(LabelValues, usize, u64)> {
        let families = self.families();
        let series = families.get(name).into_iter().flat_map(|family| &family.series);
        let of = |(labels, shards): (&LabelValues, &ShardCells)| {
            let each = shards.0.iter().map(|(shard, cells)| {
                (labels.clone(), *shard, cells.first().map_or(0, |cell| cell.load(Relaxed)))
            });
            each.collect::<Vec<_>>()
        };
        series.flat_map(of).collect()
    }

    /// The number of lookups of a series by its labels: each takes the lock and allocates for each label. It stays
    /// constant while a process does only what it has done before.
    pub fn lookups(&self) -> u64 {
        self.0.lookups.load(Relaxed)
    }

    fn families(&self) -> MutexGuard<'_, Families> {
        self.0.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cells(&self, number: usize, def: &MetricDef, values: &[&str]) -> CellArray {
        assert_eq!(def.labels.len(), values.len(), "{} has labels {:?}", def.name, def.labels);
        self.0.lookups.fetch_add(1, Relaxed);
        let mut families = self.families();
        let family = families.entry(def.name).or_insert_with(|| Family {
            kind: def.kind,
            help: def.help.to_owned(),
            labels: def.labels.to_vec(),
            series: Series::new(),
        });
        let values = values.iter().map(|value| Arc::from(*value)).collect();
        family.series.entry(values).or_default().of(number, def.kind)
    }
}

/// The part of the registry that one thread writes. Stays on that thread.
#[derive(Clone, Debug)]
pub struct Shard {
    registry: Registry,
    number: usize,
    not_send: PhantomData<*const ()>,
}

impl Shard {
    /// Returns a handle to a counter. `values` are the label values of `def`, in order.
    pub fn counter(&self, def: &MetricDef, values: &[&str]) -> Counter {
        debug_assert_eq!(def.kind, MetricKind::Counter);
        Counter(Cell::new(self.registry.cells(self.number, def, values)))
    }

    /// Returns a handle to a time that only increases.
    pub fn seconds(&self, def: &MetricDef, values: &[&str]) -> Seconds {
        debug_assert_eq!(def.kind, MetricKind::Seconds);
        Seconds(Cell::new(self.registry.cells(self.number, def, values)))
    }

    /// Returns a handle to a gauge.
    pub fn gauge(&self, def: &MetricDef, values: &[&str]) -> Gauge {
        debug_assert_eq!(def.kind, MetricKind::Gauge);
        Gauge(Cell::new(self.registry.cells(self.number, def, values)))
    }

    /// Returns a handle to a histogram.
    pub fn histogram(&self, def: &MetricDef, values: &[&str]) -> Histogram {
        debug_assert_eq!(def.kind, MetricKind::Histogram);
        Histogram(Cell::new(self.registry.cells(self.number, def, values)))
    }
}

/// Cells that only this thread writes.
#[derive(Clone, Debug)]
struct Cell {
    cells: CellArray,
    not_send: PhantomData<*const ()>,
}

impl Cell {
    const fn new(cells: CellArray) -> Self {
        Self { cells, not_send: PhantomData }
    }

    fn add(&self, index: usize, amount: u64) {
        let cell = &self.cells[index];
        // No other thread writes it, so a load and a store lose nothing.
        cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
    }
}

/// A number that only increases.
#[derive(Clone, Debug)]
pub struct Counter(Cell);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.0.add(0, 1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.add(0, amount);
    }

    /// Sets the total, as counted elsewhere.
    pub fn set(&self, total: u64) {
        self.0.cells[0].store(total, Relaxed);
    }
}

/// A time that only increases.
#[derive(Clone, Debug)]
pub struct Seconds(Cell);

impl Seconds {
    /// Sets the total, as measured elsewhere.
    pub fn set(&self, total: Duration) {
        let micros = u64::try_from(total.as_micros()).unwrap_or(u64::MAX);
        self.0.cells[0].store(micros, Relaxed);
    }

    /// Adds a time; what is less than a microsecond is not counted.
    pub fn add(&self, time: Duration) {
        self.0.add(0, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
}

/// A number that increases and decreases.
#[derive(Clone, Debug)]
pub struct Gauge(Cell);

impl Gauge {
    /// Adds one.
    pub fn increment(&self) {
        self.0.add(0, 1);
    }

    /// Subtracts one.
    pub fn decrement(&self) {
        self.0.add(0, 1_u64.wrapping_neg());
    }

    /// Adds `amount`, which may be negative.
    pub fn add(&self, amount: i64) {
        self.0.add(0, amount.cast_unsigned());
    }

    /// Sets this thread's share to exactly `value`.
    pub fn set(&self, value: u64) {
        self.0.cells[0].store(value, Relaxed);
    }
}

/// A distribution of durations over [`BUCKETS`].
#[derive(Clone, Debug)]
pub struct Histogram(Cell);

impl Histogram {
    /// Records a duration.
    pub fn record(&self, duration: Duration) {
        let bucket = BUCKETS.iter().position(|bound| duration <= *bound).unwrap_or(BUCKETS.len());
        self.0.add(bucket, 1);
        self.0.add(BUCKETS.len() + 1, u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    metrics! {
        HITS = "test_hits_total", Counter, ["who"], "Hits.";
        OPEN = "test_open", Gauge, [], "Open things.";
        TIME = "test_time_seconds", Histogram, ["who"], "Time taken.";
    }

    #[test]
    fn shards_add_up_and_a_second_handle_is_the_same_cell() {
        let registry = Registry::new();
        registry.shard(1).counter(&HITS, &["a"]).add(2);
        registry.shard(1).counter(&HITS, &["a"]).increment();
        let other = registry.clone();
        std::thread::spawn(move || other.shard(2).counter(&HITS, &["a"]).add(4)).join().unwrap();
        assert_eq!(registry.value("test_hits_total", &["a"]), Some(7));
        registry.shard(1).gauge(&OPEN, &[]).increment();
        registry.shard(2).gauge(&OPEN, &[]).decrement();
        registry.shard(2).gauge(&OPEN, &[]).decrement();
        assert_eq!(registry.value("test_open", &[]), Some(-1));
        assert_eq!(METRICS.len(), 3);
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let registry = Registry::new();
        let shard = registry.shard(1);
        shard.counter(&HITS, &["a\"b\\\n"]).add(2);
        shard.gauge(&OPEN, &[]).decrement();
        let time = shard.histogram(&TIME, &["x"]);
        time.record(Duration::from_micros(400));
        time.record(Duration::from_secs(100_000));
        let text = registry.render();
        for line in [
            "# HELP test_hits_total Hits.",
            "# TYPE test_hits_total counter",
            "test_hits_total{who=\"a\\\"b\\\\\\n\"} 2",
            "test_open -1",
            "test_time_seconds_bucket{who=\"x\",le=\"0.0001\"} 0",
            "test_time_seconds_bucket{who=\"x\",le=\"0.0005\"} 1",
            "test_time_seconds_bucket{who=\"x\",le=\"300\"} 1",
            "test_time_seconds_bucket{who=\"x\",le=\"+Inf\"} 2",
            "test_time_seconds_sum{who=\"x\"} 100000.0004",
            "test_time_seconds_count{who=\"x\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing from\n{text}");
        }
    }
}
