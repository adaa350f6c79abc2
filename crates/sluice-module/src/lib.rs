//! Loaded libraries as an HTTP filter: `module`.
//!
//! Owns: the settings, the hooks of a request, what a library may do in each, and its waits. Refuses to know: how a library
//! is mapped and called, which is `sluice-sys`, and how the exchange runs filters. Keeps: a library reads and changes only
//! what the hook at hand was given; what it does at the wrong time is an answer to it, and what it must not return is a
//! failure of its request.
#![forbid(unsafe_code)]

mod config;
mod filter;
mod hook_call;
mod in_use;
mod message;
pub mod metrics;
mod settings;
mod values;
mod verdict;
mod waits;

pub use in_use::OnModuleError;
pub use settings::{LoadedModule, ModuleFactory, ModuleText};
