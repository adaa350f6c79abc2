//! Settings of filters in the long form of a configuration.
//!
//! Owns: where they stand. Refuses to know: filters. Keeps: what a filter cannot read stays as it is written.

use sluice_core::{Node, Plain, Shape};

/// The filters that a configuration may use, by their names.
pub trait KnownFilters {
    /// The shapes of the settings of the filters of that name.
    fn shapes(&self, name: &str) -> Vec<Shape>;

    /// The long form of the settings of the filter of that name, for requests or for connections; `None` if it is not
    /// known.
    fn long_form(&self, of_requests: bool, name: &str, settings: &Node) -> Option<Plain>;
}

/// No filters: their settings are shown as they are written.
#[derive(Clone, Copy, Debug)]
pub struct NoFilters;

impl KnownFilters for NoFilters {
    fn shapes(&self, _: &str) -> Vec<Shape> {
        Vec::new()
    }

    fn long_form(&self, _: bool, _: &str, _: &Node) -> Option<Plain> {
        None
    }
}

/// A configuration whose filters have their settings in the long form.
pub(crate) fn with_long_forms(value: Plain, filters: &dyn KnownFilters) -> Plain {
    expanded(value, false, filters)
}

fn expanded(value: Plain, of_requests: bool, filters: &dyn KnownFilters) -> Plain {
    match value {
        Plain::List(items) => {
            let item = |item| expanded(item, of_requests, filters);
            Plain::List(items.into_iter().map(item).collect())
        }
        Plain::Map(fields) => {
            let field = |(key, value): (String, Plain)| {
                let of_requests = of_requests || matches!(&*key, "http" | "routes");
                let value = match &*key {
                    "filters" => each(value, of_requests, filters),
                    _ => expanded(value, of_requests, filters),
                };
                (key, value)
            };
            Plain::Map(fields.into_iter().map(field).collect())
        }
        single => single,
    }
}

/// The filters of a chain, a list, or those of a rule, a map.
fn each(value: Plain, of_requests: bool, filters: &dyn KnownFilters) -> Plain {
    match value {
        Plain::List(items) => {
            Plain::List(items.into_iter().map(|item| each(item, of_requests, filters)).collect())
        }
        Plain::Map(fields) => {
            let field = |(name, settings): (String, Plain)| {
                // A rule leaves the filter out.
                let skips = matches!(&settings, Plain::Text(text) if text == "skip");
                let known = || filters.long_form(of_requests, &name, &settings.to_node());
                let shown = if skips { None } else { known() };
                (name, shown.unwrap_or(settings))
            };
            Plain::Map(fields.into_iter().map(field).collect())
        }
        single => single,
    }
}
