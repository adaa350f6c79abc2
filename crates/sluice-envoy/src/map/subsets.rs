//! Subsets of endpoints that routes ask for.
//!
//! Owns: `metadata_match`, and what filters note under `envoy.lb`. Refuses to know: which endpoints have what. Keeps: what a
//! filter notes counts rather than what the route says, as in Envoy.

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted, single};

impl Mapping<'_> {
    /// The metadata of a subset, from `metadata_match`.
    pub(super) fn subset(&mut self, metadata: &ProtoMessage) -> Option<NativeMap> {
        let mut values = NativeMap::new(metadata.span);
        for (namespace, item) in metadata.map("filter_metadata") {
            let crate::message::ProtoValue::Json(node) = &item.value else { continue };
            if &**namespace != "envoy.lb" {
                continue;
            }
            for entry in node.entries().unwrap_or_default() {
                match entry.node.text() {
                    Some(text) => values.text(&entry.key, text, entry.node.span),
                    None => {
                        self.unsupported(metadata, "filter_metadata", "only single values are");
                        return None;
                    }
                }
            }
        }
        Some(values)
    }

    /// Adds what filters of the chain note for choosing endpoints, if clusters of the route have subsets.
    pub(super) fn noted_metadata(&mut self, action: &ProtoMessage, values: &mut NativeMap) {
        if self.metadata.of_endpoints.is_empty() {
            return;
        }
        let of_split = action.message("weighted_clusters");
        let of_split = of_split.into_iter().flat_map(|of| of.messages("clusters"));
        let names = of_split.filter_map(|of| of.text("name")).chain(action.text("cluster"));
        let by_subset: Vec<bool> = names.map(|name| self.by_subset.contains(name)).collect();
        if !by_subset.contains(&true) {
            return;
        }
        if by_subset.contains(&false) {
            let how = "a filter notes metadata of endpoints: all clusters need subsets, or none";
            self.unsupported(action, "weighted_clusters", how);
            return;
        }
        for (key, name) in self.metadata.of_endpoints.clone() {
            values.set(&key, single("value", quoted(&name, action.span)));
        }
    }
}
