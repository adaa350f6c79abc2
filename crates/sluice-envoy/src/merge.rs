//! One message over another.
//!
//! Owns: what becomes of fields that both set. Refuses to know: what they mean. Keeps: the rules of protobuf: messages
//! are merged, lists are joined, and anything else is replaced.

use prost_reflect::FieldDescriptor;
use sluice_core::Value;

use crate::message::{ProtoField, ProtoMessage, ProtoValue};

/// Lays a message over another one of the same type.
pub(crate) fn merge(base: &mut ProtoMessage, over: ProtoMessage) {
    for field in over.fields {
        let excluded = |other: &ProtoField| {
            other.descriptor != field.descriptor && in_one(&other.descriptor, &field.descriptor)
        };
        base.fields.retain(|other| !excluded(other));
        match base.fields.iter_mut().find(|other| other.descriptor == field.descriptor) {
            Some(own) => merge_field(own, field),
            None => base.fields.push(field),
        }
    }
}

/// Whether only one of two fields can be set.
fn in_one(a: &FieldDescriptor, b: &FieldDescriptor) -> bool {
    let oneof = |of: &FieldDescriptor| of.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    oneof(a).is_some_and(|own| oneof(b) == Some(own))
}

fn merge_field(own: &mut ProtoField, over: ProtoField) {
    let is_any = own.descriptor.kind().as_message().is_some_and(|of| {
        // What it contains is one value.
        of.full_name() == "google.protobuf.Any"
    });
    match (&mut own.value, over.value) {
        (ProtoValue::Message(own), ProtoValue::Message(over)) if !is_any => merge(own, over),
        (ProtoValue::List(own), ProtoValue::List(over)) => own.extend(over),
        (ProtoValue::Map(own), ProtoValue::Map(over)) => {
            for (key, item) in over {
                own.retain(|(known, _)| *known != key);
                own.push((key, item));
            }
        }
        (ProtoValue::Json(own), ProtoValue::Json(over)) => match (&mut own.value, over.value) {
            (Value::Map(own), Value::Map(over)) => {
                for entry in over {
                    own.retain(|known| known.key != entry.key);
                    own.push(entry);
                }
            }
            (_, value) => own.value = value,
        },
        (_, value) => {
            own.value = value;
            own.span = over.span;
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_config::yaml;
    use sluice_core::Diags;

    use super::*;
    use crate::{UnknownFields, descriptors, read};

    fn message(text: &str) -> ProtoMessage {
        let mut diags = Diags::new();
        let node = yaml::read(text, 0, &mut diags).unwrap();
        let descriptor = descriptors::message("envoy.config.bootstrap.v3.Bootstrap").unwrap();
        let found = read::read(&node, &descriptor, UnknownFields::Refuse, &mut diags);
        assert!(!diags.has_errors(), "{text}");
        found.unwrap()
    }

    #[test]
    fn messages_are_merged_and_lists_joined() {
        let mut base = message(
            "{ node: { id: a, cluster: c, metadata: { x: 1, y: 1 } }, admin: { address: { pipe: { path: /a } } }, layered_runtime: { layers: [{ name: s, admin_layer: {} }] } }",
        );
        let over = message(
            "{ node: { id: b, metadata: { y: 2 } }, admin: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } }, layered_runtime: { layers: [{ name: t, static_layer: {} }] } }",
        );
        merge(&mut base, over);
        let node = base.message("node").unwrap();
        assert_eq!(node.text("id").map(|id| &**id), Some("b"));
        assert_eq!(node.text("cluster").map(|of| &**of), Some("c"));
        let metadata = node.json("metadata").unwrap();
        assert_eq!(metadata.get("x").and_then(|of| of.node.text()), Some("1"));
        assert_eq!(metadata.get("y").and_then(|of| of.node.text()), Some("2"));
        let address = base.message("admin").unwrap().message("address").unwrap();
        assert!(address.has("socket_address") && !address.has("pipe"), "one of the two");
        let layers = base.message("layered_runtime").unwrap();
        assert_eq!(layers.messages("layers").count(), 2);
    }
}
