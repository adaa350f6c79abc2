//! The long form: every short form expanded, every default written out, without secrets.
//!
//! Owns: how it is printed. Refuses to know: what a secret is. Keeps: it can be read again and means the same, where
//! the same variables and files are present.

use std::fmt::Write as _;

use sluice_core::{Node, Plain, Setting};
use sluice_model::Config;

use crate::filter_settings::{KnownFilters, with_long_forms};
use crate::origin::SettingOrigin;
use crate::redact::redacted;
use crate::written::as_written;

/// The configuration as YAML in its long form, without secrets. It was read from `root`.
pub fn yaml(config: &Config, root: &Node, filters: &dyn KnownFilters) -> String {
    written_by(config, root, filters, SettingOrigin::Unasked)
}

/// The same, with comments that say which values are defaults, and which settings are not in force.
pub fn yaml_with_defaults(config: &Config, root: &Node, filters: &dyn KnownFilters) -> String {
    written_by(config, root, filters, SettingOrigin::Written(root))
}

fn written_by(
    config: &Config,
    root: &Node,
    filters: &dyn KnownFilters,
    origin: SettingOrigin<'_>,
) -> String {
    let mut out = String::new();
    write_block(&long_form(config, root, filters), origin, 0, &mut out);
    out
}

/// The configuration as JSON in its long form, without secrets. It was read from `root`.
pub fn config_json(config: &Config, root: &Node, filters: &dyn KnownFilters) -> serde_json::Value {
    of_plain(&long_form(config, root, filters))
}

fn long_form(config: &Config, root: &Node, filters: &dyn KnownFilters) -> Plain {
    let shown = with_long_forms(config.show(), filters);
    as_written(redacted(shown, &|name| filters.shapes(name)), root)
}

/// A section as JSON in its long form, without secrets.
pub fn json(section: &impl Setting) -> serde_json::Value {
    of_plain(&redacted(section.show(), &|_| Vec::new()))
}

fn of_plain(value: &Plain) -> serde_json::Value {
    match value {
        Plain::Null => serde_json::Value::Null,
        Plain::Bool(value) => (*value).into(),
        Plain::Number(value) => (*value).into(),
        Plain::Text(value) => value.clone().into(),
        Plain::List(items) => items.iter().map(of_plain).collect(),
        Plain::Map(fields) => {
            let shown = fields.iter().filter(|(_, value)| !says_nothing(value));
            serde_json::Value::Object(
                shown.map(|(key, value)| (key.clone(), of_plain(value))).collect(),
            )
        }
    }
}

/// Whether a value is omitted: an absent field or an empty list.
fn says_nothing(value: &Plain) -> bool {
    matches!(value, Plain::Null) || matches!(value, Plain::List(items) if items.is_empty())
}

fn write_block(value: &Plain, origin: SettingOrigin<'_>, indent: usize, out: &mut String) {
    match value {
        Plain::Map(fields) => {
            for (key, value) in fields.iter().filter(|(_, value)| !says_nothing(value)) {
                let _ = write!(out, "{:indent$}{}:", "", quote(key));
                write_value(value, origin.field(key), indent, out);
            }
            write_unset(fields, origin, indent, out);
        }
        Plain::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let mut inner = String::new();
                write_block(item, origin.item(index, items.len()), indent + 2, &mut inner);
                let _ = write!(out, "{:indent$}- {}", "", inner.trim_start());
            }
        }
        single => {
            let _ = writeln!(out, "{:indent$}{}", "", inline(single));
        }
    }
}

/// Names the settings of a section that are not in force.
fn write_unset(
    fields: &[(String, Plain)],
    origin: SettingOrigin<'_>,
    indent: usize,
    out: &mut String,
) {
    if matches!(origin, SettingOrigin::Unasked)
        || fields.iter().all(|(_, value)| says_nothing(value))
    {
        return;
    }
    let unset = fields.iter().filter(|(_, value)| says_nothing(value));
    let unset: Vec<&str> = unset.map(|(key, _)| &**key).collect();
    if !unset.is_empty() {
        let _ = writeln!(out, "{:indent$}# not set: {}", "", unset.join(", "));
    }
}

fn write_value(value: &Plain, origin: SettingOrigin<'_>, indent: usize, out: &mut String) {
    let mark = || if origin.is_default(value) { "  # default" } else { "" };
    match value {
        Plain::Map(fields) if fields.iter().any(|(_, value)| !says_nothing(value)) => {
            out.push('\n');
            write_block(value, origin, indent + 2, out);
        }
        Plain::List(items)
            if items.iter().all(|item| !matches!(item, Plain::Map(_) | Plain::List(_))) =>
        {
            let items: Vec<String> = items.iter().map(inline).collect();
            let _ = writeln!(out, " [{}]{}", items.join(", "), mark());
        }
        Plain::List(_) => {
            out.push('\n');
            write_block(value, origin, indent + 2, out);
        }
        single => {
            let _ = writeln!(out, " {}{}", inline(single), mark());
        }
    }
}

fn inline(value: &Plain) -> String {
    match value {
        Plain::Null => "null".into(),
        Plain::Bool(value) => value.to_string(),
        Plain::Number(value) => value.to_string(),
        Plain::Text(text) => quote(text),
        Plain::List(_) => "[]".into(),
        Plain::Map(_) => "{}".into(),
    }
}

/// Quotes text that YAML could read as something else.
fn quote(text: &str) -> String {
    let plain = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && !text.ends_with(':')
        && !matches!(text, "null" | "true" | "false");
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
