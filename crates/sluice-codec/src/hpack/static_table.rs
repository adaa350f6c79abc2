//! The static table of HPACK.
//!
//! Owns: the table, and finding a name in it. Refuses to know: header blocks. Keeps: what the RFC prints; a look-up
//! compares once or twice, and the tables are made by the compiler.
//!
//! Source: RFC 7541 appendix A.

use super::field_hash;
use crate::names::{FieldName, Known, PseudoField};

/// The static table; its first entry has index 1.
pub(super) static FIELDS: [(&str, &str); COUNT] = TABLE;

/// How many entries there are.
pub(super) const COUNT: usize = 61;

const TABLE: [(&str, &str); COUNT] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Index of `:authority`.
pub(super) const AUTHORITY: u8 = 1;
/// Index of the first `:method`.
pub(super) const METHOD: u8 = 2;
/// Index of the first `:path`.
pub(super) const PATH: u8 = 4;
/// Index of the first `:scheme`.
pub(super) const SCHEME: u8 = 6;
/// Index of the first `:status`.
pub(super) const STATUS: u8 = 8;

/// What the names of [`FIELDS`] are.
pub(super) static NAMES: [FieldName; COUNT] = CLASSES;

const CLASSES: [FieldName; COUNT] = {
    let mut names = [FieldName::Other; COUNT];
    let mut at = 0;
    while at < COUNT {
        names[at] = match at + 1 {
            1 => FieldName::Pseudo(PseudoField::Authority),
            2..=3 => FieldName::Pseudo(PseudoField::Method),
            4..=5 => FieldName::Pseudo(PseudoField::Path),
            6..=7 => FieldName::Pseudo(PseudoField::Scheme),
            8..=14 => FieldName::Pseudo(PseudoField::Status),
            _ => match Known::of_constant(TABLE[at].0) {
                Some(known) => FieldName::Known(known),
                None => FieldName::Other,
            },
        };
        at += 1;
    }
    names
};

/// The index of each known name, or 0.
static OF_KNOWN: [u8; Known::COUNT] = {
    let mut indices = [0; Known::COUNT];
    let mut at = COUNT;
    while at > 0 {
        at -= 1;
        if let FieldName::Known(known) = CLASSES[at] {
            indices[known as usize] = index_at(at);
        }
    }
    indices
};

#[allow(clippy::cast_possible_truncation, reason = "there are 61")]
const fn index_at(place: usize) -> u8 {
    place as u8 + 1
}

/// Returns the index of a known name.
pub(super) fn of_known(known: Known) -> Option<u8> {
    Some(OF_KNOWN[known as usize]).filter(|index| *index != 0)
}

/// Slots of [`BY_HASH`].
const SLOTS: usize = 128;

/// Indices of the names that are not pseudo-header fields, by their hash; the next free slot if that is taken.
static BY_HASH: [u8; SLOTS] = {
    let mut slots = [0; SLOTS];
    let mut at = STATUS as usize + 6;
    while at < COUNT {
        let mut slot = slot_of(field_hash::of_name(TABLE[at].0.as_bytes()));
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = index_at(at);
        at += 1;
    }
    slots
};

#[allow(clippy::cast_possible_truncation, reason = "the highest bits are taken")]
const fn slot_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SLOTS.ilog2())) as usize
}

/// Returns the index of a name in any case, whose hash is `hash`.
pub(super) fn of_name(name: &[u8], hash: u64) -> Option<u8> {
    let mut slot = slot_of(hash);
    loop {
        let index = Some(BY_HASH[slot]).filter(|index| *index != 0)?;
        if FIELDS[usize::from(index) - 1].0.as_bytes().eq_ignore_ascii_case(name) {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Returns the index of a field, given that of its name.
pub(super) fn of_field(first: u8, value: &[u8]) -> Option<u8> {
    let last = match first {
        METHOD => 3,
        PATH => 5,
        SCHEME => 7,
        STATUS => 14,
        // The value of every other entry is empty, but for one.
        16 => 16,
        _ => return None,
    };
    (first..=last).find(|index| FIELDS[usize::from(*index) - 1].1.as_bytes() == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found() {
        for (place, (name, value)) in FIELDS.iter().enumerate() {
            let class = FieldName::of(name.as_bytes());
            assert_eq!(NAMES[place], class, "{name}");
            let hash = field_hash::of_name(name.as_bytes());
            let first = FIELDS.iter().position(|(other, _)| other == name).map(index_at);
            match class {
                FieldName::Pseudo(_) => {
                    assert_eq!(of_name(name.as_bytes(), hash), None);
                }
                FieldName::Known(known) => assert_eq!(of_known(known), first),
                _ => assert_eq!(class, FieldName::Other),
            }
            if !matches!(class, FieldName::Pseudo(_)) {
                assert_eq!(of_name(name.to_uppercase().as_bytes(), hash), first);
            }
            if !value.is_empty() {
                let first = first.unwrap();
                assert_eq!(of_field(first, value.as_bytes()), Some(index_at(place)));
                assert_eq!(of_field(first, b"other"), None);
            }
        }
        assert_eq!(of_known(Known::XRequestId), None);
        assert_eq!(of_name(b"x-other", field_hash::of_name(b"x-other")), None);
        assert_eq!(of_field(31, b""), None);
    }
}
