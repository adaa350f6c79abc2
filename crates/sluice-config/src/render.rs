//! Renders findings for people and programs.

use std::fmt::Write as _;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use sluice_core::{Diagnostic, Severity};

use crate::sources::Sources;

/// Every finding with its source line and a caret, in the given order.
pub fn text(findings: &[Diagnostic], sources: &Sources, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for finding in findings {
        out.push_str(&one(finding, sources, &renderer));
        out.push_str("\n\n");
    }
    out
}

/// Maximum number of errors, and of warnings, shown unless all are requested.
pub const SHOWN_MAX: usize = 20;

/// The first [`SHOWN_MAX`] errors and as many warnings, and a line with the number of the remaining ones.
pub fn brief(findings: &[Diagnostic], sources: &Sources, colour: bool) -> String {
    let mut left = [SHOWN_MAX; 2];
    let mut hidden = [0; 2];
    let fits = |finding: &&Diagnostic| {
        let kind = usize::from(finding.severity == Severity::Warning);
        let shown = left[kind] > 0;
        if shown {
            left[kind] -= 1
        } else {
            hidden[kind] += 1
        }
        shown
    };
    let shown: Vec<Diagnostic> = findings.iter().filter(fits).cloned().collect();
    let mut out = text(&shown, sources, colour);
    if hidden != [0, 0] {
        let _ = writeln!(
            out,
            "{} not shown; `sluice check --all` shows them\n",
            counts(hidden[0], hidden[1])
        );
    }
    out
}

/// `1 error, 2 warnings`.
pub fn counts(errors: usize, warnings: usize) -> String {
    let count =
        |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    format!("{}, {}", count(errors, "error"), count(warnings, "warning"))
}

fn one(finding: &Diagnostic, sources: &Sources, renderer: &Renderer) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&finding.message).id(finding.code);
    let place = finding.span.and_then(|span| Some((span, sources.get(span.file)?)));
    let mut groups: Vec<Group<'_>> = Vec::new();
    match place {
        None => groups.push(Group::with_title(title)),
        Some((span, (path, text))) => {
            let path = path.display().to_string();
            let label = if finding.path.is_empty() { "here" } else { &finding.path };
            let primary =
                AnnotationKind::Primary.span(within(text, span.start, span.end)).label(label);
            let mut snippet = Snippet::source(text).path(path).annotation(primary);
            let mut elsewhere = None;
            if let Some((other, label)) = &finding.other {
                let context =
                    AnnotationKind::Context.span(within_file(sources, *other)).label(label);
                if other.file == span.file {
                    snippet = snippet.annotation(context);
                } else if let Some((path, text)) = sources.get(other.file) {
                    elsewhere = Some(
                        Snippet::source(text).path(path.display().to_string()).annotation(context),
                    );
                }
            }
            groups.push(title.element(snippet).elements(elsewhere));
        }
    }
    if let Some(help) = &finding.help {
        groups.push(Group::with_title(Level::HELP.secondary_title(help)));
    }
    renderer.render(&groups)
}

/// A range that is within the text, starts and ends on character boundaries and does not leave its line.
fn within(text: &str, start: u32, end: u32) -> std::ops::Range<usize> {
    let start = (start as usize).min(text.len());
    let start = (0..=start).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let line = text[start..].find('\n').map_or(text.len(), |length| start + length);
    let end = (end as usize).clamp(start, line.max(start));
    let end = (end..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    start..end
}

fn within_file(sources: &Sources, span: sluice_core::Span) -> std::ops::Range<usize> {
    sources.get(span.file).map_or(0..0, |(_, text)| within(text, span.start, span.end))
}

/// File, line and column of a finding.
fn place<'s>(finding: &Diagnostic, sources: &'s Sources) -> Option<(&'s Path, usize, usize)> {
    let span = finding.span?;
    let (line, column) = sources.line_column(span)?;
    let (path, _) = sources.get(span.file)?;
    Some((path, line, column))
}

/// A finding as one line, without source lines of the configuration, which may contain secrets.
pub fn line(finding: &Diagnostic, sources: &Sources) -> String {
    let place = place(finding, sources)
        .map(|(path, line, column)| format!("{}:{line}:{column}: ", path.display()));
    let help = finding.help.as_ref().map(|help| format!(" (help: {help})"));
    format!("{}{}{}", place.unwrap_or_default(), finding.message, help.unwrap_or_default())
}

/// The findings as JSON.
pub fn json(findings: &[Diagnostic], sources: &Sources) -> serde_json::Value {
    let item = |finding: &Diagnostic| {
        let place = place(finding, sources).map(|(path, line, column)| {
            serde_json::json!({ "file": path.display().to_string(), "line": line, "column": column })
        });
        serde_json::json!({
            "severity": match finding.severity { Severity::Error => "error", Severity::Warning => "warning" },
            "code": finding.code,
            "path": finding.path,
            "message": finding.message,
            "help": finding.help,
            "place": place,
        })
    };
    serde_json::Value::Array(findings.iter().map(item).collect())
}
