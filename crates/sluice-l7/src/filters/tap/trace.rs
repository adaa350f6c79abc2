//! The traces of requests, in Envoy's form.
//!
//! Owns: the messages of `envoy.data.tap.v3` about HTTP, and the parts that they are made of. Refuses to know: what is recorded. Keeps: what concerns this process alone
//! is not told.

use std::time::Duration;

use sluice_codec::{Head, Known, Version};
use sluice_core::connection::Peer;
use sluice_l4::tap::{TraceField, TraceValue, address_pair, body_of, message};

use super::settings::Tap;
use crate::filters::Cx;

/// The parts of a message that have passed.
#[derive(Debug, Default)]
pub(super) struct RecordedMessage {
    pub(super) headers: Option<TraceValue>,
    pub(super) at: Option<Duration>,
    pub(super) body: Option<(Vec<u8>, bool)>,
    pub(super) trailers: Option<TraceValue>,
}

/// A field of a piece: its number and its name.
pub(super) type PieceField = (u32, &'static str);

/// Headers, body and trailers of a request in a trace that is written in pieces.
pub(super) const OF_REQUEST: [PieceField; 3] =
    [(2, "request_headers"), (3, "request_body_chunk"), (4, "request_trailers")];

/// The same of a response.
pub(super) const OF_RESPONSE: [PieceField; 3] =
    [(5, "response_headers"), (6, "response_body_chunk"), (7, "response_trailers")];

pub(super) fn request_headers(head: &Head) -> TraceValue {
    let own = [
        (":authority", head.authority()),
        (":path", head.path()),
        (":method", head.method_text()),
        (":scheme", head.scheme()),
    ];
    with_own(&own, head)
}

pub(super) fn response_headers(head: &Head) -> TraceValue {
    with_own(&[(":status", &head.status().to_string())], head)
}

/// Trailers.
pub(super) fn fields(head: &Head) -> TraceValue {
    with_own(&[], head)
}

fn with_own(own: &[(&str, &str)], head: &Head) -> TraceValue {
    let own = own.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let fields = head.fields().filter(|(name, _)| Known::of(name) != Some(Known::XSluiceHops));
    let header = |(name, value): (&[u8], &[u8])| {
        message([
            (1, "key", TraceValue::Text(name.to_ascii_lowercase())),
            (2, "value", TraceValue::Text(value.to_vec())),
            (3, "raw_value", TraceValue::Text(Vec::new())),
        ])
    };
    TraceValue::List(own.chain(fields).map(header).collect())
}

/// Headers or trailers as the message that a piece has.
pub(super) fn list_of(fields: TraceValue) -> TraceValue {
    message([(1, "headers", fields)])
}

/// A piece of a trace.
pub(super) fn segment(id: u64, (number, name): PieceField, value: TraceValue) -> TraceValue {
    let id = TraceField { number: 1, name: "trace_id", value: TraceValue::Long(id) };
    let segment = TraceValue::Message(vec![id, TraceField { number, name, value }]);
    message([(2, "http_streamed_trace_segment", segment)])
}

/// A whole trace.
pub(super) fn buffered(
    settings: &Tap,
    request: &mut RecordedMessage,
    response: &mut RecordedMessage,
    cx: &Cx<'_>,
) -> TraceValue {
    let mut fields = Vec::new();
    let mut add = |number, name, value| fields.push(TraceField { number, name, value });
    add(1, "request", whole(settings, request));
    if response.at.is_some() {
        add(2, "response", whole(settings, response));
    }
    if settings.client_connection {
        let datagrams = cx.summary.version == Version::Http3;
        let ends = address_pair(Some(cx.conn.local()), Some(cx.summary.source), datagrams);
        add(3, "downstream_connection", ends);
    }
    if settings.endpoint_connection {
        let reached = cx.summary.attempts.iter().rev().find(|attempt| attempt.failure.is_none());
        let remote = reached.and_then(|attempt| attempt.endpoint.parse().ok()).map(Peer::Ip);
        let datagrams = cx.summary.upstream_version == Some(Version::Http3);
        add(4, "upstream_connection", address_pair(None, remote, datagrams));
    }
    message([(1, "http_buffered_trace", TraceValue::Message(fields))])
}

fn whole(settings: &Tap, of: &mut RecordedMessage) -> TraceValue {
    let empty = || TraceValue::List(Vec::new());
    let mut fields = Vec::new();
    let mut add = |number, name, value| fields.push(TraceField { number, name, value });
    add(1, "headers", of.headers.take().unwrap_or_else(empty));
    if let Some((bytes, truncated)) = of.body.take() {
        add(2, "body", body_of(bytes, truncated));
    }
    add(3, "trailers", of.trailers.take().unwrap_or_else(empty));
    if let Some(at) = of.at.filter(|_| settings.times) {
        add(4, "headers_received_time", TraceValue::Time(at));
    }
    TraceValue::Message(fields)
}
