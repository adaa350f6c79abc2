//! Which requests share a bucket.
//!
//! Owns: the parts of a request that a limit may tell apart, and the key that they make. Refuses to know: rates. Keeps: what
//! a request does not have is a value of its own; two requests with different parts never make the same text.

use std::borrow::Cow;
use std::net::IpAddr;

use sluice_codec::Known;
use sluice_codec::names::is_token;
use sluice_core::values::check_name;
use sluice_core::{Cidr, Name};
use smallvec::SmallVec;

use crate::expression::RequestExpression;
use crate::header_values::{cookie, query_parameter};
use crate::host_name::bare_host;
use crate::hygiene::decode_graphic;
use crate::identity::who;
use crate::record::View;

/// A part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// Nothing: all requests share a bucket.
    All,
    /// The client: an IPv4 address or an IPv6 /64.
    SourceIp,
    /// The block of this prefix length around the client's IPv4 address, and of the other around its IPv6 address.
    SourceBlock(u8, u8),
    /// Who makes the request, as a filter has verified.
    Identity,
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter, decoded.
    Query(String),
    /// A value that filters share.
    Value(String),
    /// What an expression makes.
    Cel(Box<RequestExpression>),
    /// The path; its first segments, if a number is given.
    Path(Option<u16>),
    /// The host.
    Host,
    /// The method.
    Method,
    /// The rule.
    Route,
    /// The cluster that the rule names.
    Cluster,
}

sluice_core::text_setting! {
    RateKey, "all, source_ip, source_ip/BITS, identity, header:NAME, cookie:NAME, query:NAME, value:NAME, cel:EXPRESSION, path, path/SEGMENTS, host, method, route or cluster", "source_ip", parse_key, ToString::to_string;
}

const KINDS: &str = "all, source_ip, source_ip/BITS, identity, header:NAME, cookie:NAME, query:NAME, value:NAME, cel:EXPRESSION, path, path/SEGMENTS, host, method, route or cluster";

fn parse_key(text: &str) -> Result<RateKey, String> {
    let wrong = || format!("expected {KINDS}, not `{text}`");
    let number = |text: &str, max: u8| {
        text.parse::<u8>().ok().filter(|bits| (1..=max).contains(bits)).ok_or_else(wrong)
    };
    if let Some((kind, name)) = text.split_once(':') {
        let name = name.trim();
        return match kind {
            "header" if is_token(name.as_bytes()) => Ok(RateKey::Header(name.to_ascii_lowercase())),
            "cookie" if is_token(name.as_bytes()) => Ok(RateKey::Cookie(name.to_owned())),
            "query" if !name.is_empty() => Ok(RateKey::Query(name.to_owned())),
            "cel" => {
                RequestExpression::parse(name).map(|expression| RateKey::Cel(Box::new(expression)))
            }
            "value" => check_name(name).map(|()| RateKey::Value(name.to_owned())),
            _ => Err(wrong()),
        };
    }
    match text.split_once('/') {
        Some(("source_ip", bits)) => {
            let (v4, v6) = bits.split_once('/').unwrap_or((bits, "64"));
            Ok(RateKey::SourceBlock(number(v4, 32)?, number(v6, 128)?))
        }
        Some(("path", segments)) => {
            let segments = segments.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
            Ok(RateKey::Path(Some(segments)))
        }
        Some(_) => Err(wrong()),
        None => match text {
            "all" => Ok(RateKey::All),
            "source_ip" => Ok(RateKey::SourceIp),
            "identity" => Ok(RateKey::Identity),
            "path" => Ok(RateKey::Path(None)),
            "host" => Ok(RateKey::Host),
            "method" => Ok(RateKey::Method),
            "route" => Ok(RateKey::Route),
            "cluster" => Ok(RateKey::Cluster),
            _ => Err(wrong()),
        },
    }
}

impl std::fmt::Display for RateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::SourceIp => f.write_str("source_ip"),
            Self::SourceBlock(v4, 64) => write!(f, "source_ip/{v4}"),
            Self::SourceBlock(v4, v6) => write!(f, "source_ip/{v4}/{v6}"),
            Self::Identity => f.write_str("identity"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Value(name) => write!(f, "value:{name}"),
            Self::Cel(expression) => write!(f, "cel:{}", expression.source()),
            Self::Path(None) => f.write_str("path"),
            Self::Path(Some(segments)) => write!(f, "path/{segments}"),
            Self::Host => f.write_str("host"),
            Self::Method => f.write_str("method"),
            Self::Route => f.write_str("route"),
            Self::Cluster => f.write_str("cluster"),
        }
    }
}

/// The name of a limit: its own, or that of its keys.
pub(in crate::filters) fn name_of(own: Option<&Name>, keys: &[RateKey]) -> String {
    match (own, keys) {
        (Some(name), _) => name.to_string(),
        (None, []) => "all".into(),
        (None, keys) => keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
    }
}

/// What requests that are counted together have in common. Most have room in it without an allocation.
pub type KeyText = SmallVec<[u8; 64]>;

/// What a request has in common with others that are counted together; empty if all are.
pub fn text_of(keys: &[RateKey], of: &View<'_>) -> KeyText {
    let mut text = KeyText::new();
    keys.iter().for_each(|key| key.append(of, &mut text));
    text
}

impl RateKey {
    /// Appends what a request has of it, or that it has nothing.
    fn append(&self, of: &View<'_>, out: &mut KeyText) {
        match self {
            // All lines of a header one by one: otherwise each other line, or each other way to write them, would be another
            // key.
            Self::Header(name) => {
                let values = || of.request.values(name.as_bytes());
                put(out, Some(&values().count().to_le_bytes()));
                values().for_each(|value| put(out, Some(value)));
            }
            // Addresses as they are: to write them as text takes longer than all the rest.
            Self::SourceIp => put_block(out, of.summary.source.ip(), 32, 64),
            Self::SourceBlock(v4, v6) => put_block(out, of.summary.source.ip(), *v4, *v6),
            _ => put(out, self.read(of).as_deref()),
        }
    }

    /// What a request has of it. Several lines of a header have commas between them.
    pub fn read<'h>(&self, of: &View<'h>) -> Option<Cow<'h, [u8]>> {
        let (head, source) = (of.request, of.summary.source);
        let owned = |text: String| Some(Cow::Owned(text.into_bytes()));
        match self {
            Self::All => None,
            Self::SourceIp => owned(source_text(source.ip()?)),
            Self::SourceBlock(v4, v6) => owned(block_of(source.ip()?, *v4, *v6).to_string()),
            Self::Identity => owned(who(of.values, of.conn.tls())?.to_string()),
            Self::Header(name) => {
                let name = name.as_bytes();
                let mut lines = head.values(name);
                let first = lines.next()?;
                if lines.next().is_none() {
                    return head.get_named(name).map(Cow::Borrowed);
                }
                let others = head.values(name).skip(1);
                Some(Cow::Owned(others.fold(first.to_vec(), |mut all, line| {
                    all.push(b',');
                    all.extend_from_slice(line);
                    all
                })))
            }
            Self::Cookie(name) => {
                let lines = head.fields().filter(|(own, _)| Known::of(own) == Some(Known::Cookie));
                let mut found = lines.filter_map(|(_, line)| cookie(line, name.as_bytes()));
                found.next().map(Cow::Borrowed)
            }
            Self::Query(name) => {
                owned(decode_graphic(query_parameter(head.query().unwrap_or_default(), name)?))
            }
            Self::Value(name) => {
                let value = of.values.named(name).or_else(|| of.conn_values.named(name));
                owned(value?.to_string())
            }
            Self::Cel(expression) => owned(expression.text(&of.attributes(&of.subject()))?),
            Self::Path(segments) => {
                Some(Cow::Borrowed(first_segments(head.path_only(), *segments)))
            }
            Self::Host => owned(bare_host(head.authority()).into_owned()),
            Self::Method => Some(Cow::Borrowed(head.method_text().as_bytes())),
            Self::Route => owned(of.summary.route.as_ref()?.to_string()),
            Self::Cluster => owned(of.summary.destination.as_ref()?.to_string()),
        }
    }
}

/// An IPv4 address, or the /64 of an IPv6 address.
pub(crate) fn source_text(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        v6 => Cidr::around(v6, 64).to_string(),
    }
}

/// Appends a value with its length, or a mark that there is none.
fn put(out: &mut KeyText, value: Option<&[u8]>) {
    let length = value.map_or(u64::MAX, |value| value.len() as u64);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value.unwrap_or_default());
}

/// Appends the block around an address; the lengths of the prefixes are those of all requests.
fn put_block(out: &mut KeyText, ip: Option<IpAddr>, v4: u8, v6: u8) {
    match ip.map(|ip| block_of(ip, v4, v6).network()) {
        None => put(out, None),
        Some(IpAddr::V4(ip)) => put(out, Some(&ip.octets())),
        Some(IpAddr::V6(ip)) => put(out, Some(&ip.octets())),
    }
}

/// The block of one prefix length around an IPv4 address, and of the other around an IPv6 address.
pub(crate) fn block_of(ip: IpAddr, v4: u8, v6: u8) -> Cidr {
    let ip = ip.to_canonical();
    let bits = if matches!(ip, IpAddr::V4(_)) { v4 } else { v6 };
    Cidr::around(ip, bits)
}

/// The beginning of a path with so many segments; all of it without a number.
fn first_segments(path: &str, count: Option<u16>) -> &[u8] {
    let Some(count) = count else { return path.as_bytes() };
    let mut slashes = path.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'/');
    let end = slashes.nth(usize::from(count) - 1).map_or(path.len(), |(at, _)| at);
    &path.as_bytes()[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_as_they_are_written() {
        for text in [
            "all",
            "source_ip",
            "source_ip/24",
            "source_ip/24/48",
            "identity",
            "header:x-user",
            "cookie:Session",
            "path",
            "path/2",
            "host",
            "method",
            "query:page",
            "cel:request.headers['x-a'] + ':' + request.method",
            "route",
            "cluster",
        ] {
            assert_eq!(parse_key(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "ip",
            "source_ip/",
            "source_ip/0",
            "source_ip/33",
            "source_ip/24/129",
            "header:",
            "header:a b",
            "cookie:",
            "path/0",
            "path/x",
            "path:2",
            "value:no.such",
            "cel:",
            "cel:request.nothing",
            "cel:response.code",
            "host/2",
            "query:",
        ] {
            assert!(parse_key(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_is_cut_between_segments() {
        for (path, count, expected) in [
            ("/a/b/c", Some(1), "/a"),
            ("/a/b/c", Some(2), "/a/b"),
            ("/a/b/c", Some(3), "/a/b/c"),
            ("/a/b/c", Some(9), "/a/b/c"),
            ("/a/", Some(1), "/a"),
            ("/", Some(1), "/"),
            ("*", Some(1), "*"),
            ("/a/b", None, "/a/b"),
        ] {
            assert_eq!(first_segments(path, count), expected.as_bytes(), "{path} {count:?}");
        }
    }

    #[test]
    fn no_two_lists_of_values_look_alike() {
        let text = |values: &[Option<&[u8]>]| {
            let mut out = KeyText::new();
            values.iter().for_each(|value| put(&mut out, *value));
            out
        };
        assert_ne!(text(&[Some(b"a"), Some(b"bc")]), text(&[Some(b"ab"), Some(b"c")]));
        assert_ne!(text(&[None]), text(&[Some(b"")]));
    }
}
