//! Calls of guests that failed.
//!
//! Owns: the kinds of failures and what is said of them. Refuses to know: requests. Keeps: what is said fits into a record: it has
//! one line, and a bounded length.

use std::fmt;

use sluice_core::Reason;
use sluice_l7::{Reply, reasons};
use wasmtime::{Trap, WasmBacktrace};

/// The most bytes of a message.
const MESSAGE_BYTES: usize = 512;

/// Why a call of a guest failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestFailure {
    pub(crate) kind: GuestFailureKind,
    /// One line, with hook and function.
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestFailureKind {
    /// It trapped, or ended itself.
    Trap,
    /// It used up its processor time.
    Budget,
    /// There is no instance that requests could use.
    Down,
}

/// Raised in a guest that has used up its processor time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetUsed;

impl fmt::Display for BudgetUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it used up its processor time")
    }
}

impl std::error::Error for BudgetUsed {}

impl GuestFailure {
    pub(crate) fn new(kind: GuestFailureKind, message: &str) -> Self {
        Self { kind, message: one_line(message, MESSAGE_BYTES) }
    }

    /// A failure of `hook` that the runtime reports.
    pub(crate) fn of(hook: &str, error: &wasmtime::Error) -> Self {
        let budget = error.is::<BudgetUsed>();
        let kind = if budget { GuestFailureKind::Budget } else { GuestFailureKind::Trap };
        let what = match error.downcast_ref::<Trap>() {
            _ if budget => BudgetUsed.to_string(),
            Some(trap) => trap.to_string(),
            None => error.root_cause().to_string(),
        };
        let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames);
        let place = frames.and_then(|frames| frames.first()).map(|frame| match frame.func_name() {
            Some(name) => format!(" in {name}"),
            None => format!(" in function {}", frame.func_index()),
        });
        Self::new(kind, &format!("{hook}: {what}{}", place.unwrap_or_default()))
    }

    pub(crate) const fn reason(&self) -> Reason {
        match self.kind {
            GuestFailureKind::Trap => reasons::WASM_TRAP,
            GuestFailureKind::Budget => reasons::WASM_BUDGET,
            GuestFailureKind::Down => reasons::WASM_DOWN,
        }
    }

    /// What the client gets. The record has the message.
    pub(crate) fn reply(&self, plugin: &str) -> Reply {
        let details = format!("wasm_error[{plugin}: {}]", self.message);
        Reply::new(503, self.reason(), details, "")
    }
}

/// A text in one line, of at most so many bytes.
pub(crate) fn one_line(text: &str, bytes_max: usize) -> String {
    let bounded = text.char_indices().take_while(|(at, _)| *at < bytes_max);
    bounded.map(|(_, c)| if c.is_control() { ' ' } else { c }).collect()
}
