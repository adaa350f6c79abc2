//! The fields of one section, taken one by one.

use super::{Path, Setting, suggest_word, wrong_kind};
use crate::diagnostics::Diags;
use crate::tree::{Entry, Node, Span, Value};

/// A map that is being bound. Used by the [`section!`](crate::section) macro.
#[derive(Debug)]
pub struct Fields<'a> {
    entries: &'a [Entry],
    span: Span,
    at: &'a Path<'a>,
}

impl<'a> Fields<'a> {
    /// Opens `node` as a section that knows the keys `known`; reports every key that it does not.
    pub fn open(
        node: &'a Node,
        at: &'a Path<'a>,
        diags: &mut Diags,
        known: &[&str],
    ) -> Option<Self> {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => {
                let what = format!("a map with fields such as `{}`", known[0]);
                wrong_kind(node, at, diags, &what);
                return None;
            }
        };
        for entry in entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            let help = suggest_word(&entry.key, known)
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            diags
                .error(
                    "unknown-field",
                    entry.key_span,
                    at.key(&entry.key),
                    format!("`{}` is not a field here", entry.key),
                )
                .help(help);
        }
        Some(Self { entries, span: node.span, at })
    }

    /// Takes one field: its value, its default, or the error that it is missing.
    pub fn take<T: Setting>(
        &self,
        key: &'static str,
        default: Option<&'static str>,
        diags: &mut Diags,
    ) -> Option<T> {
        let at = self.at.key(key);
        if let Some(entry) = self.entries.iter().find(|entry| &*entry.key == key) {
            return T::bind(&entry.node, &at, diags);
        }
        if let Some(text) = default {
            let value = Value::Scalar { text: text.into(), quoted: false };
            return T::bind(&Node { value, span: self.span }, &at, diags);
        }
        let absent = T::absent();
        if absent.is_none() {
            diags.error("missing-field", self.span, at, format!("`{key}` is missing"));
        }
        absent
    }
}
