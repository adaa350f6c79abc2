//! A substitution: what a regex matches in a text is replaced.
//!
//! Owns: the regex and the replacement. Refuses to know: where the text is from. Keeps: only the first match is replaced;
//! a text without one stays as it is.

use std::borrow::Cow;

/// A substitution.
#[derive(Clone, Debug)]
pub struct RegexSubstitution {
    /// What is looked for.
    pub find: regex::Regex,
    /// What takes its place; `$1` stands for a group.
    pub replace: String,
}

impl PartialEq for RegexSubstitution {
    /// Regexes are equal if they were written alike.
    fn eq(&self, other: &Self) -> bool {
        self.find.as_str() == other.find.as_str() && self.replace == other.replace
    }
}

impl RegexSubstitution {
    /// The text with the first match replaced.
    pub fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.find.replace(text, self.replace.as_str())
    }
}
