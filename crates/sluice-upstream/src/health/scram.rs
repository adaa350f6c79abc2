//! The client's side of SCRAM-SHA-256.
//!
//! Owns: the messages of one authentication. Refuses to know: what carries them. Keeps: a server that does not know the
//! password is not believed; the work that a server can demand is bounded.
//!
//! Source: RFC 5802 §3 and §5, RFC 7677.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use data_encoding::BASE64;

/// The most iterations that a server may demand; PostgreSQL's default is 4096. Each costs about a microsecond.
const ITERATIONS_MAX: u32 = 100_000;

/// Channel binding is not supported, and the message says so.
const GS2_HEADER: &str = "n,,";

/// One authentication.
pub(super) struct Scram {
    password: String,
    /// The first message, without the header.
    first: String,
    nonce: String,
    /// The signature by which the server proves itself.
    server_signature: Option<hmac::Tag>,
}

impl Scram {
    /// An authentication with a nonce of printable characters without comma.
    pub(super) fn new(user: &str, password: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first = format!("n={user},r={nonce}");
        Self { password: password.to_owned(), first, nonce, server_signature: None }
    }

    /// The first message.
    pub(super) fn first(&self) -> String {
        format!("{GS2_HEADER}{}", self.first)
    }

    /// The last message, in response to the server's first; `None` if that is not valid.
    pub(super) fn respond(&mut self, server_first: &str) -> Option<String> {
        let mut parts = server_first.split(',');
        let nonce = parts.next()?.strip_prefix("r=")?;
        let salt = BASE64.decode(parts.next()?.strip_prefix("s=")?.as_bytes()).ok()?;
        let iterations = parts.next()?.strip_prefix("i=")?.parse::<NonZeroU32>().ok()?;
        let ours = nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce);
        if !ours || iterations.get() > ITERATIONS_MAX {
            return None;
        }
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        let password = self.password.as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password, &mut salted);
        let last = format!("c={},r={nonce}", BASE64.encode(GS2_HEADER.as_bytes()));
        let message = format!("{},{server_first},{last}", self.first);
        let client_key = sign(&salted, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = sign(stored.as_ref(), message.as_bytes());
        let both = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = both.map(|(key, signature)| key ^ signature).collect();
        let server_key = sign(&salted, b"Server Key");
        self.server_signature = Some(sign(server_key.as_ref(), message.as_bytes()));
        Some(format!("{last},p={}", BASE64.encode(&proof)))
    }

    /// Whether the server's last message proves that it knows the password.
    pub(super) fn verify(&self, server_last: &str) -> bool {
        let signature = server_last
            .split(',')
            .next()
            .and_then(|part| part.strip_prefix("v="))
            .and_then(|text| BASE64.decode(text.as_bytes()).ok());
        signature.zip(self.server_signature.as_ref()).is_some_and(|(theirs, expected)| {
            constant_time::verify_slices_are_equal(&theirs, expected.as_ref()).is_ok()
        })
    }
}

fn sign(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const SERVER_LAST: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn scram() -> Scram {
        Scram::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO".into())
    }

    #[test]
    fn the_example_of_rfc_7677() {
        let mut scram = scram();
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let last = scram.respond(SERVER_FIRST).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(scram.verify(SERVER_LAST));
        assert!(!scram.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G8="));
        assert!(!scram.verify("e=other-error") && !scram.verify(""));
    }

    #[test]
    fn what_a_server_may_not_send() {
        for first in [
            "",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=other%hvYDpWUa,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO%hv,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            "r=rOprNGfwEbeRWgbNEkqO%hv,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=100001",
            "r=rOprNGfwEbeRWgbNEkqO%hv,s=###,i=4096",
        ] {
            assert_eq!(scram().respond(first), None, "{first}");
        }
        assert!(!scram().verify(SERVER_LAST), "before the server's first message");
    }
}
