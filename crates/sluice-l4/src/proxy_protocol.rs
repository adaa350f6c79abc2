//! The PROXY header, versions 1 and 2: read from the proxy in front, written to endpoints.
//!
//! Owns: the two encodings. Refuses to know: which sources to trust and how long to wait. Keeps: the result does not
//! depend on how the bytes were segmented; bytes that are not a header are given back untouched.
//!
//! Source: "The PROXY protocol", HAProxy Technologies, version 2 of 2020/03/05.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sluice_core::connection::Peer;
use sluice_upstream::plan::ProxyVersion;

use sluice_core::reader::Reader;

#[cfg(test)]
mod tests;

const V1: &[u8] = b"PROXY ";
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, including CR LF.
const V1_MAX: usize = 107;

/// The longest body of version 2 that is accepted; senders with many TLVs stay far below.
const V2_BODY_MAX: usize = 4096;

/// What the beginning of a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A header of `length` bytes with source and destination, or with neither (LOCAL, UNKNOWN).
    Present {
        /// Bytes to remove from the stream.
        length: usize,
        /// Source and destination.
        ends: Option<(SocketAddr, SocketAddr)>,
    },
    /// No header.
    Absent,
    /// Something that begins like a header but is not one, and what is wrong with it.
    Malformed(&'static str),
    /// More bytes are needed.
    NeedMore,
}

/// Reads a header at the front of `prefix`.
pub fn read(prefix: &[u8]) -> Header {
    if begins(prefix, V2) {
        return if prefix.len() < V2.len() { Header::NeedMore } else { read_v2(prefix) };
    }
    if begins(prefix, V1) {
        return if prefix.len() < V1.len() { Header::NeedMore } else { read_v1(prefix) };
    }
    Header::Absent
}

/// Whether one is a prefix of the other.
fn begins(prefix: &[u8], word: &[u8]) -> bool {
    prefix.iter().zip(word).all(|(a, b)| a == b)
}

fn read_v1(prefix: &[u8]) -> Header {
    let window = prefix.get(..V1_MAX).unwrap_or(prefix);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if prefix.len() >= V1_MAX {
            Header::Malformed("version 1: no end of line within 107 bytes")
        } else {
            Header::NeedMore
        };
    };
    let line = window.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let Some(line) = line.and_then(|line| std::str::from_utf8(line).ok()) else {
        return Header::Malformed("version 1: the line is not text that ends with CR and LF");
    };
    let length = end.saturating_add(1);
    let mut words = line.split(' ').skip(1);
    match words.next() {
        Some("UNKNOWN") => Header::Present { length, ends: None },
        Some(family @ ("TCP4" | "TCP6")) => match read_v1_ends(words, family == "TCP4") {
            Some(ends) => Header::Present { length, ends: Some(ends) },
            None => Header::Malformed("version 1: an address or a port is malformed"),
        },
        _ => Header::Malformed("version 1: the protocol is not TCP4, TCP6 or UNKNOWN"),
    }
}

fn read_v1_ends<'a>(
    mut words: impl Iterator<Item = &'a str>,
    v4: bool,
) -> Option<(SocketAddr, SocketAddr)> {
    let mut address = || words.next()?.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == v4);
    let (source, destination) = (address()?, address()?);
    let mut port = || {
        let text = words.next()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| plain)
    };
    let ends = (SocketAddr::new(source, port()?), SocketAddr::new(destination, port()?));
    words.next().is_none().then_some(ends)
}

fn read_v2(prefix: &[u8]) -> Header {
    let mut reader = Reader(prefix.get(V2.len()..).unwrap_or_default());
    let (Some(version), Some(family), Some(size)) = (reader.u8(), reader.u8(), reader.u16()) else {
        return Header::NeedMore;
    };
    let size = usize::from(size);
    if version >> 4 != 2 || version & 0x0f > 1 {
        return Header::Malformed("version 2: unknown version or command");
    }
    if size > V2_BODY_MAX {
        return Header::Malformed("version 2: the header is longer than 4096 bytes");
    }
    let Some(body) = reader.take(size) else { return Header::NeedMore };
    let length = V2.len().saturating_add(4).saturating_add(size);
    let local = version & 0x0f == 0;
    let mut body = Reader(body);
    let ends = match family >> 4 {
        1 => read_v2_ends(|| body.array::<4>().map(|octets| Ipv4Addr::from(octets).into()))
            .map(|(source, destination)| (source, destination, body)),
        2 => read_v2_ends(|| body.array::<16>().map(|octets| Ipv6Addr::from(octets).into()))
            .map(|(source, destination)| (source, destination, body)),
        // Unspecified, or unix sockets, whose paths are of no use here.
        _ => return Header::Present { length, ends: None },
    };
    let ends = ends.and_then(|(source, destination, mut rest)| {
        Some((SocketAddr::new(source, rest.u16()?), SocketAddr::new(destination, rest.u16()?)))
    });
    match ends {
        _ if local => Header::Present { length, ends: None },
        Some(ends) => Header::Present { length, ends: Some(ends) },
        None => Header::Malformed("version 2: the header is too short for its addresses"),
    }
}

fn read_v2_ends(mut address: impl FnMut() -> Option<IpAddr>) -> Option<(IpAddr, IpAddr)> {
    Some((address()?, address()?))
}

/// Returns the header for a connection from `source` to `destination`.
pub fn write(version: ProxyVersion, source: Peer, destination: Peer) -> Vec<u8> {
    let ends = match (source.socket(), destination.socket()) {
        (Some(source), Some(destination)) => Some(same_family(source, destination)),
        _ => None,
    };
    match version {
        ProxyVersion::V1 => write_v1(ends),
        ProxyVersion::V2 => write_v2(ends),
    }
}

/// Both as IPv4 if both are IPv4, else both as IPv6.
fn same_family(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (a, b) = (canonical(a), canonical(b));
    if a.is_ipv4() == b.is_ipv4() {
        return (a, b);
    }
    let widen = |end: SocketAddr| match end.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    (widen(a), widen(b))
}

fn write_v1(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((source, destination)) = ends else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn write_v2(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = V2.to_vec();
    let Some((source, destination)) = ends else {
        // LOCAL: nothing is known about the client.
        header.extend([0x20, 0, 0, 0]);
        return header;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([0x21, 0x21, 0, 36]);
            for ip in [from, to] {
                header.extend(match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                });
            }
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}
