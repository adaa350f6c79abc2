//! What a record looks like: a text with `%OPERATOR%`s, or JSON.
//!
//! Owns: parsing and filling of templates. Refuses to know: which operators there are; each layer
//! declares its own and answers for them.
//! Keeps: an operator that is not known is a configuration error, never an empty field.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use sluice_core::clock::rfc3339;
use sluice_core::suggest::nearest;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A TCP or unix connection.
    Connection,
    /// A UDP flow.
    Flow,
    /// An HTTP request.
    Request,
}

impl RecordKind {
    /// The word in configuration and records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Flow => "flow",
            Self::Request => "request",
        }
    }

    /// One bit per kind, for masks.
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// An operator as its layer declares it.
#[derive(Debug)]
pub struct Operator {
    /// The name between the percent signs; in JSON its lower case is the key.
    pub name: &'static str,
    /// What stands in parentheses behind it, where it takes something: `REQ(X-NAME)`.
    pub argument: Option<&'static str>,
    /// One sentence for the reference page.
    pub help: &'static str,
}

impl Operator {
    /// An operator that takes nothing.
    pub const fn plain(name: &'static str, help: &'static str) -> Self {
        Self { name, argument: None, help }
    }
}

/// Finds the value of an operator with its argument.
pub type Lookup<'a, 'b> = dyn Fn(&Operator, &str) -> Field<'a> + 'b;

/// A value of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Field<'a> {
    /// Not known or not applicable: `-` in text, left out in JSON.
    Missing,
    /// Text.
    Text(Cow<'a, str>),
    /// A number.
    Number(u64),
    /// Milliseconds.
    Millis(Duration),
    /// A point in time since the Unix epoch.
    Time(Duration),
    /// Several texts: joined by commas in text, a list in JSON.
    List(Vec<String>),
}

impl<'a> From<&'a str> for Field<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Field<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a, T: Into<Self>> From<Option<T>> for Field<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Into::into)
    }
}

/// What one ended connection or flow has to say. Made on a worker, read on the log thread.
pub trait Record: Send {
    /// What it is about.
    fn kind(&self) -> RecordKind;

    /// The value of an operator, with what stood in its parentheses; [`Field::Missing`] for one that
    /// another layer declared.
    fn field(&self, operator: &Operator, argument: &str) -> Field<'_>;
}

/// How records are written.
#[derive(Clone, Debug)]
pub enum Template {
    /// A line of text.
    Text(Vec<Part>),
    /// A line of JSON with these operators, in order.
    Json(Vec<&'static Operator>),
}

/// A piece of a text template.
#[derive(Clone, Debug)]
pub enum Part {
    /// Copied as it is.
    Literal(String),
    /// Replaced by its value.
    Operator(&'static Operator, Argument),
}

/// What stands behind the name of an operator: `(argument):longest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Argument {
    text: Box<str>,
    /// Characters of the value that are shown at most.
    longest: Option<usize>,
}

impl Template {
    /// JSON with every operator.
    pub fn json(operators: &[&'static Operator]) -> Self {
        Self::Json(operators.to_vec())
    }

    /// Text with `%NAME%` for an operator and `%%` for a percent sign.
    ///
    /// # Errors
    /// A sentence about the first operator that is not known or not closed.
    pub fn text(template: &str, operators: &[&'static Operator]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut pieces = template.split('%');
        literal.push_str(pieces.next().unwrap_or_default());
        while let Some(name) = pieces.next() {
            let Some(after) = pieces.next() else {
                return Err(format!("`%{name}` is not closed; write %% for a percent sign"));
            };
            if name.is_empty() {
                literal.push('%');
            } else {
                let part = operator_part(name, operators)?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(part);
            }
            literal.push_str(after);
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self::Text(parts))
    }

    /// Appends the line for `record`, with its newline.
    pub fn fill(&self, record: &dyn Record, out: &mut String) {
        match self {
            Self::Text(_) => {
                self.render(&|operator, argument| record.field(operator, argument), out)
            }
            Self::Json(operators) => {
                let _ = write!(out, "{{\"kind\":\"{}\"", record.kind().word());
                for operator in operators {
                    if operator.argument.is_none() {
                        write_json(operator, record.field(operator, ""), out);
                    }
                }
                out.push('}');
            }
        }
        out.push('\n');
    }

    /// Appends the text with its operators replaced; nothing for JSON.
    pub fn render<'a>(&self, lookup: &Lookup<'a, '_>, out: &mut String) {
        let Self::Text(parts) = self else { return };
        for part in parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Operator(operator, argument) => {
                    let start = out.len();
                    write_text(lookup(operator, &argument.text), out);
                    if let Some(longest) = argument.longest
                        && let Some((cut, _)) = out[start..].char_indices().nth(longest)
                    {
                        out.truncate(start + cut);
                    }
                }
            }
        }
    }

    /// The text of a template that has no operators.
    pub fn as_literal(&self) -> Option<&str> {
        match self {
            Self::Text(parts) => match parts.as_slice() {
                [] => Some(""),
                [Part::Literal(text)] => Some(text),
                _ => None,
            },
            Self::Json(_) => None,
        }
    }
}

/// `NAME`, `NAME(argument)` or `NAME(argument):longest`.
fn operator_part(text: &str, operators: &[&'static Operator]) -> Result<Part, String> {
    let (name, rest) = text.split_once('(').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let found = operators.iter().find(|operator| operator.name == name);
    let Some(operator) = found else {
        let near = nearest(name, operators.iter().map(|operator| operator.name));
        let near = near.map_or_else(String::new, |near| format!("; did you mean %{near}%?"));
        return Err(format!("`%{text}%` is no operator{near}"));
    };
    let argument = match (operator.argument, rest) {
        (None, None) => Argument::default(),
        (Some(what), None) => return Err(format!("%{name}% wants {what}: %{name}({what})%")),
        (None, Some(_)) => return Err(format!("%{name}% takes nothing in parentheses")),
        (Some(_), Some(rest)) => {
            let (inside, longest) = match rest.rsplit_once("):") {
                Some((inside, longest)) => match longest.parse() {
                    Ok(longest) => (inside, Some(longest)),
                    Err(_) => return Err(format!("`{longest}` is no number of characters")),
                },
                None => match rest.strip_suffix(')') {
                    Some(inside) => (inside, None),
                    None => return Err(format!("`%{text}%` has no closing parenthesis")),
                },
            };
            Argument { text: inside.into(), longest }
        }
    };
    Ok(Part::Operator(operator, argument))
}

fn write_text(field: Field<'_>, out: &mut String) {
    match field {
        Field::Missing => out.push('-'),
        Field::Text(text) => push_printable(&text, out),
        Field::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Field::Millis(duration) => {
            let _ = write!(out, "{}", duration.as_millis());
        }
        Field::Time(since_epoch) => out.push_str(&rfc3339(since_epoch)),
        Field::List(items) if items.is_empty() => out.push('-'),
        Field::List(items) => push_printable(&items.join(","), out),
    }
}

/// Text that comes from the network must not forge lines or move a terminal's cursor.
fn push_printable(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_control() {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
}

fn write_json(operator: &Operator, field: Field<'_>, out: &mut String) {
    let value = match field {
        Field::Missing => return,
        Field::Text(text) => serde_json::Value::from(text.into_owned()),
        Field::Number(number) => number.into(),
        Field::Millis(duration) => {
            let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            let _ = write!(out, ",\"{}_ms\":{millis}", operator.name.to_ascii_lowercase());
            return;
        }
        Field::Time(since_epoch) => rfc3339(since_epoch).into(),
        Field::List(items) => items.into(),
    };
    let _ = write!(out, ",\"{}\":{value}", operator.name.to_ascii_lowercase());
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Operator = Operator::plain("WHO", "");
    const TOOK: Operator = Operator::plain("TOOK", "");
    const GONE: Operator = Operator::plain("GONE", "");
    const ASK: Operator = Operator { name: "ASK", argument: Some("WORD"), help: "" };

    struct Sample;
    impl Record for Sample {
        fn kind(&self) -> RecordKind {
            RecordKind::Connection
        }

        fn field(&self, operator: &Operator, argument: &str) -> Field<'_> {
            match operator.name {
                "ASK" => format!("<{argument}>").into(),
                "WHO" => "a\"b\nc".into(),
                "TOOK" => Field::Millis(Duration::from_millis(12)),
                _ => Field::Missing,
            }
        }
    }

    #[track_caller]
    fn check(template: &Template, line: &str) {
        let mut out = String::new();
        template.fill(&Sample, &mut out);
        assert_eq!(out, line);
    }

    #[test]
    fn text_and_json() {
        let operators: [&'static Operator; 3] = [&WHO, &TOOK, &GONE];
        let text = Template::text("100%% [%WHO%] %TOOK% %GONE%!", &operators).unwrap();
        check(&text, "100% [a\"b\\nc] 12 -!\n");
        check(
            &Template::json(&operators),
            "{\"kind\":\"connection\",\"who\":\"a\\\"b\\nc\",\"took_ms\":12}\n",
        );
    }

    #[test]
    fn arguments_and_lengths() {
        let text = Template::text("%ASK(a?b)% %ASK(abcdef):4%", &[&ASK]).unwrap();
        check(&text, "<a?b> <abc\n");
        assert_eq!(Template::text("plain", &[]).unwrap().as_literal(), Some("plain"));
    }

    #[test]
    fn a_wrong_operator_says_which_was_meant() {
        let error = |text| Template::text(text, &[&WHO, &TOOK]).unwrap_err();
        assert!(error("%TOKO%").contains("did you mean %TOOK%?"));
        assert!(error("100% sure").contains("not closed"));
        assert!(error("%WHO(x)%").contains("takes nothing"));
        let error = |text| Template::text(text, &[&ASK]).unwrap_err();
        assert!(error("%ASK%").contains("%ASK(WORD)%"));
        assert!(error("%ASK(x%").contains("no closing parenthesis"));
        assert!(error("%ASK(x):y%").contains("no number"));
    }
}
