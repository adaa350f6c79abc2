//! What a service is sent: the parts of messages in Envoy's form.
//!
//! Owns: the form. Refuses to know: when a part is sent. Keeps: what concerns this process alone is not told.

use bytes::Bytes;
use sluice_codec::{Head, Known};

use super::messages::{HeaderMapMessage, HttpBody, HttpHeaders, HttpTrailers, RequestPart};
use super::parts::MessageSide;
use super::settings::ProcSettings;
use crate::filters::ext_authz::messages::HeaderValueMessage;
use crate::words::HeaderName;

/// The headers of a message; `ends` if it has nothing else.
pub(super) fn headers(
    settings: &ProcSettings,
    side: MessageSide,
    head: &Head,
    ends: bool,
) -> RequestPart {
    let status = head.status().to_string();
    let own: &[(&str, &str)] = match side {
        MessageSide::Request => &[
            (":method", head.method_text()),
            (":scheme", head.scheme()),
            (":authority", head.authority()),
            (":path", head.path()),
        ],
        MessageSide::Response => &[(":status", &status)],
    };
    let own = own.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let headers = Some(map(settings, own.chain(head.fields())));
    let message = HttpHeaders { headers, end_of_stream: ends };
    match side {
        MessageSide::Request => RequestPart::RequestHeaders(message),
        MessageSide::Response => RequestPart::ResponseHeaders(message),
    }
}

/// A body or a piece of it; `ends` if nothing follows.
pub(super) const fn body(side: MessageSide, body: Bytes, ends: bool) -> RequestPart {
    let message = HttpBody { body, end_of_stream: ends };
    match side {
        MessageSide::Request => RequestPart::RequestBody(message),
        MessageSide::Response => RequestPart::ResponseBody(message),
    }
}

/// Trailers.
pub(super) fn trailers(settings: &ProcSettings, side: MessageSide, head: &Head) -> RequestPart {
    let message = HttpTrailers { trailers: Some(map(settings, head.fields())) };
    match side {
        MessageSide::Request => RequestPart::RequestTrailers(message),
        MessageSide::Response => RequestPart::ResponseTrailers(message),
    }
}

fn map<'a>(
    settings: &ProcSettings,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> HeaderMapMessage {
    let has = |names: &[HeaderName], name: &str| names.iter().any(|one| one.0 == name);
    let headers = fields.filter_map(|(name, value)| {
        if Known::of(name) == Some(Known::XSluiceHops) {
            return None;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        // What HTTP/2 sends as such says what the message is.
        let wanted = settings.headers.as_ref().is_none_or(|names| has(names, &name));
        let sent = wanted && !has(&settings.except_headers, &name);
        (sent || name.starts_with(':')).then(|| HeaderValueMessage {
            key: name,
            value: String::new(),
            raw_value: Bytes::copy_from_slice(value),
        })
    });
    HeaderMapMessage { headers: headers.collect() }
}
