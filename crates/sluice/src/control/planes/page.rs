//! Control planes on the admin pages.
//!
//! Owns: the words. Refuses to know: how a state came about. Keeps: every resource says its version, its age, and why a
//! newer one is not in use.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Value, json};
use sluice_core::Moment;
use sluice_core::clock::rfc3339;
use sluice_envoy::sources::{ApiForm, SourceKind};
use sluice_telemetry::Shard;
use sluice_xds::{DiscoveryForm, InventoryEntry, XdsType};

use super::calls::PlaneCall;
use super::health::HealthService;
use super::load_stats::LoadStream;
use super::mapper::CHECKED_PREFIX;
use super::streams::PlaneStream;
use super::{Planes, RESOURCES};

/// The states of resources.
const STATES: [&str; 3] = ["active", "warming", "rejected"];

impl Planes {
    /// Streams, and then resources.
    pub(in crate::control) fn page(&self) -> Vec<Value> {
        let streams = self.streams.borrow();
        let streams = streams.iter().map(|stream| self.of_stream(stream));
        let entries = self.inventory.borrow().entries();
        let loads = self.loads.borrow();
        let streams = streams.chain(loads.iter().map(|stream| self.of_loads(stream)));
        let health = self.health.borrow();
        let streams = streams.chain(health.iter().map(|service| self.of_health(service)));
        streams.chain(entries.iter().map(|entry| self.of_entry(entry))).collect()
    }

    fn at(&self, moment: Moment) -> String {
        rfc3339(self.clock.wall(moment))
    }

    fn of_stream(&self, stream: &Rc<PlaneStream>) -> Value {
        let (name, what) = match &stream.source {
            SourceKind::Ads => {
                (self.dynamic.ads.as_ref().map_or("-", |api| &api.cluster).to_owned(), "ads")
            }
            SourceKind::Api(api) if matches!(api.form, ApiForm::Rest(_)) => {
                (api.cluster.to_string(), "rest")
            }
            SourceKind::Api(api) => (api.cluster.to_string(), "stream"),
            SourceKind::File(path) => (path.display().to_string(), "file"),
        };
        let (machine, state) = (stream.machine.borrow(), stream.state.borrow());
        let form = match machine.form() {
            DiscoveryForm::Sotw => "state of the world",
            DiscoveryForm::Delta => "delta",
        };
        let kinds = stream.kinds.borrow();
        let versions: BTreeMap<&str, &str> =
            kinds.iter().map(|kind| (kind.discovery(), machine.version(*kind))).collect();
        let mut item = json!({
            "kind": what,
            "name": name,
            "state": if state.connected { "connected" } else { "connecting" },
            "since": self.at(state.since),
            "form": form,
            "versions": versions,
        });
        if let Some(failure) = &state.failure {
            item["failure"] = failure.as_str().into();
        }
        item
    }

    fn of_loads(&self, stream: &LoadStream) -> Value {
        let mut item = self.of_call(&stream.call);
        item["next"] = stream.reporter.borrow().due().map_or(Value::Null, |at| self.at(at).into());
        item
    }

    fn of_health(&self, service: &HealthService) -> Value {
        let mut item = self.of_call(&service.call);
        item["clusters"] = service.count().into();
        let refused = service.refused.borrow();
        if !refused.is_empty() {
            let short = |name: &str| name.strip_prefix(CHECKED_PREFIX).unwrap_or(name).to_owned();
            item["rejected"] = refused
                .iter()
                .map(|(name, why)| json!({ "name": short(name), "why": why }))
                .collect();
        }
        item
    }

    fn of_call(&self, call: &PlaneCall) -> Value {
        let state = call.state.borrow();
        let mut item = json!({
            "kind": call.what,
            "name": &*call.api.cluster,
            "state": if state.connected { "connected" } else { "connecting" },
            "since": self.at(state.since),
        });
        if let Some(failure) = &state.failure {
            item["failure"] = failure.as_str().into();
        }
        item
    }

    fn of_entry(&self, entry: &InventoryEntry) -> Value {
        let mut item =
            json!({ "kind": entry.kind.word(), "name": &*entry.name, "state": state_of(entry) });
        if let Some((version, since)) = &entry.good {
            item["version"] = (**version).into();
            item["since"] = self.at(*since).into();
        }
        if let Some((version, since)) = &entry.newest {
            item["newest"] = json!({ "version": &**version, "since": self.at(*since) });
        }
        if !entry.waits_for.is_empty() {
            item["waits_for"] = entry.waits_for.iter().map(ToString::to_string).collect();
        }
        if let Some(refused) = &entry.refused {
            item["rejected"] = json!({
                "version": &*refused.version,
                "since": self.at(refused.since),
                "why": refused.problem.as_str(),
            });
        }
        item
    }

    /// Counts resources by state.
    pub(in crate::control) fn measure(&self, shard: &Shard) {
        let mut counts: BTreeMap<(XdsType, &str), u64> = BTreeMap::new();
        for kind in XdsType::ALL {
            counts.extend(STATES.map(|state| ((kind, state), 0)));
        }
        for entry in self.inventory.borrow().entries() {
            *counts.entry((entry.kind, state_of(&entry))).or_default() += 1;
        }
        for ((kind, state), count) in counts {
            shard.gauge(&RESOURCES, &[kind.discovery(), state]).set(count);
        }
    }
}

/// Whether the newest version is in use, and if not, why.
fn state_of(entry: &InventoryEntry) -> &'static str {
    let [active, warming, rejected] = STATES;
    match (&entry.refused, &entry.newest) {
        (Some(_), _) => rejected,
        (None, Some(_)) => warming,
        (None, None) => active,
    }
}
