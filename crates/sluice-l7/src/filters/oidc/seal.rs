//! Texts that only Sluice can read and make: what cookies of a login contain.
//!
//! Owns: the keys, and the sealed form. Refuses to know: what is sealed. Keeps: what was sealed for one purpose, provider
//! or cookie does not open for another; nothing that was changed, cut or made up opens; no two texts share a key.
//!
//! A sealed text is base64url of `salt || AES-256-GCM(key, text)`, where salt is 24 random bytes and the key is
//! HKDF-SHA256 of the secret for this salt (RFC 5869, RFC 5116), so that random salts may be used without a bound on their
//! number. Its purpose is authenticated with it.

use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand;
use data_encoding::BASE64URL_NOPAD;
use sluice_l4::filters::{Content, LiveSecret};

/// The fewest bytes of a key.
const KEY_MIN: usize = 32;

/// The most keys: each is tried for a text.
const KEYS_MAX: usize = 8;

const SALT: usize = 24;

/// What the keys are derived for.
const LABEL: &[u8] = b"sluice oidc cookie 1";

/// The keys of sealed texts: the first seals, all open.
pub struct CookieKeys(Vec<Prk>);

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Content for CookieKeys {
    /// Reads one key per line.
    fn parse(content: &[u8]) -> Result<Self, String> {
        let lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let keys: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        if keys.is_empty() {
            return Err("it has no key".into());
        }
        if keys.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} keys"));
        }
        match keys.iter().position(|key| key.len() < KEY_MIN) {
            None => Ok(Self(keys.into_iter().map(extracted).collect())),
            Some(place) => Err(format!(
                "key {} has fewer than {KEY_MIN} bytes; make one with `openssl rand -hex 32`",
                place + 1
            )),
        }
    }
}

fn extracted(secret: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, LABEL).extract(secret)
}

/// Fills a buffer with random bytes.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

impl CookieKeys {
    /// A key that nobody knows.
    pub fn random() -> Self {
        Self(vec![extracted(&random::<KEY_MIN>())])
    }

    /// Seals a text for a purpose.
    pub fn seal(&self, purpose: &[u8], text: &[u8]) -> String {
        let mut sealed = random::<SALT>().to_vec();
        let mut secret = text.to_vec();
        key_for(&self.0[0], &sealed)
            .seal_in_place_append_tag(only_nonce(), Aad::from(purpose), &mut secret)
            .expect("a cookie is far shorter than what the cipher allows");
        sealed.append(&mut secret);
        BASE64URL_NOPAD.encode(&sealed)
    }

    /// Opens a sealed text; `None` if it was not sealed for this purpose with one of the keys.
    pub fn open(&self, purpose: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let sealed = BASE64URL_NOPAD.decode(sealed).ok()?;
        let (salt, secret) = sealed.split_at_checked(SALT)?;
        self.0.iter().find_map(|key| {
            let mut secret = secret.to_vec();
            let opened =
                key_for(key, salt).open_in_place(only_nonce(), Aad::from(purpose), &mut secret);
            let length = opened.ok()?.len();
            secret.truncate(length);
            Some(secret)
        })
    }
}

/// The key of the one text with this salt.
fn key_for(key: &Prk, salt: &[u8]) -> LessSafeKey {
    let info = [LABEL, salt];
    let derived = key.expand(&info, &AES_256_GCM).expect("HKDF makes keys of this length");
    LessSafeKey::new(UnboundKey::from(derived))
}

/// A key seals one text, so that its nonce is always fresh.
fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Where the keys are from.
#[derive(Clone, Debug)]
pub(super) enum KeySource {
    Given(LiveSecret<CookieKeys>),
    /// Of this process.
    Random,
}

impl KeySource {
    pub(super) fn with<R>(&self, read: impl FnOnce(&CookieKeys) -> R) -> R {
        static RANDOM: OnceLock<CookieKeys> = OnceLock::new();
        match self {
            Self::Given(secret) => read(&secret.current()),
            Self::Random => read(RANDOM.get_or_init(CookieKeys::random)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn keys(text: &str) -> CookieKeys {
        CookieKeys::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_text_opens_for_its_purpose_under_its_key_only() {
        let (one, other) = (keys(ONE), keys(OTHER));
        for text in ["", "a", "a longer text that is sealed"] {
            let sealed = one.seal(b"p", text.as_bytes());
            assert_eq!(one.open(b"p", sealed.as_bytes()).as_deref(), Some(text.as_bytes()));
            assert_eq!(one.open(b"q", sealed.as_bytes()), None);
            assert_eq!(one.open(b"", sealed.as_bytes()), None);
            assert_eq!(other.open(b"p", sealed.as_bytes()), None);
            // A new key, with the old one for what was sealed before.
            let both = keys(&format!("{OTHER}\n{ONE}\n"));
            assert!(both.open(b"p", sealed.as_bytes()).is_some());
            assert!(other.open(b"p", both.seal(b"p", b"x").as_bytes()).is_some());
            assert_ne!(one.seal(b"p", text.as_bytes()), sealed, "it is salted");
        }
        assert!(CookieKeys::random().open(b"p", one.seal(b"p", b"x").as_bytes()).is_none());
    }

    #[test]
    fn cut_or_changed_anywhere_nothing_opens() {
        let one = keys(ONE);
        let sealed = one.seal(b"p", b"some text");
        for end in 0..sealed.len() {
            assert_eq!(one.open(b"p", &sealed.as_bytes()[..end]), None, "{end}");
            assert_eq!(one.open(b"p", &sealed.as_bytes()[end + 1..]), None, "{end}");
        }
        for place in 0..sealed.len() {
            for other in b"AB_=+\xff" {
                let mut changed = sealed.clone().into_bytes();
                if changed[place] != *other {
                    changed[place] = *other;
                    assert_eq!(one.open(b"p", &changed), None, "{place}");
                }
            }
        }
        for more in ["A", "=", "AAAA", " "] {
            assert_eq!(one.open(b"p", format!("{sealed}{more}").as_bytes()), None);
        }
    }

    #[test]
    fn keys_have_a_least_length_and_a_number() {
        let many = format!("{ONE}\n").repeat(9);
        for (text, expected) in [
            ("", "it has no key"),
            ("\n \n", "it has no key"),
            ("short", "key 1 has fewer than 32 bytes"),
            (&format!("{ONE}\nshort\n"), "key 2 has fewer than 32 bytes"),
            (&many, "it has more than 8 keys"),
        ] {
            let error = CookieKeys::parse(text.as_bytes()).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("short"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_open(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(keys(ONE).open(b"p", &text), None);
            let text = BASE64URL_NOPAD.encode(&text);
            prop_assert_eq!(keys(ONE).open(b"p", text.as_bytes()), None);
        }
    }
}
