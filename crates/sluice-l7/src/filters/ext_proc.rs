//! `ext_proc`: has a service change requests and responses (Envoy's external processing).
//!
//! Owns: the conversation with the service about one request and its response, and what becomes of both if it fails.
//! Refuses to know: what the service decides. Keeps: nothing that the service says changes how a message is framed; a
//! part waits for its answer for a bounded time; what the service may be silent about, and what not, is decided by the
//! state machine alone.

mod answer;
pub mod attributes;
pub mod changes;
mod filter;
mod link;
pub mod machine;
mod messages;
mod parts;
mod pieces;
mod plan;
mod question;
pub mod settings;
mod state;
