//! The fields of one section, read one by one.

use super::{Path, Setting, wrong_kind};
use crate::diagnostics::Diags;
use crate::suggest::nearest;
use crate::tree::{MapEntry, Node, Span, Value};

/// The start of the help for an unknown field that is close to no known one.
pub const KNOWN_HERE: &str = "known fields: ";

fn has(entries: &[MapEntry], key: &str) -> bool {
    entries.iter().any(|entry| &*entry.key == key)
}

/// A map that is being bound. Used by the [`section!`](crate::section) macro.
#[derive(Debug)]
pub struct Fields<'a> {
    entries: &'a [MapEntry],
    span: Span,
    at: &'a Path<'a>,
    /// Fields that unknown ones probably mean: their error has already been reported.
    misspelt: Vec<String>,
}

impl<'a> Fields<'a> {
    /// Opens `node` as a section with the keys `known`; reports every other key. `true` stands for a section without
    /// fields.
    pub fn open(
        node: &'a Node,
        at: &'a Path<'a>,
        diags: &mut Diags,
        known: &[&str],
    ) -> Option<Self> {
        let entries: &[MapEntry] = match &node.value {
            _ if node.entries().is_some() => node.entries().unwrap_or_default(),
            Value::Null => &[],
            _ if node.is_word("true") => &[],
            _ => {
                let what = format!("a map with fields such as `{}`", known[0]);
                wrong_kind(node, at, diags, &what);
                if node.is_word("false") {
                    diags.last_mut()?.help("leave the field out; `true` means its defaults");
                }
                return None;
            }
        };
        let mut misspelt = Vec::new();
        for entry in entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            let near = nearest(&entry.key, known.iter().copied());
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{KNOWN_HERE}{}", known.join(", ")),
            };
            misspelt.extend(near.filter(|near| !has(entries, near)).map(str::to_owned));
            diags
                .error(
                    "unknown-field",
                    entry.key_span,
                    at.key(&entry.key),
                    format!("unknown field `{}`", entry.key),
                )
                .help(help);
        }
        Some(Self { entries, span: node.span, at, misspelt })
    }

    /// Reads one field: its value, its default, or the error that it is missing.
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
        if self.misspelt.iter().any(|of| of == key) {
            return None;
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
