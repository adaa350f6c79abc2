//! Scripts for connections: the connection filter `lua`.
//!
//! Owns: the list of what belongs to it. Refuses to know: requests. Keeps: a script for connections waits for nothing, so that
//! a connection is held up as long as its function runs, and no longer.

mod filter;
mod plan;
mod settings;

pub use settings::{ConnectionLua, ConnectionLuaFactory};
