//! What the pages of Envoy need of the bootstrap.
//!
//! Owns: what is kept of it. Refuses to know: what is in force of it. Keeps: it is read beside the control thread, and again
//! only after a reload.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sluice_config::Sources;
use sluice_envoy::message::ProtoMessage;
use sluice_envoy::stats::StatRules;
use sluice_envoy::stats::names::StatNames;
use sluice_envoy::{dump, load};

use crate::control::ConfigForm;

/// What is kept of a bootstrap.
#[derive(Clone, Debug, Default)]
pub(super) struct BootstrapView {
    /// The wall-clock time of the reload.
    pub(super) loaded_at: Duration,
    pub(super) rules: Arc<StatRules>,
    pub(super) names: StatNames,
    pub(super) node: Value,
    /// The layers of runtime values, in order.
    pub(super) layers: Vec<RuntimeLayerView>,
}

/// A layer of runtime values.
#[derive(Clone, Debug)]
pub(super) struct RuntimeLayerView {
    pub(super) name: String,
    pub(super) from: LayerOrigin,
}

/// Where the values of a layer come from.
#[derive(Clone, Debug)]
pub(super) enum LayerOrigin {
    /// The bootstrap.
    Static(Vec<(String, String)>),
    /// A control plane.
    Plane,
    /// The operator.
    Admin,
}

/// The bootstrap of these files.
pub(super) fn read(sources: &Sources, form: &ConfigForm) -> Option<ProtoMessage> {
    let (path, text) = sources.get(0).unwrap_or_else(|| (Path::new(""), ""));
    load::bootstrap_of_text(path, text.to_owned(), form.envoy()?)
}

impl BootstrapView {
    /// Reads what is needed.
    pub(super) fn read(sources: &Sources, form: &ConfigForm, loaded_at: Duration) -> Self {
        let Some(bootstrap) = read(sources, form) else {
            return Self { loaded_at, ..Self::default() };
        };
        let config = bootstrap.message("stats_config");
        // What cannot be followed was reported when it was loaded.
        let rules = config.map(|config| StatRules::of(config, &mut |_| {})).unwrap_or_default();
        let node = bootstrap
            .message("node")
            .map_or_else(|| Value::Object(Default::default()), dump::of_message);
        Self {
            loaded_at,
            rules: Arc::new(rules),
            names: StatNames::of_bootstrap(&bootstrap),
            node,
            layers: layers(&bootstrap),
        }
    }
}

fn layers(bootstrap: &ProtoMessage) -> Vec<RuntimeLayerView> {
    let Some(runtime) = bootstrap.message("layered_runtime") else {
        return vec![RuntimeLayerView { name: "admin".into(), from: LayerOrigin::Admin }];
    };
    let layer = |of: &ProtoMessage| {
        let name = of.text("name").map(ToString::to_string).unwrap_or_default();
        let from = if of.has("admin_layer") {
            LayerOrigin::Admin
        } else if of.has("rtds_layer") {
            LayerOrigin::Plane
        } else {
            let mut values = Vec::new();
            if let Some(layer) = of.json("static_layer") {
                flatten("", &dump::of_node(layer), &mut values);
            }
            LayerOrigin::Static(values)
        };
        RuntimeLayerView { name, from }
    };
    runtime.messages("layers").map(layer).collect()
}

/// Values by their whole names: `{ a: { b: 5 } }` is `a.b`.
fn flatten(prefix: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if prefix.is_empty() || !fields.contains_key("numerator") => {
            for (key, value) in fields {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, found);
            }
        }
        Value::String(text) => found.push((prefix.to_owned(), text.clone())),
        other => found.push((prefix.to_owned(), other.to_string())),
    }
}
