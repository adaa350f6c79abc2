//! Users and the hashes of their passwords, in the form of `htpasswd`.
//!
//! Owns: the file, and which hashes are good enough. Refuses to know: requests. Keeps: a hash that is found quickly by
//! trying is refused with the way out; whether there is a user cannot be told from the time that an answer takes.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA1_OUTPUT_LEN, digest};
use data_encoding::BASE64;
use sluice_l4::filters::Content;

use super::argon::ArgonHash;
use super::sha_crypt::ShaCrypt;

/// The most that a bcrypt hash may cost: about a second of a thread.
const BCRYPT_COST_MAX: u32 = 14;

/// The hash of a password.
enum UserSecret {
    Bcrypt(Box<str>),
    ShaCrypt(ShaCrypt),
    Argon2(Box<ArgonHash>),
    Sha1([u8; SHA1_OUTPUT_LEN]),
}

impl UserSecret {
    /// Reads a hash.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("{SHA}") {
            return Err(
                "has an unsalted SHA-1 hash, which is found by trying; hash the password again with `htpasswd -B`, or accept such hashes with `sha1: true`",
            );
        }
        if text.starts_with("$apr1$") || text.starts_with("$1$") {
            return Err(
                "has an MD5 hash, which is found by trying; hash the password again with `htpasswd -B`",
            );
        }
        let bcrypt = ["$2a$", "$2b$", "$2y$"];
        if bcrypt.iter().any(|prefix| text.starts_with(prefix)) {
            let parts = text.parse::<bcrypt::HashParts>();
            let parts = parts.map_err(|_| "has a bcrypt hash that is malformed")?;
            if parts.get_cost() > BCRYPT_COST_MAX {
                return Err("has a bcrypt hash that costs more than 14, which would take seconds");
            }
            return Ok(Self::Bcrypt(text.into()));
        }
        if text.starts_with("$5$") || text.starts_with("$6$") {
            let hash = ShaCrypt::parse(text).map(Self::ShaCrypt);
            return hash
                .ok_or("has a SHA-crypt hash that is malformed or has more than 1000000 rounds");
        }
        if text.starts_with("$argon2") {
            return ArgonHash::parse(text).map(|hash| Self::Argon2(Box::new(hash)));
        }
        Err("has no hash that is known; make one with `htpasswd -B`")
    }

    /// The same, if hashes of SHA-1 are accepted.
    fn parse_any(text: &str) -> Result<Self, &'static str> {
        let Some(encoded) = text.strip_prefix("{SHA}") else { return Self::parse(text) };
        let decoded = BASE64.decode(encoded.as_bytes()).ok();
        let hash = decoded.and_then(|bytes| bytes.try_into().ok());
        hash.map(Self::Sha1).ok_or("has a SHA-1 hash that is malformed")
    }

    fn is(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::ShaCrypt(hash) => hash.is(password),
            Self::Argon2(hash) => hash.is(password),
            Self::Sha1(hash) => {
                let own = digest(&SHA1_FOR_LEGACY_USE_ONLY, password);
                verify_slices_are_equal(own.as_ref(), hash).is_ok()
            }
        }
    }
}

/// The users of a file.
pub(super) struct Users {
    /// By name.
    places: HashMap<Box<[u8]>, usize>,
    secrets: Vec<UserSecret>,
    hasher: RandomState,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users", self.secrets.len())
    }
}

impl Users {
    /// Whether this is the password of the user. For a user who does not exist, the password is compared with that of
    /// another one, always the same for one name, so that it takes as long as for some user.
    pub(super) fn is(&self, name: &[u8], password: &[u8]) -> bool {
        let place = self.places.get(name).copied();
        #[allow(clippy::cast_possible_truncation, reason = "it is less than the number of users")]
        let other = || (self.hasher.hash_one(name) % self.secrets.len() as u64) as usize;
        let is_it = self.secrets[place.unwrap_or_else(other)].is(password);
        is_it && place.is_some()
    }
}

impl Content for Users {
    fn parse(content: &[u8]) -> Result<Self, String> {
        Self::of_lines(content, UserSecret::parse)
    }
}

/// Users whose passwords may have hashes of SHA-1.
#[derive(Debug)]
pub(super) struct AnyUsers(pub(super) Arc<Users>);

impl Content for AnyUsers {
    fn parse(content: &[u8]) -> Result<Self, String> {
        Users::of_lines(content, UserSecret::parse_any).map(|users| Self(Arc::new(users)))
    }
}

impl Users {
    /// Parses lines of the form `NAME:HASH`; further fields, empty lines and those that begin with `#` are ignored.
    fn of_lines(
        content: &[u8],
        parse: fn(&str) -> Result<UserSecret, &'static str>,
    ) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8")?;
        let (mut places, mut secrets) = (HashMap::new(), Vec::new());
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |problem| format!("line {} {problem}", number + 1);
            let (name, rest) = line.split_once(':').ok_or_else(|| wrong("is not `NAME:HASH`"))?;
            let hash = rest.split(':').next().unwrap_or_default();
            let secret = parse(hash).map_err(wrong)?;
            if name.is_empty() || places.insert(name.as_bytes().into(), secrets.len()).is_some() {
                return Err(wrong("has no name, or one that an earlier line has"));
            }
            secrets.push(secret);
        }
        if secrets.is_empty() {
            return Err("it has no users; add one with `htpasswd -B -c FILE USER`".into());
        }
        Ok(Self { places, secrets, hasher: RandomState::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2b$04$abcdefghijklmnopqrstuuyvPXIbu7xe6/CED2DzX8z6Si09MlzlW";
    const ARGON2: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    const SHA: &str = "$5$rounds=1000$s$v8DMx/7t0/H1zYj41VNdi6eQ/F1frpRoHaqbgo1/KvA";

    #[test]
    fn passwords_are_those_of_the_user_in_every_form() {
        let text = format!("# users\n\nann:{BCRYPT}\nbob:{SHA}:comment\r\ncid:{ARGON2}\n");
        let users = Users::parse(text.as_bytes()).unwrap();
        for (name, password, is_it) in [
            ("ann", "pw", true),
            ("ann", "Pw", false),
            ("ann", "", false),
            ("bob", "Hello world!", true),
            ("bob", "pw", false),
            ("cid", "password", true),
            ("cid", "password ", false),
            ("dan", "pw", false),
            ("dan", "Hello world!", false),
            ("", "pw", false),
            ("Ann", "pw", false),
        ] {
            assert_eq!(users.is(name.as_bytes(), password.as_bytes()), is_it, "{name} {password}");
        }
    }

    #[test]
    fn hashes_of_sha_1_are_accepted_where_that_is_asked_for() {
        let text = format!("ann:{{SHA}}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\nbob:{BCRYPT}\n");
        let users = AnyUsers::parse(text.as_bytes()).unwrap().0;
        for (name, password, is_it) in
            [("ann", "password", true), ("ann", "Password", false), ("bob", "pw", true)]
        {
            assert_eq!(users.is(name.as_bytes(), password.as_bytes()), is_it, "{name} {password}");
        }
        for wrong in ["a:{SHA}", "a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9", "a:{SHA}YQ==", "a:$1$x$y"] {
            assert!(AnyUsers::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn weak_and_costly_hashes_are_refused_with_what_to_do() {
        let again = "hash the password again with `htpasswd -B`";
        for (line, problem) in [
            ("a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", again),
            ("a:$apr1$x$9EsMhkjYOA5sCBFQFiyyA/", again),
            ("a:$1$x$9EsMhkjYOA5sCBFQFiyyA/", again),
            ("a:password", "make one with `htpasswd -B`"),
            ("a:rqXexS6ZhobKA", "make one with `htpasswd -B`"),
            ("a:", "make one with `htpasswd -B`"),
            ("a", "is not `NAME:HASH`"),
            (&format!(":{BCRYPT}"), "has no name"),
            (
                &format!("a:{BCRYPT}\na:{SHA}"),
                "line 2 has no name, or one that an earlier line has",
            ),
            ("a:$2b$04$short", "bcrypt hash that is malformed"),
            (&format!("a:{}", BCRYPT.replace("$04$", "$15$")), "costs more than 14"),
            ("a:$6$s$x", "SHA-crypt hash that is malformed"),
            ("a:$argon2id$x", "Argon2 hash that is malformed"),
            (&format!("a:{}", ARGON2.replace("m=256", "m=1000000")), "more than 256 MiB"),
            (&format!("a:{}", ARGON2.replace("t=2", "t=99")), "more than 256 MiB, 16 passes"),
            ("", "it has no users"),
            ("# nobody\n", "it has no users"),
        ] {
            let error = Users::parse(line.as_bytes()).map(|_| ()).unwrap_err();
            assert!(error.contains(problem), "{line}: {error}");
        }
        assert!(Users::parse(b"a:\xff").is_err());
    }
}
