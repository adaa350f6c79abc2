//! A connection to an endpoint that carries many requests at once, whatever its version.
//!
//! Owns: the choice between versions. Refuses to know: what opens requests. Keeps: a clone is another handle to the
//! same connection.

use crate::error::HttpError;
use crate::h2::H2Client;
use crate::h3::H3Client;
use crate::head::{Head, Version};
use crate::stream::HttpStream;

/// An HTTP/2 or HTTP/3 connection on which requests are sent.
#[derive(Clone, Debug)]
pub enum Multiplexed {
    /// HTTP/2.
    H2(H2Client),
    /// HTTP/3.
    H3(H3Client),
}

impl Multiplexed {
    /// Returns the HTTP version of the connection.
    pub const fn version(&self) -> Version {
        match self {
            Self::H2(_) => Version::Http2,
            Self::H3(_) => Version::Http3,
        }
    }

    /// Whether requests are sent before the handshake is complete (0-RTT): an attacker can send them again, and the server
    /// may take none of them.
    pub fn is_early(&self) -> bool {
        match self {
            Self::H2(h2) => h2.is_early(),
            Self::H3(h3) => h3.is_early(),
        }
    }

    /// Closes the connection, with its requests.
    pub fn close(&self) {
        match self {
            Self::H2(h2) => h2.close(),
            Self::H3(h3) => h3.close(),
        }
    }

    /// Returns the number of open requests.
    pub fn open_streams(&self) -> usize {
        match self {
            Self::H2(h2) => h2.open_streams(),
            Self::H3(h3) => h3.open_streams(),
        }
    }

    /// Whether another request may be opened now.
    pub fn has_room(&mut self, streams_max: usize) -> bool {
        match self {
            Self::H2(h2) => h2.has_room(streams_max),
            Self::H3(h3) => h3.has_room(streams_max),
        }
    }

    /// Whether many of its streams wait for clients that do not read; new streams are then better opened elsewhere.
    pub fn is_stalled(&self) -> bool {
        match self {
            Self::H2(h2) => h2.is_stalled(),
            Self::H3(h3) => h3.is_stalled(),
        }
    }

    /// Whether requests may still be opened.
    pub fn is_alive(&mut self) -> bool {
        match self {
            Self::H2(h2) => h2.is_alive(),
            Self::H3(h3) => h3.is_alive(),
        }
    }

    /// Opens a stream with a request; `end` means that it has no body.
    ///
    /// # Errors
    /// The connection takes no more streams, which counts as a refusal, or the head cannot be expressed.
    pub async fn open(&mut self, head: &Head, end: bool) -> Result<HttpStream, HttpError> {
        Ok(match self {
            Self::H2(h2) => HttpStream::H2(h2.open(head, end).await?),
            Self::H3(h3) => HttpStream::H3(Box::new(h3.open(head, end).await?)),
        })
    }
}
