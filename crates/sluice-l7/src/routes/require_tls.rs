//! Virtual hosts that require TLS.
//!
//! Owns: which requests must repeat themselves over TLS. Refuses to know: rules, and the response. Keeps: the scheme is
//! that of the client, as the connection or a trusted proxy says; a source that is not known counts as external.

use std::net::IpAddr;

use sluice_core::choice;

use super::RouteInput;

choice! {
    /// Which requests must use TLS.
    pub enum RequireTls {
        /// All requests.
        All = "all",
        /// Those from outside: whose source is neither loopback nor a private address.
        External = "external",
    }
}

impl RequireTls {
    /// Whether the request should have come over TLS and has not.
    pub(super) fn refuses(self, subject: &RouteInput<'_>) -> bool {
        subject.head.scheme() != "https"
            && match self {
                Self::All => true,
                Self::External => !subject.source.ip().is_some_and(is_internal),
            }
    }
}

/// Whether an address is loopback or private: RFC 1918, RFC 4193.
fn is_internal(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use sluice_codec::Head;
    use sluice_core::connection::Peer;

    #[test]
    fn external_requests_are_those_from_other_networks() {
        let runtime = Runtime::default();
        let refuses = |require: RequireTls, scheme: &str, source: Option<&str>| {
            let head = Head::request("GET", scheme, "a.test", "/");
            let peer = |ip: &str| Peer::Ip((ip.parse::<IpAddr>().unwrap(), 0).into());
            let source = source.map_or(Peer::Unknown, peer);
            let (conn, values) = (None, None);
            let input =
                RouteInput { head: &head, source, conn, values, runtime: &runtime, random: 0 };
            require.refuses(&input)
        };
        for (source, external) in [
            (Some("192.0.2.1"), true),
            (Some("2001:db8::1"), true),
            (Some("172.32.0.1"), true),
            (Some("172.31.0.1"), false),
            (Some("127.0.0.9"), false),
            (Some("::ffff:10.0.0.1"), false),
            (Some("fd00::1"), false),
            (Some("::1"), false),
            (None, true),
        ] {
            assert_eq!(refuses(RequireTls::External, "http", source), external, "{source:?}");
            assert!(refuses(RequireTls::All, "http", source), "{source:?}");
            assert!(!refuses(RequireTls::All, "https", source), "{source:?}");
            assert!(!refuses(RequireTls::External, "https", source), "{source:?}");
        }
    }
}
