//! Addresses as written in a configuration: where to listen, where to connect, which sources.
//!
//! Owns: their parsers. Refuses to know: sockets and resolution.
//! Keeps: a host name is never resolved here; it stays a name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// `127.0.0.1:5432`, `[::1]:443`.
    Tcp(SocketAddr),
    /// `udp://127.0.0.1:53`.
    Udp(SocketAddr),
    /// `unix:///run/sluice.sock`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Parses an address to listen on.
    ///
    /// # Errors
    /// A message that states what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = unix_path(text)? {
            return Ok(Self::Unix(path));
        }
        let (udp, rest) = match text.split_once("://") {
            Some(("udp", rest)) => (true, rest),
            Some(("tcp", rest)) => (false, rest),
            Some((scheme, rest)) => {
                let host = without_path(rest);
                return Err(format!(
                    "unknown scheme `{scheme}://`; use udp://, unix://, or no scheme for TCP, as in {host}"
                ));
            }
            None => (false, text),
        };
        let Ok(address) = rest.parse::<SocketAddr>() else {
            return Err(why_no_listen_address(text, rest));
        };
        Ok(if udp { Self::Udp(address) } else { Self::Tcp(address) })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

fn why_no_listen_address(text: &str, rest: &str) -> String {
    match rest.rsplit_once(':') {
        None if is_number(rest) => format!(
            "`{text}` is a port without an address; write 127.0.0.1:{rest}, or 0.0.0.0:{rest} for all addresses"
        ),
        None => format!("`{text}` has no port; write {rest}:PORT"),
        Some(("", port)) => {
            format!(
                "`{text}` has no IP address; write 0.0.0.0:{port} or \"[::]:{port}\" for all addresses"
            )
        }
        Some((_, port)) if port.parse::<u16>().is_err() => not_a_port(port),
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
            format!("an IPv6 address with a port needs brackets: \"[{host}]:PORT\"")
        }
        Some(("localhost", port)) => {
            format!("a listener needs an IP address, not a name; write 127.0.0.1:{port}")
        }
        Some(_) => {
            format!("expected an IP address with a port such as 127.0.0.1:5432, not `{text}`")
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn not_a_port(port: &str) -> String {
    format!("`{port}` is not a port; write a number from 1 to 65535")
}

/// The host part of a URL without its scheme.
fn without_path(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// The address of an endpoint of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A socket address.
    Ip(SocketAddr),
    /// A host name, resolved at run time, and a port.
    Host(Arc<str>, u16),
    /// The name of a service (SRV records), resolved at run time to targets with ports.
    Service(Arc<str>),
    /// A unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Parses `10.0.0.1:5432`, `[::1]:80`, `db.internal:5432`, `srv://_pg._tcp.internal` or `unix:///run/db.sock`.
    ///
    /// # Errors
    /// A message that states what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = unix_path(text)? {
            return Ok(Self::Unix(path));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err("an endpoint needs a port other than 0".into())
            } else {
                Ok(Self::Ip(address))
            };
        }
        if let Some(service) = text.strip_prefix("srv://") {
            return service_name(service).map(Self::Service);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(why_no_url(scheme, without_path(rest)));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(if is_number(text) {
                format!("`{text}` is a port without a host; write 127.0.0.1:{text}")
            } else {
                format!("`{text}` has no port; write {text}:PORT")
            });
        };
        let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0) else {
            return Err(not_a_port(port));
        };
        if host.contains(':') {
            return Err(format!("an IPv6 address with a port needs brackets: \"[{host}]:{port}\""));
        }
        let digits_only = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match crate::value::parse_name_pattern(host.strip_suffix('.').unwrap_or(host)) {
            Ok(crate::value::NamePattern::Exact(_)) if !digits_only => {
                Ok(Self::Host(host.to_ascii_lowercase().into(), port))
            }
            _ => Err(format!("`{host}` is neither an IP address nor a host name")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Service(name) => write!(f, "srv://{name}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// The name of a service: `_service._proto.name` (RFC 2782).
fn service_name(text: &str) -> Result<Arc<str>, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if let Some((name, port)) = name.split_once(':').filter(|(_, port)| is_number(port)) {
        return Err(format!("SRV records name the port; write srv://{name} without :{port}"));
    }
    let labels: Vec<&str> = name.splitn(3, '.').collect();
    let marked = |label: &&&str| label.len() > 1 && label.starts_with('_');
    if labels.len() < 3 || labels.iter().take(2).filter(marked).count() < 2 {
        return Err(format!(
            "`{text}` is not the name of a service; write srv://_SERVICE._tcp.DOMAIN, or HOST:PORT for a host"
        ));
    }
    match crate::value::parse_name_pattern(name)? {
        crate::value::NamePattern::Exact(_) => Ok(name.to_ascii_lowercase().into()),
        crate::value::NamePattern::Suffix(_) => {
            Err(format!("`{text}` is not the name of a service"))
        }
    }
}

/// The error for an endpoint written as a URL.
fn why_no_url(scheme: &str, host: &str) -> String {
    let port = host.rsplit_once(':').is_some_and(|(_, port)| is_number(port));
    let usual = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => ":PORT",
    };
    let port = if port { "" } else { usual };
    let tls = match scheme {
        "https" | "wss" => "; add `tls: true` to the cluster for TLS",
        _ => "",
    };
    format!("an endpoint is a host and a port, not a URL; write {host}{port}{tls}")
}

fn unix_path(text: &str) -> Result<Option<PathBuf>, String> {
    let Some(path) = text.strip_prefix("unix://") else { return Ok(None) };
    if !path.starts_with('/') {
        return Err("a unix socket needs an absolute path, such as unix:///run/x.sock".into());
    }
    if path.len() > 107 || path.contains('\0') {
        return Err("the path of a unix socket must not exceed 107 bytes".into());
    }
    Ok(Some(path.into()))
}

/// A block of IP addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Parses a block; a bare address is a block of one.
    ///
    /// # Errors
    /// A message that states what was expected; bits set after the prefix are an error, since they suggest a mistake.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let Ok(network) = address.parse::<IpAddr>() else {
            return Err(format!("expected an address block such as 10.0.0.0/8, not `{text}`"));
        };
        let width = if network.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => width,
            Some(bits) => {
                bits.parse::<u8>().ok().filter(|bits| *bits <= width).ok_or_else(|| {
                    format!("the prefix length of `{text}` must be from 0 to {width}")
                })?
            }
        };
        let block = Self { network: mask(network, bits), bits };
        if block.network != network {
            return Err(format!("`{text}` has bits set after its prefix; write {block}"));
        }
        Ok(block)
    }

    /// The block with prefix length `bits` that contains `address`.
    pub fn around(address: IpAddr, bits: u8) -> Self {
        let bits = bits.min(if address.is_ipv4() { 32 } else { 128 });
        Self { network: mask(address, bits), bits }
    }

    /// Whether the block contains `address`; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && mask(address, self.bits) == self.network
    }

    /// The first address.
    pub const fn network(&self) -> IpAddr {
        self.network
    }

    /// The prefix length; a longer prefix is more specific.
    pub const fn bits(&self) -> u8 {
        self.bits
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & keep).into())
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & keep).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        for text in ["127.0.0.1:5432", "[::1]:443", "udp://127.0.0.1:53", "unix:///run/x.sock"] {
            assert_eq!(ListenAddress::parse(text).map(|a| a.to_string()), Ok(text.into()));
        }
        for (text, part) in [
            (":80", "0.0.0.0:80"),
            ("127.0.0.1", "has no port"),
            ("::1:80", "brackets"),
            ("quic://127.0.0.1:1", "unknown scheme"),
            ("localhost:80", "write 127.0.0.1:80"),
            ("21700", "write 127.0.0.1:21700"),
            ("127.0.0.1:99999", "`99999` is not a port"),
            ("http://127.0.0.1:80/x", "as in 127.0.0.1:80"),
            ("unix://run/x", "absolute"),
        ] {
            let error = ListenAddress::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn endpoints() {
        for text in [
            "127.0.0.1:5432",
            "[::1]:443",
            "db.internal:5432",
            "srv://_pg._tcp.internal",
            "unix:///run/x.sock",
        ] {
            assert_eq!(Endpoint::parse(text).map(|a| a.to_string()), Ok(text.into()));
        }
        for (text, part) in [
            ("srv://_pg._tcp.a.test:5432", "without :5432"),
            ("srv://a.test", "srv://_SERVICE._tcp.DOMAIN"),
            ("srv://_pg.a.test", "or HOST:PORT"),
            ("srv://_pg._tcp", "srv://_SERVICE"),
            ("srv://", "srv://_SERVICE"),
            ("srv://_pg._tcp.*.test", "`*`"),
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        for text in ["127.0.0.1", "127.0.0.1:0", "a:b:1", "10.0.0:1", "db:99999", "", ":1", "a b:1"]
        {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
        for (text, part) in [
            ("http://127.0.0.1:1", "write 127.0.0.1:1"),
            ("https://a.test/x", "write a.test:443; add `tls: true`"),
            ("http://a.test", "write a.test:80"),
            ("tcp://a.test", "write a.test:PORT"),
            ("3", "write 127.0.0.1:3"),
            ("a.test:99999", "`99999` is not a port"),
            ("a.test:http", "`http` is not a port"),
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn blocks_hold_what_they_should() {
        let block = Cidr::parse("10.0.0.0/8").unwrap();
        assert!(block.holds("10.255.0.1".parse().unwrap()));
        assert!(block.holds("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!block.holds("11.0.0.1".parse().unwrap()));
        assert!(Cidr::parse("0.0.0.0/0").unwrap().holds("1.2.3.4".parse().unwrap()));
        assert!(Cidr::parse("::/0").unwrap().holds("::1".parse().unwrap()));
        assert!(Cidr::parse("10.0.0.1/8").unwrap_err().contains("write 10.0.0.0/8"));
        assert!(Cidr::parse("10.0.0.0/33").is_err());
    }
}
