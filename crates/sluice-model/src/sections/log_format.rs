//! The format of access log records: JSON, text, a line or custom fields.
//!
//! Owns: the forms that `format` takes. Refuses to know: which operators exist. Keeps: custom fields keep the
//! order in which they are written.

use sluice_core::settings::{Path, Plain, Setting, Shape, bind_entries, bind_verbatim, entries_of};
use sluice_core::tree::Value;
use sluice_core::{Diags, Node, section};

/// The format of access log records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `json`, `text`, or a line with operators.
    Line(String),
    /// JSON with these fields.
    Json(Vec<(String, String)>),
}

section! {
    /// JSON records with custom fields.
    pub struct JsonFields {
        /// Field names, each with a text that contains %OPERATOR%s; a single operator keeps its type, such as a number.
        /// A field without a value is omitted.
        pub json: Chosen,
    }
}

/// Fields of a record, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen(Vec<(String, String)>);

impl Setting for Chosen {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of fields")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            if entry.key.as_ref() == "kind" {
                diags
                    .error(
                        "bad-value",
                        entry.key_span,
                        here,
                        "every record already has the field `kind`",
                    )
                    .help("choose another name");
                return None;
            }
            let text = bind_verbatim(&entry.node, here, diags, "text with %OPERATOR%s", |text| {
                Ok(text.to_owned())
            })?;
            Some((entry.key.to_string(), text))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "text with %OPERATOR%s", example: "%REQ(USER-AGENT)%" };
        Shape::Named(Box::new(text))
    }

    fn show(&self) -> Plain {
        let shown = self.0.iter().map(|(name, text)| (name.clone(), Plain::Text(text.clone())));
        Plain::Map(shown.collect())
    }
}

impl Setting for LogFormat {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            return JsonFields::bind(node, at, diags).map(|fields| Self::Json(fields.json.0));
        }
        let what = "json, text, a line with %OPERATOR%s or { json: { NAME: \"%OPERATOR%\" } }";
        bind_verbatim(node, at, diags, what, |text| Ok(Self::Line(text.to_owned())))
    }

    fn shape() -> Shape {
        let line = Shape::Text { what: "json, text or a line with %OPERATOR%s", example: "json" };
        Shape::Either(vec![line, JsonFields::shape()])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Line(text) => Plain::Text(text.clone()),
            Self::Json(fields) => JsonFields { json: Chosen(fields.clone()) }.show(),
        }
    }
}
