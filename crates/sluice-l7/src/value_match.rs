//! A condition on a value: of a header, a query parameter, a cookie, or one that a filter shared.
//!
//! Owns: what it compares, and how that is written. Refuses to know: where the value is from. Keeps: a regex matches the whole value.

use std::any::Any;

use sluice_codec::Head;
use sluice_core::settings::{Plain, Shape, bind_scalar, bind_verbatim, entries_of, wrong_kind};
use sluice_core::values::{SharedValue, check_name};
use sluice_core::{Diags, Node, Path, Setting, Value};

use crate::json::Json;
use crate::words::bind_by_name;
use sluice_l4::regexes;

/// A condition on a value.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Is exactly this.
    Exact(String),
    /// Is present, or absent.
    Present(bool),
    /// Starts with this.
    Prefix(String),
    /// Ends with this.
    Suffix(String),
    /// Contains this.
    Contains(String),
    /// Is a whole number of this range.
    Range(std::ops::Range<i64>),
    /// Matches this regex as a whole.
    Regex(Box<regex::bytes::Regex>),
    /// Does not fulfil this condition.
    Not(Box<Self>),
}

impl PartialEq for ValueMatch {
    /// Regexes are equal if they were written alike.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(two))
            | (Self::Prefix(one), Self::Prefix(two))
            | (Self::Suffix(one), Self::Suffix(two))
            | (Self::Contains(one), Self::Contains(two)) => one == two,
            (Self::Present(one), Self::Present(two)) => one == two,
            (Self::Range(one), Self::Range(two)) => one == two,
            (Self::Regex(one), Self::Regex(two)) => one.as_str() == two.as_str(),
            (Self::Not(one), Self::Not(two)) => one == two,
            _ => false,
        }
    }
}

impl ValueMatch {
    /// Parses a regex, which must match the whole value.
    ///
    /// # Errors
    /// A sentence that describes what is wrong with it.
    pub fn parse_regex(text: &str) -> Result<Self, String> {
        let whole = regexes::whole(text)?;
        let regex = regex::bytes::RegexBuilder::new(&whole)
            .size_limit(regexes::COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| format!("invalid regex: {error}"))?;
        Ok(Self::Regex(Box::new(regex)))
    }

    /// Whether a value, or its absence, fulfils the condition.
    pub fn fits(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Present(wanted), value) => value.is_some() == *wanted,
            (Self::Not(inner), value) => !inner.fits(value),
            (_, None) => false,
            (Self::Exact(text), Some(value)) => value == text.as_bytes(),
            (Self::Prefix(text), Some(value)) => value.starts_with(text.as_bytes()),
            (Self::Suffix(text), Some(value)) => value.ends_with(text.as_bytes()),
            (Self::Contains(text), Some(value)) => {
                text.is_empty() || value.windows(text.len()).any(|part| part == text.as_bytes())
            }
            (Self::Range(range), Some(value)) => {
                whole_number(value).is_some_and(|number| range.contains(&number))
            }
            (Self::Regex(regex), Some(value)) => regex.is_match(value),
        }
    }
}

/// The number that a value is as a whole, spaces around it aside.
fn whole_number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim_ascii().parse().ok()
}

fn parse_range(text: &str) -> Result<ValueMatch, String> {
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let ends = text.split_once("..").and_then(|(from, to)| Some(number(from)?..number(to)?));
    match ends {
        Some(range) if !range.is_empty() => Ok(ValueMatch::Range(range)),
        _ => Err(format!(
            "expected whole numbers as in `1..10`, of which the second is not part of the range, not `{text}`"
        )),
    }
}

impl ValueMatch {
    /// Whether a value that a filter shared, as it is printed, or its absence, fulfils the condition. A JSON array does
    /// if one of its members does.
    pub fn fits_shared(&self, value: Option<&dyn SharedValue>) -> bool {
        if let Self::Not(inner) = self {
            return !inner.fits_shared(value);
        }
        let any = value.map(|value| value as &dyn Any);
        match any.and_then(|any| any.downcast_ref::<Json>()).and_then(Json::items) {
            Some(items) if !matches!(self, Self::Present(_)) => {
                items.iter().any(|item| self.fits(Some(item.to_string().as_bytes())))
            }
            _ => {
                let text = value.map(ToString::to_string);
                self.fits(text.as_deref().map(str::as_bytes))
            }
        }
    }
}

/// The texts that a shared value is compared by: the members of a JSON array, or else the value as it is printed.
pub(crate) fn texts_of(value: &dyn SharedValue) -> Vec<String> {
    let any: &dyn Any = value;
    match any.downcast_ref::<Json>().and_then(Json::items) {
        Some(items) => items.iter().map(ToString::to_string).collect(),
        None => vec![value.to_string()],
    }
}

impl Setting for ValueMatch {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_value(node, at, diags)
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "a value", example: "gold" };
        Shape::Either(vec![text, Shape::Any])
    }

    fn show(&self) -> Plain {
        show_value(self)
    }
}

/// Value conditions by name: of headers, query parameters or cookies.
#[derive(Clone, Debug, Default)]
pub struct Values(pub Vec<(String, ValueMatch)>);

impl Values {
    /// Whether the headers of a request fulfil all conditions, `host` among them.
    pub fn fit(&self, head: &Head) -> bool {
        self.0.iter().all(|(name, wanted)| {
            let is_host = name.eq_ignore_ascii_case("host");
            let name = name.to_ascii_lowercase();
            wanted.fits(match is_host {
                true => Some(head.authority().as_bytes()),
                false => head.get_named(name.as_bytes()),
            })
        })
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.show() == other.show()
    }
}

impl Setting for Values {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_by_name(node, at, diags, bind_value).map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(ValueMatch::shape()))
    }

    fn show(&self) -> Plain {
        Plain::Map(self.0.iter().map(|(name, value)| (name.clone(), show_value(value))).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

/// Value conditions by the names of values that filters share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValuesOfFilters(pub Values);

impl Setting for ValuesOfFilters {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let mut known = true;
        for entry in entries_of(node, at, diags, "a map of names to values")? {
            if let Err(message) = check_name(&entry.key) {
                diags.error("unknown-name", entry.key_span, at.key(&entry.key), message);
                known = false;
            }
        }
        known.then(|| Values::bind(node, at, diags))?.map(Self)
    }

    fn shape() -> Shape {
        Values::shape()
    }

    fn show(&self) -> Plain {
        self.0.show()
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

fn bind_value(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<ValueMatch> {
    const KINDS: &str = "a value, or one of present, prefix, suffix, contains, range, regex, not";
    let Value::Map(entries) = &node.value else {
        return bind_scalar(node, at, diags, KINDS, |text| Ok(ValueMatch::Exact(text.to_owned())));
    };
    let [entry] = entries.as_slice() else {
        wrong_kind(node, at, diags, KINDS);
        return None;
    };
    let here = at.key(&entry.key);
    if &*entry.key == "not" {
        let inner = bind_value(&entry.node, &here, diags)?;
        return Some(ValueMatch::Not(Box::new(inner)));
    }
    if &*entry.key == "present" {
        return bool::bind(&entry.node, &here, diags).map(ValueMatch::Present);
    }
    let bind = if &*entry.key == "regex" { bind_verbatim } else { bind_scalar };
    let parse = |text: &str| match &*entry.key {
        "prefix" => Ok(ValueMatch::Prefix(text.to_owned())),
        "suffix" => Ok(ValueMatch::Suffix(text.to_owned())),
        "contains" => Ok(ValueMatch::Contains(text.to_owned())),
        "range" => parse_range(text),
        "regex" => ValueMatch::parse_regex(text),
        key => Err(format!(
            "`{key}` is not one of present, prefix, suffix, contains, range, regex, not"
        )),
    };
    bind(&entry.node, &here, diags, "text", parse)
}

fn show_value(value: &ValueMatch) -> Plain {
    let tagged = |key: &str, value: Plain| Plain::Map(vec![(key.into(), value)]);
    let text = |text: &str| Plain::Text(text.to_owned());
    match value {
        ValueMatch::Exact(exact) => text(exact),
        ValueMatch::Present(present) => tagged("present", Plain::Bool(*present)),
        ValueMatch::Prefix(prefix) => tagged("prefix", text(prefix)),
        ValueMatch::Suffix(suffix) => tagged("suffix", text(suffix)),
        ValueMatch::Contains(part) => tagged("contains", text(part)),
        ValueMatch::Range(range) => {
            tagged("range", text(&format!("{}..{}", range.start, range.end)))
        }
        ValueMatch::Regex(regex) => tagged("regex", text(regexes::written(regex.as_str()))),
        ValueMatch::Not(inner) => tagged("not", show_value(inner)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_whole_numbers() {
        let range = parse_range("-1..10").unwrap();
        for (value, fits) in [
            ("-1", true),
            ("9", true),
            (" +9 ", true),
            ("10", false),
            ("-2", false),
            ("5.0", false),
            ("5x", false),
            ("", false),
            ("99999999999999999999", false),
        ] {
            assert_eq!(range.fits(Some(value.as_bytes())), fits, "{value}");
        }
        assert!(!range.fits(None));
        for wrong in ["", "1", "1..", "..1", "a..b", "5..5", "6..5", "1...5"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_array_fits_if_one_of_its_members_does() {
        let roles = Json::parse(br#"["dev","x\",\"admin",["ops"],7]"#).unwrap();
        let exact = |text: &str| ValueMatch::Exact(text.into());
        let not = |inner| ValueMatch::Not(Box::new(inner));
        for (wanted, fits) in [
            (exact("dev"), true),
            (exact("7"), true),
            (exact("admin"), false),
            (exact("ops"), false),
            (ValueMatch::Prefix("de".into()), true),
            (ValueMatch::Contains("admin".into()), true),
            (not(exact("admin")), true),
            (not(exact("dev")), false),
            (ValueMatch::Present(true), true),
            (ValueMatch::Present(false), false),
            (not(ValueMatch::Present(false)), true),
        ] {
            assert_eq!(wanted.fits_shared(Some(&roles)), fits, "{wanted:?}");
        }
        let none = Json::parse(b"[]").unwrap();
        assert!(!exact("dev").fits_shared(Some(&none)) && not(exact("dev")).fits_shared(None));
        assert!(ValueMatch::Present(true).fits_shared(Some(&none)));
    }
}
