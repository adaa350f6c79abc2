//! `Proxy-Status`: what became of a request at this hop, for clients and the hops before it (RFC 9209).
//!
//! Owns: the field, and the error type of each reason. Refuses to know: how a request ended. Keeps: what earlier hops said
//! stays; no client learns of an endpoint.

use std::fmt::Write as _;

use sluice_codec::Head;
use sluice_core::Reason;
use sluice_core::reason::Side;
use sluice_core::settings::ShortForm;

use crate::reasons;
use crate::record::Summary;

const FIELD: &[u8] = b"proxy-status";

sluice_core::section! {
    /// The field `proxy-status` of responses (RFC 9209), which says at which hop a request failed, and why. The short form
    /// is the name.
    pub struct ProxyStatus {
        /// The name of this proxy in it, such as its host name.
        pub name: ProxyName,
        /// Whether it contains the reason (`details`).
        pub details: bool = "true",
        /// Whether responses of endpoints have it too, with their status; otherwise only Sluice's own.
        pub forwarded: bool = "false",
    }
}

impl ShortForm for ProxyStatus {
    const KEY: &'static str = "name";
}

impl Eq for ProxyStatus {}

/// The name of a proxy: visible ASCII characters and spaces, at most 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyName(String);

sluice_core::text_setting! {
    ProxyName, "the name of a proxy", "edge-1.example.com", parse_proxy_name, |name| name.0.clone();
}

fn parse_proxy_name(text: &str) -> Result<ProxyName, String> {
    let fits = |byte: u8| matches!(byte, b' '..=b'~');
    if (1..=255).contains(&text.len()) && text.bytes().all(fits) {
        Ok(ProxyName(text.to_owned()))
    } else {
        Err(format!("expected a name of visible ASCII characters, at most 255, not `{text}`"))
    }
}

impl ProxyStatus {
    /// Adds the field to a response of Sluice's own; `received` is the status of the response that it replaces.
    pub(crate) fn note_reply(&self, summary: &Summary, received: Option<u16>, head: &mut Head) {
        let Some(reason) = summary.reason else { return };
        let mut member = String::new();
        self.name.write(&mut member);
        if reason != reasons::VIA_UPSTREAM {
            self.write_error(cause(summary, reason), reason, &mut member);
        }
        note_received(received, &mut member);
        add(member, head);
    }

    /// Adds the field to a response of an endpoint, if that is asked for.
    pub(crate) fn note_forwarded(&self, head: &mut Head) {
        if self.forwarded {
            let mut member = String::new();
            self.name.write(&mut member);
            note_received(Some(head.status()), &mut member);
            add(member, head);
        }
    }

    /// Adds the field to the response to what could not be read as a request.
    pub(crate) fn note_refusal(&self, reason: Reason, head: &mut Head) {
        let mut member = String::new();
        self.name.write(&mut member);
        self.write_error(reason, reason, &mut member);
        add(member, head);
    }

    /// Writes the error type of `cause` and, if that is asked for, the code of `reason`.
    fn write_error(&self, cause: Reason, reason: Reason, out: &mut String) {
        let _ = write!(out, "; error={}", error_type(cause));
        if self.details {
            out.push_str("; details=");
            write_string(reason.code(), out);
        }
    }
}

fn note_received(status: Option<u16>, out: &mut String) {
    if let Some(status) = status {
        let _ = write!(out, "; received-status={status}");
    }
}

/// The members of a list are in the order of the hops, that of the last hop at the end (RFC 9209 §2).
fn add(member: String, head: &mut Head) {
    let earlier = || head.values(FIELD).filter(|value| !value.trim_ascii().is_empty());
    if earlier().next().is_none() {
        return head.set(FIELD, member.as_bytes());
    }
    let mut all: Vec<u8> = earlier().collect::<Vec<_>>().join(&b", "[..]);
    all.extend_from_slice(b", ");
    all.extend_from_slice(member.as_bytes());
    head.set(FIELD, &all);
}

impl ProxyName {
    fn write(&self, out: &mut String) {
        if is_sf_token(&self.0) { out.push_str(&self.0) } else { write_string(&self.0, out) }
    }
}

/// RFC 8941 §3.3.4.
fn is_sf_token(text: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'*';
    text.bytes().next().is_some_and(first)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte))
}

/// RFC 8941 §3.3.3; the text has only visible ASCII characters and spaces.
fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// What the reason is about: if no retry succeeded, the failure of the last attempt.
fn cause(summary: &Summary, reason: Reason) -> Reason {
    let last = || Some(summary.attempts.last()?.failure?.0);
    if reason == reasons::RETRIES_EXHAUSTED { last().unwrap_or(reason) } else { reason }
}

/// The error type of a reason, RFC 9209 §2.3.
fn error_type(reason: Reason) -> &'static str {
    match reason.code() {
        "http.local" => "proxy_internal_response",
        "name.denied" => "http_request_denied",
        "upstream.egress" => "destination_ip_prohibited",
        "upstream.refused" => "connection_refused",
        "upstream.unreachable" => "destination_ip_unroutable",
        "upstream.connect_timeout" => "connection_timeout",
        "upstream.tls" => "tls_protocol_error",
        "upstream.cut" => "http_response_incomplete",
        "upstream.refused_stream" => "connection_terminated",
        "http.response_too_large" => "http_response_body_size",
        "http.body_too_large" => "http_request_error",
        "name.missing" => "http_request_error",
        "local.loop" | "sidecall.loop" => "proxy_loop_detected",
        "basic.busy" | "jwt.unavailable" | "credential.unavailable" => "proxy_internal_error",
        "end.endpoint_removed" | "end.endpoint_unhealthy" => "connection_terminated",
        _ => by_flag(reason),
    }
}

/// The error type for a reason of any filter, by Envoy's flag for it.
fn by_flag(reason: Reason) -> &'static str {
    match (reason.def().envoy_flag, reason.def().side) {
        ("UAEX" | "RL", _) => "http_request_denied",
        ("UO", _) => "connection_limit_reached",
        ("UH", _) => "destination_unavailable",
        ("NR", _) => "destination_not_found",
        ("NC", _) => "proxy_configuration_error",
        ("DF", _) => "dns_error",
        ("UF", _) => "destination_unavailable",
        ("UC", _) => "connection_terminated",
        ("UT" | "UMSDR", _) => "http_response_timeout",
        ("UPE", _) => "http_protocol_error",
        ("FI", _) => "proxy_internal_response",
        ("SI", Side::Local) => "connection_read_timeout",
        (_, Side::Downstream) => "http_request_error",
        (_, Side::Upstream) => "destination_unavailable",
        (_, Side::Local) => "proxy_internal_error",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The error types of RFC 9209 §2.3.
    const TYPES: &str = "dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited \
        destination_ip_unroutable connection_refused connection_terminated connection_timeout connection_read_timeout \
        connection_write_timeout connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received \
        http_request_error http_request_denied http_response_incomplete http_response_header_section_size \
        http_response_header_size http_response_body_size http_response_trailer_section_size \
        http_response_trailer_size http_response_transfer_coding http_response_content_coding http_response_timeout \
        http_upgrade_failed http_protocol_error proxy_internal_response proxy_internal_error \
        proxy_configuration_error proxy_loop_detected";

    #[test]
    fn every_reason_has_a_registered_type_and_every_code_is_a_reason() {
        let types: BTreeSet<&str> = TYPES.split_whitespace().collect();
        for reason in reasons::all() {
            assert!(types.contains(error_type(reason)), "{reason}");
        }
        let codes: BTreeSet<&str> = reasons::all().map(Reason::code).collect();
        let source = include_str!("proxy_status.rs");
        let body =
            source.split("fn error_type").nth(1).unwrap().split("fn by_flag").next().unwrap();
        let quoted = body.split('"').skip(1).step_by(2).filter(|text| text.contains('.'));
        for code in quoted.inspect(|code| assert!(!code.is_empty())) {
            assert!(codes.contains(code), "{code}");
        }
        for (reason, expected) in [
            (reasons::LOCAL, "proxy_internal_response"),
            (reasons::DENIED, "http_request_denied"),
            (reasons::RATE, "http_request_denied"),
            (reasons::JWT_KEY, "http_request_denied"),
            (reasons::MALFORMED, "http_request_error"),
            (reasons::ROUTE_UNMATCHED, "destination_not_found"),
            (reasons::TRY_TIMEOUT, "http_response_timeout"),
            (sluice_upstream::reasons::NO_HEALTHY, "destination_unavailable"),
            (sluice_upstream::reasons::REFUSED, "connection_refused"),
            (sluice_l4::reasons::FILTER_TIMEOUT, "proxy_internal_error"),
        ] {
            assert_eq!(error_type(reason), expected, "{reason}");
        }
    }

    #[test]
    fn a_name_is_a_token_or_a_string() {
        let written = |name: &str| {
            let mut out = String::new();
            parse_proxy_name(name).unwrap().write(&mut out);
            out
        };
        assert_eq!(written("edge-1.example.com"), "edge-1.example.com");
        assert_eq!(written("[::1]:80"), "\"[::1]:80\"");
        assert_eq!(written("1st"), "\"1st\"");
        assert_eq!(written("a \"b\" \\"), "\"a \\\"b\\\" \\\\\"");
        for wrong in ["", "a\r\nb", "\u{e9}", "a\tb", &"x".repeat(256)] {
            assert!(parse_proxy_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn earlier_hops_stay_in_front() {
        let status =
            ProxyStatus { name: parse_proxy_name("edge").unwrap(), details: true, forwarded: true };
        for (earlier, expected) in [
            (&[][..], "edge; received-status=503"),
            (&["", " "][..], "edge; received-status=503"),
            (&["cache; error=dns_error"][..], "cache; error=dns_error, edge; received-status=503"),
            (&["a", "b, c"][..], "a, b, c, edge; received-status=503"),
        ] {
            let mut head = Head::default();
            head.set_status(503);
            earlier.iter().for_each(|value| head.append(b"Proxy-Status", value.as_bytes()));
            status.note_forwarded(&mut head);
            let values: Vec<_> = head.values(FIELD).collect();
            assert_eq!(values, [expected.as_bytes()], "{earlier:?}");
        }
    }
}
