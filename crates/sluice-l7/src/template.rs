//! Texts with `%OPERATOR%`s, in header values and bodies.

use sluice_core::settings::{Plain, Shape, bind_verbatim};
use sluice_core::{Diags, Node, Path, Setting};
use sluice_telemetry::Template as Pattern;

use crate::record::{OPERATORS, View};

/// A text whose operators are replaced for each request.
#[derive(Clone, Debug)]
pub struct HttpTemplate {
    pattern: Pattern,
    source: String,
}

impl HttpTemplate {
    /// Parses a text; `%%` is a percent sign.
    ///
    /// # Errors
    /// A sentence about the first unknown operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { pattern: Pattern::text(text, OPERATORS)?, source: text.to_owned() })
    }

    /// Renders the text for one request.
    pub fn fill(&self, view: &View<'_>) -> String {
        let mut out = String::new();
        self.pattern.render(&|operator, argument| view.field(operator, argument), &mut out);
        out
    }

    /// The same for a body, in which line breaks of values stay what they are.
    pub(crate) fn fill_body(&self, view: &View<'_>) -> String {
        let mut out = String::new();
        self.pattern.render_body(&|operator, argument| view.field(operator, argument), &mut out);
        out
    }

    /// The text, if it contains no operator.
    pub fn as_literal(&self) -> Option<&str> {
        self.pattern.as_literal()
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for HttpTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Default for HttpTemplate {
    /// The empty text.
    fn default() -> Self {
        Self { pattern: Pattern::Text(Vec::new()), source: String::new() }
    }
}

impl Setting for HttpTemplate {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_verbatim(node, at, diags, "text", Self::parse)
    }

    fn shape() -> Shape {
        Shape::Text { what: "text", example: "hello" }
    }

    fn show(&self) -> Plain {
        Plain::Text(self.source.clone())
    }
}
