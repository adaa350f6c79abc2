//! Server names of TLS, as chains match them.
//!
//! Owns: which names there are besides host names: those of services with tags, which meshes send. Refuses to know: how a name
//! is found in a ClientHello. Keeps: whatever is a host name elsewhere is one here.

use crate::value::{NamePattern, parse_name_pattern};

/// A server name, or `*.` before a suffix: a host name, or a service with tags, such as `orders{mesh=default}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SniPattern(pub NamePattern);

crate::text_setting! {
    SniPattern, "a host name or *.suffix", "*.example.com", parse_sni_pattern, |name| name.0.to_string();
}

/// Parses a server name or `*.suffix`; case-insensitive.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_sni_pattern(text: &str) -> Result<SniPattern, String> {
    if is_tagged(text) {
        return Ok(SniPattern(NamePattern::Exact(text.to_ascii_lowercase())));
    }
    parse_name_pattern(text).map(SniPattern)
}

/// Whether this is the name of a service with its tags.
fn is_tagged(name: &str) -> bool {
    let parts = name.strip_suffix('}').and_then(|rest| rest.split_once('{'));
    let service = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let tag = |byte: u8| service(byte) || b"=,/".contains(&byte);
    parts.is_some_and(|(service_name, tags)| {
        name.len() <= 255
            && !service_name.is_empty()
            && service_name.bytes().all(service)
            && tags.bytes().all(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_with_tags_are_server_names() {
        let exact = |text: &str| Ok(SniPattern(NamePattern::Exact(text.into())));
        assert_eq!(parse_sni_pattern("a.Example.com"), exact("a.example.com"));
        assert_eq!(parse_sni_pattern("orders{mesh=Default}"), exact("orders{mesh=default}"));
        let tags = "orders{kuma.io/zone=east,mesh=default}";
        assert_eq!(parse_sni_pattern(tags), exact(tags));
        let suffix = SniPattern(NamePattern::Suffix("example.com".into()));
        assert_eq!(parse_sni_pattern("*.example.com"), Ok(suffix));
        for text in ["{mesh=default}", "a{", "a}", "a{b}c", "a{b c}", "a{*}", "*{mesh=default}"] {
            assert!(parse_sni_pattern(text).is_err(), "{text}");
        }
    }
}
