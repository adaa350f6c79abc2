//! Traces that taps have written.
//!
//! Owns: what of a trace is observed. Refuses to know: which proxy wrote it. Keeps: numbers, times and ports, which differ each
//! time, are not; the pieces of a trace are, in order.

use serde_json::Value;

use crate::compare::Seen;

/// Notes what is in a file.
pub(crate) fn note(key: &str, name: &str, trace: &[Value], seen: &mut Seen) {
    seen.note(format!("{key} file"), name);
    for (number, piece) in (1..).zip(trace) {
        let key = format!("{key} piece {number}");
        let Some((kind, inner)) = piece.as_object().and_then(|piece| piece.iter().next()) else {
            return seen.note(key, piece);
        };
        seen.note(format!("{key} kind"), kind);
        note_fields(&key, inner, seen);
    }
}

/// Notes the fields of a message, but for those that differ each time.
fn note_fields(key: &str, value: &Value, seen: &mut Seen) {
    let Some(fields) = value.as_object() else { return seen.note(key.to_owned(), value) };
    for (name, value) in fields {
        let key = format!("{key} {name}");
        match (name.as_str(), value) {
            ("trace_id", _) => {}
            ("headers_received_time", time) => {
                seen.note(key, time.as_str().is_some_and(|time| time.ends_with('Z')));
            }
            ("local_address" | "remote_address", end) => {
                seen.note(key, &end["socket_address"]["address"]);
            }
            ("headers" | "trailers", Value::Array(headers)) => seen.traced_headers(&key, headers),
            ("events", Value::Array(events)) => note_events(&key, events, seen),
            (_, Value::Object(_)) => note_fields(&key, value, seen),
            _ => seen.note(key, value),
        }
    }
}

/// Notes what passed in each direction: in which pieces is a matter of chance.
fn note_events(key: &str, events: &[Value], seen: &mut Seen) {
    for direction in ["read", "write"] {
        let data =
            events.iter().map(|event| &event[direction]["data"]).filter(|data| !data.is_null());
        let text: String = data.clone().filter_map(|data| data["as_string"].as_str()).collect();
        seen.note(format!("{key} {direction}"), text);
        let truncated = data.filter(|data| data["truncated"] == true).count();
        seen.note(format!("{key} {direction} truncated"), truncated);
    }
    let timed = events.iter().all(|event| event["timestamp"].is_string());
    seen.note(format!("{key} timed"), timed);
}
