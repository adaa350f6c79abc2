//! Expressions: no text panics, overflows the stack or takes long; what is accepted can be evaluated.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_expr::{AttributeDef, AttributeSource, AttributeUse, AttributeValue, Expression};

const KNOWN: &[AttributeDef] = &[
    AttributeDef { root: "request", field: "path", is_map: false },
    AttributeDef { root: "request", field: "size", is_map: false },
    AttributeDef { root: "request", field: "headers", is_map: true },
    AttributeDef { root: "connection", field: "mtls", is_map: false },
    AttributeDef { root: "metadata", field: "*", is_map: false },
];

struct Sample<'a>(&'a str);

impl AttributeSource for Sample<'_> {
    fn attribute(&self, of: &AttributeUse) -> Option<AttributeValue> {
        match &*of.field {
            "path" => Some(AttributeValue::Text(self.0.to_owned())),
            "size" => Some(AttributeValue::Number(i64::MAX)),
            "headers" => Some(AttributeValue::Map(vec![("a".into(), self.0.to_owned())])),
            "mtls" => Some(AttributeValue::Bool(true)),
            _ => None,
        }
    }
}

fuzz_target!(|input: (&str, &str)| {
    let (text, value) = input;
    if let Ok(expression) = Expression::parse(text, KNOWN) {
        assert_eq!(expression.source(), text);
        let first = expression.is_true(&Sample(value));
        assert_eq!(first, expression.is_true(&Sample(value)));
    }
});
