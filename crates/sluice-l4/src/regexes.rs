//! Regexes in settings.
//!
//! Owns: anchoring match regexes to the whole value, and the size limit of a compiled regex. Refuses to know: what is
//! matched. Keeps: a regex is shown as it was written.

use regex::{Regex, RegexBuilder};
use sluice_core::settings::{Plain, bind_verbatim};
use sluice_core::{Diags, Node, Path, Setting, Shape};

/// The largest size of a compiled regex, in bytes.
pub const COMPILED_BYTES_MAX: usize = 1 << 20;

const START: &str = "^(?:";
const END: &str = ")$";

/// Compiles a regex of bounded size that may match anywhere.
///
/// # Errors
/// A sentence that describes what is wrong with it.
pub fn anywhere(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|error| say(text, &error))
}

/// Returns the text of a regex that matches only if `text` matches the whole value.
///
/// # Errors
/// A sentence that describes what is wrong with it.
pub fn whole(text: &str) -> Result<String, String> {
    // Checked alone first: `a)|(b` is not a regex, but would be one between the anchors.
    anywhere(text)?;
    Ok(format!("{START}{text}{END}"))
}

/// Returns the regex as it was written, from the text that [`whole`] made of it.
pub fn written(whole: &str) -> &str {
    let inner = whole.strip_prefix(START).and_then(|rest| rest.strip_suffix(END));
    inner.unwrap_or(whole)
}

/// A regex that matches all of a text, as a setting.
#[derive(Clone, Debug)]
pub struct WholeRegex(pub Regex);

impl WholeRegex {
    /// Compiles a regex.
    ///
    /// # Errors
    /// A sentence that describes what is wrong with it.
    pub fn of(text: &str) -> Result<Self, String> {
        anywhere(&whole(text)?).map(Self)
    }
}

impl PartialEq for WholeRegex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Setting for WholeRegex {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_verbatim(node, at, diags, "a regex", Self::of)
    }

    fn shape() -> Shape {
        Shape::Text { what: "a regex", example: "x-shop-(.+)" }
    }

    fn show(&self) -> Plain {
        Plain::Text(written(self.0.as_str()).to_owned())
    }
}

/// Formats the last line of the library's message, and the part of the regex that its caret points at.
fn say(text: &str, error: &regex::Error) -> String {
    let message = error.to_string();
    let mut lines = message.lines().rev();
    let what = lines.next().unwrap_or_default().trim_start_matches("error: ");
    // The library shows the pattern after four spaces, with carets in the next line.
    let caret = lines.next().filter(|line| line.trim_start().starts_with('^'));
    let place = caret.and_then(|line| line.find('^')?.checked_sub(4));
    match place.and_then(|place| {
        Some(text.chars().skip(place).take(12).collect::<String>()).filter(|near| !near.is_empty())
    }) {
        Some(near) => format!("invalid regex: {what}, at `{near}`"),
        None => format!("invalid regex: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_regex_says_what_and_where() {
        assert_eq!(anywhere("/a/(b").unwrap_err(), "invalid regex: unclosed group, at `(b`");
        assert!(anywhere("a{99999999}").unwrap_err().starts_with("invalid regex: "));
        assert_eq!(written(&whole("a|b").unwrap()), "a|b");
    }
}
