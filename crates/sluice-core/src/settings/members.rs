//! Sections in lists and maps.
//!
//! Owns: what becomes of the neighbours of a section that is wrong. Refuses to know: the sections.
//! Keeps: one that is wrong is left out and remembered, and the others keep their places, so that
//! they can be checked all the same; the errors that were added keep the whole from being used.

use std::collections::BTreeMap;

use super::{Path, Plain, Setting, Shape, entries_of, parse_name};
use crate::Name;
use crate::diagnostics::Diags;
use crate::tree::{Node, Spanned, Value};

/// Sections in a list, or one alone.
#[derive(Clone, Debug)]
pub struct Members<T> {
    written: usize,
    /// Those that are right, with their places in the list.
    right: Vec<(usize, Spanned<T>)>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { written: 0, right: Vec::new() }
    }
}

impl<T> Members<T> {
    /// A list of one, which stands nowhere.
    pub fn one(member: Spanned<T>) -> Self {
        Self { written: 1, right: vec![(0, member)] }
    }

    /// How many were written, right or wrong.
    pub const fn len(&self) -> usize {
        self.written
    }

    /// Whether none was written.
    pub const fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// Those that are right.
    pub fn iter(&self) -> impl Iterator<Item = &Spanned<T>> {
        self.right.iter().map(|(_, member)| member)
    }

    /// Those that are right, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Spanned<T>> {
        self.right.iter_mut().map(|(_, member)| member)
    }

    /// Those that are right, with their places in the list.
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

/// Sections by name; the place of each is that of its name.
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
    /// The section of that name, if it is right.
    pub fn get(&self, name: &str) -> Option<&Spanned<T>> {
        self.right.get(name)
    }

    /// Every name that was written, also of what is wrong.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.right.keys().chain(&self.wrong)
    }

    /// Those that are right.
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
