//! Renders findings for people and programs.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use sluice_core::value::plural;
use sluice_core::{Diagnostic, Severity, Span};

use crate::redact;
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
    format!("{}, {}", plural(errors as u64, "error"), plural(warnings as u64, "warning"))
}

fn one(finding: &Diagnostic, sources: &Sources, renderer: &Renderer) -> String {
    let finding = &*redact::finding(finding, sources);
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&finding.message).id(finding.code);
    let place = finding.span.filter(|span| sources.get(span.file).is_some());
    let mut groups: Vec<Group<'_>> = Vec::new();
    match place {
        None => groups.push(Group::with_title(title)),
        Some(span) => {
            let label = if finding.path.is_empty() { "here" } else { &finding.path };
            let primary = (AnnotationKind::Primary, span, label);
            let other = finding
                .other
                .as_ref()
                .map(|(at, label)| (AnnotationKind::Context, *at, label.as_str()));
            let (same, elsewhere): (Vec<_>, Vec<_>) =
                other.into_iter().partition(|(_, at, _)| at.file == span.file);
            let here = std::iter::once(primary).chain(same).collect::<Vec<_>>();
            let snippets =
                [here, elsewhere].into_iter().filter_map(|marks| snippet(&marks, sources));
            groups.push(title.elements(snippets));
        }
    }
    if let Some(help) = &finding.help {
        groups.push(Group::with_title(Level::HELP.secondary_title(help)));
    }
    renderer.render(&groups)
}

/// The lines of one file with marks on them: from the first marked line to the last, and no others, since each finding
/// is rendered by itself and a file can have many.
fn snippet<'s>(
    marks: &[(AnnotationKind, Span, &'s str)],
    sources: &'s Sources,
) -> Option<Snippet<'s, Annotation<'s>>> {
    let file = marks.first()?.1.file;
    let (path, text) = sources.get(file)?;
    let marked = |at: &Span| within(text, at.start, at.end);
    let start = marks.iter().map(|(_, at, _)| marked(at).start).min()?;
    let end = marks.iter().map(|(_, at, _)| marked(at).end).max()?;
    let (line, shown) = sources.lines(file, start..end)?;
    let annotations = marks.iter().map(|(kind, at, label)| {
        let Range { start, end } = marked(at);
        kind.span(start - shown.start..end - shown.start).label(*label)
    });
    let lines = Snippet::source(&text[shown.clone()]).line_start(line);
    Some(lines.path(path.display().to_string()).annotations(annotations))
}

/// A range that is within the text, starts and ends on character boundaries and does not leave its line.
fn within(text: &str, start: u32, end: u32) -> Range<usize> {
    let start = (start as usize).min(text.len());
    let start = (0..=start).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let line = text[start..].find('\n').map_or(text.len(), |length| start + length);
    let end = (end as usize).clamp(start, line.max(start));
    let end = (end..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    start..end
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
    let finding = &*redact::finding(finding, sources);
    let place = place(finding, sources)
        .map(|(path, line, column)| format!("{}:{line}:{column}: ", path.display()));
    let help = finding.help.as_ref().map(|help| format!(" (help: {help})"));
    format!("{}{}{}", place.unwrap_or_default(), finding.message, help.unwrap_or_default())
}

/// The findings as JSON.
pub fn json(findings: &[Diagnostic], sources: &Sources) -> serde_json::Value {
    let item = |finding: &Diagnostic| {
        let finding = &*redact::finding(finding, sources);
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
