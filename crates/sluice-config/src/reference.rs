//! The reference page: every section and field, generated from the types.

use std::fmt::Write as _;

use sluice_core::settings::{FieldShape, SectionShape};
use sluice_core::{Setting as _, Shape};
use sluice_model::Config;

/// The page in Markdown.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration reference\n\nEvery section and field. This page is generated from the types that read the \
         configuration (`cargo xtask docs`); do not edit it.\n\nA field marked *one or a list* takes either. \
         Durations are written `250ms`, `5s`, `1m30s`; sizes `16KiB` or a number of bytes; rates `500/s`; \
         percentages `10%`; `none` means no limit. `true` stands \
         for a section with nothing but defaults: `tls: true` on a cluster. Paths are relative to the configuration file.\n\n\
         `${NAME}` in a value stands for an environment variable, `${NAME:-default}` for its value or, if it is unset or \
         empty, the default; `$${` is a literal `${`. In place of a single value, `{ env: NAME }` takes an environment \
         variable and `{ file: PATH }` the content of a file. In regexes, their replacements and texts with \
         %OPERATOR%s, `${` has no special meaning; `{ env: }` and `{ file: }` work there too. See \
         [Variables and secrets](operating.md#variables-and-secrets).\n",
    );
    let mut waiting: Vec<SectionShape> = Vec::new();
    let mut done: Vec<&'static str> = Vec::new();
    collect(&Config::shape(), &mut waiting);
    waiting.reverse();
    while let Some(section) = waiting.pop() {
        if done.contains(&section.name) {
            continue;
        }
        done.push(section.name);
        write_section(&section, &mut out);
        let mut inner = Vec::new();
        section.fields.iter().for_each(|field| collect(&field.shape, &mut inner));
        inner.reverse();
        waiting.extend(inner);
    }
    write_operators(&mut out);
    out
}

/// Writes the operators of access logs, header values and bodies.
fn write_operators(out: &mut String) {
    out.push_str(
        "\n## Operators\n\nFor `access_log.format`; request operators also for header values and bodies. \
         `:12` after the parentheses of an argument shows at most 12 characters. \
         `sluice explain --operators` lists them.\n\n\
         | operator | of | meaning |\n|---|---|---|\n",
    );
    for (operator, of) in sluice_model::process::operators_of() {
        let help = operator.help.replace('|', "\\|");
        let _ = writeln!(out, "| `{}` | {of} | {help} |", operator.written());
    }
}

fn collect(shape: &Shape, into: &mut Vec<SectionShape>) {
    match shape {
        Shape::Section(section) => into.push(section()),
        Shape::OneOrMany(inner) | Shape::Named(inner) | Shape::OrNone(inner) => {
            collect(inner, into)
        }
        Shape::Either(shapes) => shapes.iter().for_each(|shape| collect(shape, into)),
        _ => {}
    }
}

/// Writes one section as a table.
pub fn write_section(section: &SectionShape, out: &mut String) {
    let _ = write!(out, "\n## {}\n\n{}\n\n", section.name, section.doc);
    out.push_str("| field | value | default | meaning |\n|---|---|---|---|\n");
    section.fields.iter().for_each(|field| write_field(field, out));
}

fn write_field(field: &FieldShape, out: &mut String) {
    let default = match (field.default, field.required) {
        (Some(default), _) => format!("`{default}`"),
        (None, true) => "required".into(),
        (None, false) => "-".into(),
    };
    let _ = writeln!(
        out,
        "| `{}` | {} | {default} | {} |",
        field.key,
        describe(&field.shape),
        field.doc.replace('|', "\\|")
    );
    if let Shape::Fields(rows) = &field.shape {
        for row in rows {
            let _ = writeln!(
                out,
                "| `{}.{}` | {} | - | {} |",
                field.key,
                row.key,
                describe(&row.shape),
                row.doc
            );
        }
    }
}

fn describe(shape: &Shape) -> String {
    match shape {
        Shape::Text { what, example } => format!("{what}, e.g. `{example}`"),
        Shape::Secret => "a secret, e.g. `{ file: session.key }`".into(),
        Shape::Bool => "`true` or `false`".into(),
        Shape::Count { .. } => "a number".into(),
        Shape::Choice(words) => {
            let words: Vec<String> =
                words.iter().map(|(word, doc)| format!("`{word}`: {}", doc.trim())).collect();
            words.join("<br>")
        }
        Shape::Section(section) => {
            let name = section().name;
            format!("[{name}](#{})", name.to_ascii_lowercase())
        }
        Shape::OneOrMany(item) => format!("{}; one or a list", describe(item)),
        Shape::Named(item) => format!("names, each with {}", describe(item)),
        Shape::OrNone(item) => format!("{} or `none`", describe(item)),
        Shape::Either(shapes) => shapes.iter().map(describe).collect::<Vec<_>>().join(", or "),
        Shape::Empty => "`true`".into(),
        Shape::Tagged(entries) => {
            let written = |entry: &FieldShape| format!("`{{ {}: }}`", entry.key);
            entries.iter().map(written).collect::<Vec<_>>().join(", ")
        }
        Shape::Fields(_) => "a map of the names below".into(),
        Shape::Any => "see [Filters](filters.md)".into(),
    }
}
