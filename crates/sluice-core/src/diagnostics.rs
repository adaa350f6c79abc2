//! What is wrong with a configuration, and where.
//!
//! Owns: the list of findings. Refuses to know: how they are shown. Keeps: a finding reports what was found, what was
//! expected and what to do; checking never stops at the first finding.

use crate::tree::Span;

/// The severity of a finding.
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
    /// The severity.
    pub severity: Severity,
    /// A stable code for the kind of finding, such as `unknown-field`.
    pub code: &'static str,
    /// The position; `None` for a finding that refers to no position in a file.
    pub span: Option<Span>,
    /// The path of the field: `listeners[0].chains[2].match.sni`.
    pub path: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// A related position, with a label.
    pub other: Option<(Span, String)>,
    /// Whether the finding is about the key of its field rather than the value.
    pub on_key: bool,
    /// The path of a related field, with a label, until its position is known.
    pub other_at: Option<(String, String)>,
}

/// Findings, in the order they were added.
#[derive(Debug, Default)]
pub struct Diags {
    items: Vec<Diagnostic>,
}

impl Diags {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error and returns it, so that details can be added.
    pub fn error(
        &mut self,
        code: &'static str,
        span: impl Into<Option<Span>>,
        path: impl ToString,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Error, code, span.into(), path.to_string(), message.into())
    }

    /// Adds a warning and returns it, so that details can be added.
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
            on_key: false,
            other_at: None,
        });
        self.items.last_mut().expect("one was just pushed")
    }

    /// The finding added last.
    pub fn last_mut(&mut self) -> Option<&mut Diagnostic> {
        self.items.last_mut()
    }

    /// All findings, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Diagnostic> {
        self.items.iter_mut()
    }

    /// Adds findings, each after it was given a place.
    pub fn extend(&mut self, found: Self, mut place: impl FnMut(&mut Diagnostic)) {
        self.items.extend(found.items.into_iter().map(|mut item| {
            place(&mut item);
            item
        }));
    }

    /// An unknown field stands for the one at `path`: that this one is missing is no finding of its own.
    pub fn stands_for(&mut self, path: &str) {
        self.items.retain(|item| item.code != "missing-field" || item.path != path);
    }

    /// Whether the section at `path` has an unknown field. It may be what the section seems to lack.
    pub fn has_unknown(&self, path: impl ToString) -> bool {
        let section = path.to_string();
        self.items.iter().any(|item| {
            let parent = item.path.rsplit_once('.').map_or("", |(parent, _)| parent);
            item.code == "unknown-field" && parent == section
        })
    }

    /// Whether any finding is an error.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// The number of errors and the number of warnings.
    pub fn counts(&self) -> (usize, usize) {
        let errors = self.items.iter().filter(|item| item.severity == Severity::Error).count();
        (errors, self.items.len() - errors)
    }

    /// The findings, sorted by position.
    pub fn sorted(&self) -> Vec<Diagnostic> {
        let mut items = self.items.clone();
        items.sort_by_key(|item| (item.span, item.severity));
        items
    }

    /// The findings, sorted by position.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.items.sort_by_key(|item| (item.span, item.severity));
        self.items
    }

    /// The findings in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }
}

impl Diagnostic {
    /// Sets the help: what to do about it.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    /// Marks the key of the field rather than the value.
    pub fn on_key(&mut self) -> &mut Self {
        self.on_key = true;
        self
    }

    /// Sets a related field, by its path.
    pub fn other_at(&mut self, path: impl ToString, label: impl Into<String>) -> &mut Self {
        self.other_at = Some((path.to_string(), label.into()));
        self
    }

    /// Sets a related position.
    pub fn other(&mut self, span: Span, label: impl Into<String>) -> &mut Self {
        self.other = Some((span, label.into()));
        self
    }
}
