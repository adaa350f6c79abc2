//! Forwarding headers: what a request reports about the hops in front of Sluice, and what Sluice reports to endpoints.
//!
//! Owns: `x-forwarded-for`, `x-forwarded-proto` and `forwarded`. Refuses to know: routes. Keeps: only trusted hops are
//! believed; what a client claims about itself beyond them is forwarded but decides nothing, and cannot hide what they
//! report. An entry of a trusted hop that cannot be parsed makes the source unknown; the hop's own address is never
//! used instead.

use std::net::{IpAddr, SocketAddr};

use sluice_codec::{Head, Known};
use sluice_core::connection::Peer;
use smallvec::SmallVec;

/// How forwarding headers are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The number of proxies in front, counted from Sluice, that are trusted to report the client's address.
    pub trusted_hops: u32,
    /// The header in which they report it. No other header is read: a client could have written it.
    pub trusted_header: TrustedHeader,
    /// What to do with `Forwarded`.
    pub forwarded: Forwarded,
    /// The scheme of all requests, whatever they report or arrive over.
    pub scheme: Option<ClientScheme>,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            trusted_hops: 0,
            trusted_header: TrustedHeader::XForwardedFor,
            forwarded: Forwarded::Append,
            scheme: None,
        }
    }
}

sluice_core::choice! {
    /// A scheme that requests are taken to have.
    pub enum ClientScheme {
        /// Plaintext.
        Http = "http",
        /// TLS.
        Https = "https",
    }
}

sluice_core::choice! {
    /// The header in which trusted proxies report the client's address.
    pub enum TrustedHeader {
        /// X-Forwarded-For: a list of addresses.
        XForwardedFor = "x-forwarded-for",
        /// Forwarded (RFC 7239): the `for` parameter of its elements.
        Forwarded = "forwarded",
    }
}

sluice_core::choice! {
    /// What to do with a `Forwarded` header (RFC 7239) in a request.
    pub enum Forwarded {
        /// Appends this hop to it, as to x-forwarded-for; a request without the header gets none.
        Append = "append",
        /// Removes it, so that an endpoint that reads it sees nothing that a client made up.
        Remove = "remove",
    }
}

impl Edge {
    /// Sets the scheme and the forwarding headers of a request from `peer`, whose address is `address` as text,
    /// received over TLS or not; returns the source of the request.
    pub fn apply(self, head: &mut Head, peer: Peer, address: &str, tls: bool) -> Peer {
        let claim = self.trusted_hops.checked_sub(1).and_then(|nth| self.claim(head, nth));
        let source = match claim {
            None => peer,
            Some(HopClaim::Address(ip)) => Peer::Ip((ip, 0).into()),
            Some(HopClaim::Unreadable) => Peer::Unknown,
        };
        let scheme = self.scheme(head, tls);
        head.set_scheme(scheme.as_bytes());
        head.set_known(Known::XForwardedProto, scheme.as_bytes());
        match self.forwarded {
            _ if head.get(Known::Forwarded).is_none() => {}
            Forwarded::Append => {
                let element = forwarded_element(peer, scheme);
                append(head, Known::Forwarded, element.as_bytes());
            }
            Forwarded::Remove => {
                head.remove_known(Known::Forwarded);
            }
        }
        match head.get(Known::XForwardedFor) {
            _ if address.is_empty() => {}
            None => head.append_known(Known::XForwardedFor, address.as_bytes()),
            Some(_) => append(head, Known::XForwardedFor, address.as_bytes()),
        }
        source
    }

    /// The source that the hop `nth` from the right reports; `None` if there are fewer entries.
    fn claim(self, head: &Head, nth: u32) -> Option<HopClaim> {
        let address = match self.trusted_header {
            TrustedHeader::XForwardedFor => from_the_right(head, Known::XForwardedFor, nth)?,
            TrustedHeader::Forwarded => forwarded_for(from_the_right(head, Known::Forwarded, nth)?),
        };
        Some(address_in(address).map_or(HopClaim::Unreadable, HopClaim::Address))
    }

    /// The scheme that the client used: what the trusted hop reports in the last entry, or else what Sluice saw itself.
    fn scheme(self, head: &Head, tls: bool) -> &'static str {
        if let Some(scheme) = self.scheme {
            return scheme.word();
        }
        let last = || from_the_right(head, Known::XForwardedProto, 0);
        let forwarded = (self.trusted_hops > 0).then(last).flatten();
        match (forwarded, tls) {
            (Some(b"https"), _) | (_, true) if forwarded != Some(b"http") => "https",
            _ => "http",
        }
    }
}

/// What a header reports as the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HopClaim {
    Address(IpAddr),
    /// Not an address; the source is unknown, but it is not the hop that forwarded the request.
    Unreadable,
}

/// The entry `nth` from the right of a header that lists hops, across all its lines. Nothing to the left of it is read,
/// so nothing there can hide it.
fn from_the_right(head: &Head, header: Known, nth: u32) -> Option<&[u8]> {
    let lines: SmallVec<[&[u8]; 4]> = head.values(header.text().as_bytes()).collect();
    let entries = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    let nth = usize::try_from(nth).ok()?;
    entries.map(<[u8]>::trim_ascii).nth(nth)
}

/// Parses an address as hops write it: `203.0.113.9`, `203.0.113.9:4711`, `2001:db8::1`, `[2001:db8::1]:4711`.
fn address_in(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    // A zone names a link of the host that wrote it, RFC 4007 §11.
    let ip = bare.split('%').next().unwrap_or(bare).parse::<IpAddr>().ok();
    ip.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

/// The value of `for` in an element of `Forwarded`, RFC 7239 §4; empty if there is none.
fn forwarded_for(element: &[u8]) -> &[u8] {
    let pairs = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = pairs.rev().find_map(|pair| {
        let (name, value) = pair.split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    });
    let value = value.unwrap_or_default();
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// This hop as an element of `Forwarded`, RFC 7239 §6.
fn forwarded_element(peer: Peer, scheme: &str) -> String {
    match peer.ip().map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => format!("for={ip};proto={scheme}"),
        Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\";proto={scheme}"),
        None => format!("for=unknown;proto={scheme}"),
    }
}

/// The address of a client as text; empty if it has none.
pub fn address_of(peer: Peer) -> String {
    peer.ip().map_or_else(String::new, |ip| ip.to_canonical().to_string())
}

/// Appends an entry to an existing header that lists hops.
fn append(head: &mut Head, header: Known, entry: &[u8]) {
    let mut all: Vec<&[u8]> = head.values(header.text().as_bytes()).collect();
    all.push(entry);
    let joined = all.join(&b", "[..]);
    head.set_known(header, &joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::Ip(([127, 0, 0, 9], 5).into())
    }

    fn edge(hops: u32) -> Edge {
        Edge { trusted_hops: hops, ..Edge::default() }
    }

    /// Applies an edge to a request with these lines of a header; returns what endpoints receive, and the source.
    fn applied(edge: Edge, name: &[u8], lines: &[&[u8]]) -> (Vec<u8>, Peer) {
        let mut head = Head::request("GET", "", "a", "/");
        lines.iter().for_each(|line| head.append(name, line));
        let source = edge.apply(&mut head, peer(), &address_of(peer()), false);
        (head.get_named(name).unwrap_or_default().to_vec(), source)
    }

    fn from(hops: u32, lines: &[&[u8]]) -> Peer {
        applied(edge(hops), b"x-forwarded-for", lines).1
    }

    fn ip(text: &str) -> Peer {
        Peer::Ip((text.parse::<IpAddr>().unwrap(), 0).into())
    }

    #[test]
    fn endpoints_are_told_of_every_hop() {
        let forwarded = |lines: &[&[u8]]| applied(edge(0), b"x-forwarded-for", lines).0;
        assert_eq!(forwarded(&[]), b"127.0.0.9");
        assert_eq!(forwarded(&[b"1.1.1.1"]), b"1.1.1.1, 127.0.0.9");
        assert_eq!(forwarded(&[b"\xff", b"1.1.1.1"]), b"\xff, 1.1.1.1, 127.0.0.9");
    }

    #[test]
    fn the_hop_that_is_trusted_says_who_the_client_is() {
        assert_eq!(from(0, &[b"1.1.1.1"]), peer());
        assert_eq!(from(1, &[b"1.1.1.1", b"2.2.2.2"]), ip("2.2.2.2"));
        assert_eq!(from(2, &[b"1.1.1.1, 2.2.2.2"]), ip("1.1.1.1"));
        assert_eq!(from(2, &[b"0.0.0.0,1.1.1.1", b"2.2.2.2"]), ip("1.1.1.1"));
        assert_eq!(from(3, &[b"1.1.1.1, 2.2.2.2"]), peer());
        for (entry, address) in [
            (&b"203.0.113.9:4711"[..], "203.0.113.9"),
            (b"[2001:db8::1]:4711", "2001:db8::1"),
            (b"[2001:db8::1]", "2001:db8::1"),
            (b" 2001:db8::1 ", "2001:db8::1"),
            (b"fe80::1%eth0", "fe80::1"),
        ] {
            assert_eq!(from(1, &[entry]), ip(address), "{}", entry.escape_ascii());
        }
    }

    #[test]
    fn a_client_cannot_hide_what_the_hop_says() {
        for left in [&b"\xff"[..], b"\"", b",,", b"unknown", b"for=1.1.1.1", b"\x09"] {
            let joined = [left, b", 2.2.2.2"].concat();
            assert_eq!(from(1, &[&joined]), ip("2.2.2.2"), "{}", left.escape_ascii());
            assert_eq!(from(1, &[left, b"2.2.2.2"]), ip("2.2.2.2"), "{}", left.escape_ascii());
        }
    }

    #[test]
    fn what_cannot_be_read_is_nobody() {
        for entry in
            [&b"nonsense"[..], b"", b"\xff", b"1.1.1.1:", b"1.1.1.1:x", b"[1.1.1.1", b"_hidden"]
        {
            assert_eq!(from(1, &[b"1.1.1.1", entry]), Peer::Unknown, "{}", entry.escape_ascii());
        }
    }

    #[test]
    fn forwarded_is_treated_by_the_same_rules() {
        let forwarded = |hops| Edge { trusted_header: TrustedHeader::Forwarded, ..edge(hops) };
        let apply = |edge, lines: &[&[u8]]| applied(edge, b"forwarded", lines);
        assert_eq!(apply(forwarded(0), &[]).0, b"");
        assert_eq!(apply(edge(0), &[b"for=1.1.1.1"]).0, b"for=1.1.1.1, for=127.0.0.9;proto=http");
        for (line, source) in [
            (&b"for=1.1.1.1, for=2.2.2.2;proto=https"[..], ip("2.2.2.2")),
            (b"for=\", for=2.2.2.2", ip("2.2.2.2")),
            (b"proto=http; For=\"[2001:db8::1]:80\"", ip("2001:db8::1")),
            (b"for=_hidden", Peer::Unknown),
            (b"proto=http", Peer::Unknown),
        ] {
            assert_eq!(apply(forwarded(1), &[line]).1, source, "{}", line.escape_ascii());
        }
        let remove = Edge { forwarded: Forwarded::Remove, ..forwarded(1) };
        assert_eq!(apply(remove, &[b"for=1.1.1.1"]), (Vec::new(), ip("1.1.1.1")));
    }

    #[test]
    fn a_header_that_the_hops_do_not_write_says_nothing() {
        let mut head = Head::request("GET", "", "a", "/");
        head.append(b"forwarded", b"for=1.1.1.1");
        assert_eq!(edge(1).apply(&mut head, peer(), "", false), peer());
        let forwarded = Edge { trusted_header: TrustedHeader::Forwarded, ..edge(1) };
        let mut head = Head::request("GET", "", "a", "/");
        head.append(b"x-forwarded-for", b"1.1.1.1");
        assert_eq!(forwarded.apply(&mut head, peer(), "", false), peer());
    }

    #[test]
    fn the_scheme_is_what_was_seen_unless_a_trusted_hop_says() {
        let scheme = |hops, forwarded: &[&str], tls| {
            let mut head = Head::request("GET", "", "a", "/");
            forwarded
                .iter()
                .for_each(|forwarded| head.append(b"x-forwarded-proto", forwarded.as_bytes()));
            edge(hops).apply(&mut head, peer(), &address_of(peer()), tls);
            let passed: Vec<&[u8]> = head.values(b"x-forwarded-proto").collect();
            assert_eq!(passed, [head.scheme().as_bytes()]);
            head.scheme().to_owned()
        };
        assert_eq!(scheme(0, &["https"], false), "http");
        assert_eq!(scheme(1, &["https"], false), "https");
        assert_eq!(scheme(1, &["http"], true), "http");
        assert_eq!(scheme(1, &["gopher"], true), "https");
        assert_eq!(scheme(1, &[], true), "https");
        assert_eq!(scheme(1, &["https", "http"], false), "http");
        assert_eq!(scheme(1, &["https, http"], false), "http");
        assert_eq!(scheme(1, &["http", "https"], false), "https");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_of_the_client_stand_for_the_hop(
            left in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
            hops in 1_u32..4,
        ) {
            let line = [&left[..], b", 9.9.9.9"].concat();
            let source = from(hops, &[&line]);
            if hops == 1 {
                proptest::prop_assert_eq!(source, ip("9.9.9.9"));
            } else if line.iter().filter(|byte| **byte == b',').count() >= hops as usize {
                proptest::prop_assert_ne!(source, peer());
            }
        }
    }

    #[test]
    fn a_scheme_of_the_operator_counts_whatever_arrives() {
        let https = Edge { scheme: Some(ClientScheme::Https), ..edge(1) };
        let mut head = Head::request("GET", "http", "a.test", "/");
        head.append(b"x-forwarded-proto", b"http");
        https.apply(&mut head, Peer::Unknown, "", false);
        assert_eq!(head.scheme(), "https");
        assert_eq!(head.get_named(b"x-forwarded-proto"), Some(&b"https"[..]));
    }
}
