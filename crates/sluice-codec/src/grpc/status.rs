//! How a call ended: codes, their texts, and the responses that contain none.
//!
//! Owns: the codes, their HTTP statuses, and the encoding of texts. Refuses to know: what a code leads to. Keeps: every
//! response has a status, whatever it contains.

use std::fmt::{self, Write as _};

use crate::head::Head;
use crate::names::Known;

/// Bytes of a status text that are kept.
const TEXT_MAX: usize = 1024;

macro_rules! codes {
    ($($code:ident = $number:literal, $name:literal, $help:literal;)+) => {
        /// The code of a gRPC status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum GrpcCode {
            $(#[doc = $help] $code = $number,)+
        }

        impl GrpcCode {
            /// The code with that number; numbers without a meaning are UNKNOWN.
            pub const fn of_number(number: u32) -> Self {
                match number {
                    $($number => Self::$code,)+
                    _ => Self::Unknown,
                }
            }

            /// The name, as in the documents of gRPC.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)+
                }
            }
        }
    };
}

codes! {
    Ok = 0, "OK", "Success.";
    Cancelled = 1, "CANCELLED", "The caller cancelled the call.";
    Unknown = 2, "UNKNOWN", "An error that has no code, or none that is known.";
    InvalidArgument = 3, "INVALID_ARGUMENT", "The request is invalid.";
    DeadlineExceeded = 4, "DEADLINE_EXCEEDED", "The time was over.";
    NotFound = 5, "NOT_FOUND", "What was asked for does not exist.";
    AlreadyExists = 6, "ALREADY_EXISTS", "What was to be created exists.";
    PermissionDenied = 7, "PERMISSION_DENIED", "The caller may not do this.";
    ResourceExhausted = 8, "RESOURCE_EXHAUSTED", "A quota or limit is reached.";
    FailedPrecondition = 9, "FAILED_PRECONDITION", "The system is not in the required state.";
    Aborted = 10, "ABORTED", "A conflict with another operation.";
    OutOfRange = 11, "OUT_OF_RANGE", "Past the valid range.";
    Unimplemented = 12, "UNIMPLEMENTED", "There is no such method.";
    Internal = 13, "INTERNAL", "A defect, or a violation of the protocol.";
    Unavailable = 14, "UNAVAILABLE", "The service is not available now.";
    DataLoss = 15, "DATA_LOSS", "Data is lost or damaged.";
    Unauthenticated = 16, "UNAUTHENTICATED", "The caller has no valid credentials.";
}

impl GrpcCode {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The code of a response with this HTTP status and without a gRPC status.
    pub const fn of_http(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

/// How a call ended, as the service reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcStatus {
    /// The code.
    pub code: GrpcCode,
    /// The text for developers, decoded; often empty, at most 1 KiB.
    pub text: Box<str>,
}

impl GrpcStatus {
    /// The status of a response that has ended: from its trailers, from the headers of a response without a body, or
    /// from its HTTP status.
    pub fn of_response(head: &Head, trailers: Option<&Head>) -> Self {
        let stated = trailers.and_then(Self::of_fields).or_else(|| Self::of_fields(head));
        stated.unwrap_or_else(|| {
            let status = head.status();
            let text = format!("HTTP status {status} and no gRPC status").into();
            Self { code: GrpcCode::of_http(status), text }
        })
    }

    /// The status that headers or trailers contain.
    fn of_fields(fields: &Head) -> Option<Self> {
        fields.get(Known::GrpcStatus)?;
        let code = status_number(fields).map_or(GrpcCode::Unknown, GrpcCode::of_number);
        let text = fields.get(Known::GrpcMessage).unwrap_or_default();
        Some(Self { code, text: percent_decode(text.get(..TEXT_MAX).unwrap_or(text)) })
    }

    /// Whether the call succeeded.
    pub fn is_ok(&self) -> bool {
        self.code == GrpcCode::Ok
    }
}

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gRPC status {} {}", self.code.number(), self.code.name())?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

impl std::error::Error for GrpcStatus {}

/// The number of the gRPC status that headers or trailers contain.
pub fn status_number(fields: &Head) -> Option<u32> {
    let value = fields.get(Known::GrpcStatus)?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Encodes a status text for the wire: percent-encoded, except for printable ASCII other than `%`.
pub fn percent_encode(text: &[u8]) -> String {
    let mut out = String::new();
    for byte in text {
        if (b' '..=b'~').contains(byte) && *byte != b'%' {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Decodes a status text. What is not encoded correctly stays as it is; what is not UTF-8 is replaced.
fn percent_decode(text: &[u8]) -> Box<str> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%'
            && let [high, low, behind @ ..] = behind
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push(high << 4 | low);
            rest = behind;
        } else {
            out.push(*first);
        }
    }
    String::from_utf8_lossy(&out).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(status: u16, fields: &[(&str, &str)]) -> Head {
        let mut head = Head::response(status);
        fields.iter().for_each(|(name, value)| head.append(name.as_bytes(), value.as_bytes()));
        head
    }

    #[track_caller]
    fn check(head: &Head, trailers: Option<&Head>, code: GrpcCode, text: &str) {
        let status = GrpcStatus::of_response(head, trailers);
        assert_eq!((status.code, &*status.text), (code, text));
    }

    #[test]
    fn every_response_has_a_status() {
        let ok = fields(200, &[]);
        let failed = fields(0, &[("grpc-status", "5"), ("grpc-message", "no%20such%0Athing")]);
        check(&ok, Some(&fields(0, &[("grpc-status", "0")])), GrpcCode::Ok, "");
        check(&ok, Some(&failed), GrpcCode::NotFound, "no such\nthing");
        // Trailers only.
        check(&fields(200, &[("grpc-status", "7")]), None, GrpcCode::PermissionDenied, "");
        // Trailers decide, and a gRPC status before an HTTP status.
        let both = fields(503, &[("grpc-status", "0")]);
        check(&both, Some(&failed), GrpcCode::NotFound, "no such\nthing");
        check(&both, None, GrpcCode::Ok, "");
        for odd in ["", "-1", "17", "4294967296", "five"] {
            check(&ok, Some(&fields(0, &[("grpc-status", odd)])), GrpcCode::Unknown, "");
        }
        let none = "HTTP status 200 and no gRPC status";
        check(&ok, Some(&fields(0, &[("x-other", "1")])), GrpcCode::Unknown, none);
        for (status, number) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (500, 2),
        ] {
            let found = GrpcStatus::of_response(&fields(status, &[]), None);
            assert_eq!(found.code.number(), number, "{status}");
        }
    }

    #[test]
    fn a_status_prints_its_name_and_text() {
        let status = GrpcStatus { code: GrpcCode::Unavailable, text: "later".into() };
        assert_eq!(status.to_string(), "gRPC status 14 UNAVAILABLE: later");
        let long = "x".repeat(5000);
        let head = fields(200, &[("grpc-status", "2"), ("grpc-message", &long)]);
        assert_eq!(GrpcStatus::of_response(&head, None).text.len(), TEXT_MAX);
    }

    #[test]
    fn texts_that_are_not_encoded_correctly_are_kept() {
        for (encoded, text) in [
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%e2%82%ac", "€"),
            ("%ff", "\u{fffd}"),
            ("%+1", "%+1"),
        ] {
            assert_eq!(&*percent_decode(encoded.as_bytes()), text, "{encoded}");
        }
    }

    proptest! {
        #[test]
        fn texts_survive_their_encoding(text: String) {
            let encoded = percent_encode(text.as_bytes());
            prop_assert!(encoded.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(&*percent_decode(encoded.as_bytes()), text);
        }
    }
}
