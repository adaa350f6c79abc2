//! An issuer of tokens: keys of every kind, their public set and a server for it, and tokens, right or wrong.
//!
//! Owns: signing, and the JSON around it. Refuses to know: what a test expects of a token. Keeps: nothing is checked here,
//! so that any claims and any header can be signed.

use std::io::{BufReader, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::origin::{Message, read_message};
use crate::peers::Server;

/// A key that signs tokens.
#[derive(Debug)]
pub struct SigningKey {
    /// `kid`.
    pub id: String,
    /// `alg`.
    pub algorithm: &'static str,
    signer: Signer,
}

#[derive(Debug)]
enum Signer {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    // Boxed: it is much larger.
    Hmac(Box<hmac::Key>),
}

impl SigningKey {
    /// A new key for an algorithm such as `ES256`, or for HS256 with the secret `id`.
    pub fn new(algorithm: &'static str, id: &str) -> Self {
        let rsa = || RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
        let ecdsa = |how| EcdsaKeyPair::generate(how).expect("an EC key");
        let signer = match algorithm {
            "RS256" => Signer::Rsa(rsa(), &signature::RSA_PKCS1_SHA256),
            "RS384" => Signer::Rsa(rsa(), &signature::RSA_PKCS1_SHA384),
            "RS512" => Signer::Rsa(rsa(), &signature::RSA_PKCS1_SHA512),
            "PS256" => Signer::Rsa(rsa(), &signature::RSA_PSS_SHA256),
            "PS384" => Signer::Rsa(rsa(), &signature::RSA_PSS_SHA384),
            "PS512" => Signer::Rsa(rsa(), &signature::RSA_PSS_SHA512),
            "ES256" => Signer::Ecdsa(ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)),
            "ES384" => Signer::Ecdsa(ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING)),
            "ES512" => Signer::Ecdsa(ecdsa(&signature::ECDSA_P521_SHA512_FIXED_SIGNING)),
            "EdDSA" => Signer::Ed25519(Ed25519KeyPair::generate().expect("an Ed25519 key")),
            "HS256" => Signer::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, id.as_bytes()))),
            "HS384" => Signer::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA384, id.as_bytes()))),
            "HS512" => Signer::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA512, id.as_bytes()))),
            _ => panic!("no algorithm {algorithm}"),
        };
        Self { id: id.to_owned(), algorithm, signer }
    }

    /// The public key, as it stands in a set.
    pub fn jwk(&self) -> Value {
        let base64 = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let mut key = match &self.signer {
            Signer::Rsa(pair, _) => {
                // PKCS#1: 2048 bits behind nine bytes that say so, and 65537 at the end.
                let der = pair.public_key().as_ref();
                let (n, e) = (&der[9..265], &der[der.len() - 3..]);
                json!({ "kty": "RSA", "n": base64(n), "e": base64(e) })
            }
            Signer::Ecdsa(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(self.field_bytes());
                let curve = match self.algorithm {
                    "ES256" => "P-256",
                    "ES384" => "P-384",
                    _ => "P-521",
                };
                json!({ "kty": "EC", "crv": curve, "x": base64(x), "y": base64(y) })
            }
            Signer::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key().as_ref()) })
            }
            Signer::Hmac(_) => json!({ "kty": "oct", "k": base64(self.id.as_bytes()) }),
        };
        key["kid"] = self.id.as_str().into();
        key
    }

    /// The public key as a SubjectPublicKeyInfo in DER.
    ///
    /// # Panics
    /// The key is not of RSA.
    pub fn public_der(&self) -> Vec<u8> {
        let Signer::Rsa(pair, _) = &self.signer else { panic!("only for RSA") };
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        der.as_ref().to_vec()
    }

    fn field_bytes(&self) -> usize {
        match self.algorithm {
            "ES256" => 32,
            "ES384" => 48,
            _ => 66,
        }
    }

    /// Signs bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.signer {
            Signer::Rsa(pair, how) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*how, &SystemRandom::new(), message, &mut signature).expect("it signs");
                signature
            }
            Signer::Ecdsa(pair) => {
                let signed = pair.sign(&SystemRandom::new(), message).expect("it signs");
                signed.as_ref().to_vec()
            }
            Signer::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Signer::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
        }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_of(
            &format!("{{\"alg\":\"{}\",\"kid\":\"{}\"}}", self.algorithm, self.id),
            &claims.to_string(),
        )
    }

    /// A token with this header and these claims, whatever they are.
    pub fn token_of(&self, header: &str, claims: &str) -> String {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = BASE64URL_NOPAD.encode(&self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// The set of the public keys.
pub fn key_set<'k>(keys: impl IntoIterator<Item = &'k SigningKey>) -> String {
    let keys: Vec<Value> = keys.into_iter().map(SigningKey::jwk).collect();
    json!({ "keys": keys }).to_string()
}

/// Seconds since the Unix epoch, and so many more.
#[allow(clippy::disallowed_methods, reason = "a token has the time of the clock on the wall")]
pub fn in_seconds(more: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("it is after 1970").as_secs()).expect("it fits") + more
}

/// A server that responds to every request with the same body: the keys of an issuer, or an access token.
#[derive(Debug)]
pub struct KeyServer {
    server: Server,
    shared: Arc<(Mutex<String>, Mutex<Vec<Message>>)>,
}

impl KeyServer {
    /// Serves this on a free port.
    pub fn start(body: impl Into<String>) -> Self {
        let shared: Arc<(Mutex<String>, Mutex<Vec<Message>>)> =
            Arc::new((Mutex::new(body.into()), Mutex::default()));
        let of_server = Arc::clone(&shared);
        let server = Server::start(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            loop {
                let request = read_message(&mut reader, false)?;
                of_server.1.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                let body = of_server.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes())?;
            }
        });
        Self { server, shared }
    }

    /// Its address.
    pub const fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Serves this from now on.
    pub fn set(&self, body: impl Into<String>) {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner) = body.into();
    }

    /// Responds to nothing as long as what this returns is held, by which what is served can be changed.
    pub fn stall(&self) -> MutexGuard<'_, String> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every request received, in order.
    pub fn requests(&self) -> Vec<Message> {
        self.shared.1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.requests().len()
    }
}
