//! The configuration of QUIC, and its conversion to the library's.
//!
//! Owns: the options and their defaults. Refuses to know: sockets, TLS. Keeps: what is not configured stays at the
//! library's default, including path MTU discovery and key updates.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn::{IdleTimeout, TransportConfig};

use crate::h2::H2Options;
use crate::h3::{SEND_WINDOW, UNI_STREAMS_MAX};

/// The configuration of QUIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicOptions {
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// Number of handshakes in flight on a socket from which clients must validate their address.
    pub retry_above: u32,
    /// Concurrent requests that a client may have open.
    pub streams_max: u32,
    /// Bytes of a stream that a client may send ahead.
    pub stream_window: u32,
    /// The same for all streams of a connection together.
    pub connection_window: u32,
    /// The congestion control algorithm.
    pub congestion: Congestion,
    /// The folder in which each connection leaves a trace of its packets.
    pub qlog: Option<PathBuf>,
}

/// A congestion control algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// RFC 9002 §7.
    NewReno,
    /// By measured bandwidth and round-trip time; the library calls it experimental.
    Bbr,
}

impl Default for QuicOptions {
    fn default() -> Self {
        let (streams_max, stream_window) = (100, 256 << 10);
        Self {
            idle_timeout: Duration::from_secs(60),
            retry_above: 256,
            streams_max,
            stream_window,
            connection_window: H2Options::window_of(streams_max, stream_window),
            congestion: Congestion::Cubic,
            qlog: None,
        }
    }
}

impl QuicOptions {
    pub(super) fn transport(&self) -> Result<TransportConfig, String> {
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|error| error.to_string())?;
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(idle))
            .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.connection_window.into())
            .send_window(SEND_WINDOW)
            // Datagrams within connections are not used here.
            .datagram_receive_buffer_size(None);
        match self.congestion {
            Congestion::Cubic => {
                transport.congestion_controller_factory(Arc::new(CubicConfig::default()))
            }
            Congestion::NewReno => {
                transport.congestion_controller_factory(Arc::new(NewRenoConfig::default()))
            }
            Congestion::Bbr => {
                transport.congestion_controller_factory(Arc::new(BbrConfig::default()))
            }
        };
        Ok(transport)
    }

    /// Returns the transport configuration of a server.
    pub(super) fn server(&self) -> Result<TransportConfig, String> {
        let mut transport = self.transport()?;
        transport.max_concurrent_bidi_streams(self.streams_max.into());
        Ok(transport)
    }
}
