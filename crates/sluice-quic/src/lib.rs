//! QUIC on listening sockets, for any protocol: from a client's first packet to the handler of its chain.
//!
//! Owns: the socket and the library's endpoint on it, the connection IDs that we issue, Retry, handshakes and early
//! data, traces. Refuses to know: what streams carry, and how a chain is selected. Keeps: a connection runs entirely on
//! the worker whose socket received it; a protocol is served by implementing one trait ([`QuicHandler`]).
#![forbid(unsafe_code)]

mod client;
pub mod connection_ids;
mod endpoint;
mod first_packets;
pub mod handler;
pub mod listener;
pub mod metrics;
pub mod options;
mod qlog;
pub mod reasons;
mod sight;
pub mod slot;

pub use connection_ids::ReuseportMember;
pub use handler::{QuicHandler, QuicHandlerPlan};
pub use listener::{QuicListener, QuicListenerPlan};
pub use options::QuicOptions;
/// An established connection.
pub use quinn::Connection;
pub use slot::QuicSlot;
