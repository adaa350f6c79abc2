//! The content of the admin pages.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_admin::{AdminChange, AdminSource, Page, Question, Selection};
use sluice_config::{explain, load_sources};
use sluice_core::clock::rfc3339;
use sluice_core::limits::Limit;
use sluice_core::settings::suggest_word;
use sluice_core::{LocalFuture, Name};
use sluice_l4::metrics::LIMIT_REACHED;
use sluice_model::model::{Kind, Listener};
use sluice_upstream::balance::priorities::Share;
use sluice_upstream::endpoint::{LoadKind, Trouble};
use sluice_upstream::name_state::NameState;
use sluice_upstream::{Cluster, EndpointState, EndpointTraits};
use tokio::time::Instant;

use super::overrides::{self, EndpointDecision};
use super::{Control, Stage, fetches, resources, routes, runtime};
use crate::worker::WorkerCommand;

/// The pages, based on the control thread's state.
pub(super) struct Pages(pub(super) Rc<Control>);

impl AdminSource for Pages {
    fn ready(&self) -> (bool, &'static str) {
        match self.0.stage.get() {
            Stage::Starting => (false, "starting"),
            Stage::Ready => (true, "ready"),
            Stage::Draining => (false, "draining"),
        }
    }

    fn limit_reached(&self) {
        let name = Limit::AdminConnections.def().name;
        self.0.shard.counter(&LIMIT_REACHED, &[name]).increment();
    }

    fn metrics(&self) -> String {
        self.0.metrics()
    }

    fn frame(&self) -> (u64, Duration) {
        let clock = &self.0.clock;
        (self.0.in_force.borrow().number, clock.wall(clock.now()))
    }

    fn items(&self, page: Page, selection: Selection) -> LocalFuture<Result<Vec<Value>, String>> {
        let control = Rc::clone(&self.0);
        Box::pin(async move {
            Ok(match page {
                Page::Clusters => {
                    let wall = control.clock.wall(control.clock.now());
                    let store = control.store.borrow();
                    let reserve = control.in_force.borrow().limits().get(Limit::SideCallReserve);
                    let item = |cluster: &Arc<Cluster>| {
                        let mut item = of_cluster(cluster, wall, reserve);
                        if let Some(file) = control.endpoint_files.show(&cluster.name, &store) {
                            item["endpoints_file"] = file;
                        }
                        item
                    };
                    control.clusters.borrow().iter().map(item).collect()
                }
                Page::Listeners => control.listeners().await,
                Page::Config => vec![control.config().await],
                Page::Connections => control.connections(selection).await?,
                Page::Routes => {
                    routes::list(&control.store.borrow(), &control.in_force.borrow().sources)
                }
                Page::Overrides => control.overrides(),
                Page::Resources => resources::list(&control.store.borrow()),
                Page::Fetches => fetches::list(&control.builder.around.fetches, &control.clock),
                Page::Runtime => {
                    runtime::list(&control.builder.around.runtime, &control.store.borrow())
                }
            })
        })
    }

    fn try_request(&self, question: &Question) -> Result<Vec<Value>, String> {
        routes::answer(question, &self.0.store.borrow(), &self.0.builder.around.runtime)
    }

    fn change(&self, change: AdminChange) -> LocalFuture<Result<String, String>> {
        let control = Rc::clone(&self.0);
        Box::pin(async move {
            let admin = control.in_force.borrow().process.admin.clone();
            if !admin.is_some_and(|admin| admin.writable) {
                return Err("set `admin: { writable: true }` to allow changes".into());
            }
            match change {
                AdminChange::Runtime { key, value } => control.set_runtime(&key, value),
                AdminChange::Listener { listener, action } => {
                    control.operate_listener(&listener, &action).await
                }
                AdminChange::Endpoint { cluster, address, action, weight, lasts } => {
                    control.decide(&EndpointDecision { cluster, address, action, weight, lasts })
                }
            }
        })
    }
}

/// The cause of an event and its time.
fn of_trouble(trouble: &Trouble, wall: Duration) -> Value {
    let since = wall.saturating_sub(trouble.since.elapsed());
    json!({ "cause": trouble.cause, "since": rfc3339(since) })
}

/// The state of a name: how its last look-up ended, when it was, when the next is due, and how old the answer is.
fn of_name(state: &NameState, wall: Duration) -> Value {
    let now = Instant::now();
    let past = |at: Instant| rfc3339(wall.saturating_sub(now.saturating_duration_since(at)));
    let mut item = json!({ "state": state.outcome.word(), "message": state.message });
    if let Some(at) = state.looked_up_at {
        item["looked_up_at"] = past(at).into();
    }
    if let Some(at) = state.next_at {
        item["next_at"] = rfc3339(wall + at.saturating_duration_since(now)).into();
    }
    if let Some(at) = state.answered_at {
        item["answered_at"] = past(at).into();
        item["age_seconds"] = now.saturating_duration_since(at).as_secs().into();
    }
    item
}

/// The share of a priority, in percent of the traffic of its cluster.
fn of_priority((priority, share): &(u32, Share)) -> Value {
    let Share { healthy, degraded, panics } = *share;
    json!({ "priority": priority, "healthy": healthy, "degraded": degraded, "panic": panics })
}

fn of_cluster(cluster: &Cluster, wall: Duration, reserve_percent: u64) -> Value {
    let (plan, members) = (cluster.plan(), cluster.members());
    let decided = cluster.overrides();
    let endpoint = |(endpoint, traits): (&Arc<EndpointState>, &EndpointTraits)| {
        let mut item = json!({
            "address": &*endpoint.name,
            "weight": traits.weight,
            "priority": traits.priority,
            "healthy": endpoint.is_healthy(),
            "degraded": endpoint.is_degraded(),
            "ejected": endpoint.is_ejected(),
            "connections_active": endpoint.active(),
            "requests_active": endpoint.requests(),
            "connections_total": endpoint.total(),
        });
        for (key, trouble) in
            [("unhealthy", endpoint.why_unhealthy()), ("ejected", endpoint.why_ejected())]
        {
            if let Some(trouble) = trouble {
                item["trouble"][key] = of_trouble(&trouble, wall);
            }
        }
        if let Some(one) = decided.get(&endpoint.name) {
            item["override"] = overrides::show(one, wall);
        }
        if let Some(host) = &endpoint.host {
            item["host"] = (&**host).into();
        }
        if let Some(locality) = &traits.locality {
            item["locality"] = locality.to_string().into();
        }
        for (key, load) in [("connections", LoadKind::Connection), ("requests", LoadKind::Request)]
        {
            if let Some(max) = endpoint.limit_of(load, plan.endpoint_limit_of(load)) {
                item["limits"][key] = max.into();
            }
            if endpoint.waiting(load) > 0 {
                item["waiting"][key] = endpoint.waiting(load).into();
            }
        }
        item
    };
    let names = cluster.names().into_iter();
    let resolver: serde_json::Map<String, Value> =
        names.map(|(name, state)| (name.to_string(), of_name(&state, wall))).collect();
    let mut item = json!({
        "name": &*cluster.name,
        "balance": plan.balancing.balance.kind().word(),
        "connections_active": cluster.active(),
        "membership": members.version,
        "endpoints": members.endpoints.iter().zip(&*members.traits).map(endpoint).collect::<Vec<_>>(),
        "priorities": members.balancer.shares.iter().map(of_priority).collect::<Vec<_>>(),
    });
    if let Some(fallback) = &plan.fallback {
        item["fallback"] = (&**fallback).into();
    }
    for breaker in cluster.breakers(reserve_percent) {
        item["breakers"][breaker.limit.word()] = json!({
            "limit": breaker.max,
            "used": breaker.used,
            "left": breaker.left(),
            "open": breaker.open,
        });
    }
    if !resolver.is_empty() {
        item["resolver"] = resolver.into();
    }
    item
}

impl Control {
    fn set_runtime(&self, key: &str, value: Option<String>) -> Result<String, String> {
        // An override of a value that is no longer read can still be removed.
        if value.is_some() {
            let in_force = self.in_force.borrow();
            runtime::check_key(key, &self.store.borrow(), &in_force.process)?;
        }
        tracing::info!(key, value, "runtime value overridden");
        self.builder.around.runtime.set_override(key, value);
        Ok("ok".into())
    }

    async fn listeners(&self) -> Vec<Value> {
        let open = self.count().await;
        let store = self.store.borrow();
        let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for bound in self.sockets.borrow().iter() {
            by_name.entry(bound.listener.to_string()).or_default().push(bound.address.to_string());
        }
        let item = |(name, addresses): (String, Vec<String>)| {
            let active = open.get(name.as_str()).copied().unwrap_or(0);
            let chains = store.listener(&name).map_or(0, Listener::chain_count);
            let mut item = json!({ "name": name, "addresses": addresses, "chains": chains, "connections_active": active });
            if let Some(pause) = self.show_pause(&name) {
                item["override"] = pause;
            }
            item
        };
        by_name.into_iter().map(item).collect()
    }

    async fn config(&self) -> Value {
        // The sections are not kept: they are read again for this page.
        let (sources, folder) = {
            let in_force = self.in_force.borrow();
            (in_force.sources.clone(), in_force.folder.clone())
        };
        let builder = Arc::clone(&self.builder);
        let show = move || {
            let around = &builder.around;
            let shapes = |name: &str| crate::shapes(&around.filters, &around.http_filters, name);
            let loaded = load_sources(&sources, &folder);
            let read = loaded.config.zip(loaded.root);
            read.map_or(Value::Null, |(config, root)| explain::config_json(&config, &root, &shapes))
        };
        let config = tokio::task::spawn_blocking(show).await.unwrap_or_default();
        let in_force = self.in_force.borrow();
        let certificate = |stored: Arc<sluice_tls::StoredCert>| {
            let info = stored.material().info.clone();
            json!({
                "cert": stored.name(),
                "subject": info.subject,
                "names": info.names,
                "serial": info.serial,
                "not_after": rfc3339(Duration::from_secs(info.not_after)),
            })
        };
        let mut certificates: Vec<Value> =
            self.builder.around.certs.list().into_iter().map(certificate).collect();
        certificates.sort_by_key(|item| item["cert"].to_string());
        let files: Vec<String> =
            in_force.sources.paths().map(|path| path.display().to_string()).collect();
        let mut item = json!({
            "snapshot": in_force.number,
            "loaded_at": rfc3339(in_force.loaded_at),
            "files": files,
            "warnings": in_force.warnings,
            "certificates": certificates,
            "config": config,
        });
        if let Some(failure) = &in_force.last_failure {
            item["last_failure"] = failure.brief.as_str().into();
        }
        item
    }

    async fn connections(&self, selection: Selection) -> Result<Vec<Value>, String> {
        let Selection { listener, limit } = selection;
        if let Some(name) = &listener {
            self.check_listener(name)?;
        }
        let listener: Option<Name> = listener.map(Into::into);
        let mut all = Vec::new();
        for worker in &self.workers {
            let list = |answer| WorkerCommand::List { listener: listener.clone(), limit, answer };
            all.extend(worker.ask(list).await.unwrap_or_default());
        }
        all.sort_by_key(|item| item["id"].as_u64());
        all.truncate(limit.unwrap_or(usize::MAX));
        Ok(all)
    }

    /// Refuses a name that no listener has and that no open connection can have: it is a typo.
    fn check_listener(&self, name: &str) -> Result<(), String> {
        let store = self.store.borrow();
        let names: Vec<&str> = store.names(Kind::Listener).map(|name| &**name).collect();
        if names.contains(&name) || self.names_left.get() {
            return Ok(());
        }
        let help = suggest_word(name, &names)
            .unwrap_or_else(|| format!("known listeners: {}", names.join(", ")));
        Err(format!("there is no listener `{name}`; {help}"))
    }
}
