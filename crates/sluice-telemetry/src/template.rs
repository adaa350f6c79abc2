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

    /// As it is written: `%NAME%` or `%NAME(ARGUMENT)%`.
    pub fn written(&self) -> String {
        match self.argument {
            None => format!("%{}%", self.name),
            Some(argument) => format!("%{}({argument})%", self.name),
        }
    }
}

/// Finds the value of an operator with its argument.
pub type Lookup<'a, 'b> = dyn Fn(&Operator, &str) -> TemplateField<'a> + 'b;

/// A value of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum TemplateField<'a> {
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

impl<'a> From<&'a str> for TemplateField<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for TemplateField<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a, T: Into<Self>> From<Option<T>> for TemplateField<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Into::into)
    }
}

/// What one ended connection or flow has to say. Made on a worker, read on the log thread.
pub trait Record: Send {
    /// What it is about.
    fn kind(&self) -> RecordKind;

    /// The value of an operator, with what stood in its parentheses; [`TemplateField::Missing`] for one that
    /// another layer declared.
    fn field(&self, operator: &Operator, argument: &str) -> TemplateField<'_>;
}

/// How records are written.
#[derive(Clone, Debug)]
pub enum Template {
    /// A line of text.
    Text(Vec<TemplatePart>),
    /// A line of JSON with these fields, in order.
    Json(Vec<TemplateKey>),
}

/// A field of a JSON template.
#[derive(Clone, Debug)]
pub struct TemplateKey {
    /// Escaped for JSON, without its quotes.
    name: Box<str>,
    value: Vec<TemplatePart>,
    /// Durations say their unit in the name, where the name is the operator's.
    units: bool,
}

/// A piece of a text template.
#[derive(Clone, Debug)]
pub enum TemplatePart {
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
    /// JSON with every operator that takes no argument.
    pub fn json(operators: &[&'static Operator]) -> Self {
        let plain = operators.iter().filter(|operator| operator.argument.is_none());
        let key = |operator: &&'static Operator| TemplateKey {
            name: escaped_key(&operator.name.to_ascii_lowercase()),
            value: vec![TemplatePart::Operator(operator, Argument::default())],
            units: true,
        };
        Self::Json(plain.map(key).collect())
    }

    /// JSON with these fields: a name and a text with operators each.
    ///
    /// # Errors
    /// A sentence about the first operator that is not known or not closed.
    pub fn fields<'f>(
        fields: impl IntoIterator<Item = (&'f str, &'f str)>,
        operators: &[&'static Operator],
    ) -> Result<Self, String> {
        Self::Json(Vec::new()).with(fields, operators)
    }

    /// The same with these fields behind it; a text template has none.
    ///
    /// # Errors
    /// As [`Template::fields`] has it.
    pub fn with<'f>(
        mut self,
        fields: impl IntoIterator<Item = (&'f str, &'f str)>,
        operators: &[&'static Operator],
    ) -> Result<Self, String> {
        for (name, text) in fields {
            let Self::Text(value) = Self::text(text, operators)? else { continue };
            if let Self::Json(keys) = &mut self {
                keys.push(TemplateKey { name: escaped_key(name), value, units: false });
            }
        }
        Ok(self)
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
                    parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
                }
                parts.push(part);
            }
            literal.push_str(after);
        }
        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(literal));
        }
        Ok(Self::Text(parts))
    }

    /// Appends the line for `record`, with its newline.
    pub fn fill(&self, record: &dyn Record, out: &mut String) {
        let lookup = |operator: &Operator, argument: &str| record.field(operator, argument);
        match self {
            Self::Text(parts) => render(parts, &lookup, Escape::Quoted, out),
            Self::Json(keys) => {
                let _ = write!(out, "{{\"kind\":\"{}\"", record.kind().word());
                for key in keys {
                    write_json(key, &lookup, out);
                }
                out.push('}');
            }
        }
        out.push('\n');
    }

    /// Appends the text with its operators replaced; nothing for JSON.
    pub fn render<'a>(&self, lookup: &Lookup<'a, '_>, out: &mut String) {
        let Self::Text(parts) = self else { return };
        render(parts, lookup, Escape::Control, out);
    }

    /// The text of a template that has no operators.
    pub fn as_literal(&self) -> Option<&str> {
        match self {
            Self::Text(parts) => match parts.as_slice() {
                [] => Some(""),
                [TemplatePart::Literal(text)] => Some(text),
                _ => None,
            },
            Self::Json(_) => None,
        }
    }
}

/// `NAME`, `NAME(argument)` or `NAME(argument):longest`.
fn operator_part(text: &str, operators: &[&'static Operator]) -> Result<TemplatePart, String> {
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
    Ok(TemplatePart::Operator(operator, argument))
}

/// What is escaped of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// Nothing: the whole text is escaped afterwards.
    Nothing,
    /// What moves a terminal's cursor or makes lines: for header values and bodies.
    Control,
    /// Quotes and backslashes too: for lines of text, where a value must not look like another field.
    Quoted,
}

fn render<'a>(parts: &[TemplatePart], lookup: &Lookup<'a, '_>, escape: Escape, out: &mut String) {
    for part in parts {
        match part {
            TemplatePart::Literal(text) => out.push_str(text),
            TemplatePart::Operator(operator, argument) => {
                let field = shortened(lookup(operator, &argument.text), argument.longest);
                write_text(field, escape, out);
            }
        }
    }
}

/// A text of so many characters at most. It is cut before it is escaped, so that no escape is.
fn shortened(field: TemplateField<'_>, longest: Option<usize>) -> TemplateField<'_> {
    match (field, longest) {
        (TemplateField::Text(text), Some(longest)) => match text.char_indices().nth(longest) {
            Some((cut, _)) => TemplateField::from(text[..cut].to_owned()),
            None => TemplateField::Text(text),
        },
        (field, _) => field,
    }
}

fn write_text(field: TemplateField<'_>, escape: Escape, out: &mut String) {
    match field {
        TemplateField::Missing => out.push('-'),
        TemplateField::Text(text) => push_escaped(&text, escape, out),
        TemplateField::Number(number) => {
            let _ = write!(out, "{number}");
        }
        TemplateField::Millis(duration) => {
            let _ = write!(out, "{}", duration.as_millis());
        }
        TemplateField::Time(since_epoch) => out.push_str(&rfc3339(since_epoch)),
        TemplateField::List(items) if items.is_empty() => out.push('-'),
        TemplateField::List(items) => push_escaped(&items.join(","), escape, out),
    }
}

/// Text that comes from the network must not forge lines or fields, or move a terminal's cursor.
fn push_escaped(text: &str, escape: Escape, out: &mut String) {
    if is_plain(text) {
        return out.push_str(text);
    }
    for c in text.chars() {
        let escaped = match escape {
            Escape::Nothing => false,
            Escape::Control => c.is_control(),
            Escape::Quoted => c.is_control() || matches!(c, '"' | '\\') || is_deceptive(c),
        };
        if escaped {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
}

/// Characters that break lines or turn the direction of a text without being control characters: line and
/// paragraph separators, marks and overrides of direction, and the byte order mark.
const fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn write_json<'a>(key: &TemplateKey, lookup: &Lookup<'a, '_>, out: &mut String) {
    let field = match key.value.as_slice() {
        [TemplatePart::Operator(operator, argument)] if argument.longest.is_none() => {
            lookup(operator, &argument.text)
        }
        parts => {
            let mut text = String::new();
            render(parts, lookup, Escape::Nothing, &mut text);
            TemplateField::from(text)
        }
    };
    if field == TemplateField::Missing {
        return;
    }
    out.push_str(",\"");
    out.push_str(&key.name);
    if key.units && matches!(field, TemplateField::Millis(_)) {
        out.push_str("_ms");
    }
    out.push_str("\":");
    match field {
        TemplateField::Missing => {}
        TemplateField::Text(text) => push_json(&text, out),
        TemplateField::Number(number) => {
            let _ = write!(out, "{number}");
        }
        TemplateField::Millis(duration) => {
            let _ = write!(out, "{}", duration.as_millis());
        }
        TemplateField::Time(since_epoch) => push_json(&rfc3339(since_epoch), out),
        TemplateField::List(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                push_json(item, out);
            }
            out.push(']');
        }
    }
}

/// A name as it stands between the quotes of a JSON key.
fn escaped_key(name: &str) -> Box<str> {
    let mut quoted = String::new();
    push_json(name, &mut quoted);
    quoted[1..quoted.len() - 1].into()
}

/// Whether nothing in a text is escaped anywhere: visible ASCII and spaces, without quotes and backslashes.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
}

/// A JSON string. What may deceive a reader is escaped beside what JSON demands; all of it has four digits.
fn push_json(text: &str, out: &mut String) {
    out.push('"');
    if is_plain(text) {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || is_deceptive(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
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

        fn field(&self, operator: &Operator, argument: &str) -> TemplateField<'_> {
            match operator.name {
                "ASK" => format!("<{argument}>").into(),
                "WHO" => "a\"b\nc".into(),
                "TOOK" => TemplateField::Millis(Duration::from_millis(12)),
                _ => TemplateField::Missing,
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
        check(&text, "100% [a\\\"b\\nc] 12 -!\n");
        check(
            &Template::json(&operators),
            "{\"kind\":\"connection\",\"who\":\"a\\\"b\\nc\",\"took_ms\":12}\n",
        );
    }

    #[test]
    fn chosen_fields_keep_their_order_and_kind() {
        let fields = [("took", "%TOOK%"), ("by", "<%WHO%>"), ("no", "%GONE%"), ("a", "%ASK(x)%")];
        let template = Template::fields(fields, &[&WHO, &TOOK, &GONE, &ASK]).unwrap();
        let line = "{\"kind\":\"connection\",\"took\":12,\"by\":\"<a\\\"b\\nc>\",\"a\":\"<x>\"}\n";
        check(&template, line);
        assert!(Template::fields([("x", "%TOKO%")], &[&TOOK]).unwrap_err().contains("%TOOK%"));
    }

    #[test]
    fn values_forge_no_fields_and_turn_no_text() {
        let hostile = "x\" 200 \\ \u{202e}\u{2028}\u{9b}\u{1b}\u{e9}";
        let escaped = |escape| {
            let mut out = String::new();
            push_escaped(hostile, escape, &mut out);
            out
        };
        let quoted = r#"x\" 200 \\ \u{202e}\u{2028}\u{9b}\u{1b}"#;
        assert_eq!(escaped(Escape::Quoted), format!("{quoted}\u{e9}"));
        // Values of headers are not quoted: what needs no escape goes as it came.
        assert!(escaped(Escape::Control).starts_with("x\" 200 \\ \u{202e}"));
        let mut json = String::new();
        push_json(hostile, &mut json);
        assert_eq!(json, format!("\"{}\u{e9}\"", r#"x\" 200 \\ \u202e\u2028\u009b\u001b"#));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }

    #[test]
    fn arguments_and_lengths() {
        let text = Template::text("%ASK(a?b)% %ASK(abcdef):4%", &[&ASK]).unwrap();
        check(&text, "<a?b> <abc\n");
        // A cut escape would escape what follows.
        let text = Template::text("\"%ASK(\"x):2%\"", &[&ASK]).unwrap();
        check(&text, "\"<\\\"\"\n");
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
