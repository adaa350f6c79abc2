//! Scopes of a route table: which of its virtual hosts a request may use, by values of its headers.
//!
//! Owns: how a key is made of headers, and the hosts of each scope. Refuses to know: rules, and what a scope is named. Keeps: a
//! request whose key is that of a scope uses the hosts of that scope and no others; any other request uses the hosts without
//! one. A look-up costs one hash, however many scopes there are.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use sluice_codec::Head;
use sluice_core::value::HostPattern;
use smallvec::SmallVec;

use super::HostTwice;
use super::index::HostIndex;

/// The scopes that a virtual host is in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostScope {
    /// How the key of a request is made, part by part; the same for all hosts of a table.
    pub key: Arc<[ScopeKeyPart]>,
    /// The keys, each with as many parts.
    pub values: Vec<Box<[Box<str>]>>,
}

/// A part of the key: the first value of a header, or something in it. A request that lacks it has no key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeKeyPart {
    /// The header.
    pub header: Box<str>,
    /// What separates the elements of its value; without any, the value is one element.
    pub separator: Option<Box<str>>,
    /// Which element.
    pub element: ScopeElement,
}

/// An element of the value of a header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ScopeElement {
    /// The one at this place, from 0.
    Index(u32),
    /// What follows the name and the sign of assignment, in the first element with that name.
    Named {
        /// The name.
        name: Box<str>,
        /// The sign.
        assignment: Box<str>,
    },
}

impl ScopeKeyPart {
    /// The part of a request's key; `None` if it has none.
    fn of<'h>(&self, head: &'h Head) -> Option<&'h [u8]> {
        let value = head.get_named(self.header.as_bytes())?;
        let separator = self.separator.as_deref().map(str::as_bytes).filter(|of| !of.is_empty());
        let mut rest = Some(value);
        let mut elements = std::iter::from_fn(move || {
            let (element, after) = match separator {
                Some(separator) => split(rest?, separator),
                None => (rest?, None),
            };
            rest = after;
            Some(element)
        });
        match &self.element {
            ScopeElement::Index(index) => elements.nth(*index as usize),
            ScopeElement::Named { name, assignment } => elements.find_map(|element| {
                let (key, value) = split(element, assignment.as_bytes());
                // An element without the sign has a name and an empty value.
                (key == name.as_bytes()).then(|| value.unwrap_or_default())
            }),
        }
    }
}

/// What is before the first `separator`, and what is behind it.
fn split<'h>(text: &'h [u8], separator: &[u8]) -> (&'h [u8], Option<&'h [u8]>) {
    match text.windows(separator.len().max(1)).position(|of| of == separator) {
        Some(at) => {
            let (before, rest) = text.split_at(at);
            (before, rest.get(separator.len()..))
        }
        None => (text, None),
    }
}

/// A key as it is looked up: its parts, each with a zero byte behind it, which no header contains.
type JoinedKey = SmallVec<[u8; 128]>;

/// The hosts of the scopes of a table.
#[derive(Debug)]
pub(super) struct ScopeIndex {
    key: Arc<[ScopeKeyPart]>,
    by_value: HashMap<Box<[u8]>, u32, FixedState>,
    hosts: Vec<HostIndex>,
}

impl ScopeIndex {
    /// Builds the index over the virtual hosts of a table; `None` if none has a scope.
    ///
    /// # Errors
    /// Hosts that are declared twice in a scope.
    pub(super) fn build<'a>(
        all: impl Iterator<Item = (&'a HostScope, usize, &'a [HostPattern])>,
    ) -> Result<Option<Self>, Vec<HostTwice>> {
        let mut key = None;
        // Hosts that are in the same scopes, which most hosts of a scope are.
        let mut alike: HashMap<&HostScope, Vec<(usize, &[HostPattern])>> = HashMap::new();
        let mut order = Vec::new();
        for (scope, place, patterns) in all {
            key.get_or_insert(&scope.key);
            let hosts = alike.entry(scope).or_default();
            if hosts.is_empty() {
                order.push(scope);
            }
            hosts.push((place, patterns));
        }
        let Some(key) = key.map(Arc::clone) else { return Ok(None) };
        let mut groups: HashMap<Box<[u8]>, Vec<usize>, FixedState> = HashMap::default();
        for (number, scope) in order.iter().enumerate() {
            for value in &scope.values {
                let joined = joined(value.iter().map(|part| part.as_bytes()));
                let of_value = groups.entry(joined.into_vec().into()).or_default();
                if of_value.last() != Some(&number) {
                    of_value.push(number);
                }
            }
        }
        let (mut hosts, mut twice) = (Vec::new(), Vec::new());
        let mut built: HashMap<Vec<usize>, u32> = HashMap::new();
        let mut by_value: HashMap<Box<[u8]>, u32, FixedState> = HashMap::default();
        for (value, group) in groups {
            let number = match built.get(&group) {
                Some(known) => *known,
                None => {
                    let members = group.iter().filter_map(|at| alike.get(order.get(*at)?));
                    match HostIndex::build(members.flatten().copied()) {
                        Ok(index) => hosts.push(index),
                        Err(found) => {
                            twice.extend(found);
                            hosts.push(HostIndex::default());
                        }
                    }
                    let number = u32::try_from(hosts.len() - 1).unwrap_or(u32::MAX);
                    built.insert(group, number);
                    number
                }
            };
            by_value.insert(value, number);
        }
        if twice.is_empty() { Ok(Some(Self { key, by_value, hosts })) } else { Err(twice) }
    }

    /// The hosts of the scope of a request; `None` if it is in no scope.
    pub(super) fn hosts(&self, head: &Head) -> Option<&HostIndex> {
        let number = self.by_value.get(&*key_of(&self.key, head)?)?;
        self.hosts.get(*number as usize)
    }
}

/// The key of a request; `None` if a part is missing.
fn key_of(key: &[ScopeKeyPart], head: &Head) -> Option<JoinedKey> {
    let mut joined = JoinedKey::new();
    for part in key {
        joined.extend_from_slice(part.of(head)?);
        joined.push(0);
    }
    Some(joined)
}

/// The key of a request as text, with a zero byte behind each part; `None` if it has none, or one that no scope can have.
pub fn key_text(key: &[ScopeKeyPart], head: &Head) -> Option<String> {
    String::from_utf8(key_of(key, head)?.into_vec()).ok()
}

fn joined<'a>(parts: impl Iterator<Item = &'a [u8]>) -> JoinedKey {
    let mut joined = JoinedKey::new();
    for part in parts {
        joined.extend_from_slice(part);
        joined.push(0);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(separator: &str, element: ScopeElement) -> ScopeKeyPart {
        let separator = (!separator.is_empty()).then(|| separator.into());
        ScopeKeyPart { header: "x-scope".into(), separator, element }
    }

    fn named(name: &str, assignment: &str) -> ScopeElement {
        ScopeElement::Named { name: name.into(), assignment: assignment.into() }
    }

    #[track_caller]
    fn check(part: &ScopeKeyPart, value: &str, expected: Option<&str>) {
        let mut head = Head::request("GET", "http", "a", "/");
        head.append(b"X-Scope", value.as_bytes());
        head.append(b"x-scope", b"second");
        assert_eq!(part.of(&head), expected.map(str::as_bytes), "{value}");
    }

    #[test]
    fn a_part_is_an_element_of_the_first_value() {
        use ScopeElement::Index;
        check(&part("", Index(0)), "a;b", Some("a;b"));
        check(&part("", Index(0)), "", Some(""));
        check(&part(";", Index(0)), "a;b", Some("a"));
        check(&part(";", Index(1)), "a;b", Some("b"));
        check(&part(";", Index(1)), "a;", Some(""));
        check(&part(";", Index(2)), "a;b", None);
        check(&part("; ", Index(1)), "a; b;c", Some("b;c"));
        check(&part(";", named("k", "=")), "j=1;k=2;k=3", Some("2"));
        check(&part(";", named("k", "=")), "k", Some(""));
        check(&part(";", named("k", "=")), " k=2", None);
        check(&part(";", named("k", "=")), "k=2=3", Some("2=3"));
        check(&part("", named("k", "->")), "k->2;x", Some("2;x"));
        check(&part(",", named("k", "=")), "kk=1,K=2", None);
        let absent = part("", Index(0));
        assert_eq!(absent.of(&Head::request("GET", "http", "a", "/")), None);
    }
}
