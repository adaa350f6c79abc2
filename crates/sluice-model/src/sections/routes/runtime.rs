//! The section of runtime values.
//!
//! Owns: where their initial values are from. Refuses to know: who reads them.

use std::collections::BTreeMap;

use sluice_core::settings::{Plain, Shape, bind_entries, bind_scalar, entries_of};
use sluice_core::{Diags, Node, Path, Setting, Spanned, section};

section! {
    /// Values that change without a new configuration. The file takes precedence over `values`, an override by the
    /// operator over both.
    pub struct RuntimeSection {
        /// A file of `name: value` lines; reloaded when it changes.
        pub file: Option<Spanned<std::path::PathBuf>>,
        /// Values used if neither the file nor the operator sets them.
        pub values: RuntimeValues,
    }
}

/// Values by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeValues(pub BTreeMap<String, Spanned<String>>);

impl Setting for RuntimeValues {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of names to values")?;
        bind_entries(entries, at, diags, |entry, here, diags| {
            let value =
                bind_scalar(&entry.node, here, diags, "a value", |text| Ok(text.to_owned()));
            Some((entry.key.to_string(), Spanned { value: value?, span: entry.node.span }))
        })
        .map(Self)
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(Shape::Text { what: "a value", example: "5%" }))
    }

    fn show(&self) -> Plain {
        let text = |value: &Spanned<String>| Plain::Text(value.value.clone());
        let shown = self.0.iter().map(|(name, value)| (name.clone(), text(value)));
        Plain::Map(shown.collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}
