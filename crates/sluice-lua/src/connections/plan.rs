//! One use of the connection filter `lua`.
//!
//! Owns: the script of a use, its bounds, and what it is told. Refuses to know: where they were set, and how a script is run.
//! Keeps: it is shared by all workers, and changes no more.

use std::sync::Arc;

use sluice_core::Name;

use crate::exposed::FreeValues;
use crate::in_use::OnScriptError;
use crate::limits::ScriptLimits;
use crate::script::LuaScript;

/// One use of the filter.
#[derive(Clone, Debug)]
pub(crate) struct ConnLuaPlan {
    pub(crate) script: Arc<LuaScript>,
    pub(crate) limits: ScriptLimits,
    pub(crate) context: Arc<FreeValues>,
    pub(crate) counters: Arc<[Name]>,
    pub(crate) on_error: OnScriptError,
    /// Whether the script had a function for bytes when the configuration was checked.
    pub(crate) sees_bytes: bool,
}
