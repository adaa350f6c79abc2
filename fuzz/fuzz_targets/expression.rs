//! Expressions: no text panics, overflows the stack or takes long; what is accepted can be evaluated.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sluice_expr::{
    AttributeDef, AttributeSource, AttributeUse, AttributeValue, Expression, ExpressionTable,
    noting_tables,
};

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

/// A table with an entry for each short key: itself.
struct Short;

impl ExpressionTable for Short {
    fn get(&self, key: &str) -> Option<String> {
        (key.len() < 4).then(|| key.to_owned())
    }
}

fuzz_target!(|input: (&str, &str)| {
    let (text, value) = input;
    let (parsed, tables) = noting_tables(|| Expression::parse(text, KNOWN));
    tables.iter().for_each(|table| table.supply(Arc::new(Short)));
    if let Ok(expression) = parsed {
        assert_eq!(expression.source(), text);
        let first = expression.is_true(&Sample(value));
        assert_eq!(first, expression.is_true(&Sample(value)));
    }
});
