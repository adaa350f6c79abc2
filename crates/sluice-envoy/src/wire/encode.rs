//! A message that was read, as bytes.
//!
//! Owns: how each value is encoded. Refuses to know: where it was read from. Keeps: what was written in a file arrives as it
//! is; a value that its field cannot have is left out.

use std::collections::HashMap;

use prost_reflect::prost::Message as _;
use prost_reflect::prost::bytes::Bytes;
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, Value as Wire};
use sluice_core::Node;

use crate::descriptors;
use crate::message::{ProtoMessage, ProtoValue};

/// Encodes a message.
pub fn encode(message: &ProtoMessage) -> Vec<u8> {
    dynamic(message).encode_to_vec()
}

fn dynamic(message: &ProtoMessage) -> DynamicMessage {
    let mut found = DynamicMessage::new(message.descriptor.clone());
    for field in &message.fields {
        let kind = field.descriptor.kind();
        let value = match &field.value {
            ProtoValue::List(items) => {
                Some(Wire::List(items.iter().filter_map(|item| one(&item.value, &kind)).collect()))
            }
            ProtoValue::Map(entries) => map(entries, &kind),
            value => one(value, &kind),
        };
        if let Some(value) = value {
            // A value of another type cannot come from the reader.
            let _ = found.try_set_field(&field.descriptor, value);
        }
    }
    found
}

fn map(entries: &[(std::sync::Arc<str>, crate::message::ProtoItem)], kind: &Kind) -> Option<Wire> {
    let entry = kind.as_message()?;
    let (key_kind, value_kind) =
        (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
    let mut found = HashMap::new();
    for (key, item) in entries {
        let key = match key_kind {
            Kind::String => MapKey::String(key.to_string()),
            Kind::Bool => MapKey::Bool(key.parse().ok()?),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(key.parse().ok()?),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(key.parse().ok()?),
            Kind::Uint32 | Kind::Fixed32 => MapKey::U32(key.parse().ok()?),
            _ => MapKey::U64(key.parse().ok()?),
        };
        found.insert(key, one(&item.value, &value_kind)?);
    }
    Some(Wire::Map(found))
}

fn one(value: &ProtoValue, kind: &Kind) -> Option<Wire> {
    if let Kind::Message(descriptor) = kind {
        return embedded(value, descriptor).map(Wire::Message);
    }
    Some(match (value, kind) {
        (ProtoValue::Bool(value), _) => Wire::Bool(*value),
        (ProtoValue::Text(text), _) => Wire::String(text.to_string()),
        (ProtoValue::Bytes(bytes), _) => Wire::Bytes(Bytes::copy_from_slice(bytes)),
        (ProtoValue::Enum(number, _), _) => Wire::EnumNumber(*number),
        #[allow(clippy::cast_possible_truncation, reason = "the reader has rounded it")]
        (ProtoValue::Float(value), Kind::Float) => Wire::F32(*value as f32),
        (ProtoValue::Float(value), _) => Wire::F64(*value),
        (ProtoValue::Int(value), Kind::Int32 | Kind::Sint32 | Kind::Sfixed32) => {
            Wire::I32(i32::try_from(*value).ok()?)
        }
        (ProtoValue::Int(value), Kind::Uint32 | Kind::Fixed32) => {
            Wire::U32(u32::try_from(*value).ok()?)
        }
        (ProtoValue::Int(value), Kind::Uint64 | Kind::Fixed64) => {
            Wire::U64(u64::try_from(*value).ok()?)
        }
        (ProtoValue::Int(value), _) => Wire::I64(i64::try_from(*value).ok()?),
        _ => return None,
    })
}

fn embedded(value: &ProtoValue, descriptor: &MessageDescriptor) -> Option<DynamicMessage> {
    let mut found = DynamicMessage::new(descriptor.clone());
    match (descriptor.full_name(), value) {
        ("google.protobuf.Any", ProtoValue::Message(inner)) => {
            // An empty one is of its own type.
            if inner.descriptor != *descriptor {
                let url = format!("type.googleapis.com/{}", inner.type_name());
                found.set_field_by_name("type_url", Wire::String(url));
                found.set_field_by_name("value", Wire::Bytes(encode(inner).into()));
            }
        }
        (_, ProtoValue::Message(inner)) => return Some(dynamic(inner)),
        ("google.protobuf.Duration", ProtoValue::Duration(duration)) => {
            let seconds = i64::try_from(duration.0 / 1_000_000_000).ok()?;
            let nanos = i32::try_from(duration.0 % 1_000_000_000).ok()?;
            found.set_field_by_name("seconds", Wire::I64(seconds));
            found.set_field_by_name("nanos", Wire::I32(nanos));
        }
        ("google.protobuf.Struct", ProtoValue::Json(node)) => return structure(node),
        ("google.protobuf.Value", ProtoValue::Json(node)) => return json(node),
        ("google.protobuf.ListValue", ProtoValue::Json(node)) => return list(node),
        // Timestamps and field masks are kept as text, and nothing that is sent has one.
        ("google.protobuf.Timestamp" | "google.protobuf.FieldMask", _) => return None,
        // Wrappers.
        _ => {
            let field = descriptor.get_field_by_name("value")?;
            let inner = one(value, &field.kind())?;
            found.try_set_field(&field, inner).ok()?;
        }
    }
    Some(found)
}

fn structure(node: &Node) -> Option<DynamicMessage> {
    let mut found = DynamicMessage::new(descriptors::message("google.protobuf.Struct")?);
    let mut fields = HashMap::new();
    for entry in node.entries().unwrap_or_default() {
        fields.insert(MapKey::String(entry.key.to_string()), Wire::Message(json(&entry.node)?));
    }
    found.set_field_by_name("fields", Wire::Map(fields));
    Some(found)
}

fn list(node: &Node) -> Option<DynamicMessage> {
    let mut found = DynamicMessage::new(descriptors::message("google.protobuf.ListValue")?);
    let items = node.items().iter().filter_map(|item| Some(Wire::Message(json(item)?)));
    found.set_field_by_name("values", Wire::List(items.collect()));
    Some(found)
}

fn json(node: &Node) -> Option<DynamicMessage> {
    use sluice_core::Value;
    let mut found = DynamicMessage::new(descriptors::message("google.protobuf.Value")?);
    let (field, value) = match &node.value {
        Value::Null => ("null_value", Wire::EnumNumber(0)),
        Value::Map(_) => ("struct_value", Wire::Message(structure(node)?)),
        Value::List(_) => ("list_value", Wire::Message(list(node)?)),
        Value::Scalar { text, quoted: false } => match (&**text, text.parse::<f64>()) {
            ("true" | "false", _) => ("bool_value", Wire::Bool(&**text == "true")),
            (_, Ok(number)) if number.is_finite() => ("number_value", Wire::F64(number)),
            _ => ("string_value", Wire::String(text.to_string())),
        },
        _ => ("string_value", Wire::String(node.text()?.to_owned())),
    };
    found.set_field_by_name(field, value);
    Some(found)
}

#[cfg(test)]
mod tests {
    use sluice_core::Diags;

    use super::*;
    use crate::wire::decode;
    use crate::{UnknownFields, read};

    const NODE: &str = "envoy.config.core.v3.Node";

    fn read_node(text: &str) -> ProtoMessage {
        let mut diags = Diags::new();
        let node = sluice_config::yaml::read(text, 0, &mut diags).expect("YAML");
        let descriptor = descriptors::message(NODE).expect("a node");
        let read = read::read(&node, &descriptor, UnknownFields::Refuse, &mut diags);
        assert!(!diags.has_errors(), "{diags:?}");
        read.expect("a node")
    }

    #[test]
    fn what_a_file_says_arrives_and_is_read_as_it_was() {
        let text = r#"
id: a
cluster: b
metadata: { role: "web", number: 5, on: true, none: null, list: [1, "x", { deep: 0.5 }] }
locality: { region: r, zone: z }
user_agent_build_version: { version: { major_number: 1 }, metadata: {} }
extensions: [{ name: e, type_urls: [x], version: { version: { minor_number: 7 } } }]
dynamic_parameters: { k: { params: { a: b } } }
"#;
        let bytes = encode(&read_node(text));
        let mut diags = Diags::new();
        let again = decode(NODE, &bytes, 1, &mut diags).expect("a node");
        assert!(diags.iter().next().is_none(), "{diags:?}");
        assert_eq!(again.text("id").map(|id| &**id), Some("a"));
        let metadata = again.json("metadata").expect("metadata");
        let value = |key: &str| metadata.get(key).and_then(|entry| entry.node.text());
        assert_eq!(
            (value("role"), value("number"), value("on")),
            (Some("web"), Some("5"), Some("true"))
        );
        // Maps have no order.
        assert_eq!(encode(&again).len(), bytes.len(), "and once more");
    }
}
