//! Hashes of fields, for the encoder's look-ups.
//!
//! Owns: the hash. Refuses to know: tables. Keeps: upper and lower case of a name are the same. What is found by a
//! hash has to be compared: a peer that makes hashes collide gets larger blocks, and nothing else.

/// An odd constant whose bits are spread.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the hash of a name, whatever its case.
pub(super) const fn of_name(name: &[u8]) -> u64 {
    mix_text(name.len() as u64, name, 0x2020_2020_2020_2020)
}

/// Returns the hash of a field from the hash of its name.
pub(super) const fn of_field(name: u64, value: &[u8]) -> u64 {
    mix_text(name ^ (value.len() as u64).rotate_left(32), value, 0)
}

/// Mixes a text into a hash, eight bytes at a time; `case` is set in each.
const fn mix_text(mut hash: u64, text: &[u8], case: u64) -> u64 {
    let mut rest = text;
    while let Some((eight, after)) = rest.split_first_chunk() {
        hash = mix(hash, u64::from_le_bytes(*eight) | case);
        rest = after;
    }
    let mut last = 0;
    while let [byte, after @ ..] = rest {
        last = last << 8 | *byte as u64;
        rest = after;
    }
    mix(hash, last | case)
}

const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(FACTOR);
    product ^ product >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_matters_for_values_only() {
        assert_eq!(of_name(b"X-Request-Id"), of_name(b"x-request-id"));
        assert_eq!(of_name(b"ETag"), of_name(b"etag"));
        assert_ne!(of_name(b"x-request-id"), of_name(b"x-request-ie"));
        let name = of_name(b"x");
        assert_ne!(of_field(name, b"a"), of_field(name, b"A"));
        assert_ne!(of_field(name, b""), of_field(name, b"\0"));
        assert_ne!(of_field(name, b"\0"), of_field(name, b"\0\0"));
    }
}
