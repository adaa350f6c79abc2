//! The content of the admin pages.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_admin::{AdminChange, AdminSource, Page, Question, Selection};
use sluice_config::explain;
use sluice_core::LocalFuture;
use sluice_core::clock::rfc3339;
use sluice_core::limits::Limit;
use sluice_l4::metrics::LIMIT_REACHED;
use sluice_model::model::Listener;
use sluice_upstream::Cluster;

#[cfg(feature = "envoy")]
use super::envoy_pages::EnvoyPages;
use super::overrides::EndpointDecision;
use super::{Control, Stage, clusters, fetches, filters, resources, routes, runtime};

/// The pages, based on the control thread's state.
pub(super) struct Pages(
    Rc<Control>,
    /// Those of Envoy, if its files are read.
    #[cfg(feature = "envoy")]
    Option<Rc<EnvoyPages>>,
);

impl Pages {
    pub(super) fn new(control: Rc<Control>, config: &Path) -> Self {
        #[cfg(feature = "envoy")]
        let envoy = EnvoyPages::new(&control, config);
        #[cfg(not(feature = "envoy"))]
        let _ = config;
        Self(
            control,
            #[cfg(feature = "envoy")]
            envoy,
        )
    }
}

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
                    let store = control.store.borrow();
                    let reserve = control.in_force.borrow().limits().get(Limit::SideCallReserve);
                    let item = |cluster: &Arc<Cluster>| {
                        let mut item = clusters::of_cluster(cluster, &control.clock, reserve);
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
                Page::Log => vec![control.log_level()],
                Page::Resources => {
                    let in_force = control.in_force.borrow();
                    let failure = in_force.last_failure.as_ref();
                    let failure = failure.map(|(failure, since)| (&*failure.brief, *since));
                    resources::list(&control.store.borrow(), failure, &control.endpoint_files)
                }
                #[cfg(feature = "envoy")]
                Page::Xds => {
                    control.planes.borrow().as_ref().map_or_else(Vec::new, |planes| planes.page())
                }
                #[cfg(not(feature = "envoy"))]
                Page::Xds => Vec::new(),
                Page::Filters => filters::list(&control.registry),
                Page::Fetches => fetches::list(&control.builder.around.fetches, &control.clock),
                Page::Runtime => {
                    runtime::list(&control.builder.around.runtime, &control.store.borrow())
                }
            })
        })
    }

    fn try_request(&self, question: &Question) -> Result<Vec<Value>, String> {
        let control = &self.0;
        let trial = routes::RouteTrial {
            store: &control.store.borrow(),
            runtime: &control.builder.around.runtime,
            wall: control.clock.wall(control.clock.now()),
            reserve_percent: control.in_force.borrow().limits().get(Limit::SideCallReserve),
        };
        trial.answer(question)
    }

    #[cfg(feature = "envoy")]
    fn stand_in(
        &self,
        request: sluice_admin::StandInRequest<'_>,
    ) -> Option<LocalFuture<sluice_admin::StandInPage>> {
        EnvoyPages::page(self.1.as_ref()?, request)
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
                AdminChange::Connection { id, action } => {
                    control.operate_connection(&id, &action).await
                }
                AdminChange::Log { level, lasts } => {
                    control.set_log_level(&level, lasts.as_deref())
                }
                AdminChange::Endpoint { cluster, address, action, weight, lasts } => {
                    control.decide(&EndpointDecision { cluster, address, action, weight, lasts })
                }
            }
        })
    }
}

impl Control {
    fn set_runtime(&self, key: &str, value: Option<String>) -> Result<String, String> {
        // An override of a value that is no longer read can still be removed.
        if let Some(value) = &value {
            let in_force = self.in_force.borrow();
            runtime::check_value(key, value, &self.store.borrow(), &in_force.process)?;
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
            let known = crate::FilterSets(&around.filters, &around.http_filters);
            let loaded = builder.form.load_sources(&sources, &folder);
            let read = loaded.config.zip(loaded.root);
            read.map_or(Value::Null, |(config, root)| explain::config_json(&config, &root, &known))
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
        if let Some((failure, _)) = &in_force.last_failure {
            item["last_failure"] = failure.brief.as_str().into();
        }
        item
    }
}
