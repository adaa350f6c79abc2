//! Asking a service over plain HTTP, as `auth_request` does.
//!
//! Owns: the request, and how a response is read. Refuses to know: gRPC. Keeps: only a response with 2xx lets a request
//! pass; only headers that the configuration lists travel, either way.

use bytes::Bytes;
use sluice_codec::names::is_field_value;
use sluice_codec::{Head, Known, Method};
use sluice_core::connection::ClientCertFacts;

use super::answer::{AuthzAnswer, AuthzEdits, EditAction, HeaderEdit, add, refusal};
use super::question::encoded;
use super::{AuthzService, NoDecision, PARTIAL, SentBody};
use crate::reasons;
use crate::side_calls::{SideRequest, SideResponse};
use crate::words::EditableHeader;

/// The header with the certificate of the client.
const CERTIFICATE: &str = "ssl-client-cert";

/// The question about a request. A request for a tunnel is asked about with GET: the question is none.
pub(super) fn question<'a>(
    service: &AuthzService,
    head: &Head,
    body: Option<SentBody>,
    certificate: Option<&ClientCertFacts>,
    context: impl Iterator<Item = (&'a str, &'a str)>,
) -> SideRequest {
    let tunnel = head.method() == Method::Connect || head.upgrade().is_some();
    let method = if tunnel { "GET" } else { head.method_text() };
    let path = if head.path().starts_with('/') { head.path() } else { "/" };
    let asked = SideRequest::new(method, &format!("{}{path}", service.path_prefix));
    let mut asked = asked.host(head.authority());
    // What only this process may say.
    let own = |name: &str| match name {
        "content-type" | PARTIAL => body.is_some(),
        CERTIFICATE => service.client_certificate,
        _ => false,
    };
    for name in service.request_headers.iter().flatten().filter(|name| !own(&name.0)) {
        for value in head.values(name.0.as_bytes()) {
            asked = asked.with(&name.0, value);
        }
    }
    if let Some(body) = &body {
        asked = asked.with(PARTIAL, body.cut.to_string().as_bytes());
    }
    if let Some(client) = certificate {
        asked = asked.with(CERTIFICATE, encoded(client).as_bytes());
    }
    for (name, value) in context {
        asked = asked.with(name, value.as_bytes());
    }
    match body {
        Some(body) => {
            let kind = head.get(Known::ContentType).unwrap_or(b"application/octet-stream");
            asked.with("content-type", kind).body(body.bytes)
        }
        // A method such as POST is known to have no body by its length.
        None => asked.body(Bytes::new()),
    }
}

/// Reads a response.
pub(super) fn of_http(
    service: &AuthzService,
    response: &SideResponse,
) -> Result<AuthzAnswer, NoDecision> {
    let head = &response.head;
    let listed = |names: &[EditableHeader], action| {
        let fields = head.fields().filter_map(|(name, value)| {
            let name = names.iter().find(|own| own.0.as_bytes().eq_ignore_ascii_case(name))?;
            let value = Bytes::copy_from_slice(value);
            Some(HeaderEdit { name: name.0.clone(), value, action })
        });
        fields.collect::<Vec<_>>()
    };
    if (200..300).contains(&head.status()) {
        return Ok(AuthzAnswer::Allow(AuthzEdits {
            request: listed(&service.upstream_headers, EditAction::Append),
            response: listed(&service.allowed_client_headers, EditAction::Append),
            ..AuthzEdits::default()
        }));
    }
    // A service that is broken has not decided.
    if head.status() >= 500 {
        let details = format!("ext_authz_error[status {}]", head.status());
        return Err(NoDecision::new(reasons::DENIED, details));
    }
    let mut reply = refusal(head.status(), response.body.clone());
    if let Some(kind) = head.get(Known::ContentType).filter(|kind| is_field_value(kind)) {
        add(&mut reply, "content-type", kind);
    }
    for edit in listed(&service.denied_client_headers, EditAction::Append) {
        add(&mut reply, &edit.name, &edit.value);
    }
    Ok(AuthzAnswer::Deny(Box::new(reply)))
}
