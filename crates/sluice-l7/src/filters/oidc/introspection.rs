//! Opaque tokens, which the provider is asked about (RFC 7662).
//!
//! Owns: what its answer says, and which answers are remembered. Refuses to know: where a token was. Keeps: a token counts
//! while the provider has just said so, never longer than it lives; only valid tokens take memory.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_l4::metrics::count_limit;

use super::provider::{IntrospectionRules, LoginProvider, wall};
use super::refusal::LoginRefusal;
use crate::filters::generations::Generations;
use crate::filters::jwt::token::is_for;
use crate::form::FormText;
use crate::json::Json;
use crate::side_calls::SideCalls;

/// A token that the provider says is valid.
#[derive(Debug, PartialEq)]
pub(super) struct Introspected {
    /// What it says of it.
    pub(super) claims: Json,
    /// Until when that counts, since the Unix epoch.
    pub(super) until: Duration,
}

impl Introspected {
    /// Reads an answer.
    ///
    /// # Errors
    /// The token is not valid here, or the answer is none.
    fn of(
        body: &[u8],
        issuer: &str,
        rules: &IntrospectionRules,
        now: Duration,
    ) -> Result<Self, LoginRefusal> {
        let claims = Json::parse(body).map_err(|_| LoginRefusal::Unavailable)?;
        match claims.get("active") {
            Some(Json::Bool(true)) => {}
            Some(Json::Bool(false)) => return Err(LoginRefusal::Inactive),
            _ => return Err(LoginRefusal::Unavailable),
        }
        if claims.get("iss").is_some_and(|own| own.text() != Some(issuer)) {
            return Err(LoginRefusal::Audience);
        }
        if let Some(audiences) = &rules.audiences {
            is_for(claims.get("aud"), audiences).map_err(|_| LoginRefusal::Audience)?;
        }
        let time = |name: &str| match claims.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => value.number().map(Some).ok_or(LoginRefusal::Unavailable),
        };
        let seconds =
            |time: f64| Duration::try_from_secs_f64(time.max(0.0)).unwrap_or(Duration::MAX);
        let until = time("exp")?.map_or(Duration::MAX, seconds);
        if until <= now || time("nbf")?.is_some_and(|from| seconds(from) > now) {
            return Err(LoginRefusal::Inactive);
        }
        Ok(Self { claims, until: until.min(now + rules.ttl) })
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + 128 + self.claims.heap_bytes()
    }
}

/// The tokens that a worker knows to be valid, by provider and hash.
pub(super) struct IntrospectedTokens(RefCell<Generations<[u8; 32], Arc<Introspected>>>);

impl IntrospectedTokens {
    /// Those of a worker.
    pub(super) fn of(worker: &WorkerCx) -> Rc<Self> {
        let bytes_max = worker.limits.size(Limit::OidcTokens);
        worker.local(|| Self(RefCell::new(Generations::new(bytes_max))))
    }

    /// What is known of a token.
    pub(super) fn get(
        &self,
        provider: &LoginProvider,
        token: &str,
        now: Duration,
    ) -> Option<Arc<Introspected>> {
        self.0.borrow_mut().get(&key(provider, token), |known| now < known.until)
    }

    fn insert(
        &self,
        worker: &WorkerCx,
        provider: &LoginProvider,
        token: &str,
        known: &Arc<Introspected>,
    ) {
        let (key, bytes) = (key(provider, token), known.bytes());
        if self.0.borrow_mut().insert(key, Arc::clone(known), bytes) {
            count_limit(worker, Limit::OidcTokens);
        }
    }
}

/// The token is not kept itself.
fn key(provider: &LoginProvider, token: &str) -> [u8; 32] {
    let mut context = digest::Context::new(&SHA256);
    context.update(&provider.id.to_be_bytes());
    context.update(token.as_bytes());
    *context.finish().as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// Asks the provider about a token.
///
/// # Errors
/// It is not valid, or there is no answer.
pub(super) async fn introspect(
    provider: &LoginProvider,
    calls: &SideCalls,
    worker: &Rc<WorkerCx>,
    token: &str,
) -> Result<Arc<Introspected>, LoginRefusal> {
    let Some(rules) = &provider.own.introspection else { return Err(LoginRefusal::Missing) };
    let metadata = provider.metadata(worker).await?;
    let endpoint = metadata.introspection.as_ref().ok_or(LoginRefusal::Unavailable)?;
    let form = FormText::default().with("token", token).with("token_type_hint", "access_token");
    let (status, body) = provider.post(calls, worker, endpoint, form).await?;
    match status {
        200 => {}
        400 | 401 | 403 => return Err(LoginRefusal::Client),
        _ => return Err(LoginRefusal::Unavailable),
    }
    let known = Introspected::of(&body, provider.own.issuer.text(), rules, wall(worker))?;
    let known = Arc::new(known);
    IntrospectedTokens::of(worker).insert(worker, provider, token, &known);
    Ok(known)
}

/// Whether a text may be a token that a header carries (RFC 6750 §2.1), within a bound.
pub(super) fn opaque_token(text: &[u8], bytes_max: usize) -> Result<&str, LoginRefusal> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if text.is_empty() || text.len() > bytes_max || !text.iter().all(is_token) {
        return Err(LoginRefusal::Inactive);
    }
    std::str::from_utf8(text).map_err(|_| LoginRefusal::Inactive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_a_token_is_valid_here() {
        let seconds = Duration::from_secs;
        let rules =
            IntrospectionRules { audiences: Some([Box::from("shop")].into()), ttl: seconds(60) };
        let of = |text: &str| {
            let answer =
                Introspected::of(text.as_bytes(), "https://id.test", &rules, seconds(1_000));
            answer.map(|own| own.until.as_secs())
        };
        for (text, until) in [
            (r#"{"active":true,"aud":"shop"}"#, 1_060),
            (r#"{"active":true,"aud":["bank","shop"],"exp":1030,"iss":"https://id.test"}"#, 1_030),
            (r#"{"active":true,"aud":"shop","exp":9e18,"nbf":1000}"#, 1_060),
        ] {
            assert_eq!(of(text), Ok(until), "{text}");
        }
        for (text, refusal) in [
            (r#"{"active":false}"#, LoginRefusal::Inactive),
            (r#"{"active":true,"aud":"shop","exp":1000}"#, LoginRefusal::Inactive),
            (r#"{"active":true,"aud":"shop","exp":-1}"#, LoginRefusal::Inactive),
            (r#"{"active":true,"aud":"shop","nbf":1001}"#, LoginRefusal::Inactive),
            (r#"{"active":true,"aud":"bank"}"#, LoginRefusal::Audience),
            (r#"{"active":true}"#, LoginRefusal::Audience),
            (r#"{"active":true,"aud":"shop","iss":"https://evil.test"}"#, LoginRefusal::Audience),
            (r#"{"active":"true","aud":"shop"}"#, LoginRefusal::Unavailable),
            (r#"{"active":true,"active":false}"#, LoginRefusal::Unavailable),
            (r#"{"active":true,"aud":"shop","exp":"soon"}"#, LoginRefusal::Unavailable),
            ("{}", LoginRefusal::Unavailable),
            ("", LoginRefusal::Unavailable),
        ] {
            assert_eq!(of(text), Err(refusal), "{text}");
        }
    }

    #[test]
    fn what_no_token_has_is_not_asked_about() {
        assert_eq!(opaque_token(b"a.b-c_d~e+f/g==", 100), Ok("a.b-c_d~e+f/g=="));
        for text in [&b""[..], b"a b", b"a\r\n", b"\xff", b"a&b=c", &[b'a'; 101]] {
            assert!(opaque_token(text, 100).is_err(), "{text:?}");
        }
    }
}
