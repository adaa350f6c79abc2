//! A configuration as a tree in which every value has its source position.
//!
//! Owns: nodes, positions, lookup, placeholders for values from outside. Refuses to know: the file format, how
//! placeholders are resolved.
//! Keeps: scalars keep the text that was written; the type that binds a field interprets it, so no format rule ever
//! turns `no` into a boolean.

use std::sync::Arc;

/// A range of bytes in one file of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The file, as an index into the set that was read.
    pub file: u16,
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value and its position.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Its position.
    pub span: Span,
}

/// The value of a node.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// Text as written; `quoted` distinguishes `"5"` from `5`.
    Scalar {
        /// The text, without quotes.
        text: Arc<str>,
        /// Whether it was quoted or a block scalar.
        quoted: bool,
    },
    /// Values in order.
    List(Vec<Node>),
    /// Named values in order, without duplicate names.
    Map(Vec<MapEntry>),
    /// A value that stands for one from outside the configuration.
    Substituted(Arc<Substitution>),
}

/// A placeholder for an environment variable or a file, and the text that takes its place where a single value is
/// expected.
#[derive(Clone, Debug)]
pub struct Substitution {
    /// The placeholder: text with `${NAME}`, or the map `{ env: NAME }` or `{ file: PATH }`.
    pub written: Value,
    /// The text in its place.
    pub text: Result<Arc<str>, SubstitutionError>,
}

/// Why there is no text for a placeholder.
#[derive(Clone, Debug)]
pub struct SubstitutionError {
    /// The code of the finding.
    pub code: &'static str,
    /// What is wrong.
    pub message: Arc<str>,
    /// What to do about it.
    pub help: &'static str,
}

/// Fields that a short form stands for, so that others may follow them in a path although they were not written.
pub const LEFT_OUT: [&str; 3] = ["chains", "rules", "certificates"];

/// A named value.
#[derive(Clone, Debug)]
pub struct MapEntry {
    /// The name.
    pub key: Arc<str>,
    /// The position of the name.
    pub key_span: Span,
    /// The value.
    pub node: Node,
}

impl Node {
    /// The kind of this value, as error messages name it.
    pub const fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } | Value::Substituted(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The text of a single value, after substitution.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Substituted(of) => of.text.as_deref().ok(),
            _ => None,
        }
    }

    /// The entries of a map.
    pub fn entries(&self) -> Option<&[MapEntry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            Value::Substituted(of) => match &of.written {
                Value::Map(entries) => Some(entries),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether this is `word`, without quotes.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.value, Value::Scalar { text, quoted: false } if &**text == word)
    }

    /// The entry named `key`, if this is a map that contains it.
    pub fn get(&self, key: &str) -> Option<&MapEntry> {
        self.entries()?.iter().find(|entry| &*entry.key == key)
    }

    /// The positions of the key and the value of the field that a path such as `listeners[0].chains[2].match.sni`
    /// names: of the field itself, or of the nearest one around it that was written. Short forms leave out lists with
    /// one member and fields with one meaning, so indexes and keys that are not there are passed over.
    pub fn locate(&self, path: &str) -> (Span, Span) {
        let (mut node, mut key, mut rest) = (self, self.span, path);
        while !rest.is_empty() {
            rest = rest.trim_start_matches('.');
            if let Some(index) = rest.strip_prefix('[') {
                let (index, after) = index.split_once(']').unwrap_or((index, ""));
                rest = after;
                if let Value::List(items) = &node.value
                    && let Some(item) = index.parse().ok().and_then(|at: usize| items.get(at))
                {
                    (node, key) = (item, item.span);
                }
                continue;
            }
            let ends = |entry: &&MapEntry| {
                let after = rest.strip_prefix(&*entry.key);
                after.is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
            };
            let entries = node.entries().unwrap_or_default();
            // Names may contain dots.
            match entries.iter().filter(ends).max_by_key(|entry| entry.key.len()) {
                Some(entry) => {
                    (node, key) = (&entry.node, entry.key_span);
                    rest = &rest[entry.key.len()..];
                }
                None => {
                    let end = rest.find(['.', '[']).unwrap_or(rest.len());
                    if !LEFT_OUT.contains(&&rest[..end]) {
                        break;
                    }
                    rest = &rest[end..];
                }
            }
        }
        (key, node.span)
    }

    /// The members of a list; a single value or map counts as a list of one, null as an empty list.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => std::slice::from_ref(self),
        }
    }
}

/// Equal if the values are the same, regardless of position and quotes. Placeholders are the same if they are written in
/// the same way and stand for the same text.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Scalar { text: mine, .. }, Value::Scalar { text: theirs, .. }) => {
                mine == theirs
            }
            (Value::List(mine), Value::List(theirs)) => mine == theirs,
            (Value::Map(mine), Value::Map(theirs)) => mine == theirs,
            (Value::Substituted(mine), Value::Substituted(theirs)) => {
                mine.text.as_deref().ok() == theirs.text.as_deref().ok()
                    && mine.written.as_written() == theirs.written.as_written()
            }
            _ => false,
        }
    }
}

impl PartialEq for MapEntry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.node == other.node
    }
}

/// A value with the position at which it was written. Equality compares only the value, so that moving a line within a
/// file is not a change.
#[derive(Clone, Debug, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its position.
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
