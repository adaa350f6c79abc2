//! The native form, as it is built: a tree whose values have the places of what they come from.
//!
//! Owns: maps, lists and single values. Refuses to know: Envoy, and what a section means. Keeps: the place of every
//! value is that of the field that it is made from, so that findings about it lead there.

use std::fmt::Display;

use sluice_core::tree::MapEntry;
use sluice_core::{Node, Span, Value};

/// A map as it is built.
#[derive(Clone, Debug)]
pub(crate) struct NativeMap {
    span: Span,
    entries: Vec<MapEntry>,
}

impl NativeMap {
    /// An empty map, made from what is at this place.
    pub(crate) const fn new(span: Span) -> Self {
        Self { span, entries: Vec::new() }
    }

    /// Adds a value; a later one under the same key replaces it.
    pub(crate) fn set(&mut self, key: &str, node: Node) {
        self.entries.retain(|entry| &*entry.key != key);
        self.entries.push(MapEntry { key: key.into(), key_span: node.span, node });
    }

    /// Adds a value under a key that is not there yet.
    pub(crate) fn push(&mut self, key: &str, node: Node) {
        self.entries.push(MapEntry { key: key.into(), key_span: node.span, node });
    }

    /// Adds text.
    pub(crate) fn text(&mut self, key: &str, text: &str, span: Span) {
        self.set(key, quoted(text, span));
    }

    /// Adds a word: a number, a truth value, a duration, `none` or one of a choice.
    pub(crate) fn word(&mut self, key: &str, word: impl Display, span: Span) {
        self.set(key, plain(word, span));
    }

    /// Adds a map unless it is empty.
    pub(crate) fn map(&mut self, key: &str, map: Self) {
        if !map.entries.is_empty() {
            self.set(key, map.node());
        }
    }

    /// Adds a list unless it is empty.
    pub(crate) fn list(&mut self, key: &str, items: Vec<Node>, span: Span) {
        if !items.is_empty() {
            self.set(key, Node { value: Value::List(items), span });
        }
    }

    /// A value.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|entry| &*entry.key == key).map(|entry| &entry.node)
    }

    /// All values.
    pub(crate) fn entries(&self) -> &[MapEntry] {
        &self.entries
    }

    /// Whether another map says the same, wherever it stands, in the same order.
    pub(crate) fn says_as(&self, other: &Self) -> bool {
        let (own, other) = (self.clone().node(), other.clone().node());
        same(&own, &other)
    }

    /// Takes a value out again.
    pub(crate) fn take(&mut self, key: &str) -> Option<Node> {
        let at = self.entries.iter().position(|entry| &*entry.key == key)?;
        Some(self.entries.remove(at).node)
    }

    /// The map that a node is, or an empty one.
    pub(crate) fn of(node: Option<Node>, span: Span) -> Self {
        match node {
            Some(Node { value: Value::Map(entries), span }) => Self { span, entries },
            _ => Self::new(span),
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.key == key)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn node(self) -> Node {
        Node { value: Value::Map(self.entries), span: self.span }
    }
}

/// Text, which is never taken for anything else.
pub(crate) fn quoted(text: &str, span: Span) -> Node {
    Node { value: Value::Scalar { text: text.into(), quoted: true }, span }
}

/// A word, which may be a number or one of a choice.
pub(crate) fn plain(word: impl Display, span: Span) -> Node {
    Node { value: Value::Scalar { text: word.to_string().into(), quoted: false }, span }
}

/// A map with one entry.
pub(crate) fn single(key: &str, node: Node) -> Node {
    let mut map = NativeMap::new(node.span);
    map.set(key, node);
    map.node()
}

/// Whether two trees say the same, wherever they stand.
pub(crate) fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.key == b.key && same(&a.node, &b.node))
        }
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a.text().is_some() && a.text() == b.text(),
    }
}
