//! Where requests carry tokens and keys: headers, cookies, query parameters.
//!
//! Owns: how a credential is found in a request, and taken out of it. Refuses to know: what it proves. Keeps: what is
//! taken out is gone in every place that is named, so that no endpoint sees it.

use std::fmt;

use sluice_codec::{Head, Known};
use sluice_core::Spanned;
use sluice_l4::filters::CheckContext;

use crate::header_values::{cookie, query_parameter};
use crate::words::HeaderName;

sluice_core::section! {
    /// Where requests carry a credential.
    pub struct CredentialFrom {
        /// Headers. In `authorization`, the scheme `Bearer` stands before it.
        pub headers: Vec<HeaderName>,
        /// Cookies.
        pub cookies: Vec<String>,
        /// Query parameters. They end up in histories and logs; prefer headers.
        pub query: Vec<String>,
    }
}

impl CredentialFrom {
    /// The places; the header `default` if none is set.
    pub fn sources(&self, default: &str) -> Vec<CredentialSource> {
        let headers = self.headers.iter().cloned().map(CredentialSource::Header);
        let cookies = self.cookies.iter().cloned().map(CredentialSource::Cookie);
        let query = self.query.iter().cloned().map(CredentialSource::Query);
        let all: Vec<_> = headers.chain(cookies).chain(query).collect();
        if all.is_empty() {
            return vec![CredentialSource::Header(HeaderName(default.into()))];
        }
        all
    }
}

/// Checks a realm, which is written into a challenge between quotes.
pub fn check_realm(realm: &Spanned<String>, context: &mut CheckContext<'_>) -> Option<()> {
    let is_quotable = |byte: u8| (0x20..0x7f).contains(&byte) && !b"\"\\".contains(&byte);
    if realm.value.bytes().all(is_quotable) {
        return Some(());
    }
    let message = "a realm is printable ASCII without quotes and backslashes";
    context.diags.error("bad-value", realm.span, context.at.key("realm"), message);
    None
}

/// A credential that was taken out of a request, for the filter that did so. Never printed.
pub(super) struct HeldCredential(pub(super) Box<[u8]>);

impl fmt::Debug for HeldCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldCredential(..)")
    }
}

impl fmt::Display for HeldCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(sluice_core::secret::REDACTED)
    }
}

/// A place in a request that may carry a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// A header: of `authorization` and `proxy-authorization`, what follows the scheme `Bearer`; of others the value,
    /// with or without the scheme.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A query parameter, not decoded.
    Query(String),
}

/// What follows the scheme `Bearer` (RFC 6750 §2.1); schemes are case-insensitive.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let is_bearer =
        scheme.eq_ignore_ascii_case(b"bearer") && rest.first().is_none_or(|byte| *byte == b' ');
    is_bearer.then(|| rest.trim_ascii())
}

/// The credential in the value of a header.
fn in_header<'v>(name: &str, value: &'v [u8]) -> Option<&'v [u8]> {
    let needs_scheme = matches!(name, "authorization" | "proxy-authorization");
    match bearer(value) {
        None if needs_scheme => None,
        None => Some(value.trim_ascii()),
        token => token,
    }
}

impl CredentialSource {
    /// Shows every credential that the request carries here.
    pub fn each<'h>(&self, head: &'h Head, mut found: impl FnMut(&'h [u8])) {
        match self {
            Self::Header(HeaderName(name)) => {
                for (own, value) in head.fields() {
                    if own == name.as_bytes()
                        && let Some(token) = in_header(name, value)
                    {
                        found(token);
                    }
                }
            }
            Self::Cookie(name) => {
                for (own, value) in head.fields() {
                    if own == b"cookie"
                        && let Some(token) = cookie(value, name.as_bytes())
                    {
                        found(token);
                    }
                }
            }
            Self::Query(name) => {
                let query = head.query().unwrap_or_default();
                if let Some(token) = query_parameter(query, name) {
                    found(token.as_bytes());
                }
            }
        }
    }

    /// Takes what [`CredentialSource::each`] finds, and further cookies and parameters of that name, out of the request.
    pub fn remove(&self, head: &mut Head) {
        match self {
            Self::Header(HeaderName(name)) => {
                head.remove_where(|own, value| {
                    own == name.as_bytes() && in_header(name, value).is_some()
                });
            }
            Self::Cookie(name) => remove_cookies(head, |own| own == name.as_bytes()),
            Self::Query(name) => remove_parameter(head, name),
        }
    }
}

/// Takes the cookies whose names are these out of a request.
pub(super) fn remove_cookies(head: &mut Head, is_named: impl Fn(&[u8]) -> bool) {
    let is_it = |pair: &&[u8]| {
        let own = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        is_named(own.trim_ascii())
    };
    let values = head.fields().filter(|(own, _)| *own == b"cookie").map(|(_, value)| value);
    let left: Vec<Vec<u8>> = values
        .map(|value| {
            let pairs = value.split(|byte| *byte == b';').filter(|pair| !is_it(pair));
            pairs.map(<[u8]>::trim_ascii).collect::<Vec<_>>().join(&b"; "[..])
        })
        .collect();
    head.remove(b"cookie");
    for value in left.iter().filter(|value| !value.is_empty()) {
        head.append_known(Known::Cookie, value);
    }
}

fn remove_parameter(head: &mut Head, name: &str) {
    let Some(query) = head.query() else { return };
    let is_it = |pair: &&str| pair.split('=').next() == Some(name);
    if !query.split('&').any(|pair| is_it(&pair)) {
        return;
    }
    let left: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    let mut path = head.path_only().to_owned();
    if !left.is_empty() {
        path.push('?');
        path.push_str(&left.join("&"));
    }
    head.set_path(path.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str, fields: &[(&str, &str)]) -> Head {
        let mut head = Head::request("GET", "http", "a.test", path);
        for (name, value) in fields {
            head.append(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn header(name: &str) -> CredentialSource {
        CredentialSource::Header(HeaderName(name.into()))
    }

    #[track_caller]
    fn check(source: &CredentialSource, head: &mut Head, found: &[&str], left: &[&str]) {
        let mut all = Vec::new();
        source.each(head, |token| all.push(String::from_utf8_lossy(token).into_owned()));
        assert_eq!(all, found);
        source.remove(head);
        source.each(head, |token| assert_eq!(token, b"", "it is still there"));
        let fields = head.fields().map(|(name, value)| {
            format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
        });
        assert_eq!(fields.collect::<Vec<_>>(), left);
    }

    #[test]
    fn a_header_carries_a_credential_after_the_scheme() {
        for (value, found) in [
            ("Bearer abc", &["abc"][..]),
            ("bEARER   abc ", &["abc"]),
            ("Bearer", &[""]),
            ("Bearerabc", &[]),
            ("Basic abc", &[]),
            ("abc", &[]),
            ("", &[]),
        ] {
            let mut request = head("/", &[("authorization", value), ("x-a", "b")]);
            let stays = format!("authorization: {value}");
            let left: &[&str] = if found.is_empty() { &[&stays, "x-a: b"] } else { &["x-a: b"] };
            check(&header("authorization"), &mut request, found, left);
        }
        let two = &mut head("/", &[("authorization", "Basic x"), ("authorization", "Bearer y")]);
        check(&header("authorization"), two, &["y"], &["authorization: Basic x"]);
        let own = &mut head("/", &[("x-token", "abc"), ("x-token", "Bearer d")]);
        check(&header("x-token"), own, &["abc", "d"], &[]);
    }

    #[test]
    fn a_cookie_is_taken_out_and_the_others_stay() {
        let session = CredentialSource::Cookie("s".into());
        for (value, found, left) in [
            ("s=abc", &["abc"][..], &[][..]),
            ("a=1; s=abc; b=2", &["abc"], &["cookie: a=1; b=2"]),
            ("s=abc; s=def", &["abc"], &[]),
            ("ss=abc;s =x", &[], &["cookie: ss=abc"]),
            ("a=s=x", &[], &["cookie: a=s=x"]),
        ] {
            check(&session, &mut head("/", &[("cookie", value)]), found, left);
        }
        let two = &mut head("/", &[("cookie", "s=abc"), ("cookie", "a=1; s=def")]);
        check(&session, two, &["abc", "def"], &["cookie: a=1"]);
    }

    #[test]
    fn a_parameter_is_taken_out_and_the_others_stay() {
        let parameter = CredentialSource::Query("t".into());
        for (path, found, left) in [
            ("/a?t=abc", &["abc"][..], "/a"),
            ("/a?x=1&t=abc&y=2", &["abc"], "/a?x=1&y=2"),
            ("/a?t=abc&t=def", &["abc"], "/a"),
            ("/a?tt=abc&x=t=1", &[], "/a?tt=abc&x=t=1"),
            ("/a?t", &[""], "/a"),
            ("/a", &[], "/a"),
        ] {
            let mut request = head(path, &[]);
            check(&parameter, &mut request, found, &[]);
            assert_eq!(request.path(), left);
        }
    }
}
