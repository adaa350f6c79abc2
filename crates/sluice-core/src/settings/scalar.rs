//! Single values.
//!
//! Owns: how the text of a value is parsed, and which values take `${` literally. Refuses to know: how a placeholder is
//! resolved. Keeps: an error about a value from outside the configuration does not contain that value.

use super::{Path, Plain, Setting, Shape, wrong_kind};
use crate::diagnostics::Diags;
use crate::tree::{Node, Span, Substitution, Value};

/// Binds a single value with `parse`; `what` names the expected kind in the error if `node` is not a single value.
pub fn bind_scalar<T>(
    node: &Node,
    at: &Path<'_>,
    diags: &mut Diags,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let (text, placeholder) = match &node.value {
        Value::Scalar { text, .. } => (text, None),
        Value::Substituted(of) => match &of.text {
            Ok(text) => (text, Some(of)),
            Err(why) => {
                diags.error(why.code, node.span, at, &*why.message).help(why.help);
                return None;
            }
        },
        Value::Null | Value::List(_) | Value::Map(_) => {
            wrong_kind(node, at, diags, what);
            return None;
        }
    };
    let message = match parse(text) {
        Ok(value) => return Some(value),
        Err(message) => message,
    };
    match placeholder {
        None => diags.error("bad-value", node.span, at, message),
        Some(placeholder) => {
            let message =
                format!("expected {what}; the value of `{placeholder}` is not valid here");
            diags
                .error("bad-value", node.span, at, message)
                .help("change the variable or the content of the file")
        }
    };
    None
}

/// Binds a single value in which `${` has no special meaning, such as a regex; `{ env: }` and `{ file: }` do.
pub fn bind_verbatim<T>(
    node: &Node,
    at: &Path<'_>,
    diags: &mut Diags,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    match &node.value {
        Value::Substituted(of) if matches!(of.written, Value::Scalar { .. }) => {
            let literal = Node { value: of.written.clone(), span: node.span };
            bind_scalar(&literal, at, diags, what, parse)
        }
        _ => bind_scalar(node, at, diags, what, parse),
    }
}

/// Text in which `${` has no special meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verbatim(pub String);

impl Setting for Verbatim {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_verbatim(node, at, diags, "text", |text| Ok(Self(text.to_owned())))
    }

    fn shape() -> Shape {
        String::shape()
    }

    fn show(&self) -> Plain {
        Plain::Text(self.0.clone())
    }
}

impl Value {
    /// The value as it was written, with placeholders in place of what they stand for.
    pub fn as_written(&self) -> Plain {
        match self {
            Self::Null => Plain::Null,
            Self::Scalar { text, quoted: false } if matches!(&**text, "true" | "false") => {
                Plain::Bool(&**text == "true")
            }
            Self::Scalar { text, .. } => Plain::Text(text.to_string()),
            Self::List(items) => Plain::List(items.iter().map(Setting::show).collect()),
            Self::Map(entries) => {
                let shown = entries.iter().map(|e| (e.key.to_string(), e.node.show()));
                Plain::Map(shown.collect())
            }
            Self::Substituted(of) => of.written.as_written(),
        }
    }
}

impl Node {
    /// The place of the first text that contains `part`, as a path below `at`, and its position.
    pub fn find_text(&self, part: &str, at: &Path<'_>) -> Option<(String, Span)> {
        if let Some(text) = self.text() {
            return text.contains(part).then(|| (at.to_string(), self.span));
        }
        if let Value::List(items) = &self.value {
            let mut items = items.iter().enumerate();
            return items.find_map(|(index, item)| item.find_text(part, &at.index(index)));
        }
        let mut entries = self.entries().unwrap_or_default().iter();
        entries.find_map(|entry| entry.node.find_text(part, &at.key(&entry.key)))
    }
}

/// The placeholder as it was written.
impl std::fmt::Display for Substitution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.written {
            Value::Scalar { text, .. } => f.write_str(text),
            Value::Map(entries) => {
                f.write_str("{ ")?;
                for entry in entries {
                    write!(f, "{}: ", entry.key)?;
                    match &entry.node.value {
                        Value::Substituted(of) => write!(f, "{of}")?,
                        _ => f.write_str(entry.node.text().unwrap_or_default())?,
                    }
                }
                f.write_str(" }")
            }
            _ => Ok(()),
        }
    }
}
