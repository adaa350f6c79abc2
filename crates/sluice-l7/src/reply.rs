//! Local replies: the responses that Sluice generates itself.
//!
//! Owns: the content of a reply, and its form for the client. Refuses to know: when a reply is sent. Keeps: a gRPC
//! client gets a gRPC status, which no RFC defines but every gRPC library expects; the body contains as much as
//! Envoy's, so that tools that grep for it keep working.

use std::borrow::Cow;

use bytes::Bytes;
use sluice_codec::grpc::{self, GrpcCode};
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
    /// The gRPC status for gRPC clients; by default the one for `status`.
    pub grpc_code: Option<GrpcCode>,
    /// Whether the headers of the response that it replaces stay, without those that describe its body.
    pub(crate) keeps_headers: bool,
    /// What a filter added after the body.
    pub(crate) trailers: Option<Box<Head>>,
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
            grpc_code: None,
            keeps_headers: false,
            trailers: None,
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

    /// Its body without what Sluice adds to texts of its own: the end of the line, the reason and the number of the request.
    pub(crate) fn plain_text(&self) -> Bytes {
        // That of a rule is as it was written.
        if self.reason == reasons::LOCAL {
            return self.body.clone();
        }
        let text = self.body.strip_suffix(b"\n").unwrap_or(&self.body);
        let added = text.strip_suffix(b")").and_then(|text| {
            let mark = request_mark(self.reason);
            text.windows(mark.len()).rposition(|part| part == mark.as_bytes())
        });
        self.body.slice(..added.unwrap_or(text.len()))
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
    pub fn apply_to(&self, head: &mut Head, is_grpc: bool) -> bool {
        if self.keeps_headers {
            head.remove_where(|name, _| describes_body(name));
        } else {
            head.clear();
        }
        if is_grpc {
            // Trailers-only, with the gRPC status for the HTTP status.
            head.set_status(200);
            head.append_known(Known::ContentType, grpc::CONTENT_TYPE);
            head.append_known(
                Known::GrpcStatus,
                self.grpc_code
                    .unwrap_or_else(|| grpc_status(self.status))
                    .number()
                    .to_string()
                    .as_bytes(),
            );
            let message = grpc::percent_encode(&self.body);
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
        !is_grpc && !self.body.is_empty()
    }
}

/// The text of a failure, with what helps to find its record.
pub(crate) fn failure_text(text: &str, why: Reason, request: &str) -> String {
    format!("{text}{}{request})\n", request_mark(why))
}

/// What stands between the text of a failure and the ID of its request.
fn request_mark(why: Reason) -> String {
    format!(" ({why}, request ")
}

/// Whether a header describes the body of its message, so that it is wrong for another body: RFC 9110 §6.6.2, §8 and §14,
/// RFC 9530, and how HTTP/1.1 frames a body.
fn describes_body(name: &[u8]) -> bool {
    const NAMES: [&str; 17] = [
        "accept-ranges",
        "content-digest",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "digest",
        "etag",
        "last-modified",
        "repr-digest",
        "trailer",
        "transfer-encoding",
        "unencoded-digest",
    ];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The gRPC status of a reply with this HTTP status. Where a client can tell more from Sluice's own status than from one
/// that any proxy may send, it is more exact than [`GrpcCode::of_http`].
pub const fn grpc_status(status: u16) -> GrpcCode {
    match status {
        200 => GrpcCode::Ok,
        408 | 504 => GrpcCode::DeadlineExceeded,
        413 | 431 => GrpcCode::ResourceExhausted,
        _ => GrpcCode::of_http(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_body_takes_what_describes_it_along() {
        let mut reply = Reply::new(401, reasons::LOCAL, "x", "who are you?\n");
        reply.keeps_headers = true;
        let mut head = Head::default();
        head.set_status(401);
        for (name, value) in [
            ("WWW-Authenticate", "Basic"),
            ("set-cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Content-Type", "application/json"),
            ("content-length", "9000"),
            ("content-security-policy", "default-src 'none'"),
            ("Content-Encoding", "gzip"),
            ("etag", "\"1\""),
            ("transfer-encoding", "chunked"),
            ("Trailer", "x-sum"),
        ] {
            head.append(name.as_bytes(), value.as_bytes());
        }
        assert!(reply.apply_to(&mut head, false));
        let names: Vec<_> =
            head.fields().map(|(name, _)| String::from_utf8_lossy(name).to_lowercase()).collect();
        let kept = ["www-authenticate", "set-cookie", "set-cookie", "content-security-policy"];
        assert_eq!(names[..4], kept);
        assert_eq!(names[4..], ["content-type", "content-length"]);
        assert_eq!(head.get(Known::ContentLength), Some(&b"13"[..]));
    }

    #[test]
    fn a_plain_text_is_without_what_helps_to_find_the_record() {
        let check = |reason, body: &str, expected: &str| {
            let reply = Reply::new(503, reason, "x", body.to_owned());
            assert_eq!(reply.plain_text(), expected, "{body}");
        };
        let text = failure_text("no healthy upstream", reasons::MALFORMED, "a-1");
        check(reasons::MALFORMED, &text, "no healthy upstream");
        check(reasons::MALFORMED, "too (large, request 1)\n", "too (large, request 1)");
        check(reasons::MALFORMED, "late\n", "late");
        check(reasons::MALFORMED, "", "");
        check(reasons::LOCAL, "a line\n", "a line\n");
    }

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
