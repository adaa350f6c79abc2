//! Runs that failed.
//!
//! Owns: the kinds of failures and what is said of them. Refuses to know: requests. Keeps: what is said fits into a record:
//! it has one line, and a bounded length.

use sluice_core::Reason;
use sluice_l7::{Reply, reasons};

/// The most bytes of a message.
const MESSAGE_BYTES: usize = 512;

/// Why a run of a script failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScriptFailure {
    pub(crate) kind: FailureKind,
    /// One line, with file and line.
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Error,
    Budget,
    Memory,
}

impl ScriptFailure {
    pub(crate) fn new(kind: FailureKind, message: &str) -> Self {
        let line = message.lines().next().unwrap_or_default();
        let bounded = line.char_indices().take_while(|(at, _)| *at < MESSAGE_BYTES);
        let printable = bounded.map(|(_, c)| if c.is_control() { ' ' } else { c });
        Self { kind, message: printable.collect() }
    }

    /// A failure that Lua reports as an error.
    pub(crate) fn of_lua(error: &mlua::Error) -> Self {
        let kind = if is_memory(error) { FailureKind::Memory } else { FailureKind::Error };
        Self::new(kind, &text_of(error))
    }

    pub(crate) const fn reason(&self) -> Reason {
        match self.kind {
            FailureKind::Error => reasons::SCRIPT_ERROR,
            FailureKind::Budget => reasons::SCRIPT_BUDGET,
            FailureKind::Memory => reasons::SCRIPT_MEMORY,
        }
    }

    /// What the client gets. The record has the message.
    pub(crate) fn reply(&self) -> Reply {
        let details = format!("lua_error[{}]", self.message);
        Reply::new(500, self.reason(), details, "the request could not be processed\n")
    }
}

fn is_memory(error: &mlua::Error) -> bool {
    match error {
        mlua::Error::MemoryError(_) => true,
        mlua::Error::CallbackError { cause, .. } | mlua::Error::BadArgument { cause, .. } => {
            is_memory(cause)
        }
        _ => false,
    }
}

/// What an error says, without the words that name its kind and without a traceback.
pub(crate) fn text_of(error: &mlua::Error) -> String {
    match error {
        mlua::Error::SyntaxError { message, .. }
        | mlua::Error::RuntimeError(message)
        | mlua::Error::MemoryError(message) => {
            message.lines().next().unwrap_or_default().to_owned()
        }
        mlua::Error::CallbackError { cause, .. } => text_of(cause),
        other => other.to_string(),
    }
}
