//! The rules of text and bytes.
//!
//! Owns: lengths, patterns, well-known forms. Refuses to know: fields. Keeps: patterns are matched in linear time.

use std::net::IpAddr;

use prost_reflect::{DynamicMessage, Value};
use regex::Regex;

use super::{get, is, texts_of};

/// The rules of a text, or of bytes.
#[derive(Debug, Default)]
pub(super) struct StringRules {
    constant: Option<String>,
    length: Option<u64>,
    letters: (u64, Option<u64>),
    bytes: (u64, Option<u64>),
    pattern: Option<Regex>,
    prefix: Option<String>,
    suffix: Option<String>,
    contains: Option<String>,
    not_contains: Option<String>,
    among: Vec<String>,
    not: Vec<String>,
    form: Option<WellKnownForm>,
    ignore_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WellKnownForm {
    HeaderName { strict: bool },
    HeaderValue { strict: bool },
    Ip,
    Uri,
}

impl StringRules {
    pub(super) fn of(of: &DynamicMessage) -> Self {
        let text = |name: &str| get(of, name).and_then(|value| value.as_str().map(str::to_owned));
        let count = |name: &str| get(of, name).and_then(|value| value.as_u64());
        let strict = get(of, "strict").and_then(|value| value.as_bool()) != Some(false);
        let form = match get(of, "well_known_regex") {
            Some(Value::EnumNumber(1)) => Some(WellKnownForm::HeaderName { strict }),
            Some(Value::EnumNumber(2)) => Some(WellKnownForm::HeaderValue { strict }),
            _ if is(of, "ip") => Some(WellKnownForm::Ip),
            _ if is(of, "uri") => Some(WellKnownForm::Uri),
            _ => None,
        };
        Self {
            constant: text("const"),
            length: count("len"),
            letters: (count("min_len").unwrap_or(0), count("max_len")),
            bytes: (count("min_bytes").unwrap_or(0), count("max_bytes")),
            pattern: text("pattern").and_then(|pattern| Regex::new(&pattern).ok()),
            prefix: text("prefix"),
            suffix: text("suffix"),
            contains: text("contains"),
            not_contains: text("not_contains"),
            among: texts_of(of, "in"),
            not: texts_of(of, "not_in"),
            form,
            ignore_empty: is(of, "ignore_empty"),
        }
    }

    /// Judges the length of bytes.
    pub(super) fn judge_length(&self, bytes: &[u8]) -> Result<(), String> {
        within(bytes.len(), self.letters, "bytes")
    }

    pub(super) fn judge(&self, text: &str) -> Result<(), String> {
        if text.is_empty() && self.ignore_empty {
            return Ok(());
        }
        if text.is_empty() && (self.letters.0 > 0 || self.bytes.0 > 0) {
            return Err("must not be empty".into());
        }
        let letters = text.chars().count();
        within(letters, self.letters, "characters")?;
        within(text.len(), self.bytes, "bytes")?;
        if let Some(length) = self.length.filter(|length| *length != letters as u64) {
            return Err(format!("must have {length} characters"));
        }
        let part = |part: &Option<String>, fits: fn(&str, &str) -> bool, what: &str| match part {
            Some(part) if !fits(text, part) => Err(format!("must {what} `{part}`")),
            _ => Ok(()),
        };
        part(&self.constant, |text, part| text == part, "be")?;
        part(&self.prefix, |text, part| text.starts_with(part), "start with")?;
        part(&self.suffix, |text, part| text.ends_with(part), "end with")?;
        part(&self.contains, |text, part| text.contains(part), "contain")?;
        part(&self.not_contains, |text, part| !text.contains(part), "not contain")?;
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            return Err(format!("does not match {pattern}"));
        }
        if !(self.among.is_empty() || self.among.iter().any(|one| one == text)) {
            return Err(format!("must be one of {}", self.among.join(", ")));
        }
        if self.not.iter().any(|one| one == text) {
            return Err(format!("must not be `{text}`"));
        }
        match self.form {
            Some(form) if !form.fits(text) => Err(form.expectation().into()),
            _ => Ok(()),
        }
    }
}

fn within(length: usize, (min, max): (u64, Option<u64>), unit: &str) -> Result<(), String> {
    let length = length as u64;
    if length < min {
        return Err(format!("must have at least {min} {unit}"));
    }
    match max {
        Some(max) if length > max => Err(format!("must have at most {max} {unit}")),
        _ => Ok(()),
    }
}

impl WellKnownForm {
    fn fits(self, text: &str) -> bool {
        match self {
            Self::HeaderName { strict: true } => {
                let name = text.strip_prefix(':').unwrap_or(text);
                let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&b);
                text.is_empty() || (!name.is_empty() && name.bytes().all(token))
            }
            Self::HeaderValue { strict: true } => {
                !text.bytes().any(|byte| byte == 0x7f || (byte < 0x20 && byte != b'\t'))
            }
            // What could end a line.
            Self::HeaderName { .. } | Self::HeaderValue { .. } => {
                !text.bytes().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
            }
            Self::Ip => text.parse::<IpAddr>().is_ok(),
            Self::Uri => text.split_once(':').is_some_and(|(scheme, rest)| {
                let letter = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
                scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                    && scheme.bytes().all(letter)
                    && !rest.is_empty()
            }),
        }
    }

    const fn expectation(self) -> &'static str {
        match self {
            Self::HeaderName { .. } => "is not the name of a header",
            Self::HeaderValue { .. } => "is not the value of a header",
            Self::Ip => "is not an IP address",
            Self::Uri => "is not an absolute URI",
        }
    }
}
