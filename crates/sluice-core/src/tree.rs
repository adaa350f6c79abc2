//! A configuration as a tree in which every value knows its place.
//!
//! Owns: nodes, places, lookup. Refuses to know: the file format that it was read from.
//! Keeps: scalars stay the text that was written; whoever binds a field decides what it means, so
//! no format rule ever turns `no` into a boolean.

use std::sync::Arc;

/// A range of bytes in one of the files of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Which file, as an index into the set that was read.
    pub file: u16,
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub span: Span,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing was written, or `null` or `~`.
    Null,
    /// Text as written; `quoted` tells `"5"` from `5`.
    Scalar {
        /// The text, without quotes.
        text: Arc<str>,
        /// Whether it stood in quotes or in a block.
        quoted: bool,
    },
    /// Values in order.
    List(Vec<Node>),
    /// Named values in order; a name stands once.
    Map(Vec<MapEntry>),
}

/// A named value.
#[derive(Clone, Debug)]
pub struct MapEntry {
    /// The name.
    pub key: Arc<str>,
    /// Where the name stands.
    pub key_span: Span,
    /// The value.
    pub node: Node,
}

impl Node {
    /// What kind of value this is, in the words of an error.
    pub const fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The text of a single value.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The entry named `key`, when this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&MapEntry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    /// The members of a list; a single value or map is a list of itself; nothing is an empty list.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => std::slice::from_ref(self),
        }
    }
}

/// A value that remembers where it was written. Equality looks at the value alone, so that moving
/// a line in a file is no change.
#[derive(Clone, Debug, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
