//! The metrics of guests, and those of one filter.
//!
//! Owns: what a filter counts about its guest. Refuses to know: what a guest does.

use std::rc::Rc;

use sluice_io::WorkerCx;
use sluice_telemetry::metrics::Seconds;
use sluice_telemetry::{Counter, CounterSet, Gauge};

use crate::failure::GuestFailure;

sluice_telemetry::metrics! {
    INSTANCES = "sluice_wasm_active", Gauge, ["listener", "plugin"], "Requests and connections that a guest of the filters `wasm` has a part in.";
    RUNS = "sluice_wasm_runs_total", Counter, ["listener", "plugin"], "Calls of guests of the filters `wasm` about requests and connections.";
    SECONDS = "sluice_wasm_seconds_total", Seconds, ["listener", "plugin"], "Time that these calls took.";
    MEMORY = "sluice_wasm_memory_bytes", Gauge, ["listener", "plugin"], "Memory of the instances of a guest, of all workers, when it last ran.";
    FAILURES = "sluice_wasm_failures_total", Counter, ["listener", "plugin", "reason"], "Calls of guests of the filters `wasm` that failed, and requests and connections that found no instance, by reason, whether these failed with them or passed (`on_error`).";
    STARTED = "sluice_wasm_instances_started_total", Counter, ["worker"], "Instances of guests that a worker started, at first and in place of those that failed or whose module changed.";
    LIMITS = "sluice_wasm_limits_reached_total", Counter, ["listener", "plugin", "limit"], "Operations of guests that were refused because of a bound: `text_bytes`, `map_bytes`, `body_max`, `held_max`, `calls`, `grpc`, `shared_data`, `queues`, `queue`, `metrics`, `contexts` or `values`; and `memory`, beyond which a guest asked for more.";
    COUNTS = "sluice_wasm_counts_total", Counter, ["listener", "name"], "Counters that guests define, by the names that they give.";
    GAUGES = "sluice_wasm_gauges", Gauge, ["listener", "name"], "Gauges that guests define, by the names that they give.";
    HISTOGRAM_COUNT = "sluice_wasm_histogram_values_total", Counter, ["listener", "name"], "Values that guests recorded in the histograms that they define.";
    HISTOGRAM_SUM = "sluice_wasm_histogram_sum_total", Counter, ["listener", "name"], "The sum of these values.";
}

/// What a filter of one worker counts.
#[derive(Debug)]
pub(crate) struct GuestCounts {
    worker: Rc<WorkerCx>,
    labels: [Box<str>; 2],
    active: Gauge,
    runs: Counter,
    seconds: Seconds,
    memory: Gauge,
    failures: CounterSet<&'static str>,
}

impl GuestCounts {
    pub(crate) fn new(worker: &Rc<WorkerCx>, listener: &str, plugin: &str) -> Self {
        let labels = [listener, plugin];
        Self {
            worker: Rc::clone(worker),
            labels: labels.map(Into::into),
            active: worker.shard.gauge(&INSTANCES, &labels),
            runs: worker.shard.counter(&RUNS, &labels),
            seconds: worker.shard.seconds(&SECONDS, &labels),
            memory: worker.shard.gauge(&MEMORY, &labels),
            failures: CounterSet::default(),
        }
    }

    /// Counts a request as long as the value lives.
    pub(crate) fn instance(&self) -> GuestInstance {
        self.active.increment();
        GuestInstance(self.active.clone())
    }

    /// Counts a call, after which the instance has so much memory.
    pub(crate) fn run<T>(&self, run: impl FnOnce() -> T, memory: impl FnOnce() -> usize) -> T {
        let began = self.worker.clock.now();
        let result = run();
        self.runs.increment();
        self.seconds.add(self.worker.clock.now().since(began));
        self.memory.set(memory() as u64);
        result
    }

    /// Counts a failure.
    pub(crate) fn failure(&self, failure: &GuestFailure) {
        let [listener, plugin] = &self.labels;
        self.failures.count(&failure.reason().code(), |code| {
            self.worker.shard.counter(&FAILURES, &[listener, plugin, code])
        });
    }

    /// Counts that a bound was reached.
    pub(crate) fn limit(&self, limit: &'static str) {
        let [listener, plugin] = &self.labels;
        self.worker.shard.counter(&LIMITS, &[listener, plugin, limit]).increment();
    }
}

/// A request or connection that a guest has a part in.
#[derive(Debug)]
pub(crate) struct GuestInstance(Gauge);

impl Drop for GuestInstance {
    fn drop(&mut self) {
        self.0.decrement();
    }
}
