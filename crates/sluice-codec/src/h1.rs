//! HTTP/1.0 and HTTP/1.1, both roles.
//!
//! Owns: heads, body framing and connections of HTTP/1 (RFC 9112). Refuses to know: routes, clusters. Keeps: parsing is
//! strict, so that no two parties can read one message differently: anything ambiguous is refused and the connection
//! ends; nothing is guessed.

pub mod chunked;
pub mod parse;
pub mod stream;
pub mod write;

pub use stream::{H1Stream, Role, Taken};
