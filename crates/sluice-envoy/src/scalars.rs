//! Single values of protobuf's JSON form.
//!
//! Owns: how numbers, truth values, durations, enums and bytes are written. Refuses to know: fields, places.
//! Keeps: it takes what Envoy takes: numbers and truth values in quotes, enums in any case, both alphabets of base64.

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD};
use prost_reflect::{EnumDescriptor, Kind};
use sluice_core::suggest::nearest;
use std::sync::Arc;

use crate::message::{ProtoDuration, ProtoValue};

/// What is wrong with a value, and what to do about it.
pub(crate) type ScalarError = (String, Option<String>);

fn wrong(message: impl Into<String>) -> ScalarError {
    (message.into(), None)
}

/// Reads a single value; `quoted` tells `"5"` from `5`.
///
/// # Errors
/// What was expected.
pub(crate) fn scalar(text: &str, quoted: bool, kind: &Kind) -> Result<ProtoValue, ScalarError> {
    match kind {
        Kind::Bool => match text {
            "true" => Ok(ProtoValue::Bool(true)),
            "false" => Ok(ProtoValue::Bool(false)),
            _ => Err(wrong(format!("expected true or false, not `{text}`"))),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            whole(text, i32::MIN.into(), i32::MAX.into())
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            whole(text, i64::MIN.into(), i64::MAX.into())
        }
        Kind::Uint32 | Kind::Fixed32 => whole(text, 0, u32::MAX.into()),
        Kind::Uint64 | Kind::Fixed64 => whole(text, 0, u64::MAX.into()),
        Kind::Float | Kind::Double => float(text),
        Kind::String if quoted || !is_typed(text) => Ok(ProtoValue::Text(text.into())),
        Kind::String => Err((
            format!("expected text, not `{text}`"),
            Some(format!("write it in quotes: \"{text}\"")),
        )),
        Kind::Bytes => bytes(text),
        Kind::Enum(descriptor) => word(text, descriptor),
        Kind::Message(_) => Err(wrong("expected a map, not a single value")),
    }
}

/// Whether YAML takes a plain scalar for a number or a truth value.
fn is_typed(text: &str) -> bool {
    let number = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && text.bytes().any(|b| b.is_ascii_digit());
    matches!(text, "true" | "false") || (number && text.parse::<f64>().is_ok())
}

fn whole(text: &str, min: i128, max: i128) -> Result<ProtoValue, ScalarError> {
    let value = text.parse::<i128>().ok().or_else(|| {
        // `1e3` and `5.0` are whole numbers too.
        let float = text.parse::<f64>().ok().filter(|_| is_typed(text))?;
        #[allow(clippy::cast_possible_truncation, reason = "whole, and far from the bounds")]
        let value = float as i128;
        (float.fract() == 0.0 && float.abs() < 9e15).then_some(value)
    });
    match value {
        None => Err(wrong(format!("expected a whole number, not `{text}`"))),
        Some(value) if (min..=max).contains(&value) => Ok(ProtoValue::Int(value)),
        Some(_) => Err(wrong(format!("`{text}` is not from {min} to {max}"))),
    }
}

fn float(text: &str) -> Result<ProtoValue, ScalarError> {
    match text {
        "NaN" => Ok(ProtoValue::Float(f64::NAN)),
        "Infinity" => Ok(ProtoValue::Float(f64::INFINITY)),
        "-Infinity" => Ok(ProtoValue::Float(f64::NEG_INFINITY)),
        _ => match text.parse::<f64>() {
            Ok(value) if value.is_finite() && is_typed(text) => Ok(ProtoValue::Float(value)),
            _ => Err(wrong(format!("expected a number, not `{text}`"))),
        },
    }
}

fn bytes(text: &str) -> Result<ProtoValue, ScalarError> {
    let decoders = [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD];
    let decoded = decoders.iter().find_map(|alphabet| alphabet.decode(text.as_bytes()).ok());
    match decoded {
        Some(bytes) => Ok(ProtoValue::Bytes(bytes.into())),
        None => Err(wrong("expected bytes in base64")),
    }
}

fn word(text: &str, descriptor: &EnumDescriptor) -> Result<ProtoValue, ScalarError> {
    let named = |value: prost_reflect::EnumValueDescriptor| {
        ProtoValue::Enum(value.number(), Some(Arc::from(value.name())))
    };
    if let Ok(number) = text.parse::<i32>() {
        let known = descriptor.get_value(number).map(named);
        return Ok(known.unwrap_or(ProtoValue::Enum(number, None)));
    }
    let mut values = descriptor.values();
    if let Some(value) = values.find(|value| value.name().eq_ignore_ascii_case(text)) {
        return Ok(named(value));
    }
    let names: Vec<String> = descriptor.values().map(|value| value.name().to_owned()).collect();
    let help = match nearest(&text.to_ascii_uppercase(), names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("write one of {}", names.join(", ")),
    };
    Err((format!("`{text}` is not a value of {}", descriptor.full_name()), Some(help)))
}

/// The largest number of seconds in a duration of protobuf.
const SECONDS_MAX: i64 = 315_576_000_000;

/// Reads `0.25s`.
///
/// # Errors
/// What was expected.
pub(crate) fn duration(text: &str) -> Result<ProtoDuration, ScalarError> {
    let expected = || (format!("expected a duration such as 0.25s, not `{text}`"), None);
    let number = text.strip_suffix('s').ok_or_else(expected)?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return Err(expected());
    }
    let seconds: i64 = seconds.parse().map_err(|_| expected())?;
    let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| expected())?;
    let found = checked(seconds, nanos)?;
    Ok(if negative { ProtoDuration(-found.0) } else { found })
}

/// A duration from its parts.
///
/// # Errors
/// It is beyond what protobuf can say.
pub(crate) fn checked(seconds: i64, nanos: i32) -> Result<ProtoDuration, ScalarError> {
    let fits = seconds.unsigned_abs() <= SECONDS_MAX.unsigned_abs()
        && nanos.unsigned_abs() < 1_000_000_000
        && (seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0));
    if fits {
        Ok(ProtoDuration::new(seconds, nanos))
    } else {
        Err(wrong(format!(
            "a duration is at most {SECONDS_MAX} seconds, with nanos of the same sign"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers() {
        let read = |text| match scalar(text, false, &Kind::Uint32) {
            Ok(ProtoValue::Int(value)) => Some(value),
            _ => None,
        };
        for (text, value) in [("5", 5), ("1e3", 1000), ("5.0", 5), ("4294967295", 4_294_967_295)] {
            assert_eq!(read(text), Some(value), "{text}");
        }
        for text in ["-1", "4294967296", "5.5", "", "0x10", "five", "1e99", "NaN", "inf"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        let read = |text| duration(text).ok().map(|found| found.0);
        for (text, value) in [
            ("0s", 0),
            ("0.25s", 250_000_000),
            ("1.000000001s", 1_000_000_001),
            ("-2s", -2_000_000_000),
            ("315576000000s", 315_576_000_000_000_000_000),
        ] {
            assert_eq!(read(text), Some(value), "{text}");
        }
        for text in
            ["", "s", "5", "5m", ".5s", "1.0000000001s", "+1s", "1 s", "315576000001s", "--1s"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_in_both_alphabets_with_and_without_padding() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            let Ok(ProtoValue::Bytes(bytes)) = scalar(text, true, &Kind::Bytes) else {
                panic!("{text}")
            };
            assert_eq!(&*bytes, [0xfb, 0xff], "{text}");
        }
        assert!(scalar("+_8=", true, &Kind::Bytes).is_err());
        assert!(scalar("a", true, &Kind::Bytes).is_err());
    }

    #[test]
    fn text_that_yaml_takes_for_something_else_must_be_quoted() {
        for text in ["5", "1.5", "true", "-1", "1e3"] {
            assert!(scalar(text, false, &Kind::String).is_err(), "{text}");
            assert!(scalar(text, true, &Kind::String).is_ok(), "{text}");
        }
        for text in ["1.2.3.4", "5s", "-", "e", "1-2", "yes"] {
            assert!(scalar(text, false, &Kind::String).is_ok(), "{text}");
        }
    }
}
