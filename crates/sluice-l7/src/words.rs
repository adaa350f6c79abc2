//! Settings of routes and filters that hold one word of HTTP.
//!
//! Owns: methods, header names, origins of web pages. Refuses to know: which setting holds them. Keeps: a word that could
//! never match is refused.

use std::fmt;

use sluice_codec::Known;
use sluice_codec::names::is_token;
use sluice_core::settings::{FieldShape, Plain, bind_entries, bind_scalar, entries_of};
use sluice_core::value::{NamePattern, parse_authority, parse_name_pattern};
use sluice_core::{Diags, Node, Path, Setting, Shape, Value};
use sluice_l4::regexes::WholeRegex;

/// A method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodName(pub String);

/// A header name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(pub String);

/// The name of a header that may be changed, in lower case: one that neither frames nor routes a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditableHeader(pub String);

/// Origins of web pages: scheme, host and port (RFC 6454 §4).
#[derive(Clone, Debug, PartialEq)]
pub enum OriginPattern {
    /// All.
    Any,
    /// One, as browsers serialise it: in lower case, without the scheme's own port (RFC 6454 §6.2).
    Exact(String),
    /// Those of this scheme and port, whose host is below a suffix.
    Below {
        /// The scheme, in lower case.
        scheme: String,
        /// The suffix.
        host: NamePattern,
        /// The port, if it is not the scheme's own.
        port: Option<u16>,
    },
    /// Those that a regex matches as a whole.
    Like(WholeRegex),
}

sluice_core::section! {
    /// Origins that a regex matches.
    pub struct OriginRegex {
        /// The regex, which must match the whole origin, scheme and port included.
        pub regex: WholeRegex,
    }
}

impl Setting for OriginPattern {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            return OriginRegex::bind(node, at, diags).map(|of| Self::Like(of.regex));
        }
        bind_scalar(node, at, diags, "an origin or *", parse_origin_pattern)
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "an origin or *", example: "https://*.example.com" };
        let regex = FieldShape {
            key: "regex",
            doc: String::new(),
            required: false,
            default: None,
            shape: WholeRegex::shape(),
        };
        Shape::Either(vec![text, Shape::Tagged(vec![regex])])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Like(regex) => Plain::Map(vec![("regex".into(), regex.show())]),
            other => Plain::Text(other.to_string()),
        }
    }
}

sluice_core::text_setting! {
    MethodName, "a method", "GET", parse_method, |method| method.0.clone();
    HeaderName, "a header name", "x-tier", parse_field_name, |name| name.0.clone();
    EditableHeader, "a header name", "x-debug", |text| editable_name(text).map(EditableHeader), |name| name.0.clone();
}

fn parse_method(text: &str) -> Result<MethodName, String> {
    const USUAL: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if !is_token(text.as_bytes()) {
        return Err(format!("`{text}` is not a method"));
    }
    match USUAL.iter().find(|usual| usual.eq_ignore_ascii_case(text)) {
        Some(usual) if *usual != text => Err(format!(
            "methods are case-sensitive, so `{text}` would match nothing; write {usual}"
        )),
        _ => Ok(MethodName(text.to_owned())),
    }
}

fn parse_field_name(text: &str) -> Result<HeaderName, String> {
    if is_token(text.as_bytes()) {
        Ok(HeaderName(text.to_ascii_lowercase()))
    } else {
        Err(format!("`{text}` is not a valid header name"))
    }
}

/// Checks the name of a header that is to be changed, and returns it in lower case.
pub(crate) fn editable_name(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let known = Known::of(lower.as_bytes());
    if !is_token(lower.as_bytes()) {
        return Err(format!("`{text}` is not a valid header name"));
    }
    if known.is_some_and(Known::is_hop_by_hop) || known == Some(Known::ContentLength) {
        return Err(format!("`{text}` frames the message and is set by Sluice itself; remove it"));
    }
    if known == Some(Known::Host) {
        return Err("set the host in the rule instead: `rewrite: { host: ... }`".into());
    }
    Ok(lower)
}

/// Whether a header of that name may be set or removed by what another party says.
pub fn is_editable(name: &str) -> bool {
    let own = [Known::Te, Known::Trailer, Known::Expect, Known::XSluiceHops];
    let is_own =
        Known::of(name.to_ascii_lowercase().as_bytes()).is_some_and(|of| own.contains(&of));
    editable_name(name).is_ok() && !is_own
}

pub(crate) fn parse_origin_pattern(text: &str) -> Result<OriginPattern, String> {
    if text == "*" {
        return Ok(OriginPattern::Any);
    }
    let wrong = || {
        format!(
            "expected an origin such as https://app.example.com or https://*.example.com, not `{text}`"
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let scheme = scheme.to_ascii_lowercase();
    if !is_token(scheme.as_bytes()) {
        return Err(wrong());
    }
    if let Some((host, _)) = rest.split_once(['/', '?', '#']) {
        return Err(format!("an origin has no path; write {scheme}://{host}"));
    }
    let (host, port) = split_port(rest);
    let port = port.map(|port| port.parse::<u16>().map_err(|_| wrong())).transpose()?;
    let port = port.filter(|port| Some(*port) != own_port(&scheme));
    if host.starts_with("*.") {
        return Ok(OriginPattern::Below { scheme, host: parse_name_pattern(host)?, port });
    }
    let host = parse_authority(host)?.0.to_ascii_lowercase();
    Ok(OriginPattern::Exact(origin_of(&scheme, &host, port)))
}

fn origin_of(scheme: &str, host: impl fmt::Display, port: Option<u16>) -> String {
    match port {
        None => format!("{scheme}://{host}"),
        Some(port) => format!("{scheme}://{host}:{port}"),
    }
}

/// Host and port of an origin; the colons of an IPv6 address are within brackets.
fn split_port(rest: &str) -> (&str, Option<&str>) {
    match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rest, None),
    }
}

/// The port that an origin of this scheme does not write.
fn own_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

impl OriginPattern {
    /// Whether a value of `Origin` fits, as browsers serialise it. `null` and what is no origin fit nothing but `*`.
    pub fn fits(&self, origin: &str) -> bool {
        let (scheme, host, port) = match self {
            Self::Any => return true,
            Self::Exact(exact) => return exact == origin,
            Self::Like(regex) => return regex.0.is_match(origin),
            Self::Below { scheme, host, port } => (scheme, host, port),
        };
        let rest = origin.strip_prefix(scheme.as_str()).and_then(|rest| rest.strip_prefix("://"));
        let Some(rest) = rest else { return false };
        let (name, own) = split_port(rest);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        own == port.map(|port| port.to_string()).as_deref()
            && name.bytes().all(is_name)
            && host.fits(name)
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(origin) => f.write_str(origin),
            Self::Like(regex) => f.write_str(regex.0.as_str()),
            Self::Below { scheme, host, port } => f.write_str(&origin_of(scheme, host, *port)),
        }
    }
}

/// Binds a map of values by the names of headers, cookies or parameters.
pub fn bind_by_name<T>(
    node: &Node,
    at: &Path<'_>,
    diags: &mut Diags,
    mut bind: impl FnMut(&Node, &Path<'_>, &mut Diags) -> Option<T>,
) -> Option<Vec<(String, T)>> {
    let entries = entries_of(node, at, diags, "a map of names to values")?;
    bind_entries(entries, at, diags, |entry, here, diags| {
        if !is_token(entry.key.as_bytes()) {
            let message = format!("`{}` is not a valid name", entry.key);
            diags.error("bad-name", entry.key_span, here, message);
            return None;
        }
        Some((entry.key.to_string(), bind(&entry.node, here, diags)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_fit_by_scheme_host_and_port() {
        for (pattern, fits, others) in [
            (
                "https://app.example.com",
                &["https://app.example.com"][..],
                &[
                    "http://app.example.com",
                    "https://app.example.com:8443",
                    "https://app.example.com.evil.test",
                    "https://evil.test/https://app.example.com",
                    "https://xapp.example.com",
                    "https://app.example.com:",
                    "null",
                    "",
                ][..],
            ),
            (
                "https://*.example.com",
                &["https://a.example.com", "https://a.b.example.com"],
                &[
                    "https://example.com",
                    "https://evil.test#.example.com",
                    "https://a@b.example.com",
                    "https://aexample.com",
                ],
            ),
            (
                "http://localhost:3000",
                &["http://localhost:3000"],
                &["http://localhost", "http://localhost:30000"],
            ),
            ("HTTPS://App.test:443", &["https://app.test"], &["https://app.test:443"]),
            ("http://[::1]:3000", &["http://[::1]:3000"], &["http://[::1]", "http://[::1]:80"]),
            ("https://[::1]", &["https://[::1]"], &["https://[::1]:3000"]),
            ("capacitor://localhost", &["capacitor://localhost"], &["https://localhost"]),
            ("https://*.a.test:8443", &["https://b.a.test:8443"], &["https://b.a.test"]),
            ("*", &["https://a.test", "null"], &[]),
        ] {
            let pattern = parse_origin_pattern(pattern).unwrap();
            assert_eq!(parse_origin_pattern(&pattern.to_string()), Ok(pattern.clone()));
            assert!(fits.iter().all(|origin| pattern.fits(origin)), "{pattern}");
            assert!(!others.iter().any(|origin| pattern.fits(origin)), "{pattern}");
        }
    }

    #[test]
    fn a_regex_matches_the_whole_origin() {
        let pattern = OriginPattern::Like(WholeRegex::of(r"https?://.*\.example\.com").unwrap());
        assert!(pattern.fits("https://a.example.com") && pattern.fits("http://b.example.com"));
        assert!(!pattern.fits("https://a.example.com.evil.test") && !pattern.fits("null"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for (text, message) in [
            ("app.example.com", "expected an origin such as https://"),
            ("null", "expected an origin"),
            ("a b://a.test", "expected an origin"),
            ("https://a.test/", "an origin has no path; write https://a.test"),
            ("https://a.test/b", "an origin has no path; write https://a.test"),
            ("https://a.test:x", "expected an origin"),
            ("https://*.a*.test", "`*` must be the whole first label"),
            ("https://a*.test", "expected a host"),
            ("https://u@a.test", "expected a host"),
            ("https://", "expected a host"),
        ] {
            let error = parse_origin_pattern(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn methods_are_case_sensitive() {
        assert_eq!(parse_method("PURGE"), Ok(MethodName("PURGE".into())));
        assert!(parse_method("get").unwrap_err().contains("write GET"));
        assert!(parse_method("a b").is_err() && parse_field_name("a:b").is_err());
        assert_eq!(parse_field_name("X-Tier"), Ok(HeaderName("x-tier".into())));
    }
}
