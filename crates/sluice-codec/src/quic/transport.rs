//! The transport settings of a QUIC connection, and their conversion to the library's.
//!
//! Owns: the settings that clients and servers have in common, and their defaults. Refuses to know: sockets, TLS, and
//! what only servers are told. Keeps: what is not configured stays at the library's default, including path MTU
//! discovery and key updates.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn::{IdleTimeout, TransportConfig};
use sluice_upstream::plan::{ClusterSettings, Congestion};

use crate::h2::H2Options;
use crate::h3::{SEND_WINDOW, UNI_STREAMS_MAX};

/// The transport settings of a connection in either role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicTransport {
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// Bytes of a stream that a peer may send ahead.
    pub stream_window: u32,
    /// The same for all streams of a connection together.
    pub connection_window: u32,
    /// The congestion control algorithm.
    pub congestion: Congestion,
}

impl QuicTransport {
    /// The default settings, with a connection window that suits this number of streams.
    pub fn for_streams(streams_max: u32) -> Self {
        let stream_window = 256 << 10;
        Self {
            idle_timeout: Duration::from_secs(60),
            stream_window,
            connection_window: H2Options::window_of(streams_max, stream_window),
            congestion: Congestion::Cubic,
        }
    }

    /// The settings of a cluster for connections to its endpoints.
    pub fn of_cluster(settings: &ClusterSettings) -> Self {
        let of = &settings.http3;
        let streams = u32::try_from(settings.reuse.streams_max).unwrap_or(u32::MAX);
        Self {
            idle_timeout: of.idle_timeout,
            stream_window: of.stream_window,
            connection_window: of
                .connection_window
                .unwrap_or_else(|| H2Options::window_of(streams, of.stream_window)),
            congestion: of.congestion,
        }
    }

    /// Returns the library's configuration. Bidirectional streams that the peer may open are for the caller to bound.
    ///
    /// # Errors
    /// The idle timeout is out of range.
    pub fn config(&self) -> Result<TransportConfig, String> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_the_settings_of_its_cluster() {
        let mut settings = ClusterSettings::clone(&ClusterSettings::bare());
        settings.reuse.streams_max = 3;
        let default = QuicTransport::of_cluster(&settings);
        assert_eq!(default, QuicTransport::for_streams(3));
        let of = &mut settings.http3;
        of.idle_timeout = Duration::from_secs(7);
        of.stream_window = 1 << 20;
        of.congestion = Congestion::Bbr;
        let transport = QuicTransport::of_cluster(&settings);
        let expected = QuicTransport {
            idle_timeout: Duration::from_secs(7),
            stream_window: 1 << 20,
            connection_window: H2Options::window_of(3, 1 << 20),
            congestion: Congestion::Bbr,
        };
        assert_eq!(transport, expected);
        settings.http3.connection_window = Some(2 << 20);
        assert_eq!(QuicTransport::of_cluster(&settings).connection_window, 2 << 20);
        assert!(transport.config().is_ok());
    }
}
