//! Scripts and loaded libraries that filters run, on the admin pages: what they cost, and how often they fail.
//!
//! Owns: which metrics stand on the page. Refuses to know: what a script or library does. Keeps: an item is what the metrics of
//! one listener say about one script or filter of a library.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sluice_telemetry::{MetricDef, MetricKind, Registry};

/// A field of the page and its metric, whose first labels are the listener and the name.
type Column = (&'static str, MetricDef);

/// The columns of each kind of filter; the last one counts errors.
fn kinds() -> Vec<(&'static str, Vec<Column>)> {
    use sluice_module::metrics as module;
    vec![
        #[cfg(feature = "lua")]
        (
            "lua",
            vec![
                ("instances", sluice_lua::metrics::INSTANCES),
                ("runs", sluice_lua::metrics::RUNS),
                ("seconds", sluice_lua::metrics::SECONDS),
                ("memory_bytes", sluice_lua::metrics::MEMORY),
                ("errors", sluice_lua::metrics::FAILURES),
            ],
        ),
        #[cfg(feature = "wasm")]
        (
            "wasm",
            vec![
                ("instances", sluice_wasm::metrics::INSTANCES),
                ("runs", sluice_wasm::metrics::RUNS),
                ("seconds", sluice_wasm::metrics::SECONDS),
                ("memory_bytes", sluice_wasm::metrics::MEMORY),
                ("errors", sluice_wasm::metrics::FAILURES),
            ],
        ),
        (
            "module",
            vec![
                ("instances", module::INSTANCES),
                ("runs", module::RUNS),
                ("seconds", module::SECONDS),
                ("errors", module::FAILURES),
            ],
        ),
    ]
}

/// Every script and filter of a library that has run, by listener and name.
pub(super) fn list(registry: &Registry) -> Vec<Value> {
    let mut items = Vec::new();
    for (kind, columns) in kinds() {
        let mut found = BTreeMap::<(String, String), Map<String, Value>>::new();
        for (field, metric) in columns {
            for (labels, sum) in registry.series(metric.name) {
                let [listener, name, reason @ ..] = &*labels else { continue };
                let item = found.entry((listener.to_string(), name.to_string())).or_default();
                let total = item.get(field).and_then(Value::as_u64).unwrap_or(0) + sum;
                #[allow(clippy::cast_precision_loss, reason = "a time is shown, not computed with")]
                let value = match metric.kind {
                    MetricKind::Seconds => json!(sum as f64 / 1e6),
                    _ => json!(total),
                };
                item.insert(field.to_owned(), value);
                if let [reason] = reason {
                    item.insert(format!("errors_{}", reason.replace('.', "_")), json!(sum));
                }
            }
        }
        items.extend(found.into_iter().map(|((listener, name), fields)| {
            let mut item =
                json!({ "filter": kind, "listener": listener, "name": name, "errors": 0 });
            if let Value::Object(of) = &mut item {
                of.extend(fields);
            }
            item
        }));
    }
    items
}
