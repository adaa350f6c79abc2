//! Answers of Sluice's own.
//!
//! Owns: what an answer says and how it is dressed for the client. Refuses to know: when one is given.
//! Keeps: a gRPC client gets a gRPC status, RFC-less but as every gRPC library expects; the body says
//! as much as Envoy's, so that what greps for it goes on working.

use std::borrow::Cow;

use bytes::Bytes;
use sluice_codec::{Head, Known};
use sluice_core::Reason;

use crate::reasons;

/// An answer of Sluice's own.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Why.
    pub reason: Reason,
    /// The word for records, `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Fields beside those that every answer has.
    pub fields: Vec<(Cow<'static, str>, String)>,
    /// The body; empty for none.
    pub body: Bytes,
    /// Its media type.
    pub content_type: Cow<'static, str>,
    /// Whether the connection ends with it.
    pub close: bool,
}

impl Reply {
    /// An answer with a body of plain text.
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

    /// The same with a field.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// The same, and the connection ends with it.
    #[must_use]
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// An answer to a request that cannot be passed on with one meaning.
    pub fn malformed(details: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Self {
        Self::new(400, reasons::MALFORMED, details, body)
    }

    /// A redirect. A `location` that is a path begins with one slash: with two, browsers take what follows for
    /// another host, and a backslash for a slash (RFC 3986 §4.2, WHATWG URL).
    pub fn redirect(status: u16, location: String) -> Self {
        let path = location.trim_start_matches(['/', '\\']);
        let location = if path.len() < location.len() { format!("/{path}") } else { location };
        Self::new(status, reasons::LOCAL, "direct_response", "").with("location", location)
    }

    /// Fills the head of the answer to a request; returns whether a body goes with it.
    pub fn dress(&self, head: &mut Head, grpc: bool) -> bool {
        head.clear();
        if grpc {
            // A head alone, with the status that the HTTP status stands for.
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

/// The gRPC status for an HTTP status, as gRPC's own table has it.
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

/// A gRPC message on the wire: percent-encoded where it is not visible ASCII.
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
        assert!(reply.dress(&mut head, false));
        assert_eq!((head.status(), head.get(Known::ContentLength)), (503, Some(&b"20"[..])));
        assert!(!reply.dress(&mut head, true));
        assert_eq!((head.status(), head.get(Known::GrpcStatus)), (200, Some(&b"14"[..])));
        assert_eq!(head.get(Known::GrpcMessage), Some(&b"no healthy upstream%0A"[..]));
    }
}
