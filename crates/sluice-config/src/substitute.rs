//! Values from outside a configuration: environment variables and files.
//!
//! Owns: `${NAME}`, `{ env: NAME }` and `{ file: PATH }`, and how each is resolved. Refuses to know: which fields take
//! a single value; a placeholder is used where the type of the field asks for its text.
//! Keeps: the text of YAML is parsed first, so a value cannot add to its structure; keys are never touched; an error is
//! reported only where the value is needed.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use sluice_core::tree::{MapEntry, Substitution, SubstitutionError};
use sluice_core::{Node, Value};

use crate::sources::Sources;

/// Maximum size of a file whose content is a value, in bytes. Not among the limits that a file may set: it applies
/// while the configuration is read.
pub const VALUE_BYTES_MAX: u64 = 1 << 20;

/// Reads an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Resolves the placeholders in `root`. Files are relative to `folder`; their content is kept in `sources`, and so is
/// what each placeholder stands for.
pub(crate) fn resolve(
    root: &mut Node,
    folder: &Path,
    sources: &mut Sources,
    environment: Environment<'_>,
) {
    let mut resolver = Resolver { folder, sources, environment };
    // The whole configuration is not a single value.
    match &mut root.value {
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| resolver.resolve(&mut entry.node));
        }
        _ => resolver.resolve(root),
    }
}

struct Resolver<'a> {
    folder: &'a Path,
    sources: &'a mut Sources,
    environment: Environment<'a>,
}

impl Resolver<'_> {
    fn resolve(&mut self, node: &mut Node) {
        let text = match &mut node.value {
            Value::Null | Value::Substituted(_) => return,
            Value::Scalar { text, .. } => match expand(text, self.environment).transpose() {
                None => return,
                Some(text) => text.map(Arc::from),
            },
            Value::List(items) => return items.iter_mut().for_each(|item| self.resolve(item)),
            Value::Map(entries) => {
                entries.iter_mut().for_each(|entry| self.resolve(&mut entry.node));
                let [MapEntry { key, node, .. }] = entries.as_slice() else { return };
                match (&**key, node.text()) {
                    ("env", Some(name)) => variable(name, self.environment),
                    ("file", Some(path)) => self.file(&self.folder.join(path)),
                    _ => return,
                }
            }
        };
        let written = std::mem::replace(&mut node.value, Value::Null);
        let substitution = Arc::new(Substitution { written, text });
        self.sources.substituted(&substitution);
        node.value = Value::Substituted(substitution);
    }

    fn file(&mut self, path: &Path) -> Result<Arc<str>, SubstitutionError> {
        if let Some(known) = self.sources.value_file(path) {
            return known.clone();
        }
        let content = content(path).map(Arc::from);
        self.sources.add_value_file(path.to_owned(), content.clone());
        content
    }
}

/// Replaces `${NAME}` and `${NAME:-default}` by the values of environment variables and `$${` by `${`; `None` if the
/// text contains none of them.
fn expand(text: &str, environment: Environment<'_>) -> Result<Option<String>, SubstitutionError> {
    if !text.contains("${") {
        return Ok(None);
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((inner, behind)) = after.split_once('}') else {
            return Err(bad_variable("`${` has no closing `}`".into()));
        };
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        match default {
            Some(default) => match variable(name, environment) {
                Ok(value) if !value.is_empty() => out.push_str(&value),
                Err(error) if error.code != UNSET => return Err(error),
                _ => out.push_str(default),
            },
            None => out.push_str(&variable(name, environment)?),
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(Some(out))
}

const UNSET: &str = "unset-variable";

fn variable(name: &str, environment: Environment<'_>) -> Result<Arc<str>, SubstitutionError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.as_bytes()[0].is_ascii_digit() || !name.bytes().all(word) {
        return Err(bad_variable(format!("`{name}` is not the name of an environment variable")));
    }
    let value = environment(name).ok_or_else(|| SubstitutionError {
        code: UNSET,
        message: format!("the environment variable `{name}` is not set").into(),
        help: "set it where Sluice is started, or give a default: `${NAME:-default}`",
    })?;
    value.into_string().map(Arc::from).map_err(|_| SubstitutionError {
        code: "bad-variable",
        message: format!("the environment variable `{name}` is not UTF-8").into(),
        help: "set it to text in UTF-8",
    })
}

fn bad_variable(message: String) -> SubstitutionError {
    SubstitutionError {
        code: "bad-variable",
        message: message.into(),
        help: "write `${NAME}` or `${NAME:-default}`; `$${` stands for a literal `${`",
    }
}

/// The content of a file without the line break at its end.
fn content(path: &Path) -> Result<String, SubstitutionError> {
    let shown = path.display();
    let bad = |message: String, help| SubstitutionError {
        code: "bad-file",
        message: message.into(),
        help,
    };
    let unreadable = |error: std::io::Error| {
        let help = "the path is relative to the configuration file; its content is the value";
        bad(format!("{shown}: cannot be read: {error}"), help)
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(bad(
            format!("{shown}: is not a file"),
            "name a file whose content is the value",
        ));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(VALUE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > VALUE_BYTES_MAX {
        let message =
            format!("{shown}: a value from a file must not exceed {VALUE_BYTES_MAX} bytes");
        return Err(bad(message, "name a smaller file"));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        bad(format!("{shown}: byte {at} is not UTF-8"), "store the value as text in UTF-8")
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
