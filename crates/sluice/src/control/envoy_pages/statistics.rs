//! `/stats`: statistics under Envoy's names.
//!
//! Owns: what is measured for them, and the parameters. Refuses to know: names, which are in `sluice-envoy`. Keeps: what takes
//! time with many clusters is done beside the control thread.

use std::sync::Arc;

use sluice_envoy::stats::server::ServerFacts;
use sluice_envoy::stats::show::{self, StatQuery};
use sluice_envoy::stats::{self, StatKind, StatRules, Statistic, WorkerSeries};
use sluice_l7::runtime::Origin;
use sluice_model::model::Kind;
use sluice_sys::process;
use sluice_xds::XdsType;

use super::{EnvoyPages, JSON, PageText, Parameters, TEXT, ok};
use crate::control::planes::RESPONSES;
use crate::control::{RESOURCE_CHANGES, Stage};

/// How a page of statistics looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StatForm {
    Text,
    Json,
    Prometheus,
}

impl EnvoyPages {
    pub(super) async fn stats(&self, parameters: &Parameters, form: Option<&str>) -> PageText {
        let form = match form.or_else(|| parameters.get("format")) {
            None | Some("" | "text") => StatForm::Text,
            Some("json") => StatForm::Json,
            Some("prometheus") => StatForm::Prometheus,
            Some(_) => return Err((400, "usage: /stats?format=(json|prometheus|text)\n".into())),
        };
        let query = query(parameters)?;
        let text = self.with_statistics(move |rules, all| {
            let chosen = query.select(rules, all);
            match form {
                StatForm::Text => show::text(&chosen),
                StatForm::Json => show::as_json(&chosen),
                StatForm::Prometheus => show::prometheus(rules, &chosen),
            }
        });
        let kind = if form == StatForm::Json { JSON } else { TEXT };
        Ok((kind, text.await))
    }

    /// Has counters begin at 0 again on these pages. Sluice's own never decrease.
    pub(super) async fn reset_counters(&self) -> PageText {
        *self.reset.borrow_mut() = Arc::default();
        let counters = self.with_statistics(|_, all| {
            let counters = all.iter().filter(|of| of.kind == StatKind::Counter && of.value > 0);
            counters.map(|of| (of.name.clone(), of.value)).collect()
        });
        *self.reset.borrow_mut() = Arc::new(counters.await);
        ok()
    }

    /// Gathers all statistics, and calls `then` with them beside the control thread.
    async fn with_statistics<T: Default + Send + 'static>(
        &self,
        then: impl FnOnce(&StatRules, &[Statistic]) -> T + Send + 'static,
    ) -> T {
        let view = self.view().await;
        self.control.measure();
        let (families, names) = (self.control.registry.snapshot(), self.names(&view));
        let (facts, rules) = (self.facts(), Arc::clone(&view.rules));
        let workers = self.control.workers.len();
        let of_workers = self.series_of_workers();
        let reset = Arc::clone(&self.reset.borrow());
        let work = move || {
            let active = families.iter().find(|of| of.name == sluice_l4::metrics::ACTIVE.name);
            let cells = active.iter().flat_map(|of| &of.series).filter_map(|(_, of)| of.first());
            let facts = ServerFacts { connections: cells.sum(), ..facts };
            let mut more = facts.statistics();
            more.extend(stats::of_workers(&of_workers, &names, workers));
            let mut all = stats::collect(&families, &names, more);
            for of in all.iter_mut().filter(|of| of.kind == StatKind::Counter) {
                of.value = of.value.saturating_sub(reset.get(&of.name).copied().unwrap_or(0));
            }
            then(&rules, &all)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }

    fn series_of_workers(&self) -> Vec<WorkerSeries> {
        let of = |metric: &'static str| {
            let all = self.control.registry.series_of_shards(metric).into_iter();
            all.filter_map(move |(labels, shard, value)| {
                // Shards are counted from 1: what is not of a worker is in another one.
                let (listener, worker) = (Arc::clone(labels.first()?), shard.checked_sub(1)?);
                Some(WorkerSeries { metric, listener, worker, value })
            })
        };
        let metrics = [sluice_l4::metrics::ACCEPTED.name, sluice_l4::metrics::ACTIVE.name];
        metrics.into_iter().flat_map(of).collect()
    }

    fn facts(&self) -> ServerFacts {
        let control = &self.control;
        let value = |labels: &[&str]| {
            let found = control.registry.value(RESOURCE_CHANGES.name, labels).unwrap_or(0);
            found.cast_unsigned()
        };
        let changes = |kind: Kind| {
            ["added", "changed", "removed", "rejected"].map(|change| value(&[kind.word(), change]))
        };
        let [added, changed, removed, _] = changes(Kind::Cluster);
        let planes = control.planes.borrow();
        let warming = planes.as_ref().map(|planes| planes.waiting()).unwrap_or_default();
        let waits = |kind| warming.iter().filter(|of| of.kind == kind).count() as u64;
        let responses = |kind: XdsType| {
            let count = |result| {
                let labels = [kind.discovery(), result];
                control.registry.value(RESPONSES.name, &labels).unwrap_or(0).cast_unsigned()
            };
            let asked = planes.as_ref().is_some_and(|planes| planes.asks_for(kind));
            asked.then(|| [count("accepted"), count("rejected")])
        };
        let certs = control.builder.around.certs.list();
        let first = certs.iter().map(|stored| stored.material().info.not_after).min();
        let now = self.wall().as_secs();
        let runtime = control.builder.around.runtime.all();
        ServerFacts {
            state: self.state().0,
            uptime: control.clock.now().since(self.started).as_secs(),
            workers: control.workers.len() as u64,
            memory: process::usage().map_or(0, |usage| usage.resident_bytes),
            connections: 0,
            certificate_days: first.map(|until| until.saturating_sub(now) / 86_400),
            clusters: control.clusters.borrow().iter().count() as u64,
            listeners: control.store.borrow().names(Kind::Listener).len() as u64,
            clusters_warming: waits(XdsType::Cluster),
            listeners_warming: waits(XdsType::Listener),
            cluster_changes: [added, changed, removed],
            listener_changes: changes(Kind::Listener),
            cds: responses(XdsType::Cluster),
            lds: responses(XdsType::Listener),
            runtime_keys: runtime.len() as u64,
            runtime_layers: self.view.borrow().as_ref().map_or(0, |view| view.layers.len() as u64),
            runtime_overridden: runtime.values().any(|of| of.origin == Origin::Admin),
            started: control.stage.get() != Stage::Starting,
        }
    }
}

fn query(parameters: &Parameters) -> Result<StatQuery, (u16, String)> {
    let mut query = StatQuery::default();
    query.used_only = parameters.has("usedonly");
    query.inverted = parameters.has("invert_filter");
    query.kind = match parameters.get("type") {
        None | Some("" | "All") => None,
        Some("Counters") => Some(StatKind::Counter),
        Some("Gauges") => Some(StatKind::Gauge),
        Some("Histograms") => Some(StatKind::Histogram),
        Some(_) => {
            return Err((400, "usage: /stats?type=(All|Counters|Gauges|Histograms)".into()));
        }
    };
    if let Some(filter) = parameters.get("filter").filter(|filter| !filter.is_empty()) {
        query
            .set_filter(filter)
            .map_err(|problem| (400, format!("Invalid re2 regex: {problem}")))?;
    }
    Ok(query)
}
