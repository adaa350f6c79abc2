//! A message of Envoy as a tree in which every field has its place.
//!
//! Owns: fields and values, and which of them have been read. Refuses to know: text formats, what a field means.
//! Keeps: a field that is not read can be found afterwards, so that none is dropped without a word.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use prost_reflect::{FieldDescriptor, MessageDescriptor};
use sluice_core::{Node, Span};

/// A message.
#[derive(Clone, Debug)]
pub struct ProtoMessage {
    /// What it is.
    pub descriptor: MessageDescriptor,
    /// Its path from the root of the file: `static_resources.clusters[0]`.
    pub path: Arc<str>,
    /// Its place.
    pub span: Span,
    /// The fields that are set, in order.
    pub fields: Vec<ProtoField>,
}

/// A field that is set.
#[derive(Debug)]
pub struct ProtoField {
    /// What it is.
    pub descriptor: FieldDescriptor,
    /// The place of its name.
    pub key_span: Span,
    /// The place of its value.
    pub span: Span,
    /// Its value.
    pub value: ProtoValue,
    read: Cell<bool>,
}

/// The value of a field. Wrapper types such as `UInt32Value` are the value that they wrap.
#[derive(Clone, Debug)]
pub enum ProtoValue {
    /// A truth value.
    Bool(bool),
    /// A whole number of any width.
    Int(i128),
    /// A number.
    Float(f64),
    /// Text; of timestamps and field masks too, as written.
    Text(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// The number of a value of an enum, and its name if it has one.
    Enum(i32, Option<Arc<str>>),
    /// A duration.
    Duration(ProtoDuration),
    /// A message; of an `Any`, the message that it contains.
    Message(ProtoMessage),
    /// JSON, as it was written.
    Json(Node),
    /// A repeated field.
    List(Vec<ProtoItem>),
    /// A map, by keys as text.
    Map(Vec<(Arc<str>, ProtoItem)>),
}

/// A member of a repeated field or a map.
#[derive(Clone, Debug)]
pub struct ProtoItem {
    /// Its place.
    pub span: Span,
    /// Its value.
    pub value: ProtoValue,
}

/// A duration, which may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtoDuration(pub i128);

impl ProtoDuration {
    /// From seconds and nanoseconds.
    pub fn new(seconds: i64, nanos: i32) -> Self {
        Self(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
    }

    /// The time, if it is not negative.
    pub fn time(self) -> Option<Duration> {
        let seconds = u64::try_from(self.0 / 1_000_000_000).ok()?;
        let nanos = u32::try_from(self.0 % 1_000_000_000).ok()?;
        Some(Duration::new(seconds, nanos))
    }
}

impl Clone for ProtoField {
    /// The same field, not read.
    fn clone(&self) -> Self {
        Self::new(self.descriptor.clone(), self.key_span, self.span, self.value.clone())
    }
}

impl ProtoField {
    /// A field that was not read.
    pub fn new(descriptor: FieldDescriptor, key_span: Span, span: Span, value: ProtoValue) -> Self {
        Self { descriptor, key_span, span, value, read: Cell::new(false) }
    }

    /// Whether it has been read.
    pub fn was_read(&self) -> bool {
        self.read.get()
    }
}

impl ProtoMessage {
    /// The full name of its type.
    pub fn type_name(&self) -> &str {
        self.descriptor.full_name()
    }

    /// Sets a field, in place of the value that it had and of what it excludes.
    pub fn set(&mut self, name: &str, span: Span, value: ProtoValue) {
        let Some(descriptor) = self.descriptor.get_field_by_name(name) else { return };
        let oneof = descriptor.containing_oneof();
        self.fields.retain(|field| {
            field.descriptor != descriptor
                && (oneof.is_none() || field.descriptor.containing_oneof() != oneof)
        });
        self.fields.push(ProtoField::new(descriptor, span, span, value));
    }

    /// Takes a field out.
    pub fn unset(&mut self, name: &str) {
        self.fields.retain(|field| field.descriptor.name() != name);
    }

    /// A field, if it is set, without counting it as read.
    pub fn peek(&self, name: &str) -> Option<&ProtoField> {
        debug_assert!(
            self.descriptor.get_field_by_name(name).is_some(),
            "{} has no field {name}",
            self.type_name()
        );
        self.fields.iter().find(|field| field.descriptor.name() == name)
    }

    /// Whether a field is set.
    pub fn has(&self, name: &str) -> bool {
        self.peek(name).is_some()
    }

    /// A field, if it is set.
    pub fn field(&self, name: &str) -> Option<&ProtoField> {
        let field = self.peek(name)?;
        field.read.set(true);
        Some(field)
    }

    /// Counts fields as read: they change nothing that could be seen in a proxied connection or request.
    pub fn without_effect(&self, names: &[&str]) {
        for name in names {
            self.field(name);
        }
    }

    /// The place of a field, or of the message if it is not set.
    pub fn place(&self, name: &str) -> Span {
        self.peek(name).map_or(self.span, |field| field.span)
    }

    /// The path of a field.
    pub fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Text; `None` if it is empty, which is the default.
    pub fn text(&self, name: &str) -> Option<&Arc<str>> {
        match &self.field(name)?.value {
            ProtoValue::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A truth value, or that of a `BoolValue`.
    pub fn bool(&self, name: &str) -> Option<bool> {
        match self.field(name)?.value {
            ProtoValue::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Whether a truth value is set and true.
    pub fn is(&self, name: &str) -> bool {
        self.bool(name) == Some(true)
    }

    /// A whole number that is not negative.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.field(name)?.value {
            ProtoValue::Int(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// A whole number; zero, the default, if it is not set.
    pub fn integer(&self, name: &str) -> i64 {
        match self.field(name).map(|field| &field.value) {
            Some(ProtoValue::Int(value)) => i64::try_from(*value).unwrap_or(0),
            _ => 0,
        }
    }

    /// A number with a fraction.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.field(name)?.value {
            ProtoValue::Float(value) => Some(value),
            _ => None,
        }
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Option<ProtoDuration> {
        match self.field(name)?.value {
            ProtoValue::Duration(value) => Some(value),
            _ => None,
        }
    }

    /// The name of an enum's value, that of its first value if the field is not set.
    pub fn choice(&self, name: &str) -> Arc<str> {
        match self.field(name).map(|field| &field.value) {
            Some(ProtoValue::Enum(number, word)) => {
                word.clone().unwrap_or_else(|| number.to_string().into())
            }
            _ => {
                let descriptor = self.descriptor.get_field_by_name(name);
                let kind = descriptor.map(|field| field.kind());
                let first = kind.as_ref().and_then(|kind| kind.as_enum());
                first.map_or_else(|| "".into(), |of| of.default_value().name().into())
            }
        }
    }

    /// A message.
    pub fn message(&self, name: &str) -> Option<&Self> {
        match &self.field(name)?.value {
            ProtoValue::Message(message) => Some(message),
            _ => None,
        }
    }

    /// The members of a repeated field.
    pub fn list(&self, name: &str) -> &[ProtoItem] {
        match self.field(name).map(|field| &field.value) {
            Some(ProtoValue::List(items)) => items,
            _ => &[],
        }
    }

    /// The messages of a repeated field.
    pub fn messages(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.list(name).iter().filter_map(|item| match &item.value {
            ProtoValue::Message(message) => Some(message),
            _ => None,
        })
    }

    /// The texts of a repeated field.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = (&Arc<str>, Span)> {
        self.list(name).iter().filter_map(|item| match &item.value {
            ProtoValue::Text(text) => Some((text, item.span)),
            _ => None,
        })
    }

    /// The entries of a map.
    pub fn map(&self, name: &str) -> &[(Arc<str>, ProtoItem)] {
        match self.field(name).map(|field| &field.value) {
            Some(ProtoValue::Map(entries)) => entries,
            _ => &[],
        }
    }

    /// JSON.
    pub fn json(&self, name: &str) -> Option<&Node> {
        match &self.field(name)?.value {
            ProtoValue::Json(node) => Some(node),
            _ => None,
        }
    }

    /// Every field below this message that was not read, by the message that has it. Fields below such a field are
    /// not listed.
    pub fn unread<'a>(&'a self, found: &mut Vec<(&'a Self, &'a ProtoField)>) {
        for field in &self.fields {
            if field.was_read() {
                field.value.messages(&mut |message| message.unread(found));
            } else {
                found.push((self, field));
            }
        }
    }

    /// Counts everything below this message as read.
    pub fn all_without_effect(&self) {
        for field in &self.fields {
            field.read.set(true);
            field.value.messages(&mut |message| message.all_without_effect());
        }
    }

    /// The path of the innermost field around a place, if one is.
    pub fn path_of(&self, span: Span) -> Option<String> {
        let around = |outer: Span| {
            outer.file == span.file && outer.start <= span.start && span.end <= outer.end
        };
        for field in &self.fields {
            let mut inner = None;
            field.value.messages(&mut |message| {
                if inner.is_none() && around(message.span) {
                    inner = message.path_of(span).or_else(|| Some(message.path.to_string()));
                }
            });
            if inner.is_some() {
                return inner;
            }
            if around(field.span) || around(field.key_span) {
                return Some(self.at(field.descriptor.name()));
            }
        }
        None
    }
}

impl ProtoValue {
    /// Calls `each` for every message directly below this value, to change it.
    pub fn messages_mut(&mut self, each: &mut dyn FnMut(&mut ProtoMessage)) {
        match self {
            Self::Message(message) => each(message),
            Self::List(items) => {
                items.iter_mut().for_each(|item| item.value.messages_mut(each));
            }
            Self::Map(entries) => {
                entries.iter_mut().for_each(|(_, item)| item.value.messages_mut(each));
            }
            _ => {}
        }
    }

    /// Calls `each` for every message directly below this value.
    pub fn messages<'a>(&'a self, each: &mut dyn FnMut(&'a ProtoMessage)) {
        match self {
            Self::Message(message) => each(message),
            Self::List(items) => items.iter().for_each(|item| item.value.messages(each)),
            Self::Map(entries) => entries.iter().for_each(|(_, item)| item.value.messages(each)),
            _ => {}
        }
    }
}
