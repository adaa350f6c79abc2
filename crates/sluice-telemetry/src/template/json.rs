//! JSON made by a template.
//!
//! Owns: the members of an object, and how they are escaped. Refuses to know: which operators there are. Keeps: what a value
//! contains stays in it; a member without a value is left out.

use std::fmt::Write as _;

use sluice_core::clock::rfc3339;

use super::{
    Argument, Escape, Lookup, Operator, Template, TemplateField, TemplatePart, is_deceptive,
    is_plain, render,
};

/// A member of a JSON object, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonMember {
    /// A text with operators.
    Text(String),
    /// A number, `true`, `false` or `null`.
    Word(String),
    /// An object.
    Object(Vec<(String, Self)>),
}

/// A member of a JSON template.
#[derive(Clone, Debug)]
pub struct TemplateKey {
    /// Escaped for JSON, without quotes.
    name: Box<str>,
    value: MemberValue,
    /// Durations have their unit in the key if the key is the operator's name.
    units: bool,
}

#[derive(Clone, Debug)]
enum MemberValue {
    Parts(Vec<TemplatePart>),
    /// JSON as it is.
    Word(Box<str>),
    Object(Vec<TemplateKey>),
}

impl TemplateKey {
    /// The value of an operator without an argument, under the operator's name.
    pub(super) fn of_operator(operator: &'static Operator) -> Self {
        let part = TemplatePart::Operator(operator, Argument::default());
        let name = escaped_key(&operator.name.to_ascii_lowercase());
        Self { name, value: MemberValue::Parts(vec![part]), units: true }
    }

    /// A text under a name.
    pub(super) fn of_text(name: &str, parts: Vec<TemplatePart>) -> Self {
        Self { name: escaped_key(name), value: MemberValue::Parts(parts), units: false }
    }
}

/// Parses the members of an object.
pub(super) fn keys(
    members: &[(String, JsonMember)],
    operators: &[&'static Operator],
) -> Result<Vec<TemplateKey>, String> {
    let key = |(name, member): &(String, JsonMember)| {
        let value = match member {
            JsonMember::Text(text) => match Template::text(text, operators)? {
                Template::Text(parts) => MemberValue::Parts(parts),
                Template::Json(keys) => MemberValue::Object(keys),
            },
            JsonMember::Word(word) => MemberValue::Word(word.as_str().into()),
            JsonMember::Object(members) => MemberValue::Object(keys(members, operators)?),
        };
        Ok(TemplateKey { name: escaped_key(name), value, units: false })
    };
    members.iter().map(key).collect()
}

/// Appends an object.
pub(super) fn write_object<'a>(keys: &[TemplateKey], lookup: &Lookup<'a, '_>, out: &mut String) {
    let start = out.len();
    write_members(keys, lookup, out);
    if out.len() == start {
        out.push('{');
    } else {
        // In place of the comma before the first member.
        out.replace_range(start..=start, "{");
    }
    out.push('}');
}

/// Appends members, each with a comma before it.
pub(super) fn write_members<'a>(keys: &[TemplateKey], lookup: &Lookup<'a, '_>, out: &mut String) {
    for TemplateKey { name, value, units } in keys {
        match value {
            MemberValue::Parts(parts) => {
                let field = value_of(parts, lookup);
                if field != TemplateField::Missing {
                    let millis = *units && matches!(field, TemplateField::Millis(_));
                    write_name(name, if millis { "_ms" } else { "" }, out);
                    write_field(field, out);
                }
            }
            MemberValue::Word(word) => {
                write_name(name, "", out);
                out.push_str(word);
            }
            MemberValue::Object(keys) => {
                write_name(name, "", out);
                write_object(keys, lookup, out);
            }
        }
    }
}

/// The value of a member; of an operator alone its own, which may be a number.
fn value_of<'a>(parts: &[TemplatePart], lookup: &Lookup<'a, '_>) -> TemplateField<'a> {
    match parts {
        [TemplatePart::Operator(operator, argument)] if argument.longest.is_none() => {
            lookup(operator, argument)
        }
        parts => {
            let mut text = String::new();
            render(parts, lookup, Escape::Nothing, &mut text);
            TemplateField::from(text)
        }
    }
}

fn write_name(name: &str, unit: &str, out: &mut String) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str(unit);
    out.push_str("\":");
}

fn write_field(field: TemplateField<'_>, out: &mut String) {
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

/// A name as it appears between the quotes of a JSON key.
fn escaped_key(name: &str) -> Box<str> {
    let mut quoted = String::new();
    push_json(name, &mut quoted);
    quoted[1..quoted.len() - 1].into()
}

/// Appends a JSON string. Deceptive characters are escaped in addition to what JSON requires; all of them have four
/// digits.
pub(super) fn push_json(text: &str, out: &mut String) {
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

    const CODE: Operator = Operator::plain("CODE", "");
    const GONE: Operator = Operator::plain("GONE", "");

    #[test]
    fn objects_within_objects() {
        let text = |text: &str| JsonMember::Text(text.to_owned());
        let inner = vec![
            ("code".to_owned(), text("%CODE%")),
            ("none".to_owned(), text("%GONE%")),
            ("text".to_owned(), text("is \"%CODE%\"")),
            ("n".to_owned(), JsonMember::Word("5".to_owned())),
        ];
        let nothing = JsonMember::Object(vec![("none".to_owned(), text("%GONE%"))]);
        let members =
            [("error".to_owned(), JsonMember::Object(inner)), ("nothing".to_owned(), nothing)];
        let template = Template::object(&members, &[&CODE, &GONE]).unwrap();
        let mut out = String::from("body: ");
        let lookup = |operator: &Operator, _: &Argument| match operator.name {
            "CODE" => TemplateField::Number(503),
            _ => TemplateField::Missing,
        };
        template.render(&lookup, &mut out);
        let expected = r#"body: {"error":{"code":503,"text":"is \"503\"","n":5},"nothing":{}}"#;
        assert_eq!(out, expected);
        let wrong = [("a".to_owned(), JsonMember::Object(vec![("b".to_owned(), text("%COD%"))]))];
        assert!(Template::object(&wrong, &[&CODE]).unwrap_err().contains("did you mean %CODE%?"));
    }
}
