//! A session: what a login leaves with the browser, sealed.
//!
//! Owns: its content, and how that is written. Refuses to know: cookies, and how it is sealed. Keeps: what was written is
//! read again, and nothing else is read; it is never printed.

use std::fmt;
use std::time::Duration;

/// What is remembered of a login. Times are since the Unix epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginSession {
    /// When the user logged in.
    pub began: Duration,
    /// When the tokens are renewed; somewhat before they end.
    pub renew_at: Duration,
    /// When the access token ends.
    pub until: Duration,
    /// The ID token, which has been verified.
    pub id_token: Box<str>,
    /// The access token, if endpoints get it.
    pub access_token: Option<Box<str>>,
    /// The refresh token, if there is one.
    pub refresh_token: Option<Box<str>>,
}

/// Shows no token.
impl fmt::Debug for LoginSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginSession(until {:?})", self.until)
    }
}

/// The form of what is written: other forms are not read.
const FORM: u8 = 1;

impl LoginSession {
    /// Writes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORM];
        for time in [self.began, self.renew_at, self.until] {
            bytes.extend(time.as_secs().to_be_bytes());
        }
        let none = || "".into();
        let texts = [
            self.id_token.clone(),
            self.access_token.clone().unwrap_or_else(none),
            self.refresh_token.clone().unwrap_or_else(none),
        ];
        for text in texts {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            bytes.extend(length.to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    /// Reads what [`LoginSession::to_bytes`] has written.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = PieceReader(bytes);
        if reader.array::<1>()? != [FORM] {
            return None;
        }
        let (began, renew_at, until) = (reader.time()?, reader.time()?, reader.time()?);
        let (id_token, access, refresh) = (reader.text()?, reader.text()?, reader.text()?);
        let given = |text: Box<str>| (!text.is_empty()).then_some(text);
        reader.0.is_empty().then(|| Self {
            began,
            renew_at,
            until,
            id_token,
            access_token: given(access),
            refresh_token: given(refresh),
        })
    }

    /// The part of the ID token that has the claims.
    pub fn payload(&self) -> &str {
        self.id_token.split('.').nth(1).unwrap_or_default()
    }
}

/// Reads what was written, piece by piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct PieceReader<'b>(pub(super) &'b [u8]);

impl PieceReader<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn time(&mut self) -> Option<Duration> {
        self.array().map(|bytes| Duration::from_secs(u64::from_be_bytes(bytes)))
    }

    pub(super) fn text(&mut self) -> Option<Box<str>> {
        let length = usize::try_from(u32::from_be_bytes(self.array()?)).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(std::str::from_utf8(text).ok()?.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(access: Option<&str>, refresh: Option<&str>) -> LoginSession {
        let seconds = Duration::from_secs;
        LoginSession {
            began: seconds(1),
            renew_at: seconds(290),
            until: seconds(300),
            id_token: "a.b.c".into(),
            access_token: access.map(Into::into),
            refresh_token: refresh.map(Into::into),
        }
    }

    #[test]
    fn what_was_written_is_read_again_and_nothing_else() {
        for own in [session(None, None), session(Some("x"), None), session(Some("x"), Some("yz"))] {
            let bytes = own.to_bytes();
            assert_eq!(LoginSession::of_bytes(&bytes), Some(own));
            for end in 0..bytes.len() {
                assert_eq!(LoginSession::of_bytes(&bytes[..end]), None, "{end}");
            }
            assert_eq!(LoginSession::of_bytes(&[&bytes[..], &[0]].concat()), None);
            assert_eq!(LoginSession::of_bytes(&[&[2], &bytes[1..]].concat()), None);
        }
        assert_eq!(session(None, None).payload(), "b");
        assert!(!format!("{:?}", session(Some("secret"), None)).contains("secret"));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(session) = LoginSession::of_bytes(&bytes) {
                prop_assert_eq!(session.to_bytes(), bytes);
            }
        }
    }
}
