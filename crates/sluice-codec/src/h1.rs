//! HTTP/1.0 and HTTP/1.1, both roles.
//!
//! Owns: heads, body framing and connections of HTTP/1 (RFC 9112). Refuses to know: routes, clusters.
//! Keeps: strict on the way in, so that no two parties can read one message differently: whatever is
//! in doubt is refused and the connection ends, never guessed at.

pub mod chunked;
pub mod parse;
pub mod stream;
pub mod write;

pub use stream::{H1Stream, Role, Taken};
