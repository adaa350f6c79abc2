#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

use super::*;
use proptest::prelude::*;

fn ends(source: &str, destination: &str) -> (SocketAddr, SocketAddr) {
    (source.parse().unwrap(), destination.parse().unwrap())
}

/// Checks a header followed by payload as a whole, and that every truncated header needs more bytes.
#[track_caller]
fn check(header: &[u8], expected: Option<(SocketAddr, SocketAddr)>) {
    let stream = [header, b"payload"].concat();
    assert_eq!(read(&stream), Header::Present { length: header.len(), ends: expected });
    for cut in 0..header.len() {
        assert_eq!(read(&header[..cut]), Header::NeedMore, "cut at {cut}");
    }
}

#[test]
fn both_versions_both_families() {
    let v4 = ends("192.0.2.1:1000", "192.0.2.2:443");
    let v6 = ends("[2001:db8::1]:1000", "[2001:db8::2]:443");
    for (source, destination) in [v4, v6] {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let header = write(version, Peer::Ip(source), Peer::Ip(destination));
            check(&header, Some((source, destination)));
        }
    }
    check(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n", Some(v4));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        check(&write(version, Peer::Unix, Peer::Unix), None);
    }
    let mapped = ends("[::ffff:192.0.2.1]:1000", "[2001:db8::2]:443");
    check(&write(ProxyVersion::V2, Peer::Ip(v4.0), Peer::Ip(v6.1)), Some(mapped));
}

#[test]
fn tlvs_are_skipped_and_local_names_nobody() {
    let mut header = write(
        ProxyVersion::V2,
        Peer::Ip(ends("192.0.2.1:1", "192.0.2.2:2").0),
        Peer::Ip(ends("192.0.2.1:1", "192.0.2.2:2").1),
    );
    header[15] += 5;
    header.extend([2, 0, 2, b'h', b'2']);
    check(&header, Some(ends("192.0.2.1:1", "192.0.2.2:2")));
    header[12] = 0x20;
    check(&header, None);
}

#[test]
fn what_is_wrong_is_malformed_and_what_is_else_is_absent() {
    for wrong in [
        &b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\n"[..],
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 99999\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04\x01\x02\x03\x04",
    ] {
        assert!(matches!(read(wrong), Header::Malformed(_)), "{wrong:?}");
    }
    let long = [b"PROXY TCP4 ", &[b'1'; 100][..]].concat();
    assert!(matches!(read(&long), Header::Malformed(_)));
    for other in [&b"GET / HTTP/1.1\r\n"[..], b"PROPER", b"\x16\x03\x01", b"\r\n\r\nGET"] {
        assert_eq!(read(other), Header::Absent, "{other:?}");
    }
}

proptest! {
    #[test]
    fn noise_never_panics_and_lengths_fit(
        start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x20"]),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [start, &noise].concat();
        if let Header::Present { length, .. } = read(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }
}
