//! HTTP/3, both roles, on streams of QUIC.
//!
//! Owns: frames, field sections and connections of HTTP/3 (RFC 9114, RFC 9204) as the rest of the codec sees them.
//! Refuses to know: routes, clusters, how QUIC moves bytes. Keeps: QPACK without a dynamic table, so that no stream
//! waits for another; a body is read only on request and sent only against room.

pub mod client;
mod connection;
pub mod convert;
pub mod frame;
pub mod qpack;
pub mod server;
pub mod stream;
mod tables;

pub use client::H3Client;
pub(crate) use connection::{SEND_WINDOW, UNI_STREAMS_MAX};
pub use server::H3Server;
pub use stream::H3Stream;

/// The configuration of HTTP/3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H3Options {
    /// Bytes of a head, as RFC 9114 §4.2.2 counts them.
    pub head_bytes: usize,
    /// Headers of a head, or of trailers.
    pub head_fields: usize,
    /// Bytes of a stream's body that a peer may send ahead.
    pub stream_window: u32,
    /// Streams that a client may reset before their request is read, less those that it did not reset; more is a flood.
    pub resets_max: u32,
}

impl H3Options {
    pub(crate) const fn bounds(&self) -> crate::field_section::Bounds {
        crate::field_section::Bounds { bytes: self.head_bytes, fields: self.head_fields }
    }
}

impl Default for H3Options {
    fn default() -> Self {
        Self { head_bytes: 60 << 10, head_fields: 100, stream_window: 256 << 10, resets_max: 64 }
    }
}
