//! The sections of HTTP on a chain.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use sluice_core::settings::{OrNone, ShortForm, Size, Window};
use sluice_core::{Name, Spanned, choice, section};
use sluice_l7::edge::{Forwarded, TrustedHeader};
use sluice_l7::hygiene::{EscapedSlashes, Underscores};
use sluice_l7::plan::Versions;

use super::FilterUse;

choice! {
    /// What becomes of the case of field names.
    pub enum HeaderCase {
        /// They become lower case, as HTTP/2 has them.
        Lower = "lower",
        /// They stay as they came, where both sides speak HTTP/1.
        Keep = "keep",
    }
}

section! {
    /// HTTP/1 and HTTP/2 with clients. The short form is the name of the routes.
    pub struct Http {
        /// The routes.
        pub routes: Spanned<Name>,
        /// Filters that requests pass, in order; see the page on filters.
        pub filters: Vec<FilterUse>,
        /// Which versions are spoken.
        pub versions: Versions = "any",
        /// Proxies in front that are trusted to tell who the client is, in trusted_header.
        pub trusted_hops: u32 = "0",
        /// The header in which those proxies tell who the client is. No other is read.
        pub trusted_header: TrustedHeader = "x-forwarded-for",
        /// What happens to a Forwarded header (RFC 7239) on its way to endpoints.
        pub forwarded: Forwarded = "append",
        /// What is done to paths before anybody looks at them.
        pub path: PathHygiene,
        /// What becomes of field names with an underscore, which some servers read as a hyphen.
        pub underscores: Underscores = "keep",
        /// What becomes of the case of field names.
        pub header_case: HeaderCase = "lower",
        /// Bytes of a head at most; a larger one is answered 431.
        pub head_bytes: Size = "60KiB",
        /// Fields of a head at most.
        pub head_fields: u32 = "100",
        /// How long the head of a request may take, from its first byte or from accept.
        pub head_timeout: Duration = "10s",
        /// How long a client may take between two parts of a body.
        pub body_timeout: Duration = "60s",
        /// How long a connection may wait for its next request.
        pub idle_timeout: OrNone<Duration> = "5m",
        /// Requests that one connection may carry.
        pub requests_per_connection: OrNone<NonZeroU64> = "none",
        /// HTTP/2 with clients.
        pub http2: Http2,
    }
}

impl ShortForm for Http {
    const KEY: &'static str = "routes";
}

section! {
    /// What is done to paths before anybody looks at them.
    pub struct PathHygiene {
        /// Remove dot segments and decode what need not be encoded, RFC 3986 section 6.2.2.
        pub normalize: bool = "true",
        /// Take several slashes for one.
        pub merge_slashes: bool = "false",
        /// What becomes of %2F and %5C.
        pub escaped_slashes: EscapedSlashes = "keep",
    }
}

section! {
    /// HTTP/2 with clients.
    pub struct Http2 {
        /// Streams that a client may have open at once.
        pub streams: NonZeroU32 = "128",
        /// Bytes of one stream's body that a client may send ahead.
        pub stream_window: Window = "256KiB",
        /// The same for all streams of a connection together; none leaves each stream its own window. A smaller one
        /// than streams x stream_window lets streams whose endpoint is slow stop the others of the connection.
        pub connection_window: OrNone<Window> = "none",
        /// Streams that a client may reset before they were looked at; more is a flood.
        pub resets: u32 = "64",
        /// Time between pings to a client that has streams open and says nothing.
        pub ping_interval: OrNone<Duration> = "30s",
        /// How long a ping may go unanswered.
        pub ping_timeout: Duration = "20s",
    }
}
