//! The errors of an HTTP/1 message.

/// Why a message was refused. Small and without text, since hostile peers cause many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is explained by its detail")]
pub enum ParseError {
    Method,
    TlsRecord,
    Target,
    Version,
    VersionUnsupported,
    StatusLine,
    RequestLineTooLong,
    HeadTooLarge,
    TooManyFields,
    FieldName,
    FieldValue,
    SpaceBeforeColon,
    ObsFold,
    BareLf,
    BareCr,
    HostMissing,
    HostRepeated,
    HostMalformed,
    LengthMalformed,
    LengthRepeated,
    LengthWithEncoding,
    EncodingUnknown,
    EncodingRepeated,
    EncodingInOldVersion,
    ChunkSize,
    ChunkEnd,
    ChunkExtensionTooLong,
    TrailersTooLarge,
    TrailerBarred,
    UpgradeUnasked,
    BodyOnConnect,
}

impl ParseError {
    /// The status that a client receives for it.
    pub const fn status(self) -> u16 {
        match self {
            Self::RequestLineTooLong => 414,
            Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge => 431,
            Self::VersionUnsupported => 505,
            Self::EncodingUnknown => 501,
            _ => 400,
        }
    }

    /// The detail for access logs, `%RESPONSE_CODE_DETAILS%`.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Method => "http1.method_malformed",
            Self::TlsRecord => "http1.tls_record_on_plain_port",
            Self::Target => "http1.target_malformed",
            Self::Version => "http1.version_malformed",
            Self::VersionUnsupported => "http1.version_unsupported",
            Self::StatusLine => "http1.status_line_malformed",
            Self::RequestLineTooLong => "http1.request_line_too_long",
            Self::HeadTooLarge => "http1.head_too_large",
            Self::TooManyFields => "http1.too_many_fields",
            Self::FieldName => "http1.field_name_malformed",
            Self::FieldValue => "http1.field_value_malformed",
            Self::SpaceBeforeColon => "http1.space_before_colon",
            Self::ObsFold => "http1.obsolete_folding",
            Self::BareLf => "http1.bare_lf",
            Self::BareCr => "http1.bare_cr",
            Self::HostMissing => "http1.host_missing",
            Self::HostRepeated => "http1.host_repeated",
            Self::HostMalformed => "http1.host_malformed",
            Self::LengthMalformed => "http1.content_length_malformed",
            Self::LengthRepeated => "http1.content_length_repeated",
            Self::LengthWithEncoding => "http1.content_length_with_transfer_encoding",
            Self::EncodingUnknown => "http1.transfer_encoding_unknown",
            Self::EncodingRepeated => "http1.transfer_encoding_repeated",
            Self::EncodingInOldVersion => "http1.transfer_encoding_in_http10",
            Self::ChunkSize => "http1.chunk_size_malformed",
            Self::ChunkEnd => "http1.chunk_longer_than_stated",
            Self::ChunkExtensionTooLong => "http1.chunk_extension_too_long",
            Self::TrailersTooLarge => "http1.trailers_too_large",
            Self::TrailerBarred => "http1.trailer_not_allowed",
            Self::UpgradeUnasked => "http1.upgrade_not_asked_for",
            Self::BodyOnConnect => "http1.connect_with_body",
        }
    }
}
