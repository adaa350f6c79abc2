//! What is configured for a library: a text, or what becomes one.
//!
//! Owns: the text that maps and lists become. Refuses to know: what a library makes of it. Keeps: a text is passed on as it is
//! written.

use serde_json::{Map, Number, Value as Json};
use sluice_core::settings::{Path, Plain, Setting, Shape};
use sluice_core::{Diags, Node, Value};

/// What a filter of a library is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleText(pub String);

impl Setting for ModuleText {
    fn bind(node: &Node, _: &Path<'_>, _: &mut Diags) -> Option<Self> {
        match (&node.value, node.text()) {
            (Value::Null, _) => Some(Self(String::new())),
            (_, Some(text)) => Some(Self(text.to_owned())),
            _ => Some(Self(json(node).to_string())),
        }
    }

    fn shape() -> Shape {
        Shape::Any
    }

    fn show(&self) -> Plain {
        Plain::Text(self.0.clone())
    }
}

/// A value as it is written: numbers, true and false are what they are without quotes.
fn json(node: &Node) -> Json {
    match (&node.value, node.entries(), node.text()) {
        (Value::List(items), ..) => Json::Array(items.iter().map(json).collect()),
        (_, Some(entries), _) => {
            let entries = entries.iter().map(|entry| (entry.key.to_string(), json(&entry.node)));
            Json::Object(entries.collect::<Map<_, _>>())
        }
        (Value::Scalar { quoted: false, .. }, _, Some(text)) => plain(text),
        (_, _, Some(text)) => Json::String(text.to_owned()),
        (..) => Json::Null,
    }
}

fn plain(text: &str) -> Json {
    let whole = || text.parse::<i64>().ok().map(Number::from);
    let positive = || text.parse::<u64>().ok().map(Number::from);
    let number = || whole().or_else(positive).or_else(|| Number::from_f64(text.parse().ok()?));
    match text {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        text => number().map_or_else(|| Json::String(text.to_owned()), Json::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_without_quotes_are_what_they_look_like() {
        for (text, json) in [
            ("true", "true"),
            ("5", "5"),
            ("-5", "-5"),
            ("18446744073709551615", "18446744073709551615"),
            ("0.5", "0.5"),
            ("gold", "\"gold\""),
            ("NaN", "\"NaN\""),
        ] {
            assert_eq!(plain(text).to_string(), json);
        }
    }
}
