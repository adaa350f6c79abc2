//! A body that is a JSON object, as a setting.
//!
//! Owns: how the object is written and shown. Refuses to know: operators, and how JSON is escaped. Keeps: a number or truth
//! value without quotes stays one.

use sluice_core::settings::{Plain, Shape, bind_entries, bind_verbatim, wrong_kind};
use sluice_core::{Diags, Node, Path, Setting, Value};
use sluice_telemetry::{JsonMember, Template};

use crate::record::{OPERATORS, View};

/// A JSON object whose texts contain `%OPERATOR%`s.
#[derive(Clone, Debug)]
pub struct JsonBody {
    template: Template,
    members: Vec<(String, JsonMember)>,
}

impl JsonBody {
    /// Renders the object for one request.
    pub(super) fn fill(&self, view: &View<'_>) -> String {
        let mut out = String::new();
        self.template.render(&|operator, argument| view.field(operator, argument), &mut out);
        out
    }
}

impl PartialEq for JsonBody {
    /// Bodies are equal if they were written alike.
    fn eq(&self, other: &Self) -> bool {
        self.members == other.members
    }
}

impl Setting for JsonBody {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let members = bind_members(node, at, diags)?;
        // Each text was parsed as it was bound.
        let template = Template::object(&members, OPERATORS).unwrap_or(Template::Json(Vec::new()));
        Some(Self { template, members })
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "text with %OPERATOR%s", example: "%RESPONSE_CODE%" };
        Shape::Named(Box::new(Shape::Either(vec![text, Shape::Any])))
    }

    fn show(&self) -> Plain {
        show_members(&self.members)
    }
}

fn bind_members(
    node: &Node,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Vec<(String, JsonMember)>> {
    let Value::Map(entries) = &node.value else {
        wrong_kind(node, at, diags, "a map of names to texts, such as `error: '%RESPONSE_CODE%'`");
        return None;
    };
    bind_entries(entries, at, diags, |entry, here, diags| {
        let node = &entry.node;
        let member = match &node.value {
            Value::Map(_) => JsonMember::Object(bind_members(node, here, diags)?),
            Value::Null => JsonMember::Word("null".to_owned()),
            Value::Scalar { text, quoted: false } if is_word(text) => {
                JsonMember::Word(text.to_string())
            }
            _ => bind_verbatim(node, here, diags, "text or an object", |text| {
                Template::text(text, OPERATORS).map(|_| JsonMember::Text(text.to_owned()))
            })?,
        };
        Some((entry.key.to_string(), member))
    })
}

fn show_members(members: &[(String, JsonMember)]) -> Plain {
    let shown = members.iter().map(|(name, member)| {
        let plain = match member {
            JsonMember::Text(text) | JsonMember::Word(text) => Plain::Text(text.clone()),
            JsonMember::Object(members) => show_members(members),
        };
        (name.clone(), plain)
    });
    Plain::Map(shown.collect())
}

/// Whether a text without quotes is a number or a word of JSON (RFC 8259 §3, §6).
fn is_word(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number =
        digits(whole) && digits(fraction) && (whole.len() == 1 || !whole.starts_with('0'));
    is_number || matches!(text, "true" | "false" | "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_json() {
        for text in ["0", "5", "-10", "1.50", "true", "false", "null"] {
            assert!(is_word(text), "{text}");
        }
        for text in ["", "-", "05", "1.", ".5", "+1", "0x1", "1e3", "yes", "1_0", "--1"] {
            assert!(!is_word(text), "{text}");
        }
    }
}
