//! Client addresses from forwarding headers: no bytes to the left of the trusted entry change the client, and the hop
//! that forwarded a request is never taken for the client once there are enough entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::Head;
use sluice_core::connection::Peer;
use sluice_l7::edge::{Edge, Forwarded, TrustedHeader, address_of};

fuzz_target!(|input: &[u8]| {
    let Some((first, left)) = input.split_first() else { return };
    let peer = Peer::Ip(([192, 0, 2, 1], 7).into());
    let name: &[u8] = if first & 1 == 0 { b"x-forwarded-for" } else { b"forwarded" };
    let trusted: &[u8] = if first & 1 == 0 { b"198.51.100.9:4711" } else { b"for=198.51.100.9" };
    let trusted_header =
        if first & 1 == 0 { TrustedHeader::XForwardedFor } else { TrustedHeader::Forwarded };
    let forwarded = if first & 2 == 0 { Forwarded::Append } else { Forwarded::Remove };
    let apply = |hops: u32, lines: &[&[u8]]| {
        let mut head = Head::request("GET", "http", "a", "/");
        lines.iter().for_each(|line| head.append(name, line));
        head.append(b"x-forwarded-proto", left);
        let edge = Edge { trusted_hops: hops, trusted_header, forwarded, scheme: None };
        let source = edge.apply(&mut head, peer, &address_of(peer), first & 4 != 0);
        assert!(matches!(head.scheme(), "http" | "https"));
        source
    };
    let joined = [left, b",", trusted].concat();
    for lines in [&[&joined[..]][..], &[left, trusted]] {
        let source = apply(1, lines);
        assert_eq!(source.ip(), Some([198, 51, 100, 9].into()), "{}", left.escape_ascii());
        // One entry further to the left: the value of an untrusted party, or none.
        assert_ne!(apply(2, lines), peer, "{}", left.escape_ascii());
    }
    assert_eq!(apply(0, &[left]), peer);
});
