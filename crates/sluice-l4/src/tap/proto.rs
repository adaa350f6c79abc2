//! Traces as messages of protocol buffers.
//!
//! Owns: the encoding. Refuses to know: what a trace is about. Keeps: fields with the value that they have by default are left out,
//! but for bodies.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use super::trace::{TraceField, TraceValue};

const VARINT: u32 = 0;
const LENGTH: u32 = 2;

/// Appends a message.
pub(super) fn write(value: &TraceValue, out: &mut Vec<u8>) {
    let TraceValue::Message(fields) = value else { return };
    for TraceField { number, value, .. } in fields {
        match value {
            TraceValue::List(items) => items.iter().for_each(|item| field(*number, item, out)),
            one => field(*number, one, out),
        }
    }
}

/// Appends a number.
pub(super) fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(low_bits(number) | 0x80);
        number >>= 7;
    }
    out.push(low_bits(number));
}

fn field(number: u32, value: &TraceValue, out: &mut Vec<u8>) {
    match value {
        TraceValue::Message(_) => {
            let mut inner = Vec::new();
            write(value, &mut inner);
            bytes(number, &inner, out);
        }
        TraceValue::Body(body, truncated) => {
            let mut inner = Vec::new();
            bytes(1, body, &mut inner);
            small(3, u64::from(*truncated), &mut inner);
            bytes(number, &inner, out);
        }
        TraceValue::Time(time) => {
            let mut inner = Vec::new();
            small(1, time.as_secs(), &mut inner);
            small(2, time.subsec_nanos().into(), &mut inner);
            bytes(number, &inner, out);
        }
        TraceValue::Text(text) if text.is_empty() => {}
        TraceValue::Text(text) => bytes(number, text, out),
        TraceValue::Bool(value) => small(number, u64::from(*value), out),
        TraceValue::Long(value) => small(number, *value, out),
        TraceValue::Number(value) => small(number, (*value).into(), out),
        TraceValue::Word(_, value) => small(number, (*value).into(), out),
        TraceValue::List(_) => {}
    }
}

fn small(number: u32, value: u64, out: &mut Vec<u8>) {
    if value > 0 {
        varint((number << 3 | VARINT).into(), out);
        varint(value, out);
    }
}

fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    varint((number << 3 | LENGTH).into(), out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

const fn low_bits(number: u64) -> u8 {
    number.to_le_bytes()[0] & 0x7f
}
