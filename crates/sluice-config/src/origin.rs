//! Which values of the long form are defaults.
//!
//! Owns: the comparison of the long form with the tree that it was read from. Refuses to know: what the defaults are.
//! Keeps: a value that was written is never called a default; of a short form, those that stand in it are written.

use sluice_core::tree::LEFT_OUT;
use sluice_core::{Node, Plain, Value};

/// Where a value of the long form comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SettingOrigin<'a> {
    /// It does not matter.
    Unasked,
    /// It was written so.
    Written(&'a Node),
    /// It is one of the values that a short form stands for.
    Within(&'a Node),
    /// It was not written.
    Default,
}

impl<'a> SettingOrigin<'a> {
    /// The origin of a field of this map.
    pub(crate) fn field(self, key: &str) -> Self {
        let (Self::Written(node) | Self::Within(node)) = self else { return self };
        match &node.value {
            Value::Map(_) => match node.get(key) {
                Some(entry) => Self::Written(&entry.node),
                // The fields of a list's only member.
                None if LEFT_OUT.contains(&key) => self,
                None => Self::Default,
            },
            Value::Null => Self::Default,
            Value::Scalar { .. } | Value::List(_) | Value::Substituted(_) => Self::Within(node),
        }
    }

    /// The origin of an item of this list of `len`.
    pub(crate) fn item(self, index: usize, len: usize) -> Self {
        let (Self::Written(node) | Self::Within(node)) = self else { return self };
        match &node.value {
            Value::List(items) if items.len() == len => Self::Written(&items[index]),
            Value::List(_) => Self::Within(node),
            // An item that is not in a list.
            _ => self,
        }
    }

    /// Whether a value that has no fields is a default.
    pub(crate) fn is_default(self, value: &Plain) -> bool {
        match self {
            Self::Unasked | Self::Written(_) => false,
            Self::Default => true,
            Self::Within(node) => match value {
                Plain::List(items) => !items.iter().any(|item| has(node, item)),
                value => !has(node, value),
            },
        }
    }
}

/// Whether a short form contains this value.
fn has(node: &Node, value: &Plain) -> bool {
    let is = |text: &str| match value {
        // `true` stands for a section with its defaults.
        Plain::Null | Plain::Bool(_) | Plain::List(_) | Plain::Map(_) => false,
        Plain::Number(number) => *text == number.to_string(),
        Plain::Text(shown) => text == shown,
    };
    match &node.value {
        Value::Null => false,
        Value::Scalar { text, .. } => is(text),
        Value::Substituted(of) => {
            of.text.as_ref().is_ok_and(|text| is(text)) || of.written.as_written() == *value
        }
        Value::List(items) => items.iter().any(|item| has(item, value)),
        Value::Map(entries) => entries.iter().any(|entry| has(&entry.node, value)),
    }
}
