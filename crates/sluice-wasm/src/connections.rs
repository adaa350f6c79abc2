//! Guests for connections: the connection filter `wasm`.
//!
//! Owns: the list of what belongs to it. Refuses to know: requests. Keeps: a guest sees the end of every connection that it saw begin.

mod bytes;
mod filter;
mod open;
mod settings;

pub use settings::{ConnectionWasm, ConnectionWasmFactory};
