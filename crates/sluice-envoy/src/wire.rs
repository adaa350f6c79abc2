//! Messages on the wire: what a control plane sends, and what it is told.
//!
//! Owns: the way from bytes to a message and back. Refuses to know: names of fields in files, rules, what a message means.
//! Keeps: bytes are read by the same reader as files, so that both are judged alike; every value has a place of its own,
//! by which a finding leads back to its field; a field without a definition is reported.

use std::sync::Arc;

use data_encoding::BASE64;
use prost_reflect::{
    DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value as Wire,
};
use sluice_core::tree::MapEntry;
use sluice_core::{Diags, Node, Severity, Span, Value};

use crate::descriptors;
use crate::message::ProtoMessage;
use crate::read::{self, UnknownFields, is_guard, is_wrapper, join};

mod encode;
mod json;

pub use encode::encode;
pub use json::json_of;

/// Most values that a value may be nested in.
const DEPTH_MAX: usize = 100;

/// Reads an encoded message of the type `name`. Its places are in the file `file`, of which there is none. Adds every
/// problem to `diags`; a field without a definition is a warning, except where leaving it out could let somebody in.
pub fn decode(name: &str, bytes: &[u8], file: u16, diags: &mut Diags) -> Option<ProtoMessage> {
    let Some(descriptor) = descriptors::message(name) else {
        diags.error(crate::coverage::UNKNOWN_TYPE, None, "", format!("unknown type {name}"));
        return None;
    };
    let message = match DynamicMessage::decode(descriptor.clone(), bytes) {
        Ok(message) => message,
        Err(error) => {
            diags.error("bad-value", None, "", format!("it cannot be decoded: {error}"));
            return None;
        }
    };
    let mut tree = WireTree { file, next: 0, depth: 0, diags, failed: false };
    let node = tree.message(&message, "");
    if tree.failed {
        return None;
    }
    read::read(&node, &descriptor, UnknownFields::Refuse, diags)
}

/// Reads a response of a control plane from YAML or JSON, and encodes it.
///
/// # Errors
/// What is wrong with the text.
pub fn response_of_text(text: &str) -> Result<Vec<u8>, String> {
    let mut diags = Diags::new();
    let descriptor = descriptors::message("envoy.service.discovery.v3.DiscoveryResponse");
    let node = sluice_config::yaml::read(text, 0, &mut diags);
    if node.as_ref().is_some_and(|node| matches!(node.value, Value::Null)) {
        return Err("the file is empty".to_owned());
    }
    let read = node.zip(descriptor);
    // Each resource is judged alone, once it is encoded.
    let read = read.and_then(|(node, of)| read::read_to_encode(&node, &of, &mut diags));
    let error = diags.sorted().into_iter().find(|found| found.severity == Severity::Error);
    match (read, error) {
        (Some(message), None) => Ok(encode(&message)),
        (_, Some(error)) if error.path.is_empty() => Err(error.message),
        (_, Some(error)) => Err(format!("{}: {}", error.path, error.message)),
        (None, None) => Err("the file is empty".to_owned()),
    }
}

/// A message as it becomes a tree.
struct WireTree<'a> {
    file: u16,
    /// The place of the next value.
    next: u32,
    depth: usize,
    diags: &'a mut Diags,
    failed: bool,
}

impl WireTree<'_> {
    fn place(&mut self) -> u32 {
        let place = self.next;
        self.next = self.next.saturating_add(1);
        place
    }

    /// A value whose place is around those of what it contains.
    fn node(&mut self, inner: impl FnOnce(&mut Self) -> Value) -> Node {
        let start = self.place();
        let value = inner(self);
        let end = self.place();
        Node { value, span: Span { file: self.file, start, end } }
    }

    fn scalar(&mut self, text: impl Into<Arc<str>>, quoted: bool) -> Node {
        self.node(|_| Value::Scalar { text: text.into(), quoted })
    }

    fn entry(&mut self, key: &str, value: impl FnOnce(&mut Self) -> Node) -> MapEntry {
        let start = self.place();
        let key_span = Span { file: self.file, start, end: self.place() };
        MapEntry { key: key.into(), key_span, node: value(self) }
    }

    fn fail(&mut self, at: &str, message: String) {
        self.failed = true;
        self.diags.error("bad-value", None, at, message);
    }

    fn message(&mut self, message: &DynamicMessage, at: &str) -> Node {
        self.node(|tree| Value::Map(tree.fields(message, at)))
    }

    fn fields(&mut self, message: &DynamicMessage, at: &str) -> Vec<MapEntry> {
        if self.depth >= DEPTH_MAX {
            self.fail(at, "messages are nested too deeply in each other".to_owned());
            return Vec::new();
        }
        self.depth += 1;
        self.unknown(message, at);
        let fields = message.fields().map(|(field, value)| {
            let here = join(at, field.name());
            self.entry(field.name(), |tree| tree.value(value, &field.kind(), &here))
        });
        let fields = fields.collect();
        self.depth -= 1;
        fields
    }

    fn unknown(&mut self, message: &DynamicMessage, at: &str) {
        let descriptor = message.descriptor();
        let name = descriptor.full_name();
        for field in message.unknown_fields() {
            let text = format!("{name} has no field with the number {}", field.number());
            if is_guard(name) {
                self.failed = true;
                self.diags.error("unknown-field", None, at, text);
            } else {
                self.diags.warning("unknown-field", None, at, text);
            }
        }
    }

    fn value(&mut self, value: &Wire, kind: &Kind, at: &str) -> Node {
        match value {
            Wire::Bool(value) => self.scalar(value.to_string(), false),
            Wire::I32(value) => self.scalar(value.to_string(), false),
            Wire::I64(value) => self.scalar(value.to_string(), false),
            Wire::U32(value) => self.scalar(value.to_string(), false),
            Wire::U64(value) => self.scalar(value.to_string(), false),
            Wire::F32(value) => self.scalar(number((*value).into(), value), false),
            Wire::F64(value) => self.scalar(number(*value, value), false),
            Wire::String(text) => self.scalar(text.as_str(), true),
            Wire::Bytes(bytes) => self.scalar(BASE64.encode(bytes), true),
            Wire::EnumNumber(number) => {
                let known = kind.as_enum().and_then(|of| of.get_value(*number));
                match known {
                    Some(known) => self.scalar(known.name(), true),
                    None => self.scalar(number.to_string(), false),
                }
            }
            Wire::Message(message) => self.embedded(message, at),
            Wire::List(items) => self.node(|tree| {
                let items = items.iter().enumerate();
                Value::List(
                    items
                        .map(|(index, item)| tree.value(item, kind, &format!("{at}[{index}]")))
                        .collect(),
                )
            }),
            Wire::Map(entries) => {
                let value_kind =
                    kind.as_message().map(|entry| entry.map_entry_value_field().kind());
                let value_kind = value_kind.unwrap_or(Kind::String);
                let mut sorted: Vec<(String, &Wire)> =
                    entries.iter().map(|(key, value)| (key_text(key), value)).collect();
                sorted.sort_by(|one, two| one.0.cmp(&two.0));
                self.node(|tree| {
                    let entries = sorted.into_iter().map(|(key, value)| {
                        let here = format!("{at}[\"{key}\"]");
                        tree.entry(&key, |tree| tree.value(value, &value_kind, &here))
                    });
                    Value::Map(entries.collect())
                })
            }
        }
    }

    fn embedded(&mut self, message: &DynamicMessage, at: &str) -> Node {
        let descriptor = message.descriptor();
        match descriptor.full_name() {
            "google.protobuf.Any" => self.any(message, at),
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => {
                self.json(message, at)
            }
            "google.protobuf.Timestamp" => {
                let seconds = whole(message, "seconds");
                self.scalar(format!("{seconds}s"), true)
            }
            "google.protobuf.FieldMask" => {
                let paths = message.get_field_by_name("paths");
                let paths = paths.as_deref().and_then(Wire::as_list).unwrap_or_default();
                let paths: Vec<&str> = paths.iter().filter_map(Wire::as_str).collect();
                self.scalar(paths.join(","), true)
            }
            name if is_wrapper(name) => {
                let Some(field) = descriptor.get_field_by_name("value") else {
                    return self.message(message, at);
                };
                self.value(&message.get_field(&field), &field.kind(), at)
            }
            _ => self.message(message, at),
        }
    }

    /// A message that says itself what it is, with its fields beside `@type`.
    fn any(&mut self, any: &DynamicMessage, at: &str) -> Node {
        let url = any.get_field_by_name("type_url");
        let url = url.as_deref().and_then(Wire::as_str).unwrap_or_default().to_owned();
        if url.is_empty() {
            return self.node(|_| Value::Map(Vec::new()));
        }
        let bytes = any.get_field_by_name("value");
        let bytes = bytes.as_deref().and_then(Wire::as_bytes).cloned().unwrap_or_default();
        let descriptor = descriptors::name_of(&url).and_then(descriptors::message);
        if self.depth >= DEPTH_MAX {
            self.fail(at, "messages are nested too deeply in each other".to_owned());
            return self.node(|_| Value::Null);
        }
        self.depth += 1;
        let node = self.node(|tree| {
            let mut entries = vec![tree.entry("@type", |tree| tree.scalar(url.as_str(), true))];
            // The reader reports a type that it does not know.
            if let Some(descriptor) = descriptor {
                tree.contained(descriptor, &bytes, at, &mut entries);
            }
            Value::Map(entries)
        });
        self.depth -= 1;
        node
    }

    fn contained(
        &mut self,
        descriptor: MessageDescriptor,
        bytes: &[u8],
        at: &str,
        entries: &mut Vec<MapEntry>,
    ) {
        match DynamicMessage::decode(descriptor.clone(), bytes) {
            Err(error) => {
                let name = descriptor.full_name();
                self.fail(at, format!("{name} cannot be decoded: {error}"));
            }
            Ok(message)
                if read::is_json(descriptor.full_name())
                    || descriptor.full_name() == "google.protobuf.Any" =>
            {
                entries.push(self.entry("value", |tree| tree.embedded(&message, at)));
            }
            Ok(message) => entries.extend(self.fields(&message, at)),
        }
    }

    fn json(&mut self, message: &DynamicMessage, at: &str) -> Node {
        if self.depth >= DEPTH_MAX {
            self.fail(at, "JSON is nested too deeply".to_owned());
            return self.node(|_| Value::Null);
        }
        self.depth += 1;
        let node = self.json_value(message, at);
        self.depth -= 1;
        node
    }

    fn json_value(&mut self, message: &DynamicMessage, at: &str) -> Node {
        let inner = |tree: &mut Self, value: &Wire| match value {
            Wire::Message(message) => tree.json(message, at),
            _ => tree.node(|_| Value::Null),
        };
        let Some((field, value)) = message.fields().next() else {
            // An empty structure or list, or a value that says nothing.
            let value = match message.descriptor().name() {
                "Struct" => Value::Map(Vec::new()),
                "ListValue" => Value::List(Vec::new()),
                _ => Value::Null,
            };
            return self.node(|_| value);
        };
        match (field.name(), value) {
            ("fields", Wire::Map(entries)) => {
                let mut sorted: Vec<(String, &Wire)> =
                    entries.iter().map(|(key, value)| (key_text(key), value)).collect();
                sorted.sort_by(|one, two| one.0.cmp(&two.0));
                self.node(|tree| {
                    let entries = sorted
                        .into_iter()
                        .map(|(key, value)| tree.entry(&key, |tree| inner(tree, value)));
                    Value::Map(entries.collect())
                })
            }
            ("values", Wire::List(items)) => {
                self.node(|tree| Value::List(items.iter().map(|item| inner(tree, item)).collect()))
            }
            ("number_value", Wire::F64(value)) => self.scalar(number(*value, value), false),
            ("string_value", Wire::String(text)) => self.scalar(text.as_str(), true),
            ("bool_value", Wire::Bool(value)) => self.scalar(value.to_string(), false),
            (_, Wire::Message(message)) => self.json(message, at),
            _ => self.node(|_| Value::Null),
        }
    }
}

fn number(value: f64, shown: &impl ToString) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => shown.to_string(),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn whole(message: &DynamicMessage, field: &str) -> i64 {
    message.get_field_by_name(field).and_then(|value| value.as_i64()).unwrap_or_default()
}
