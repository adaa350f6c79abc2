//! What the filter of a worker runs.
//!
//! Owns: the settings of a use, with defaults. Refuses to know: how they were written. Keeps: a library that is missing is a
//! failure of every request, never left out.

use std::sync::Arc;

use sluice_upstream::Cluster;

use crate::config::CheckedConfig;

sluice_core::choice! {
    /// What becomes of a request for which a filter of a loaded library fails.
    pub enum OnModuleError {
        /// It gets a 500 response.
        Fail = "fail",
        /// It passes, and the filter sees nothing more of it.
        Continue = "continue",
    }
}

/// Everything that the filter of a worker needs.
#[derive(Debug)]
pub(crate) struct ModuleUse {
    pub(crate) filter: String,
    /// Those that it may call.
    pub(crate) clusters: Vec<Arc<Cluster>>,
    /// An error if requests can only fail.
    pub(crate) made: Result<Arc<CheckedConfig>, String>,
    pub(crate) body_max: usize,
    pub(crate) on_error: OnModuleError,
}
