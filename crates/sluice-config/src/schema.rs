//! The configuration as a JSON Schema (draft 2020-12), for editors.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_core::settings::{FieldShape, SectionShape};
use sluice_core::{Setting as _, Shape};
use sluice_model::Config;

/// The schema.
pub fn schema() -> Value {
    let mut sections = BTreeMap::new();
    let root = of(&Config::shape(), &mut sections);
    sections.insert(PLACEHOLDER, placeholder());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sluice configuration",
        "$ref": root["$ref"],
        "$defs": sections,
    })
}

fn of(shape: &Shape, sections: &mut BTreeMap<&'static str, Value>) -> Value {
    // Text may be written as a number where YAML reads it as one.
    match shape {
        Shape::Text { what, example } => or_placeholder(
            json!({ "type": ["string", "integer"], "description": what, "examples": [example] }),
        ),
        Shape::Secret => {
            or_placeholder(json!({ "type": ["string", "integer"], "description": "a secret" }))
        }
        Shape::Bool => or_placeholder(json!({ "type": "boolean" })),
        Shape::Count { min, max } => {
            or_placeholder(json!({ "type": "integer", "minimum": min, "maximum": max }))
        }
        Shape::Choice(words) => {
            let options =
                words.iter().map(|(word, doc)| json!({ "const": word, "description": doc.trim() }));
            or_placeholder(json!({ "oneOf": options.collect::<Vec<_>>() }))
        }
        Shape::Section(section) => section_ref(&section(), sections),
        Shape::OneOrMany(item) => {
            let item = of(item, sections);
            json!({ "anyOf": [item, { "type": "array", "items": item }] })
        }
        Shape::Named(item) => {
            json!({ "type": "object", "additionalProperties": of(item, sections) })
        }
        Shape::OrNone(item) => json!({ "anyOf": [{ "const": "none" }, of(item, sections)] }),
        Shape::Either(shapes) => {
            json!({ "anyOf": shapes.iter().map(|shape| of(shape, sections)).collect::<Vec<_>>() })
        }
        Shape::Empty => {
            json!({ "anyOf": [{ "const": true }, { "type": "object", "maxProperties": 0 }] })
        }
        Shape::Tagged(fields) => {
            json!({ "type": "object", "properties": properties(fields, sections), "additionalProperties": false, "maxProperties": 1 })
        }
        Shape::Fields(fields) => {
            json!({ "type": "object", "properties": properties(fields, sections), "additionalProperties": false })
        }
        Shape::Any => json!({}),
    }
}

/// A single value, or a placeholder in its place.
fn or_placeholder(value: Value) -> Value {
    json!({ "anyOf": [value, { "$ref": format!("#/$defs/{PLACEHOLDER}") }] })
}

const PLACEHOLDER: &str = "Placeholder";

/// A placeholder for a value from outside the configuration.
fn placeholder() -> Value {
    let map = |key: &str| json!({ "type": "object", "properties": { key: { "type": "string" } }, "required": [key], "additionalProperties": false });
    json!({
        "description": "A value from an environment variable or a file.",
        "anyOf": [{ "type": "string", "pattern": "\\$\\{" }, map("env"), map("file")],
    })
}

fn section_ref(section: &SectionShape, sections: &mut BTreeMap<&'static str, Value>) -> Value {
    if !sections.contains_key(section.name) {
        // Inserted first, since sections may contain themselves.
        sections.insert(section.name, Value::Null);
        let required: Vec<&str> =
            section.fields.iter().filter(|f| f.required).map(|f| f.key).collect();
        let mut value = json!({
            "type": "object",
            "description": section.doc,
            "properties": properties(&section.fields, sections),
            "additionalProperties": false,
        });
        if !required.is_empty() {
            value["required"] = required.into();
        }
        sections.insert(section.name, value);
    }
    json!({ "$ref": format!("#/$defs/{}", section.name) })
}

/// Whether `true` stands for a section with nothing but defaults.
fn has_defaults(shape: &Shape) -> bool {
    match shape {
        Shape::Section(section) => section().fields.iter().all(|field| !field.required),
        Shape::OrNone(inner) => has_defaults(inner),
        _ => false,
    }
}

fn properties(fields: &[FieldShape], sections: &mut BTreeMap<&'static str, Value>) -> Value {
    let mut properties = serde_json::Map::new();
    for field in fields {
        let mut value = of(&field.shape, sections);
        if has_defaults(&field.shape) {
            value = json!({ "anyOf": [value, { "const": true }] });
        }
        if let Value::Object(value) = &mut value {
            value.insert("description".into(), field.doc.as_str().into());
            if let Some(default) = field.default {
                value.insert("default".into(), default.into());
            }
        }
        properties.insert(field.key.into(), value);
    }
    Value::Object(properties)
}
