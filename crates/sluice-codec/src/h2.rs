//! HTTP/2, both roles.
//!
//! Owns: connections and streams of HTTP/2 (RFC 9113) as the rest of the codec sees them. Refuses to know: routes,
//! clusters. Keeps: what is decided is in the machine, which knows no socket; the driver reads and writes; a stream is
//! a key into the machine. A slow reader on either side holds one window of a body and no more, and holds up no other
//! stream.

pub mod budget;
pub mod client;
pub mod code;
mod connection;
mod entry;
mod event;
pub mod frame;
pub mod machine;
mod pieces;
pub mod server;
pub mod settings;
pub mod state;
pub mod stream;
pub mod supply;
pub mod window;

pub use client::H2Client;
pub use code::H2Code;
pub use server::{Accepted, H2Event, H2Server};
pub use stream::H2Stream;

use std::time::Duration;

use window::WINDOW_MAX;

/// The configuration of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H2Options {
    /// Concurrent streams that a peer may have open.
    pub streams_max: u32,
    /// Bytes of a stream's body that a peer may send ahead of its reader.
    pub stream_window: u32,
    /// Bytes that a peer may have in flight on all streams together. They are granted again as they arrive, unless as
    /// many wait to be read.
    pub connection_window: u32,
    /// Bytes of a head, as RFC 9113 §6.5.2 counts them.
    pub head_bytes: u32,
    /// Headers of a head, or of trailers.
    pub head_fields: usize,
    /// Streams that a peer may reset before they are accepted; more is a flood.
    pub resets_max: usize,
    /// How long a client may go on sending a request whose response is complete, before its stream is reset.
    pub linger: Duration,
    /// Interval of pings to a peer; `None` sends none.
    pub ping_interval: Option<Duration>,
    /// How long a ping may remain unacknowledged.
    pub ping_timeout: Duration,
}

impl Default for H2Options {
    fn default() -> Self {
        let (streams_max, stream_window) = (128, 256 << 10);
        Self {
            streams_max,
            stream_window,
            connection_window: Self::window_of(streams_max, stream_window),
            head_bytes: 60 << 10,
            head_fields: 100,
            resets_max: 64,
            linger: Duration::from_secs(1),
            ping_interval: None,
            ping_timeout: Duration::from_secs(20),
        }
    }
}

impl H2Options {
    /// Returns the connection window that this many streams can fill.
    pub const fn window_of(streams: u32, stream_window: u32) -> u32 {
        let window = streams.saturating_mul(stream_window);
        if window < WINDOW_MAX { window } else { WINDOW_MAX }
    }
}

/// Headers of a head or of trailers that an endpoint may send; their bytes are bounded as well.
pub const ENDPOINT_FIELDS_MAX: usize = 1000;
