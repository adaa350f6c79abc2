//! How the names of endpoints are resolved, and which of their addresses may be used.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use sluice_core::settings::{OrNone, OrZero, Plain, bind_scalar};
use sluice_core::value::{parse_duration, show_duration};
use sluice_core::{Cidr, Diags, Node, Path, Setting, Shape, Spanned, choice, section};
use sluice_l7::words::HeaderName;
use sluice_upstream::ForwardPattern;

section! {
    /// DNS resolution of host names and services.
    pub struct Dns {
        /// What the addresses of a host are: an endpoint each, or together one.
        pub mode: NameMode = "strict",
        /// Which addresses are asked for.
        pub family: Family = "all",
        /// Time between look-ups; `ttl` uses the TTL of the DNS response, within `min_ttl` and `max_ttl`.
        pub refresh: Refresh = "ttl",
        /// Minimum time between look-ups that follow the TTL; if omitted, 1s, and 5s with `forward`.
        pub min_ttl: Option<Duration>,
        /// Maximum time between look-ups that follow the TTL.
        pub max_ttl: Duration = "5m",
        /// Pause after the first failed look-up; it doubles with each further one (exponential backoff, with jitter).
        pub retry: Duration = "500ms",
        /// Maximum pause after failed look-ups.
        pub max_retry: Duration = "30s",
        /// How long to keep the last good DNS response while look-ups fail; `none` keeps it forever, `0s` drops it at
        /// once.
        pub serve_stale: OrNone<OrZero> = "none",
        /// DNS servers; if omitted, those of the system.
        pub servers: Vec<SocketAddr>,
        /// Whether HTTPS records (RFC 9460) of host names are asked for first: they name hosts, ports and priorities, and
        /// where HTTP/3 is spoken. Names without any are looked up as usual. Needs `tls`.
        pub https_records: bool = "false",
    }
}

choice! {
    /// What the addresses of a host name are.
    pub enum NameMode {
        /// Each address is an endpoint (Envoy's STRICT_DNS).
        Strict = "strict",
        /// The addresses are one endpoint (Envoy's LOGICAL_DNS): a connection goes to the first that accepts it, with
        /// Happy Eyeballs; connections stay when the addresses change.
        Logical = "logical",
    }
}

choice! {
    /// Which addresses of a host name are asked for.
    pub enum Family {
        /// IPv4 and IPv6.
        All = "all",
        /// IPv4 only.
        V4 = "v4",
        /// IPv6 only.
        V6 = "v6",
        /// IPv4; IPv6 if there is none.
        V4Preferred = "v4_preferred",
        /// IPv6; IPv4 if there is none.
        V6Preferred = "v6_preferred",
    }
}

section! {
    /// Which addresses names may resolve to. Denied are, in every notation: loopback, link-local, private, unspecified,
    /// multicast and reserved addresses, and listeners of this process. The most specific block that contains an
    /// address decides.
    pub struct Egress {
        /// Address blocks that are allowed all the same.
        pub allow: Vec<Spanned<Cidr>>,
        /// More address blocks that are denied.
        pub deny: Vec<Spanned<Cidr>>,
        /// Whether nothing but `deny` is denied: private addresses and listeners of this process are allowed, too.
        pub any: bool = "false",
    }
}

section! {
    /// A forward proxy: clients name the hosts, which are looked up when they are first named. Names are what clients say,
    /// so restrict the clients, or the hosts.
    pub struct Forward {
        /// What names the host.
        pub by: ForwardBy = "name",
        /// With `by: destination`: a header of HTTP requests with the address and port, such as `192.0.2.1:80`, which go there
        /// instead. A client can name any address: see `egress`.
        pub header: Option<Spanned<HeaderName>>,
        /// With `by: destination`: the port in place of that of the destination.
        pub to_port: Option<Spanned<NonZeroU16>>,
        /// Hosts that clients may name: exact names, *.suffix for any name below it, or IP addresses. If omitted, any
        /// name and any IP address.
        pub hosts: Vec<ForwardPattern>,
        /// Ports that clients may name. The first is used if they name none; a server name has none. If omitted, 443; 80
        /// for HTTP requests without `tls`.
        pub ports: Vec<Spanned<u16>>,
        /// Maximum number of hosts known at a time; at the maximum, a host that has been unused for 10s makes room, or
        /// else a new one is refused (`upstream.limit`). At most 16384.
        pub max_hosts: NonZeroU32 = "1024",
        /// How long a host is known after its last use.
        pub host_ttl: Duration = "5m",
    }
}

choice! {
    /// What names the host that a cluster with `forward` connects to.
    pub enum ForwardBy {
        /// The server name of a connection, or the host of an HTTP request.
        Name = "name",
        /// The address that the client connected to, before a firewall redirected the connection here
        /// (`original_destination` of the listener) or a proxy in front took it (`proxy_protocol`); Envoy's ORIGINAL_DST.
        /// Others get no endpoint.
        Destination = "destination",
    }
}

/// The default minimum time between look-ups that follow the TTL.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// The same for hosts that clients name, as in Envoy.
pub const FORWARD_MIN_TTL: Duration = Duration::from_secs(5);

/// Time between DNS look-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// The TTL of the DNS response.
    Ttl,
    /// A fixed interval.
    Every(Duration),
}

impl Setting for Refresh {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "ttl or a duration", |text| match text {
            "ttl" => Ok(Self::Ttl),
            "0" | "0s" => {
                Err("the interval between look-ups must not be zero; write `ttl` or at least 1s"
                    .into())
            }
            _ => parse_duration(text).map(Self::Every),
        })
    }

    fn shape() -> Shape {
        Shape::Text { what: "ttl or a duration", example: "ttl" }
    }

    fn show(&self) -> Plain {
        Plain::Text(match self {
            Self::Ttl => "ttl".into(),
            Self::Every(duration) => show_duration(*duration),
        })
    }
}
