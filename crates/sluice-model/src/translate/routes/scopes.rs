//! The scopes of virtual hosts.
//!
//! Owns: that the keys of a table fit each other, and how many there are. Refuses to know: rules.

use std::num::NonZeroU32;
use std::sync::Arc;

use sluice_core::settings::{Members, Short};
use sluice_core::{Diags, Path, Span, Spanned};
use sluice_l7::routes::{HostScope, ScopeElement, ScopeKeyPart};

use crate::sections::HostOrRule;
use crate::sections::routes::scopes::{Scope, ScopePart};

/// The scope of a virtual host, which is at `at`.
pub(super) fn scope(
    section: &Spanned<Scope>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<HostScope> {
    let Scope { key, values } = &section.value;
    for (field, is_empty) in [("key", key.is_empty()), ("values", values.is_empty())] {
        if is_empty {
            let message = format!("`{field}` of a scope is missing");
            let finding = diags.error("missing-field", section.span, at.key(field), message);
            finding.help("write `scope: { key: [x-tenant], values: [blue] }`");
            return None;
        }
    }
    let key = scope_key(key, &at.key("key"), diags)?;
    let list = at.key("values");
    let mut keys = Vec::with_capacity(values.len());
    for (place, value) in values.iter().enumerate() {
        if value.len() != key.len() {
            let message =
                format!("`key` has {} parts, and this value has {}", key.len(), value.len());
            let finding = diags.error("bad-value", value.span, list.index(place), message);
            finding.help("write a list with a value for each part");
            return None;
        }
        keys.push(value.iter().map(|part| part.as_str().into()).collect());
    }
    Some(HostScope { key, values: keys })
}

/// What keys are made of.
pub(in crate::translate) fn scope_key(
    parts: &[Spanned<Short<ScopePart>>],
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Arc<[ScopeKeyPart]>> {
    let parts = parts.iter().enumerate();
    parts.map(|(place, part)| self::part(part, &at.index(place), diags)).collect()
}

fn part(
    section: &Spanned<Short<ScopePart>>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<ScopeKeyPart> {
    let ScopePart { header, separator, item, element, assignment } = &section.value.0;
    let mut wrong = |key: &str, message: &str, help: &str| {
        diags.error("bad-value", section.span, at.key(key), message).help(help);
        None
    };
    if separator.as_ref().is_some_and(String::is_empty) {
        return wrong(
            "separator",
            "`separator` is empty",
            "remove it: the value is one element then",
        );
    }
    if assignment.is_empty() {
        return wrong("assignment", "`assignment` is empty", "write what is behind the name: `=`");
    }
    if item.is_some() && element.is_some() {
        return wrong("item", "`item` and `element` both say which element is meant", "keep one");
    }
    if item.is_some_and(|item| item.get() > 1) && separator.is_none() {
        return wrong("item", "without `separator`, there is one element", "add `separator`");
    }
    let element = match element {
        Some(name) => ScopeElement::Named {
            name: name.as_str().into(),
            assignment: assignment.as_str().into(),
        },
        None => ScopeElement::Index(item.map_or(0, NonZeroU32::get).saturating_sub(1)),
    };
    let separator = separator.as_deref().map(Into::into);
    Some(ScopeKeyPart { header: header.0.to_ascii_lowercase().into(), separator, element })
}

/// Checks that the scopes of a table have one key, and that there are not more than `most` values.
pub(super) fn check(
    hosts: &Members<HostOrRule>,
    most: usize,
    at: &Path<'_>,
    diags: &mut Diags,
) -> bool {
    let mut first: Option<(&Scope, Span)> = None;
    let mut count = 0;
    for (place, host) in hosts.places() {
        let Some(scope) = &host.scope else { continue };
        let here = at.index(place);
        let (known, span) = *first.get_or_insert((&scope.value, scope.span));
        let same = known.key.len() == scope.key.len()
            && known.key.iter().zip(&scope.key).all(|(a, b)| a.value == b.value);
        if !same {
            let message = "the scopes of a route table have one `key`, and this one is another";
            diags
                .error("conflict", scope.span, here.key("scope").key("key"), message)
                .other(span, "the other one")
                .help("use the same key, or another table");
            return false;
        }
        count += scope.values.len();
        if count > most {
            let message = format!("the table has more than {most} values of scopes");
            diags
                .error("bad-value", scope.span, here.key("scope"), message)
                .help("raise `route_scopes` under `limits`, or use fewer");
            return false;
        }
    }
    true
}
