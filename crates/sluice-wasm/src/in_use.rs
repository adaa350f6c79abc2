//! What the filter of a worker runs.
//!
//! Owns: the settings of a use, with defaults. Refuses to know: how they were written. Keeps: a module that is missing is a
//! failure of every request, never left out.

use std::sync::Arc;

use sluice_l7::filters::Fetched;

use crate::module::{CompiledModule, FileModule};
use crate::plugin::{PluginFacts, VmSetup};

sluice_core::choice! {
    /// What becomes of a request whose guest fails.
    pub enum OnGuestError {
        /// It gets a 503 response.
        Fail = "fail",
        /// It passes, and the guest sees nothing more of it.
        Continue = "continue",
    }
}

sluice_core::choice! {
    /// What guests do with bodies.
    pub enum GuestBodies {
        /// They read and change them.
        Edit = "edit",
        /// They read them; lengths stay announced.
        Read = "read",
        /// They do not see them.
        Skip = "skip",
    }
}

/// Where a module comes from.
#[derive(Clone, Debug)]
pub(crate) enum ModuleSource {
    /// It does not change.
    Fixed(Arc<CompiledModule>),
    File(Fetched<FileModule>),
}

impl ModuleSource {
    /// The module, as it is now.
    pub(crate) fn current(&self) -> Option<Arc<CompiledModule>> {
        match self {
            Self::Fixed(module) => Some(Arc::clone(module)),
            Self::File(file) => file.current().map(|file| Arc::clone(&file.0)),
        }
    }
}

/// Everything that the filter of a worker needs.
#[derive(Debug)]
pub(crate) struct GuestUse {
    /// An error if requests can only fail.
    pub(crate) module: Result<ModuleSource, String>,
    pub(crate) setup: Arc<VmSetup>,
    pub(crate) plugin: Arc<PluginFacts>,
    pub(crate) bodies: GuestBodies,
    pub(crate) on_error: OnGuestError,
    /// Whether a message whose headers wait is given to the guest whole.
    pub(crate) headers_wait_for_body: bool,
}
