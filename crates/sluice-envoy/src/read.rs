//! From YAML or JSON to a message, as lenient and as strict as Envoy.
//!
//! Owns: names of fields, `Any`, well-known types, unknown fields. Refuses to know: files, what a field means.
//! Keeps: every problem is a finding with its place and its path; what is wrong is left out, and the rest is read.

use std::collections::HashSet;
use std::sync::Arc;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use sluice_core::suggest::nearest;
use sluice_core::tree::MapEntry;
use sluice_core::{Diagnostic, Diags, Node, Span, Value};

use crate::descriptors;
use crate::message::{ProtoDuration, ProtoField, ProtoItem, ProtoMessage, ProtoValue};
use crate::rules::RuleBook;
use crate::scalars::{self, ScalarError};

/// What becomes of a field that a message does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// It is an error, as in Envoy's own files.
    #[default]
    Refuse,
    /// It is a warning, as with `--allow-unknown-static-fields`; but an error where leaving it out could let somebody
    /// in.
    Warn,
}

/// Packages in which an unknown field is an error in any case: it may be what keeps clients out.
const GUARDS: [&str; 8] = [
    "envoy.config.rbac.",
    "envoy.extensions.filters.http.rbac.",
    "envoy.extensions.filters.network.rbac.",
    "envoy.extensions.filters.http.jwt_authn.",
    "envoy.extensions.filters.http.ext_authz.",
    "envoy.extensions.filters.http.ext_proc.",
    "envoy.extensions.filters.network.ext_proc.",
    "envoy.extensions.transport_sockets.tls.",
];

/// Most values of the file that messages inside `Any` may be nested in.
const ANY_DEPTH_MAX: usize = 32;

/// Reads a message of this type from a tree. Adds every problem to `diags`.
pub fn read(
    node: &Node,
    descriptor: &MessageDescriptor,
    unknown: UnknownFields,
    diags: &mut Diags,
) -> Option<ProtoMessage> {
    let rules = Some(RuleBook::default());
    let mut reader = MessageReader { unknown, diags, rules, any_depth: 0, errors: 0 };
    reader.message(node, descriptor, "", &[])
}

/// Reads a message that is encoded, and checked by its rules where it is decoded.
pub fn read_to_encode(
    node: &Node,
    descriptor: &MessageDescriptor,
    diags: &mut Diags,
) -> Option<ProtoMessage> {
    let unknown = UnknownFields::Refuse;
    let mut reader = MessageReader { unknown, diags, rules: None, any_depth: 0, errors: 0 };
    reader.message(node, descriptor, "", &[])
}

struct MessageReader<'a> {
    unknown: UnknownFields,
    diags: &'a mut Diags,
    /// `None` if they are not applied.
    rules: Option<RuleBook>,
    any_depth: usize,
    /// Errors so far, other than those of rules.
    errors: usize,
}

impl MessageReader<'_> {
    fn error(
        &mut self,
        code: &'static str,
        span: Span,
        at: impl ToString,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.errors += 1;
        self.diags.error(code, span, at, message)
    }

    fn wrong(&mut self, code: &'static str, span: Span, at: &str, (message, help): ScalarError) {
        let finding = self.error(code, span, at, message);
        if let Some(help) = help {
            finding.help(help);
        }
    }

    fn bad(&mut self, span: Span, at: &str, message: impl Into<String>) {
        self.wrong("bad-value", span, at, (message.into(), None));
    }

    /// Reads the fields of a message, except those in `skip`.
    fn message(
        &mut self,
        node: &Node,
        descriptor: &MessageDescriptor,
        at: &str,
        skip: &[&str],
    ) -> Option<ProtoMessage> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            // A section of a file that has nothing in it.
            Value::Null => &[],
            _ => {
                self.bad(node.span, at, format!("expected a map, not {}", node.kind()));
                return None;
            }
        };
        let mut fields = Vec::new();
        let mut chosen: HashSet<String> = HashSet::new();
        let before = self.errors;
        for entry in entries.iter().filter(|entry| !skip.contains(&&*entry.key)) {
            let Some(field) = field_of(descriptor, &entry.key) else {
                self.unknown_field(entry, descriptor, at);
                continue;
            };
            let here = join(at, field.name());
            if entry.node.value.is_null() {
                continue;
            }
            let twice = fields.iter().any(|other: &ProtoField| other.descriptor == field);
            let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
            let rival = oneof.is_some_and(|oneof| !chosen.insert(oneof.name().to_owned()));
            if twice || rival {
                let message = if twice {
                    format!("`{}` is set twice, under both of its names", field.name())
                } else {
                    format!("`{}` excludes another field that is set", field.name())
                };
                let finding = self.error("duplicate-key", entry.key_span, &here, message);
                finding.help("keep one of them").on_key();
                continue;
            }
            if let Some(value) = self.field(&entry.node, &field, &here) {
                fields.push(ProtoField::new(field, entry.key_span, entry.node.span, value));
            }
        }
        let (descriptor, path) = (descriptor.clone(), Arc::from(at));
        let message = ProtoMessage { descriptor, path, span: node.span, fields };
        // What was left out as wrong must not be reported as missing, too.
        if self.errors == before
            && let Some(rules) = &mut self.rules
        {
            rules.check(&message, self.diags);
        }
        Some(message)
    }

    fn unknown_field(&mut self, entry: &MapEntry, of: &MessageDescriptor, at: &str) {
        let here = join(at, &entry.key);
        let name = of.full_name();
        let message = format!("{name} has no field `{}`", entry.key);
        let finding = if self.unknown == UnknownFields::Warn && !is_guard(name) {
            self.diags.warning("unknown-field", entry.key_span, here, message)
        } else {
            self.error("unknown-field", entry.key_span, here, message)
        };
        finding.on_key();
        let names: Vec<String> = of.fields().map(|field| field.name().to_owned()).collect();
        let snake = snake_case(&entry.key);
        if of.reserved_names().any(|name| name == snake) {
            finding.help("Envoy has removed it");
        } else if let Some(name) = nearest(&snake, names.iter().map(String::as_str)) {
            finding.help(format!("did you mean `{name}`?"));
        }
    }

    /// Reads the value of a field; `None` if it is wrong or says nothing.
    fn field(&mut self, node: &Node, field: &FieldDescriptor, at: &str) -> Option<ProtoValue> {
        if field.is_map() {
            return self.map(node, field, at);
        }
        if !field.is_list() {
            return self.value(node, &field.kind(), at);
        }
        // JSON in a repeated field: a list of its own is one value.
        let items = node.items().iter().enumerate().filter_map(|(index, item)| {
            let here = format!("{at}[{index}]");
            let value = self.value(item, &field.kind(), &here)?;
            Some(ProtoItem { span: item.span, value })
        });
        Some(ProtoValue::List(items.collect()))
    }

    fn map(&mut self, node: &Node, field: &FieldDescriptor, at: &str) -> Option<ProtoValue> {
        let Value::Map(entries) = &node.value else {
            self.bad(node.span, at, format!("expected a map, not {}", node.kind()));
            return None;
        };
        let Kind::Message(entry_type) = field.kind() else { return None };
        let (key, value) = (entry_type.map_entry_key_field(), entry_type.map_entry_value_field());
        let mut found = Vec::new();
        for entry in entries {
            let here = format!("{at}[\"{}\"]", entry.key);
            if let Err(problem) = scalars::scalar(&entry.key, true, &key.kind()) {
                self.wrong("bad-value", entry.key_span, &here, problem);
                continue;
            }
            if let Some(value) = self.value(&entry.node, &value.kind(), &here) {
                let item = ProtoItem { span: entry.node.span, value };
                found.push((Arc::clone(&entry.key), item));
            }
        }
        Some(ProtoValue::Map(found))
    }

    fn value(&mut self, node: &Node, kind: &Kind, at: &str) -> Option<ProtoValue> {
        let Kind::Message(descriptor) = kind else { return self.scalar(node, kind, at) };
        match descriptor.full_name() {
            "google.protobuf.Any" => self.any(node, descriptor, at).map(ProtoValue::Message),
            "google.protobuf.Duration" => self.duration(node, at),
            "google.protobuf.Timestamp" | "google.protobuf.FieldMask" => {
                self.scalar(node, &Kind::String, at)
            }
            "google.protobuf.Struct" if node.entries().is_none() => {
                self.bad(node.span, at, format!("expected a map, not {}", node.kind()));
                None
            }
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => {
                Some(ProtoValue::Json(node.clone()))
            }
            name if is_wrapper(name) => {
                let inner = descriptor.get_field_by_name("value")?.kind();
                self.scalar(node, &inner, at)
            }
            _ => self.message(node, descriptor, at, &[]).map(ProtoValue::Message),
        }
    }

    fn scalar(&mut self, node: &Node, kind: &Kind, at: &str) -> Option<ProtoValue> {
        let Value::Scalar { text, quoted } = &node.value else {
            self.bad(node.span, at, format!("expected a single value, not {}", node.kind()));
            return None;
        };
        match scalars::scalar(text, *quoted, kind) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.wrong("bad-value", node.span, at, problem);
                None
            }
        }
    }

    /// `0.25s`, or `{ seconds: 5, nanos: 1 }`.
    fn duration(&mut self, node: &Node, at: &str) -> Option<ProtoValue> {
        let found = match &node.value {
            Value::Scalar { text, .. } => scalars::duration(text),
            Value::Map(_) => self.duration_parts(node, at)?,
            _ => Err((format!("expected a duration, not {}", node.kind()), None)),
        };
        match found {
            Ok(duration) => Some(ProtoValue::Duration(duration)),
            Err(problem) => {
                self.wrong("bad-value", node.span, at, problem);
                None
            }
        }
    }

    fn duration_parts(
        &mut self,
        node: &Node,
        at: &str,
    ) -> Option<Result<ProtoDuration, ScalarError>> {
        let mut parts = [0; 2];
        for entry in node.entries().unwrap_or_default() {
            let (part, kind) = match &*entry.key {
                "seconds" => (0, Kind::Int64),
                "nanos" => (1, Kind::Int32),
                key => {
                    self.bad(entry.key_span, at, format!("a duration has no field `{key}`"));
                    return None;
                }
            };
            let ProtoValue::Int(value) = self.scalar(&entry.node, &kind, &join(at, &entry.key))?
            else {
                return None;
            };
            parts[part] = value;
        }
        let seconds = i64::try_from(parts[0]).ok()?;
        Some(scalars::checked(seconds, i32::try_from(parts[1]).ok()?))
    }

    /// A message that says itself what it is. An empty one is a message of the type `Any`.
    fn any(&mut self, node: &Node, any: &MessageDescriptor, at: &str) -> Option<ProtoMessage> {
        let empty = || ProtoMessage {
            descriptor: any.clone(),
            path: at.into(),
            span: node.span,
            fields: Vec::new(),
        };
        let Some(entries) = node.entries() else {
            self.bad(node.span, at, format!("expected a map with `@type`, not {}", node.kind()));
            return None;
        };
        let Some(url) = node.get("@type") else {
            if entries.is_empty() {
                return Some(empty());
            }
            let message = "`@type` is missing, which says what this is";
            let finding = self.error("missing-field", node.span, join(at, "@type"), message);
            finding.help("write `\"@type\": type.googleapis.com/NAME`");
            return None;
        };
        if self.any_depth >= ANY_DEPTH_MAX {
            self.bad(node.span, at, "messages are nested too deeply in each other");
            return None;
        }
        self.any_depth += 1;
        let found = self.typed(node, &url.node, at);
        self.any_depth -= 1;
        found
    }

    fn typed(&mut self, node: &Node, url: &Node, at: &str) -> Option<ProtoMessage> {
        let name = url.text().and_then(descriptors::name_of);
        let Some(name) = name else {
            self.bad(
                url.span,
                &join(at, "@type"),
                "expected a type such as type.googleapis.com/NAME",
            );
            return None;
        };
        match name {
            // Types that wrap others in JSON, for those who do not have their definitions.
            "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => self.typed_struct(node, at),
            "google.protobuf.Any" => {
                let inner = &node.get("value")?.node;
                let any = descriptors::message("google.protobuf.Any")?;
                self.any(inner, &any, at)
            }
            _ => {
                let descriptor = self.extension(name, url, at)?;
                self.known(node, &descriptor, at)
            }
        }
    }

    /// A message of a known type. Well-known types are under `value`.
    fn known(
        &mut self,
        node: &Node,
        descriptor: &MessageDescriptor,
        at: &str,
    ) -> Option<ProtoMessage> {
        if !is_json(descriptor.full_name()) {
            return self.message(node, descriptor, at, &["@type"]);
        }
        let value = node.get("value");
        // A text, bytes or JSON is what some extensions are configured with; the others are kept as what they are.
        let field = match descriptor.name() {
            "StringValue" | "BytesValue" => "value",
            "Struct" => "fields",
            _ => "",
        };
        let mut fields = Vec::new();
        if let Some(value) = value {
            let kind = Kind::Message(descriptor.clone());
            let read = self.value(&value.node, &kind, &join(at, "value"))?;
            if let Some(field) = descriptor.get_field_by_name(field) {
                fields.push(ProtoField::new(field, value.key_span, value.node.span, read));
            }
        }
        let (descriptor, path) = (descriptor.clone(), at.into());
        Some(ProtoMessage { descriptor, path, span: node.span, fields })
    }

    fn typed_struct(&mut self, node: &Node, at: &str) -> Option<ProtoMessage> {
        let url = node.get("type_url").or_else(|| node.get("typeUrl"));
        let known = ["@type", "type_url", "typeUrl", "value"];
        if let Some(entry) = node.entries()?.iter().find(|entry| !known.contains(&&*entry.key)) {
            self.bad(entry.key_span, at, format!("a TypedStruct has no field `{}`", entry.key));
            return None;
        }
        let Some(url) = url else {
            self.bad(
                node.span,
                &join(at, "type_url"),
                "`type_url` is missing, which says what this is",
            );
            return None;
        };
        // Here the name may stand alone.
        let name = url.node.text().map(|text| descriptors::name_of(text).unwrap_or(text));
        let descriptor = self.extension(name.unwrap_or_default(), &url.node, at)?;
        let nothing = Node { value: Value::Map(Vec::new()), span: node.span };
        let value = node.get("value").map_or(&nothing, |entry| &entry.node);
        self.message(value, &descriptor, at, &[])
    }

    fn extension(&mut self, name: &str, url: &Node, at: &str) -> Option<MessageDescriptor> {
        let found = descriptors::message(name);
        if found.is_none() {
            let message = format!("unknown type {name}");
            let finding =
                self.error(crate::coverage::UNKNOWN_TYPE, url.span, join(at, "@type"), message);
            let last = name.rsplit('.').next().unwrap_or(name);
            let near = descriptors::pool().all_messages().find(|other| {
                other.name().eq_ignore_ascii_case(last) && other.full_name().contains(".v3.")
            });
            match near {
                Some(near) if near.full_name() != name => {
                    finding.help(format!("did you mean {}?", near.full_name()));
                }
                _ => {
                    finding
                        .help("extensions that are not part of Envoy's own API are not supported");
                }
            }
        }
        found
    }
}

trait IsNull {
    fn is_null(&self) -> bool;
}

impl IsNull for Value {
    fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// A field by either of its names.
fn field_of(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key))
}

/// Whether an unknown field of this type is an error in any case.
pub(crate) fn is_guard(name: &str) -> bool {
    GUARDS.iter().any(|package| name.starts_with(package))
}

/// Whether a message of this type is under `value` in an `Any`, since its form is not that of its fields.
pub(crate) fn is_json(name: &str) -> bool {
    matches!(
        name,
        "google.protobuf.Struct"
            | "google.protobuf.Value"
            | "google.protobuf.ListValue"
            | "google.protobuf.Duration"
            | "google.protobuf.Timestamp"
            | "google.protobuf.FieldMask"
    )
}

pub(crate) fn is_wrapper(name: &str) -> bool {
    let rest = name.strip_prefix("google.protobuf.").and_then(|name| name.strip_suffix("Value"));
    rest.is_some_and(|kind| {
        ["Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64"]
            .contains(&kind)
    })
}

/// The path of a field below `at`.
pub(crate) fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

fn snake_case(key: &str) -> String {
    let mut snake = String::with_capacity(key.len() + 4);
    for letter in key.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
