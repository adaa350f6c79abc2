//! The cookies of a login: their names, their attributes, and a text that takes several.
//!
//! Owns: how a session is cut into cookies and joined again, and which cookies of a request are ours. Refuses to know:
//! what is in them. Keeps: cookies are for this host alone and out of reach of scripts; what a browser sends is joined
//! within a bound, or not at all; endpoints see none of them.
//!
//! A session is in the cookies `NAME`, `NAME.1`, `NAME.2` and so on. The first begins with their number and a dot. A login
//! on its way is in `NAME.flow-` and the beginning of its `state`.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use sluice_codec::Head;

use crate::filters::credentials::remove_cookies;

/// The bytes of a cookie's value. Browsers keep 4096 with its name (RFC 6265bis §5.6).
const CHUNK: usize = 3800;

/// The names and attributes of a provider's cookies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginCookies {
    /// The name, without a prefix; it has no dot.
    pub name: Box<str>,
    /// The domain whose hosts get them; `None` for the host that has set them.
    pub domain: Option<Box<str>>,
}

/// Cookies of ours that a request has sent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SentCookies(Vec<SentCookie>);

/// A name and a value.
type SentCookie = (Box<[u8]>, Box<[u8]>);

/// Shows no value.
impl fmt::Debug for SentCookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cookies", self.0.len())
    }
}

/// As a value that the filter keeps for itself.
impl fmt::Display for SentCookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(sluice_core::secret::REDACTED)
    }
}

impl SentCookies {
    /// Takes the cookies of these providers out of a request.
    pub fn take<'n>(head: &mut Head, of: impl Iterator<Item = &'n LoginCookies> + Clone) -> Self {
        let is_ours = |name: &[u8]| of.clone().any(|own| own.owns(name));
        let mut sent = Vec::new();
        for (_, value) in head.fields().filter(|(name, _)| *name == b"cookie") {
            for pair in value.split(|byte| *byte == b';') {
                let mut parts = pair.trim_ascii().splitn(2, |byte| *byte == b'=');
                let (name, value) = (parts.next().unwrap_or_default(), parts.next());
                if let Some(value) = value
                    && is_ours(name)
                {
                    sent.push((name.into(), value.into()));
                }
            }
        }
        if !sent.is_empty() {
            remove_cookies(head, is_ours);
        }
        Self(sent)
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds those that were taken out of the request before.
    pub fn extend(&mut self, earlier: &Self) {
        self.0.extend(earlier.0.iter().cloned());
    }

    /// The first cookie of that name.
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(own, _)| **own == *name.as_bytes()).map(|(_, value)| &**value)
    }
}

impl LoginCookies {
    /// The name of a cookie of ours. Browsers take one with such a prefix only if it is secure and, with the first of
    /// them, for one host (RFC 6265bis §4.1.3), so that no other host or plain connection can put one there.
    fn name(&self, secure: bool, suffix: &str) -> String {
        let prefix = match (secure, &self.domain) {
            (true, None) => "__Host-",
            (true, Some(_)) => "__Secure-",
            (false, _) => "",
        };
        format!("{prefix}{}{suffix}", self.name)
    }

    fn chunk_name(&self, secure: bool, place: usize) -> String {
        match place {
            0 => self.name(secure, ""),
            place => self.name(secure, &format!(".{place}")),
        }
    }

    /// The name of the cookie of a login on its way.
    pub fn flow_cookie(&self, secure: bool, flow: &str) -> String {
        self.name(secure, &format!(".flow-{flow}"))
    }

    /// Whether a cookie is one of these, whatever set it.
    fn owns(&self, name: &[u8]) -> bool {
        let bare = [&b"__Host-"[..], b"__Secure-"].iter().find_map(|own| name.strip_prefix(*own));
        let rest = bare.unwrap_or(name).strip_prefix(self.name.as_bytes());
        rest.is_some_and(|rest| matches!(rest, [] | [b'.', ..]))
    }

    /// `set-cookie` for a value.
    pub fn set(&self, name: &str, value: &str, age: Duration, secure: bool) -> String {
        let age = age.as_secs();
        let mut text = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax");
        if let Some(domain) = &self.domain {
            let _ = write!(text, "; Domain={domain}");
        }
        if secure {
            text.push_str("; Secure");
        }
        text
    }

    /// `set-cookie` that removes a cookie.
    pub fn unset(&self, name: &str, secure: bool) -> String {
        self.set(name, "", Duration::ZERO, secure)
    }

    /// The session that a request has sent, joined; `None` if there is none, it is incomplete, or has more than
    /// `bytes_max`.
    pub fn session(&self, sent: &SentCookies, secure: bool, bytes_max: usize) -> Option<Vec<u8>> {
        let first = sent.get(&self.chunk_name(secure, 0))?;
        let dot = first.iter().position(|byte| *byte == b'.')?;
        let count: usize = std::str::from_utf8(&first[..dot]).ok()?.parse().ok()?;
        let mut joined = first[dot + 1..].to_vec();
        for place in 1..count {
            if joined.len() > bytes_max {
                return None;
            }
            joined.extend(sent.get(&self.chunk_name(secure, place))?);
        }
        (joined.len() <= bytes_max).then_some(joined)
    }

    /// Whether a request has sent any part of a session.
    pub fn has_session(&self, sent: &SentCookies, secure: bool) -> bool {
        sent.get(&self.chunk_name(secure, 0)).is_some()
    }

    /// `set-cookie` for a session, in as many cookies as it takes. Removes further ones of the session before.
    pub fn set_session(
        &self,
        session: &str,
        age: Duration,
        secure: bool,
        sent: &SentCookies,
    ) -> Vec<String> {
        let chunks: Vec<&str> = (0..session.len().max(1))
            .step_by(CHUNK)
            .filter_map(|at| session.get(at..session.len().min(at + CHUNK)))
            .collect();
        let count = chunks.len();
        let mut all: Vec<String> = Vec::new();
        for (place, chunk) in chunks.into_iter().enumerate() {
            let name = self.chunk_name(secure, place);
            let value = if place == 0 { format!("{count}.{chunk}") } else { chunk.to_owned() };
            all.push(self.set(&name, &value, age, secure));
        }
        all.extend(self.unset_session(sent, secure, count));
        all
    }

    /// `set-cookie` that removes the cookies of a session from `from` on.
    pub fn unset_session(&self, sent: &SentCookies, secure: bool, from: usize) -> Vec<String> {
        let start = self.name(secure, "");
        let place = |name: &[u8]| {
            let rest = std::str::from_utf8(name).ok()?.strip_prefix(&start)?;
            if rest.is_empty() { Some(0) } else { rest.strip_prefix('.')?.parse::<usize>().ok() }
        };
        let places = sent.0.iter().filter_map(|(name, _)| place(name));
        let gone = places.filter(|place| *place >= from);
        gone.map(|place| self.unset(&self.chunk_name(secure, place), secure)).collect()
    }

    /// The cookies of logins on their way: names and values.
    pub fn flows<'s>(
        &self,
        sent: &'s SentCookies,
        secure: bool,
    ) -> impl Iterator<Item = (&'s str, &'s [u8])> {
        let start = self.flow_cookie(secure, "");
        sent.0.iter().filter_map(move |(name, value)| {
            let name = std::str::from_utf8(name).ok()?;
            name.starts_with(&start).then_some((name, &**value))
        })
    }

    /// The cookie of a login on its way.
    pub fn flow<'s>(&self, sent: &'s SentCookies, name: &str) -> Option<&'s [u8]> {
        sent.get(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cookies() -> LoginCookies {
        LoginCookies { name: "s".into(), domain: None }
    }

    fn sent(value: &str) -> (SentCookies, Head) {
        let mut head = Head::request("GET", "https", "a.test", "/");
        head.append(b"cookie", value.as_bytes());
        (SentCookies::take(&mut head, [&cookies()].into_iter()), head)
    }

    /// What a browser sends that was given these.
    fn returned(set: &[String]) -> String {
        let pairs = set.iter().filter(|own| !own.contains("Max-Age=0"));
        pairs.filter_map(|own| own.split(';').next()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_session_is_cut_and_joined_again() {
        let age = Duration::from_secs(60);
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK] {
            let session = "x".repeat(length);
            let set = cookies().set_session(&session, age, true, &SentCookies::default());
            assert_eq!(set.len(), length.div_ceil(CHUNK).max(1), "{length}");
            let (sent, _) = sent(&returned(&set));
            let joined = |max| cookies().session(&sent, true, max);
            assert_eq!(joined(length).as_deref(), Some(session.as_bytes()));
            assert_eq!(cookies().session(&sent, false, length), None, "a name of plain HTTP");
            if length > 0 {
                assert_eq!(joined(length - 1), None, "too large");
            }
            for own in &set {
                assert!(own.len() < 4096 && own.starts_with("__Host-s"), "{own}");
                assert!(own.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"));
            }
        }
    }

    #[test]
    fn a_smaller_session_leaves_no_parts_of_a_larger_one() {
        let (before, _) = sent("__Host-s=3.a; __Host-s.1=b; __Host-s.2=c; s=x; __Host-s.flow-a=d");
        let set = cookies().set_session("y", Duration::from_secs(1), true, &before);
        let names: Vec<_> = set.iter().filter_map(|own| own.split('=').next()).collect();
        assert_eq!(names, ["__Host-s", "__Host-s.1", "__Host-s.2"]);
        assert!(set[1].starts_with("__Host-s.1=; Path=/; Max-Age=0;"), "{}", set[1]);
        assert_eq!(cookies().unset_session(&before, true, 0).len(), 3);
        let flows: Vec<_> = cookies().flows(&before, true).collect();
        assert_eq!(flows, [("__Host-s.flow-a", &b"d"[..])]);
    }

    #[test]
    fn what_cannot_be_joined_is_no_session() {
        for value in [
            "__Host-s=2.a",
            "__Host-s=2.a; __Host-s.2=b",
            "__Host-s=a",
            "__Host-s=.a",
            "__Host-s=-1.a",
            "__Host-s=99999999999999999999.a",
            "__Host-s=18446744073709551615.a",
            "__Host-s.1=b",
            "__Host-s",
            "",
        ] {
            assert_eq!(cookies().session(&sent(value).0, true, 100), None, "{value}");
        }
    }

    #[test]
    fn endpoints_see_the_cookies_of_others_only() {
        for (value, left) in [
            ("a=1; __Host-s=1.x; b=2", "a=1; b=2"),
            ("s=1; __Secure-s.1=2; __Host-s.flow-x=3", ""),
            ("ss=1; s-a=2; xs=3; __Host-=4", "ss=1; s-a=2; xs=3; __Host-=4"),
        ] {
            let (_, head) = sent(value);
            assert_eq!(head.get_named(b"cookie").unwrap_or_default(), left.as_bytes());
        }
    }

    #[test]
    fn a_domain_has_a_prefix_of_its_own() {
        let own = LoginCookies { domain: Some("shop.test".into()), ..cookies() };
        let name = own.flow_cookie(true, "abc");
        assert_eq!(name, "__Secure-s.flow-abc");
        assert!(own.unset(&name, true).contains("; Domain=shop.test; Secure"));
        assert!(!own.set("s", "x", Duration::ZERO, false).contains("Secure"));
    }

    proptest! {
        #[test]
        fn any_cookies_can_be_taken(value: String) {
            let (sent, _) = sent(&value);
            let _ = cookies().session(&sent, true, 1000);
            let _ = cookies().unset_session(&sent, true, 0);
        }
    }
}
