//! The shape of a setting, and a value in its long form.

use crate::tree::{MapEntry, Node, Span, Value};

/// The permitted values of a setting.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A single value of some kind, with an example.
    Text {
        /// What it is: `a duration`.
        what: &'static str,
        /// A valid example.
        example: &'static str,
    },
    /// Text that is never shown.
    Secret,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Count {
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
    },
    /// One of these words, each with its meaning.
    Choice(Vec<(&'static str, &'static str)>),
    /// Named fields; a function, since sections may contain themselves.
    Section(fn() -> SectionShape),
    /// The value or a list of them.
    OneOrMany(Box<Self>),
    /// A map of names to values.
    Named(Box<Self>),
    /// The value or the word `none`.
    OrNone(Box<Self>),
    /// The short form, then the long form.
    Either(Vec<Self>),
    /// `true` or an empty map.
    Empty,
    /// A map of exactly one of these entries.
    Tagged(Vec<FieldShape>),
    /// A map of any of these entries.
    Fields(Vec<FieldShape>),
    /// Any value; bound by another component.
    Any,
}

/// A section: its name on the reference page and its fields.
#[derive(Clone, Debug)]
pub struct SectionShape {
    /// The name of the type.
    pub name: &'static str,
    /// The purpose of the section.
    pub doc: String,
    /// The fields, in display order.
    pub fields: Vec<FieldShape>,
}

/// A field of a section.
#[derive(Clone, Debug)]
pub struct FieldShape {
    /// The key.
    pub key: &'static str,
    /// The meaning of the field.
    pub doc: String,
    /// Whether it is required.
    pub required: bool,
    /// The default.
    pub default: Option<&'static str>,
    /// The permitted values.
    pub shape: Shape,
}

/// A value without source positions: the long form that `explain` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// Null; such fields are left out.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Text.
    Text(String),
    /// Values in order.
    List(Vec<Self>),
    /// Named values in order.
    Map(Vec<(String, Self)>),
}

impl Plain {
    /// The value as a tree without positions; fields that are null are left out.
    pub fn to_node(&self) -> Node {
        let scalar = |text: String| Value::Scalar { text: text.into(), quoted: false };
        let value = match self {
            Self::Null => Value::Null,
            Self::Bool(value) => scalar(value.to_string()),
            Self::Number(value) => scalar(value.to_string()),
            Self::Text(text) => scalar(text.clone()),
            Self::List(items) => Value::List(items.iter().map(Self::to_node).collect()),
            Self::Map(fields) => {
                let fields = fields.iter().filter(|(_, value)| *value != Self::Null);
                let entry = |(key, value): &(String, Self)| MapEntry {
                    key: key.as_str().into(),
                    key_span: Span::default(),
                    node: value.to_node(),
                };
                Value::Map(fields.map(entry).collect())
            }
        };
        Node { value, span: Span::default() }
    }
}
