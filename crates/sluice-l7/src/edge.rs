//! What a request says of the hops before Sluice, and what Sluice says to those behind it.
//!
//! Owns: `x-forwarded-for` and `x-forwarded-proto`. Refuses to know: routes.
//! Keeps: nobody is believed but the hops that are trusted; what a client claims about itself beyond
//! them is passed on and decides nothing.

use std::net::IpAddr;

use sluice_codec::{Head, Known};
use sluice_core::connection::Peer;

/// How forwarding is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// Proxies in front that are trusted to tell who the client is, counted from Sluice.
    pub trusted_hops: u32,
}

impl Edge {
    /// Dresses a request that came from `peer`, whose address is `address` as text, in TLS or not; gives
    /// who it is from.
    pub fn apply(self, head: &mut Head, peer: Peer, address: &str, tls: bool) -> Peer {
        let source = match self.trusted_hops {
            0 => peer,
            hops => claimed(head, hops).map_or(peer, |ip| Peer::Ip((ip, 0).into())),
        };
        let scheme: &[u8] = if tls { b"https" } else { b"http" };
        let told = head.get(Known::XForwardedProto).filter(|_| self.trusted_hops > 0);
        match told.map(<[u8]>::to_vec) {
            Some(told) if matches!(told.as_slice(), b"http" | b"https") => head.set_scheme(&told),
            _ => {
                head.set_scheme(scheme);
                if head.get(Known::XForwardedProto).is_some() {
                    head.set(Known::XForwardedProto.text().as_bytes(), scheme);
                } else {
                    head.append_known(Known::XForwardedProto, scheme);
                }
            }
        }
        if !address.is_empty() {
            append_address(head, address.as_bytes());
        }
        source
    }
}

/// The n-th address from the right.
fn claimed(head: &Head, hops: u32) -> Option<IpAddr> {
    let all: Vec<&[u8]> = head.values(Known::XForwardedFor.text().as_bytes()).collect();
    let joined = all.join(&b","[..]);
    let text = std::str::from_utf8(&joined).ok()?;
    let nth = usize::try_from(hops.checked_sub(1)?).ok()?;
    let address = text.rsplit(',').nth(nth)?.trim();
    address.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The address of a client as text; empty where it has none.
pub fn address_of(peer: Peer) -> String {
    peer.ip().map_or_else(String::new, |ip| ip.to_canonical().to_string())
}

fn append_address(head: &mut Head, address: &[u8]) {
    match head.get(Known::XForwardedFor) {
        None => head.append_known(Known::XForwardedFor, address),
        Some(_) => {
            let name = Known::XForwardedFor.text().as_bytes();
            let mut all: Vec<&[u8]> = head.values(name).collect();
            all.push(address);
            let joined = all.join(&b", "[..]);
            head.set(name, &joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::Ip(([127, 0, 0, 9], 5).into())
    }

    fn apply(hops: u32, before: &[&str]) -> (String, Option<IpAddr>) {
        let mut head = Head::request("GET", "", "a", "/");
        before.iter().for_each(|value| head.append(b"x-forwarded-for", value.as_bytes()));
        let source =
            Edge { trusted_hops: hops }.apply(&mut head, peer(), &address_of(peer()), false);
        let value = head.get(Known::XForwardedFor).unwrap_or_default();
        (String::from_utf8(value.to_vec()).unwrap(), source.ip())
    }

    #[test]
    fn who_is_believed() {
        let ip = |text: &str| text.parse().ok();
        assert_eq!(apply(0, &[]), ("127.0.0.9".into(), ip("127.0.0.9")));
        assert_eq!(apply(0, &["1.1.1.1"]), ("1.1.1.1, 127.0.0.9".into(), ip("127.0.0.9")));
        assert_eq!(apply(1, &["1.1.1.1", "2.2.2.2"]).1, ip("2.2.2.2"));
        assert_eq!(apply(2, &["1.1.1.1, 2.2.2.2"]).1, ip("1.1.1.1"));
        assert_eq!(apply(3, &["1.1.1.1, 2.2.2.2"]).1, ip("127.0.0.9"));
        assert_eq!(apply(1, &["nonsense"]).1, ip("127.0.0.9"));
    }

    #[test]
    fn the_scheme_is_what_was_seen_unless_a_trusted_hop_says() {
        let scheme = |hops, told: Option<&str>, tls| {
            let mut head = Head::request("GET", "", "a", "/");
            if let Some(told) = told {
                head.append(b"x-forwarded-proto", told.as_bytes());
            }
            Edge { trusted_hops: hops }.apply(&mut head, peer(), &address_of(peer()), tls);
            head.scheme().to_owned()
        };
        assert_eq!(scheme(0, Some("https"), false), "http");
        assert_eq!(scheme(1, Some("https"), false), "https");
        assert_eq!(scheme(1, Some("gopher"), true), "https");
        assert_eq!(scheme(1, None, true), "https");
    }
}
