//! Rules for the words of a record.
//!
//! Owns: what a detail may not contain, and what it must. Refuses to know: which fault it is of. Keeps: what is quoted
//! may be anything, since a peer sent it.

/// What is wrong with a detail.
pub(crate) fn wrong(detail: &str) -> Option<String> {
    if detail.contains("b\"") && !detail.contains("b\"]") {
        return Some(format!("the formatting of a debugger in: {detail}"));
    }
    let own = unquoted(detail);
    let mut before = "";
    for word in own.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        // The names of alerts are those that other tools print.
        if is_camel_case(word) && before != "alert" {
            return Some(format!("the name {word} in: {detail}"));
        }
        if before == "1" && PLURALS.contains(&word) {
            return Some(format!("a plural of one in: {detail}"));
        }
        before = word;
    }
    let places = ["line ", "more than ", "at byte ", "not complete within `"];
    if own.contains("http1.") && !places.iter().any(|place| own.contains(place)) {
        return Some(format!("neither a place nor a limit in: {detail}"));
    }
    None
}

/// What may be counted in a detail.
const PLURALS: &[&str] =
    &["endpoints", "requests", "listeners", "attempts", "connections", "headers"];

/// The text without what is between double quotes.
fn unquoted(text: &str) -> String {
    text.split('"').step_by(2).collect()
}

/// As the names of variants are, but not `gRPC` and `1KiB`.
fn is_camel_case(word: &str) -> bool {
    let pairs = word.chars().zip(word.chars().skip(1));
    word.starts_with(char::is_uppercase)
        && pairs.into_iter().any(|(a, b)| a.is_lowercase() && b.is_uppercase())
}
