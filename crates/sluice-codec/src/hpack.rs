//! HPACK, the header compression of HTTP/2.
//!
//! Owns: header blocks, both tables, what the encoder remembers. Refuses to know: frames and streams; blocks arrive
//! whole, and leave whole. Keeps: the tables stay in step with the peer's whatever a message is refused for; fields go
//! from the block into the head's buffer and from there into a block, and in steady state nothing is allocated; a field
//! that the peer sent as never indexed is sent on as never indexed.
//!
//! Source: RFC 7541.

mod decoder;
mod dynamic_table;
mod encoder;
mod field_hash;
mod learned;
mod static_table;
#[cfg(test)]
mod tests;

pub use decoder::HpackDecoder;
pub use encoder::HpackEncoder;

use crate::error::HttpError;
use crate::field_section::{Bounds, FieldFault, SectionKind};
use crate::head::Version;

/// The size of a dynamic table before any SETTINGS, RFC 9113 §6.5.2.
pub const TABLE_BYTES: u32 = 4096;

/// Why a header block does not become a head.
#[derive(Debug)]
pub enum BlockRefusal {
    /// The tables are no longer in step: the connection ends with COMPRESSION_ERROR. This is the reason.
    Compression(&'static str),
    /// The message is malformed: its stream ends with PROTOCOL_ERROR, RFC 9113 §8.1.1.
    Malformed(HttpError),
    /// The message is too large or ambiguous: a response with the error's status says so.
    Unacceptable(HttpError),
}

impl BlockRefusal {
    fn of(fault: FieldFault, kind: SectionKind, bounds: Bounds) -> Self {
        let error = fault.error_of(kind, Version::Http2, bounds);
        if fault.is_malformed() { Self::Malformed(error) } else { Self::Unacceptable(error) }
    }
}
