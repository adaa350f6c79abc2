//! Lua as filters: scripts see requests and responses through Envoy's stream handle, and connections through an object.
//!
//! Owns: the sandbox, the bounds on what a script uses, the handle, and how scripts are loaded and replaced. Refuses to
//! know: the wire, and how the exchange runs filters. Keeps: a script costs its own requests at most, never its worker; no
//! object of a script reaches a request other than its own.
//!
//! A worker has one Lua state per script and set of limits. A request is a coroutine in it, which runs only within a hook
//! of its filter, where the message is at hand; it waits by yielding to that hook.
#![forbid(unsafe_code)]

mod args;
mod budget;
mod connection_run;
mod connections;
mod convert;
mod decisions;
mod exposed;
mod failure;
mod filter;
#[cfg(any(test, feature = "hostile"))]
#[doc(hidden)]
pub mod hostile;
mod in_use;
mod kind;
mod limits;
pub mod metrics;
mod natives;
mod ops;
mod pattern;
mod script;
mod settings;
mod side;
mod state;

pub use connections::{ConnectionLua, ConnectionLuaFactory};
pub use exposed::FreeValues;
pub use in_use::OnScriptError;
pub use settings::{Lua, LuaFactory, NamedScript};

#[cfg(test)]
mod tests;
