//! What is wrong with a configuration, and where.
//!
//! Owns: the list of findings. Refuses to know: how they are shown. Keeps: a finding says what was
//! found, what was expected and what to do; nothing stops at the first one.

use crate::tree::Span;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is not used.
    Error,
    /// Legal, but risky or surprising.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for the kind of finding, such as `unknown-field`.
    pub code: &'static str,
    /// Where it stands; `None` for a finding about no place in a file.
    pub span: Option<Span>,
    /// The path of the field: `listeners[0].chains[2].match.sni`.
    pub path: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Another place that it is about, with a word on it.
    pub other: Option<(Span, String)>,
}

/// Findings, in the order they were made.
#[derive(Debug, Default)]
pub struct Diags {
    items: Vec<Diagnostic>,
}

impl Diags {
    /// No findings yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error and returns it for more detail.
    pub fn error(
        &mut self,
        code: &'static str,
        span: impl Into<Option<Span>>,
        path: impl ToString,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Error, code, span.into(), path.to_string(), message.into())
    }

    /// Adds a warning and returns it for more detail.
    pub fn warning(
        &mut self,
        code: &'static str,
        span: impl Into<Option<Span>>,
        path: impl ToString,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Warning, code, span.into(), path.to_string(), message.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        span: Option<Span>,
        path: String,
        message: String,
    ) -> &mut Diagnostic {
        self.items.push(Diagnostic {
            severity,
            code,
            span,
            path,
            message,
            help: None,
            other: None,
        });
        self.items.last_mut().expect("one was just pushed")
    }

    /// The finding that was added last.
    pub fn last_mut(&mut self) -> Option<&mut Diagnostic> {
        self.items.last_mut()
    }

    /// Every finding, to be completed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Diagnostic> {
        self.items.iter_mut()
    }

    /// Whether any finding is an error.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// How many findings are errors, and how many warnings.
    pub fn counts(&self) -> (usize, usize) {
        let errors = self.items.iter().filter(|item| item.severity == Severity::Error).count();
        (errors, self.items.len() - errors)
    }

    /// The findings in the order of their places.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.items.sort_by_key(|item| (item.span, item.severity));
        self.items
    }

    /// The findings in the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }
}

impl Diagnostic {
    /// Says what to do about it.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    /// Points at another place that it is about.
    pub fn other(&mut self, span: Span, label: impl Into<String>) -> &mut Self {
        self.other = Some((span, label.into()));
        self
    }
}
