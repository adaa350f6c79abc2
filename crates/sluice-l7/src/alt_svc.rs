//! The header `alt-svc` of an endpoint's response: where it says that it speaks HTTP/3.
//!
//! Owns: reading it. Refuses to know: what is done with it. Keeps: only the host that said it is believed, on any port;
//! what cannot be read says nothing.
//!
//! Source: RFC 7838 §3.

use std::time::Duration;

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AltSvc {
    /// HTTP/3 is spoken on this UDP port, for this long.
    Http3 {
        /// The port.
        port: u16,
        /// For how long that is true.
        lifetime: Duration,
    },
    /// What was said before is no longer true.
    Clear,
    /// Nothing that can be used: another host, another protocol, or no header that can be read.
    Other,
}

/// How long an advertisement holds that does not say so.
const LIFETIME: Duration = Duration::from_secs(86_400);

/// The longest lifetime that is believed: a year.
const LIFETIME_MAX: Duration = Duration::from_secs(31_536_000);

impl AltSvc {
    /// Reads the header; the first alternative that can be used counts. `is_own` says whether a host is that of the
    /// endpoint, and `age` is how long ago the response was made.
    pub(crate) fn parse(value: &[u8], is_own: impl Fn(&str) -> bool, age: Duration) -> Self {
        let Ok(text) = std::str::from_utf8(value) else { return Self::Other };
        // Upper and lower case matter.
        if text.trim_matches([' ', '\t']) == "clear" {
            return Self::Clear;
        }
        let used = |alternative| http3(alternative, &is_own, age);
        Split { rest: text, by: ',' }.find_map(used).unwrap_or(Self::Other)
    }
}

/// An alternative, if it is HTTP/3 at the same host.
fn http3(alternative: &str, is_own: impl Fn(&str) -> bool, age: Duration) -> Option<AltSvc> {
    let mut parts = Split { rest: alternative, by: ';' };
    let (protocol, authority) = parts.next()?.split_once('=')?;
    let (host, port) = unquoted(authority)?.rsplit_once(':')?;
    if protocol != "h3" || !(host.is_empty() || is_own(host)) {
        return None;
    }
    let port = digits(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    let mut lifetime = LIFETIME;
    for parameter in parts {
        // Others are ignored: `persist` is about a client that changes networks.
        if let Some(("ma", value)) = parameter.split_once('=') {
            let value = if value.starts_with('"') { unquoted(value)? } else { value };
            lifetime = Duration::from_secs(digits(value)?);
        }
    }
    Some(AltSvc::Http3 { port, lifetime: lifetime.saturating_sub(age).min(LIFETIME_MAX) })
}

/// Reads a decimal number; one that is too large is the largest.
fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The content of a quoted string without escapes, which no host or number needs.
fn unquoted(text: &str) -> Option<&str> {
    let content = text.strip_prefix('"')?.strip_suffix('"')?;
    (!content.contains(['"', '\\'])).then_some(content)
}

/// The parts of a list, without space around them; separators in quoted strings do not count.
struct Split<'t> {
    rest: &'t str,
    by: char,
}

impl<'t> Iterator for Split<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        if self.rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = self.rest.find(|c| {
            let ends = c == self.by && !quoted;
            quoted ^= c == '"' && !escaped;
            escaped = quoted && c == '\\' && !escaped;
            ends
        });
        let (part, rest) = match end.and_then(|end| self.rest.split_at_checked(end)) {
            Some((part, rest)) => (part, rest.strip_prefix(self.by).unwrap_or_default()),
            None => (self.rest, ""),
        };
        self.rest = rest;
        Some(part.trim_matches([' ', '\t']))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &[u8]) -> AltSvc {
        AltSvc::parse(value, |host| host == "own.test", Duration::from_secs(10))
    }

    fn http3(port: u16, seconds: u64) -> AltSvc {
        AltSvc::Http3 { port, lifetime: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_first_alternative_that_can_be_used_counts() {
        let day = 86_400 - 10;
        for (value, expected) in [
            ("h3=\":443\"", http3(443, day)),
            (" h3=\":443\" ; ma=3600 ; persist=1", http3(443, 3590)),
            ("h3=\":443\";ma=\"3600\"", http3(443, 3590)),
            ("h2=\":443\", h3-29=\":443\",h3=\":8443\"; ma=60, h3=\":443\"", http3(8443, 50)),
            ("h3=\"own.test:443\"", http3(443, day)),
            ("h3=\"other.test:443\", h3=\"own.test:444\"", http3(444, day)),
            ("x=\"a,b;c\\\"=\", h3=\":443\"; y=\",\"; ma=20", http3(443, 10)),
            ("h3=\":443\"; ma=5", http3(443, 0)),
            ("h3=\":443\"; ma=99999999999999999999", http3(443, 31_536_000)),
            ("clear", AltSvc::Clear),
            ("\tclear ", AltSvc::Clear),
            ("CLEAR", AltSvc::Other),
            ("", AltSvc::Other),
            (", ,", AltSvc::Other),
            ("h3=\"other.test:443\"", AltSvc::Other),
            ("h3=\"evil.own.test:443\"", AltSvc::Other),
            ("h3=:443", AltSvc::Other),
            ("h3=\":0\"", AltSvc::Other),
            ("h3=\":65536\"", AltSvc::Other),
            ("h3=\":+443\"", AltSvc::Other),
            ("h3=\":\"", AltSvc::Other),
            ("h3=\":443", AltSvc::Other),
            ("h3=\":443\"; ma=-1", AltSvc::Other),
            ("h3=\":443\"; ma=", AltSvc::Other),
            ("h3", AltSvc::Other),
        ] {
            assert_eq!(parse(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn a_header_that_is_cut_or_garbled_does_no_harm() {
        let whole = b"h3=\"own.test:8443\"; ma=3600; persist=1, h2=\"a,\\\"b:1\", h3=\":443\"";
        for cut in 0..whole.len() {
            for value in [&whole[..cut], &whole[cut..]] {
                if let AltSvc::Http3 { port, .. } = parse(value) {
                    assert!([8443, 443].contains(&port), "{value:?}");
                }
            }
            for byte in [0, b'"', b'\\', b',', 0xff] {
                let mut value = whole.to_vec();
                value[cut] = byte;
                parse(&value);
            }
        }
    }
}
