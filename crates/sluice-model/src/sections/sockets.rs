//! The sections of connections to endpoints: sockets, HTTP/2, HTTP/3.
//!
//! Owns: what a cluster says of them. Refuses to know: which connections there are. Keeps: what is omitted is as the system has
//! it.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use sluice_core::settings::{OrNone, OrZero, ShortForm, Window};
use sluice_core::{Spanned, choice, section};

use super::Congestion;

section! {
    /// Sockets to endpoints that have an IP address, those of health checks included; not for `protocol: http3`. A setting
    /// of TCP has no effect on UDP flows.
    pub struct ClusterSocket {
        /// TCP: probes of idle connections; `true` for those of the system. If omitted, none are sent.
        pub keepalive: Option<Keepalive>,
        /// TCP: how long sent data may be unacknowledged before the connection fails (TCP_USER_TIMEOUT).
        pub user_timeout: Option<Duration>,
        /// The DSCP of packets, from 0 to 63.
        pub dscp: Option<u16>,
        /// Addresses of this host to connect from, one for IPv4, one for IPv6. Connections to listeners of Sluice itself are
        /// made from their own address.
        pub source: Vec<Spanned<IpAddr>>,
    }
}

section! {
    /// HTTP/2 on connections to endpoints; for `protocol: http2` and `auto`. `reuse` bounds their streams, requests and idle
    /// time.
    pub struct ClusterHttp2 {
        /// Flow-control window of a stream: bytes of a response that an endpoint may send ahead.
        pub stream_window: Window = "256KiB",
        /// Flow-control window of a connection, for all its streams together; `none` leaves each stream its own window.
        pub connection_window: OrNone<Window> = "none",
        /// Time between pings to an endpoint.
        pub ping_interval: OrNone<Duration> = "30s",
        /// How long to wait for the response to a ping; then the connection is closed.
        pub ping_timeout: Duration = "20s",
    }
}

section! {
    /// HTTP/3 on connections to endpoints; for `protocol: http3`, and for `auto`, which then attempts HTTP/3 beside TCP.
    /// `reuse` bounds their streams, requests and age, and how long they may be without a request.
    pub struct ClusterHttp3 {
        /// Whether `protocol: auto` attempts HTTP/3.
        pub enabled: bool = "true",
        /// With `protocol: auto`: when HTTP/3 is attempted, and what follows if that fails.
        pub race: Option<Spanned<Http3Race>>,
        /// How long a connection may receive nothing before it is given up; pings keep it from that.
        pub idle_timeout: Duration = "60s",
        /// Time between pings on an idle connection, which show that the endpoint is still there and keep the mappings of
        /// NATs; less than `idle_timeout`.
        pub ping_interval: OrNone<Duration> = "25s",
        /// Flow-control window of a stream: bytes of a response that an endpoint may send ahead.
        pub stream_window: Window = "256KiB",
        /// Flow-control window of a connection, for all its streams together; `none` leaves each stream its own window.
        pub connection_window: OrNone<Window> = "none",
        /// The congestion control algorithm.
        pub congestion: Congestion = "cubic",
    }
}

impl ShortForm for ClusterHttp3 {
    const KEY: &'static str = "enabled";
}

section! {
    /// HTTP/3 beside TCP. While a connection over TCP is there, requests use it until HTTP/3 is established.
    pub struct Http3Race {
        /// When HTTP/3 is attempted.
        pub when: Http3When = "advertised",
        /// The head start of HTTP/3: how long a request without a connection waits for it before one over TCP is made too.
        pub tcp_delay: OrZero = "300ms",
        /// How long HTTP/3 is not attempted at an endpoint after it failed there; doubled by each further failure.
        pub retry: Duration = "5m",
        /// The longest such pause.
        pub max_retry: Duration = "1d",
    }
}

choice! {
    /// When HTTP/3 is attempted at an endpoint that may also be reached over TCP.
    pub enum Http3When {
        /// Once a response of the endpoint has advertised it (`alt-svc`), as long as that holds.
        Advertised = "advertised",
        /// From the first request, on the port of the endpoint; on another one if a response names it.
        Always = "always",
    }
}

section! {
    /// Probes of idle TCP connections. What is omitted is as the system has it.
    pub struct Keepalive {
        /// How long a connection is idle before the first probe, in whole seconds.
        pub idle: Option<Duration>,
        /// The time between probes, in whole seconds.
        pub interval: Option<Duration>,
        /// The number of probes without a response after which the connection fails.
        pub probes: Option<NonZeroU32>,
    }
}
