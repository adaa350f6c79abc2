//! Local replies: the responses that Sluice generates itself.
//!
//! Owns: the content of a reply, and its form for the client. Refuses to know: when a reply is sent. Keeps: a gRPC
//! client gets a gRPC status, which no RFC defines but every gRPC library expects; the body contains as much as
//! Envoy's, so that tools that grep for it keep working.

use std::borrow::Cow;

use bytes::Bytes;
use sluice_codec::{Head, Known};
use sluice_core::Reason;

use crate::reasons;

/// A response that Sluice generates itself.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The reason.
    pub reason: Reason,
    /// The value of `%RESPONSE_CODE_DETAILS%` in records.
    pub details: Cow<'static, str>,
    /// Headers besides those that every response has.
    pub fields: Vec<(Cow<'static, str>, String)>,
    /// The body; empty for none.
    pub body: Bytes,
    /// Its media type.
    pub content_type: Cow<'static, str>,
    /// Whether the connection is closed after it.
    pub close: bool,
}

impl Reply {
    /// Creates a reply with a plain-text body.
    pub fn new(
        status: u16,
        reason: Reason,
        details: impl Into<Cow<'static, str>>,
        body: impl Into<Bytes>,
    ) -> Self {
        Self {
            status,
            reason,
            details: details.into(),
            fields: Vec::new(),
            body: body.into(),
            content_type: Cow::Borrowed("text/plain; charset=utf-8"),
            close: false,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Closes the connection after the reply.
    #[must_use]
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Creates the reply to a request that cannot be forwarded with one unambiguous meaning.
    pub fn malformed(details: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Self {
        Self::new(400, reasons::MALFORMED, details, body)
    }

    /// Creates a redirect. A `location` that is a path is made to start with a single slash: with two, browsers take
    /// what follows for another host, and they take a backslash for a slash (RFC 3986 §4.2, WHATWG URL).
    pub fn redirect(status: u16, location: String) -> Self {
        let path = location.trim_start_matches(['/', '\\']);
        let location = if path.len() < location.len() { format!("/{path}") } else { location };
        Self::new(status, reasons::LOCAL, "direct_response", "").with("location", location)
    }

    /// Fills the head of the response; returns whether a body follows.
    pub fn apply_to(&self, head: &mut Head, grpc: bool) -> bool {
        head.clear();
        if grpc {
            // Trailers-only, with the gRPC status for the HTTP status.
            head.set_status(200);
            head.append_known(Known::ContentType, b"application/grpc");
            head.append_known(Known::GrpcStatus, grpc_status(self.status).to_string().as_bytes());
            let message = percent_encode(&self.body);
            if !message.is_empty() {
                head.append_known(Known::GrpcMessage, message.as_bytes());
            }
        } else {
            head.set_status(self.status);
            let bodiless = self.status < 200 || matches!(self.status, 204 | 304);
            if !bodiless {
                if !self.body.is_empty() {
                    head.append_known(Known::ContentType, self.content_type.as_bytes());
                }
                let length = self.body.len().to_string();
                head.append_known(Known::ContentLength, length.as_bytes());
            }
        }
        for (name, value) in &self.fields {
            head.append(name.as_bytes(), value.as_bytes());
        }
        !grpc && !self.body.is_empty()
    }
}

/// Maps an HTTP status to a gRPC status, by gRPC's own table.
pub const fn grpc_status(status: u16) -> u32 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        408 | 504 => 4,
        413 | 431 => 8,
        429 | 502 | 503 => 14,
        _ => 2,
    }
}

/// Encodes a gRPC message for the wire: percent-encoded, except for printable ASCII other than `%`.
fn percent_encode(text: &[u8]) -> String {
    let mut out = String::new();
    for byte in text {
        if (b' '..=b'~').contains(byte) && *byte != b'%' {
            out.push(char::from(*byte));
        } else {
            use std::fmt::Write as _;
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_clients_get_a_status_and_others_a_body() {
        let reply = Reply::new(503, reasons::LOCAL, "x", "no healthy upstream\n");
        let mut head = Head::default();
        assert!(reply.apply_to(&mut head, false));
        assert_eq!((head.status(), head.get(Known::ContentLength)), (503, Some(&b"20"[..])));
        assert!(!reply.apply_to(&mut head, true));
        assert_eq!((head.status(), head.get(Known::GrpcStatus)), (200, Some(&b"14"[..])));
        assert_eq!(head.get(Known::GrpcMessage), Some(&b"no healthy upstream%0A"[..]));
    }
}
