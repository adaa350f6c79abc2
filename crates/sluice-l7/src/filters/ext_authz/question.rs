//! What a service for authorisation is told.
//!
//! Owns: the attributes of a connection and of a request. Refuses to know: how they are sent, and the answer. Keeps: what
//! concerns this process alone is not told; text that is not UTF-8 is repaired, since the messages hold no other.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use sluice_codec::{Head, Known, Version};
use sluice_core::connection::{ClientCertFacts, Peer, TlsFacts};
use sluice_l4::rbac::conn::ConnSubject;

use super::messages::{
    AddressMessage, AttributeContext, AttributePeer, AttributeRequest, CheckRequest,
    HttpRequestMessage, SocketAddressMessage, TimestampMessage, TlsSession,
};
use super::{AuthzService, PARTIAL, SentBody};
use crate::form;
use crate::record::Summary;
use crate::words::EditableHeader;

/// The question about a connection; `certificate` says whether it has the certificate of the client.
pub(crate) fn of_connection(
    conn: &ConnSubject<'_>,
    certificate: bool,
    context: impl Iterator<Item = (String, String)>,
) -> CheckRequest {
    let client = conn.tls.and_then(|tls| tls.client.as_deref()).filter(|_| certificate);
    let attributes = AttributeContext {
        source: Some(AttributePeer {
            address: address(conn.source),
            principal: conn.tls.and_then(principal).unwrap_or_default(),
            certificate: client.map(encoded).unwrap_or_default(),
        }),
        destination: Some(AttributePeer {
            address: address(conn.local),
            ..AttributePeer::default()
        }),
        request: None,
        context_extensions: context.collect(),
        tls_session: conn.sni.map(|sni| TlsSession { sni: sni.to_owned() }),
    };
    CheckRequest { attributes: Some(attributes) }
}

/// The question about a request.
pub(super) fn of_request(
    service: &AuthzService,
    conn: &ConnSubject<'_>,
    summary: &Summary,
    head: &Head,
    body: Option<SentBody>,
    context: impl Iterator<Item = (String, String)>,
) -> CheckRequest {
    let mut question = of_connection(conn, service.client_certificate, context);
    let started = summary.started;
    let time = TimestampMessage {
        seconds: i64::try_from(started.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(started.subsec_nanos()).unwrap_or(0),
    };
    let mut headers = headers(head, service.request_headers.as_deref());
    if let Some(body) = &body {
        headers.insert(PARTIAL.to_owned(), body.cut.to_string());
    }
    let (body, raw_body) = body.map(|body| text_or_bytes(service, body)).unwrap_or_default();
    let http = HttpRequestMessage {
        id: summary.id.to_string(),
        method: head.method_text().to_owned(),
        headers,
        path: head.path().to_owned(),
        host: head.authority().to_owned(),
        scheme: head.scheme().to_owned(),
        size: head.content_length().map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX)),
        protocol: protocol(head.version()).to_owned(),
        body,
        raw_body,
    };
    if let Some(attributes) = &mut question.attributes {
        attributes.request = Some(AttributeRequest { time: Some(time), http: Some(http) });
    }
    question
}

/// A body as a text, if it is one and may be sent as such, or as bytes. A text may have been cut within a letter.
fn text_or_bytes(service: &AuthzService, body: SentBody) -> (String, Bytes) {
    let SentBody { bytes, cut } = body;
    if service.body_as_bytes {
        return (String::new(), bytes);
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => (text.to_owned(), Bytes::new()),
        Err(error) if cut && error.error_len().is_none() => {
            let text = bytes.slice(..error.valid_up_to());
            (String::from_utf8_lossy(&text).into_owned(), Bytes::new())
        }
        Err(_) => (String::new(), bytes),
    }
}

/// Headers by their names in lower case, several of one name with commas between them, and what HTTP/2 sends as such.
fn headers(head: &Head, sent: Option<&[EditableHeader]>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in [
        (":authority", head.authority()),
        (":method", head.method_text()),
        (":path", head.path()),
        (":scheme", head.scheme()),
    ] {
        all.insert(name.to_owned(), value.to_owned());
    }
    let fields = head.fields().filter(|(name, _)| Known::of(name) != Some(Known::XSluiceHops));
    for (name, value) in fields {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if sent.is_some_and(|sent| !sent.iter().any(|one| one.0 == name)) {
            continue;
        }
        let value = String::from_utf8_lossy(value);
        let line: &mut String = all.entry(name).or_default();
        if !line.is_empty() {
            line.push(',');
        }
        line.push_str(&value);
    }
    all
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
        Version::Http2 => "HTTP/2",
        Version::Http3 => "HTTP/3",
    }
}

fn address(peer: Peer) -> Option<AddressMessage> {
    let socket = peer.socket()?;
    let address = socket.ip().to_canonical().to_string();
    let socket_address = SocketAddressMessage { address, port_value: socket.port().into() };
    Some(AddressMessage { socket_address: Some(socket_address) })
}

/// A certificate in PEM, percent-encoded.
pub(super) fn encoded(client: &ClientCertFacts) -> String {
    const LINE: usize = 64;
    let base64 = BASE64.encode(&client.der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(LINE) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    // In a form, a space is a plus.
    form::encode(pem.as_bytes()).replace('+', "%20")
}

/// Whom the client's certificate names: its first URI, its first DNS name, or its subject.
fn principal(tls: &TlsFacts) -> Option<String> {
    let client = tls.client.as_deref()?;
    let name = client.uris.first().or_else(|| client.names.first());
    Some(name.unwrap_or(&client.subject).to_string())
}
