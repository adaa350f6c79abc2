//! Sections in lists and maps.
//!
//! Owns: how a wrong section affects its siblings. Refuses to know: the sections.
//! Keeps: a wrong section is left out and recorded, and the others keep their positions, so that they can still be
//! checked; the errors that were added prevent the configuration from being used.

use std::collections::BTreeMap;

use super::{Path, Plain, Setting, Shape, entries_of, parse_name};
use crate::Name;
use crate::diagnostics::Diags;
use crate::tree::{MapEntry, Node, Spanned, Value};

/// A list of sections, or a single one.
#[derive(Clone, Debug)]
pub struct Members<T> {
    written: usize,
    /// The valid ones, with their indexes in the list.
    right: Vec<(usize, Spanned<T>)>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { written: 0, right: Vec::new() }
    }
}

impl<T> Members<T> {
    /// Creates a list of one member without a source position.
    pub fn one(member: Spanned<T>) -> Self {
        Self { written: 1, right: vec![(0, member)] }
    }

    /// The number of members written, valid or not.
    pub const fn len(&self) -> usize {
        self.written
    }

    /// Whether no members were written.
    pub const fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// The valid members.
    pub fn iter(&self) -> impl Iterator<Item = &Spanned<T>> {
        self.right.iter().map(|(_, member)| member)
    }

    /// The valid members, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Spanned<T>> {
        self.right.iter_mut().map(|(_, member)| member)
    }

    /// The valid members with their indexes in the list, mutable.
    pub fn places_mut(&mut self) -> impl Iterator<Item = (usize, &mut Spanned<T>)> {
        self.right.iter_mut().map(|(place, member)| (*place, member))
    }

    /// The valid members with their indexes in the list.
    pub fn places(&self) -> impl Iterator<Item = (usize, &Spanned<T>)> {
        self.right.iter().map(|(place, member)| (*place, member))
    }
}

impl<T: PartialEq> PartialEq for Members<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Setting> Setting for Members<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let listed = matches!(node.value, Value::List(_));
        let items = node.items();
        if let Some(first) = named_instead(node, &T::shape()) {
            let message = format!("`{at}` is a list of sections, not a map of names to sections");
            let help = format!(
                "write `- name: {first}` in place of `{first}:`, and its fields below `name`"
            );
            diags.error("name-in-place-of-item", node.span, at, message).help(help);
            return Some(Self { written: items.len(), right: Vec::new() });
        }
        let mut right = Vec::new();
        for (place, item) in items.iter().enumerate() {
            let here = at.index(place);
            let bound = Spanned::bind(item, if listed { &here } else { at }, diags);
            right.extend(bound.map(|member| (place, member)));
        }
        Some(Self { written: items.len(), right })
    }

    fn shape() -> Shape {
        Shape::OneOrMany(Box::new(T::shape()))
    }

    fn show(&self) -> Plain {
        Plain::List(self.iter().map(Setting::show).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

/// The first name of a map of sections that stands where a list of sections that state their own names is expected.
fn named_instead<'n>(node: &'n Node, item: &Shape) -> Option<&'n str> {
    let (Value::Map(entries), Shape::Section(section)) = (&node.value, item) else { return None };
    let fields = section().fields;
    let is_field = |key: &str| fields.iter().any(|field| field.key == key);
    let is_named =
        |entry: &MapEntry| matches!(entry.node.value, Value::Map(_)) && !is_field(&entry.key);
    let are_named = is_field("name") && entries.iter().all(is_named);
    are_named.then(|| entries.first().map(|entry| &*entry.key)).flatten()
}

/// Sections by name; the position of each is that of its name.
#[derive(Clone, Debug)]
pub struct Named<T> {
    right: BTreeMap<Name, Spanned<T>>,
    wrong: Vec<Name>,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self { right: BTreeMap::new(), wrong: Vec::new() }
    }
}

impl<T> Named<T> {
    /// The section named `name`, if it is valid.
    pub fn get(&self, name: &str) -> Option<&Spanned<T>> {
        self.right.get(name)
    }

    /// Adds a section.
    pub fn insert(&mut self, name: Name, section: Spanned<T>) {
        self.right.insert(name, section);
    }

    /// Every name that was written, including those of invalid sections.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.right.keys().chain(&self.wrong)
    }

    /// The valid sections.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Spanned<T>)> {
        self.right.iter()
    }
}

impl<T: PartialEq> PartialEq for Named<T> {
    fn eq(&self, other: &Self) -> bool {
        self.right == other.right
    }
}

impl<T: Setting> Setting for Named<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let mut all = Self::default();
        for entry in entries_of(node, at, diags, "a map of names")? {
            let here = at.key(&entry.key);
            let name = parse_name(&entry.key);
            if let Err(message) = &name {
                diags.error("bad-name", entry.key_span, here, message);
            }
            match (name, T::bind(&entry.node, &here, diags)) {
                (Ok(name), Some(value)) => {
                    all.right.insert(name, Spanned { value, span: entry.key_span });
                }
                _ => all.wrong.push((&*entry.key).into()),
            }
        }
        Some(all)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(T::shape()))
    }

    fn show(&self) -> Plain {
        Plain::Map(self.iter().map(|(name, value)| (name.to_string(), value.show())).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}
