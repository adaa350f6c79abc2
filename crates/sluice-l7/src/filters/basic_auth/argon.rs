//! Argon2 (RFC 9106), in the PHC string format: `$argon2id$v=19$m=65536,t=3,p=4$SALT$HASH`.
//!
//! Owns: the text form, and what a hash may cost. Refuses to know: users. Keeps: memory and passes of a hash that is kept
//! are bounded, and hashes are compared in constant time.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::BASE64_NOPAD;

/// The most memory, and the most passes over it.
const KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// An Argon2 hash.
pub(super) struct ArgonHash {
    algorithm: Algorithm,
    version: Version,
    params: Params,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl ArgonHash {
    /// Parses the text form.
    ///
    /// # Errors
    /// It is malformed, or costs too much.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const MALFORMED: &str = "has an Argon2 hash that is malformed";
        let mut parts = text.strip_prefix('$').ok_or(MALFORMED)?.split('$');
        let mut next = || parts.next().ok_or(MALFORMED);
        let algorithm = match next()? {
            "argon2id" => Algorithm::Argon2id,
            "argon2i" => Algorithm::Argon2i,
            "argon2d" => Algorithm::Argon2d,
            _ => return Err(MALFORMED),
        };
        let (mut version, mut costs) = (Version::V0x10, next()?);
        if let Some(number) = costs.strip_prefix("v=") {
            version = match number {
                "16" => Version::V0x10,
                "19" => Version::V0x13,
                _ => return Err(MALFORMED),
            };
            costs = next()?;
        }
        let mut costs = costs.split(',');
        let mut cost = |name: &str| -> Option<u32> {
            costs.next()?.strip_prefix(name)?.strip_prefix('=')?.parse().ok()
        };
        let (kib, passes, lanes) = (cost("m"), cost("t"), cost("p"));
        let (Some(kib), Some(passes), Some(lanes), None) = (kib, passes, lanes, costs.next())
        else {
            return Err(MALFORMED);
        };
        if kib > KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
            return Err("has an Argon2 hash that needs more than 256 MiB, 16 passes or 16 lanes");
        }
        let decode = |text: &str| BASE64_NOPAD.decode(text.as_bytes()).map_err(|_| MALFORMED);
        let (salt, hash) = (decode(next()?)?, decode(next()?)?);
        if parts.next().is_some() || salt.len() < argon2::MIN_SALT_LEN {
            return Err(MALFORMED);
        }
        let params = Params::new(kib, passes, lanes, Some(hash.len())).map_err(|_| MALFORMED)?;
        Ok(Self { algorithm, version, params, salt, hash })
    }

    /// Whether this is the password.
    pub(super) fn is(&self, password: &[u8]) -> bool {
        let argon2 = Argon2::new(self.algorithm, self.version, self.params.clone());
        let mut hash = vec![0; self.hash.len()];
        argon2.hash_password_into(password, &self.salt, &mut hash).is_ok()
            && verify_slices_are_equal(&hash, &self.hash).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the test vectors of the reference implementation (`src/test.c`).
    #[test]
    fn hashes_are_those_of_the_reference() {
        for hash in [
            "$argon2i$m=256,t=2,p=1$c29tZXNhbHQ$/U3YPXYsSb3q9XxHvc0MLxur+GP960kN9j7emXX8zwY",
            "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8",
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
        ] {
            let own = ArgonHash::parse(hash).unwrap_or_else(|error| panic!("{hash} {error}"));
            assert!(own.is(b"password"), "{hash}");
            assert!(!own.is(b"Password") && !own.is(b""), "{hash}");
        }
    }

    #[test]
    fn cut_anywhere_or_with_anything_else_it_is_refused() {
        let hash =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        for end in 0..hash.len() {
            let cut = ArgonHash::parse(&hash[..end]);
            assert!(cut.is_err() || cut.is_ok_and(|cut| !cut.is(b"password")), "{end}");
        }
        for (from, to) in [
            ("id", "ix"),
            ("v=19", "v=18"),
            ("m=256", "m=1"),
            ("m=256", "m=-1"),
            ("m=256", "m=262145"),
            ("t=2", "t=17"),
            ("t=2", "t=0"),
            ("p=1", "p=0"),
            ("p=1", "p=17"),
            ("p=1", "p=1,x=1"),
            ("m=256,t=2", "t=2,m=256"),
            ("c29tZXNhbHQ", "c29tZQ"),
            ("i/4", "i/4="),
            ("i/4", "i/4$x"),
        ] {
            assert!(ArgonHash::parse(&hash.replace(from, to)).is_err(), "{from} {to}");
        }
    }
}
