//! The engine of the process, and the clock that interrupts guests.
//!
//! Owns: how modules are compiled, and the thread that advances the epoch. Refuses to know: guests. Keeps: while no guest runs,
//! the thread sleeps without a time-out.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Config, Engine};

use crate::limits::STACK_BYTES;

/// How often a guest that runs is looked at.
const TICK: Duration = Duration::from_millis(10);

/// After so many ticks in which no guest ran, the clock stops.
const IDLE_TICKS: u32 = 100;

/// Whether a guest ran since the last tick.
static RAN: AtomicBool = AtomicBool::new(false);

/// Whether the clock has stopped.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Engine and clock, once they were needed.
struct RunningEngine {
    engine: Engine,
    clock: Thread,
}

fn running() -> Result<&'static RunningEngine, String> {
    static RUNNING: OnceLock<Result<RunningEngine, String>> = OnceLock::new();
    RUNNING.get_or_init(start).as_ref().map_err(Clone::clone)
}

fn start() -> Result<RunningEngine, String> {
    let mut config = Config::new();
    config.epoch_interruption(true).max_wasm_stack(STACK_BYTES);
    let engine = Engine::new(&config).map_err(|error| error.to_string())?;
    let ticked = engine.clone();
    let clock = thread::Builder::new().name("wasm-clock".into()).spawn(move || tick(&ticked));
    let clock = clock.map_err(|error| format!("cannot start the clock of guests: {error}"))?;
    Ok(RunningEngine { engine, clock: clock.thread().clone() })
}

/// The engine.
///
/// # Errors
/// It cannot run on this machine.
pub(crate) fn engine() -> Result<&'static Engine, String> {
    running().map(|running| &running.engine)
}

/// Called when a guest begins to run, and each time that it is looked at.
pub(crate) fn note_run() {
    // Read first: all workers share the flag, and a tick clears it at most a hundred times a second.
    if !RAN.load(SeqCst) {
        RAN.store(true, SeqCst);
        if STOPPED.load(SeqCst)
            && let Ok(running) = running()
        {
            running.clock.unpark();
        }
    }
}

fn tick(engine: &Engine) {
    let mut idle = 0;
    loop {
        thread::sleep(TICK);
        engine.increment_epoch();
        idle = if RAN.swap(false, SeqCst) { 0 } else { idle + 1 };
        if idle < IDLE_TICKS {
            continue;
        }
        STOPPED.store(true, SeqCst);
        // A guest that begins now sees that the clock has stopped, or is seen here.
        while !RAN.load(SeqCst) {
            thread::park();
        }
        STOPPED.store(false, SeqCst);
        idle = 0;
    }
}
