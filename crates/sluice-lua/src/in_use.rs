//! What the filter of a worker runs.
//!
//! Owns: the settings of a use, with defaults. Refuses to know: how they were written. Keeps: a script that is missing is
//! an error of every request, never left out.

use std::sync::Arc;

use crate::exposed::Exposed;
use crate::limits::ScriptLimits;
use crate::script::LuaScript;

sluice_core::choice! {
    /// What becomes of a request whose script fails.
    pub enum OnScriptError {
        /// It gets a 500 response.
        Fail = "fail",
        /// It passes, as if there were no script from there on.
        Continue = "continue",
    }
}

/// Everything that the filter of a worker needs.
#[derive(Debug)]
pub(crate) struct LuaUse {
    /// `None` if there is nothing to run; an error if what is to run is missing.
    pub(crate) script: Option<Result<Arc<LuaScript>, String>>,
    pub(crate) exposed: Arc<Exposed>,
    pub(crate) body_max: usize,
    pub(crate) limits: ScriptLimits,
    pub(crate) on_error: OnScriptError,
}
