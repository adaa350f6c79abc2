//! What HTTP/1 heads say of their bodies, as a reader that shares nothing with Sluice understands them.
//!
//! Owns: nothing. Refuses to know: sockets, except in `pool`. Keeps: the properties that request smuggling
//! would break are stated over every head, framing and interleaving that a seed makes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod heads;
mod oracle;
mod pool;
