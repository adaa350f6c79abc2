//! Tokens.
//!
//! Owns: how each kind of token is made. Refuses to know: what becomes of a request with it. Keeps: a token that is refused has
//! one flaw.

use std::time::Duration;

use serde_json::json;
use sluice_testkit::tokens::SigningKey;

use super::model::Token;

/// The tokens that clients may have.
pub(super) struct Wallet(Vec<(Token, String)>);

impl Wallet {
    pub(super) fn new(key: &SigningKey, now: Duration) -> Self {
        let now = now.as_secs();
        let of = |user: &str, admin: bool, audience: &str, until: u64| {
            let roles: &[&str] = if admin { &["staff", "admin"] } else { &["staff"] };
            key.token(
                &json!({ "iss": "id", "aud": audience, "sub": user, "roles": roles, "exp": until }),
            )
        };
        let late = now + 1_000_000;
        let mut forged = of("ann", true, "shop", late);
        // The last character has bits that do not count.
        let at = forged.len() - 10;
        let other = if &forged[at..=at] == "A" { "B" } else { "A" };
        forged.replace_range(at..=at, other);
        Self(vec![
            (Token::Valid("ann", true), of("ann", true, "shop", late)),
            (Token::Valid("ann", false), of("ann", false, "shop", late)),
            (Token::Valid("bob", false), of("bob", false, "shop", late)),
            (Token::Expired, of("ann", true, "shop", now - 1000)),
            (Token::Forged, forged),
            (Token::Audience, of("ann", true, "bank", late)),
            (Token::Malformed, "a.b".to_owned()),
        ])
    }

    pub(super) fn of(&self, token: Token) -> Option<&str> {
        self.0.iter().find(|(of, _)| *of == token).map(|(_, text)| &**text)
    }
}
