//! The metrics of scripts, and those of one filter.
//!
//! Owns: what a filter counts about its script. Refuses to know: what a script does. Keeps: a series is as long as the
//! configuration names its script.

use std::rc::Rc;

use sluice_io::WorkerCx;
use sluice_telemetry::metrics::Seconds;
use sluice_telemetry::{Counter, CounterSet, Gauge};

use crate::failure::ScriptFailure;

sluice_telemetry::metrics! {
    COUNTS = "sluice_lua_connection_counts_total", Counter, ["listener", "counter"], "What scripts of the connection filter `lua` counted, by name (`counters`).";
    INSTANCES = "sluice_lua_active", Gauge, ["listener", "script"], "Requests and connections in flight that a script of the filters `lua` has a part in.";
    RUNS = "sluice_lua_runs_total", Counter, ["listener", "script"], "Runs of scripts of the filters `lua`: of a function, or of what follows a wait.";
    SECONDS = "sluice_lua_seconds_total", Seconds, ["listener", "script"], "Time that runs of scripts of the filters `lua` took.";
    MEMORY = "sluice_lua_memory_bytes", Gauge, ["listener", "script"], "Memory of the Lua states of a script, of all workers, when it last ran.";
    FAILURES = "sluice_lua_failures_total", Counter, ["listener", "script", "reason"], "Runs of scripts of the filters `lua` that failed, by reason, whether the request or connection failed with them or passed (`on_error`).";
    REPLACED = "sluice_lua_states_replaced_total", Counter, ["listener", "why"], "Lua states that were replaced: their script `changed`, or they were `out_of_memory`, or close to it (`nearly_full`), in which case no request failed.";
}

/// What a filter of one worker counts.
#[derive(Debug)]
pub(crate) struct ScriptCounts {
    worker: Rc<WorkerCx>,
    listener: Box<str>,
    script: Box<str>,
    active: Gauge,
    runs: Counter,
    seconds: Seconds,
    memory: Gauge,
    failures: CounterSet<&'static str>,
    replaced: CounterSet<&'static str>,
}

impl ScriptCounts {
    /// `owner` begins with the name of the listener.
    pub(crate) fn new(worker: &Rc<WorkerCx>, owner: &str, script: &str) -> Self {
        let listener = owner.split('/').next().unwrap_or_default();
        let labels = [listener, script];
        let (failures, replaced) = (CounterSet::default(), CounterSet::default());
        Self {
            worker: Rc::clone(worker),
            listener: listener.into(),
            script: script.into(),
            active: worker.shard.gauge(&INSTANCES, &labels),
            runs: worker.shard.counter(&RUNS, &labels),
            seconds: worker.shard.seconds(&SECONDS, &labels),
            memory: worker.shard.gauge(&MEMORY, &labels),
            failures,
            replaced,
        }
    }

    /// A counter of the script's own.
    pub(crate) fn own(&self, name: &str) -> Counter {
        self.worker.shard.counter(&COUNTS, &[&self.listener, name])
    }

    /// Counts a request or connection as long as the value lives.
    pub(crate) fn instance(&self) -> ScriptInstance {
        self.active.increment();
        ScriptInstance(self.active.clone())
    }

    /// Counts a run, which uses that much `memory` after it.
    pub(crate) fn run<T>(&self, run: impl FnOnce() -> T, memory: impl FnOnce() -> usize) -> T {
        let began = self.worker.clock.now();
        let result = run();
        self.runs.increment();
        self.seconds.add(self.worker.clock.now().since(began));
        self.memory.set(memory() as u64);
        result
    }

    /// Counts a failure.
    pub(crate) fn failure(&self, failure: &ScriptFailure) {
        self.failures.count(&failure.reason().code(), |code| {
            self.worker.shard.counter(&FAILURES, &[&self.listener, &self.script, code])
        });
    }

    /// Counts a state that was replaced.
    pub(crate) fn replaced(&self, why: &'static str) {
        self.replaced
            .count(&why, |why| self.worker.shard.counter(&REPLACED, &[&self.listener, why]));
    }
}

/// A request or connection that a script has a part in.
#[derive(Debug)]
pub(crate) struct ScriptInstance(Gauge);

impl Drop for ScriptInstance {
    fn drop(&mut self) {
        self.0.decrement();
    }
}
