//! What scripts see of their settings.
//!
//! Owns: values of the configuration, and how they are written. Refuses to know: scripts. Keeps: a value is what it looks
//! like: numbers, true and false without quotes, and texts.

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use sluice_core::settings::{Plain, wrong_kind};
use sluice_core::{Diags, Node, Path, Setting, Shape, Value};
use sluice_upstream::Cluster;

/// The settings that matter while a script runs.
#[derive(Debug)]
pub(crate) struct Exposed {
    /// The name of the script, for the log.
    pub(crate) name: String,
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) context: FreeValues,
    pub(crate) metadata: FreeValues,
    pub(crate) reroute: bool,
}

/// Values of any form, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FreeValues(pub(crate) Map<String, Json>);

impl Setting for FreeValues {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        match json(node) {
            Some(Json::Object(entries)) => Some(Self(entries)),
            _ => {
                wrong_kind(node, at, diags, "a map of values");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Any))
    }

    fn show(&self) -> Plain {
        plain(&Json::Object(self.0.clone()))
    }
}

/// A value as it is written: numbers, true and false are what they are without quotes.
fn json(node: &Node) -> Option<Json> {
    Some(match &node.value {
        Value::Null => Json::Null,
        Value::List(items) => Json::Array(items.iter().map(json).collect::<Option<_>>()?),
        Value::Scalar { text, quoted: false } => match &**text {
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            text => match text.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
                Some(number) => Json::Number(number),
                None => Json::String(text.to_owned()),
            },
        },
        _ => match (node.entries(), node.text()) {
            (Some(entries), _) => {
                let entry = |entry: &sluice_core::tree::MapEntry| {
                    Some((entry.key.to_string(), json(&entry.node)?))
                };
                Json::Object(entries.iter().map(entry).collect::<Option<_>>()?)
            }
            (None, text) => Json::String(text?.to_owned()),
        },
    })
}

fn plain(json: &Json) -> Plain {
    match json {
        Json::Null => Plain::Null,
        Json::Bool(value) => Plain::Bool(*value),
        Json::Number(number) => match number.as_u64() {
            Some(number) => Plain::Number(number),
            None => Plain::Text(number.to_string()),
        },
        Json::String(text) => Plain::Text(text.clone()),
        Json::Array(items) => Plain::List(items.iter().map(plain).collect()),
        Json::Object(entries) => {
            Plain::Map(entries.iter().map(|(key, value)| (key.clone(), plain(value))).collect())
        }
    }
}
