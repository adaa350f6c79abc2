//! What the name of a field is.
//!
//! Owns: pseudo-header fields, and the classes of names. Refuses to know: values. Keeps: a name is classified once; a
//! table remembers the class with the name.

use super::{Known, is_token_byte};

/// A pseudo-header field: RFC 9113 §8.3, RFC 9114 §4.3, RFC 8441 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PseudoField {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Status,
}

impl PseudoField {
    /// Returns the name, with its colon.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Authority => ":authority",
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Scheme => ":scheme",
            Self::Status => ":status",
        }
    }

    /// Returns the field named `name`, without its colon.
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"authority" => Self::Authority,
            b"method" => Self::Method,
            b"path" => Self::Path,
            b"protocol" => Self::Protocol,
            b"scheme" => Self::Scheme,
            b"status" => Self::Status,
            _ => return None,
        })
    }

    /// Returns a bit for each field.
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldName {
    /// A pseudo-header field.
    Pseudo(PseudoField),
    /// A name that begins with a colon and is none.
    PseudoUnknown,
    /// A name that we know.
    Known(Known),
    /// Another token in lower case.
    Other,
    /// No name of HTTP/2 or HTTP/3.
    Malformed,
}

impl FieldName {
    /// Classifies a name.
    pub(crate) fn of(name: &[u8]) -> Self {
        if let [b':', pseudo @ ..] = name {
            return PseudoField::of(pseudo).map_or(Self::PseudoUnknown, Self::Pseudo);
        }
        let lower = |byte: &u8| is_token_byte(*byte) && !byte.is_ascii_uppercase();
        if name.is_empty() || !name.iter().all(lower) {
            return Self::Malformed;
        }
        Known::of(name).map_or(Self::Other, Self::Known)
    }
}
