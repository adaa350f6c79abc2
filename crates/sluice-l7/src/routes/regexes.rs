//! Regexes of routes.
//!
//! Owns: that the regex of a match covers the whole of what it is compared with, and the bound on a compiled regex.
//! Refuses to know: what is matched. Keeps: a regex that is shown is the one that was written.

use regex::{Regex, RegexBuilder};

/// Bytes of a compiled regex at most.
pub const COMPILED_BYTES_MAX: usize = 1 << 20;

const START: &str = "^(?:";
const END: &str = ")$";

/// A regex of bounded size that may match anywhere.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn anywhere(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|error| say(text, &error))
}

/// The text of a regex that matches only where `text` matches all of a value.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn whole(text: &str) -> Result<String, String> {
    // Alone first: `a)|(b` is no regex, though it would be one between the anchors.
    anywhere(text)?;
    Ok(format!("{START}{text}{END}"))
}

/// What was written, of the text that [`whole`] made of it.
pub fn written(whole: &str) -> &str {
    let inner = whole.strip_prefix(START).and_then(|rest| rest.strip_suffix(END));
    inner.unwrap_or(whole)
}

/// The last line of the library's message, and what stands above its caret.
fn say(text: &str, error: &regex::Error) -> String {
    let message = error.to_string();
    let mut lines = message.lines().rev();
    let what = lines.next().unwrap_or_default().trim_start_matches("error: ");
    // The pattern is shown behind four spaces, with carets in the line below.
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
