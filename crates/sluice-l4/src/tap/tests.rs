//! The forms of traces.

use std::time::Duration;

use super::*;

fn trace() -> TraceValue {
    let header = message([
        (1, "key", TraceValue::Text(b"x-a".to_vec())),
        (2, "value", TraceValue::Text(b"\"\xff<\n".to_vec())),
        (3, "raw_value", TraceValue::Text(Vec::new())),
    ]);
    message([
        (1, "headers", TraceValue::List(vec![header])),
        (2, "body", body_of(b"ab\x00\xc3".to_vec(), true)),
        (3, "trailers", TraceValue::List(Vec::new())),
        (4, "at", TraceValue::Time(Duration::new(1, 5_000))),
        (5, "id", TraceValue::Long(300)),
        (6, "none", message([])),
    ])
}

fn written(format: TapFormat) -> Vec<u8> {
    let mut out = Vec::new();
    format.write(&trace(), &mut out);
    out
}

#[test]
fn json_is_as_envoy_writes_it() {
    let text = String::from_utf8(written(TapFormat::JsonBytes)).unwrap();
    let expected = concat!(
        "{\n \"headers\": [\n  {\n   \"key\": \"x-a\",\n   \"value\": \"\\\"\u{fffd}\\u003c\\n\",\n   \"raw_value\": \"\"\n  }\n ],\n",
        " \"body\": {\n  \"as_bytes\": \"YWIAww==\",\n  \"truncated\": true\n },\n \"trailers\": [],\n",
        " \"at\": \"1970-01-01T00:00:01.000005Z\",\n \"id\": \"300\",\n \"none\": {}\n}\n",
    );
    assert_eq!(text, expected);
    let text = String::from_utf8(written(TapFormat::JsonText)).unwrap();
    assert!(text.contains("\"as_string\": \"ab\\u0000\u{fffd}\""), "{text}");
}

#[test]
fn text_has_no_defaults() {
    let text = String::from_utf8(written(TapFormat::ProtoText)).unwrap();
    let expected = concat!(
        "headers {\n  key: \"x-a\"\n  value: \"\\\"\\377<\\n\"\n}\n",
        "body {\n  as_bytes: \"ab\\000\\303\"\n  truncated: true\n}\n",
        "at {\n  seconds: 1\n  nanos: 5000\n}\nid: 300\nnone {\n}\n",
    );
    assert_eq!(text, expected);
}

#[test]
fn messages_are_encoded() {
    let expected = [
        &[0x0a, 11, 0x0a, 3][..],
        b"x-a",
        &[0x12, 4],
        b"\"\xff<\n",
        &[0x12, 8, 0x0a, 4],
        b"ab\x00\xc3",
        &[0x18, 1],
        &[0x22, 5, 0x08, 1, 0x10, 0x88, 0x27],
        &[0x28, 0xac, 0x02],
        &[0x32, 0],
    ]
    .concat();
    assert_eq!(written(TapFormat::Proto), expected);
    let delimited = written(TapFormat::ProtoDelimited);
    assert_eq!(usize::from(delimited[0]), expected.len());
    assert_eq!(delimited[1..], expected);
}
