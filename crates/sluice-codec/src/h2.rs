//! HTTP/2, both roles, on the `h2` library.
//!
//! Owns: connections and streams of HTTP/2 (RFC 9113) as the rest of the codec sees them. Refuses to know: routes,
//! clusters. Keeps: data is handed to the library only against capacity that the peer has granted, and taken from it
//! only on request, so that a slow reader on either side holds one piece of a body and no more.

pub mod client;
pub mod convert;
pub mod io;
mod ledger;
pub mod server;
pub mod stream;
pub mod watch;

pub use client::H2Client;
pub use server::{Accepted, H2Event, H2Server};
pub use stream::H2Stream;

use std::time::Duration;

use crate::error::{ErrorKind, HttpError};

/// The configuration of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H2Options {
    /// Concurrent streams that a peer may have open.
    pub streams_max: u32,
    /// Bytes of a stream's body that a peer may send ahead.
    pub stream_window: u32,
    /// The same for all streams of a connection together.
    pub connection_window: u32,
    /// Bytes of a head, as RFC 9113 §6.5.2 counts them.
    pub head_bytes: u32,
    /// Headers of a head, or of trailers.
    pub head_fields: usize,
    /// Streams that a peer may reset before they are accepted; more is a flood.
    pub resets_max: usize,
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
            ping_interval: None,
            ping_timeout: Duration::from_secs(20),
        }
    }
}

impl H2Options {
    /// Returns the connection window that this many streams can fill without blocking each other: a stream that is not
    /// read fills its own window and leaves the others theirs. RFC 9113 §5.2 shares one window between all.
    pub const fn window_of(streams: u32, stream_window: u32) -> u32 {
        let window = streams.saturating_mul(stream_window);
        if window < WINDOW_MAX { window } else { WINDOW_MAX }
    }
}

/// Headers of a head or of trailers that an endpoint may send; their bytes are bounded as well.
pub const ENDPOINT_FIELDS_MAX: usize = 1000;

/// The largest window, RFC 9113 §6.9.1.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// Converts the error of a stream or connection to the codec's.
pub(crate) fn error_of(error: &h2::Error) -> HttpError {
    let kind = match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => ErrorKind::Refused,
        // Streams beyond the last that a GOAWAY names were not processed, RFC 9113 §6.8.
        Some(_) if error.is_go_away() && error.is_remote() => ErrorKind::Refused,
        Some(h2::Reason::NO_ERROR | h2::Reason::CANCEL) => ErrorKind::Cancelled,
        // The library sends ENHANCE_YOUR_CALM to a peer that floods; a peer that sends it to us has not flooded.
        Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_library() => ErrorKind::Flood,
        Some(_) if error.is_library() => ErrorKind::Malformed(400),
        Some(_) => ErrorKind::Reset,
        None => ErrorKind::Reset,
    };
    HttpError::new(kind, words(error))
}

/// Describes an error: the frame that carried it, the code's name and number, and the peer's debug data.
fn words(error: &h2::Error) -> String {
    let text = error.to_string();
    let Some(reason) = error.reason() else { return format!("http2: {text}") };
    let frame = if error.is_go_away() {
        "GOAWAY"
    } else if error.is_reset() {
        "RST_STREAM"
    } else {
        return format!("http2: {text}");
    };
    let way = if error.is_remote() { "received" } else { "sent" };
    // The library shows the debug data of a GOAWAY after the description of its code, and nowhere else.
    let said = text.split_once(reason.description()).map_or("", |(_, said)| said);
    let said: String = said.chars().take(DEBUG_DATA).collect();
    format!("http2: {frame} {way}: {}{said}", code(reason))
}

/// Formats an error code by name and number.
fn code(reason: h2::Reason) -> String {
    format!("{reason:?} ({})", u32::from(reason))
}

/// Characters of a GOAWAY's debug data that are shown.
const DEBUG_DATA: usize = 200;
