//! A JSON Web Token (RFC 7519), parsed and verified.
//!
//! Owns: the form of a token, what its claims must say, and why it is refused. Refuses to know: where it came from, and
//! what the request is. Keeps: a token has one reading: compact form, canonical base64url, no member twice, no extension
//! that is not understood. What is cheap to check comes before the signature, and nothing counts before that is valid.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use sluice_core::Reason;

use super::keys::{KeySet, SignatureVerdict, SigningAlgorithm};
use crate::json::Json;
use crate::reasons;
use crate::reply::Reply;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// There is none.
    Missing,
    /// There are several, and it is not clear which one counts.
    Several,
    /// It is longer than the limit.
    TooLarge,
    /// It is not in the compact form, or is not what the parts should be.
    Malformed,
    /// It has a critical extension (RFC 7515 §4.1.11), none of which is understood.
    Critical,
    /// Its algorithm is not allowed.
    Algorithm,
    /// There is no key for it.
    Key,
    /// The signature is not valid.
    Signature,
    /// It has expired, or does not say when it will.
    Expired,
    /// It is not valid yet.
    Early,
    /// Another issuer made it.
    Issuer,
    /// It is for others.
    Audience,
    /// A claim that goes into a header has a control character.
    Claim,
    /// There are no keys yet.
    Unavailable,
    /// The settings name a provider that there is none of.
    Provider,
}

impl TokenRefusal {
    /// The status, the reason, the detail in records, and what the client hears.
    const fn parts(self) -> (u16, Reason, &'static str, &'static str) {
        match self {
            Self::Missing => (401, reasons::JWT_MISSING, "jwt_missing", "a token is required"),
            Self::Several => {
                (400, reasons::JWT_MALFORMED, "jwt_several", "there are several tokens")
            }
            Self::TooLarge => {
                (401, reasons::JWT_MALFORMED, "jwt_too_large", "the token is too large")
            }
            Self::Malformed => {
                (401, reasons::JWT_MALFORMED, "jwt_malformed", "the token is malformed")
            }
            Self::Critical => (
                401,
                reasons::JWT_MALFORMED,
                "jwt_critical",
                "the token has an extension that is not supported",
            ),
            Self::Algorithm => (
                401,
                reasons::JWT_KEY,
                "jwt_algorithm",
                "the algorithm of the token is not allowed",
            ),
            Self::Key => (401, reasons::JWT_KEY, "jwt_key", "the key of the token is not known"),
            Self::Signature => (
                401,
                reasons::JWT_SIGNATURE,
                "jwt_signature",
                "the signature of the token is not valid",
            ),
            Self::Expired => (401, reasons::JWT_TIME, "jwt_expired", "the token has expired"),
            Self::Early => (401, reasons::JWT_TIME, "jwt_early", "the token is not valid yet"),
            Self::Issuer => {
                (401, reasons::JWT_CLAIMS, "jwt_issuer", "the issuer of the token is not accepted")
            }
            Self::Audience => {
                (401, reasons::JWT_CLAIMS, "jwt_audience", "the token is for another audience")
            }
            Self::Claim => {
                (401, reasons::JWT_CLAIMS, "jwt_claim", "a claim of the token cannot be passed on")
            }
            Self::Unavailable => {
                (503, reasons::JWT_UNAVAILABLE, "jwt_unavailable", "tokens cannot be verified now")
            }
            Self::Provider => (500, reasons::DENIED, "jwt_provider", "tokens cannot be verified"),
        }
    }

    /// The detail in records and metrics.
    pub const fn detail(self) -> &'static str {
        self.parts().2
    }

    /// How far a token came before it was refused: of several providers, the one that it came furthest with is the one
    /// that it is for.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::Issuer => 1,
            Self::Unavailable | Self::Key => 3,
            Self::Provider => 4,
            _ => 2,
        }
    }

    /// The response, with a challenge as in RFC 6750 §3.
    pub fn reply(self, realm: &str) -> Reply {
        let (status, reason, detail, text) = self.parts();
        let reply = Reply::new(status, reason, detail, format!("{text}\n"));
        let error = match status {
            400 => "invalid_request",
            401 => "invalid_token",
            _ => return reply,
        };
        let challenge = match self {
            // Who sent no token hears of no error (RFC 6750 §3.1).
            Self::Missing => format!("Bearer realm=\"{realm}\""),
            _ => {
                format!("Bearer realm=\"{realm}\", error=\"{error}\", error_description=\"{text}\"")
            }
        };
        reply.with("www-authenticate", challenge)
    }
}

/// What tokens of an issuer must say.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRules {
    /// `iss`; `None` for any.
    pub issuer: Option<Box<str>>,
    /// Of `aud`, one must be among these; `None` for any.
    pub audiences: Option<Box<[Box<str>]>>,
    /// The algorithms that may be used.
    pub algorithms: Box<[SigningAlgorithm]>,
    /// How far clocks may differ.
    pub skew: Duration,
    /// Whether `exp` may be missing.
    pub endless: bool,
}

/// When a token is valid, in seconds since the Unix epoch, skew included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    from: i64,
    /// The first second in which it is not valid any more.
    until: i64,
}

impl Validity {
    #[cfg(test)]
    pub(super) const ALWAYS: Self = Self { from: i64::MIN, until: i64::MAX };

    /// Judges the time since the Unix epoch.
    ///
    /// # Errors
    /// [`TokenRefusal::Expired`] or [`TokenRefusal::Early`].
    pub fn judge(self, now: Duration) -> Result<(), TokenRefusal> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now >= self.until {
            return Err(TokenRefusal::Expired);
        }
        if now < self.from {
            return Err(TokenRefusal::Early);
        }
        Ok(())
    }
}

/// A token that has one reading, before anything in it counts.
#[derive(Debug)]
pub struct ParsedToken<'t> {
    /// What is signed: the first two parts.
    signed: &'t [u8],
    header: Json,
    claims: Json,
    signature: Vec<u8>,
}

/// A token of which everything has been checked.
#[derive(Debug, PartialEq)]
pub struct CheckedToken {
    /// The claims.
    pub claims: Json,
    /// When it is valid.
    pub validity: Validity,
    /// What it was signed with.
    pub algorithm: SigningAlgorithm,
}

/// Parses a token without believing anything of it.
///
/// # Errors
/// It is too large, malformed, or has a critical extension.
pub fn parse(token: &[u8], bytes_max: usize) -> Result<ParsedToken<'_>, TokenRefusal> {
    if token.len() > bytes_max {
        return Err(TokenRefusal::TooLarge);
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let all = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(header), Some(payload), Some(signature), None) = all else {
        return Err(TokenRefusal::Malformed);
    };
    let decode = |part: &[u8]| BASE64URL_NOPAD.decode(part).map_err(|_| TokenRefusal::Malformed);
    let object = |part: &[u8]| {
        let json = Json::parse(&decode(part)?).map_err(|_| TokenRefusal::Malformed)?;
        json.members().is_some().then_some(json).ok_or(TokenRefusal::Malformed)
    };
    let head = object(header)?;
    // `b64` changes what is signed, and must be critical (RFC 7797 §6).
    if head.get("crit").is_some() || head.get("b64").is_some() {
        return Err(TokenRefusal::Critical);
    }
    let is_text = |name| head.get(name).is_none_or(|value| value.text().is_some());
    if !is_text("alg") || !is_text("kid") || head.get("alg").is_none() {
        return Err(TokenRefusal::Malformed);
    }
    let signature = decode(signature)?;
    let signed = &token[..=header.len() + payload.len()];
    Ok(ParsedToken { signed, header: head, claims: object(payload)?, signature })
}

impl ParsedToken<'_> {
    /// Checks what the token says, and then its signature.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(
        self,
        rules: &TokenRules,
        keys: &KeySet,
        now: Duration,
    ) -> Result<CheckedToken, TokenRefusal> {
        let text = |name| self.header.get(name).and_then(Json::text);
        let claim = |name| self.claims.get(name);
        if let Some(issuer) = &rules.issuer
            && claim("iss").and_then(Json::text) != Some(issuer)
        {
            return Err(TokenRefusal::Issuer);
        }
        let algorithm = text("alg").and_then(SigningAlgorithm::named);
        let algorithm = algorithm.filter(|own| rules.algorithms.contains(own));
        let algorithm = algorithm.ok_or(TokenRefusal::Algorithm)?;
        let validity = validity(&self.claims, rules)?;
        validity.judge(now)?;
        if let Some(audiences) = &rules.audiences {
            is_for(claim("aud"), audiences)?;
        }
        match keys.judge(algorithm, text("kid"), self.signed, &self.signature) {
            SignatureVerdict::Valid => {
                Ok(CheckedToken { claims: self.claims, validity, algorithm })
            }
            SignatureVerdict::Invalid => Err(TokenRefusal::Signature),
            SignatureVerdict::NoKey => Err(TokenRefusal::Key),
        }
    }
}

/// Checks `aud`: a string, or an array of strings (RFC 7519 §4.1.3).
///
/// # Errors
/// [`TokenRefusal::Audience`] if none of them is one of these.
pub fn is_for(aud: Option<&Json>, audiences: &[Box<str>]) -> Result<(), TokenRefusal> {
    let ours = |text: &str| audiences.iter().any(|own| **own == *text);
    let fits = match aud {
        None => false,
        Some(Json::Text(text)) => ours(text),
        Some(Json::List(all)) => {
            let texts: Option<Vec<&str>> = all.iter().map(Json::text).collect();
            texts.ok_or(TokenRefusal::Malformed)?.into_iter().any(ours)
        }
        Some(_) => return Err(TokenRefusal::Malformed),
    };
    if fits { Ok(()) } else { Err(TokenRefusal::Audience) }
}

/// Reads `exp` and `nbf`: seconds, whole or not (RFC 7519 §2, NumericDate).
fn validity(claims: &Json, rules: &TokenRules) -> Result<Validity, TokenRefusal> {
    let time = |name| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.number().map(Some).ok_or(TokenRefusal::Malformed),
    };
    let skew = i64::try_from(rules.skew.as_secs()).unwrap_or(i64::MAX);
    // A cast saturates, and rounds towards the shorter time.
    #[allow(clippy::cast_possible_truncation, reason = "it saturates")]
    let seconds = |time: f64| time as i64;
    let until = match time("exp")? {
        Some(exp) => seconds(exp.floor()).saturating_add(skew),
        None if rules.endless => i64::MAX,
        None => return Err(TokenRefusal::Expired),
    };
    let from = time("nbf")?.map_or(i64::MIN, |nbf| seconds(nbf.ceil()).saturating_sub(skew));
    Ok(Validity { from, until })
}

#[cfg(test)]
mod tests;
