//! A condition on a value: of a header, a query parameter, a cookie, or one that a filter shared.
//!
//! Owns: what it compares. Refuses to know: where the value is from. Keeps: a regex matches the whole value.

use crate::regexes;

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
            (Self::Regex(regex), Some(value)) => regex.is_match(value),
        }
    }
}
