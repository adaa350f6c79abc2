//! Filters that come with Sluice, for the exchange of a test.
//!
//! Owns: their settings, from JSON. Refuses to know: files and secrets. Keeps: a setting that is not accepted fails the
//! test.

use std::collections::HashMap;
use std::path::Path as FilePath;
use std::sync::{Arc, Weak};

use serde_json::Value as Json;
use sluice_core::tree::MapEntry;
use sluice_core::{Diags, Name, Node, Path, SecretText, Span, Spanned, Value};
use sluice_l4::filters::lookup::LiveMap;
use sluice_l4::filters::{CheckContext, Fetches, FilterNames, FilterOwner, SecretUser};
use sluice_upstream::Cluster;

use crate::filters::{HttpFilterPlan, HttpFilters};

/// Clusters by name, for filters, and what filters fetch.
pub(in crate::exchange::tests) struct Clusters(
    pub(in crate::exchange::tests) HashMap<&'static str, Arc<Cluster>>,
    pub(in crate::exchange::tests) Arc<Fetches>,
);

impl FilterNames for Clusters {
    fn cluster(
        &mut self,
        _: FilterOwner<'_>,
        name: &Spanned<Name>,
        _: &Path<'_>,
        _: &mut Diags,
    ) -> Option<Arc<Cluster>> {
        self.0.get(&*name.value).cloned()
    }

    fn routes(&mut self, _: &Spanned<Name>, _: &Path<'_>, _: &mut Diags) -> bool {
        false
    }

    fn secret(&mut self, _: &Spanned<Name>, _: &Path<'_>, _: &mut Diags) -> Option<SecretText> {
        None
    }

    fn map(&mut self, _: &Spanned<Name>, _: &Path<'_>, _: &mut Diags) -> Option<LiveMap> {
        None
    }

    fn follow(&mut self, _: &Name, _: Weak<dyn SecretUser>) {}

    fn fetches(&self) -> Arc<Fetches> {
        Arc::clone(&self.1)
    }

    fn folder(&self) -> Option<&FilePath> {
        None
    }
}

/// Settings as a file would have them.
fn node(json: &Json) -> Node {
    let span = Span::default();
    let scalar = |text: String| Value::Scalar { text: text.into(), quoted: false };
    let value = match json {
        Json::Object(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, value)| MapEntry {
                    key: key.as_str().into(),
                    key_span: span,
                    node: node(value),
                })
                .collect(),
        ),
        Json::Array(items) => Value::List(items.iter().map(node).collect()),
        Json::String(text) => scalar(text.clone()),
        other => scalar(other.to_string()),
    };
    Node { value, span }
}

/// A filter with these settings.
pub(in crate::exchange::tests) fn filter(
    all: &HttpFilters,
    names: &mut Clusters,
    owner: FilterOwner<'_>,
    name: &str,
    settings: &Json,
) -> (Name, Arc<dyn HttpFilterPlan>) {
    let factory = all.get(name).unwrap();
    let mut diags = Diags::new();
    let mut context = CheckContext::new(&Path::ROOT, owner, &mut diags, names);
    let plan = factory.check(&node(settings), &mut context);
    let found: Vec<_> = diags.iter().cloned().collect();
    (name.into(), plan.unwrap_or_else(|| panic!("{name}: {found:?}")))
}
