//! The format of a record: text with `%OPERATOR%`s, or JSON.
//!
//! Owns: parsing and filling of templates. Refuses to know: which operators there are; each layer declares its own and
//! provides their values.
//! Keeps: an unknown operator is a configuration error, never an empty field.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::clock::rfc3339;
use sluice_core::suggest::nearest;
use sluice_core::values::SharedValue;

pub use json::{JsonMember, TemplateKey};

mod json;

/// The subject of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A TCP or unix connection.
    Connection,
    /// A UDP flow.
    Flow,
    /// An HTTP request.
    Request,
    /// An event in the life of an endpoint.
    Health,
}

impl RecordKind {
    /// The word in configuration and records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Flow => "flow",
            Self::Request => "request",
            Self::Health => "health",
        }
    }

    /// One bit per kind, for masks.
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Checks the argument of an operator; the error is a sentence for the operator who wrote it.
pub type ArgumentCheck = fn(&str) -> Result<(), String>;

/// Parses the argument of an operator, once, to what its value is then made from; the error is a sentence as for
/// [`ArgumentCheck`].
pub type ArgumentParse = fn(&str) -> Result<Arc<dyn Any + Send + Sync>, String>;

/// An operator as its layer declares it.
#[derive(Debug)]
pub struct Operator {
    /// The name between the percent signs; its lower case is the key in JSON.
    pub name: &'static str,
    /// The argument in parentheses after the name, if it takes one: `REQ(X-NAME)`.
    pub argument: Option<&'static str>,
    /// What the argument must satisfy, besides being there.
    pub check: Option<ArgumentCheck>,
    /// What the argument is parsed to, if it is more than a text; see [`Argument::parsed`].
    pub parse: Option<ArgumentParse>,
    /// One sentence for the reference page.
    pub help: &'static str,
}

/// Declares operators: one constant per row, and a list of all of them. A row is
/// `NAME = "TEXT", "help";`, or `NAME = "TEXT"("ARGUMENT"), "help";` for one with an argument, which a function may
/// check, `"TEXT"("ARGUMENT", check)`, or parse, `"TEXT"("ARGUMENT" => parse)`.
#[macro_export]
macro_rules! operators {
    ($(#[$doc:meta])* $reach:vis $list:ident: $($name:ident = $text:literal $(($argument:literal $(, $check:path)? $(=> $parse:path)?))?, $help:literal;)+) => {
        $(const $name: $crate::Operator = $crate::Operator {
            name: $text,
            argument: $crate::operators!(@option $($argument)?),
            check: $crate::operators!(@option $($($check)?)?),
            parse: $crate::operators!(@option $($($parse)?)?),
            help: $help,
        };)+
        $(#[$doc])*
        $reach const $list: &[&$crate::Operator] = &[$(&$name),+];
    };
    (@option) => { None };
    (@option $given:expr) => { Some($given) };
}

impl Operator {
    /// Creates an operator without an argument.
    pub const fn plain(name: &'static str, help: &'static str) -> Self {
        Self { name, argument: None, check: None, parse: None, help }
    }

    /// The operator as written: `%NAME%` or `%NAME(ARGUMENT)%`.
    pub fn written(&self) -> String {
        match self.argument {
            None => format!("%{}%", self.name),
            Some(argument) => format!("%{}({argument})%", self.name),
        }
    }
}

/// Returns the value of an operator with its argument.
pub type Lookup<'a, 'b> = dyn Fn(&Operator, &Argument) -> TemplateField<'a> + 'b;

/// A value of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum TemplateField<'a> {
    /// Unknown or not applicable: `-` in text, omitted in JSON.
    Missing,
    /// Text.
    Text(Cow<'a, str>),
    /// A number.
    Number(u64),
    /// A duration, written in milliseconds.
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

impl TemplateField<'_> {
    /// A value that filters share: a `u64` is a number, anything else text.
    pub fn shared(value: &dyn SharedValue) -> Self {
        let any: &dyn Any = value;
        match any.downcast_ref() {
            Some(number) => Self::Number(*number),
            None => Self::from(value.to_string()),
        }
    }
}

/// The record of one ended connection, flow or request. Created on a worker, read on the log thread.
pub trait Record: Send {
    /// The subject of the record.
    fn kind(&self) -> RecordKind;

    /// The value of an operator with the argument in its parentheses; [`TemplateField::Missing`] for an operator
    /// declared by another layer.
    fn field(&self, operator: &Operator, argument: &Argument) -> TemplateField<'_>;
}

/// The format of records.
#[derive(Clone, Debug)]
pub enum Template {
    /// A line of text.
    Text(Vec<TemplatePart>),
    /// A line of JSON with these fields, in order.
    Json(Vec<TemplateKey>),
}

/// A part of a text template.
#[derive(Clone, Debug)]
pub enum TemplatePart {
    /// Copied unchanged.
    Literal(String),
    /// Replaced by its value.
    Operator(&'static Operator, Argument),
}

/// What follows the name of an operator: `(argument):longest`.
#[derive(Clone, Debug, Default)]
pub struct Argument {
    text: Box<str>,
    /// The maximum number of characters of the value.
    longest: Option<usize>,
    parsed: Option<Arc<dyn Any + Send + Sync>>,
}

impl Argument {
    /// What the operator has parsed it to.
    pub fn parsed<T: Any>(&self) -> Option<&T> {
        self.parsed.as_ref()?.downcast_ref()
    }
}

impl Deref for Argument {
    type Target = str;

    /// Its text.
    fn deref(&self) -> &str {
        &self.text
    }
}

impl Template {
    /// Creates a JSON template with every operator that takes no argument.
    pub fn json(operators: &[&'static Operator]) -> Self {
        let plain = operators.iter().filter(|operator| operator.argument.is_none());
        Self::Json(plain.map(|operator| TemplateKey::of_operator(operator)).collect())
    }

    /// Creates a JSON template with these members.
    ///
    /// # Errors
    /// As for [`Template::fields`].
    pub fn object(
        members: &[(String, JsonMember)],
        operators: &[&'static Operator],
    ) -> Result<Self, String> {
        json::keys(members, operators).map(Self::Json)
    }

    /// Creates a JSON template with these fields, each a name and a text with operators.
    ///
    /// # Errors
    /// A message about the first operator that is unknown or not closed.
    pub fn fields<'f>(
        fields: impl IntoIterator<Item = (&'f str, &'f str)>,
        operators: &[&'static Operator],
    ) -> Result<Self, String> {
        Self::Json(Vec::new()).with(fields, operators)
    }

    /// Appends these fields to a JSON template; has no effect on a text template.
    ///
    /// # Errors
    /// As for [`Template::fields`].
    pub fn with<'f>(
        mut self,
        fields: impl IntoIterator<Item = (&'f str, &'f str)>,
        operators: &[&'static Operator],
    ) -> Result<Self, String> {
        for (name, text) in fields {
            let Self::Text(value) = Self::text(text, operators)? else { continue };
            if let Self::Json(keys) = &mut self {
                keys.push(TemplateKey::of_text(name, value));
            }
        }
        Ok(self)
    }

    /// Parses text with `%NAME%` for an operator and `%%` for a percent sign.
    ///
    /// # Errors
    /// A message about the first operator that is unknown or not closed.
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

    /// Appends the line for `record`, with a newline.
    pub fn fill(&self, record: &dyn Record, out: &mut String) {
        let lookup = |operator: &Operator, argument: &Argument| record.field(operator, argument);
        match self {
            Self::Text(parts) => render(parts, &lookup, Escape::Quoted, out),
            Self::Json(keys) => {
                let _ = write!(out, "{{\"kind\":\"{}\"", record.kind().word());
                json::write_members(keys, &lookup, out);
                out.push('}');
            }
        }
        out.push('\n');
    }

    /// Appends the text, or the JSON object, with its operators replaced.
    pub fn render<'a>(&self, lookup: &Lookup<'a, '_>, out: &mut String) {
        match self {
            Self::Text(parts) => render(parts, lookup, Escape::Control, out),
            Self::Json(keys) => json::write_object(keys, lookup, out),
        }
    }

    /// The same with values as they are, for a text that is neither a header nor a line.
    pub fn render_body<'a>(&self, lookup: &Lookup<'a, '_>, out: &mut String) {
        match self {
            Self::Text(parts) => render(parts, lookup, Escape::Nothing, out),
            Self::Json(keys) => json::write_object(keys, lookup, out),
        }
    }

    /// The text of a template without operators.
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

/// Parses `NAME`, `NAME(argument)` or `NAME(argument):longest`.
fn operator_part(text: &str, operators: &[&'static Operator]) -> Result<TemplatePart, String> {
    let (name, rest) = text.split_once('(').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let found = operators.iter().find(|operator| operator.name == name);
    let Some(operator) = found else {
        let near = nearest(name, operators.iter().map(|operator| operator.name));
        let near = near.map_or_else(String::new, |near| format!("; did you mean %{near}%?"));
        return Err(format!("unknown operator `%{text}%`{near}"));
    };
    let argument = match (operator.argument, rest) {
        (None, None) => Argument::default(),
        (Some(what), None) => return Err(format!("%{name}% needs {what}: write %{name}({what})%")),
        (None, Some(_)) => return Err(format!("%{name}% takes no argument")),
        (Some(_), Some(rest)) => {
            let (inside, longest) = match rest.rsplit_once("):") {
                Some((inside, longest)) => match longest.parse() {
                    Ok(longest) => (inside, Some(longest)),
                    Err(_) => return Err(format!("`{longest}` is not a number of characters")),
                },
                None => match rest.strip_suffix(')') {
                    Some(inside) => (inside, None),
                    None => return Err(format!("`%{text}%` has no closing parenthesis")),
                },
            };
            if let Some(check) = operator.check {
                check(inside)?;
            }
            let parsed = operator.parse.map(|parse| parse(inside)).transpose()?;
            Argument { text: inside.into(), longest, parsed }
        }
    };
    Ok(TemplatePart::Operator(operator, argument))
}

/// The characters to escape in a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// None: the whole text is escaped afterwards, or is a body.
    Nothing,
    /// Characters that move a terminal's cursor or break lines: for header values and bodies.
    Control,
    /// Also quotes and backslashes: for lines of text, where a value must not look like another field.
    Quoted,
}

fn render<'a>(parts: &[TemplatePart], lookup: &Lookup<'a, '_>, escape: Escape, out: &mut String) {
    for part in parts {
        match part {
            TemplatePart::Literal(text) => out.push_str(text),
            TemplatePart::Operator(operator, argument) => {
                let field = shortened(lookup(operator, argument), argument.longest);
                write_text(field, escape, out);
            }
        }
    }
}

/// Truncates a text to `longest` characters. This is done before escaping, so that no escape sequence is cut.
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

/// Escapes text from the network so that it cannot forge lines or fields, or move a terminal's cursor.
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

/// Characters that break lines or change the direction of text without being control characters: line and paragraph
/// separators, directional marks and overrides, and the byte order mark.
const fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Whether no character of a text is ever escaped: visible ASCII and spaces, without quotes and backslashes.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::json::push_json;
    use super::*;

    const WHO: Operator = Operator::plain("WHO", "");
    const TOOK: Operator = Operator::plain("TOOK", "");
    const GONE: Operator = Operator::plain("GONE", "");
    const ASK: Operator =
        Operator { name: "ASK", argument: Some("WORD"), check: None, parse: None, help: "" };

    struct Sample;
    impl Record for Sample {
        fn kind(&self) -> RecordKind {
            RecordKind::Connection
        }

        fn field(&self, operator: &Operator, argument: &Argument) -> TemplateField<'_> {
            match operator.name {
                "ASK" => format!("<{}>", &**argument).into(),
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
        // Header values are not quoted: what needs no escape is unchanged.
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
        // A truncated escape would escape what follows.
        let text = Template::text("\"%ASK(\"x):2%\"", &[&ASK]).unwrap();
        check(&text, "\"<\\\"\"\n");
        assert_eq!(Template::text("plain", &[]).unwrap().as_literal(), Some("plain"));
    }

    #[test]
    fn a_wrong_operator_says_which_was_meant() {
        let error = |text| Template::text(text, &[&WHO, &TOOK]).unwrap_err();
        assert!(error("%TOKO%").contains("did you mean %TOOK%?"));
        assert!(error("100% sure").contains("not closed"));
        assert!(error("%WHO(x)%").contains("takes no argument"));
        let error = |text| Template::text(text, &[&ASK]).unwrap_err();
        assert!(error("%ASK%").contains("%ASK(WORD)%"));
        assert!(error("%ASK(x%").contains("no closing parenthesis"));
        assert!(error("%ASK(x):y%").contains("not a number"));
    }
}
