//! The keys that tokens are verified with, and the algorithms that each may be used for.
//!
//! Owns: JSON Web Key Sets (RFC 7517, RFC 7518 §6), shared secrets, and signatures. Refuses to know: where keys come from
//! and what tokens say. Keeps: a key is bound to its algorithms before any token is seen, so that no token can have a
//! public key used as a shared secret; a set of public keys has no symmetric keys, whatever it contains.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use data_encoding::BASE64URL_NOPAD;
use sluice_l4::filters::Content;

use crate::json::Json;

/// The most keys of a set.
pub const KEYS_MAX: usize = 256;

/// The most keys that are tried for a token that does not say which it was signed with.
const TRIES_MAX: usize = 8;

/// The fewest bytes of a shared secret: as many as the shortest hash has (RFC 7518 §3.2).
const SECRET_MIN: usize = 32;

sluice_core::choice! {
    /// How tokens are signed (RFC 7518 §3.1, RFC 8037 §3.1).
    pub enum SigningAlgorithm {
        /// RSA PKCS#1 v1.5 with SHA-256.
        Rs256 = "RS256",
        /// RSA PKCS#1 v1.5 with SHA-384.
        Rs384 = "RS384",
        /// RSA PKCS#1 v1.5 with SHA-512.
        Rs512 = "RS512",
        /// RSA PSS with SHA-256.
        Ps256 = "PS256",
        /// RSA PSS with SHA-384.
        Ps384 = "PS384",
        /// RSA PSS with SHA-512.
        Ps512 = "PS512",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        Es384 = "ES384",
        /// ECDSA on P-521 with SHA-512.
        Es512 = "ES512",
        /// Ed25519.
        EdDsa = "EdDSA",
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// HMAC with SHA-384.
        Hs384 = "HS384",
        /// HMAC with SHA-512.
        Hs512 = "HS512",
    }
}

use SigningAlgorithm as Alg;

impl SigningAlgorithm {
    /// Those that verify with a public key.
    pub const PUBLIC: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// Those that verify with a shared secret.
    pub const SHARED: [Self; 3] = [Self::Hs256, Self::Hs384, Self::Hs512];

    /// The algorithm with this name, which is case-sensitive.
    pub fn named(name: &str) -> Option<Self> {
        Self::PUBLIC.into_iter().chain(Self::SHARED).find(|own| own.word() == name)
    }

    /// How a public key verifies; `None` for shared secrets.
    fn verification(self) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Self::EdDsa => &signature::ED25519,
            Self::Hs256 | Self::Hs384 | Self::Hs512 => return None,
        })
    }
}

/// A key for one algorithm.
enum KeyMaterial {
    Public(ParsedPublicKey),
    // Boxed: it is much larger.
    Shared(Box<hmac::Key>),
}

struct VerificationKey {
    id: Option<Box<str>>,
    algorithm: SigningAlgorithm,
    material: KeyMaterial,
}

/// The keys of an issuer. A new set is a new generation: nothing that was verified with the last one counts any more.
pub struct KeySet(Vec<VerificationKey>);

/// Prints how many there are.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// What became of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureVerdict {
    /// One of the keys has made it.
    Valid,
    /// No key that may be meant has made it.
    Invalid,
    /// There is no key that may be meant.
    NoKey,
}

impl KeySet {
    /// Judges the signature of `message` by the key with this ID or, without one, by any key for the algorithm.
    pub fn judge(
        &self,
        algorithm: SigningAlgorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> SignatureVerdict {
        // A set with a single key may leave out its ID.
        let is_meant = |key: &&VerificationKey| {
            key.algorithm == algorithm
                && (id.is_none() || key.id.is_none() || key.id.as_deref() == id)
        };
        let mut verdict = SignatureVerdict::NoKey;
        for key in self.0.iter().filter(is_meant).take(TRIES_MAX) {
            let verified = match &key.material {
                KeyMaterial::Public(key) => key.verify_sig(message, signature).is_ok(),
                KeyMaterial::Shared(key) => hmac::verify(key, message, signature).is_ok(),
            };
            if verified {
                return SignatureVerdict::Valid;
            }
            verdict = SignatureVerdict::Invalid;
        }
        verdict
    }

    /// The set with one shared secret.
    fn shared(secret: &[u8]) -> Self {
        let key = |algorithm| {
            let hash = match algorithm {
                Alg::Hs384 => hmac::HMAC_SHA384,
                Alg::Hs512 => hmac::HMAC_SHA512,
                _ => hmac::HMAC_SHA256,
            };
            let material = KeyMaterial::Shared(Box::new(hmac::Key::new(hash, secret)));
            VerificationKey { id: None, algorithm, material }
        };
        Self(SigningAlgorithm::SHARED.into_iter().map(key).collect())
    }
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys of other types and for other uses are left out, as RFC 7517 §5 asks.
    ///
    /// # Errors
    /// What is wrong with it, without any of its content.
    pub fn of(set: &Json) -> Result<Self, String> {
        let keys = set.get("keys").and_then(Json::items);
        let keys = keys.ok_or("it is not a JSON Web Key Set: there is no array `keys`")?;
        if keys.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} keys"));
        }
        let mut all = Vec::new();
        let mut problem = None;
        for (place, key) in keys.iter().enumerate() {
            match keys_of(key) {
                Ok(own) => all.extend(own),
                Err(reason) => problem = Some(format!("key {} {reason}", place + 1)),
            }
        }
        match problem {
            _ if !all.is_empty() => Ok(Self(all)),
            Some(problem) => Err(format!("it has no key that can be used; {problem}")),
            None => Err("it has no key".into()),
        }
    }
}

impl Content for KeySet {
    fn parse(content: &[u8]) -> Result<Self, String> {
        Self::of(&Json::parse(content)?)
    }
}

/// A secret that the issuer signs with. Equal to its set, so that the set of one secret is the same as long as the
/// secret is.
pub struct SharedSecret(pub Arc<KeySet>);

impl Content for SharedSecret {
    fn parse(content: &[u8]) -> Result<Self, String> {
        let text = content.strip_suffix(b"\n").unwrap_or(content);
        if text.len() < SECRET_MIN {
            return Err(format!(
                "it has fewer than {SECRET_MIN} bytes, so that it can be guessed from a token; make one with `openssl rand -hex 32`"
            ));
        }
        Ok(Self(Arc::new(KeySet::shared(text))))
    }
}

/// The uses of a JSON Web Key, one for each algorithm.
fn keys_of(key: &Json) -> Result<Vec<VerificationKey>, &'static str> {
    let text = |name| key.get(name).and_then(Json::text);
    if text("use").is_some_and(|meant| meant != "sig") {
        return Err("is not for signatures");
    }
    let operations = key.get("key_ops").and_then(Json::items);
    if operations.is_some_and(|all| !all.iter().any(|own| own.text() == Some("verify"))) {
        return Err("is not for verifying signatures");
    }
    let (possible, bytes) = public_key(key)?;
    let stated = text("alg");
    let mut keys = Vec::new();
    for algorithm in possible.iter().copied() {
        if stated.is_some_and(|stated| stated != algorithm.word()) {
            continue;
        }
        let verification = algorithm.verification().ok_or("is symmetric")?;
        let parsed = ParsedPublicKey::new(verification, &bytes).map_err(|_| "is malformed")?;
        let material = KeyMaterial::Public(parsed);
        keys.push(VerificationKey { id: text("kid").map(Into::into), algorithm, material });
    }
    if keys.is_empty() { Err("is for an algorithm that does not fit its type") } else { Ok(keys) }
}

/// The algorithms that a key may be used for by its type, and its bytes as they are parsed for these.
fn public_key(key: &Json) -> Result<(&'static [SigningAlgorithm], Vec<u8>), &'static str> {
    let number = |name| {
        let text = key.get(name).and_then(Json::text)?;
        BASE64URL_NOPAD.decode(text.as_bytes()).ok()
    };
    let missing = "lacks a part or has one that is not base64url";
    let curve = key.get("crv").and_then(Json::text);
    match (key.get("kty").and_then(Json::text), curve) {
        (Some("RSA"), _) => {
            let (n, e) = number("n").zip(number("e")).ok_or(missing)?;
            let (n, e) = (without_zeros(&n), without_zeros(&e));
            // In bits: what aws-lc verifies with.
            if !(2048..=8192).contains(&bits(n)) || bits(e) > 64 {
                return Err("has a size outside 2048 to 8192 bits");
            }
            let der = PublicKeyComponents { n, e }.as_der().map_err(|_| "is malformed")?;
            Ok((
                &[Alg::Rs256, Alg::Rs384, Alg::Rs512, Alg::Ps256, Alg::Ps384, Alg::Ps512],
                der.as_ref().to_vec(),
            ))
        }
        (Some("EC"), Some(curve)) => {
            let (algorithm, size): (&[SigningAlgorithm], _) = match curve {
                "P-256" => (&[Alg::Es256], 32),
                "P-384" => (&[Alg::Es384], 48),
                "P-521" => (&[Alg::Es512], 66),
                _ => return Err("is on a curve that is not known"),
            };
            let (x, y) = number("x").zip(number("y")).ok_or(missing)?;
            if x.len() != size || y.len() != size {
                return Err("is malformed");
            }
            // An uncompressed point (SEC 1, §2.3.3).
            Ok((algorithm, [&[4], x.as_slice(), &y].concat()))
        }
        (Some("OKP"), Some("Ed25519")) => Ok((&[Alg::EdDsa], number("x").ok_or(missing)?)),
        (Some("oct"), _) => {
            Err("is symmetric: that is not a public key, but a secret; use `secret`")
        }
        _ => Err("is of a type that is not known"),
    }
}

/// Some issuers write a number with the zero that its signed form needs.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests;
