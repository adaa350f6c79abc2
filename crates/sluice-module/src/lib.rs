//! Loaded libraries: the HTTP filter and the connection filter `module`, access logs and load balancers.
//!
//! Owns: the settings, the hooks of requests and connections, what a library may do in each, its waits, and its queue of records.
//! Refuses to know: how a library is mapped and called, which is `sluice-sys`, and how filters and records get their turn. Keeps: a
//! library reads and changes only what the hook at hand was given; what it does at the wrong time is an answer to it, and what it
//! must not return is a failure of its request or connection.
#![forbid(unsafe_code)]

mod balancer;
mod calls;
mod config;
mod connection;
mod filter;
mod hook_call;
mod in_use;
mod lent;
mod library;
mod logger;
mod message;
pub mod metrics;
mod settings;
mod text;
mod values;
mod verdict;
mod waits;

pub use balancer::{BalancerLibrary, balancer};
pub use connection::{LoadedConnectionModule, ModuleConnectionFactory};
pub use in_use::OnModuleError;
pub use logger::{LoggerLibrary, logger};
pub use settings::{LoadedModule, ModuleFactory};
pub use text::ModuleText;
