//! What a provider answers to a code or a refresh token, and whether it may be believed.
//!
//! Owns: the response of the token endpoint (OpenID Connect Core §3.1.3.3) and the rules for ID tokens (§3.1.3.7, §12.2).
//! Refuses to know: how the endpoint is asked. Keeps: an ID token counts for this login, this client and this access token,
//! or not at all.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, digest};
use data_encoding::BASE64URL_NOPAD;
use sluice_l4::filters::Content as _;

use super::refusal::LoginRefusal;
use crate::filters::inject_credentials::oauth2::AccessToken;
use crate::filters::jwt::keys::{KeySet, SigningAlgorithm};
use crate::filters::jwt::token::{CheckedToken, TokenRules, parse};
use crate::json::Json;

/// The response of a token endpoint.
pub struct TokenAnswer {
    /// The access token.
    pub access: AccessToken,
    /// The ID token.
    pub id_token: Option<Box<str>>,
    /// The refresh token.
    pub refresh_token: Option<Box<str>>,
}

/// Shows no token.
impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenAnswer({:?})", self.access)
    }
}

impl TokenAnswer {
    /// Reads a response with the status 200.
    ///
    /// # Errors
    /// What is wrong with it, without its content.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let access = AccessToken::parse(body)?;
        let answer = Json::parse(body)?;
        let text = |name: &str| match answer.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Text(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(format!("`{name}` is not a text")),
        };
        Ok(Self { access, id_token: text("id_token")?, refresh_token: text("refresh_token")? })
    }
}

/// What an ID token must go with.
#[derive(Clone, Copy, Debug)]
pub struct TokenOccasion<'l> {
    /// The `nonce` of the login; `None` for a token that was renewed, which need not have one.
    pub nonce: Option<&'l str>,
    /// The access token that came with it.
    pub access: &'l str,
    /// The user of the session that it renews.
    pub subject: Option<&'l str>,
}

/// The rules for the ID tokens of a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct IdTokenRules {
    /// Issuer, audience, algorithms, time.
    pub token: TokenRules,
    /// The client that they are for.
    pub client_id: Box<str>,
}

impl IdTokenRules {
    /// Checks an ID token; returns its claims.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(
        &self,
        token: &str,
        occasion: TokenOccasion<'_>,
        keys: &KeySet,
        now: Duration,
        bytes_max: usize,
    ) -> Result<Json, LoginRefusal> {
        let parsed = parse(token.as_bytes(), bytes_max).map_err(LoginRefusal::Token)?;
        let checked = parsed.check(&self.token, keys, now).map_err(LoginRefusal::Token)?;
        let CheckedToken { claims, algorithm, .. } = checked;
        let text = |name| claims.get(name).and_then(Json::text);
        let same =
            |one: &str, two: &str| verify_slices_are_equal(one.as_bytes(), two.as_bytes()).is_ok();
        let nonce = match occasion.nonce {
            Some(nonce) => text("nonce").is_some_and(|own| same(own, nonce)),
            None => true,
        };
        if !nonce {
            return Err(LoginRefusal::Nonce);
        }
        self.check_party(&claims)?;
        if let Some(hash) = claims.get("at_hash")
            && hash.text() != Some(&*access_hash(algorithm, occasion.access))
        {
            return Err(LoginRefusal::Hash);
        }
        let subject = text("sub").filter(|subject| !subject.is_empty());
        let subject = subject.ok_or(LoginRefusal::Subject)?;
        if occasion.subject.is_some_and(|before| before != subject) {
            return Err(LoginRefusal::Subject);
        }
        Ok(claims)
    }

    /// Checks the authorized party: a token for several audiences must name this client, and none may name another.
    fn check_party(&self, claims: &Json) -> Result<(), LoginRefusal> {
        let several = claims.get("aud").and_then(Json::items).is_some_and(|all| all.len() > 1);
        let fits = match claims.get("azp") {
            None => !several,
            Some(party) => party.text() == Some(&*self.client_id),
        };
        if fits { Ok(()) } else { Err(LoginRefusal::Party) }
    }
}

/// `at_hash` of an access token (OpenID Connect Core §3.1.3.6): the left half of its hash.
fn access_hash(algorithm: SigningAlgorithm, access: &str) -> String {
    use SigningAlgorithm as Alg;
    let hash = match algorithm {
        Alg::Rs256 | Alg::Ps256 | Alg::Es256 | Alg::Hs256 => &digest::SHA256,
        Alg::Rs384 | Alg::Ps384 | Alg::Es384 | Alg::Hs384 => &digest::SHA384,
        // Ed25519 hashes with SHA-512.
        Alg::Rs512 | Alg::Ps512 | Alg::Es512 | Alg::Hs512 | Alg::EdDsa => &digest::SHA512,
    };
    let hashed = digest(hash, access.as_bytes());
    BASE64URL_NOPAD.encode(&hashed.as_ref()[..hashed.as_ref().len() / 2])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sluice_testkit::tokens::{SigningKey, key_set};

    use super::*;
    use crate::filters::jwt::token::TokenRefusal;

    #[test]
    fn a_response_has_tokens_that_are_texts() {
        let parse = |more: &str| {
            TokenAnswer::parse(
                format!(r#"{{"access_token":"a","expires_in":60{more}}}"#).as_bytes(),
            )
        };
        let own = parse(r#","id_token":"i","refresh_token":"r""#).unwrap();
        assert_eq!((own.id_token.as_deref(), own.refresh_token.as_deref()), (Some("i"), Some("r")));
        assert_eq!((own.access.lifetime.as_secs(), own.access.valid.as_secs()), (50, 60));
        assert!(parse(r#","id_token":null"#).unwrap().id_token.is_none());
        for more in [r#","id_token":7"#, r#","refresh_token":"""#, r#","refresh_token":[]"#] {
            assert!(parse(more).is_err(), "{more}");
        }
        assert!(TokenAnswer::parse(b"{}").is_err() && TokenAnswer::parse(b"<html>").is_err());
    }

    fn check(key: &SigningKey, claims: &Value) -> Result<Json, LoginRefusal> {
        let rules = IdTokenRules {
            token: TokenRules {
                issuer: Some("https://id.test".into()),
                audiences: Some([Box::from("shop")].into()),
                algorithms: [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa].into(),
                skew: Duration::ZERO,
                endless: false,
            },
            client_id: "shop".into(),
        };
        let known = SigningKey::new("ES256", "k");
        let keys = KeySet::parse(key_set([key, &known]).as_bytes()).unwrap();
        let occasion = TokenOccasion { nonce: Some("n"), access: "token", subject: None };
        rules.check(&key.token(claims), occasion, &keys, Duration::from_secs(1_000), 16 << 10)
    }

    #[test]
    fn an_id_token_is_of_this_login_this_client_and_this_access_token() {
        let key = SigningKey::new("ES256", "k2");
        let sound = json!({ "iss": "https://id.test", "aud": "shop", "sub": "ann", "nonce": "n", "exp": 2_000 });
        let with = |more: Value| {
            let mut claims = sound.clone();
            for (name, value) in more.as_object().unwrap() {
                match value {
                    Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                    value => claims[name] = value.clone(),
                }
            }
            check(&key, &claims).map(|claims| claims.get("sub").unwrap().to_string())
        };
        let hash = access_hash(SigningAlgorithm::Es256, "token");
        for more in [
            json!({}),
            json!({ "azp": "shop" }),
            json!({ "aud": ["shop"] }),
            json!({ "aud": ["bank", "shop"], "azp": "shop" }),
            json!({ "at_hash": hash }),
        ] {
            assert_eq!(with(more.clone()).as_deref(), Ok("ann"), "{more}");
        }
        for (more, refusal) in [
            (json!({ "nonce": "other" }), LoginRefusal::Nonce),
            (json!({ "nonce": null }), LoginRefusal::Nonce),
            (json!({ "nonce": ["n"] }), LoginRefusal::Nonce),
            (json!({ "azp": "bank" }), LoginRefusal::Party),
            (json!({ "azp": 7 }), LoginRefusal::Party),
            (json!({ "aud": ["bank", "shop"] }), LoginRefusal::Party),
            (json!({ "at_hash": "x" }), LoginRefusal::Hash),
            (json!({ "at_hash": 7 }), LoginRefusal::Hash),
            (json!({ "sub": null }), LoginRefusal::Subject),
            (json!({ "sub": "" }), LoginRefusal::Subject),
            (json!({ "iss": "https://evil.test" }), LoginRefusal::Token(TokenRefusal::Issuer)),
            (json!({ "iss": null }), LoginRefusal::Token(TokenRefusal::Issuer)),
            (json!({ "aud": "bank" }), LoginRefusal::Token(TokenRefusal::Audience)),
            (json!({ "exp": 1_000 }), LoginRefusal::Token(TokenRefusal::Expired)),
            (json!({ "exp": null }), LoginRefusal::Token(TokenRefusal::Expired)),
        ] {
            assert_eq!(with(more.clone()), Err(refusal), "{more}");
        }
        // A key that the provider has, with an algorithm that is not allowed.
        let other = check(&SigningKey::new("RS256", "r"), &sound);
        assert_eq!(other.unwrap_err(), LoginRefusal::Token(TokenRefusal::Algorithm));
    }

    #[test]
    fn a_hash_is_that_of_the_specification() {
        // OpenID Connect Core, appendix A.3.
        let access = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(access_hash(SigningAlgorithm::Rs256, access), "77QmUPtjPfzWtF2AnpK9RQ");
    }
}
