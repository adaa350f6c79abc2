//! WebAssembly as filters: guests with the proxy-wasm interface see requests, responses and connections.
//!
//! Owns: how modules are compiled and run, the bounds on what a guest uses, the host side of proxy-wasm 0.1.0 to 0.2.1, and how
//! an instance is replaced. Refuses to know: the wire, and how the exchange runs filters. Keeps: a guest costs its own requests at
//! most, never its worker; every pointer, length and number that it passes is checked, and what is wrong is a status to it.
//!
//! A worker has one instance per module, `vm.id`, `vm.config` and set of bounds (`vm::Vm`). In it, a use of the filter is a
//! root context (`plugin::PluginFacts`), and a request or connection is a stream context
//! (`stream::StreamCell`). The functions that a guest calls reach the message at hand through a
//! [`Loan`](sluice_sys::loan::Loan), so that nothing of a request is copied for guests that do not look at it.
#![forbid(unsafe_code)]

mod abi;
mod call;
mod conn_call;
mod conn_facts;
mod connections;
mod counters;
mod engine;
mod events;
mod failure;
mod filter;
mod grpc_link;
mod grpc_service;
mod guest;
mod held;
mod hooks;
mod host;
#[cfg(any(test, feature = "hostile"))]
#[doc(hidden)]
pub mod hostile;
mod in_use;
mod limits;
mod message;
pub mod metrics;
mod module;
mod pairs;
mod plugin;
mod properties;
mod running;
mod settings;
mod shared;
mod source;
mod state;
mod stream;
mod values;
mod vm;
mod vms;

pub use connections::{ConnectionWasm, ConnectionWasmFactory};
pub use in_use::OnGuestError;
pub use settings::{Wasm, WasmFactory, WasmVm};
