//! How a path match is written in a configuration.
//!
//! Owns: its short form, and the names of the others. Refuses to know: which setting holds it. Keeps: what is shown is
//! bound to the same match again.

use sluice_core::settings::{FieldShape, Plain, Shape, bind_scalar, bind_verbatim, wrong_kind};
use sluice_core::{Diags, Node, Path, Setting, Value};

use crate::path_match::PathMatch;
use sluice_l4::regexes;

/// The path condition of a match.
#[derive(Clone, Debug)]
pub struct PathValue(pub PathMatch);

impl PartialEq for PathValue {
    fn eq(&self, other: &Self) -> bool {
        self.show() == other.show()
    }
}

impl Setting for PathValue {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let what = "a path, { regex: }, { template: } or { starts_with: }";
        let Value::Map(entries) = &node.value else {
            return bind_scalar(node, at, diags, what, PathMatch::parse).map(Self);
        };
        let [entry] = entries.as_slice() else {
            wrong_kind(node, at, diags, what);
            return None;
        };
        let here = at.key(&entry.key);
        let parse = |text: &str| match &*entry.key {
            "regex" => PathMatch::parse_regex(text),
            "template" => PathMatch::parse_template(text),
            "starts_with" if text.starts_with('/') => Ok(PathMatch::StartsWith(text.into())),
            "starts_with" => Err(format!("expected a path that begins with `/`, not `{text}`")),
            key => Err(format!("`{key}` is not one of regex, template, starts_with")),
        };
        if &*entry.key == "regex" && entry.node.text().is_some_and(is_half_anchored) {
            diags
                .warning(
                    "half-anchored",
                    entry.node.span,
                    here,
                    "a regex must match the whole path, not only its beginning",
                )
                .help("add `.*` at the end; `^` and `$` are not needed");
        }
        let bind = if &*entry.key == "regex" { bind_verbatim } else { bind_scalar };
        bind(&entry.node, &here, diags, "text", parse).map(Self)
    }

    fn shape() -> Shape {
        let text = |key, example| FieldShape {
            key,
            doc: String::new(),
            required: false,
            default: None,
            shape: Shape::Text { what: "text", example },
        };
        Shape::Either(vec![
            Shape::Text { what: "a path", example: "/a/*" },
            Shape::Tagged(vec![
                text("regex", "/v[0-9]+/.*"),
                text("template", "/users/{id}"),
                text("starts_with", "/api"),
            ]),
        ])
    }

    fn show(&self) -> Plain {
        let tagged = |key: &str, text: String| Plain::Map(vec![(key.into(), Plain::Text(text))]);
        match &self.0 {
            PathMatch::Regex(regex) => tagged("regex", regexes::written(regex.as_str()).to_owned()),
            PathMatch::HttpTemplate(_) => tagged("template", self.0.to_string()),
            PathMatch::StartsWith(text) => tagged("starts_with", text.to_string()),
            path => Plain::Text(path.to_string()),
        }
    }
}

/// Whether a regex looks as if it were meant as a path prefix: it begins with `^` and ends in a literal character.
fn is_half_anchored(regex: &str) -> bool {
    let Some(last) = regex.strip_prefix('^').and_then(|rest| rest.chars().next_back()) else {
        return false;
    };
    let before = &regex[..regex.len() - last.len_utf8()];
    let escaped = (before.len() - before.trim_end_matches('\\').len()) % 2 == 1;
    // An escaped letter or digit is a class or an assertion, such as `\d` and `\z`.
    if escaped { !last.is_ascii_alphanumeric() } else { !r"\.+*?()[]{}|^$".contains(last) }
}
