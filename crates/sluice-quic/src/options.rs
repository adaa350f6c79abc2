//! The configuration of QUIC on a listener.
//!
//! Owns: what a server is told beyond the settings that both roles share. Refuses to know: sockets, TLS. Keeps: room is
//! made for as many streams as the options say, and for no more.

use std::path::PathBuf;

use quinn::TransportConfig;
use sluice_codec::quic::QuicTransport;

/// The configuration of QUIC on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicOptions {
    /// The settings of its connections.
    pub transport: QuicTransport,
    /// Number of handshakes in flight on a socket from which clients must validate their address.
    pub retry_above: u32,
    /// Streams that a client may have open: concurrent requests, for HTTP/3.
    pub streams_max: u32,
    /// The folder in which each connection leaves a trace of its packets.
    pub qlog: Option<PathBuf>,
}

impl Default for QuicOptions {
    fn default() -> Self {
        let streams_max = 100;
        Self {
            transport: QuicTransport::for_streams(streams_max),
            retry_above: 256,
            streams_max,
            qlog: None,
        }
    }
}

impl QuicOptions {
    /// Returns the transport configuration of a server.
    pub(crate) fn server(&self) -> Result<TransportConfig, String> {
        let mut transport = self.transport.config()?;
        transport.max_concurrent_bidi_streams(self.streams_max.into());
        Ok(transport)
    }
}
