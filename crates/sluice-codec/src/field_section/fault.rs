//! What is wrong with a field section.
//!
//! Owns: the faults, their codes, and which of them the RFCs call malformed. Refuses to know: who receives them. Keeps:
//! the codes are few and closed, and the same for both versions but for their prefix.

use super::{Bounds, SectionKind};
use crate::error::{ErrorKind, HttpError};
use crate::head::Version;
use sluice_core::value::{plural, show_size};

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $code:literal,)+) => {
        /// A fault of a field section.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum FieldFault { $($(#[$doc])* $fault,)+ }

        impl FieldFault {
            /// Returns the code, as access logs and metrics show it.
            pub(crate) const fn code(self, version: Version) -> &'static str {
                match (self, version) {
                    $((Self::$fault, Version::Http3) => concat!("http3.", $code),
                      (Self::$fault, _) => concat!("http2.", $code),)+
                }
            }
        }
    };
}

faults! {
    /// More bytes than the bound.
    TooLarge = "head_too_large",
    /// More fields than the bound.
    TooManyFields = "too_many_fields",
    /// A name that is empty, not a token, or not in lower case.
    Name = "field_name_malformed",
    /// A value with a control character, or with white space at an end.
    Value = "field_value_malformed",
    /// A field that only connections of HTTP/1 have.
    ConnectionSpecific = "connection_specific_field",
    /// `te` with another value than `trailers`.
    Te = "te_malformed",
    /// A pseudo-header field that does not exist.
    PseudoUnknown = "pseudo_field_unknown",
    /// A pseudo-header field that is repeated, follows a regular field, or belongs to another kind of message.
    PseudoMisplaced = "pseudo_field_misplaced",
    /// A pseudo-header field whose value cannot be one.
    PseudoMalformed = "pseudo_field_malformed",
    /// A request without scheme or path.
    PseudoMissing = "pseudo_field_missing",
    /// A request without a method, or with one that is not a token.
    MethodMalformed = "method_malformed",
    /// A scheme that is not one of HTTP.
    SchemeUnknown = "scheme_unknown",
    /// A path that is not one.
    PathMalformed = "path_malformed",
    /// Neither `:authority` nor `host`.
    AuthorityMissing = "authority_missing",
    /// `:authority` and `host` differ.
    AuthorityAgainstHost = "authority_against_host",
    /// An authority that is not one.
    AuthorityMalformed = "authority_malformed",
    /// More than one `host`.
    HostRepeated = "host_repeated",
    /// A length that is not a number.
    LengthMalformed = "content_length_malformed",
    /// More than one length.
    LengthRepeated = "content_length_malformed",
    /// CONNECT with what it may not have, or without an authority.
    ConnectMalformed = "connect_malformed",
    /// CONNECT with a length: what follows it is not a body.
    ConnectWithLength = "connect_with_content_length",
    /// `:protocol` that is not a token.
    ProtocolMalformed = "protocol_malformed",
    /// `:protocol` with another method than CONNECT.
    ProtocolWithoutConnect = "protocol_without_connect",
    /// A response without a status, or with one that does not exist.
    StatusMalformed = "status_malformed",
}

impl FieldFault {
    /// Whether the message is malformed as RFC 9113 §8.1.1 and RFC 9114 §4.1.2 mean it, so that its stream is reset. The
    /// other faults are of messages too large, or with two meanings: a response says why.
    pub(crate) const fn is_malformed(self) -> bool {
        !matches!(
            self,
            Self::TooLarge
                | Self::TooManyFields
                | Self::AuthorityMissing
                | Self::AuthorityAgainstHost
                | Self::HostRepeated
                | Self::LengthRepeated
                | Self::ConnectWithLength
        )
    }

    /// Returns the error of a message that is not too large.
    pub(crate) const fn error(self, version: Version) -> HttpError {
        HttpError::coded(ErrorKind::Malformed(400), self.code(version))
    }

    /// Returns the error of a section that was read; if it is too large, the detail names the bound. The settings that
    /// are named are those of listeners.
    pub(crate) fn error_of(self, kind: SectionKind, version: Version, bounds: Bounds) -> HttpError {
        let bytes = || show_size(bounds.bytes as u64);
        let limit = match (self, kind) {
            (Self::TooLarge, SectionKind::Request) => format!("`head_bytes` ({})", bytes()),
            (Self::TooLarge, _) => bytes(),
            (Self::TooManyFields, SectionKind::Request) => {
                format!("`head_fields` ({})", bounds.fields)
            }
            (Self::TooManyFields, _) => plural(bounds.fields as u64, "header"),
            _ => return self.error(version),
        };
        let code = self.code(version);
        HttpError::coded_with(ErrorKind::Malformed(431), code, format!("{code}: more than {limit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_too_large_names_the_bound_that_it_exceeds() {
        let bounds = Bounds { bytes: 2048, fields: 7 };
        for (fault, kind, detail) in [
            (
                FieldFault::TooLarge,
                SectionKind::Request,
                "head_too_large: more than `head_bytes` (2KiB)",
            ),
            (FieldFault::TooLarge, SectionKind::Response, "head_too_large: more than 2KiB"),
            (FieldFault::TooLarge, SectionKind::Trailers, "head_too_large: more than 2KiB"),
            (
                FieldFault::TooManyFields,
                SectionKind::Request,
                "too_many_fields: more than `head_fields` (7)",
            ),
            (
                FieldFault::TooManyFields,
                SectionKind::Response,
                "too_many_fields: more than 7 headers",
            ),
            (FieldFault::Name, SectionKind::Request, "field_name_malformed"),
        ] {
            for (version, prefix) in [(Version::Http2, "http2"), (Version::Http3, "http3")] {
                let error = fault.error_of(kind, version, bounds);
                assert_eq!(error.detail(), format!("{prefix}.{detail}"));
                assert_eq!(error.code(), Some(fault.code(version)), "what a client is told");
                assert_eq!(error.status(), Some(if fault == FieldFault::Name { 400 } else { 431 }));
            }
        }
    }
}
