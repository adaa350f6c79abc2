//! Trees of matchers (`xds.type.matcher`).
//!
//! Owns: which actions a tree can end in, and the tests on the way to each, in the order in which they count. Refuses to
//! know: what is tested, and what an action does. Keeps: the first action whose tests hold is the one that Envoy would
//! take; a tree for which that cannot be said is refused.

use super::Mapping;
use crate::message::{ProtoItem, ProtoMessage, ProtoValue};

/// A test on the way to an action.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test<'m> {
    /// A `Predicate`.
    Predicate(&'m ProtoMessage),
    /// The value of an input is, or begins with, a key.
    Key {
        /// The `TypedExtensionConfig` of the input.
        input: &'m ProtoMessage,
        /// The key.
        key: &'m str,
        /// Whether it is only the begin of the value.
        prefix: bool,
    },
}

/// An action, and all that must hold for it.
pub(super) struct Leaf<'m> {
    pub(super) tests: Vec<Test<'m>>,
    /// The `TypedExtensionConfig` of the action.
    pub(super) action: &'m ProtoMessage,
}

/// How many actions a tree may have.
const LEAVES_MAX: usize = 4096;

impl Mapping<'_> {
    /// The actions of a `Matcher`; `None` if it cannot be taken apart, which is reported.
    pub(super) fn leaves<'m>(&mut self, matcher: &'m ProtoMessage) -> Option<Vec<Leaf<'m>>> {
        let mut leaves = Vec::new();
        let whole = self.add_leaves(matcher, &[], &mut leaves);
        if leaves.len() > LEAVES_MAX {
            self.unsupported(matcher, "matcher_list", "a tree with more than 4096 actions");
            return None;
        }
        whole.then_some(leaves)
    }

    fn add_leaves<'m>(
        &mut self,
        matcher: &'m ProtoMessage,
        above: &[Test<'m>],
        leaves: &mut Vec<Leaf<'m>>,
    ) -> bool {
        let mut whole = true;
        if let Some(list) = matcher.message("matcher_list") {
            for entry in list.messages("matchers") {
                let tests = entry.message("predicate").map(Test::Predicate);
                let tests = [above, tests.as_slice()].concat();
                whole &= entry.message("on_match").is_some_and(|of| self.end(of, tests, leaves));
            }
        }
        if let Some(tree) = matcher.message("matcher_tree") {
            whole &= self.add_tree(tree, above, leaves);
        }
        if let Some(other) = matcher.message("on_no_match") {
            whole &= self.end(other, above.to_vec(), leaves);
        }
        whole
    }

    fn add_tree<'m>(
        &mut self,
        tree: &'m ProtoMessage,
        above: &[Test<'m>],
        leaves: &mut Vec<Leaf<'m>>,
    ) -> bool {
        let Some(input) = tree.message("input") else { return true };
        let (field, prefix) = match (tree.has("exact_match_map"), tree.has("prefix_match_map")) {
            (true, _) => ("exact_match_map", false),
            (_, true) => ("prefix_match_map", true),
            _ => {
                self.unsupported(tree, "custom_match", "write `exact_match_map` or a list");
                return false;
            }
        };
        let entries = tree.message(field).map_or(&[][..], |of| of.map("map"));
        let mut entries: Vec<&'m (std::sync::Arc<str>, ProtoItem)> = entries.iter().collect();
        // The longest prefix counts.
        entries.sort_by_key(|(key, _)| std::cmp::Reverse(if prefix { key.len() } else { 0 }));
        let mut whole = true;
        for (key, item) in &entries {
            let ProtoValue::Message(on_match) = &item.value else { continue };
            let shorter =
                entries.iter().any(|(other, _)| other != key && key.starts_with(&**other));
            if prefix && shorter && on_match.has("matcher") {
                let how = "a matcher below a prefix that begins with another one";
                self.unsupported(on_match, "matcher", how);
                return false;
            }
            let tests = [above, &[Test::Key { input, key, prefix }]].concat();
            whole &= self.end(on_match, tests, leaves);
        }
        whole
    }

    /// What a match leads to: an action, or another matcher.
    fn end<'m>(
        &mut self,
        on_match: &'m ProtoMessage,
        tests: Vec<Test<'m>>,
        leaves: &mut Vec<Leaf<'m>>,
    ) -> bool {
        self.only_false(on_match, "keep_matching", "an action ends the search");
        if let Some(inner) = on_match.message("matcher") {
            return self.add_leaves(inner, &tests, leaves);
        }
        if let Some(action) = on_match.message("action") {
            action.without_effect(&["name"]);
            leaves.push(Leaf { tests, action });
        }
        true
    }
}
