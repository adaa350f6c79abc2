//! What scripts may use.
//!
//! Owns: the bounds and their defaults. Refuses to know: how they are held. Keeps: states with other bounds are other
//! states.

use std::time::Duration;

/// What a run may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ScriptLimits {
    /// Instructions between two waits.
    pub(crate) instructions: u64,
    /// Processor time between two waits.
    pub(crate) cpu: Duration,
    /// Bytes of all requests of a worker.
    pub(crate) memory: usize,
    /// Whether code is compiled, which takes the first two away.
    pub(crate) jit: bool,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        Self {
            instructions: 1_000_000,
            cpu: Duration::from_millis(100),
            memory: 16 << 20,
            jit: false,
        }
    }
}
