//! SHA-crypt: the password hashes `$5$` and `$6$` of crypt(3) (U. Drepper, "Unix crypt using SHA-256 and SHA-512").
//!
//! Owns: their text form and their computation. Refuses to know: users. Keeps: a hash that is kept costs a bounded number
//! of rounds, and is compared in constant time.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Algorithm, Context, Digest, SHA256, SHA512, digest};

/// Rounds if the text does not say how many.
const ROUNDS: u32 = 5000;

/// The rounds that a hash may have; the standard allows more, which would occupy a thread for seconds.
const ROUNDS_MIN: u32 = 1000;
const ROUNDS_MAX: u32 = 1_000_000;

/// The most bytes of a salt; what follows is ignored, as crypt(3) does.
const SALT_MAX: usize = 16;

/// The digits of its Base64, by value.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The order in which the bytes of a hash are written, three at a time.
const ORDER_256: [[u8; 3]; 10] = [
    [0, 10, 20],
    [21, 1, 11],
    [12, 22, 2],
    [3, 13, 23],
    [24, 4, 14],
    [15, 25, 5],
    [6, 16, 26],
    [27, 7, 17],
    [18, 28, 8],
    [9, 19, 29],
];

const ORDER_512: [[u8; 3]; 21] = [
    [0, 21, 42],
    [22, 43, 1],
    [44, 2, 23],
    [3, 24, 45],
    [25, 46, 4],
    [47, 5, 26],
    [6, 27, 48],
    [28, 49, 7],
    [50, 8, 29],
    [9, 30, 51],
    [31, 52, 10],
    [53, 11, 32],
    [12, 33, 54],
    [34, 55, 13],
    [56, 14, 35],
    [15, 36, 57],
    [37, 58, 16],
    [59, 17, 38],
    [18, 39, 60],
    [40, 61, 19],
    [62, 20, 41],
];

/// A password hash of SHA-crypt.
#[derive(PartialEq, Eq)]
pub(super) struct ShaCrypt {
    is_512: bool,
    rounds: u32,
    salt: Box<[u8]>,
    /// As it is written.
    hash: Box<[u8]>,
}

impl ShaCrypt {
    /// Parses `$5$[rounds=N$]SALT$HASH` or `$6$...`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (is_512, rest) = match text.strip_prefix("$5$") {
            Some(rest) => (false, rest),
            None => (true, text.strip_prefix("$6$")?),
        };
        let (rounds, rest) = match rest.strip_prefix("rounds=") {
            Some(rest) => {
                let (rounds, rest) = rest.split_once('$')?;
                (rounds.parse().ok()?, rest)
            }
            None => (ROUNDS, rest),
        };
        let (salt, hash) = rest.split_once('$')?;
        let salt = &salt.as_bytes()[..salt.len().min(SALT_MAX)];
        let length = if is_512 { 86 } else { 43 };
        let fits = (ROUNDS_MIN..=ROUNDS_MAX).contains(&rounds)
            && hash.len() == length
            && hash.bytes().all(|byte| DIGITS.contains(&byte));
        fits.then(|| Self { is_512, rounds, salt: salt.into(), hash: hash.as_bytes().into() })
    }

    /// Whether this is the password.
    pub(super) fn is(&self, password: &[u8]) -> bool {
        verify_slices_are_equal(&self.text_of(password), &self.hash).is_ok()
    }

    fn text_of(&self, password: &[u8]) -> Vec<u8> {
        let algorithm = if self.is_512 { &SHA512 } else { &SHA256 };
        let hash = rounds(algorithm, password, &self.salt, self.rounds);
        let hash = hash.as_ref();
        let mut text = Vec::with_capacity(86);
        let order: &[[u8; 3]] = if self.is_512 { &ORDER_512 } else { &ORDER_256 };
        for three in order {
            let [a, b, c] = three.map(|place| u32::from(hash[usize::from(place)]));
            digits(a << 16 | b << 8 | c, 4, &mut text);
        }
        if self.is_512 {
            digits(u32::from(hash[63]), 2, &mut text);
        } else {
            digits(u32::from(hash[31]) << 8 | u32::from(hash[30]), 3, &mut text);
        }
        text
    }
}

fn digits(mut value: u32, count: usize, text: &mut Vec<u8>) {
    for _ in 0..count {
        text.push(DIGITS[(value & 0x3f) as usize]);
        value >>= 6;
    }
}

/// The bytes of a digest again and again, up to a length.
fn repeated(digest: &Digest, length: usize) -> Vec<u8> {
    digest.as_ref().iter().copied().cycle().take(length).collect()
}

/// The hash; the steps are those of the specification.
fn rounds(algorithm: &'static Algorithm, key: &[u8], salt: &[u8], rounds: u32) -> Digest {
    // Steps 4 to 8.
    let inner = digest(algorithm, &[key, salt, key].concat());
    // Steps 1 to 3 and 9 to 12.
    let mut first = Context::new(algorithm);
    first.update(key);
    first.update(salt);
    first.update(&repeated(&inner, key.len()));
    let mut bits = key.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { inner.as_ref() } else { key });
        bits >>= 1;
    }
    let first = first.finish();
    // Steps 13 to 16.
    let mut all = Context::new(algorithm);
    key.iter().for_each(|_| all.update(key));
    let p = repeated(&all.finish(), key.len());
    // Steps 17 to 20.
    let mut all = Context::new(algorithm);
    (0..16 + usize::from(first.as_ref()[0])).for_each(|_| all.update(salt));
    let s = repeated(&all.finish(), salt.len());
    // Step 21.
    let mut last = first;
    for round in 0..rounds {
        let is_odd = round & 1 == 1;
        let mut next = Context::new(algorithm);
        next.update(if is_odd { &p } else { last.as_ref() });
        if !round.is_multiple_of(3) {
            next.update(&s);
        }
        if !round.is_multiple_of(7) {
            next.update(&p);
        }
        next.update(if is_odd { last.as_ref() } else { &p });
        last = next.finish();
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What crypt(3) of glibc returns.
    #[test]
    fn hashes_are_those_of_the_system() {
        let (x, y) = ("x".repeat(70), "y".repeat(150));
        for (password, hash) in [
            ("", "$5$saltstring$FdNfA4gXqvCeO6iZs7G/.wwwoywYZqo0l1pwmfWaBA7"),
            (
                "",
                "$6$rounds=1000$abcdefghijklmnop$2TfftjhyCiMH.0sLgmMsrryamIW6m3frcvTBwDlNhd4xeRO6DvjPw/yf/gt/3G8bxpzQoD.1EZuIKjBRmFF3J/",
            ),
            ("a", "$5$rounds=1000$s$z5VgeXlzT.M8/EMRKo9XOcikNGiuKT9gSGajArVUrH0"),
            (
                "a",
                "$6$saltstring$MO53nAXQUKXVLlsbiXyPgMsR6q10N7eF7sPvanwdXnEeCj5kE3eYaRvFv0wVW1UZ4SnNTzc1v4OCOq1ASDQZY0",
            ),
            ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
            (
                "Hello world!",
                "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
            ),
            (
                "Hello world!",
                "$6$rounds=1000$abcdefghijklmnop$mSIKhxABeExHRDiTozcmHLVRzYEaXMe.Eb7qHmqtfxlJelJaCvukwKMUYfsRoFElmyP1/b4Q2MTG2dVeNqRrY0",
            ),
            (&x, "$5$saltstring$D1DsTGKixUiITWGe4c3jtSicDXvgr6h50agFIGXAx6/"),
            (
                &x,
                "$6$rounds=1000$abcdefghijklmnop$vh2FNPp1.84M4F72lNDbO65WzUGIo9uKYDgAodwWi0mLA5TsnzWz8BFCmIUh3cuF2y8WESJLMNlhPY205tE7T0",
            ),
            (&y, "$5$rounds=1000$s$MBQ3OPUmnZ4kwVv5B8LFVzRM.ha3VVaITZ5HRIHORv3"),
            (
                &y,
                "$6$saltstring$wBbFpYxojxO/vzfFQvqFtT461Oj7329lngyt48Xi.8obU371cJ8h18gromQg6Qs/It.xLMhVg0jDid9DJQyl/.",
            ),
        ] {
            let own = ShaCrypt::parse(hash).unwrap_or_else(|| panic!("{hash}"));
            assert!(own.is(password.as_bytes()), "{password} {hash}");
            assert!(!own.is(format!("{password} ").as_bytes()), "{password} {hash}");
        }
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_refused() {
        let hash = "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5";
        assert!(ShaCrypt::parse(&format!("$5$s${hash}")).is_some());
        for text in [
            format!("$5${hash}"),
            format!("$6$s${hash}"),
            format!("$5$s${hash}a"),
            format!("$5$s${}", &hash[1..]),
            format!("$5$s${}!", &hash[1..]),
            format!("$5$rounds=999$s${hash}"),
            format!("$5$rounds=1000001$s${hash}"),
            format!("$5$rounds=x$s${hash}"),
            format!("$5$rounds=5000{hash}"),
            "$5$".into(),
            String::new(),
        ] {
            assert!(ShaCrypt::parse(&text).is_none(), "{text}");
        }
    }
}
