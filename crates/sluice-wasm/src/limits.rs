//! What guests may use.
//!
//! Owns: the bounds and their defaults. Refuses to know: how they are held. Keeps: instances with other bounds are other instances.

use std::time::Duration;

/// What an instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GuestLimits {
    /// Processor time of one call of the guest.
    pub(crate) cpu: Duration,
    /// Bytes of its memory.
    pub(crate) memory: usize,
    /// How long a failed instance is not replaced, at first.
    pub(crate) restart: Duration,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self { cpu: Duration::from_millis(100), memory: 64 << 20, restart: Duration::from_secs(1) }
    }
}

/// The longest time that a failed instance is not replaced.
pub(crate) const RESTART_MAX: Duration = Duration::from_secs(60);

/// The most bytes of stack that a guest uses.
pub(crate) const STACK_BYTES: usize = 512 * 1024;

/// The most entries of a table of a guest.
pub(crate) const TABLE_ENTRIES: usize = 100_000;

/// The most bytes of one text that a guest passes, other than a body.
pub(crate) const TEXT_BYTES: usize = 64 * 1024;

/// The most bytes of a map of headers that a guest passes or is given.
pub(crate) const MAP_BYTES: usize = 256 * 1024;

/// The most headers of a map that a guest passes.
pub(crate) const MAP_ENTRIES: usize = 1000;

/// The most lines that one call of a guest writes to the log.
pub(crate) const LOG_LINES: u32 = 100;

/// The most bytes of such a line.
pub(crate) const LOG_LINE_BYTES: usize = 4096;

/// The most calls of clusters in flight of one context.
pub(crate) const CALLS_IN_FLIGHT: usize = 32;

/// The most messages of gRPC calls that wait for the hook of a context; no more are received meanwhile.
pub(crate) const ARRIVALS: usize = 16;

/// The shortest period of ticks.
pub(crate) const TICK_MIN: Duration = Duration::from_millis(10);

/// The most bytes of shared data of one `vm.id`, with keys.
pub(crate) const SHARED_BYTES: usize = 1 << 20;

/// The most entries of shared data of one `vm.id`.
pub(crate) const SHARED_ENTRIES: usize = 10_000;

/// The most shared queues of the process.
pub(crate) const QUEUES: usize = 1000;

/// The most bytes in a shared queue.
pub(crate) const QUEUE_BYTES: usize = 1 << 20;

/// The most entries in a shared queue.
pub(crate) const QUEUE_ENTRIES: usize = 10_000;

/// The most metrics of the guests of the process.
pub(crate) const METRICS: usize = 1000;

/// The most bytes that guests share about one request, with names.
pub(crate) const VALUE_BYTES: usize = 64 * 1024;

/// The most contexts of an instance.
pub(crate) const CONTEXTS: usize = 100_000;
