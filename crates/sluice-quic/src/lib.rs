//! QUIC on listening sockets: the server side, for any protocol.
//!
//! Owns: the library's endpoint, the connection IDs that we issue, Retry, traces. Refuses to know: what streams carry,
//! and how a chain is selected. Keeps: a connection runs entirely on the worker whose socket received it.
#![forbid(unsafe_code)]

pub mod connection_ids;
pub mod endpoint;
pub mod options;
mod qlog;
mod sight;

pub use connection_ids::ReuseportMember;
pub use endpoint::{FirstPacketHook, Incoming, QuicEndpoint, QuicServer, TlsConfig};
pub use options::QuicOptions;
pub use sight::{facts_of, path_of};
