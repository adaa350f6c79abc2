//! Hosts that clients name, as a forward proxy serves them: which of them may be named.
//!
//! Owns: the settings, and what a name has to look like. Refuses to know: where a name was read, and where it leads.
//! Keeps: a name is a client's word: only what passes here is looked up, in one form for each host and port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sluice_core::Reason;
use sluice_core::value::{NamePattern, parse_name_pattern};

use crate::reasons;

/// A cluster whose endpoints are the hosts that clients name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardPlan {
    /// What names the host.
    pub named_by: HostNaming,
    /// The hosts that may be named; if empty, every name and IP address.
    pub hosts: Vec<ForwardPattern>,
    /// The ports that may be named, the first of which is used where none is; if empty, the usual one.
    pub ports: Vec<u16>,
    /// Hosts that are known at a time.
    pub hosts_max: usize,
    /// How long a host is known after its last use.
    pub host_ttl: Duration,
}

/// What names a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostNaming {
    /// The client: by the server name of its TLS, or by the host of its request.
    #[default]
    Client,
    /// The destination that the connection had before it was redirected here.
    Destination {
        /// A header of requests with another one, in lower case.
        header: Option<Arc<str>>,
        /// The port in place of its own.
        port: Option<u16>,
    },
}

/// Hosts that clients may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ForwardPattern {
    /// A name, or names below it.
    Name(NamePattern),
    /// An IP address; an IPv4 address stands for its IPv4-mapped form too.
    Address(IpAddr),
}

/// Parses a name, `*.suffix` or an IP address, an IPv6 address with or without brackets.
///
/// # Errors
/// A message that states what was expected; also for what no request can name, such as `127.1`.
pub fn parse_forward_pattern(text: &str) -> Result<ForwardPattern, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(ForwardPattern::Address(address.to_canonical()));
    }
    let pattern = parse_name_pattern(text)?;
    let (NamePattern::Exact(name) | NamePattern::Suffix(name)) = &pattern;
    if resembles_address(name) {
        return Err(format!(
            "`{text}` is neither a name nor an IP address; write an address in full, or a name such as *.example.com"
        ));
    }
    Ok(ForwardPattern::Name(pattern))
}

impl ForwardPattern {
    /// Whether it covers a host in its one form; `is_name` tells what kind it is.
    fn fits(&self, host: &str, is_name: bool) -> bool {
        match self {
            Self::Name(pattern) => is_name && pattern.fits(host),
            Self::Address(address) => {
                let named = host.parse::<IpAddr>().ok().filter(|_| !is_name);
                named.is_some_and(|named| named.to_canonical() == *address)
            }
        }
    }
}

impl fmt::Display for ForwardPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => pattern.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

sluice_core::text_setting! {
    ForwardPattern, "a host name, *.suffix or an IP address", "*.example.com", parse_forward_pattern, ToString::to_string;
}

/// A host and port that a client named, and may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardHost {
    /// Both, as `host:port`: the name of the endpoint.
    pub name: Arc<str>,
    /// The host name in lower case, or the IP address; what TLS verifies.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// Why there is no endpoint for what a client named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardFailure {
    /// The reason.
    pub why: Reason,
    /// What happened, for the record.
    pub detail: Box<str>,
}

impl ForwardFailure {
    /// A failure with its detail.
    pub fn new(why: Reason, detail: impl Into<Box<str>>) -> Self {
        Self { why, detail: detail.into() }
    }
}

impl ForwardPlan {
    /// The host that a client named: `example.com`, `example.com:8443`, `192.0.2.1` or `[2001:db8::1]:443`. `usual` is
    /// the port if neither the client nor the settings name one.
    ///
    /// # Errors
    /// It is no host, or must not be named.
    pub fn host(&self, named: &str, usual: u16) -> Result<ForwardHost, ForwardFailure> {
        let no_host = || {
            let named: String = named.chars().take(SHOWN_MAX).collect();
            ForwardFailure::new(reasons::NAME_MISSING, format!("`{named}` is not a host"))
        };
        let (host, port) = split(named).ok_or_else(no_host)?;
        let (host, is_name) = normal(host).ok_or_else(no_host)?;
        let denied = |why: String| ForwardFailure::new(reasons::NAME_DENIED, why);
        let is_listed = || self.hosts.iter().any(|pattern| pattern.fits(&host, is_name));
        if !self.hosts.is_empty() && !is_listed() {
            return Err(denied(format!("{host}: `forward.hosts` does not list it")));
        }
        let port = port.unwrap_or_else(|| self.ports.first().copied().unwrap_or(usual));
        let open = if self.ports.is_empty() { port == usual } else { self.ports.contains(&port) };
        if !open {
            return Err(denied(format!("{host}: `forward.ports` does not list {port}")));
        }
        let v6 = host.contains(':');
        let name = if v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(ForwardHost { name: name.into(), host: host.into(), port })
    }
}

impl ForwardPlan {
    /// The host at the destination of a connection or request.
    ///
    /// # Errors
    /// It is not known, or must not be connected to.
    pub fn destination(&self, to: Option<SocketAddr>) -> Result<ForwardHost, ForwardFailure> {
        let Some(mut to) = to else {
            let why = "the connection was not redirected here, so that it has no other destination";
            return Err(ForwardFailure::new(reasons::NO_ENDPOINT, why));
        };
        if let HostNaming::Destination { port: Some(port), .. } = self.named_by {
            to.set_port(port);
        }
        self.host(&to.to_string(), to.port())
    }
}

/// Characters of a wrong name that a record shows.
const SHOWN_MAX: usize = 64;

/// A host, in brackets if it is an IPv6 address, and its port.
fn split(named: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match named.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (named, None),
    };
    let Some(port) = port else { return Some((host, None)) };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0)?;
    Some((host, Some(port)))
}

/// The one form of a host, and whether it is a name. What resembles an IPv4 address and is none, such as `127.1`, is not
/// a host: others might read an address in it.
fn normal(host: &str) -> Option<(String, bool)> {
    if let Some(inside) = host.strip_prefix('[') {
        let address: Ipv6Addr = inside.strip_suffix(']')?.parse().ok()?;
        return Some((address.to_string(), false));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some((address.to_string(), false));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if resembles_address(host) {
        return None;
    }
    match parse_name_pattern(host).ok()? {
        NamePattern::Exact(name) => Some((name, true)),
        NamePattern::Suffix(_) => None,
    }
}

/// Whether a host that is no IP address could be taken for one.
fn resembles_address(host: &str) -> bool {
    let last = host.rsplit('.').next();
    last.is_some_and(|label| label.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(hosts: &[&str], ports: &[u16]) -> ForwardPlan {
        let hosts = hosts.iter().map(|host| parse_forward_pattern(host).unwrap()).collect();
        let host_ttl = Duration::from_secs(300);
        let named_by = HostNaming::default();
        ForwardPlan { named_by, hosts, ports: ports.to_vec(), hosts_max: 4, host_ttl }
    }

    #[track_caller]
    fn check(plan: &ForwardPlan, named: &str, expected: Result<&str, Reason>) {
        let found = plan.host(named, 443);
        let found = found.as_ref().map(|host| &*host.name).map_err(|failure| failure.why);
        assert_eq!(found, expected, "{named:?}");
    }

    #[test]
    fn a_host_has_one_form() {
        let any = plan(&[], &[]);
        for (named, name) in [
            ("a.test", "a.test:443"),
            ("A.Test.:443", "a.test:443"),
            ("192.0.2.1", "192.0.2.1:443"),
            ("[2001:DB8:0::1]:443", "[2001:db8::1]:443"),
            ("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]:443"),
            ("localhost", "localhost:443"),
        ] {
            check(&any, named, Ok(name));
        }
        assert_eq!(&*any.host("[::1]", 443).unwrap().host, "::1");
    }

    #[test]
    fn a_destination_is_a_host_of_its_own_port() {
        let to = |port| HostNaming::Destination { header: None, port };
        let check = |plan: &ForwardPlan, text: Option<&str>, expected| {
            let found = plan.destination(text.map(|text| text.parse().unwrap()));
            let found = found.as_ref().map(|host| &*host.name).map_err(|failure| failure.why);
            assert_eq!(found, expected, "{text:?}");
        };
        let any = ForwardPlan { named_by: to(None), ..plan(&[], &[]) };
        check(&any, Some("192.0.2.1:8080"), Ok("192.0.2.1:8080"));
        check(&any, Some("[2001:db8::1]:1"), Ok("[2001:db8::1]:1"));
        check(&any, None, Err(reasons::NO_ENDPOINT));
        let other = ForwardPlan { named_by: to(Some(443)), ..plan(&[], &[]) };
        check(&other, Some("192.0.2.1:8080"), Ok("192.0.2.1:443"));
        let some = ForwardPlan { named_by: to(None), ..plan(&["192.0.2.1"], &[80]) };
        check(&some, Some("192.0.2.1:80"), Ok("192.0.2.1:80"));
        check(&some, Some("192.0.2.1:81"), Err(reasons::NAME_DENIED));
        check(&some, Some("192.0.2.2:80"), Err(reasons::NAME_DENIED));
    }

    #[test]
    fn what_is_no_host_is_not_looked_up() {
        for named in [
            "",
            ".",
            ":443",
            "a..test",
            "a.test:",
            "a.test:0",
            "a.test:+443",
            "a.test:65536",
            "a.test:443:443",
            "::1",
            "::1:443",
            "[::1",
            "[::1]443",
            "[::1%eth0]",
            "[a.test]",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "a.0x7f",
            "*.test",
            "a b",
            "a/b",
            "a@b",
            "a%00.test",
            "ü.test",
        ] {
            check(&plan(&[], &[]), named, Err(reasons::NAME_MISSING));
        }
        let long = "a".repeat(500);
        check(&plan(&[], &[]), &long, Err(reasons::NAME_MISSING));
        assert!(plan(&[], &[]).host(&long, 443).unwrap_err().detail.len() < 100);
    }

    #[test]
    fn only_hosts_and_ports_that_are_listed_can_be_named() {
        let some = plan(&["a.test", "*.b.test"], &[8443, 443]);
        for (named, expected) in [
            ("a.test", Ok("a.test:8443")),
            ("x.b.test:443", Ok("x.b.test:443")),
            ("b.test", Err(reasons::NAME_DENIED)),
            ("xb.test", Err(reasons::NAME_DENIED)),
            ("a.test:80", Err(reasons::NAME_DENIED)),
            ("192.0.2.1", Err(reasons::NAME_DENIED)),
        ] {
            check(&some, named, expected);
        }
        check(&plan(&[], &[]), "a.test:22", Err(reasons::NAME_DENIED));
    }

    #[test]
    fn addresses_are_listed_one_by_one_in_any_form() {
        let some = plan(&["192.0.2.1", "2001:DB8::1", "[2001:db8::2]", "::ffff:192.0.2.9"], &[]);
        for (named, expected) in [
            ("192.0.2.1", Ok("192.0.2.1:443")),
            ("[::ffff:192.0.2.1]", Ok("[::ffff:192.0.2.1]:443")),
            ("[2001:db8:0::1]", Ok("[2001:db8::1]:443")),
            ("[2001:db8::2]", Ok("[2001:db8::2]:443")),
            ("192.0.2.9", Ok("192.0.2.9:443")),
            ("192.0.2.2", Err(reasons::NAME_DENIED)),
            ("[2001:db8::3]", Err(reasons::NAME_DENIED)),
            ("a.test", Err(reasons::NAME_DENIED)),
        ] {
            check(&some, named, expected);
        }
        for wrong in ["127.1", "192.0.2.0/24", "*.0.0.1", "192.0.2.1:443", "[192.0.2.1", "0x7f.1"] {
            assert!(parse_forward_pattern(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_input_panics() {
        let (any, mut random) = (plan(&[], &[]), fastrand::Rng::with_seed(7));
        for _ in 0..20_000 {
            let text: String = (0..random.usize(..24))
                .map(|_| {
                    *random.choice(&['a', '.', ':', '[', ']', '0', '9', '-', '*', 'é']).unwrap()
                })
                .collect();
            if let Ok(host) = any.host(&text, 443) {
                assert_eq!(any.host(&host.name, 443).unwrap(), host, "{text:?}");
            }
        }
    }
}
