//! The forms of traces, and those that are text.
//!
//! Owns: JSON as Envoy writes it, and the text format of protocol buffers. Refuses to know: what a trace is about. Keeps: every
//! trace is valid in its form, whatever bytes a client sent.

use std::fmt::Write as _;
use std::time::Duration;

use sluice_core::clock::rfc3339;

use super::proto;
use super::trace::{TraceField, TraceValue};

sluice_core::choice! {
    /// The form of traces.
    pub enum TapFormat {
        /// JSON; bodies as text, of which bytes that are no UTF-8 are replaced.
        JsonText = "json_text",
        /// JSON; bodies in base64.
        JsonBytes = "json_bytes",
        /// A message of protocol buffers (`envoy.data.tap.v3.TraceWrapper`).
        Proto = "proto",
        /// Such messages, each with its length before it.
        ProtoDelimited = "proto_delimited",
        /// The text format of protocol buffers.
        ProtoText = "proto_text",
    }
}

impl TapFormat {
    /// The extension of a file, as in Envoy.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::JsonText | Self::JsonBytes => "json",
            Self::Proto => "pb",
            Self::ProtoDelimited => "pb_length_delimited",
            Self::ProtoText => "pb_text",
        }
    }

    /// Appends a trace.
    pub fn write(self, trace: &TraceValue, out: &mut Vec<u8>) {
        let mut text = String::new();
        match self {
            Self::JsonText | Self::JsonBytes => {
                json(trace, self == Self::JsonText, 1, &mut text);
                text.push('\n');
            }
            Self::ProtoText => fields_as_text(trace, 0, &mut text),
            Self::Proto => proto::write(trace, out),
            Self::ProtoDelimited => {
                let mut one = Vec::new();
                proto::write(trace, &mut one);
                proto::varint(one.len() as u64, out);
                out.append(&mut one);
            }
        }
        out.extend_from_slice(text.as_bytes());
    }
}

fn json(value: &TraceValue, bodies_as_text: bool, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth));
    };
    match value {
        TraceValue::Message(fields) if fields.is_empty() => out.push_str("{}"),
        TraceValue::List(items) if items.is_empty() => out.push_str("[]"),
        TraceValue::Message(fields) => {
            for (index, TraceField { name, value, .. }) in fields.iter().enumerate() {
                out.push(if index == 0 { '{' } else { ',' });
                line(depth, out);
                let _ = write!(out, "\"{name}\": ");
                json(value, bodies_as_text, depth + 1, out);
            }
            line(depth - 1, out);
            out.push('}');
        }
        TraceValue::List(items) => {
            for (index, item) in items.iter().enumerate() {
                out.push(if index == 0 { '[' } else { ',' });
                line(depth, out);
                json(item, bodies_as_text, depth + 1, out);
            }
            line(depth - 1, out);
            out.push(']');
        }
        TraceValue::Body(bytes, truncated) => {
            let (name, text) = match bodies_as_text {
                true => ("as_string", String::from_utf8_lossy(bytes).into_owned()),
                false => ("as_bytes", base64(bytes)),
            };
            out.push('{');
            line(depth, out);
            let _ = write!(out, "\"{name}\": ");
            quoted_json(&text, out);
            out.push(',');
            line(depth, out);
            let _ = write!(out, "\"truncated\": {truncated}");
            line(depth - 1, out);
            out.push('}');
        }
        TraceValue::Text(bytes) => quoted_json(&String::from_utf8_lossy(bytes), out),
        TraceValue::Bool(value) => {
            let _ = write!(out, "{value}");
        }
        TraceValue::Long(number) => {
            let _ = write!(out, "\"{number}\"");
        }
        TraceValue::Number(number) => {
            let _ = write!(out, "{number}");
        }
        TraceValue::Word(word, _) => quoted_json(word, out),
        TraceValue::Time(time) => quoted_json(&micros(*time), out),
    }
}

/// A time with its microseconds, as Envoy writes it.
fn micros(time: Duration) -> String {
    let whole = rfc3339(time);
    let seconds = whole.split('.').next().unwrap_or_default();
    format!("{seconds}.{:06}Z", time.subsec_micros())
}

fn quoted_json(text: &str, out: &mut String) {
    out.push('"');
    for one in text.chars() {
        match one {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            // What is markup stays harmless in a page.
            '<' | '>' | '\u{0}'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(one));
            }
            _ => out.push(one),
        }
    }
    out.push('"');
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let of = (bits >> (18 - 6 * digit)) & 63;
            out.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[of as usize]) });
        }
    }
    out
}

fn fields_as_text(value: &TraceValue, depth: usize, out: &mut String) {
    let TraceValue::Message(fields) = value else { return };
    for TraceField { name, value, .. } in fields {
        let items = match value {
            TraceValue::List(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        items.iter().for_each(|item| field_as_text(name, item, depth, out));
    }
}

fn field_as_text(name: &str, value: &TraceValue, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        TraceValue::Message(_) => {
            _ = writeln!(out, "{indent}{name} {{");
            fields_as_text(value, depth + 1, out);
            _ = writeln!(out, "{indent}}}");
        }
        TraceValue::Body(bytes, truncated) => {
            _ = writeln!(out, "{indent}{name} {{\n{indent}  as_bytes: \"{}\"", escaped(bytes));
            if *truncated {
                _ = writeln!(out, "{indent}  truncated: true");
            }
            _ = writeln!(out, "{indent}}}");
        }
        TraceValue::Time(time) => {
            _ = writeln!(out, "{indent}{name} {{\n{indent}  seconds: {}", time.as_secs());
            if time.subsec_nanos() > 0 {
                _ = writeln!(out, "{indent}  nanos: {}", time.subsec_nanos());
            }
            _ = writeln!(out, "{indent}}}");
        }
        TraceValue::Text(bytes) if !bytes.is_empty() => {
            _ = writeln!(out, "{indent}{name}: \"{}\"", escaped(bytes));
        }
        TraceValue::Bool(true) => _ = writeln!(out, "{indent}{name}: true"),
        TraceValue::Long(number @ 1..) => _ = writeln!(out, "{indent}{name}: {number}"),
        TraceValue::Number(number @ 1..) => _ = writeln!(out, "{indent}{name}: {number}"),
        TraceValue::Word(word, 1..) => _ = writeln!(out, "{indent}{name}: {word}"),
        _ => {}
    }
}

/// Bytes in the notation of C.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\'' => out.push_str("\\'"),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => {
                let _ = write!(out, "\\{byte:03o}");
            }
        }
    }
    out
}
