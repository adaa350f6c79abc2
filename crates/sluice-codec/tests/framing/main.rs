//! What HTTP/1 heads declare about their bodies, as understood by a reader independent of Sluice.
//!
//! Owns: nothing. Refuses to know: sockets, except in `pool`. Keeps: the properties that request smuggling would break
//! are stated over every head, framing and interleaving that a seed generates.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod heads;
mod oracle;
mod pool;
