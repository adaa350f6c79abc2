//! A login on its way: what connects the redirect to the provider with the way back.
//!
//! Owns: the random values of a login, where it leads, and how long it may take. Refuses to know: cookies, and what the
//! provider answers. Keeps: a login leads to a path of the origin that it began at and nowhere else; each value is used
//! for one purpose.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;

use super::seal::random;
use super::session::PieceReader;
use crate::hygiene;

/// How long a login may take, from the redirect to the provider to the way back.
pub const FLOW_LIFETIME: Duration = Duration::from_secs(600);

/// The longest path to return to; a login that began at a longer one leads to `/`.
pub const RETURN_BYTES_MAX: usize = 1024;

/// Characters of `state`.
const STATE: usize = 22;

/// Characters of `state` that the name of the cookie has.
const FLOW_NAME: usize = 8;

/// A login on its way.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginFlow {
    /// When it began, since the Unix epoch.
    pub began: Duration,
    state: [u8; 16],
    nonce: [u8; 16],
    verifier: [u8; 32],
    /// The path that it leads to.
    pub return_to: Box<str>,
}

/// Shows none of the values.
impl fmt::Debug for LoginFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginFlow({})", self.return_to)
    }
}

impl LoginFlow {
    /// Begins a login that leads to a path, which is one of this origin.
    pub fn begin(now: Duration, return_to: &str) -> Self {
        let (state, nonce, verifier) = (random(), random(), random());
        let began = Duration::from_secs(now.as_secs());
        Self { began, state, nonce, verifier, return_to: local_path(return_to).into() }
    }

    /// `state` (RFC 6749 §4.1.1).
    pub fn state(&self) -> String {
        BASE64URL_NOPAD.encode(&self.state)
    }

    /// `nonce` (OpenID Connect Core §3.1.2.1).
    pub fn nonce(&self) -> String {
        BASE64URL_NOPAD.encode(&self.nonce)
    }

    /// The code verifier (RFC 7636 §4.1).
    pub fn verifier(&self) -> String {
        BASE64URL_NOPAD.encode(&self.verifier)
    }

    /// The code challenge by S256 (RFC 7636 §4.2).
    pub fn challenge(&self) -> String {
        BASE64URL_NOPAD.encode(digest(&SHA256, self.verifier().as_bytes()).as_ref())
    }

    /// Whether the login may still end.
    pub fn is_live(&self, now: Duration) -> bool {
        now < self.began + FLOW_LIFETIME
    }

    /// Writes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let began = self.began.as_secs().to_be_bytes();
        let length = u32::try_from(self.return_to.len()).unwrap_or(u32::MAX).to_be_bytes();
        let path = self.return_to.as_bytes();
        [&began[..], &self.state, &self.nonce, &self.verifier, &length, path].concat()
    }

    /// Reads what [`LoginFlow::to_bytes`] has written.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = PieceReader(bytes);
        let began = reader.time()?;
        let (state, nonce, verifier) = (reader.array()?, reader.array()?, reader.array()?);
        let return_to = reader.text()?;
        reader.0.is_empty().then_some(Self { began, state, nonce, verifier, return_to })
    }
}

/// The part of a `state` that the cookie of its login is named by; `None` if it is none of ours.
pub fn flow_name(state: &str) -> Option<&str> {
    let is_ours = state.len() == STATE
        && state.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    is_ours.then(|| &state[..FLOW_NAME])
}

/// A path to return to: the text itself, if a browser takes it for a path of the same origin, however it or a server
/// before it reads it; else `/`. It may have a query.
pub fn local_path(text: &str) -> &str {
    // A browser drops tabs and line ends, and takes a backslash for a slash (WHATWG URL §4.4).
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let leaves = |path: &str| {
        let mut next = path.bytes().skip(1);
        !path.starts_with('/') || next.next().is_some_and(|byte| b"/\\".contains(&byte))
    };
    // `/%5cevil.test`, and `/.//evil.test`, are harmless unless something decodes or shortens them on the way.
    let decoded = path.get(..4).is_some_and(|start| {
        start.eq_ignore_ascii_case("/%2f") || start.eq_ignore_ascii_case("/%5c")
    });
    let shortened = hygiene::lenient(path).is_some_and(|read| leaves(&read))
        || path.split('/').any(|part| matches!(part, "." | ".."))
        || path.contains("//");
    let fits = plain && text.len() <= RETURN_BYTES_MAX && !leaves(path) && !decoded && !shortened;
    if fits { text } else { "/" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_login_leads_to_its_own_origin() {
        for path in [
            "/",
            "/a",
            "/a/b?c=d&e=%2f%2f",
            "/a?u=https://x.test",
            "/a#b",
            "/a%2fb",
            "/~a;b",
            "/.well-known/a",
        ] {
            assert_eq!(local_path(path), path);
        }
        let long = format!("/{}", "a".repeat(RETURN_BYTES_MAX));
        for path in [
            "",
            "a",
            "//evil.test",
            "///evil.test",
            "/\\evil.test",
            "\\evil.test",
            "\\\\evil.test",
            "\\/evil.test",
            "/a\\b",
            "/%5cevil.test",
            "/%5C/evil.test",
            "/%2fevil.test",
            "/%2F%2Fevil.test",
            "/.//evil.test",
            "/..//evil.test",
            "/a//evil.test",
            "/\t/evil.test",
            "/\n/evil.test",
            " //evil.test",
            "/ /evil.test",
            "https://evil.test",
            "https:evil.test",
            "javascript:alert(1)",
            "?a",
            "#",
            "/\u{e4}",
            "/a\r\nset-cookie: a=b",
            &long,
        ] {
            assert_eq!(local_path(path), "/", "{path:?}");
        }
    }

    #[test]
    fn a_login_is_read_as_it_was_written() {
        let now = Duration::from_secs(1_000);
        let flow = LoginFlow::begin(now, "/a?b=c");
        let bytes = flow.to_bytes();
        assert_eq!(LoginFlow::of_bytes(&bytes).as_ref(), Some(&flow));
        for end in 0..bytes.len() {
            assert_eq!(LoginFlow::of_bytes(&bytes[..end]), None, "{end}");
        }
        assert_eq!(LoginFlow::of_bytes(&[&bytes[..], b"x"].concat()), None);
        assert!(flow.is_live(now) && flow.is_live(now + Duration::from_secs(599)));
        assert!(!flow.is_live(now + FLOW_LIFETIME));
        let other = LoginFlow::begin(now, "/");
        let all = |flow: &LoginFlow| [flow.state(), flow.nonce(), flow.verifier()];
        let distinct: std::collections::HashSet<String> =
            all(&flow).into_iter().chain(all(&other)).collect();
        assert_eq!(distinct.len(), 6);
        assert_eq!(flow_name(&flow.state()), Some(&flow.state()[..FLOW_NAME]));
        assert!(flow.verifier().len() >= 43, "RFC 7636 §4.1");
    }

    #[test]
    fn a_challenge_is_that_of_rfc_7636_appendix_b() {
        let verifier = BASE64URL_NOPAD
            .decode(b"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
            .unwrap()
            .try_into()
            .unwrap();
        let flow = LoginFlow { verifier, ..LoginFlow::begin(Duration::ZERO, "/") };
        assert_eq!(flow.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn a_state_of_others_names_no_cookie() {
        let long = "a".repeat(23);
        for state in ["", "a", "a=b; c=dddddddddddddd!", "äääääääääää", &long] {
            assert_eq!(flow_name(state), None, "{state}");
        }
    }

    proptest! {
        #[test]
        fn any_text_leads_to_a_path(text: String) {
            let path = local_path(&text);
            prop_assert!(path.starts_with('/') && !path.starts_with("//"));
        }

        #[test]
        fn any_bytes_can_be_read_as_a_login(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = LoginFlow::of_bytes(&bytes);
        }
    }
}
