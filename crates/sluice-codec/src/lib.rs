//! HTTP on the wire: heads, bodies and streams of HTTP/1, HTTP/2 and HTTP/3.
//!
//! Owns: parsing, framing, flow control and connections of HTTP. Refuses to know: listeners, chains, routes, and what
//! messages are for. Keeps: nothing above [`stream::HttpStream`] depends on the version of a message; what is read from
//! a peer is bounded and checked before it is handed out.
#![forbid(unsafe_code)]

pub mod body;
pub mod error;
mod field_section;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod h3;
pub mod head;
pub mod head_pool;
pub mod hpack;
mod huffman;
pub mod multiplexed;
pub mod names;
mod open_streams;
pub mod parse_error;
mod prefix_int;
pub mod probe;
pub mod quic;
pub mod request_memory;
#[cfg(feature = "scripted")]
pub mod scripted;
pub mod stream;

pub use body::{Body, Frame};
pub use error::{ErrorKind, HttpError};
pub use field_section::Bounds;
pub use head::{Head, Method, Version};
pub use multiplexed::Multiplexed;
pub use names::Known;
pub use parse_error::ParseError;
pub use stream::HttpStream;
