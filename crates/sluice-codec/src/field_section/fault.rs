//! What is wrong with a field section.
//!
//! Owns: the faults, their codes, and which of them the RFCs call malformed. Refuses to know: who receives them. Keeps:
//! the codes are few and closed, and the same for both versions but for their prefix.

use crate::error::{ErrorKind, HttpError};
use crate::head::Version;

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

    /// Returns the error of the message.
    pub(crate) const fn error(self, version: Version) -> HttpError {
        let status = if matches!(self, Self::TooLarge | Self::TooManyFields) { 431 } else { 400 };
        HttpError::coded(ErrorKind::Malformed(status), self.code(version))
    }
}
