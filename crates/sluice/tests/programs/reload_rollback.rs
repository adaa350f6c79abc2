//! A reload that fails on one worker changes nothing on any worker.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{ConnInfo, Node, Setting, Shape, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_l4::filters::{CheckContext, FilterFactory};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect, read};
use sluice_testkit::{Running, Sluice};

use crate::binary;

/// Connections made to each listener: enough to reach both workers.
const CONNECTIONS: usize = 24;

sluice_core::section! {
    /// Panics when it is created on one worker.
    pub struct Fragile {
        /// The worker.
        pub worker: u16 = "1",
    }
}

#[derive(Debug)]
struct Factory;

#[derive(Clone, Debug)]
struct Breaking(Fragile);

#[derive(Debug)]
struct Sound;

impl FilterFactory<dyn ConnectionFilterPlan> for Factory {
    fn name(&self) -> &'static str {
        "fragile"
    }

    fn help(&self) -> &'static str {
        "Panics while it is made on one worker."
    }

    fn shape(&self) -> Shape {
        Fragile::shape()
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        Some(Arc::new(Breaking(context.bind::<Fragile>(node)?)))
    }
}

impl ConnectionFilterPlan for Breaking {
    fn on_worker(&self, worker: &Rc<WorkerCx>, _: &str) -> Rc<dyn ConnectionFilter> {
        assert!(worker.number != usize::from(self.0.worker), "the filter `fragile` breaks here");
        Rc::new(Sound)
    }
}

impl ConnectionFilter for Sound {
    fn admit(&self, _: &ConnInfo) -> Admit {
        Admit::Now(Verdict::Continue)
    }
}

pub(crate) fn run() -> ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.connection.register(Arc::new(Factory));
    sluice::main_with(extensions)
}

pub(crate) fn test() {
    a_reload_that_fails_on_one_worker_changes_nothing_on_any();
}

fn a_reload_that_fails_on_one_worker_changes_nothing_on_any() {
    let (one, two) = (Server::greeter("one"), Server::greeter("two"));
    let yaml = |server: &Server, word: &str, more: &str| {
        format!(
            "listeners:\n\
             \x20 - {{ name: door, address: 127.0.0.1:0, relay: up }}\n\
             \x20 - {{ name: web, address: 127.0.0.1:0, http: {{ routes: main }} }}\n\
             {more}\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ respond: {{ status: 200, body: {word} }} }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
            server.addr()
        )
    };
    let fragile =
        "  - { name: new, address: 127.0.0.1:0, relay: up, filters: [{ fragile: {} }] }\n";
    let sound = "  - { name: new, address: 127.0.0.1:0, relay: up }\n";
    let kit = Sluice::with_binary(binary(module_path!()));
    let sluice = kit
        .expect_warning("reload failed")
        .expect_warning("panicked")
        .start(&yaml(&one, "one", ""));
    serves(&sluice, "one");
    let clusters = sluice.items("/clusters");

    let other_sink = "access_log: [{ sink: elsewhere.json }]\n";
    assert_eq!(sluice.reload(&(yaml(&two, "two", fragile) + other_sink)), "failed");
    serves(&sluice, "one");
    let settled = |mut clusters: Vec<serde_json::Value>| {
        for endpoint in clusters[0]["endpoints"].as_array_mut().unwrap() {
            endpoint["connections_total"] = 0.into();
            endpoint["connections_active"] = 0.into();
        }
        clusters[0]["connections_active"] = 0.into();
        clusters
    };
    assert_eq!(settled(sluice.items("/clusters")), settled(clusters));
    let names: Vec<_> =
        sluice.items("/listeners").iter().map(|item| item["name"].to_string()).collect();
    assert_eq!(names, ["\"door\"", "\"web\""]);
    let written = std::fs::read_to_string(sluice.folder().join("elsewhere.json"));
    assert_eq!(written.unwrap_or_default(), "", "the new sink is in use");

    assert_eq!(sluice.reload(&yaml(&two, "two", sound)), "applied");
    serves(&sluice, "two");
    for _ in 0..CONNECTIONS {
        assert_eq!(read(&mut connect(sluice.addr("new")), 3), b"two");
    }
}

/// Checks that every worker relays to the server that sends `word`, and responds to HTTP with it.
fn serves(sluice: &Running, word: &str) {
    for _ in 0..CONNECTIONS {
        assert_eq!(read(&mut connect(sluice.addr("door")), 3), word.as_bytes());
        assert_eq!(Client::connect(sluice.addr("web")).get("a", "/").text(), word);
    }
}
