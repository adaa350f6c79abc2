//! What a gRPC call asks for: the method, the metadata beside its messages, and its retries.
//!
//! Owns: which metadata a caller may send, and its form on the wire. Refuses to know: messages, connections, attempts.
//! Keeps: nothing that a caller adds changes how the call is understood; a value of any bytes arrives as it is, under a
//! name that ends in `-bin`.
//!
//! Source: gRPC over HTTP2, Custom-Metadata.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64_NOPAD;
use sluice_codec::h1::parse::is_authority;
use sluice_codec::{Known, grpc};
use sluice_core::limits::Limit;

use super::{CallKind, SideRequest};
use crate::retry_plan::RetryPlan;

/// A method of a service (`/package.Service/Method`), and the metadata that a call of it begins with.
#[derive(Clone, Debug)]
pub struct GrpcMethod(SideRequest);

/// A call of a method with one message, which can be retried.
#[derive(Clone, Debug)]
pub struct GrpcRequest(SideRequest);

/// Why metadata cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataError {
    /// The name has other characters than lower-case letters, digits, `-`, `_` and `.`, or belongs to HTTP or gRPC.
    Name,
    /// The value is not printable ASCII, and the name does not end in `-bin`.
    Value,
    /// The authority is no host, with or without a port.
    Authority,
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "metadata has lower-case names that neither HTTP nor gRPC uses itself",
            Self::Authority => "an authority is a host, with or without a port",
            Self::Value => "other values than printable ASCII need a name that ends in `-bin`",
        })
    }
}

impl std::error::Error for MetadataError {}

impl GrpcMethod {
    /// A method, and no metadata.
    pub fn new(path: &str) -> Self {
        Self(SideRequest {
            head: grpc::request_head("http", "", path),
            kind: CallKind::Grpc,
            ..SideRequest::new("POST", path)
        })
    }

    /// Adds metadata. The value of a name that ends in `-bin` may have any bytes, and is encoded.
    ///
    /// # Errors
    /// The name or the value is not that of metadata.
    pub fn with(mut self, name: &str, value: &[u8]) -> Result<Self, MetadataError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(allowed) || is_reserved(name) {
            return Err(MetadataError::Name);
        }
        let head = &mut self.0.head;
        if name.ends_with("-bin") {
            head.append(name.as_bytes(), BASE64_NOPAD.encode(value).as_bytes());
            return Ok(self);
        }
        let has_space = value.first() == Some(&b' ') || value.last() == Some(&b' ');
        if has_space || !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(MetadataError::Value);
        }
        head.append(name.as_bytes(), value);
        Ok(self)
    }

    /// Names another host than the cluster (`:authority`).
    ///
    /// # Errors
    /// It cannot be a host.
    pub fn authority(mut self, authority: &str) -> Result<Self, MetadataError> {
        if !is_authority(authority.as_bytes()) {
            return Err(MetadataError::Authority);
        }
        self.0.head.set_authority(authority.as_bytes());
        Ok(self)
    }

    /// A call of this method that is retried, as [`SideRequest::retries`] describes.
    pub fn retries(self, plan: RetryPlan) -> GrpcRequest {
        GrpcRequest(self.0.retries(plan))
    }

    /// Bounds each message of a stream otherwise than by `limits.side_call_bytes`.
    #[must_use]
    pub fn message_max(mut self, limit: Limit) -> Self {
        self.0.message_max = limit;
        self
    }

    pub(super) fn into_request(self) -> SideRequest {
        self.0
    }
}

impl GrpcRequest {
    /// Bounds the time of each attempt, as [`SideRequest::attempt_timeout`] does.
    #[must_use]
    pub fn attempt_timeout(self, timeout: Duration) -> Self {
        Self(self.0.attempt_timeout(timeout))
    }

    /// The request with this message, which is in its frame.
    pub(super) fn into_request(self, message: Bytes) -> SideRequest {
        SideRequest { body: message, ..self.0 }
    }
}

impl From<&str> for GrpcMethod {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

impl From<GrpcMethod> for GrpcRequest {
    fn from(method: GrpcMethod) -> Self {
        Self(method.0)
    }
}

impl From<&str> for GrpcRequest {
    fn from(path: &str) -> Self {
        GrpcMethod::new(path).into()
    }
}

/// Whether a name belongs to gRPC, or says something about the connection or the message to HTTP or to Sluice.
fn is_reserved(name: &str) -> bool {
    let known = Known::of(name.as_bytes());
    let of_message = |known: Known| {
        known.is_hop_by_hop()
            || matches!(
                known,
                Known::Host
                    | Known::ContentLength
                    | Known::ContentType
                    | Known::Te
                    | Known::Trailer
                    | Known::Expect
                    | Known::XSluiceHops
            )
    };
    name.starts_with("grpc-") || known.is_some_and(of_message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host() {
        let named = |authority: &str| {
            let method = GrpcMethod::new("/t.S/Say").authority(authority)?;
            Ok(method.0.head.authority().to_owned())
        };
        for authority in ["contour", "a.test:8001", "[::1]:1"] {
            assert_eq!(named(authority), Ok(authority.to_owned()));
        }
        for authority in ["a/b", "a b", "a@b"] {
            assert_eq!(named(authority), Err(MetadataError::Authority), "{authority}");
        }
    }

    #[test]
    fn metadata_is_printable_or_encoded_and_says_nothing_about_the_call() {
        let added = |name: &str, value: &[u8]| {
            let method = GrpcMethod::new("/t.S/Say").with(name, value)?;
            Ok(method.0.head.get_named(name.as_bytes()).unwrap().to_vec())
        };
        for (name, value, sent) in [
            ("x-user", &b"ann smith"[..], "ann smith"),
            ("a_b.c-1", b"", ""),
            ("trace-bin", b"", ""),
            ("trace-bin", b"\0", "AA"),
            ("trace-bin", b"\xff\xfe\n", "//4K"),
            ("authorization", b"Bearer x", "Bearer x"),
        ] {
            assert_eq!(added(name, value), Ok(sent.as_bytes().to_vec()), "{name}");
        }
        for name in [
            "",
            "X-User",
            "x user",
            ":path",
            "grpc-timeout",
            "grpc-x",
            "te",
            "content-type",
            "content-length",
            "host",
            "connection",
            "transfer-encoding",
            "x-sluice-hops",
        ] {
            assert_eq!(added(name, b"1"), Err(MetadataError::Name), "{name}");
        }
        for value in [&b"\xc3\xa9"[..], b"a\r\nb: c", b"\x7f", b" a", b"a ", b"a\tb"] {
            assert_eq!(added("x-user", value), Err(MetadataError::Value), "{value:?}");
        }
        // Several values of one name are kept.
        let twice = GrpcMethod::new("/t.S/Say").with("x", b"1").and_then(|it| it.with("x", b"2"));
        assert_eq!(twice.unwrap().0.head.values(b"x").count(), 2);
    }
}
