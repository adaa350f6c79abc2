//! Pages about the process: `/server_info`, `/certs`, `/memory`, `/init_dump`, `/runtime`.
//!
//! Owns: their forms. Refuses to know: how values are measured.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_core::clock::rfc3339;
use sluice_l7::runtime::Origin;
use sluice_sys::process;

use super::bootstrap::LayerOrigin;
use super::{EnvoyPages, JSON, PageText, pretty};

/// The version of Envoy whose configuration is read.
const API_VERSION: &str = "1.40.0";

/// What stands for the version of Envoy: five parts with slashes between them. The first is the commit of Envoy, which this
/// is not.
pub(crate) fn envoy_build() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    let commit = "0".repeat(40);
    format!("{commit}/{API_VERSION}/Clean/{build}/AWS-LC")
}

impl EnvoyPages {
    pub(super) async fn server_info(&self) -> PageText {
        let view = self.view().await;
        let control = &self.control;
        let uptime = format!("{}s", control.clock.now().since(self.started).as_secs());
        let drain = control.in_force.borrow().process.drain.timeout.0;
        let page = json!({
            "version": envoy_build(),
            "state": self.state().1,
            "uptime_current_epoch": uptime,
            "uptime_all_epochs": uptime,
            "hot_restart_version": "disabled",
            "command_line_options": {
                "concurrency": control.workers.len(),
                "config_path": self.config,
                "drain_time": format!("{}s", drain.as_secs()),
                "mode": "Serve",
                "disable_hot_restart": true,
                "restart_epoch": 0,
            },
            "node": view.node,
        });
        Ok((JSON, pretty(&page)))
    }

    pub(super) fn certs(&self) -> String {
        let now = self.wall().as_secs();
        let mut all: Vec<Value> = Vec::new();
        for stored in self.control.builder.around.certs.list() {
            let info = stored.material().info.clone();
            let names: Vec<Value> = info.names.iter().map(|name| json!({ "dns": name })).collect();
            all.push(json!({
                "cert_chain": [{
                    "path": stored.name(),
                    "serial_number": info.serial.to_ascii_lowercase().replace(':', ""),
                    "subject_alt_names": names,
                    "days_until_expiration": (info.not_after.saturating_sub(now) / 86_400).to_string(),
                    "expiration_time": rfc3339(Duration::from_secs(info.not_after)),
                }],
            }));
        }
        all.sort_by_key(|item| item["cert_chain"][0]["path"].to_string());
        pretty(&json!({ "certificates": all }))
    }

    pub(super) fn memory(&self) -> String {
        let bytes = process::usage().map_or(0, |usage| usage.resident_bytes);
        pretty(&json!({ "total_physical_bytes": bytes.to_string() }))
    }

    pub(super) fn init_dump(&self) -> String {
        let planes = self.control.planes.borrow();
        let waiting = planes.as_ref().map(|planes| planes.waiting()).unwrap_or_default();
        let one = |of: &super::super::planes::WaitingResource| json!({ "name": format!("init manager {} {}", of.kind, of.name), "target_names": of.waits_for });
        let all: Vec<Value> = waiting.iter().map(one).collect();
        let page = if all.is_empty() { json!({}) } else { json!({ "unready_targets_dumps": all }) };
        pretty(&page)
    }

    pub(super) async fn runtime(&self) -> PageText {
        let view = self.view().await;
        let in_force = self.control.builder.around.runtime.all();
        let mut entries: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let count = view.layers.len();
        for (number, layer) in view.layers.iter().enumerate() {
            let origin = match &layer.from {
                LayerOrigin::Static(values) => {
                    for (key, value) in values {
                        let of = entries
                            .entry(key.clone())
                            .or_insert_with(|| vec![String::new(); count]);
                        of[number].clone_from(value);
                    }
                    continue;
                }
                LayerOrigin::Plane => Origin::Plane,
                LayerOrigin::Admin => Origin::Admin,
            };
            for (key, of) in &*in_force {
                let hidden = of.hidden.iter().find(|(from, _)| *from == origin);
                let own = (of.origin == origin).then_some(&of.value);
                let Some(value) = own.or_else(|| hidden.map(|(_, value)| value)) else { continue };
                let of = entries.entry(key.clone()).or_insert_with(|| vec![String::new(); count]);
                of[number].clone_from(value);
            }
        }
        let shown = entries.into_iter().map(|(key, values)| {
            let last = values.iter().rev().find(|value| !value.is_empty());
            let last = last.cloned().unwrap_or_default();
            let entry = json!({ "layer_values": values, "final_value": last });
            (key, entry)
        });
        let layers: Vec<&str> = view.layers.iter().map(|layer| &*layer.name).collect();
        let page = json!({ "layers": layers, "entries": Value::Object(shown.collect()) });
        Ok((JSON, pretty(&page)))
    }
}
