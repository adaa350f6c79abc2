//! The admin pages of Envoy, while its files are read.
//!
//! Owns: their paths and which of them are changes. Refuses to know: how a request came. Keeps: the forms are those of Envoy,
//! since programs read them; what Sluice does not know is left out, and never made up.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sluice_admin::{StandInPage, StandInRequest};
use sluice_core::{LocalFuture, Moment};
use sluice_envoy::stats::names::StatNames;

use super::{Control, Stage};

mod bootstrap;
mod clusters;
mod config_dump;
mod logging;
mod operate;
mod parameters;
mod process;
mod statistics;
#[cfg(test)]
mod tests;

use bootstrap::BootstrapView;
use parameters::Parameters;
pub(crate) use process::envoy_build;

/// Shorthands for responses.
type PageText = Result<(&'static str, String), (u16, String)>;

const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";

/// A page: its path, whether it is a change, and what it is for.
const COMMANDS: [(&str, bool, &str); 23] = [
    ("/certs", false, "print certs on machine"),
    ("/clusters", false, "upstream cluster status (format: text, json; filter: regex of names)"),
    ("/config_dump", false, "dump current Envoy configs (resource, mask, name_regex, include_eds)"),
    ("/drain_listeners", true, "drain listeners (graceful, skip_exit, inboundonly)"),
    ("/healthcheck/fail", true, "cause the server to fail health checks"),
    ("/healthcheck/ok", true, "cause the server to pass health checks"),
    ("/help", false, "print out list of admin commands"),
    ("/hot_restart_version", false, "print the hot restart compatibility version"),
    ("/init_dump", false, "dump what is waited for"),
    ("/listeners", false, "print listener info (format: text, json)"),
    ("/logging", true, "query/change logging levels (level, paths, <name>=<level>)"),
    ("/memory", false, "print current memory usage"),
    ("/quitquitquit", true, "exit the server"),
    ("/ready", false, "print server state, return 200 if LIVE, otherwise return 503"),
    ("/reopen_logs", true, "reopen access logs"),
    ("/reset_counters", true, "reset all counters to zero"),
    ("/runtime", false, "print runtime values"),
    ("/runtime_modify", true, "modify runtime values: ?key=value, empty to remove"),
    ("/server_info", false, "print server version/status information"),
    (
        "/stats",
        false,
        "print server stats (usedonly, filter, invert_filter, type, format: text, json, prometheus)",
    ),
    (
        "/stats/prometheus",
        false,
        "print server stats in prometheus format (usedonly, filter, invert_filter)",
    ),
    ("/sluice", false, "the pages of Sluice are below /sluice: /sluice/clusters, /sluice/try ..."),
    ("/", false, "the pages of Sluice"),
];

/// The pages.
pub(super) struct EnvoyPages {
    control: Rc<Control>,
    config: PathBuf,
    started: Moment,
    view: RefCell<Option<Rc<BootstrapView>>>,
    /// What counters had when they were reset.
    reset: RefCell<Arc<HashMap<String, u64>>>,
    standing: RefCell<operate::OperatorWishes>,
    /// The levels of loggers that an operator has set.
    loggers: RefCell<BTreeMap<&'static str, &'static str>>,
}

impl EnvoyPages {
    /// The pages; `None` unless files of Envoy are read.
    pub(super) fn new(control: &Rc<Control>, config: &Path) -> Option<Rc<Self>> {
        control.builder.form.envoy()?;
        Some(Rc::new(Self {
            control: Rc::clone(control),
            config: config.to_owned(),
            started: control.clock.now(),
            view: RefCell::default(),
            reset: RefCell::default(),
            standing: RefCell::default(),
            loggers: RefCell::default(),
        }))
    }

    /// A page; `None` if the path is none of Envoy's, or it is a change that only Sluice has.
    pub(super) fn page(
        self: &Rc<Self>,
        request: StandInRequest<'_>,
    ) -> Option<LocalFuture<StandInPage>> {
        let known = COMMANDS.iter().find(|(path, ..)| *path == request.path);
        let (path, is_change, _) = *known.filter(|(path, ..)| !["/", "/sluice"].contains(path))?;
        let parameters = Parameters::read(request.query);
        let is_ours = match path {
            "/listeners" => parameters.has("action"),
            "/runtime" => parameters.has("key"),
            _ => false,
        };
        if request.is_post && is_ours {
            return None;
        }
        let (pages, is_post) = (Rc::clone(self), request.is_post);
        Some(Box::pin(async move {
            if is_change && !is_post {
                return page_of(Err((405, "Method GET not allowed, POST required.".into())));
            }
            if path == "/ready" {
                return pages.ready();
            }
            page_of(pages.respond(path, &parameters).await)
        }))
    }

    async fn respond(self: &Rc<Self>, path: &str, parameters: &Parameters) -> PageText {
        match path {
            "/stats" => self.stats(parameters, None).await,
            "/stats/prometheus" => self.stats(parameters, Some("prometheus")).await,
            "/clusters" => self.clusters(parameters).await,
            "/listeners" => self.listeners(parameters).await,
            "/config_dump" => self.config_dump(parameters).await,
            "/server_info" => self.server_info().await,
            "/certs" => Ok((JSON, self.certs())),
            "/memory" => Ok((JSON, self.memory())),
            "/init_dump" => Ok((JSON, self.init_dump())),
            "/runtime" => self.runtime().await,
            "/hot_restart_version" => Ok((TEXT, "disabled\n".into())),
            "/logging" => self.logging(parameters),
            "/runtime_modify" => self.runtime_modify(parameters),
            "/healthcheck/fail" => self.fail_checks(true).await,
            "/healthcheck/ok" => self.fail_checks(false).await,
            "/drain_listeners" => self.drain_listeners(parameters).await,
            "/quitquitquit" => self.quit(),
            "/reset_counters" => self.reset_counters().await,
            "/reopen_logs" => {
                self.control.log.reopen();
                ok()
            }
            _ => Ok((TEXT, help())),
        }
    }

    /// The state of the server, as Envoy numbers and names it.
    fn state(&self) -> (u64, &'static str) {
        match self.control.stage.get() {
            Stage::Draining => (1, "DRAINING"),
            Stage::Ready if self.standing.borrow().fails_checks => (1, "DRAINING"),
            Stage::Ready => (0, "LIVE"),
            Stage::Starting => (3, "INITIALIZING"),
        }
    }

    fn ready(&self) -> StandInPage {
        let (number, word) = self.state();
        let page = page_of(Ok((TEXT, format!("{word}\n"))));
        let status = if number == 0 { page.status } else { status(503) };
        StandInPage { status, ..page }
    }

    /// What is read of the bootstrap, again if it was reloaded.
    async fn view(&self) -> Rc<BootstrapView> {
        let (loaded_at, sources) = {
            let in_force = self.control.in_force.borrow();
            (in_force.loaded_at, in_force.sources.clone())
        };
        let known = self.view.borrow().clone().filter(|view| view.loaded_at == loaded_at);
        if let Some(view) = known {
            return view;
        }
        let builder = Arc::clone(&self.control.builder);
        let read = move || BootstrapView::read(&sources, &builder.form, loaded_at);
        let view = Rc::new(tokio::task::spawn_blocking(read).await.unwrap_or_default());
        *self.view.borrow_mut() = Some(Rc::clone(&view));
        view
    }

    /// The names of what is in force.
    fn names(&self, view: &BootstrapView) -> StatNames {
        let mut names = view.names.clone();
        if let Some(planes) = &*self.control.planes.borrow() {
            planes.add_stat_names(&mut names);
        }
        names
    }

    fn wall(&self) -> Duration {
        self.control.clock.wall(self.control.clock.now())
    }
}

/// What most changes respond.
fn ok() -> PageText {
    Ok((TEXT, "OK\n".into()))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn help() -> String {
    let line = |(path, is_change, what): &(&str, bool, &str)| {
        format!("  {path}{}: {what}\n", if *is_change { " (POST)" } else { "" })
    };
    let lines: String = COMMANDS.iter().map(line).collect();
    format!("admin commands are:\n{lines}")
}

fn status(code: u16) -> sluice_admin::StatusCode {
    sluice_admin::StatusCode::from_u16(code).unwrap_or_default()
}

fn page_of(text: PageText) -> StandInPage {
    match text {
        Ok((kind, text)) => StandInPage { status: status(200), kind, text },
        Err((code, text)) => {
            StandInPage { status: status(code), kind: TEXT, text: format!("{text}\n") }
        }
    }
}
